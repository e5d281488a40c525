"""Cost: what an explanation takes in time and memory."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from xaikit.core import METRICS, Int
from xaikit.metrics.base import EvaluationContext, Metric


@METRICS.register("seconds")
class Seconds(Metric):
    """Seconds per sample to explain the batch, the same number for each of its samples; lower is cheaper.

    Wall-clock time of a call divided by N: the shortest of `n_iter` calls, since other work can only make one longer.

    >>> from xaikit.explainers import Gradient
    >>> bool((Seconds().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)) > 0).all())
    True
    """

    DIRECTION = "minimize"
    REPEATABLE = False

    n_iter: Annotated[int, Int(ge=1), "calls that are timed"] = 3

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        device = context.call.inputs[0].device

        def seconds() -> float:
            _wait(device)
            start = time.perf_counter()
            context.explainer.attribute(context.inputs, context.targets, seed=context.seed)
            _wait(device)
            return time.perf_counter() - start

        least = min(seconds() for _ in range(self.n_iter))
        return torch.full((context.call.n,), least / context.call.n, device=device)


@METRICS.register("peak_memory")
class PeakMemory(Metric):
    """Peak memory of tensors, in MiB, while the batch is explained, above the level before; lower is cheaper.

    Every sample gets the number of the whole batch, since that must fit. Torch's allocator counts it, so it is exact,
    and without noise on a CPU.

    >>> from xaikit.explainers import Gradient
    >>> bool((PeakMemory().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)) > 0).all())
    True
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        device = context.call.inputs[0].device
        mebibytes = peak_memory(
            lambda: context.explainer.attribute(context.inputs, context.targets, seed=context.seed), device
        )
        return torch.full((context.call.n,), mebibytes, device=device)


def peak_memory(run: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Peak of the tensor memory that a call allocates above the level before, in MiB."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Read when the profiler first starts; without it every measurement would write two lines to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    gc.collect()  # otherwise memory of earlier work that is freed meanwhile would be subtracted
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    # The profiler's own tables sum over operators; only the allocator's events tell what was held at one time.
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
