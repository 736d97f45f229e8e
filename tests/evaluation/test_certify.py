"""`certify`: rows that agree with direct calls, both sides of every radius, resumption, and options that matter."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Silent, message_of, prototype_classifier, toy_data
from torch import nn

from robust_student.attacks.minimum_norm import Effort, smallest_confidence_loss, smallest_decision_change
from robust_student.bounds.certified import Certifier
from robust_student.core.threat_model import ThreatModel
from robust_student.evaluation import radius_measurements
from robust_student.evaluation.certify import certify
from robust_student.evaluation.settings import CertificationSettings, SmoothingSettings
from robust_student.models.model import as_model
from robust_student.results.intervals import median, wilson
from robust_student.results.radii import summarise_radii
from robust_student.results.rows import SUMMARY, Key, Row
from robust_student.runtime.files import read_json

DATA = toy_data()
BASE: dict[str, Any] = {
    "examples": 12,
    "linear_examples": 6,
    "batch_size": 4,
    "attacks": ["pgd-bisection"],
    "sampled_points": 3,
    "budgets": [0.02, 0.1],
    "device": "cpu",
}
SMALL: dict[str, Any] = BASE | {"examples": 8, "linear_examples": 3, "methods": ["interval", "lipschitz"]}
"""Settings of runs without the slow bounds, for two models."""


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    student = as_model("mlp:8", DATA)
    return {"teacher": prototype_classifier(DATA), "kd": as_model("mlp:6", DATA), "student": student}


def run(output: Path, **changes: Any) -> list[dict[str, Any]]:
    certify(models(), DATA, CertificationSettings.parse(BASE | changes), output=output)
    return read_json(output / SUMMARY)


def small_run(output: Path, subjects: Mapping[str, nn.Module] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """A run whose attacks try less hard, which every run does alike."""
    two = subjects or {name: model for name, model in models().items() if name != "kd"}
    less = Effort(budgets=5, restarts=1, pgd_steps=3, steps=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radius_measurements, "smallest_decision_change", partial(smallest_decision_change, effort=less))
        patch.setattr(radius_measurements, "smallest_confidence_loss", partial(smallest_confidence_loss, effort=less))
        patch.setattr(radius_measurements, "_AGREEMENT_STEPS", 5)
        certify(two, DATA, CertificationSettings.parse(SMALL | changes), output=output)
    return read_json(output / SUMMARY)


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("certified") / "run"
    run(output)
    return output


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, list[dict[str, Any]]]]:
    """Directory and records of a small run, made once for each set of changes."""
    made: dict[str, tuple[Path, list[dict[str, Any]]]] = {}

    def make(**changes: Any) -> tuple[Path, list[dict[str, Any]]]:
        key = json.dumps(changes)
        if key not in made:
            output = tmp_path_factory.mktemp("small") / "run"
            made[key] = output, small_run(output, **changes)
        return made[key]

    return make


def column(output: Path, model: str, kind: str) -> dict[int, float]:
    rows = [row for row in rows_of(output) if (row["model"], row["perturbation"]) == (model, kind)]
    return {row["index"]: Row(**row).radius for row in rows}


@pytest.mark.parametrize("method", ["interval", "gradient", "lipschitz", "linear"])
def test_rows_hold_the_certified_radii(finished: Path, method: Any) -> None:
    model = models()["student"]
    radii = column(finished, "student", f"certified_{method}_decision_radius_linf")
    assert len(radii) == (6 if method == "linear" else 12)
    examples = DATA.test.subset(torch.tensor(list(radii)))
    certifier = Certifier.of(model, DATA.shape, ThreatModel.on(DATA, "linf"), method=method, tolerance=0.05)
    expected = certifier.decision_radius(examples.floats(), examples.labels, budgets=(0.02, 0.1))
    assert list(radii.values()) == pytest.approx(expected.tolist(), rel=1e-6)


def test_every_bound_is_on_its_side_and_some_are_positive(finished: Path) -> None:
    for model in models():
        for meaning in ("decision", "confidence"):
            attack = column(finished, model, f"attack_{meaning}_radius_linf")
            for method in ("interval", "gradient", "lipschitz", "linear"):
                radii = column(finished, model, f"certified_{method}_{meaning}_radius_linf")
                assert all(radii[k] <= attack[k] * (1 + 1e-6) for k in attack if k in radii)
            assert len(attack) == 6
    records = json.loads((finished / "summary.json").read_text())
    counts = [record["value"] for record in records if record["metric"] == "sandwich_violations"]
    assert len(counts) == 6 and not any(counts)
    assert any(radius > 0 for radius in column(finished, "student", "certified_linear_decision_radius_linf").values())


def test_the_teacher_gets_no_linear_bounds_unless_named(finished: Path, tmp_path: Path) -> None:
    assert not column(finished, "teacher", "certified_linear_decision_radius_linf")
    run(tmp_path / "out", linear_models=["teacher"], methods=["linear"], examples=4, linear_examples=2)
    assert column(tmp_path / "out", "teacher", "certified_linear_decision_radius_linf")
    assert not column(tmp_path / "out", "student", "certified_linear_decision_radius_linf")


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.7, 1.0])
def test_an_interrupted_run_goes_on_with_the_same_result(
    small: Callable[..., tuple[Path, list[dict[str, Any]]]], tmp_path: Path, share: float
) -> None:
    """`share` of the rows' bytes had been written, and at last half of a line."""
    whole, output = small()[0], tmp_path / "run"
    output.mkdir()
    marks = json.loads((whole / "certification.json").read_text())
    started = {key: marks[key] for key in ("fingerprint", "provenance")}
    (output / "certification.json").write_text(json.dumps(started))
    written = (whole / "rows.jsonl").read_bytes()
    end = written.rfind(b"\n", 0, int(share * len(written)) - 1) + 30
    assert len(written) > 20_000 and written[end - 1 : end + 1].count(b"\n") == 0
    (output / "rows.jsonl").write_bytes(written[:end])
    small_run(output)
    # A batch that was cut short is computed again: its rows may stand there twice, and are the same.
    assert set(map(str, rows_of(output))) == set(map(str, rows_of(whole)))
    assert json.loads((output / "summary.json").read_text()) == json.loads((whole / "summary.json").read_text())


