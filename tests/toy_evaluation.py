"""A small evaluation that tests run: toy data, three models, fast settings, and views of what it wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from reference import affine, prototype_classifier, toy_data
from torch import Tensor, nn

from robust_student.data.readers.load import Data
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.row_store import Shard
from robust_student.evaluation.settings import EvaluationSettings, MaskingSettings
from robust_student.models.model import Model, as_model
from robust_student.results.rows import ROWS, SUMMARY
from robust_student.runtime.files import read_json, read_jsonl

Records = list[dict[str, Any]]
Models = Mapping[str, Model | nn.Module]
DATA = toy_data(train=60, test=45, noise=0.35)
FAST = EvaluationSettings(
    examples=30,
    attack_examples=12,
    snr_db=(3.0, -3.0),
    pgd_linf=(0.05, 0.1),
    pgd_l2=(0.3,),
    pgd_steps=6,
    autoattack="none",
    masking=MaskingSettings(examples=9, steps=(1, 4)),
    batch_size=7,
    device="cpu",
)
ATTACKED = FAST.model_copy(update={"autoattack": "fast", "attack_examples": 8, "autoattack_radius": 0.4})


class Curved(nn.Module):
    """A nearest-prototype classifier through a saturating layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = prototype_classifier(DATA)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner((3 * (inputs - 0.5)).sin() / 3 + 0.5)


def models() -> dict[str, Model | nn.Module]:
    """A teacher, a plain student, and one that is a little different from both."""
    generator = torch.Generator().manual_seed(4)
    good = prototype_classifier(DATA)
    blurred = affine(4 * torch.randn((3, 16), generator=generator))
    return {"teacher": as_model(good, DATA), "kd": Curved(), "new": blurred}


def run(
    output: Path,
    settings: EvaluationSettings = FAST,
    data: Data = DATA,
    subjects: Models | None = None,
    shard: Shard | None = None,
) -> Records:
    """What the evaluation writes into its summary."""
    evaluate(models() if subjects is None else subjects, data, settings, output=output, shard=shard)
    return [] if shard is not None else read_json(output / SUMMARY)


def rows_of(output: Path, **fields: Any) -> list[dict[str, Any]]:
    """Rows of the evaluation that have these entries."""
    return [row for row in read_jsonl(output / ROWS) if all(row[name] == value for name, value in fields.items())]


def lines_of(output: Path) -> set[str]:
    return set((output / ROWS).read_text().splitlines())


def timeless(records: Records) -> Records:
    return [record for record in records if record["metric"] != "latency"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
