"""Print a Markdown table from the summary.json files of several seeds: python benchmarks/results_table.py SUMMARY...

Per model and column: the mean over seeds, in percent; in brackets Student's 95 % interval over seeds, or Wilson's over
examples where there is one seed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from robust_student.intervals import Estimate, mean_of_runs
from robust_student.results import find

Column = tuple[str, float | None]


def columns(records: list[dict[str, Any]]) -> list[Column]:
    """The measured (perturbation, setting) pairs in order, without the masking check's unlimited budget."""
    pairs = [(r["perturbation"], r["setting"]) for r in records if r["metric"] == "accuracy"]
    return [pair for pair in dict.fromkeys(pairs) if pair != ("pgd_linf", 1.0)]


def cell(summaries: list[list[dict[str, Any]]], model: str, column: Column) -> str:
    """One accuracy over all seeds."""
    perturbation, setting = column
    found = [r for s in summaries for r in find(s, model, "accuracy", perturbation) if r["setting"] == setting]
    if not found:
        return "-"
    single = Estimate(found[0]["value"], found[0]["low"], found[0]["high"])
    value, low, high = single if len(found) == 1 else mean_of_runs([r["value"] for r in found])
    low, high = max(low, 0.0), min(high, 1.0)
    verdicts = {r["verdict"]["level"] for r in found if r["verdict"]} - {"PASS"}
    mark = f" {'/'.join(sorted(verdicts))}" if verdicts and perturbation.startswith("autoattack") else ""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{mark}"


def main(paths: list[str]) -> None:
    """Print the table."""
    summaries = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    wanted = columns(summaries[0])
    models = dict.fromkeys(record["model"] for record in summaries[0])
    heads = [
        f"{kind.removeprefix('gaussian_')} {'' if setting is None else f'{setting:g}'}" for kind, setting in wanted
    ]
    print("| model | parameters | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 2) + "|")
    for model in models:
        parameters = find(summaries[0], model, "parameters")[0]["value"]
        print(f"| {model} | {parameters:,} | " + " | ".join(cell(summaries, model, c) for c in wanted) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
