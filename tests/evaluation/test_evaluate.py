import base64
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Silent, affine, assert_state, message_of, prototype_classifier, state_of, toy_data
from torch import Tensor, nn

from robust_student.bounds.estimated import estimated_confidence_radius, estimated_decision_radius
from robust_student.cli.terminal import headline
from robust_student.core.norms import Norm
from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Data, Examples, load_data
from robust_student.evaluation import measurements, row_store
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.row_store import Shard
from robust_student.evaluation.settings import EvaluationSettings, MaskingSettings
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import save
from robust_student.report.write import write_report
from robust_student.results.breakdown import breakdown
from robust_student.results.intervals import median, paired_difference, wilson
from robust_student.results.rows import BREAKDOWN, EVALUATION, GALLERY, ROWS, SUMMARY, Row, group
from robust_student.runtime.files import append_jsonl, read_json, read_jsonl

Records = list[dict[str, Any]]
Models = Mapping[str, Model | nn.Module]
DATA = toy_data(train=60, test=45, noise=0.35)
FAST = EvaluationSettings(
    examples=30,
    attack_examples=12,
    snr_db=(3.0, -3.0),
    pgd_linf=(0.05, 0.1),
    pgd_l2=(0.3,),
    pgd_steps=6,
    autoattack="none",
    masking=MaskingSettings(examples=9, steps=(1, 4)),
    batch_size=7,
    device="cpu",
)
ATTACKED = FAST.model_copy(update={"autoattack": "fast", "attack_examples": 8, "autoattack_radius": 0.4})


