"""The report: one self-contained HTML page that shows an evaluation's saved files and computes no result itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from jinja2 import Environment, StrictUndefined
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from robust_student import figures
from robust_student.figures import NORMS, Style
from robust_student.results import EVALUATION, GALLERY, ROWS, SUMMARY, SUMMARY_SCHEMA, Key, Row, find, group
from robust_student.runs import read_json, read_jsonl, write_atomically
from robust_student.tensors import UserError

Number = FiniteFloat | None
Place = tuple[str, float | None]
"""A perturbation and its setting."""
RADII = tuple(f"estimated_{meaning}_radius_{norm}" for meaning in ("decision", "confidence") for norm in NORMS)
"""The radii of which the report shows a distribution."""
T = TypeVar("T")


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


def write_report(evaluation: Path, output: Path) -> None:
    """Render an evaluation's directory as one HTML file that needs nothing else; the same files give the same bytes.

    Raises UserError where the evaluation is missing, unfinished or damaged, and where `output` cannot be written.
    """
    template = resources.files("robust_student").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    page = environment.from_string(template).render(e=read(evaluation), norms=NORMS)
    try:
        write_atomically(output, page.encode())
    except OSError as error:
        raise UserError(f"output {output}: cannot write there ({error.strerror})") from None


def read(evaluation: Path) -> Evidence:
    """The checked files of an evaluation's directory; UserError, one line, where one is missing or damaged."""
    details = _checked(
        TypeAdapter(_Details).validate_python, read_json(evaluation / EVALUATION), evaluation / EVALUATION
    )
    records = _checked(
        TypeAdapter(list[_Record]).validate_python, read_json(evaluation / SUMMARY), evaluation / SUMMARY
    )
    if not (evaluation / ROWS).is_file():
        raise UserError(f"file {evaluation / ROWS}: cannot read it (no such file)")
    rows = [row for row in read_jsonl(evaluation / ROWS) if row.get("perturbation") in RADII]
    radii = group(_checked(TypeAdapter(list[Row]).validate_python, rows, evaluation / ROWS))
    path = evaluation / GALLERY
    return Evidence(
        details,
        records,
        radii,
        _checked(TypeAdapter(list[_Example]).validate_python, read_json(path), path) if path.exists() else [],
    )


def number(value: float, form: str = ".3g") -> str:
    """A number for people, with a true minus sign; zero has no sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def _checked(parse: Callable[[Any], T], value: Any, path: Path) -> T:
    try:
        return parse(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        what = f"'{place}': {problem['msg'].lower()}" if place else problem["msg"].lower()
        raise UserError(f"file {path}: unfinished, damaged or of another version ({what})") from None


def _pair(validation: Mapping[str, float | None]) -> tuple[float, float]:
    """(clean, selection); NaN where there is none."""
    clean, selection = validation.get("clean"), validation.get("selection")
    return math.nan if clean is None else clean, math.nan if selection is None else selection
