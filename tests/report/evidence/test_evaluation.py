"""What the report says of an evaluation: verdict, doubts, differences, and gaps in the records."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from parsed_page import Page
from saved_evaluation import FAIL, Files, N, adjust, files, html, save

from robust_student.report.evidence.evaluation import read_evaluation
from robust_student.report.sections import attacks, noise, radii
from robust_student.report.write import write_report
from robust_student.results import masking
from robust_student.results.records import find


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
    shown = page(files(verdicts={"robust": {**FAIL, "level": level}}))
    claim = f"{worth} evidence of robustness"
    assert claim in shown.words("sentence") and claim in shown.words("attacks")


def test_the_page_says_of_how_many_examples_the_sample_is(page: Callable[..., Page]) -> None:
    assert "n = 40 of 400 test examples" in page().words("attacks")
    content = files()
    content["evaluation.json"]["sample"]["test"] = N
    assert "n = 40 test examples" in page(content).words("attacks")


def test_examples_that_autoattack_was_spared_are_counted(tmp_path: Path) -> None:
    content = files()
    content["evaluation.json"]["skipped_certified"] = {"teacher": 0, "kd": 3, "robust": 1200}
    sentence = "AutoAttack was spared the examples that are certified at its budget (teacher 0, kd 3, robust 1,200)."
    assert sentence in Page(html(tmp_path, content)).words("attacks")
    write_report(tmp_path, tmp_path / "report.md", style="markdown")
    assert sentence in (tmp_path / "report.md").read_text()


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
    assert read_evaluation(save(tmp_path, content)).hero == "strong"
    for metric in ("autoattack_linf", "gaussian_snr_db"):
        adjust(content, "strong", "accuracy", metric, value=None)
    assert read_evaluation(save(tmp_path, content)).hero == "middle"


def test_only_what_is_not_is_called_certified(tmp_path: Path) -> None:
    text = html(tmp_path, files())
    assert text.count("certified") == text.count("not certified") > 0
    assert "Estimated (first order at x), not a guarantee" in text


def test_figures_show_the_records(tmp_path: Path) -> None:
    evidence = read_evaluation(save(tmp_path, files()))
    ticks = dict(
        re.findall(r'x="([\d.]+)" y="[\d.]+" [^>]*>(clean|10|−1)</text>', noise.noise_level_figure(evidence).draw())
    )
    order = [label for _, label in sorted((float(x), label) for x, label in ticks.items())]
    assert order == ["clean", "10", "−1"]  # noisier to the right
    linf, l2 = (figure.draw() for figure in attacks.budget_figures(evidence))
    assert (
        linf.count("C ") < linf.count("L ") and ">0.10<" in linf and ">1.00<" not in linf
    )  # the masking check's budget
    assert "budget-l2-" in l2
    assert radii.kinds(evidence)[0].infinite == {"teacher": 2, "kd": 2, "robust": 2}


def test_marked_epoch(tmp_path: Path) -> None:
    content = files()
    assert read_evaluation(save(tmp_path, content)).marked_epoch("kd") == 4
    content["evaluation.json"]["models"]["kd"]["best_epoch"] = 5
    assert read_evaluation(save(tmp_path, content)).marked_epoch("kd") == 5


def test_masking_thresholds_are_the_real_ones(page: Callable[..., Page]) -> None:
    text = page().words("masking")
    for name, check in masking.CHECKS.items():
        fail = "–" if check.fail is None else f"{100 * check.fail:.1f} %"
        assert f"{name.replace('_', ' ')}: {check.words}–{100 * check.warn:.1f} %{fail}" in text


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
