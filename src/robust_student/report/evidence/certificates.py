"""The report's view of certificates: what is proved, what is estimated and what attacks found, side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from robust_student.core.errors import UserError
from robust_student.core.norms import NormName
from robust_student.report.document.figures import QUANTILE, Style, model_style
from robust_student.report.evidence.evaluation import REPORT_SCHEMA
from robust_student.report.evidence.reading import Saved, read_checked, read_checked_rows, require_finished
from robust_student.report.evidence.schema import Number, PlainRecord
from robust_student.results.intervals import Estimate, wilson
from robust_student.results.perturbation import Perturbation
from robust_student.results.radii import MEANINGS, Bracket, brackets, certified_agreement, radii_by_kind, share_beyond
from robust_student.results.rows import CERTIFICATION, ROWS, SUMMARY

_SMOOTHED = "certified_smoothed_radius"
_CURVE_POINTS = 161
"""Radii, evenly spaced, at which a curve is drawn; the budgets come on top."""


class CertificateRecord(PlainRecord):
    """One summary record of certificates, which no masking check concerns."""

    verdict: NotRequired[None]


class _Smoothing(TypedDict):
    sigma: Number
    samples: int
    alpha: FiniteFloat


class _Settings(TypedDict):
    norm: NormName
    methods: list[str]
    tolerance: FiniteFloat
    attacks: list[str]
    sampled_points: int
    smoothing: _Smoothing
    teacher: str
    seed: int


class _Fingerprint(TypedDict):
    settings: _Settings


class _Described(TypedDict):
    card: dict[str, Any]


class _Sample(TypedDict):
    test: int
    examples: int
    linear: int


class _Details(TypedDict):
    fingerprint: _Fingerprint
    provenance: dict[str, Any]
    baseline: str | None
    budgets: Annotated[list[FiniteFloat], Field(min_length=1)]
    sample: _Sample
    classes: list[str]
    models: Annotated[dict[str, _Described], Field(min_length=1)]


class Share(NamedTuple):
    """A share of examples with its 95 % Wilson interval, as the page writes records."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, estimate: Estimate, n: int) -> "Share":
        """None of its numbers may be NaN: n is at least 1."""
        return cls(*estimate, n)


class Between(NamedTuple):
    """At least (certified) and at most (attack) this share of the same examples stands; None: not measured."""

    certified: Share | None
    attack: Share | None


