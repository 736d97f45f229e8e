"""Attacks on what a model itself answers, and the radius of its own training."""

import math
from typing import Any

import pytest
import torch
from reference import NORMS, affine, message_of, prototype_classifier, toy_data

from robust_student.core.norms import NormName
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation.attacked_images import attack_images
from robust_student.evaluation.threats import threat_of
from robust_student.models.card import ModelCard
from robust_student.models.model import Model, as_model

DATA = toy_data(noise=0.3)
INPUTS = DATA.test.floats(slice(0, 6))


def model() -> Model:
    return as_model(prototype_classifier(DATA), DATA).eval()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_changes_stay_in_the_ball_and_the_range_and_are_reported_as_they_are(norm: NormName, share: float) -> None:
    threat = ThreatModel.on(DATA, norm)
    threat = threat.at(share * threat.widest(DATA.shape))
    attacked = attack_images(model(), INPUTS, threat)
    sizes = threat.norm.size(attacked.points - INPUTS)
    assert attacked.sizes == sizes.tolist() and max(attacked.sizes) <= threat.budget * (1 + 1e-5)
    assert attacked.points.min() >= 0 and attacked.points.max() <= 1
    torch.testing.assert_close(attacked.before, model().logits(INPUTS))
    torch.testing.assert_close(attacked.after, model().logits(attacked.points))
    assert attacked.changed == (answers(attacked.after) != answers(attacked.before)).tolist()
    assert any(attacked.changed) == (share == 0.3)


def test_the_smallest_change_of_an_affine_model_is_the_distance_to_its_boundary() -> None:
    weight, bias = torch.zeros(3, 16), torch.tensor([-0.5, 0.5, -9.0])
    weight[0, 0], weight[1, 0] = 1.0, -1.0
    network, inputs = as_model(affine(weight, bias), DATA).eval(), torch.full((1, 1, 4, 4), 0.5)
    inputs[0, 0, 0, 0] = 0.7
    attacked = attack_images(network, inputs, ThreatModel.on(DATA, "l2", 0.01), smallest=True)
    assert attacked.changed == [True]  # the first two logits meet where the first pixel is 0.5
    assert attacked.sizes[0] == pytest.approx(0.2, rel=1e-2)


def test_a_model_that_nothing_changes_keeps_its_image() -> None:
    constant = as_model(affine(torch.zeros(3, 16), torch.tensor([1.0, 0.0, 0.0])), DATA).eval()
    attacked = attack_images(constant, INPUTS, ThreatModel.on(DATA, "l2"), smallest=True)
    assert attacked.sizes == [math.inf] * 6 and not any(attacked.changed)
    assert torch.equal(attacked.points, INPUTS)


def test_an_image_is_attacked_alike_alone_and_among_others() -> None:
    threat = ThreatModel.on(DATA, "linf", 0.05)
    together, alone = (attack_images(model(), inputs, threat) for inputs in (INPUTS, INPUTS[3:4]))
    torch.testing.assert_close(together.points[3:4], alone.points)


def test_a_model_without_an_answer_is_refused() -> None:
    weight = torch.zeros(3, 16)
    broken = as_model(affine(weight), DATA).eval()
    torch.nn.init.constant_(next(broken.parameters()), math.nan)
    assert "no answer (NaN) to image 1" in message_of(lambda: attack_images(broken, INPUTS, ThreatModel.on(DATA, "l2")))


def card(objective: Any) -> ModelCard:
    provenance = {} if objective is None else {"settings": {"objective": objective}}
    return ModelCard(network=None, input_shape=(3, 8, 8), classes=("a", "b"), provenance=provenance)


@pytest.mark.parametrize(
    ("objective", "norm", "radius", "expected"),
    [
        ({"norm": "l2", "radius": 0.7}, None, None, ("l2", 0.7)),
        ({"norm": "l2", "radius": 0.7}, "l2", None, ("l2", 0.7)),
        ({"norm": "l2", "radius": 0.7}, None, 0.2, ("l2", 0.2)),
        ({"norm": "l2", "radius": 0.7}, "linf", None, ("linf", 4 / 255)),
        ({"norm": "linf", "radius": None}, None, None, ("linf", 4 / 255)),
        (None, None, None, ("linf", 4 / 255)),
        (None, "linf", 8 / 255, ("linf", 8 / 255)),
    ],
)
def test_the_run_s_own_norm_and_radius_are_the_default(
    objective: Any, norm: NormName | None, radius: float | None, expected: tuple[str, float]
) -> None:
    threat = threat_of(card(objective), norm, radius)
    assert threat.norm.name == expected[0] and threat.budget == pytest.approx(expected[1])


@pytest.mark.parametrize("objective", [{"norm": "l3"}, {"radius": "wide"}, {"radius": -1}])
def test_a_spoiled_card_is_refused(objective: Any) -> None:
    assert "settings of the run" in message_of(lambda: threat_of(card(objective), None, None))


def test_an_impossible_radius_is_refused() -> None:
    assert "more than any change" in message_of(lambda: threat_of(card(None), None, 2.0))
    assert threat_of(card("nonsense"), None, None).norm.name == "linf"
