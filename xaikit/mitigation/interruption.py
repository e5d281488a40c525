"""Ctrl-C during a training: it stops after a whole step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the training to stop after the present step; the second one stops it at once."""
    pressed = threading.Event()
    default = signal.default_int_handler

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            default(number, frame)
        pressed.set()

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not default:
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, default)
