"""What the README, the examples and CONTRIBUTING show runs as written."""

import re
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import ROOT, blocks, commands
from PIL import Image
from torch import nn

import robust_student
from robust_student.cli.main import main
from robust_student.core.settings import read_yaml
from robust_student.data.readers.load import Data
from robust_student.models.registry import build
from robust_student.training import train
from robust_student.training.settings import DistillSettings
from robust_student.training.train import Trained

README = ROOT / "README.md"


def python() -> list[str]:
    return [block.code for block in blocks(README, "python")]


def write_mnist(folder: Path, sizes: dict[str, int]) -> None:
    """Files in MNIST's format with random pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, n in sizes.items():
        labels = (np.arange(n) % 10).astype(np.uint8)
        pixels = rng.integers(0, 255, (n, 28, 28)).astype(np.uint8)
        header = struct.pack(">HBBIII", 0, 8, 3, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, n) + labels.tobytes())


BRIEFLY = {
    "train": ["--epochs", "20"],
    "distill": ["--epochs", "20"],
    "evaluate": ["--pgd-steps", "4", "--masking.steps", "1", "4", "--masking.examples", "2"],
    "certify": ["--tolerance", "0.5", "--attacks", "fab"],
}
"""Options that spare time and are added to what the README shows."""


def test_the_folder_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny photos."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, base in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(1, 8):  # 5 and 7 are held out by their names
            pixels = (base + rng.integers(-40, 40, (8, 10, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    last = ("report", "predict", "attack")
    example = [words for words in commands(README) if "folder:photos" in words or words[0] in last]
    assert [words[0] for words in example] == [
        "train",
        "distill",
        "distill",
        "evaluate",
        "report",
        "certify",
        "predict",
        "attack",
    ]
    for words in example:
        main([*words, *BRIEFLY.get(words[0], [])])
    assert (tmp_path / "runs" / "evaluation" / "report.html").exists()


def test_the_configuration_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small set in MNIST's format, with the data's place filled in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    folder = tmp_path / "mnist"
    write_mnist(folder, {"train": 60, "t10k": 20})
    main(["train", "--data", f"mnist:{folder}", "--model", "linear", "--epochs", "1", "--output", "runs/mnist/teacher"])
    (words,) = [words for words in commands(README) if "--config" in words]
    main([word.replace("MNIST_DIR", str(folder)) for word in words])
    settings = robust_student.load("runs/mnist/robust").card.provenance["settings"]
    expected = read_yaml(ROOT / "examples" / "mnist.yaml")
    assert settings["objective"]["radius"] == expected["objective"]["radius"]
    assert settings["training"]["epochs"] == expected["training"]["epochs"]


def test_each_block_of_python_in_the_readme_has_a_test() -> None:
    """Two: the loop and the example of the whole product, below."""
    assert len(python()) == 2


def test_the_loop_of_the_readme_trains_a_student() -> None:
    (loop,) = [block for block in python() if "RobustStudentObjective(" in block]
    torch.manual_seed(0)
    student, teacher = build("linear", (6,), 3), build("linear", (6,), 3)
    before = [parameter.detach().clone() for parameter in student.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    loader = [(torch.rand(8, 6), torch.randint(3, (8,))) for _ in range(2)]
    exec(loop, {"torch": torch, "student": student, "teacher": teacher, "optimizer": optimizer, "loader": loader})
    assert all(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one epoch and few examples in place of the defaults."""
    (example,) = [block for block in python() if "import robust_student as rs" in block]
    monkeypatch.chdir(tmp_path)
    short = robust_student.TrainingSettings(epochs=1)

    def distill(teacher: nn.Module, student: str, data: Data, settings: DistillSettings) -> Trained:
        return train.distill(teacher, student, data, settings.model_copy(update={"training": short}))

    monkeypatch.setattr(robust_student, "train", lambda network, data: train.train(network, data, short))
    monkeypatch.setattr(robust_student, "distill", distill)
    few = robust_student.EvaluationSettings(examples=20, attack_examples=5, pgd_steps=2)
    monkeypatch.setattr(robust_student, "EvaluationSettings", lambda attack_examples: few)
    names: dict[str, object] = {}
    exec(example, names)
    assert isinstance(names["evaluation"], robust_student.Evaluation)
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()


def test_the_whole_own_loop_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "own_loop.py"))
    accuracy = float(re.findall(r"test accuracy ([\d.]+) %", capsys.readouterr().out)[0])
    assert accuracy > 80
