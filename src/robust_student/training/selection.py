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
from robust_student.core.norms import NormName
from robust_student.core.tensors import Labels, answers
from robust_student.core.threat_model import ThreatModel
from robust_student.corruptions.snr_noise import gaussian_at_snr
from robust_student.data.examples import Examples
from robust_student.data.samples import stratified_sample
from robust_student.models.model import Model
from robust_student.training.balanced import BalancedClasses, own_positions
from robust_student.training.settings import SelectionSettings

_BATCH = 250  # examples attacked or certified together
_CLEAN = 4096  # examples read together


def choose_epoch(measured: Sequence[dict[str, float]], examples: int | float, chance: float = -1.0) -> int:
    """Position of the epoch to keep: the best `selection` among those whose clean accuracy is as good as the best.

    "As good" is the one-standard-error rule (Breiman et al. 1984, section 3.4.3): within `sqrt(p (1 - p) / n)` of the
    highest clean accuracy p, n being the number of validation `examples`. Without it a half-trained network could win:
    it is less accurate, but often smoother. Ties go to the later epoch. Where `certified` was measured, the highest
    `selection` wins alone: a certified example is a correct one. An epoch whose clean accuracy is not above `chance` is
    kept only where there is no other.
    """
    useful = [k for k, entry in enumerate(measured) if entry["clean"] > chance] or list(range(len(measured)))
    if "certified" not in measured[0]:
        best = max(measured[k]["clean"] for k in useful)
        floor = best - math.sqrt(best * (1 - best) / examples)
        useful = [k for k in useful if measured[k]["clean"] >= floor]
    return max(useful, key=lambda k: (measured[k]["selection"], k))


class Validation:
    """A validation set with fixed noise and fixed attack starts, so that epochs and students are comparable."""

    def __init__(self, examples: Examples, settings: SelectionSettings, *, scale: Tensor | None, seed: int) -> None:
        """Draw the stratified sample that noise and PGD are measured on."""
        self.examples, self.settings, self.seed = examples, settings, seed
        self.classes = BalancedClasses(examples.labels)
        count = min(settings.examples, len(examples))
        self.sample = examples.subset(stratified_sample(examples.labels, count, seed))
        self.scale = scale
        self._sampled = BalancedClasses(self.sample.labels)
        self.objective: ThreatModel | None = None
        """What the objective trains against: the threat model where settings name none."""

    def measure(self, model: Model) -> dict[str, float]:
        """Accuracies in [0, 1] by name, and `selection`, the one to choose by. The model's mode is restored.

        All are balanced over the classes, so that one answer for everything is never worth more than chance. `clean`;
        with the robust metric also `snr_<dB>` and `pgd`, and `selection` is the mean of them all; with the certified
        metric also `certified`, and `selection` is that. Where the classes differ in size, `accuracy` is the usual one
        on clean inputs.
        """
        with evaluating(model):
            clean, right = self._clean(model)
            metrics = {"clean": clean}
            if self.settings.metric == "robust":
                metrics |= self._perturbed(model)
            if self.settings.metric == "certified":
                metrics |= {"certified": self._certified(model)}
        certified = self.settings.metric == "certified"
        selection = metrics["certified"] if certified else sum(metrics.values()) / len(metrics)
        usual = {} if self.classes.alike else {"accuracy": right}
        return metrics | usual | {"selection": selection}

    @property
    def sampled(self) -> float:
        """How many examples `selection` rests on, as `BalancedClasses.equivalent` counts them."""
        return (self.classes if self.settings.metric == "accuracy" else self._sampled).equivalent

    def clean(self, model: Model) -> float:
        """Balanced accuracy on all clean validation examples; the model's mode is restored."""
        with evaluating(model):
            return self._clean(model)[0]

    @property
    def certainty(self) -> float:
        """How many examples of equally large classes would be as certain about clean accuracy."""
        return self.classes.equivalent

    def given_answers(self, model: Model) -> Labels:
        """The model's answer to each validation example; -1: NaN."""
        with evaluating(model):
            parts = torch.split(torch.arange(len(self.examples)), _CLEAN)
            return torch.cat([answers(model.logits(self.examples.floats(part))) for part in parts])

    def _clean(self, model: Model) -> tuple[float, float]:
        """Balanced accuracy and the share of right answers."""
        right = [
            (answers(model.logits(self.examples.floats(part))) == self.examples.labels[part].cpu())
            for part in torch.split(own_positions(len(self.examples)), _CLEAN)
        ]
        hits = self.classes.hits(right, device_of(model))
        return self.classes.accuracy(hits), int(hits.sum()) / len(self.examples)

    def _certified(self, model: Model) -> float:
        """Balanced share of the sample whose every margin is positive over the ball, by interval propagation."""
        device = device_of(model)
        layers, threat = trace(model, model.card.input_shape).layers(), self._threat(model)
        standing = []
        with torch.no_grad():
            for part in torch.split(own_positions(len(self.sample)), _BATCH):
                points, truth = self.sample.floats(part).to(device), self.sample.labels[part].to(device)
                bounds = margin_bounds(layers, Ball(points, threat), truth, "interval")
                standing.append((bounds > 0).sum(dim=1) == bounds.shape[1] - 1)
        return self._sampled.accuracy(self._sampled.hits(standing, device))

    def _threat(self, model: Model) -> ThreatModel:
        card, settings, trained = model.card, self.settings, self.objective
        name: NormName = settings.norm or ("linf" if trained is None else trained.norm.name)
        radius = settings.radius
        if radius is None and trained is not None and trained.norm.name == name:
            radius = trained.budget
        return ThreatModel.named(name, radius, card.range, card.input_shape, self.scale)

    def _perturbed(self, model: Model) -> dict[str, float]:
        device, card, settings = device_of(model), model.card, self.settings
        labels, count = self.sample.labels.cpu(), len(self.sample)
        generator = torch.Generator().manual_seed(self.seed)
        parts = torch.split(own_positions(count), _BATCH)
        accuracies = {}
        for snr_db in settings.snr_db:
            draws = torch.randn((count, *card.input_shape), generator=generator)
            right = []
            for part in parts:
                inputs = self.sample.floats(part).to(device)
                noisy, _ = gaussian_at_snr(inputs, snr_db, card.range, draws[part].to(device))
                right.append(answers(model.logits(noisy)) == labels[part])
            accuracies[f"snr_{snr_db:g}"] = self._sampled.accuracy(self._sampled.hits(right, device))
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
        return accuracies | {"pgd": self._sampled.accuracy(self._sampled.hits(right, device))}
