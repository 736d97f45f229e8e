"""Corruptions inside an evaluation: cells, records, resumption, options."""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import affine, message_of, prototype_classifier, toy_data
from torch import nn

from robust_student.core.rng import example_seeds
from robust_student.core.tensors import UNBOUNDED, UNIT_RANGE
from robust_student.corruptions.kinds import IMAGENET_C, corrupt
from robust_student.data.readers.load import Data, Examples
from robust_student.evaluation import row_store
from robust_student.evaluation.corruption_measurements import corruption_kinds
from robust_student.evaluation.evaluate import evaluate
from robust_student.evaluation.settings import CorruptionSettings, EvaluationSettings
from robust_student.results.intervals import mean_over_examples, relative_drop
from robust_student.results.records import find
from robust_student.results.rows import EVALUATION, ROWS, SUMMARY
from robust_student.runtime.files import append_jsonl, read_json, read_jsonl

Records = list[dict[str, Any]]
DATA = toy_data(train=60, test=45, shape=(1, 8, 8), noise=0.5)
CORRUPTED = CorruptionSettings(kinds=("impulse_noise", "contrast"), severities=(1, 5), examples=24)
SETTINGS = EvaluationSettings(
    examples=36,
    attack_examples=9,
    snr_db=(0.0,),
    pgd_linf=(0.05,),
    pgd_l2=(0.3,),
    pgd_steps=2,
    autoattack="none",
    corruptions=CORRUPTED,
    batch_size=7,
    device="cpu",
)


def models(data: Data = DATA) -> dict[str, nn.Module]:
    generator = torch.Generator().manual_seed(4)
    size = data.training_examples.inputs[0].numel()
    return {"kd": prototype_classifier(data), "new": affine(torch.randn((3, size), generator=generator))}


def run(output: Path, settings: EvaluationSettings = SETTINGS, data: Data = DATA) -> Records:
    evaluate(models(data), data, settings, output=output)
    return read_json(output / SUMMARY)


def corrupted(**changes: Any) -> EvaluationSettings:
    return SETTINGS.model_copy(update={"corruptions": CORRUPTED.model_copy(update=changes)})


