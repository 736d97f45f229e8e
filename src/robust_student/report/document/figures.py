"""Figures of the report as SVG text, drawn from saved records; the same inputs give the same bytes.

No name of a model or class is ever drawn: the page keys the lines by colour, dash and marker, in escaped HTML.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robust_student.results.calibration import Bin
from robust_student.results.perturbation import NORMS, Perturbation
from robust_student.results.radii import Bracket
from robust_student.results.records import find

Records = Sequence[Mapping[str, Any]]

INK, MUTED, RULE = "#1b1f24", "#59626d", "#d9dee4"
"""Text, secondary text, thin lines."""
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's colours, told apart by colour-blind readers; yellow is left out (too faint on white)."""
_DASHES = ((), (6.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0), (10.0, 3.0), (3.0, 3.0))
_MARKERS = {
    "o": "M14 1.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7z",
    "s": "M10.8 1.8h6.4v6.4h-6.4z",
    "^": "M14 1l4 7.4h-8z",
    "D": "M14 .6l4.4 4.4-4.4 4.4-4.4-4.4z",
    "v": "M14 9l4-7.4h-8z",
    "P": "M12.7 1h2.6v2.7H18v2.6h-2.7V9h-2.6V6.3H10V3.7h2.7z",
}
"""Markers as matplotlib names them, and as SVG paths in the 28 x 10 box of the page's key."""
QUANTILE = 0.98
"""Share of the finite radii that the axis of `radius_figure` covers."""
SIDES = {
    "certified": ("#0072B2", 2.0),
    "attack": ("#D55E00", 1.4),
    "sampled": ("#C27FAE", 1.2),
    "estimated": ("#8A94A0", 2.0),
}
"""Colour and width of each kind of radius, the same in every figure of certificates and in the page's key."""
BAND = "#FBE7C6"
"""Fill between what is certified and what an attack reached: the truth lies there."""
_FEW = 5
"""Examples that a bin of confidence must hold to be drawn in a reliability diagram."""
_CROWD = 400
"""Examples from which on a figure draws marks instead of a line where neighbours differ much."""

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robust-student",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Style:
    """How one line looks, in the figures and in the page's key."""

    color: str
    marker: str
    dash: tuple[float, ...] = ()
    width: float = 1.6

    @property
    def path(self) -> str:
        """The marker as an SVG path."""
        return _MARKERS[self.marker]

    @property
    def stroke(self) -> str:
        """The dash as SVG's `stroke-dasharray`."""
        return " ".join(f"{length:g}" for length in self.dash) or "none"


def model_style(position: int) -> Style:
    """The style of the model at this position, the same in every figure."""
    names = list(_MARKERS)
    return Style(_PALETTE[position % len(_PALETTE)], names[position % len(names)], _DASHES[position % len(_DASHES)])


def term_styles(names: Sequence[str], style: Style) -> dict[str, Style]:
    """Styles of several lines of one model: `selection` in the model's own, the others in shades of it or grey."""
    plain = [name for name in names if name != "selection"]
    markers = list(_MARKERS)
    color = MUTED if "selection" in names else style.color
    styles = {
        name: Style(color, markers[k % len(markers)], _DASHES[k % len(_DASHES)], 1.2) for k, name in enumerate(plain)
    }
    return styles | ({"selection": replace(style, dash=(), width=2.2)} if "selection" in names else {})


def noise_figure(records: Records, styles: Mapping[str, Style], name: str) -> str:
    """Accuracy over SNR, noisier to the right, with clean accuracy at the left edge."""
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("signal-to-noise ratio (dB), noisier to the right", "accuracy (%)")
        noise = (r["setting"] for r in records if r["perturbation"] == "gaussian_snr_db")
        settings = sorted({setting for setting in noise if setting is not None})
        step = (settings[-1] - settings[0]) / max(len(settings) - 1, 1) or 5.0
        clean = settings[-1] + step
        for model, style in styles.items():
            _curve(axes, find(records, model, "accuracy", "gaussian_snr_db"), style)
            _points(axes, [{**r, "setting": clean} for r in find(records, model, "accuracy")], style, style.marker, 5.0)
        axes.invert_xaxis()
        ticks = settings if len(settings) <= 8 else settings[:: math.ceil(len(settings) / 8)]
        axes.set_xticks([*ticks, clean], [*(f"{snr_db:g}".replace("-", "\u2212") for snr_db in ticks), "clean"])
        return _percent_svg(figure, axes, name)


def budget_figure(records: Records, styles: Mapping[str, Style], norm: str, limit: float, name: str) -> str:
    """Accuracy over the attack's budget: PGD as curves, AutoAttack as stars; budgets from `limit` on are left out."""
    with matplotlib.rc_context(_RC):
        figure, axes = _panel(f"budget ({NORMS.get(norm, norm)}, input units)", "accuracy (%)")
        pgd, autoattack = (str(Perturbation.attack(attack, norm)) for attack in ("pgd", "autoattack"))
        for model, style in styles.items():
            curve = find(records, model, "accuracy", pgd)
            _curve(axes, [record for record in curve if record["setting"] < limit], style)
            _points(axes, find(records, model, "accuracy", autoattack), style, "*", 13.0)
        axes.set_xlim(left=0)
        return _percent_svg(figure, axes, name)


