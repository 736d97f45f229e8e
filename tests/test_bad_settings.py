"""Bad files of settings."""

from pathlib import Path

import pytest
from bad_inputs import (
    CERTIFY,
    DISTILL,
    EVALUATE,
    MANY,
    OUT,
    Bad,
    assert_refused,
    assert_the_program_refuses,
    every,
    named,
)
from spoiled import fifo, text

LAUGHS = "".join(f"x{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30))
"""Thirty lines of YAML that mean 9^29 words."""


def config(name: str, content: str | bytes, message: str, words: str = DISTILL) -> Bad:
    """A bad YAML file."""
    return Bad(f"config: {name}", f"{words} --config c.yaml", message, text("c.yaml", content))


CONFIGS = [
    Bad("config: missing", f"{DISTILL} --config no.yaml", "no.yaml: cannot read it"),
    Bad("config: a folder", f"{DISTILL} --config photos", "photos: cannot read it"),
    Bad("config: never ends", f"{DISTILL} --config /dev/zero", "/dev/zero: cannot read it"),
    Bad("config: a pipe", f"{DISTILL} --config c.yaml", "cannot read it (not a file)", fifo("c.yaml")),
    config("not YAML", "a: [1", "not valid YAML"),
    config("a list", "- epochs: 1", "expected 'name: value' pairs"),
    config("a word", "epochs", "expected 'name: value' pairs"),
    config("not text", b"\xff\xfe\x00\x01", "not valid YAML"),
    config("unknown setting", "epoch: 1", "did you mean 'training.epochs'?"),
    config("unknown setting in a group", "objective: {secant: {wieght: 2}}", "did you mean 'weight'?"),
    config("name that is not a word", "1: 2", "1 is not the name of a setting"),
    config("name in a group that is not a word", "training: {1: 2}", "'training.1'"),
    config("word for a number", "training: {epochs: many}", "(got 'many')"),
    config("number for a group", "training: 3", "'training'"),
    config("list for a group", "objective: [1]", "'objective'"),
    config("nothing for a group", "objective: {secant: null}", "'objective.secant'"),
    config("NaN", "training: {learning_rate: .nan}", "'training.learning_rate'"),
    config("giant number", f"training: {{epochs: {'9' * MANY}}}", "not valid YAML"),
    config("unknown method", "method: [secant]", "unknown method"),
    config("impossible date", "method: 2001-99-99", "not valid YAML"),
    config("unknown alias", "training: *other", "not valid YAML"),
    config("too deep", "a: " + "[" * MANY + "]" * MANY, "not valid YAML"),
    config("code", "training: !!python/object/apply:os.system ['touch executed.txt']", "not valid YAML"),
    config("billion laughs", f"a0: &a0 lol\n{LAUGHS}", "unknown setting 'a0'"),
    config("billion laughs for a value", f"x0: &a0 lol\n{LAUGHS}training: {{epochs: *a29}}", "'training.epochs'"),
    config("billion laughs for a method", f"x0: &a0 lol\n{LAUGHS}method: *a29", "unknown method"),
    config("nested in itself", "training: &a {selection: *a}", "training.selection"),
    config("a setting of another command", "suite: full", "unknown setting 'suite'"),
    config("null byte in a path", 'teacher: "a\\0b"', "model a\\x00b", f"distill --data digits --model linear {OUT}"),
    config("suite of evaluate", "suite: 3", "unknown suite 3", f"{EVALUATE} teacher"),
    config("a name twice", "training: {epochs: 1, epochs: 2}", "'epochs' is given twice"),
    config("another config", "config: d.yaml", "a file cannot name another one"),
    config("settings of certify", "certification: {norm: l3}", "'certification.norm'", f"{CERTIFY} teacher"),
]


@every(CONFIGS)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(bad, here, capfd)


def test_the_program_itself_ends_the_same_way(here: Path) -> None:
    assert_the_program_refuses(named("config: code", CONFIGS), here)
