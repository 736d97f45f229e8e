"""Damaged files that the program itself wrote: runs, evidence, checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_inputs import DEEP, DISTILL, EVALUATE, PREDICT, Bad, assert_refused, every
from spoiled import (
    EVALUATED,
    HALTED,
    Payload,
    card,
    checkpoint_files,
    checkpoints,
    compressed,
    cut,
    fifo,
    folder,
    link,
    remove,
    state,
    text,
    torch_bytes,
    weights,
)

ONE = torch.ones(1)


def evidence(name: str, message: str, make: Callable[[], object], words: str = "report evaluation") -> Bad:
    """Damaged evidence."""
    return Bad(f"evidence: {name}", words, message, make)


def checkpoint(name: str, message: str, make: Callable[[], object], more: str = "") -> Bad:
    """A bad unfinished training that is to be continued."""
    return Bad(f"checkpoints: {name}", " ".join(HALTED) + more, message, make)


def run(name: str, message: str, make: Callable[[], object], words: str = f"{EVALUATE} teacher") -> Bad:
    """A bad run directory, given to evaluate."""
    return Bad(f"run: {name}", words, message, make)


RUNS = [
    run("is missing", "nowhere: no file model.json", lambda: None, f"{EVALUATE} nowhere"),
    run("without a card", "no file model.json", remove("teacher/model.json")),
    run("without weights", "no file model.safetensors", remove("teacher/model.safetensors")),
    run("card is a folder", "no file model.json", folder("teacher/model.json")),
    run("card is a pipe", "no file model.json", fifo("teacher/model.json")),
    run("card is not JSON", "not valid JSON", text("teacher/model.json", "{")),
    run("card is not text", "not valid JSON", text("teacher/model.json", b"\xff\xfe")),
    run("card is a list", "model.json", text("teacher/model.json", "[]")),
    run("card is too deep", "not valid JSON", text("teacher/model.json", DEEP)),
    run("card without classes", "'classes'", text("teacher/model.json", '{"network": "linear", "input_shape": [4]}')),
    run("card with one class", "'classes'", card(classes=["a"])),
    run("card of a newer version", "'schema_version'", card(schema_version=99)),
    run("card with an unknown setting", "unknown setting 'netwrok'; did you mean 'network'?", card(netwrok="linear")),
    run("card with an empty range", "must grow from low to high", card(input_range=[1, 0])),
    run("card with an empty shape", "'input_shape", card(input_shape=[0])),
    run("card with a giant shape", "input_shape", card(input_shape=[10**6, 10**6])),
    run("card with a shape beyond any number", "input_shape", card(input_shape=[10**30])),
    run("card with giant images", "input_shape", card(input_shape=[3, 10**6, 10**6], network="cnn:4")),
    run("card with another shape", "the model expects (1, 9, 9)", card(input_shape=[1, 9, 9])),
    run("card without a network", "load it in Python", card(network=None)),
    run("card with an unknown network", "teacher/model.json: model: unknown name 'cnnn'", card(network="cnnn")),
    run("card with a giant network", "parameters", card(network=f"mlp:{10**10}")),
    run("card with another network", "do not fit network 'linear'", card(network="linear")),
    run("card with too many classes", "do not fit", card(classes=[str(k) for k in range(11)])),
    run("card with other classes", "the class order differs", card(classes=list("0123456798"))),
    run("weights are damaged", "damaged", cut("teacher/model.safetensors")),
    run(
        "weights hold NaN",
        "NaN or infinite values",
        weights(lambda t: t | {"network.1.bias": torch.full((8,), torch.nan)}),
    ),
    run("weights of another shape", "do not fit", weights(lambda t: t | {"network.1.bias": torch.zeros(9)})),
    run("weights are missing", "do not fit", weights(lambda t: {n: v for n, v in t.items() if n != "network.1.bias"})),
    run("weights of nothing", "do not fit", weights(lambda t: t | {"network.9.bias": torch.zeros(9)})),
    run(
        "weights are whole numbers",
        "'network.1.bias'",
        weights(lambda t: t | {"network.1.bias": torch.zeros(8, dtype=torch.int64)}),
    ),
    run(
        "weights are halves",
        "'network.1.bias'",
        weights(lambda t: t | {"network.1.bias": torch.zeros(8, dtype=torch.float16)}),
    ),
    run(
        "weights are 8-bit floats",
        "'network.1.bias'",
        weights(lambda t: t | {"network.1.bias": torch.zeros(8).to(torch.float8_e4m3fn)}),
    ),
    run(
        "weights without normalisation",
        "no normalisation",
        weights(lambda t: {n: v for n, v in t.items() if n != "std"}),
    ),
    run("normalisation does not fit", "weights do not fit", weights(lambda t: t | {"mean": torch.zeros(5, 1, 1)})),
    run(
        "normalisation divides by nothing",
        "every 'std' must be positive",
        weights(lambda t: t | {"std": torch.zeros(1, 1, 1)}),
    ),
    run(
        "normalisation is whole numbers",
        "'std'",
        weights(lambda t: t | {"std": torch.ones(1, 1, 1, dtype=torch.int64)}),
    ),
    run("records are damaged", "metrics.jsonl", text("teacher/metrics.jsonl", "{\n{}\n")),
    run("records are a folder", "metrics.jsonl", folder("teacher/metrics.jsonl")),
    run("records are too deep", "metrics.jsonl", text("teacher/metrics.jsonl", f"{DEEP}\n{{}}\n")),
    run("search is damaged", "search.json", text("teacher/search.json", "{")),
    run("search is a list", "search.json", text("teacher/search.json", "[]")),
    run("of other inputs", "inputs have shape", lambda: None, f"{EVALUATE} vectors"),
    run(
        "teacher of other inputs",
        "inputs have shape",
        lambda: None,
        DISTILL.replace("teacher teacher", "teacher vectors"),
    ),
    run("predicts images", "not images", lambda: None, "predict --model vectors photos/cat/1.png"),
    run("predicts nothing", "no.png: cannot read it (no such file)", lambda: None, f"{PREDICT} no.png"),
    run("predicts text", "model.json: cannot read it", lambda: None, f"{PREDICT} teacher/model.json"),
]
GO_ON = " ".join(EVALUATED).replace("evaluation", "unfinished")
STRANGE = '{"model": [], "perturbation": 1, "setting": "a", "index": [], "label": 0, "prediction": 0, "correct": 7}\n'
EVIDENCE = [
    Bad("evidence: missing", "report nowhere", "nowhere: no such directory"),
    Bad("evidence: a run", "report teacher", "teacher: holds neither evaluation.json nor certification.json"),
    Bad("evidence: a file", "report good.npz", "good.npz: is not a directory"),
    Bad("evidence: unfinished", "report unfinished", "unfinished: unfinished (no summary.json)"),
    Bad("evidence: rows are missing", "report evaluation", "rows.jsonl", remove("evaluation/rows.jsonl")),
    Bad("evidence: certificates are missing", "report evaluation --certificates nowhere", "file nowhere/"),
    Bad("evidence: certificates of nothing", "report evaluation --certificates evaluation", "no certification.json"),
    Bad("evidence: seeds of certificates", "report evaluation certificates --seeds", "holds certificates"),
    evidence("summary is not JSON", "summary.json: not valid JSON", text("evaluation/summary.json", "[")),
    evidence("summary is a mapping", "should be a valid list", text("evaluation/summary.json", "{}")),
    evidence("summary is too deep", "summary.json: not valid JSON", text("evaluation/summary.json", DEEP)),
    evidence("details are damaged", "should be a valid dictionary", text("evaluation/evaluation.json", "[]")),
    evidence("rows are damaged", "'0.model': field required", text("evaluation/rows.jsonl", "{}\n{}\n")),
    evidence("rows are lists", "line 1 is not a JSON object", text("evaluation/rows.jsonl", "[1]\n[2]\n")),
    evidence("rows of the wrong type", "'0.model'", text("evaluation/rows.jsonl", 2 * STRANGE)),
    evidence("unfinished rows are damaged", "a line is not a row", text("unfinished/rows.jsonl", "{}\n{}\n"), GO_ON),
    evidence("unfinished rows are strange", "a line is not a row", text("unfinished/rows.jsonl", 2 * STRANGE), GO_ON),
]
CHECKPOINTS = [
    checkpoint("are cut", "damaged (its checksum is not the one in its name)", checkpoint_files(cut)),
    checkpoint("are pipes", "cannot read it (not a file)", checkpoint_files(fifo)),
    checkpoint("are folders", "cannot read it (not a file)", checkpoint_files(folder)),
    checkpoint("never end", "cannot read it (not a file)", checkpoint_files(lambda path: link(path, "/dev/zero"))),
    checkpoint("are text", "not readable", checkpoints(lambda: b"hello")),
    checkpoint("hold code", "could run code", checkpoints(torch_bytes({"model": Payload()}))),
    checkpoint("are compressed", "refused (compressed entries", checkpoints(lambda: compressed(torch_bytes({})()))),
    checkpoint("hold a list", "holds list, not the state of a training", checkpoints(torch_bytes([1]))),
    checkpoint("hold nothing", "not one of this training", checkpoints(torch_bytes({}))),
    checkpoint("hold weights alone", "not one of this training", checkpoints(torch_bytes({"model": state(ONE)}))),
    checkpoint("of another training", "seed: 0 there, 1 here", lambda: None, " --seed 1"),
    checkpoint("of nothing", "something else (everything)", text("halted/training.json", "[]")),
    checkpoint("card is not JSON", "training.json: not valid JSON", text("halted/training.json", "{")),
    checkpoint("card is too deep", "training.json: not valid JSON", text("halted/training.json", DEEP)),
    checkpoint("card is a pipe", "training.json: cannot read it (not a file)", fifo("halted/training.json")),
]


@every(RUNS, EVIDENCE, CHECKPOINTS)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(bad, here, capfd)
