"""Radii of an example from both sides, and shares beyond a budget."""

import math

import pytest

from robust_student.results.intervals import wilson
from robust_student.results.radii import Bracket, brackets, certified_agreement, radii_by_kind, share_beyond
from robust_student.results.rows import Row


def test_share_beyond_counts() -> None:
    radii = [0.0, 0.0, 0.1, 0.1, 0.3, math.inf]
    grid = [0.0, 0.05, 0.1, 0.2, 0.3, 5.0]
    for certified in (True, False):
        curve = share_beyond(radii, grid, certified=certified)
        for r, estimate in zip(grid, curve, strict=True):
            held = [radius >= r and radius > 0 if certified else radius > r for radius in radii]
            assert estimate == wilson(sum(held), len(held))
    assert [e.value * 6 for e in share_beyond(radii, grid, certified=True)] == pytest.approx([4, 4, 4, 2, 2, 1])
    assert [e.value * 6 for e in share_beyond(radii, grid, certified=False)] == pytest.approx([4, 4, 2, 2, 1, 1])


def radii(kind: str, values: dict[int, float]) -> tuple[tuple[str, float | None], dict[int, Row]]:
    return (kind, None), {k: Row("kd", kind, None, k, 0, 0, True, value=value) for k, value in values.items()}


def test_radii_lose_the_norm_asked_for_and_the_best_certified_ones_stand_beside_them() -> None:
    first, second, sampled, other = {1: 0.1, 2: 0.4, 3: 0.2}, {3: 0.3, 2: 0.1}, {1: 0.5}, {1: 0.6}
    rows_of_model = dict(
        [
            radii("certified_interval_decision_radius_linf", first),
            radii("certified_linear_decision_radius_linf", second),
            radii("certified_linear_confidence_radius_l2", other),
            radii("certified_smoothed_radius_linf", other),
            radii("sampled_decision_radius_linf", sampled),
            radii("pgd_linf", sampled),
        ]
    )
    assert radii_by_kind(rows_of_model, "linf") == {
        "certified_interval_decision_radius": first,
        "certified_linear_decision_radius": second,
        "certified_linear_confidence_radius_l2": other,
        "certified_smoothed_radius": other,
        "sampled_decision_radius": sampled,
        "certified_decision_radius": {2: 0.4, 3: 0.3},
    }
    apart = dict([radii(f"certified_{name}_decision_radius_linf", {k: 0.1}) for k, name in enumerate(("a", "b"))])
    assert "certified_decision_radius" not in radii_by_kind(apart, "linf")


def test_brackets_hold_examples_with_both_bounds_in_order() -> None:
    columns = {
        "certified_decision_radius": {3: 0.2, 1: 0.1, 2: 0.1, 9: 0.0},
        "attack_decision_radius": {1: 0.3, 2: 0.2, 3: 0.1, 5: 0.4},
        "estimated_decision_radius": {1: 0.25},
        "certified_confidence_radius": {4: 0.5},
    }
    made = brackets(columns, "decision")
    assert list(made) == [2, 1, 3] and made[1][:1] + made[1][2:] == (0.1, 0.25, 0.3) and math.isnan(made[1].sampled)
    assert [bracket.violated for bracket in made.values()] == [False, False, True]
    alone = brackets(columns, "confidence")[4]
    assert alone.certified == 0.5 and math.isnan(alone.attack) and not alone.violated
    assert brackets({}, "decision") == {}
    assert not Bracket(0.1, 0.0, 0.0, 0.1 * (1 - 1e-7)).violated  # the same radius, rounded otherwise


def test_certified_agreement_needs_both_on_the_same_examples() -> None:
    radii, theirs = {1: 0.2, 2: 0.2, 3: 0.05, 4: 0.3}, {1: 0.1, 2: 0.05, 3: 0.3, 9: 0.4}
    assert certified_agreement(radii, theirs, 0.1) == (wilson(1, 3), 3)
    assert certified_agreement(radii, {9: 0.1}, 0.1) is None
