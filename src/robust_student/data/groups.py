"""Groups of examples that must not be parted, such as the pictures of one person, device or track."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from robust_student.core.errors import UserError, short
from robust_student.core.tensors import Labels
from robust_student.data.examples import Data, Examples

NO_GROUPS = "none"
"""What is said where there shall be no groups, although a run knows some."""
_OFF = 1.5
"""Times the share that was asked for, from which on it is said that groups made it another one."""


def is_pattern(group: str) -> bool:
    """Whether it is a pattern for names, not the name of a column: it has a capture group."""
    return "(" in group


def file_name(image: Any) -> Any:
    """The name of the file that an image in a table came from; None where it is not known."""
    return image.get("path") if isinstance(image, dict) else None


def group_names(group: str, values: Iterable[Any], places: Sequence[str], *, column: bool) -> list[str]:
    """The name of each row's group, from the values of a column, else by a pattern for names of files."""
    return as_names(group, values, places) if column else captured(values, group, places)


def captured(names: Iterable[Any], pattern: str, places: Sequence[str]) -> list[str]:
    """What the one capture group of a regular expression finds in each name; UserError where it finds nothing."""
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"group: {short(pattern)} is not a regular expression ({error})") from None
    if expression.groups != 1:
        raise UserError(
            f"group: {short(pattern)} has {expression.groups} capture groups, not one: put what names a group in one "
            "pair of parentheses, such as '(.*)_', and (?:...) around anything else"
        )
    found = []
    for row, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise UserError(f"{places[row]}: has no name of a file for the pattern --group {short(pattern)}")
        match = expression.search(name)
        if match is None or not match[1]:
            raise UserError(
                f"{places[row]}: --group {short(pattern)} finds nothing in its name {short(name)}; give another "
                f"pattern, or --group {NO_GROUPS}"
            )
        found.append(match[1])
    return found


def as_names(column: str, values: Iterable[Any], places: Sequence[str]) -> list[str]:
    """The values of a column as names of groups; UserError where one is missing."""
    names = ["" if value is None else str(value).strip() for value in values]
    if "" in names:
        raise UserError(f"{places[names.index('')]}: its group, in column {short(column)}, is missing")
    return names


def with_groups(parts: Mapping[str, Examples], names: Mapping[str, Sequence[str]]) -> dict[str, Examples]:
    """The parts of a set with the number of each example's group; a name is the same group in every part."""
    numbers = {name: k for k, name in enumerate(sorted({name for part in names.values() for name in part}))}
    return {
        part: replace(examples, groups=torch.tensor([numbers[name] for name in names[part]], dtype=torch.int64))
        for part, examples in parts.items()
    }


def grouped_sample(labels: Labels, groups: Labels, fraction: float, seed: int) -> Int64[Tensor, " sampled"]:
    """Positions of whole groups that hold about that `fraction` of each class, in ascending order.

    Groups come in an order drawn by the seed, and each is taken if that lowers sum_k (f n_k - h_k)^2 / n_k, where class
    k has n_k examples and h_k taken ones. Then each class without any gets the group that raises this sum least. The
    last group of a class is never taken. Raises UserError where nothing can be taken.
    """
    members = groups.cpu().numpy()
    present, classes = np.unique(labels.cpu().numpy(), return_inverse=True)
    names, owners = np.unique(members, return_inverse=True)
    pairs, sizes = np.unique(owners * len(present) + classes, return_counts=True)
    owner, kind = np.divmod(pairs, len(present))
    bounds = np.searchsorted(owner, np.arange(len(names) + 1))
    total = np.bincount(classes, minlength=len(present)).astype(float)
    taken, chosen = np.zeros(len(present)), np.zeros(len(names), dtype=bool)

    def rise(group: int) -> float:
        """By how much taking it raises the sum; infinite where it is the last of a class."""
        part = slice(bounds[group], bounds[group + 1])
        k, size = kind[part], sizes[part]
        if bool((taken[k] + size >= total[k]).any()):
            return np.inf
        return float((size * (size - 2 * (fraction * total[k] - taken[k])) / total[k]).sum())

    def take(group: int) -> None:
        part = slice(bounds[group], bounds[group + 1])
        chosen[group] = True
        taken[kind[part]] += sizes[part]

    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    for group in order:
        if rise(group) < 0:
            take(group)
    for k in range(len(present)):
        if taken[k] == 0:
            own = set(owner[kind == k].tolist())
            cheapest = min((group for group in order if group in own), key=rise)
            if rise(cheapest) < np.inf:
                take(cheapest)
    if not chosen.any():
        few = "all are in one group" if len(names) == 1 else f"each of the {len(names)} groups holds all of a class"
        raise UserError(
            f"group: nothing can be held out of {len(members)} examples, because {few}; choose finer groups"
        )
    return torch.from_numpy(np.flatnonzero(chosen[owners]))


def coarseness(rest: Examples, held_out: Examples, fraction: float, classes: Sequence[str]) -> str | None:
    """What groups cost a split, in one line: another share than was asked for, or classes without examples held out."""
    if rest.groups is None:
        return None
    share = len(held_out) / (len(rest) + len(held_out))
    parted = set(rest.labels.tolist()) - set(held_out.labels.tolist())
    told = []
    if not fraction / _OFF <= share <= fraction * _OFF:
        told.append(f"{share:.0%} of the examples are held out instead of {fraction:.0%}, because groups stay whole")
    if parted:
        told.append(f"none of class '{classes[min(parted)]}' is held out, because it is in too few groups")
    return "; ".join(told) or None


def shared_groups(data: Data) -> str | None:
    """Groups that stand on both sides of a division that came with the data, in one line; None where none does."""
    parts = {"test": data.test, "validation": data.validation}
    if not isinstance(data.train, Examples) or data.train.groups is None:
        return None
    train, told = set(data.train.groups.tolist()), []
    for part, examples in parts.items():
        if examples is not None and examples.groups is not None:
            both = train & set(examples.groups.tolist())
            if both:
                told.append(f"{len(both):,} groups of the training part are in the {part} part, too")
    return "; ".join(told) or None
