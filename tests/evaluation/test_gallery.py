"""The gallery: test images with every model's prediction, and the worst attacked ones."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import prototype_classifier, toy_data
from toy_evaluation import DATA, models, rows_of, run

from robust_student.core.tensors import Shape
from robust_student.core.threat_model import ThreatModel
from robust_student.results.rows import GALLERY
from robust_student.runtime.files import read_json


def test_the_gallery_shows_test_images_with_every_models_prediction(finished: Path) -> None:
    gallery = [entry for entry in read_json(finished / GALLERY) if "levels" in entry]
    subjects = models()
    assert len(gallery) == 6
    for entry in gallery:
        example = DATA.test.subset(torch.tensor([entry["index"]]))
        assert entry["label"] == int(example.labels)
        assert [level["snr_db"] for level in entry["levels"]] == [None, 10, 0, -5]
        clean = entry["levels"][0]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(clean["png"]))))
        assert np.array_equal(pixels, (255 * example.floats()[0, 0]).round().numpy())
        for name, model in subjects.items():
            confidence, prediction = model(example.floats()).softmax(dim=1).max(dim=1)
            shown = clean["predictions"][name]
            assert shown["prediction"] == int(prediction)
            assert shown["confidence"] == pytest.approx(float(confidence.detach()), abs=1e-4)


def test_the_worst_attacked_examples_are_the_surest_ones_that_pgd_broke(finished: Path) -> None:
    worst = [entry for entry in read_json(finished / GALLERY) if "attack" in entry]
    default = ThreatModel.on(DATA, "linf").budget
    radius = min((0.05, 0.1), key=lambda budget: abs(budget - default))
    subjects = models()
    for name, model in subjects.items():
        clean = {row["index"]: row for row in rows_of(finished, model=name, perturbation="none")}
        attacked = rows_of(finished, model=name, perturbation="pgd_linf", setting=radius)
        broken = {row["index"] for row in attacked if clean[row["index"]]["correct"] and not row["correct"]}
        shown = [entry for entry in worst if entry["attack"]["model"] == name]
        surest = sorted(broken, key=lambda index: -clean[index]["confidence"])[:3]
        assert [entry["index"] for entry in shown] == surest
        for entry in shown:
            assert entry["attack"]["setting"] == radius and entry["attack"]["perturbation"] == "pgd_linf"
            pictures = [
                np.asarray(Image.open(io.BytesIO(base64.b64decode(entry[part]["png"]))), dtype=float) / 255
                for part in ("original", "perturbed", "change")
            ]
            change = pictures[1] - pictures[0]
            assert 0 < abs(change).max() <= radius + 1 / 255
            magnified = 0.5 + entry["attack"]["magnified"] * change
            assert abs(magnified - pictures[2]).max() <= (entry["attack"]["magnified"] + 1) / 255
            assert entry["perturbed"]["predictions"][name]["prediction"] != entry["label"]
            assert set(entry["original"]["predictions"]) == set(subjects)
            example = DATA.test.subset(torch.tensor([entry["index"]]))
            assert entry["original"]["predictions"][name]["prediction"] == int(model(example.floats()).argmax())
    assert worst


@pytest.mark.parametrize(("shape", "shown"), [((5,), False), ((2, 4, 4), False), ((3, 4, 4), True)])
def test_only_images_have_a_gallery(shape: Shape, shown: bool, tmp_path: Path) -> None:
    data = toy_data(shape=shape)
    run(tmp_path / "out", data=data, subjects={"m": prototype_classifier(data)})
    assert (tmp_path / "out" / GALLERY).exists() is shown