def rows_of(output: Path, beginning: str = "corruption_") -> list[dict[str, Any]]:
    return [row for row in read_jsonl(output / ROWS) if row["perturbation"].startswith(beginning)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("corrupted") / "evaluation"
    run(output)
    return output


def write_set(folder: Path, labels: np.ndarray[Any, Any] | None = None) -> Path:
    """A set in which snow gets darker with severity."""
    pixels = (255 * DATA.test.inputs.permute(0, 2, 3, 1)).numpy()
    stack = np.concatenate([pixels / severity for severity in range(1, 6)])
    np.save(folder / "snow.npy", stack.astype(np.uint8))
    np.save(folder / "labels.npy", DATA.test.labels.numpy() if labels is None else labels)
    return folder


# Cells ----------------------------------------------------------------------------------------------------------------


def test_all_stands_for_the_fifteen_and_no_kind_is_measured_twice() -> None:
    assert corruption_kinds(CorruptionSettings()) == ()
    assert corruption_kinds(CorruptionSettings(kinds=("snow", "all", "shift"))) == (
        "snow",
        *(kind for kind in IMAGENET_C if kind != "snow"),
        "shift",
    )
    assert corruption_kinds(CorruptionSettings(set=Path("somewhere"))) == tuple(IMAGENET_C)


def test_every_model_is_measured_on_the_same_stratified_examples_in_every_cell(finished: Path) -> None:
    cells: dict[tuple[str, str, float], list[int]] = {}
    for row in rows_of(finished):
        cells.setdefault((row["model"], row["perturbation"], row["setting"]), []).append(row["index"])
    kinds = ("corruption_impulse_noise", "corruption_contrast")
    assert set(cells) == {(m, kind, float(s)) for m in ("kd", "new") for kind in kinds for s in (1, 5)}
    (indices,) = {tuple(sorted(positions)) for positions in cells.values()}
    assert len(indices) == 24 and Counter(DATA.test.labels[list(indices)].tolist()) == {0: 8, 1: 8, 2: 8}
    assert set(indices) <= {row["index"] for row in rows_of(finished, "none")}


def test_rows_are_the_models_answers_to_the_corrupted_test_images(finished: Path) -> None:
    for row in rows_of(finished):
        inputs, kind = DATA.test.inputs[row["index"]][None], row["perturbation"].removeprefix("corruption_")
        changed = corrupt(kind, inputs, int(row["setting"]), example_seeds(0, [row["index"]]), UNIT_RANGE)
        assert row["prediction"] == int(models()[row["model"]](changed).argmax())
        assert row["label"] == int(DATA.test.labels[row["index"]])
        assert row["correct"] is (row["prediction"] == row["label"])


@pytest.mark.parametrize("examples", [4, 9, 24, None])
def test_corruptions_change_nothing_else_that_is_measured(examples: int | None, tmp_path: Path) -> None:
    rounded = ("value", "confidence", "nll", "brier")  # batches differ, and with them rounding

    def others(output: Path) -> list[dict[str, Any]]:
        rows = [row for row in rows_of(output, "") if not row["perturbation"].startswith("corruption_")]
        return sorted(rows, key=lambda row: (row["model"], row["perturbation"], str(row["setting"]), row["index"]))

    run(tmp_path / "with", corrupted(examples=examples))
    run(tmp_path / "without", corrupted(kinds=()))
    assert len(rows_of(tmp_path / "with")) == 2 * 2 * 2 * (examples or 36)
    assert not rows_of(tmp_path / "without")
    for one, other in zip(others(tmp_path / "with"), others(tmp_path / "without"), strict=True):
        assert one | dict.fromkeys(rounded) == other | dict.fromkeys(rounded)
        assert [one[name] is None for name in rounded] == [other[name] is None for name in rounded]
        assert [one[name] or 0 for name in rounded] == pytest.approx([other[name] or 0 for name in rounded], 1e-3, 1e-5)


def test_an_interrupted_evaluation_goes_on_to_the_same_result(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = read_jsonl(finished / ROWS)
    inside = next(i for i, row in enumerate(lines) if row["perturbation"] == "corruption_contrast") + 10
    written = 0

    def dying(path: Path, rows: list[dict[str, Any]]) -> None:
        nonlocal written
        append_jsonl(path, rows)
        written += len(rows)
        if written >= inside:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "append_jsonl", dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out")
    records = run(tmp_path / "out")
    assert read_jsonl(tmp_path / "out" / ROWS) == lines
    usual = [r for r in read_json(finished / SUMMARY) if r["metric"] != "latency"]
    assert [r for r in records if r["metric"] != "latency"] == usual


def test_inputs_that_are_not_images_with_a_range_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    flat = toy_data(shape=(16,), input_range=UNBOUNDED)
    endless = toy_data(shape=(1, 8, 8), input_range=UNBOUNDED)
    small = toy_data(shape=(3, 7, 9))
    for data, reason in ((flat, "not images"), (endless, "no range"), (small, "8x8")):
        assert reason in message_of(partial(run, tmp_path / "out", data=data))
    assert "did you mean 'contrast'" in message_of(lambda: run(tmp_path / "out", corrupted(kinds=("contrst",))))
    assert not (tmp_path / "out").exists()


# A published set ------------------------------------------------------------------------------------------------------


def test_a_published_set_takes_the_place_of_generated_images(tmp_path: Path) -> None:
    run(tmp_path / "out", corrupted(set=write_set(tmp_path), kinds=("snow",), severities=(2, 4)))
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 2 * 2 * 24 and {row["perturbation"] for row in rows} == {"corruption_snow"}
    for row in rows:
        pixels = (255 * DATA.test.inputs[row["index"]] / row["setting"]).to(torch.uint8)
        assert row["prediction"] == int(models()[row["model"]](pixels[None].float() / 255).argmax())
    described = read_json(tmp_path / "out" / EVALUATION)["corruptions"]
    assert described == {"source": f"set {tmp_path.name}", "kinds": ["snow"], "severities": [2, 4], "examples": 24}


def test_a_set_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_set(tmp_path, labels=DATA.test.labels.numpy()[::-1].copy())
    settings = corrupted(set=tmp_path, kinds=("snow",))
    assert "order of the corruption set" in message_of(lambda: run(tmp_path / "out", settings))
    write_set(tmp_path)
    assert "no file gaussian_noise.npy" in message_of(lambda: run(tmp_path / "out", corrupted(set=tmp_path, kinds=())))
    flat = toy_data(shape=(64,))
    assert "not images" in message_of(lambda: run(tmp_path / "out", settings, flat))
    assert not (tmp_path / "out").exists()


def test_a_set_whose_files_have_changed_does_not_continue_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = corrupted(set=write_set(tmp_path), kinds=("snow",))

    def dying(path: Path, rows: list[dict[str, Any]]) -> None:
        append_jsonl(path, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "append_jsonl", dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", settings)
    whole = np.load(tmp_path / "snow.npy")
    changed = whole.copy()
    changed[-1, -1, -1] ^= 1
    np.save(tmp_path / "snow.npy", changed)
    assert "other models, data or settings" in message_of(lambda: run(tmp_path / "out", settings))
    np.save(tmp_path / "snow.npy", whole)
    assert run(tmp_path / "out", settings)
    written = read_json(tmp_path / "out" / EVALUATION)["fingerprint"]["corruption_set"]
    one = {name: hashlib.sha256((tmp_path / f"{name}.npy").read_bytes()).hexdigest() for name in ("snow", "labels")}
    assert written == hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in one.items()).encode()).hexdigest()


# Records --------------------------------------------------------------------------------------------------------------


def test_records_average_over_kinds_and_severities_on_the_same_examples(finished: Path) -> None:
    records, rows = read_json(finished / SUMMARY), rows_of(finished)
    clean = {(r["model"], r["index"]): r["correct"] for r in rows_of(finished, "none")}
    shares: dict[str, dict[int, float]] = {}
    for name in models():
        indices = sorted({row["index"] for row in rows})
        outcomes = [[row["correct"] for row in rows if (row["model"], row["index"]) == (name, i)] for i in indices]
        assert all(len(cells) == 4 for cells in outcomes)
        shares[name] = {i: sum(cells) / 4 for i, cells in zip(indices, outcomes, strict=True)}
        (mean,) = find(records, name, "mean_corruption_accuracy", "corruptions")
        (drop,) = find(records, name, "relative_corruption_drop", "corruptions")
        values, before = list(shares[name].values()), [float(clean[name, i]) for i in indices]
        assert (mean["value"], mean["low"], mean["high"]) == pytest.approx(tuple(mean_over_examples(values)))
        assert (drop["value"], drop["low"], drop["high"]) == pytest.approx(tuple(relative_drop(before, values)))
        for record in (mean, drop):
            assert (record["n"], record["interval"], record["unit"], record["setting"]) == (
                24,
                "bootstrap95",
                None,
                None,
            )
    (pair,) = find(records, "new", "mean_corruption_accuracy_minus_kd", "corruptions")
    expected = mean_over_examples([shares["new"][i] - shares["kd"][i] for i in shares["kd"]])
    assert (pair["value"], pair["low"], pair["high"]) == pytest.approx(tuple(expected))
    assert pair["interval"] == "paired_bootstrap95"
    assert not find(records, "kd", "mean_corruption_accuracy_minus_kd", "corruptions")


def test_the_mean_is_that_of_the_cells_and_every_cell_has_its_record(finished: Path) -> None:
    records = read_json(finished / SUMMARY)
    for name in models():
        cells = [record for kind in CORRUPTED.kinds for record in find(records, name, "accuracy", f"corruption_{kind}")]
        assert [(r["setting"], r["unit"], r["n"], r["verdict"]) for r in cells] == 2 * [
            (1.0, "severity", 24, None),
            (5.0, "severity", 24, None),
        ]
        (mean,) = find(records, name, "mean_corruption_accuracy", "corruptions")
        assert mean["value"] == pytest.approx(np.mean([r["value"] for r in cells]))


def test_without_corruptions_there_is_no_record_of_them(tmp_path: Path) -> None:
    records = run(tmp_path / "out", corrupted(kinds=()))
    assert not [r for r in records if "corruption" in r["metric"] + r["perturbation"]]
    assert read_json(tmp_path / "out" / EVALUATION)["corruptions"] is None


def test_the_details_say_where_the_corruptions_are_from(finished: Path) -> None:
    described = read_json(finished / EVALUATION)["corruptions"]
    kinds = ["impulse_noise", "contrast"]
    assert described == {"source": "generated", "kinds": kinds, "severities": [1, 5], "examples": 24}


# Every option matters -------------------------------------------------------------------------------------------------


OTHERS: dict[str, Any] = {"kinds": ("impulse_noise",), "severities": (1, 4), "examples": 12, "set": None}


def test_the_list_of_options_is_complete() -> None:
    assert set(OTHERS) == set(CorruptionSettings.model_fields)


@pytest.mark.parametrize("option", list(OTHERS))
def test_every_option_changes_the_result(option: str, finished: Path, tmp_path: Path) -> None:
    def means(records: Records) -> list[tuple[Any, ...]]:
        averages = [find(records, name, "mean_corruption_accuracy", "corruptions") for name in models()]
        return [(record["value"], record["n"]) for (record,) in averages]

    if option == "set":
        usual = run(tmp_path / "usual", corrupted(kinds=("snow",)))
        records = run(tmp_path / "out", corrupted(kinds=("snow",), set=write_set(tmp_path)))
    else:
        usual = read_json(finished / SUMMARY)
        records = run(tmp_path / "out", corrupted(**{option: OTHERS[option]}))
    assert means(records) != means(usual)


def test_a_stored_test_set_of_bytes_is_corrupted_in_its_units(tmp_path: Path) -> None:
    def as_bytes(examples: Examples) -> Examples:
        return Examples((255 * examples.inputs).round().to(torch.uint8), examples.labels)

    data = Data(DATA.name, as_bytes(DATA.training_examples), as_bytes(DATA.test), DATA.classes, UNIT_RANGE)
    records = run(tmp_path / "out", data=data)
    assert find(records, "kd", "mean_corruption_accuracy", "corruptions")[0]["value"] > 0.5
