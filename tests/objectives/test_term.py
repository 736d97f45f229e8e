"""A module that a term trains beside the student: the regressor of the documented hints."""

from pathlib import Path

import safetensors
import torch
from documented_hint import FitNetsMethod
from reference import assert_state, conv_student, message_of, same_state, state_of
from torch import nn
from toy_training import DATA, FAST, teacher

from robust_student.models.model import as_model
from robust_student.objectives.batch import Batch
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.training.settings import DistillSettings
from robust_student.training.train import distill

SETTINGS = FitNetsMethod.parse({"hint": {"weight": 1.0, "student_layer": "1", "teacher_layer": "1"}})
"""The toy teacher's three logits from the student's four channels."""


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def example() -> Batch:
    return Batch(DATA.training_examples.floats(), DATA.training_examples.labels, teacher=teacher())


def test_the_regressor_learns_beside_a_student_that_does_not() -> None:
    batch = example()
    objective = RobustStudentObjective(as_model(student().requires_grad_(False), DATA), SETTINGS, example=batch)
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert {tuple(parameter.shape) for parameter in learning} == {(3, 4, 1), (3,)}
    optimizer = torch.optim.Adam(learning, lr=0.1)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        terms = objective(batch)
        torch.autograd.backward(terms.loss)
        optimizer.step()
        values.append(terms.values["hint"].mean().item())
    assert values[-1] < 0.2 * values[0]


def test_building_it_leaves_the_student_as_it_was() -> None:
    network = student()
    before = state_of(network)
    RobustStudentObjective(as_model(network, DATA), SETTINGS, example=example())
    assert_state(network, before)
    assert network.training


def test_it_is_no_part_of_the_student_and_the_students_beginning_is_the_same_with_it(tmp_path: Path) -> None:
    def trained(objective: str | None, output: Path | None) -> nn.Module:
        chosen = SETTINGS if objective is None else METHODS[objective]
        return distill(teacher(), "mlp:4", DATA, DistillSettings(training=FAST, objective=chosen), output=output).model

    hinted = trained(None, tmp_path / "run")
    assert set(state_of(hinted)) == set(state_of(trained("kd", None)))
    with safetensors.safe_open(tmp_path / "run" / "model.safetensors", framework="pt") as weights:
        assert set(weights.keys()) == set(state_of(hinted))
    assert same_state(trained(None, None), state_of(hinted))


def test_without_an_example_it_says_what_to_pass() -> None:
    objective = RobustStudentObjective(as_model(student(), DATA), SETTINGS)
    assert "'hint' trains a module of its own" in message_of(lambda: objective(example()))
    assert "example=batch" in message_of(lambda: objective(example()))


def test_layers_that_do_not_fit_are_refused_before_the_training(tmp_path: Path) -> None:
    settings = FitNetsMethod.parse({"hint": {"student_layer": "0", "teacher_layer": "1"}})
    both = DistillSettings(training=FAST, objective=settings)
    network = conv_student((1, 4, 4), 3, torch.device("cpu")).float()
    message = message_of(lambda: distill(teacher(), network, DATA, both, output=tmp_path / "run"))
    assert "hint: layers of one height and width are needed, not outputs of (4, 4, 4) and (3,)" in message
    assert not (tmp_path / "run").exists()
