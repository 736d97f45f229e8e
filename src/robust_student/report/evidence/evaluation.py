"""The saved files of one evaluation, read and checked, and what a report shows of them; no model is ever run here."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from robust_student.core.errors import UserError
from robust_student.report.document.figures import model_style
from robust_student.report.document.words import place
from robust_student.report.evidence.reading import Saved, checked, read_checked, read_checked_rows, require_finished
from robust_student.report.evidence.schema import Attacked, Details, EvaluationRecord, Example, Masking
from robust_student.results.breakdown import breakdown
from robust_student.results.calibration import Bin
from robust_student.results.class_measures import Confusion
from robust_student.results.collapse import collapse
from robust_student.results.comparison import Difference, in_words
from robust_student.results.intervals import Estimate
from robust_student.results.masking import CHECKS, Check
from robust_student.results.perturbation import NORMS, Family, Perturbation
from robust_student.results.rows import CERTIFICATION, EVALUATION, GALLERY, SUMMARY, class_name

REPORT_SCHEMA = 1
"""Version of the format of a report in JSON."""
Place = tuple[str, float | None]
"""A perturbation and its setting."""
_LOWER = ("gaussian_snr_db",)
"""Perturbations whose name is a common noun."""


@dataclass(frozen=True)
class Evidence(Saved[EvaluationRecord]):
    """The saved files of one evaluation, read and checked; sections ask it for what they show."""

    details: Details
    gallery: list[Example]
    attacked: list[Attacked]
    """The worst attacked examples."""

    @property
    def others(self) -> list[str]:
        """The models that are compared with the baseline; none where it was not evaluated."""
        return [name for name in self.styles if self.baseline in self.styles and name != self.baseline]

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
        """The student of the verdict: the best under AutoAttack, else under noise, else on clean inputs.

        By accuracies balanced over classes; one that answers one class for everything only where there is no other.
        """
        places = [self.attack, ("gaussian_snr_db", self.level), ("none", None)]

        def rank(name: str) -> list[float]:
            return [float(name not in self.collapsed), *(self._balanced(name, place) for place in places)]

        return max(self.students, key=rank, default=None)

    @cached_property
    def alarms(self) -> list[str]:
        """Models whose masking verdict is not PASS."""
        verdicts = {name: self.masking(name) for name in self.styles}
        return [name for name, verdict in verdicts.items() if verdict and verdict["level"] != "PASS"]

    def confusion(self, model: str, at: Place) -> Confusion | None:
        """Answers by true class of a model in a cell, from the rows; None where it was not measured."""
        rows = self.rows.get((model, *at))
        return None if rows is None else Confusion.of(rows)

    @cached_property
    def collapsed(self) -> dict[str, str]:
        """In words, by model, what is wrong with one that answers one class for everything, or no better than chance.

        From the rows, so that evaluations of older versions are told, too.
        """
        confusions = {name: self.confusion(name, ("none", None)) for name in self.styles}
        words = {name: collapse(confusion, self.class_name) for name, confusion in confusions.items() if confusion}
        return {name: text for name, text in words.items() if text}

    @cached_property
    def level(self) -> float | None:
        """The noise level nearest to 0 dB."""
        settings = {setting for _, setting in self.plan("noise", "gaussian") if setting is not None}
        return min(sorted(settings), key=abs, default=None)

    @cached_property
    def attack(self) -> Place:
        """AutoAttack's perturbation and budget; one that no record has where it was not run."""
        return next(iter(self.plan("attack", "autoattack")), ("autoattack_", None))

    @cached_property
    def radius_norm(self) -> str | None:
        """Norm of the table's median radius: AutoAttack's, else the first measured."""
        metrics = {r["metric"] for r in self.records}
        norms = [n for n in NORMS if f"median_{Perturbation.radius('estimated', 'decision', n)}" in metrics]
        attack_norm = Perturbation.parse(self.attack[0]).norm
        return attack_norm if attack_norm in norms else next(iter(norms), None)

    def plan(self, family: Family | None = None, name: str | None = None) -> list[Place]:
        """Measured (perturbation, setting) pairs of a family and a name in it, in order; None: of all."""
        places = [(r["perturbation"], r["setting"]) for r in self.records if r["metric"] == "accuracy"]
        kinds = {place: Perturbation.parse(place[0]) for place in places}
        return [at for at, kind in kinds.items() if family in (None, kind.family) and name in (None, kind.name)]

    def masking(self, model: str) -> Masking | None:
        """The model's masking verdict; None where it was not attacked.

        That of an evaluation that did not check for one class for everything is corrected.
        """
        verdict = next((r["verdict"] for r in self.records if r["model"] == model and r["verdict"]), None)
        if verdict is not None and model in self.collapsed and "one_answer" not in verdict:
            fail: Masking = {**verdict, "level": "FAIL", "reasons": [self.collapsed[model], *verdict["reasons"]]}
            return fail
        return verdict

    @property
    def test_set(self) -> str | None:
        """Checksum of the test set that the examples are from; None where it was not recorded."""
        fingerprint = self.details.get("fingerprint")
        return None if fingerprint is None else fingerprint["test"]

    def weights(self, model: str) -> str | None:
        """Checksum of a model's weights; None where it was not recorded."""
        fingerprint = self.details.get("fingerprint")
        return None if fingerprint is None else fingerprint["models"].get(model)

    @cached_property
    def main_places(self) -> list[Place]:
        """Clean, the noise level nearest to 0 dB, the strongest attack."""
        places = [("none", None), ("gaussian_snr_db", self.level), self.strongest]
        return [at for at in places if at in self.plan()]

    @cached_property
    def strongest(self) -> Place:
        """The strongest attack: AutoAttack, else PGD at the radius of the threat, where recorded, else its last budget.

        One that no record has where there was no attack.
        """
        if self.attack[1] is not None:
            return self.attack
        threat = self.details.get("threat")
        budgets = [at for at in self.plan("attack", "pgd") if at[1] is None or at[1] < self.range_width]
        places = [] if threat is None else [(str(Perturbation.attack("pgd", threat["norm"])), threat["radius"])]
        return next((at for at in [*places, *budgets[-1:]] if at in budgets), self.attack)

    def place(self, at: Place) -> str:
        """The name of a cell."""
        return place(*at, suite=self.details["autoattack_suite"])

    def difference(self, model: str, at: Place) -> Difference | None:
        """The model minus the baseline in a cell, as recorded; None where they were not compared."""
        recorded = self.get(model, f"accuracy_minus_{self.baseline}", *at)
        if recorded is None or recorded["value"] is None:
            return None
        ends = (recorded["value"], recorded["low"], recorded["high"])
        estimate = Estimate(*(math.nan if end is None else end for end in ends))
        alone, many = (self.get(model, f"{test}_p_against_{self.baseline}", *at) for test in ("mcnemar", "holm"))
        p, adjusted = (None if record is None else record["value"] for record in (alone, many))
        return Difference(estimate, (recorded["n"],), p, "McNemar", adjusted, many["n"] if many else 1)

    def outcome(self, model: str, at: Place) -> Literal["better", "worse", "not shown", "unknown"]:
        """How the model compares with the baseline in a cell; a difference that is not shown may well be there."""
        difference = self.difference(model, at)
        if difference is None or math.isnan(difference.estimate.low):
            return "unknown"
        if not difference.distinguishable:
            return "not shown"
        return "better" if difference.estimate.low > 0 else "worse"

    def doubted(self, model: str, at: Place) -> bool:
        """Whether masking makes the comparison of this model with the baseline worthless in a cell.

        So does any doubt about the model, and a FAIL of the baseline. A baseline that is merely doubtful (WARN) can
        only be weaker than measured, so a gain over it is not overstated: that comparison stands.
        """
        if not Perturbation.parse(at[0]).is_attack or not {model, self.baseline} & set(self.alarms):
            return False
        difference, baseline = self.difference(model, at), self._alarm(str(self.baseline))
        gain = difference is not None and difference.estimate.value > 0
        return model in self.alarms or not gain or (baseline is not None and baseline["level"] == "FAIL")

    def mark(self, model: str, at: Place) -> str:
        """What stands beside a figure under attack whose masking verdict is not PASS."""
        doubt = self._alarm(model) if Perturbation.parse(at[0]).is_attack else None
        return f" ({doubt['level']})" if doubt else ""

    def sentence(self, model: str, at: Place) -> str:
        """In words whether the model's difference from the baseline is larger than its uncertainty."""
        difference = self.difference(model, at)
        if difference is None:
            return f"{model} and {self.baseline} were not compared {self.where(at)}"
        words = in_words(difference, model, str(self.baseline), self.where(at))
        doubt = [f"{name} {verdict['level']}" for name in (model, self.baseline) if (verdict := self._alarm(name))]
        return words + (f"; no evidence: masking verdict of {' and '.join(doubt)}" if self.doubted(model, at) else "")

    def where(self, at: Place) -> str:
        """The cell as it follows a verb."""
        name = self.place(at)
        return (
            "on clean inputs" if at[0] == "none" else f"under {name[0].lower() + name[1:] if at[0] in _LOWER else name}"
        )

    @cached_property
    def breakdown(self) -> list[dict[str, Any]]:
        """Accuracy by class and counts by confidence of every cell, from the rows."""
        return breakdown(self.rows, self.split)

    def class_name(self, label: int) -> str:
        """The name of a class; -1 is what a model answers whose logits are NaN."""
        return class_name(self.details["classes"])(label)

    def by_class(self, at: Place) -> dict[int, dict[str, dict[str, Any]]]:
        """Accuracies of a cell by class, then by model; the classes on which some model is worst come first."""
        classes: dict[int, dict[str, dict[str, Any]]] = {}
        for entry in self.breakdown:
            if (entry["perturbation"], entry["setting"]) == at:
                for accuracy in entry["classes"]:
                    classes.setdefault(accuracy["label"], {})[entry["model"]] = accuracy
        return dict(sorted(classes.items(), key=lambda item: min(accuracy["value"] for accuracy in item[1].values())))

    def bins(self, at: Place) -> dict[str, list[Bin]]:
        """Counts by confidence in a cell, by model, where they were recorded."""
        return {
            entry["model"]: [Bin(b["count"], b["right"], b["confidence"]) for b in entry["confidence"]]
            for entry in self.breakdown
            if (entry["perturbation"], entry["setting"]) == at and entry["confidence"]
        }

    @cached_property
    def calibrated(self) -> list[Place]:
        """The main cells in which confidences were recorded."""
        return [at for at in self.main_places if self.bins(at)]

    @cached_property
    def plain_plan(self) -> list[Place]:
        """Every measured cell but the corruptions, of which there may be dozens."""
        return [at for at in self.plan() if Perturbation.parse(at[0]).family != "corruption"]

    def worst_class(self, model: str, at: Place) -> int | None:
        """The class on which a model is least accurate in a cell."""
        values = {label: by_model[model]["value"] for label, by_model in self.by_class(at).items() if model in by_model}
        return min(values, key=values.__getitem__, default=None)

    @cached_property
    def corruptions(self) -> list[str]:
        """The kinds of corruption that were measured."""
        return list(dict.fromkeys(Perturbation.parse(kind).name for kind, _ in self.plan("corruption")))

    @cached_property
    def severities(self) -> list[float]:
        """The severities of corruption that were measured, growing."""
        return sorted({setting for _, setting in self.plan("corruption") if setting is not None})

    def overall(self, model: str, metric: str) -> EvaluationRecord | None:
        """The only record of a metric over all corruptions."""
        return next((r for r in self.records if (r["model"], r["metric"]) == (model, metric)), None)

    @cached_property
    def figures_of_masking(self) -> list[str]:
        """Names of the numbers that masking verdicts rest on."""
        verdicts: list[dict[str, Any]] = [dict(self.masking(name) or {}) for name in self.styles]
        plain = {key for verdict in verdicts for key, value in verdict.items() if isinstance(value, float | int)}
        order = list(dict.fromkeys(chain(*verdicts)))
        empty = {key for verdict in verdicts for key, value in verdict.items() if value is None}
        return [key for key in order if key in plain | empty]

    def check(self, figure: str) -> Check | None:
        """The masking check of that name, with its thresholds; None for a figure of another version."""
        return next((check for name, check in CHECKS.items() if name == figure), None)

    def counts(self, place: Place) -> str:
        """The number of examples of a perturbation at a setting, or their range over the models."""
        measured = [self.get(name, "accuracy", *place) for name in self.styles]
        return self.among(*sorted({record["n"] for record in measured if record}))

    def among(self, *numbers: int) -> str:
        """Numbers of examples from small to large, of how many in the test set where those are more: "200 of 400"."""
        if not numbers:
            return "0"
        text = "\u2013".join(dict.fromkeys(f"{n:,}" for n in (numbers[0], numbers[-1])))
        total = self.details["sample"]["test"]
        return text if numbers[-1] >= total else f"{text} of {total:,}"

    @cached_property
    def spared(self) -> str:
        """How many examples AutoAttack was spared because they are certified, in words; empty where none could be."""
        skipped = self.details.get("skipped_certified") or {}
        counts = ", ".join(f"{name} {count:,}" for name, count in skipped.items())
        return f"AutoAttack was spared the examples that are certified at its budget ({counts})." if counts else ""

    @property
    def range_width(self) -> float:
        """Width of the inputs' range; infinite where there is no limit."""
        lower, upper = next(iter(self.details["models"].values()))["card"].get("input_range", (None, None))
        return math.inf if lower is None or upper is None else float(upper - lower)

    def marked_epoch(self, model: str) -> int | None:
        """The epoch whose weights were kept, where recorded; else the last one with the highest selection score."""
        described = self.details["models"][model]
        scores = [(e["validation"].get("selection"), e["epoch"]) for e in described["history"]]
        best = max(((score, epoch) for score, epoch in scores if score is not None), default=(None, None))
        return described.get("best_epoch", best[1])

    def values(self) -> dict[str, Any]:
        """Every figure as plain values (docs/results-format.md)."""
        compared = [
            {
                "model": name,
                "baseline": self.baseline,
                "split": self.split,
                "perturbation": at[0],
                "setting": at[1],
                "outcome": self.outcome(name, at),
                "words": self.sentence(name, at).replace("\u00a0", " "),
            }
            for name in self.others
            for at in self.plan()
            if self.difference(name, at)
        ]
        verdicts = {name: self.masking(name) for name in self.styles}
        shown: dict[str, Any] = {"schema": REPORT_SCHEMA, "kind": "evaluation", "split": self.split, **self.details}
        return shown | {
            "masking": verdicts,
            "differences": compared,
            "records": self.records,
            "breakdown": self.breakdown,
        }

    def _alarm(self, model: str | None) -> Masking | None:
        return self.masking(model) if model in self.alarms and model is not None else None

    def _balanced(self, model: str, place: Place) -> float:
        """The balanced accuracy, from the rows; -1 where no accuracy was recorded."""
        record, confusion = self.get(model, "accuracy", *place), self.confusion(model, place)
        measured = record is not None and record["value"] is not None and confusion is not None
        return confusion.balanced_accuracy().value if measured and confusion is not None else -1.0

    def radii(self, model: str, kind: str) -> list[float]:
        """Every example's estimated radius of a kind; infinite where the model has no slope."""
        rows = self.rows.get((model, kind, None), {}).values()
        return [row.radius for row in rows]


