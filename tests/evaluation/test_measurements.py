"""Noise has its SNR, radii are those of the bounds, budgets fit the range."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import affine, message_of, prototype_classifier, toy_data
from toy_evaluation import DATA, FAST, models, rows_of, run

from robust_student.bounds.estimated import estimated_confidence_radius, estimated_decision_radius
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Data, Examples
from robust_student.evaluation.threats import Threats


def test_estimated_radii_are_those_of_the_bounds(finished: Path) -> None:
    everyone = models()
    for name, model in everyone.items():
        for norm_name in ("linf", "l2"):
            for kind in ("decision", "confidence"):
                measured = rows_of(finished, model=name, perturbation=f"estimated_{kind}_radius_{norm_name}")
                examples = DATA.test.subset(torch.tensor([row["index"] for row in measured]))
                points = examples.floats().requires_grad_()
                logits, norm = model(points), Norm.named(norm_name)
                if kind == "decision":
                    radii = estimated_decision_radius(logits, points, examples.labels, norm)
                else:
                    guide = everyone["teacher"](examples.floats())
                    radii = estimated_confidence_radius(logits, points, examples.labels, guide, norm)
                # The teacher against itself is 0 up to the rounding of logits in batches of another size.
                assert [row["value"] for row in measured] == pytest.approx(radii.tolist(), rel=1e-4, abs=1e-6)
                assert [row["correct"] for row in measured] == logits.argmax(dim=1).eq(examples.labels).tolist()


def test_infinite_radii_are_stored_without_a_number(tmp_path: Path) -> None:
    flat = affine(torch.zeros(3, 16), torch.tensor([1.0, 0.0, 0.0]))
    records = run(tmp_path / "out", subjects={"flat": flat})
    measured = rows_of(tmp_path / "out", perturbation="estimated_decision_radius_l2")
    assert {(row["label"] == 0, row["value"], row["detail"]) for row in measured} == {
        (True, None, "infinite"),
        (False, 0.0, None),
    }
    assert [r["value"] for r in records if r["metric"] == "median_estimated_decision_radius_l2"] == [0.0]


def test_without_a_teacher_there_is_no_confidence_radius(tmp_path: Path) -> None:
    subjects = {"kd": models()["kd"]}
    records = run(tmp_path / "out", subjects=subjects)
    assert not any("confidence" in record["metric"] for record in records)
    named = run(tmp_path / "named", FAST.model_copy(update={"teacher": "kd"}), subjects=subjects)
    assert sum("confidence" in record["metric"] for record in named) == 2


@pytest.mark.parametrize("name", ["gaussian", "uniform", "impulse"])
def test_every_kind_of_noise_has_the_snr_it_is_asked_for(name: str, tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"noises": (name,), "snr_db": (12.0,)})
    records = run(tmp_path / "out", settings, toy_data(shape=(1, 20, 20), test=45), {"m": affine(torch.ones(3, 400))})
    (realised,) = [record for record in records if record["metric"] == "mean_realised_snr_db"]
    assert realised["perturbation"] == f"{name}_snr_db" and realised["unit"] == "dB" and realised["n"] == 30
    assert 11.8 < realised["value"] < 14  # clipping removes noise


def test_noise_without_signal_is_excluded_and_counted(tmp_path: Path) -> None:
    inputs = DATA.test.inputs.clone()
    inputs[[3, 8]] = 0
    data = replace(DATA, test=Examples(inputs, DATA.test.labels))
    settings = FAST.model_copy(update={"examples": None})
    records = run(tmp_path / "out", settings, data, {"m": prototype_classifier(DATA)})
    excluded = [row["index"] for row in rows_of(tmp_path / "out", setting=3.0) if row["correct"] is None]
    assert sorted(excluded) == [3, 8]
    assert [r["value"] for r in records if r["metric"] == "excluded_examples"] == [2, 2]
    assert {r["n"] for r in records if r["metric"] == "accuracy" and r["perturbation"] == "gaussian_snr_db"} == {43}


def test_noise_that_is_clipped_away_entirely_has_an_infinite_snr(tmp_path: Path) -> None:
    labels = torch.arange(20) % 2
    ones = Examples(torch.ones(20, 2), labels)
    data = Data("binary", ones, ones, ("a", "b"), DATA.input_range)
    settings = FAST.model_copy(update={"examples": None})
    records = run(tmp_path / "out", settings, data, {"m": affine(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))})
    noisy = rows_of(tmp_path / "out", setting=3.0)
    assert {row["detail"] for row in noisy if row["value"] is None} == {"infinite"}
    assert all(row["correct"] is not None for row in noisy)
    json.dumps(records, allow_nan=False)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_tables_are_attacked_in_units_of_their_scale(norm: str, tmp_path: Path) -> None:
    scale = torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0])
    table = toy_data(shape=(5,), input_range=UNBOUNDED, scale=scale, test=20)
    settings = FAST.model_copy(
        update={"autoattack": "fast", "autoattack_norm": norm, "attack_examples": 4, "autoattack_radius": 5.0}
    )
    records = run(tmp_path / "out", settings, table, {"m": prototype_classifier(table)})
    (accuracy,) = [r for r in records if r["perturbation"] == f"autoattack_{norm}" and r["metric"] == "accuracy"]
    assert accuracy["value"] == 0 and accuracy["n"] == 4


def test_a_budget_may_reach_from_one_end_of_the_range_to_the_other_and_no_further(tmp_path: Path) -> None:
    norms = {"linf": 1.0, "l2": 4.0, "l1": 16.0}
    for norm, whole in norms.items():
        budget = {"autoattack_norm": norm, "autoattack_radius": whole, "pgd_linf": (1.0,), "pgd_l2": (4.0,)}
        settings = FAST.model_copy(update=budget)
        Threats.of(DATA, settings)
        more = settings.model_copy(update={"autoattack_radius": 1.01 * whole})
        assert f"({norm}, at most {whole:g})" in message_of(partial(run, tmp_path / "out", more))
    assert not (tmp_path / "out").exists()
