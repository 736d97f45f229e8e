"""Augmentation reaches teacher and student alike."""

from typing import Any

import pytest
import torch
from reference import affine, state_of
from toy_training import DATA, FAST, Recorder, TeacherScores, rows

from robust_student.data.augmentation import AugmentationSettings, Mixed, augment
from robust_student.objectives.methods import METHODS
from robust_student.objectives.settings import ObjectiveSettings
from robust_student.training.settings import DistillSettings
from robust_student.training.train import distill, train

AUGMENTATIONS: dict[str, Any] = {"crop": 1, "flip": True, "mixup": 0.5, "cutmix": 0.5}


PLAIN = METHODS["kd"].model_copy(update={"radius": 0.1})


@pytest.mark.parametrize("option", list(AUGMENTATIONS))
def test_every_augmentation_changes_what_teacher_and_student_are_shown_alike(option: str) -> None:
    assert set(AUGMENTATIONS) == set(AugmentationSettings.model_fields)
    teacher_scores, student = TeacherScores(), Recorder(affine(torch.zeros(3, 16)))
    plain = rows(DATA.training_examples.inputs)
    augmentation = AugmentationSettings.model_validate({option: AUGMENTATIONS[option]})
    settings = DistillSettings(training=FAST.model_copy(update={"augmentation": augmentation}), objective=PLAIN)
    distill(teacher_scores, student, DATA, settings)
    shown = torch.cat([batch for batch in teacher_scores.asked if batch.any()])
    assert rows(shown) == rows(torch.cat(student.trained_on))
    assert len(set(rows(shown)) - set(plain)) > 0
    assert teacher_scores.modes == {False}


def test_a_mixture_is_learnt_with_the_labels_of_both_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = list[Mixed]()

    def spy(*arguments: Any) -> Mixed:
        mixed.append(augment(*arguments))
        return mixed[-1]

    monkeypatch.setattr("robust_student.training.loop.augment", spy)
    augmentation = AugmentationSettings(mixup=1.0)
    settings = FAST.model_copy(update={"augmentation": augmentation, "epochs": 1, "learning_rate": 1e-12})
    weights = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    history = train(affine(weights), DATA, settings).history
    losses = []
    for batch in mixed:
        for inputs, first, second, share in zip(batch.inputs, batch.labels, batch.others, batch.shares, strict=True):
            log_p = (inputs.flatten() @ weights.T).log_softmax(dim=0)
            losses.append(float(-share * log_p[first] - (1 - share) * log_p[second]))
    assert history[0]["terms"]["cross_entropy"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("augmentation", [{"mixup": 0.5}, {"cutmix": 0.5}])
@pytest.mark.parametrize("steps", [0, 2])
def test_mixtures_start_at_random_points_and_say_so(
    augmentation: dict[str, Any], steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What an example's ascent reached cannot be kept where the example never comes back."""
    training = FAST.model_copy(update={"augmentation": AugmentationSettings.model_validate(augmentation)})

    def weights(secant: dict[str, Any]) -> dict[str, torch.Tensor]:
        objective = ObjectiveSettings.parse({"secant": {"weight": 1.0} | secant})
        torch.manual_seed(0)
        trained = distill(TeacherScores(), "mlp:4", DATA, DistillSettings(training=training, objective=objective))
        return state_of(trained.model)

    torch.manual_seed(0)
    kept = weights({"start": "persistent", "steps": steps})
    assert caplog.text.count("secant.start: random instead of persistent") == 1
    random = weights({"start": "random", "steps": max(steps, 1)})
    assert all(torch.equal(kept[name], value) for name, value in random.items())
