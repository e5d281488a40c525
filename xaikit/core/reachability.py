"""Whether an explained score depends on what is explained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xaikit.core.errors import UnreachableError
from xaikit.core.layers import LayerPoint


def missing_gradients(grads: Sequence[Tensor | None], runs: Sequence[int] | None) -> list[bool]:
    """For each explained tensor, or each layer with its runs, whether it has no gradient at all."""
    missing, start = [], 0
    for count in [1] * len(grads) if runs is None else runs:
        missing.append(all(g is None for g in grads[start : start + count]))
        start += count
    return missing


def unreachable(points: Sequence[LayerPoint], missing: Sequence[bool]) -> UnreachableError:
    """The error for a score that does not depend on what is explained.

    Args:
        points: the explained layers, none where the inputs are explained.
        missing: which of them have no gradient; empty where none has.
    """
    unreached = [p.name for p, m in zip(points, missing, strict=False) if m] or [p.name for p in points]
    if unreached:
        layer_names = ", ".join(repr(name) for name in unreached)
        return UnreachableError(f"the explained score does not depend on layer {layer_names} through autograd")
    return UnreachableError(
        "the explained score does not depend on its input through autograd; is the input detached, rounded, or used "
        "under no_grad inside the model?"
    )
