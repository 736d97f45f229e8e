"""Counter-based random numbers: distribution, independence, and what they do not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robust_student.core.rng import ExampleRng, normal, seed_generators, step_seed, uniform

NUMBERS = torch.arange(200)


def lowbias32(value: int) -> int:
    """The published hash, in Python integers."""
    value ^= value >> 16
    value = value * 0x7FEB352D % 2**32
    value ^= value >> 15
    value = value * 0x846CA68B % 2**32
    return value ^ (value >> 16)


def test_an_element_is_the_documented_hash_of_its_counters() -> None:
    seed, step, example, turn, element = 2**40 + 17, 12345, 2**33 + 5, 1, 6
    draws = ExampleRng(seed, step, torch.tensor([example]))
    draws.uniform((1, 3))
    value = draws.uniform((1, 10))[0, element]
    base = lowbias32((lowbias32(seed % 2**32) + lowbias32(seed >> 32) + step * 0x9E3779B9) % 2**32)
    first = lowbias32((example % 2**32 + base) % 2**32)
    second = lowbias32((lowbias32((first + 0x9E3779B9) % 2**32) + (example >> 32)) % 2**32)
    hashed_turn = lowbias32((turn * 0x85EBCA6B + 1) % 2**32)
    column = lowbias32((element * 0xC2B2AE35 + hashed_turn) % 2**32)
    bits = lowbias32(((column ^ first) + second) % 2**32)
    assert float(value) == (bits >> 8) / 2**24


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_have_the_distribution_they_should_have(seed: int) -> None:
    draws = ExampleRng(seed, 7, NUMBERS)
    flat, bell = draws.uniform((200, 500)), draws.normal((200, 500))
    assert stats.kstest(flat.numpy().ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(bell.numpy().ravel(), "norm").pvalue > 1e-3
    assert float(flat.min()) >= 0 and float(flat.max()) < 1


def test_examples_elements_steps_and_turns_are_not_correlated() -> None:
    draws = ExampleRng(0, 1, NUMBERS)
    first, second, later = (d.uniform((200, 500)).numpy() for d in (draws, draws, ExampleRng(0, 2, NUMBERS)))
    limit = 5.5 / np.sqrt(500)
    rows = np.corrcoef(np.concatenate([first, second, later]))
    assert np.abs(rows[~np.eye(len(rows), dtype=bool)]).max() < limit
    columns = np.corrcoef(first.T)
    assert np.abs(columns[~np.eye(500, dtype=bool)]).max() < 5.5 / np.sqrt(200)
    for lag in (1, 2, 3, 28, 32):
        assert abs(np.corrcoef(first[:, lag:].ravel(), first[:, :-lag].ravel())[0, 1]) < 5 / np.sqrt(first.size)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True), st.integers(0, 2**63), st.integers(1, 99))
def test_an_example_gets_the_same_numbers_in_any_batch(numbers: list[int], seed: int, step: int) -> None:
    rng = ExampleRng(seed, step, torch.tensor(numbers))
    whole = [rng.uniform((len(numbers), 3)), rng.normal((len(numbers), 2, 2))]
    for position, number in enumerate(numbers):
        alone = ExampleRng(seed, step, torch.tensor([number]))
        assert torch.equal(alone.uniform((1, 3))[0], whole[0][position])
        torch.testing.assert_close(alone.normal((1, 2, 2))[0], whole[1][position])  # up to rounding of log and cos


def test_numbers_do_not_depend_on_the_device(any_device: torch.device) -> None:
    here, there = ExampleRng(3, 4, NUMBERS), ExampleRng(3, 4, NUMBERS.to(any_device))
    assert torch.equal(here.uniform((200, 7)), there.uniform((200, 7)).cpu())
    torch.testing.assert_close(here.normal((200, 7)), there.normal((200, 7)).cpu(), atol=1e-5, rtol=1e-5)


def test_a_generator_serves_as_a_source_too() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    for draw, plain in ((uniform, torch.rand), (normal, torch.randn)):
        drawn = draw((2, 3), like, torch.Generator().manual_seed(1))
        assert torch.equal(drawn, plain((2, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert uniform((2, 3), like, ExampleRng(0, 0, torch.arange(2))).dtype == torch.float64


def test_step_seeds_differ_between_steps_seeds_and_processes() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(20) for step in range(20) for rank in range(20)}
    assert len(seeds) == 8000 and all(0 <= value < 2**32 for value in seeds)


def test_seeding_for_a_device_gives_what_seeding_everything_gives(device: torch.device) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = torch.rand(5), torch.rand(5, device=device)
        seed_generators(7, device)
        assert all(
            torch.equal(a, b) for a, b in zip(expected, (torch.rand(5), torch.rand(5, device=device)), strict=True)
        )


def test_some_examples_alone_draw_what_they_draw_in_the_whole_batch() -> None:
    examples = torch.tensor([3, 2**40 + 1, 7, 0])
    chosen = torch.tensor([True, False, True, False])
    whole = ExampleRng(5, 2, examples)
    whole.uniform((4, 1))
    few = whole.among(chosen)
    assert torch.equal(few.normal((2, 3)), whole.normal((4, 3))[chosen])
