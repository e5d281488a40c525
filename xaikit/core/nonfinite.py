"""Attributions that are NaN or infinite are told, and whether the model's output is, too."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.structure import flatten

if TYPE_CHECKING:
    from xaikit.core.explainer import Explainer

MAX_NAMED = 5  # samples named in a warning


def warn_of_nonfinite(explainer: Explainer, attribution: Any, inputs: Any, *, sample_axis: int = 0) -> None:
    """Warn of samples whose attribution is NaN or infinite; called by what the user calls.

    Args:
        explainer: that gave it.
        attribution: tensors (N, ...), in any structure.
        inputs: of the call.
        sample_axis: of the attribution; 1 where there are several targets.
    """
    values = [v.detach() for v in flatten(attribution, "attributions")[0]]
    if all(bool(v.sum().isfinite()) for v in values):  # a sum may overflow; then each number is looked at
        return
    samples = sorted({i for v in values for i in _nonfinite_rows(v.movedim(sample_axis, 0))})
    if not samples:
        return
    output = explainer.output(inputs)
    of_output = set(_nonfinite_rows(output)) if len(output) > samples[-1] else set()
    if of_output.issuperset(samples):
        reason = (
            f"the model's output is NaN or infinite in sample {_listed(sorted(of_output))}; look at its weights and at "
            "these samples"
        )
    else:
        reason = (
            "the model's output on it is finite, but not what the method computes on the way, such as the output on a "
            "changed sample, the derivative of a root or a logarithm at 0, or a value that overflows; leave such "
            "samples out, or move them off that value"
        )
    warnings.warn(
        f"{explainer!r}: the attribution of sample {_listed(samples)} is NaN or infinite; {reason}", stacklevel=3
    )


def _nonfinite_rows(values: Tensor) -> list[int]:
    rows: list[int] = (~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
    return rows


def _listed(samples: list[int]) -> str:
    more = f" and {len(samples) - MAX_NAMED} more" if len(samples) > MAX_NAMED else ""
    return ", ".join(map(str, samples[:MAX_NAMED])) + more
