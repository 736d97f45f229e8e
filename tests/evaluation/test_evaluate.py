"""What is measured on which examples, what a row says, what is refused."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import assert_state, message_of, prototype_classifier, state_of
from torch import Tensor, nn
from toy_evaluation import ATTACKED, DATA, FAST, models, rows_of, run

from robust_student.data.readers.load import load_data
from robust_student.evaluation.settings import EvaluationSettings
from robust_student.models.model import as_model
from robust_student.results.rows import EVALUATION
from robust_student.runtime.files import read_json


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
        ("masking_alone", None): 9,
        ("masking_outputs", None): 9,
        ("masking_steps", 1.0): 9,
        ("masking_steps", 4.0): 9,
        ("masking_cross_entropy", 4.0): 9,
        ("masking_rescaled", 4.0): 9,
        ("masking_budgets_linf", 0.05): 9,
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
