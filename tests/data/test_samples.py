"""Stratified samples and splits."""

import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import toy_data

from robust_student.core.errors import UserError
from robust_student.data.readers.load import Examples, split, stratified_sample
from robust_student.data.samples import held_out_by_name, training_and_validation


def test_the_same_name_in_another_unicode_form_is_held_out_alike() -> None:
    forms = [[unicodedata.normalize(form, f"ä/ö-{i}.png") for i in range(50)] for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    composed, decomposed = ([held_out_by_name(name) for name in names] for names in forms)
    assert composed == decomposed and 0 < sum(composed) < 50


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(LABELS, st.data(), st.integers(0, 2**32))
def test_a_stratified_sample_has_the_right_count_without_repeats_and_shares_within_one(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(1, len(labels)))
    sample = stratified_sample(torch.tensor(labels), count, seed).tolist()
    assert len(sample) == len(set(sample)) == count
    counts = Counter(labels[i] for i in sample)
    assert all(abs(counts[k] - n * count / len(labels)) < 1 + 1e-9 for k, n in Counter(labels).items())


@pytest.mark.parametrize(
    ("sizes", "count", "seats"),
    [((60, 29, 11), 10, (6, 3, 1)), ((5, 5), 4, (2, 2)), ((47, 16, 37), 10, (5, 1, 4)), ((97, 1, 2), 10, (10, 0, 0))],
)
def test_the_seats_that_are_left_go_to_the_largest_remainders(
    sizes: tuple[int, ...], count: int, seats: tuple[int, ...]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    counts = Counter(labels[stratified_sample(labels, count, 0)].tolist())
    assert tuple(counts[k] for k in range(len(sizes))) == seats


@given(LABELS, st.integers(0, 2**32))
def test_a_stratified_sample_depends_on_its_seed_alone(labels: list[int], seed: int) -> None:
    count = (len(labels) + 1) // 2
    first, second = (stratified_sample(torch.tensor(labels), count, seed) for _ in range(2))
    assert torch.equal(first, second)


def test_other_seeds_give_other_samples_in_other_orders() -> None:
    labels = torch.arange(200) % 4
    assert not torch.equal(
        stratified_sample(labels, 40, 0).sort().values, stratified_sample(labels, 40, 1).sort().values
    )


def test_a_prefix_of_a_stratified_sample_mixes_the_classes() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    sample = stratified_sample(labels, 400, 0)
    first = Counter(labels[sample[:100]].tolist())
    assert all(10 <= first[k] <= 40 for k in range(4))


def test_every_example_of_a_class_is_equally_likely_to_be_sampled() -> None:
    labels = torch.tensor([0] * 8 + [1] * 4)
    counts = Counter(i for seed in range(2000) for i in stratified_sample(labels, 6, seed).tolist())
    assert all(900 < counts[i] < 1100 for i in range(12))


@pytest.mark.parametrize("count", [0, -1, 4])
def test_an_impossible_sample_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"asked for {count} of 3"):
        stratified_sample(torch.tensor([0, 1, 2]), count, 0)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_split_is_disjoint_complete_and_keeps_inputs_with_their_labels(n: int, fraction: float, seed: int) -> None:
    assume(0 < max(1, round(fraction * n)) < n)
    examples = Examples(torch.arange(n)[:, None].float(), torch.arange(n) % 3)
    rest, held_out = split(examples, fraction, seed)
    assert len(held_out) == max(1, round(fraction * n))
    inputs = torch.cat([rest.inputs, held_out.inputs])[:, 0]
    assert sorted(inputs.tolist()) == list(range(n))
    assert torch.equal(inputs.long() % 3, torch.cat([rest.labels, held_out.labels]))


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        split(Examples(torch.zeros(1, 2), torch.tensor([0])), 0.5, 0)


def test_training_and_validation_are_the_data_s_own_parts_or_a_split_of_its_training_set() -> None:
    data = toy_data(train=40)
    rest, held_out = training_and_validation(data, 0.25, 3)
    assert (len(rest), len(held_out)) == (30, 10)
    train, validation = training_and_validation(replace(data, validation=data.test), 0.25, 3)
    assert train is data.train and validation is data.test
