"""Groups stay whole in every split, which is as stratified as they allow."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import message_of

from robust_student.core.errors import UserError
from robust_student.data.examples import Examples
from robust_student.data.groups import as_names, captured, coarseness, grouped_sample, with_groups
from robust_student.data.samples import split

PLACES = ["row 0", "row 1"]


def examples(labels: list[int], groups: list[int]) -> Examples:
    inputs = torch.arange(len(labels))[:, None].float()
    return Examples(inputs, torch.tensor(labels), groups=torch.tensor(groups))


def of(part: Examples) -> set[int]:
    assert part.groups is not None
    return set(part.groups.tolist())


def tracks(classes: int, tracks_each: int, length: int) -> Examples:
    """Every group has one class, as the track of a sign."""
    rows = [(k, k * tracks_each + t) for k in range(classes) for t in range(tracks_each) for _ in range(length)]
    return examples([k for k, _ in rows], [group for _, group in rows])


def people(count: int, classes: int, each: int) -> Examples:
    """Every group has every class, as a person who speaks digits."""
    rows = [(k, person) for person in range(count) for k in range(classes) for _ in range(each)]
    return examples([k for k, _ in rows], [person for _, person in rows])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=80),
    st.floats(0.05, 0.5),
    st.integers(0, 99),
)
def test_no_group_stands_on_both_sides_and_no_class_leaves_training(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    whole = examples([label for label, _ in rows], [group for _, group in rows])
    groups_of: dict[int, set[int]] = {}
    for label, group in rows:
        groups_of.setdefault(label, set()).add(group)
    try:
        rest, held_out = split(whole, fraction, seed)
    except UserError as error:
        assert "held out of" in str(error) or "too few" in str(error)
        return
    assert not of(rest) & of(held_out)
    assert sorted(torch.cat([rest.inputs, held_out.inputs]).flatten().tolist()) == list(range(len(rows)))
    assert set(rest.labels.tolist()) == set(whole.labels.tolist())
    assert len(held_out) > 0


def test_the_split_depends_on_the_seed_alone() -> None:
    whole = tracks(classes=3, tracks_each=10, length=4)
    first, second = split(whole, 0.2, 0)[1], split(whole, 0.2, 0)[1]
    assert torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs, split(whole, 0.2, 1)[1].inputs)


@pytest.mark.parametrize(("fraction", "tracks_each", "taken"), [(0.1, 20, 2), (0.2, 10, 2), (0.1, 4, 1), (0.1, 2, 1)])
def test_every_class_has_its_share_of_tracks_and_one_at_least(fraction: float, tracks_each: int, taken: int) -> None:
    whole = tracks(classes=5, tracks_each=tracks_each, length=30)
    _, held_out = split(whole, fraction, 3)
    assert Counter(held_out.labels.tolist()) == {k: 30 * taken for k in range(5)}


@pytest.mark.parametrize(("fraction", "count", "taken"), [(0.1, 20, 2), (0.1, 8, 1), (0.1, 3, 1), (0.3, 10, 3)])
def test_people_with_all_classes_are_held_out_by_the_fraction(fraction: float, count: int, taken: int) -> None:
    _, held_out = split(people(count, classes=4, each=2), fraction, 0)
    assert len(of(held_out)) == taken


def test_every_group_of_one_size_is_equally_likely_to_be_held_out() -> None:
    whole = people(6, classes=2, each=1)
    assert whole.groups is not None
    times = Counter(int(whole.groups[grouped_sample(whole.labels, whole.groups, 0.17, seed)[0]]) for seed in range(600))
    assert all(60 < times[person] < 140 for person in range(6))


@pytest.mark.parametrize(
    ("labels", "groups", "words"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0], "all are in one group"),
        ([0, 0, 1, 1], [0, 0, 1, 1], "each of the 2 groups holds all of a class"),
    ],
)
def test_where_groups_leave_nothing_to_hold_out_one_line_says_so(
    labels: list[int], groups: list[int], words: str
) -> None:
    message = message_of(lambda: split(examples(labels, groups), 0.25, 0))
    assert words in message and "choose finer groups" in message and "\n" not in message


def test_what_groups_cost_is_said() -> None:
    classes = ("cat", "dog", "owl")
    fine = split(people(10, classes=2, each=1), 0.1, 0)
    assert coarseness(*fine, 0.1, classes) is None
    coarse = split(people(2, classes=2, each=1), 0.1, 0)
    assert coarseness(*coarse, 0.1, classes) == (
        "50% of the examples are held out instead of 10%, because groups stay whole"
    )
    whole = people(10, classes=2, each=5)
    assert whole.groups is not None
    lonely = examples([*whole.labels.tolist(), 2], [*whole.groups.tolist(), 99])
    assert coarseness(*split(lonely, 0.1, 0), 0.1, classes) == (
        "none of class 'owl' is held out, because it is in too few groups"
    )
    plain = Examples(torch.zeros(10, 1), torch.arange(10) % 2)
    assert coarseness(*split(plain, 0.5, 0), 0.1, classes) is None


def test_a_name_is_the_same_group_in_every_part_and_groups_follow_subsets_and_devices() -> None:
    plain = {"train": Examples(torch.zeros(3, 1), torch.zeros(3).long())}
    plain["test"] = Examples(torch.zeros(2, 1), torch.zeros(2).long())
    parts = with_groups(plain, {"train": ["b", "a", "b"], "test": ["c", "a"]})
    train, test = parts["train"], parts["test"]
    assert train.groups is not None and train.groups.tolist() == [1, 0, 1]
    assert test.groups is not None and test.groups.tolist() == [2, 0]
    assert of(train.subset(torch.tensor([1]))) == {0} and of(train.to(torch.device("cpu"))) == {0, 1}
    assert train.digest() == plain["train"].digest()


def test_the_capture_group_is_the_group() -> None:
    assert captured(["0/00000_00001.png", "12/00003_00000.png"], "(.*)_", PLACES) == ["0/00000", "12/00003"]
    assert captured(["a/p1-x.png", "b/p2.png"], r"/(p\d)(?:-|\.)", PLACES) == ["p1", "p2"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not a regular expression"),
        ("(a{99999999999999})", "not a regular expression"),
        ("a", "0 capture groups, not one"),
        ("(a)(b)", "2 capture groups, not one"),
        ("(b)_", "row 0: --group '(b)_' finds nothing in its name 'a_1'"),
        ("a(x?)", "row 0: --group 'a(x?)' finds nothing"),
    ],
)
def test_a_pattern_that_does_not_serve_is_refused(pattern: str, words: str) -> None:
    message = message_of(lambda: captured(["a_1", "b_1"], pattern, PLACES))
    assert words in message and "\n" not in message


def test_a_row_without_a_name_is_refused() -> None:
    assert "row 1: has no name of a file" in message_of(lambda: captured(["a_1", None], "(a)", PLACES))
    assert as_names("person", [3, "b "], PLACES) == ["3", "b"]


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_a_row_without_a_group_is_refused(nothing: str | None) -> None:
    message = message_of(lambda: as_names("person", ["a", nothing], PLACES))
    assert "row 1: its group, in column 'person', is missing" in message
