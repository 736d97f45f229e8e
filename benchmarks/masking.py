"""Does the masking verdict see what it should? Masked and honest models of the digits, with their true gap.

Every masked model is a defence that only makes gradients useless, put around or into one plainly trained network (its
robustness is therefore the plain network's, or the little that coarser inputs add); the honest ones are networks
trained in different ways, and the students `exact WEIGHT` have an extreme weight of the gradient objective. The true
gap is the accuracy under 50 steps of PGD on cross-entropy, the attack that masking misleads most, minus that under
AutoAttack and transfer together, on the same examples. Prints a Markdown table (docs/masking.md shows one).

    python benchmarks/masking.py [--seed 0] [--examples 100] [--epochs 20] [--tier fast]
"""

import argparse
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from robust_student import METHODS, DistillSettings, EvaluationSettings, Model, distill, evaluate, load_data, train
from robust_student.data.readers.load import Data
from robust_student.evaluation.settings import MaskingSettings
from robust_student.models.model import as_model
from robust_student.objectives.gradient_penalties import GradientSettings
from robust_student.objectives.secant import SecantSettings
from robust_student.results.rows import ROWS, Row, group
from robust_student.runtime.files import read_json, read_jsonl
from robust_student.training.settings import SelectionSettings, TrainingSettings

BUDGET = 0.1
"""Linf, pixels in [0, 1]."""
SURROGATE = "plain cnn"
"""The model on which transfer attacks are made."""
ADVERSARIAL = SecantSettings(weight=5.0, steps=7, shared=False)
"""Seven ascent steps: adversarial distillation (RSLAD, Zi et al. 2021)."""


# Masked models ------------------------------------------------------------------------------------------------------


class Around(nn.Module):
    """A network between a function of its inputs and a function of its logits."""

    def __init__(
        self,
        inner: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda inputs: inputs,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, inputs: Tensor) -> Tensor:
        """after(S(before(x)))."""
        return self.after(self.inner(self.before(inputs)))


class Winners(nn.Module):
    """k-winners-take-all (Xiao et al. 2019): all but the largest fifth of the activations become zero."""

    def forward(self, values: Tensor) -> Tensor:
        """Keep the winners of each example."""
        flat = values.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 5), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(values)


class Staircase(nn.Module):
    """A ReLU in steps, whose slope is zero wherever it exists."""

    def forward(self, values: Tensor) -> Tensor:
        """Round to quarters."""
        return (4 * values.relu()).round() / 4


class Ripple(nn.Module):
    """A ReLU with a small sine of high frequency: the slope is noise of twenty times its size."""

    def forward(self, values: Tensor) -> Tensor:
        """ReLU(v) + 0.02 sin(1000 v)."""
        return values.relu() + 0.02 * (1000 * values).sin()


def coarse(levels: int) -> Callable[[Tensor], Tensor]:
    """Rounding to that many steps: a quantised input."""
    return lambda inputs: (levels * inputs).round() / levels


def thermometer(inputs: Tensor) -> Tensor:
    """Eight comparisons per pixel (Buckman et al. 2018), averaged."""
    thresholds = torch.arange(1, 9, device=inputs.device) / 9
    return (inputs[..., None] > thresholds).to(inputs.dtype).mean(dim=-1)


def detached_median(inputs: Tensor) -> Tensor:
    """A median of three neighbours computed outside of autograd, as preprocessing with another library is."""
    shifted = torch.stack([inputs, inputs.roll(1, dims=-1), inputs.roll(-1, dims=-1)])
    return (0.3 * shifted.median(dim=0).values + 0.7 * inputs).detach()


def noisy(inputs: Tensor) -> Tensor:
    """Fresh noise at every pass."""
    return inputs + 0.15 * torch.randn_like(inputs)


def rippled(inputs: Tensor) -> Tensor:
    """A sine of high frequency on the inputs: their slope changes its sign every hundredth."""
    return inputs + 0.02 * (300 * inputs).sin()


def sawtooth(inputs: Tensor) -> Tensor:
    """Rises like its argument from step to step and falls in between: every gradient points the wrong way."""
    steps = (16 * inputs).round() / 16
    return steps - 0.5 * (inputs - steps)


def rooted(inputs: Tensor) -> Tensor:
    """The identity of inputs that are not negative, by a root whose slope is infinite at zero."""
    return inputs.abs().sqrt() ** 2


def wrapped_models(plain: Model) -> dict[str, nn.Module]:
    """A plainly trained network behind defences that need no training, by name."""
    return {
        "quantised input": Around(plain, before=coarse(5)),
        "bit depth 3": Around(plain, before=coarse(7)),
        "thermometer": Around(plain, before=thermometer),
        "detached preprocessing": Around(plain, before=detached_median),
        "saturated logits x 1e4": Around(plain, after=lambda logits: 1e4 * logits),
        "saturated logits x 100": Around(plain, after=lambda logits: 100 * logits),
        "softmax output": Around(plain, after=lambda logits: logits.softmax(dim=1)),
        "noise at every pass": Around(plain, before=noisy),
        "rippled input": Around(plain, before=rippled),
        "sawtooth input": Around(plain, before=sawtooth),
        "root of the input": Around(plain, before=rooted),
        "staircase activation": with_activation(plain, Staircase),
        "rippled activation": with_activation(plain, Ripple),
    }


def masked_models(plain: Model, data: Data, seed: int, epochs: int) -> dict[str, nn.Module]:
    """Models whose gradients mislead, by name: the wrapped ones, and one trained with its defence."""
    winners = with_activation(train_from_name("cnn:8", data, seed, 1), Winners)
    return wrapped_models(plain) | {"k winners": train(winners, data, training(seed, epochs)).model}


