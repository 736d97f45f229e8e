"""What `certify` writes, made up: radii between which the true one lies by construction."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsed_page import Page
from saved_evaluation import Files, save

from robust_student.report.write import write_report
from robust_student.results.radii import summarise_radii
from robust_student.results.rows import Row, group

N, SLOW = 30, 20
"""Examples, and how many of them, counted from the first, the slow methods saw."""
BUDGETS = [0.02, 0.05, 0.1]
STRENGTH = {"teacher": 1.0, "kd": 2.0, "robust": 4.0}
METHODS = {"interval": 0.5, "gradient": 0.75, "lipschitz": 0.1, "linear": 0.9}
"""The certified radius of each method as a share of the largest one that is right."""


def radius(model: str, kind: str, k: int) -> float:
    """Made-up radii: example 0 is wrong, 1 has none certified, 2 has an infinite estimate and no attack."""
    true = 0.0 if k == 0 else 0.01 * STRENGTH[model] * (1 + (7 * k) % 10)
    if kind.startswith("certified"):
        return 0.0 if k == 1 else 0.8 * true * METHODS[kind.split("_")[1]]
    if kind.startswith("estimated"):
        return math.inf if k == 2 else 1.3 * true
    return math.inf if kind.startswith("attack") and k == 2 else true * (1.0 if kind.startswith("attack") else 0.9)


def rows(names: dict[str, str], norm: str = "linf", smoothed: bool = False) -> list[Row]:
    """Rows of every model; `names` maps the models of STRENGTH to the names they get."""
    made = []
    for model, name in names.items():
        made += [Row(name, "none", None, k, 0, 0 if k else 1, k > 0) for k in range(N)]
        for meaning in ("decision", "confidence") if "teacher" in names else ("decision",):
            methods = [f"certified_{method}" for method in METHODS if (model, method) != ("teacher", "linear")]
            for kind in ("estimated", "sampled", "attack", *methods):
                for k in range(SLOW if kind in ("sampled", "attack", "certified_linear") else N):
                    value = radius(model, kind, k) * (1.0 if meaning == "decision" else 0.5 * (k % 3 > 0))
                    value_and_detail = (None, "infinite") if math.isinf(value) or math.isnan(value) else (value, None)
                    made.append(Row(name, f"{kind}_{meaning}_radius_{norm}", None, k, 0, 0, k > 0, *value_and_detail))
        for budget in BUDGETS if "teacher" in names else ():
            made += [Row(name, f"agreement_{norm}", budget, k, 0, 0, k % 5 > 0) for k in range(SLOW)]
        for k in range(10 if smoothed else 0):
            guess = (0, -1, 1)[k % 3]
            value = 0.03 * k if guess == 0 else 0.0
            detail = "abstain" if guess == -1 else None
            made.append(Row(name, "certified_smoothed_radius_l2", None, k, 0, guess, guess == 0, value, detail))
    return made


def files(
    names: dict[str, str] | None = None,
    baseline: str | None = "kd",
    norm: str = "linf",
    smoothed: bool = False,
    change: Callable[[Row], Row | None] = lambda row: row,
) -> Files:
    """What `certify` writes, by file name; `change` may alter or drop rows."""
    names = names if names is not None else {name: name for name in STRENGTH}
    made = [changed for row in rows(names, norm, smoothed) if (changed := change(row)) is not None]
    base = names.get(baseline) if baseline else None
    settings = {
        "norm": norm,
        "methods": list(METHODS),
        "tolerance": 0.05,
        "attacks": ["pgd-bisection", "fab"],
        "sampled_points": 16,
        "smoothing": {"sigma": 0.25 if smoothed else None, "samples": 1000, "alpha": 0.001},
        "teacher": names.get("teacher", "teacher"),
        "seed": 7,
    }
    source = {"version": "0.1.0", "seed": 7, "settings": settings, "data": "digits"}
    card = {"network": "cnn:4", "provenance": source}
    return {
        "rows.jsonl": [asdict(row) for row in made],
        "summary.json": summarise_radii(group(made), norm=norm, budgets=BUDGETS, baseline=base, seed=7),  # type: ignore[arg-type]
        "certification.json": {
            "fingerprint": {"settings": settings},
            "provenance": source,
            "baseline": base,
            "budgets": BUDGETS,
            "sample": {"test": 400, "examples": N, "linear": SLOW},
            "classes": ["zero", "one"],
            "models": {name: {"card": card | {"sha256": f"digest of {name}"}} for name in names.values()},
        },
    }


class Tables(Page):
    """A parsed page whose `<data>` values are kept by section, row and cell."""

    def __init__(self, text: str) -> None:
        self.rows: dict[str, list[list[list[float]]]] = {}
        super().__init__(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        for _, name in self.stack:
            lines = self.rows.setdefault(name, []) if name else []
            if tag == "tr":
                lines.append([])
            elif tag == "td" and lines:
                lines[-1].append([])
            elif tag == "data" and lines and lines[-1]:
                lines[-1][-1].append(float(dict(attrs)["value"] or "nan"))

    def table(self, section: str) -> list[list[list[float]]]:
        """Rows of a section that have cells."""
        return [line for line in self.rows[section] if line]


def html(folder: Path, content: Files) -> str:
    write_report(save(folder, content), folder / "report.html")
    return (folder / "report.html").read_text()


def numbers(record: dict[str, Any]) -> list[float]:
    return [record[field] for field in ("value", "low", "high") if record[field] is not None]


def without(*kinds: str) -> Callable[[Row], Row | None]:
    return lambda row: None if row.perturbation.startswith(kinds) else row


ALONE = {"kd": "kd"}
