"""Which multipliers each operation gets, by its name or its kind; the others have their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.errors import UnsupportedOperationError
from xaikit.explainers.deep_lift import multipliers
from xaikit.explainers.deep_lift.norms import NORMS
from xaikit.explainers.deep_lift.references import PairedCall
from xaikit.explainers.deep_lift.trace import MultiplierRule, PairHandler, SideBySide
from xaikit.torch_ops import WRITTEN_OUT, Kind, by_name, kind_of, names_of, plain_name
from xaikit.torch_ops.kinds import NO_GRADIENT, WHY_NONE

POINTS = 16  # on the line, for an operation that is no polynomial and has no rule
ALSO_ELEMENTWISE = """
    relu leaky_relu prelu rrelu abs hypot rsqrt reciprocal div rtruediv maximum minimum fmax fmin atan2 copysign ldexp
    sign floor ceil round trunc heaviside floor_divide
"""
ELEMENTWISE = names_of(Kind.ELEMENTWISE, Kind.GATE) | set(ALSO_ELEMENTWISE.split())
DEGREES: dict[str, Callable[[Tensor, dict[str, Any]], int]] = {
    "var": lambda x, a: 2,
    "var_mean": lambda x, a: 2,
    "cov": lambda x, a: 2,
    "prod": lambda x, a: x.numel() if a.get("dim") is None else x.shape[a["dim"]],
    "cumprod": lambda x, a: x.shape[a["dim"]],
    "det": lambda x, a: x.shape[-1],
    "matrix_power": lambda x, a: abs(a["n"]),
}
AS_GRADIENT = {Kind.STRUCTURE, Kind.LINEAR, Kind.SUM, Kind.EMBEDDING, Kind.AFFINE, Kind.PRODUCT}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}
REDUCTIONS = {"scatter_reduce", "index_reduce", "segment_reduce"}  # linear for sums and means
SELECTIONS = {"where", "masked_fill"}
RANDOM = {"gumbel_softmax", "fractional_max_pool2d", "fractional_max_pool3d"}
MAX_POOLS = {f"{kind}max_pool{n}d": n for kind in ("", "adaptive_") for n in (1, 2, 3)}
PICKS = {"topk": 2, "kthvalue": 2, "sort": 1, "median": 1, "nanmedian": 1, "mode": 1, "cummax": 1, "cummin": 1}


def handler_of(name: str, op: PairedCall) -> PairHandler | None:
    """What runs an operation; None where its gradient is its multiplier.

    Args:
        name: of the operation.
        op: the call; something that it gets can be differentiated.
    """
    if name in BY_NAME and not (name in DROPOUTS and _is_off(op)):
        return BY_NAME[name]
    kind = kind_of(name)
    if kind in (Kind.AFFINE, Kind.PRODUCT) and len(op.moving) > 1:
        return elementwise if name == "mul" and op.switches else product
    if kind in AS_GRADIENT or (kind is Kind.LINEAR_IN_FIRST and op.moving == [0]):
        return switched if op.switches else None
    return None if WHY_NONE.get(name) == NO_GRADIENT else between


def elementwise(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The rescale rule; of two operands each gets its Shapley value."""
    if any(t.is_complex() for t in op.tensors) or any(isinstance(number, complex) for number in op.args):
        return _absolute(trace, name, op) if name == "abs" else between(trace, name, op)
    moving = op.moving
    return trace.stepped(name, op, lambda op, x, r, y, ry, g: multipliers.of_elementwise(op, moving, x, r, y, ry, g))


