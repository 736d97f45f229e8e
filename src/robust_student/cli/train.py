"""The command `train`."""

from pathlib import Path
from typing import Annotated

from robust_student.cli import terminal
from robust_student.cli.arguments import Command, Config, Flat
from robust_student.training.settings import SelectionSettings, TrainingSettings


class Train(Command):
    """Train a network on labels, for example a teacher."""

    data: str
    """digits, folder:DIR (one sub-folder per class), mnist:DIR, cifar10:DIR, cifar100:DIR, parquet:DIR, npz:FILE,
    csv:FILE, hf:NAME_OR_PATH, or a stream: wds:SHARDS, hf-stream:NAME_OR_PATH (docs/data.md)."""
    model: str
    """linear, mlp:WIDTHS, cnn:WIDTH, resnet20, wrn-16-2, ..., timm:NAME, torchvision:NAME, hub:USER/REPO,
    pkg.module:factory or file.py:factory (docs/models.md)."""
    output: Path
    """New run directory."""
    image_size: int | tuple[int, int] | None = None
    """Side, or height and width, in pixels to which image files are resized; None: by the rules of the source."""
    group: str | None = None
    """What belongs together (pictures of one person, device, track) and no split may part: a column's name, or a
    regular expression on file names with one capture group, such as '(.*)_'; None: each example is on its own."""
    training: Annotated[TrainingSettings, Flat] = TrainingSettings(selection=SelectionSettings(metric="accuracy"))
    config: Config = None
    """YAML file with any of these settings; flags win over it."""

    def run(self) -> None:
        """Train the network and print its accuracy."""
        from robust_student.data.readers.load import load_data, require_outside
        from robust_student.models.run_directory import require_new
        from robust_student.runtime.distributed import process_group, rank, rank_zero
        from robust_student.training.train import train

        with process_group(self.training.device):
            rank_zero(lambda: require_new(self.output))
            require_outside(self.output, self.data)
            data = load_data(self.data, image_size=self.image_size, group=self.group)
            trained = train(self.model, data, self.training, output=self.output)
            if rank() == 0:
                terminal.finished(trained, self.output)
