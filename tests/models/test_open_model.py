"""One function opens any model; the model takes the data's inputs and answers in the order of the data's classes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of, state_of, toy_data
from torch import Tensor, nn

from robust_student.bounds.trace import trace
from robust_student.core.tensors import UNBOUNDED
from robust_student.data.readers.load import Data
from robust_student.models.model import Model, as_model
from robust_student.models.open_model import expected_shape, open_model
from robust_student.models.registry import build
from robust_student.models.run_directory import load, save
from robust_student.models.settings import PreprocessingSettings
from robust_student.runtime.files import read_json, write_json

DATA = toy_data()  # 1x4x4, classes "class 0", "class 1", "class 2"
INPUTS = DATA.test.floats()
LARGE = toy_data(shape=(1, 6, 10))
FACTORY = """
from torch import nn

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, num_classes))
"""


def own(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory with a factory, its weights, and a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    torch.save(own().state_dict(), tmp_path / "w.pt")
    (tmp_path / "run").mkdir()
    torch.manual_seed(4)
    save(as_model("cnn:2", DATA), tmp_path / "run")
    return tmp_path


def preprocessing(**settings: Any) -> PreprocessingSettings:
    return PreprocessingSettings.parse({f"teacher_{name}": value for name, value in settings.items()})


# Kinds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings"),
    [("net.py:make@w.pt", {}), ("net:make@w.pt", {}), ("net.py:make", {"weights": "w.pt"}), ("mlp:12@w.pt", {})],
)
def test_a_network_with_weights_takes_natural_units(spec: str, settings: dict[str, Any], here: Path) -> None:
    model = open_model(spec, DATA, preprocessing(**settings))
    assert torch.equal(model(INPUTS), own()(INPUTS)) and not model.training
    assert model.card.provenance["source"] == (spec if "@" in spec else f"{spec}@w.pt")
    assert model.card.classes == DATA.classes and model.card.range == DATA.input_range


def test_a_run_is_what_load_gives(here: Path) -> None:
    model = open_model("run", DATA)
    assert torch.equal(model(INPUTS), load("run")(INPUTS)) and model.card == load("run").card
    assert open_model("run").card == load("run").card
    assert expected_shape(["net.py:make", "run"]) == (1, 4, 4) and expected_shape(["net.py:make", "cnn"]) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("absent", "no file model.json there"),
        ("runs/absent", "no file model.json there"),
        (".", "no file model.json there"),
        ("cnn:8", "has no weights; add @FILE"),
        ("wrn-16-2", "has no weights"),
        ("timm:test_resnet", "has no weights; add pretrained or @FILE"),
        ("torchvision:resnet18,pretrained", "are for 1000 classes, the data has 3; train it on the data first"),
        ("cnm:8@w.pt", "did you mean 'cnn'"),
        ("net.py:make@absent.pt", "no such file"),
        ("mlp:13@w.pt", "the network expects (13"),
        ("absent.py:make@w.pt", "no file absent.py"),
        ("net.py:absent@w.pt", "has no 'absent'"),
        ("net.py:make@", "names no file of weights"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(spec: str, words: str, here: Path) -> None:
    assert words in message_of(lambda: open_model(spec, DATA, role="teacher"))


def test_only_a_run_is_opened_without_data(here: Path) -> None:
    assert "only a run directory" in message_of(lambda: open_model("net.py:make@w.pt"))


LOADS_ITS_OWN = (
    FACTORY
    + """
def own(num_classes):
    import torch

    network = make(num_classes)
    network.load_state_dict(torch.load("w.pt"))
    return network

def seeded(num_classes):
    import torch

    torch.manual_seed(1)
    return make(num_classes)
