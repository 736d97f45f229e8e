"""What the commands print when they are done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robust_student.doctor.findings import Finding
from robust_student.results.perturbation import Perturbation
from robust_student.results.records import find


def headline(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per model for a terminal: clean, noise at the level nearest 0 dB, AutoAttack, verdict, parameters."""
    names = list(dict.fromkeys(record["model"] for record in records))
    lines = []
    for name in names:
        noise = min(find(records, name, "accuracy", "gaussian_snr_db"), key=lambda r: abs(r["setting"]), default=None)
        accuracy = [r for r in records if r["model"] == name and r["metric"] == "accuracy"]
        attacked = [r for r in accuracy if Perturbation.parse(r["perturbation"]).name == "autoattack"]
        parameters = find(records, name, "parameters")
        lines.append(
            {
                "model": name,
                "parameters": parameters[0]["value"] if parameters else None,
                "clean": find(records, name, "accuracy")[0],
                "noise": noise,
                "autoattack": attacked[0] if attacked else None,
            }
        )
    return lines


def finished(trained: Any, output: Path) -> None:
    """Which epoch was kept, its validation figures, where the model is."""
    figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in trained.validation.items())
    print(f"epoch {trained.best_epoch} of {len(trained.history)} kept; validation: {figures}")
    print(f"model: {output}")


def stage(text: str) -> None:
    """What a command is at, at once even where the output goes to a file."""
    print(text, flush=True)


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


def show(records: list[dict[str, Any]], path: Path) -> None:
    """The headline figures as a table, how many examples they rest on, and where the rest is."""
    from robust_student.results.rows import EVALUATION
    from robust_student.runtime.files import read_json

    details = read_json(path.parent / EVALUATION)
    table = Table(title="test accuracy in % with 95 % intervals", title_justify="left")
    lines = headline(records)
    noise = next((line["noise"] for line in lines if line["noise"]), None)
    attack = next((line["autoattack"] for line in lines if line["autoattack"]), None)
    table.add_column("model")
    table.add_column("parameters", justify="right")
    table.add_column("clean", justify="right")
    table.add_column(f"noise {noise['setting']:g} dB" if noise else "noise", justify="right")
    heading = (
        f"AutoAttack {details['autoattack_suite']}\n{attack['unit']} {attack['setting']:g}" if attack else "AutoAttack"
    )
    table.add_column(heading, justify="right")
    table.add_column("masking")
    for line in lines:
        verdict = (line["autoattack"] or {}).get("verdict") or {}
        cells = (_percent(line[name]) for name in ("clean", "noise", "autoattack"))
        table.add_row(line["model"], f"{line['parameters']:,}", *cells, verdict.get("level", "not run"))
    console = Console()
    console.print(table)
    sample = details["sample"]
    attacked = f", under attack {sample['attacked']:,}" if attack else ""
    print(f"n = {sample['examples']:,} of {sample['test']:,} test examples{attacked}")
    skipped = details["skipped_certified"]
    if skipped and attack:
        counts = ", ".join(f"{name} {count:,}" for name, count in skipped.items())
        print(f"certified, so AutoAttack was spared them: {counts}")
    print(f"{'report' if path.suffix == '.html' else 'summary'}: {path}")


def show_radii(records: list[dict[str, Any]], path: Path) -> None:
    """Certified and attacked accuracy by budget and median radii, from the best deterministic certificate."""
    from robust_student.results.records import find

    names = list(dict.fromkeys(record["model"] for record in records))
    kind, unit = "certified_decision_radius", records[0]["unit"]
    title = f"decision under {unit} perturbations: examples in % with 95 % intervals, medians of radii"
    table = Table(title=title, title_justify="left")
    budgets = sorted({record["setting"] for record in records if record["metric"] == "attack_accuracy"})
    table.add_column("model", no_wrap=True)
    for budget in budgets:
        table.add_column(f"certified\n{budget:g}", justify="right")
    for heading in (f"stands\n{budgets[-1]:g}", "certified\nradius", "attack\nradius", "violations"):
        table.add_column(heading, justify="right")
    for name in names:
        held = [_percent(record) for record in find(records, name, "certified_accuracy", kind)] or ["-"] * len(budgets)
        attacked = find(records, name, "attack_accuracy", "attack_decision_radius")
        radii = [find(records, name, f"median_{side}_decision_radius") for side in ("certified", "attack")]
        medians = ["-" if not found or found[0]["value"] is None else f"{found[0]['value']:.4g}" for found in radii]
        broken = find(records, name, "sandwich_violations", kind)
        count = f"{broken[0]['value']:.0f} of {broken[0]['n']}" if broken else "-"
        table.add_row(name, *held, _percent(attacked[-1]), *medians, count)
    Console().print(table)
    for name in names:
        for record in find(records, name, "certified_accuracy", "certified_smoothed_radius"):
            print(f"{name}, smoothed: {_percent(record)} certified at {unit} {record['setting']:g}, n = {record['n']}")
    print(f"summary: {path}")


def show_findings(findings: Sequence[Finding]) -> None:
    """A check-up by what was looked at, one finding a line, and how many problems there are."""
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


def _percent(record: dict[str, Any] | None) -> str:
    if record is None or record["value"] is None:
        return "-"
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"
