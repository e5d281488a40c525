"""Multipliers stand for the derivative of one operation: multiplier * difference of inputs = difference of outputs.

Each function here returns the multipliers applied to what flows back: a list with one tensor for each moving operand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xaikit.explainers.deep_lift.references import PairedCall
from xaikit.explainers.integrated_gradients import quadrature

Elementwise = Callable[[Tensor], Tensor]
NEAR = 16.0  # roundings of the values, within which the midpoint's derivative gives the difference of the outputs


def slope(function: Elementwise, x: Tensor, r: Tensor, rise: Tensor, size: Tensor) -> Tensor:
    """The rescale rule: rise / (x - r), entry by entry, where the function falls or rises by `rise` from r to x.

    Where the two are close, the quotient is lost in rounding; the mean of the derivative at two points between them
    (Gauss and Legendre) then gives the same and takes its place. So the multiplier and its own derivative are exact for
    near values too. Where a kink lies between, the mean does not give the rise, and the quotient stays.

    Args:
        function: elementwise.
        x: for the input.
        r: for the baseline.
        rise: f(x) - f(r), or the part of it that this operand gets.
        size: how large the values are that were subtracted for it.
    """
    run = x - r
    with torch.no_grad():
        mean = _mean_derivative(function, x, r, None).nan_to_num(0.0, 0.0, 0.0)
        is_smooth = (rise - mean * run).abs() <= NEAR * torch.finfo(x.dtype).eps * (size + (mean * run).abs())
        use_mean = is_smooth | (run == 0)
    if torch.is_grad_enabled():
        # Where the quotient is taken the derivative is computed at x: between the two there may be a pole.
        mean = _mean_derivative(function, x, r, use_mean)
    return torch.where(use_mean, mean, rise / torch.where(use_mean, 1, run))


def _mean_derivative(function: Elementwise, x: Tensor, r: Tensor, inside: Tensor | None) -> Tensor:
    total = torch.zeros_like(x)
    for t in (0.5 - 12**-0.5, 0.5 + 12**-0.5):
        point = r + t * (x - r)
        total = total + 0.5 * derivative(function, point if inside is None else torch.where(inside, point, x))
    return total


def derivative(function: Elementwise, point: Tensor) -> Tensor:
    """The derivative of an elementwise function, differentiable where gradients are on.

    Args:
        function: elementwise.
        point: where.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = point if keep and point.requires_grad else point.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            return torch.zeros_like(point)
        (result,) = torch.autograd.grad(value, point, torch.ones_like(value), create_graph=keep, allow_unused=True)
    return torch.zeros_like(point) if result is None else result


def of_elementwise(
    op: PairedCall, moving: Sequence[int], x: list[Tensor], r: list[Tensor], y: Tensor, ry: Tensor, g: Tensor
) -> list[Tensor]:
    """The rescale rule of a function of each entry; of two operands each gets its Shapley value of the difference.

    Args:
        op: the operation.
        moving: the positions of its operands.
        x: its tensors for the input.
        r: those for the baseline.
        y: its result for the input.
        ry: that for the baseline.
        g: what flows back to the result.
    """

    def at(tensors: list[Tensor], i: int) -> Elementwise:
        return lambda point: op.run([point if j == i else t for j, t in enumerate(tensors)])

    def wide(t: Tensor) -> Tensor:
        return t if t.shape == y.shape else t.expand(y.shape)

    size = y.detach().abs() + ry.detach().abs()
    if len(moving) == 1:
        (i,) = moving
        slopes = [slope(at(x, i), wide(x[i]), wide(r[i]), y - ry, size)]
    elif len(moving) == 2 and not _others_differ(moving, x, r):
        slopes = []
        for i, j in (moving, moving[::-1]):
            mixed = [[t[k] if k == i else s[k] for k in range(len(x))] for t, s in ((x, r), (r, x))]
            only, without = (op.run(tensors) for tensors in mixed)  # i as for the input, the other as for the baseline
            rise = ((y - without) + (only - ry)) / 2
            both = lambda point, i=i, j=j: (at(x, i)(point) + at([*x[:j], r[j], *x[j + 1 :]], i)(point)) / 2  # noqa: E731
            slopes.append(
                slope(both, wide(x[i]), wide(r[i]), rise, size + only.detach().abs() + without.detach().abs())
            )
    else:
        slopes = _completed(op, moving, x, r, y - ry)
    return [(g * m).sum_to_size(x[i].shape) for i, m in zip(moving, slopes, strict=True)]


def _others_differ(moving: Sequence[int], x: list[Tensor], r: list[Tensor]) -> bool:
    return any(a is not b for i, (a, b) in enumerate(zip(x, r, strict=True)) if i not in moving)


def _completed(op: PairedCall, moving: Sequence[int], x: list[Tensor], r: list[Tensor], rise: Tensor) -> list[Tensor]:
    """Derivatives midway; what they miss of the rise goes to the operands by the squares of their differences."""
    runs = [x[i] - r[i] for i in moving]
    partial = along(op, moving, x, r, torch.ones_like(rise), 1, reduced=False)
    missed = rise - sum(m * d for m, d in zip(partial, runs, strict=True))
    total = sum(d.square() for d in runs) + torch.zeros_like(rise)
    share = missed / torch.where(total == 0, 1, total)
    return [m + share * d for m, d in zip(partial, runs, strict=True)]


