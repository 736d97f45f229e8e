"""Bad words on the command line, and bad places for what it writes."""

from pathlib import Path

import pytest
from bad_inputs import (
    CERTIFY,
    DISTILL,
    EVALUATE,
    FIT,
    OWN,
    PREDICT,
    TRAIN,
    Bad,
    assert_refused,
    assert_the_program_refuses,
    every,
    named,
)
from spoiled import factory, fifo, folder, link, text

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
    Bad(
        "search without a gradient objective",
        f"{DISTILL} --max-accuracy-drop 1 --method kd",
        "has no ball whose radius",
    ),
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
    Bad("unknown certificate", f"{CERTIFY} teacher --methods lirpa", "should be 'interval'"),
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
    Bad("empty output", "train --data digits --model linear --output=", "--output: a path is empty; write . for the"),
    Bad("empty path without a flag", f"{PREDICT} ''", "IMAGES: a path is empty"),
    Bad("empty path of a group", f"{DISTILL} --teacher-weights ''", "--teacher-weights: a path is empty"),
    Bad("unknown suffix", "report evaluation --output page.pdf", "rename it or pass --format"),
]
PLACES = [
    Bad("output is a run", "train --data digits --model linear --output teacher", "teacher: exists already"),
    Bad("output is a file", "train --data digits --model linear --output good.npz", "is a file, not a directory"),
    Bad("output is a pipe", TRAIN, "out: is neither a file nor a directory", fifo("out")),
    Bad("output below a file", "train --data digits --model linear --output good.npz/a/out", "cannot write there"),
    Bad("output is this folder", "train --data digits --model linear --output .", "output .:"),
    Bad("output is a broken link", TRAIN, "is a link to nothing", link("out", "nowhere")),
    Bad("output is a link to itself", TRAIN, "is a link to nothing", link("out", "out")),
    Bad(
        "output is in a link to itself",
        "train --data folder:photos --model linear --output out/x",
        "",
        link("out", "out"),
    ),
    Bad("evaluation in a link to itself", "evaluate teacher --data folder:photos --output out", "", link("out", "out")),
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
    Bad(
        "output in a new folder",
        f"{FIT} npz:no.npz".replace("out --", "new/er/out --"),
        "npz:no.npz': cannot read it (no such file)",
    ),
    Bad("evaluation into a finished one", "evaluate teacher --data digits --output evaluation", "holds a finished run"),
    Bad("evaluation into another's", "evaluate teacher --data digits --output unfinished", "holds an unfinished run"),
    Bad("evaluation into a file", "evaluate teacher --data digits --output good.npz", "is a file, not a directory"),
    Bad("demo over other files", "demo --output teacher --overwrite", "not the result of a demo"),
    Bad("evaluate into a run", "evaluate --data digits teacher --output teacher", "lies in the run of a model"),
    Bad("certify below a run", "certify --data digits teacher --output teacher/c", "lies in the run of a model"),
    Bad("demo over a demo", "demo --output teacher", "exists already"),
    Bad("report over a file", "report evaluation --output c.html", "pass --overwrite", text("c.html", "mine")),
    Bad("unknown format", "report evaluation --format pdf", "should be 'html'"),
    Bad("report into no folder", "report evaluation --output nowhere/page.html", "cannot write there"),
    Bad(
        "report over the rows that it shows",
        "report evaluation --output evaluation/rows.jsonl --overwrite --format html",
        "is a file that the report is made from",
    ),
    Bad("report over a folder", "report evaluation --output c.html --overwrite", "it is a folder", folder("c.html")),
]


@every(WORDS, PLACES)
def test_a_bad_input_is_refused_in_one_line(bad: Bad, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(bad, here, capfd)


def test_the_program_itself_ends_the_same_way(here: Path) -> None:
    assert_the_program_refuses(named("unknown flag", WORDS), here)
