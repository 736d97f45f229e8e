"""The report: complete, honest in words, self-contained, byte-stable, safe with any name and any gap in the records."""

import base64
import json
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.report.evaluation import read
from robust_student.report.pages import number
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
                made.append(Row(name, kind, setting, k, k % 2, k % 2, k < right[model], realised, **scores(kind, k)))
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
        Row(model, f"corruption_{kind}", severity, k, k % 2, k % 2, k < count)
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


class Page(HTMLParser):
    """A parsed page: tags, attributes, and the text and `<data>` values of every element that has an id."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.stack: list[tuple[str, str | None]] = []
        self.text: dict[str, str] = {}
        self.cells: list[list[list[float]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if tag not in self.VOID:
            self.stack.append((tag, found.get("id")))
        if self.inside("models"):
            if tag == "tr":
                self.cells.append([])
            elif tag == "td":
                self.cells[-1].append([])
            elif tag == "data":
                self.cells[-1][-1].append(float(found["value"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag, f"unbalanced </{tag}>"

    def handle_data(self, data: str) -> None:
        for _, name in self.stack:
            if name is not None:
                self.text[name] = self.text.get(name, "") + data.replace("\u00a0", " ")

    def inside(self, name: str) -> bool:
        """Whether the element with this id is open."""
        return any(found == name for _, found in self.stack)

    def words(self, name: str) -> str:
        """Text of the element with this id, on one line."""
        return " ".join(self.text[name].split())


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    """Makes and parses the report of changed files."""

    def make(content: Files | None = None) -> Page:
        return Page(html(tmp_path, files() if content is None else content))

    return make


def adjust(content: Files, model: str, metric: str, perturbation: str, **changes: Any) -> Files:
    """Change the records of one model, metric and perturbation; there must be some."""
    records = find(content["summary.json"], model, metric, perturbation)
    assert records
    for record in records:
        record.update(changes)
    return content


def test_same_files_same_bytes(tmp_path: Path) -> None:
    first = html(tmp_path, files())
    assert html(tmp_path, files()) == first
    call = "import sys, pathlib as p, robust_student.report.write as r; r.write_report(*map(p.Path, sys.argv[1:]))"
    other = tmp_path / "other.html"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", call, str(tmp_path), str(other)], check=True, env=environment)
    assert other.read_text() == first


def test_every_number_of_the_table_is_the_record_s(page: Callable[..., Page]) -> None:
    content = files()
    records = content["summary.json"]
    table = page(content).cells[1:]
    assert len(table) == 3
    for model, cells in zip(("teacher", "kd", "robust"), table, strict=True):
        costs = [find(records, model, name)[0] for name in ("parameters", "macs", "file_size", "latency")]
        noise = find(records, model, "accuracy", "gaussian_snr_db")[0]  # -1 dB is nearer to 0 than 10
        accuracies = [
            find(records, model, "accuracy")[0],
            noise,
            find(records, model, "accuracy", "autoattack_linf")[0],
        ]
        radius = find(records, model, "median_estimated_decision_radius_linf")[0]
        expected = [[record["value"]] for record in costs]
        expected += [[record["value"], record["low"], record["high"]] for record in accuracies]
        expected += [[], [radius["value"], radius["low"], radius["high"]]]
        assert cells == expected


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(-5.0, "g", "\u22125"), (0.138543, ".3g", "0.139"), (12.0, "+.1f", "+12.0"), (-0.01, "+.1f", "0.0")],
)
def test_numbers_are_written_for_people(value: float, form: str, text: str) -> None:
    assert number(value, form) == text


def test_verdict_states_gain_and_uncertainty(page: Callable[..., Page]) -> None:
    sentence = page().words("sentence")
    assert sentence.startswith("Compared with kd on the same test examples, the student robust (2,000 parameters, 25× ")
    assert (
        "shows no difference larger than its uncertainty on clean inputs (−2.5 points [−7.5, 0.0], n = 40 of 400)"
        in sentence
    )
    assert "gains +45.0 points [+30.0, +60.0] at −1 dB noise (n = 40 of 400)" in sentence
    assert sentence.endswith("under AutoAttack (fast), L∞ 0.1 (n = 40 of 400); masking verdict PASS.")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.3, -0.1, "loses ground under AutoAttack"),
        (-0.1, 0.1, "shows no difference larger than its uncertainty under AutoAttack"),
        (0.0, 0.1, "shows no difference larger than its uncertainty under AutoAttack"),
        (0.01, 0.1, "gains +5.0 points [+1.0, +10.0] under AutoAttack"),
        (None, None, "differs by +5.0 points under AutoAttack (fast), L∞ 0.1, without an interval"),
    ],
)
def test_verdict_words_follow_the_interval(
    page: Callable[..., Page], low: float | None, high: float | None, words: str
) -> None:
    content = adjust(files(), "robust", "accuracy_minus_kd", "autoattack_linf", value=0.05, low=low, high=high)
    assert words in page(content).words("sentence")


def test_failed_masking_is_prominent_and_claims_nothing(tmp_path: Path) -> None:
    text = html(tmp_path, files(verdicts={"robust": FAIL}))
    sentence, body = Page(text).words("sentence"), text[text.index("<body>") :]
    assert "is FAIL: its figures under attack are no evidence of robustness and nothing is claimed" in sentence
    assert "AutoAttack" not in sentence and "+55.0" not in sentence
    assert 0 < body.index("✕ FAIL") < body.index('id="verdict"') and "30.0% of the examples fell to" in body
    lines = [line.split("</tr>")[0] for line in text.split("<tr>")[1:]]
    attacked = [line for line in lines if "AutoAttack (fast)" in line and "+55.0" in line]
    assert len(attacked) == 1 and "no evidence (masking)" in attacked[0] and "better" not in attacked[0]


@pytest.mark.parametrize(("level", "worth"), [("WARN", "doubtful"), ("FAIL", "no")])
def test_doubtful_figures_are_not_called_no_evidence(level: str, worth: str, page: Callable[..., Page]) -> None:
    found = page(files(verdicts={"robust": {**FAIL, "level": level}}))
    claim = f"{worth} evidence of robustness"
    assert claim in found.words("sentence") and claim in found.words("attacks")


def test_the_page_says_of_how_many_examples_the_sample_is(page: Callable[..., Page]) -> None:
    assert "n = 40 of 400 test examples" in page().words("attacks")
    content = files()
    content["evaluation.json"]["sample"]["test"] = N
    assert "n = 40 test examples" in page(content).words("attacks")


def test_examples_that_autoattack_was_spared_are_counted(tmp_path: Path) -> None:
    content = files()
    content["evaluation.json"]["skipped_certified"] = {"teacher": 0, "kd": 3, "robust": 1200}
    said = "AutoAttack was spared the examples that are certified at its budget (teacher 0, kd 3, robust 1,200)."
    assert said in Page(html(tmp_path, content)).words("attacks")
    write_report(tmp_path, tmp_path / "report.md", style="markdown")
    assert said in (tmp_path / "report.md").read_text()


def test_json_has_everything_that_the_evaluation_recorded(tmp_path: Path) -> None:
    content = files()
    more = {"skipped_certified": {"kd": 3}, "corruptions": {"source": "generated"}, "later": [1]}
    marks = {"fingerprint": {"models": {"kd": "x"}, "test": "y", "corruption_set": "z"}}
    content["evaluation.json"] |= more | marks
    write_report(save(tmp_path, content), tmp_path / "report.json", style="json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert {name: found[name] for name in content["evaluation.json"]} == content["evaluation.json"]


def test_no_comparison_with_a_baseline_that_fails_masking(page: Callable[..., Page]) -> None:
    sentence = page(files(verdicts={"kd": FAIL})).words("sentence")
    assert "are not compared, because the masking verdict of kd is FAIL" in sentence and "+55.0" not in sentence


def test_a_gain_over_a_doubtful_baseline_stands_and_says_so(page: Callable[..., Page]) -> None:
    """The baseline can only be weaker than measured; a loss against it would be overstated and is not claimed."""
    doubtful = {**FAIL, "level": "WARN"}
    sentence = page(files(verdicts={"kd": doubtful})).words("sentence")
    assert "gains +55.0 points" in sentence and "that of kd is WARN" in sentence and "not overstated" in sentence
    content = files(verdicts={"kd": doubtful})
    for metric in ("autoattack_linf",):
        adjust(content, "robust", "accuracy_minus_kd", metric, value=-0.2, low=-0.3, high=-0.1)
    assert "are not compared, because the masking verdict of kd is WARN" in page(content).words("sentence")


def test_hero_is_the_best_student_under_autoattack(tmp_path: Path) -> None:
    names = {"robust": "strong", "kd": "weak", "teacher": "middle"}
    content = files(names, baseline=None)
    content["evaluation.json"]["provenance"]["settings"]["teacher"] = "absent"
    assert read(save(tmp_path, content)).hero == "strong"
    for metric in ("autoattack_linf", "gaussian_snr_db"):
        adjust(content, "strong", "accuracy", metric, value=None)
    assert read(save(tmp_path, content)).hero == "middle"


def test_names_from_users_are_only_text(page: Callable[..., Page]) -> None:
    hostile = '"><img src=x onerror="alert(1)"><script>alert(2)</script>$\\frac{'
    content = files({"teacher": "_x$y$", "kd": "kd", "robust": hostile}, verdicts={"robust": FAIL})
    content["evaluation.json"]["classes"] = [hostile, hostile]
    content["evaluation.json"]["provenance"]["data"] = hostile
    content["evaluation.json"]["provenance"]["settings"][hostile] = hostile
    content["gallery.json"][0]["levels"][0]["png"] = '"><script>alert(3)</script>'
    for model in content["evaluation.json"]["models"].values():
        model["history"][0]["terms"][hostile] = 1.0
    made = page(content)
    assert "script" not in made.tags
    assert not [name for _, name, _ in made.attributes if name.startswith("on")]
    assert made.tags.count("img") == 5
    assert hostile in made.text["sentence"] and hostile in made.text["provenance"]


def test_nothing_is_fetched_and_ids_are_unique(tmp_path: Path) -> None:
    text = html(tmp_path, files())
    made = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(made.tags)
    loaded = [value for _, name, value in made.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert loaded and all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)
    assert "@import" not in text and all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    addresses = {value for _, name, value in made.attributes if "//" in value and not name.startswith("xmlns")}
    assert not addresses and not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink)\")", text)
    ids = [value for _, name, value in made.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    targets = {value[1:] for _, name, value in made.attributes if name in ("href", "xlink:href") and value[0] == "#"}
    assert targets <= set(ids)


def test_every_figure_and_table_has_words(page: Callable[..., Page]) -> None:
    made = page()
    labels = [value for tag, name, value in made.attributes if (tag, name) == ("div", "aria-label")]
    assert made.tags.count("table") == made.tags.count("caption") and made.tags.count("figure") == len(labels) + 2
    assert all(len(label) > 30 for label in labels) and ("html", "lang", "en") in made.attributes


def test_only_what_is_not_is_called_certified(tmp_path: Path) -> None:
    text = html(tmp_path, files())
    assert text.count("certified") == text.count("not certified") > 0
    assert "Estimated (first order at x), not a guarantee" in text


def test_figures_show_the_records(tmp_path: Path) -> None:
    evidence = read(save(tmp_path, files()))
    ticks = dict(re.findall(r'x="([\d.]+)" y="[\d.]+" [^>]*>(clean|10|−1)</text>', evidence.noise_svg()))
    order = [label for _, label in sorted((float(x), label) for x, label in ticks.items())]
    assert order == ["clean", "10", "−1"]  # noisier to the right
    linf, l2 = evidence.budget_svgs().values()
    assert (
        linf.count("C ") < linf.count("L ") and ">0.10<" in linf and ">1.00<" not in linf
    )  # the masking check's budget
    assert "budget-l2-" in l2
    assert evidence.radius_svgs()[0][3] == {"teacher": 2, "kd": 2, "robust": 2}


def test_marked_epoch(tmp_path: Path) -> None:
    content = files()
    assert read(save(tmp_path, content)).marked_epoch("kd") == 4
    content["evaluation.json"]["models"]["kd"]["best_epoch"] = 5
    assert read(save(tmp_path, content)).marked_epoch("kd") == 5


def test_masking_thresholds_are_the_real_ones(page: Callable[..., Page]) -> None:
    text = page().words("masking")
    for name, check in masking.CHECKS.items():
        fail = "–" if check.fail is None else f"{100 * check.fail:.1f} %"
        assert f"{name.replace('_', ' ')}: {check.words}{100 * check.warn:.1f} %{fail}" in text


def drop(content: Files, *kinds: str) -> Files:
    """Without the records and rows of perturbations that begin so."""
    for name in ("summary.json", "rows.jsonl"):
        content[name] = [entry for entry in content[name] if not entry["perturbation"].startswith(kinds)]
    return content


def blank(content: Files) -> Files:
    """Every value of the summary null."""
    for record in content["summary.json"]:
        record.update(value=None, low=None, high=None)
    return content


def untrained(content: Files) -> Files:
    """Models without records of their training."""
    for model in content["evaluation.json"]["models"].values():
        model.update(history=[], search=None, card={})
    return content


@pytest.mark.parametrize(
    ("content", "section", "words"),
    [
        (files({"robust": "robust"}, None), "sentence", "There is no baseline to compare with. robust (2,000"),
        (files({"kd": "kd"}), "sentence", "There is no student beside the baseline and the teacher. kd (2,000"),
        (files(baseline=None), "differences", "No baseline was given"),
        (drop(files(), "autoattack_"), "sentence", "AutoAttack was not run, so nothing is claimed about attacks"),
        (drop(files(), "autoattack_", "pgd_"), "attacks", "No attack was run"),
        (drop(files(), "gaussian"), "noise", "Noise was not measured"),
        (drop(files(), "gaussian"), "sentence", "was not compared under noise"),
        ({**files(), "rows.jsonl": []}, "radii", "No radius was estimated"),
        ({**files(), "summary.json": []}, "sentence", "was not compared on clean inputs"),
        (untrained(files()), "training", "No training records were saved"),
        (blank(files()), "models", "not measured"),
    ],
)
def test_gaps_are_said_in_words(page: Callable[..., Page], content: Files, section: str, words: str) -> None:
    assert words in page(content).words(section)


def test_gallery_is_optional(page: Callable[..., Page]) -> None:
    content = files()
    assert "✗ one" in page(content).words("examples")
    (content_without := dict(content)).pop("gallery.json")
    assert page(content_without)


@pytest.mark.parametrize("name", ["evaluation.json", "summary.json", "rows.jsonl"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, files())
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert "\n" not in str(error.value) and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.json", "{", "not valid JSON"),
        ("summary.json", '[{"model": "kd"}]', "'0.schema': field required"),
        ("evaluation.json", '{"fingerprint": 1, "provenance": {}}', "unfinished"),
        ("rows.jsonl", "nonsense\nnonsense\n", "line 1 is not valid JSON"),
        ("rows.jsonl", '{"perturbation": "estimated_decision_radius_l2"}\n', "'0.model': field required"),
        ("gallery.json", '[{"index": "x"}]', "'0.index'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (save(tmp_path, files()) / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        write_report(tmp_path, tmp_path / "report.html")
    assert name in str(error.value) and "\n" not in str(error.value)


def test_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write there"):
        write_report(save(tmp_path, files()), tmp_path / "missing" / "report.html")


# Statistics -----------------------------------------------------------------------------------------------------------


def test_differences_are_said_in_words_with_their_test(page: Callable[..., Page]) -> None:
    text = page().words("differences")
    gained = 27 - 5
    comparisons = 2 * len(RIGHT)
    assert (
        "robust is 55.0 points [40.0, 70.0] above kd under AutoAttack (fast), L∞ 0.1; larger than its uncertainty "
        f"(McNemar p < 0.001, Holm over {comparisons} comparisons p < 0.001, n = 40)." in text
    )
    assert 2 * 0.5**gained * comparisons < 0.001
    assert "robust and kd are not distinguishable on clean inputs: −2.5 points [−7.5, 0.0] (McNemar p = 1" in text


def test_a_difference_that_does_not_survive_the_correction_is_not_claimed(page: Callable[..., Page]) -> None:
    content = adjust(files(), "robust", "holm_p_against_kd", "autoattack_linf", value=0.2)
    made = page(content)
    assert "shows no difference larger than its uncertainty under AutoAttack" in made.words("sentence")
    assert "alone it would be, but not among so many comparisons" in made.words("differences")


def test_an_evaluation_of_an_older_version_is_shown_by_its_intervals(page: Callable[..., Page]) -> None:
    content = files()
    content["summary.json"] = [r for r in content["summary.json"] if "_p_against_" not in r["metric"]]
    for row in content["rows.jsonl"]:
        for name in ("confidence", "nll", "brier"):
            del row[name]
    made = page(content)
    assert "robust is 55.0 points [40.0, 70.0] above kd" in made.words("differences")
    assert "No test was recorded" in made.words("differences")
    assert "No confidences were recorded" in made.words("calibration")


def test_compressed_rows_are_read(tmp_path: Path) -> None:
    page = html(tmp_path, files())
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress((tmp_path / "rows.jsonl").read_bytes()))
    (tmp_path / "rows.jsonl").unlink()
    write_report(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page
    (tmp_path / "rows.jsonl.xz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not an xz file"):
        read(tmp_path)


def test_classes_are_shown_with_the_worst_in_front(page: Callable[..., Page]) -> None:
    text = page().words("classes")
    clean = text[: text.index("Noise, −1 dB")]
    assert clean.index("one") < clean.index("zero") or "90.0 % [69.9, 97.2] n = 20" in clean
    assert "robust: worst class 90.0 % [69.9, 97.2] n = 20" in clean
    assert "on the test split" in clean


def test_calibration_is_that_of_the_records(page: Callable[..., Page]) -> None:
    content = files()
    text = page(content).words("calibration")
    record = find(content["summary.json"], "kd", "expected_calibration_error")[0]
    value, low, high = (f"{100 * record[end]:.1f}" for end in ("value", "low", "high"))
    assert f"{value} [{low}, {high}] n = 40" in text and "biased upwards" in text


def test_corruptions_are_a_heat_map(page: Callable[..., Page]) -> None:
    content = files({"kd": "kd", "robust": "robust"})
    right = {"kd": {("fog", 1.0): 30, ("fog", 5.0): 0, ("jpeg_compression", 1.0): 40}}
    right["robust"] = {("fog", 1.0): 20, ("fog", 5.0): 10, ("jpeg_compression", 1.0): 36}
    made = [row for model, counts in right.items() for row in corruptions(model, counts)]
    records = summarise(group(made), verdicts={}, costs={}, baseline="kd", seed=7)
    records = [record for record in records if record["perturbation"] != "corruptions"]
    overall = {"perturbation": "corruptions", "setting": None, "metric": "mean_corruption_accuracy", "value": 0.583}
    content["summary.json"] += records + [records[0] | overall | {"model": "kd"}]
    content["summary.json"] += [records[0] | overall | {"metric": "relative_corruption_drop", "value": 0.386}]
    content["rows.jsonl"] += [asdict(row) for row in made]
    made_page = page(content)
    text = made_page.words("corruptions")
    assert "Mean corruption accuracy: 58.3 %" in text and "relative drop: 38.6 %" in text
    assert "fog75.00.0 jpeg compression100.0–" in text and "fog50.025.0" in text
    cells = [style for tag, name, style in made_page.attributes if tag == "td" and name == "style"]
    assert len(cells) == 6 and "background:rgb(255,255,255)" in cells[1] and "background:rgb(0,78,140)" in cells[2]
    assert "robust is 25.0 points" not in made_page.words("words")  # only the main cells are put in words
    assert "fog, severity 5" in made_page.words("differences") and "fog" not in made_page.words("attacks")


def test_worst_examples_show_both_answers_and_the_magnified_change(page: Callable[..., Page]) -> None:
    text = page().words("worst")
    assert "Against teacher: zero" in text and "change magnified 5×" in text and "PGD, L∞ 0.1 against teacher" in text
    assert "✓ zero 91 %" in text and "✗ one 50 %" in text
    content = files()
    content["gallery.json"] = content["gallery.json"][:1]
    assert "worst" not in page(content).text


def test_a_verdict_with_other_figures_is_shown(page: Callable[..., Page]) -> None:
    verdict = {"level": "WARN", "reasons": ["many-step PGD is weaker than one-step"], "one_step": 0.125, "nan": None}
    text = page(files(verdicts={"robust": verdict})).words("masking")
    assert "many-step PGD is weaker than one-step" in text and "one step" in text and "0.125" in text


# Formats --------------------------------------------------------------------------------------------------------------


def written(folder: Path, suffix: str, *options: str) -> str:
    """What the command writes."""
    output = folder / f"out.{suffix}"
    main(["report", str(folder), "--output", str(output), "--overwrite", *options])
    return output.read_text()


def test_every_format_has_the_same_numbers(tmp_path: Path) -> None:
    content = files()
    save(tmp_path, content)
    found = json.loads(written(tmp_path, "json"))
    assert found["records"] == content["summary.json"] and found["kind"] == "evaluation" and found["split"] == "test"
    page, text = Page(written(tmp_path, "html")), written(tmp_path, "md")
    listed = {float(value) for tag, name, value in page.attributes if (tag, name) == ("data", "value")}
    known = {float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", json.dumps(found))}
    assert listed and listed <= known
    for said in found["differences"]:
        if (said["perturbation"], said["setting"]) in [("none", None), ("autoattack_linf", 0.1)]:
            assert f"- {said['words']}." in text and said["words"] in page.words("words")
    for record in content["summary.json"]:
        if record["metric"] in ("accuracy", "worst_class_accuracy") and record["perturbation"] == "autoattack_linf":
            low, high = 100 * record["low"], 100 * record["high"]
            assert f"{100 * record['value']:.1f} [{low:.1f}, {high:.1f}]" in text
    assert "on the test split" in text


def test_the_format_is_the_option_s_else_the_suffix_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, files())
    assert written(tmp_path, "md").startswith("# Robustness report") and written(tmp_path, "json").startswith("{")
    assert written(tmp_path, "txt", "--format", "markdown") == written(tmp_path, "md")
    assert written(tmp_path, "json", "--format", "html").startswith("<!DOCTYPE html>")
    main(["report", str(tmp_path), "--format", "json"])
    assert (tmp_path / "report.json").exists()
    capsys.readouterr()
    for words, reason in (
        ([str(tmp_path), "--output", str(tmp_path / "a.pdf")], "none of .html, .md and .json"),
        ([str(tmp_path), "--output", str(tmp_path / "out.md")], "exists already"),
        ([str(tmp_path), str(tmp_path)], "pass --compare or --seeds"),
        ([], "at least one directory"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", *words])
        assert stop.value.code == 2 and reason in capsys.readouterr().err


def test_markdown_has_the_figures_behind_the_verdicts_and_where_they_come_from(tmp_path: Path) -> None:
    verdict = masking.judge({"zero_gradients": 0.2}, {"square_only": "AutoAttack was not run"}).as_dict()
    save(tmp_path, files(verdicts={"kd": verdict}))
    text = written(tmp_path, "md")
    assert "square only: AutoAttack was not run" in text and "| zero gradients | 1 % | 10 % | 0.0 % | 20.0 % |" in text
    assert "| evaluation | git commit | abc123 |" in text and "Realised" in text
    assert "median estimated decision radius" in text and "not a guarantee" in text


def test_classes_of_a_model_without_evidence_are_marked(page: Callable[..., Page], tmp_path: Path) -> None:
    text = page(files(verdicts={"kd": FAIL})).words("classes")
    assert "FAIL" in text and "FAIL" not in page(files()).words("classes")
    save(tmp_path, files(verdicts={"kd": FAIL}))
    table = written(tmp_path, "md").split("## Accuracy by class")[1].split("## Calibration")[0]
    assert table.count("(FAIL)") == 2  # two classes under AutoAttack


def test_names_are_not_markup_in_markdown(tmp_path: Path) -> None:
    hostile = "a|b*c*<script>[x](http://y)\n# d"
    content = files({"kd": "kd", "robust": hostile}, verdicts={"robust": FAIL})
    text = (save(tmp_path, content), written(tmp_path, "md"))[1]
    assert (
        "<script>" not in text.replace("\\<script>", "") and "\n# d" not in text and not re.search(r"(?<!\\)\]\(", text)
    )
    lines = [line for line in text.splitlines() if line.startswith("| Clean")]
    assert lines and all(len(re.findall(r"(?<!\\)\|", line)) in (4, 5) for line in lines)
