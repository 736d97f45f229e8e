"""The teacher's scores: once, on every batch, or from an earlier run."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from reference import message_of, toy_data
from torch import Tensor, nn

from robust_student.models.model import Model, as_model
from robust_student.objectives.batch import Batch
from robust_student.training.teacher_scores import TeacherScores

DATA = toy_data(train=40, noise=0.4)
SOURCE = DATA.training_examples


class Asked(nn.Module):
    """A teacher that counts the examples it is asked about."""

    def __init__(self, seed: int = 0, shift: float = 0.0, unit: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.count, self.shift, self.unit = nn.Linear(16, 3), 0, shift, unit

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += len(inputs)
        return (self.layer(inputs.flatten(1)) + self.shift) * self.unit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUST_STUDENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(network: nn.Module, *, changing: bool = False, cache: bool = True) -> tuple[TeacherScores, Model]:
    model = as_model(network, DATA)
    if isinstance(network, Asked):
        network.count = 0
    teacher_scores = TeacherScores(model, cache=cache)
    teacher_scores.prepare(SOURCE, ahead=not changing)
    return teacher_scores, model


def scores_of(teacher_scores: TeacherScores, examples: Tensor) -> Tensor:
    scores = teacher_scores.prepared_scores(examples)
    assert scores is not None
    return scores


def test_a_second_run_reads_the_scores_and_asks_a_few_examples_only(folder: Path) -> None:
    network = Asked()
    first, model = prepared(network)
    assert network.count == 40 and len(list(folder.iterdir())) == 1
    second, _ = prepared(network)
    assert network.count == 16
    positions = torch.tensor([3, 39, 0])
    scores = [scores_of(teacher_scores, positions) for teacher_scores in (first, second)]
    assert torch.equal(*scores)
    torch.testing.assert_close(scores[0], model.logits(SOURCE.floats(positions)))  # other batches round otherwise


def test_other_weights_other_data_or_other_code_are_asked_anew(folder: Path) -> None:
    prepared(Asked())
    other = Asked(seed=1)
    prepared(other)
    assert other.count == 40
    changed = Asked(shift=1.0)  # the same name and weights, another forward
    teacher_scores, model = prepared(changed)
    assert changed.count == 56
    torch.testing.assert_close(scores_of(teacher_scores, torch.tensor([5])), model.logits(SOURCE.floats(slice(5, 6))))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_scores_that_are_rounded_otherwise_are_used_and_wrong_ones_are_not(folder: Path, unit: float) -> None:
    """Whatever unit the teacher's scores have."""
    network = Asked(unit=unit)
    prepared(network)
    path = next(folder.iterdir())
    scores = safetensors.torch.load_file(path)["scores"]
    for other, count in ((scores * (1 + 1e-5), 16), (scores * 1.01, 56)):
        safetensors.torch.save_file({"scores": other}, path)
        prepared(network)
        assert network.count == count


@pytest.mark.parametrize("damage", [b"nonsense", b""])
def test_a_damaged_cache_is_computed_again(folder: Path, damage: bytes) -> None:
    network = Asked()
    prepared(network)
    next(folder.iterdir()).write_bytes(damage)
    prepared(network)
    assert network.count == 40
    prepared(network)
    assert network.count == 16


def test_scores_of_the_wrong_shape_or_not_finite_are_not_used(folder: Path) -> None:
    network = Asked()
    prepared(network)
    path = next(folder.iterdir())
    for wrong in (torch.zeros(3, 3), torch.full((40, 3), torch.nan), torch.zeros(40, 3, dtype=torch.float64)):
        safetensors.torch.save_file({"scores": wrong}, path)
        prepared(network)
        assert network.count == 40


def test_without_the_cache_nothing_is_written_or_read(folder: Path) -> None:
    network = Asked()
    prepared(network, cache=False)
    assert network.count == 40 and not folder.exists()


def test_changing_inputs_are_answered_batch_by_batch(folder: Path) -> None:
    network = Asked()
    teacher_scores, model = prepared(network, changing=True)
    assert network.count == 0 and teacher_scores.prepared_scores(torch.arange(5)) is None
    batch = Batch(torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.long), teacher=teacher_scores)
    assert not batch.targets.requires_grad and torch.equal(batch.targets, model.logits(batch.inputs))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROBUST_STUDENT_CACHE", str(tmp_path / "file" / "cache"))
    network = Asked()
    prepared(network)
    assert network.count == 40


def test_scores_that_are_not_finite_are_refused(folder: Path) -> None:
    class Undefined(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3].log() if inputs.any() else inputs.flatten(1)[:, :3]

    dark = toy_data(noise=2.0)
    teacher_scores = TeacherScores(as_model(Undefined(), dark))
    message = message_of(lambda: teacher_scores.prepare(dark.training_examples, ahead=True))
    assert "teacher: its scores" in message and not folder.exists()
