"""A teacher that normalises twice, or not at all, is found out by what it does otherwise."""

from typing import Any

import pytest
import torch
from reference import message_of, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.data.readers.load import Examples
from robust_student.data.samples import training_and_validation
from robust_student.models.model import Model, as_model
from robust_student.models.settings import TeacherSettings
from robust_student.training.normalisation import compare_normalisations
from robust_student.training.teacher import open_teacher

DATA = toy_data(train=1200, classes=10)
SOURCE, VALIDATION = training_and_validation(DATA, 0.25, 0)
MEAN, STD = 0.8, 0.1


class Pixels(nn.Module):
    """Right on inputs in [0, 1], to which it cuts whatever it gets."""

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.network, self.mean, self.std = prototype_classifier(DATA), mean, std

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network((inputs * self.std + self.mean).clamp(0, 1))
        return logits


def teacher(network: nn.Module, mean: float = 0.0, std: float = 1.0, source: str = "own.py:make@w.pt") -> Model:
    """A teacher from elsewhere, opened with this normalisation."""
    card = as_model(network, DATA).card.model_copy(update={"provenance": {"source": source} if source else {}})
    return Model(network, card, torch.tensor(mean), torch.tensor(std)).eval()


def words(model: Model, validation: Examples = VALIDATION) -> tuple[str, str, bool] | None:
    return compare_normalisations(model, DATA, SOURCE, validation).doubt()


def test_a_normalisation_that_the_network_makes_itself_is_certainly_wrong() -> None:
    doubt = words(teacher(Pixels(), MEAN, STD))
    assert doubt is not None
    text, fix, certain = doubt
    assert certain and "% without its normalisation (n = 256; a linear model on the inputs reaches" in text
    assert fix.endswith("give --teacher-mean 0 --teacher-std 1")


def test_a_normalisation_that_is_missing_is_certainly_wrong() -> None:
    mean, std = (float(statistic) for statistic in DATA.statistics())
    doubt = words(teacher(Pixels(mean, std)))
    assert doubt is not None and doubt[2]
    assert f"give --teacher-mean {mean:.3g} --teacher-std {std:.3g}, or better those of its training" in doubt[1]


def test_a_right_normalisation_is_not_doubted() -> None:
    assert words(teacher(Pixels())) is None
    assert words(teacher(Pixels(MEAN, STD), MEAN, STD)) is None


def test_a_better_one_that_is_not_right_either_is_no_certainty() -> None:
    """Four of ten classes are confused whatever the normalisation is."""

    class Confused(Pixels):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs)[:, [1, 0, 3, 2, 4, 5, 6, 7, 8, 9]]

    doubt = words(teacher(Confused(), MEAN, STD))
    assert doubt is not None and not doubt[2] and "without its normalisation" in doubt[0]


def test_a_teacher_below_a_linear_model_is_doubted() -> None:
    confused = nn.Sequential(Pixels(), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        confused[1].weight.copy_(torch.eye(10).roll(1, dims=0))  # type: ignore[operator]
    doubt = words(teacher(confused))
    assert doubt is not None and not doubt[2]
    assert doubt[0].startswith("a linear model on the inputs answers ")
    assert doubt[0].endswith(" % of validation right, the teacher 0.0 % (n = 256)")
    assert "--teacher-classes" in doubt[1]
    run = words(teacher(confused, source=""))
    assert run is not None and run[1] == "train it longer, or choose a larger network"


def test_the_normalisation_of_a_run_is_its_own() -> None:
    assert compare_normalisations(teacher(Pixels(), MEAN, STD, source=""), DATA, SOURCE, VALIDATION).others == ()


def test_few_examples_show_nothing() -> None:
    few = VALIDATION.subset(torch.arange(8))
    assert words(teacher(Pixels(), MEAN, STD), validation=few) is None


def test_three_means_of_a_grey_image_are_compared_with_the_training_set_s() -> None:
    grey = teacher(Pixels())
    wide = Model(nn.Sequential(_First(), Pixels()), grey.card, torch.full((3, 1, 1), MEAN), torch.full((3, 1, 1), STD))
    doubt = words(wide.eval())
    assert doubt is not None and doubt[2]


class _First(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.shape[1] == 3
        return inputs[:, :1]


# Opening --------------------------------------------------------------------------------------------------------------


def opened(monkeypatch: pytest.MonkeyPatch, model: Model, **settings: Any) -> Model:
    monkeypatch.setattr("robust_student.training.teacher.open_model", lambda *_, **__: model)
    return open_teacher("own.py:make@w.pt", DATA, SOURCE, VALIDATION, TeacherSettings.parse(settings)).model


def test_a_teacher_that_normalises_twice_does_not_teach(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    twice = teacher(Pixels(), MEAN, STD)
    message = message_of(lambda: opened(monkeypatch, twice))
    assert "give --teacher-mean 0 --teacher-std 1 (--no-teacher-check skips this check)" in message
    assert opened(monkeypatch, twice, teacher_check=False) is twice
    assert caplog.records == []


def test_a_doubt_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    weak = teacher(nn.Sequential(nn.Flatten(), nn.Linear(16, 10)))
    opened(monkeypatch, weak, teacher_accuracy=2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "a linear model on the inputs answers" in line and "\n" not in line
