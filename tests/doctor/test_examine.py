"""The check-up: every finding appears where its fault is and disappears without it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.data.readers.load import Data, Examples, Stream, load_data
from robust_student.doctor import examine as examine_module
from robust_student.doctor import machine
from robust_student.doctor.data import check_data
from robust_student.doctor.examine import examine, validation_sample
from robust_student.doctor.findings import Finding
from robust_student.doctor.machine import (
    Machine,
    check_arithmetic,
    check_devices,
    check_output,
    check_packages,
    slope_of_slope,
    training_step,
)
from robust_student.doctor.teacher import check_accuracy, check_gradients, check_outputs, sample_inputs
from robust_student.models.model import Model, as_model
from robust_student.models.run_directory import load
from robust_student.models.settings import TeacherSettings
from robust_student.training.settings import TrainingSettings
from robust_student.training.train import train


def found(findings: Sequence[Finding], text: str) -> list[str]:
    """Levels of the findings that say `text`; every problem must come with a fix, and every finding be one line."""
    assert all(finding.fix for finding in findings if finding.level == "problem")
    assert all(len(f"{finding.text}{finding.fix}".splitlines()) == 1 for finding in findings)
    return [finding.level for finding in findings if text in finding.text]


# Packages -------------------------------------------------------------------------------------------------------------

REQUIRES = ["torch>=2.6", "numpy>=1.26", 'timm>=1.0; extra == "vision"', 'ruff; extra == "dev"']
INSTALLED = {"robust-student": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6", "timm": "1.0.31"}


def packages(changes: dict[str, str | None], importable: Callable[[str], object] = lambda name: None) -> list[Finding]:
    return check_packages(REQUIRES, (INSTALLED | changes).get, importable)


def test_packages_that_are_in_order_are_fine() -> None:
    findings = packages({})
    assert {finding.level for finding in findings} == {"fine"}
    assert found(findings, "extra vision (timm 1.0.31)") == ["fine"]
    assert found(findings, "dev") == []  # nobody but developers needs it


@pytest.mark.parametrize(("version", "text"), [(None, "numpy is missing"), ("1.20", "numpy is 1.20, not >=1.26")])
def test_a_requirement_that_is_not_met_is_a_problem(version: str | None, text: str) -> None:
    findings = packages({"numpy": version})
    assert found(findings, text) == ["problem"]
    assert "pip install 'numpy>=1.26'" in [finding.fix for finding in findings]


def test_a_missing_extra_is_a_note_with_its_command() -> None:
    findings = packages({"timm": None})
    assert found(findings, "extra vision is not complete (timm is missing)") == ["note"]
    assert "pip install 'robust-student[vision]'" in [finding.fix for finding in findings]


def test_an_extra_that_cannot_be_imported_is_noted() -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    assert found(packages({}, broken), "timm cannot be imported (RuntimeError: operator") == ["note"]


def test_the_requirements_of_this_installation_are_read() -> None:
    assert not [finding for finding in check_packages(importable=lambda name: None) if finding.level == "problem"]


# Devices --------------------------------------------------------------------------------------------------------------

MACHINE = Machine("x86_64", 8, 8, 32 * 10**9, 16 * 10**9, ("cuda:0 A100, 80 GB",), "12.8", nvidia=True)


@pytest.mark.parametrize(
    ("changes", "text", "level"),
    [
        ({"threads": 16}, "uses 16 threads on 8 cores", "note"),
        ({"free": 10**8}, "only 100 MB of memory are free", "problem"),
        ({"accelerators": (), "cuda": None}, "built without CUDA", "problem"),
        ({"accelerators": ()}, "built for CUDA 12.8, but finds no GPU", "problem"),
        ({"accelerators": (), "nvidia": False}, "no GPU", "note"),
    ],
)
def test_a_fault_of_the_machine_is_found(changes: dict[str, Any], text: str, level: str) -> None:
    assert found(check_devices("cpu", replace(MACHINE, **changes)), text) == [level]
    assert found(check_devices("cpu", MACHINE), text) == []


def test_a_device_that_is_not_there_is_a_problem() -> None:
    findings = check_devices("cuda:77", MACHINE)
    assert found(findings, "device 'cuda:77'") == ["problem"]
    assert findings[-1].fix == "choose auto, cpu, cuda:0"
    assert found(check_devices("cpu", MACHINE), "device cpu is cpu") == ["fine"]


def test_this_machine_is_described() -> None:
    (cpu, *_) = check_devices("cpu")
    assert "cores: " in cpu.text and "memory" in cpu.text


# Arithmetic -----------------------------------------------------------------------------------------------------------


def rounded(first: Tensor, second: Tensor) -> Tensor:
    """A product of factors with the ten bits of TensorFloat-32."""
    return first.bfloat16().float() @ second.bfloat16().float()


def test_exact_arithmetic_is_fine(any_device: torch.device) -> None:
    assert [finding.level for finding in check_arithmetic(any_device)] == ["fine"]


def test_rounded_products_are_a_problem(any_device: torch.device) -> None:
    assert found(check_arithmetic(any_device, product=rounded), "matrix products") == ["problem"]


def test_steps_that_differ_are_a_note(any_device: torch.device) -> None:
    steps = iter([torch.zeros(3), torch.ones(3)])
    assert found(check_arithmetic(any_device, step=lambda device: next(steps)), "two equal steps") == ["note"]


def fails(device: torch.device) -> float:
    raise RuntimeError("derivative not implemented")


@pytest.mark.parametrize(("curvature", "text"), [(fails, "fails (derivative"), (lambda device: 3.0, "gives 3, not 36")])
def test_wrong_second_derivatives_are_a_problem(curvature: Any, text: str, any_device: torch.device) -> None:
    assert found(check_arithmetic(any_device, curvature=curvature), text) == ["problem"]


def test_the_probes_are_what_they_say(any_device: torch.device) -> None:
    assert slope_of_slope(any_device) == pytest.approx(36)  # d/dx_i sum_j (3 x_j^2)^2 = 36 x_i^3
    assert training_step(any_device).abs().max() > 0


# Output ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [(10**12, "fine", "1 TB"), (10**9, "note", "enough for small runs"), (10**7, "problem", "only 10 MB")],
)
def test_room_on_the_disk_is_looked_at(free: int, level: str, text: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / "run"
    assert found(check_output(output, lambda path: SimpleNamespace(free=free)), text) == [level]
    assert not output.parent.exists()


def test_an_output_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert found(check_output(tmp_path / "file" / "run"), "cannot write there") == ["problem"]
    assert found(check_output(tmp_path / "run"), "can be written") == ["fine"]


# Data -----------------------------------------------------------------------------------------------------------------


def data(n: int = 300, classes: int = 3, **changes: Any) -> Data:
    """Images of random pixels whose faults are what `changes` make them."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for part, count in (("train", n), ("test", 120)):
        pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
        parts[part] = Examples(pixels, torch.arange(count) % classes)
    names = tuple(f"class {k}" for k in range(classes))
    return replace(Data("random", parts["train"], parts["test"], names, UNIT_RANGE), **changes)


