"""Scores, margins and their input gradients: the quantities that objectives and bounds share."""

from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from robust_student.core.tensors import Inputs, Labels, Logits, PerExample


class Score(StrEnum):
    """What the paper's "prediction score" S_k means; the abstract admits both readings."""

    LOGIT = "logit"
    """The network's output itself."""
    PROBABILITY = "probability"
    """The softmax of it."""


class Form(StrEnum):
    """Which of the two bounds a term serves (docs/theory.md)."""

    MARGIN = "margin"
    """Bound A, the decision: the margin S_y - S_j."""
    TEACHER = "teacher"
    """Bound B, the confidence: the true class's score S_y against the teacher's T_y."""


def scores(logits: Logits, score: Score) -> Logits:
    """S_k(x): the logits themselves or their softmax."""
    return logits if score is Score.LOGIT else logits.softmax(dim=1)


def true_score(scores: Logits, labels: Labels) -> PerExample:
    """S_y(x): the score of the true class."""
    return scores.gather(1, labels[:, None])[:, 0]


def is_rival(scores: Logits, labels: Labels) -> Bool[Tensor, "batch classes"]:
    """True at every class other than the true one."""
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, labels[:, None], False)


def margins(scores: Logits, labels: Labels) -> Logits:
    """m_j(x) = S_y(x) - S_j(x) for every class j; zero at j = y."""
    return scores.gather(1, labels[:, None]) - scores


def margin(scores: Logits, labels: Labels) -> PerExample:
    """m(x) = min over j != y of m_j(x): positive exactly when the decision is right."""
    return margins(scores, labels).masked_fill(~is_rival(scores, labels), torch.inf).amin(dim=1)


def runner_up(scores: Logits, labels: Labels) -> Labels:
    """j*(x): the class other than y with the largest score."""
    return scores.detach().masked_fill(~is_rival(scores, labels), -torch.inf).argmax(dim=1)


def by_score(scores: Logits, labels: Labels) -> Int64[Tensor, "batch rivals"]:
    """The classes other than y, those of largest score first."""
    order = scores.argsort(dim=1, descending=True)
    return order[order != labels[:, None]].view(len(labels), -1)


def log_odds(logits: Logits, labels: Labels) -> PerExample:
    """log(P_y / (1 - P_y)) = S_y - log sum_{j != y} exp S_j: the true class's probability without saturation."""
    rivals = logits.masked_fill(~is_rival(logits, labels), -torch.inf)
    return true_score(logits, labels) - rivals.logsumexp(dim=1)


def confidence(logits: Logits, labels: Labels, form: Form, score: Score) -> PerExample:
    """The quantity whose slope a gradient term limits: S_y - S_j* with j* detached (A), or S_y (B)."""
    values = scores(logits, score)
    if form is Form.TEACHER:
        return true_score(values, labels)
    return true_score(values, labels) - true_score(values, runner_up(logits, labels))


def input_gradient(values: PerExample, inputs: Inputs, *, create_graph: bool = False) -> Inputs:
    """Gradient of each example's value with respect to its own input, `(batch, *shape)`.

    It is the gradient of the sum over the batch, which is per example as long as the network treats examples
    independently (training-mode BatchNorm does not: docs/objectives.md). Zero where the values do not depend on the
    inputs. Raises RuntimeError where an operation has no derivative.
    """
    if not values.requires_grad:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(
        values.sum(), inputs, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(inputs) if gradient is None else gradient


def jacobian(outputs: Float[Tensor, "batch outputs"], inputs: Inputs, *, create_graph: bool = False) -> Tensor:
    """Gradient of every output with respect to the input, `(batch, outputs, *shape)`."""
    rows = [input_gradient(outputs[:, k], inputs, create_graph=create_graph) for k in range(outputs.shape[1])]
    return torch.stack(rows, dim=1)
