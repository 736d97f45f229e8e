"""What each process of a torchrun does for tests/runtime/test_distributed.py; also run in the test process, alone.

Usage: torchrun --nproc-per-node 2 tests/two_processes.py OUTPUT
"""

import contextlib
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from collapsing import collapsing
from documented_hint import FitNetsMethod
from reference import prototype_classifier, state_of, toy_data
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.data.augmentation import AugmentationSettings
from robust_student.data.readers.load import load_data
from robust_student.models.model import as_model
from robust_student.objectives.adaad import AdaADMethod
from robust_student.objectives.methods import METHODS
from robust_student.objectives.score_hinge import ScoreSettings
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime import distributed, interruption
from robust_student.runtime.distributed import process_group
from robust_student.runtime.interruption import Interrupted, StopRequest
from robust_student.training import loop, optimisation
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.teacher_scores import TeacherScores
from robust_student.training.train import distill, train

DATA = toy_data(train=200, noise=0.4)
TRAINING = TrainingSettings(
    epochs=2,
    batch_size=8,
    learning_rate=0.01,
    device="cpu",
    augmentation=AugmentationSettings(crop=1, flip=True),
    selection=SelectionSettings(steps=2, snr_db=(0.0,)),
)
CASES: dict[str, tuple[TrainingSettings, Any]] = {
    "kd": (TRAINING, METHODS["kd"]),
    "secant, shared pass": (TRAINING, METHODS["secant"]),
    "secant, not shared, K = 2, l2": (
        TRAINING,
        METHODS["secant"].model_copy(
            update={"norm": "l2", "secant": METHODS["secant"].secant.model_copy(update={"shared": False, "steps": 2})}
        ),
    ),
    "exact in the ball, score": (
        TRAINING.model_copy(update={"accumulate": 2}),
        METHODS["secant-exact"].model_copy(update={"score": ScoreSettings(weight=0.1)}),
    ),
    "projection": (TRAINING, METHODS["projection"]),
    "mixup, two parts": (
        TRAINING.model_copy(update={"accumulate": 2, "augmentation": AugmentationSettings(mixup=1.0)}),
        METHODS["secant"],
    ),
    "cutmix": (
        TRAINING.model_copy(update={"augmentation": AugmentationSettings(flip=True, cutmix=1.0)}),
        METHODS["kd"],
    ),
    "AdaAD, sharded teacher": (TRAINING, AdaADMethod.parse({"radius": 0.2, "adaad": {"steps": 2, "share": 0.5}})),
    "hint by a regressor": (TRAINING, FitNetsMethod.parse({"hint": {"student_layer": "2", "teacher_layer": "1"}})),
    "persistent start, noise": (
        TRAINING,
        ObjectiveSettings.parse({"secant": {"weight": 1.0, "start": "persistent"}, "noise": {"share": 0.5}}),
    ),
    "persistent start, no further pass, two parts": (
        TRAINING.model_copy(update={"accumulate": 2, "augmentation": AugmentationSettings()}),
        ObjectiveSettings.parse(
            {"norm": "l2", "secant": {"weight": 1.0, "start": "persistent", "steps": 0}, "noise": {"share": 0.5}}
        ),
    ),
    "catastrophic overfitting": (
        TRAINING.model_copy(update={"epochs": 3, "ema": 0.5}),
        ObjectiveSettings.parse({"secant": {"weight": 1.0, "start": "persistent"}}),
    ),
    "fixed inputs": (TRAINING.model_copy(update={"augmentation": AugmentationSettings()}), METHODS["exact"]),
}


def student() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3))


