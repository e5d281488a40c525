"""The scores of changed copies of each sample, with or without a graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaikit.core import Call
from xaikit.core.recomputation import check_recomputable, recomputed
from xaikit.core.rows import rows_per_pass
from xaikit.core.structure import Tensors

Change = Callable[[Call, slice, range], Tensors]


def scores_of_copies(
    call: Call,
    copies: int,
    change: Change,
    max_rows: int | None = None,
    tick: Callable[[int], object] = lambda scores: None,  # noqa: ARG005
) -> Tensor:
    """The score of each changed copy, (copies, N), in passes of a bounded size; of several targets (copies, N, T).

    Args:
        call: the open call.
        copies: how many for each sample.
        change: gets a call on n of the samples, the slice of these samples, and the range of the k copies to make; it
            returns tensors (k, n, ...).
        max_rows: most rows in a pass; None chooses.
        tick: called after each pass with the number of its scores, such as the `update` of a progress bar.
    """
    parts, start = [], 0
    # Without a graph a pass takes twice the rows of a gradient pass, since it keeps no activations.
    rows = max_rows or (None if call.create_graph else 2 * rows_per_pass(call.inputs))
    for part, passes in call.passes(copies, rows):
        samples = slice(start, start + part.n)
        start += part.n
        scores = []
        for some in passes:
            stacked = tuple(t.flatten(0, 1) for t in change(part, samples, some))
            scores.append(_score(part, stacked, len(some)).unflatten(0, (len(some), part.n)))
            tick(part.n * len(some))
        parts.append(torch.cat(scores))
    return torch.cat(parts, 1)


def _score(call: Call, inputs: Tensors, copies: int) -> Tensor:
    """The scores of copies; where the call says so, the pass is run again in the loss's backward pass."""
    if not call.recompute:
        return _scores(call, inputs, copies)

    check_recomputable(call, inputs)

    def run(*tensors: Tensor) -> Tensor:
        with call.recompute_context():
            return _scores(call, tensors, copies)

    return recomputed(run, *inputs)


def _scores(call: Call, inputs: Tensors, copies: int) -> Tensor:
    """The scores of one pass, (R,); of several targets (R, T)."""
    if not call.more_targets:
        return call.scores(inputs, copies)
    output = call.run(inputs, copies)
    return torch.stack([call.of_target(target).score(output, copies) for target in call.targets], -1)
