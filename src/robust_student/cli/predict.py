"""The command `predict`."""

from robust_student.cli.arguments import Command, Paths
from robust_student.core.errors import UserError


class Predict(Command):
    """Classify image files."""

    images: Paths = ()
    """Image files of any size; they are resized to the model's input."""
    model: str
    """Run directory of the model, or hub:USER/REPO of a run."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Allow code that a run from elsewhere names to run."""

    def run(self) -> None:
        """Print the class and the confidence of each image."""
        import torch

        from robust_student.core.tensors import answers
        from robust_student.data.readers.load import read_image
        from robust_student.models.open_model import open_model
        from robust_student.runtime.hardware import resolve_device

        if not self.images:
            raise UserError("predict: name at least one image file")
        model = open_model(self.model, trust=self.trust).to(resolve_device(self.device))
        inputs = torch.stack([read_image(image, model.card.input_shape) for image in self.images])
        logits = model.logits(inputs)
        confidence = logits.softmax(dim=1).amax(dim=1)
        for image, k, value in zip(self.images, answers(logits).tolist(), confidence.tolist(), strict=True):
            print(f"{image}\t{'no answer (NaN)' if k < 0 else model.card.classes[k]}\t{value:.4f}")
