"""A teacher, opened and checked before anything is trained: its accuracy shows whether class numbers agree."""

import logging
from typing import NamedTuple

from scipy.stats import binom

from robust_student.core.errors import UserError
from robust_student.core.tensors import Inputs, answers
from robust_student.data.readers.load import Data, Examples, Stream, stratified_sample
from robust_student.models.model import Model
from robust_student.models.open_model import open_model
from robust_student.models.settings import TeacherSettings
from robust_student.training.normalisation import compare_normalisations

CHECKED_EXAMPLES = 1000
"""Validation examples looked at, at most: enough to tell, and little beside the pass over the training set."""
_CHANCE, _SHORTFALL = 0.01, 0.001  # error probabilities of the two tests
_SHOWN_TOGETHER = 64  # examples that may depend on one another
_ROUNDING = 0.02  # share of the largest logit by which kernels for another batch size may round, also in bfloat16
_HINT = (
    "check its normalisation or class order (--teacher-mean, --teacher-std, --teacher-input-size, --teacher-classes; "
    "--no-teacher-check skips this check)"
)

_log = logging.getLogger(__name__)


class OpenedTeacher(NamedTuple):
    """A teacher that was looked at."""

    model: Model
    accuracy: float | None
    """On validation examples, in [0, 1]; None: not checked."""


def open_teacher(
    spec: str,
    data: Data,
    source: Examples | Stream,
    validation: Examples,
    settings: TeacherSettings | None = None,
    *,
    trust: bool = False,
) -> OpenedTeacher:
    """The teacher that `spec` names (see `open_model`), after a look at its accuracy on validation examples.

    `source` and `validation` are the parts of the training set (`training_and_validation`).

    A warning says where its answers depend on the batch, because such a teacher may still be accurate, and where
    another normalisation, or a linear model, does better. Raises UserError where it cannot be opened or does not fit
    the data, where its normalisation is clearly the wrong one, and where `check_teacher` does.
    """
    settings = settings if settings is not None else TeacherSettings()
    teacher = open_model(spec, data, settings, trust=trust, role="teacher")
    accuracy = None
    if settings.teacher_check:
        doubt = compare_normalisations(teacher, data, source, validation).doubt()
        if doubt is not None and doubt.certain:
            raise UserError(f"{doubt.text}: {doubt.fix} (--no-teacher-check skips this check)")
        if doubt is not None:
            _log.warning("%s: %s", doubt.text, doubt.fix)
        accuracy = check_teacher(teacher, validation, settings.teacher_accuracy)
    if depends_on_batch(teacher, validation.floats(slice(0, _SHOWN_TOGETHER))):
        _log.warning(
            "teacher: its answer to an example depends on the other examples of the batch, so what it teaches changes "
            "with the batches; let it normalise with running statistics (BatchNorm with track_running_stats=True)"
        )
    return OpenedTeacher(teacher, accuracy)


def depends_on_batch(teacher: Model, inputs: Inputs) -> bool:
    """Whether the first half of a batch gets other logits without the second half, by more than kernels round.

    Not where two passes over the same batch differ as much: such answers are random.
    """
    half = len(inputs) // 2
    if half == 0:
        return False
    in_batch, again, apart = teacher.logits(inputs)[:half], teacher.logits(inputs)[:half], teacher.logits(inputs[:half])
    limit = _ROUNDING * float(in_batch.abs().max())
    return float((in_batch - apart).abs().max()) > limit >= float((in_batch - again).abs().max())


def check_teacher(teacher: Model, validation: Examples, declared: float | None = None) -> float:
    """Accuracy in [0, 1] on at most 1,000 validation examples, stratified; UserError where it gives reason to doubt.

    With a declared accuracy (in percent; the one on the card where none is given): where that many or fewer correct
    answers would come up in less than one of 1,000 samples (100 % counts as 99.9 %). Else where the accuracy cannot be
    told from 1 / classes (at the level of 1 %), provided that the sample is large enough to tell an accuracy half-way
    to perfect from it, or that a teacher half-way to perfect would do as badly in less than one of 1,000 samples.
    """
    count = min(CHECKED_EXAMPLES, len(validation))
    sample = validation.subset(stratified_sample(validation.labels, count, seed=0))
    correct = int((answers(teacher.logits(sample.floats(), batch=256)) == sample.labels.cpu()).sum())
    accuracy = f"teacher accuracy on validation is {100 * correct / count:.1f} % (n = {count})"
    declared = declared if declared is not None else teacher.card.accuracy
    if declared is not None:
        if binom.cdf(correct, count, min(declared / 100, 0.999)) < _SHORTFALL:
            raise UserError(f"{accuracy}, not {declared:g} %: {_HINT}")
        return correct / count
    chance = 1 / len(teacher.card.classes)
    needed = int(binom.isf(_CHANCE, count, chance)) + 1
    halfway = (1 + chance) / 2
    telling = needed <= count and binom.sf(needed - 1, count, halfway) >= 1 - _CHANCE
    if correct < needed and (telling or binom.cdf(correct, count, halfway) < _SHORTFALL):
        raise UserError(f"{accuracy}, no better than chance: {_HINT}")
    return correct / count
