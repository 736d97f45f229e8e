"""What an evaluation writes, made up: three models on forty examples."""

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robust_student.cli.main import main
from robust_student.report.write import write_report
from robust_student.results import masking
from robust_student.results.records import find, summarise
from robust_student.results.rows import Row, group

N = 40
PNG = base64.b64encode(b"not a picture, but the report does not look inside").decode()
RIGHT: dict[tuple[str, float | None], dict[str, int]] = {
    ("none", None): {"teacher": 40, "kd": 38, "robust": 37},
    ("gaussian_snr_db", 10.0): {"teacher": 38, "kd": 30, "robust": 36},
    ("gaussian_snr_db", -1.0): {"teacher": 20, "kd": 12, "robust": 30},
    ("pgd_linf", 0.1): {"teacher": 10, "kd": 6, "robust": 28},
    ("pgd_l2", 0.5): {"teacher": 12, "kd": 8, "robust": 29},
    ("pgd_linf", 1.0): {"teacher": 0, "kd": 0, "robust": 0},
    ("autoattack_linf", 0.1): {"teacher": 8, "kd": 5, "robust": 27},
}
"""How many of the 40 examples, counted from the first, each model gets right."""
PASS = masking.judge(dict.fromkeys(masking.CHECKS, 0.0)).as_dict()
FAIL = masking.judge(dict.fromkeys(masking.CHECKS, 0.0) | {"zero_gradients": 0.2, "square_only": 0.3}).as_dict()
VALIDATION = [(0.5, 0.2), (0.9, 0.6), (0.8, 0.7), (0.9, 0.7), (0.95, 0.65)]
"""(clean, selection) after each epoch: the last one with the highest selection is the fourth."""
Files = dict[str, Any]


def rows(names: dict[str, str]) -> list[Row]:
    """Rows of every model; `names` maps the models of RIGHT to the names they get."""
    made = []
    for model, name in names.items():
        for (kind, setting), right in RIGHT.items():
            for k in range(N):
                realised = setting + 1 if kind == "gaussian_snr_db" and setting is not None else None
                correct = k < right[model]
                answer = k % 2 if correct else 1 - k % 2
                made.append(Row(name, kind, setting, k, k % 2, answer, correct, realised, **scores(kind, k)))
        for kind in ("estimated_decision_radius_linf", "estimated_confidence_radius_linf"):
            made += [Row(name, kind, None, k, k % 2, k % 2, True, k / 100) for k in range(N - 2)]
            made += [Row(name, kind, None, k, k % 2, k % 2, True, None, "infinite") for k in (N - 2, N - 1)]
    return made


def scores(kind: str, k: int) -> dict[str, Any]:
    """Confidence, log-likelihood and Brier score of an example, where an evaluation records them."""
    recorded = kind in ("none", "gaussian_snr_db")
    return {"confidence": 0.5 + k / 80, "nll": k / 40, "brier": k / 80} if recorded else {}


def corruptions(model: str, right: dict[tuple[str, float], int]) -> list[Row]:
    """Rows of a model under corruptions."""
    return [
        Row(model, f"corruption_{kind}", severity, k, k % 2, k % 2 if k < count else 1 - k % 2, k < count)
        for (kind, severity), count in right.items()
        for k in range(N)
    ]


def files(
    names: dict[str, str] | None = None, baseline: str | None = "kd", verdicts: dict[str, dict[str, Any]] | None = None
) -> Files:
    """What an evaluation writes, by file name."""
    names = names if names is not None else {"teacher": "teacher", "kd": "kd", "robust": "robust"}
    baseline = names.get(baseline) if baseline else None
    made = rows(names)
    costs = {
        name: {
            "parameters": 1000.0 * (50 if model == "teacher" else 2),
            "macs": 5e6,
            "file_size": 9360.0,
            "latency": 0.1,
        }
        for model, name in names.items()
    }
    verdicts = {name: (verdicts or {}).get(model, PASS) for model, name in names.items()}
    validation = [{"clean": clean, "selection": selection} for clean, selection in VALIDATION]
    history = [
        {"epoch": k, "terms": {"distillation": 1 / k, "secant": None}, "validation": measured}
        for k, measured in enumerate(validation, start=1)
    ]
    tries = [{"radius": 0.1, "weight": k, "validation": validation[k], "accepted": k > 1} for k in range(4)]
    search = {"max_accuracy_drop": 0.01, "baseline": validation[2], "tries": tries, "chosen": 3}
    settings = {"teacher": names.get("teacher", "teacher"), "pgd_steps": 50, "nested": {"weights": [1, 2]}}
    source = {"version": "0.1.0", "git_commit": "abc123", "seed": 7, "settings": settings, "data": "digits"}
    card = {"network": "cnn:4", "input_range": [0.0, 1.0], "provenance": source | {"data": "training digits"}}
    level = {"snr_db": None, "png": PNG, "predictions": {name: {"prediction": 1, "confidence": 0.5} for name in costs}}
    seen = {"png": PNG, "predictions": {name: {"prediction": 0, "confidence": 0.91} for name in costs}}
    attack = {"model": next(iter(costs)), "perturbation": "pgd_linf", "setting": 0.1, "magnified": 5.0}
    attacked = {"index": 9, "label": 0, "attack": attack, "original": seen, "perturbed": level, "change": {"png": PNG}}
    return {
        "rows.jsonl": [asdict(row) for row in made],
        "summary.json": summarise(group(made), verdicts=verdicts, costs=costs, baseline=baseline, seed=7),
        "evaluation.json": {
            "provenance": source,
            "baseline": baseline,
            "autoattack_suite": "fast",
            "sample": {"test": 400, "examples": N, "attacked": N},
            "classes": ["zero", "one"],
            "models": {name: {"card": card, "history": history, "search": search} for name in costs},
        },
        "gallery.json": [{"index": 3, "label": 0, "levels": [level, level | {"snr_db": -5.0}]}, attacked],
    }


def save(folder: Path, content: Files) -> Path:
    """Write an evaluation's files."""
    for name, value in content.items():
        text = "".join(json.dumps(row) + "\n" for row in value) if name.endswith("l") else json.dumps(value)
        (folder / name).write_text(text)
    return folder


def html(folder: Path, content: Files) -> str:
    """The report of these files."""
    write_report(save(folder, content), folder / "report.html")
    return (folder / "report.html").read_text()


def adjust(content: Files, model: str, metric: str, perturbation: str, **changes: Any) -> Files:
    """Change the records of one model, metric and perturbation; there must be some."""
    records = find(content["summary.json"], model, metric, perturbation)
    assert records
    for record in records:
        record.update(changes)
    return content


def written(folder: Path, suffix: str, *options: str) -> str:
    """What the command writes."""
    output = folder / f"out.{suffix}"
    main(["report", str(folder), "--output", str(output), "--overwrite", *options])
    return output.read_text()


def marked(content: Files, test: str | None = "t", suffix: str = "") -> Files:
    """With checksums of the test set and the weights."""
    if test is not None:
        weights = {name: f"{name}{suffix}" for name in content["evaluation.json"]["models"]}
        content["evaluation.json"]["fingerprint"] = {"test": test, "models": weights}
    return content


def folder(path: Path, content: Files) -> Path:
    path.mkdir()
    return save(path, content)


def report(*words: str | Path) -> dict[str, Any]:
    """What the command writes as JSON into the first directory's report."""
    main(["report", *map(str, words), "--format", "json", "--overwrite"])
    kind = "comparison" if "--compare" in words else "seeds"
    return json.loads((Path(words[0]) / f"{kind}.json").read_text())
