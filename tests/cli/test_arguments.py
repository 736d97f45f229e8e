"""Words become settings, or one line that names the flag, the value and what is expected."""

from pathlib import Path
from typing import Any

import pytest
from reference import message_of

from robust_student.cli.arguments import Command, parse
from robust_student.cli.certify import Certify
from robust_student.cli.evaluate import Evaluate
from robust_student.cli.main import COMMANDS
from robust_student.cli.train import Train

TRAIN = ["train", "--data", "digits", "--model", "linear", "--output", "out"]
COMPLAINTS = {
    "": "name a command (see robust-student --help)",
    "distil": "unknown command 'distil'; did you mean 'distill'? (see robust-student --help)",
    "train --data digits": "train: --model, --output must be given (see robust-student train --help)",
    "train --epoch 3": "train: unknown flag --epoch; did you mean --epochs? (see robust-student train --help)",
    "distill --sharred": (
        "distill: unknown flag --sharred; did you mean --secant.shared? (see robust-student distill --help)"
    ),
    "distill --modle cnn:16": (
        "distill: unknown flag --modle; did you mean --model? (see robust-student distill --help)"
    ),
    "evaluate --model runs/kd": (
        "evaluate: unknown flag --model; did you mean MODELS, which are given without a flag? "
        "(see robust-student evaluate --help)"
    ),
    "train --xyz": "train: unknown flag --xyz (see robust-student train --help)",
    "train --epochs": "--epochs: has no value; write --epochs INT",
    "train --data --model m": "--data: has no value; write --data TEXT",
    "train --compile=yes": "--compile: takes no value; write one of --compile, --no-compile",
    "train --data a --model m --data=b": "train: --data is given twice; give it once",
    "train --batch-size 1 --batch_size 1": "train: --batch-size is given twice; give it once",
    "train --compile --no-compile": "train: --compile is given twice; give it once",
    "evaluate a --snr-db 0 --snr-db 5": (
        "evaluate: --snr-db is given twice; give it once, with all its values: --snr-db [NUMBER ...]"
    ),
    "train digits": "train: unexpected word 'digits' (see robust-student train --help)",
    "train -1e1": "train: unexpected word '-1e1' (see robust-student train --help)",
    "train --selection.snr-db=0 5": "train: unexpected word '5' (see robust-student train --help)",
    "train -hx": "train: argument -h/--help: ignored explicit argument 'x'",
    "train --data d --model m --output o --epochs many": (
        "--epochs: input should be a valid integer, unable to parse string as an integer (got 'many')"
    ),
    "train --data d --model m --output o --optimizer adam": (
        "--optimizer: input should be 'adamw' or 'sgd' (got 'adam')"
    ),
    "certify --data d --output o --methods lirpa": (
        "--methods: input should be 'interval', 'gradient', 'lipschitz' or 'linear' (got 'lirpa')"
    ),
    "train --data d --model m --output o --augmentation.mixup 1 --augmentation.cutmix 1": (
        "training.augmentation: mixup and cutmix exclude each other: set one of them to 0"
    ),
}


def parsed(*words: str) -> Any:
    return parse(words, COMMANDS)


@pytest.mark.parametrize("words", list(COMPLAINTS))
def test_a_complaint_is_this_line_at_any_width_of_the_terminal(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in ("20", "200"):
        monkeypatch.setenv("COLUMNS", width)
        assert message_of(lambda: parse(words.split(), COMMANDS)) == COMPLAINTS[words]


def test_flags_take_one_value_several_or_none() -> None:
    command = parsed(*TRAIN, "--ema=0.5", "--compile", "--selection.snr-db", "3", "-5", "-1e1", "--image-size", "8")
    assert isinstance(command, Train)
    assert command.output == Path("out") and command.image_size == 8
    assert command.training.ema == 0.5 and command.training.compile
    assert command.training.selection.snr_db == (3, -5, -10)
    more = parsed(*TRAIN, "--no-compile", "--batch_size", "3", "--gradient-clip", "None", "--image-size", "8", "9")
    assert isinstance(more, Train)
    assert not more.training.compile and more.training.batch_size == 3
    assert more.training.gradient_clip is None and more.image_size == (8, 9)


def test_a_value_is_taken_as_it_was_typed() -> None:
    command = parsed("train", "--data", " a b", "--model=--x_y=z", "--output", "-5", "--selection.snr_db=-1e1")
    assert isinstance(command, Train)
    assert (command.data, command.model, command.output) == (" a b", "--x_y=z", Path("-5"))
    assert command.training.selection.snr_db == (-10,)


def test_words_without_a_flag_may_stand_before_and_behind_flags() -> None:
    command = parsed("evaluate", "a", "b=c", "--data", "digits", "--output", "out", "--pgd-l2", "--trust", "d")
    assert isinstance(command, Evaluate)
    assert command.models == ("a", "b=c", "d") and command.evaluation.pgd_l2 == () and command.trust


def test_words_without_a_flag_may_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: [a, b]")
    words = ["--config", str(path), "--data", "digits", "--output", "out"]
    file, flags = parsed("evaluate", *words), parsed("evaluate", "c", *words)
    assert isinstance(file, Evaluate) and isinstance(flags, Evaluate)
    assert file.models == ("a", "b") and flags.models == ("c",)


def test_what_is_left_out_keeps_the_command_s_own_default(tmp_path: Path) -> None:
    """Which differs from that of the settings: a teacher is chosen by its accuracy."""
    path = tmp_path / "c.yaml"
    path.write_text("training: {epochs: 3}")
    for words in ([], ["--epochs", "3"], ["--config", str(path)]):
        command = parsed(*TRAIN, *words)
        assert isinstance(command, Train)
        assert command.training.selection.metric == "accuracy"


def test_a_file_is_blamed_for_its_own_values_and_a_flag_for_its_own(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("certification: {tolerance: 2}")
    words = ["certify", "--data", "d", "--output", "o", "--config", str(path)]
    assert message_of(lambda: parsed(*words)).startswith(f"config {path}: 'certification.tolerance': ")
    path.write_text("certification: {tolerance: 0.5}\ndata: digits")
    words.remove("--data")
    words.remove("d")
    assert message_of(lambda: parsed(*words, "--tolerance", "2")).startswith("--tolerance: input should be less than 1")
    command = parsed(*words)
    assert isinstance(command, Certify)
    assert command.data == "digits" and command.certification.tolerance == 0.5


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        ("distill --method exact", "to resist. (default: l2)"),
        ("evaluate --suite full", "no robust claim. (default: standard)"),
        ("evaluate --suite default", "a stratified random sample; default: all. --attack-examples"),
        ("train", "Largest Euclidean norm of the parameter gradient; None: no limit. (default: 1.0)"),
    ],
)
def test_help_shows_the_defaults_of_the_starting_point(
    words: str, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*words.split(), "--help")
    assert entry in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_names_every_flag_with_its_default_as_it_is_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind: type[Command] = COMMANDS[name]
    with pytest.raises(SystemExit) as stop:
        parsed(name, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and " ".join((kind.__doc__ or "").split()) in shown
    assert "default: None" not in shown
    if name == "distill":
        assert "--secant.shared, --secant.no-shared" in shown
        assert "(default: --secant.shared)" in shown and "--output PATH New run directory. (required)" in shown
        assert "--selection.snr-db [NUMBER ...] Gaussian noise levels" in shown and "(default: 0.0 -5.0)" in shown
        assert "--score.form {margin,teacher}" in shown and "(default: margin)" in shown