class Curved(nn.Module):
    """A nearest-prototype classifier through a saturating layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((3 * (inputs - 0.5)).sin() / 3 + 0.5)


def models() -> dict[str, Model | nn.Module]:
    """A teacher, a plain student, and one that is a little different from both."""
    generator = torch.Generator().manual_seed(4)
    good = prototype_classifier(DATA)
    blurred = affine(4 * torch.randn((3, 16), generator=generator))
    return {"teacher": as_model(good, DATA), "kd": Curved(), "new": blurred}


def run(
    output: Path,
    settings: EvaluationSettings = FAST,
    data: Data = DATA,
    subjects: Models | None = None,
    shard: Shard | None = None,
) -> Records:
    return evaluate(models() if subjects is None else subjects, data, settings, output=output, shard=shard)


def rows_of(output: Path, **wanted: Any) -> list[dict[str, Any]]:
    """Rows of the evaluation that have these entries."""
    return [row for row in read_jsonl(output / ROWS) if all(row[name] == value for name, value in wanted.items())]


def lines_of(output: Path) -> set[str]:
    return set((output / ROWS).read_text().splitlines())


def timeless(records: Records) -> Records:
    return [record for record in records if record["metric"] != "latency"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete evaluation without AutoAttack."""
    output = tmp_path_factory.mktemp("finished") / "evaluation"
    run(output)
    return output


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete evaluation with AutoAttack."""
    output = tmp_path_factory.mktemp("attacked") / "evaluation"
    run(output, ATTACKED)
    return output


# Rows -----------------------------------------------------------------------------------------------------------------


def test_every_perturbation_is_measured_on_its_number_of_examples_once(finished: Path) -> None:
    counts = Counter((row["model"], row["perturbation"], row["setting"]) for row in rows_of(finished))
    per_model = {
        ("none", None): 30,
        ("gaussian_snr_db", 3.0): 30,
        ("gaussian_snr_db", -3.0): 30,
        ("pgd_linf", 0.05): 12,
        ("pgd_linf", 0.1): 12,
        ("pgd_linf", 1.0): 9,
        ("pgd_l2", 0.3): 12,
        ("estimated_decision_radius_linf", None): 12,
        ("estimated_decision_radius_l2", None): 12,
        ("estimated_confidence_radius_linf", None): 12,
        ("estimated_confidence_radius_l2", None): 12,
        ("masking_gradient", None): 9,
        ("masking_repetition", None): 9,
        ("masking_outputs", None): 9,
        ("masking_steps", 1.0): 9,
        ("masking_steps", 4.0): 9,
        ("masking_cross_entropy", 4.0): 9,
        ("masking_rescaled", 4.0): 9,
        ("masking_transfer", 4.0): 9,
    }
    assert counts == {(name, *cell): n for name in models() for cell, n in per_model.items()}


def test_all_models_are_measured_on_the_same_examples_and_the_attacked_ones_are_among_them(finished: Path) -> None:
    indices = defaultdict[str, set[tuple[int, ...]]](set)
    for name in models():
        for perturbation in ("none", "pgd_l2"):
            indices[perturbation].add(
                tuple(row["index"] for row in rows_of(finished, model=name, perturbation=perturbation))
            )
    ((sample,), (front,)) = indices["none"], indices["pgd_l2"]
    assert len(set(sample)) == 30 and sample[:12] == front
    labels = DATA.test.labels
    assert Counter(labels[list(sample)].tolist()) == {0: 10, 1: 10, 2: 10}
    assert Counter(labels[list(front)].tolist()) == {0: 4, 1: 4, 2: 4}


def test_rows_hold_the_true_label_the_models_own_prediction_and_whether_they_agree(finished: Path) -> None:
    for name, model in models().items():
        for row in rows_of(finished, model=name, perturbation="none"):
            example = DATA.test.subset(torch.tensor([row["index"]]))
            assert row["label"] == int(example.labels) and row["value"] is None and row["detail"] is None
            assert row["prediction"] == int(model(example.floats()).argmax())
            assert row["correct"] is (row["label"] == row["prediction"])


def assert_never_above_clean(output: Path, kind: str) -> None:
    clean = {(row["model"], row["index"]): row for row in rows_of(output, perturbation="none")}
    attacks = [row for row in rows_of(output) if row["perturbation"].startswith(kind)]
    wrong = [row for row in attacks if not clean[row["model"], row["index"]]["correct"]]
    assert attacks and wrong
    for row in attacks:
        assert row["correct"] is (row["label"] == row["prediction"])
    for row in wrong:
        assert not row["correct"] and row["prediction"] == clean[row["model"], row["index"]]["prediction"]


def test_what_is_wrong_without_perturbation_counts_as_broken_by_pgd(finished: Path) -> None:
    assert_never_above_clean(finished, "pgd_")


def test_what_is_wrong_without_perturbation_counts_as_broken_by_autoattack(attacked: Path) -> None:
    assert_never_above_clean(attacked, "autoattack_")


def test_autoattack_rows_name_the_attack_that_broke_the_example_first(attacked: Path) -> None:
    clean = {(row["model"], row["index"]): row["correct"] for row in rows_of(attacked, perturbation="none")}
    found = rows_of(attacked, perturbation="autoattack_linf", setting=0.4)
    assert len(found) == 3 * 8
    for row in found:
        if not clean[row["model"], row["index"]]:
            assert row["detail"] == "clean"
        else:
            assert row["detail"] in ({"none"} if row["correct"] else {"apgd-ce", "square"})
    assert {"clean", "apgd-ce"} <= {row["detail"] for row in found}


def test_attacks_never_grade_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheat(network: nn.Module, inputs: Tensor, labels: Tensor, **_: Any) -> Tensor:
        """Leaves the ball for a far corner where the true class loses."""
        return inputs + 100 * (
            next(network.parameters())[(labels + 1) % 3] - next(network.parameters())[labels]
        ).view_as(inputs)

    def tiny(*arguments: Any, **options: Any) -> Tensor:
        with torch.no_grad():
            return cheat(*arguments, **options)

    monkeypatch.setattr(measurements, "pgd", tiny)
    settings = FAST.model_copy(update={"pgd_linf": (1e-6,), "pgd_l2": (1e-6,)})
    run(tmp_path / "out", settings, subjects={"m": prototype_classifier(DATA)})
    clean = {row["index"]: row["correct"] for row in rows_of(tmp_path / "out", perturbation="none")}
    graded = [row for row in rows_of(tmp_path / "out") if row["setting"] == 1e-6]
    assert len(graded) == 24 and all(row["correct"] == clean[row["index"]] for row in graded)


def test_estimated_radii_are_those_of_the_bounds(finished: Path) -> None:
    everyone = models()
    for name, model in everyone.items():
        for norm_name in ("linf", "l2"):
            for kind in ("decision", "confidence"):
                found = rows_of(finished, model=name, perturbation=f"estimated_{kind}_radius_{norm_name}")
                examples = DATA.test.subset(torch.tensor([row["index"] for row in found]))
                points = examples.floats().requires_grad_()
                logits, norm = model(points), Norm.named(norm_name)
                if kind == "decision":
                    radii = estimated_decision_radius(logits, points, examples.labels, norm)
                else:
                    guide = everyone["teacher"](examples.floats())
                    radii = estimated_confidence_radius(logits, points, examples.labels, guide, norm)
                # The teacher against itself is 0 up to the rounding of logits in batches of another size.
                assert [row["value"] for row in found] == pytest.approx(radii.tolist(), rel=1e-4, abs=1e-6)
                assert [row["correct"] for row in found] == logits.argmax(dim=1).eq(examples.labels).tolist()


def test_infinite_radii_are_stored_without_a_number(tmp_path: Path) -> None:
    flat = affine(torch.zeros(3, 16), torch.tensor([1.0, 0.0, 0.0]))
    records = run(tmp_path / "out", subjects={"flat": flat})
    found = rows_of(tmp_path / "out", perturbation="estimated_decision_radius_l2")
    assert {(row["label"] == 0, row["value"], row["detail"]) for row in found} == {
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


# Summary --------------------------------------------------------------------------------------------------------------


def test_the_summary_can_be_recomputed_from_the_rows(attacked: Path) -> None:
    answers = defaultdict[tuple[str, str, float | None], dict[int, Any]](dict)
    for row in read_jsonl(attacked / ROWS):
        answers[row["model"], row["perturbation"], row["setting"]][row["index"]] = row
    checked = 0
    for record in read_json(attacked / SUMMARY):
        cell = answers.get((record["model"], record["perturbation"], record["setting"]), {})
        right = {index: row["correct"] for index, row in cell.items() if row["correct"] is not None}
        if record["metric"] == "accuracy":
            expected: tuple[float | None, ...] = wilson(sum(right.values()), len(right))
        elif record["metric"] == "accuracy_minus_kd":
            base = answers["kd", record["perturbation"], record["setting"]]
            expected = paired_difference(list(right.values()), [base[index]["correct"] for index in right])
        elif record["metric"] == "mean_realised_snr_db":
            expected = (float(np.mean([row["value"] for row in cell.values()])), None, None)
        elif record["metric"].startswith("median_"):
            cell = answers[record["model"], record["metric"].removeprefix("median_"), None]
            radii = [math.inf if row["detail"] == "infinite" else row["value"] for row in cell.values()]
            expected = median(radii)
        else:
            continue
        checked += 1
        finite = [None if number is None or not math.isfinite(number) else number for number in expected]
        assert [record["value"], record["low"], record["high"]] == pytest.approx(finite), record
        assert record["n"] == len(cell)
    assert checked == 3 * (1 + 4 + 4 + 1 + 4) + 2 * 8


def test_what_is_returned_is_what_is_written(tmp_path: Path) -> None:
    records = run(tmp_path / "out", subjects={"m": models()["kd"]})
    assert read_json(tmp_path / "out" / SUMMARY) == records


def test_costs_are_those_of_the_saved_model(finished: Path, tmp_path: Path) -> None:
    records = read_json(finished / SUMMARY)
    cost = {r["metric"]: r["value"] for r in records if r["model"] == "new" and r["unit"] in ("count", "bytes", "ms")}
    save(as_model(models()["new"], DATA), tmp_path)
    assert cost.pop("latency") > 0
    assert cost == {"parameters": 51, "macs": 48, "file_size": (tmp_path / "model.safetensors").stat().st_size}


@pytest.mark.parametrize(("asked", "used"), [(None, "kd"), ("new", "new")])
def test_the_baseline_is_kd_unless_told_otherwise(asked: str | None, used: str, tmp_path: Path) -> None:
    records = run(tmp_path / "out", FAST.model_copy(update={"baseline": asked}))
    compared = {(r["model"], r["metric"]) for r in records if r["metric"].startswith("accuracy_minus")}
    assert compared == {(name, f"accuracy_minus_{used}") for name in models() if name != used}
    assert read_json(tmp_path / "out" / EVALUATION)["baseline"] == used


def test_without_kd_nothing_is_compared(tmp_path: Path) -> None:
    records = run(tmp_path / "out", subjects={"m": models()["kd"]})
    assert not any(record["metric"].startswith("accuracy_minus") for record in records)


def test_an_unknown_baseline_or_no_model_at_all_is_refused(tmp_path: Path) -> None:
    wrong = FAST.model_copy(update={"baseline": "kdd"})
    message = message_of(lambda: run(tmp_path / "out", wrong))
    assert "'kdd'" in message and "teacher, kd, new" in message
    message_of(lambda: run(tmp_path / "out", subjects={}))
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_data_is_refused_by_name(tmp_path: Path) -> None:
    other = as_model("linear", replace(DATA, classes=("a", "b", "c")))
    assert "model 'mine'" in message_of(lambda: run(tmp_path / "out", subjects={"mine": other}))


def test_the_details_say_what_was_measured(attacked: Path) -> None:
    details = read_json(attacked / EVALUATION)
    assert details["autoattack_suite"] == "fast-few-classes" and details["classes"] == list(DATA.classes)
    assert details["sample"] == {"test": 45, "examples": 30, "attacked": 8}
    assert set(details["models"]) == set(models())
    assert EvaluationSettings.parse(details["provenance"]["settings"]) == ATTACKED


def test_the_headline_has_one_line_per_model(attacked: Path) -> None:
    lines = headline(read_json(attacked / SUMMARY))
    assert [line["model"] for line in lines] == ["teacher", "kd", "new"]
    assert all(line["clean"]["perturbation"] == "none" and line["autoattack"]["setting"] == 0.4 for line in lines)
    assert all(abs(line["noise"]["setting"]) == 3 for line in lines) and lines[2]["parameters"] == 51


def test_the_headline_does_without_noise_and_attack(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"snr_db": ()})
    (line,) = headline(run(tmp_path / "out", settings, subjects={"m": models()["kd"]}))
    assert line["noise"] is None and line["autoattack"] is None and line["clean"]["n"] == 30


def test_models_are_left_with_the_weights_they_had(tmp_path: Path) -> None:
    model = as_model("resnet8:2", DATA).train()
    before = state_of(model)
    run(tmp_path / "out", subjects={"m": model})
    assert_state(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_evaluation_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    subjects = {"m": models()["kd"]}
    before = torch.get_rng_state()
    run(tmp_path / "out", ATTACKED, subjects=subjects)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_linear_classifier_of_the_digits_is_measured(tmp_path: Path) -> None:
    digits = load_data("digits")
    settings = EvaluationSettings(examples=60, attack_examples=10, pgd_steps=5, autoattack="none", device="cpu")
    records = run(tmp_path / "out", settings, digits, {"m": prototype_classifier(digits)})
    accuracy = {(r["perturbation"], r["setting"]): r["value"] for r in records if r["metric"] == "accuracy"}
    assert accuracy["none", None] > 0.8 and accuracy["pgd_linf", 1.0] == 0
    assert [setting for kind, setting in accuracy if kind == "pgd_linf"] == [0.025, 0.05, 0.1, 0.15, 0.2, 1.0]
    assert [setting for kind, setting in accuracy if kind == "pgd_l2"] == [0.06, 0.12, 0.24, 0.36, 0.48]


# Masking --------------------------------------------------------------------------------------------------------------


class Rounded(nn.Module):
    """Hides its gradient by rounding its inputs to quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((4 * inputs).round() / 4)


