"""The report of certificates: what is proved and what is not stay apart, and every number is that of the rows."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from report.test_write import Files, Page, save
from report.test_write import files as evaluation_files

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.report import figures
from robust_student.report.certificates import read
from robust_student.report.write import write_report
from robust_student.results.intervals import wilson
from robust_student.results.radii import Bracket, brackets, certified_agreement, share_beyond, summarise_radii
from robust_student.results.records import find
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
                    known = (None, "infinite") if math.isinf(value) or math.isnan(value) else (value, None)
                    made.append(Row(name, f"{kind}_{meaning}_radius_{norm}", None, k, 0, 0, k > 0, *known))
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
    made = [kept for row in rows(names, norm, smoothed) if (kept := change(row)) is not None]
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


def test_share_beyond_counts() -> None:
    radii = [0.0, 0.0, 0.1, 0.1, 0.3, math.inf]
    grid = [0.0, 0.05, 0.1, 0.2, 0.3, 5.0]
    for certified in (True, False):
        curve = share_beyond(radii, grid, certified=certified)
        for r, estimate in zip(grid, curve, strict=True):
            held = [radius >= r and radius > 0 if certified else radius > r for radius in radii]
            assert estimate == wilson(sum(held), len(held))
    assert [e.value * 6 for e in share_beyond(radii, grid, certified=True)] == pytest.approx([4, 4, 4, 2, 2, 1])
    assert [e.value * 6 for e in share_beyond(radii, grid, certified=False)] == pytest.approx([4, 4, 2, 2, 1, 1])


def test_brackets_hold_examples_with_both_bounds_in_order() -> None:
    columns = {
        "certified_decision_radius": {3: 0.2, 1: 0.1, 2: 0.1, 9: 0.0},
        "attack_decision_radius": {1: 0.3, 2: 0.2, 3: 0.1, 5: 0.4},
        "estimated_decision_radius": {1: 0.25},
        "certified_confidence_radius": {4: 0.5},
    }
    made = brackets(columns, "decision")
    assert list(made) == [2, 1, 3] and made[1][:1] + made[1][2:] == (0.1, 0.25, 0.3) and math.isnan(made[1].sampled)
    assert [bracket.violated for bracket in made.values()] == [False, False, True]
    alone = brackets(columns, "confidence")[4]
    assert alone.certified == 0.5 and math.isnan(alone.attack) and not alone.violated
    assert brackets({}, "decision") == {}
    assert not Bracket(0.1, 0.0, 0.0, 0.1 * (1 - 1e-7)).violated  # the same radius, rounded otherwise


def test_certified_agreement_needs_both_on_the_same_examples() -> None:
    mine, theirs = {1: 0.2, 2: 0.2, 3: 0.05, 4: 0.3}, {1: 0.1, 2: 0.05, 3: 0.3, 9: 0.4}
    assert certified_agreement(mine, theirs, 0.1) == (wilson(1, 3), 3)
    assert certified_agreement(mine, {9: 0.1}, 0.1) is None


def test_same_files_same_bytes(tmp_path: Path) -> None:
    first = html(tmp_path, files())
    assert html(tmp_path, files()) == first
    call = "import sys, pathlib as p, robust_student.report.write as r; r.write_report(*map(p.Path, sys.argv[1:]))"
    other = tmp_path / "other.html"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", call, str(tmp_path), str(other)], check=True, env=environment)
    assert other.read_text() == first


def test_medians_and_shares_are_the_records(tmp_path: Path) -> None:
    content = files()
    records, page = content["summary.json"], Tables(html(tmp_path, content))
    kinds = ["estimated", "sampled", *(f"certified_{method}" for method in METHODS), "certified", "attack"]
    table = page.table("bounds")
    for kind, line in zip(kinds, table, strict=False):
        medians = [find(records, name, f"median_{kind}_decision_radius") for name in STRENGTH]
        assert line == [numbers(of[0]) if of else [] for of in medians]
    assert table[len(kinds)] == [[0.0], [0.0], [0.0]]  # violations
    shares = table[len(kinds) + 1 :]
    for budget in BUDGETS:
        for kind in kinds[2:]:
            metric = "attack_accuracy" if kind == "attack" else "certified_accuracy"
            found = [find(records, name, metric, f"{kind}_decision_radius") for name in STRENGTH]
            here = [[record for record in of if record["setting"] == budget] for of in found]
            assert shares.pop(0) == [numbers(of[0]) if of else [] for of in here]
    for kind in kinds:
        ratios = [find(records, name, f"median_{kind}_decision_radius_over_kd") for name in ("teacher", "robust")]
        assert shares.pop(0) == [numbers(of[0]) if of else [] for of in ratios]
    assert not shares


def test_summary_brackets_the_truth_on_the_same_examples(tmp_path: Path) -> None:
    content = files()
    page = Tables(html(tmp_path, content))
    table = page.table("certificates")
    assert len(table) == 3
    for model, cells in zip(STRENGTH, table, strict=True):
        assert cells[0] == numbers(find(content["summary.json"], model, "accuracy")[0])
        best = max(share for name, share in METHODS.items() if (model, name) != ("teacher", "linear"))
        for budget, cell in zip(BUDGETS, cells[1:], strict=True):
            proved = wilson(
                sum(k > 1 and 0.8 * best * radius(model, "sampled", k) / 0.9 >= budget for k in range(SLOW)), SLOW
            )
            stands = wilson(sum(radius(model, "attack", k) > budget for k in range(SLOW)), SLOW)
            assert cell == [proved.value, stands.value, proved.low, stands.high]
            assert proved.value <= stands.value
    sentence = page.words("proved")
    assert sentence.startswith(
        "It is proved that no perturbation of L∞ size up to 0.1 changes the right decision of robust on"
    )
    assert "0 sandwich violations in 120 comparisons" in page.words("violations")


def test_curves_meet_the_records_at_the_budgets(tmp_path: Path) -> None:
    content = files()
    view = read(save(tmp_path, content))
    for meaning, noun in (("decision", "accuracy"), ("confidence", "confidence")):
        for budget in BUDGETS:
            sides = view.between("robust", meaning, budget)
            for side, share in zip(("certified", "attack"), sides, strict=True):
                recorded = find(content["summary.json"], "robust", f"{side}_{noun}", f"{side}_{meaning}_radius")
                there = next(record for record in recorded if record["setting"] == budget)
                assert share is not None and (*share[:3], share.n) == (*numbers(there), there["n"])
    grid = view.grid("decision")
    assert set(BUDGETS) < set(grid) and grid[0] == 0.0 and grid == sorted(grid)


def test_confidence_and_agreement(tmp_path: Path) -> None:
    content = files()
    page = Tables(html(tmp_path, content))
    positive = sum(k % 3 > 0 and radius("kd", "estimated", k) > 0 for k in range(N))
    assert page.table("confidence")[0][0] == list(wilson(positive, N))
    assert "teacher itself is left out" in page.words("confidence")
    table = page.table("agreement")
    for budget in BUDGETS:
        best = {
            m: [k > 1 and 0.8 * f * radius(m, "sampled", k) / 0.9 for k in range(SLOW)]
            for m, f in (("teacher", 0.75), ("kd", 0.9), ("robust", 0.9))
        }
        both = [
            sum(min(mine, its) >= budget for mine, its in zip(best[m], best["teacher"], strict=True))
            for m in ("kd", "robust")
        ]
        assert table.pop(0) == [list(wilson(count, SLOW)) for count in both]
        found = [find(content["summary.json"], m, "agreement", "agreement_linf") for m in ("kd", "robust")]
        assert table.pop(0) == [numbers(next(r for r in of if r["setting"] == budget)) for of in found]


def test_smoothed_classifier_stands_apart(tmp_path: Path) -> None:
    content = files(norm="l2", smoothed=True)
    page = Tables(html(tmp_path, content))
    words = page.words("smoothed")
    assert "Another classifier" in words and "1 − α = 99.9 %" in words and "deviation 0.25" in words
    right, abstains, median, *shares = page.table("smoothed")[0]
    assert right == list(wilson(4, 10)) and abstains == list(wilson(3, 10))
    records = content["summary.json"]
    assert median == numbers(find(records, "teacher", "median_certified_smoothed_radius")[0])
    assert shares == [numbers(r) for r in find(records, "teacher", "certified_accuracy", "certified_smoothed_radius")]
    assert "smoothed" not in page.words("bounds")


def test_a_violation_is_an_alarm(tmp_path: Path) -> None:
    def broken(row: Row) -> Row:
        found = row.perturbation.startswith("attack_decision") and row.index == 3 and row.model == "kd"
        return Row(**asdict(row) | {"value": 0.001}) if found else row

    page = Tables(html(tmp_path, files(change=broken)))
    words = page.words("certificates")
    assert (
        "✕ 1 sandwich violation in 120 comparisons" in words and "no certificate on this page may be believed" in words
    )
    assert "violations" not in page.text
    assert page.table("bounds")[8] == [[0.0], [1.0], [0.0]]


def without(*kinds: str) -> Callable[[Row], Row | None]:
    return lambda row: None if row.perturbation.startswith(kinds) else row


ALONE = {"kd": "kd"}


@pytest.mark.parametrize(
    ("section", "words", "arguments"),
    [
        ("violations", "neither was checked by the other", {"change": without("attack_")}),
        ("certificates", "at least", {"change": without("attack_")}),
        ("certificates", "at most", {"change": without("certified_")}),
        ("proved", "No example of any model is certified at any of the budgets", {"change": without("certified_")}),
        ("standing", "Nothing was certified or attacked", {"change": without("certified_", "attack_")}),
        ("sandwich", "Neither certified nor attacked", {"change": without("certified_", "attack_")}),
        ("agreement", "not measured", {"change": without("agreement_")}),
        ("bounds", "certified: best", {"change": without("estimated_", "sampled_")}),
        ("agreement", "no model is called teacher", {"names": ALONE}),
        ("agreement", "there is no student beside the teacher", {"names": {"teacher": "teacher"}}),
        ("proved", "right decision of kd on", {"names": ALONE}),
        ("bounds", "Median decision radius", {"baseline": None}),
    ],
)
def test_gaps_are_said_in_words(tmp_path: Path, section: str, words: str, arguments: dict[str, Any]) -> None:
    page = Page(html(tmp_path, files(**arguments)))
    assert words in page.words(section)
    assert not re.search(r"\bnan\b", " ".join(page.text.values()))


def test_sections_that_have_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    text = html(tmp_path, files(ALONE))
    assert not {'id="confidence"', 'id="standing"', 'id="smoothed"'} & set(re.findall(r'id="\w+"', text))
    assert "Ratio of medians" not in html(tmp_path, files(baseline=None))


def test_names_from_users_are_only_text(tmp_path: Path) -> None:
    hostile = '"><img src=x onerror="alert(1)"><script>alert(2)</script>$\\frac{'
    content = files({"teacher": "_x$y$", "kd": "kd", "robust": hostile}, norm="l2", smoothed=True)
    content["certification.json"]["provenance"]["data"] = hostile
    content["certification.json"]["fingerprint"]["settings"]["attacks"] = [hostile]
    page = Page(html(tmp_path, content))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for section in ("certificates", "standing", "sandwich", "bounds", "smoothed", "confidence", "agreement"):
        assert hostile in page.text[section]


def test_figures_are_bounded_and_keyed_by_kind() -> None:
    wide = [(0.0, math.nan, math.inf, 0.0), (0.1, 0.2, 0.3, 0.4), (0.2, 0.1, 0.1, math.inf)]
    svg = figures.sandwich_figure(wide, "linf", "x")
    assert all(color.lower() in svg.lower() for color, _ in figures.SIDES.values()) and figures.BAND.lower() in svg
    assert "nan" not in svg and "inf" not in svg.replace("L∞", "")
    x = [float(value) for value in re.findall(r"[ML] ([\d.-]+) [\d.-]+", svg)]
    assert max(x) < 340 and min(x) > -10
    many = [(k / 1000, math.nan, 0.5, 0.1 + k / 1000) for k in range(1000)]
    crowd = figures.sandwich_figure(many, "l2", "x")
    assert len(crowd) < 200_000 and crowd == figures.sandwich_figure(many, "l2", "x")
    only = figures.sandwich_figure([(0.1, math.nan, math.nan, math.nan)], "l1", "x")
    assert "nan" not in only


def test_a_figure_of_shares_draws_them_to_scale() -> None:
    style = figures.model_style(0)
    curve = [(1.0, 0.9, 1.0), (0.5, 0.4, 0.6), (0.0, 0.0, 0.1)]
    svg = figures.standing_figure([(style, curve)], [0.0, 0.1, 0.2], [0.1], "linf", "share", "x")
    line = next(d for d in re.findall(r'd="([^"]+)"', svg) if len(d.split()) == 9 and d.startswith("M"))
    x, y = ([float(word) for word in line.replace("M", "").replace("L", "").split()[k::2]] for k in (0, 1))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.05) and y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.05)
    assert y[0] < y[2]


@pytest.mark.parametrize("name", ["summary.json", "rows.jsonl"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, files())
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert "\n" not in str(error.value) and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("details", "command"), [("certification.json", "certify"), ("evaluation.json", "evaluate")])
def test_unfinished_directories_say_what_to_do(tmp_path: Path, details: str, command: str) -> None:
    (tmp_path / details).write_text('{"fingerprint": {}, "provenance": {}}')
    with pytest.raises(UserError, match=f"unfinished .*run the same {command} command again"):
        write_report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.json", "{", "not valid JSON"),
        ("summary.json", '[{"model": "kd"}]', "'0.schema': field required"),
        ("certification.json", '{"fingerprint": {}, "provenance": {}}', "unfinished, damaged"),
        ("rows.jsonl", "nonsense\nnonsense\n", "line 1 is not valid JSON"),
        ("rows.jsonl", '{"perturbation": "none"}\n', "'0.model': field required"),
        ("rows.jsonl", "", "not the rows that summary.json was made from"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (save(tmp_path, files()) / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Directories of an evaluation and of certificates."""
    folders = tmp_path / "evaluation", tmp_path / "certificates"
    for folder, content in zip(folders, (evaluation_files(), files()), strict=True):
        folder.mkdir()
        save(folder, content)
    return folders


