"""How inputs that are unlike the training set are told."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robust_student.models.familiarity import Familiarity, familiarity


def test_it_is_the_largest_logit_above_their_mean() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert familiarity(logits).tolist() == pytest.approx([2.0, 0.0])


@given(st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(shift: float) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(familiarity(logits + shift), familiarity(logits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [200, 1000])
def test_one_validation_example_in_twenty_counts_as_unlike(count: int) -> None:
    logits = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    known = Familiarity.of(logits)
    assert known is not None and known.examples == count
    assert int(known.unlike(logits).sum()) == count // 20


def test_answers_of_nan_are_left_out_and_are_not_called_unlike() -> None:
    logits = torch.tensor([[5.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
    known = Familiarity.of(logits)
    assert known is not None and (known.threshold, known.examples) == (2.5, 1)
    assert known.unlike(torch.tensor([[0.0, 0.0], [math.nan, 0.0], [9.0, 0.0]])).tolist() == [True, False, False]
    assert Familiarity.of(logits[1:2]) is None