def verdicts(records: Records) -> dict[str, Any]:
    """The only verdict among the adversarial accuracies of a model."""
    found = [
        r["verdict"] for r in records if r["metric"] == "accuracy" and r["perturbation"].startswith(("pgd", "auto"))
    ]
    assert len(found) >= 2 and all(verdict == found[0] for verdict in found)
    verdict: dict[str, Any] = found[0]
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
        measurements.require_possible_budgets(DATA, settings)
        more = settings.model_copy(update={"autoattack_radius": 1.01 * whole})
        assert f"({norm}, at most {whole:g})" in message_of(partial(run, tmp_path / "out", more))
    assert not (tmp_path / "out").exists()


# Gallery --------------------------------------------------------------------------------------------------------------


def test_the_gallery_shows_test_images_with_every_models_prediction(finished: Path) -> None:
    gallery = [entry for entry in read_json(finished / GALLERY) if "levels" in entry]
    subjects = models()
    assert len(gallery) == 6
    for entry in gallery:
        example = DATA.test.subset(torch.tensor([entry["index"]]))
        assert entry["label"] == int(example.labels)
        assert [level["snr_db"] for level in entry["levels"]] == [None, 10, 0, -5]
        clean = entry["levels"][0]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(clean["png"]))))
        assert np.array_equal(pixels, (255 * example.floats()[0, 0]).round().numpy())
        for name, model in subjects.items():
            confidence, prediction = model(example.floats()).softmax(dim=1).max(dim=1)
            shown = clean["predictions"][name]
            assert shown["prediction"] == int(prediction)
            assert shown["confidence"] == pytest.approx(float(confidence.detach()), abs=1e-4)


