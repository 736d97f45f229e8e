"""Each check of the masking verdict against models whose answer is known, and against rows written by hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import masking
import pytest
import torch
from reference import message_of, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Data
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.masking_verdict import masking_verdict
from robust_student.evaluation.settings import EvaluationSettings, MaskingSettings
from robust_student.evaluation.threats import Threats
from robust_student.results.intervals import mean_over_classes
from robust_student.results.masking import CHECKS, CheckName, Verdict
from robust_student.results.rows import ROWS, Row
from robust_student.runtime.files import read_jsonl

DATA = toy_data(train=30, test=60, noise=0.35)
RADIUS = 0.15
SETTINGS = EvaluationSettings(
    examples=None,
    attack_examples=40,
    snr_db=(),
    pgd_linf=(0.05, RADIUS),
    pgd_l2=(),
    pgd_steps=10,
    autoattack="none",
    autoattack_radius=RADIUS,
    masking=MaskingSettings(examples=30, steps=(1, 4, 12)),
    batch_size=16,
    device="cpu",
)


class Around(nn.Module):
    """A nearest-prototype classifier between two functions."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda z: z
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = prototype_classifier(DATA), before, after

    def forward(self, inputs: Tensor) -> Tensor:
        return self.after(self.inner(self.before(inputs)))


def verdict_of(
    output: Path, models: Mapping[str, nn.Module], settings: EvaluationSettings = SETTINGS, data: Data = DATA
) -> dict[str, Any]:
    """The verdict on the first of the models."""
    records = evaluate(models, data, settings, output=output)
    return next(dict(r.verdict) for r in records if r.verdict and r.model == next(iter(models)))


def rows_of(output: Path, **fields: Any) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(output / ROWS) if all(row[name] == value for name, value in fields.items())]


# Models whose answer is known -----------------------------------------------------------------------------------------


def test_a_linear_model_falls_exactly_where_its_radius_says(tmp_path: Path) -> None:
    """Closed form with two classes: min of the margin over the ball = m(x) - R ||w_y - w_j||_1, in one step or many."""
    data = replace(toy_data(train=30, test=60, noise=0.35, classes=2), input_range=UNBOUNDED)
    model = prototype_classifier(data)
    verdict = verdict_of(tmp_path / "out", {"m": model}, data=data)
    assert verdict["level"] == "PASS" and verdict["reasons"] == [] and verdict["fired"] == {}
    weight = next(model.parameters()).detach()
    rows = rows_of(tmp_path / "out", perturbation="masking_steps")
    fallen = 0
    for row in rows:
        example, y = data.test.subset(torch.tensor([row["index"]])), row["label"]
        logits = model(example.floats()).detach()[0]
        smallest = float(logits[y] - logits[1 - y]) - RADIUS * float((weight[y] - weight[1 - y]).abs().sum())
        assert row["correct"] is (smallest > 0)
        fallen += not row["correct"]
    assert 0 < fallen < len(rows)


@pytest.mark.parametrize(
    ("masked", "check", "level"),
    [
        (Around(before=lambda x: (4 * x).round() / 4), "zero_gradients", "FAIL"),
        (Around(before=lambda x: x.detach()), "zero_gradients", "FAIL"),
        (Around(before=masking.thermometer), "zero_gradients", "FAIL"),
        (Around(before=lambda x: (x - x.detach()).abs().sqrt() + x), "nan_gradients", "FAIL"),
        (Around(before=lambda x: x + 0.01 * torch.randn_like(x)), "random_outputs", "FAIL"),
        (Around(before=lambda x: 0.9 * x + 0.1 * x.mean(dim=0)), "batch_outputs", "FAIL"),
        (Around(before=nn.BatchNorm2d(1, track_running_stats=False)), "batch_outputs", "FAIL"),
        (Around(after=lambda z: z.softmax(dim=1)), "probability_outputs", "WARN"),
        (
            Around(before=lambda x: 0.5 + 0.3 * (x - 0.5).detach() - 0.3 * (x - x.detach())),
            "unbounded_accuracy",
            "FAIL",
        ),
        (Around(after=lambda z: 1e4 * z), "rescaled_only", "FAIL"),
        (Around(after=lambda z: 1e4 * z), "margin_only", "WARN"),
        (Around(before=lambda x: (4 * x).round() / 4), "transfer_only", "FAIL"),
    ],
)
def test_a_defect_is_found_by_its_check(masked: nn.Module, check: CheckName, level: str, tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path / "out", {"masked": masked, "plain": prototype_classifier(DATA)})
    assert verdict["fired"].get(check) == level
    assert verdict["level"] == ("FAIL" if "FAIL" in verdict["fired"].values() else "WARN")
    assert any(reason.endswith(CHECKS[check].words) for reason in verdict["reasons"])


