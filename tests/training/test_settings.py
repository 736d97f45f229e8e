"""Settings of a distillation: defaults, JSON, misspelt names."""

import json

import pytest

from robust_student.core.errors import UserError
from robust_student.objectives.methods import METHODS
from robust_student.training.settings import DistillSettings


def test_distill_keeps_perturbations_and_mixes_in_noise_unless_told_otherwise() -> None:
    assert DistillSettings().objective == METHODS["persistent"]


def test_json_brings_back_equal_training_settings() -> None:
    settings = DistillSettings.parse({"training": {"selection": {"snr_db": [3, -1.5]}, "gradient_clip": None}})
    assert DistillSettings.parse(json.loads(settings.model_dump_json())) == settings


def test_an_unknown_setting_two_groups_down_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="'training.selection.metrc'; did you mean 'metric'"):
        DistillSettings.parse({"training": {"selection": {"metrc": "robust"}}})
