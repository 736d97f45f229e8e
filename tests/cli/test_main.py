"""The command line as a user runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reference import message_of

from robust_student.cli.arguments import parse
from robust_student.cli.evaluate import Evaluate
from robust_student.cli.main import COMMANDS, main
from robust_student.cli.workers import beside
from robust_student.data.readers.load import load_data
from robust_student.evaluation import row_store
from robust_student.evaluation.settings import SUITES, EvaluationSettings
from robust_student.models.run_directory import load, save
from robust_student.runtime.files import append_jsonl, read_json

LINEAR = ["--data", "digits", "--model", "linear"]
TRAIN = [*LINEAR, "--epochs", "2", "--device", "cpu"]


def run(*words: str) -> None:
    main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run words that must fail; return the one line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*map(str, words))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("robust-student: error: ")
    assert "Traceback" not in error
    return error


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a small network trained on the digits."""
    output = tmp_path_factory.mktemp("runs") / "teacher"
    run("train", "--data", "digits", "--model", "mlp:16", "--epochs", "3", "--output", str(output))
    return output


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of colour images of different sizes in two classes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name, base in (("cat", 60), ("dog", 190)):
        (root / name).mkdir(parents=True)
        for number in range(20):
            size = (12 + number % 3, 14, 3)
            pixels = (base + rng.integers(-40, 40, size)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_the_program_runs_as_a_module_and_lists_its_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robust_student", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_states_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code in (0, None)
    shown = capsys.readouterr().out
    flags = {
        name for name in COMMANDS[command].model_fields if name not in ("models", "images", "directories", "evaluation")
    }
    flags -= {"training", "objective", "certification", "teaching"}
    assert all(f"--{name.replace('_', '-')}" in shown for name in flags)


def test_from_folder_of_images_to_report_and_prediction(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = f"folder:{photos}", tmp_path / "runs"
    common = ["--data", data, "--epochs", "2", "--batch-size", "8"]
    run("train", *common, "--model", "cnn:4", "--image-size", "12", "--output", str(runs / "teacher"))
    for name, method in (("kd", "kd"), ("robust", "secant")):
        taught = ["--teacher", str(runs / "teacher"), "--model", "mlp:8", "--method", method]
        run("distill", *common, *taught, "--output", str(runs / name))
    names = [str(runs / name) for name in ("teacher", "kd", "robust")]
    evaluation = tmp_path / "evaluation"
    run("evaluate", *names, "--data", data, "--output", str(evaluation), "--pgd-steps", "3", "--pgd-l2", "0.5")
    run("report", str(evaluation))
    assert "<html" in (evaluation / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    run("predict", "--model", str(runs / "robust"), str(photos / "cat" / "1.png"), str(photos / "dog" / "2.png"))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [str(photos / "cat" / "1.png"), str(photos / "dog" / "2.png")]
    assert all(line[1] in ("cat", "dog") and 0.5 <= float(line[2]) <= 1 for line in lines)
    models = {record["model"] for record in read_json(evaluation / "summary.json")}
    assert models == {"teacher", "kd", "robust"}


def test_nan_logits_are_said_to_be_no_answer(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finite weights so large that infinity is taken from infinity."""
    model = load(teacher)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 3e38)
    with torch.no_grad():
        list(model.parameters())[-2][:, 0] = -3e38
    (tmp_path / "huge").mkdir()
    save(model, tmp_path / "huge")
    Image.new("L", (8, 8), 100).save(tmp_path / "digit.png")
    run("predict", "--model", str(tmp_path / "huge"), str(tmp_path / "digit.png"))
    assert capsys.readouterr().out == f"{tmp_path / 'digit.png'}\tno answer (NaN)\tnan\n"


@pytest.mark.parametrize(("flags", "shape"), [(["9"], (3, 9, 9)), (["8", "10"], (3, 8, 10))])
def test_image_size_is_a_side_or_height_and_width(
    flags: list[str], shape: tuple[int, ...], photos: Path, tmp_path: Path
) -> None:
    words = ["train", "--data", f"folder:{photos}", "--model", "linear", "--epochs", "1", "--image-size", *flags]
    run(*words, "--output", str(tmp_path / "model"))
    assert load(tmp_path / "model").card.input_shape == shape


def test_flags_win_over_the_file_and_the_file_over_the_method(teacher: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "method": "exact",
                "model": "linear",
                "training": {"epochs": 1, "seed": 3},
                "objective": {"gradient": {"weight": 0.5}},
            }
        )
    )
    words = ["--config", str(config), "--teacher", str(teacher), "--data", "digits", "--seed", "4"]
    run("distill", *words, "--output", str(tmp_path / "student"))
    settings = load(tmp_path / "student").card.provenance["settings"]
    assert settings["training"]["epochs"] == 1  # the file
    assert settings["training"]["seed"] == 4  # the flag
    assert settings["objective"]["gradient"]["weight"] == 0.5  # the file
    assert settings["objective"]["norm"] == "l2"  # the method
    assert settings["objective"]["gradient"]["score"] == "probability"  # the method


def test_corruptions_and_noises_are_asked_for_by_flag_and_change_the_result(teacher: Path, tmp_path: Path) -> None:
    few = ["--examples", "30", "--attack-examples", "10", "--pgd-steps", "1", "--autoattack", "none"]

    def found(name: str, *flags: str) -> dict[tuple[str, float | None], float]:
        run("evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / name), *few, *flags)
        records = read_json(tmp_path / name / "summary.json")
        wanted = [r for r in records if r["metric"] in ("accuracy", "mean_corruption_accuracy")]
        return {(r["perturbation"], r["setting"]): r["value"] for r in wanted}

    plain = found("plain")
    assert not [key for key in plain if "corruption" in key[0] or key[0] == "impulse_snr_db"]
    every = found("all", "--corruptions.kinds", "all")
    assert len([key for key in every if key[0].startswith("corruption_")]) == 75
    some = found(
        *("some", "--corruptions.kinds", "rotate", "contrast", "--corruptions.severities", "3", "5"),
        *("--corruptions.examples", "20", "--noises", "gaussian", "impulse"),
    )
    cells = [key for key in some if key[0].startswith("corruption_")]
    assert cells == [(f"corruption_{kind}", float(s)) for kind in ("rotate", "contrast") for s in (3, 5)]
    assert some["corruptions", None] != every["corruptions", None]
    assert ("impulse_snr_db", 0.0) in some


def test_a_published_set_is_named_by_flag(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = load_data("digits").test
    black = np.zeros((5 * len(test), 8, 8, 1), np.uint8)
    np.save(tmp_path / "soot.npy", black)
    np.save(tmp_path / "labels.npy", test.labels.numpy())
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out"), "--pgd-steps", "1"]
    words += ["--attack-examples", "10", "--autoattack", "none", "--corruptions.set", str(tmp_path)]
    assert "no file gaussian_noise.npy" in refused(capsys, *words)
    run(*words, "--corruptions.kinds", "soot", "--corruptions.severities", "5")
    records = read_json(tmp_path / "out" / "summary.json")
    (record,) = [r for r in records if (r["perturbation"], r["metric"]) == ("corruption_soot", "accuracy")]
    assert record["value"] == pytest.approx(0.1, abs=0.02) and record["n"] == 400


def test_evaluate_prints_the_suite_the_sample_and_what_autoattack_was_spared(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    words = ["evaluate", f"t={teacher}", "--data", "digits", "--output", str(tmp_path / "out"), "--pgd-steps", "1"]
    words += ["--examples", "50", "--attack-examples", "20", "--autoattack-radius", "0.001", "--skip-certified"]
    run(*words, "--masking.steps", "1", "--snr-db", "0")
    shown = capsys.readouterr().out
    assert "AutoAttack fast" in shown and "n = 50 of 400 test examples, under attack 20" in shown
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    spared = sum(row["detail"] == "certified" for row in rows)
    assert spared > 0 and f"certified, so AutoAttack was spared them: t {spared}" in shown


def test_a_search_prints_its_trade_off_and_trains_the_best(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "student"
    words = ["--teacher", str(teacher), "--data", "digits", "--model", "linear", "--epochs", "2"]
    run("distill", *words, "--max-accuracy-drop", "100", "--tries", "2", "--output", str(output))
    shown = capsys.readouterr().out
    assert "chosen" in shown
    record = read_json(output / "search.json")
    assert len(record["tries"]) == 2
    chosen = record["tries"][record["chosen"]]
    assert load(output).card.provenance["settings"]["objective"]["radius"] == chosen["radius"]


def test_demo_replaces_only_the_result_of_a_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    assert "exists already" in refused(capsys, "demo", "--output", tmp_path)
    assert "not the result of a demo" in refused(capsys, "demo", "--overwrite", "--output", tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def bad_npz(folder: Path, **arrays: Any) -> str:
    path = folder / "bad.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_bad_data_is_refused_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "single" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "single" / "cat" / "1.png")
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "dog").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "broken" / "cat" / "1.png")
    (tmp_path / "broken" / "dog" / "bad.png").write_bytes(b"not an image")
    pixels, labels = np.zeros((10, 4), np.float32), np.arange(10) % 2
    nan = pixels.copy()
    nan[3, 2] = np.nan
    cases = {
        f"folder:{tmp_path / 'missing'}": "no such folder",
        f"folder:{tmp_path / 'empty'}": "empty",
        f"folder:{tmp_path / 'single'}": "1 class",
        f"folder:{tmp_path / 'broken'}": "bad.png",
        f"mnist:{tmp_path / 'empty'}": "empty",
        "digit": "did you mean 'digits'",
        "mnist": "say where it is",
    }
    for spec, reason in cases.items():
        words = ["train", "--data", spec, "--model", "linear", "--output", str(tmp_path / "out")]
        assert reason in refused(capsys, *words), spec
    for arrays, reason in (
        ({"x_train": nan, "y_train": labels}, "NaN"),
        ({"x_train": pixels, "y_train": labels * 0}, "class"),
        ({"x_train": pixels, "y_train": labels + 1, "classes": np.array(["a", "b"])}, "out of range"),
    ):
        words = ["train", "--data", bad_npz(tmp_path, **arrays), "--model", "linear", "--output", str(tmp_path / "out")]
        assert reason in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_refused_with_one_line(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", str(tmp_path / "out")]
    distill = ["distill", "--teacher", str(teacher), "--data", "digits", "--model", "linear", *out]
    config = tmp_path / "config.yaml"
    config.write_text("objective: {secant: {wieght: 2}}")
    cases: list[tuple[list[str], str]] = [
        (["train", *LINEAR, *out, "--epochs", "0"], "greater than or equal to 1"),
        (["train", *TRAIN, *out, "--epoch", "3"], "--epochs"),
        (["train", "--data", "digits", "--model", "cnm", *out], "did you mean 'cnn'"),
        (["train", "--data", "digits", "--model", "cnn:0", *out], "positive whole numbers"),
        (["train", "--data", "digits", "--model", "nowhere.models:make", *out], "cannot import"),
        (["train", *LINEAR, *out, "--device", "cuda:77"], "cuda:77"),
        (["train", *TRAIN], "--output"),
        ([*distill, "--secant.weight", "-1"], "greater than or equal to 0"),
        ([*distill, "--method", "secand"], "did you mean 'secant'"),
        ([*distill, "--gradient.kind", "projection", "--gradient.weight", "1"], "needs norm = l2"),
        ([*distill, "--gradient-mode", "eval"], "secant.shared"),
        ([*distill, "--config", str(config)], "did you mean 'weight'"),
        ([*distill, "--config", str(tmp_path / "none.yaml")], "cannot read"),
        ([*distill, "--max-accuracy-drop", "1", "--method", "kd"], "no gradient objective"),
        (["evaluate", "--data", "digits", *out], "at least one"),
        (["evaluate", str(teacher), str(teacher), "--data", "digits", *out], "two models are called"),
        (["evaluate", str(teacher), "--data", "digits", *out, "--baseline", "kd"], "baseline 'kd'"),
        (["evaluate", str(teacher), "--data", "digits", *out, "--corruptions.kinds", "snwo"], "did you mean 'snow'"),
        (
            ["evaluate", str(teacher), "--data", "digits", *out, "--corruptions.severities", "6"],
            "less than or equal to 5",
        ),
        (["report", str(tmp_path / "none")], "none"),
        (["predict", "--model", str(teacher), str(tmp_path / "none.png")], "no such file"),
        (["predict", "--model", str(tmp_path), str(tmp_path / "none.png")], "model.json"),
        (["distil"], "distill"),
    ]
    for words, reason in cases:
        assert reason in refused(capsys, *words), words
    assert not (tmp_path / "out").exists()


def test_teacher_student_and_data_must_belong_together(
    photos: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), np.arange(40) % 4
    words = ["distill", "--teacher", str(teacher), "--model", "linear", "--output", str(tmp_path / "out"), "--data"]
    assert "10 classes" in refused(capsys, *words, bad_npz(tmp_path, x_train=images, y_train=labels))
    assert "shape" in refused(capsys, *words, bad_npz(tmp_path, x_train=images[:, :5], y_train=labels))
    assert "10 classes" in refused(capsys, *words, f"folder:{photos}")


def test_nothing_existing_is_overwritten(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    assert "exists already" in refused(capsys, "train", *TRAIN, "--output", teacher)
    words = ["--teacher", str(teacher), "--data", "digits", "--model", "linear", "--output", str(teacher)]
    assert "exists already" in refused(capsys, "distill", *words)
    assert {path.name: path.read_bytes() for path in teacher.iterdir()} == before
    blocked = tmp_path / "file"
    blocked.write_text("content")
    assert "not a directory" in refused(capsys, "train", *TRAIN, "--output", blocked)
    assert "cannot write" in refused(capsys, "train", *TRAIN, "--output", blocked / "below")


def test_output_is_plain_where_there_is_no_terminal(teacher: Path, tmp_path: Path) -> None:
    words = ["-m", "robust_student", "train", *TRAIN, "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == f"model: {tmp_path / 'run'}"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["provenance"]["seed"] == 0


# Suites ---------------------------------------------------------------------------------------------------------------


def suite_of(tmp_path: Path, *words: str) -> EvaluationSettings:
    """The settings that the words ask for."""
    command = parse(["evaluate", "model", "--data", "digits", "--output", str(tmp_path / "out"), *words], COMMANDS)
    assert isinstance(command, Evaluate)
    return command.evaluation


def test_a_suite_is_a_starting_point_that_flags_and_files_change(tmp_path: Path) -> None:
    assert suite_of(tmp_path) == EvaluationSettings()
    for name, settings in SUITES.items():
        assert suite_of(tmp_path, "--suite", name) == settings
    full = suite_of(tmp_path, "--suite", "full", "--attack-examples", "7", "--corruptions.severities", "2")
    assert full.autoattack == "standard" and full.attack_examples == 7
    assert full.corruptions.kinds == ("all",) and full.corruptions.severities == (2,)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"suite": "full", "evaluation": {"corruptions": {"examples": 9}, "seed": 3}}))
    read = suite_of(tmp_path, "--config", str(config), "--seed", "4")
    assert (read.corruptions.examples, read.seed, read.autoattack) == (9, 4, "standard")


def test_the_full_suite_attacks_and_corrupts(teacher: Path, tmp_path: Path) -> None:
    small = ["--examples", "30", "--attack-examples", "4", "--corruptions.examples", "6", "--snr-db", "0"]
    output = tmp_path / "out"
    run("evaluate", str(teacher), "--data", "digits", "--suite", "full", "--output", str(output), *small)
    records = read_json(output / "summary.json")
    kinds = {r["perturbation"] for r in records if r["perturbation"].startswith("corruption_")}
    assert len(kinds) == 15 and "mean_corruption_accuracy" in {r["metric"] for r in records}
    assert read_json(output / "evaluation.json")["autoattack_suite"] == "standard"


def test_an_unknown_suite_is_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out"), "--suite", "ful"]
    assert "unknown suite 'ful'; did you mean 'full'?" in refused(capsys, *words)


# Several processes ----------------------------------------------------------------------------------------------------

QUICK = [
    "--examples",
    "40",
    "--attack-examples",
    "20",
    "--batch-size",
    "5",
    "--pgd-steps",
    "3",
    "--snr-db",
    "0",
    "--autoattack",
    "none",
]


def test_workers_and_shards_measure_what_one_process_measures(teacher: Path, tmp_path: Path) -> None:
    models = ["evaluate", f"teacher={teacher}", "--data", "digits", "--device", "cpu", *QUICK]
    run(*models, "--output", str(tmp_path / "one"))
    run(*models, "--output", str(tmp_path / "two"), "--workers", "2")
    for index in (1, 0):
        run(*models, "--output", str(tmp_path / "shards"), "--shard", f"{index}/2")
        assert not (tmp_path / "shards" / "summary.json").exists()
    run(*models, "--output", str(tmp_path / "shards"))
    rows = {name: set((tmp_path / name / "rows.jsonl").read_text().splitlines()) for name in ("one", "two", "shards")}
    assert rows["one"] == rows["two"] == rows["shards"] and len(rows["one"]) > 100


def test_workers_share_the_batches(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def append(path: Path, rows: list[dict[str, Any]]) -> None:
        append_jsonl(path, rows)
        measured.append(len(rows))

    monkeypatch.setattr(row_store, "append_jsonl", append)
    run("evaluate", str(teacher), "--data", "digits", *QUICK, "--workers", "3", "--output", str(tmp_path / "out"))
    whole = len((tmp_path / "out" / "rows.jsonl").read_text().splitlines())
    assert whole / 4 < sum(measured) < whole / 2


def test_a_worker_that_fails_is_reported_in_one_line() -> None:
    def work() -> None:
        with beside([["evaluate", "--data", "digits", "--output", "nowhere"]]):
            pass

    assert message_of(work).startswith("worker 1: evaluate: name at least one run directory")


def test_an_unknown_choice_names_the_others_and_no_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "x", "--format", "pdf"])
    said = capsys.readouterr().err
    assert all(f"'{choice}'" in said for choice in ("html", "markdown", "json")) and "None" not in said


def test_a_worker_that_says_much_goes_on_while_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, said = tmp_path / "program", tmp_path / "said"
    code = "import pathlib, sys\nprint('x' * 500_000, file=sys.stderr)\n"
    program.write_text(f"#!{sys.executable}\n{code}pathlib.Path({str(said)!r}).touch()\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with beside([[]]):
        for _ in range(600):
            if said.exists():
                break
            time.sleep(0.1)
        assert said.exists()


def test_a_worker_does_not_outlive_a_failure_of_the_first_process() -> None:
    with pytest.raises(KeyboardInterrupt), beside([["demo", "--output", "unwanted"]]):
        raise KeyboardInterrupt
    assert not Path("unwanted").exists()


def test_bad_shards_are_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(teacher), "--data", "digits", "--output", str(tmp_path / "out")]
    assert "'2/2' is not INDEX/COUNT" in refused(capsys, *words, "--shard", "2/2")
    assert "exclude each other" in refused(capsys, *words, "--shard", "0/2", "--workers", "2")
    assert not (tmp_path / "out").exists()


# Certificates ---------------------------------------------------------------------------------------------------------


def test_certify_brackets_radii_goes_on_and_is_reported(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "certificates"
    words = ["certify", f"student={teacher}", "--data", "digits", "--output", str(output), "--examples", "12"]
    words += ["--linear-examples", "6", "--budgets", "0.01", "0.03", "--attacks", "pgd-bisection"]
    run(*words)
    assert "0.01" in capsys.readouterr().out
    records = read_json(output / "summary.json")
    certified = [r["value"] for r in records if r["metric"] == "certified_accuracy"]
    assert certified and {r["setting"] for r in records if r["metric"] == "certified_accuracy"} == {0.01, 0.03}
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]
    radii = {(row["perturbation"], row["index"]): row["value"] for row in rows}
    for (kind, index), value in radii.items():
        if kind == "certified_linear_decision_radius_linf":
            attack = radii["attack_decision_radius_linf", index]
            assert value is not None and (attack is None or value <= attack)
    assert "holds a finished run" in refused(capsys, *words)
    run("report", str(output))
    assert "certified" in (output / "report.html").read_text()


@pytest.mark.parametrize(("name", "more"), [("evaluate", True), ("certify", True), ("report", False)])
def test_ctrl_c_says_whether_the_same_command_goes_on(
    name: str, more: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robust_student.cli.main.parse", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([name])
    assert stop.value.code == 130
    assert ("the same command goes on" in capsys.readouterr().err) == more