@pytest.mark.parametrize("size", [1, 5, 250])
def test_outputs_that_depend_on_the_batch_are_found_whatever_its_size(size: int, tmp_path: Path) -> None:
    """With 5 the last of the 6 examples is in a batch of its own."""
    few = {"examples": 9, "attack_examples": 6, "masking": MaskingSettings(examples=6, steps=(1,))}
    settings = SETTINGS.model_copy(update=few | {"batch_size": size})
    coupled = Around(before=lambda x: x - 0.5 * x.mean(dim=0))
    verdict = verdict_of(tmp_path / "out", {"m": coupled}, settings)
    assert verdict["batch_outputs"] == 1 and verdict["fired"]["batch_outputs"] == "FAIL"
    assert "100.0% of the inputs get other logits alone than within their batch" in verdict["reasons"]


def test_rounding_and_missing_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Of each network the logits alone and in a batch differ in the last bits of bfloat16, or are NaN both times."""

    def rounded(z: Tensor) -> Tensor:
        return (z * (1 + len(z) * 1e-4)).bfloat16().float()

    for name, honest in {
        "rounded": Around(after=rounded),
        "silent": Around(after=lambda z: z.masked_fill(z[:, :1] > 0, float("nan"))),
        "normalised": nn.Sequential(nn.BatchNorm2d(1).eval(), prototype_classifier(DATA)),
    }.items():
        assert verdict_of(tmp_path / name, {"m": honest})["batch_outputs"] == 0


def test_random_outputs_are_not_blamed_on_the_batch(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path / "out", {"m": Around(before=lambda x: x + 0.1 * torch.randn_like(x))})
    assert verdict["batch_outputs"] is None and "random" in verdict["not_run"]["batch_outputs"]


def test_a_network_that_cannot_take_one_input_is_refused_at_once(tmp_path: Path) -> None:
    lonely = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3))
    message = message_of(lambda: verdict_of(tmp_path / "out", {"m": lonely}))
    assert "model 'm': fails on a single input" in message and not (tmp_path / "out").exists()


def test_logits_that_sum_to_one_are_not_probabilities(tmp_path: Path) -> None:
    centred = Around(after=lambda z: z - z.mean(dim=1, keepdim=True) + 1 / 3)
    assert verdict_of(tmp_path / "out", {"m": centred})["probability_outputs"] < 0.1
    log_probabilities = Around(after=lambda z: z.log_softmax(dim=1))
    assert verdict_of(tmp_path / "log", {"m": log_probabilities})["probability_outputs"] == 0


def test_transfer_attacks_change_points_as_far_as_the_budget_allows(tmp_path: Path) -> None:
    """On an identical surrogate the transferred points are at least as good as the model's own attack."""
    twins = {"m": prototype_classifier(DATA), "twin": prototype_classifier(DATA)}
    verdict_of(tmp_path / "out", twins)
    own = {row["index"]: row["correct"] for row in rows_of(tmp_path / "out", model="m", perturbation="masking_steps")}
    for row in rows_of(tmp_path / "out", model="m", perturbation="masking_transfer"):
        assert row["correct"] is own[row["index"]] or not row["correct"]
        assert row["detail"] == ("twin" if not row["correct"] and row["detail"] else None)


# Where a check cannot run ---------------------------------------------------------------------------------------------


def test_what_could_not_run_is_null_and_named(tmp_path: Path) -> None:
    table = replace(DATA, input_range=UNBOUNDED)
    alone = SETTINGS.model_copy(update={"pgd_linf": (RADIUS,), "masking": MaskingSettings(examples=5, steps=(4,))})
    verdict = verdict_of(tmp_path / "out", {"m": prototype_classifier(DATA)}, alone, table)
    assert set(verdict["not_run"]) == {
        *("unbounded_accuracy", "budget_rise", "step_rise", "one_step_lead"),
        *("square_only", "autoattack_only", "transfer_only"),
    }
    assert all(verdict[name] is None for name in verdict["not_run"])
    assert verdict["not_run"]["square_only"] == "AutoAttack was not run"


@pytest.mark.parametrize(("surrogates", "ran"), [(None, True), (("other",), True), (("m",), False), ((), False)])
def test_transfer_needs_another_model(surrogates: tuple[str, ...] | None, ran: bool, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"masking": MaskingSettings(examples=5, steps=(1, 2), surrogates=surrogates)})
    models = {"m": prototype_classifier(DATA), "other": prototype_classifier(DATA)}
    assert ("transfer_only" in verdict_of(tmp_path / "out", models, settings)["not_run"]) is not ran


def test_an_unknown_surrogate_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"masking": MaskingSettings(surrogates=("plan",))})
    message = message_of(lambda: verdict_of(tmp_path / "out", {"plain": prototype_classifier(DATA)}, settings))
    assert "'plan'" in message and "plain" in message and not (tmp_path / "out").exists()


