"""One evaluation, or certificates, as plain text and as plain values: the report without its pictures."""

from collections.abc import Sequence
from typing import Any

from robust_student.report.certificates import Certificates
from robust_student.report.document import Document, Section, Table
from robust_student.report.evaluation import Evidence
from robust_student.report.pages import number, percent
from robust_student.results.comparison import p_text

MASKING_HEAD = ("Model", "Verdict", "Reasons", "Not run")
"""What the cells of `masking_rows` are."""
REPORT_SCHEMA = 1
"""Version of the format of a report in JSON."""


def document(e: Evidence, c: Certificates | None = None) -> Document:
    """The report of an evaluation, with certificates below it where given."""
    sample, source = e.details["sample"], e.details["provenance"]
    data = str(source.get("data", "unnamed data"))
    words = [
        f"{len(e.styles)} models, {sample['examples']:,} of {sample['test']:,} {e.split} examples "
        f"({sample['attacked']:,} of them under attack), {len(e.details['classes'])} classes, evaluation seed "
        f"{source.get('seed', 'unknown')}. Every accuracy is of the {e.split} split, in percent with its 95 % Wilson "
        "interval.",
        *([e.spared] if e.spared else []),
    ]
    sections = [_masking(e), _accuracies(e), _differences(e), _classes(e), _calibration(e), _corruptions(e), _costs(e)]
    sections += [_noise(e), _radii(e), _provenance(e)]
    sections += [] if c is None else certificate_sections(c)
    return Document(f"Robustness report: {data}", words, [section for section in sections if section is not None])


def certificate_document(c: Certificates) -> Document:
    """The report of certificates."""
    title = f"Certified robustness: {c.details['provenance'].get('data', 'unnamed data')}"
    return Document(title, (), certificate_sections(c))


def certificate_sections(c: Certificates) -> list[Section]:
    """Every record of a certification."""
    rows = [
        [
            r["model"],
            r["metric"].replace("_", " "),
            "" if r["perturbation"] == "none" else r["perturbation"].replace("_", " "),
            "" if r["setting"] is None else number(r["setting"], "g"),
            "-" if r["value"] is None else number(r["value"], ".4g"),
            "" if r["low"] is None or r["high"] is None else f"[{number(r['low'], '.4g')}, {number(r['high'], '.4g')}]",
            f"{r['n']:,}",
        ]
        for r in c.records
    ]
    split = c.records[0]["split"] if c.records else "test"
    words = [
        f"Norm {c.norm}; {split} split. Certified figures are guarantees (lower bounds), attack figures upper bounds; "
        "estimated and sampled ones are neither."
    ]
    head = ["Model", "Figure", "Kind", "Budget", "Value", "95 % interval", "n"]
    return [Section("Certificates", words, (), [Table(f"Records of the {split} split.", head, rows)])]


def numbers(e: Evidence, c: Certificates | None = None) -> dict[str, Any]:
    """Everything the report of an evaluation shows, as plain values."""
    verdicts = {name: e.masking(name) for name in e.styles}
    others = [name for name in e.styles if e.baseline in e.styles and name != e.baseline]
    said = [
        {
            "model": name,
            "baseline": e.baseline,
            "split": e.split,
            "perturbation": at[0],
            "setting": at[1],
            "outcome": e.outcome(name, at),
            "words": plain_spaces(e.said(name, at)),
        }
        for name in others
        for at in e.plan("")
        if e.difference(name, at)
    ]
    shown: dict[str, Any] = {"schema": REPORT_SCHEMA, "kind": "evaluation", "split": e.split, **e.details}
    shown |= {"masking": verdicts, "differences": said, "records": e.records, "breakdown": e.breakdown}
    return shown | ({} if c is None else {"certificates": certificate_numbers(c)})


def certificate_numbers(c: Certificates) -> dict[str, Any]:
    """Everything that certificates say, as plain values."""
    split = c.records[0]["split"] if c.records else "test"
    return {"schema": REPORT_SCHEMA, "kind": "certification", "split": split, **c.details, "records": c.records}


def plain_spaces(text: str) -> str:
    """Text without the spaces that keep a number and its unit on one line."""
    return text.replace("\u00a0", " ")


