"""Weights of classes: a rare class counts as much as a frequent one, in every objective."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run
from objective_steps import every_preset
from reference import make_batch, message_of, smooth_student, toy_data
from streamed import stream_of, web_shards
from toy_training import FAST, outcome, student_of, teacher

from robust_student.core.rng import ExampleRng
from robust_student.data.examples import Data
from robust_student.data.readers.load import load_data
from robust_student.objectives.batch import Batch
from robust_student.objectives.cross_entropy import LabelObjective
from robust_student.objectives.kept_perturbations import KeptPerturbations
from robust_student.objectives.methods import METHODS
from robust_student.objectives.robust_student import RobustStudentObjective
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.runtime.files import read_json
from robust_student.training.class_weights import class_weights, example_weights
from robust_student.training.settings import DistillSettings
from robust_student.training.train import distill, train

IMAGE, CPU = (2, 4, 4), torch.device("cpu")
BALANCED = FAST.model_copy(update={"class_weights": "balanced"})
PERSISTENT: dict[str, Any] = {"weight": 5.0, "start": "persistent", "steps": 0}


def unbalanced() -> Data:
    """Toy data of 40, 15 and 5 training examples."""
    data = toy_data(train=120, noise=0.3)
    places = [torch.where(data.training_examples.labels == k)[0][:n] for k, n in enumerate((40, 15, 5))]
    return replace(data, train=data.training_examples.subset(torch.cat(places)))


def test_every_class_that_occurs_has_the_same_weight_in_all() -> None:
    examples = unbalanced().training_examples
    weights = class_weights(examples, "balanced")
    assert weights is not None
    assert weights.tolist() == pytest.approx([60 / (3 * count) for count in (40, 15, 5)])
    assert float(weights[examples.labels].mean()) == pytest.approx(1.0)
    without = class_weights(examples.subset(torch.where(examples.labels != 1)[0]), "balanced")
    assert without is not None and without.tolist() == pytest.approx([45 / (2 * 40), 0, 45 / (2 * 5)])
    assert class_weights(examples, None) is None


def test_a_mixture_has_the_mean_weight_of_its_two_classes() -> None:
    weights, labels, others = torch.tensor([0.5, 2.0]), torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])
    mixed = example_weights(weights, labels, others, torch.tensor([0.75, 0.6, 0.5]))
    assert mixed is not None and mixed.tolist() == pytest.approx([0.875, 2.0, 1.25])
    plain = example_weights(weights, labels, None, None)
    assert plain is not None and plain.tolist() == [0.5, 2.0, 2.0]
    assert example_weights(None, labels, others, None) is None


def gradients(settings: ObjectiveSettings | None, rows: list[int], weights: list[float] | None) -> list[torch.Tensor]:
    """Parameter gradients of a step on these rows of a batch, from labels where there are no settings."""
    batch, student = make_batch(IMAGE, CPU), smooth_student(IMAGE, 3, CPU)
    places = torch.tensor(rows)
    objective: LabelObjective | RobustStudentObjective = LabelObjective(student)
    if settings is not None:
        objective = RobustStudentObjective(student, settings, kept=KeptPerturbations(6, IMAGE, CPU))
    # The teacher looks at the inputs, so that repeated rows are asked alike.
    shown = Batch(
        batch.inputs[places],
        batch.labels[places],
        examples=places,
        teacher=lambda points: points.flatten(1)[:, :3] * 5,
        example_weights=None if weights is None else torch.tensor(weights, dtype=torch.float64),
    )
    torch.autograd.backward(objective(shown, ExampleRng(0, 1, places)).loss)
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]


def assert_counts_twice(settings: ObjectiveSettings | None) -> None:
    weighted = gradients(settings, [0, 1, 2, 3, 4, 5], [2.0, 0.0, 1.0, 3.0, 0.0, 0.0])
    repeated = gradients(settings, [0, 0, 2, 3, 3, 3], None)
    torch.testing.assert_close(weighted, repeated)
    assert not torch.allclose(weighted[0], gradients(settings, [0, 1, 2, 3, 4, 5], None)[0])


@every_preset
def test_an_example_of_weight_two_counts_as_if_it_were_there_twice(method: str) -> None:
    assert_counts_twice(METHODS[method])


@pytest.mark.parametrize("steps", [0, 1])
def test_so_it_does_with_kept_perturbations_and_labels_alone(steps: int) -> None:
    assert_counts_twice(ObjectiveSettings.parse({"secant": PERSISTENT | {"steps": steps}}))
    assert_counts_twice(None)


@every_preset
def test_weights_of_one_change_nothing(method: str) -> None:
    ones, none = (gradients(METHODS[method], [0, 1, 2], weights) for weights in ([1.0] * 3, None))
    torch.testing.assert_close(ones, none, rtol=0, atol=0)


def test_training_finds_the_rare_class_more_often() -> None:
    data = toy_data(train=900, test=300, classes=2, noise=1.0)
    labels = data.training_examples.labels
    places = torch.cat([torch.where(labels == 0)[0], torch.where(labels == 1)[0][:40]])
    data = replace(data, train=data.training_examples.subset(places))
    recalls = []
    for settings in (FAST, BALANCED):
        model = train("linear", data, settings.model_copy(update={"epochs": 5})).model
        predicted = model.logits(data.test.floats()).argmax(dim=1)
        recalls.append(float((predicted[data.test.labels == 1] == 1).float().mean()))
    assert recalls[1] > recalls[0] + 0.1


def test_distillation_weighs_by_the_label_and_parts_of_a_batch_are_weighed_alike() -> None:
    data = unbalanced()
    students = [
        distill(teacher(), "mlp:4", data, DistillSettings(training=training, objective=METHODS["secant"]))
        for training in (FAST, BALANCED, BALANCED.model_copy(update={"accumulate": 2}))
    ]
    plain, balanced, parts = (outcome(student) for student in students)
    assert plain[0]["terms"] != balanced[0]["terms"]
    assert balanced[-1]["terms"] == {name: pytest.approx(x, rel=1e-3) for name, x in parts[-1]["terms"].items()}


def test_balanced_classes_train_as_before_up_to_rounding() -> None:
    fraction = 0.2  # leaves 16 of each class
    plain, balanced = (student_of(class_weights=kind, validation_fraction=fraction) for kind in (None, "balanced"))
    assert plain.history[0]["terms"] == {n: pytest.approx(x, rel=1e-5) for n, x in balanced.history[0]["terms"].items()}


def test_the_classes_of_a_stream_are_not_known_beforehand(tmp_path: Path) -> None:
    stream = stream_of(load_data(web_shards(tmp_path)))
    assert "stream" in message_of(lambda: class_weights(stream, "balanced"))


def test_the_command_line_takes_it_and_the_run_says_so(tmp_path: Path) -> None:
    words = ["train", "--data", "digits", "--model", "linear", "--epochs", "1", "--class-weights", "balanced"]
    run(*words, "--output", str(tmp_path / "run"))
    assert read_json(tmp_path / "run" / "model.json")["provenance"]["settings"]["class_weights"] == "balanced"
