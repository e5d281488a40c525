"""The decomposed tensor: a pair of parts that flows through an unmodified forward pass in place of one tensor."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from xaikit.core import torch_private
from xaikit.core.errors import NotDifferentiableError, UnsupportedOperationError
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.memory import memory_of
from xaikit.explainers.cd.registry import RULES, missing_rule, rule_for, rule_in_place
from xaikit.explainers.cd.ruleset import Approximation, Context
from xaikit.explainers.cd.shares import ShareLostError
from xaikit.torch_ops import Kind, calling_module, computed, inside_function, kind_of, plain_name, positional, writes


class Decomposed(torch.Tensor):
    """A tensor x of the model, held as relevant and irrelevant parts with x = r + s, for several masks at once.

    To the model it looks like x: it has its shape, dtype and device. Each torch function that meets it follows its rule
    (`cd_rule`); a function without one raises. The parts are stored, never the total: a part that is exactly 0 stays
    exactly 0 through every rule, since no rule computes it as the total minus the other part.

    Attributes:
        parts: (2, masks, *shape), the relevant part r and the irrelevant part s, stacked.
        share: the share of r in a constant where both parts are 0, (masks,) or one for each sample (`shares`).
        context: the rules followed.
        deferred: the steps that are put off until the parts are read (`steps.Deferred`), to which a rule may add one;
            None without.
        may_overwrite: whether a rule may write its result over the parts, as in the in-place call of a function.
        is_copied_view: whether the model's tensor shares memory with another and these parts do not, so that nothing
            may be written into them.
        empty: gives an empty tensor with the strides of the model's; None where they are in the usual order.
    """

    @staticmethod
    def __new__(cls: type[Decomposed], parts: Tensor, share: Tensor, context: Context) -> Decomposed:
        """A wrapper of the form of the tensor that the model sees, without storage of its own."""
        return torch_private.make_wrapper_subclass(cls, parts.shape[2:], dtype=parts.dtype, device=parts.device)

    def __init__(self, parts: Tensor, share: Tensor, context: Context) -> None:
        self._parts, self.share, self.context = parts, share, context
        self.deferred: Any = None
        self.empty: Callable[[], Tensor] | None = None
        self.may_overwrite = self.is_copied_view = False
        self._total: Tensor | None = None
        self._family: list[weakref.ref[Decomposed]] | None = None

    @property
    def parts(self) -> Tensor:
        """The parts, (2, masks, *shape)."""
        if self.deferred is not None:
            later, self.deferred = self.deferred, None
            self._parts = later.finished()
        return self._parts

    @parts.setter
    def parts(self, parts: Tensor) -> None:
        self._parts, self.deferred = parts, None

    @property
    def has_graph(self) -> bool:
        """Whether the parts can be differentiated, or will be able to where steps are put off."""
        return self._parts.requires_grad if self.deferred is None else self.deferred.differentiable

    @property
    def relevant(self) -> Tensor:
        """The relevant part of each mask, (masks, *shape)."""
        return self.parts[0]

    @property
    def irrelevant(self) -> Tensor:
        """The irrelevant part of each mask, (masks, *shape)."""
        return self.parts[1]

    @property
    def sums(self) -> Tensor:
        """The sums r + s of each mask, (masks, *shape): equal up to rounding."""
        return self.total.unsqueeze(0) if self.parts.shape[1] == 1 else self.parts[0] + self.parts[1]

    @property
    def total(self) -> Tensor:
        """The value x itself, r + s of the first mask; selections, gates, norms and branches use it."""
        if self._total is None and self.deferred is not None:
            self._total = self.deferred.known_total()
        if self._total is None:
            self._total = self.parts[0, 0] + self.parts[1, 0]
        return self._total

    def remember_total(self, total: Tensor) -> None:
        """Note the value x, (*shape), known already, so that it need not be summed up."""
        self._total = total

    def like(self, parts: Tensor, share: Tensor | None = None) -> Decomposed:
        """A decomposed tensor of the same context with other parts.

        Args:
            parts: (2, masks, *shape).
            share: the undecided share; None takes that of this value.

        Raises:
            ShareLostError: for a share of each sample that does not fit the shape.
        """
        share = self.share if share is None else share
        if not shares.fits(share, parts.shape[2:]):
            raise ShareLostError(self.shape, parts.shape[2:])
        return Decomposed(parts, share, self.context)

    def map_parts(self, function: Callable[[Tensor], Any], share: Tensor | None = None) -> Any:
        """Apply a linear map to each part of each mask: the rule for any op without a constant.

        Args:
            function: the map. It sees tensors of the shape that the model sees, and may return a tensor or a tuple or
                list of tensors.
            share: the undecided share of the result; None takes that of this value.
        """

        def stacked(values: Any) -> Any:
            if isinstance(values[0], Tensor):
                return self.like(torch.stack(values).unflatten(0, self.parts.shape[:2]), share)
            return type(values[0])(stacked(column) for column in zip(*values, strict=True))

        return stacked([function(part) for part in self.parts.flatten(0, 1).unbind()])

    def aligned_parts(self, ndim: int) -> Tensor:
        """The parts with dimensions of size 1 put in front of the shape, up to `ndim`, to broadcast as x would."""
        missing = ndim - self.dim()
        return self.parts if missing <= 0 else self.parts.reshape(*self.parts.shape[:2], *[1] * missing, *self.shape)

    def aligned_share(self, ndim: int) -> Tensor:
        """The share that goes with `aligned_parts`."""
        return self.share if shares.is_uniform(self.share) else shares.aligned(self.share, ndim)

    def aligned(self, ndim: int) -> Decomposed:
        """This value with dimensions of size 1 in front, up to `ndim`."""
        return self if ndim <= self.dim() else self.like(self.aligned_parts(ndim), self.aligned_share(ndim))

    def is_view_of(self, source: Decomposed) -> Decomposed:
        """Note that this value shares memory with another, if it does, so that in-place ops on either reach both."""
        if memory_of(self.parts) == memory_of(source.parts):
            if source._family is None:
                source._family = [weakref.ref(source)]
            self._family = source._family
            self._family.append(weakref.ref(self))
        return self

    def family(self) -> list[Decomposed]:
        """This value and the living ones that share its memory."""
        return [self] if self._family is None else [member for ref in self._family if (member := ref()) is not None]

    def write(self, new: Any) -> Decomposed:
        """Take over another value in place, in every view of this one as well.

        Args:
            new: a decomposed value, or a constant, which broadcasts to the shape.

        Raises:
            UnsupportedOperationError: for a copy in place of a view, and for another shape.
            NotDifferentiableError: where it shares memory with one that has a graph, and has none.
        """
        if self.is_copied_view or new.dim() > self.dim():
            raise UnsupportedOperationError(
                "contextual decomposition cannot follow an in-place step that changes the shape of a tensor, or that "
                f"writes into a view it had to copy, in {calling_module()}; call the operation out of place"
            )
        parts = with_parts(new, self).parts.to(self.parts.dtype).expand_as(self.parts)
        family = self.family()
        if len(family) > 1:
            if torch.is_grad_enabled() and not self.parts.requires_grad and any(m.parts.requires_grad for m in family):
                raise NotDifferentiableError(
                    f"contextual decomposition in a loss cannot follow what {calling_module()} writes into a tensor "
                    "without its graph, as x.detach() and x.data are; write into x itself, under torch.no_grad()"
                )
            self.parts.copy_(parts)
        else:
            self.parts = parts
        self.changed()
        if isinstance(new, Decomposed):
            self.share = new.share if shares.fits(new.share, self.shape) else self.share
        return self

    def take_over(self, other: Decomposed) -> Decomposed:
        """Become another value of the same shape in place, where the steps of both are still put off."""
        self.deferred, self.share, self._total = other.deferred.for_holder(self), other.share, None
        return self

    def changed(self) -> None:
        """Note that the parts were changed in place: this value and its views compute their totals anew."""
        for member in self.family():
            member._total = None

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Decomposed(shape={tuple(self.parts.shape[2:])}, masks={self.parts.shape[1]}, dtype={self.parts.dtype})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise missing_rule(func)


def dispatch(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the rule of a function; write the result back where the call is in place."""
    name = plain_name(function)
    if name in ("__get__", "__set__"):
        return RULES[name](function, *args)
    frozen = not torch.is_grad_enabled() and args and isinstance(args[0], Decomposed) and args[0].has_graph
    if frozen and (writes(function) or kind_of(function) is Kind.STRUCTURE or inside_function()):
        with torch.enable_grad():  # what is written counts, and what a function of autograd computes
            return dispatch(function, args, kwargs)
    rule = rule_in_place(function)
    if kwargs.get("out") is not None or rule is not None:
        return given_out(function, args, dict(kwargs)) if rule is None else rule(function, *args, **kwargs)
    plain, args, kwargs, in_place = computed(function, args, kwargs)
    rule = rule_for(plain)
    if rule is None:
        return proportional(function, args, kwargs)
    args, kwargs = positional(plain, args, kwargs)
    if in_place and isinstance(args[0], Decomposed):
        return overwrite(rule, plain, args, kwargs)
    try:
        result = rule(plain, *args, **kwargs)
    except AttributeError:
        if isinstance(args[0], Tensor) and not isinstance(args[0], Decomposed):
            raise missing_rule(plain) from None  # the rule is for a decomposed value in the first place
        raise
    return storage_of(args[0], result).write(result) if in_place else result


