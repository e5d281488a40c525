"""What a trace knows about a tensor."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What is known about a tensor that depends on the explained input.

    Attributes:
        gate: lies in [0, 1] up to a constant factor by construction (sigmoid, softmax), so that in a product it lets
            the other factor through and takes no relevance itself.
        odd: tanh or erf, of which 1 + y is a gate.
        layer: the `Affine` operation whose output it is, for a BatchNorm that follows.
        norm: the `Standing` BatchNorm whose output it is, for an affine operation that follows.
        logits: what the softmax was taken of whose output it is.
        tap: the same tensor, where it is a layer's output that is explained, with relevance to the place where it is
            read off and no further: for rules that pass by this tensor, since a BatchNorm is folded in or out.
    """

    gate: bool = False
    odd: bool = False
    layer: Any = None
    norm: Any = None
    logits: Tensor | None = None
    tap: Tensor | None = None


PLAIN = Mark()
GATE = Mark(gate=True)
