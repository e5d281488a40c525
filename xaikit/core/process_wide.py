"""Settings that Python and torch have once for the process, held by several threads at once."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaikit.core.torch_private import not_compiled


class ProcessWide:
    """A setting that exists once for the process: the first thread that enters sets it, the last puts it back.

    Args:
        setting: makes the context in which it holds.
    """

    def __init__(self, setting: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock, self._inside, self._stack = threading.Lock(), 0, contextlib.ExitStack()

    @not_compiled
    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._stack.enter_context(self._setting())
            self._inside += 1

    @not_compiled
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


@functools.cache
def warnings_ignored(message: str = "", category: type[Warning] = Warning, module: str = "") -> ProcessWide:
    """A context in which some warnings are not shown.

    `warnings.catch_warnings` puts back the filters that it met, those of another thread among them. Threads that
    overlap so could silence all warnings for good.

    Args:
        message: what they begin with, a regular expression.
        category: their class.
        module: what the names of the modules that they come from begin with, a regular expression.
    """
    return ProcessWide(lambda: _ignoring(f"{message}(?#xaikit)", category, module))


@contextlib.contextmanager
def _ignoring(message: str, category: type[Warning], module: str) -> Iterator[None]:
    if getattr(sys.flags, "context_aware_warnings", False):  # each thread has filters of its own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=message, category=category, module=module)
            yield
        return
    warnings.filterwarnings("ignore", message=message, category=category, module=module)
    entry = warnings.filters[0]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # somebody has put back filters of before
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
