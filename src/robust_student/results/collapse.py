"""Does a model tell the classes apart at all? One class for everything, and no better than chance, on clean inputs."""

from collections.abc import Callable

from robust_student.results.class_measures import Confusion
from robust_student.results.masking import CHECKS, CheckName


def collapse_figures(confusion: Confusion) -> dict[CheckName, float]:
    """Figures for the verdict; none where the examples are of one class only, which proves nothing.

    `one_answer`: share of the examples of all other classes that get the most frequent answer. `chance_level`:
    (1 - low) / (1 - 1 / K), at most 1, with the lower end of the interval of the balanced accuracy on K classes.
    """
    sizes = [n for row in confusion.counts if (n := sum(row)) > 0]
    if len(sizes) < 2:
        return {}
    k, answered = _most_frequent(confusion)
    others = sum(sizes) - sum(confusion.counts[k])
    figures: dict[CheckName, float] = {"one_answer": (answered - confusion.counts[k][k]) / others}
    return figures | {"chance_level": min(1.0, (1 - confusion.balanced_accuracy().low) / (1 - 1 / len(sizes)))}


def collapse(confusion: Confusion, name: Callable[[int], str]) -> str | None:
    """In words what is wrong with a model that fails for one of these figures; None: nothing.

    Args:
        confusion: of clean inputs.
        name: of a class by its number.
    """
    figures = collapse_figures(confusion)
    failed = [figure for figure, value in figures.items() if CHECKS[figure].level(value) == "FAIL"]
    n = sum(map(sum, confusion.counts))
    if "one_answer" in failed:
        k, answered = _most_frequent(confusion)
        nearly = "" if answered == n else "nearly "
        answer = name(confusion.classes[k])
        return f"one class for {nearly}everything: the answer is '{answer}' for {answered:,} of {n:,} examples"
    if failed:
        value, low, high = (f"{100 * end:.1f}" for end in confusion.balanced_accuracy())
        chance = 100 / len(confusion.measures())
        return (
            f"no better than chance: balanced accuracy {value} % [{low}, {high}] on {n:,} examples, where one answer "
            f"for everything has {chance:.1f} %"
        )
    return None


def _most_frequent(confusion: Confusion) -> tuple[int, int]:
    """Which answer is given most often, by its place in `confusion.classes`, and how often."""
    answered = [sum(column) for column in zip(*confusion.counts, strict=True)]
    return max(enumerate(answered), key=lambda pair: pair[1])
