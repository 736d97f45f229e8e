"""The command `demo`."""

from pathlib import Path

from pydantic import Field

from robust_student.cli import terminal
from robust_student.cli.arguments import Command
from robust_student.core.errors import UserError
from robust_student.core.settings import LARGEST_SEED


class Demo(Command):
    """Train a teacher, a plain and a robust student on embedded data, evaluate them and write a report."""

    output: Path = Path("runs/demo")
    """Directory to write."""
    overwrite: bool = False
    """Replace the output directory of an earlier demo once the new one is complete."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of everything random."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""

    def run(self) -> None:
        """Train the three models, evaluate them and write the report."""
        from robust_student.cli.run_demo import FILES, run_demo
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.files import replacing

        if not self.overwrite:
            require_new(self.output)
        elif self.output.is_dir() and any(self.output.iterdir()) and not (self.output / FILES[0]).exists():
            raise UserError(f"output {self.output}: is not the result of a demo; choose another name or remove it")
        with replacing(self.output) as draft:
            evaluation = run_demo(draft, seed=self.seed, device=self.device, say=terminal.stage)
        terminal.show(evaluation, self.output / "report.html")