# Options --------------------------------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {"examples": 7, "steps": (1, 2), "surrogates": ("sign",)}


def test_the_list_of_options_is_complete() -> None:
    assert set(OTHERS) == set(MaskingSettings.model_fields)


@pytest.mark.parametrize("option", sorted(OTHERS))
def test_every_option_changes_what_is_measured(option: str, tmp_path: Path) -> None:
    def measured(folder: str, masking: MaskingSettings) -> set[tuple[Any, ...]]:
        models = {
            "masked": Around(before=lambda x: (4 * x).round() / 4),
            "plain": prototype_classifier(DATA),
            "sign": Around(after=lambda z: -z),
        }
        evaluate(models, DATA, SETTINGS.model_copy(update={"masking": masking}), output=tmp_path / folder)
        rows = [row for row in rows_of(tmp_path / folder, model="masked") if row["perturbation"].startswith("masking_")]
        return {tuple(row.values()) for row in rows}

    usual = MaskingSettings(examples=8, steps=(1, 4))
    assert measured("other", usual.model_copy(update={option: OTHERS[option]})) != measured("usual", usual)


def test_the_checks_run_on_a_stratified_sample_and_are_no_results_of_their_own(tmp_path: Path) -> None:
    records = evaluate({"m": prototype_classifier(DATA)}, DATA, SETTINGS, output=tmp_path / "out")
    rows = rows_of(tmp_path / "out", perturbation="masking_gradient")
    labels = [row["label"] for row in rows]
    assert [labels.count(k) for k in range(3)] == [10, 10, 10]
    assert not any(record.perturbation.startswith("masking_") for record in records)


# Rows written by hand -------------------------------------------------------------------------------------------------

N = 10
Standing = dict[tuple[str, float | None], list[int]]
STANDING: Standing = {
    ("masking_gradient", None): list(range(N)),
    ("masking_repetition", None): list(range(N)),
    ("masking_alone", None): list(range(N)),
    ("masking_outputs", None): list(range(N)),
    ("masking_steps", 1.0): [0, 1, 2, 3],
    ("masking_steps", 4.0): [0, 1, 2, 3, 6],
    ("masking_steps", 12.0): [0, 1, 2, 6, 7],
    ("masking_cross_entropy", 12.0): [0, 1, 2, 6, 7, 8],
    ("masking_rescaled", 12.0): [0, 1, 2, 6],
    ("masking_transfer", 12.0): [2, 3],
    ("masking_budgets_linf", 0.05): [0, 1, 2],
    ("pgd_linf", 0.05): [0, 1, 2, 6],
    ("pgd_linf", RADIUS): [0, 1, 2, 6],
    ("pgd_linf", 1.0): [0],
    ("autoattack_linf", RADIUS): [0],
}
"""Which of the ten examples are right in each cell."""


def by_hand(
    square: tuple[int, ...] = (1,), settings: EvaluationSettings = SETTINGS, more: Standing | None = None
) -> Verdict:
    groups: dict[tuple[str, float | None], dict[int, Row]] = {}
    for (kind, setting), standing in (STANDING | (more or {})).items():
        rows = {}
        for i in range(N):
            detail = None
            if kind == "masking_square":
                detail = "none" if i in standing else "square"
            if kind == "autoattack_linf":
                has_square = settings.autoattack != "screening"
                detail = "none" if i in standing else "square" if has_square and i in square else "apgd-t"
            rows[i] = Row("m", kind, setting, i, 0, 0 if i in standing else 1, i in standing, None, detail)
        groups[kind, setting] = rows
    for i in (4, 5):
        groups["masking_alone", None][i] = replace(groups["masking_alone", None][i], detail="different")
    groups["none", None] = {i: Row("m", "none", None, i, i % 2, i % 2 if i else 1, i > 0) for i in range(N)}
    groups["masking_gradient", None][3] = replace(groups["masking_gradient", None][3], detail="zero")
    return masking_verdict(groups, Threats.of(DATA, settings), settings)


def test_the_shares_are_those_counted_by_hand() -> None:
    assert by_hand().figures == {
        "zero_gradients": 0.1,  # 3
        "nan_gradients": 0,
        "random_outputs": 0,
        "batch_outputs": 0.2,  # 4 and 5
        "probability_outputs": 0,
        "unbounded_accuracy": 0.1,  # 0
        "budget_rise": 0.1,  # linf: from three to four, where each of the ten was attacked at 0.05
        "step_rise": 0.1,  # from four right to five
        "one_step_lead": 0.1,
        "square_only": 0.1,  # 1
        "transfer_only": 0.2,  # 0 and 1, of which only Square broke one
        "autoattack_only": 0.4,  # 1, 2, 6, 7
        "margin_only": 0.1,  # 8
        "rescaled_only": 0.2,  # 7, 8
        "one_answer": 0.2,  # 0 of 0, 2, 4, 6, 8
        "chance_level": pytest.approx(2 * (1 - mean_over_classes([4, 5], [5, 5]).low)),
    }
    assert by_hand(square=()).figures["transfer_only"] == 0.1  # 0: a white-box attack broke 1


