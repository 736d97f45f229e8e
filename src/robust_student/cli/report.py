"""The command `report`."""

from pathlib import Path

from robust_student.cli.arguments import Command, Paths
from robust_student.core.errors import UserError
from robust_student.report.formats import ReportFormat, ReportKind, format_of, suffix_of


class Report(Command):
    """Turn what `evaluate` or `certify` wrote into a page, Markdown or JSON. No model is run."""

    directories: Paths = ()
    """Directory that `evaluate` or `certify` wrote; two or more of `evaluate` with --compare or --seeds."""
    compare: bool = False
    """Put two or more evaluations side by side. A model of a later one is compared with the model of the same name in
    the first, or with the first one's baseline where there is none."""
    seeds: bool = False
    """Average models of the same names over evaluations with other seeds: mean, sd, n, Student's t interval."""
    certificates: Path | None = None
    """Directory that `certify` wrote, to be shown below an evaluation."""
    format: ReportFormat | None = None
    """Format to write; None: the one of the output's suffix (.html, .md, .json), or html without a suffix."""
    output: Path | None = None
    """File to write; None: report.html, report.md or report.json (report-with-certificates.*, comparison.*, seeds.*)
    in the first directory."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        """Write the report and print where it is."""
        from robust_student.report.write import write_report

        if not self.directories:
            raise UserError("report: name at least one directory")
        if self.compare and self.seeds:
            raise UserError("report: --compare and --seeds exclude each other")
        kind: ReportKind = "comparison" if self.compare else "seeds" if self.seeds else "report"
        style = self.format or ("html" if self.output is None else format_of(self.output))
        name = kind if self.certificates is None else f"{kind}-with-certificates"
        output = self.output if self.output is not None else self.directories[0] / f"{name}{suffix_of(style)}"
        if output.exists() and not self.overwrite:
            raise UserError(f"output {output}: exists already; choose another name or pass --overwrite")
        write_report(self.directories, output, certificates=self.certificates, kind=kind, style=style)
        print(f"report: {output}")
