"""The shared pass of the secant: one pass at the start of the ascent trains the student and gives its direction."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robust_student.core.margins import margin, scores
from robust_student.objectives.batch import Terms
from robust_student.objectives.distillation import Distillation
from robust_student.objectives.gradient_penalties import GradientPenalty
from robust_student.objectives.score_hinge import ScoreHinge
from robust_student.objectives.secant import Secant
from robust_student.objectives.term import Term, Visit


def shared_terms(visit: Visit, terms: Sequence[Term]) -> Terms:
    """The terms of a step whose training pass, at `visit.points`, also gives the first direction of the ascent.

    The loss at the start has parameter gradients g_p and an input gradient. Both come out of one backward pass here;
    the loss that is returned carries the former as `sum <g_p, p>` (with value zero), so that a single outer
    `backward()` completes the step and a distributed wrapper sees one. The slope form needs both ends in one graph and
    so traverses the start's graph a second time.
    """
    start_terms = [term for term in terms if isinstance(term, Distillation | ScoreHinge)]
    penalties = [term for term in terms if isinstance(term, GradientPenalty)]
    (secant,) = (term for term in terms if isinstance(term, Secant))
    others = [term for term in terms if term not in (*start_terms, *penalties, secant)]
    drop = secant.settings.ascent == "drop"
    parameters = [p for p in visit.student.network.parameters() if p.requires_grad]
    values = {term.name: term(visit) for term in start_terms}
    if secant.settings.steps == 0:
        values[secant.name] = secant.at_start(visit)
    loss = weighted(visit, values, terms).loss
    carried = None
    if not drop and not secant.slope and not penalties:
        # One backward pass serves both: the loss at the start is also what the ascent raises.
        direction, *gradients = torch.autograd.grad(loss, [visit.points, *parameters], allow_unused=True)
        carried = _gradient_carrier(parameters, gradients)
    else:
        labels = visit.batch.labels
        climbed = -margin(scores(visit.logits, secant.settings.score), labels).sum() if drop else loss
        (direction,) = torch.autograd.grad(climbed, visit.points, retain_graph=True)
        values |= {term.name: term(visit) for term in penalties}
        if not secant.slope:
            loss = weighted(visit, values, terms).loss
            carried = _gradient_carrier(parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
    if not secant.slope:
        values = {name: value.detach() for name, value in values.items()}
    if secant.settings.steps == 0:
        secant.reach(visit, direction.detach())
    else:
        values[secant.name] = secant(visit, direction.detach())
    values |= {term.name: term(visit) for term in others}
    return weighted(visit, values, terms, carried)


def weighted(visit: Visit, values: dict[str, Tensor], terms: Sequence[Term], carried: Tensor | None = None) -> Terms:
    """Values of some of the terms, with the weights of those terms and of the examples."""
    weights = {term.name: term.weight for term in terms}
    return Terms(values, {name: weights[name] for name in values}, carried, visit.batch.example_weights)


def _gradient_carrier(parameters: list[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor | None:
    """A scalar of value zero whose gradient with respect to each parameter is the given one."""
    products = [(g.detach() * p).sum() for g, p in zip(gradients, parameters, strict=True) if g is not None]
    if not products:
        return None
    total = torch.stack(products).sum()
    return total - total.detach()
