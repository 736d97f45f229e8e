"""Whether a teacher is fit to teach: what goes wrong silently when it is not."""

import time

import torch
from scipy.stats import binom
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.margins import margin
from robust_student.core.module_state import device_of, evaluating
from robust_student.data.readers.load import Data, Examples, Stream
from robust_student.doctor.findings import Finding, severity_of
from robust_student.models.costs import count_parameters
from robust_student.models.model import Model
from robust_student.training.normalisation import compare_normalisations
from robust_student.training.teacher import CHECKED_EXAMPLES, check_teacher, depends_on_batch

_CHANCE = 0.001  # error probability of the tests on accuracy
_CLOSE = 1e-3  # largest difference between two passes, relative to the largest logit, that is rounding


def check_outputs(teacher: Model, inputs: Tensor) -> list[Finding]:
    """Whether logits are numbers, are logits, and depend on nothing but their own example.

    Args:
        teacher: takes `inputs` in the data's own units, such as pixels in [0, 1].
        inputs: a batch `(n, *shape)` of at least two.
    """
    logits = teacher.logits(inputs)
    findings = []
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(dim=1).sum())
        text = f"its logits of {bad} of {len(inputs)} examples hold NaN or infinite values"
        return [Finding("teacher", "problem", text, "look at its weights and normalisation")]
    if bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < _CLOSE).all()):
        text = "its outputs are probabilities, not logits: a softmax is applied twice"
        findings.append(Finding("teacher", "problem", text, "return the logits, without the softmax"))
    scale = float(logits.abs().max()) + 1e-12
    if float((teacher.logits(inputs) - logits).abs().max()) > _CLOSE * scale:
        text = "two passes over the same inputs differ: something in it is random in evaluation mode"
        fix = "leave out dropout or noise at inference: functional.dropout(..., training=self.training)"
        findings.append(Finding("teacher", "problem", text, fix))
    elif depends_on_batch(teacher, inputs):
        text = "an example's logits depend on the other examples of its batch"
        fix = "normalise with running statistics at inference (BatchNorm with track_running_stats=True)"
        findings.append(Finding("teacher", "problem", text, fix))
    if float(logits.std(dim=0).max()) <= _CLOSE * scale:
        text = "its logits are the same for every example"
        findings.append(Finding("teacher", "problem", text, "look at its weights and normalisation"))
    return findings


def check_gradients(teacher: Model, inputs: Tensor) -> list[Finding]:
    """Share of the examples whose margin has no usable gradient: teachers and attacks on them rest on it.

    The margin of the predicted class over the next one; a gradient that is zero everywhere or NaN is not usable.
    """
    device = device_of(teacher)
    points = inputs.detach().clone().to(device).requires_grad_()
    with evaluating(teacher), torch.enable_grad():
        logits = teacher(points)
        if not logits.requires_grad:
            text = "its logits have no gradient with respect to the input"
            fix = "leave out detach(), no_grad() and operations on numpy arrays: attacks and bounds need the gradient"
            return [Finding("teacher", "problem", text, fix)]
        (slope,) = torch.autograd.grad(margin(logits, logits.argmax(dim=1)).sum(), points, allow_unused=True)
    if slope is None:
        slope = torch.zeros_like(points)
    flat = slope.flatten(1)
    zero, nan = int((flat == 0).all(dim=1).sum()), int((~flat.isfinite()).any(dim=1).sum())
    findings = []
    for count, what in ((zero, "zero everywhere"), (nan, "NaN or infinite")):
        if count:
            text = f"the input gradient of its margin is {what} on {count} of {len(inputs)} examples"
            fix = "look for saturated or non-differentiable operations: no attack by gradient can judge it there"
            findings.append(Finding("teacher", severity_of(count, len(inputs)), text, fix))
    return findings


def describe_teacher(teacher: Model, inputs: Tensor, training: int | None = None) -> Finding:
    """Size and speed; how long it takes to score `training` examples once."""
    started = time.perf_counter()
    teacher.logits(inputs)
    rate = len(inputs) / max(time.perf_counter() - started, 1e-9)
    once = f", {training / rate:,.0f} s for {training:,} training examples" if training is not None else ""
    name = teacher.card.network or type(teacher.network).__name__
    text = f"{name}: {count_parameters(teacher):,} parameters, {len(teacher.card.classes)} classes, inputs"
    return Finding("teacher", "fine", f"{text} {teacher.card.input_shape}, {rate:,.0f} examples/s{once}")


def sample_inputs(examples: Examples | None, teacher: Model, count: int = 128) -> Tensor:
    """Inputs to try a teacher on: the first examples, or uniform noise in its range (normal where it has none)."""
    if examples is not None:
        return examples.floats(slice(0, count))
    generator = torch.Generator().manual_seed(0)
    low, high = teacher.card.range
    if teacher.card.range.bounded:
        return low + (high - low) * torch.rand(count, *teacher.card.input_shape, generator=generator)
    return torch.randn(count, *teacher.card.input_shape, generator=generator)


def check_normalisation(teacher: Model, data: Data, source: Examples | Stream, validation: Examples) -> list[Finding]:
    """Whether another normalisation than its own makes a teacher more accurate, or a linear model of `source` is."""
    comparison = compare_normalisations(teacher, data, source, validation)
    doubt = comparison.doubt()
    if doubt is None:
        return [Finding("teacher", "fine", f"to compare with: {comparison.rivals}")]
    return [Finding("teacher", "problem" if doubt.certain else "note", doubt.text, doubt.fix)]


def check_accuracy(teacher: Model, validation: Examples, declared: float | None = None) -> Finding:
    """Accuracy on validation examples, by the test that `distill` makes and by the teacher's own record.

    A problem where `check_teacher` refuses it; a note where it cannot be told from always naming the most frequent
    class, or where its record claims more (binomial tests).
    """
    try:
        accuracy = check_teacher(teacher, validation, declared)
    except UserError as error:
        text, _, fix = str(error).partition(": ")
        return Finding("teacher", "problem", text, fix)
    n = min(len(validation), CHECKED_EXAMPLES)
    right, text = round(accuracy * n), f"accuracy on validation is {100 * accuracy:.1f} % (n = {n:,})"
    largest = float(torch.bincount(validation.labels.cpu()).max()) / len(validation)
    if binom.sf(right - 1, n, largest) > _CHANCE:
        fix = "read its accuracy by class (evaluate, report); it may have learnt one class only"
        share = f"naming the largest class alone ({100 * largest:.1f} %)"
        if accuracy > largest:
            return Finding("teacher", "note", f"{text}, too few examples to tell it from {share}", fix)
        return Finding("teacher", "note", f"{text}, no better than {share}", fix)
    recorded = _recorded(teacher)
    if recorded is not None and binom.cdf(right, n, min(recorded, 0.999)) < _CHANCE:
        fix = "look for other data, or images that were made in another way, than in its training"
        return Finding("teacher", "note", f"{text}, its own record says {100 * recorded:.1f} %", fix)
    return Finding("teacher", "fine", text)


def _recorded(teacher: Model) -> float | None:
    """Clean validation accuracy of the epoch that was kept; None where that is not recorded."""
    for record in teacher.history:
        if record.get("epoch") == teacher.card.provenance.get("epoch"):
            accuracy = record.get("validation", {}).get("clean")
            return accuracy if isinstance(accuracy, float) else None
    return None
