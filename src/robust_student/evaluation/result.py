"""What `evaluate` and `certify` return: typed records of a finished measurement, to look up, print and report."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from robust_student.core.errors import UserError, nearest
from robust_student.report.evidence.reading import read_checked_rows
from robust_student.report.formats import format_of
from robust_student.report.write import write_report
from robust_student.results.class_measures import ClassMeasures, Confusion
from robust_student.results.collapse import collapse
from robust_student.results.perturbation import Perturbation
from robust_student.results.rows import EVALUATION, SUMMARY, Key, Row, class_name
from robust_student.runtime.files import read_json

_Kind = TypeVar("_Kind", bound="Result")


@dataclass(frozen=True)
class Record:
    """One number of a summary with its interval (docs/results-format.md)."""

    model: str
    split: str
    """Which examples were measured."""
    perturbation: str
    """`none`, `gaussian_snr_db`, `pgd_linf`, ..."""
    setting: float | None
    """Strength of the perturbation in `unit`; None where it has none."""
    unit: str | None
    metric: str
    value: float | int | None
    """None where it is infinite or not defined."""
    low: float | None
    """Lower end of the 95 % interval; None where there is no interval."""
    high: float | None
    """Upper end."""
    interval: str | None
    """How the interval was computed."""
    n: int
    """Examples behind the number."""
    seed: int
    verdict: Mapping[str, Any] | None
    """The masking verdict of an accuracy under attack."""

    @property
    def percent(self) -> str:
        """A share of 1 in percent with its interval, such as `81.3 [77.1, 84.9]`; `-` where there is no number."""
        if self.value is None:
            return "-"
        interval = "" if self.low is None or self.high is None else f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f}{interval}"

    @property
    def level(self) -> str | None:
        """PASS, WARN or FAIL of the masking verdict; None where there is no verdict."""
        return self.verdict["level"] if self.verdict else None


@dataclass(frozen=True)
class Result:
    """A finished measurement: its directory and its records."""

    folder: Path
    records: tuple[Record, ...]

    @classmethod
    def of(cls: type[_Kind], folder: Path, summary: Iterable[Mapping[str, Any]]) -> _Kind:
        """The result with these summary records."""
        names = [field.name for field in fields(Record)]
        return cls(folder, tuple(Record(**{name: record[name] for name in names}) for record in summary))

    @classmethod
    def read(cls: type[_Kind], folder: Path) -> _Kind:
        """The result that an earlier run left in `folder`; UserError where there is none."""
        return cls.of(folder, read_json(folder / SUMMARY))

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order in which they were measured."""
        return tuple(dict.fromkeys(record.model for record in self.records))

    def every(self, metric: str, perturbation: str | None = None, model: str | None = None) -> list[Record]:
        """Records of a metric, of one perturbation and one model where they are named, by growing setting."""
        matching = [
            record
            for record in self.records
            if record.metric == metric and perturbation in (None, record.perturbation) and model in (None, record.model)
        ]
        return sorted(matching, key=lambda record: -math.inf if record.setting is None else record.setting)

    def find(self, metric: str, perturbation: str, model: str, setting: float | None = None) -> Record:
        """The one record of a metric; `setting` may be left out where there is only one.

        Raises UserError with what there is instead.
        """
        chosen = self.records
        for name, value in (("model", model), ("metric", metric), ("perturbation", perturbation)):
            names = list(dict.fromkeys(getattr(record, name) for record in chosen))
            chosen = tuple(record for record in chosen if getattr(record, name) == value)
            if not chosen:
                raise UserError(f"{self.folder}: no {name} '{value}'{nearest(value, names)}")
        settings = [record.setting for record in chosen]
        if setting is None and len(chosen) == 1:
            return chosen[0]
        if setting not in settings:
            listed = ", ".join(f"{value:g}" for value in settings if value is not None)
            what = "name a setting" if setting is None else f"no setting {setting:g}"
            raise UserError(f"{self.folder}: {perturbation}: {what}; measured at {listed}")
        return chosen[settings.index(setting)]

    def report(self, path: Path, *, certificates: Path | None = None) -> Path:
        """Write the report as the suffix says (.html, .md, .json), and return its path; an existing file is replaced.

        `certificates` is a directory that `certify` wrote, shown below an evaluation.
        """
        write_report(self.folder, path, certificates=certificates, style=format_of(path))
        return path

    def _table(self, title: str, records: Iterable[Record], suffixes: Mapping[str, str] | None = None) -> str:
        """Shares in percent as a Markdown table: a line for each perturbation and setting, a column for each model.

        `suffixes` is what follows the name of the perturbation in lines of a metric.
        """
        cells: dict[str, dict[str, str]] = {}
        for record in records:
            mark = f" *{record.level}*" if record.level in ("WARN", "FAIL") else ""
            setting = "" if record.setting is None else f" {record.setting:g}"
            name = f"{record.perturbation}{setting}{(suffixes or {}).get(record.metric, '')}"
            cells.setdefault(name, {})[record.model] = record.percent + mark
        rows = [[title, *self.models]]
        rows += [[name, *(texts.get(model, "-") for model in self.models)] for name, texts in cells.items()]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
        return "\n".join(f"| {line} |" for line in lines)


