"""The command `doctor`."""

from pathlib import Path
from typing import Annotated

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Flat
from robust_student.models.settings import TeacherSettings


class Doctor(Command):
    """Check this machine, and the data, the teacher and the output directory that are named."""

    data: str | None = None
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); None: data are not checked."""
    teacher: str | None = None
    """A run directory, timm:NAME, file.py:factory@WEIGHTS, ... (see distill --help); None: no teacher is
    checked."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    output: Path | None = None
    """Directory for results, checked without writing to it; None: not checked."""
    trust: bool = False
    """Allow code that a .pt2 file holds, or that a run from elsewhere names, to run."""
    teaching: Annotated[TeacherSettings, Flat] = TeacherSettings()

    def run(self) -> None:
        """Print the findings; exit code 1 where there is a problem."""
        from robust_student.doctor.examine import examine

        findings = examine(
            data=self.data,
            teacher=self.teacher,
            teaching=self.teaching,
            device=self.device,
            output=self.output,
            trust=self.trust,
        )
        terminal.show_findings(findings)
        if any(finding.level == "problem" for finding in findings):
            raise SystemExit(1)
