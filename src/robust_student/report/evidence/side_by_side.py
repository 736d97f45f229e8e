"""Several evaluations side by side: paired where the same examples were measured, unpaired otherwise, said in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from robust_student.core.errors import UserError
from robust_student.report.evidence.evaluation import REPORT_SCHEMA, Evidence, Place
from robust_student.results.comparison import Difference, adjust, in_words, paired, unpaired
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import outcomes, shared_outcomes

_SETTINGS = ("pgd_steps", "autoattack", "seed")
"""Settings of an evaluation that change what a number of it means."""


@dataclass(frozen=True)
class Pair:
    """A model of a later evaluation and its partner in the first one, compared in one cell."""

    first: tuple[str, str]
    """(evaluation, model)."""
    second: tuple[str, str]
    at: Place
    difference: Difference
    doubts: tuple[str, ...]
    """Why the comparison is no evidence, if it is not."""
    same_weights: bool


def compare(evaluations: Mapping[str, Evidence]) -> list[Pair]:
    """Every model of the later evaluations against the first one's of that name, else against its baseline.

    Paired where both measured the same test set and share at least half of the examples of the smaller sample; Holm's
    correction goes over all pairs and cells.

    Raises UserError where the classes differ.
    """
    (label, reference), *later = evaluations.items()
    pairs = []
    for other, evidence in later:
        if evidence.details["classes"] != reference.details["classes"]:
            raise UserError(f"report: {label} and {other} have other classes, so nothing in them can be compared")
        for model in evidence.styles:
            rival = model if model in reference.styles else reference.baseline
            if rival in reference.styles and rival is not None:
                pairs += _pairs((other, model), evidence, (label, rival), reference)
    adjusted = adjust([pair.difference for pair in pairs])
    return [Pair(p.first, p.second, p.at, d, p.doubts, p.same_weights) for p, d in zip(pairs, adjusted, strict=True)]


def _pairs(first: tuple[str, str], later: Evidence, second: tuple[str, str], reference: Evidence) -> list[Pair]:
    weights = (later.weights(first[1]), reference.weights(second[1]))
    pairs = []
    for at in reference.plan():
        rows = later.rows.get((first[1], *at), {}), reference.rows.get((second[1], *at), {})
        if rows[0] and rows[1]:
            same = later.test_set is not None and later.test_set == reference.test_set
            shared = shared_outcomes(rows[0], rows[1]) if same else ([], [])
            if len(shared[0]) * 2 >= min(len(rows[0]), len(rows[1])):
                difference = paired(*shared)
            else:
                difference = unpaired(list(outcomes(rows[0]).values()), list(outcomes(rows[1]).values()))
            doubts = _doubts(first, later, second, reference) if Perturbation.parse(at[0]).is_attack else ()
            suites = later.details["autoattack_suite"], reference.details["autoattack_suite"]
            if Perturbation.parse(at[0]).name == "autoattack" and suites[0] != suites[1]:
                doubts += (f"AutoAttack suites {suites[0]} and {suites[1]} differ",)
            same_weights = weights[0] is not None and weights[0] == weights[1]
            pairs.append(Pair(first, second, at, difference, doubts, same_weights))
    return pairs


def _doubts(first: tuple[str, str], later: Evidence, second: tuple[str, str], reference: Evidence) -> tuple[str, ...]:
    verdicts = {f"{name} ({label})": e.masking(name) for (label, name), e in ((first, later), (second, reference))}
    return tuple(f"masking verdict of {who} {v['level']}" for who, v in verdicts.items() if v and v["level"] != "PASS")


def _sentence(pair: Pair, where: str) -> str:
    """In words whether a pair's difference is larger than its uncertainty."""
    first, second = (f"{name} ({label})" for label, name in (pair.first, pair.second))
    words = in_words(pair.difference, first, second, where)
    words += "; the weights are the same" if pair.same_weights else ""
    return words + (f"; no evidence: {', '.join(pair.doubts)}" if pair.doubts else "")


def _threat(e: Evidence) -> str:
    """Norm and radius of AutoAttack, with the reason where it was recorded."""
    threat = e.details.get("threat")
    if threat is not None:
        return threat["words"]
    norm, radius = e.settings.get("autoattack_norm"), e.settings.get("autoattack_radius")
    return f"{norm} {'default' if radius is None else radius}"


@dataclass(frozen=True)
class Comparison:
    """Several evaluations by name, the first of which the others are compared with."""

    evaluations: Mapping[str, Evidence]

    @property
    def reference(self) -> Evidence:
        """The first evaluation."""
        return next(iter(self.evaluations.values()))

    @cached_property
    def pairs(self) -> list[Pair]:
        """What is compared; UserError where the classes differ."""
        return compare(self.evaluations)

    def sentence(self, pair: Pair) -> str:
        """In words whether a pair's difference is larger than its uncertainty."""
        return _sentence(pair, self.reference.where(pair.at))

    def values(self) -> dict[str, Any]:
        """Every figure as plain values (docs/results-format.md)."""
        differences = [
            {
                "first": {"evaluation": p.first[0], "model": p.first[1]},
                "second": {"evaluation": p.second[0], "model": p.second[1]},
                "split": self.reference.split,
                "perturbation": p.at[0],
                "setting": p.at[1],
                **{end: None if value != value else value for end, value in p.difference.estimate._asdict().items()},
                "paired": p.difference.paired,
                "n": list(p.difference.n),
                "test": p.difference.test,
                "p": p.difference.p,
                "holm_p": p.difference.adjusted_p,
                "comparisons": p.difference.family,
                "larger_than_uncertainty": p.difference.distinguishable and not p.doubts,
                "words": self.sentence(p).replace("\u00a0", " "),
            }
            for p in self.pairs
        ]
        sources = {
            label: {"provenance": e.details["provenance"], "sample": e.details["sample"], "records": e.records}
            for label, e in self.evaluations.items()
        }
        return {"schema": REPORT_SCHEMA, "kind": "comparison", "evaluations": sources, "differences": differences}

    def settings_in_words(self) -> list[str]:
        """Whether the test sets are the same, and which settings are not."""
        tests = {e.test_set for e in self.evaluations.values()}
        if None in tests:
            words = ["The test sets are not recorded everywhere: comparisons are unpaired."]
        elif len(tests) == 1:
            words = ["The test set is the same: comparisons are paired where the same examples of it were measured."]
        else:
            words = [
                "The test sets differ: comparisons between them are unpaired, and the sets may differ in difficulty."
            ]
        settings = {
            name: {label: e.settings.get(name) for label, e in self.evaluations.items()} for name in _SETTINGS
        } | {"norm and radius of the attack": {label: _threat(e) for label, e in self.evaluations.items()}}
        for name, values in settings.items():
            if len(set(values.values())) > 1:
                differing = ", ".join(f"{label} {value}" for label, value in values.items())
                words.append(f"The setting {name} differs: {differing}.")
        return words