def sample_words(label: str, e: Evidence) -> str:
    """Which models of an evaluation were measured on what."""
    sample, source = e.details["sample"], e.details["provenance"]
    return (
        f"{label}: {', '.join(e.styles)} on {source.get('data', 'unnamed data')}, {sample['examples']:,} of "
        f"{sample['test']:,} {e.split} examples, {sample['attacked']:,} under attack, evaluation seed "
        f"{source.get('seed', 'unknown')}."
    )


def masking_rows(e: Evidence, before: Sequence[str] = ()) -> list[list[str]]:
    """(model, verdict, reasons, checks that could not run) of every model, after the cells in `before`."""
    rows = []
    for name in e.styles:
        verdict: dict[str, Any] = dict(e.masking(name) or {})
        said = ["not attacked", "", ""]
        if verdict:
            lacking = (f"{check.replace('_', ' ')}: {why}" for check, why in verdict.get("not_run", {}).items())
            said = [verdict["level"], "; ".join(verdict["reasons"]) or "none", "; ".join(lacking) or "-"]
        rows.append([*before, name, *said])
    return rows


def _masking(e: Evidence) -> Section:
    words = ["May the figures under attack be believed? WARN: doubtful; FAIL: they are no evidence of robustness."]
    tables = [Table("What was found, and which checks could not run.", MASKING_HEAD, masking_rows(e))]
    verdicts: dict[str, dict[str, Any]] = {name: dict(e.masking(name) or {}) for name in e.styles}
    rows = []
    for figure in e.figures_of_masking:
        check = e.check(figure)
        limits = ["-" if limit is None else f"{100 * limit:g} %" for limit in (check.warn, check.fail)] if check else []
        found = [verdicts[name].get(figure) for name in e.styles]
        cells = ["-" if value is None else f"{100 * value:.1f} %" if check else number(value, "g") for value in found]
        rows.append([figure.replace("_", " "), *(limits or ["-", "-"]), *cells])
    caption = "The figures behind it, shares of the examples that each check looked at."
    tables += [Table(caption, ["Check", "WARN above", "FAIL above", *e.styles], rows)] if rows else []
    return Section("Masking verdict", words, (), tables)


def _accuracies(e: Evidence) -> Section:
    names = list(e.styles)
    rows = []
    for at in e.plain_plan:
        cells = [percent(e.get(name, "accuracy", *at)) + e.mark(name, at) for name in names]
        rows.append([e.place(at), e.counts(at), *cells])
    caption = f"Accuracy on the {e.split} split in percent with 95 % Wilson intervals."
    return Section("Accuracy", (), (), [Table(caption, ["Perturbation", "n", *names], rows)])


def _differences(e: Evidence) -> Section | None:
    others = [name for name in e.styles if e.baseline in e.styles and name != e.baseline]
    if not others:
        return None
    rows = []
    for at in e.plan(""):
        cells = []
        for name in others:
            found = e.difference(name, at)
            if found is None:
                cells.append("-")
                continue
            d, low, high = (number(100 * value, "+.1f") for value in found.estimate)
            p = "" if found.adjusted_p is None else f", {p_text(found.adjusted_p)}"
            cells.append(f"{d} [{low}, {high}]{p}: {'no evidence' if e.doubted(name, at) else e.outcome(name, at)}")
        rows.append([e.place(at), e.counts(at), *cells])
    caption = (
        f"Accuracy minus that of {e.baseline} on the same {e.split} examples, in points with 95 % bootstrap intervals; "
        "p of McNemar's exact test after Holm's correction."
    )
    findings = [f"{e.said(name, at)}." for name in others for at in e.main_places]
    return Section("Paired differences", (), findings, [Table(caption, ["Perturbation", "n", *others], rows)])


def _classes(e: Evidence) -> Section | None:
    names, tables = list(e.styles), []
    classes = e.details["classes"]
    for at in e.main_places:
        rows = [
            [classes[label] if label < len(classes) else str(label)]
            + [
                f"{percent(found[name])}{e.mark(name, at)}, n = {found[name]['n']}" if name in found else "-"
                for name in names
            ]
            for label, found in e.by_class(at).items()
        ]
        caption = f"{e.place(at)}: accuracy by true class on the {e.split} split, hardest class first."
        tables.append(Table(caption, ["Class", *names], rows))
    return Section("Accuracy by class", (), (), tables) if tables else None


