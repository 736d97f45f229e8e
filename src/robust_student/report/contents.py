"""What each report contains: the table of its sections, in order. Every format shows the same document."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from robust_student.report.document.blocks import Document, Section
from robust_student.report.evidence.certificates import Certificates
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.evidence.seeds import Seeds
from robust_student.report.evidence.side_by_side import Comparison
from robust_student.report.sections import comparison, opening, seeds
from robust_student.report.sections.attacks import attacks
from robust_student.report.sections.calibration import calibration
from robust_student.report.sections.certified_others import agreement, records, smoothed
from robust_student.report.sections.certified_others import provenance as certified_from
from robust_student.report.sections.certified_radii import bounds, confidence, sandwich, standing
from robust_student.report.sections.certified_summary import guarantee, summary
from robust_student.report.sections.classes import classes
from robust_student.report.sections.corruptions import corruptions
from robust_student.report.sections.differences import differences
from robust_student.report.sections.masking import masking
from robust_student.report.sections.models_table import models
from robust_student.report.sections.noise import noise
from robust_student.report.sections.pictures import examples, worst
from robust_student.report.sections.provenance import provenance
from robust_student.report.sections.radii import radii
from robust_student.report.sections.training import training
from robust_student.report.sections.verdict import verdict

_T = TypeVar("_T")
EVALUATION: tuple[Callable[[Evidence], Section | None], ...] = (
    verdict,
    models,
    noise,
    attacks,
    corruptions,
    classes,
    calibration,
    radii,
    worst,
    examples,
    training,
    differences,
    masking,
    provenance,
)
"""Sections on one evaluation."""
CERTIFICATES: tuple[Callable[[Certificates], Section | None], ...] = (
    summary,
    guarantee,
    standing,
    sandwich,
    bounds,
    smoothed,
    confidence,
    agreement,
    records,
    certified_from,
)
"""Sections on certificates, alone or below an evaluation."""
COMPARISON: tuple[Callable[[Comparison], Section | None], ...] = (
    comparison.compared,
    comparison.differences,
    comparison.accuracies,
    comparison.masking,
)
"""Sections on several evaluations side by side."""
SEEDS: tuple[Callable[[Seeds], Section | None], ...] = (seeds.averaged, seeds.differences, seeds.figures)
"""Sections on several seeds."""


def document(shown: Evidence | Certificates | Comparison | Seeds, certificates: Certificates | None = None) -> Document:
    """The report of what was read; `certificates` stand below an evaluation."""
    match shown:
        case Evidence():
            below = [] if certificates is None else _made(CERTIFICATES, certificates)
            title = f"Robustness report: {shown.data}"
            return Document(title, opening.evaluation(shown), _made(EVALUATION, shown) + below)
        case Certificates():
            title = f"Certified robustness: {shown.data}"
            return Document(title, opening.certificates(shown), _made(CERTIFICATES, shown))
        case Comparison():
            title = f"Comparison: {', '.join(shown.evaluations)}"
            return Document(title, comparison.lead(shown), _made(COMPARISON, shown))
        case Seeds():
            return Document(f"Several seeds: {shown.reference.data}", seeds.lead(shown), _made(SEEDS, shown))


def _made(sections: Iterable[Callable[[_T], Section | None]], shown: _T) -> list[Section]:
    """The sections that have something to say."""
    return [section for make in sections if (section := make(shown)) is not None]
