"""Bad networks and weights, and bad teachers of every kind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_inputs import (
    DEEP,
    DISTILL,
    EVALUATE,
    MANY,
    OUT,
    OWN,
    Bad,
    assert_refused,
    assert_the_program_refuses,
    every,
    named,
)
from spoiled import all_of, factory, fifo, folder, hostile_checkpoint, hostile_pickle, hub_folder, saved, state, text

NO_GRADIENT = f"m = {OWN.removeprefix('return ')}; m.register_forward_hook(lambda m, i, o: o.detach()); return m"
POOL = "return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))"
INFINITE = f"m = {OWN.removeprefix('return ')}; nn.init.constant_(m[1].bias, float('inf')); return m"


def network(
    name: str, spec: str, message: str, make: Callable[[], object] = lambda: None, source: str = "digits"
) -> Bad:
    """A bad network to train."""
    return Bad(f"network: {name}", f"train --data {source} {OUT} --model {spec}", message, make)


def own_weights(name: str, message: str, make: Callable[[], object]) -> Bad:
    """Bad weights `w.pt` for a network of the user's own, which is in order."""
    return Bad(f"weights: {name}", f"{EVALUATE} mine=own.py:make@w.pt", message, all_of(factory(OWN), make))


INTAKE = [
    Bad("intake: mean without std", f"{DISTILL} --teacher-mean 0.5", "teacher_mean and teacher_std go together"),
    Bad("intake: NaN", f"{DISTILL} --teacher-mean nan --teacher-std 1", "finite"),
    Bad("intake: no size", f"{DISTILL} --teacher-input-size 0", "greater than or equal to 1"),
    Bad("intake: giant size", f"{DISTILL} --teacher-input-size 1000000", "teacher_input_size"),
    Bad("intake: accuracy as a share", f"{DISTILL} --teacher-accuracy 0.95", "greater than 1"),
    Bad("intake: accuracy it has not", f"{DISTILL} --teacher-accuracy 99", "not 99 %"),
    Bad("intake: class names are missing", f"{DISTILL} --teacher-classes no.txt", "no.txt"),
    Bad("intake: class names are a pipe", f"{DISTILL} --teacher-classes n.txt", "n.txt", fifo("n.txt")),
    Bad("intake: other class names", f"{DISTILL} --teacher-classes n.txt", "n.txt", text("n.txt", "cat\ndog\n")),
    Bad("intake: weights of a run", f"{DISTILL} --teacher-weights w.pt", "drop --teacher-weights"),
    Bad("program: missing", f"{EVALUATE} p.pt2", "p.pt2"),
    Bad("program: unasked", f"{EVALUATE} p.pt2", "p.pt2", text("p.pt2", "hello")),
    Bad("program: text", f"{EVALUATE} p.pt2 --trust", "p.pt2", text("p.pt2", "hello")),
    Bad("hub folder: config is not JSON", f"{EVALUATE} hub", "config.json", hub_folder("{")),
    Bad("hub folder: names no network", f"{EVALUATE} hub", "names no network", hub_folder("{}")),
    Bad("hub folder: names code", f"{EVALUATE} hub", "not a built-in", hub_folder('{"network": "own.py:make"}')),
    Bad("hub folder: too deep", f"{EVALUATE} hub", "config.json", hub_folder(DEEP)),
    Bad("library: unknown network", f"{EVALUATE} timm:resnet1", "timm:resnet1"),
    Bad("library: without weights", f"{EVALUATE} torchvision:resnet18", "has no weights"),
    Bad("doctor: unknown flag", "doctor --date digits", "--data"),
]


NETWORKS = [
    network(
        "cut from its parameters", "own.py:make", "no gradient with respect to any parameter", factory(NO_GRADIENT)
    ),
    network("misspelt", "cnm", "did you mean 'cnn'?"),
    network("name and width without a colon", "cnn16", "did you mean 'cnn:16'?"),
    network("name and widths without a colon", "mlp-64,32", "did you mean 'mlp:64,32'?"),
    network("nothing", "''", "unknown name ''"),
    network("no width", "cnn:0", "positive whole numbers"),
    network("width is a word", "cnn:wide", "positive whole numbers"),
    network("too many widths", "cnn:8,8", "takes fewer numbers than 2"),
    network("ten billion units", f"mlp:{10**10}", "would have 7.5e+11 parameters"),
    network("giant convolution", "cnn:100000", "would have 9e+11 parameters"),
    network("giant residual network", "resnet20:100000", "would have 1e+13 parameters"),
    network("giant orthogonal network", f"lipschitz:{10**6}", "of memory"),
    network("beyond any number", f"mlp:{10**30}", "countless parameters"),
    network("deep beyond reason", f"mlp:{','.join(['1'] * MANY)}", f"takes fewer numbers than {MANY}"),
    network("images for vectors", "cnn:4", "use mlp", source="npz:good.npz"),
    network("module is missing", "nowhere.models:make", "cannot import module"),
    network("file is missing", "nowhere.py:make", "no file nowhere.py"),
    network("no such factory", "own.py:other", "has no 'other'", factory("return None")),
    network("not Python", "own.py:make", "SyntaxError", text("own.py", "def make(:")),
    network("factory fails", "own.py:make", "the factory failed (ZeroDivisionError", factory("1 / 0")),
    network("factory leaves", "own.py:make", "the factory failed (SystemExit", factory("sys.exit(3)")),
    network("not a module", "own.py:make", "returned int", factory("return 1")),
    network("other inputs", "own.py:make", "fails on inputs of shape (1, 8, 8)", factory("return nn.Linear(3, 10)")),
    network("other outputs", "own.py:make", "expected 10 logits", factory(OWN.replace("10", "3"))),
    network("no parameters", "own.py:make", "no trainable parameters", factory(POOL)),
    network("infinite logits", "own.py:make", "NaN or infinite logits", factory(INFINITE)),
]
WEIGHTS = [
    own_weights("missing", "no such file", lambda: None),
    own_weights("a folder", "no file config.json", folder("w.pt")),
    own_weights("text", "not a file of torch.save", text("w.pt", "hello")),
    own_weights("a pickle", "a plain pickle is never read", hostile_pickle("w.pt")),
    own_weights("a checkpoint with code", "refused, it holds 'io.open'", hostile_checkpoint("w.pt")),
    own_weights("a list", "holds list, not a state_dict", saved([1])),
    own_weights("of another network", "do not fit the network", saved({"a": torch.zeros(1)})),
    own_weights("whole numbers", "'1.weight' holds torch.int64", saved(state(torch.zeros(10, 64, dtype=torch.int64)))),
    own_weights("complex numbers", "'1.weight' holds torch.complex64", saved(state(torch.zeros(10, 64) * 1j))),
    own_weights(
        "8-bit floats", "'1.weight' holds torch.float8", saved(state(torch.zeros(10, 64).to(torch.float8_e4m3fn)))
    ),
    own_weights("NaN", "'1.weight' holds NaN", saved(state(torch.full((10, 64), torch.nan)))),
    own_weights("of another shape", "'1.weight' has shape (10, 63)", saved(state(torch.zeros(10, 63)))),
]


@every(INTAKE, NETWORKS, WEIGHTS)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(bad, here, capfd)


def test_the_program_itself_ends_the_same_way(here: Path) -> None:
    assert_the_program_refuses(named("weights: a checkpoint with code", WEIGHTS), here)
