"""What stands in a region that is drawn anew, for counterexamples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import is_array
from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.core.registries import FACTORS
from xaikit.core.spec_strings import nested
from xaikit.factors import Factor, is_factor, read_factor
from xaikit.factors.exchange import exchanged, is_text
from xaikit.factors.facts import facts_fields

FILLS = ("permute", "uniform", "noise", "colour")
FORMS = "one of 'permute', 'uniform', 'noise', 'colour', a factor such as 'hue', a mask, or a function"


def check_fill(value: Any, where: str) -> Any:
    """The fill that a user named: a name of `FILLS`, a factor, or a function.

    Args:
        value: of the setting.
        where: name of the setting.

    Raises:
        InvalidInputError, InvalidTypeError: for anything else.
    """
    if isinstance(value, str) and value not in FILLS:
        value = f"together:factors={value}" if value.startswith("[") else nested(value)
        name = value.partition(":")[0]
        if name not in FACTORS:
            raise InvalidInputError(f"{where} must be {FORMS}, got {value!r}{near_names(name, [*FILLS, *FACTORS])}")
        value = FACTORS.create(value)
    if (isinstance(value, Mapping) and "name" in value) or (isinstance(value, type) and issubclass(value, Factor)):
        value = FACTORS.create(value)
    if is_array(value) or (isinstance(value, (list, tuple)) and is_factor(value)):
        value = read_factor(value)
    if isinstance(value, Factor) and value.IS_FAMILY:
        raise InvalidInputError(f"{where} must be a single factor, and {value.NAME!r} stands for several; name one")
    if isinstance(value, Factor) or callable(value) or (isinstance(value, str) and value in FILLS):
        return value
    raise InvalidTypeError(f"{where} must be {FORMS}, got {value!r}")


def check_facts(value: Any, where: str) -> Any:
    """What is known of the data, as `DataFacts` or a dict of its fields.

    Args:
        value: of the setting.
        where: name of the setting.

    Raises:
        InvalidTypeError: for anything else.
    """
    facts_fields(value, where)
    return value


def with_arguments(function: Callable[..., Any], **offered: Any) -> Callable[..., Any]:
    """The function with those of the offered keyword arguments that it names, such as `model` and `labels`.

    Args:
        function: of the user.
        offered: what it may ask for.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return function
    arguments = {name: value for name, value in offered.items() if name in parameters}
    return lambda *args: function(*args, **arguments)


def balanced_donors(labels: Tensor, device: torch.device, generator: torch.Generator) -> Tensor:
    """For each sample of a batch the number of one that lends, drawn at random, (N,).

    Where the labels are classes, every class of the batch lends equally often, to samples of any class. So what is
    exchanged says nothing of the label, also where a batch holds one class more often than others. Within a class the
    samples lend in turn. If all classes are equally frequent, the numbers are a permutation; for labels that are no
    classes always.

    Args:
        labels: of the batch; classes are integers (N,).
        device: where the numbers are needed; nothing waits for it.
        generator: of the draws.
    """
    n = len(labels)
    order = torch.randperm(n, generator=generator, device="cpu").to(device)
    if labels.ndim != 1 or labels.is_floating_point():
        return order
    classes, by_class = labels.to(device)[order].sort(stable=True)
    sizes = torch.searchsorted(classes, classes, right=True) - torch.searchsorted(classes, classes)
    # Each class covers an interval of length 1, divided among its members; donors are taken at equal distances.
    ends = sizes.float().reciprocal().cumsum(0)
    steps = (torch.arange(n, device="cpu") + torch.rand((), generator=generator, device="cpu")) / n
    lenders = torch.searchsorted(ends, steps.to(device) * ends[-1:], right=True).clamp_max(n - 1)
    return order[by_class[lenders]][torch.randperm(n, generator=generator, device="cpu").to(device)]


def permute(x: Tensor, mask: Tensor, generator: torch.Generator, labels: Tensor) -> Tensor:
    """What another sample of the batch has there; of tokens, wherever they stand, what it has in its own mask."""
    if not is_text(x):
        return x[balanced_donors(labels, x.device, generator)]
    donors = (mask > 0.5).any(1).nonzero()[:, 0]  # a text without a masked token has none to lend
    other = torch.arange(len(x), device=x.device)
    other[donors] = donors[balanced_donors(labels.to(x.device)[donors], x.device, generator)]
    return exchanged(x, mask, x[other], mask[other])


def _uniform(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    low, high = _range(x)
    return low + (high - low) * torch.rand(x.shape, generator=generator, device="cpu").to(x)


def _noise(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    axes = _within_channel(x)
    normal = torch.randn(x.shape, generator=generator, device="cpu").to(x)
    return x.mean(axes, keepdim=True) + x.std(axes, correction=0, keepdim=True) * normal


def _colour(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    low, high = _range(x)
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    return (low + (high - low) * torch.rand(shape, generator=generator, device="cpu").to(x)).expand_as(x)


def _within_channel(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    axes = _within_channel(x)
    return x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)


MAKERS: dict[str, Callable[..., Tensor]] = {
    "permute": permute,
    "uniform": _uniform,
    "noise": _noise,
    "colour": _colour,
}