def test_the_worst_attacked_examples_are_the_surest_ones_that_pgd_broke(finished: Path) -> None:
    worst = [entry for entry in read_json(finished / GALLERY) if "attack" in entry]
    default = Norm.named("linf").default_radius(DATA.input_range, DATA.shape)
    radius = min((0.05, 0.1), key=lambda budget: abs(budget - default))
    subjects = models()
    for name, model in subjects.items():
        clean = {row["index"]: row for row in rows_of(finished, model=name, perturbation="none")}
        attacked = rows_of(finished, model=name, perturbation="pgd_linf", setting=radius)
        broken = {row["index"] for row in attacked if clean[row["index"]]["correct"] and not row["correct"]}
        mine = [entry for entry in worst if entry["attack"]["model"] == name]
        surest = sorted(broken, key=lambda index: -clean[index]["confidence"])[:3]
        assert [entry["index"] for entry in mine] == surest
        for entry in mine:
            assert entry["attack"]["setting"] == radius and entry["attack"]["perturbation"] == "pgd_linf"
            pictures = [
                np.asarray(Image.open(io.BytesIO(base64.b64decode(entry[part]["png"]))), dtype=float) / 255
                for part in ("original", "perturbed", "change")
            ]
            change = pictures[1] - pictures[0]
            assert 0 < abs(change).max() <= radius + 1 / 255
            magnified = 0.5 + entry["attack"]["magnified"] * change
            assert abs(magnified - pictures[2]).max() <= (entry["attack"]["magnified"] + 1) / 255
            assert entry["perturbed"]["predictions"][name]["prediction"] != entry["label"]
            assert set(entry["original"]["predictions"]) == set(subjects)
            example = DATA.test.subset(torch.tensor([entry["index"]]))
            assert entry["original"]["predictions"][name]["prediction"] == int(model(example.floats()).argmax())
    assert worst


