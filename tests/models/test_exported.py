"""torch.export programs: opened only with trust, for any batch, and the same function as the network they came from."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import message_of, toy_data
from torch import Tensor, nn

from robust_student.core.errors import UserError
from robust_student.core.tensors import Shape
from robust_student.data.readers.load import Data
from robust_student.models.exported import open_program
from robust_student.models.open_model import open_model
from robust_student.models.settings import PreprocessingSettings

DATA = toy_data(shape=(3, 8, 8))
BATCHES: dict[str, Any] = {
    "batches of 4": None,
    "any batch": ({0: torch.export.Dim("batch")},),
    "batches of 2 to 8": ({0: torch.export.Dim("batch", min=2, max=8)},),
    "automatic": ({0: torch.export.Dim.AUTO},),
}


class Dictionary(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"features": inputs.mean((2, 3)), "logits": self.network(inputs)}


def network(side: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 3))
    return nn.Sequential(*layers, nn.Dropout(0.5)).eval()


def export(module: nn.Module, path: Path, shape: Shape = (3, 8, 8), batches: Any = None) -> Path:
    torch.export.save(torch.export.export(module, (torch.rand(4, *shape),), dynamic_shapes=batches), path)
    return path


@pytest.mark.parametrize("kind", list(BATCHES))
@pytest.mark.parametrize("wrap", [lambda module: module, Dictionary], ids=["logits", "dictionary"])
def test_a_program_is_its_network_for_any_batch(
    kind: str, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    path = export(wrap(network()), tmp_path / "teacher.pt2", batches=BATCHES[kind])
    model = open_model(str(path), DATA, trust=True)
    assert model.card.network is None and model.card.network_size is None
    for count in (1, 2, 5, 9, 17):
        inputs = DATA.training_examples.floats(slice(0, count)).requires_grad_()
        torch.testing.assert_close(model(inputs), network()(inputs))
    gradients = torch.autograd.grad(model(inputs).square().sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad(network()(inputs).square().sum(), inputs))


def test_a_program_has_no_modes(tmp_path: Path) -> None:
    model = open_model(str(export(network(), tmp_path / "teacher.pt2")), DATA, trust=True)
    inputs = DATA.test.floats()
    assert torch.equal(model.train()(inputs), model.eval()(inputs))


def test_images_are_resized_and_normalised_for_the_program(tmp_path: Path) -> None:
    path = export(network(6), tmp_path / "teacher.pt2", (3, 6, 6))
    settings = PreprocessingSettings(teacher_mean=(0.5,), teacher_std=(0.25,))
    model = open_model(str(path), DATA, settings, trust=True)
    assert model.card.network_size == (6, 6)
    inputs = DATA.test.floats()
    resized = nn.functional.interpolate((inputs - 0.5) / 0.25, (6, 6), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(inputs), network(6)(resized), rtol=1e-4, atol=1e-5)


# Trust ----------------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def poisoned(source: Path, target: Path, witness: Path) -> None:
    """The same program with other example inputs, which torch.export unpickles."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if "sample_inputs" in name:
                content = pickle.dumps(Payload(witness))
            new.writestr(name, content)


def test_a_program_is_not_even_read_without_trust(tmp_path: Path) -> None:
    """The payload would run: that is what trust is asked for."""
    poisoned(export(network(), tmp_path / "good.pt2"), tmp_path / "evil.pt2", tmp_path / "proof")
    for name in ("good.pt2", "evil.pt2"):
        message = message_of(lambda name=name: open_model(str(tmp_path / name), DATA))  # type: ignore[misc]
        assert "can run code that is in it" in message and "--trust" in message and "trust=True" in message
    assert not (tmp_path / "proof").exists()
    with pytest.raises(UserError, match="not a program of torch.export"):
        open_model(str(tmp_path / "evil.pt2"), DATA, trust=True)
    assert (tmp_path / "proof").exists()


# What is refused ------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


def test_programs_of_something_else_are_refused(tmp_path: Path) -> None:
    pair = torch.export.export(Two(), (torch.rand(2, 3), torch.rand(2, 3)))
    torch.export.save(pair, tmp_path / "two.pt2")
    assert "takes 2 inputs" in message_of(lambda: open_program(tmp_path / "two.pt2", trust=True))
    export(nn.ReLU(), tmp_path / "relu.pt2")
    assert "expected 3 logits" in message_of(lambda: open_model(str(tmp_path / "relu.pt2"), DATA, trust=True))
    assert "no such file" in message_of(lambda: open_model(str(tmp_path / "absent.pt2"), DATA, trust=True))


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04 cut"])
def test_files_that_are_no_programs_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(content)
    assert "not a program of torch.export" in message_of(lambda: open_program(tmp_path / "x.pt2", trust=True))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (toy_data(shape=(1, 8, 8)), "fails on inputs of shape (1, 8, 8)"),
        (toy_data(shape=(5,)), "needs images"),
        (toy_data(shape=(3, 8, 8), classes=4), "expected 4 logits"),
    ],
    ids=["channels", "table", "classes"],
)
def test_a_program_that_does_not_fit_the_data_is_refused(data: Data, words: str, tmp_path: Path) -> None:
    path = export(network(), tmp_path / "teacher.pt2")
    assert words in message_of(lambda: open_model(str(path), data, trust=True))