def _calibration(e: Evidence) -> Section | None:
    names, rows = list(e.styles), []
    figures = (
        ("ECE (points)", "expected_calibration_error", 100.0, ".1f"),
        ("NLL (nats)", "negative_log_likelihood", 1.0, ".3f"),
        ("Brier", "brier_score", 1.0, ".3f"),
    )
    for at in e.plan("none") + e.plan("gaussian_snr_db"):
        for title, metric, factor, form in figures:
            found = [e.get(name, metric, *at) for name in names]
            if any(found):
                rows.append([e.place(at), title, *(_scaled(r, factor, form) for r in found)])
    if not rows:
        return None
    caption = f"On the {e.split} split, with 95 % bootstrap intervals; smaller is better; ECE over 15 equal bins."
    return Section("Calibration", (), (), [Table(caption, ["Perturbation", "Figure", *names], rows)])


def _scaled(record: Any, factor: float, form: str) -> str:
    if record is None or record["value"] is None:
        return "-"
    value, low, high = (number(factor * record[end], form) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}], n = {record['n']:,}"


def _corruptions(e: Evidence) -> Section | None:
    if not e.corruptions:
        return None
    names, tables = list(e.styles), []
    overall = [
        [title, *(percent(e.overall(name, metric)) for name in names)]
        for title, metric in (
            ("Mean corruption accuracy", "mean_corruption_accuracy"),
            ("Relative drop", "relative_corruption_drop"),
        )
    ]
    tables.append(Table(f"Over all kinds and severities, {e.split} split, in percent.", ["Figure", *names], overall))
    for name in names:
        rows = [
            [kind.replace("_", " ")]
            + [percent(e.get(name, "accuracy", f"corruption_{kind}", severity)) for severity in e.severities]
            for kind in e.corruptions
        ]
        head = ["Corruption", *(f"severity {number(severity, 'g')}" for severity in e.severities)]
        tables.append(Table(f"{name}: accuracy in percent on the {e.split} split.", head, rows))
    return Section("Corruptions", (), (), tables)


def _costs(e: Evidence) -> Section:
    rows = []
    for name in e.styles:
        found = [e.get(name, metric) for metric in ("parameters", "macs", "file_size", "latency")]
        rows.append([name, *("-" if r is None or r["value"] is None else f"{r['value']:,.6g}" for r in found)])
    head = ["Model", "Parameters", "MACs", "File size (bytes)", "Latency (ms)"]
    return Section("Size and speed", (), (), [Table("Of one example.", head, rows)])


def _noise(e: Evidence) -> Section | None:
    """What SNR the noise had after clipping; the same noise for every model."""
    name, rows = next(iter(e.styles)), []
    for at in e.plan("gaussian_snr_db"):
        realised, excluded = e.get(name, "mean_realised_snr_db", *at), e.get(name, "excluded_examples", *at)
        shown = "-" if realised is None or realised["value"] is None else f"{number(realised['value'], '.1f')} dB"
        count = "-" if excluded is None or excluded["value"] is None else number(excluded["value"], "g")
        rows.append([e.place(at), e.counts(at), shown, count])
    caption = f"SNR after clipping to the range of the inputs, mean over the {e.split} examples of some power."
    head = ["Asked for", "n", "Realised", "Excluded examples"]
    return Section("Noise", (), (), [Table(caption, head, rows)]) if rows else None


def _radii(e: Evidence) -> Section | None:
    names = list(e.styles)
    metrics = dict.fromkeys(r["metric"] for r in e.records if r["metric"].startswith("median_estimated_"))
    rows = [[m.replace("_", " "), *(_scaled(e.get(name, m), 1.0, ".4g") for name in names)] for m in metrics]
    caption = f"On the {e.split} split. Estimated at first order from the gradient at each example: not a guarantee."
    return Section("Estimated radii", (), (), [Table(caption, ["Figure", *names], rows)]) if rows else None


def _provenance(e: Evidence) -> Section:
    """Where the numbers come from; the settings whole are in JSON and HTML."""
    named = ("version", "git_commit", "torch", "python", "hardware", "seed", "created", "source")
    source, models = e.details["provenance"], e.details["models"]
    rows = [["evaluation", name.replace("_", " "), str(source[name])] for name in named if name in source]
    for model, described in models.items():
        card = described["card"]
        facts = {name: card[name] for name in ("network", "sha256") if card.get(name)}
        facts |= {name: value for name, value in (card.get("provenance") or {}).items() if name in named}
        rows += [[model, name.replace("_", " "), str(value)] for name, value in facts.items()]
    return Section("Provenance", (), (), [Table("Where each number comes from.", ["Of", "Fact", "Value"], rows)])
