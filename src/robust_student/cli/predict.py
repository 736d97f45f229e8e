"""The command `predict`."""

import sys

from pydantic import Field

from robust_student.cli.arguments import Command, Paths
from robust_student.core.errors import UserError

_BATCH = 256
"""Images that are in memory together."""
UNFAMILIAR = "unlike the training set"
"""What stands behind an image whose answer is less sure than 95 % of those on validation examples."""


class Predict(Command):
    """Classify image files; say which are unlike the training set."""

    images: Paths = ()
    """Image files of any size, or folders of them, however deep; they are resized to the model's input."""
    model: str
    """Run directory of the model, or hub:USER/REPO of a run."""
    top: int = Field(1, ge=1)
    """Classes to print for each image, the likeliest first."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Allow code that a run from elsewhere names to run."""

    def run(self) -> None:
        """Print the likeliest classes of each image with their probabilities."""
        import torch

        from robust_student.core.tensors import answers
        from robust_student.data.images import image_files, read_image
        from robust_student.models.open_model import open_model
        from robust_student.runtime.hardware import resolve_device

        if not self.images:
            raise UserError("predict: name at least one image file")
        files = image_files(self.images)
        model = open_model(self.model, trust=self.trust).to(resolve_device(self.device))
        classes, familiar, strange = model.card.classes, model.card.familiar, 0
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            logits = model.logits(torch.stack([read_image(file, model.card.input_shape) for file in batch]))
            unfamiliar = [False] * len(batch) if familiar is None else familiar.unlike(logits).tolist()
            best = logits.softmax(dim=1).topk(min(self.top, len(classes)), dim=1)
            for k, file in enumerate(batch):
                words = ["no answer (NaN)", "nan"]
                if answers(logits[k : k + 1])[0] >= 0:
                    pairs = zip(best.indices[k].tolist(), best.values[k].tolist(), strict=True)
                    words = [word for number, value in pairs for word in (classes[number], f"{value:.4f}")]
                print("\t".join([str(file), *words, *([UNFAMILIAR] if unfamiliar[k] else [])]))
            strange += sum(unfamiliar)
        if strange:
            print(f"{strange:,} of {len(files):,} images: {UNFAMILIAR} (an estimate)", file=sys.stderr)
