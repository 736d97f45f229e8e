"""Certificates below the report of an evaluation."""

import json
from pathlib import Path

import pytest
from parsed_page import Page
from saved_certificates import files
from saved_evaluation import files as evaluation_files
from saved_evaluation import save

from robust_student.cli.main import main
from robust_student.report.document import figures
from robust_student.report.evidence.certificates import read_certificates


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
    styles = read_certificates(both[1], shown).styles
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
