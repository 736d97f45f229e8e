"""Small trainings that tests run, and modules that remember what they saw."""

from pathlib import Path
from typing import Any

from reference import prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.models.model import Model, as_model
from robust_student.objectives.methods import METHODS
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained, distill

DATA = toy_data(train=60, noise=0.4)
FAST = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=0.02, device="cpu", selection=SelectionSettings(steps=2, snr_db=(0.0,))
)


def teacher() -> Model:
    return as_model(prototype_classifier(DATA), DATA)


def student_of(
    method: str = "kd", student: str | nn.Module = "mlp:4", output: Path | None = None, **training: Any
) -> Trained:
    """A student of the toy teacher."""
    settings = DistillSettings(
        training=FAST.model_copy(update=training), objective=METHODS[method].model_copy(update={"radius": 0.1})
    )
    return distill(teacher(), student, DATA, settings, output=output)


def outcome(trained: Trained) -> list[dict[str, Any]]:
    """The history without what depends on the clock."""
    clock = {"seconds", "examples_per_second"}
    return [{name: value for name, value in record.items() if name not in clock} for record in trained.history]


class Recorder(nn.Module):
    """Remembers the batches that it is trained on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.trained_on = network, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.trained_on.append(inputs.detach().clone())
        return self.network(inputs)


def rows(inputs: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, inputs.flatten(1).tolist()))


class TeacherScores(nn.Module):
    """A teacher with BatchNorm and dropout that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[Tensor]()
        self.modes = set[bool]()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked.append(inputs.detach().clone())
        self.modes.add(self.training)
        return self.layers(inputs)
