"""What a model answers class by class: confusion matrix, recall, precision, F1, and accuracy balanced over classes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from robust_student.results.intervals import Estimate, mean_over_classes, wilson
from robust_student.results.rows import Row

_EVEN = 1.5
"""Classes are unbalanced where the largest has more than this many times the examples of the smallest."""


@dataclass(frozen=True)
class ClassMeasures:
    """How one class fares."""

    label: int
    n: int
    """Examples of it."""
    answered: int
    """Examples, of any class, for which it is the answer."""
    recall: Estimate
    """Share of its examples that are decided rightly: the accuracy of the class. Wilson interval."""
    precision: Estimate
    """Share of the answers that name it rightly, with its Wilson interval; NaN where it is never the answer."""
    f1: float
    """2 TP / (2 TP + FP + FN), in [0, 1]; no interval."""


@dataclass(frozen=True)
class Confusion:
    """How often each answer is given to the examples of each true class."""

    classes: tuple[int, ...]
    """Numbers of the classes that are a label or an answer, growing; -1 is no answer (NaN logits)."""
    counts: tuple[tuple[int, ...], ...]
    """Examples by true class (row) and answer (column), both in the order of `classes`."""

    @classmethod
    def of(cls, rows: Mapping[int, Row]) -> "Confusion":
        """From the rows of one cell; excluded examples are left out."""
        pairs = Counter((row.label, row.prediction) for row in rows.values() if row.correct is not None)
        classes = tuple(sorted({number for pair in pairs for number in pair}))
        return cls(classes, tuple(tuple(pairs[label, answer] for answer in classes) for label in classes))

    def measures(self) -> list[ClassMeasures]:
        """Recall, precision and F1 of every class that has examples."""
        measures = []
        for k, label in enumerate(self.classes):
            n, answered, right = sum(self.counts[k]), sum(row[k] for row in self.counts), self.counts[k][k]
            if n > 0:
                f1 = 2 * right / (n + answered)  # FN = n - right, FP = answered - right
                measures.append(ClassMeasures(label, n, answered, wilson(right, n), wilson(right, answered), f1))
        return measures

    def balanced_accuracy(self) -> Estimate:
        """Mean of the recalls of the classes that have examples, with its interval (`mean_over_classes`)."""
        sizes = [(sum(row), row[k]) for k, row in enumerate(self.counts) if sum(row) > 0]
        return mean_over_classes([right for _, right in sizes], [n for n, _ in sizes])

    @property
    def unbalanced(self) -> bool:
        """Whether the largest class has more than 1.5 times the examples of the smallest."""
        sizes = [n for row in self.counts if (n := sum(row)) > 0]
        return bool(sizes) and max(sizes) > _EVEN * min(sizes)

    @property
    def sparse(self) -> list[list[int]]:
        """[true class, answer, examples] wherever there are examples."""
        return [
            [label, answer, count]
            for label, row in zip(self.classes, self.counts, strict=True)
            for answer, count in zip(self.classes, row, strict=True)
            if count > 0
        ]
