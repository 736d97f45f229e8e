"""Differences, classes, calibration, corruptions and worst examples in the report."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from parsed_page import Page
from saved_evaluation import RIGHT, adjust, corruptions, files, html

from robust_student.results.records import find, summarise
from robust_student.results.rows import group


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


def test_classes_are_shown_with_the_worst_in_front(page: Callable[..., Page]) -> None:
    text = page().words("classes").partition("Accuracy by true class")[2]
    clean = text[: text.index("Noise, −1 dB")]
    assert clean.index("one") < clean.index("zero") or "90.0 % [69.9, 97.2] n = 20" in clean
    assert "robust: worst class 90.0 % [69.9, 97.2] n = 20" in clean
    assert "on the test split" in clean


def test_classes_have_balanced_accuracy_precision_and_what_is_taken_for_what(page: Callable[..., Page]) -> None:
    """Of 37 that robust gets right clean, 19 are zeros and 18 ones; one zero is called one, two ones zero."""
    text = page().words("classes")
    clean = text[: text.index("Noise, −1 dB: recall") if "Noise, −1 dB: recall" in text else text.rindex("AutoAttack")]
    assert "Balanced accuracy" in clean and "92.5 % [" in clean and "Classes are about equally frequent" in clean
    assert "Clean: recall, precision and F1" in clean and "90.5 % [71.1, 97.3] n = 21" in clean  # 19 of 21 zeros
    assert "AutoAttack (fast), L∞ 0.1: what is taken for what" in text
    assert "zero191" in text and "one218" in text


def test_many_classes_are_drawn_with_their_largest_confusions(page: Callable[..., Page]) -> None:
    content = files()
    content["evaluation.json"]["classes"] = [f"kind {k}" for k in range(20)]
    for row in content["rows.jsonl"]:
        row["label"] = row["index"] % 20
        row["prediction"] = row["label"] if row["correct"] else 3
    made = page(content)
    text = made.words("classes")
    assert "The 10 most frequent confusions" in text and "17: kind 17" in text and "3: kind 3" in text
    labels = [value for tag, name, value in made.attributes if tag == "div" and name == "aria-label"]
    assert "Confusion matrix of robust; its largest entries are in the table." in labels


def test_unbalanced_classes_are_told_in_the_verdict(page: Callable[..., Page]) -> None:
    content = files()
    for row in content["rows.jsonl"]:
        row["label"] = int(row["index"] >= 30)
        row["prediction"] = row["label"] if row["correct"] else 1 - row["label"]
    words = page(content).words("balanced")
    assert "Classes are unbalanced. Balanced over them, accuracy is for robust 85.0 % on clean inputs" in words
    assert "45.0 % under AutoAttack (fast), L∞ 0.1" in words and words.endswith("would have 50.0 %.")
    assert "balanced" not in page().text


def test_one_class_for_everything_comes_first_and_is_never_robust(tmp_path: Path, page: Callable[..., Page]) -> None:
    """Also in an evaluation of an older version, whose masking verdict knew no such check."""
    content = files()
    for row in content["rows.jsonl"]:
        if row["model"] == "robust" and row["perturbation"] == "none":
            row["prediction"], row["correct"] = 1, row["label"] == 1
    for record in content["summary.json"]:
        if record["verdict"]:
            record["verdict"] = {name: record["verdict"][name] for name in ("level", "reasons", "square_only")}
    made = page(content)
    words = "robust: one class for everything: the answer is 'one' for 40 of 40 examples."
    text = html(tmp_path, content)
    assert text.index("one class for everything") < text.index("3 models were measured") < text.index("<h2>")
    assert made.words("sentence").startswith(words)
    assert "The masking verdict of the student robust" in made.words("sentence") and "FAIL" in made.words("sentence")
    assert "gains" not in made.words("sentence").partition("on clean inputs")[0]


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
    matrices = 2 * 2 * 4  # clean and under AutoAttack, of two models and two classes
    assert (
        len(cells) == 6 + matrices
        and "background:rgb(255,255,255)" in cells[1]
        and "background:rgb(0,78,140)" in cells[2]
    )
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
