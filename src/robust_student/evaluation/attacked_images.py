"""Single images before and after an attack on what the model itself answers: no label is needed."""

from dataclasses import dataclass

from torch import Tensor

from robust_student.attacks.minimum_norm import smallest_decision_change
from robust_student.attacks.pgd import Pgd
from robust_student.core.errors import UserError
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.models.model import Model

_STEPS = 50
"""Of PGD at a budget, as in `evaluate`."""


@dataclass(frozen=True, eq=False)
class AttackedImages:
    """Images with what an attack made of them, and the model's answers; all on the CPU."""

    inputs: Tensor
    points: Tensor
    """After the attack; the image itself where a smallest change was looked for and none was found."""
    sizes: list[float]
    """Of the changes, in units of the norm; infinite where a smallest change was looked for and none was found."""
    before: Tensor
    """Logits of the images."""
    after: Tensor
    """Logits of the points."""

    @property
    def changed(self) -> list[bool]:
        """Whether the model decides otherwise after the attack."""
        return (answers(self.after) != answers(self.before)).tolist()


def attack_images(model: Model, inputs: Tensor, threat: ThreatModel, *, smallest: bool = False) -> AttackedImages:
    """Images attacked with PGD inside the threat model, or with the smallest change that `certify`'s attacks find.

    Each image has its own random start, which does not depend on the others. The radius of the threat model is no limit
    to the smallest change. Raises UserError where the model has no answer to an image (NaN).
    """
    before, seeds, device = model.logits(inputs), [0] * len(inputs), model.mean.device
    labels = answers(before)
    if bool((labels < 0).any()):
        raise UserError(f"attack: the model has no answer (NaN) to image {int((labels < 0).nonzero()[0]) + 1}")
    if smallest:
        found = smallest_decision_change(model, inputs.to(device), labels.to(device), threat, seeds=seeds)
        points, sizes = found.points.cpu(), found.radius.tolist()
    else:
        points = Pgd(_STEPS).propose(model, inputs.to(device), labels.to(device), threat, seeds).cpu()
        points = threat.project(points, inputs)
        sizes = threat.norm.size(points - inputs).tolist()
    return AttackedImages(inputs, points, sizes, before, model.logits(points))
