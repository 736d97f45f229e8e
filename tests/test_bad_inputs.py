"""Bad inputs of every kind: one clear line on standard error, exit code 2, nothing written or changed."""

import hashlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from spoiled import (
    EVALUATED,
    HALTED,
    Payload,
    all_of,
    arrays,
    card,
    checkpoint_files,
    checkpoints,
    compressed,
    cut,
    factory,
    fifo,
    folder,
    gzip_claiming,
    hostile_checkpoint,
    hostile_pickle,
    hub_folder,
    idx,
    link,
    nan_tiff,
    npz_claiming,
    png,
    png_claiming,
    remove,
    rename,
    saved,
    state,
    table,
    text,
    torch_bytes,
    weights,
    world,
)

from robust_student.cli.main import main

MANY = 5000
DEEP = "[" * 10**5
OUT = "--output out"
TRAIN = f"train --data digits --model linear {OUT}"
FIT = f"train --model linear {OUT} --data"
DISTILL = f"distill --teacher teacher --data digits --model linear {OUT}"
EVALUATE = f"evaluate --data digits {OUT}"
CERTIFY = f"certify --data digits {OUT}"
PREDICT = "predict --model teacher"
PHOTO, TABLE_FILE = "photos/dog/1.png", "parquet/train-0.parquet"
IMAGES, LABELS = "mnist/train-images-idx3-ubyte", "mnist/train-labels-idx1-ubyte"
TEST, TEST_LABELS = "mnist/t10k-images-idx3-ubyte", "mnist/t10k-labels-idx1-ubyte"
SPLIT = [text(f"photos/{name}/1.png", png()) for name in ("train/cat", "train/cow", "test/dog")]
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(executed.txt) (w) file\n"
CIFAR = [text(f"c/{name}", "") for name in ("test_batch", *(f"data_batch_{k}" for k in range(1, 6)))]
OWN = "return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
NO_GRADIENT = f"m = {OWN.removeprefix('return ')}; m.register_forward_hook(lambda m, i, o: o.detach()); return m"
POOL = "return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))"
INFINITE = f"m = {OWN.removeprefix('return ')}; nn.init.constant_(m[1].bias, float('inf')); return m"
ONE = torch.ones(1)
LAUGHS = "".join(f"x{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30))
"""Thirty lines of YAML that mean 9^29 words."""


class Bad(NamedTuple):
    """An input that must be refused."""

    name: str
    words: str
    """What the user types."""
    message: str
    """Part of the complaint."""
    make: Callable[[], object] = lambda: None
    """Makes the bad input in the working directory."""


def config(name: str, content: str | bytes, message: str, words: str = DISTILL) -> Bad:
    """A bad YAML file."""
    return Bad(f"config: {name}", f"{words} --config c.yaml", message, text("c.yaml", content))


def data(name: str, spec: str, message: str, make: Callable[[], object] = lambda: None) -> Bad:
    """Bad data."""
    return Bad(f"data: {name}", f"{FIT} {spec}", message, make)


def array(name: str, message: str, **changes: object) -> Bad:
    """Bad arrays in an .npz file."""
    return data(f"npz {name}", "npz:bad.npz", message, arrays(**changes))


def photo(name: str, message: str, make: Callable[[], object]) -> Bad:
    """A bad image in a folder of images."""
    return data(f"image {name}", "folder:photos", message, make)


def mnist(name: str, message: str, make: Callable[[], object]) -> Bad:
    """A bad file of the four of MNIST."""
    return data(f"IDX {name}", "mnist:mnist", message, make)


def rows(name: str, message: str, images: list[Any], labels: list[Any], **more: Any) -> Bad:
    """Bad rows in a Parquet file."""
    return data(f"parquet {name}", "parquet:parquet", message, table(TABLE_FILE, images, labels, **more))


def network(
    name: str, spec: str, message: str, make: Callable[[], object] = lambda: None, source: str = "digits"
) -> Bad:
    """A bad network to train."""
    return Bad(f"network: {name}", f"train --data {source} {OUT} --model {spec}", message, make)


def evidence(name: str, message: str, make: Callable[[], object], words: str = "report evaluation") -> Bad:
    """Damaged evidence."""
    return Bad(f"evidence: {name}", words, message, make)


def checkpoint(name: str, message: str, make: Callable[[], object], more: str = "") -> Bad:
    """A bad unfinished training that is to be continued."""
    return Bad(f"checkpoints: {name}", " ".join(HALTED) + more, message, make)


def own_weights(name: str, message: str, make: Callable[[], object]) -> Bad:
    """Bad weights `w.pt` for a network of the user's own, which is in order."""
    return Bad(f"weights: {name}", f"{EVALUATE} mine=own.py:make@w.pt", message, all_of(factory(OWN), make))


def run(name: str, message: str, make: Callable[[], object], words: str = f"{EVALUATE} teacher") -> Bad:
    """A bad run directory, given to evaluate."""
    return Bad(f"run: {name}", words, message, make)


WORDS = [
    Bad("no command", "", "robust-student --help"),
    Bad("unknown command", "distil", "distill"),
    Bad("unknown flag", f"{TRAIN} --epoch 3", "--epochs"),
    Bad("missing flag", "train --data digits --model linear", "--output"),
    Bad("flag without a value", f"{TRAIN} --epochs", "--epochs"),
    Bad("flag twice", f"{TRAIN} --data digits", "--data is given twice"),
    Bad("word for a number", f"{TRAIN} --epochs many", "many"),
    Bad("fraction for a whole number", f"{TRAIN} --epochs 1.5", "1.5"),
    Bad("no epochs", f"{TRAIN} --epochs 0", "greater than or equal to 1"),
    Bad("NaN for a number", f"{TRAIN} --learning-rate nan", "finite"),
    Bad("infinite number", f"{TRAIN} --learning-rate 1e999", "finite"),
    Bad("negative learning rate", f"{TRAIN} --learning-rate -1", "greater than 0"),
    Bad("all examples for validation", f"{TRAIN} --validation-fraction 1", "less than 1"),
    Bad("negative seed", f"{TRAIN} --seed -1", "greater than or equal to 0"),
    Bad("giant seed", f"{TRAIN} --seed {10**30}", "--seed: input should be less than"),
    Bad("unknown choice", f"{TRAIN} --optimizer adam", "adamw"),
    Bad("GPU that is not there", f"{TRAIN} --device cuda:77", "device 'cuda:77': not available"),
    Bad("unknown device", f"{TRAIN} --device gpu", "device 'gpu': unknown; choose auto"),
    Bad("device without values", f"{TRAIN} --device meta", "device 'meta'"),
    Bad("unknown method", f"{DISTILL} --method secand", "did you mean 'secant'?"),
    Bad("settings that exclude each other", f"{DISTILL} --gradient-mode eval", "secant.shared = false"),
    Bad("norm that does not fit", f"{DISTILL} --gradient.kind projection --gradient.weight 1", "needs norm = l2"),
    Bad("negative accuracy drop", f"{DISTILL} --max-accuracy-drop -1", "greater than or equal to 0"),
    Bad("search without a gradient objective", f"{DISTILL} --max-accuracy-drop 1 --method kd", "use secant or exact"),
    Bad("tries without a search", f"{DISTILL} --tries 4", "name --max-accuracy-drop"),
    Bad("radius in grey levels", f"{DISTILL} --radius 8", "8 of 255 grey levels are 0.0314"),
    Bad("no tries", f"{DISTILL} --max-accuracy-drop 1 --tries 0", "greater than or equal to 1"),
    Bad("too many tries", f"{DISTILL} --max-accuracy-drop 1 --tries 13", "less than or equal to 12"),
    Bad("teacher is missing", DISTILL.replace("teacher teacher", "teacher nowhere"), "nowhere: no file model.json"),
    Bad("no models", EVALUATE, "name at least one run directory"),
    Bad("a name without a directory", f"{EVALUATE} teacher=", "write NAME=DIR"),
    Bad("two models of one name", f"{EVALUATE} teacher teacher", "two models are called 'teacher'"),
    Bad("unknown baseline", f"{EVALUATE} teacher --baseline kd", "baseline 'kd' is not among the models"),
    Bad("unknown suite", f"{EVALUATE} teacher --suite ful", "did you mean 'full'?"),
    Bad("shard out of range", f"{EVALUATE} teacher --shard 2/2", "is not INDEX/COUNT"),
    Bad("shard and workers", f"{EVALUATE} teacher --shard 0/2 --workers 2", "exclude each other"),
    Bad("no workers", f"{EVALUATE} teacher --workers 0", "greater than or equal to 1"),
    Bad("unknown corruption", f"{EVALUATE} teacher --corruptions.kinds snwo", "did you mean 'snow'?"),
    Bad("severity out of range", f"{EVALUATE} teacher --corruptions.severities 6", "less than or equal to 5"),
    Bad("corruption set is missing", f"{EVALUATE} teacher --corruptions.set nowhere", "nowhere: no KIND.npy files"),
    Bad("noise level NaN", f"{EVALUATE} teacher --snr-db nan", "finite"),
    Bad("budget of nothing", f"{EVALUATE} teacher --pgd-linf 0", "greater than 0"),
    Bad("AutoAttack in grey levels", f"{EVALUATE} teacher --autoattack-radius 8", "8 of 255 grey levels are 0.0314"),
    Bad("AutoAttack beyond the range", f"{EVALUATE} teacher --autoattack-radius 1e9", "(linf, at most 1)"),
    Bad("PGD beyond the range", f"{EVALUATE} teacher --pgd-linf 0.1 1.1", "pgd_linf: 1.1 is more than"),
    Bad("PGD beyond the diagonal", f"{EVALUATE} teacher --pgd-l2 8.1", "(l2, at most 8)"),
    Bad("random weights", f"{EVALUATE} mine=own.py:make", "two calls of the factory give different", factory(OWN)),
    Bad("unknown surrogate", f"{EVALUATE} teacher --masking.surrogates kd", "surrogate 'kd' is not among"),
    Bad("certify without models", CERTIFY, "name at least one run directory"),
    Bad("unknown certificate", f"{CERTIFY} teacher --methods lirpa", "Expected one of ('interval'"),
    Bad("unknown attack", f"{CERTIFY} teacher --attacks cw", "unknown name 'cw'"),
    Bad("budget beyond the range", f"{CERTIFY} teacher --norm l1 --budgets 1 65", "budgets: 65 is more than"),
    Bad("random weights certified", f"{CERTIFY} own.py:make", "has random weights", factory(OWN)),
    Bad("smoothing in another norm", f"{CERTIFY} teacher --smoothing.sigma 0.5", "l2"),
    Bad("unknown linear model", f"{CERTIFY} teacher --linear-models kd", "linear_models names 'kd'"),
    Bad("predict without images", PREDICT, "name at least one image file"),
    Bad("report without directories", "report", "name at least one directory"),
    Bad("comparison of one", "report evaluation --compare", "takes two or more evaluations"),
    Bad("comparison with itself", "report evaluation evaluation --compare", "named twice"),
    Bad("comparison and seeds", "report evaluation --compare --seeds", "exclude each other"),
    Bad("several directories", "report evaluation certificates", "pass --compare or --seeds"),
    Bad("unknown suffix", "report evaluation --output page.pdf", "rename it or pass --format"),
]

PLACES = [
    Bad("output is a run", "train --data digits --model linear --output teacher", "teacher: exists already"),
    Bad("output is a file", "train --data digits --model linear --output good.npz", "is a file, not a directory"),
    Bad("output below a file", "train --data digits --model linear --output good.npz/a/out", "cannot write there"),
    Bad("output is this folder", "train --data digits --model linear --output .", "output .:"),
    Bad("output is a broken link", TRAIN, "is a link to nothing", link("out", "nowhere")),
    *(
        Bad(f"output in the data's folder, {name}", f"{words} --data {spec} --output {place}", "lies in the folder of")
        for name, words, spec, place in (
            ("train", "train --model linear", "folder:photos", "photos/run"),
            ("of a class", "train --model linear", "folder:photos/dog", "photos/dog/run"),
            ("another way there", "train --model linear", "folder:photos", "teacher/../photos/a/b"),
            ("mnist", "train --model linear", "mnist:mnist", "mnist/run"),
            ("parquet", "train --model linear", "parquet:parquet", "parquet/run"),
            ("cifar10", "train --model linear", "cifar10:photos", "photos/run"),
            ("with options", "train --model linear", "hf:photos,label=label", "photos/run"),
            ("distill", "distill --teacher teacher --model linear", "folder:photos", "photos/run"),
            ("evaluate", "evaluate teacher", "folder:photos", "photos/run"),
            ("certify", "certify teacher", "folder:photos", "photos/run"),
        )
    ),
    Bad("output in a new folder", f"{FIT} npz:no.npz".replace("out --", "new/er/out --"), "npz:no.npz': no such file"),
    Bad("evaluation into a finished one", "evaluate teacher --data digits --output evaluation", "holds a finished run"),
    Bad("evaluation into another's", "evaluate teacher --data digits --output unfinished", "holds an unfinished run"),
    Bad("evaluation into a file", "evaluate teacher --data digits --output good.npz", "is a file, not a directory"),
    Bad("demo over other files", "demo --output teacher --overwrite", "not the result of a demo"),
    Bad("demo over a demo", "demo --output teacher", "exists already"),
    Bad("report over a file", "report evaluation --output c.html", "pass --overwrite", text("c.html", "mine")),
    Bad("unknown format", "report evaluation --format pdf", "Expected one of ("),
    Bad("report into no folder", "report evaluation --output nowhere/page.html", "cannot write there"),
    Bad("report over a folder", "report evaluation --output c.html --overwrite", "it is a folder", folder("c.html")),
]

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

DATA = [
    data("unknown name", "digit", "did you mean 'digits'?"),
    data("no place", "mnist", "say where it is, as in 'mnist:DIR'"),
    data("size of what has one", "digits --image-size 8", "image files only"),
    data("folder is missing", "folder:no", "no such folder"),
    data("folder is empty", "folder:empty", "the folder is empty", folder("empty")),
    data("one class", "folder:photos", "found 1 class", remove("photos/dog")),
    data("class without images", "folder:photos", "holds no images", folder("photos/dog")),
    data("only a test class", "folder:photos", "class 'dog' has no training images", all_of(*SPLIT)),
    data(
        "two folders of validation",
        "folder:photos",
        "'val' and 'valid'",
        all_of(*SPLIT, folder("photos/val"), folder("photos/valid")),
    ),
    data(
        "class name that turns what follows",
        "folder:photos",
        "cannot be shown",
        rename("photos/dog", "photos/\u202egod".encode()),
    ),
    data("giant images", f"folder:photos --image-size {10**6}", "image_size 1000000 is not between 4 and"),
    data("class name is not text", "folder:photos", r"class name 'd\udcffg'", rename("photos/dog", b"photos/d\xffg")),
    data("class name of two lines", "folder:photos", r"class name 'd\nog'", rename("photos/dog", b"photos/d\nog")),
    photo("is text", "not an image of a known format", text(PHOTO, "hello")),
    photo("is empty", "not an image of a known format", text(PHOTO, "")),
    photo("is cut", "truncated", cut(PHOTO)),
    photo("is a folder", "not a file", folder(PHOTO)),
    photo("is a broken link", "o such file", link(PHOTO, "nowhere")),
    photo("of NaN", "1.png: cannot read it (NaN or infinite pixels)", text(PHOTO, nan_tiff())),
    photo("is a pipe", "not a file", fifo(PHOTO)),
    photo("is a device", "not a file", link(PHOTO, "/dev/zero")),
    photo("is a program", "not an image of a known format", text(PHOTO, POSTSCRIPT)),
    photo("is a bomb", "exceeds limit", text(PHOTO, png_claiming(60_000, 60_000))),
    photo("is a small bomb", "are more than 90,000,000", text(PHOTO, png_claiming(10_000, 10_000))),
    mnist("is missing", "no file t10k-labels-idx1-ubyte", remove(TEST_LABELS)),
    mnist("of another kind", "not an IDX file of unsigned bytes", idx(TEST_LABELS, [1], kind=13)),
    mnist("is empty", "t10k-labels-idx1-ubyte: cannot read it", text(TEST_LABELS, "")),
    mnist("is cut", "says (40, 6, 6), the file has another size", cut(IMAGES)),
    mnist("claims too much", "the file has another size", idx(IMAGES, [1, 2], shape=(2**32 - 1, 2**32 - 1, 1))),
    mnist("claims too many dimensions", "in one to four dimensions", idx(IMAGES, [1, 2], shape=(1,) * 200)),
    mnist("images without labels", "do not belong together", idx(LABELS, [0, 1])),
    mnist("images are labels", "do not belong together", idx(IMAGES, np.zeros(40))),
    mnist("without examples", "the test set is empty", all_of(idx(TEST, np.zeros((0, 6, 6))), idx(TEST_LABELS, []))),
    mnist("of other sizes", "test inputs have shape (1, 5, 5)", idx(TEST, np.zeros((10, 5, 5)))),
    mnist("gzip is damaged", "cannot read it", text(LABELS, b"\x1f\x8b\x08rubbish")),
    mnist("gzip bomb", "says (8,), it holds more", gzip_claiming(LABELS, (8,), 10**8)),
    mnist("is a pipe", "not a file", fifo(LABELS)),
    data("npz is missing", "npz:no.npz", "no such file"),
    data("npz is a folder", "npz:photos", "is not a file"),
    data("npz is a pipe", "npz:bad.npz", "is not a file", fifo("bad.npz")),
    data("npz is text", "npz:bad.npz", "cannot read it", text("bad.npz", "hello")),
    data("npz is cut", "npz:good.npz", "cannot read it", cut("good.npz")),
    data("npz is an array", "npz:bad.npy", "holds a single array", lambda: np.save("bad.npy", np.zeros(3))),
    data("npz claims too much", "npz:bad.npz", "the array has another size", npz_claiming((2**40, 2**10))),
    data("npz is a bomb", "npz:bad.npz", "of memory", npz_claiming((2**45,), lie=True)),
    array("holds pickles", "never unpickled", x_train=np.array([{"a": 1}] * 40, dtype=object)),
    array("without labels", "no array 'y_train'", y_train=None),
    array("without test labels", "x_test and y_test go together", y_test=None),
    array("lengths differ", "they must agree", y_train=np.arange(3)),
    array("holds NaN", "holds NaN", x_train=np.full((40, 4), np.nan, np.float32)),
    array("holds whole numbers", "must be uint8 or float", x_train=np.zeros((40, 4), np.int64)),
    array("holds words", "must be uint8 or float", x_train=np.full((40, 4), "a")),
    array("holds complex numbers", "must be uint8 or float", x_train=np.zeros((40, 4), np.complex64)),
    array("one number each", "one row per example", x_train=np.zeros(40, np.float32)),
    array("no examples", "one row per example", x_train=np.zeros((0, 4), np.float32), y_train=np.zeros(0, int)),
    array("shapes differ", "differ in shape", x_test=np.zeros((10, 5), np.float32)),
    array("labels are fractions", "must be one whole number", y_train=np.zeros(40)),
    array("labels are rows", "must be one whole number", y_train=np.zeros((40, 2), int)),
    array("labels are negative", "label -1 in y_train", y_train=np.arange(40) % 2 - 1),
    array("labels out of range", "out of range for 2 classes", classes=np.array(["a", "b"]), y_train=np.arange(40) % 3),
    array("giant label", "would mean more than 100,000 classes", y_train=np.arange(40) % 2 * 2**40),
    array("one class only", "need at least two", y_train=np.zeros(40, int), x_test=None, y_test=None),
    array("two classes of one name", "two classes are called 'a'", classes=np.array(["a", "a"])),
    array("class names are pickles", "never unpickled", classes=np.array(["a", None], dtype=object)),
    array("too few", "too few", x_train=np.zeros((1, 4), "f4"), y_train=np.arange(1), x_test=None, y_test=None),
    data("parquet without files", "parquet:photos", "no file train*.parquet"),
    data("parquet is text", "parquet:parquet", "not a readable Parquet file", text(TABLE_FILE, "hello")),
    data("parquet is cut", "parquet:parquet", "not a readable Parquet file", cut(TABLE_FILE)),
    rows("without images", "no column image or img", [png()], [0], names=("photo", "label")),
    rows("without labels", "no column label", [png()], [0], names=("image", "kind")),
    rows("without rows", "train-0.parquet: holds no rows", [], []),
    rows("image is text", "row 0: cannot read it", [b"hello", png()], [0, 1]),
    rows("image is missing", "row 0: holds no image bytes", [None, png()], [0, 1]),
    rows("image is a bomb", "exceeds limit", [png_claiming(60_000, 60_000), png()], [0, 1]),
    rows("image is a small bomb", "more than 90,000,000", [png_claiming(10_000, 10_000), png()], [0, 1]),
    rows("image is a program", "row 0: cannot read it", [POSTSCRIPT.encode(), png()], [0, 1]),
    rows("images differ in size", "ask for one size with --image-size", [png(), png(1, (5, 6))], [0, 1]),
    rows("label is a word", "row 0: label 'cat' is not a class number", [png()], ["cat"]),
    rows("label is negative", "row 0: label -1 is not a class number", [png()], [-1]),
    rows("label is missing", "row 1: label None is not a class number", [png(), png(1)], [0, None]),
    rows("label is giant", "would mean more than 100,000 classes", [png(), png(1)], [0, 2**40]),
    rows("of other classes", "differ in class names", [png(), png(1)], [0, 1], classes=["a", "b"]),
]

SHARD = "wds:s.tar,test=s.tar,classes=2,size=6x6"
TABLES = [
    data("csv is missing", "csv:no.csv", "no such file"),
    data("csv is a pipe", "csv:t.csv", "not a file", fifo("t.csv")),
    data("csv is not text", "csv:t.csv", "cannot read it", text("t.csv", b"\xff\xfe")),
    data("csv without rows", "csv:t.csv", "holds no rows", text("t.csv", "a,label\n")),
    data("csv without labels", "csv:t.csv", "no column 'label'", text("t.csv", "a,lable\n1,0\n2,1\n")),
    data("csv of words", "csv:t.csv", "row 2, column 'a': 'x' is not", text("t.csv", "a,label\n1,0\nx,1\n")),
    data("csv with a gap", "csv:t.csv", "row 1, column 'a': the value is missing", text("t.csv", "a,label\n,0\n1,1\n")),
    data("csv rows differ", "csv:t.csv", "row 1: has 3 cells, the header 2", text("t.csv", "a,label\n1,0,0\n1,1\n")),
    data("csv option is unknown", "csv:t.csv,lable=a", "did you mean 'label'?", text("t.csv", "a,label\n1,0\n2,1\n")),
    data("cifar10 without batches", "cifar10:photos", "neither test_batch nor train*.parquet"),
    data(
        "cifar10 with code",
        "cifar10:c",
        "not a pickle of plain values",
        all_of(*CIFAR, hostile_pickle("c/batches.meta")),
    ),
    data("shard is missing", SHARD, "no shard s.tar"),
    data("shard is text", SHARD, "s.tar: cannot read it", text("s.tar", "hello")),
    data(
        "shard runs a command", SHARD.replace("wds:s.tar", "'wds:pipe:touch executed.txt'"), "cannot read shards from"
    ),
    data("shard without classes", "wds:s.tar,test=s.tar,size=6x6", "say the class names", text("s.tar", "")),
    data(
        "class names of shards are a pipe", "wds:s.tar,test=s.tar,size=6x6,classes=n.txt", "(not a file)", fifo("n.txt")
    ),
]

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
    run("predicts nothing", "no.png: no such file", lambda: None, f"{PREDICT} no.png"),
    run("predicts a folder", "photos: is not a file", lambda: None, f"{PREDICT} photos"),
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
    checkpoint("are compressed", "its entries are compressed", checkpoints(lambda: compressed(torch_bytes({})()))),
    checkpoint("hold a list", "holds list, not the state of a training", checkpoints(torch_bytes([1]))),
    checkpoint("hold nothing", "not one of this training", checkpoints(torch_bytes({}))),
    checkpoint("hold weights alone", "not one of this training", checkpoints(torch_bytes({"model": state(ONE)}))),
    checkpoint("of another training", "seed: 0 there, 1 here", lambda: None, " --seed 1"),
    checkpoint("of nothing", "something else (everything)", text("halted/training.json", "[]")),
    checkpoint("card is not JSON", "training.json: not valid JSON", text("halted/training.json", "{")),
    checkpoint("card is too deep", "training.json: not valid JSON", text("halted/training.json", DEEP)),
    checkpoint("card is a pipe", "training.json: cannot read it (not a file)", fifo("halted/training.json")),
]