def test_the_breakdown_is_that_of_the_rows(finished: Path) -> None:
    rows = group(Row(**row) for row in read_jsonl(finished / ROWS))
    assert read_json(finished / BREAKDOWN) == breakdown(rows)


@pytest.mark.parametrize(("shape", "shown"), [((5,), False), ((2, 4, 4), False), ((3, 4, 4), True)])
def test_only_images_have_a_gallery(shape: tuple[int, ...], shown: bool, tmp_path: Path) -> None:
    data = toy_data(shape=shape)
    run(tmp_path / "out", data=data, subjects={"m": prototype_classifier(data)})
    assert (tmp_path / "out" / GALLERY).exists() is shown


# Interruption ---------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt(output: Path, after: int, monkeypatch: pytest.MonkeyPatch, settings: EvaluationSettings = FAST) -> None:
    """Run until some batches are written."""
    written, original = [0], append_jsonl

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        if written[0] == after:
            raise Interrupted
        original(path, rows)
        written[0] += 1

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "append_jsonl", append)
        with pytest.raises(Interrupted):
            run(output, settings)


@pytest.mark.parametrize("after", [0, 1, 9, 40])
def test_an_interrupted_evaluation_goes_on_to_the_same_result(
    after: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", after, monkeypatch)
    assert not (tmp_path / "out" / SUMMARY).exists()
    records = run(tmp_path / "out")
    assert lines_of(tmp_path / "out") == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def test_an_interrupted_autoattack_goes_on_to_the_same_result(
    attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 60, monkeypatch, ATTACKED)
    assert timeless(run(tmp_path / "out", ATTACKED)) == timeless(read_json(attacked / SUMMARY))
    assert lines_of(tmp_path / "out") == lines_of(attacked)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "out", 20, monkeypatch)
    before = (tmp_path / "out" / ROWS).read_bytes()
    run(tmp_path / "out")
    assert (tmp_path / "out" / ROWS).read_bytes().startswith(before)