def test_another_run_and_a_finished_one_are_left_alone(finished: Path, tmp_path: Path) -> None:
    before = (finished / "rows.jsonl").read_bytes()
    assert "holds a finished run" in message_of(lambda: run(finished))
    (tmp_path / "certification.json").write_text((finished / "certification.json").read_text())
    message = message_of(lambda: run(tmp_path, seed=7))
    assert "other models, data or settings (settings.seed: 0 there, 7 here)" in message
    assert (finished / "rows.jsonl").read_bytes() == before


CHANGES: dict[str, dict[str, Any]] = {
    "norm": {"norm": "l2"},
    "budgets": {"budgets": [0.03]},
    "methods": {"methods": ["interval"]},
    "examples": {"examples": 7},
    "linear_examples": {"linear_examples": 4},
    "linear_models": {"linear_models": ["teacher"]},
    "tolerance": {"tolerance": 0.5},
    "attacks": {"attacks": ["fab"]},
    "baseline": {"baseline": "student"},
    "teacher": {"teacher": "student"},
    "seed": {"seed": 3},
    "smoothing.sigma": {"norm": "l2", "smoothing": {"sigma": 0.2, "samples": 50, "examples": 4}},
    "smoothing.samples": {"norm": "l2", "smoothing": {"sigma": 0.2, "samples": 60, "examples": 4}},
    "smoothing.selection_samples": {
        "norm": "l2",
        "smoothing": {"sigma": 0.2, "samples": 50, "examples": 4, "selection_samples": 1},
    },
    "smoothing.alpha": {"norm": "l2", "smoothing": {"sigma": 0.2, "samples": 50, "examples": 4, "alpha": 0.2}},
    "smoothing.examples": {"norm": "l2", "smoothing": {"sigma": 0.2, "samples": 50, "examples": 5}},
}
"""Option -> a change of it. `batch_size` and `device` must change nothing; `sampled_points` has a test of its own."""


def test_the_table_has_every_option() -> None:
    names = {name for name in CertificationSettings.model_fields if name != "smoothing"}
    names |= {f"smoothing.{name}" for name in SmoothingSettings.model_fields}
    assert set(CHANGES) == names - {"batch_size", "device", "sampled_points"}


@pytest.mark.parametrize("option", list(CHANGES))
def test_the_option_changes_the_result(
    option: str, small: Callable[..., tuple[Path, list[dict[str, Any]]]], tmp_path: Path
) -> None:
    base: dict[str, Any] = {}
    if option.startswith("smoothing."):
        base = {"norm": "l2"}
        if option != "smoothing.sigma":
            base |= {"smoothing": {"sigma": 0.2, "samples": 50, "examples": 4}}
    elif option in ("linear_models", "linear_examples"):
        base = {"methods": ["interval", "linear"]}
    output, before = small(**base)
    after = small_run(tmp_path / "after", **(base | CHANGES[option]))
    first, second = rows_of(output), rows_of(tmp_path / "after")
    if option == "smoothing.selection_samples":
        assert len(first) == len(second)  # the class is chosen from fewer votes; which one may well be the same
    else:
        assert first != second or before != after


def test_more_sampled_points_find_steeper_slopes_of_a_bent_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = int(torch.tensor(DATA.shape).prod())
    bent = nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.Tanh(), nn.Linear(12, len(DATA.classes)))
    with torch.no_grad():
        for parameter in bent.parameters():
            parameter.mul_(4)
    radii = []
    for points in (1, 40):
        settings = CertificationSettings.parse(BASE | {"methods": [], "sampled_points": points})
        certify({"a": bent}, DATA, settings, output=tmp_path / str(points))
        radii.append(column(tmp_path / str(points), "a", "sampled_decision_radius_linf"))
    assert all(radii[1][k] <= radii[0][k] * (1 + 1e-6) for k in radii[0]) and radii[0] != radii[1]


