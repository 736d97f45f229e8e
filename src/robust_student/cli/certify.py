"""The command `certify`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Config, Flat, Words
from robust_student.cli.open_models import open_models
from robust_student.evaluation.settings import CertificationSettings
from robust_student.models.settings import PreprocessingSettings


class Certify(Command):
    """Bound the perturbation that each example survives, from below (certified) and from above (attacks)."""

    models: Words = ()
    """Run directories, each as NAME=DIR or DIR, or NAME=SPEC as for evaluate; bound B and agreement refer to the one
    named teacher."""
    data: str
    """digits, folder:DIR, mnist:DIR, ... (see train --help, docs/data.md); only the test split is used."""
    output: Path
    """Directory for rows.jsonl, summary.json and the rest; the same command continues an interrupted run."""
    image_size: int | None = Field(None, ge=4)
    """Side in pixels to which folder images are resized; None: what the first run expects, else as in train."""
    group: str | None = None
    """What no split may part, as for train: a column's name or a pattern for file names; none: nothing; None: as in
    the training of the runs."""
    trust: bool = False
    """Allow code that a .pt2 file holds, or that a run from elsewhere names, to run."""
    teaching: Annotated[PreprocessingSettings, Flat] = PreprocessingSettings()
    certification: Annotated[CertificationSettings, Flat] = CertificationSettings()
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Open the models, certify the test examples and print the radii."""
        from robust_student.evaluation.certify import certify

        models, data = open_models(
            "certify",
            self.models,
            self.data,
            self.output,
            image_size=self.image_size,
            group=self.group,
            teaching=self.teaching,
            trust=self.trust,
        )
        certification = certify(models, data, self.certification, output=self.output)
        terminal.show_radii(certification, self.output / "summary.json")