@pytest.mark.parametrize("cut", [1, 2, 30, 200])
def test_a_last_line_that_was_cut_is_repaired(
    cut: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 9, monkeypatch)
    rows = tmp_path / "out" / ROWS
    rows.write_bytes(rows.read_bytes()[:-cut])
    records = run(tmp_path / "out")
    assert rows.read_bytes().count(b"\n") == (finished / ROWS).read_bytes().count(b"\n")
    assert lines_of(tmp_path / "out") == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def shuffled(network: nn.Module) -> nn.Module:
    """The same numbers in another order: another model."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.flip(0))
    return network


OTHER_RUNS: dict[str, tuple[str, Callable[[Path], Records]]] = {
    "settings": ("settings.pgd_steps: 6 there, 7 here", lambda out: run(out, FAST.model_copy(update={"pgd_steps": 7}))),
    "seed": ("settings.seed: 0 there, 1 here", lambda out: run(out, FAST.model_copy(update={"seed": 1}))),
    "fewer models": ("models.teacher: ", lambda out: run(out, subjects={"kd": models()["kd"]})),
    "weights": ("models.new: ", lambda out: run(out, subjects=models() | {"new": affine(torch.ones(3, 16))})),
    "weights in another order": ("models.kd: ", lambda out: run(out, subjects=models() | {"kd": shuffled(Curved())})),
    "negated weights": (
        "models.new: ",
        lambda out: run(out, subjects=models() | {"new": affine(-next(models()["new"].parameters()))}),
    ),
    "test inputs": (
        "test: ",
        lambda out: run(out, data=replace(DATA, test=Examples(1 - DATA.test.inputs, DATA.test.labels))),
    ),
    "test labels": (
        "test: ",
        lambda out: run(out, data=replace(DATA, test=Examples(DATA.test.inputs, DATA.test.labels.flip(0)))),
    ),
}
"""What is another evaluation -> the difference that is named, and its run."""


@pytest.mark.parametrize("what", sorted(OTHER_RUNS))
def test_the_beginning_of_another_evaluation_is_refused_with_the_difference_and_left_alone(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path / "out", 5, monkeypatch)
    before, (named, again) = snapshot(tmp_path / "out"), OTHER_RUNS[what]
    message = message_of(lambda: again(tmp_path / "out"))
    assert str(tmp_path / "out") in message and f"({named}" in message
    assert snapshot(tmp_path / "out") == before


class Helped(nn.Module):
    """A classifier whose forward calls a function that belongs to somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.softsign(self.inner(inputs))


def test_changed_code_that_a_network_calls_is_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the weights nor the file of the network's class change."""
    subjects = {"helped": Helped(), "kd": Curved()}
    assert run(tmp_path / "out", subjects=subjects, shard=Shard(0, 2)) == []
    before = snapshot(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "softsign", torch.tanh)
        message = message_of(lambda: run(tmp_path / "out", subjects=subjects, shard=Shard(1, 2)))
    assert "(probe.helped: the same weights give other logits" in message
    assert snapshot(tmp_path / "out") == before
    assert run(tmp_path / "out", subjects=subjects, shard=Shard(1, 2)) == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"fingerprint": 3}'])
def test_a_record_that_says_nothing_is_of_another_evaluation(content: str, tmp_path: Path) -> None:
    (tmp_path / EVALUATION).write_text(content)
    assert "(everything)" in message_of(lambda: run(tmp_path))


