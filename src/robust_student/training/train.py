"""The training loop: `train` makes teachers, `distill` makes students; the best epoch is chosen on validation."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.module_state import evaluating
from robust_student.core.settings import Settings
from robust_student.core.tensors import Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.data.examples import Data, Examples
from robust_student.data.groups import coarseness
from robust_student.data.samples import training_and_validation
from robust_student.data.streams import Stream
from robust_student.models.costs import batch_macs
from robust_student.models.fingerprint import fingerprint
from robust_student.models.model import Model, as_model, require_fit
from robust_student.objectives.batch import Batch
from robust_student.objectives.cross_entropy import LabelObjective
from robust_student.objectives.robust_student import RobustStudentObjective, compilable
from robust_student.runtime import distributed
from robust_student.runtime.hardware import resolve_device
from robust_student.runtime.interruption import StopRequest, listening
from robust_student.runtime.provenance import provenance
from robust_student.runtime.threads import threads_for
from robust_student.training.alarms import Outcome
from robust_student.training.batches import Batches, planned_epochs
from robust_student.training.familiar import familiar
from robust_student.training.floor import Floor
from robust_student.training.loop import Loop
from robust_student.training.memory import memory_of
from robust_student.training.noise_range import fitted_lowest_db
from robust_student.training.plain import clear, plan_of, reference_of
from robust_student.training.radius import fitted_radius, in_grey_levels
from robust_student.training.selection import Validation
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.teacher_scores import TeacherScores
from robust_student.training.tracking import Tracking
from robust_student.training.unfinished_run import UnfinishedRun

TEACHER_SETTINGS = TrainingSettings(selection=SelectionSettings(metric="accuracy"))
"""Defaults of `train`: the best epoch is the one of highest clean validation accuracy."""
_OPERATIONAL = frozenset({"device", "checkpoint_minutes", "track"})
"""Training settings that may change when a training is continued."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with the record of how it came about."""

    model: Model
    """In evaluation mode, with the weights of the best epoch."""
    history: list[dict[str, Any]]
    """One record per epoch: mean terms, validation accuracies, learning rate, speed."""
    best_epoch: int
    """The epoch whose weights were kept, from 1."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the outcome, each line with its cure; also on the model's card, in its provenance."""

    @property
    def validation(self) -> dict[str, float]:
        """Validation accuracies of the best epoch."""
        return self.history[self.best_epoch - 1]["validation"]


def train(
    network: str | nn.Module,
    data: Data,
    settings: TrainingSettings | None = None,
    *,
    output: Path | None = None,
) -> Trained:
    """Train a network on labels with cross-entropy; this is how teachers are made.

    Args:
        network: a name for `models.build`, or a module that takes inputs in the data's units.
        data: from `load_data`.
        settings: optimisation; default: TEACHER_SETTINGS.
        output: new run directory to write, or one that holds the unfinished beginning of this very training, which is
            then continued; None writes nothing.

    Raises UserError on bad input and where the loss diverges, and Interrupted where a signal stopped it.
    """
    settings = settings if settings is not None else TEACHER_SETTINGS
    with _seeded(settings):
        sets = _Sets.of(data, settings)
        model = _learner(as_model(network, data), data.shape, sets.device)
        unfinished = None
        if output is not None:
            unfinished = UnfinishedRun(output, _marks({"network": model}, sets, settings), settings.checkpoint_minutes)
        objective = LabelObjective(model, settings.precision, compiled=settings.compile)
        return _fit(model, objective, sets, settings, unfinished, recorded=settings)


