"""BatchNorm: an affine map with the running statistics, part of the affine operation before or after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from xaikit.core.torch_private import RunningNorm
from xaikit.explainers.lrp.layers import DIAGONAL, Affine, StandaloneBatchNorm, folded_after
from xaikit.explainers.lrp.marks import Mark
from xaikit.explainers.lrp.registry import rule
from xaikit.explainers.lrp.rules.affine import ruled, with_rule
from xaikit.explainers.lrp.rules.normalisation import affine_map, grouped, normalised
from xaikit.explainers.lrp.zennit_rules import NO_RULE, Rule
from xaikit.torch_ops import by_name, with_statistics
from xaikit.torch_ops.kinds import NATIVE_BATCH_NORMS

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


@rule("batch_norm", *NATIVE_BATCH_NORMS)
def batch_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """An affine map, scale * x + shift with the running statistics: part of the affine operation before or after it.

    Where neither is there, or the composite has a rule for it, it is a layer of its own (`_alone`).
    """
    return with_statistics(function, of_statistics(trace, by_name(function, args, kwargs)))


@rule("instance_norm")
def instance_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """InstanceNorm; with running statistics it is what BatchNorm is."""
    a = by_name(function, args, kwargs)
    return grouped(trace, a, a["input"].shape[1]) if a["use_input_stats"] else of_statistics(trace, a)


def of_statistics(trace: Trace, a: dict[str, Any]) -> Tensor:
    """BatchNorm with its arguments by name."""
    x: Tensor = a["input"]
    mean, var, weight, bias = (a.get(name) for name in ("running_mean", "running_var", "weight", "bias"))
    if a.get("training", False) or mean is None or var is None:  # the batch's own: the scale is frozen
        dims = [0, *range(2, x.ndim)]
        return trace.mark(affine_map(normalised(trace, x, dims, a["eps"]), weight, bias, channels=True))
    scale = (var + a["eps"]).rsqrt() if weight is None else weight * (var + a["eps"]).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    module, norm_rule = trace.running[-1] if trace.running else (None, NO_RULE)
    if isinstance(module, RunningNorm) and norm_rule.hook is not None:  # the composite has a rule for it as a module
        return trace.mark(DIAGONAL.forward(x, scale, shift))
    mark, norm_rule = trace.marks[x], trace.rules.of_norm
    if mark.layer is not None and mark.layer.operation.channel_dim % x.ndim == 1:
        y = ruled(trace, folded_after(mark.layer, scale, shift))
        if mark.tap is None:
            return y
        side = with_rule(trace, _alone(mark.tap, scale, shift, norm_rule))
        return trace.mark(trace.flow.branched(y, side), trace.marks[y])
    layer = _alone(x, scale, shift, norm_rule)
    return trace.mark(with_rule(trace, layer), Mark(norm=StandaloneBatchNorm(x, layer.y, scale, shift)))


def _alone(x: Tensor, scale: Tensor, shift: Tensor, norm_rule: Rule) -> Affine:
    """A BatchNorm with no affine operation beside it: a linear layer with a diagonal matrix, and with its rule.

    The epsilon rule makes that R_in = scale * x * R / (y + epsilon * sign(y)). A convolution's rule would not do: each
    output has one contribution, so z+ would withhold the relevance of every negative output, alpha-beta double that of
    every positive one.
    """
    return Affine(x, DIAGONAL.forward(x, scale, shift), scale, shift, DIAGONAL, norm_rule)