def test_a_finished_evaluation_is_refused_and_left_alone(finished: Path) -> None:
    before = snapshot(finished)
    assert "holds a finished run" in message_of(lambda: run(finished))
    assert snapshot(finished) == before


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_in_any_order_add_up_to_the_evaluation_of_one_process(
    count: int, attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, measured = tmp_path / "out", list[int]()
    original = append_jsonl

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        original(path, rows)
        measured.append(len(rows))

    monkeypatch.setattr(row_store, "append_jsonl", append)
    for index in reversed(range(count)):
        assert run(output, ATTACKED, shard=Shard(index, count)) == []
        assert not (output / SUMMARY).exists() and not (output / ROWS).exists()
    assert sum(measured) == len(lines_of(attacked))
    records = run(output, ATTACKED)
    assert sum(measured) == len(lines_of(attacked))  # nothing was left to measure
    assert lines_of(output) == lines_of(attacked) and not list(output.glob("rows-*"))
    assert timeless(records) == timeless(read_json(attacked / SUMMARY))


def test_what_a_shard_has_not_measured_is_measured_at_the_end(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(output, shard=Shard(1, 3))
    part = output / "rows-1-of-3.jsonl"
    part.write_bytes(part.read_bytes()[:-40])  # killed in the middle of a line
    records = run(output)
    assert lines_of(output) == lines_of(finished)
    assert timeless(records) == timeless(read_json(finished / SUMMARY))


def test_a_shard_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "out", shard=Shard(0, 2))
    other = FAST.model_copy(update={"seed": 1})
    assert "other models, data or settings" in message_of(lambda: run(tmp_path / "out", other, shard=Shard(1, 2)))


def test_a_shard_is_written_as_index_and_count() -> None:
    assert Shard.parse("3/4") == Shard(3, 4)
    for text in ("4/4", "a/b", "1", "-1/2", "0/0", "1/2/3"):
        assert text in message_of(lambda text=text: Shard.parse(text))  # type: ignore[misc]


# Certificates spare attacks ------------------------------------------------------------------------------------------


def test_certified_examples_are_spared_and_counted_and_stand_anyway(tmp_path: Path) -> None:
    settings = ATTACKED.model_copy(update={"autoattack_radius": 0.05, "autoattack": "standard"})
    subjects: dict[str, Model | nn.Module] = {"kd": prototype_classifier(DATA)}
    run(tmp_path / "all", settings, subjects=subjects)
    run(tmp_path / "spared", settings.model_copy(update={"skip_certified": True}), subjects=subjects)
    usual, spared = (
        {
            row["index"]: row
            for row in map(json.loads, lines_of(tmp_path / name))
            if row["perturbation"].startswith("autoattack")
        }
        for name in ("all", "spared")
    )
    skipped = [index for index, row in spared.items() if row["detail"] == "certified"]
    assert skipped and all(usual[index]["correct"] for index in skipped)
    assert all(row["correct"] == spared[index]["correct"] for index, row in usual.items())
    assert read_json(tmp_path / "spared" / EVALUATION)["skipped_certified"] == {"kd": len(skipped)}
    assert read_json(tmp_path / "all" / EVALUATION)["skipped_certified"] is None


# Every option matters -------------------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "examples": 29,
    "attack_examples": 6,
    "snr_db": (3.0, -4.0),
    "noises": ("uniform", "impulse"),
    "pgd_linf": (0.05, 0.2),
    "pgd_l2": (0.5,),
    "pgd_steps": 1,
    "autoattack": "none",
    "autoattack_norm": "l2",
    "autoattack_radius": 0.05,
    "masking": MaskingSettings(examples=5, steps=(1, 4)),
    "baseline": "teacher",
    "teacher": "new",
    "seed": 1,
}


def test_the_list_of_options_is_complete() -> None:
    assert set(OTHERS) == set(EvaluationSettings.model_fields) - {
        "batch_size",
        "device",
        "skip_certified",
        "corruptions",
    }


@pytest.mark.parametrize("option", sorted(name for name in OTHERS if not name.startswith("autoattack")))
def test_every_option_changes_the_result(option: str, finished: Path, tmp_path: Path) -> None:
    records = run(tmp_path / "out", FAST.model_copy(update={option: OTHERS[option]}))
    assert timeless(records) != timeless(read_json(finished / SUMMARY))


