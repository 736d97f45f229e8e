"""Reports as HTML, Markdown or JSON: they show saved files and compute no result of a model themselves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_student.core.errors import UserError
from robust_student.report.contents import document
from robust_student.report.document.blocks import Document
from robust_student.report.document.html import as_html
from robust_student.report.document.markdown import as_markdown
from robust_student.report.document.plain import as_values
from robust_student.report.evidence import certificates as certificates_module
from robust_student.report.evidence import evaluation
from robust_student.report.evidence.certificates import Certificates
from robust_student.report.evidence.evaluation import Evidence
from robust_student.report.evidence.seeds import Seeds, check
from robust_student.report.evidence.side_by_side import Comparison
from robust_student.report.formats import ReportFormat, ReportKind
from robust_student.results.rows import CERTIFICATION, SAVED
from robust_student.runtime.files import write_atomically


def write_report(
    directories: Path | Sequence[Path],
    output: Path,
    *,
    certificates: Path | None = None,
    kind: ReportKind = "report",
    style: ReportFormat = "html",
) -> None:
    """Render what `evaluate` or `certify` wrote as one file that needs nothing else; same files, same bytes.

    Args:
        directories: of an evaluation or of certificates; of several evaluations for a comparison or for seeds.
        output: the file to write.
        certificates: directory of certificates to show below an evaluation.
        kind: one evaluation, several side by side, or their mean over seeds.
        style: every format has the same numbers; pictures and figures are in HTML only.

    Raises UserError where a file is missing, unfinished or damaged, and where `output` cannot be written.
    """
    folders = [directories] if isinstance(directories, Path) else list(directories)
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise UserError(f"directory {missing}: {'is not a directory' if missing.exists() else 'no such directory'}")
    if not output.parent.is_dir() or output.is_dir():
        what = "it is a folder" if output.is_dir() else f"no folder {output.parent}"
        raise UserError(f"output {output}: cannot write there ({what})")
    sources = [*folders, *([] if certificates is None else [certificates])]
    if output.name in SAVED and any(output.parent.resolve() == folder.resolve() for folder in sources):
        raise UserError(f"output {output}: is a file that the report is made from; choose another name")
    if kind == "report":
        text = _one(folders, certificates, style)
    elif certificates is not None:
        raise UserError("report: --certificates belongs below one evaluation, not to --compare or --seeds")
    else:
        text = _several(_read_all(folders, kind), kind, style)
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise UserError(f"output {output}: cannot write there ({error.strerror})") from None


def _one(folders: Sequence[Path], certificates: Path | None, style: ReportFormat) -> str:
    """The report of one directory."""
    if len(folders) > 1:
        raise UserError(f"report: {len(folders)} directories; pass --compare or --seeds to take them together")
    (folder,) = folders
    if (folder / CERTIFICATION).exists():
        if certificates is not None:
            raise UserError(f"directory {folder}: holds certificates, so there is no evaluation to add others to")
        alone = certificates_module.read_certificates(folder)
        return _text(document(alone), alone.values(), style)
    evidence = evaluation.read_evaluation(folder)
    if certificates is None:
        return _text(document(evidence), evidence.values(), style)
    added = certificates_module.read_certificates(certificates, evidence.styles)
    _require_same_models(evidence, added)
    return _text(document(evidence, added), evidence.values() | {"certificates": added.values()}, style)


def _several(evaluations: Mapping[str, Evidence], kind: ReportKind, style: ReportFormat) -> str:
    """The report of several evaluations."""
    if kind == "seeds":
        check(evaluations)
    evidence = Seeds(evaluations) if kind == "seeds" else Comparison(evaluations)
    return _text(document(evidence), evidence.values(), style)


def _text(shown: Document, values: Mapping[str, Any], style: ReportFormat) -> str:
    """The document in a format; in JSON below every figure as plain values."""
    if style == "html":
        return as_html(shown)
    if style == "markdown":
        return as_markdown(shown)
    return json.dumps({**values, **as_values(shown)}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _read_all(folders: Sequence[Path], kind: ReportKind) -> dict[str, Evidence]:
    """Evaluations by a name of their own: the directory's, with its parent's before it where two are called alike."""
    flag = "--seeds" if kind == "seeds" else "--compare"
    places = [folder.resolve() for folder in folders]
    if len(places) < 2:
        raise UserError(f"report: {flag} takes two or more evaluations")
    twice = next((folder for k, folder in enumerate(folders) if places[k] in places[:k]), None)
    if twice is not None:
        raise UserError(f"report: directory {twice} is named twice")
    for folder in folders:
        if (folder / CERTIFICATION).exists():
            raise UserError(f"directory {folder}: holds certificates; {flag} takes evaluations only")
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [f"{place.parent.name}/{place.name}" for place in places]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return {name: evaluation.read_evaluation(folder) for name, folder in zip(names, folders, strict=True)}


def _require_same_models(evidence: Evidence, added: Certificates) -> None:
    """Refuse certificates of a model that only shares its name with one that was evaluated."""
    for name, described in evidence.details["models"].items():
        evaluated, certified = described["card"].get("sha256"), added.digest(name)
        if evaluated and certified and evaluated != certified:
            raise UserError(f"certificates: '{name}' has other weights there than in the evaluation")
