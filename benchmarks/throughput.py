"""Images per second of KD training: `distill` as a user calls it, torchdistill, and a plain DataLoader loop.

Protocol: teacher cnn:32, student cnn:8, random 28x28 grey images held in memory as uint8, batch 128, AdamW, one cycle,
gradient clipped at norm 1, L_KD = 0.1 CE + 0.9 * 16 KL at temperature 4. That all sides compute the same loss is
checked first. The sides take turns, a few epochs at a time; a side's figure is training images per second of one turn,
and ratios are to torchdistill without workers (to the plain loop where torchdistill is missing) in the same round:
median and quartiles over the rounds. Clean accuracy on a tenth as many validation images is measured after each epoch
on every side. Ours is the whole call of `distill`: statistics, digests, the teacher's scores, all epochs. The others
are timed from a finished set-up on, in their favour. The turns of the first round are dropped.

Two clocks: wall time, and processor time of the process and its workers, which other programs on the machine disturb
less but which cannot show what workers gain. The sides:

- ours, scores known: as on every run after the first (`cache_scores`), from a cache directory of this benchmark's own;
- ours, scores computed: as on the first run; within a run the scores of fixed inputs are computed once;
- ours, changing inputs: cropped and flipped images, the teacher answers every batch;
- floor: the student's passes and the optimiser alone, batches and scores given: what no loop can beat;
- plain loop: DataLoader over a TensorDataset, converted to floats by the batch, the teacher answers every batch; with
  changing inputs torchvision's transforms, example by example;
- torchdistill: DistillationBox with KDLoss and the loop of its example image_classification.py, MetricLogger included;
  the images leave the data set as floats (with changing inputs: torchvision's transforms on PIL images).

torchdistill and torchvision are found on PYTHONPATH, or left out with a note:

    pip install --no-deps --target DIR torchdistill==1.1.5
    OMP_NUM_THREADS=1 PYTHONPATH=DIR python benchmarks/throughput.py
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from throughput_sides import BATCH, CLIP, Task, Turn, box, find_vision, floor, kd_loss, ours, plain, task, torchdistill

from robust_student import METHODS, Batch
from robust_student.data.cache import VARIABLE
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.settings import TrainingSettings


def check_losses(task: Task, *, published: bool) -> None:
    """All sides must compute the same loss of the same batch."""
    student = task.student().eval()
    examples = task.data.training_examples
    inputs, labels = examples.floats(slice(0, BATCH)), examples.labels[:BATCH]
    scores = task.teacher.logits(inputs)
    losses = [kd_loss(student(inputs), scores, labels)]
    losses.append(RobustStudentObjective(student, METHODS["kd"])(Batch(inputs, labels, teacher_logits=scores)).loss)
    if published:
        losses.append(box(task, student, workers=0).forward_process(inputs, labels, {}))
    for loss in losses:
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-6)
    optimizer, _ = task.optimisation(student)
    settings = TrainingSettings()
    assert (settings.optimizer, settings.schedule, CLIP) == ("adamw", "one_cycle", settings.gradient_clip)
    assert isinstance(optimizer, torch.optim.AdamW)


def sides(*, workers: list[int], changing: bool, vision: bool, published: bool) -> Iterator[tuple[str, Any]]:
    """Every side by its name."""
    kind = "changing inputs" if changing else "scores computed"
    yield f"ours, {kind}", lambda task: ours(task, cached=False, changing=changing)
    if not changing:
        yield "ours, scores known", lambda task: ours(task, cached=True)
        yield "floor", floor
    for count in workers:
        name = f"{count} workers" if count else "no workers"
        if vision or not changing:
            yield f"plain loop, {name}", lambda task, w=count: plain(task, workers=w, changing=changing)
        if published:
            yield f"torchdistill, {name}", lambda task, w=count: torchdistill(task, workers=w, changing=changing)


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_800, help="at least 2048")
    parser.add_argument("--epochs", type=int, default=3, help="of one turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoaders")
    parser.add_argument("--changing", action="store_true", help="crop and flip the images")
    options = parser.parse_args()
    work = task(options.images // BATCH * BATCH, options.epochs)
    vision = find_vision()
    try:
        import torchdistill as package  # noqa: F401
    except ImportError:
        published = False
    else:
        published = vision
    if not published:
        print("torchdistill (or torchvision) is not installed: compared with a plain DataLoader loop only", flush=True)
    check_losses(work, published=published)
    pairs = dict(sides(workers=options.workers, changing=options.changing, vision=vision, published=published))
    rounds: list[dict[str, Turn]] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ[VARIABLE] = cache
        names = list(pairs)
        for number in range(options.rounds + 1):
            order = names[number % len(names) :] + names[: number % len(names)]
            rounds.append({name: pairs[name](work) for name in order})
            speeds = ", ".join(f"{name} {turn.wall:.1f} s ({turn.processor:.1f})" for name, turn in rounds[-1].items())
            print(f"round {number}: {speeds}", file=sys.stderr, flush=True)
    report(rounds[1:], options, published=published)


def report(rounds: list[dict[str, Turn]], options: argparse.Namespace, *, published: bool) -> None:
    reference = f"{'torchdistill' if published else 'plain loop'}, no workers"
    if reference not in rounds[0]:
        reference = list(rounds[0])[-1]
    images = options.images // BATCH * BATCH * options.epochs
    table = Table(title=f"speed relative to {reference}: median of {len(rounds)} interleaved rounds [quartiles]")
    for column in ("side", "ratio, wall", "ratio, processor", "images/s wall", "images/s processor"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name in rounds[0]:
        base, turns = [turns[reference] for turns in rounds], [turns[name] for turns in rounds]
        table.add_row(
            name,
            quartiles([b.wall / t.wall for b, t in zip(base, turns, strict=True)]),
            quartiles([b.processor / t.processor for b, t in zip(base, turns, strict=True)]),
            f"{images / statistics.median(t.wall for t in turns):,.0f}",
            f"{images / statistics.median(t.processor for t in turns):,.0f}",
        )
    Console(width=120).print(table)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.images} images, "
        f"{options.epochs} epochs a turn, batch {BATCH}, load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