@pytest.mark.parametrize("option", sorted(name for name in OTHERS if name.startswith("autoattack")))
def test_every_option_of_autoattack_changes_what_it_finds(option: str, attacked: Path, tmp_path: Path) -> None:
    def found(records: Records) -> Records:
        mine = [r for r in records if r["model"] == "kd" and r["perturbation"].startswith("autoattack")]
        return [{name: value for name, value in record.items() if name != "verdict"} for record in mine]

    records = run(
        tmp_path / "out", ATTACKED.model_copy(update={option: OTHERS[option]}), subjects={"kd": models()["kd"]}
    )
    usual = found(read_json(attacked / SUMMARY))
    assert found(records) != usual and found(run(tmp_path / "usual", ATTACKED, subjects={"kd": Curved()})) == usual


@pytest.mark.parametrize("size", [2, 1000])
def test_the_batch_size_changes_nothing_outside_autoattack(size: int, finished: Path, tmp_path: Path) -> None:
    records = timeless(run(tmp_path / "out", FAST.model_copy(update={"batch_size": size})))
    expected = timeless(read_json(finished / SUMMARY))
    names = ("model", "perturbation", "setting", "metric", "n")
    assert [[r[name] for name in names] for r in records] == [[r[name] for name in names] for r in expected]
    assert [r["value"] for r in records] == pytest.approx([r["value"] for r in expected], rel=1e-4)
    noise = {"perturbation": "gaussian_snr_db"}
    scores = ("confidence", "nll", "brier")
    found, usual = (
        sorted(rows_of(folder, **noise), key=lambda row: (row["model"], row["setting"], row["index"]))
        for folder in (tmp_path / "out", finished)
    )
    for mine, its in zip(found, usual, strict=True):
        assert {k: v for k, v in mine.items() if k not in scores} == {k: v for k, v in its.items() if k not in scores}
        assert [mine[k] for k in scores] == pytest.approx([its[k] for k in scores], rel=1e-3)


def test_no_answer_is_never_right_and_the_evaluation_ends(tmp_path: Path) -> None:
    brightness = DATA.test.floats().mean(dim=(1, 2, 3))
    above = float(brightness.median())
    records = run(tmp_path / "out", ATTACKED, subjects={"m": Silent(DATA, above), "kd": prototype_classifier(DATA)})
    rows = rows_of(tmp_path / "out", model="m", perturbation="none")
    silent = {row["index"] for row in rows if brightness[row["index"]] > above}
    assert {row["index"] for row in rows if row["prediction"] == -1} == silent
    assert 0 in DATA.test.labels[list(silent)]  # the class that argmax takes for the largest of NaN
    attacks = [row for row in rows_of(tmp_path / "out", model="m") if row["perturbation"][:3] in ("pgd", "aut")]
    assert not any(row["correct"] for row in [*rows, *attacks] if row["index"] in silent)
    (clean,) = [r for r in records if (r["model"], r["metric"], r["perturbation"]) == ("m", "accuracy", "none")]
    assert clean["value"] <= 1 - len(silent) / len(rows)
    said = [
        level["predictions"]["m"]
        for entry in read_json(tmp_path / "out" / GALLERY)
        for level in entry.get("levels", [])[:1]
        if entry["index"] in silent
    ]
    assert said and all(answer == {"prediction": -1, "confidence": None} for answer in said)
    write_report([tmp_path / "out"], tmp_path / "out" / "report.html")
    assert "no answer (NaN)" in (tmp_path / "out" / "report.html").read_text()


class Halved(nn.Module):
    """Rounds its own logits to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs).bfloat16()


def test_logits_in_half_precision_are_measured(tmp_path: Path) -> None:
    records = run(tmp_path / "out", ATTACKED, subjects={"m": Halved(), "kd": prototype_classifier(DATA)})
    clean = {r["model"]: r["value"] for r in records if (r["metric"], r["perturbation"]) == ("accuracy", "none")}
    assert clean["m"] == pytest.approx(clean["kd"], abs=0.1)
