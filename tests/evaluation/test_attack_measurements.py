"""A new attack is one row of the table: rows, records and a masking verdict follow by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from reference import message_of, prototype_classifier
from torch import Tensor, nn
from toy_evaluation import DATA, FAST, Curved, rows_of, run

from robust_student.attacks.attack import Attack
from robust_student.attacks.table import ATTACKS, Options, attacks_named
from robust_student.core.rng import example_seeds
from robust_student.core.threat_model import ThreatModel
from robust_student.report.write import write_report

BUDGET = FAST.model_copy(update={"autoattack_radius": 0.3, "examples": 15, "attack_examples": 8})


@dataclass(frozen=True)
class Toy(Attack):
    """Jumps far along the sign of the gradient, whatever the budget."""

    @property
    def name(self) -> str:
        return "toy"

    def propose(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel, seeds: Sequence[int]
    ) -> Tensor:
        points = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(points), labels), points)
        return inputs + 100 * gradient.sign()


def test_a_new_attack_is_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "toy", lambda _: [Toy()])
    model = prototype_classifier(DATA)
    settings = BUDGET.model_copy(update={"attacks": ("toy",)})
    records = run(tmp_path / "out", settings, subjects={"m": model})
    rows = {row["index"]: row for row in rows_of(tmp_path / "out", perturbation="toy_linf", setting=0.3)}
    examples = DATA.test.subset(torch.tensor(list(rows)))
    inputs, labels = examples.floats(), examples.labels
    far = Toy().propose(model, inputs, labels, ThreatModel.on(DATA, "linf", 0.3), range(len(rows)))
    inside = (inputs + (far - inputs).clamp(-0.3, 0.3)).clamp(0.0, 1.0)  # the grader's ball, not the attack's
    expected = (model(inside).argmax(dim=1) == labels) & (model(inputs).argmax(dim=1) == labels)
    assert len(rows) == 8 and [row["correct"] for row in rows.values()] == expected.tolist()
    (accuracy,) = [r for r in records if r["perturbation"] == "toy_linf" and r["metric"] == "accuracy"]
    assert accuracy["value"] == pytest.approx(expected.double().mean().item()) and accuracy["unit"] == "linf"
    assert accuracy["verdict"] is not None and accuracy["verdict"]["level"] in ("PASS", "WARN", "FAIL")


def test_it_stands_in_two_tables_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that CONTRIBUTING names."""
    monkeypatch.setitem(ATTACKS, "toy", lambda _: [Toy()])
    settings = BUDGET.model_copy(update={"attacks": ("toy",)})
    model = prototype_classifier(DATA)
    run(tmp_path / "out", settings, subjects={"kd": model, "m": model})
    write_report(tmp_path / "out", tmp_path / "report.md", style="markdown")
    sections = (tmp_path / "report.md").read_text().split("\n## ")
    named = [section.splitlines()[0] for section in sections if "| toy, L∞ 0.3 |" in section]
    assert named == ["Accuracy under attack", "Paired differences"]