def with_activation(model: Model, activation: Callable[[], nn.Module]) -> nn.Module:
    """A copy in which every ReLU is replaced."""
    copy = deepcopy(model)
    for module in copy.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, activation())
    return copy


# Honest models and students -----------------------------------------------------------------------------------------


def training(seed: int, epochs: int) -> TrainingSettings:
    """The same short training for all; the last epochs of the masked networks are as good as any."""
    return TrainingSettings(
        epochs=epochs, batch_size=64, seed=seed, device="cpu", selection=SelectionSettings(metric="accuracy")
    )


def train_from_name(network: str, data: Data, seed: int, epochs: int) -> Model:
    """A network trained on labels."""
    return train(network, data, training(seed, epochs)).model


def honest_models(plain: Model, data: Data, seed: int, epochs: int) -> dict[str, nn.Module]:
    """Models that hide nothing: plain networks, distilled ones and adversarially trained ones."""
    settings = training(seed, epochs)
    adversarial = METHODS["secant"].model_copy(update={"secant": ADVERSARIAL})
    objectives = {
        "kd": METHODS["kd"],
        "secant": METHODS["secant"],
        "secant-exact": METHODS["secant-exact"],
        "adversarial, 7 steps": adversarial,
        "exact, default weight": METHODS["exact"],
    }
    networks = {"linear": "linear", "mlp": "mlp:64", "resnet8": "resnet8:4", "lipschitz": "lipschitz:64"}
    return {
        **{name: train_from_name(network, data, seed, epochs) for name, network in networks.items()},
        **{
            name: distill(plain, "cnn:8", data, DistillSettings(training=settings, objective=objective)).model
            for name, objective in objectives.items()
        },
    }


def extreme_students(plain: Model, data: Data, seed: int, epochs: int) -> dict[str, nn.Module]:
    """Students of the exact gradient objective with weights far beyond the default of 3."""

    def objective(weight: float) -> DistillSettings:
        exact = METHODS["exact"].model_copy(update={"gradient": GradientSettings(weight=weight)})
        return DistillSettings(training=training(seed, epochs), objective=exact)

    return {
        f"exact {weight:g}": distill(plain, "cnn:8", data, objective(weight)).model for weight in (10, 30, 100, 1e4)
    }


# Measuring ----------------------------------------------------------------------------------------------------------


def settings_for(examples: int, seed: int, tier: str) -> EvaluationSettings:
    """Attacks on one sample at one budget; the verdict needs nothing else."""
    return EvaluationSettings.parse(
        {
            "examples": None,
            "attack_examples": examples,
            "snr_db": (),
            "pgd_linf": (0.05, BUDGET, 0.2),
            "pgd_l2": (),
            "every_budget": True,
            "autoattack": tier,
            "autoattack_radius": BUDGET,
            "masking": MaskingSettings(examples=examples, surrogates=(SURROGATE,)).model_dump(),
            "seed": seed,
            "device": "cpu",
        }
    )


def accuracy(rows: dict[int, Row]) -> float:
    """Share of right answers."""
    return sum(bool(row.correct) for row in rows.values()) / len(rows)


def table(kinds: dict[str, list[str]], output: Path) -> list[str]:
    """Markdown lines, one per model."""
    groups = group(Row(**row) for row in read_jsonl(output / ROWS))
    records = read_json(output / "summary.json")
    verdicts = {r["model"]: r["verdict"] for r in records if r["verdict"]}
    lines = ["| model | clean | PGD-CE | PGD margin | AutoAttack | true gap | verdict | checks that fired |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kind, names in kinds.items():
        lines.append(f"| **{kind}** | | | | | | | |")
        for name in names:
            cells = [
                ("none", None),
                ("masking_cross_entropy", 50.0),
                ("masking_steps", 50.0),
                ("autoattack_linf", BUDGET),
            ]
            clean, ce, pgd, attacked = [groups[name, *cell] for cell in cells]
            transferred = groups.get((name, "masking_transfer", 50.0), attacked)
            worst = sum(bool(attacked[i].correct and transferred[i].correct) for i in transferred) / len(transferred)
            numbers = [accuracy(rows) for rows in (clean, ce, pgd, attacked)] + [accuracy(ce) - worst]
            verdict = verdicts[name]
            fired = ", ".join(f"{check} {100 * verdict[check]:.0f} %" for check in verdict["fired"]) or "-"
            shown = " | ".join(f"{100 * number:.0f}" for number in numbers)
            lines.append(f"| {name} | {shown} | {verdict['level']} | {fired} |")
    return lines


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tier", default="fast", choices=("fast", "standard"))
    flags = parser.parse_args()
    torch.manual_seed(flags.seed)
    data = load_data("digits")
    plain = train_from_name("cnn:16", data, flags.seed, flags.epochs)
    families = {
        "masked": masked_models(plain, data, flags.seed, flags.epochs),
        "honest": honest_models(plain, data, flags.seed, flags.epochs)
        | {SURROGATE: train_from_name("cnn:16", data, flags.seed + 1000, flags.epochs)},
        "extreme gradient weight": extreme_students(plain, data, flags.seed, flags.epochs),
    }
    models = {name: as_model(model, data) for family in families.values() for name, model in family.items()}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "evaluation"
        evaluate(models, data, settings_for(flags.examples, flags.seed, flags.tier), output=output)
        print("\n".join(table({kind: list(family) for kind, family in families.items()}, output)))
    print(f"\nseed {flags.seed}, n = {flags.examples}, {flags.epochs} epochs, AutoAttack {flags.tier}, Linf {BUDGET}")


if __name__ == "__main__":
    main()
