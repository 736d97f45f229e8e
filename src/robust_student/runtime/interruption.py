"""Ctrl-C and SIGTERM: training stops at the end of its step, everything else stops with an exception."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Training was stopped from outside after its state had been saved; the message says how to continue."""

    def __init__(self, message: str, number: int) -> None:
        """`number` is the signal's."""
        super().__init__(message)
        self.number = number


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: files and processes are cleaned up on the way out."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM for the length of a block; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def obey(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child that was forked, say to decode images, just ends
            os._exit(128 + number)
        raise Terminated

    previous_handler = signal.signal(signal.SIGTERM, obey)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


class StopRequest:
    """Whether a signal has asked to stop."""

    number: int = 0
    """The signal's number; 0: continue."""

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; a second one is obeyed at once."""
        if self.number:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into stop requests for the length of a block; outside the main thread nothing changes."""
    stop_request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop_request
        return
    previous_handlers = {number: signal.signal(number, stop_request.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_request
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
