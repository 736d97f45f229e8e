"""AutoAttack within an evaluation: who it attacks, whom it is spared, what it finds."""

import json
from pathlib import Path

from reference import Silent, prototype_classifier
from torch import nn
from toy_evaluation import ATTACKED, DATA, lines_of, rows_of, run

from robust_student.models.model import Model
from robust_student.report.write import write_report
from robust_student.results.rows import EVALUATION, GALLERY
from robust_student.runtime.files import read_json


def test_autoattack_rows_name_the_attack_that_broke_the_example_first(attacked: Path) -> None:
    clean = {(row["model"], row["index"]): row["correct"] for row in rows_of(attacked, perturbation="none")}
    broken_rows = rows_of(attacked, perturbation="autoattack_linf", setting=0.4)
    assert len(broken_rows) == 3 * 8
    for row in broken_rows:
        if not clean[row["model"], row["index"]]:
            assert row["detail"] == "clean"
        else:
            assert row["detail"] in ({"none"} if row["correct"] else {"apgd-ce", "square"})
    assert {"clean", "apgd-ce"} <= {row["detail"] for row in broken_rows}


def test_certified_examples_are_spared_and_counted_and_stand_anyway(tmp_path: Path) -> None:
    settings = ATTACKED.model_copy(update={"autoattack_radius": 0.05, "autoattack": "standard"})
    subjects: dict[str, Model | nn.Module] = {"kd": prototype_classifier(DATA)}
    run(tmp_path / "all", settings, subjects=subjects)
    run(tmp_path / "spared", settings.model_copy(update={"skip_certified": True}), subjects=subjects)
    usual, spared = (
        {
            row["index"]: row
            for row in map(json.loads, lines_of(tmp_path / name))
            if row["perturbation"].startswith("autoattack")
        }
        for name in ("all", "spared")
    )
    skipped = [index for index, row in spared.items() if row["detail"] == "certified"]
    assert skipped and all(usual[index]["correct"] for index in skipped)
    assert all(row["correct"] == spared[index]["correct"] for index, row in usual.items())
    assert read_json(tmp_path / "spared" / EVALUATION)["skipped_certified"] == {"kd": len(skipped)}
    assert read_json(tmp_path / "all" / EVALUATION)["skipped_certified"] is None


def test_no_answer_is_never_right_and_the_evaluation_ends(tmp_path: Path) -> None:
    brightness = DATA.test.floats().mean(dim=(1, 2, 3))
    middle = len(brightness) // 2
    above = float(brightness.sort().values[middle : middle + 2].mean())  # between two: a mean may be rounded otherwise
    records = run(tmp_path / "out", ATTACKED, subjects={"m": Silent(DATA, above), "kd": prototype_classifier(DATA)})
    rows = rows_of(tmp_path / "out", model="m", perturbation="none")
    silent = {row["index"] for row in rows if brightness[row["index"]] > above}
    assert {row["index"] for row in rows if row["prediction"] == -1} == silent
    assert 0 in DATA.test.labels[list(silent)]  # the class that argmax takes for the largest of NaN
    attacks = [row for row in rows_of(tmp_path / "out", model="m") if row["perturbation"][:3] in ("pgd", "aut")]
    assert not any(row["correct"] for row in [*rows, *attacks] if row["index"] in silent)
    (clean,) = [r for r in records if (r["model"], r["metric"], r["perturbation"]) == ("m", "accuracy", "none")]
    assert clean["value"] <= 1 - len(silent) / len(rows)
    predictions = [
        level["predictions"]["m"]
        for entry in read_json(tmp_path / "out" / GALLERY)
        for level in entry.get("levels", [])[:1]
        if entry["index"] in silent
    ]
    assert predictions and all(answer == {"prediction": -1, "confidence": None} for answer in predictions)
    write_report([tmp_path / "out"], tmp_path / "out" / "report.html")
    assert "no answer (NaN)" in (tmp_path / "out" / "report.html").read_text()
