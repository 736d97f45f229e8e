"""Bad data of every source."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import FIT, Bad, assert_refused, every
from spoiled import (
    HALTED,
    all_of,
    arrays,
    cut,
    fifo,
    folder,
    gzip_claiming,
    hostile_pickle,
    idx,
    link,
    nan_tiff,
    npz_claiming,
    png,
    png_claiming,
    remove,
    rename,
    table,
    text,
)

from robust_student.cli.main import main

PHOTO, TABLE_FILE = "photos/dog/1.png", "parquet/train-0.parquet"
IMAGES, LABELS = "mnist/train-images-idx3-ubyte", "mnist/train-labels-idx1-ubyte"
TEST, TEST_LABELS = "mnist/t10k-images-idx3-ubyte", "mnist/t10k-labels-idx1-ubyte"
SPLIT = [text(f"photos/{name}/1.png", png()) for name in ("train/cat", "train/cow", "test/dog")]
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(executed.txt) (w) file\n"
CIFAR = [text(f"c/{name}", "") for name in ("test_batch", *(f"data_batch_{k}" for k in range(1, 6)))]


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


DATA = [
    data("unknown name", "digit", "did you mean 'digits'?"),
    data("a folder without the name of a source", ".", "that is a path: write folder:."),
    data("options of digits", "digits,foo=1", "digits takes no place and no options; write 'digits'"),
    data("place of digits", "digits:photos", "digits takes no place and no options; write 'digits'"),
    data("options without a place", "csv,label=y", "has no place; write one, as in 'csv:FILE.csv'"),
    data("no place", "mnist", "has no place; write one, as in 'mnist:DIR'"),
    data("size of what has one", "digits --image-size 8", "image files only"),
    data("folder is missing", "folder:no", "no such folder"),
    data("folder is a file", "folder:good.npz", "not a folder"),
    data("folder is a pipe", "folder:pipe", "not a folder", fifo("pipe")),
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
    data("npz is a folder", "npz:photos", "cannot read it (not a file)"),
    data("npz is a pipe", "npz:bad.npz", "cannot read it (not a file)", fifo("bad.npz")),
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
    data("shard without classes", "wds:s.tar,test=s.tar,size=6x6", "needs the class names", text("s.tar", "")),
    data(
        "class names of shards are a pipe", "wds:s.tar,test=s.tar,size=6x6,classes=n.txt", "(not a file)", fifo("n.txt")
    ),
]


def test_the_inputs_are_in_order_before_they_are_spoiled(here: Path) -> None:
    """Else a case could be refused for another reason than the one in the table."""
    for spec in ("folder:photos", "mnist:mnist", "npz:good.npz", "parquet:parquet"):
        main(["train", "--data", spec, "--model", "linear", "--epochs", "1", "--output", f"fine-{spec.split(':')[0]}"])
    main(["report", "evaluation", "--output", "page.json"])
    main(["predict", "--model", "teacher", "photos/cat/1.png"])
    main(HALTED)


@every(DATA, TABLES)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(bad, here, capfd)
