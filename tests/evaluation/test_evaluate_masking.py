"""Verdicts of an evaluation: hidden gradients fail, honest models pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import affine, prototype_classifier, toy_data
from torch import Tensor, nn
from toy_evaluation import ATTACKED, DATA, FAST, Records, run

from robust_student.core.tensors import UNBOUNDED


class Rounded(nn.Module):
    """Hides its gradient by rounding its inputs to quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((4 * inputs).round() / 4)


def verdicts(records: Records) -> dict[str, Any]:
    """The only verdict among the adversarial accuracies of a model."""
    recorded = [
        r["verdict"] for r in records if r["metric"] == "accuracy" and r["perturbation"].startswith(("pgd", "auto"))
    ]
    assert len(recorded) >= 2 and all(verdict == recorded[0] for verdict in recorded)
    verdict: dict[str, Any] = recorded[0]
    return verdict


def test_a_model_that_hides_its_gradient_fails_and_an_honest_one_passes(tmp_path: Path) -> None:
    settings = ATTACKED.model_copy(update={"pgd_steps": 20})
    masked = verdicts(run(tmp_path / "masked", settings, subjects={"m": Rounded()}))
    assert masked["level"] == "FAIL" and masked["zero_gradients"] == 1
    assert masked["unbounded_accuracy"] > 0.3 and masked["square_only"] > 0.1 and len(masked["reasons"]) > 3
    honest = verdicts(run(tmp_path / "honest", settings, subjects={"m": prototype_classifier(DATA)}))
    assert (honest["level"], honest["reasons"], honest["unbounded_accuracy"]) == ("PASS", [], 0)


def test_without_autoattack_and_without_a_range_the_verdict_rests_on_the_gradients(tmp_path: Path) -> None:
    table = toy_data(shape=(5,), input_range=UNBOUNDED)
    records = run(tmp_path / "out", FAST, table, {"m": prototype_classifier(table)})
    verdict = verdicts(records)
    assert verdict["level"] == "PASS" and verdict["square_only"] is None and verdict["unbounded_accuracy"] is None


def test_a_collapsed_model_is_measured_and_fails(tmp_path: Path) -> None:
    records = run(tmp_path / "out", ATTACKED, subjects={"m": affine(torch.zeros(3, 16))})
    assert verdicts(records)["level"] == "FAIL"
    clean = [r["value"] for r in records if r["metric"] == "accuracy" and r["perturbation"] == "none"]
    assert clean == pytest.approx([1 / 3])