def with_inputs(part: Examples, **rows: Tensor) -> Examples:
    """The examples with other inputs from the first on."""
    (new,) = rows.values()
    return Examples(torch.cat([new, part.stored[len(new) :]]), part.labels)


SOUND = data()
TRAIN, TEST = SOUND.training_examples, SOUND.test
WIDE = torch.arange(300.0)[:, None] % torch.tensor([2.0, 7.0, 256.0])
STILL = torch.cat([WIDE / 300 - 1, torch.ones(300, 1)], dim=1)


def vectors(inputs: Tensor) -> Data:
    part = Examples(inputs, torch.arange(len(inputs)) % 3)
    return replace(SOUND, train=part, test=Examples(inputs[:150] + 1e-3, part.labels[:150]), input_range=UNBOUNDED)


FAULTS: dict[str, tuple[Data, str, str]] = {
    "leak": (replace(SOUND, test=with_inputs(TEST, rows=TRAIN.stored[:5])), "test examples are also", "problem"),
    "one leak": (
        replace(data(n=300), test=with_inputs(TEST, rows=TRAIN.stored[:1])),
        "1 of 120 test examples are also",
        "note",
    ),
    "copies": (replace(SOUND, train=with_inputs(TRAIN, rows=TRAIN.stored[21:30])), "9 of 300 training", "problem"),
    "labels": (replace(SOUND, train=with_inputs(TRAIN, rows=TRAIN.stored[4:5])), "with different labels", "note"),
    "constant": (
        replace(SOUND, train=with_inputs(TRAIN, rows=torch.full((9, 1, 4, 4), 7, dtype=torch.uint8))),
        "9 of 420 inputs have the same value everywhere",
        "problem",
    ),
    "few": (replace(SOUND, test=TEST.subset(torch.arange(40))), "only 40 test examples", "note"),
    "imbalance": (
        replace(SOUND, train=Examples(TRAIN.stored, torch.tensor([2] * 10 + [1] * 140 + [0] * 150))),
        "classes are imbalanced: 'class 2' has 10",
        "note",
    ),
    "lonely": (
        replace(SOUND, train=Examples(TRAIN.stored, torch.cat([torch.tensor([2]), TRAIN.labels[1:] % 2]))),
        "class 'class 2' has 1 of 300",
        "problem",
    ),
    "untested": (replace(SOUND, test=Examples(TEST.stored, TEST.labels % 2)), "1 of 3 classes have no test", "note"),
    "dark": (
        replace(SOUND, train=Examples(TRAIN.floats() / 255, TRAIN.labels), test=Examples(TEST.floats(), TEST.labels)),
        "divided by 255 twice",
        "problem",
    ),
    "bytes": (vectors(WIDE), "pixels that are taken for standardised features", "problem"),
    "still": (vectors(STILL), "1 of 4 features never change", "note"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_of_the_data_is_found(name: str) -> None:
    faulty, text, level = FAULTS[name]
    assert found(check_data(faulty), text) == [level]
    assert found(check_data(SOUND), text) == []


def test_sound_data_are_described_in_two_lines() -> None:
    sizes, none = check_data(SOUND)
    assert "300 training and 120 test examples, shape (1, 4, 4), 3 classes, in [0, 1], 4.8 kB as bytes" in sizes.text
    assert none.text == "no faults found"


def test_of_large_data_a_part_is_looked_at_and_said_so() -> None:
    (_, *rest) = check_data(FAULTS["leak"][0], examples=50)
    assert found(rest, "(of 50 training and 50 test examples looked at)")


class Random(Stream):
    """A stream of random pixels."""

    shape, length = (1, 4, 4), 300

    def batches(
        self, *, epoch: int, batch_size: int, seed: int, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(0, self.length - batch_size + 1, batch_size):
            numbers = torch.arange(start, start + batch_size)
            yield TRAIN.take(numbers), TRAIN.labels[numbers], numbers


def test_the_beginning_of_a_stream_is_looked_at() -> None:
    streamed = replace(SOUND, train=Random(), test=FAULTS["leak"][0].test)
    assert found(check_data(streamed), "5 of 120 test examples are also") == ["problem"]
    assert validation_sample(streamed) is None


# Teachers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a teacher of the digits."""
    output = tmp_path_factory.mktemp("doctor") / "teacher"
    main(
        ["train", "--data", "digits", "--model", "mlp:16", "--epochs", "3", "--device", "cpu", "--output", str(output)]
    )
    return output


class Changed(nn.Module):
    """A network whose inputs and logits go through functions."""

    def __init__(self, network: nn.Module, inputs: Any = lambda x: x, logits: Any = lambda z: z) -> None:
        super().__init__()
        self.network, self.inputs, self.logits = network, inputs, logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits(self.network(self.inputs(inputs)))


def changed(model: Model, **functions: Any) -> Model:
    return Model(Changed(model.network, **functions), model.card, model.mean, model.std).eval()


def noisy(logits: Tensor) -> Tensor:
    return logits + torch.rand(1)


OUTPUTS: dict[str, tuple[Any, str]] = {
    "probabilities": (lambda z: z.softmax(dim=1), "its outputs are probabilities"),
    "random": (noisy, "two passes over the same inputs differ"),
    "batch": (lambda z: z - z.mean(dim=0), "depend on the other examples of its batch"),
    "constant": (lambda z: 0 * z + torch.arange(10.0), "the same for every example"),
    "nan": (lambda z: z * torch.where(torch.arange(len(z)) < 3, torch.nan, 1.0)[:, None], "3 of 50 examples hold NaN"),
}


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_a_fault_of_the_outputs_is_found(name: str, run: Path, digits: Data) -> None:
    function, text = OUTPUTS[name]
    teacher, inputs = load(run), digits.test.floats(slice(0, 50))
    assert found(check_outputs(changed(teacher, logits=function), inputs), text) == ["problem"]
    assert check_outputs(teacher, inputs) == []


GRADIENTS: dict[str, tuple[dict[str, Any], str]] = {
    "rounded": ({"inputs": torch.round}, "is zero everywhere on 50 of 50"),
    "detached": ({"logits": Tensor.detach}, "have no gradient with respect to the input"),
    "not a number": ({"inputs": lambda x: x + (0 * x.detach() * x).sqrt()}, "is NaN or infinite on"),
    "unused": ({"logits": lambda z: nn.Parameter(torch.randn(50, 10))}, "is zero everywhere on 50 of 50"),
}


@pytest.mark.parametrize("name", list(GRADIENTS))
def test_a_fault_of_the_gradient_is_found(name: str, run: Path, digits: Data) -> None:
    functions, text = GRADIENTS[name]
    teacher, inputs = load(run), digits.test.floats(slice(0, 50))
    assert found(check_gradients(changed(teacher, **functions), inputs), text) == ["problem"]
    assert check_gradients(teacher, inputs) == []
    assert not inputs.requires_grad


def test_accuracy_is_judged_by_chance_and_by_the_teacher_s_own_record(run: Path, digits: Data) -> None:
    teacher, validation = load(run), validation_sample(digits)
    assert validation is not None
    assert check_accuracy(teacher, validation).level == "fine"
    mixed = check_accuracy(changed(teacher, logits=lambda z: z.roll(1, dims=1)), validation)
    assert mixed.level == "problem" and "no better than chance" in mixed.text
    worse = changed(teacher, logits=lambda z: torch.where(torch.arange(len(z))[:, None] % 3 > 0, z, z.roll(1, dims=1)))
    worse.card, worse.history = teacher.card, teacher.history
    note = check_accuracy(worse, validation)
    assert note.level == "note" and "its own record says" in note.text
    worse.history = []
    assert check_accuracy(worse, validation).level == "fine"


class First(nn.Module):
    """Always names class 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.arange(10.0, 0, -1).expand(len(inputs), 10)


def test_always_naming_the_largest_class_is_noted(digits: Data) -> None:
    lopsided = Examples(digits.test.stored, (torch.arange(400) % 5 == 0).long())
    finding = check_accuracy(as_model(First(), digits), lopsided)
    assert finding.level == "note" and "no better than naming the largest class (80.0 %)" in finding.text


def test_a_teacher_is_tried_on_noise_where_there_are_no_examples(run: Path) -> None:
    teacher = load(run)
    noise = sample_inputs(None, teacher, 20)
    assert noise.shape == (20, 1, 8, 8) and noise.min() >= 0 and noise.max() <= 1 and noise.std() > 0.2
    teacher.card = teacher.card.model_copy(update={"input_range": (None, None)})
    assert sample_inputs(None, teacher, 20).min() < 0


# All together ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing every extra."""
    monkeypatch.setattr(examine_module, "check_packages", lambda: [Finding("packages", "fine", "all there")])


def test_a_healthy_setting_ends_with_exit_code_0(
    run: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "out"
    main(["doctor", "--data", "digits", "--teacher", str(run), "--device", "cpu", "--output", str(output)])
    shown = capsys.readouterr().out
    for area in ("packages", "devices", "arithmetic", "output", "teacher", "data"):
        assert f"\n{area}\n" in f"\n{shown}"
    assert "mlp:16: 1,210 parameters" in shown and "accuracy on validation" in shown
    assert shown.splitlines()[-1].startswith("0 problems, ")
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "npz:nowhere.npz"], "problem data 'npz:nowhere.npz': no such file: "),
        (["--teacher", "nowhere"], "problem model nowhere: no file model.json there"),
        (["--teacher", "vgg.pt2"], "problem teacher 'vgg.pt2': only a run directory says what its inputs"),
        (["--device", "cuda:77"], "problem device 'cuda:77': "),
        (["--output", "/dev/null/out"], "problem output /dev/null/out: cannot write there"),
    ],
)
def test_a_problem_ends_with_exit_code_1_and_one_line(
    words: list[str], line: str, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *words])
    assert stop.value.code == 1
    shown, complaint = capsys.readouterr()
    assert len([text for text in shown.splitlines() if line in text]) == 1
    assert "\n1 problem, " in shown and not complaint


