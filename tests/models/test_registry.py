import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reference import affine, assert_state, state_of
from torch import nn

from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape
from robust_student.models.costs import count_parameters
from robust_student.models.registry import NETWORKS, build, check_network

IMAGES: list[Shape] = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 12, 20), (1, 37, 65), (1, 4, 4)]
LARGE = {"resnet32", "resnet56", "mobilenetv2", "maxout", "fitnet1", "fitnet2", "fitnet3", "fitnet4"}
"""Networks of published size: fewer shapes are tried with them, which keeps the tests fast."""


def refusal(spec: str, shape: Shape = (1, 8, 8)) -> str:
    """The one-line message with which the network is refused."""
    with pytest.raises(UserError) as error:
        build(spec, shape, 3)
    message = str(error.value)
    assert message.startswith("model") and len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - LARGE))
@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("classes", [2, 10])
def test_every_network_gives_one_finite_logit_per_class(name: str, shape: Shape, classes: int) -> None:
    network = build(name, shape, classes)
    logits = network.eval()(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, classes) and logits.isfinite().all()
    check_network(network, name, shape, classes)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_tabular_inputs_have_their_networks(name: str) -> None:
    assert build(name, (5,), 4)(torch.zeros(3, 5)).shape == (3, 4)


def test_widths_change_the_network_and_are_passed_in_order() -> None:
    sizes = [layer.out_features for layer in build("mlp:9,3,5", (4,), 2).modules() if isinstance(layer, nn.Linear)]
    assert sizes == [9, 3, 5, 2]


@pytest.mark.parametrize("spec", ["cnn:8,8", "linear:3"])
def test_too_many_widths_are_refused(spec: str) -> None:
    assert f"'{spec}'" in refusal(spec) and "takes fewer numbers" in refusal(spec)


@pytest.mark.parametrize("spec", ["cnn:0", "cnn:-3", "cnn:wide", "mlp:4,,4", "resnet8:1.5"])
def test_bad_widths_are_refused_with_an_example(spec: str) -> None:
    assert f"'{spec}'" in refusal(spec) and "positive whole numbers" in refusal(spec)


def test_a_misspelt_name_is_refused_with_the_nearest_one() -> None:
    assert "did you mean 'resnet20'" in refusal("resnett20")
    assert "did you mean 'cnn'" in refusal("ccnn:8")


@pytest.mark.parametrize("name", ["cnn", "resnet8", "resnet20"])
def test_networks_of_images_refuse_tables(name: str) -> None:
    assert "needs images" in refusal(name, (64,))


def test_cnn_refuses_images_that_pooling_would_empty() -> None:
    assert "at least 4x4" in refusal("cnn", (1, 3, 9))


# The user's own -------------------------------------------------------------------------------------------------------


FACTORIES = """
import torch
from torch import nn

def both(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))

def one(num_classes, hidden=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, num_classes))

def neither():
    return nn.Flatten()

def anything(**options):
    return nn.Linear(len(options["input_shape"]), options["num_classes"])

class Own(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(4, num_classes)

def number():
    return 3

def demanding(width):
    return nn.Identity()

def failing(input_shape):
    raise ValueError("first line\\nsecond line")

def breaking(input_shape):
    raise RuntimeError("out of order")

def missing():
    return {}["key"]

constant = 5
"""
COUNTER = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a fresh module with factories in the current directory."""
    name = f"factories_{next(COUNTER)}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import module_that_does_not_exist")
    (tmp_path / f"{name}_unfinished.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(sys.path)
    yield name
    assert sys.path == before


@pytest.mark.parametrize(("factory", "parameters"), [("both", 65 * 3), ("one", 65 * 3 + 4 * 3), ("Own", 5 * 3)])
def test_a_factory_of_the_user_gets_the_arguments_it_takes(factory: str, parameters: int, module: str) -> None:
    assert count_parameters(build(f"{module}:{factory}", (1, 8, 8), 3)) == parameters


def test_a_factory_may_take_no_arguments(module: str) -> None:
    assert isinstance(build(f"{module}:neither", (1, 8, 8), 3), nn.Flatten)


def test_a_factory_that_takes_any_keywords_gets_both(module: str) -> None:
    assert count_parameters(build(f"{module}:anything", (1, 8, 8), 5)) == (3 + 1) * 5


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("number", "returned int"),
        ("demanding", "width"),
        ("failing", "first line"),
        ("breaking", "out of order"),
        ("missing", "key"),
        ("constant", "factory failed"),
        ("absent", "no 'absent'"),
    ],
)
def test_a_bad_factory_is_refused_in_one_line(factory: str, words: str, module: str) -> None:
    message = refusal(f"{module}:{factory}")
    assert f"'{module}:{factory}'" in message and words in message


@pytest.mark.parametrize("suffix", ["_broken", "_unfinished", "_absent"])
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(suffix: str, module: str) -> None:
    assert f"{module}{suffix}" in refusal(f"{module}{suffix}:both")


# Checks ---------------------------------------------------------------------------------------------------------------


def refused_network(network: nn.Module) -> str:
    """The one-line message with which the network is refused for 2x3 inputs and three classes."""
    with pytest.raises(UserError) as error:
        check_network(network, "mine", (2, 3), 3)
    message = str(error.value)
    assert message.startswith("model 'mine'") and len(message.splitlines()) == 1
    return message


class Pair(nn.Module):
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs, inputs


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (affine(torch.zeros(4, 6)), "expected 3 logits per example, got shape (4,)"),
        (affine(torch.zeros(3, 7)), "fails on inputs of shape (2, 3)"),
        (nn.Flatten(0), "expected 3 logits"),
        (nn.Identity(), "expected 3 logits"),
        (Pair(), "got tuple"),
        (affine(torch.full((3, 6), torch.nan)), "NaN"),
        (affine(torch.zeros(3, 6), torch.tensor([0.0, torch.inf, 0.0])), "infinite"),
    ],
    ids=["classes", "inputs", "flat", "shape", "tuple", "nan", "infinite"],
)
def test_a_network_that_does_not_fit_is_refused(network: nn.Module, words: str) -> None:
    assert words in refused_network(network)


def test_checking_a_network_leaves_its_modes_and_buffers_as_they_were() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 3), nn.Dropout(0.5))
    network[1].eval()
    modes = [part.training for part in network.modules()]
    before = state_of(network)
    check_network(network, "mine", (2, 3), 3)
    assert [part.training for part in network.modules()] == modes
    assert_state(network, before)
