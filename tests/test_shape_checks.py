"""The checks of types and shapes during tests: the first calls in a test, then every fiftieth."""

import jaxtyping
import pytest
import shape_checks
import torch

from robust_student.core.margins import margins

LOGITS = torch.zeros(3, 2)
REFUSED = jaxtyping.TypeCheckError


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(REFUSED, match="margins"):
        margins(LOGITS, torch.tensor([0, 1]))  # three examples, two labels


def test_later_calls_are_checked_now_and_then() -> None:
    shape_checks.begin()
    for _ in range(shape_checks.FIRST):
        margins(LOGITS, torch.tensor([0, 1, 0]))
    caught = 0
    for _ in range(2 * shape_checks.LATER):
        try:
            margins(LOGITS, torch.tensor([[0, 1, 0]]))
        except REFUSED:
            caught += 1
        except (RuntimeError, IndexError):
            pass  # torch's own complaint
    assert caught >= 2