@dataclass(frozen=True)
class Certificates(Saved[CertificateRecord]):
    """The saved files of one certification, read and checked; sections ask it for what they show."""

    details: _Details

    @property
    def settings(self) -> _Settings:
        """What the certification was told."""
        return self.details["fingerprint"]["settings"]

    @property
    def norm(self) -> str:
        """Norm of every radius."""
        return self.settings["norm"]

    @property
    def budgets(self) -> list[float]:
        """Radii at which shares are stated, growing."""
        return self.details["budgets"]

    @property
    def teacher(self) -> str:
        """Name of the teacher, whether it was certified or not."""
        return self.settings["teacher"]

    @cached_property
    def columns(self) -> dict[str, dict[str, dict[int, float]]]:
        """Radii by model, kind (without the norm) and example."""
        return {
            name: radii_by_kind({key[1:]: rows for key, rows in self.rows.items() if key[0] == name}, self.norm)
            for name in self.styles
        }

    @cached_property
    def brackets(self) -> dict[tuple[str, str], dict[int, Bracket]]:
        """The examples of a model between their bounds, by (model, meaning), where there are any."""
        by_place = {
            (m, meaning): brackets(self.columns[m], meaning) for meaning in MEANINGS for m in self.named(meaning)
        }
        return {place: examples for place, examples in by_place.items() if examples}

    @cached_property
    def best(self) -> str | None:
        """The model with the largest certified share at the largest budget, else at the next; None: none above 0."""

        def shares(name: str) -> list[float]:
            held = [self.between(name, "decision", budget).certified for budget in reversed(self.budgets)]
            return [0.0 if share is None else share.value for share in held]

        leader = max(self.styles, key=shares)
        return leader if any(shares(leader)) else None

    @cached_property
    def violations(self) -> dict[tuple[str, str], CertificateRecord]:
        """Counts of certified radii above an attack's, by (model, meaning), where both were measured."""
        counts = {
            (m, k): self.get(m, "sandwich_violations", f"certified_{k}_radius") for k in MEANINGS for m in self.styles
        }
        return {place: record for place, record in counts.items() if record}

    def named(self, meaning: str) -> list[str]:
        """Models of which this meaning says something: the teacher is never less sure than itself."""
        return [name for name in self.styles if meaning == "decision" or name != self.teacher]

    def measured(self, meaning: str) -> bool:
        """Whether there are radii of this meaning."""
        kinds = (Perturbation.parse(kind) for name in self.named(meaning) for kind in self.columns[name])
        return any(kind.meaning == meaning for kind in kinds)

    def kinds(self, meaning: str) -> list[str]:
        """The kinds of radii that were measured: estimates, certificates by method, the best of them, attacks."""
        measured = {kind for name in self.named(meaning) for kind in self.columns[name]}
        methods = [f"certified_{method}" for method in self.settings["methods"]]
        heads = ["estimated", "sampled", *methods, "certified", "attack"]
        return [f"{head}_{meaning}_radius" for head in heads if f"{head}_{meaning}_radius" in measured]

    def share(self, model: str, kind: str, budget: float) -> CertificateRecord | None:
        """The recorded share of examples that stand at a budget by this kind of radius; None for estimates."""
        noun = "confidence" if "confidence" in kind else "accuracy"
        return self.get(model, f"{kind.partition('_')[0]}_{noun}", kind, budget)

    def between(self, model: str, meaning: str, budget: float) -> Between:
        """Both sides at a budget, on the examples that have both: there the truth lies between."""
        sides = self.sides(model, meaning, [budget])
        n = len(self.brackets.get((model, meaning), {}))
        certified, attack = (Share.of(sides[side][0], n) if side in sides else None for side in ("certified", "attack"))
        return Between(certified, attack)

    def possible(self, model: str) -> Share | None:
        """Share of examples whose S_y(x) is above T_y(x): only there a confidence radius above 0 is possible."""
        columns = self.columns[model]
        radii = columns.get("estimated_confidence_radius") or columns.get("attack_confidence_radius") or {}
        return Share.of(wilson(sum(r > 0 for r in radii.values()), len(radii)), len(radii)) if radii else None

    def agreement(self, model: str, budget: float) -> Between:
        """Share of examples on which teacher and student provably agree, and on which no disagreement was found."""
        best = [self.columns.get(name, {}).get("certified_decision_radius", {}) for name in (model, self.teacher)]
        tried = self.rows.get((model, f"agreement_{self.norm}", budget), {})
        radii = {index: radius for index, radius in best[0].items() if index in tried or not tried}
        proved = certified_agreement(radii, best[1], budget)
        empirical = self.get(model, "agreement", f"agreement_{self.norm}", budget)
        return Between(None if proved is None else Share.of(*proved), _share(empirical))

    def smoothed(self) -> dict[str, tuple[Share, Share]]:
        """Of every smoothed classifier: how often it is right at x, and how often it abstains."""
        shares_by_model = {}
        for name in self.styles:
            rows = list(self.rows.get((name, f"{_SMOOTHED}_l2", None), {}).values())
            if rows:
                right, abstained = sum(bool(row.correct) for row in rows), sum(row.detail == "abstain" for row in rows)
                shares = [Share.of(wilson(count, len(rows)), len(rows)) for count in (right, abstained)]
                shares_by_model[name] = (shares[0], shares[1])
        return shares_by_model

    def grid(self, meaning: str) -> list[float]:
        """The radii of the curves, the same for every model: past the budgets and most of what was found."""
        pooled = [
            r
            for (_, k), examples in self.brackets.items()
            if k == meaning
            for b in examples.values()
            for r in (b.certified, b.attack)
        ]
        finite = [radius for radius in pooled if math.isfinite(radius)]
        edge = max(1.1 * self.budgets[-1], float(np.quantile(finite, QUANTILE)) if finite else 0.0)
        return sorted({*np.linspace(0.0, edge, _CURVE_POINTS).tolist(), *self.budgets})

    def values(self) -> dict[str, Any]:
        """Every figure as plain values (docs/results-format.md)."""
        head = {"schema": REPORT_SCHEMA, "kind": "certification", "split": self.split}
        return head | self.details | {"records": self.records}

    def digest(self, model: str) -> str | None:
        """Checksum of a model's weights, where it was certified."""
        described = self.details["models"].get(model)
        return None if described is None else described["card"].get("sha256")

    def sides(self, model: str, meaning: str, grid: Sequence[float]) -> dict[str, list[Estimate]]:
        """The certified and the attacked curve of a model on the examples that have both."""
        examples = self.brackets.get((model, meaning), {}).values()
        radii = {"certified": [b.certified for b in examples], "attack": [b.attack for b in examples]}
        return {
            side: share_beyond(values, grid, certified=side == "certified")
            for side, values in radii.items()
            if values and not any(map(math.isnan, values))
        }


def read_certificates(folder: Path, styles: Mapping[str, Style] | None = None) -> Certificates:
    """The checked files of a certification's directory; UserError, one line, where one is missing or damaged.

    Args:
        folder: what `certify` wrote.
        styles: looks of models that are shown elsewhere on the page; the same name gets the same look.
    """
    if folder.is_dir() and not (folder / CERTIFICATION).exists():
        raise UserError(f"directory {folder}: holds no {CERTIFICATION}, so `certify` did not write it")
    require_finished(folder, CERTIFICATION, "certify")
    details = read_checked(folder / CERTIFICATION, TypeAdapter(_Details).validate_python)
    records = read_checked(folder / SUMMARY, TypeAdapter(list[CertificateRecord]).validate_python)
    rows = read_checked_rows(folder)
    taken = dict(styles or {})
    for name in details["models"]:
        taken.setdefault(name, model_style(len(taken)))
    certificates = Certificates(details, records, rows, {name: taken[name] for name in details["models"]})
    for record in records:
        head, _, kind = record["metric"].partition("median_")
        radii = certificates.columns.get(record["model"], {}).get(kind, {})
        if not head and "_over_" not in kind and len(radii) != record["n"]:
            raise UserError(f"file {folder / ROWS}: damaged (not the rows that {SUMMARY} was made from)")
    return certificates


def _share(record: CertificateRecord | None) -> Share | None:
    if record is None or record["value"] is None or record["low"] is None or record["high"] is None:
        return None
    return Share(record["value"], record["low"], record["high"], record["n"])
