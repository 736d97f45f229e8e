"""The metric by which an epoch, a weight or a method is chosen; it only ever sees validation examples."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robust_student.attacks.pgd import pgd
from robust_student.bounds.ball import Ball
from robust_student.bounds.propagation import margin_bounds
from robust_student.bounds.trace import trace
from robust_student.core.module_state import device_of, evaluating
from robust_student.core.tensors import answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model
from robust_student.runtime import distributed
from robust_student.training.settings import SelectionSettings

_BATCH = 250  # examples attacked or certified together
_CLEAN = 4096  # examples read together


def choose_epoch(measured: Sequence[dict[str, float]], examples: int) -> int:
    """Position of the epoch to keep: the best `selection` among those whose clean accuracy is as good as the best.

    "As good" is the one-standard-error rule (Breiman et al. 1984, section 3.4.3): within `sqrt(p (1 - p) / n)` of the
    highest clean accuracy p, n being the number of validation `examples`. Without it a half-trained network could win:
    it is less accurate, but often smoother. Ties go to the later epoch. Where `certified` was measured, the highest
    `selection` wins alone: a certified example is a correct one.
    """
    if "certified" in measured[0]:
        return max(range(len(measured)), key=lambda k: (measured[k]["selection"], k))
    best = max(entry["clean"] for entry in measured)
    floor = best - math.sqrt(best * (1 - best) / examples)
    eligible = [k for k, entry in enumerate(measured) if entry["clean"] >= floor]
    return max(eligible, key=lambda k: (measured[k]["selection"], k))


class Validation:
    """A validation set with fixed noise and fixed attack starts, so that epochs and students are comparable."""

    def __init__(self, examples: Examples, settings: SelectionSettings, *, scale: Tensor | None, seed: int) -> None:
        """Draw the stratified sample that noise and PGD are measured on."""
        self.examples, self.settings, self.seed = examples, settings, seed
        self.count = len(examples)
        count = min(settings.examples, self.count)
        self.sample = examples.subset(stratified_sample(examples.labels, count, seed))
        self.scale = scale

    def measure(self, model: Model) -> dict[str, float]:
        """Accuracies in [0, 1] by name, and `selection`, the one to choose by. The model's mode is restored.

        `clean`; with the robust metric also `snr_<dB>` and `pgd`, and `selection` is the mean of them all; with the
        certified metric also `certified`, and `selection` is that.
        """
        with evaluating(model):
            accuracies = {"clean": self._clean(model)}
            if self.settings.metric == "robust":
                accuracies |= self._perturbed(model)
            if self.settings.metric == "certified":
                certified = self._certified(model)
                return accuracies | {"certified": certified, "selection": certified}
        return accuracies | {"selection": sum(accuracies.values()) / len(accuracies)}

    def _clean(self, model: Model) -> float:
        own_positions = _mine(self.count)
        right = [
            (answers(model.logits(self.examples.floats(part))) == self.examples.labels[part].cpu())
            for part in torch.split(own_positions, _CLEAN)
        ]
        return _share(right, self.count, device_of(model))

    def _certified(self, model: Model) -> float:
        """Share of the sample whose every margin is positive over the ball, by interval propagation."""
        device = device_of(model)
        layers, threat = trace(model, model.card.input_shape).layers(), self._threat(model)
        standing = []
        with torch.no_grad():
            for part in torch.split(_mine(len(self.sample)), _BATCH):
                points, truth = self.sample.floats(part).to(device), self.sample.labels[part].to(device)
                bounds = margin_bounds(layers, Ball(points, threat), truth, "interval")
                standing.append((bounds > 0).sum(dim=1) == bounds.shape[1] - 1)
        return _share(standing, len(self.sample), device)

    def _threat(self, model: Model) -> ThreatModel:
        card, settings = model.card, self.settings
        return ThreatModel.named(settings.norm, settings.radius, card.range, card.input_shape, self.scale)

    def _perturbed(self, model: Model) -> dict[str, float]:
        device, card, settings = device_of(model), model.card, self.settings
        labels, count = self.sample.labels.cpu(), len(self.sample)
        generator = torch.Generator().manual_seed(self.seed)
        parts = torch.split(_mine(count), _BATCH)
        accuracies = {}
        for snr_db in settings.snr_db:
            draws = torch.randn((count, *card.input_shape), generator=generator)
            right = []
            for part in parts:
                inputs = self.sample.floats(part).to(device)
                noisy, _ = gaussian_at_snr(inputs, snr_db, card.range, draws[part].to(device))
                right.append(answers(model.logits(noisy)) == labels[part])
            accuracies[f"snr_{snr_db:g}"] = _share(right, count, device)
        threat = self._threat(model)
        start = threat.random(self.sample.floats().cpu(), generator)
        right = []
        for part in parts:
            attacked = pgd(
                model,
                self.sample.floats(part).to(device),
                labels[part].to(device),
                threat,
                steps=settings.steps,
                start=start[part].to(device),
            )
            right.append(answers(model.logits(attacked)) == labels[part])
        return accuracies | {"pgd": _share(right, count, device)}


def _mine(count: int) -> Tensor:
    """Positions of the examples that this process measures: each example is one process's."""
    return torch.arange(distributed.rank(), count, distributed.size())


def _share(right: Sequence[Tensor], count: int, device: torch.device) -> float:
    """The share of `count` examples that the processes together found right."""
    right_count = torch.stack([part.sum() for part in right]).sum() if right else torch.zeros(())
    return int(distributed.all_reduce_sum(right_count.long().to(device))) / count
