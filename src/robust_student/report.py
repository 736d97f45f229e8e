"""The report: one self-contained HTML page that shows saved files and computes no result of a model itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from robust_student import certificate_report, figures
from robust_student.certificate_report import Certificates
from robust_student.figures import NORMS, Style
from robust_student.pages import checked, read_checked, read_rows, render, require_finished
from robust_student.results import (
    CERTIFICATION,
    EVALUATION,
    GALLERY,
    ROWS,
    SUMMARY,
    SUMMARY_SCHEMA,
    Key,
    Row,
    find,
    group,
)
from robust_student.runs import write_atomically
from robust_student.tensors import UserError

Number = FiniteFloat | None
Place = tuple[str, float | None]
"""A perturbation and its setting."""
RADII = tuple(f"estimated_{meaning}_radius_{norm}" for meaning in ("decision", "confidence") for norm in NORMS)
"""The radii of which the report shows a distribution."""


class _Masking(TypedDict):
    level: Literal["PASS", "WARN", "FAIL"]
    reasons: list[str]
    zero_gradients: Number
    nan_gradients: Number
    square_only: Number
    unbounded_accuracy: Number


class _Record(TypedDict):
    schema: Annotated[int, Field(ge=1, le=SUMMARY_SCHEMA)]
    model: str
    split: str
    perturbation: str
    setting: Number
    metric: str
    value: Number
    low: Number
    high: Number
    n: int
    verdict: _Masking | None


class _Epoch(TypedDict):
    epoch: int
    terms: dict[str, Number]
    validation: dict[str, Number]


class _Try(TypedDict):
    radius: Number
    weight: Number
    validation: dict[str, Number]
    accepted: bool


class _Search(TypedDict):
    max_accuracy_drop: FiniteFloat
    baseline: dict[str, Number] | None
    tries: list[_Try]
    chosen: int | None


class _Described(TypedDict):
    card: dict[Literal["input_range"] | str, Any]
    history: list[_Epoch]
    search: _Search | None
    best_epoch: NotRequired[int]


class _Details(TypedDict):
    provenance: dict[str, Any]
    baseline: str | None
    autoattack_suite: str | None
    sample: dict[str, int]
    classes: list[str]
    models: Annotated[dict[str, _Described], Field(min_length=1)]


class _Prediction(TypedDict):
    prediction: int
    confidence: Number


class _Level(TypedDict):
    snr_db: Number
    png: str
    predictions: dict[str, _Prediction]


class _Example(TypedDict):
    index: int
    label: int
    levels: list[_Level]


@dataclass(frozen=True)
class Evidence:
    """The saved files of one evaluation, read and checked; the template asks it for what it shows."""

    details: _Details
    records: list[_Record]
    rows: Mapping[Key, Mapping[int, Row]]
    gallery: list[_Example]

    @cached_property
    def styles(self) -> dict[str, Style]:
        """Each model's colour, marker and dash, in the order of the evaluation."""
        return {name: figures.model_style(k) for k, name in enumerate(self.details["models"])}

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared to."""
        return self.details["baseline"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the evaluation was told."""
        return self.details["provenance"].get("settings") or {}

    @cached_property
    def teacher(self) -> str:
        """Name of the teacher, whether it was evaluated or not."""
        return str(self.settings.get("teacher", "teacher"))

    @cached_property
    def students(self) -> list[str]:
        """Models that are neither the baseline nor the teacher."""
        return [name for name in self.styles if name not in (self.baseline, self.teacher)]

    @cached_property
    def hero(self) -> str | None:
        """The student of the verdict: the best under AutoAttack, else under noise, else on clean inputs."""
        places = [self.attack, ("gaussian_snr_db", self.level), ("none", None)]
        return max(self.students, key=lambda name: [self._accuracy(name, place) for place in places], default=None)

    @cached_property
    def alarms(self) -> list[str]:
        """Models whose masking verdict is not PASS."""
        verdicts = {name: self.masking(name) for name in self.styles}
        return [name for name, verdict in verdicts.items() if verdict and verdict["level"] != "PASS"]

    @cached_property
    def level(self) -> float | None:
        """The noise level nearest to 0 dB."""
        settings = {setting for _, setting in self.plan("gaussian_snr_db") if setting is not None}
        return min(sorted(settings), key=abs, default=None)

    @cached_property
    def attack(self) -> Place:
        """AutoAttack's perturbation and budget; one that no record has where it was not run."""
        return next(iter(self.plan("autoattack_")), ("autoattack_", None))

    @cached_property
    def radius_norm(self) -> str | None:
        """Norm of the table's median radius: AutoAttack's, else the first measured."""
        head = "median_estimated_decision_radius_"
        norms = [r["metric"].removeprefix(head) for r in self.records if r["metric"].startswith(head)]
        wanted = self.attack[0].removeprefix("autoattack_")
        return wanted if wanted in norms else next(iter(norms), None)

    def plan(self, kind: str) -> list[Place]:
        """Measured (perturbation, setting) pairs whose perturbation begins with `kind`, in order."""
        found = [(r["perturbation"], r["setting"]) for r in self.records if r["metric"] == "accuracy"]
        return [place for place in dict.fromkeys(found) if place[0].startswith(kind)]

    def get(self, model: str, metric: str, perturbation: str = "none", setting: float | None = None) -> _Record | None:
        """The record of one model, metric, perturbation and setting; None where it was not measured."""
        found = find(self.records, model, metric, perturbation)
        return next((record for record in found if record["setting"] == setting), None)

    def masking(self, model: str) -> _Masking | None:
        """The model's masking verdict; None where it was not attacked."""
        return next((r["verdict"] for r in self.records if r["model"] == model and r["verdict"]), None)

    def counts(self, place: Place) -> str:
        """The number of examples of a perturbation at a setting, or their range over the models."""
        measured = [self.get(name, "accuracy", *place) for name in self.styles]
        numbers = sorted({record["n"] for record in measured if record})
        return "\u2013".join(dict.fromkeys(f"{n:,}" for n in (numbers[0], numbers[-1]))) if numbers else "0"

    def noise_svg(self) -> str:
        """Accuracy over SNR."""
        return figures.noise_figure(self.records, self.styles, "noise")

    def budget_svgs(self) -> dict[str, str]:
        """Accuracy over the attack's budget, by norm; the budget of the masking check is left out."""
        kinds = [kind for kind, _ in self.plan("pgd_") + self.plan("autoattack_")]
        limits = {"linf": self.range_width}
        return {
            norm: figures.budget_figure(self.records, self.styles, norm, limits.get(norm, math.inf), f"budget-{norm}")
            for norm in dict.fromkeys(kind.split("_")[1] for kind in kinds)
        }

    @property
    def range_width(self) -> float:
        """Width of the inputs' range; infinite where there is no limit."""
        lower, upper = next(iter(self.details["models"].values()))["card"].get("input_range", (None, None))
        return math.inf if lower is None or upper is None else float(upper - lower)

    def radius_svgs(self) -> list[tuple[str, str, str, dict[str, int]]]:
        """(decision or confidence, norm, distribution of the estimated radii, infinite ones by model)."""
        found = []
        for kind in RADII:
            radii = {model: self._radii(model, kind) for model in self.styles if self._radii(model, kind)}
            if radii:
                _, meaning, _, norm = kind.split("_")
                svg = figures.radius_figure(radii, self.styles, norm, kind)
                found.append((meaning, norm, svg, {name: sum(map(math.isinf, mine)) for name, mine in radii.items()}))
        return found

    def training_svg(self, model: str, field: Literal["terms", "validation"]) -> tuple[str, dict[str, Style]]:
        """Loss terms or validation accuracies over the epochs, and the key to the lines."""
        history, name = self.details["models"][model]["history"], f"{field}-{list(self.styles).index(model)}"
        measured = [epoch[field] for epoch in history]
        lines = {line: [values.get(line) for values in measured] for line in dict.fromkeys(chain(*measured))}
        key, epochs = figures.term_styles(list(lines), self.styles[model]), [epoch["epoch"] for epoch in history]
        marked, accuracy = self.marked_epoch(model), field == "validation"
        return figures.epoch_figure(lines, key, epochs, marked, name, accuracy=accuracy), key

    def marked_epoch(self, model: str) -> int | None:
        """The epoch whose weights were kept, where recorded; else the last one with the highest selection score."""
        described = self.details["models"][model]
        scores = [(e["validation"].get("selection"), e["epoch"]) for e in described["history"]]
        best = max(((score, epoch) for score, epoch in scores if score is not None), default=(None, None))
        return described.get("best_epoch", best[1])

    def search_svg(self, model: str, search: _Search) -> str:
        """The trade-off that a search saw between clean accuracy and the selection score."""
        tries = [(*_pair(tried["validation"]), tried["accepted"]) for tried in search["tries"]]
        baseline = _pair(search["baseline"] or {})
        limit, name = baseline[0] - search["max_accuracy_drop"], f"search-{list(self.styles).index(model)}"
        return figures.search_figure(tries, search["chosen"], baseline, limit, self.styles[model], name)

    def _accuracy(self, model: str, place: Place) -> float:
        record = self.get(model, "accuracy", *place)
        return -1.0 if record is None or record["value"] is None else record["value"]

    def _radii(self, model: str, kind: str) -> list[float]:
        rows = self.rows.get((model, kind, None), {}).values()
        return [math.inf if row.detail == "infinite" else float(row.value or 0.0) for row in rows]