@dataclass(frozen=True)
class Evaluation(Result):
    """What `evaluate` measured."""

    def accuracy(self, model: str, perturbation: str = "none", setting: float | None = None) -> Record:
        """The accuracy of a model on clean inputs or under a perturbation, as a share of 1 with its interval.

        `setting` may be left out where the perturbation was measured at one strength only. Raises UserError where
        nothing of that name was measured.
        """
        return self.find("accuracy", perturbation, model, setting)

    def balanced_accuracy(self, model: str, perturbation: str = "none", setting: float | None = None) -> Record:
        """The mean of the classes' accuracies, as `accuracy`: a model that answers one class of K gets 1 / K."""
        return self.find("balanced_accuracy", perturbation, model, setting)

    def confusion(self, model: str, perturbation: str = "none", setting: float | None = None) -> Confusion:
        """How often each class was answered for the examples of each true class, as `accuracy`, from the rows."""
        key = (model, perturbation, self.accuracy(model, perturbation, setting).setting)
        return Confusion.of(self._rows[key])

    def classes(self, model: str, perturbation: str = "none", setting: float | None = None) -> list[ClassMeasures]:
        """Recall, precision and F1 of each class that has examples, as `accuracy`, from the rows."""
        return self.confusion(model, perturbation, setting).measures()

    @cached_property
    def _rows(self) -> Mapping[Key, Mapping[int, Row]]:
        """Of every cell."""
        return read_checked_rows(self.folder)

    @property
    def unbalanced(self) -> bool:
        """Whether the largest class has more than 1.5 times the examples of the smallest."""
        return any(self.confusion(record.model).unbalanced for record in self.every("balanced_accuracy", "none"))

    @cached_property
    def _details(self) -> Mapping[str, Any]:
        """What evaluation.json says."""
        return read_json(self.folder / EVALUATION)

    @property
    def attack(self) -> tuple[str, float] | None:
        """Perturbation and budget of the strongest attack at the radius of the threat: AutoAttack, else PGD.

        None: neither was run there.
        """
        accuracies = self.every("accuracy")
        places = [(record.perturbation, record.setting) for record in accuracies if record.setting is not None]
        threat = self._details.get("threat")
        usual = None if threat is None else (str(Perturbation.attack("pgd", threat["norm"])), threat["radius"])
        strongest = [place for place in places if Perturbation.parse(place[0]).name == "autoattack"]
        return next((place for place in [*strongest, *places] if place in (usual, *strongest)), None)

    @property
    def collapsed(self) -> dict[str, str]:
        """In words, by model, what is wrong with one that answers one class for everything, or no better than chance.

        From the rows of clean inputs; empty where there is no such model.
        """
        names = [str(name) for name in self._details["classes"]]
        words = {model: collapse(self.confusion(model), class_name(names)) for model in self.models}
        return {model: text for model, text in words.items() if text}

    def table(self) -> str:
        """Accuracies in percent as a Markdown table: a line for each perturbation, a column for each model.

        Where classes are unbalanced, each line is followed by one of balanced accuracies. *WARN* and *FAIL* mark
        numbers that the gradient-masking checks do not trust.
        """
        metrics = {"accuracy": "", "balanced_accuracy": ", balanced"} if self.unbalanced else {"accuracy": ""}
        shown = (record for record in self.records if record.metric in metrics)
        return self._table("accuracy in %", shown, metrics)


@dataclass(frozen=True)
class Certification(Result):
    """What `certify` measured."""

    def certified_accuracy(self, model: str, radius: float) -> Record:
        """The share of examples whose decision provably survives every perturbation of that size, with its interval.

        From the best deterministic certificate of each example. Raises UserError where the radius was not measured.
        """
        return self.find("certified_accuracy", "certified_decision_radius", model, radius)

    def attack_accuracy(self, model: str, radius: float) -> Record:
        """The share of examples whose decision no attack changed within that size: an upper bound."""
        return self.find("attack_accuracy", "attack_decision_radius", model, radius)

    def table(self) -> str:
        """Certified accuracy and accuracy under attack in percent as a Markdown table, by radius and model."""
        certified = self.every("certified_accuracy", "certified_decision_radius")
        attacked = self.every("attack_accuracy", "attack_decision_radius")
        return self._table("examples in %", [*certified, *attacked])
