"""The command `attack`."""

from pathlib import Path

from robust_student.cli.arguments import Command, Paths
from robust_student.core.errors import UserError
from robust_student.core.norms import NormName
from robust_student.core.settings import Radius

_MOST = 50
"""Images in one picture."""


class Attack(Command):
    """Attack single images: before, after and the magnified change as one picture, with the model's answers."""

    images: Paths = ()
    """Image files, or folders of them, up to 50 images; they are resized to the model's input."""
    model: str
    """Run directory of the model, or hub:USER/REPO of a run."""
    norm: NormName | None = None
    """Norm of the change; None: the one that the run was trained for, else linf."""
    radius: Radius | None = None
    """Largest change in units of the norm, such as 0.03 or 8/255; None: the run's own, else the norm's default."""
    smallest: bool = False
    """Look for the smallest change with another answer, of any size, instead of the worst one within the radius."""
    output: Path = Path("attack.png")
    """Picture to write (PNG)."""
    overwrite: bool = False
    """Replace an existing file."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Allow code that a run from elsewhere names to run."""

    def run(self) -> None:
        """Write the picture and print what the attack did to each image."""
        import torch

        from robust_student.cli.terminal import answer_of
        from robust_student.data.images import image_files, read_image
        from robust_student.evaluation.attacked_images import attack_images
        from robust_student.evaluation.threats import threat_of
        from robust_student.models.open_model import open_model
        from robust_student.report.document.attack_picture import AttackedImage, attack_picture
        from robust_student.runtime.files import write_atomically
        from robust_student.runtime.hardware import resolve_device
        from robust_student.training.radius import in_grey_levels

        if self.smallest and self.radius is not None:
            raise UserError("attack: --smallest looks for a change of any size; drop --radius, or --smallest")
        if self.output.suffix.lower() != ".png":
            raise UserError(f"output {self.output}: is not a PNG file; give it the suffix .png")
        if not self.output.parent.is_dir() or self.output.is_dir():
            what = "it is a folder" if self.output.is_dir() else f"no folder {self.output.parent}"
            raise UserError(f"output {self.output}: cannot write there ({what})")
        if self.output.exists() and not self.overwrite:
            raise UserError(f"output {self.output}: exists already; choose another name or pass --overwrite")
        files = image_files(self.images)
        if not 0 < len(files) <= _MOST:
            raise UserError(f"attack: name one to {_MOST} images (got {len(files)})")
        model = open_model(self.model, trust=self.trust).to(resolve_device(self.device))
        threat = threat_of(model.card, self.norm, self.radius)
        inputs = torch.stack([read_image(file, model.card.input_shape) for file in files])
        attacked = attack_images(model, inputs, threat, smallest=self.smallest)
        norm, classes = threat.norm.name, model.card.classes
        limit = "smallest found" if self.smallest else f"at most {in_grey_levels(threat.budget, threat)}"
        rows = []
        for k, file in enumerate(files):
            size, changed = attacked.sizes[k], attacked.changed[k]
            before, after = answer_of(attacked.before[k], classes), answer_of(attacked.after[k], classes)
            sized = f"{norm} {in_grey_levels(size, threat)}" if size < torch.inf else "no change found"
            print(f"{file}: {before} -> {after}: {'changed' if changed else 'stands'}, {sized} ({limit})")
            pair = torch.stack([attacked.inputs[k], attacked.points[k]])
            rows.append(AttackedImage(file.name, pair, before, after, changed, sized))
        picture = attack_picture(rows, f"{self.model}: {norm}, {limit}")
        try:
            write_atomically(self.output, picture)
        except OSError as error:
            raise UserError(f"output {self.output}: cannot write there ({error.strerror})") from None
        print(f"attack: {self.output}")