def overwrite(rule: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Decomposed:
    """An in-place call: the rule's result written into the first operand."""
    target = args[0]
    if target.deferred is not None:
        result = rule(function, *args, **kwargs)
        return target.write(result) if result.deferred is None else target.take_over(result)
    # where views share the memory, autograd must not be left with a saved operand that the write changes
    copied = len(target.family()) > 1 and torch.is_grad_enabled()
    source = target.like(target.parts.clone() if copied else target.parts)
    source.may_overwrite = not torch.is_grad_enabled()
    return target.write(rule(function, source, *args[1:], **kwargs))


def given_out(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call whose result goes into the tensor given as ``out``."""
    out = kwargs.pop("out")
    decomposed = any(isinstance(value, Decomposed) for value in tree_iter((args, kwargs)))
    result = dispatch(function, args, kwargs) if decomposed else function(*args, **kwargs)
    return storage_of(out, result).write(result)


def storage_of(target: Any, value: Any) -> Decomposed:
    """What a value is written into: the target, or the decomposition that takes the place of a plain tensor."""
    if isinstance(target, Decomposed):
        return target
    written = value.context.written
    if written is None:
        raise UnsupportedOperationError(
            f"a decomposed value cannot be written in place into a plain tensor ({calling_module()}); add out of place"
        )
    decomposed: Decomposed = written.decomposed(target, value)
    return decomposed


def proportional(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op without a rule: an error, or its value at the total shared as |r| : |s| of an operand of its shape."""
    operands = [value for value in tree_iter((args, kwargs)) if isinstance(value, Decomposed)]
    if not operands or operands[0].context.on_missing == "error" or isinstance(function, torch.ScriptMethod):
        raise missing_rule(function)
    result = function(*on_total(args), **on_total(kwargs))
    name = plain_name(function)
    operands[0].context.approximations.append(Approximation(name, calling_module()))

    def split(value: Tensor) -> Any:
        if not value.is_floating_point():
            return value
        for operand in operands:
            if operand.shape == value.shape:
                return operand.like(value * fractions(operand))
        return constant_like(value, operands[0])

    return tree_map_only(torch.Tensor, split, result)


def fractions(x: Decomposed) -> Tensor:
    """|r| / (|r| + |s|) and |s| / (|r| + |s|), stacked; the undecided share where both are 0."""
    size = x.parts.abs()
    total = size.sum(0)
    safe = total.clamp_min(torch.finfo(size.dtype).tiny ** 0.5)
    return (size + shares.as_pair(x.share, x.dim()) * (safe - total)) / safe


def on_total(tree: Any) -> Any:
    """Arguments with the total in place of each decomposed tensor."""
    return tree_map_only(Decomposed, lambda value: value.total, tree)


def stand_ins(tree: Any) -> Any:
    """Arguments with a plain tensor of the same form in place of each decomposed one."""
    return tree_map_only(Decomposed, lambda value: value.parts.detach()[0, 0], tree)


def with_parts(value: Any, like: Decomposed) -> Decomposed:
    """An operand with its parts; a constant that no decomposed value meets is split by the undecided share."""
    return value if isinstance(value, Decomposed) else constant_like(value, like)


def constant_like(value: Any, like: Decomposed) -> Decomposed:
    """A constant in the context of a decomposed tensor: `share` of it is relevant."""
    constant = as_constant(value, like)
    share = like.share
    if not shares.is_uniform(share):
        share = shares.aligned(share, constant.dim())
        try:
            constant = constant.expand(torch.broadcast_shapes(constant.shape, share.shape[1:]))
        except RuntimeError as clash:
            raise ShareLostError(like.shape, constant.shape) from clash
    weights = shares.as_pair(share, constant.dim()).to(constant.dtype)
    masks = shares.is_attention_mask(constant)
    if bool(masks.any()):
        parts = torch.where(masks, 0.5 * constant, torch.where(masks, 0, constant) * weights)
    else:
        parts = constant * weights
    return Decomposed(parts, share, like.context)


def as_constant(value: Any, like: Decomposed) -> Tensor:
    """A number or plain tensor as a floating-point tensor; a number takes the dtype of the tensor that it meets."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() or value.is_complex() else value.to(like.parts.dtype)
    return torch.as_tensor(value, dtype=torch.result_type(like.parts, value), device=like.parts.device)
