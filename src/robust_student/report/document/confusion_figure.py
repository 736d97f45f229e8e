"""A confusion matrix of many classes as SVG text: a square for every pair of true class and answer that occurs."""

import math

from robust_student.results.class_measures import Confusion

_SIDE, _MARGIN, _STEP = 480.0, 34.0, 11.0
"""Units of the drawing: side of the matrix, room for labels, least distance between two labels."""
_RIGHT, _WRONG = (0, 78, 140), (176, 58, 0)
"""Colours of a share of 1 on the diagonal and beside it; white is 0."""


def confusion_figure(confusion: Confusion) -> str:
    """Rows: true class, columns: answer; the darker, the larger the share of the true class's examples.

    Axes carry the numbers of the classes, every one where there is room; -1 is no answer.
    """
    count = len(confusion.classes)
    side = _SIDE / max(count, 1)
    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#d9dee4"/>',
        f'<text x="{_MARGIN}" y="9" font-size="10" fill="#59626d">answer →</text>',
        f'<text x="9" y="{_MARGIN}" font-size="10" fill="#59626d" transform="rotate(-90 9 {_MARGIN})" '
        'text-anchor="end">← true class</text>',
    ]
    for i, row in enumerate(confusion.counts):
        for j, examples in enumerate(row):
            if examples:
                color = _shade(_floor(examples / sum(row)), _RIGHT if i == j else _WRONG)
                x, y = _MARGIN + j * side, _MARGIN + i * side
                parts.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}" fill="{color}"/>')
    every = max(1, math.ceil(_STEP / side))
    size = min(10.0, 0.8 * side * every)
    widest = 0.65 * size * max((len(str(number)) for number in confusion.classes), default=1) + 2
    for step, down in ((max(1, math.ceil(widest / side)), False), (every, True)):
        for k in range(0, count, step):
            middle = _MARGIN + (k + 0.5) * side
            x, y = (_MARGIN - 4, middle + 0.35 * size) if down else (middle, _MARGIN - 4)
            parts.append(
                f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{"end" if down else "middle"}" font-size="{size:.1f}" '
                f'fill="#1b1f24">{confusion.classes[k]}</text>'
            )
    whole = _MARGIN + _SIDE + 2
    return f'<svg viewBox="0 0 {whole:g} {whole:g}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def _floor(share: float) -> float:
    """A share so far from 0 that a single confused example can be seen."""
    return 0.15 + 0.85 * share


def _shade(share: float, end: tuple[int, int, int]) -> str:
    red, green, blue = (round(255 + share * (target - 255)) for target in end)
    return f"rgb({red},{green},{blue})"