"""
)


@pytest.mark.parametrize("role", ["model m", "teacher"])
def test_a_factory_without_weights_must_give_the_same_ones_twice(role: str, here: Path) -> None:
    (here / "net.py").write_text(LOADS_ITS_OWN)
    message = message_of(lambda: open_model("net.py:make", DATA, role=role))
    assert message.startswith(f"{role} 'net.py:make': has random weights") and "@WEIGHTS" in message
    for factory in ("own", "seeded"):
        assert torch.equal(open_model(f"net.py:{factory}", DATA)(INPUTS), own()(INPUTS))


def test_weights_are_given_once(here: Path) -> None:
    for spec in ("net.py:make@w.pt", "x.pt2"):
        message = message_of(lambda spec=spec: open_model(spec, DATA, preprocessing(weights="w.pt")))  # type: ignore[misc]
        assert "comes with its weights" in message
    assert "drop --teacher-weights" in message_of(lambda: open_model("run", DATA, preprocessing(weights="w.pt")))


# Normalisation and size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [((0.4,), (0.2,)), ((0.0,), (2.0,))])
def test_a_normalisation_is_put_inside(mean: tuple[float], std: tuple[float], here: Path) -> None:
    model = open_model("net.py:make@w.pt", DATA, preprocessing(mean=mean, std=std))
    torch.testing.assert_close(model(INPUTS), own()((INPUTS - mean[0]) / std[0]))


@pytest.mark.parametrize(("size", "expected"), [([4], (4, 4)), ([4, 4], (4, 4)), ((2, 8), (2, 8))])
def test_images_are_resized_for_the_teacher(size: list[int], expected: tuple[int, int], here: Path) -> None:
    model, inputs = open_model("net.py:make@w.pt", LARGE, preprocessing(input_size=size)), LARGE.test.floats()
    assert model.card.input_shape == (1, 6, 10) and model.card.network_size == expected
    resized = nn.functional.interpolate(inputs, expected, mode="bilinear", antialias=True)
    torch.testing.assert_close(model(inputs), own()(resized), rtol=1e-4, atol=1e-5)


def test_a_run_resizes_images_of_another_size_when_asked(here: Path) -> None:
    assert "takes inputs of shape (1, 4, 4), the data has (1, 6, 10)" in message_of(lambda: open_model("run", LARGE))
    model, inputs = open_model("run", LARGE, preprocessing(input_size=[4])), LARGE.test.floats()
    resized = nn.functional.interpolate(inputs, (4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(inputs), load("run")(resized), rtol=1e-4, atol=1e-5)
    assert model.card.sha256 != load("run").card.sha256


def test_a_resizing_reordering_model_survives_its_run_directory(here: Path) -> None:
    other = replace(LARGE, classes=("class 2", "class 0", "class 1"))
    model = open_model("run", other, preprocessing(input_size=[4]))
    (here / "again").mkdir()
    save(model, here / "again")
    again, inputs = load(here / "again"), LARGE.test.floats()
    assert again.card.order == (2, 0, 1) and torch.equal(again(inputs), model(inputs))
    assert set(state_of(again)) == set(state_of(load("run")))  # neither the weights of the resizing nor the order


def test_a_resizing_reordering_model_can_be_certified(here: Path) -> None:
    other = replace(LARGE, classes=("class 2", "class 0", "class 1"))
    model = open_model("run", other, preprocessing(input_size=[4]))
    inputs = LARGE.test.floats().double()
    layers = trace(model, (1, 6, 10)).layers(torch.float64)
    torch.testing.assert_close(layers(inputs).float(), model(inputs.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "data", "settings", "words"),
    [
        ("run", DATA, {"mean": [0.5], "std": [0.5]}, "brings its own; drop --teacher-mean and --teacher-std"),
        ("net.py:make@w.pt", DATA, {"mean": [0.5] * 4, "std": [0.5] * 4}, "4 means for inputs of shape (1, 4, 4)"),
        ("net.py:make@w.pt", DATA, {"mean": [0.5], "std": [0.0]}, "must be positive"),
        ("net.py:make@w.pt", DATA, {"input_size": [5]}, "fails on inputs of shape (1, 4, 4)"),
        ("mlp:12@w.pt", toy_data(shape=(16,)), {"input_size": [4]}, "an input size needs images"),
        ("run", toy_data(shape=(5,)), {"input_size": [4]}, "an input size needs images"),
        ("run", DATA, {"classes": "absent.txt"}, "class names absent.txt: cannot read them"),
        ("run", replace(DATA, input_range=UNBOUNDED), {}, "takes inputs in (0.0, 1.0)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    spec: str, data: Data, settings: dict[str, Any], words: str, here: Path
) -> None:
    assert words in message_of(lambda: open_model(spec, data, preprocessing(**settings), role="teacher"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": [0.5]}, "go together"),
        ({"std": [0.5]}, "go together"),
        ({"input_size": []}, "at least 1 item"),
        ({"input_size": [1, 2, 3]}, "at most 2 items"),
        ({"input_size": [0]}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    assert words in message_of(lambda: preprocessing(**settings))


# Classes --------------------------------------------------------------------------------------------------------------

SHUFFLED = replace(DATA, classes=("class 1", "class 2", "class 0"))


def names_file(folder: Path, names: tuple[str, ...]) -> str:
    (folder / "names.txt").write_text("\n".join(names))
    return "names.txt"


def test_logits_follow_the_names_of_the_classes(here: Path) -> None:
    expected = load("run")(INPUTS)
    assert torch.equal(open_model("run", SHUFFLED)(INPUTS), expected[:, [1, 2, 0]])
    teacher = open_model("net.py:make@w.pt", DATA, preprocessing(classes=names_file(here, SHUFFLED.classes)))
    assert torch.equal(teacher(INPUTS), own()(INPUTS)[:, [2, 0, 1]])
    assert teacher.card.classes == DATA.classes and teacher.card.order == (2, 0, 1)


def test_orders_of_an_order_are_composed(here: Path) -> None:
    (here / "shuffled").mkdir()
    save(open_model("run", SHUFFLED), here / "shuffled")
    back = open_model("shuffled", DATA)
    assert torch.equal(back(INPUTS), load("run")(INPUTS)) and back.card.order == (0, 1, 2)


@pytest.mark.parametrize("spec", ["run", "net.py:make@w.pt"])
def test_names_from_a_file_replace_a_models_own(spec: str, here: Path) -> None:
    renamed = replace(DATA, classes=("a", "b", "c"))
    settings = preprocessing(classes=names_file(here, ("c", "a", "b")))
    expected = open_model(spec, DATA)(INPUTS)
    assert torch.equal(open_model(spec, renamed, settings)(INPUTS), expected[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("class 0", "class 1"), "2 names, the data has 3 classes"),
        (("class 0", "class 1", "other"), "its class 'other' is not among"),
    ],
)
def test_names_that_do_not_fit_are_refused(names: tuple[str, ...], words: str, here: Path) -> None:
    for spec in ("run", "net.py:make@w.pt"):
        settings = preprocessing(classes=names_file(here, names))
        assert words in message_of(lambda spec=spec, s=settings: open_model(spec, DATA, s))  # type: ignore[misc]


def test_a_run_of_other_classes_is_refused(here: Path) -> None:
    message = message_of(lambda: open_model("run", replace(DATA, classes=("a", "b", "c"))))
    assert "its class 'class 0' is not among the data's, which has 'a', 'b', 'c'; if only the names differ" in message
    assert "--teacher-classes FILE" in message


# Identity -------------------------------------------------------------------------------------------------------------


def test_checksums_tell_models_apart(here: Path) -> None:
    torch.save(own(2).state_dict(), here / "other.pt")
    names = preprocessing(classes=names_file(here, SHUFFLED.classes))
    models = [
        open_model("net.py:make@w.pt", DATA),
        open_model("net.py:make@other.pt", DATA),
        open_model("net.py:make@w.pt", DATA, preprocessing(mean=[0.1], std=[1.0])),
        open_model("net.py:make@w.pt", DATA, names),
        open_model("net.py:make@w.pt", LARGE, preprocessing(input_size=[4])),
        open_model("run", DATA),
        open_model("run", SHUFFLED),
    ]
    assert len({model.card.sha256 for model in models}) == len(models)
    assert open_model("net.py:make@w.pt", DATA).card.sha256 == models[0].card.sha256


# Cards ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order": [0, 1]}, "order must name each of the 3 outputs once"),
        ({"order": [0, 1, 1]}, "order must name each"),
        ({"order": [0, 1, 7]}, "order must name each"),
        ({"order": [10**30, 1, 2]}, ""),
        ({"network_size": [0, 4]}, "greater than or equal to 1"),
        ({"network_size": [4]}, ""),
        ({"network_size": 4}, ""),
        ({"network_size": [4, 4], "input_shape": [16]}, "network_size needs images"),
        ({"accuracy": 0.9}, "greater than 1"),
        ({"accuracy": 101}, "less than or equal to 100"),
        ({"network": "timm:test_resnet,pretrained"}, "is not the name of an architecture alone"),
        ({"network": "hub:somebody/else"}, "is not the name of an architecture alone"),
        ({"network": "cnn:2@w.pt"}, "is not the name of an architecture alone"),
        ({"network": "timm:unheard_of"}, "no classifier"),
    ],
    ids=str,
)
def test_a_hostile_card_is_refused_in_one_line(changes: dict[str, Any], words: str, here: Path) -> None:
    write_json(here / "run" / "model.json", read_json(here / "run" / "model.json") | changes)
    assert words in message_of(lambda: load("run"))


def test_a_card_of_before_has_the_new_entries_at_their_defaults(here: Path) -> None:
    card = read_json(here / "run" / "model.json")
    write_json(
        here / "run" / "model.json", {k: v for k, v in card.items() if k not in ("order", "network_size", "accuracy")}
    )
    assert load("run").card.order is None and load("run").card.network_size is None


def test_three_means_make_a_grey_image_a_colour_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data: Callable[[], Model] = lambda: as_model("cnn:2", toy_data(shape=(3, 4, 4)))  # noqa: E731
    network = data().network
    (tmp_path / "w.pt").touch()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    settings = preprocessing(mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0])
    model = open_model(f"cnn:2@{tmp_path / 'w.pt'}", DATA, settings)
    colour: Tensor = (INPUTS.expand(-1, 3, -1, -1) - model.mean) / model.std
    assert model.mean.shape == (3, 1, 1) and torch.equal(model(INPUTS), network(colour))
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(INPUTS), model(INPUTS))
    assert build("cnn:2", (3, 4, 4), 3)(colour).shape == (30, 3)
