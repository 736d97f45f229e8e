"""Saved files that are missing, damaged or compressed."""

import lzma
import re
from pathlib import Path

import pytest
from saved_evaluation import files, html, save

from robust_student.core.errors import UserError
from robust_student.report.evidence.evaluation import read_evaluation
from robust_student.report.write import write_report


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


def test_compressed_rows_are_read(tmp_path: Path) -> None:
    page = html(tmp_path, files())
    (tmp_path / "rows.jsonl.xz").write_bytes(lzma.compress((tmp_path / "rows.jsonl").read_bytes()))
    (tmp_path / "rows.jsonl").unlink()
    write_report(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page
    (tmp_path / "rows.jsonl.xz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not an xz file"):
        read_evaluation(tmp_path)