TABLE = [*WORDS, *PLACES, *CONFIGS, *DATA, *TABLES, *INTAKE, *NETWORKS, *WEIGHTS, *RUNS, *EVIDENCE, *CHECKPOINTS]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs that are in order."""
    root = tmp_path_factory.mktemp("inputs")
    before = Path.cwd()
    os.chdir(root)
    try:
        world()
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the working directory."""
    copy = tmp_path / "here"
    shutil.copytree(inputs, copy)
    monkeypatch.chdir(copy)
    return copy


def snapshot(root: Path) -> dict[Path, tuple[int, int, str]]:
    """Every entry below a folder: its kind and permissions, the time of a file's last change and what it holds."""
    found = {}
    for path in root.rglob("*"):
        state = path.lstat()
        plain = stat.S_ISREG(state.st_mode)
        content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
        target = str(path.readlink()) if path.is_symlink() else ""
        found[path] = (state.st_mode, state.st_mtime_ns if plain else 0, content + target)
    return found


def test_the_table_is_large_and_its_names_are_distinct() -> None:
    assert len(TABLE) >= 60
    assert len({bad.name for bad in TABLE}) == len(TABLE)


def test_the_inputs_are_in_order_before_they_are_spoiled(here: Path) -> None:
    """Else a case could be refused for another reason than the one in the table."""
    for spec in ("folder:photos", "mnist:mnist", "npz:good.npz", "parquet:parquet"):
        main(["train", "--data", spec, "--model", "linear", "--epochs", "1", "--output", f"fine-{spec.split(':')[0]}"])
    main(["report", "evaluation", "--output", "page.json"])
    main(["predict", "--model", "teacher", "photos/cat/1.png"])
    main(HALTED)


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Ends a test that would wait forever."""

    def give_up(*_: object) -> None:
        pytest.fail("still waiting after five minutes")  # no OSError, which the program would explain

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad.make()
    before = snapshot(here)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(bad.words))
    shown, complaint = capfd.readouterr()
    assert stop.value.code == 2
    assert complaint.startswith("robust-student: error: ") and complaint.count("\n") == 1, complaint
    assert bad.message in complaint
    assert len(complaint) < 500
    assert not shown
    assert snapshot(here) == before


@pytest.mark.parametrize("name", ["unknown flag", "config: code", "weights: a checkpoint with code"])
def test_the_program_itself_ends_the_same_way(name: str, here: Path) -> None:
    """As a process of its own: no warning of a library, no traceback of the interpreter."""
    (bad,) = [bad for bad in TABLE if bad.name == name]
    bad.make()
    before = snapshot(here)
    done = subprocess.run(
        [sys.executable, "-m", "robust_student", *shlex.split(bad.words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("robust-student: error: ") and done.stderr.count("\n") == 1
    assert bad.message in done.stderr
    assert snapshot(here) == before
