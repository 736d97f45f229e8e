"""What the commands print when they are done."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robust_student.doctor.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from robust_student.evaluation.result import Certification, Evaluation, Record
    from robust_student.training.outlook import Outlook

_UNBOUNDED = 10_000
"""Columns of a terminal in which every table has the width that it would like."""


class Headline(NamedTuple):
    """The figures of one model that a terminal shows."""

    model: str
    parameters: float | None
    clean: "Record"
    noise: "Record | None"
    """Under Gaussian noise, at the measured level nearest 0 dB."""
    attack: "Record | None"
    """Under AutoAttack; where it was not run under PGD at its norm and budget."""


def headline(evaluation: "Evaluation") -> list[Headline]:
    """One line for each model."""
    lines = []
    at = evaluation.attack
    for name in evaluation.models:
        noise = evaluation.every("accuracy", "gaussian_snr_db", name)
        accuracies = evaluation.every("accuracy", None, name)
        attacks = [accuracy for accuracy in accuracies if (accuracy.perturbation, accuracy.setting) == at]
        parameters = evaluation.every("parameters", "none", name)
        lines.append(
            Headline(
                name,
                parameters[0].value if parameters else None,
                evaluation.accuracy(name),
                min(noise, key=lambda record: abs(record.setting or 0.0), default=None),
                attacks[0] if attacks else None,
            )
        )
    return lines


def finished(trained: Any, output: Path) -> None:
    """Which epoch was kept, its validation figures, what is wrong with it, where the model is."""
    figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in trained.validation.items())
    print(f"epoch {trained.best_epoch} of {len(trained.history)} kept; validation: {figures}")
    for line in trained.warnings:
        print(f"WARNING: {line}")
    print(f"model: {output}")


def answer_of(logits: "Tensor", classes: Sequence[str]) -> str:
    """What logits `(classes,)` say: the name of the class and its probability."""
    if bool(logits.isnan().any()):
        return "no answer (NaN)"
    return f"{classes[int(logits.argmax())]} ({100 * float(logits.softmax(dim=0).amax()):.1f} %)"


def stage(text: str) -> None:
    """Print what a command is doing, at once even where the output goes to a file."""
    print(text, flush=True)


def show_outlook(outlook: "Outlook") -> None:
    """What is about to be trained, a line for each fact, and a doubt about it."""
    for line in outlook.lines:
        stage(line)
    if outlook.doubt is not None:
        stage(f"WARNING: {outlook.doubt}")


def show_search(record: dict[str, Any]) -> None:
    """The trade-off curve of a search as a table."""
    table = Table(title="search on validation", title_justify="left")
    for column in ("radius", "weight", "clean", "selection", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    plain = record["baseline"]
    table.add_row("", "plain", f"{100 * plain['clean']:.1f}", f"{100 * plain['selection']:.1f}", "")
    for k, attempt in enumerate(record["tries"]):
        accuracies = attempt["validation"]
        mark = "chosen" if k == record["chosen"] else "" if attempt["accepted"] else "drops too much"
        figures = f"{100 * accuracies['clean']:.1f}", f"{100 * accuracies['selection']:.1f}"
        table.add_row(f"{attempt['radius']:.4g}", f"{attempt['weight']:.4g}", *figures, mark)
    Console().print(table)


def show(evaluation: "Evaluation", path: Path) -> None:
    """The headline figures as a table, how many examples they rest on, and where the rest is.

    First come models that answer one class for everything, or no better than chance.
    """
    from robust_student.results.rows import EVALUATION
    from robust_student.runtime.files import read_json

    details = read_json(path.parent / EVALUATION)
    for name, words in evaluation.collapsed.items():
        alarm = Text(f"{name}: {words}", style="bold red")
        Console(highlight=False).print(alarm + "; figures under attack are no evidence of robustness", soft_wrap=True)
    lines = headline(evaluation)
    noise = next((line.noise for line in lines if line.noise), None)
    attack = next((line.attack for line in lines if line.attack), None)
    suite = details["autoattack_suite"]
    title = f"AutoAttack {suite}" if suite else f"PGD {details['provenance']['settings']['pgd_steps']}"
    headings = ["clean", f"noise {noise.setting:g} dB" if noise else "noise"]
    headings += [f"{title}\n{attack.unit} {attack.setting:g}" if attack else "attack"]
    balanced = evaluation.unbalanced
    if balanced:
        headings = [text for heading in headings for text in (heading, f"{heading}\nbalanced")]
    rows = []
    for line in lines:
        cells = []
        for record in (line.clean, line.noise, line.attack):
            cells.append(record.percent if record else "-")
            if balanced:
                cells.append(_balanced(evaluation, record).percent if record else "-")
        level = line.attack.level if line.attack else None
        rows.append([line.model, f"{line.parameters:,}", *cells, level or "not run"])
    _show_models("test accuracy in % with 95 % intervals", ["parameters", *headings, "masking"], rows)
    sample = details["sample"]
    under_attack = f", under attack {sample['attacked']:,}" if attack else ""
    print(f"n = {sample['examples']:,} of {sample['test']:,} test examples{under_attack}")
    if balanced:
        print("balanced: the mean of the classes' accuracies, because some classes have few examples")
    if attack and not suite:
        print("AutoAttack was not run: PGD alone is no evidence of robustness")
    print(f"attacked at {details['threat']['words']}" if attack else "not attacked")
    skipped = details["skipped_certified"]
    if skipped and suite:
        counts = ", ".join(f"{name} {count:,}" for name, count in skipped.items())
        print(f"certified by interval bounds, so not attacked by AutoAttack: {counts}")
    print(f"{'report' if path.suffix == '.html' else 'summary'}: {path}")


def _balanced(evaluation: "Evaluation", record: "Record") -> "Record":
    """The balanced accuracy that belongs to an accuracy."""
    return evaluation.balanced_accuracy(record.model, record.perturbation, record.setting)


def show_radii(certification: "Certification", path: Path) -> None:
    """Certified and attacked accuracy by budget and median radii, from the best deterministic certificate."""
    from robust_student.results.rows import CERTIFICATION
    from robust_student.runtime.files import read_json

    kind, unit = "certified_decision_radius", certification.records[0].unit
    title = f"decision under {unit} perturbations: examples in %, medians of radii"
    budgets = sorted(
        {record.setting for record in certification.every("attack_accuracy") if record.setting is not None}
    )
    headings = [f"certified\n{budget:g}" for budget in budgets]
    headings += [f"stands\n{budgets[-1]:g}", "certified\nradius", "attack\nradius", "violations"]
    rows = []
    for name in certification.models:
        held = [record.percent for record in certification.every("certified_accuracy", kind, name)]
        medians = []
        for side in ("certified", "attack"):
            radius = next(iter(certification.every(f"median_{side}_decision_radius", None, name)), None)
            medians.append("-" if radius is None or radius.value is None else f"{radius.value:.4g}")
        broken = next(iter(certification.every("sandwich_violations", kind, name)), None)
        count = f"{broken.value:.0f} of {broken.n}" if broken else "-"
        stands = certification.attack_accuracy(name, budgets[-1]).percent
        rows.append([name, *(held or ["-"] * len(budgets)), stands, *medians, count])
    _show_models(title, headings, rows)
    print(f"certified at {read_json(path.parent / CERTIFICATION)['threat']}")
    for record in certification.every("certified_accuracy", "certified_smoothed_radius"):
        print(f"{record.model}, smoothed: {record.percent} certified at {unit} {record.setting:g}, n = {record.n}")
    print(f"summary: {path}")


def _show_models(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A line for each model, its name first; where that is wider than the terminal, a line for each of its figures."""
    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, *cells in rows:
        table.add_row(Text(name), *cells)
    if console.measure(table, options=console.options.update_width(_UNBOUNDED)).maximum > console.width:
        table = Table(title=title, title_justify="left")
        table.add_column("model", overflow="fold")
        table.add_column("figure", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        for name, *cells in rows:
            for k, (heading, cell) in enumerate(zip(headings, cells, strict=True)):
                table.add_row("" if k else Text(name), heading.replace("\n", " "), cell)
            table.add_section()
    console.print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """A check-up by area, one finding a line, and how many problems there are."""
    console, colours = Console(highlight=False), {"fine": "green", "note": "yellow", "problem": "bold red"}
    for area in dict.fromkeys(finding.area for finding in findings):
        console.print(Text(area, style="bold"))
        for finding in findings:
            if finding.area == area:
                line = Text(f"  {finding.level:8}", style=colours[finding.level])
                line.append(finding.text + (f": {finding.fix}" if finding.fix else ""), style="default")
                console.print(line, soft_wrap=True)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "note")}
    print(", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items()))
