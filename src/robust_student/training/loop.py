"""One training from its first step, or from a checkpoint, to its last: steps, epochs, what is kept."""

import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robust_student.core.errors import UserError
from robust_student.core.rng import ExampleRng, seed_generators, step_seed
from robust_student.data.augmentation import augment
from robust_student.models.model import Model
from robust_student.objectives.batch import Batch
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.runtime import distributed
from robust_student.runtime.interruption import Interrupted, StopRequest
from robust_student.runtime.progress import Advance
from robust_student.training.batches import Batches, MicroBatch, planned_epochs
from robust_student.training.class_weights import class_weights, example_weights
from robust_student.training.floor import Floor
from robust_student.training.optimisation import Optimisation, any_failure, averaged_model, limit_gradient, mean_of
from robust_student.training.overfitting import guard_of
from robust_student.training.selection import Validation, choose_epoch
from robust_student.training.settings import TrainingSettings
from robust_student.training.teacher_scores import TeacherScores
from robust_student.training.tracking import Tracking
from robust_student.training.unfinished_run import UnfinishedRun

_SHORTEST_WAIT = 5
"""Epochs without a better one that are no plateau yet."""

_log = logging.getLogger(__name__)


class Loop:
    """One training, from its first step or from a checkpoint on."""

    def __init__(
        self,
        model: Model,
        objective: nn.Module,
        teacher: TeacherScores | None,
        batches: Batches,
        validation: Validation,
        settings: TrainingSettings,
        kept: KeptPerturbations | None = None,
        floor: Floor | None = None,
    ) -> None:
        """Of `model` by an `Objective` around it; a `teacher` answers on every batch, `kept` is the objective's.

        A `floor` moves the objective's radius.
        """
        self.model, self.teacher, self.batches, self.validation = model, teacher, batches, validation
        self.settings, self.kept_perturbations, self.floor = settings, kept, floor
        self.class_weights = class_weights(batches.source, settings.class_weights)
        self.epochs = planned_epochs(len(batches.source), settings)
        """How many there will be; fewer than were planned after a plateau."""
        self.steps = batches.steps * self.epochs
        self.objective = objective
        self.optimisation = Optimisation(objective, settings, self.steps)
        self.parallel = DistributedDataParallel(objective) if distributed.size() > 1 else objective
        """The objective, in a wrapper that exchanges gradients where there are several processes."""
        self.average = averaged_model(model, settings.ema)
        self.done, self.number = 0, 0
        """Steps taken in all, and in the current epoch."""
        self.sums: dict[str, Tensor] = {}
        """Of the terms' means over this process's examples, in the current epoch."""
        self.history: list[dict[str, Any]] = []
        self.kept: dict[int, dict[str, Tensor]] = {}
        """Weights of the epochs that may still be chosen."""
        self.guard = guard_of(objective, validation.examples, len(batches.source), settings.seed)

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""
        return len(self.history) + 1

    @property
    def measured(self) -> Model:
        """What is validated and kept: the model, or the average of its weights."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, Model)  # a copy of the model
        return self.average.module

    @property
    def chosen(self) -> int:
        """The epoch to keep so far, from 1."""
        classes = self.validation.classes
        epochs = sorted(self.kept)
        accuracies = [self.history[epoch - 1]["validation"] for epoch in epochs]
        return epochs[choose_epoch(accuracies, classes.equivalent, classes.chance)]

    def run(self, unfinished: UnfinishedRun | None, stop_request: StopRequest, tracking: Tracking) -> None:
        """Take all the steps that are left."""
        with Advance(self.steps, self.done, quiet=distributed.rank() > 0) as advance:
            while self.epoch <= self.epochs:
                started, before = time.perf_counter(), self.number
                self.objective.train()
                for parts in self.batches.epoch(self.epoch, skip=self.number):
                    self._take(parts, unfinished, stop_request)
                    if self.number % 10 == 0 or self.number == self.batches.steps:
                        rate = (self.number - before) * self.batches.batch_size / (time.perf_counter() - started)
                        means = ", ".join(f"{name} {float(x) / self.number:.3f}" for name, x in self.sums.items())
                        status = f"epoch {self.epoch}/{self.epochs}: {means} | {rate:,.0f} examples/s"
                        advance.update(self.done, status)
                self._close_epoch(time.perf_counter() - started, self.number - before)
                tracking.log(self.history[-1], self.done)
                self._shorten()
                if unfinished is not None:
                    unfinished.record(self.history)

    def _take(self, parts: list[MicroBatch], unfinished: UnfinishedRun | None, stop_request: StopRequest) -> None:
        """One step: forward and backward on every part, then the parameters move."""
        settings, number = self.settings, self.done + 1
        seed_generators(step_seed(settings.seed, number, distributed.rank()), self.batches.device)
        terms = []
        for position, part in enumerate(parts):
            draws = ExampleRng(settings.seed, number, part.examples)
            batch = self._batch(part, draws, number / self.steps)
            last = position == len(parts) - 1
            with self._apart(last):
                terms.append(self.parallel(batch, draws))
                torch.autograd.backward(terms[-1].loss / len(parts))
        if distributed.size() > 1:
            self._require_gradients()
        size = limit_gradient(self.optimisation.parameters, settings.gradient_clip)
        trouble, stop = any_failure(terms, size, stop_request.number)
        if trouble is not None:
            self._diverged(trouble, unfinished)
        self.optimisation.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.done, self.number = self.done + 1, self.number + 1
        if self.floor is not None and self.floor.due(self.done, self.steps):
            self.floor.check(self.measured, self.done / self.steps)
        for name in terms[0].values:
            mean = mean_of([part.values[name] for part in terms])
            self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        if unfinished is not None and (stop or distributed.broadcast(unfinished.due())):
            kept = self.kept_perturbations
            unfinished.save(self.done, self.state(), {} if kept is None else kept.files)
        if stop and unfinished is not None:
            raise Interrupted(
                f"interrupted after step {self.done} of {self.steps}, which is saved in {unfinished.output}; the same "
                "command continues from there",
                stop,
            )

    def _batch(self, part: MicroBatch, draws: ExampleRng, progress: float) -> Batch:
        """Examples as the objective sees them: augmented, and with their teacher."""
        mixed = augment(part.inputs, part.labels, self.settings.augmentation, draws)
        return Batch(
            mixed.inputs,
            mixed.labels,
            part.examples,
            teacher_logits=None if self.teacher is None else self.teacher.prepared_scores(part.examples),
            teacher=self.teacher,
            progress=progress,
            others=mixed.others,
            shares=mixed.shares,
            example_weights=example_weights(self.class_weights, mixed.labels, mixed.others, mixed.shares),
            placement=mixed.placement,
        )

    def _apart(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged between processes once a step: in the backward pass of its last part."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    def _require_gradients(self) -> None:
        """Processes exchange the gradient of every trainable parameter: one without any would stall the next step."""
        idle = [name for name, p in self.objective.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise UserError(
                f"model: parameter '{idle[0]}' gets no gradient, so several processes cannot exchange it; freeze it "
                "with requires_grad_(False)"
            )

    def _close_epoch(self, seconds: float, taken: int) -> None:
        """Validate, record, and keep the weights that may still be chosen."""
        means = {
            name: distributed.all_reduce_sum(total / self.number) / distributed.size()
            for name, total in self.sums.items()
        }
        epoch = self.epoch
        record = {
            "epoch": epoch,
            "terms": {name: float(mean) for name, mean in means.items()},
            "validation": self.validation.measure(self.measured),
            "learning_rate": self.optimisation.rate,
            "seconds": round(seconds, 3),
            "examples_per_second": round(taken * self.batches.batch_size / seconds, 1),
        }
        if self.floor is not None:
            record["radius"] = self.floor.radius
        self.history.append(record)
        if not self._undone(record):
            latest = self.history[-1]["validation"]
            outdone = [e for e in self.kept if _dominated(self.history[e - 1]["validation"], latest)]
            self.kept = {e: weights for e, weights in self.kept.items() if e not in outdone}
            self.kept[epoch] = deepcopy(self.measured.state_dict())
        self.number, self.sums = 0, {}

    def _shorten(self) -> None:
        """After a plateau, skip to the last fifth of the schedule: there the learning rate falls to zero."""
        planned = planned_epochs(len(self.batches.source), self.settings)
        if self.settings.epochs is not None or self.epochs < planned:
            return
        standing = [k for k, record in enumerate(self.history) if "undone" not in record]
        best = max(standing, key=lambda k: self.history[k]["validation"]["selection"])
        wait = max(_SHORTEST_WAIT, math.ceil(self.settings.patience * self.epochs))
        last = math.ceil(self.epochs / 5)
        skipped = self.epochs - len(self.history) - last
        if self.settings.patience == 0 or len(self.history) - 1 - best < wait or skipped <= 0:
            return
        self.optimisation.skip(skipped * self.batches.steps)
        self.epochs -= skipped
        self.steps -= skipped * self.batches.steps
        _log.info("nothing better since epoch %d: %d epochs are skipped", best + 1, skipped)

    def _undone(self, record: dict[str, Any]) -> bool:
        """Whether the epoch overfitted catastrophically: then weights, moments and kept perturbations go back."""
        guard, epoch = self.guard, int(record["epoch"])
        if guard is None or not guard.due(epoch, last=epoch == self.epochs):
            return False
        useful = record["validation"]["clean"] > self.validation.classes.chance
        measured, overfitted = guard.close_epoch(self.model, epoch, self._returning, useful=useful)
        record["ascent"] = {"one_step": measured.one_step, "many_steps": measured.many_steps}
        if not overfitted or guard.good is None:
            return False
        good = guard.good
        self.objective.load_state_dict(good["objective"])
        if self.average is not None:
            self.average.load_state_dict(good["average"])
        self.optimisation.restore_moments(good)
        if self.kept_perturbations is not None:
            self.kept_perturbations.go_back(good["perturbations"])
        undone = guard.cure(epoch)
        for later in self.history[good["epoch"] :]:
            later["undone"] = undone
            self.kept.pop(later["epoch"], None)
        self.kept[good["epoch"]] = deepcopy(self.measured.state_dict())
        if distributed.rank() == 0:
            _log.warning(undone)
        return True

    def _moving(self) -> dict[str, Any]:
        """What the steps of an epoch change."""
        return {
            **self.optimisation.state(),
            "objective": dict(self.objective.state_dict()),
            "average": None if self.average is None else dict(self.average.state_dict()),
            "perturbations": None if self.kept_perturbations is None else self.kept_perturbations.state(),
        }

    def _returning(self) -> dict[str, Any]:
        """What an undone epoch goes back to. Mapped perturbations are too large to hold twice."""
        kept = self.kept_perturbations
        return self._moving() | ({"perturbations": None} if kept is not None and kept.files else {})

    def _diverged(self, trouble: str, unfinished: UnfinishedRun | None) -> None:
        """Stop in all processes, with the weights of the best epoch so far kept (of this step where there is none)."""
        where = ""
        if unfinished is not None:
            if self.kept:
                self.model.load_state_dict(self.kept[self.chosen])
            where = f"; the last good weights are in {unfinished.keep_last_good(self.model)}"
        raise UserError(
            f"training diverged: {trouble} at step {self.number + 1} of epoch {self.epoch}; lower the learning rate or "
            f"that term's weight{where}"
        )

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors and plain containers."""
        return {
            **self._moving(),
            "epochs": self.epochs,
            "floor": None if self.floor is None else self.floor.state(),
            "done": self.done,
            "number": self.number,
            "sums": {name: distributed.all_gather(total[None]) for name, total in self.sums.items()},
            "history": self.history,
            "guard": None if self.guard is None else self.guard.state(),
            "kept": {epoch: dict(weights) for epoch, weights in self.kept.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; UserError where it is not that of this training."""
        try:
            self.objective.load_state_dict(state["objective"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimisation.restore(state)
            self.done, self.number, self.epochs = int(state["done"]), int(state["number"]), int(state["epochs"])
            self.steps = self.batches.steps * self.epochs
            if self.floor is not None:
                self.floor.restore(state["floor"])
            self.history = list(state["history"])
            if self.kept_perturbations is not None:
                self.kept_perturbations.restore(state["perturbations"])
            if self.guard is not None:
                self.guard.restore(state["guard"])
            self.sums = {str(name): _own(totals).to(self.batches.device) for name, totals in state["sums"].items()}
            self.kept = {
                int(epoch): {name: value.to(self.batches.device) for name, value in weights.items()}
                for epoch, weights in state["kept"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"checkpoint: not one of this training ({reason}); remove it to start again") from None


def _own(totals: Tensor) -> Tensor:
    """This process's entry; the mean where there were another number of processes."""
    return totals[distributed.rank()] if len(totals) == distributed.size() else totals.mean()


def _dominated(earlier: dict[str, float], later: dict[str, float]) -> bool:
    """Whether the later epoch is at least as good both on clean inputs and by the selection metric."""
    return later["clean"] >= earlier["clean"] and later["selection"] >= earlier["selection"]