def test_where_every_budget_is_attacked_the_curves_show_whether_accuracy_comes_back() -> None:
    every = SETTINGS.model_copy(update={"every_budget": True, "pgd_l2": (0.1, 0.2)})
    l2: Standing = {("pgd_l2", 0.1): [0], ("pgd_l2", 0.2): [2, 3, 4]}
    assert by_hand(settings=every, more=l2).figures["budget_rise"] == 0.2  # from one right to three


def test_a_verdict_counts_the_examples_of_each_check() -> None:
    examples = by_hand().examples
    assert set(examples) == set(CHECKS) and set(examples.values()) == {N}


def test_smaller_budgets_are_attacked_directly_on_the_examples_of_the_checks(tmp_path: Path) -> None:
    """As they are on all examples where every budget is attacked."""
    settings = SETTINGS.model_copy(update={"pgd_linf": (0.05, 0.1, 0.12, RADIUS), "pgd_l2": (0.3, 0.6)})
    models = {"m": Around(before=lambda x: x + 0.2 * (20 * x).sin())}
    verdict_of(tmp_path / "few", models, settings)
    verdict_of(tmp_path / "every", models, settings.model_copy(update={"every_budget": True}))
    for norm, budgets in {"linf": [0.1], "l2": [0.3]}.items():
        checked = rows_of(tmp_path / "few", perturbation=f"masking_budgets_{norm}")
        assert sorted({row["setting"] for row in checked}) == budgets and len(checked) == 30 * len(budgets)
        direct = {(r["setting"], r["index"]): r for r in rows_of(tmp_path / "every", perturbation=f"pgd_{norm}")}
        assert all(row["correct"] is direct[row["setting"], row["index"]]["correct"] for row in checked)
    assert not [row for row in rows_of(tmp_path / "every") if row["perturbation"].startswith("masking_budgets")]


def test_with_screening_square_is_a_check_on_a_few_examples(tmp_path: Path) -> None:
    """Gradients of zero stop every attack but Square, which gets what a short PGD leaves."""
    settings = SETTINGS.model_copy(update={"autoattack": "screening", "masking": MaskingSettings(examples=12)})
    masked = {"m": Around(before=lambda x: (4 * x).round() / 4)}
    verdict = verdict_of(tmp_path / "out", masked, settings)
    rows = rows_of(tmp_path / "out", perturbation="masking_square")
    attacked = {row["index"]: row for row in rows_of(tmp_path / "out", perturbation="autoattack_linf")}
    assert len(rows) == 12 and len(attacked) == 40
    assert {row["detail"] for row in attacked.values()} <= {"clean", "apgd-ce", "apgd-margin", "none"}
    alone = [row for row in rows if row["detail"] == "square" and attacked[row["index"]]["correct"]]
    assert verdict["square_only"] == pytest.approx(len(alone) / 12) and verdict["fired"]["square_only"] == "FAIL"
    assert verdict["examples"]["square_only"] == verdict["examples"]["autoattack_only"] == 12


@pytest.mark.parametrize("tier", ["fast", "standard", "none"])
def test_square_is_no_check_of_its_own_elsewhere(tier: str, tmp_path: Path) -> None:
    few = {"attack_examples": 3, "masking": MaskingSettings(examples=3, steps=(1,)), "autoattack_radius": 0.3}
    settings = SETTINGS.model_copy(update=few | {"autoattack": tier})
    verdict = verdict_of(tmp_path / "out", {"m": prototype_classifier(DATA)}, settings)
    assert not rows_of(tmp_path / "out", perturbation="masking_square")
    assert ("square_only" in verdict["not_run"]) is (tier == "none")


def test_square_as_a_check_counts_by_hand() -> None:
    """Ten examples; 0 holds under AutoAttack without Square. Square breaks 0 and 1, of which AutoAttack had 1 too."""
    groups: Standing = {("masking_square", RADIUS): [i for i in range(N) if i > 1]}
    verdict = by_hand(settings=SETTINGS.model_copy(update={"autoattack": "screening"}), more=groups)
    assert verdict.figures["square_only"] == 0.1
    assert verdict.figures["autoattack_only"] == 0.5  # 0, 1, 2, 6, 7
    assert verdict.figures["transfer_only"] == 0.1  # 0, which only Square broke beside the transfer