def read_evaluation(evaluation: Path) -> Evidence:
    """The checked files of an evaluation's directory; UserError, one line, where one is missing or damaged."""
    if evaluation.is_dir() and not (evaluation / EVALUATION).exists():
        raise UserError(f"directory {evaluation}: holds neither {EVALUATION} nor {CERTIFICATION}, so nothing to report")
    require_finished(evaluation, EVALUATION, "evaluate")
    details = read_checked(evaluation / EVALUATION, TypeAdapter(Details).validate_python)
    records = read_checked(evaluation / SUMMARY, TypeAdapter(list[EvaluationRecord]).validate_python)
    rows = read_checked_rows(evaluation)
    growing, attacked = _gallery(evaluation / GALLERY)
    styles = {name: model_style(k) for k, name in enumerate(details["models"])}
    return Evidence(details, records, rows, styles, growing, attacked)


def _gallery(path: Path) -> tuple[list[Example], list[Attacked]]:
    """The pictures under growing noise and the worst attacked ones; images only have them."""
    if not path.exists():
        return [], []
    entries = read_checked(path, TypeAdapter(list[dict[str, Any]]).validate_python)
    growing = [entry for entry in entries if "attack" not in entry]
    attacked = [entry for entry in entries if "attack" in entry]
    return (
        checked(TypeAdapter(list[Example]).validate_python, growing, path),
        checked(TypeAdapter(list[Attacked]).validate_python, attacked, path),
    )
