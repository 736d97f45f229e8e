"""A teacher is looked at before it teaches: against what is declared, else against chance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import message_of, toy_data
from scipy import stats
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Examples
from robust_student.data.samples import training_and_validation
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import save
from robust_student.models.settings import TeacherSettings
from robust_student.training.teacher import check_teacher, depends_on_batch, open_teacher


class Oracle(nn.Module):
    """Reads the class in the first pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        number = (inputs.flatten(1)[:, 0] * 100).round().long()
        return nn.functional.one_hot(number, self.classes).float()


def oracle(classes: int) -> Model:
    return as_model(Oracle(classes), toy_data(classes=classes))


def marked(correct: int, count: int, classes: int) -> Examples:
    """Examples of which that oracle gets `correct` right."""
    labels = torch.arange(count) % classes
    told = torch.where(torch.arange(count) < correct, labels, (labels + 1) % classes)
    inputs = torch.zeros(count, 1, 4, 4)
    inputs[:, 0, 0, 0] = told / 100
    return Examples(inputs, labels)


def verdict(correct: int, count: int, classes: int, declared: float | None = None) -> str:
    """The complaint, or nothing."""
    try:
        assert check_teacher(oracle(classes), marked(correct, count, classes), declared) == correct / count
    except UserError as error:
        return str(error)
    return ""


@given(st.integers(1, 120), st.floats(0, 1), st.sampled_from([2, 3, 10]))
@settings(max_examples=40)
def test_chance_is_an_exact_binomial_test_where_the_sample_can_tell(count: int, share: float, classes: int) -> None:
    """Against scipy's own tests: not significant at 1 %, and a half-way teacher would be told, or is ruled out."""
    correct = round(share * count)
    significant = [
        stats.binomtest(k, count, 1 / classes, alternative="greater").pvalue <= 0.01 for k in range(count + 1)
    ]
    halfway = stats.binom.pmf(np.arange(count + 1), count, (1 + 1 / classes) / 2)
    telling = float(halfway[np.array(significant)].sum()) >= 0.99
    ruled_out = stats.binomtest(correct, count, (1 + 1 / classes) / 2, alternative="less").pvalue < 0.001
    assert bool(verdict(correct, count, classes)) == (not significant[correct] and (telling or ruled_out))


@given(st.integers(1, 300), st.floats(0, 1), st.floats(2, 100))
def test_a_declared_accuracy_is_an_exact_binomial_test(count: int, share: float, declared: float) -> None:
    correct = round(share * count)
    pvalue = stats.binomtest(correct, count, min(declared / 100, 0.999), alternative="less").pvalue
    assert bool(verdict(correct, count, 3, declared)) == (pvalue < 0.001)


def test_the_message_says_what_to_look_at() -> None:
    message = verdict(110, 1000, 10)
    assert message.startswith(
        "teacher accuracy on validation is 11.0 % (n = 1000), no better than chance: check its norm"
    )
    assert "class order" in message and "--no-teacher-check" in message and len(message.splitlines()) == 1
    assert "is 70.0 % (n = 1000), not 92 %: check its normalisation" in verdict(700, 1000, 10, 92.0)
    assert verdict(905, 1000, 10, 92.0) == "" and verdict(300, 1000, 10) == ""


def test_worse_than_chance_is_no_better() -> None:
    """A teacher with a wrong class order is always wrong."""
    assert "0.0 %" in verdict(0, 100, 3)


def test_a_useless_teacher_is_refused_on_few_examples_too() -> None:
    assert "31.6 % (n = 38), no better than chance" in verdict(12, 38, 3)
    assert verdict(22, 38, 3) == "" and verdict(0, 3, 3) == ""


def test_at_most_1000_examples_are_looked_at_and_all_classes_take_part() -> None:
    assert check_teacher(oracle(4), marked(4000, 4000, 4)) == 1.0
    assert "(n = 1000)" in verdict(0, 5000, 4)


def test_the_card_may_declare_the_accuracy_and_the_user_knows_better() -> None:
    teacher = oracle(3)
    teacher.card = teacher.card.model_copy(update={"accuracy": 95.0})
    examples = marked(70, 100, 3)
    assert "not 95 %" in message_of(lambda: check_teacher(teacher, examples))
    assert check_teacher(teacher, examples, 72.0) == 0.7


# Opening --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that gets nothing right."""
    model = as_model("linear", toy_data())
    with torch.no_grad():
        model.network[1].weight.zero_()  # type: ignore[index]
        model.network[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))  # type: ignore[index]
    save(model, tmp_path)
    return tmp_path


def opened(run: Path, **given_settings: Any) -> Model:
    data = toy_data(train=600)
    parts = training_and_validation(data, 0.5, 0)
    return open_teacher(str(run), data, *parts, TeacherSettings.parse(given_settings)).model


def test_a_useless_teacher_is_refused_unless_it_is_wanted(run: Path) -> None:
    assert "is 33.3 % (n = 300), no better than chance" in message_of(lambda: opened(run))
    assert "not 80 %" in message_of(lambda: opened(run, teacher_accuracy=80))
    assert opened(run, teacher_check=False).card.network == "linear"
    assert opened(run, teacher_accuracy=30).card.network == "linear"


class Together(nn.Module):
    """Normalises with the statistics of the batch that it is shown, in evaluation too."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = inputs.flatten(1)[:, :3]
        return logits - logits.mean(dim=0)


class Noisy(nn.Module):
    """Answers at random."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, :3] + torch.rand(len(inputs), 3)


@pytest.mark.parametrize(("network", "told"), [(Together(), True), (Noisy(), False), (None, False)])
def test_a_teacher_whose_answers_depend_on_the_batch_is_told_of_in_one_line(
    network: nn.Module | None, told: bool, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if network is not None:
        monkeypatch.setattr(
            "robust_student.training.teacher.open_model", lambda *_, **__: as_model(network, toy_data())
        )
    opened(run, teacher_check=False)
    lines = [record.getMessage() for record in caplog.records]
    assert ["depends on the other examples of the batch" in line for line in lines] == [True] * told
    assert not any("\n" in line for line in lines)


def test_a_single_example_depends_on_no_other() -> None:
    assert not depends_on_batch(as_model(Together(), toy_data()), torch.rand(1, 1, 4, 4))
    assert depends_on_batch(as_model(Together(), toy_data()), torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("accuracy", [0.92, 0, 101, -3])
def test_an_accuracy_is_in_percent(accuracy: float) -> None:
    assert "teacher_accuracy" in message_of(lambda: TeacherSettings.parse({"teacher_accuracy": accuracy}))