def test_an_output_inside_the_data_is_a_problem(tmp_path: Path, quick: None) -> None:
    (tmp_path / "photos").mkdir()
    findings = examine_module.examine(data=f"folder:{tmp_path / 'photos'}", output=tmp_path / "photos" / "out")
    said = [finding.text for finding in findings if (finding.area, finding.level) == ("output", "problem")]
    assert len(said) == 1 and "lies in the folder of the data" in said[0]


def test_bad_usage_stays_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--date", "digits"])
    assert stop.value.code == 2 and "--data" in capsys.readouterr().err


def test_what_is_said_of_the_teacher_is_checked(run: Path, quick: None) -> None:
    """The flags are those of `distill`."""
    common: dict[str, Any] = {"data": "digits", "teacher": str(run)}
    assert found(examine(**common), "accuracy on validation is") == ["fine"]
    high = TeacherSettings(teacher_accuracy=99.9)
    assert found(examine(**common, teaching=high), "teacher accuracy on validation is") == ["problem"]
    unchecked = TeacherSettings(teacher_check=False)
    assert found(examine(**common, teaching=unchecked), "accuracy on validation is") == []


def test_the_flags_of_the_teacher_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that knows nothing about inputs that are not normalised as in its training."""
    monkeypatch.chdir(tmp_path)
    teacher = train("linear", load_data("digits"), TrainingSettings(epochs=3)).model
    torch.save(teacher.network.state_dict(), "w.pt")
    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "own.py").write_text(code)
    words = ["doctor", "--data", "digits", "--teacher", "own.py:make@w.pt"]
    main([*words, "--teacher-mean", f"{float(teacher.mean)}", "--teacher-std", f"{float(teacher.std)}"])
    assert "0 problems" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--teacher-mean", "40", "--teacher-std", "0.025"])
    assert "no better than chance" in capsys.readouterr().out


def test_code_of_somebody_else_s_run_is_called_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    (tmp_path / "theirs").mkdir()
    code = tmp_path / "theirs" / "own.py"
    code.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    train(f"{code}:make", load_data("digits"), TrainingSettings(epochs=1), output=tmp_path / "run")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert found(examine(teacher=str(tmp_path / "run")), "which is not called unasked") == ["problem"]
    assert found(examine(teacher=str(tmp_path / "run"), trust=True), "650 parameters") == ["fine"]


def test_data_are_read_in_the_teacher_s_shape(tmp_path: Path, quick: None) -> None:
    """Image folders are resized to it; without the teacher they have a size of their own."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    photos = f"folder:{tmp_path / 'photos'}"
    train("linear", load_data(photos, image_size=5), output=tmp_path / "run")
    assert found(examine(data=photos, teacher=str(tmp_path / "run")), "shape (3, 5, 5)") == ["fine"]
    assert found(examine(data=photos), "shape (3, 9, 9)") == ["fine"]


def test_a_teacher_without_data_is_looked_at_without_its_accuracy(run: Path, quick: None) -> None:
    findings = examine(teacher=str(run))
    assert found(findings, "its accuracy is not looked at") == ["note"]
    assert found(findings, "1,210 parameters") == ["fine"]


def test_a_problem_does_not_stop_the_rest(tmp_path: Path, run: Path, quick: None) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text(json.dumps({}))
    findings = examine(data="digits", teacher=str(tmp_path / "bad"), device="cuda:77", output=tmp_path)
    assert [finding.area for finding in findings if finding.level == "problem"] == ["devices", "teacher"]
    assert found(findings, "no faults found") == ["fine"]


def test_memory_is_looked_at_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "physical_memory", lambda: None)
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    assert "unknown memory" in check_devices("cpu")[0].text


def test_a_user_error_of_any_part_becomes_a_finding(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    def refuse(spec: str, **more: Any) -> Data:
        raise UserError("data: all wrong; do it right")

    monkeypatch.setattr(examine_module, "load_data", refuse)
    assert Finding("data", "problem", "data: all wrong", "do it right") in examine(data="digits")
