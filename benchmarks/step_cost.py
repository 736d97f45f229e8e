"""Cost of one training step of every objective relative to plain KD, on this machine.

Protocol: the MNIST student (cnn:8, 28x28, batch 128), teacher scores given (as cached), random inputs, draws by seed,
step and example as in a training; AdaAD asks a teacher (cnn:32) as well. One step is forward, backward and optimiser
step. It is measured in processor time on one thread, in which other programs on the machine show little. The objectives
take turns, step by step, so that a change of the machine's speed meets all of them; the figure is the median over 30
rounds of the ratio to the KD step of the same round, with its quartiles. Prints a table; run with `make benchmark`.
"""

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from robust_student import METHODS, Batch, ObjectiveSettings, RobustStudentObjective
from robust_student.core.rng import ExampleRng
from robust_student.models.registry import build
from robust_student.objectives.kept_perturbations import KeptPerturbations

ROUNDS, WARM_UP, BATCH, SHAPE, CLASSES = 30, 5, 128, (1, 28, 28), 10


def objectives() -> dict[str, ObjectiveSettings]:
    """The objectives by name; KD first."""
    secant = METHODS["secant"]

    def changed(**changes: object) -> ObjectiveSettings:
        return secant.model_copy(update={"secant": secant.secant.model_copy(update=changes)})

    def noisy(settings: ObjectiveSettings) -> ObjectiveSettings:
        return settings.model_copy(update={"noise": settings.noise.model_copy(update={"share": 0.5})})

    return {
        **METHODS,
        "finite difference (slope, K = 1, no random start)": changed(form="slope", start="inputs", shared=False),
        "secant K = 1, not shared": changed(shared=False),
        "secant K = 2": changed(steps=2),
        "secant K = 2, not shared": changed(steps=2, shared=False),
        "secant K = 1, slope, shared": changed(form="slope"),
        "secant K = 10, not shared (RSLAD)": changed(steps=10, shared=False),
        "persistent start, K = 0": changed(start="persistent", steps=0),
        "persistent start, K = 0, half noisy": noisy(changed(start="persistent", steps=0)),
        "persistent start, K = 1": changed(start="persistent"),
        "persistent start, K = 1, half noisy": noisy(changed(start="persistent")),
        "kd, half noisy": noisy(METHODS["kd"]),
    }


def step(settings: ObjectiveSettings) -> Callable[[], float]:
    """A function that makes one training step and returns its processor time in seconds."""
    torch.manual_seed(0)
    student = build("cnn:8", SHAPE, CLASSES)
    kept = KeptPerturbations(BATCH, SHAPE) if settings.persistent else None
    objective = RobustStudentObjective(student, settings, kept=kept)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    inputs, labels = torch.rand(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,))
    teacher = build("cnn:32", SHAPE, CLASSES).eval().requires_grad_(False)
    examples = torch.arange(BATCH)
    batch = Batch(inputs, labels, examples, teacher_logits=5 * torch.randn(BATCH, CLASSES), teacher=teacher)

    done = 0

    def run() -> float:
        nonlocal done
        done += 1
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective(batch, ExampleRng(0, done, examples)).loss)
        optimizer.step()
        return time.process_time() - started

    return run


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    steps = {name: step(settings) for name, settings in objectives().items()}
    for _ in range(WARM_UP):
        for run in steps.values():
            run()
    rounds = [{name: run() for name, run in steps.items()} for _ in range(ROUNDS)]
    table = Table(
        title=f"processor time of a step relative to plain KD: median of {ROUNDS} interleaved rounds [quartiles]"
    )
    table.add_column("objective")
    table.add_column("ratio", justify="right")
    table.add_column("ms", justify="right")
    for name in steps:
        low, middle, high = statistics.quantiles([r[name] / r["kd"] for r in rounds], n=4)
        milliseconds = 1000 * statistics.median(r[name] for r in rounds)
        table.add_row(name, f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{milliseconds:.1f}")
    Console(width=100).print(table)
    print(f"1 thread, torch {torch.__version__}, cnn:8 on {SHAPE}, batch {BATCH}")


if __name__ == "__main__":
    main()
