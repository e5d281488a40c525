"""Norms in plain operations, where a derivative is taken three times: torch's own third derivative of them is wrong.

Measured with torch 2.13, double precision, beside the same norm written out: of LayerNorm 71 to 97 % off, of
InstanceNorm 102 %, of BatchNorm with the statistics of the batch 64 %. torch 2.14 raises for the last two. GroupNorm,
RMSNorm, softmax, the activations and plain attention are right, and so is BatchNorm with fixed statistics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xaikit.core.errors import NotDifferentiableError
from xaikit.core.graphs import steps_between
from xaikit.core.torch_private import takes_batch_statistics

# Names of the graph nodes of such a norm's second derivative. A BatchNorm's node says whether it is in training mode.
WRONG = tuple(
    f"{norm}BackwardBackward0" for norm in ("NativeLayerNorm", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm")
)

Norm = tuple[Tensor, Tensor, Tensor]  # the normalised values, the mean, the reciprocal of the deviation


def _standardised(x: Tensor, axes: Iterable[int], eps: float, weight: Tensor | None, bias: Tensor | None) -> Norm:
    """The norm over some axes, in at least float32, as torch's own; weight and bias broadcast against it."""
    axes = tuple(axes)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    y = centred * scale
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, scale


def _by_channel(x: Tensor, axes: Iterable[int], eps: float, weight: Tensor | None, bias: Tensor | None) -> Norm:
    shape = [1, -1, *[1] * (x.ndim - 2)]
    shaped = (None if vector is None else vector.view(shape) for vector in (weight, bias))
    return _standardised(x, axes, eps, *shaped)


# The signatures are torch's: as in `torch.nn.functional` and as everywhere else. None: torch's own is right.


def _layer_norm(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int] | int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001
) -> Norm:
    axes = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    return _standardised(input, range(-axes, 0), eps, weight, bias)


def _instance_norm(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,  # noqa: ARG001
    running_var: Tensor | None,  # noqa: ARG001
    use_input_stats: bool,
    momentum: float,  # noqa: ARG001
    eps: float,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> Norm | None:
    if not use_input_stats or input.ndim < 3:
        return None
    return _by_channel(input, range(2, input.ndim), eps, weight, bias)


def _functional_instance_norm(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Norm | None:
    return _instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)


def _batch_norm(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,  # noqa: ARG001
    running_var: Tensor | None,  # noqa: ARG001
    training: bool,
    momentum: float,  # noqa: ARG001
    eps: float,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> Norm | None:
    if not training:
        return None
    return _by_channel(input, [d for d in range(input.ndim) if d != 1], eps, weight, bias)


def _functional_batch_norm(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Norm | None:
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


def _batch_norm_without_statistics(  # noqa: PLR0913, PLR0917
    input: Tensor,  # noqa: A002
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Norm | None:
    return _batch_norm(input, weight, bias, None, None, training, momentum, eps)


def _all_ways() -> dict[Any, Callable[..., Norm | None]]:
    """Every way of calling such a norm: by `torch.nn.functional`, by `torch`, by the operator (exported programs)."""
    ways: dict[Any, Callable[..., Norm | None]] = {
        F.layer_norm: _layer_norm,
        F.instance_norm: _functional_instance_norm,
        F.batch_norm: _functional_batch_norm,
    }
    rules: dict[str, Callable[..., Norm | None]] = {
        "layer_norm": _layer_norm, "native_layer_norm": _layer_norm, "instance_norm": _instance_norm,
        "batch_norm": _batch_norm, "native_batch_norm": _batch_norm, "_native_batch_norm_legit": _batch_norm,
    }  # fmt: skip
    for name in rules.keys() & set(dir(torch)):
        rule = rules[name]
        operator = getattr(torch.ops.aten, name)
        ways |= {getattr(torch, name): rule, operator: rule}
        for overload in {"default", "no_stats"} & set(operator.overloads()):
            ways[getattr(operator, overload)] = rule if overload == "default" else _batch_norm_without_statistics
    return ways


ALL_WAYS = _all_ways()


class ThirdDerivatives(TorchFunctionMode):
    """While active, norms whose third derivative torch has wrong run in plain operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        kwargs = kwargs or {}
        rule = ALL_WAYS.get(func)
        if rule is _batch_norm and len(args) > 3 and isinstance(args[3], bool):  # torch chooses so, too
            rule = _batch_norm_without_statistics
        norm = rule and rule(*args, **kwargs)
        if norm is None:
            return func(*args, **kwargs)
        with torch.no_grad():  # torch's own: for its checks, its precision, and to update the running statistics
            reference = func(*args, **kwargs)
        if isinstance(reference, Tensor):
            return norm[0].to(reference.dtype)
        return tuple(part.reshape(r.shape).to(r.dtype) for part, r in zip(norm, reference, strict=True))


def third_derivatives(active: bool) -> contextlib.AbstractContextManager[Any]:
    """A context for passes whose derivative is taken three times.

    Args:
        active: whether it is.
    """
    return ThirdDerivatives() if active else contextlib.nullcontext()


def refuse_wrong_third_derivative(gradients: Iterable[Tensor]) -> None:
    """Refuse gradients whose second derivative torch has wrong: norms that no mode could see, as in TorchScript.

    Args:
        gradients: computed with a graph.

    Raises:
        NotDifferentiableError: for such a norm.
    """
    for node in steps_between((), gradients):
        name = node.name().rpartition("::")[2]
        if name in WRONG and takes_batch_statistics(node):
            raise NotDifferentiableError(
                f"torch has the third derivative of this model's norms wrong ({name}), and they could not be replaced, "
                "as in a TorchScript program; use the Python model"
            )
