"""The command `doctor`."""

from pathlib import Path

from robust_student import terminal
from robust_student.arguments import Command


class Doctor(Command):
    """Look at this machine, and at data, a teacher and the place for results where they are named."""

    data: str | None = None
    """The data that will be used: digits, mnist:DIR, folder:DIR, npz:FILE, parquet:DIR; None: not looked at."""
    teacher: str | None = None
    """Run directory of the teacher; its accuracy is looked at where data are named; None: not looked at."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    output: Path | None = None
    """Directory that results are to be written to; nothing is written; None: not looked at."""

    def run(self) -> None:
        """Do it; exit code 1 where there is a problem."""
        from robust_student.doctor import examine

        findings = examine(data=self.data, teacher=self.teacher, device=self.device, output=self.output)
        terminal.show_findings(findings)
        if any(finding.level == "problem" for finding in findings):
            raise SystemExit(1)