def hardsigmoid(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The rescale rule; torch's own function cannot be differentiated twice."""
    return elementwise(trace, name, op.with_function(lambda x, *_, **__: F.relu6(x + 3) / 6))


def quotient(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """A quotient of two tensors, which normalisations are."""
    if len(op.moving) != 2 or op.switches or op.kwargs.get("rounding_mode") or any(t.is_complex() for t in op.tensors):
        divisor = op.args[0 if name == "rtruediv" else 1]
        return (scale if op.moving and op.tensors[op.moving[0]] is divisor else elementwise)(trace, name, op)
    back = -1 if name == "rtruediv" else 1

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        return multipliers.of_quotient(x[::back], r[::back], g, inverse=False)[::back]

    return trace.stepped(name, op, rule)


def scale(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """1 / x, 1 / sqrt(x), x^-n: what it is multiplied by is a quotient."""
    return trace.scaled(elementwise(trace, name, op))


def power(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The rescale rule; a negative power is a scale."""
    exponent = op.args[1] if len(op.args) > 1 else 1
    return (scale if isinstance(exponent, (int, float)) and exponent < 0 else elementwise)(trace, name, op)


def relu(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The rescale rule; where both are on one side of 0 the multiplier is 0 or 1."""

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], y: Tensor, ry: Tensor, g: Tensor) -> list[Tensor]:
        run = x[0] - r[0]
        # On one side the quotient is exactly 0 or 1, but its derivative is not.
        same = (x[0] > 0) == (r[0] > 0) if torch.is_grad_enabled() else run == 0
        run = torch.where(same, 1, run) if torch.is_grad_enabled() else run
        return [g * torch.where(same, (x[0] > 0).to(g.dtype), (y - ry) / run)]

    return trace.stepped(name, op, rule)


def product(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """Of two factors each gets half of what they do together, its Shapley value; more by the line between them."""
    scales = [trace.is_scale(t) for t in op.tensors]
    if name != "mul" or sum(scales) != 1:
        return trace.stepped(name, op, _line(op, len(op.moving)))
    back = 1 if scales[1] else -1

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        return multipliers.of_quotient(x[::back], r[::back], g, inverse=True)[::back]

    return trace.stepped(name, op, rule)


def between(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The mean derivative on the line from the baseline's operands to the input's; exact for polynomials."""
    x = op.tensors[op.moving[0]]
    degree = DEGREES[name](x, by_name(op.function, op.args, op.kwargs)) if name in DEGREES else 0
    if not 0 < degree <= 2 * POINTS:
        degree = 2 * POINTS
        trace.without_rule(name)
    return trace.stepped(name, op, _line(op, degree))


def _line(op: PairedCall, degree: int) -> MultiplierRule:
    moving = op.moving
    return lambda op, x, r, _y, _ry, g: multipliers.along(op, moving, x, r, g, (degree + 1) // 2)


def switched(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """A linear function whose condition or indices may differ between input and baseline."""
    moving = op.moving
    selects = name in SELECTIONS and not any(t.is_complex() for t in op.tensors)

    def rule(op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        return multipliers.SwitchedStep(op, moving, x, r, selects=selects).applied(g)

    output = trace.stepped(name, op, rule)
    if isinstance(output, Tensor):
        with trace.flow.values_only():
            if multipliers.SwitchedStep(op, moving, op.tensors, op.references, selects=selects).jumps_alone:
                trace.without_rule(f"{name} whose condition alone differs for the baseline")
    return output


def written_out(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """A fused operation as plain ones, each with its rule."""
    with trace:
        return WRITTEN_OUT[name](op.function, *op.args, **op.kwargs)


def norm(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """A normalisation or a norm as plain operations, each with its rule; none where its form has none."""
    with trace:
        result = NORMS[name](op.function, *op.args, **op.kwargs)
    if result is not NotImplemented:
        return result
    linear = len(op.moving) == 1 and ("batch_norm" in name or name == "instance_norm")
    return trace.native(name, op) if linear else between(trace, name, op)


def softmax(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """exp(x - log sum exp(x)), each function by the rescale rule."""
    a = by_name(op.function, op.args, op.kwargs)
    dim, dtype = a["dim"], a.get("dtype")
    if dim is None or isinstance(dim, bool):
        return between(trace, name, op)
    if dtype is not None or name == "softmin":
        with trace:
            x = a["input"] if dtype is None else a["input"].to(dtype)
            return torch.softmax(-x, dim) if name == "softmin" else getattr(torch, name)(x, dim)
    log = name == "log_softmax"
    return trace.stepped(name, op, lambda op, x, r, _y, _ry, g: [multipliers.of_softmax(x[0], r[0], dim, g, log=log)])


def log_sum(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """Log sum exp(x), each function by the rescale rule."""
    a = by_name(op.function, op.args, op.kwargs)
    dims = _dims(a["dim"], op.tensors[0])

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        lined = _lined(x[0], dims), _lined(r[0], dims)
        weights = multipliers.log_sum_weights(*lined, -1)[0]
        return [_unlined(weights * g.reshape(*weights.shape[:-1], 1), x[0], dims)]

    return trace.stepped(name, op, rule)


def _dims(dim: Any, x: Tensor) -> list[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(x.ndim))
    return sorted(d % x.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))


def _lined(x: Tensor, dims: list[int]) -> Tensor:
    """X with some dimensions as its last one."""
    return x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))


def _unlined(y: Tensor, x: Tensor, dims: list[int]) -> Tensor:
    """Back in the form of x."""
    last = list(range(-len(dims), 0))
    return y.reshape(*y.shape[:-1], *(x.shape[d] for d in dims)).movedim(last, dims)


def max_pool(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The whole difference at the place of the larger maximum."""
    n, (x, *args), kwargs = MAX_POOLS[name], op.args, dict(op.kwargs)
    place = 1 if "adaptive" in name else 5
    indices = kwargs.pop("return_indices", args[place] if len(args) > place else "_with_i" in plain_name(op.function))
    args = args[:place]

    def pooled(x: Tensor) -> Any:
        return getattr(F, f"{name}_with_indices")(x, *args, **kwargs)

    only = PairedCall(lambda x: pooled(x)[0], (x,), {}, trace.references)
    with trace.flow.values_only():
        (y, at_x), (ry, at_r) = (pooled(t) for t in (only.tensors[0], only.references[0]))

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        places = at_x.flatten(-n), at_r.flatten(-n)
        flat = multipliers.of_maximum(x[0].flatten(-n), r[0].flatten(-n), places, g.flatten(-n))
        return [flat.view(x[0].shape)]

    values = trace.step(name, only, rule, y, ry)
    return (values, trace.references.pair(at_x, at_r, name)) if indices else values


def extremum(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The largest or smallest entry, along some dimensions: the whole difference at the place of the larger one."""
    if len(op.tensors) > 1:
        return elementwise(trace, name, op)
    x, up = op.tensors[0], "max" in name
    dim = op.kwargs.get("dim", op.args[1] if len(op.args) > 1 else None)
    keep = bool(op.kwargs.get("keepdim", op.args[2] if len(op.args) > 2 else False))
    with_places = name in ("max", "min") and dim is not None
    dims = _dims(dim, x)
    reduce = torch.amax if up else torch.amin

    def places(t: Tensor) -> Tensor:
        t = _lined(t, dims)
        return t.argmax(-1, keepdim=True) if up else t.argmin(-1, keepdim=True)

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        sign = 1 if up else -1
        lines = _lined(sign * x[0], dims), _lined(sign * r[0], dims)
        flat = multipliers.of_maximum(*lines, (places(x[0]), places(r[0])), g.reshape(*lines[0].shape[:-1], 1))
        return [_unlined(flat, x[0], dims)]

    only = PairedCall(lambda x: reduce(x, dims, keepdim=keep), (x,), {}, trace.references)
    values = trace.stepped(name, only, rule)
    if not with_places:
        return values
    with torch.no_grad():
        chosen, other = op.run(op.tensors), op.run(op.references)
    return type(chosen)((values, trace.references.pair(chosen[1], other[1], name)))


def picked(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """Entries picked by their order: gathered at the places that they have for the input, and for the baseline."""
    with torch.no_grad():
        chosen, other = op.run(op.tensors), op.run(op.references)
    if isinstance(chosen, Tensor):  # the median of all
        with trace:
            return getattr(torch, name)(op.tensors[0].flatten(), 0)[0]
    trace.references.pair(chosen[1], other[1], name)
    x, places, place = op.tensors[0], chosen[1], PICKS[name]
    option = lambda key, i, default: op.kwargs.get(key, op.args[i] if len(op.args) > i else default)  # noqa: E731
    dim, count = option("dim", place, -1) % max(x.ndim, 1), option("k", 1, 1)
    keeps = places.ndim == x.ndim
    if name in ("mode", "cummax", "cummin"):
        with trace:
            values = torch.gather(x, dim, places if keeps else places.unsqueeze(dim))
            return type(chosen)((values if keeps else values.squeeze(dim), places))
    falling = (
        option("largest", 3, True) if name == "topk" else option("descending", 2, False) if name == "sort" else False
    )
    ordered = PairedCall(lambda x: x.sort(dim, descending=falling).values, (x,), {}, trace.references)

    def rule(_op: PairedCall, x: list[Tensor], r: list[Tensor], _y: Tensor, _ry: Tensor, g: Tensor) -> list[Tensor]:
        sign = 1 if falling else -1
        lines = (t.movedim(dim, -1) for t in (sign * x[0], sign * r[0], g))
        return [multipliers.of_sort(*lines).movedim(-1, dim)]

    values = trace.stepped(name, ordered, rule)
    with trace:
        if name == "topk":
            values = values.narrow(dim, 0, count)
        elif name != "sort":
            position = count - 1 if name == "kthvalue" else (x.shape[dim] - 1) // 2
            values = values.narrow(dim, position, 1) if keeps else values.select(dim, position)
    return type(chosen)((values, places))


def dropped(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """Dropout that is on: the same entries are dropped for input and baseline."""
    x, settings = op.args[0], op.args[1:]
    factor = op.function(torch.ones_like(x.detach()), *settings, **op.kwargs)
    with trace:
        return x * factor


def detached(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The score depends on a detached value all the same; true gradients stay cut."""
    return trace.stepped(name, op, lambda _op, _x, _r, _y, _ry, g: [g])


def _is_off(op: PairedCall) -> bool:
    """Whether a dropout keeps everything."""
    settings = by_name(op.function, op.args, op.kwargs)
    return not settings.get("training", settings.get("train", True))


def reduced(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """Sums and means are linear; maxima and products are not."""
    how = [v for v in (*op.args, *op.kwargs.values()) if isinstance(v, str)]
    return trace.native(name, op) if how in (["sum"], ["mean"]) and not op.switches else between(trace, name, op)


def random(_trace: SideBySide, name: str, _op: PairedCall) -> Any:
    """Refused: it would draw other numbers for the baseline."""
    raise UnsupportedOperationError(
        f"DeepLIFT compares each step for the input with the same step for the baseline, and {name} draws random "
        "numbers in each; use integrated_gradients"
    )


def composed_max(trace: SideBySide, name: str, op: PairedCall) -> Any:
    """The smallest and the largest entry."""
    a = by_name(op.function, op.args, op.kwargs)
    with trace:
        low, high = (
            f(a["input"], a["dim"] if a["dim"] is not None else (), a["keepdim"]) for f in (torch.amin, torch.amax)
        )
    return torch.return_types.aminmax((low, high))


def _absolute(trace: SideBySide, _name: str, op: PairedCall) -> Any:
    with trace:
        parts = torch.view_as_real(op.tensors[0])
        return (parts * parts).sum(-1).sqrt()


BY_NAME: dict[str, PairHandler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(WRITTEN_OUT, written_out),
    "relu": relu,
    "detach": detached,
    "hardsigmoid": hardsigmoid,
    **dict.fromkeys(("div", "rtruediv"), quotient),
    **dict.fromkeys(("rsqrt", "reciprocal"), scale),
    **dict.fromkeys(("pow", "float_power"), power),
    "softmax": softmax,
    "log_softmax": softmax,
    "softmin": softmax,
    "logsumexp": log_sum,
    "aminmax": composed_max,
    **dict.fromkeys(NORMS, norm),
    **dict.fromkeys(MAX_POOLS, max_pool),
    **dict.fromkeys(("max", "min", "amax", "amin"), extremum),
    **dict.fromkeys(PICKS, picked),
    **dict.fromkeys(DROPOUTS, dropped),
    **dict.fromkeys(REDUCTIONS, reduced),
    **dict.fromkeys(RANDOM, random),
}