def distill(
    teacher: Model | nn.Module,
    student: str | nn.Module,
    data: Data,
    settings: DistillSettings | None = None,
    *,
    output: Path | None = None,
) -> Trained:
    """Teach a student with the robust student objective.

    The teacher is frozen and in evaluation mode; its scores on the training inputs are computed once, or on every batch
    where the inputs change.

    Args:
        teacher: a loaded model, or any module from inputs in the data's units to logits.
        student: a name for `models.build`, or a module that takes inputs in the data's units.
        data: from `load_data`.
        settings: optimisation and objective.
        output: new run directory to write, or one that holds the unfinished beginning of this very training, which is
            then continued; None writes nothing.

    Raises UserError where teacher, student and data do not belong together, and where the loss diverges, and
    Interrupted where a signal stopped it.
    """
    settings = settings if settings is not None else DistillSettings()
    training = settings.training
    require_sense(settings, data)
    with _seeded(training):
        sets = _Sets.of(data, training)
        if isinstance(teacher, Model):
            require_fit(teacher, data, "teacher")
        teacher_model = as_model(teacher, data)
        teacher_model.to(sets.device)
        initial = student if isinstance(student, str) else deepcopy(student)
        model = _learner(as_model(student, data), data.shape, sets.device)
        marks = None if output is None else _marks({"network": model, "teacher": teacher_model}, sets, settings)
        plan = plan_of(settings, lambda: sets.validation.clean(teacher_model))
        settings, threat = _with_radius(settings, teacher_model, sets)
        settings = _with_noise(settings, teacher_model, sets, threat)
        sets.validation.objective = threat
        scores = TeacherScores(teacher_model, sharded=settings.shard_teacher, cache=settings.cache_scores)
        settings, kept = memory_of(settings, sets.source, sets.device, output)
        compiled = training.compile and compilable(settings.objective)
        if training.compile and not compiled:
            _log.warning("compile: not used, because this objective differentiates the student twice or traces it")
        inputs, labels = torch.zeros(2, *data.shape), torch.zeros(2, dtype=torch.long)  # for the sizes of layers
        objective = RobustStudentObjective(
            model,
            settings.objective,
            threat=threat,
            precision=training.precision,
            compiled=compiled,
            example=Batch(inputs.to(sets.device), labels.to(sets.device), teacher=scores),
            kept=kept,
        )
        unfinished = None
        if output is not None and marks is not None:
            unfinished = UnfinishedRun(output, marks, training.checkpoint_minutes)

        def plain(short: DistillSettings, folder: Path | None) -> list[dict[str, Any]]:
            return distill(teacher_model, initial, data, short, output=folder).history

        floor = None
        if plan is not None:
            reference = reference_of(settings, data, teacher_model, sets.validation, len(sets.source), plain, output)
            floor = Floor(objective, sets.validation, threat.budget, reference, plan, _checks(training, sets))
        return _fit(model, objective, sets, training, unfinished, recorded=settings, scores=scores, floor=floor)


@dataclass(frozen=True, eq=False)
class _Sets:
    """What a training needs of the data, and where it computes."""

    data: Data
    source: Examples | Stream
    """To train on."""
    validation: Validation
    """To choose by."""
    device: torch.device

    @classmethod
    def of(cls, data: Data, settings: TrainingSettings) -> "_Sets":
        """UserError where nothing can be held out, and for a device that is not there."""
        source, held_out = training_and_validation(data, settings.validation_fraction, settings.seed)
        if data.validation is None and isinstance(source, Examples):
            coarse = coarseness(source, held_out, settings.validation_fraction, data.classes)
            if coarse is not None:
                _log.warning("group: validation: %s", coarse)
        validation = Validation(held_out, settings.selection, scale=data.scale, seed=settings.seed)
        return cls(data, source, validation, resolve_device(settings.device))


