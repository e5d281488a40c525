"""The rows that a target scores, and the head that it is picked from."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError


def pick_head(output: Any, head: str | int | None) -> Any:
    """The output tensor of a model that returns a tensor, or a dict, object or tuple that holds one.

    Args:
        output: what the model returned.
        head: name or position of the output; None leaves everything as it was returned.

    Raises:
        UnknownNameError: when the output lacks the head; the message names what it has. A single tensor is the head
            "logits", and the head 0; so is the only item of a tuple.
        InvalidTypeError: when what stands there is no tensor, or the model returns none.
    """
    if head is None:
        return output
    if isinstance(output, Tensor):
        if head in ("logits", 0):
            return output
        raise UnknownNameError(f"the model returns one tensor, and no {head!r}; leave head= out, which takes it")
    if isinstance(output, Mapping):
        heads = [str(k) for k in output]
        if head not in output:
            raise UnknownNameError(
                f"the model returns a dict without {head!r}; name its output with head=, one of {heads}"
            )
        picked = output[head]
    elif isinstance(head, str) and hasattr(output, head):
        picked = getattr(output, head)
    elif isinstance(output, (tuple, list)) and len(output) == 1 and head == "logits":
        picked = output[0]
    elif isinstance(output, (tuple, list)) and (place := _position(head)) in range(-len(output), len(output)):
        picked = output[place]
    elif isinstance(output, (tuple, list)):
        kind = "list" if isinstance(output, list) else "tuple"
        raise UnknownNameError(
            f"the model returns a {kind} of {len(output)}; name its output with head=, a position from 0 on"
        )
    elif heads := [name for name, value in getattr(output, "__dict__", {}).items() if isinstance(value, Tensor)]:
        kind = type(output).__name__
        raise UnknownNameError(
            f"the model returns a {kind} without {head!r}; name its output with head=, one of {heads}"
        )
    else:
        kind = type(output).__name__
        raise InvalidTypeError(f"the model returns a {kind}, and no tensor; its forward pass must return one")
    if not isinstance(picked, Tensor):
        raise InvalidTypeError(
            f"head {head!r} of the model's output is a {type(picked).__name__}, not a tensor; with head=None a target "
            "function gets all that the model returns"
        )
    return picked


def _position(head: str | int) -> int:
    """The position that a head names, in a spec string, whose keys are texts, as digits; one past any for a name."""
    return int(head) if isinstance(head, int) or head.isdecimal() else sys.maxsize


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a pass and the samples that they stand for.

    Attributes:
        samples: the sample of each row, (R,).
        n: the number of samples, N.
    """

    samples: Tensor
    n: int

    def values(self, value: Any, what: str) -> Tensor:
        """A setting as a tensor (R,): a number for all, or one for each sample.

        Raises:
            InvalidInputError: for another number of values than samples.
        """
        if not isinstance(value, Tensor):
            return torch.full_like(self.samples, int(value))
        if value.shape != (self.n,):
            raise InvalidInputError(
                f"target {what} must be one whole number or one for each of the {self.n} samples, got shape "
                f"{tuple(value.shape)}"
            )
        return value.to(self.samples.device)[self.samples]

    @staticmethod
    def form(output: Tensor) -> str:
        """The shape of an output, whose first axis may count several versions of the batch."""
        return f"(N, {', '.join(map(str, output.shape[1:]))})"
