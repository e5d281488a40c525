"""Passes that are run again in the loss's backward pass: what torch then no longer notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from xaikit.core.model_state import seeded
from xaikit.core.structure import Tensors
from xaikit.core.torch_private import not_compiled

if TYPE_CHECKING:
    from xaikit.core.call import Call


T = TypeVar("T")


def recomputed(run: Callable[..., T], *inputs: object) -> T:
    """What a function returns; for a derivative it runs again, so that no graph of it is held in between.

    It runs as written, also where that derivative is taken inside a compiled function.

    Args:
        run: the function; the second time it must compute the same.
        inputs: its arguments.
    """
    result: T = checkpoint(not_compiled(run), *inputs, use_reentrant=False)
    return result


def check_recomputable(call: Call, inputs: Tensors) -> None:
    """Refuse a model that writes in place into what a derivative needs, before its passes are run again.

    torch counts the writes into what it saves for a derivative, and refuses. A checkpoint saves nothing and takes what
    the pass that is run again has left in memory, so the derivative would be wrong in silence. So one version of the
    batch is differentiated without a checkpoint first, once for each form of input.

    Args:
        call: whose passes will be run again.
        inputs: of one of them, copy by copy.

    Raises:
        NotDifferentiableError: for such a model.
    """
    key = ("recomputed", call.form, tuple(point.name for point in call.layers))
    if call.traced or key in call.facts.checked:
        return
    with seeded(inputs[0].device, 0), call._kernels():
        rows = tuple(x[: call.n].detach() for x in inputs)
        leaves = tuple(x.requires_grad_() if x.is_floating_point() else x for x in rows)
        scores = call.scores(leaves)
        weights = [weight for weight in call.model.parameters() if weight.requires_grad]
        points = [*(x for x in leaves if x.requires_grad), *weights]
        if scores.requires_grad and points:
            torch.autograd.grad(scores.sum(), points, allow_unused=True)
    call.facts.checked.add(key)