def along(
    op: PairedCall,
    moving: Sequence[int],
    x: list[Tensor],
    r: list[Tensor],
    g: Tensor,
    points: int,
    *,
    reduced: bool = True,
) -> list[Tensor]:
    """The mean of the derivative on the line between the baseline's operands and the input's (Aumann and Shapley).

    Exact for polynomials of a degree up to twice the number of points: with one point each factor of a product gets the
    mean of the other for input and baseline, which is its Shapley value.

    Args:
        op: the operation.
        moving: the positions of the operands.
        x: its tensors for the input.
        r: those for the baseline.
        g: what flows back to the result.
        points: Gauss and Legendre's, on the line.
        reduced: sum over what was broadcast.
    """
    keep = torch.is_grad_enabled()
    totals: list[Tensor] = [torch.zeros_like(x[i]) for i in moving]
    for t, weight in zip(*(v.tolist() for v in quadrature("gausslegendre", points)), strict=True):
        with torch.enable_grad():
            line = [r[i] + t * (x[i] - r[i]) for i in moving]
            if not reduced:
                line = [p.expand(g.shape) for p in line]
            line = [p if keep and p.requires_grad else p.detach().requires_grad_() for p in line]
            at = dict(zip(moving, line, strict=True))
            value = op.run([at.get(i, tensor) for i, tensor in enumerate(x)])
            parts = torch.autograd.grad(value, line, g, create_graph=keep, allow_unused=True)
        totals = [a if p is None else a + weight * p for a, p in zip(totals, parts, strict=True)]
    return totals


def of_quotient(x: list[Tensor], r: list[Tensor], g: Tensor, *, inverse: bool) -> list[Tensor]:
    """U = a / b by what the product a = u b says: the difference of u is (that of a - mean u * that of b) / mean b.

    The means are of input and baseline. Unlike the Shapley values of a and 1 / b it stays of the size of u where b is
    near 0 for one of the two, as the length is that a normalisation divides by, for a baseline of zeros. Where b
    changes its sign, a and 1 / b get their Shapley values.

    Args:
        x: a and b for the input.
        r: those for the baseline.
        g: what flows back to the quotient.
        inverse: whether what is called b here is 1 / b, by which a is multiplied.
    """
    (a, b), (ra, rb) = x, r
    keeps_sign = b * rb > 0
    total = torch.where(keeps_sign, b + rb, 1)
    if inverse:
        by_a = torch.where(keeps_sign, 2 * (b / total) * rb, (b + rb) / 2)
        by_b = torch.where(keeps_sign, (a * b + ra * rb) / total, (a + ra) / 2)
    else:
        safe, rsafe = (torch.where(keeps_sign, 1, t) for t in (b, rb))
        near, rnear = (torch.where(keeps_sign, t, 1) for t in (b, rb))
        by_a = torch.where(keeps_sign, 2 / total, (1 / safe + 1 / rsafe) / 2)
        by_b = torch.where(keeps_sign, -(a / near + ra / rnear) / total, -(a + ra) / (2 * safe * rsafe))
    return [(g * by_a).sum_to_size(a.shape), (g * by_b).sum_to_size(b.shape)]


class SwitchedStep:
    """A linear function whose condition or indices differ between input and baseline.

    A is the difference of the outputs with the input's condition, B that with the baseline's. The multiplier is
    a A + (1 - a) B with the a that gives the true difference: ReLU, written as a condition, gets the rescale rule. Of
    `torch.where` and its like a lies between 0 and 1; what is missed then, a jump, goes to the operands by the squares
    of their differences.

    Args:
        op: the operation.
        moving: the positions of the operands in which it is linear.
        x: its tensors for the input.
        r: those for the baseline.
        selects: whether each result is an entry of one of the operands at the same place.
    """

    def __init__(
        self, op: PairedCall, moving: Sequence[int], x: list[Tensor], r: list[Tensor], *, selects: bool
    ) -> None:
        self.op, self.moving, self.x, self.selects = op, moving, x, selects
        self.of_input = [x[i] if i in moving else r[i] for i in range(len(x))]  # under the baseline's condition
        of_baseline = [r[i] if i in moving else x[i] for i in range(len(x))]
        y, ry, other, mixed = op.run(x), op.run(r), op.run(of_baseline), op.run(self.of_input)
        first, second = y - other, mixed - ry
        size = sum(t.detach().abs() for t in (y, ry, other, mixed))
        self.rounding = NEAR * torch.finfo(size.dtype).eps * size
        same = (first - second).abs() <= self.rounding
        part = torch.where(same, 1, (y - ry - second) / torch.where(same, 1, first - second))
        self.part = part.clamp(0, 1) if selects else part
        self.missed = torch.where(same, y - ry - first, y - ry - second - self.part * (first - second))
        self.runs = [x[i] - r[i] for i in moving]
        self.squares = sum(d.square() for d in self.runs) + torch.zeros_like(y) if selects else torch.zeros_like(y)

    @property
    def jumps_alone(self) -> bool:
        """Whether some result changes by its condition alone, so that no operand can have what it changes by."""
        return bool(((self.missed.abs() > self.rounding) & (self.squares == 0)).any())

    def applied(self, g: Tensor) -> list[Tensor]:
        """The multipliers, applied to what flows back.

        Args:
            g: what flows back to the result.
        """
        sides = (self.x, self.part), (self.of_input, 1 - self.part)
        ways = [along(self.op, self.moving, t, t, g * p, 1) for t, p in sides]
        results = [a + b for a, b in zip(*ways, strict=True)]
        if self.selects:
            share = g * self.missed / torch.where(self.squares == 0, 1, self.squares)
            results = [m + (share * d).sum_to_size(d.shape) for m, d in zip(results, self.runs, strict=True)]
        return results