def test_a_report_with_certificates_does_not_take_the_name_of_the_one_without(both: tuple[Path, Path]) -> None:
    evaluation, certificates = both
    main(["report", str(evaluation)])
    alone = (evaluation / "report.html").read_bytes()
    main(["report", str(evaluation), "--certificates", str(certificates)])
    assert (evaluation / "report.html").read_bytes() == alone
    assert 'id="certificates"' in (evaluation / "report-with-certificates.html").read_text()


def test_certificates_below_an_evaluation(both: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation, certificates = both
    main(["report", str(evaluation), "--certificates", str(certificates), "--output", str(tmp_path / "both.html")])
    text = (tmp_path / "both.html").read_text()
    page = Page(text)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {"verdict", "provenance", "certificates", "bounds"} < set(ids)
    targets = {value[1:] for _, name, value in page.attributes if name in ("href", "xlink:href") and value[0] == "#"}
    assert targets <= set(ids) and not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags.count("table") == page.tags.count("caption")
    main(["report", str(certificates)])
    alone = (certificates / "report.html").read_text()
    assert Page(alone).words("bounds") == page.words("bounds")
    main(["report", str(evaluation)])
    assert 'id="certificates"' not in (evaluation / "report.html").read_text()


def test_the_same_model_looks_the_same(both: tuple[Path, Path]) -> None:
    shown = {"robust": figures.model_style(0), "other": figures.model_style(1)}
    styles = read(both[1], shown).styles
    assert styles["robust"] == shown["robust"] and len(set(styles.values())) == 3
    assert not {styles["kd"], styles["teacher"]} & set(shown.values())


def test_directories_that_do_not_belong_together(
    both: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["report", *words, "--output", str(tmp_path / "out.html")])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    evaluation, certificates = map(str, both)
    assert "holds certificates, so there is no evaluation" in refused(certificates, "--certificates", certificates)
    assert "holds no certification.json" in refused(evaluation, "--certificates", evaluation)
    assert "holds neither evaluation.json nor certification.json" in refused(str(tmp_path))
    details = evaluation_files()["evaluation.json"]
    details["models"]["kd"]["card"] = {"sha256": "another"}
    (both[0] / "evaluation.json").write_text(json.dumps(details))
    assert "'kd' has other weights there" in refused(evaluation, "--certificates", certificates)


def test_certificates_in_every_format_have_the_records(both: tuple[Path, Path], tmp_path: Path) -> None:
    evaluation, certificates = both
    records = json.loads((certificates / "summary.json").read_text())
    main(["report", str(certificates), "--format", "json"])
    assert json.loads((certificates / "report.json").read_text())["records"] == records
    main(["report", str(evaluation), "--certificates", str(certificates), "--output", str(tmp_path / "both.json")])
    assert json.loads((tmp_path / "both.json").read_text())["certificates"]["records"] == records
    for words in ([str(certificates)], [str(evaluation), "--certificates", str(certificates)]):
        main(["report", *words, "--output", str(tmp_path / "text.md"), "--overwrite"])
        lines = [line for line in (tmp_path / "text.md").read_text().splitlines() if line.startswith("|")]
        assert sum("certified accuracy" in line for line in lines) == sum(
            record["metric"] == "certified_accuracy" for record in records
        )
