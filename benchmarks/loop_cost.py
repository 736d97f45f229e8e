"""Cost of what the training loop does around a KD step, relative to that step, on this machine.

Protocol: the MNIST student (cnn:8, 28x28 grey, batch 128), random images in memory as uint8. The unit is the bare KD
step: forward, backward and AdamW with teacher scores given. The unit and every part take turns, one after the other, so
that a change of the machine's speed meets all of them; the clock is processor time, so that other programs do not
count. The figure is the median over 60 rounds of the ratio to the bare step of the same round, with its quartiles.

"loop" is what every step of `distill` with the kd method does beyond the bare step; the rest is done only where a
setting asks for it. Prints a table; run with `python benchmarks/loop_cost.py`.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table

from robust_student import METHODS, Batch, RobustStudentObjective
from robust_student.core.rng import ExampleRng, seed_generators, step_seed
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.augmentation import AugmentationSettings, augment
from robust_student.data.readers.load import Examples
from robust_student.models.registry import build
from robust_student.training.batches import Batches, MicroBatch
from robust_student.training.optimisation import Optimisation, any_failure, averaged_model, limit_gradient, mean_of
from robust_student.training.settings import TrainingSettings

ROUNDS, WARM_UP, BATCH, SHAPE, CLASSES, IMAGES = 60, 5, 128, (1, 28, 28), 10, 12_800
UNIT = "bare KD step"


def parts() -> dict[str, tuple[str, Callable[[], object]]]:
    """Name -> when it is done, and a function that does it once."""
    torch.manual_seed(0)
    student, teacher = build("cnn:8", SHAPE, CLASSES), build("cnn:32", SHAPE, CLASSES).eval()
    pixels = torch.randint(0, 256, (IMAGES, *SHAPE), dtype=torch.uint8)
    source = Examples(pixels, torch.randint(CLASSES, (IMAGES,)))
    device = torch.device("cpu")
    batches = endless(Batches(source, batch_size=BATCH, accumulate=1, seed=0, device=device))
    (part,) = next(batches)
    teacher_scores = 5 * torch.randn(IMAGES, CLASSES)
    objective = RobustStudentObjective(student, METHODS["kd"])
    settings = TrainingSettings()
    optimisation = Optimisation(student, settings, 10**6)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    average = averaged_model(student, 0.999)
    assert average is not None
    terms = objective(Batch(part.inputs, part.labels, part.examples, teacher_scores[part.examples]))
    torch.autograd.backward(terms.loss)
    optimisation.step()

    def bare() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(
            objective(Batch(part.inputs, part.labels, part.examples, teacher_scores[part.examples])).loss
        )
        optimizer.step()

    def draws() -> ExampleRng:
        return ExampleRng(0, 7, part.examples)

    def changed(**changes: float) -> Callable[[], object]:
        settings = AugmentationSettings.model_validate(changes)

        def change() -> None:
            seed_generators(step_seed(0, 7), device)
            augment(part.inputs, part.labels, settings, draws())

        return change

    threat = ThreatModel.named("linf", 0.1, UNIT_RANGE, part.inputs.shape[1:])

    def start() -> None:
        threat.random(part.inputs, draws())

    def plain_start() -> None:
        threat.random(part.inputs)

    def answer() -> None:
        with torch.no_grad():
            teacher(part.inputs)

    return {
        UNIT: ("", bare),
        "batch out of memory, uint8 to float": ("loop", lambda: next(batches)),
        "known teacher scores": ("loop", lambda: teacher_scores[part.examples]),
        "seeds, draws that nobody takes, no augmentation": ("loop", changed()),
        "gradient norm and clip": ("loop", lambda: limit_gradient(optimisation.parameters, 1.0)),
        "search for a failure": ("loop", lambda: any_failure([terms], 1.0, 0)),
        "running means of the terms": ("loop", lambda: [mean_of([value]) for value in terms.values.values()]),
        "learning-rate schedule": ("loop", optimisation.schedule.step),
        "crop and flip": ("augmentation", changed(crop=2, flip=True)),
        "mixup": ("augmentation", changed(mixup=0.2)),
        "cutmix": ("augmentation", changed(cutmix=1.0)),
        "averaged weights": ("ema", lambda: average.update_parameters(student)),
        "random start in the ball, per-example draws": ("secant", start),
        "random start in the ball, PyTorch's generator": ("(comparison)", plain_start),
        "teacher cnn:32 on a batch": ("changing inputs", answer),
    }


def endless(batches: Batches) -> Iterator[list[MicroBatch]]:
    """Batches of one epoch after the other."""
    number = 0
    while True:
        number += 1
        yield from batches.epoch(number)


def once(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    works = parts()
    rounds = [{name: once(work) for name, (_, work) in works.items()} for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    table = Table(title=f"processor time relative to a bare KD step: median of {ROUNDS} interleaved rounds [quartiles]")
    for column in ("part", "when", "ratio", "ms"):
        table.add_column(column, justify="left" if column in ("part", "when") else "right")
    rows = {name: [r[name] for r in rounds] for name in works}
    loop = [name for name, (when, _) in works.items() if when == "loop"]
    rows["all that every step does"] = [sum(r[name] for name in loop) for r in rounds]
    for name, times in rows.items():
        ratios = [t / r[UNIT] for t, r in zip(times, rounds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        when = works[name][0] if name in works else "loop"
        figure = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
        table.add_row(name, when, figure, f"{1000 * statistics.median(times):.2f}")
    Console(width=110).print(table)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, cnn:8 on {SHAPE}, batch {BATCH}")


if __name__ == "__main__":
    main()