def _learner(model: Model, shape: Shape, device: torch.device) -> Model:
    """The model on its device, in training mode; UserError where no parameter can learn from the logits."""
    model.to(device).train()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("model: has no trainable parameters")
    with evaluating(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
        if not model(torch.zeros(2, *shape, device=device)).requires_grad:
            raise UserError(
                "model: its logits have no gradient with respect to any parameter, so it cannot learn; "
                "look for no_grad(), detach() or frozen parameters"
            )
    return model


def _fit(
    model: Model,
    objective: LabelObjective | RobustStudentObjective,
    sets: _Sets,
    settings: TrainingSettings,
    unfinished: UnfinishedRun | None,
    *,
    recorded: Settings,
    scores: TeacherScores | None = None,
    floor: Floor | None = None,
) -> Trained:
    """What `train` and `distill` share: the steps, validation after each epoch, the best weights kept.

    `objective` is around the model; `recorded` are all settings of the command.
    """
    data, source, device = sets.data, sets.source, sets.device
    objective.to(device).train()
    if scores is not None:
        scores.prepare(source, ahead=objective.uses_targets and not settings.augmentation.anything)
    batches = Batches(
        source, batch_size=settings.batch_size, accumulate=settings.accumulate, seed=settings.seed, device=device
    )
    kept = objective.kept if isinstance(objective, RobustStudentObjective) else None
    loop = Loop(model, objective, scores, batches, sets.validation, settings, kept, floor)
    if unfinished is not None:
        state = unfinished.latest()
        for complaint in unfinished.checkpoints.skipped:
            _log.warning("%s; continuing from the one before it", complaint)
        if state is not None:
            loop.restore(state)
    tracking = Tracking(
        settings.track, None if unfinished is None else unfinished.output, recorded.model_dump(mode="json")
    )
    work = None
    if device.type == "cpu":
        share = batches.batch_size // (distributed.size() * batches.accumulate)
        work = batch_macs([model] if scores is None else [model, scores.teacher], data.shape, share)
    signals = listening() if unfinished is not None else nullcontext(StopRequest())
    with threads_for(work), signals as stop_request:
        try:
            loop.run(unfinished, stop_request, tracking)
        finally:
            tracking.finish()
    model.load_state_dict(loop.kept[loop.chosen])
    facts = provenance(recorded.model_dump(mode="json"), data.name, settings.seed) | {"epoch": loop.chosen}
    warnings = _outcome(loop, data.classes).alarms()
    facts |= {"warnings": warnings} if warnings else {}
    facts |= {} if data.group is None else {"group": data.group}
    if floor is not None:
        facts["floor"] = floor.record(loop.history, loop.chosen)
        _log.info(floor.summary(loop.history, loop.chosen))
    known = familiar(model, sets.validation.examples)
    model.card = model.card.model_copy(update={"familiar": known, "provenance": model.card.provenance | facts})
    model.history = loop.history
    model.eval()
    if unfinished is not None:
        unfinished.finish(model, loop.history)
        clear(unfinished.output)
    return Trained(model, loop.history, loop.chosen, tuple(warnings))


def _outcome(loop: Loop, names: Sequence[str]) -> Outcome:
    """What the loop's training led to; the chosen weights are loaded."""
    validation, objective = loop.validation, loop.objective
    radius = None
    if isinstance(objective, RobustStudentObjective) and objective.settings.strength > 0:
        radius = objective.threat(loop.model.card.input_shape).budget
    return Outcome(
        loop.history,
        loop.chosen,
        validation.classes,
        validation.sampled,
        validation.given_answers(loop.model),
        names,
        loop.settings,
        loop.batches.steps,
        radius,
    )


def _with_radius(settings: DistillSettings, teacher: Model, sets: _Sets) -> tuple[DistillSettings, ThreatModel]:
    """The settings with the radius that is named or else fits data and teacher, and the threat model of it."""
    objective = settings.objective
    radius = settings.floor.target_radius or objective.radius
    threat = ThreatModel.on(sets.data, objective.norm, radius)
    if radius is None:
        fitted = fitted_radius(teacher, sets.validation.examples, threat)
        threat = threat.at(distributed.rank_zero(lambda: fitted.radius))
        if objective.has_ball:
            _log.info("radius: %s %s, %s", objective.norm, in_grey_levels(threat.budget, threat), fitted.reason)
    _require_ball_inside(threat, sets.data)
    fixed = objective.model_copy(update={"radius": threat.budget})
    return settings.model_copy(update={"objective": fixed}), threat


def _with_noise(settings: DistillSettings, teacher: Model, sets: _Sets, threat: ThreatModel) -> DistillSettings:
    """The settings with the levels of noise that are named or else fit data and teacher."""
    objective, noise = settings.objective, settings.objective.noise
    if noise.share == 0 or noise.lowest_db is not None:
        return settings
    lowest = distributed.rank_zero(lambda: fitted_lowest_db(teacher, sets.validation.examples, threat))
    if noise.highest_db is not None:
        lowest = min(lowest, noise.highest_db)
    fixed = noise.model_copy(update={"lowest_db": lowest})
    _log.info("noise: from %g to %g dB; at the former the teacher has lost half of its accuracy", *fixed.range_db)
    return settings.model_copy(update={"objective": objective.model_copy(update={"noise": fixed})})


def _checks(settings: TrainingSettings, sets: _Sets) -> int:
    """How often clean accuracy is compared with a floor: it shall cost about 3 % of two passes a step."""
    examples = len(sets.source) * planned_epochs(len(sets.source), settings)
    return min(40, max(10, examples // (5 * len(sets.validation.examples))))


def require_sense(settings: DistillSettings, data: Data) -> None:
    """Raise UserError where a floor is asked of an objective without a ball, or the named ball holds every input."""
    objective, floor = settings.objective, settings.floor
    asked = [name for name, value in floor.model_dump().items() if value is not None]
    if asked and not objective.has_ball:
        raise UserError(f"{asked[0]}: the method has no ball whose radius could be moved or compared")
    radius = floor.target_radius or objective.radius
    if radius is not None:
        _require_ball_inside(ThreatModel.on(data, objective.norm, radius), data)


def _require_ball_inside(threat: ThreatModel, data: Data) -> None:
    """Raise UserError where a ball holds every input: a radius in other units than the inputs'."""
    lower, upper = data.input_range
    whole = threat.widest(data.shape)
    if threat.budget >= whole:
        raise UserError(
            f"radius: {threat.budget:g} reaches from one end of the inputs' range [{lower:g}, {upper:g}] to the other "
            f"({threat.norm.name}, {whole:g}); radii are in units of the inputs, where 8 of 255 grey levels are 0.0314"
        )


def _marks(models: dict[str, Model], sets: _Sets, recorded: Settings) -> dict[str, Any]:
    """What must be the same for an unfinished training of `network` to be continued."""
    settings = recorded.model_dump(mode="json")
    training = settings.pop("training") if "training" in settings else settings
    lasting = {name: value for name, value in training.items() if name not in _OPERATIONAL}
    others = {} if training is settings else settings
    return fingerprint(models, sets.data, {"training_set": sets.source}, others | {"training": lasting}, "network")


@contextmanager
def _seeded(settings: TrainingSettings) -> Iterator[None]:
    """Seed the global generators (initial weights, dropout) and leave them afterwards as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        yield