def of_maximum(x: Tensor, r: Tensor, places: tuple[Tensor, Tensor], g: Tensor) -> Tensor:
    """The whole difference of a maximum at the place of the larger one, of the input's and the baseline's (last axis).

    Args:
        x: for the input, (..., positions).
        r: for the baseline.
        places: of the maxima of x and of r.
        g: what flows back to the maxima.
    """
    at_x, at_r = places
    rise = x.gather(-1, at_x) - r.gather(-1, at_r)
    place = torch.where(rise >= 0, at_x, at_r)
    run = x.gather(-1, place) - r.gather(-1, place)
    same = (at_x == at_r) | (run == 0)
    m = torch.where(same, 1, (rise / torch.where(same, 1, run)).clamp(0, 1))
    return torch.zeros_like(x).scatter_add(-1, place, g * m)


def of_sort(x: Tensor, r: Tensor, g: Tensor) -> Tensor:
    """Entries in falling order (last axis).

    The sum of the k largest is convex, so its difference lies between what the places of r's and those of x's k largest
    say, and its multiplier is the mixture of the two that gives it. An entry is the difference of two such sums.

    Args:
        x: for the input.
        r: for the baseline.
        g: what flows back to the ordered entries.
    """
    (high, at_x), (low, at_r) = x.sort(-1, descending=True), r.sort(-1, descending=True)
    run = x - r
    first, second = run.gather(-1, at_x).cumsum(-1), run.gather(-1, at_r).cumsum(-1)
    apart = first - second
    part = torch.where(apart == 0, 1, ((high - low).cumsum(-1) - second) / torch.where(apart == 0, 1, apart)).clamp(
        0, 1
    )
    sums = g - torch.cat([g[..., 1:], torch.zeros_like(g[..., :1])], -1)
    ways = [(sums * p).flip(-1).cumsum(-1).flip(-1) for p in (part, 1 - part)]
    return torch.zeros_like(x).scatter_add(-1, at_x, ways[0]).scatter_add(-1, at_r, ways[1])


def log_sum_weights(x: Tensor, r: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Multipliers of the logarithm of the sum of exponentials: the rescale rule of exp, and of log.

    Args:
        x: for the input.
        r: for the baseline.
        dim: along which is summed.

    Returns:
        The multipliers, and the two logarithms.
    """
    top = torch.maximum(x.detach().amax(dim, keepdim=True), r.detach().amax(dim, keepdim=True))
    top = top.masked_fill(top.isinf(), 0)
    x, r = x - top, r - top
    ex, er = x.exp(), r.exp()
    sums = ex.sum(dim, keepdim=True), er.sum(dim, keepdim=True)
    logs = x.logsumexp(dim, keepdim=True), r.logsumexp(dim, keepdim=True)
    hidden = x.isinf() | r.isinf()  # what attention may not see
    x, r = x.masked_fill(hidden, 0), r.masked_fill(hidden, 0)
    inner = slope(torch.exp, x, r, ex - er, ex.detach() + er.detach()).masked_fill(hidden, 0)
    size = logs[0].detach().abs() + logs[1].detach().abs() + 1
    outer = slope(torch.log, *sums, logs[0] - logs[1], size)
    return inner * outer, logs[0] + top, logs[1] + top


def of_softmax(x: Tensor, r: Tensor, dim: int, g: Tensor, *, log: bool) -> Tensor:
    """softmax(x) = exp(x - log sum exp(x)), each function by the rescale rule.

    Args:
        x: for the input.
        r: for the baseline.
        dim: along which the result sums to 1.
        g: what flows back to the result.
        log: whether the result is the logarithm.
    """
    weights, of_x, of_r = log_sum_weights(x, r, dim)
    if not log:
        zx, zr = x - of_x, r - of_r
        hidden = zx.isinf() | zr.isinf()
        zx, zr = zx.masked_fill(hidden, 0), zr.masked_fill(hidden, 0)
        ex, er = zx.exp(), zr.exp()
        g = g * slope(torch.exp, zx, zr, ex - er, ex.detach() + er.detach()).masked_fill(hidden, 0)
    return g - weights * g.sum(dim, keepdim=True)
