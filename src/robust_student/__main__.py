"""The program `robust-student`, also as `python -m robust_student`: a signal during the imports ends it in one line."""

import os
import signal
from types import FrameType


def main() -> None:
    """Import the command line, which takes seconds, and run it.

    PyTorch's threads sleep while they wait for each other, unless the user says otherwise: by default they spin, and
    beside another busy program a training took ten times as long as on one thread.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when PyTorch is loaded
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, _leave) for number in numbers}
    from robust_student.cli import main as main_module

    for number, handler in previous_handlers.items():
        signal.signal(number, handler)
    main_module.main()


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at once: nothing has been opened yet, and an import could swallow an exception."""
    os.write(2, b"robust-student: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
