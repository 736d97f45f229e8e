"""Certificates per second by method, and how the cost grows with the number of parameters and the size of the input.

Every configuration bounds the margins of the same number of random images at one radius; configurations take turns and
the median over the rounds counts, because timings on a shared machine are noisy. Weights are PyTorch's initial ones, so
the absolute numbers are those of such networks: the linear method's cost depends on how many units a ball leaves open.

    python benchmarks/certificates.py [--rounds 5] [--images 8] [--radius 0.02]

With a trained model it prints, for the same images, the share certified and the seconds per image instead:

    python benchmarks/certificates.py --run RUN_DIR --data mnist:DIR --images 100 --radii 0.01 0.02
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from robust_student import load, load_data
from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import METHODS_OF_BOUNDS, Method, margin_bounds
from robust_student.bounds.trace import trace
from robust_student.core.tensors import UNIT_RANGE
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import stratified_sample
from robust_student.models.costs import count_parameters
from robust_student.models.registry import build

NETWORKS = (("cnn:4", 28), ("cnn:8", 28), ("cnn:16", 28), ("cnn:8", 20), ("cnn:8", 40))
"""Network and side of its square grey input."""


def job(spec: str, side: int, method: Method, images: int, radius: float) -> tuple[int, Callable[[], None]]:
    """The network's parameters, and a function that bounds the margins of all images once."""
    torch.manual_seed(0)
    network = build(spec, (1, side, side), 10).eval()
    layers = trace(network, (1, side, side)).layers(torch.float64)
    inputs = torch.rand(images, 1, side, side, dtype=torch.float64)
    labels = layers(inputs).argmax(dim=1).detach()
    ball = Ball(inputs, ThreatModel.named("linf", radius, UNIT_RANGE, inputs.shape[1:]))

    def run() -> None:
        with torch.no_grad():
            margin_bounds(layers, ball, labels, method)

    return count_parameters(network), run


def trained(run: str, data_spec: str, images: int, radii: list[float]) -> None:
    """Share of random test images certified at each radius, and the time it takes, by method."""
    model, data = load(run).eval(), load_data(data_spec)
    layers = trace(model, data.shape).layers(torch.float64)
    sample = data.test.subset(stratified_sample(data.test.labels, images, 0))
    inputs, labels = sample.floats().double(), sample.labels
    rivals = torch.nn.functional.one_hot(labels, len(data.classes)) == 0
    print(f"{run}: {images} test images, Linf, {torch.get_num_threads()} thread(s)")
    print("| radius | method | certified % | s / image |")
    print("|---|---|---|---|")
    for radius in radii:
        for method in METHODS_OF_BOUNDS:
            started = time.perf_counter()
            with torch.no_grad():
                ball = Ball(inputs, ThreatModel.on(data, "linf", radius))
                bounds = margin_bounds(layers, ball, labels, method)
            seconds = (time.perf_counter() - started) / images
            certified = 100 * float(((bounds > 0) | ~rivals).all(dim=1).double().mean())
            print(f"| {radius:g} | {method} | {certified:.0f} | {seconds:.4f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--radius", type=float, default=0.02)
    parser.add_argument("--run", help="a trained model's run directory")
    parser.add_argument("--data", default="mnist:data/mnist")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.01, 0.02])
    settings = parser.parse_args()
    if settings.run is not None:
        trained(settings.run, settings.data, settings.images, settings.radii)
        return
    jobs = {
        (spec, side, method): job(spec, side, method, settings.images, settings.radius)
        for spec, side in NETWORKS
        for method in METHODS_OF_BOUNDS
    }
    seconds: dict[tuple[str, int, Method], list[float]] = {key: [] for key in jobs}
    for turn in range(settings.rounds + 1):
        for key, (_, run) in jobs.items():
            started = time.perf_counter()
            run()
            if turn > 0:  # the first round warms up
                seconds[key].append(time.perf_counter() - started)
    print(f"certificates per second, Linf {settings.radius:g}, {torch.get_num_threads()} thread(s), float64")
    print("| network | side | parameters | " + " | ".join(METHODS_OF_BOUNDS) + " | linear / interval |")
    print("|---|---|---|" + "---|" * (len(METHODS_OF_BOUNDS) + 1))
    for spec, side in NETWORKS:
        medians = {method: statistics.median(seconds[spec, side, method]) for method in METHODS_OF_BOUNDS}
        rates = [f"{settings.images / medians[method]:.3g}" for method in METHODS_OF_BOUNDS]
        ratio = f"{medians['linear'] / medians['interval']:.0f}"
        print(f"| {spec} | {side} | {jobs[spec, side, 'interval'][0]:,} | " + " | ".join([*rates, ratio]) + " |")


if __name__ == "__main__":
    main()
