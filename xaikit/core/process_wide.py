"""Settings that torch has once for the process, held by several threads at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class ProcessWide:
    """A setting that torch has once for the process: the first thread that enters sets it, the last puts it back.

    Args:
        setting: makes the context in which it holds.
    """

    def __init__(self, setting: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock, self._inside, self._stack = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._stack.enter_context(self._setting())
            self._inside += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stack.close()


@contextlib.contextmanager
def _fast_path_off() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


COMPILED_CODE_OFF = ProcessWide(lambda: torch.compiler.set_stance("force_eager"))
FAST_PATH_OFF = ProcessWide(_fast_path_off)
# Fused attention has no second derivative.
FUSED_ATTENTION_OFF = ProcessWide(lambda: sdpa_kernel(SDPBackend.MATH))
