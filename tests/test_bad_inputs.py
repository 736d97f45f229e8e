"""Bad inputs of every kind: one clear line on standard error, exit code 2, nothing written or changed."""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from spoiled import (
    all_of,
    arrays,
    card,
    cut,
    factory,
    fifo,
    folder,
    gzip_claiming,
    hostile_checkpoint,
    hostile_pickle,
    idx,
    link,
    npz_claiming,
    png,
    png_claiming,
    remove,
    table,
    text,
    weights,
    world,
)

from robust_student.cli import main

MANY = 5000
OUT = "--output out"
TRAIN = f"train --data digits --model linear {OUT}"
FIT = f"train --model linear {OUT} --data"
MODEL = f"train --data digits {OUT} --model"
DISTILL = f"distill --teacher teacher --data digits --model linear {OUT}"
EVALUATE = f"evaluate --data digits {OUT}"
CERTIFY = f"certify --data digits {OUT}"
PREDICT = "predict --model teacher"


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
    return data(name, "npz:bad.npz", message, arrays(**changes))


def run(name: str, message: str, make: Callable[[], object], words: str = f"{EVALUATE} teacher") -> Bad:
    """A bad run directory, given to evaluate."""
    return Bad(f"run: {name}", words, message, make)


WORDS = [
    Bad("no command", "", "robust-student --help"),
    Bad("unknown command", "distil", "distill"),
    Bad("unknown flag", f"{TRAIN} --epoch 3", "--epochs"),
    Bad("missing flag", "train --data digits --model linear", "--output"),
    Bad("flag without a value", f"{TRAIN} --epochs", "--epochs"),
    Bad("word for a number", f"{TRAIN} --epochs many", "many"),
    Bad("fraction for a whole number", f"{TRAIN} --epochs 1.5", "1.5"),
    Bad("no epochs", f"{TRAIN} --epochs 0", "greater than or equal to 1"),
    Bad("NaN for a number", f"{TRAIN} --learning-rate nan", "finite"),
    Bad("infinite number", f"{TRAIN} --learning-rate 1e999", "finite"),
    Bad("negative learning rate", f"{TRAIN} --learning-rate -1", "greater than 0"),
    Bad("all examples for validation", f"{TRAIN} --validation-fraction 1", "less than 1"),
    Bad("negative seed", f"{TRAIN} --seed -1", "greater than or equal to 0"),
    Bad("giant seed", f"{TRAIN} --seed {10**30}", "seed"),
    Bad("unknown choice", f"{TRAIN} --optimizer adam", "adamw"),
    Bad("GPU that is not there", f"{TRAIN} --device cuda:77", "device 'cuda:77': not available"),
    Bad("unknown device", f"{TRAIN} --device gpu", "device 'gpu': not available"),
    Bad("device without values", f"{TRAIN} --device meta", "device 'meta'"),
    Bad("unknown method", f"{DISTILL} --method secand", "did you mean 'secant'?"),
    Bad("settings that exclude each other", f"{DISTILL} --gradient-mode eval", "secant.shared = false"),
    Bad("norm that does not fit", f"{DISTILL} --gradient.kind projection --gradient.weight 1", "needs norm = l2"),
    Bad("negative accuracy drop", f"{DISTILL} --max-accuracy-drop -1", "greater than or equal to 0"),
    Bad("search without a gradient objective", f"{DISTILL} --max-accuracy-drop 1 --method kd", "use secant or exact"),
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
    Bad("unknown surrogate", f"{EVALUATE} teacher --masking.surrogates kd", "kd"),
    Bad("certify without models", CERTIFY, "name at least one run directory"),
    Bad("unknown certificate", f"{CERTIFY} teacher --methods lirpa", "lirpa"),
    Bad("unknown attack", f"{CERTIFY} teacher --attacks cw", "cw"),
    Bad("smoothing in another norm", f"{CERTIFY} teacher --smoothing.sigma 0.5", "l2"),
    Bad("unknown linear model", f"{CERTIFY} teacher --linear-models kd", "kd"),
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
    Bad("output is a broken link", TRAIN, "out", link("out", "nowhere")),
    Bad("output in a new folder, data missing", f"{FIT} npz:no.npz".replace("output out", "output new/er/out"), "no.npz"),
    Bad("evaluation into a finished one", "evaluate teacher --data digits --output evaluation", "holds a finished run"),
    Bad("evaluation into another's", "evaluate teacher --data digits --output unfinished", "holds an unfinished run"),
    Bad("evaluation into a file", "evaluate teacher --data digits --output good.npz", "is a file, not a directory"),
    Bad("demo over other files", "demo --output teacher --overwrite", "not the result of a demo"),
    Bad("demo over a demo", "demo --output teacher", "exists already"),
    Bad("report over a file", "report evaluation --output c.html", "pass --overwrite", text("c.html", "mine")),
    Bad("report into no folder", "report evaluation --output nowhere/page.html", "cannot write there"),
    Bad("report over a folder", "report evaluation --output c.html --overwrite", "c.html", folder("c.html")),
]

