"""Two processes against one: `distill` under torchrun and without, same data, same global batch; speed and accuracy.

Protocol: one teacher is trained (or given). For every seed and method the student is trained twice by the command line,
by one process and by `torchrun --nproc-per-node 2` on gloo, one after the other, which of them first by turns; one
intra-op thread per process. Speed is `examples_per_second` of metrics.jsonl, the median over the epochs but the first;
validation and the teacher's scores are not in it. The ratio is of the two runs of the same seed. Accuracies are those
of the last epoch on validation. Example:

    OMP_NUM_THREADS=1 python benchmarks/processes.py --data mnist:DIR --epochs 3 --seeds 0 1 2

The ratio says something only while nothing else runs on the machine: a step waits for the slower process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COMMAND = ["-m", "robust_student"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--teacher", type=Path, help="run directory; default: one is trained")
    parser.add_argument("--teacher-model", default="cnn:32")
    parser.add_argument("--model", default="cnn:8")
    parser.add_argument("--methods", nargs="+", default=["kd", "secant"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        teacher = options.teacher if options.teacher is not None else place / "teacher"
        if options.teacher is None:
            words = ["--model", options.teacher_model, "--epochs", str(options.epochs), "--output", str(teacher)]
            call([*COMMAND, "train", "--data", options.data, *words], place)
        pairs: dict[str, list[dict[int, list[dict[str, Any]]]]] = {method: [] for method in options.methods}
        for seed in options.seeds:
            for method in options.methods:
                order = (1, 2) if seed % 2 == 0 else (2, 1)
                pairs[method].append({count: train(options, teacher, method, seed, count, place) for count in order})
                one, two = (pairs[method][-1][count] for count in (1, 2))
                print(
                    f"{method}, seed {seed}: {speed(one):,.0f} examples/s by one process, {speed(two):,.0f} by two; "
                    f"validation {one[-1]['validation']} and {two[-1]['validation']}",
                    flush=True,
                )
    report(pairs, options)


def train(
    options: argparse.Namespace, teacher: Path, method: str, seed: int, processes: int, place: Path
) -> list[dict[str, Any]]:
    """Train one student by the command line; the records of its epochs."""
    output = place / f"{method}-{seed}-{processes}"
    words = ["--data", options.data, "--teacher", str(teacher), "--model", options.model, "--method", method]
    words += ["--epochs", str(options.epochs), "--batch-size", str(options.batch_size), "--seed", str(seed)]
    words += ["--device", "cpu", "--output", str(output)]
    call([*([*TORCHRUN, str(processes)] if processes > 1 else []), *COMMAND, "distill", *words], place)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def call(words: list[str], cache: Path) -> None:
    """Run Python with these words; stop where that fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ROBUST_STUDENT_CACHE": str(cache / "cache")}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")


def speed(records: list[dict[str, Any]]) -> float:
    """Median examples per second, without the first epoch where there are more."""
    return statistics.median(record["examples_per_second"] for record in records[1:] or records)


def report(pairs: dict[str, list[dict[int, list[dict[str, Any]]]]], options: argparse.Namespace) -> None:
    """Print the tables."""
    table = Table(title=f"two processes against one on {Path(options.data).name}, {len(options.seeds)} seeds")
    for column in ("method", "figure", "one process", "two processes", "two / one or two - one"):
        table.add_column(column, justify="left" if column in ("method", "figure") else "right")
    for method, runs in pairs.items():
        ratios = sorted(speed(run[2]) / speed(run[1]) for run in runs)
        medians = [statistics.median(speed(run[count]) for run in runs) for count in (1, 2)]
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(method, "examples/s", *(f"{value:,.0f}" for value in medians), ratio)
        for name in runs[0][1][-1]["validation"]:
            values = {count: [100 * run[count][-1]["validation"][name] for run in runs] for count in (1, 2)}
            differences = [two - one for one, two in zip(values[1], values[2], strict=True)]
            spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
            table.add_row(
                method,
                f"validation {name}, %",
                *(f"{statistics.mean(values[count]):.2f}" for count in (1, 2)),
                f"{statistics.mean(differences):+.2f} (SD over seeds {spread:.2f})",
            )
    Console(width=120).print(table)
    print(
        f"{options.model} from {options.teacher or options.teacher_model}, {options.epochs} epochs, global batch "
        f"{options.batch_size}, 1 thread per process, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
