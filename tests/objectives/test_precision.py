"""Precision and compilation of the training passes."""

from typing import Any

import pytest
import torch
from objective_steps import objective_of
from reference import Batch, message_of, prototype_classifier, same_state, state_of, toy_data
from torch import Tensor, nn

from robust_student.objectives.methods import METHODS
from robust_student.objectives.precision import ForwardPass
from robust_student.objectives.robust_student import RobustStudentObjective, compilable
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.settings import DistillSettings, SelectionSettings, TrainingSettings
from robust_student.training.train import distill

DATA = toy_data(train=60, noise=0.4)
FAST = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=0.02, device="cpu", selection=SelectionSettings(metric="accuracy")
)


class Watched(nn.Module):
    """Notes for every pass whether autocast is on and whether its inputs want a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 3))
        self.passes = list[tuple[bool, bool]]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.passes.append((torch.is_autocast_enabled(inputs.device.type), inputs.requires_grad))
        return self.inner(inputs)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_no_pass_whose_input_gradient_is_taken_runs_in_bf16_and_the_others_do(method: str) -> None:
    network = Watched().train()
    batch = Batch(DATA.training_examples.floats(slice(0, 8)), DATA.training_examples.labels[:8], torch.randn(8, 3))
    terms = objective_of(method, network, batch, precision="bf16")(batch.taught)
    torch.autograd.backward(terms.loss)
    assert all(term.dtype == torch.float32 for term in terms.values.values())
    assert all(not (autocast and differentiated) for autocast, differentiated in network.passes)
    if method not in ("exact", "direct", "projection", "one-pass"):  # there the only pass is differentiated
        assert any(autocast for autocast, _ in network.passes)


def test_bf16_rounds_and_keeps_the_type_of_the_inputs() -> None:
    network = Watched()
    inputs = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    exact, rounded = ForwardPass(network)(inputs), ForwardPass(network, "bf16")(inputs)
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.05, rtol=0.05)
    assert torch.equal(ForwardPass(network, "bf16").differentiable(inputs), exact)


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        (METHODS["kd"], True),
        (METHODS["secant"], True),
        (METHODS["exact"], False),
        (METHODS["secant-exact"], False),
        (METHODS["certified"], False),
        (ObjectiveSettings.parse({"secant": {"weight": 1.0, "form": "slope"}}), False),
    ],
)
def test_what_is_differentiated_twice_or_traced_cannot_be_compiled(settings: ObjectiveSettings, possible: bool) -> None:
    assert compilable(settings) is possible
    if not possible:
        assert "cannot be compiled" in message_of(lambda: RobustStudentObjective(Watched(), settings, compiled=True))


def student(method: str, **training: Any) -> Any:
    objective = METHODS[method].model_copy(update={"radius": 0.1})
    settings = DistillSettings(training=FAST.model_copy(update=training), objective=objective, cache_scores=False)
    return distill(prototype_classifier(DATA), Watched(), DATA, settings)


def test_compile_hands_the_student_to_the_compiler_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = list[Any]()

    def through(function: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", through)
    plain, quick = student("secant"), student("secant", compile=True)
    assert len(compiled) == 1 and same_state(plain.model, state_of(quick.model))


def test_where_it_cannot_compile_it_says_so_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    plain, other = student("exact"), student("exact", compile=True)
    assert "compile:" in caplog.text and same_state(plain.model, state_of(other.model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_truly_compiled_student_learns_the_same() -> None:
    """With the compiler's tracing and its autograd, but without code generation, which needs a C++ compiler."""
    network = Watched().inner.train()
    eager, compiled_objective = [
        RobustStudentObjective(network, METHODS["secant"], compiled=compiled) for compiled in (False, True)
    ]
    compiled_objective._passes._run = torch.compile(network.__call__, backend="aot_eager")
    inputs, labels = DATA.training_examples.floats(slice(0, 8)), DATA.training_examples.labels[:8]
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    gradients = []
    for objective in (eager, compiled_objective):
        network.zero_grad()
        torch.autograd.backward(objective(Batch(inputs, labels, teacher).taught, torch.Generator().manual_seed(3)).loss)
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_an_average_of_the_weights_is_what_is_validated_and_kept() -> None:
    """The average is the recursion w' <- d w' + (1 - d) w over the weights of a plain training."""
    decay, weights = 0.7, list[Tensor]()

    class Spied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                weights.append(self.inner.weight.detach().clone())
            return self.inner(inputs.flatten(1))

    last = FAST.model_copy(update={"epochs": 1})
    plain = DistillSettings(training=last, objective=METHODS["kd"], cache_scores=False)
    ended = distill(prototype_classifier(DATA), Spied(), DATA, plain).model.get_parameter("network.inner.weight")
    path = [*weights[1:], ended.detach().clone()]
    average = path[0]
    for weight in path[1:]:
        average = decay * average + (1 - decay) * weight
    averaged = plain.model_copy(update={"training": last.model_copy(update={"ema": decay})})
    last_average = distill(prototype_classifier(DATA), Spied(), DATA, averaged).model.get_parameter(
        "network.inner.weight"
    )
    torch.testing.assert_close(last_average, average)