def write_report(directory: Path, output: Path, certificates: Path | None = None) -> None:
    """Render what `evaluate` or `certify` wrote as one HTML file that needs nothing else; same files, same bytes.

    Args:
        directory: of an evaluation or of certificates.
        output: the file to write.
        certificates: directory of certificates to show below an evaluation.

    Raises UserError where a file is missing, unfinished or damaged, and where `output` cannot be written.
    """
    if (directory / CERTIFICATION).exists():
        if certificates is not None:
            raise UserError(f"directory {directory}: holds certificates, so there is no evaluation to add others to")
        page = render("certificate_page.html.j2", c=certificate_report.read(directory))
    else:
        evidence = read(directory)
        added = None if certificates is None else certificate_report.read(certificates, evidence.styles)
        if added is not None:
            _require_same_models(evidence, added)
        page = render("report.html.j2", e=evidence, c=added)
    try:
        write_atomically(output, page.encode())
    except OSError as error:
        raise UserError(f"output {output}: cannot write there ({error.strerror})") from None


def read(evaluation: Path) -> Evidence:
    """The checked files of an evaluation's directory; UserError, one line, where one is missing or damaged."""
    if evaluation.is_dir() and not (evaluation / EVALUATION).exists():
        raise UserError(f"directory {evaluation}: holds neither {EVALUATION} nor {CERTIFICATION}, so nothing to report")
    require_finished(evaluation, EVALUATION, "evaluate")
    details = read_checked(evaluation / EVALUATION, TypeAdapter(_Details).validate_python)
    records = read_checked(evaluation / SUMMARY, TypeAdapter(list[_Record]).validate_python)
    rows = [row for row in read_rows(evaluation) if row.get("perturbation") in RADII]
    radii = group(checked(TypeAdapter(list[Row]).validate_python, rows, evaluation / ROWS))
    path = evaluation / GALLERY
    gallery = read_checked(path, TypeAdapter(list[_Example]).validate_python) if path.exists() else []
    return Evidence(details, records, radii, gallery)


def _require_same_models(evidence: Evidence, added: Certificates) -> None:
    """Refuse certificates of a model that only shares its name with one that was evaluated."""
    for name, described in evidence.details["models"].items():
        mine, its = described["card"].get("sha256"), added.digest(name)
        if mine and its and mine != its:
            raise UserError(f"certificates: '{name}' has other weights there than in the evaluation")


def _pair(validation: Mapping[str, float | None]) -> tuple[float, float]:
    """(clean, selection); NaN where there is none."""
    clean, selection = validation.get("clean"), validation.get("selection")
    return math.nan if clean is None else clean, math.nan if selection is None else selection
