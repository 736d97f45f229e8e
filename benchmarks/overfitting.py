"""Catastrophic overfitting of a one-step ascent, left alone and cured, on the same seeds.

Protocol: a secant student that learns at the point of one step of length R from the input (K = 1, start "inputs",
not shared), a task of its own (three prototypes of 16 pixels plus Gaussian noise; 180 training, 120
validation, 300 test examples) or any data, and the guard of `training/overfitting.py` off and on. It looks after every
epoch here. Per seed: accuracy on test examples, clean and under 60-step PGD at R, of the kept epoch; accuracy under the
selection metric's PGD on validation after the last epoch; the epochs that were undone.

Run with `python benchmarks/overfitting.py`, or for example
`python benchmarks/overfitting.py --data parquet:CIFAR_DIR --examples 5000 --teacher RUN --model convnet:32 --radius
8/255 --epochs 60`. `--cures 0` leaves the cured runs out.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from robust_student import load_data
from robust_student.attacks.pgd import pgd
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.examples import Data, Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import load
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training import loop, overfitting
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import Trained, distill

NOISE, PIXELS, CLASSES = 0.2, 16, 3


def prototypes() -> tuple[Data, Model]:
    """The task of its own, and the teacher that knows the prototypes."""
    generator = torch.Generator().manual_seed(0)
    known = torch.rand((CLASSES, 1, 4, 4), generator=generator)

    def examples(count: int) -> Examples:
        labels = torch.arange(count) % CLASSES
        drawn = known[labels] + NOISE * torch.randn((count, 1, 4, 4), generator=generator)
        return Examples(UNIT_RANGE.clip(drawn), labels)

    names = tuple(f"class {k}" for k in range(CLASSES))
    data = Data("prototypes", examples(300), examples(300), names, UNIT_RANGE)
    layer = nn.Linear(PIXELS, CLASSES)  # the nearest prototype: -||x - p||^2 / 2 without the term in x alone
    with torch.no_grad():
        layer.weight.copy_(10 * known.flatten(1))
        layer.bias.copy_(-5 * known.flatten(1).square().sum(dim=1))
    return data, as_model(nn.Sequential(nn.Flatten(), layer), data)


def student(data: Data, teacher: Model, words: argparse.Namespace, seed: int, *, guarded: bool) -> Trained:
    """A training with the guard or without."""
    training = TrainingSettings(
        epochs=words.epochs,
        batch_size=words.batch_size,
        learning_rate=words.learning_rate,
        schedule="cosine",
        validation_fraction=words.validation,
        seed=seed,
        device="cpu",
        selection=SelectionSettings(snr_db=(0.0,), steps=10),
    )
    secant = {"weight": 5.0, "start": "inputs", "steps": 1, "step": 1.0}
    objective = ObjectiveSettings.parse({"radius": words.radius, "secant": secant})
    with ExitStack() as changes:
        changes.enter_context(patch.object(overfitting, "_COST", 1000.0))
        if not guarded:
            changes.enter_context(patch.object(loop, "guard_of", lambda *_: None))
        return distill(teacher, words.model, data, DistillSettings(training=training, objective=objective))


def report(trained: Trained, data: Data) -> str:
    """One line of figures."""
    count = min(1000, len(data.test))
    chosen = data.test.subset(stratified_sample(data.test.labels, count, 0))
    inputs, labels = chosen.floats(), chosen.labels
    objective = trained.model.card.provenance["settings"]["objective"]
    threat = ThreatModel.on(data, "linf", objective["radius"])
    attacked = pgd(
        trained.model, inputs, labels, threat, steps=60, start=threat.random(inputs, torch.Generator().manual_seed(1))
    )
    clean, robust = (
        100 * float((trained.model.logits(points).argmax(1) == labels).double().mean()) for points in (inputs, attacked)
    )
    last = 100 * trained.history[-1]["validation"]["pgd"]
    undone = [record["epoch"] for record in trained.history if "undone" in record]
    return f"clean {clean:.1f}, PGD-60 {robust:.1f}, last epoch PGD {last:.1f}, undone {undone or 'none'} (n = {count})"


def main() -> None:
    """Print a line for each seed and each training."""
    parser = argparse.ArgumentParser()
    for name, default in (("data", ""), ("teacher", ""), ("model", "mlp:64,64"), ("radius", "0.3")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("epochs", 14), ("batch-size", 16), ("seeds", 6), ("examples", 0), ("cures", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, share in (("learning-rate", 0.05), ("validation", 0.4)):
        parser.add_argument(f"--{name}", type=float, default=share)
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.data:
        data, teacher = load_data(words.data), load(Path(words.teacher))
    else:
        data, teacher = prototypes()
    if words.examples:
        chosen = stratified_sample(data.training_examples.labels, words.examples, 0)
        data = replace(data, train=data.training_examples.subset(chosen))
    for seed in range(words.seeds):
        for guarded in (False, True)[: 1 + words.cures]:
            trained = student(data, teacher, words, seed, guarded=guarded)
            print(f"seed {seed}, {'cured' if guarded else 'left alone'}: {report(trained, data)}", flush=True)


if __name__ == "__main__":
    main()
