"""The command `doctor`."""

from pathlib import Path
from typing import Annotated

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Flat
from robust_student.models.settings import TeacherSettings


class Doctor(Command):
    """Look at this machine, and at data, a teacher and the place for results where they are named."""

    data: str | None = None
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); None: no data are looked at."""
    teacher: str | None = None
    """A run directory, timm:NAME, file.py:factory@WEIGHTS, ... (see distill --help); None: no teacher is looked at."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    output: Path | None = None
    """Directory that results are to be written to; nothing is written; None: not looked at."""
    trust: bool = False
    """Call code that a .pt2 file holds or somebody else's run names."""
    teaching: Annotated[TeacherSettings, Flat] = TeacherSettings()

    def run(self) -> None:
        """Do it; exit code 1 where there is a problem."""
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
