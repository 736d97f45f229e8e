"""Sets of pictures that nobody tuned the defaults on, made from public data at hand.

`python benchmarks/strangers.py GTSRB_DIR CIFAR10_DIR OUT` (both as Parquet in the Hugging Face layout) writes

- `OUT/gtsrb.npz`: all traffic signs, a tenth of each class's tracks for validation.
- `OUT/signs10.npz`: 2,000 colour photographs of traffic signs in 10 classes, at most 40 tracks a class, 336 of them for
  validation by track; the test part has the same classes' pictures of other tracks.
- `OUT/cifar15k.npz`: 15,000 pictures of CIFAR-10 for training, 4,000 others for validation, the whole test part.
- `OUT/grey2.npz`: 13,000 grey photographs in 2 unbalanced classes (9,750 animals, 3,250 ships and trucks), 2,000 of
  them for validation; 2,600 for testing.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ANIMALS, VEHICLES = (2, 3, 4, 5, 6, 7), (8, 9)
"""Classes of CIFAR-10."""
GREY = np.array([0.299, 0.587, 0.114])


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures `(n, h, w, 3)`, labels, and paths."""
    table = pq.read_table(next(folder.glob(f"{part}-*.parquet")))
    pictures = table.column("image").to_pylist()
    pixels = [np.asarray(Image.open(io.BytesIO(picture["bytes"])).convert("RGB")) for picture in pictures]
    return np.stack(pixels), np.array(table.column("label").to_pylist()), np.array([p["path"] for p in pictures])


def held_out(labels: np.ndarray, tracks: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Whether each picture is of the chosen share of its class's tracks."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        names = np.unique(tracks[labels == label])
        count = max(1, round(share * len(names)))
        chosen |= np.isin(tracks, rng.permutation(names)[:count]) & (labels == label)
    return chosen


def part(
    pixels: np.ndarray, labels: np.ndarray, validation: np.ndarray, test: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; `validation` marks the pictures held out."""
    return {
        "x_train": pixels[~validation],
        "y_train": labels[~validation],
        "x_validation": pixels[validation],
        "y_validation": labels[validation],
        "x_test": test[0],
        "y_test": test[1],
    }


def signs(folder: Path, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All signs, and a small set: every second of the twenty most frequent classes."""
    pixels, labels, paths = read(folder, "train")
    test_pixels, test_labels, _ = read(folder, "test")
    tracks = np.array([path.rsplit("_", 1)[0] for path in paths])
    every = part(pixels, labels, held_out(labels, tracks, 0.1, rng), (test_pixels, test_labels))
    classes = np.argsort(-np.bincount(labels))[:20:2]
    kept = []
    for label in classes:
        names = rng.permutation(np.unique(tracks[labels == label]))[:40]
        kept.append(rng.permutation(np.flatnonzero(np.isin(tracks, names) & (labels == label)))[:200])
    rows = np.concatenate(kept)
    number = {label: k for k, label in enumerate(classes)}
    own = np.array([number[label] for label in labels[rows]])
    test = np.isin(test_labels, classes)
    tested = test_pixels[test], np.array([number[label] for label in test_labels[test]])
    return every, part(pixels[rows], own, held_out(own, tracks[rows], 0.17, rng), tested)


def objects(folder: Path, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Some of CIFAR-10, and a grey set of two classes, three to one."""
    pixels, labels, _ = read(folder, "train")
    tested = read(folder, "test")[:2]
    order = rng.permutation(len(labels))[:19_000]
    some = part(pixels[order], labels[order], np.arange(19_000) >= 15_000, tested)

    def two(pixels: np.ndarray, labels: np.ndarray, animals: int, vehicles: int) -> tuple[np.ndarray, np.ndarray]:
        first = rng.permutation(np.flatnonzero(np.isin(labels, ANIMALS)))[:animals]
        second = rng.permutation(np.flatnonzero(np.isin(labels, VEHICLES)))[:vehicles]
        rows = rng.permutation(np.concatenate([first, second]))
        shades = np.clip(np.round(pixels[rows] @ GREY), 0, 255).astype(np.uint8)
        return shades, np.isin(labels[rows], VEHICLES).astype(int)

    shades, own = two(pixels, labels, 9_750, 3_250)
    return some, part(shades, own, np.arange(13_000) >= 11_000, two(*tested, 1_950, 650))


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gtsrb", "cifar10", "output"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    every, signs10 = signs(options.gtsrb, rng)
    cifar, grey = objects(options.cifar10, rng)
    for name, arrays in (("gtsrb", every), ("signs10", signs10), ("cifar15k", cifar), ("grey2", grey)):
        np.savez(options.output / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
