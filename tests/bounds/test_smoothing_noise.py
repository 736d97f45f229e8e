"""The noise of smoothing: seeds, spread and passes; what is refused."""

import math

import numpy as np
import pytest
import torch
from reference import affine, as_numpy, assert_state, make_batch, message_of, norm_for, seeded, smooth_student, state_of
from reference_norm import ReferenceNorm
from scipy import stats
from smoothing_draws import L2, RARE, SHAPE, Draws, certify, halfspaces, with_and_without_scale
from torch import Tensor, nn

from robust_student.bounds.smoothing import certified_smoothing_radius
from robust_student.core.norms import Norm


def test_results_do_not_depend_on_batch_order_or_chunk(device: torch.device) -> None:
    student, inputs = smooth_student(SHAPE, 3, device), make_batch(SHAPE, device, examples=8).inputs
    draws, seeds = Draws(1.0, 150, 20, 0.01), [3, 2**40, 0, 9, 9, 1, 7, 2**70]
    in_batch = certify(student, inputs, draws, seeds)
    assert len(set(in_batch.successes.tolist())) > 4

    order = [5, 2, 7, 0, 1, 6, 4, 3]
    shuffled = [seeds[i] for i in order]
    for whole, part in zip(in_batch, certify(student, inputs[order], draws, shuffled), strict=True):
        assert torch.equal(whole[order], part)

    for i, seed in enumerate(seeds):
        for whole, part in zip(in_batch, certify(student, inputs[i : i + 1], draws, [seed]), strict=True):
            assert torch.equal(whole[i : i + 1], part)

    for chunk in (1, 7, 149, 10_000):
        again = certify(student, inputs, draws, seeds, chunk=chunk)
        assert all(torch.equal(a, b) for a, b in zip(in_batch, again, strict=True))


def test_seeds_that_differ_in_high_bits_only_draw_different_noise(device: torch.device) -> None:
    case = halfspaces(np.full(4, 0.1), False, device)
    certificate = certify(
        case.network, case.inputs[:1].expand(4, *SHAPE), Draws(1.0, 2000, 9, 0.01), [5, 5 + 2**32, 6, 5]
    )
    first, high, next_one, same = certificate.successes.tolist()
    assert len({first, high, next_one}) == 3 and first == same


class _Recorder(nn.Module):
    """Remembers the inputs and the mode of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        self.modes.append(self.training or torch.is_grad_enabled())
        return inputs.flatten(1)[:, :2]


def test_every_draw_is_made_in_passes_of_bounded_size(device: torch.device) -> None:
    network, inputs = _Recorder(), torch.zeros(2, *SHAPE, device=device)
    certify(network, inputs, Draws(0.5, 90, 50, 0.1), chunk=40)
    assert [len(part) for part in network.seen] == 2 * [40, 10, 40, 40, 10]
    assert network.training and not any(network.modes)
    drawn = torch.cat(network.seen).flatten().tolist()
    assert len(set(drawn)) > 0.99 * len(drawn)


@with_and_without_scale
def test_noise_has_the_stated_spread_and_is_not_clipped(scaled: bool, device: torch.device) -> None:
    network, norm = _Recorder(), norm_for("l2", SHAPE, scaled, device)
    inputs = make_batch(SHAPE, device, examples=1).inputs
    certify(network, inputs, Draws(0.5, 20_000, 1, 0.1), norm=norm)
    noise = as_numpy(torch.cat(network.seen) - inputs).reshape(-1, 6)
    standard = noise / (0.5 * ReferenceNorm(norm, SHAPE).scale)
    count = len(standard)
    assert np.abs(standard.mean(axis=0)).max() < 5 / math.sqrt(count)
    assert np.abs(standard.var(axis=0) - 1).max() < 5 * math.sqrt(2 / count)
    assert np.abs(np.corrcoef(standard.T) - np.eye(6)).max() < 5 / math.sqrt(count)
    assert stats.kstest(standard.ravel(), "norm").pvalue > RARE


def test_the_network_is_left_as_it_was_and_gives_its_evaluation_mode_answers(
    conv: nn.Module, device: torch.device
) -> None:
    inputs, before = make_batch((2, 4, 4), device).inputs, state_of(conv)
    numbers_before = torch.get_rng_state()
    trained = certify(conv, inputs, Draws(0.5, 100, 10, 0.01))
    assert conv.training and torch.equal(torch.get_rng_state(), numbers_before)
    assert_state(conv, before)
    evaluated = certify(conv.eval(), inputs, Draws(0.5, 100, 10, 0.01))
    assert all(torch.equal(a, b) for a, b in zip(trained, evaluated, strict=True))


def test_float32_works_on_every_device_and_results_come_back_to_the_cpu(any_device: torch.device) -> None:
    network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), torch.device("cpu")).float().to(any_device)
    inputs = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(0)).to(any_device)
    norm = Norm.named("l2", torch.linspace(0.5, 2.0, 3, dtype=torch.float64))
    certificate = certify(network, inputs, Draws(0.3, 50, 5, 0.1), norm=norm)
    assert [t.dtype for t in certificate] == [torch.int64, torch.float64, torch.int64]
    assert all(t.device.type == "cpu" and t.shape == (4,) for t in certificate)


def test_no_examples_give_empty_results(device: torch.device) -> None:
    network, inputs = smooth_student(SHAPE, 3, device), torch.zeros(0, *SHAPE, device=device)
    assert [len(t) for t in certify(network, inputs, Draws(1.0, 5, 5, 0.1))] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"norm": Norm.named("linf")}, "certifies l2 only, not linf"),
        ({"norm": Norm.named("l1")}, "certifies l2 only, not l1"),
        ({"sigma": 0.0}, "sigma must be positive and finite, not 0.0"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"sigma": math.inf}, "sigma must be positive and finite"),
        ({"sigma": math.nan}, "sigma must be positive"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, not 0.0"),
        ({"alpha": 1.0}, "alpha must lie"),
        ({"alpha": math.nan}, "alpha must lie"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"selection_samples": 0}, "selection_samples must be at least 1, not 0"),
        ({"chunk": 0}, "chunk must be at least 1, not 0"),
        ({"seeds": [1]}, "2 examples need as many seeds, not 1"),
        ({"seeds": [1, 2, 3]}, "2 examples need as many seeds, not 3"),
        ({"seeds": [1, -2]}, "seeds must not be negative, but one is -2"),
    ],
)
def test_bad_numbers_are_refused(wrong: dict[str, object], complaint: str) -> None:
    network, inputs = affine(torch.zeros(2, 6)), torch.zeros(2, *SHAPE)
    arguments: dict[str, object] = {"norm": L2, "sigma": 0.5, "samples": 5, "alpha": 0.1, "seeds": [0, 1]} | wrong
    assert complaint in message_of(lambda: certified_smoothing_radius(network, inputs, **arguments))  # type: ignore[arg-type]
