"""What a step of an objective costs beside one of plain distillation, counted and not timed."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robust_student.core.errors import UserError
from robust_student.core.module_state import device_of
from robust_student.core.tensors import Inputs, Labels
from robust_student.core.threat_model import ThreatModel
from robust_student.data.examples import Data
from robust_student.models.model import Model
from robust_student.objectives.batch import Batch
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings

_EXAMPLES = 2


def relative_cost(student: Model, teacher: Model, data: Data, settings: ObjectiveSettings) -> float | None:
    """Operations of a step over those of a step of plain distillation, the teacher's scores being known.

    Convolutions and matrix products of forward and backward passes count, also those of a teacher that is asked at
    other points. None where the step cannot be made; training says why. The student's weights are left as they are,
    its running statistics are not.
    """
    try:
        plain = _operations(student, teacher, data, METHODS["kd"])
        return _operations(student, teacher, data, settings) / plain if plain > 0 else None
    except (UserError, RuntimeError):
        return None


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations. PyTorch's own FlopCounterMode fails where a gradient is taken in a pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=output)
        return output


class _Forgetful(KeptPerturbations):
    """Keeps nothing, so that a process can count alone: a real memory tells all the others what it keeps."""

    def write(self, examples: Labels, changes: Inputs, chosen: Bool[Tensor, " batch"] | None = None) -> None:
        """Nothing is kept."""


def _operations(student: nn.Module, teacher: Model, data: Data, settings: ObjectiveSettings) -> int:
    """Of a forward and backward pass of the objective over _EXAMPLES examples."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        device = device_of(student)
        low, high = data.input_range if data.input_range.bounded else (-1.0, 1.0)
        inputs = (low + (high - low) * torch.rand(_EXAMPLES, *data.shape)).to(device)
        numbers = torch.arange(_EXAMPLES, device=device)
        logits = teacher.logits(inputs).to(device)
        batch = Batch(inputs, numbers % len(data.classes), numbers, teacher_logits=logits, teacher=teacher)
        objective = RobustStudentObjective(
            student,
            settings,
            threat=ThreatModel.on(data, settings.norm, settings.radius),
            example=batch,
            kept=_Forgetful(_EXAMPLES, data.shape, device),
        )
        objective.to(device).train()
        with _Counter() as counter:
            objective(batch).loss.backward()
        return counter.operations
