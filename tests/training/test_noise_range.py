"""The levels of noise that fit data and teacher."""

import pytest
import torch
from torch import Tensor, nn
from toy_training import DATA, FAST, teacher

from robust_student.core.tensors import UNIT_RANGE, answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model, as_model
from robust_student.objectives.methods import METHODS
from robust_student.training.noise_range import fitted_lowest_db
from robust_student.training.settings import DistillSettings
from robust_student.training.train import distill

THREAT = ThreatModel.named("linf", None, UNIT_RANGE, DATA.shape)


def accuracy(guide: Model, inputs: Tensor, labels: Tensor) -> float:
    """Mean recall."""
    right = guide.logits(inputs).argmax(dim=1) == labels
    recalls = [
        sum(right[labels == k].tolist()) / sum((labels == k).tolist())
        for k in torch.bincount(labels).nonzero()[:, 0].tolist()
    ]
    return sum(recalls) / len(recalls)


def test_it_is_where_the_teacher_has_lost_half_of_its_accuracy_above_chance() -> None:
    guide, examples = teacher(), DATA.training_examples
    labels = answers(guide.logits(examples.floats()))
    known = Examples(examples.stored, labels)  # the teacher is right on clean inputs
    found = fitted_lowest_db(guide, known, THREAT)
    order = stratified_sample(labels, len(labels), 0)
    inputs, labels = examples.floats(order), labels[order]
    draws = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    half = (1 + 1 / len(set(labels.tolist()))) / 2
    levels = [20 - 2.5 * k for k in range(13)]
    curve = [accuracy(guide, gaussian_at_snr(inputs, level, UNIT_RANGE, draws)[0], labels) for level in levels]
    first = next(k for k, value in enumerate(curve) if value <= half)
    exact = levels[first - 1] - 2.5 * (curve[first - 1] - half) / (curve[first - 1] - curve[first])
    assert abs(found - exact) <= 0.25 + 1e-9


class Sure(nn.Module):
    """Answers class 1, whatever it sees."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.eye(3)[torch.ones(len(inputs), dtype=torch.long)]


def test_beyond_the_levels_it_is_the_last_one() -> None:
    guide, labels = as_model(Sure(), DATA), DATA.training_examples.labels
    assert fitted_lowest_db(guide, DATA.training_examples, THREAT) == 20.0  # no better than chance at once
    ones = DATA.training_examples.subset((labels == 1).nonzero()[:, 0])
    assert fitted_lowest_db(guide, ones, THREAT) == 20.0  # a single class: chance is all there is


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"lowest_db": 3.0}, (3.0, 28.0)),
        ({"lowest_db": 1.0, "highest_db": 2.0}, (1.0, 2.0)),
    ],
)
def test_named_levels_are_kept(named: dict[str, float], expected: tuple[float, float]) -> None:
    persistent = METHODS["persistent"]
    noise = persistent.noise.model_copy(update=named)
    objective = persistent.model_copy(update={"radius": 0.1, "noise": noise})
    trained = distill(teacher(), "linear", DATA, DistillSettings(training=FAST, objective=objective))
    written = DistillSettings.parse(trained.model.card.provenance["settings"]).objective.noise
    assert written.range_db == expected
