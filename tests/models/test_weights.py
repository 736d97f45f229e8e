"""Foreign weights: what is read, what is refused, and a network of the user's own through the command line."""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from reference import message_of
from torch import Tensor, nn

from robust_student.cli.main import main
from robust_student.models.weights import load_weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


SAVED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "ordered": lambda state: OrderedDict(state),
    "wrapped": lambda state: {"epoch": 3, "state_dict": state},
    "wrapped model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "data parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled and parallel": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "wrapped and parallel": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("kind", list(SAVED))
def test_weights_are_found_in_every_usual_wrapping(kind: str, tmp_path: Path) -> None:
    torch.save(SAVED[kind](network(1).state_dict()), tmp_path / "w.pt")
    target = network(0)
    load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(value, network(1).state_dict()[name]) for name, value in target.state_dict().items())


def test_a_last_layer_for_other_classes_stays_new_where_that_is_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(2)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 17))
    torch.save(wider.state_dict(), tmp_path / "w.pt")
    target, before = network(0), network(0).state_dict()
    assert "has shape (17, 12), the network expects (10, 12)" in message_of(
        lambda: load_weights(target, tmp_path / "w.pt")
    )
    load_weights(target, tmp_path / "w.pt", new_classes=True)
    assert torch.equal(target.state_dict()["1.weight"], wider.state_dict()["1.weight"])
    assert torch.equal(target.state_dict()["3.weight"], before["3.weight"])
    other = nn.Sequential(nn.Flatten(), nn.Linear(63, 12), nn.ReLU(), nn.Linear(12, 17))
    torch.save(other.state_dict(), tmp_path / "w.pt")
    message = message_of(lambda: load_weights(target, tmp_path / "w.pt", new_classes=True))
    assert "'1.weight' has shape (12, 63)" in message


class Tied(nn.Module):
    """A weight with two names, and a counter of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5)
        self.last.weight = self.first.weight


def test_what_a_file_may_leave_out_is_understood(tmp_path: Path) -> None:
    """Safetensors keep one name of a shared weight; files of before 2018 have no counters."""
    torch.manual_seed(1)
    saved, target = Tied(), Tied()
    safetensors.torch.save_model(saved, str(tmp_path / "w.safetensors"))
    assert len(safetensors.torch.load_file(tmp_path / "w.safetensors")) == len(saved.state_dict()) - 1
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.last.weight, saved.last.weight) and target.last.weight is target.first.weight
    state = {name: value for name, value in saved.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.norm.weight, saved.norm.weight)


def test_the_old_names_of_densenets_are_understood(tmp_path: Path) -> None:
    from torchvision.models import DenseNet

    torch.manual_seed(1)
    saved, target = (DenseNet(4, (2, 2, 1, 1), 4, num_classes=3) for _ in range(2))
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for name, value in saved.state_dict().items()
    }
    assert set(old) != set(saved.state_dict())
    torch.save(old, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in target.state_dict().items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(network(1).state_dict(), tmp_path / "w.safetensors")
    target = network(0)
    load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target.state_dict()["1.weight"], network(1).state_dict()["1.weight"])


class Payload:
    """Writes a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_a_file_that_needs_unpickling_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"1.weight": Payload(str(tmp_path / "proof"))}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(str(tmp_path / "proof"))))
    torch.save(network(), tmp_path / "whole.pt")
    for name in ("evil.pt", "evil.pkl", "whole.pt"):
        message = message_of(lambda name=name: load_weights(network(), tmp_path / name))  # type: ignore[misc]
        assert ("refused" in message and "state_dict" in message) or "a plain pickle is never read" in message
    assert not (tmp_path / "proof").exists()


def spoilt(change: Callable[[dict[str, Any]], Any]) -> Any:
    return change(dict(network().state_dict()))


BAD: dict[str, tuple[Any, str]] = {
    "missing": (spoilt(lambda s: {k: v for k, v in s.items() if k != "3.bias"}), "no '3.bias' in it"),
    "unknown": (spoilt(lambda s: s | {"head.weight": torch.zeros(1)}), "'head.weight' in it has no place"),
    "shape": (spoilt(lambda s: s | {"3.bias": torch.zeros(7)}), "'3.bias' has shape (7,), the network expects (10,)"),
    "nan": (spoilt(lambda s: s | {"3.bias": torch.full((10,), torch.nan)}), "'3.bias' holds NaN"),
    "number": (spoilt(lambda s: s | {"epoch": 3}), "'epoch' is not a tensor"),
    "list": ([torch.zeros(2)], "holds list, not a state_dict"),
    "empty": ({}, "holds dict, not a state_dict"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_weights_that_do_not_fit_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    torch.save(content, tmp_path / "w.pt")
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    assert expected in message_of(lambda: load_weights(target, tmp_path / "w.pt"))
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files_that_are_something_else_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    assert str(path) in message_of(lambda: load_weights(network(), path))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "no such file" in message_of(lambda: load_weights(network(), tmp_path / "w.pt"))


FACTORY = """
import torch
from torch import nn

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, num_classes))

def with_its_own(num_classes):
    torch.manual_seed(7)
    return make(num_classes)
"""


def evaluate(source: str, output: Path) -> list[dict[str, Any]]:
    main(
        ["evaluate", f"mine={source}", "--data", "digits", "--output", str(output), "--examples", "40"]
        + ["--attack-examples", "10", "--autoattack", "none", "--snr-db", "0", "--pgd-steps", "2", "--device", "cpu"]
    )
    summary: list[dict[str, Any]] = json.loads((output / "summary.json").read_text())
    return summary


def test_a_network_of_ones_own_is_evaluated_without_a_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    torch.save(network(1).state_dict(), tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    with_weights = evaluate("net.py:make@w.pt", tmp_path / "a")
    again = evaluate("net.py:make@w.pt", tmp_path / "b")
    without = evaluate("net.py:with_its_own", tmp_path / "c")
    same = [record["value"] for record in with_weights if record["metric"] == "accuracy"]
    assert same == [record["value"] for record in again if record["metric"] == "accuracy"]
    assert same != [record["value"] for record in without if record["metric"] == "accuracy"]
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("absent.py:make", "no file absent.py"),
        ("net.py:other", "has no 'other'"),
        ("net.py:make@no.pt", "no such file"),
    ],
)
def test_a_wrong_source_gives_one_line(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        evaluate(source, tmp_path / "out")
    assert stop.value.code == 2 and expected in capsys.readouterr().err and not (tmp_path / "out").exists()