def test_attacks_never_grade_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point far outside the ball is forced back into it: a budget of next to nothing breaks nothing."""
    monkeypatch.setitem(ATTACKS, "pgd", lambda _: [Toy()])
    settings = FAST.model_copy(update={"pgd_linf": (1e-6,), "pgd_l2": (1e-6,)})
    run(tmp_path / "out", settings, subjects={"m": prototype_classifier(DATA)})
    clean = {row["index"]: row["correct"] for row in rows_of(tmp_path / "out", perturbation="none")}
    graded = [row for row in rows_of(tmp_path / "out") if row["setting"] == 1e-6]
    assert len(graded) == 24 and all(row["correct"] == clean[row["index"]] for row in graded)


def test_attacks_that_come_together_each_get_what_the_ones_before_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Second(Toy):
        @property
        def name(self) -> str:
            return "second"

        def propose(
            self, network: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel, seeds: Sequence[int]
        ) -> Tensor:
            seen.extend(seeds)
            return inputs

    monkeypatch.setitem(ATTACKS, "both", lambda _: [Toy(), Second()])
    run(tmp_path / "out", BUDGET.model_copy(update={"attacks": ("both",)}), subjects={"m": Curved()})
    rows = rows_of(tmp_path / "out", perturbation="both_linf")
    left = [row["index"] for row in rows if row["detail"] == "none"]
    assert {row["detail"] for row in rows} <= {"clean", "toy", "none"} and seen == example_seeds(BUDGET.seed, left)
    assert all(row["correct"] == (row["detail"] == "none") for row in rows)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_of_the_table_proposes_points_from_the_examples_own_seeds(name: str) -> None:
    threat, model = ThreatModel.on(DATA, "l2", 0.8), Curved()
    examples = DATA.test.subset(torch.arange(6))
    inputs, labels = examples.floats().double(), examples.labels
    model = model.double()
    for attack in attacks_named(name, Options(classes=3, steps=5, tier="fast"), threat):
        points = attack.propose(model, inputs, labels, threat, range(6))
        assert points.shape == inputs.shape and not points.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        if name not in ("ddn", "fmn", "deepfool"):  # these work in units of the batch
            torch.testing.assert_close(attack.propose(model, inputs[4:], labels[4:], threat, [4, 5]), points[4:])


def test_attacks_that_cannot_run_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for attack, words in (("sqare", "did you mean 'square'?"), ("ddn", "'ddn' serves l2, not linf")):
        settings = BUDGET.model_copy(update={"attacks": (attack,)})
        assert words in message_of(lambda s=settings: run(tmp_path / "out", s))  # type: ignore[misc]
    assert not (tmp_path / "out").exists()


def test_a_further_attack_that_runs_anyway_is_measured_once(tmp_path: Path) -> None:
    settings = BUDGET.model_copy(update={"attacks": ("pgd",), "pgd_linf": (0.3,)})
    run(tmp_path / "out", settings, subjects={"m": prototype_classifier(DATA)})
    assert len(rows_of(tmp_path / "out", perturbation="pgd_linf", setting=0.3)) == 8


WIDE = FAST.model_copy(update={"pgd_linf": (0.3, 0.02, 0.12, 0.06), "pgd_l2": (0.2, 0.9, 0.5), "pgd_steps": 3})


def test_what_holds_at_a_budget_is_taken_to_hold_at_smaller_ones_and_the_rest_is_attacked_there(tmp_path: Path) -> None:
    """The rows of every budget attacked by itself say what must come out: right where it holds there or beyond."""
    subjects = {"m": Curved()}
    run(tmp_path / "few", WIDE, subjects=subjects)
    run(tmp_path / "every", WIDE.model_copy(update={"every_budget": True}), subjects=subjects)
    for name, budgets in (("pgd_linf", WIDE.pgd_linf), ("pgd_l2", WIDE.pgd_l2)):
        every = {(row["index"], row["setting"]): row for row in rows_of(tmp_path / "every", perturbation=name)}
        rows = [row for row in rows_of(tmp_path / "few", perturbation=name) if row["setting"] < 1]
        assert budgets is not None and len(rows) == 12 * len(budgets)
        for row in rows:
            holds = [b for b in budgets if b >= row["setting"] and every[row["index"], b]["correct"]]
            assert row["correct"] is bool(holds)
            if not holds:
                assert row["prediction"] == every[row["index"], row["setting"]]["prediction"]
        assert {row["correct"] for row in rows} == {True, False}


@dataclass(frozen=True)
class Watched(Toy):
    """Notes which examples it is given, and at which budget."""

    given: list[tuple[float, int]]

    def propose(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel, seeds: Sequence[int]
    ) -> Tensor:
        self.given.extend((threat.budget, seed) for seed in seeds)
        return super().propose(network, inputs, labels, threat, seeds)


def test_only_what_is_right_and_not_yet_known_to_hold_is_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[float, int]] = []
    monkeypatch.setitem(ATTACKS, "pgd", lambda _: [Watched(given)])
    run(tmp_path / "out", WIDE.model_copy(update={"pgd_l2": ()}), subjects={"m": Curved()})
    indices = {row["index"] for row in rows_of(tmp_path / "out", perturbation="pgd_linf")}
    right = {r["index"] for r in rows_of(tmp_path / "out", perturbation="none") if r["correct"]} & indices
    fell = {(r["setting"], r["index"]) for r in rows_of(tmp_path / "out", perturbation="pgd_linf") if not r["correct"]}
    expected = {(0.3, index) for index in right}
    for larger, budget in ((0.3, 0.12), (0.12, 0.06), (0.06, 0.02)):
        expected |= {(budget, index) for index in right if (larger, index) in fell}
    asked = [(budget, seed) for budget, seed in given if budget < 1]
    assert len(right) < len(indices) and sorted(asked) == sorted((b, example_seeds(0, [i])[0]) for b, i in expected)
