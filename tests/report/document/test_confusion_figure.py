"""The drawing of a confusion matrix."""

import re

from robust_student.report.document.confusion_figure import confusion_figure
from robust_student.results.class_measures import Confusion


def test_every_pair_that_occurs_has_its_square_and_its_colour() -> None:
    drawn = confusion_figure(Confusion((-1, 0, 1), ((0, 0, 0), (0, 3, 1), (2, 0, 2))))
    squares = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="160.00" height="160.00" fill="rgb\((.*?)\)"', drawn)
    assert [(x, y) for x, y, _ in squares] == [
        ("194.00", "194.00"),
        ("354.00", "194.00"),
        ("34.00", "354.00"),
        ("354.00", "354.00"),
    ]
    right, wrong, silent, half = ([int(part) for part in color.split(",")] for *_, color in squares)
    assert right[2] > right[0] and half[2] > half[0]  # blue
    assert wrong[0] > wrong[2] and silent[0] > silent[2]  # red
    assert sum(silent) < sum(wrong) and sum(right) < sum(half)  # 1/2 is darker than 1/4, 3/4 than 1/2
    assert [drawn.count(f">{label}</text>") for label in (-1, 0, 1)] == [2, 2, 2]


def test_labels_do_not_overlap_however_many_classes_there_are() -> None:
    for count in (13, 43, 200, 1000):
        confusion = Confusion(
            tuple(range(count)), tuple(tuple(int(i == j) for j in range(count)) for i in range(count))
        )
        drawn = confusion_figure(confusion)
        labels = re.findall(
            r'x="([\d.]+)" y="30.00" text-anchor="middle" font-size="([\d.]+)" fill="#1b1f24">(\d+)<', drawn
        )
        ends = [(float(x) - 0.3 * float(s) * len(t), float(x) + 0.3 * float(s) * len(t)) for x, s, t in labels]
        assert all(end < start for (_, end), (start, _) in zip(ends, ends[1:], strict=False)) and len(ends) > 5
        assert all(float(s) >= 6 for _, s, _ in labels)