def radius_figure(radii: Mapping[str, Sequence[float]], styles: Mapping[str, Style], norm: str, name: str) -> str:
    """Share of examples whose estimated radius is larger than r: one minus the empirical distribution function."""
    pooled = np.concatenate([np.asarray(values, dtype=float) for values in radii.values()])
    finite = pooled[np.isfinite(pooled)]
    edge = float(np.quantile(finite, QUANTILE)) if len(finite) else 0.0
    grid = np.linspace(0.0, edge or 1.0, 161)
    with matplotlib.rc_context(_RC):
        figure, axes = _panel(
            f"estimated radius r ({NORMS.get(norm, norm)}, input units)", "examples with a larger one (%)"
        )
        for model, values in radii.items():
            ordered = np.sort(np.asarray(values, dtype=float))
            share = 100 * (1 - np.searchsorted(ordered, grid, side="right") / max(len(ordered), 1))
            _line(axes, grid, share, styles[model], every=32)
        axes.set_xlim(0, grid[-1])
        return _percent_svg(figure, axes, name)


def epoch_figure(
    lines: Mapping[str, Sequence[float | None]],
    styles: Mapping[str, Style],
    epochs: Sequence[int],
    marked: int | None,
    name: str,
    *,
    accuracy: bool,
) -> str:
    """Loss terms or accuracies by epoch, with one epoch marked by a vertical line."""
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("epoch", "validation accuracy (%)" if accuracy else "loss term (mean per example)")
        for label, values in lines.items():
            y = np.asarray(values, dtype=float) * (100 if accuracy else 1)
            _line(axes, np.asarray(epochs), y, styles[label], every=max(1, len(epochs) // 6))
        if marked is not None:
            axes.axvline(marked, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if accuracy:
            return _percent_svg(figure, axes, name)
        axes.set_ylim(bottom=0)
        return _svg(figure, name)


def search_figure(
    tries: Sequence[tuple[float, float, bool]],
    chosen: int | None,
    baseline: tuple[float, float],
    limit: float,
    style: Style,
    name: str,
) -> str:
    """A search's tries (clean accuracy, selection score, accepted), numbered as in the table; NaN is not drawn.

    A ring marks the chosen one, a diamond the baseline, a vertical line the lowest clean accuracy allowed.
    """
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("validation accuracy, clean (%)", "selection score (%)")
        for k, (clean, selection, accepted) in enumerate(tries):
            if math.isnan(clean) or math.isnan(selection):
                continue
            x, y, color = 100 * clean, 100 * selection, style.color if accepted else MUTED
            axes.plot(x, y, "o", color=color, markerfacecolor=color if accepted else "white", markersize=6, zorder=3)
            if k == chosen:
                axes.plot(x, y, "o", color=INK, markerfacecolor="none", markersize=12, zorder=4)
            axes.annotate(str(k + 1), (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=8)
        axes.plot(100 * baseline[0], 100 * baseline[1], "D", color=INK, markersize=6)
        axes.axvline(100 * limit, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axes.margins(0.12, 0.16)
        return _svg(figure, name)


def reliability_figure(bins: Mapping[str, Sequence[Bin]], styles: Mapping[str, Style], name: str) -> str:
    """Accuracy over confidence, a point per bin of at least `_FEW` examples; a model on the diagonal is calibrated."""
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("confidence (%)", "accuracy (%)")
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        for model, bins_of_model in bins.items():
            full = [
                (100 * b.confidence, 100 * b.right / b.count)
                for b in bins_of_model
                if b.confidence is not None and b.count >= _FEW
            ]
            x, y = np.asarray(full, dtype=float).reshape(-1, 2).T
            _line(axes, x, y, styles[model])
        axes.set_xlim(-2, 102)
        return _percent_svg(figure, axes, name)


def confidence_figure(bins: Mapping[str, Sequence[Bin]], styles: Mapping[str, Style], name: str) -> str:
    """Share of examples over confidence, as steps."""
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("confidence (%)", "share of examples (%)")
        for model, bins_of_model in bins.items():
            edges = np.repeat(np.linspace(0, 100, len(bins_of_model) + 1), 2)[1:-1]
            heights = np.repeat([100 * b.count / max(sum(b.count for b in bins_of_model), 1) for b in bins_of_model], 2)
            style = styles[model]
            axes.plot(edges, heights, color=style.color, linewidth=style.width, dashes=style.dash or (None, None))
        axes.set_xlim(-2, 102)
        axes.set_ylim(bottom=0)
        return _svg(figure, name)


def sandwich_figure(brackets: Sequence[Bracket], norm: str, name: str) -> str:
    """Radii of every example in the order given: a band from the certified one to the attack's, marks for the others.

    The axis ends a little above where `QUANTILE` of the bounds lie; what is larger is drawn at its edge.
    """
    columns = dict(zip(Bracket._fields, np.asarray(brackets, dtype=float).T, strict=True))
    bounds = np.concatenate([columns["certified"], columns["attack"]])
    finite = bounds[np.isfinite(bounds)]
    edge = 1.15 * float(np.quantile(finite, QUANTILE)) if len(finite) else 0.0
    edge, count = edge or 1.0, len(brackets)
    ends = np.repeat(np.arange(count + 1) + 0.5, 2)[1:-1]
    heights = {side: np.repeat(np.minimum(values, edge), 2) for side, values in columns.items()}
    with matplotlib.rc_context(_RC):
        figure, axes = _panel("examples, by growing certified radius", f"radius ({NORMS.get(norm, norm)}, input units)")
        axes.fill_between(ends, heights["certified"], heights["attack"], color=BAND, linewidth=0)
        crowded, size = count >= _CROWD, 1.6 if count < 60 else 1.0 if count < _CROWD else 0.75
        for side, length in (("estimated", 0.0), ("sampled", max(0.7, count / 100))):
            color, width = SIDES[side]
            _marks(axes, np.minimum(columns[side], edge), length, color, width * size)
        if crowded:
            _marks(axes, np.minimum(columns["attack"], edge), count / 150, *SIDES["attack"])
        for side in ("certified",) if crowded else ("attack", "certified"):
            color, width = SIDES[side]
            axes.plot(ends, heights[side], color=color, linewidth=width if count < 60 or side == "certified" else 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(0.5, count + 0.5)
        axes.set_ylim(-0.02 * edge, 1.02 * edge)
        return _svg(figure, name)


def standing_figure(
    curves: Sequence[tuple[Style, Sequence[tuple[float, float, float]]]],
    grid: Sequence[float],
    budgets: Sequence[float],
    norm: str,
    title: str,
    name: str,
) -> str:
    """Shares of examples (value, low, high) over the radius with bands, and the budgets as dotted lines.

    Exactly two curves that are called certified and attack by their colours get the space between them filled.
    """
    x = np.asarray(grid)
    with matplotlib.rc_context(_RC):
        figure, axes = _panel(f"radius r ({NORMS.get(norm, norm)}, input units)", title)
        drawn = [(style, 100 * np.asarray(curve, dtype=float).T) for style, curve in curves]
        if [style.color for style, _ in drawn] == [SIDES["certified"][0], SIDES["attack"][0]]:
            axes.fill_between(x, drawn[0][1][0], drawn[1][1][0], color=BAND, linewidth=0)
        for style, (value, low, high) in drawn:
            axes.fill_between(x, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(x, value, color=style.color, linewidth=style.width, dashes=style.dash or (None, None))
        for budget in budgets:
            axes.axvline(budget, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.set_xlim(0, grid[-1])
        return _percent_svg(figure, axes, name)


def _panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False, axis="x")
    axes.tick_params(length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(xlabel)
    axes.set_title(ylabel, loc="left", fontsize=9)
    return figure, axes


def _column(records: Records, field: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A field of the records in percent; None becomes NaN."""
    return 100 * np.asarray([record[field] for record in records], dtype=np.float64)


def _curve(axes: Axes, records: Records, style: Style) -> None:
    if not records:
        return
    x = np.asarray([record["setting"] for record in records], dtype=np.float64)
    axes.fill_between(x, _column(records, "low"), _column(records, "high"), color=style.color, alpha=0.13, linewidth=0)
    _line(axes, x, _column(records, "value"), style)


def _points(axes: Axes, records: Records, style: Style, marker: str, size: float) -> None:
    """Single accuracies with their intervals as bars."""
    for record in records:
        if record["value"] is None:
            continue
        x, y = record["setting"], 100 * record["value"]
        if record["low"] is not None and record["high"] is not None:
            axes.plot([x, x], [100 * record["low"], 100 * record["high"]], color=style.color, linewidth=1.2, zorder=3)
        axes.plot(x, y, marker, color=style.color, markersize=size, markeredgecolor="white", zorder=4, clip_on=False)


def _line(axes: Axes, x: Any, y: Any, style: Style, every: int = 1) -> None:
    axes.plot(
        x,
        y,
        color=style.color,
        linewidth=style.width,
        dashes=style.dash or (None, None),
        marker=style.marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markevery=every,
    )


def _marks(axes: Axes, values: Any, length: float, color: str, width: float) -> None:
    """A dash (a dot, where the length is 0) at every example's value, all in one small path; NaN is not drawn."""
    measured = np.flatnonzero(~np.isnan(values))
    x = measured[:, None] + 1 + np.array([-0.5, 0.5, np.nan]) * (length or 1e-3)
    cap: Any = "butt" if length else "round"
    axes.plot(x.ravel(), np.repeat(values[measured], 3), color=color, linewidth=width, solid_capstyle=cap)


def _percent_svg(figure: Figure, axes: Axes, name: str) -> str:
    axes.set_ylim(-2, 102)
    axes.set_yticks([0, 25, 50, 75, 100])
    return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element: no metadata, style sheet or fixed size, and every id begins with `name`.

    Paths get two decimals of a point: a thousand examples stay a small file.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
