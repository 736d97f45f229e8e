"""Minimum-norm attacks of foolbox (the optional extra `attacks`), called in the units that each of them expects.

They only propose points: `smallest` verifies and measures what comes back.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_student.core.extras import require
from robust_student.core.tensors import Inputs, Labels, PerExample
from robust_student.core.threat_model import ThreatModel

_BOX_MARGIN = 10.0  # inputs without a range: room around them, in units of the largest first-order radius


class UnitBox(nn.Module):
    """A network as foreign attacks want it: four-dimensional inputs in [0, 1], the norm without a per-feature scale.

    Inputs without a range are put into a box so wide that no point of the ball around any of them leaves it; inputs
    that are not images become images of one row. Attacks that compute in float32 get logits of that type; the network
    sees the inputs' own.
    """

    def __init__(self, network: nn.Module, inputs: Inputs, threat: ThreatModel) -> None:
        super().__init__()
        self.network, self.threat = network, threat
        self.shape, self.dtype = inputs.shape[1:], inputs.dtype
        self.unit = threat.norm.unit(inputs)
        self.lower: Tensor | float
        if threat.input_range.bounded:
            self.lower = threat.input_range.lower
            width = threat.input_range.upper - threat.input_range.lower
            self.length = float((width / torch.as_tensor(self.unit)).max())
        else:
            self.lower = inputs.amin(dim=0) - threat.budget * self.unit
            self.length = float(((inputs.amax(dim=0) - self.lower) / self.unit).max()) + threat.budget

    def encode(self, inputs: Tensor) -> Tensor:
        """Natural units to the unit box, `(batch, channels, height, width)`."""
        unit = (inputs - self.lower) / (self.unit * self.length)
        return unit if len(self.shape) == 3 else unit.view(len(unit), 1, 1, -1)

    def decode(self, points: Tensor) -> Tensor:
        """Back to the inputs' own units, shape and range."""
        seen = points.to(self.dtype).reshape(len(points), *self.shape)
        return self.threat.clip(seen * (self.unit * self.length) + self.lower)

    def forward(self, points: Tensor) -> Tensor:
        """Logits of points in the unit box; a constant network, too, has a gradient, which the attacks insist on."""
        return self.network(self.decode(points)).to(points.dtype) + 0 * points.flatten(1)[:, :1]


class Standing(NamedTuple):
    """Examples that are not broken at x, and how hard to attack them."""

    network: nn.Module
    inputs: Inputs
    labels: Labels
    threat: ThreatModel
    first_order: PerExample
    """The first-order radius of each example, finite and positive."""
    steps: int
    seed: int
    """Of the global generator, where an attack draws from it."""

    def box(self) -> UnitBox:
        """The network in a unit box around the examples; without a range, far wider than their first-order radii."""
        room = _BOX_MARGIN * float(self.first_order.max())
        return UnitBox(self.network, self.inputs, self.threat.at(room))


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

    kind = {math.inf: attacks.LInfFMNAttack, 2.0: L2, 1.0: attacks.L1FMNAttack}[examples.threat.norm.p]
    length = {math.inf: math.sqrt(examples.inputs[0].numel()), 2.0: 1.0, 1.0: 0.1}[examples.threat.norm.p]
    return _through_foolbox(examples, kind(steps=examples.steps, max_stepsize=length))


def deepfool(examples: Standing) -> Iterable[Inputs]:
    """DeepFool (Moosavi-Dezfooli et al. 2016) among the ten classes of largest score."""
    attacks = foolbox_for("deepfool").attacks
    kind = {math.inf: attacks.LinfDeepFoolAttack, 2.0: attacks.L2DeepFoolAttack}[examples.threat.norm.p]
    return _through_foolbox(examples, kind(steps=examples.steps))


def foolbox_for(attack: str) -> Any:
    """The optional package, imported late; UserError names the extra where it is not installed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        return require("foolbox", "attacks", f"attack {attack}")


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
        _, adversarial, _ = attack(model, points, examples.labels, epsilons=None)
    return [box.decode(adversarial * ruler.unit)]
