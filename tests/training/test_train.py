"""Training: what is learnt from which examples, what is kept, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_objective import plain_divergence
from reference import affine, assert_state, message_of, prototype_classifier, same_state, state_of, toy_data
from torch import Tensor, nn
from torch.nn import functional
from toy_training import DATA, FAST, Recorder, TeacherScores, outcome, rows, student_of, teacher

from robust_student.core.rng import step_seed
from robust_student.data.readers.load import load_data, split
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import METRICS, load
from robust_student.objectives.methods import METHODS
from robust_student.training.selection import Validation, choose_epoch
from robust_student.training.settings import DistillSettings
from robust_student.training.train import TEACHER_SETTINGS, distill, train

# What is learnt -------------------------------------------------------------------------------------------------------


def test_a_linear_network_learns_the_digits() -> None:
    settings = TEACHER_SETTINGS.model_copy(update={"epochs": 4, "learning_rate": 0.02, "device": "cpu"})
    data = load_data("digits")
    trained = train("linear", data, settings)
    assert trained.validation["clean"] > 0.9
    right = trained.model.logits(data.test.floats()).argmax(dim=1) == data.test.labels
    assert right.float().mean() > 0.9 and not trained.model.training


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_and_records_its_terms(method: str) -> None:
    trained = student_of(method)
    assert set(trained.history[0]["terms"]) == {term.name for term in METHODS[method].terms() if term.weight > 0}
    assert all(math.isfinite(value) for record in trained.history for value in record["terms"].values())


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_distillation_without_gradient_terms_is_a_plain_loop(schedule: str, optimizer: str) -> None:
    trained = student_of(schedule=schedule, optimizer=optimizer, weight_decay=0.01, gradient_clip=0.5, seed=3)
    torch.manual_seed(3)
    student, teacher_scores = as_model("mlp:4", DATA), prototype_classifier(DATA)
    training, _ = split(DATA.training_examples, 0.1, 3)
    steps = 2 * (54 // 8)
    if optimizer == "adamw":
        stepper: torch.optim.Optimizer = torch.optim.AdamW(student.parameters(), lr=0.02, weight_decay=0.01)
    else:
        stepper = torch.optim.SGD(student.parameters(), lr=0.02, weight_decay=0.01, momentum=0.9, nesterov=True)
    if schedule == "one_cycle":
        rates: Any = torch.optim.lr_scheduler.OneCycleLR(stepper, 0.02, total_steps=steps + 1)
    else:
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, steps)
    epochs, losses = [], list[float]()
    for epoch in (1, 2):
        positions = torch.randperm(54, generator=torch.Generator().manual_seed(step_seed(3, epoch)))
        for batch in positions[:48].view(6, 8):
            logits, teacher_logits = student(training.inputs[batch]), teacher_scores(training.inputs[batch]).detach()
            hard = functional.cross_entropy(logits, training.labels[batch], reduction="none")
            loss = (0.1 * hard + 0.9 * plain_divergence(logits, teacher_logits, 4.0)).mean()
            stepper.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), 0.5)
            stepper.step()
            rates.step()
            losses.append(float(loss.detach()))
        epochs.append(state_of(student))
    expected = epochs[trained.best_epoch - 1]
    for name, value in state_of(trained.model).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    recorded = [record["terms"]["distillation"] for record in trained.history]
    assert recorded == pytest.approx([sum(losses[:6]) / 6, sum(losses[6:]) / 6], rel=1e-4)


def test_a_batch_is_at_most_a_sixteenth_of_the_training_set_but_eight_are_always_allowed() -> None:
    network = Recorder(affine(torch.zeros(3, 16)))
    train(network, DATA, FAST.model_copy(update={"batch_size": 1000}))
    assert [len(batch) for batch in network.trained_on] == [8] * 12  # 54 training examples, two epochs


# Which examples -------------------------------------------------------------------------------------------------------


def test_each_epoch_visits_each_training_example_at_most_once_and_never_a_validation_example() -> None:
    network = Recorder(affine(torch.zeros(3, 16)))
    train(network, DATA, FAST)
    training, held_out = split(DATA.training_examples, FAST.validation_fraction, FAST.seed)
    assert [len(batch) for batch in network.trained_on] == [8] * 12
    epochs = [rows(torch.cat(network.trained_on[k : k + 6])) for k in (0, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 48 and set(epoch) <= set(rows(training.inputs))
        assert not set(epoch) & set(rows(held_out.inputs))
    assert network.trained_on[0].ne(network.trained_on[6]).any()


def test_validation_is_measured_on_the_held_out_examples_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = Validation.measure

    def spy(self: Validation, model: Model) -> dict[str, float]:
        seen.append(rows(self.examples.floats()))
        return original(self, model)

    monkeypatch.setattr(Validation, "measure", spy)
    student_of()
    assert seen == [rows(split(DATA.training_examples, 0.1, 0)[1].inputs)] * 2


def test_the_test_examples_have_no_influence() -> None:
    poisoned = replace(DATA, test=toy_data(seed=9).test)
    first, second = (train("mlp:4", data, FAST) for data in (DATA, poisoned))
    assert same_state(first.model, state_of(second.model)) and outcome(first) == outcome(second)


# The teacher ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["module", "model"])
def test_the_teacher_is_asked_once_per_training_example_in_evaluation_mode_and_left_as_it_was(wrapped: bool) -> None:
    teacher_scores = TeacherScores()
    asked_with: Model | TeacherScores = as_model(teacher_scores, DATA) if wrapped else teacher_scores
    teacher_scores.asked.clear()
    before = state_of(asked_with)
    objective = METHODS["secant"].model_copy(update={"radius": 0.1})
    distill(asked_with, "mlp:4", DATA, DistillSettings(training=FAST, objective=objective))
    asked = torch.cat([batch for batch in teacher_scores.asked if batch.any()])  # zeros: the check of the shapes
    assert rows(asked) == rows(split(DATA.training_examples, 0.1, 0)[0].inputs)
    assert teacher_scores.modes == {False}
    assert_state(asked_with, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher_scores.parameters())


def test_a_plain_module_can_be_teacher_and_student() -> None:
    settings = DistillSettings(training=FAST, objective=METHODS["secant"])
    module = affine(torch.zeros(3, 16))
    trained = distill(prototype_classifier(DATA), module, DATA, settings)
    assert trained.model.network is module and trained.model.card.network is None
    assert trained.model.mean.eq(0).all() and trained.model.std.eq(1).all()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (toy_data(shape=(1, 4, 5)), "teacher: takes inputs of shape (1, 4, 5)"),
        (toy_data(classes=4), "teacher: has 4 classes"),
        (replace(DATA, classes=("class 0", "class 2", "class 1")), "teacher: class 1 is 'class 2'"),
    ],
    ids=["shape", "count", "order"],
)
def test_a_teacher_of_other_data_is_refused(other: Any, words: str) -> None:
    teacher_scores = as_model("linear", other)
    assert words in message_of(lambda: distill(teacher_scores, "mlp:4", DATA, DistillSettings(training=FAST)))


@pytest.mark.parametrize("network", [affine(torch.zeros(4, 16)), affine(torch.zeros(3, 17))], ids=["classes", "shape"])
def test_a_module_that_does_not_fit_is_refused_as_teacher_and_as_student(network: nn.Module) -> None:
    settings = DistillSettings(training=FAST)
    message_of(lambda: distill(network, "mlp:4", DATA, settings))
    message_of(lambda: distill(teacher(), network, DATA, settings))
    message_of(lambda: train(network, DATA, FAST))


def test_a_teacher_without_finite_scores_is_refused() -> None:
    class Undefined(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3].log() if inputs.any() else inputs.flatten(1)[:, :3]

    settings = DistillSettings(training=FAST)
    assert "teacher: its scores" in message_of(lambda: distill(Undefined(), "mlp:4", toy_data(noise=2.0), settings))


def test_a_student_without_trainable_parameters_is_refused() -> None:
    frozen = affine(torch.zeros(3, 16)).requires_grad_(False)
    assert "no trainable parameters" in message_of(lambda: train(frozen, DATA, FAST))


# Divergence -----------------------------------------------------------------------------------------------------------


class Bomb(nn.Module):
    """Gives NaN, or a finite value with a NaN gradient, from some training pass on."""

    def __init__(self, pass_: int, gradient_only: bool) -> None:
        super().__init__()
        self.left, self.gradient_only, self.inner = pass_, gradient_only, affine(torch.zeros(3, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.inner(inputs)
        self.left -= self.training
        if self.left > 0 or not self.training:
            return logits
        return logits + (0 * logits).abs().sqrt() if self.gradient_only else logits * math.nan


@pytest.mark.parametrize(
    ("pass_", "place"), [(1, "step 1 of epoch 1"), (3, "step 3 of epoch 1"), (8, "step 2 of epoch 2")]
)
def test_divergence_names_the_term_the_step_and_the_epoch(pass_: int, place: str) -> None:
    message = message_of(lambda: student_of("kd", Bomb(pass_, gradient_only=False)))
    assert "term 'distillation' is NaN or infinite" in message and place in message


def test_divergence_of_the_gradient_alone_is_noticed() -> None:
    message = message_of(lambda: train(Bomb(2, gradient_only=True), DATA, FAST))
    assert "the gradient is NaN or infinite at step 2 of epoch 1" in message


def test_divergence_by_a_huge_learning_rate_is_noticed_and_leaves_no_model(tmp_path: Path) -> None:
    wild = FAST.model_copy(update={"learning_rate": 1e30, "optimizer": "sgd", "gradient_clip": None})
    message = message_of(lambda: train("mlp:4", DATA, wild, output=tmp_path / "run"))
    assert "term 'cross_entropy'" in message and "lower the learning rate" in message
    assert not (tmp_path / "run" / "model.json").exists()


# The kept epoch -------------------------------------------------------------------------------------------------------


# The third epoch is so clean that the first, kept until then, is ruled out: the second is the best of the rest.
GOING_BACK = [(0.75, 0.9), (0.87, 0.8), (0.95, 0.1), (0.95, 0.05)]
PLANS = [
    GOING_BACK,
    [(0.5, 0.5), (0.6, 0.6), (0.7, 0.7)],
    [(0.9, 0.9), (0.8, 0.8), (0.7, 0.7)],
    [(0.9, 0.5), (0.9, 0.7), (0.9, 0.6)],
    [(0.9, 0.5), (0.9, 0.5), (0.9, 0.5)],
    [(0.4, 0.99), (0.9, 0.3), (0.95, 0.2)],
    [(1.0, 0.3), (0.5, 0.9), (1.0, 0.2)],
    [(0.8, 0.6), (0.9, 0.6), (0.85, 0.65), (0.95, 0.3), (0.9, 0.62)],
]


@pytest.mark.parametrize("plan", PLANS)
def test_the_kept_weights_are_those_of_the_chosen_epoch_and_an_unfinished_training_is_no_model(
    plan: list[tuple[float, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [{"clean": clean, "selection": selection} for clean, selection in plan]
    output, states = tmp_path / "run", list[dict[str, Tensor]]()

    def measure(self: Validation, model: Model) -> dict[str, float]:
        assert "unfinished" in message_of(lambda: load(output))
        states.append(state_of(model))
        return planned[len(states) - 1]

    monkeypatch.setattr(Validation, "measure", measure)
    trained = student_of(epochs=len(plan), output=output)
    assert_state(load(output), states[choose_epoch(planned, 6)])
    assert len(load(output).history) == len(states)
    assert trained.best_epoch == choose_epoch(planned, 6) + 1 and trained.validation == planned[trained.best_epoch - 1]
    assert_state(trained.model, states[trained.best_epoch - 1])


def test_going_back_to_an_earlier_epoch_does_not_change_how_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[list[dict[str, Tensor]]] = [[], []]
    for own_states, output in zip(states, (None, tmp_path / "run"), strict=True):

        def measure(
            self: Validation, model: Model, own_states: list[dict[str, Tensor]] = own_states
        ) -> dict[str, float]:
            clean, selection = GOING_BACK[len(own_states)]
            own_states.append(state_of(model))
            return {"clean": clean, "selection": selection}

        monkeypatch.setattr(Validation, "measure", measure)
        assert student_of(epochs=4, output=output).best_epoch == 2
    for without, with_ in zip(*states, strict=True):
        assert all(torch.equal(without[name], with_[name]) for name in without)


# The record -----------------------------------------------------------------------------------------------------------


def test_the_run_directory_holds_one_record_per_epoch_and_where_the_model_comes_from(tmp_path: Path) -> None:
    trained = student_of("secant", output=tmp_path / "run")
    lines = (tmp_path / "run" / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == trained.history == trained.model.history
    assert [record["epoch"] for record in trained.history] == [1, 2]
    source = load(tmp_path / "run").card.provenance
    expected = DistillSettings(training=FAST, objective=METHODS["secant"].model_copy(update={"radius": 0.1}))
    assert DistillSettings.parse(source["settings"]) == expected and (source["data"], source["seed"]) == ("toy", 0)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {METRICS, "model.json", "model.safetensors"}


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student_of()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused_and_left_alone(tmp_path: Path) -> None:
    student_of(output=tmp_path / "run", epochs=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert "exists already" in message_of(lambda: student_of(output=tmp_path / "run", seed=5))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_training_again_gives_identical_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    student = affine_with_dropout()
    before = torch.get_rng_state()
    first = student_of("secant", student)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = student_of("secant", affine_with_dropout())
    assert same_state(first.model, state_of(second.model)) and outcome(first) == outcome(second)


def affine_with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), affine(torch.zeros(3, 16)))
