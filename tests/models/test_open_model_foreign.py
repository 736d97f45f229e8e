"""Networks of other libraries as teacher and as student, end to end on a folder of images, through the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from robust_student.cli.arguments import named
from robust_student.cli.main import main
from robust_student.models.run_directory import load, save
from robust_student.runtime.files import read_json, write_json
from robust_student.training.settings import TrainingSettings
from robust_student.training.train import train

FEW = ["--examples", "8", "--attack-examples", "2", "--autoattack", "none", "--pgd-steps", "1", "--snr-db", "0"]
FEW += ["--pgd-linf", "0.03", "--pgd-l2", "0.5", "--masking.steps", "1", "2"]
TIMM, TORCHVISION = "timm:test_resnet", "torchvision:squeezenet1_1"
CODE = """
from torch import nn

class Teacher(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(3, num_classes)

    def forward(self, inputs):
        return {"features": inputs, "logits": self.layer(inputs.mean((2, 3)))}
"""
NAMES = ("ash", "beech", "cedar")


def run(*words: object) -> None:
    main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run words that must fail; return the one line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("robust-student: error: ")
    return error


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of different sizes in three classes, each of another colour."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 90, (40 + number % 3, 36, 3))
            pixels[:, :, channel] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory with a teacher of the user's own that is always right, whose classes have another order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    weight = 20.0 * torch.eye(3)[[2, 0, 1]]  # logits of cedar, ash, beech
    torch.save({"state_dict": {"module.layer.weight": weight, "module.layer.bias": torch.zeros(3)}}, tmp_path / "w.pt")
    (tmp_path / "names.txt").write_text("cedar\nash\nbeech\n")
    return tmp_path


OWN = ["--teacher", "net.py:Teacher@w.pt", "--teacher-classes", "names.txt"]
SHORT = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--method", "kd"]


@pytest.mark.parametrize(("teacher", "student"), [(TIMM, TORCHVISION), (TORCHVISION, TIMM)])
def test_from_images_to_evaluation_with_networks_of_other_libraries(
    teacher: str, student: str, photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", f"folder:{photos}"]
    run("train", *data, "--model", teacher, "--image-size", 24, *SHORT[:-2], "--output", "teacher")
    assert load("teacher").card.network == teacher and load("teacher").card.input_shape == (3, 24, 24)
    run(
        "distill",
        *data,
        "--teacher",
        "teacher",
        "--model",
        student,
        *SHORT,
        "--no-teacher-check",
        "--output",
        "student",
    )
    run("evaluate", "teacher", "student", *data, "--suite", "quick", *FEW, "--device", "cpu", "--output", "evaluation")
    records = read_json(here / "evaluation" / "summary.json")
    accuracies = {r["model"]: r["value"] for r in records if (r["metric"], r["perturbation"]) == ("accuracy", "none")}
    assert set(accuracies) == {"teacher", "student"}
    capsys.readouterr()
    run("predict", "--model", "student", photos / "ash" / "1.png")
    assert capsys.readouterr().out.split("\t")[1] in NAMES


def test_weights_of_other_libraries_teach_with_their_normalisation_at_their_size(
    photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """State_dicts as users have them: of timm for 48 pixels, of torchvision from DataParallel."""
    torch.manual_seed(0)
    first, second = timm.create_model("test_resnet", num_classes=3), torchvision.models.squeezenet1_1(num_classes=3)
    torch.save({"state_dict": first.state_dict(), "epoch": 3}, "timm.pth")
    torch.save(nn.DataParallel(second).state_dict(), "torchvision.pth")
    data = ["--data", f"folder:{photos}", "--image-size", "32"]
    for number, words in enumerate(
        (
            ["--teacher", "timm:test_resnet@timm.pth", "--teacher-input-size", "48"],
            ["--teacher", "torchvision:squeezenet1_1", "--teacher-weights", "torchvision.pth"],
        )
    ):
        common = ["distill", *data, *words, "--model", "cnn:2", *SHORT, "--output", f"student{number}"]
        common += ["--validation-fraction", "0.5"]  # 48 examples tell three classes from chance
        assert "no better than chance" in refused(capsys, *common)
        run(*common, "--no-teacher-check")
        assert load(here / f"student{number}").card.input_shape == (3, 32, 32)


# Every option of a teacher --------------------------------------------------------------------------------------------


def history(output: Path) -> list[Any]:
    return [record["terms"] for record in load(output).history]


def taught(photos: Path, output: str, *words: object) -> list[Any]:
    """What a student learned from a teacher in one epoch."""
    data = ["--data", f"folder:{photos}", "--image-size", 16]
    run("distill", *data, "--model", "linear", *SHORT, "--output", output, *words)
    return history(Path(output))


def test_a_teacher_of_ones_own_teaches_in_the_order_of_the_datas_classes(photos: Path, here: Path) -> None:
    """Its declared accuracy holds only because its logits are put in order."""
    base = taught(photos, "a", *OWN, "--teacher-accuracy", "99")
    assert base == taught(photos, "b", *OWN, "--teacher-accuracy", "60")
    assert base == taught(photos, "c", "--teacher", "net.py:Teacher", *OWN[2:], "--teacher-weights", "w.pt")


def test_the_wrong_order_is_noticed(photos: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", f"folder:{photos}", "--image-size", 16, "--model", "linear", *SHORT, "--output", "out"]
    message = refused(capsys, "distill", *data, *OWN[:2], "--validation-fraction", "0.5")
    assert "teacher accuracy on validation is 0.0 %" in message and "class order" in message
    message = refused(capsys, "distill", *data, *OWN[:2], "--teacher-accuracy", "90")
    assert "not 90 %" in message
    (here / "names.txt").write_text("ash\nbeech\noak\n")
    assert "its class 'oak' is not among the data's" in refused(capsys, "distill", *data, *OWN)
    assert not (here / "out").exists()
    run("distill", *data, *OWN[:2], "--teacher-accuracy", "90", "--no-teacher-check")


def test_normalisation_and_size_of_a_teacher_change_what_it_teaches(photos: Path, here: Path) -> None:
    base = taught(photos, "a", *OWN)
    assert taught(photos, "b", *OWN, "--teacher-mean", "0.2", "--teacher-std", "0.5") != base
    assert taught(photos, "c", *OWN, "--teacher-mean", "0.1", "0.5", "0.9", "--teacher-std", "1", "1", "1") != base
    assert taught(photos, "d", *OWN, "--teacher-input-size", "5", "7") != base


def test_a_run_teaches_students_of_another_size(photos: Path, here: Path) -> None:
    run(
        "train",
        "--data",
        f"folder:{photos}",
        "--model",
        "cnn:2",
        "--image-size",
        12,
        "--epochs",
        1,
        "--output",
        "small",
    )
    data = ["--data", f"folder:{photos}", "--teacher", "small", "--model", "linear", *SHORT, "--no-teacher-check"]
    run("distill", *data, "--output", "same")
    assert load("same").card.input_shape == (3, 12, 12)
    run("distill", *data, "--image-size", 20, "--teacher-input-size", 12, "--output", "larger")
    assert load("larger").card.input_shape == (3, 20, 20)


def test_settings_of_a_teacher_may_come_from_a_file(photos: Path, here: Path) -> None:
    (here / "config.yaml").write_text(
        "teacher: net.py:Teacher@w.pt\n"
        "teaching: {teacher_classes: names.txt, teacher_mean: [0.2], teacher_std: [0.5]}\n"
    )
    expected = taught(photos, "a", *OWN, "--teacher-mean", "0.2", "--teacher-std", "0.5")
    assert taught(photos, "b", "--config", "config.yaml") == expected


def accuracy(output: Path, model: str = "teacher") -> float:
    records = read_json(output / "summary.json")
    (record,) = [r for r in records if (r["model"], r["metric"], r["perturbation"]) == (model, "accuracy", "none")]
    return float(record["value"])


def test_evaluate_reads_the_teacher_as_distill_does(
    photos: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", f"folder:{photos}", "--image-size", 16, *FEW, "--device", "cpu"]
    spec = "teacher=net.py:Teacher@w.pt"
    run("evaluate", spec, *words, "--teacher-classes", "names.txt", "--output", "right")
    run("evaluate", spec, *words, "--output", "wrong")
    run("evaluate", spec, *words, "--teacher-classes", "names.txt", "--workers", 2, "--output", "shared")
    assert accuracy(here / "right") == accuracy(here / "shared") == 1.0 and accuracy(here / "wrong") == 0.0
    message = refused(
        capsys, "evaluate", "x=net.py:Teacher@w.pt", *words, "--teacher-mean", 0, "--teacher-std", 1, "--output", "o"
    )
    assert "no model is; name it teacher=SPEC" in message
    card = read_json(here / "right" / "evaluation.json")["models"]["teacher"]["card"]
    assert card["order"] == [1, 2, 0] and card["provenance"]["source"] == "net.py:Teacher@w.pt"


def test_another_size_is_another_evaluation(photos: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "teacher=net.py:Teacher@w.pt", "--data", f"folder:{photos}", *FEW, "--device", "cpu"]
    words += ["--output", "out", "--shard", "0/2"]
    run(*words, "--image-size", 16)
    assert "other" in refused(capsys, *words, "--image-size", 16, "--teacher-input-size", 8)


def test_changed_code_is_another_evaluation(photos: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "teacher=net.py:Teacher@w.pt", "--data", f"folder:{photos}", *FEW, "--device", "cpu"]
    words += ["--image-size", "16", "--output", "out", "--shard"]
    run(*words, "0/2")
    rows = (here / "out" / "rows.jsonl").read_bytes() if (here / "out" / "rows.jsonl").exists() else b""
    code = (here / "net.py").read_text()
    (here / "net.py").write_text(code + "\n# computes something else\n")
    assert "other" in refused(capsys, *words, "0/2")
    (here / "net.py").write_text(code)
    run(*words, "1/2")
    assert not rows or (here / "out" / "rows.jsonl").read_bytes().startswith(rows)


def test_certify_takes_the_same_specs(photos: Path, here: Path) -> None:
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).state_dict(), "linear.pt")
    words = [
        "--data",
        f"folder:{photos}",
        "--image-size",
        8,
        "--examples",
        2,
        "--linear-examples",
        1,
        "--budgets",
        0.01,
    ]
    words += ["--attacks", "pgd-bisection", "--teacher-mean", 0.5, "--teacher-std", 0.25]
    run("certify", "teacher=linear@linear.pt", *words, "--output", "certificates")
    assert (here / "certificates" / "summary.json").exists()


def test_a_program_teaches_with_trust(photos: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Right(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 20 * inputs.mean((2, 3))

    torch.export.save(torch.export.export(Right(), (torch.rand(4, 3, 16, 16),)), "teacher.pt2")
    data = ["distill", "--data", f"folder:{photos}", "--image-size", 20, "--model", "linear", *SHORT, "--output", "out"]
    assert "--trust" in refused(capsys, *data, "--teacher", "teacher.pt2")
    run(*data, "--teacher", "teacher.pt2", "--trust", "--teacher-accuracy", 99)


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("runs/kd", ("kd", "runs/kd")),
        ("kd=runs/student", ("kd", "runs/student")),
        ("mine=file.py:make@w.pt", ("mine", "file.py:make@w.pt")),
        ("file.py:make@w=1.pt", ("file.py:make", "file.py:make@w=1.pt")),
        ("t=timm:resnet18,drop_rate=0.1", ("t", "timm:resnet18,drop_rate=0.1")),
        ("timm:resnet18,drop_rate=0.1", ("timm:resnet18", "timm:resnet18,drop_rate=0.1")),
        ("hub:user/repo@v1", ("repo", "hub:user/repo@v1")),
        ("runs/a=b", ("a=b", "runs/a=b")),
        ("kd=", ("kd", "")),
    ],
)
def test_a_model_has_a_name_of_its_own_or_its_last_part(word: str, expected: tuple[str, str]) -> None:
    assert named(word) == expected


def test_a_run_may_declare_its_accuracy(photos: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robust_student.data.readers.load import load_data

    data = load_data(f"folder:{photos}", image_size=8)
    trained = train("linear", data, TrainingSettings(epochs=1, learning_rate=1e-6))
    (here / "run").mkdir()
    save(trained.model, here / "run")
    card = read_json(here / "run" / "model.json")
    write_json(here / "run" / "model.json", card | {"accuracy": 99.0})
    words = [
        "distill",
        "--data",
        f"folder:{photos}",
        "--teacher",
        "run",
        "--model",
        "linear",
        *SHORT,
        "--output",
        "out",
    ]
    assert "not 99 %" in refused(capsys, *words)
    run(*words, "--no-teacher-check")
