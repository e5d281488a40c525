"""Processes that tests kill: forks of one that has imported what they need, most of what starting a process takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

IMPORTED_BEFORE = ["lightning_fabric", "optuna", "xaikit.mitigation", "xaikit.runs", "xaikit.tuning.study"]


def forked(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """A started process that calls a function of a module; it ends with the tests at the latest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BEFORE)
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process
