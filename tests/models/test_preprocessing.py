"""What a network says about its inputs and classes: read from every usual place, checked, and matched by name."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of

from robust_student.core.tensors import Shape
from robust_student.models.preprocessing import Preprocessing, from_config, from_pretrained_cfg, order_of, read_names

WANTED = ("cat", "dog", "emu")


@pytest.mark.parametrize("own", list(permutations(WANTED)))
def test_the_same_names_in_another_order_say_where_each_class_is(own: tuple[str, ...]) -> None:
    order = order_of(own, WANTED, "teacher")
    assert tuple(own[k] for k in (order or range(3))) == WANTED and (order is None) == (own == WANTED)


@pytest.mark.parametrize(
    ("own", "data_classes"),
    [(("0", "1", "2"), WANTED), (WANTED, ("0", "1", "2")), (("LABEL_0", "LABEL_1", "LABEL_2"), WANTED)],
)
def test_numbers_are_no_names(own: tuple[str, ...], data_classes: tuple[str, ...]) -> None:
    assert order_of(own, data_classes, "teacher") is None


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (("cat", "dog"), "has 2 classes, the data has 3"),
        (("cat", "dog", "fox"), "its class 'fox' is not among the data's"),
        (("cat", "dog", "dog"), "two of its classes share a name"),
        (("Cat", "dog", "emu"), "its class 'Cat'"),
    ],
)
def test_other_names_are_refused(own: tuple[str, ...], words: str) -> None:
    assert words in message_of(lambda: order_of(own, WANTED, "teacher"))


# Normalisation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "shape", "expected"),
    [
        ((0.1,), (3, 4, 4), (1, 1, 1)),
        ((0.1, 0.2, 0.3), (3, 4, 4), (3, 1, 1)),
        ((0.1, 0.2, 0.3), (1, 4, 4), (3, 1, 1)),
        ((0.1,), (5,), (1,)),
        ((0.1, 0.2), (2,), (2,)),
        ((0.1, 0.2, 0.3, 0.4), (2, 4), (4,)),
    ],
)
def test_normalisation_broadcasts_over_an_input(
    mean: tuple[float, ...], shape: Shape, expected: tuple[int, ...]
) -> None:
    normalisation = Preprocessing(mean, tuple(10 * m for m in mean)).normalisation(shape, "teacher")
    assert normalisation is not None and normalisation[0].shape == normalisation[1].shape == expected
    torch.testing.assert_close(normalisation[1], 10 * normalisation[0])
    (torch.zeros(7, *shape) - normalisation[0]) / normalisation[1]


def test_what_is_unknown_stays_unknown() -> None:
    assert Preprocessing().normalisation((3, 4, 4), "teacher") is None


@pytest.mark.parametrize(
    ("preprocessing", "shape", "words"),
    [
        (Preprocessing((0.1,), (0.1, 0.2)), (3, 4, 4), "1 means but 2 standard deviations"),
        (Preprocessing((0.1,), (0.0,)), (3, 4, 4), "must be positive"),
        (Preprocessing((0.1,), (-1.0,)), (3,), "must be positive"),
        (Preprocessing((0.1, 0.2), (1.0, 1.0)), (3, 4, 4), "one per channel"),
        (Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), (4,), "one per feature"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(preprocessing: Preprocessing, shape: Shape, words: str) -> None:
    assert words in message_of(lambda: preprocessing.normalisation(shape, "teacher"))


def test_what_the_user_says_wins_and_mean_and_std_go_together() -> None:
    own = Preprocessing((0.5,), (0.2,), (8, 8), ("a", "b"))
    assert Preprocessing().over(own) == own
    assert Preprocessing((0.0,), (1.0,)).over(own) == Preprocessing((0.0,), (1.0,), (8, 8), ("a", "b"))
    assert Preprocessing(size=(4, 6), classes=("b", "a")).over(own) == Preprocessing((0.5,), (0.2,), (4, 6), ("b", "a"))


# Files ----------------------------------------------------------------------------------------------------------------

TIMM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 48, 64], "label_names": ["x", "y"]}


def test_timms_description_is_read() -> None:
    assert from_pretrained_cfg(TIMM) == Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), (48, 64), ("x", "y"))
    assert from_pretrained_cfg({}) == Preprocessing()


@pytest.mark.parametrize(
    ("config", "preprocessor", "expected"),
    [
        ({}, {}, Preprocessing()),
        ({"id2label": {"1": "b", "0": "a"}}, {}, Preprocessing(classes=("a", "b"))),
        (
            {"id2label": {str(k): f"class {k}" for k in range(12)}},
            {},
            Preprocessing(classes=tuple(f"class {k}" for k in range(12))),
        ),
        ({"label_names": ["a", "b"]}, {}, Preprocessing(classes=("a", "b"))),
        ({"classes": ["a", "b"], "mean": [0.5], "std": [0.2]}, {}, Preprocessing((0.5,), (0.2,), None, ("a", "b"))),
        ({}, {"image_mean": [0.5], "image_std": [1], "size": 32}, Preprocessing((0.5,), (1.0,), (32, 32))),
        ({}, {"size": {"height": 20, "width": 30}}, Preprocessing(size=(20, 30))),
        (
            {},
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
            Preprocessing(size=(224, 224)),
        ),
        ({}, {"size": {"shortest_edge": 224}}, Preprocessing(size=(224, 224))),
        ({"architecture": "resnet18", "pretrained_cfg": TIMM}, {}, from_pretrained_cfg(TIMM)),
        ({"architecture": "resnet18", **TIMM}, {}, from_pretrained_cfg(TIMM)),
        (
            {"architecture": "resnet18", "label_names": ["u", "v"], "pretrained_cfg": TIMM},
            {},
            from_pretrained_cfg(TIMM | {"label_names": ["u", "v"]}),
        ),
    ],
)
def test_a_repositorys_description_is_read(
    config: dict[str, Any], preprocessor: dict[str, Any], expected: Preprocessing
) -> None:
    assert from_config(config, preprocessor, "model x") == expected


@pytest.mark.parametrize(
    ("config", "preprocessor"),
    [
        ({"mean": 3, "std": 1}, {}),
        ({"mean": ["a"]}, {}),
        ({"id2label": 3, "classes": 4}, {}),
        ({}, {"size": {"tall": 3}}),
        ({}, {"size": "large"}),
        ({"architecture": "x", "pretrained_cfg": {"input_size": [3]}}, {}),
        ({"architecture": "x", "pretrained_cfg": [1]}, {}),
    ],
)
def test_a_malformed_description_is_refused_in_one_line(config: dict[str, Any], preprocessor: dict[str, Any]) -> None:
    assert message_of(lambda: from_config(config, preprocessor, "model x")).startswith("model x: ")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot read them"),
        (lambda path: path.mkdir(), "cannot read them"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
        (lambda path: path.write_text("cat\ndog\ncat\n"), "'cat' appears twice"),
    ],
)
def test_bad_files_of_names_are_refused(write: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "names.txt")
    assert words in message_of(lambda: read_names(tmp_path / "names.txt"))


def test_names_are_read_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat \n\nguinea pig\r\nemu")
    assert read_names(tmp_path / "names.txt") == ("cat", "guinea pig", "emu")
