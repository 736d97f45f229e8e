"""The report as Markdown."""

import re
from collections.abc import Callable
from pathlib import Path

from parsed_page import Page
from saved_evaluation import FAIL, files, save, written

from robust_student.results import masking


def test_markdown_has_the_figures_behind_the_verdicts_and_where_they_come_from(tmp_path: Path) -> None:
    verdict = masking.judge({"zero_gradients": 0.2}, {"square_only": "AutoAttack was not run"}).as_dict()
    save(tmp_path, files(verdicts={"kd": verdict}))
    text = written(tmp_path, "md")
    assert "square only: AutoAttack was not run" in text
    words = masking.CHECKS["zero_gradients"].words
    assert f"| zero gradients: {words} | – | 1.0 % | 10.0 % | 0.0 % | 20.0 % |" in text
    assert "<summary>Evaluation</summary>" in text and "| git commit | abc123 |" in text and "Realised" in text
    assert "median estimated decision radius" in text and "not a guarantee" in text


def test_classes_of_a_model_without_evidence_are_marked(page: Callable[..., Page], tmp_path: Path) -> None:
    text = page(files(verdicts={"kd": FAIL})).words("classes")
    assert "FAIL" in text and "FAIL" not in page(files()).words("classes")
    save(tmp_path, files(verdicts={"kd": FAIL}))
    table = written(tmp_path, "md").split("## Accuracy by class")[1].split("<details>")[0]
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
