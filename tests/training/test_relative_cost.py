"""Operations of a step are those that a count by hand gives."""

from dataclasses import replace

import pytest
import torch
from reference import assert_state, state_of, toy_data

from robust_student.models.model import as_model
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.relative_cost import relative_cost

DATA = toy_data()


def cost(settings: ObjectiveSettings, student: str = "linear") -> float | None:
    teacher = as_model("linear", DATA).eval().requires_grad_(False)
    return relative_cost(as_model(student, DATA), teacher, DATA, settings)


def secant(**changes: object) -> ObjectiveSettings:
    base = METHODS["secant"]
    return base.model_copy(update={"secant": base.secant.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("settings", "products"),
    [
        (METHODS["kd"], 2),
        (METHODS["score"], 2),
        (secant(start="random", steps=1), 5),
        (secant(start="random", steps=2), 7),
        (secant(start="persistent", steps=0), 3),
        (secant(start="inputs", steps=1, shared=False), 6),
    ],
)
def test_products_with_one_layer_are_counted(settings: ObjectiveSettings, products: int) -> None:
    """A pass is one product forward, one for the weights' gradient and one for the inputs' where it is taken."""
    assert cost(settings) == pytest.approx(products / 2)


@pytest.mark.parametrize("method", ["exact", "certified", "trades"])
def test_passes_that_are_differentiated_twice_or_bounded_count(method: str) -> None:
    value = cost(METHODS[method], "mlp:4")
    assert value is not None and value > 2


def test_a_teacher_that_is_asked_at_other_points_counts() -> None:
    small = cost(METHODS["adaad"])
    large = relative_cost(as_model("linear", DATA), as_model("mlp:64", DATA).eval(), DATA, METHODS["adaad"])
    assert small is not None and large is not None and large > 5 * small


def test_weights_and_random_numbers_stay_as_they_are() -> None:
    student, teacher = as_model("mlp:4", DATA), as_model("linear", DATA).eval()
    before, generator = state_of(student), torch.get_rng_state()
    relative_cost(student, teacher, DATA, METHODS["secant"])
    assert_state(student, before)
    assert torch.equal(generator, torch.get_rng_state())


def test_one_process_of_several_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it would have to wait for is never there."""

    def waits(*_: object) -> None:
        raise AssertionError("waits for the other processes")

    monkeypatch.setattr("robust_student.runtime.distributed.size", lambda: 2)
    for name in ("all_gather", "all_reduce_max", "all_reduce_sum", "barrier"):
        monkeypatch.setattr(f"robust_student.runtime.distributed.{name}", waits)
    assert cost(secant(start="persistent", steps=0)) == pytest.approx(1.5)


def test_what_cannot_be_trained_has_no_cost() -> None:
    teacher = as_model("linear", DATA).eval()
    other = replace(DATA, classes=("a", "b"))
    assert relative_cost(as_model("linear", other), teacher, DATA, METHODS["secant"]) is None
