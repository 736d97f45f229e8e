"""Whether two versions of the product write the same bytes: a refactoring must, a mended defect says where it does not.

Trains a teacher and one student of every method, evaluates and certifies them and writes the reports, once with each
version's source tree, then compares every file. Fields that name the moment or the machine (provenance, latency,
seconds) are taken out first.

    python benchmarks/same_bytes.py OLD/src NEW/src --output DIR [--mnist DIR]
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

FEW = "--examples 60 --attack-examples 12 --autoattack-radius 0.1"
TRAINING = {"digits": "--epochs 3", "mnist": "--epochs 1"}
METHODS = ("kd", "score", "exact", "direct", "projection", "secant", "secant-exact", "certified", "trades", "adaad")
MOMENTS = re.compile(r"provenance|latency|second|commit|version|created|command")


def commands(data: str, name: str) -> list[str]:
    """What is run, in order, in an empty directory."""
    training = TRAINING[name]
    students = [f"{name}/{method}" for method in METHODS]
    return [
        f"train --data {data} --model cnn:8 {training} --output {name}/teacher",
        *(
            f"distill --data {data} --teacher {name}/teacher --model cnn:4 --method {method} {training}"
            f" --no-cache-scores --output {name}/{method}"
            for method in METHODS
        ),
        f"evaluate --data {data} {name}/teacher {' '.join(students)} {FEW} --output {name}/evaluation",
        f"certify --data {data} {name}/teacher {name}/kd {name}/secant --examples 8 --output {name}/certificates",
        *(f"report {name}/evaluation --format {form}" for form in ("html", "markdown", "json")),
        f"report {name}/certificates",
    ]


def shorten(mnist: Path, folder: Path) -> None:
    """The first 3,000 training and 500 test examples of MNIST as gzipped IDX files."""
    folder.mkdir(exist_ok=True)
    for part, count in (("train", 3000), ("t10k", 500)):
        for kind, head, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            name = f"{part}-{kind}-ubyte.gz"
            content = gzip.decompress((mnist / name).read_bytes())
            start = content[:4] + count.to_bytes(4, "big") + content[8:head]
            (folder / name).write_bytes(gzip.compress(start + content[head : head + count * size], mtime=0))


def run(source: Path, folder: Path, mnist: Path | None) -> None:
    """Run every command that has not been run yet with the package of a source tree."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    sets = [("digits", "digits")]
    if mnist is not None:
        shorten(mnist, folder / "short")
        sets.append(("mnist:short", "mnist"))
    for line in [line for data, name in sets for line in commands(data, name)]:
        done = folder / "done.txt"
        if done.exists() and line in done.read_text(encoding="utf-8").splitlines():
            continue
        subprocess.run([sys.executable, "-m", "robust_student", *line.split()], cwd=folder, env=environment, check=True)
        with done.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def timeless(value: object) -> object:
    """A JSON value without fields that name the moment or the machine."""
    if isinstance(value, dict):
        if MOMENTS.search(str(value.get("metric", ""))):
            return None
        return {key: timeless(item) for key, item in value.items() if not MOMENTS.search(key)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def digest(path: Path) -> str:
    """SHA-256 of a file's content, without the moment."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(timeless(json.loads(content)), sort_keys=True).encode()
    elif path.name == "metrics.jsonl":
        content = json.dumps([timeless(json.loads(line)) for line in content.splitlines()], sort_keys=True).encode()
    elif path.suffix in (".html", ".md"):
        lines = content.decode().splitlines()
        content = "\n".join(line for line in lines if not MOMENTS.search(line.lower()) and " ms" not in line).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> None:
    """Print one line for every file: the same, different, or only in one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs=2)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--mnist", type=Path)
    options = parser.parse_args()
    folders = [options.output / name for name in ("old", "new")]
    for source, folder in zip(options.sources, folders, strict=True):
        run(source, folder, options.mnist)
    files = sorted({path.relative_to(folder) for folder in folders for path in folder.rglob("*") if path.is_file()})
    same = 0
    for file in files:
        digests = [digest(folder / file) if (folder / file).exists() else "absent" for folder in folders]
        if digests[0] == digests[1]:
            same += 1
        else:
            print(f"{file}: {digests[0]} and {digests[1]}")
    print(f"{same} of {len(files)} files are the same")


if __name__ == "__main__":
    main()
