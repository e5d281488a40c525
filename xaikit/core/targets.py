"""What is explained: one number per sample, picked out of the model's output.

A target is a class index for all samples, one index per sample, a function ``output -> (N,)``, or None for a model
with a single output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.core.labels import REMEDY, read_classes

Target = Tensor | Callable[[Tensor], Tensor] | None


def pick_head(output: Any, head: str | int) -> Tensor:
    """The output tensor of a model that returns a tensor, or a dict, object or tuple that holds one.

    Raises:
        UnknownNameError: when a dict or an object lacks the head; the message names what it has.
        InvalidTypeError: when what stands there is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        known = [str(k) for k in output]
        if head not in output:
            raise UnknownNameError(
                f"the model returns a dict without {head!r}; name its output with head=, one of {known}"
            )
        picked = output[head]
    elif isinstance(head, str) and hasattr(output, head):
        picked = getattr(output, head)
    elif isinstance(output, (tuple, list)) and isinstance(head, int) and -len(output) <= head < len(output):
        picked = output[head]
    elif isinstance(output, (tuple, list)):
        raise UnknownNameError(
            f"the model returns a tuple of {len(output)}; name its output with head=, a position from 0 on"
        )
    else:
        raise UnknownNameError(
            f"the model returns a {type(output).__name__} without {head!r}; name its output with head="
        )
    if not isinstance(picked, Tensor):
        raise InvalidTypeError(f"head {head!r} of the model's output is a {type(picked).__name__}, not a tensor")
    return picked


def normalise(targets: Any, n: int, device: torch.device) -> Target:
    """A target in its normal form: a LongTensor (N,), a function, or None.

    Raises:
        InvalidTypeError: for floating-point or boolean targets.
        InvalidInputError: for a wrong shape; one-hot rows are named as such.
    """
    if targets is None or (callable(targets) and not isinstance(targets, Tensor)):
        return targets
    raw = to_tensor(targets, "targets", remedy=REMEDY)
    if raw.ndim == 0:
        raw = raw.expand(n)
    return read_classes(raw, n, what="targets").to(device)


def score(output: Tensor, target: Target, n_classes: int | None = None) -> Tensor:
    """One score per sample, shape (N,), of an output (N, C).

    Raises:
        InvalidInputError: when the target is missing, out of range, or a function returns another shape.
    """
    n = len(output)
    shape = f"(N, {', '.join(map(str, output.shape[1:]))})"  # a pass may hold several copies of the batch
    if callable(target):
        picked = target(output)
        if not isinstance(picked, Tensor) or picked.shape != (n,):
            got = tuple(picked.shape) if isinstance(picked, Tensor) else type(picked).__name__
            raise InvalidInputError(f"a target function must return one score per sample, shape ({n},), got {got}")
        return picked
    if n_classes is not None and (output.ndim != 2 or output.shape[1] != n_classes):
        raise InvalidInputError(f"n_classes={n_classes} but the model returns {shape}")
    if target is None:
        if output.numel() != n:
            raise InvalidInputError(
                f"the model returns {shape}, several outputs per sample: pass targets "
                f"(a class, one class per sample, or a function of the output)"
            )
        return output.reshape(n)
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise InvalidInputError(
            f"class targets need an output of shape (N, classes), got {shape}; "
            f"pass a function of the output that returns (N,) scores"
        )
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= output.shape[1]:
        raise InvalidInputError(
            f"targets must lie in 0..{output.shape[1] - 1} for a model with {output.shape[1]} outputs, "
            f"got {low if low < 0 else high}"
        )
    return output.gather(1, target[:, None])[:, 0]
