"""Our attacks against independent implementations on the same examples: verdicts of PGD, sizes of minimum-norm attacks.

    python benchmarks/agreement.py --run RUN_DIR --data mnist:DIR --linf 0.1 --l2 1.0 --examples 200

PGD: ours (log-odds and margin, 50 steps together) and foolbox's LinfPGD and L2PGD (cross-entropy, 50 steps, same step
size), accuracy under attack and how many verdicts differ in either direction. Minimum norm, L2: ours (PGD by bisection,
FAB) and foolbox's DDN.
"""

import argparse
import math
import time
from typing import Any

import torch

from robust_student.attacks.foolbox_attacks import foolbox_for
from robust_student.attacks.minimum_norm import smallest_decision_change
from robust_student.attacks.pgd import pgd
from robust_student.core.norms import NormName
from robust_student.core.rng import example_seeds
from robust_student.core.threat_model import ThreatModel
from robust_student.data.readers.load import load_data, stratified_sample
from robust_student.models.run_directory import load

STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="run directory of a model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--linf", type=float, required=True)
    parser.add_argument("--l2", type=float, required=True)
    parser.add_argument("--examples", type=int, default=200)
    options = parser.parse_args()
    foolbox, data = foolbox_for("pgd"), load_data(options.data)
    model = load(options.run).eval().requires_grad_(False)
    positions = stratified_sample(data.test.labels, options.examples, 0)
    sample = data.test.subset(positions)
    inputs, labels, seeds = sample.floats(), sample.labels, example_seeds(0, positions.tolist())
    other = foolbox.PyTorchModel(model, bounds=(0.0, 1.0), device=inputs.device)
    kinds: tuple[tuple[NormName, float, Any], ...]
    kinds = (("linf", options.linf, foolbox.attacks.LinfPGD), ("l2", options.l2, foolbox.attacks.L2PGD))
    for name, radius, kind in kinds:
        threat = ThreatModel.on(data, name, radius)
        points = pgd(model, inputs, labels, threat, steps=STEPS, start=threat.random_each(inputs, seeds))
        ours = model.logits(points).argmax(dim=1) == labels
        torch.manual_seed(0)
        _, perturbed, _ = kind(steps=STEPS, rel_stepsize=2.5 / STEPS)(other, inputs, labels, epsilons=radius)
        theirs = model.logits(perturbed).argmax(dim=1) == labels
        print(
            f"PGD-{STEPS} {name} {radius:g}: ours {float(ours.double().mean()):.1%} stand, foolbox "
            f"{float(theirs.double().mean()):.1%}; broken by ours alone {int((theirs & ~ours).sum())}, by foolbox "
            f"alone {int((ours & ~theirs).sum())} of {len(labels)}"
        )
    right = model.logits(inputs).argmax(dim=1) == labels
    part, truth = inputs[right], labels[right]
    radii = {}
    for attacks in (("pgd-bisection",), ("fab",), ("ddn",)):
        begin = time.perf_counter()
        perturbed = smallest_decision_change(
            model,
            part,
            truth,
            ThreatModel.on(data, "l2"),
            seeds=[s for s, keep in zip(seeds, right.tolist(), strict=True) if keep],
            attacks=attacks,
        )
        radii[attacks[0]] = perturbed.radius
        print(f"{attacks[0]}: median L2 {float(perturbed.radius.median()):.4f} ({time.perf_counter() - begin:.0f} s)")
    ours = torch.minimum(radii["pgd-bisection"], radii["fab"])
    ratio = ours / radii["ddn"]
    print(
        f"ours (the smaller of two) / DDN: median {float(ratio.median()):.4f}, 5 % to 95 % "
        f"{float(ratio.quantile(0.05)):.4f} to {float(ratio.quantile(0.95)):.4f}; DDN smaller on "
        f"{float((ratio > 1 + 1e-9).double().mean()):.1%} of {len(ratio)}, by more than a hundredth on "
        f"{float((ratio > 1.01).double().mean()):.1%}"
    )
    assert not math.isnan(float(ratio.median()))


if __name__ == "__main__":
    main()
