"""Minimum-norm attacks of other packages, called in the units that each of them expects: FAB, and foolbox's three.

They only propose points: `smallest` verifies and measures what comes back.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_student.attacks import UnitBox
from robust_student.norms import Norm
from robust_student.tensors import InputRange, Inputs, Labels, PerExample, UserError

_FAB_TARGETS = 9  # rival classes that FAB aims at, those of largest score at x, as in AutoAttack
_BOX_MARGIN = 10.0  # inputs without a range: room around them, in units of the largest first-order radius


class Standing(NamedTuple):
    """Examples that are not broken at x, and how hard to attack them."""

    network: nn.Module
    inputs: Inputs
    labels: Labels
    norm: Norm
    input_range: InputRange
    first_order: PerExample
    """The first-order radius of each example, finite and positive."""
    steps: int
    seed: int
    """Of the global generator, where an attack draws from it."""

    def box(self) -> UnitBox:
        """The network in a unit box around the examples; without a range, far wider than their first-order radii."""
        room = _BOX_MARGIN * float(self.first_order.max())
        return UnitBox(self.network, self.inputs, self.norm, room, self.input_range)


def fab(examples: Standing) -> Iterable[Inputs]:
    """FAB (Croce & Hein 2020b) without random restarts, aimed at each of the nearest rivals in turn; float32."""
    from pyautoattack.fab_pt import FABAttack_PT

    box = examples.box()
    with torch.no_grad():
        classes = examples.network(examples.inputs).shape[1]
    name = {math.inf: "Linf", 2.0: "L2", 1.0: "L1"}[examples.norm.p]
    # Its eps only limits `perturb` and random restarts; `attack_single_run` minimises the norm and nothing else.
    attack = FABAttack_PT(box, norm=name, n_iter=examples.steps, device=examples.inputs.device)
    for rank in range(2, min(_FAB_TARGETS, classes - 1) + 2):
        attack.target_class = rank
        yield box.decode(attack.attack_single_run(box.encode(examples.inputs), examples.labels, is_targeted=True))


def ddn(examples: Standing) -> Iterable[Inputs]:
    """DDN (Rony et al. 2019): L2."""
    return _through_foolbox(examples, foolbox_for("ddn").attacks.DDNAttack(steps=examples.steps))


def fmn(examples: Standing) -> Iterable[Inputs]:
    """FMN (Pintor et al. 2021). Its first step has about the Euclidean length of a perturbation of typical size."""
    attacks = foolbox_for("fmn").attacks

    base: Any = attacks.L2FMNAttack

    class L2(base):  # type: ignore[misc]
        """FMN with the projection that it is meant to have: foolbox 3.3.4 divides the norm by itself."""

        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            delta = x - x0
            shrink = (epsilon / delta.flatten(start=1).norms.l2(axis=-1).maximum(1e-12)).minimum(1.0)
            return x0 + delta * shrink.reshape((-1, *[1] * (x.ndim - 1)))

    kind = {math.inf: attacks.LInfFMNAttack, 2.0: L2, 1.0: attacks.L1FMNAttack}[examples.norm.p]
    length = {math.inf: math.sqrt(examples.inputs[0].numel()), 2.0: 1.0, 1.0: 0.1}[examples.norm.p]
    return _through_foolbox(examples, kind(steps=examples.steps, max_stepsize=length))


def deepfool(examples: Standing) -> Iterable[Inputs]:
    """DeepFool (Moosavi-Dezfooli et al. 2016) among the ten classes of largest score."""
    attacks = foolbox_for("deepfool").attacks
    kind = {math.inf: attacks.LinfDeepFoolAttack, 2.0: attacks.L2DeepFoolAttack}[examples.norm.p]
    return _through_foolbox(examples, kind(steps=examples.steps))


def foolbox_for(attack: str) -> Any:
    """The optional package, imported late; UserError names the extra where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
            import foolbox
    except ImportError:
        raise UserError(f"attack {attack}: needs foolbox: pip install 'robust-student[attacks]'") from None
    return foolbox


class _Ruler(nn.Module):
    """A unit box measured in another unit: foolbox's step sizes are right where perturbations have a size about 1."""

    def __init__(self, box: UnitBox, unit: float) -> None:
        super().__init__()
        self.box, self.unit = box, unit

    def forward(self, points: Tensor) -> Tensor:
        """Logits of points in the box from 0 to 1 / unit."""
        return self.box(points * self.unit)


def _through_foolbox(examples: Standing, attack: Any) -> Iterable[Inputs]:
    """What a foolbox attack finds where the unit of length is the batch's median first-order radius."""
    box = examples.box()
    ruler = _Ruler(box, float(examples.first_order.median()) / box.length).eval()
    bounds = (0.0, (1 + 1e-6) / ruler.unit)  # foolbox refuses inputs that rounding puts beyond the end
    model = foolbox_for("foolbox").PyTorchModel(ruler, bounds=bounds, device=examples.inputs.device)
    points = (box.encode(examples.inputs) / ruler.unit).clamp(*bounds)
    with torch.random.fork_rng():  # DDN draws from the global generator where a gradient is zero
        torch.manual_seed(examples.seed)
        _, found, _ = attack(model, points, examples.labels, epsilons=None)
    return [box.decode(found * ruler.unit)]