def case(name: str, output: Path | None) -> dict[str, Any]:
    """Gradients of all steps, the history's figures and the final weights of one training."""
    gradients: list[list[Tensor]] = []
    original = optimisation.limit_gradient

    def spy(parameters: list[nn.Parameter], limit: float | None) -> float:
        gradients.append([parameter.grad.clone() for parameter in parameters if parameter.grad is not None])
        return original(parameters, limit)

    setattr(loop, "limit_gradient", spy)  # noqa: B010
    try:
        settings, objective = CASES[name]
        sharded = "sharded" in name
        both = DistillSettings(training=settings, objective=objective, cache_scores=False, shard_teacher=sharded)
        with collapsing() if "overfitting" in name else contextlib.nullcontext():
            trained = distill(prototype_classifier(DATA), student(), DATA, both, output=output)
    finally:
        setattr(loop, "limit_gradient", original)  # noqa: B010
    figures = [[record["terms"], record["validation"]] for record in trained.history]
    return {"gradients": gradients, "figures": figures, "weights": dict(state_of(trained.model))}


class Bomb(nn.Module):
    """Gives NaN in one process only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = student()

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.inner(inputs)
        return logits * math.nan if distributed.rank() == 1 and self.training else logits


def sharded_scores() -> Tensor:
    """Scores of a teacher whose weights are spread over the processes."""
    torch.manual_seed(4)
    teacher = as_model(nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)), DATA)
    teacher_scores = TeacherScores(teacher, sharded=True, cache=False)
    teacher_scores.prepare(DATA.training_examples, ahead=True)
    examples = torch.arange(len(DATA.training_examples))
    scores = teacher_scores.prepared_scores(examples)
    assert scores is not None
    if distributed.size() > 1:
        local = sum(p.to_local().numel() for p in teacher.network.parameters() if hasattr(p, "to_local"))
        assert local < 0.6 * sum(p.numel() for p in teacher.network.parameters())
    return scores


class Impatient(StopRequest):
    """Wants to stop at its fifth question, in the second process only."""

    asked = 0

    @property
    def number(self) -> int:  # type: ignore[override]
        self.asked += 1
        return signal.SIGTERM if distributed.rank() == 1 and self.asked == 5 else 0


def interrupted(output: Path) -> dict[str, Any]:
    """The case `kd`, stopped by a signal to one process and then gone on with."""
    original = interruption.StopRequest
    setattr(interruption, "StopRequest", Impatient)  # noqa: B010
    try:
        case("kd", output)
    except Interrupted as stopped:
        (output / f"said-{distributed.rank()}.txt").write_text(str(stopped))
    finally:
        setattr(interruption, "StopRequest", original)  # noqa: B010
    return case("kd", output)


def gloo_threads() -> int:
    """How many threads of this process are gloo's; Linux lists them."""
    names = list[str]()
    for thread in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append((thread / "comm").read_text())
    return sum("gloo" in name for name in names)


def main() -> None:
    output = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group("cpu"):
        runs = {name: case(name, output / name) for name in CASES}
        if distributed.rank() == 0:
            torch.save(runs, output / "found.pt")
        again = interrupted(output / "interrupted")
        if distributed.rank() == 0:
            torch.save(again, output / "again.pt")
        scores = sharded_scores()
        if distributed.rank() == 0:
            torch.save(scores, output / "scores.pt")
        try:
            train(Bomb(), DATA, TRAINING, output=output / "bomb")
        except UserError as error:
            (output / f"bomb-{distributed.rank()}.txt").write_text(str(error))
        digits = TrainingSettings(epochs=2, device="cpu", selection=SelectionSettings(metric="accuracy"))
        if distributed.size() > 1:
            torch.save(
                train("linear", load_data("digits"), digits).validation, output / f"digits-{distributed.rank()}.pt"
            )
        torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))  # imports modules that can keep the group
        number, inside = distributed.rank(), gloo_threads()
    for _ in range(200):  # a thread that has ended is listed for a moment more
        if gloo_threads():
            time.sleep(0.05)
    (output / f"threads-{number}.txt").write_text(f"{inside > 0} {gloo_threads() > 0}")


if __name__ == "__main__":
    main()
