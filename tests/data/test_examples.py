"""Examples and data: statistics, pixels as floats, subsets, digests."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import as_numpy
from torch import Tensor

from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.readers.load import Data, Examples


def data_of(inputs: Tensor) -> Data:
    examples = Examples(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    return Data("made up", examples, examples, ("a", "b"), UNIT_RANGE)


def test_image_statistics_are_per_channel() -> None:
    pixels = torch.randint(256, (7, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = data_of(pixels).statistics()
    expected = pixels.numpy() / 255
    assert mean.shape == std.shape == (3, 1, 1)
    np.testing.assert_allclose(as_numpy(mean)[:, 0, 0], expected.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(as_numpy(std)[:, 0, 0], expected.std(axis=(0, 2, 3)), rtol=1e-6)


def test_tabular_statistics_are_per_feature_and_a_constant_feature_has_unit_deviation() -> None:
    table = torch.randn((9, 4), generator=torch.Generator().manual_seed(0))
    table[:, 2] = 5.0
    mean, std = data_of(table).statistics()
    np.testing.assert_allclose(as_numpy(mean), table.double().numpy().mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        as_numpy(std), np.where(np.arange(4) == 2, 1.0, table.double().numpy().std(axis=0)), rtol=1e-6
    )


def test_pixels_are_divided_by_255_and_floats_are_left_alone() -> None:
    pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert Examples(pixels, torch.tensor([0])).floats()[0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    floats = torch.tensor([[0.0, 51.0, -3.0]])
    assert torch.equal(Examples(floats, torch.tensor([0])).floats(), floats)


def test_a_subset_of_mapped_examples_reads_nothing_and_is_the_same_subset() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randint(256, (9, 3, 2, 2), generator=generator).to(torch.uint8), torch.arange(9)
    mapped, held = Examples(pixels, labels, mapped=True, content="known"), Examples(pixels, labels)
    chosen, again = torch.tensor([7, 2, 2, 5]), torch.tensor([3, 0, 1])
    one, other = mapped.subset(chosen).subset(again), held.subset(chosen).subset(again)
    assert one.mapped and one.stored.data_ptr() == pixels.data_ptr() and not other.mapped
    assert one.shape == other.shape == (3, 2, 2) and len(one) == len(other) == 3
    assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    for part in (slice(None), slice(1, 3), torch.tensor([2, 0])):
        assert torch.equal(one.take(part), other.take(part)) and torch.equal(one.floats(part), other.floats(part))


@pytest.mark.parametrize("content", [None, "content"])
def test_the_digest_changes_with_every_input_label_type_shape_and_choice(content: str | None) -> None:
    pixels, labels = torch.arange(24, dtype=torch.uint8).view(6, 4), torch.arange(6) % 3
    base = Examples(pixels, labels, mapped=content is not None, content=content)
    others = [
        replace(base, labels=labels.flip(0)),
        base.subset(torch.arange(5)),
        base.subset(torch.tensor([1, 0, 2, 3, 4, 5])),
    ]
    if content is None:
        changed = pixels.clone()
        changed[5, 3] += 1
        others += [Examples(changed, labels), Examples(pixels.float(), labels), Examples(pixels.view(6, 2, 2), labels)]
    else:
        others += [replace(base, content="other")]
    digests = [examples.digest() for examples in (base, *others)]
    assert len(set(digests)) == len(digests) and all(len(digest) == 64 for digest in digests)
    assert base.digest() == Examples(pixels.clone(), labels.clone(), None, base.mapped, content).digest()


def test_statistics_of_mapped_examples_agree_with_those_in_memory() -> None:
    pixels = torch.randint(256, (700, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    held, labels = data_of(pixels), torch.zeros(700, dtype=torch.int64)
    mapped = replace(held, train=Examples(pixels, labels, mapped=True))
    for one, other in zip(held.statistics(), mapped.statistics(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_statistics_of_many_mapped_examples_use_evenly_spread_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_student.data.examples.STATISTICS_EXAMPLES", 10)
    table = torch.arange(100.0).square()[:, None]
    mean, std = replace(
        data_of(table), train=Examples(table, torch.zeros(100, dtype=torch.int64), mapped=True)
    ).statistics()
    torch.testing.assert_close(mean, table[::10].mean(dim=0))
    torch.testing.assert_close(std, table[::10].std(dim=0, correction=0))


def test_a_subset_keeps_the_order_asked_for() -> None:
    part = Examples(torch.arange(5.0)[:, None], torch.arange(5)).subset(torch.tensor([3, 0, 3]))
    assert part.inputs[:, 0].tolist() == [3, 0, 3] and part.labels.tolist() == [3, 0, 3]