CONFIGS = [
    Bad("config: missing", f"{DISTILL} --config no.yaml", "no.yaml: cannot read it"),
    Bad("config: a folder", f"{DISTILL} --config photos", "photos: cannot read it"),
    Bad("config: never ends", f"{DISTILL} --config /dev/zero", "/dev/zero"),
    Bad("config: a pipe", f"{DISTILL} --config c.yaml", "c.yaml", fifo("c.yaml")),
    config("not YAML", "a: [1", "not valid YAML"),
    config("a list", "- epochs: 1", "expected 'name: value' pairs"),
    config("a word", "epochs", "expected 'name: value' pairs"),
    config("not text", b"\xff\xfe\x00\x01", "not valid YAML"),
    config("unknown setting", "epoch: 1", "unknown setting 'epoch'"),
    config("unknown setting in a group", "objective: {secant: {wieght: 2}}", "did you mean 'weight'?"),
    config("name that is not a word", "1: 2", "1"),
    config("name in a group that is not a word", "training: {1: 2}", "1"),
    config("word for a number", "training: {epochs: many}", "(got 'many')"),
    config("number for a group", "training: 3", "'training'"),
    config("list for a group", "objective: [1]", "'objective'"),
    config("nothing for a group", "objective: {secant: null}", "'objective.secant'"),
    config("NaN", "training: {learning_rate: .nan}", "'training.learning_rate'"),
    config("giant number", f"training: {{epochs: {'9' * MANY}}}", "training"),
    config("unknown method", "method: [secant]", "unknown method"),
    config("impossible date", "method: 2001-99-99", "not valid YAML"),
    config("unknown alias", "training: *other", "not valid YAML"),
    config("too deep", "a: " + "[" * MANY + "]" * MANY, "not valid YAML"),
    config("code", "training: !!python/object/apply:os.system ['touch executed.txt']", "not valid YAML"),
    config("billion laughs", "\n".join(["a0: &a0 [lol, lol]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30))]), "unknown setting 'a0'"),
    config("billion laughs for a value", "method: kd\nname: &a0 [lol]\n" + "\n".join(f"x{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)) + "\ntraining: {epochs: *a29}", "setting"),
    config("nested in itself", "training: &a {selection: *a}", "training.selection"),
    config("a setting of another command", "suite: full", "unknown setting 'suite'"),
    config("null byte in a path", 'teacher: "a\\0b"', "teacher", f"distill --data digits --model linear {OUT}"),
    config("suite of evaluate", "suite: 3", "unknown suite '3'", f"{EVALUATE} teacher"),
    config("settings of certify", "certification: {norm: l3}", "'certification.norm'", f"{CERTIFY} teacher"),
]

DATA = [
    data("unknown name", "digit", "did you mean 'digits'?"),
    data("no place", "mnist", "say where it is, as in 'mnist:DIR'"),
    data("size of what has one", "digits --image-size 8", "folder: data only"),
    data("folder is missing", "folder:no", "no such folder"),
    data("folder is empty", "folder:empty", "empty", folder("empty")),
    data("one class", "folder:photos", "found 1 class", remove("photos/dog")),
    data("class without images", "folder:photos", "holds no images", folder("photos/dog")),
    data("only a test class", "folder:photos", "has no training images", all_of(text("photos/train/a/1.png", png()), text("photos/train/b/1.png", png()), text("photos/test/c/1.png", png()))),
    data("image is text", "folder:photos", "photos/dog/1.png: cannot read it", text("photos/dog/1.png", "hello")),
    data("image is empty", "folder:photos", "photos/dog/1.png: cannot read it", text("photos/dog/1.png", "")),
    data("image is cut", "folder:photos", "photos/dog/1.png: cannot read it", cut("photos/dog/1.png")),
    data("image is a folder", "folder:photos", "photos/dog/1.png", folder("photos/dog/1.png")),
    data("image is a broken link", "folder:photos", "photos/dog/1.png", link("photos/dog/1.png", "nowhere")),
    data("image is a pipe", "folder:photos", "photos/dog/1.png", fifo("photos/dog/1.png")),
    data("image is a device", "folder:photos", "photos/dog/1.png", link("photos/dog/1.png", "/dev/zero")),
    data("image is a program", "folder:photos", "photos/dog/1.png", text("photos/dog/1.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(executed.txt) (w) file\n")),
    data("image is a bomb", "folder:photos", "photos/dog/1.png", text("photos/dog/1.png", png_claiming(60_000, 60_000))),
    data("image is a small bomb", "folder:photos", "photos/dog/1.png", text("photos/dog/1.png", png_claiming(10_000, 10_000))),
    data("giant images", f"folder:photos --image-size {10**6}", "image"),
    data("class name is not text", "folder:photos", "class", lambda: os.rename(b"photos/dog", b"photos/d\xffg")),
    data("class name of two lines", "folder:photos", "class", lambda: os.rename("photos/dog", "photos/d\nog")),
    data("IDX file is missing", "mnist:mnist", "no file t10k-labels-idx1-ubyte", remove("mnist/t10k-labels-idx1-ubyte")),
    data("IDX of another kind", "mnist:mnist", "not an IDX file of unsigned bytes", idx("mnist/t10k-labels-idx1-ubyte", [1], kind=13)),
    data("IDX is empty", "mnist:mnist", "cannot read it", text("mnist/t10k-labels-idx1-ubyte", "")),
    data("IDX is cut", "mnist:mnist", "cannot read it", cut("mnist/train-images-idx3-ubyte")),
    data("IDX claims too much", "mnist:mnist", "cannot read it", idx("mnist/train-images-idx3-ubyte", [1, 2], shape=(2**32 - 1, 2**32 - 1, 1))),
    data("IDX claims too many dimensions", "mnist:mnist", "cannot read it", idx("mnist/train-images-idx3-ubyte", [1, 2], shape=(1,) * 200)),
    data("IDX images without labels", "mnist:mnist", "do not belong together", idx("mnist/train-labels-idx1-ubyte", [0, 1])),
    data("IDX images are labels", "mnist:mnist", "do not belong together", idx("mnist/train-images-idx3-ubyte", np.zeros(40))),
    data("IDX without examples", "mnist:mnist", "mnist", all_of(idx("mnist/t10k-images-idx3-ubyte", np.zeros((0, 6, 6))), idx("mnist/t10k-labels-idx1-ubyte", []))),
    data("IDX of other sizes", "mnist:mnist", "mnist", idx("mnist/t10k-images-idx3-ubyte", np.zeros((10, 5, 5)))),
    data("gzip is damaged", "mnist:mnist", "cannot read it", text("mnist/train-labels-idx1-ubyte", b"\x1f\x8b\x08rubbish")),
    data("gzip bomb", "mnist:mnist", "cannot read it", gzip_claiming("mnist/train-labels-idx1-ubyte", (8,), 10**8)),
    data("IDX is a pipe", "mnist:mnist", "mnist", fifo("mnist/train-labels-idx1-ubyte")),
    data("npz is missing", "npz:no.npz", "no.npz"),
    data("npz is a folder", "npz:photos", "photos"),
    data("npz is a pipe", "npz:bad.npz", "bad.npz", fifo("bad.npz")),
    data("npz is text", "npz:bad.npz", "cannot read it", text("bad.npz", "hello")),
    data("npz is cut", "npz:good.npz", "cannot read it", cut("good.npz")),
    data("npz is an array", "npz:bad.npy", "holds a single array", lambda: np.save("bad.npy", np.zeros(3))),
    data("npz claims too much", "npz:bad.npz", "cannot read it", npz_claiming((2**40, 2**10))),
    data("npz claims more than memory", "npz:bad.npz", "cannot read it", npz_claiming((2**45,))),
    array("npz holds pickles", "cannot read it", x_train=np.array([{"a": 1}] * 40, dtype=object)),
    array("npz without labels", "no array 'y_train'", y_train=None),
    array("npz without test labels", "go together", y_test=None),
    array("npz lengths differ", "they must agree", y_train=np.arange(3)),
    array("npz holds NaN", "NaN", x_train=np.full((40, 4), np.nan, np.float32)),
    array("npz holds whole numbers", "must be uint8 or float", x_train=np.zeros((40, 4), np.int64)),
    array("npz holds words", "must be uint8 or float", x_train=np.full((40, 4), "a")),
    array("npz holds complex numbers", "must be uint8 or float", x_train=np.zeros((40, 4), np.complex64)),
    array("npz of one number each", "one row per example", x_train=np.zeros(40, np.float32)),
    array("npz without examples", "one row per example", x_train=np.zeros((0, 4), np.float32), y_train=np.zeros(0, int)),
    array("npz shapes differ", "differ in shape", x_test=np.zeros((10, 5), np.float32)),
    array("labels are fractions", "must be one whole number", y_train=np.zeros(40)),
    array("labels are rows", "must be one whole number", y_train=np.zeros((40, 2), int)),
    array("labels are negative", "label -1", y_train=np.arange(40) % 2 - 1),
    array("labels out of range", "out of range for 2 classes", classes=np.array(["a", "b"]), y_train=np.arange(40) % 3),
    array("one class only", "need at least two", y_train=np.zeros(40, int)),
    array("two classes of one name", "two classes are called 'a'", classes=np.array(["a", "a"])),
    array("class names are pickles", "cannot read it", classes=np.array(["a", None], dtype=object)),
    array("giant label", "label", y_train=np.arange(40) % 2 * 2**40),
    array("too few examples", "too few", x_train=np.zeros((2, 4), np.float32), y_train=np.arange(2)),
    data("parquet without files", "parquet:photos", "no file train*.parquet"),
    data("parquet is text", "parquet:parquet", "not a readable Parquet file", text("parquet/train-0.parquet", "hello")),
    data("parquet is cut", "parquet:parquet", "not a readable Parquet file", cut("parquet/train-0.parquet")),
    data("parquet without images", "parquet:parquet", "no column image or img", table("parquet/train-0.parquet", [png()], [0], names=("photo", "label"))),
    data("parquet without labels", "parquet:parquet", "no column label", table("parquet/train-0.parquet", [png()], [0], names=("image", "kind"))),
    data("parquet without rows", "parquet:parquet", "train-0.parquet", table("parquet/train-0.parquet", [], [])),
    data("parquet image is text", "parquet:parquet", "row 0: not a readable image", table("parquet/train-0.parquet", [b"hello"], [0])),
    data("parquet image is missing", "parquet:parquet", "row 0: holds no image bytes", table("parquet/train-0.parquet", [None, png()], [0, 1])),
    data("parquet image is a bomb", "parquet:parquet", "row 0", table("parquet/train-0.parquet", [png_claiming(60_000, 60_000)], [0])),
    data("parquet image is a small bomb", "parquet:parquet", "row 0", table("parquet/train-0.parquet", [png_claiming(10_000, 10_000)], [0])),
    data("parquet image is a program", "parquet:parquet", "row 0: not a readable image", table("parquet/train-0.parquet", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"], [0])),
    data("parquet images differ in size", "parquet:parquet", "resize them to one size first", table("parquet/train-0.parquet", [png(), png(1, (5, 6))], [0, 1])),
    data("parquet label is a word", "parquet:parquet", "is not a class number", table("parquet/train-0.parquet", [png()], ["cat"])),
    data("parquet label is negative", "parquet:parquet", "is not a class number", table("parquet/train-0.parquet", [png()], [-1])),
    data("parquet label is giant", "parquet:parquet", "label", table("parquet/train-0.parquet", [png(), png(1)], [0, 2**40])),
    data("parquet label is missing", "parquet:parquet", "is not a class number", table("parquet/train-0.parquet", [png(), png(1)], [0, None])),
    data("parquet of other classes", "parquet:parquet", "class names", table("parquet/test-0.parquet", [png()], [0], classes=["a", "b"])),
]

NETWORKS = [
    Bad("network: misspelt", f"{MODEL} cnm", "did you mean 'cnn'?"),
    Bad("network: nothing", f"{MODEL} ''", "unknown name ''"),
    Bad("network: no width", f"{MODEL} cnn:0", "positive whole numbers"),
    Bad("network: width is a word", f"{MODEL} cnn:wide", "positive whole numbers"),
    Bad("network: too many widths", f"{MODEL} cnn:8,8", "model 'cnn:8,8'"),
    Bad("network: ten billion units", f"{MODEL} mlp:{10**10}", "parameters"),
    Bad("network: giant convolution", f"{MODEL} cnn:100000", "parameters"),
    Bad("network: giant residual network", f"{MODEL} resnet20:100000", "parameters"),
    Bad("network: giant orthogonal network", f"{MODEL} lipschitz:{10**6}", "parameters"),
    Bad("network: beyond any number", f"{MODEL} mlp:{10**30}", "mlp"),
    Bad("network: deep beyond reason", f"{MODEL} mlp:{','.join(['1'] * MANY)}", "mlp"),
    Bad("network: images for vectors", f"train --data npz:good.npz --model cnn:4 {OUT}", "use mlp"),
    Bad("network: module is missing", f"{MODEL} nowhere.models:make", "cannot import module"),
    Bad("network: file is missing", f"{MODEL} nowhere.py:make", "no file nowhere.py"),
    Bad("network: no such factory", f"{MODEL} own.py:other", "has no 'other'", factory("return None")),
    Bad("network: not Python", f"{MODEL} own.py:make", "SyntaxError", text("own.py", "def make(:")),
    Bad("network: factory fails", f"{MODEL} own.py:make", "the factory failed (ZeroDivisionError", factory("1 / 0")),
    Bad("network: factory leaves", f"{MODEL} own.py:make", "own.py:make", factory("sys.exit(3)")),
    Bad("network: not a module", f"{MODEL} own.py:make", "returned int", factory("return 1")),
    Bad("network: other inputs", f"{MODEL} own.py:make", "fails on inputs", factory("return nn.Linear(3, 10)")),
    Bad("network: other outputs", f"{MODEL} own.py:make", "expected 10 logits", factory("return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))")),
    Bad("network: no parameters", f"{MODEL} own.py:make", "no trainable parameters", factory("return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))")),
    Bad("network: infinite logits", f"{MODEL} own.py:make", "NaN or infinite", factory("m = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)); nn.init.constant_(m[1].bias, float('inf')); return m")),
]

OWN = "return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
WEIGHTS = [
    Bad("weights: missing", f"{EVALUATE} mine=own.py:make@no.pt", "no.pt: no such file", factory(OWN)),
    Bad("weights: a folder", f"{EVALUATE} mine=own.py:make@photos", "photos: no such file", factory(OWN)),
    Bad("weights: text", f"{EVALUATE} mine=own.py:make@own.py", "not a file of torch.save", factory(OWN)),
    Bad("weights: a pickle", f"{EVALUATE} mine=own.py:make@w.pt", "refused", all_of(factory(OWN), hostile_pickle("w.pt"))),
    Bad("weights: a checkpoint with code", f"{EVALUATE} mine=own.py:make@w.pt", "refused", all_of(factory(OWN), hostile_checkpoint("w.pt"))),
    Bad("weights: a list", f"{EVALUATE} mine=own.py:make@w.pt", "holds list, not a state_dict", all_of(factory(OWN), lambda: torch.save([1], "w.pt"))),
    Bad("weights: of another network", f"{EVALUATE} mine=own.py:make@w.pt", "do not fit the network", all_of(factory(OWN), lambda: torch.save({"a": torch.zeros(1)}, "w.pt"))),
    Bad("weights: of another type", f"{EVALUATE} mine=own.py:make@w.pt", "'1.weight'", all_of(factory(OWN), lambda: torch.save({"1.weight": torch.zeros(10, 64, dtype=torch.int64), "1.bias": torch.zeros(10)}, "w.pt"))),
    Bad("weights: of another shape", f"{EVALUATE} mine=own.py:make@w.pt", "'1.weight' has shape", all_of(factory(OWN), lambda: torch.save({"1.weight": torch.zeros(10, 63), "1.bias": torch.zeros(10)}, "w.pt"))),
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
    run("card is too deep", "not valid JSON", text("teacher/model.json", "[" * 10**5 + "]" * 10**5)),
    run("card without classes", "'classes'", text("teacher/model.json", '{"network": "linear", "input_shape": [4]}')),
    run("card with one class", "'classes'", card(classes=["a"])),
    run("card of a newer version", "'schema_version'", card(schema_version=99)),
    run("card with an unknown setting", "unknown setting 'netwrok'; did you mean 'network'?", card(netwrok="linear")),
    run("card with an empty range", "must grow from low to high", card(input_range=[1, 0])),
    run("card with an empty shape", "'input_shape", card(input_shape=[0])),
    run("card with a giant shape", "input_shape", card(input_shape=[10**6, 10**6])),
    run("card with a shape beyond any number", "input_shape", card(input_shape=[10**30])),
    run("card with giant images", "input_shape", card(input_shape=[3, 10**6, 10**6], network="cnn:4")),
    run("card with another shape", "do not fit", card(input_shape=[1, 9, 9])),
    run("card without a network", "load it in Python", card(network=None)),
    run("card with an unknown network", "unknown name 'cnnn'", card(network="cnnn")),
    run("card with a giant network", "parameters", card(network=f"mlp:{10**10}")),
    run("card with another network", "do not fit network 'linear'", card(network="linear")),
    run("card with too many classes", "do not fit", card(classes=[str(k) for k in range(11)])),
    run("card with other classes", "the class order differs", card(classes=list("0123456798"))),
    run("weights are damaged", "damaged", cut("teacher/model.safetensors")),
    run("weights hold NaN", "NaN or infinite values", weights(lambda t: t | {"network.1.bias": torch.full((8,), torch.nan)})),
    run("weights of another shape", "do not fit", weights(lambda t: t | {"network.1.bias": torch.zeros(9)})),
    run("weights are missing", "do not fit", weights(lambda t: {n: v for n, v in t.items() if n != "network.1.bias"})),
    run("weights of nothing", "do not fit", weights(lambda t: t | {"network.9.bias": torch.zeros(9)})),
    run("weights are whole numbers", "'network.1.bias'", weights(lambda t: t | {"network.1.bias": torch.zeros(8, dtype=torch.int64)})),
    run("weights are halves", "'network.1.bias'", weights(lambda t: t | {"network.1.bias": torch.zeros(8, dtype=torch.float16)})),
    run("weights are 8-bit floats", "'network.1.bias'", weights(lambda t: t | {"network.1.bias": torch.zeros(8).to(torch.float8_e4m3fn)})),
    run("weights without normalisation", "no normalisation", weights(lambda t: {n: v for n, v in t.items() if n != "std"})),
    run("normalisation does not fit", "'mean' does not fit", weights(lambda t: t | {"mean": torch.zeros(5, 1, 1)})),
    run("normalisation divides by nothing", "every 'std' must be positive", weights(lambda t: t | {"std": torch.zeros(1, 1, 1)})),
    run("normalisation is whole numbers", "'std'", weights(lambda t: t | {"std": torch.ones(1, 1, 1, dtype=torch.int64)})),
    run("records are damaged", "metrics.jsonl", text("teacher/metrics.jsonl", "{\n{}\n")),
    run("records are a folder", "metrics.jsonl", folder("teacher/metrics.jsonl")),
    run("records are too deep", "metrics.jsonl", text("teacher/metrics.jsonl", "[" * 10**5 + "\n{}\n")),
    run("search is damaged", "search.json", text("teacher/search.json", "{")),
    run("search is a list", "search.json", text("teacher/search.json", "[]")),
    run("of other inputs", "inputs have shape", lambda: None, f"{EVALUATE} vectors"),
    run("teacher of other inputs", "inputs have shape", lambda: None, DISTILL.replace("teacher teacher", "teacher vectors")),
    run("predicts images", "not images", lambda: None, "predict --model vectors photos/cat/1.png"),
    run("predicts nothing", "no.png: no such file", lambda: None, f"{PREDICT} no.png"),
    run("predicts a folder", "photos: is not a file", lambda: None, f"{PREDICT} photos"),
    run("predicts text", "model.json: cannot read it", lambda: None, f"{PREDICT} teacher/model.json"),
]

EVIDENCE = [
    Bad("evidence: missing", "report nowhere", "nowhere"),
    Bad("evidence: a run", "report teacher", "teacher"),
    Bad("evidence: a file", "report good.npz", "good.npz"),
    Bad("evidence: unfinished", "report unfinished", "unfinished"),
    Bad("evidence: summary is not JSON", "report evaluation", "summary.json", text("evaluation/summary.json", "[")),
    Bad("evidence: summary is a mapping", "report evaluation", "summary.json", text("evaluation/summary.json", "{}")),
    Bad("evidence: summary is too deep", "report evaluation", "summary.json", text("evaluation/summary.json", "[" * 10**5)),
    Bad("evidence: details are damaged", "report evaluation", "evaluation.json", text("evaluation/evaluation.json", "[]")),
    Bad("evidence: rows are missing", "report evaluation", "rows.jsonl", remove("evaluation/rows.jsonl")),
    Bad("evidence: rows are damaged", "report evaluation", "rows.jsonl", text("evaluation/rows.jsonl", "{}\n{}\n")),
    Bad("evidence: rows are lists", "report evaluation", "rows.jsonl", text("evaluation/rows.jsonl", "[1]\n[2]\n")),
    Bad("evidence: rows of the wrong type", "report evaluation", "rows.jsonl", text("evaluation/rows.jsonl", '{"model": [], "perturbation": 1, "setting": "a", "index": [], "label": 0, "prediction": 0, "correct": 7}\n' * 2)),
    Bad("evidence: certificates are missing", "report evaluation --certificates nowhere", "nowhere"),
    Bad("evidence: certificates are an evaluation", "report evaluation --certificates evaluation", "evaluation"),
    Bad("evidence: seeds of certificates", "report evaluation certificates --seeds", "holds certificates"),
    Bad("evidence: unfinished rows are damaged", "evaluate teacher --data digits --output unfinished --attack-examples 4 --autoattack none --examples 20 --device cpu", "rows.jsonl", text("unfinished/rows.jsonl", "{}\n{}\n")),
    Bad("evidence: unfinished rows of the wrong type", "evaluate teacher --data digits --output unfinished --attack-examples 4 --autoattack none --examples 20 --device cpu", "rows.jsonl", text("unfinished/rows.jsonl", '{"model": [], "perturbation": 1, "setting": "a", "index": [], "label": 0, "prediction": 0, "correct": 7}\n' * 2)),
]

CHECKPOINTS: list[Bad] = [
    # Hostile training checkpoints go here: damaged, of another run, of another version, with code in them, and so on.
]

TABLE = [*WORDS, *PLACES, *CONFIGS, *DATA, *NETWORKS, *WEIGHTS, *RUNS, *EVIDENCE, *CHECKPOINTS]


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


def snapshot(root: Path) -> dict[bytes, tuple[int, str]]:
    """Every entry below a folder: its kind and permissions, the time of a file's last change and what it holds."""
    found = {}
    for folder_, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(folder_, name)
            state = os.lstat(path)
            plain = os.path.isfile(path) and not os.path.islink(path)
            content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest() if plain else ""
            target = os.fsdecode(os.readlink(path)) if os.path.islink(path) else ""
            found[path] = (state.st_mode, f"{state.st_mtime_ns if plain else ''} {content}{target}")
    return found


def test_the_table_is_large_and_its_names_are_distinct() -> None:
    assert len(TABLE) >= 60
    assert len({bad.name for bad in TABLE}) == len(TABLE)
    assert len({(bad.words, bad.name) for bad in TABLE}) == len(TABLE)


def test_the_inputs_are_in_order_before_they_are_spoiled(here: Path) -> None:
    """Else a case could be refused for another reason than the one in the table."""
    for spec in ("folder:photos", "mnist:mnist", "npz:good.npz", "parquet:parquet"):
        main(["train", "--data", spec, "--model", "linear", "--epochs", "1", "--output", f"fine-{spec.split(':')[0]}"])
    main(["report", "evaluation"])
    main(["predict", "--model", "teacher", "photos/cat/1.png"])


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Ends a test that would wait forever."""

    def give_up(*_: object) -> None:
        raise TimeoutError("still waiting after a minute")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
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
