"""Figures: bounded in size, keyed by kind, to scale."""

import math
import re

import pytest

from robust_student.report.document import figures
from robust_student.results.radii import Bracket


def test_figures_are_bounded_and_keyed_by_kind() -> None:
    ends = [(0.0, math.nan, math.inf, 0.0), (0.1, 0.2, 0.3, 0.4), (0.2, 0.1, 0.1, math.inf)]
    wide = [Bracket(*radii) for radii in ends]
    svg = figures.sandwich_figure(wide, "linf", "x")
    assert all(color.lower() in svg.lower() for color, _ in figures.SIDES.values()) and figures.BAND.lower() in svg
    assert "nan" not in svg and "inf" not in svg.replace("L∞", "")
    x = [float(value) for value in re.findall(r"[ML] ([\d.-]+) [\d.-]+", svg)]
    assert max(x) < 340 and min(x) > -10
    many = [Bracket(k / 1000, math.nan, 0.5, 0.1 + k / 1000) for k in range(1000)]
    crowd = figures.sandwich_figure(many, "l2", "x")
    assert len(crowd) < 200_000 and crowd == figures.sandwich_figure(many, "l2", "x")
    only = figures.sandwich_figure([Bracket(0.1, math.nan, math.nan, math.nan)], "l1", "x")
    assert "nan" not in only


def test_a_figure_of_shares_draws_them_to_scale() -> None:
    style = figures.model_style(0)
    curve = [(1.0, 0.9, 1.0), (0.5, 0.4, 0.6), (0.0, 0.0, 0.1)]
    svg = figures.standing_figure([(style, curve)], [0.0, 0.1, 0.2], [0.1], "linf", "share", "x")
    line = next(d for d in re.findall(r'd="([^"]+)"', svg) if len(d.split()) == 9 and d.startswith("M"))
    x, y = ([float(word) for word in line.replace("M", "").replace("L", "").split()[k::2]] for k in (0, 1))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.05) and y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.05)
    assert y[0] < y[2]
