"""AutoAttack of our own against pyautoattack as it ships: same model, same examples, verdicts, time and peak memory.

Each side runs in a process of its own, the two by turns; times are of the attacks alone. Ratios are the medians over
the rounds of ours divided by theirs in the same round.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from robust_student.attacks.autoattack import AutoAttack
from robust_student.core.rng import example_seeds
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import load_data, stratified_sample
from robust_student.models.model import Model
from robust_student.models.run_directory import load

BATCH = 250
Measured = tuple[torch.Tensor, float, float]
"""Which examples stand, seconds, MiB above what the process held before."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory of a model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--norm", choices=["l1", "l2", "linf"], default="linf")
    parser.add_argument("--radius", type=float, required=True)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rounds = []
    for number in range(options.rounds):
        seed = options.seed + number
        ours, theirs = (_apart(side, options, seed) for side in (_ours, _theirs))
        rounds.append((ours, theirs))
        differ = int((ours[0] != theirs[0]).sum())
        print(
            f"round {number}: ours {ours[1]:.1f} s, {float(ours[0].double().mean()):.1%} stand, {ours[2]:.0f} MiB; "
            f"pyautoattack {theirs[1]:.1f} s, {float(theirs[0].double().mean()):.1%} stand, {theirs[2]:.0f} MiB; "
            f"{differ} of {len(ours[0])} verdicts differ ({int((theirs[0] & ~ours[0]).sum())} broken by ours alone)",
            flush=True,
        )
    ratio = statistics.median(ours[1] / theirs[1] for ours, theirs in rounds)
    print(f"median ratio of the times: {ratio:.2f} ({torch.get_num_threads()} threads)")
    others = [int((a[1][0] != b[1][0]).sum()) for a, b in zip(rounds, rounds[1:], strict=False)]
    if others:
        print(f"pyautoattack against itself with another seed: {', '.join(map(str, others))} verdicts differ")


def _apart(side: Callable[[argparse.Namespace, int], Measured], options: argparse.Namespace, seed: int) -> Measured:
    """In a new process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(side, options, seed).result()


def _ready(options: argparse.Namespace) -> tuple[Model, torch.Tensor, torch.Tensor, list[int], float]:
    data = load_data(options.data)
    positions = stratified_sample(data.test.labels, options.examples, 0)
    examples = data.test.subset(positions)
    model = load(options.run).eval()
    inputs, labels = examples.floats(), examples.labels
    del data, examples
    return model, inputs, labels, positions.tolist(), _peak(reset=True)


def _peak(*, reset: bool = False) -> float:
    """Largest resident memory since the last reset, in MiB (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _ours(options: argparse.Namespace, seed: int) -> Measured:
    model, inputs, labels, positions, before = _ready(options)
    threat = ThreatModel.named(options.norm, options.radius, UNIT_RANGE, inputs.shape[1:])
    attacks = AutoAttack("standard").attacks(len(model.card.classes))
    begin = time.perf_counter()
    standing = model.logits(inputs).argmax(dim=1) == labels
    for begin_at in range(0, len(inputs), BATCH):
        part = torch.arange(begin_at, min(begin_at + BATCH, len(inputs)))
        for attack in attacks:
            left = part[standing[part]]
            seeds = example_seeds(seed, [positions[i] for i in left.tolist()])
            points = attack.propose(model, inputs[left], labels[left], threat, seeds)
            inside = threat.project(points, inputs[left])
            if len(left):
                standing[left] = model.logits(inside).argmax(dim=1) == labels[left]
    seconds = time.perf_counter() - begin
    return standing, seconds, _peak() - before


def _theirs(options: argparse.Namespace, seed: int) -> Measured:
    from pyautoattack import AutoAttack as Published

    model, inputs, labels, _, before = _ready(options)
    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[options.norm]
    begin = time.perf_counter()
    engine = Published(model, norm=name, eps=options.radius, seed=seed)
    points, _ = engine.run_standard_evaluation(inputs, labels, batch_size=BATCH)
    seconds = time.perf_counter() - begin
    standing = model.logits(points).argmax(dim=1) == labels
    return standing, seconds, _peak() - before


if __name__ == "__main__":
    main()
