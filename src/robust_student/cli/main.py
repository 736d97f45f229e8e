"""The command `robust-student`: what each of its commands takes and does."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pydantic import ValidationError

from robust_student.cli.arguments import Command, command_name, parse
from robust_student.cli.attack import Attack
from robust_student.cli.certify import Certify
from robust_student.cli.demo import Demo
from robust_student.cli.distill import Distill
from robust_student.cli.doctor import Doctor
from robust_student.cli.evaluate import Evaluate
from robust_student.cli.predict import Predict
from robust_student.cli.report import Report
from robust_student.cli.train import Train
from robust_student.core.errors import UserError
from robust_student.runtime.interruption import Interrupted, Terminated, terminable

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "distill": Distill,
    "evaluate": Evaluate,
    "certify": Certify,
    "report": Report,
    "predict": Predict,
    "attack": Attack,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on standard error and exit code 2."""
    logging.getLogger("robust_student").setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)
    try:
        with terminable():
            parse(arguments, COMMANDS).run()
    except (UserError, ValidationError) as error:
        message = str(error) if isinstance(error, UserError) else error.errors()[0]["msg"].removeprefix("Value error, ")
        _complain(message)
    except MemoryError:
        _complain("out of memory; lower --batch-size, the size of the images or the width of the model")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, of a GPU; torch need not be imported to see it
            raise
        _complain(f"out of memory; lower --batch-size or choose another --device ({str(error).splitlines()[0]})")
    except BrokenPipeError:  # the reader of our output has gone: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Interrupted as interruption:
        print(f"robust-student: {interruption}", file=sys.stderr)
        raise SystemExit(128 + interruption.number) from None
    except KeyboardInterrupt as stop:
        resumable = command_name(arguments) in ("evaluate", "certify")
        more = "; the same command continues from what is measured" if resumable else ""
        print(f"robust-student: interrupted{more}", file=sys.stderr)
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        raise SystemExit(128 + number) from None


def _complain(message: str) -> NoReturn:
    """One line on standard error, whatever a file's name or content put into the message; exit code 2."""
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in message)
    if len(printable) > 700:
        printable = f"{printable[:500]} ... {printable[-150:]}"
    print(f"robust-student: error: {printable}", file=sys.stderr)
    raise SystemExit(2) from None