def test_the_size_of_a_batch_changes_nothing_but_rounding(finished: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", batch_size=12, methods=["linear", "gradient"])
    for kind in ("certified_linear_decision_radius_linf", "certified_gradient_confidence_radius_linf"):
        one, other = column(finished, "student", kind), column(tmp_path / "out", "student", kind)
        assert one.keys() == other.keys() and list(one.values()) == pytest.approx([other[k] for k in one], rel=1e-6)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size = int(torch.tensor(DATA.shape).prod())
        self.layers = nn.Sequential(nn.Flatten(), nn.LayerNorm(size), nn.Linear(size, len(DATA.classes)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


def test_a_network_that_cannot_be_bounded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = CertificationSettings.parse(BASE)
    message = message_of(lambda: certify({"a": Normed()}, DATA, settings, output=tmp_path / "out"))
    assert "'layer_norm'" in message and "smoothing" in message and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": "nobody"}, "baseline 'nobody' is not among the models"),
        ({"linear_models": ["nobody"]}, "linear_models names 'nobody'"),
        ({"smoothing": {"sigma": 0.1}}, "smoothing certifies l2 only"),
        ({"attacks": ["nothing"]}, "nothing"),
    ],
)
def test_bad_settings_give_one_line(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in message_of(lambda: run(tmp_path / "out", **changes))


def test_no_models_are_refused(tmp_path: Path) -> None:
    assert "no models" in message_of(lambda: certify({}, DATA, output=tmp_path / "out"))


def test_smoothing_alone_works_for_any_network(tmp_path: Path) -> None:
    settings = CertificationSettings.parse(
        BASE | {"norm": "l2", "methods": [], "smoothing": {"sigma": 0.1, "samples": 100, "examples": 4}}
    )
    certify({"a": Normed()}, DATA, settings, output=tmp_path / "out")
    kinds = {row["perturbation"] for row in rows_of(tmp_path / "out")}
    assert "certified_smoothed_radius_l2" in kinds and not any("certified_linear" in kind for kind in kinds)


def test_models_without_an_answer_do_not_agree_and_no_radius_of_theirs_is_positive(tmp_path: Path) -> None:
    brightness = DATA.test.floats().mean(dim=(1, 2, 3))
    above = float(brightness.median())
    pair = {"teacher": Silent(DATA, above), "student": Silent(DATA, above)}
    small_run(tmp_path / "out", pair, methods=[], budgets=[0.001])
    rows = [row for row in rows_of(tmp_path / "out") if brightness[row["index"]] > above]
    agreement = [row for row in rows if row["perturbation"] == "agreement_linf" and row["model"] == "student"]
    assert agreement and not any(row["correct"] for row in agreement)
    assert all(row["prediction"] == -1 for row in agreement)
    radii = [row for row in rows if "_radius_" in row["perturbation"]]
    assert {row["perturbation"].split("_")[0] for row in radii} == {"estimated", "sampled", "attack"}
    assert all(row["value"] == 0 for row in radii)


def test_records_follow_from_the_rows_by_hand() -> None:
    def rows(model: str, kind: str, values: list[float], correct: bool = True) -> dict[int, Row]:
        return {k: Row(model, kind, None, k, 0, 0, correct, value=value) for k, value in enumerate(values)}

    groups: dict[Key, dict[int, Row]] = {}
    for model, factor in (("kd", 1.0), ("student", 3.0)):
        kinds = {
            "none": [0.0] * 4,
            "certified_interval_decision_radius_l2": [0.1 * factor, 0.0, 0.2 * factor, 0.3 * factor],
            "certified_linear_decision_radius_l2": [0.2 * factor, 0.1 * factor],
            "attack_decision_radius_l2": [0.15 * factor, 0.5 * factor, 0.9 * factor],
        }
        groups |= {(model, kind, None): rows(model, kind, values) for kind, values in kinds.items()}
    records = summarise_radii(groups, norm="l2", budgets=(0.25,), baseline="kd", seed=0)

    def value(model: str, metric: str, perturbation: str = "none") -> Any:
        matching = [r for r in records if (r["model"], r["metric"], r["perturbation"]) == (model, metric, perturbation)]
        (record,) = matching
        return record

    best = value("student", "certified_accuracy", "certified_decision_radius")
    assert (best["value"], best["n"]) == (1.0, 2) and best["low"] == pytest.approx(wilson(2, 2).low)
    assert value("kd", "certified_accuracy", "certified_interval_decision_radius")["value"] == 0.25
    assert value("kd", "attack_accuracy", "attack_decision_radius")["value"] == pytest.approx(2 / 3)
    assert value("kd", "sandwich_violations", "certified_decision_radius")["value"] == 1  # 0.2 above an attack's 0.15
    assert value("kd", "median_certified_decision_radius")["value"] == pytest.approx(median([0.2, 0.1]).value)
    ratio = value("student", "median_certified_interval_decision_radius_over_kd")
    assert ratio["value"] == pytest.approx(3.0) and ratio["n"] == 4
