"""What a distillation is about to do, in a few lines: teacher, student, radius, steps, objective and cost."""

from typing import NamedTuple

import torch

from robust_student.core.threat_model import ThreatModel
from robust_student.data.examples import Data, Examples
from robust_student.data.streams import Stream
from robust_student.models.costs import count_parameters
from robust_student.models.model import as_model
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.batches import batch_size_for, planned_epochs
from robust_student.training.radius import in_grey_levels
from robust_student.training.relative_cost import relative_cost
from robust_student.training.settings import DistillSettings, TrainingSettings
from robust_student.training.teacher import OpenedTeacher


class Outlook(NamedTuple):
    """What to say before a distillation."""

    lines: tuple[str, ...]
    """One fact each."""
    doubt: str | None
    """Why teacher and student may be the wrong way round; None where nothing speaks for it."""


def outlook(
    opened: OpenedTeacher,
    student: str,
    data: Data,
    source: Examples | Stream,
    settings: DistillSettings,
    method: str,
) -> Outlook:
    """What these settings mean for this teacher, student and data, of which `source` is trained on.

    Raises UserError where the student cannot be built or a batch cannot be shared.
    """
    with torch.random.fork_rng():
        model = as_model(student, data)
    sizes = count_parameters(opened.model), count_parameters(model)
    measured = "" if opened.accuracy is None else f", {100 * opened.accuracy:.1f} % right on validation"
    cost = relative_cost(model, opened.model, data, settings.objective)
    times = "" if cost is None else f", a step costs about {cost:.1f} times one of plain distillation"
    lines = [
        f"teacher: {sizes[0]:,} parameters{measured}",
        f"student: {student}, {sizes[1]:,} parameters, {sizes[0] / max(sizes[1], 1):.3g} times fewer",
        _steps(len(source), settings.training),
        f"objective: {_objective(settings.objective, method)}{times}",
    ]
    radius = settings.floor.target_radius or settings.objective.radius
    if radius is not None and settings.objective.has_ball:  # one that fits the data is said when it is found
        threat = ThreatModel.on(data, settings.objective.norm, radius)
        lines.append(f"radius: {settings.objective.norm} {in_grey_levels(threat.budget, threat)}")
    if sizes[1] < sizes[0]:
        return Outlook(tuple(lines), None)
    lines[1] = f"student: {student}, {sizes[1]:,} parameters, no fewer than its teacher"
    doubt = f"the student is not smaller than its teacher ({sizes[1]:,} parameters against {sizes[0]:,})"
    return Outlook(tuple(lines), f"{doubt}; are --teacher and --model swapped?")


def _steps(count: int, training: TrainingSettings) -> str:
    """How long it trains with `count` examples; less where nothing improves any more and no length is named."""
    size = batch_size_for(count, training.batch_size, training.accumulate)
    epochs, steps = planned_epochs(count, training), max(1, count // size)
    most = "at most " if training.epochs is None and training.patience > 0 else ""
    length = f"{epochs:,} epochs of {steps:,}" if epochs > 1 else "1 epoch"
    return f"training: {most}{epochs * steps:,} steps ({length}), {size:,} examples each"


def _objective(objective: ObjectiveSettings, method: str) -> str:
    """The sum of the terms, and which of them are not the method's own."""
    terms = [term for term in objective.terms() if term.weight > 0]
    total = " + ".join(term.name if term.weight == 1 else f"{term.weight:g} x {term.name}" for term in terms)
    own = {term.name for term in METHODS[method].terms() if term.weight > 0}
    added = [term.name for term in terms if term.name not in own]
    if added:
        total += f" ({', '.join(added)} added to method {method})"
    return total + (f", noise in {100 * objective.noise.share:g} % of the examples" if objective.noise.share else "")
