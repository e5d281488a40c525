"""Feature masks: which elements of an input belong together, as integer group ids."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.arrays import holds_numbers, is_array, to_tensor
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Int
from xaikit.core.registries import FEATURE_MASKS
from xaikit.core.structure import Tensors
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, channel_axis, place_axes


class FeatureMask(Configured, abc.ABC):
    """Assigns the elements of each sample to groups."""

    REGISTRY: ClassVar[Any] = FEATURE_MASKS

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Group ids 0, 1, ... of a batch (N, ...): integers (N, ...), or (1, ...) where all samples share them."""

    def of(self, inputs: Tensors, tokens: Sequence[bool] = ()) -> Tensors:
        """The ids of each input, checked, on its device, 0, 1, 2, ... without a gap in a batch.

        Args:
            inputs: batches (N, ...).
            tokens: which of them are vectors of tokens (`Call.tokens`), for a mask that depends on the kind of input.

        Raises:
            InvalidInputError: for ids of another shape than a sample, or that are no whole numbers.
        """
        flags = tokens or [False] * len(inputs)
        copies = (x.clone() for x in inputs)  # it may write into them
        return tuple(_consecutive(self(copy), x, token) for copy, x, token in zip(copies, inputs, flags, strict=True))


def in_form_of(ids: Tensor, x: Tensor, token: bool = False) -> Tensor:
    """Group numbers in the form of an input: with an axis for the samples, and one for the channels.

    Args:
        ids: of a sample, of its positions, as (H, W) of an image, or of a batch of either.
        x: the input (N, ...).
        token: whether it holds vectors of tokens.

    Raises:
        InvalidInputError: for numbers of another shape, or fractions.
    """
    numbers = ids.to(x.device)
    full = numbers if ids.ndim == x.ndim else numbers[None]
    if not _fits(full, x) and x.ndim > 2:
        channels = channel_axis(x, -1 if token else None)
        positions = numbers if ids.ndim == x.ndim - 1 else numbers[None]
        if channels is not None and positions.ndim == x.ndim - 1:
            full = positions.unsqueeze(channels)
    if not _fits(full, x) or full.is_floating_point():
        positions_too = " or of its positions" if x.ndim > 2 else ""
        raise InvalidInputError(
            f"feature_mask must hold whole group numbers in the shape of a sample {tuple(x.shape[1:])}{positions_too}, "
            f"got {ids.dtype} {tuple(ids.shape)}"
        )
    return full


def _fits(ids: Tensor, x: Tensor) -> bool:
    return ids.ndim == x.ndim and all(a in (1, b) for a, b in zip(ids.shape, x.shape, strict=True))


def _consecutive(ids: Tensor, x: Tensor, token: bool = False) -> Tensor:
    full = in_form_of(ids, x, token)
    _, consecutive = torch.unique(full, return_inverse=True)
    return consecutive.expand(len(full), *x.shape[1:])


def _along(x: Tensor, dim: int, ids: Tensor) -> Tensor:
    """The ids of positions along one dimension, for every element of a sample."""
    shape = [1] * x.ndim
    shape[dim] = -1
    return ids.to(x.device).view(shape).expand(1, *x.shape[1:])


def _windows(length: int, size: int) -> Tensor:
    return torch.arange(length, device="cpu") // size


@FEATURE_MASKS.register("grid")
class Grid(FeatureMask):
    """Square patches of images, cubes of volumes and videos, all channels together; the last ones may be cut."""

    n_patches: Annotated[int, Int(low=4, high=16, step=1, ge=2), "patches along the longest side"] = 7
    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, x: Tensor) -> Tensor:
        """Patch by patch along the last axis of positions first, for (N, C, H, W) or (N, C, D, H, W)."""
        if x.ndim not in (4, 5):
            raise InvalidInputError(
                f"a grid divides images (N, C, H, W) and volumes (N, C, D, H, W), got shape {tuple(x.shape)}"
            )
        axes = place_axes(x, self.channel_axis)
        size = -(-max(x.shape[axis] for axis in axes) // self.n_patches)
        ids = torch.zeros((), dtype=torch.long, device=x.device)
        for axis in axes:
            windows = _windows(x.shape[axis], size)
            ids = ids * int(windows[-1] + 1) + _along(x, axis, windows)
        return ids


@FEATURE_MASKS.register("tokens")
class Tokens(FeatureMask):
    """One group for each position of a sequence (N, T) or (N, T, features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The position along axis 1."""
        if x.ndim < 2:
            raise InvalidInputError(f"tokens stand in sequences (N, T, ...), got a tensor of shape {tuple(x.shape)}")
        return _along(x, 1, torch.arange(x.shape[1], device="cpu"))


@FEATURE_MASKS.register("time_windows")
class TimeWindows(FeatureMask):
    """Stretches of a time series (N, channels, T) or (N, T), all channels together."""

    n_windows: Annotated[int, Int(low=4, high=32, step=1, ge=2), "windows in the series"] = 8
    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, x: Tensor) -> Tensor:
        """The window along the axis of time."""
        if x.ndim not in (2, 3):
            raise InvalidInputError(
                f"a time series is (N, channels, T) or (N, T), got a tensor of shape {tuple(x.shape)}"
            )
        (time,) = place_axes(x, self.channel_axis)
        return _along(x, time, _windows(x.shape[time], -(-x.shape[time] // self.n_windows)))


@FEATURE_MASKS.register("columns")
class Columns(FeatureMask):
    """One group for each column of a table (N, features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The column."""
        if x.ndim != 2:
            raise InvalidInputError(f"a table is (N, features), got a tensor of shape {tuple(x.shape)}")
        return _along(x, 1, torch.arange(x.shape[1], device="cpu"))


@FEATURE_MASKS.register("auto")
class Auto(FeatureMask):
    """By the form of the input: tokens for integers, a grid for images, windows for series, columns for tables.

    A volume or video gets at most 4 x 4 x 4 cubes, since every group costs passes.

    Vectors of tokens have the shape of a series; they are recognised because the model reads whole numbers.
    """

    def of(self, inputs: Tensors, tokens: Sequence[bool] = ()) -> Tensors:
        """The ids of each input.

        Args:
            inputs: batches (N, ...).
            tokens: which of them are vectors of tokens (`Call.tokens`).
        """
        masks = [Tokens() if token else self for token in tokens] or [self] * len(inputs)
        return tuple(_consecutive(mask(x), x) for mask, x in zip(masks, inputs, strict=True))

    def __call__(self, x: Tensor) -> Tensor:
        """The ids of the mask that suits `x`; other forms get one group for each position behind the channels."""
        if not x.is_floating_point():
            return Tokens()(x)
        by_rank: dict[int, FeatureMask] = {2: Columns(), 3: TimeWindows(), 4: Grid(), 5: Grid(n_patches=4)}
        if x.ndim in by_rank:
            return by_rank[x.ndim](x)
        inner = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        return torch.arange(inner.numel(), device=x.device).view(inner).expand(1, *x.shape[1:])


@FEATURE_MASKS.register("given")
class GivenGroups(FeatureMask):
    """Group numbers of the user's own, for a sample, its positions or a batch; an array alone means the same."""

    ids: Annotated[Tensor, "whole numbers, (...) or (N, ...); images also (H, W) or (N, H, W)"]

    def __call__(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """The numbers."""
        return self.ids


def _function(value: Any, where: str) -> Any:
    if not callable(value):
        raise InvalidTypeError(f"{where} must be a function of an input that returns group numbers, got {value!r}")
    return value


@FEATURE_MASKS.register("computed")
class Computed(FeatureMask):
    """Group numbers from a function of the user's own; a function alone means the same."""

    function: Annotated[
        Callable[[Tensor], Tensor], _function, "x (N, ...) -> whole numbers, (...), (1, ...) or (N, ...)"
    ]

    def __call__(self, x: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(x)


def _several(value: Any, where: str) -> Any:
    if not isinstance(value, (tuple, list)) or not value:
        raise InvalidTypeError(f"{where} must be a tuple of feature masks, one for each input, got {value!r}")
    return tuple(FEATURE_MASKS.create(item) for item in value)


@FEATURE_MASKS.register("per_input")
class FeatureMaskPerInput(FeatureMask):
    """One feature mask for each input of a model of several; a tuple of them means the same."""

    items: Annotated[Any, _several, "the feature masks, in the order of the inputs"]

    def __call__(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """Refused, since one tensor does not tell which input it is.

        Raises:
            InvalidInputError: always; `of` gives the ids of all inputs.
        """
        raise InvalidInputError(f"{self!r} holds a mask for each input; it takes all inputs together, not one")

    def of(self, inputs: Tensors, tokens: Sequence[bool] = ()) -> Tensors:
        """Each input's ids by its own mask.

        Args:
            inputs: batches (N, ...), one for each mask.
            tokens: which of them are vectors of tokens (`Call.tokens`).

        Raises:
            InvalidInputError: for another number of inputs, or ids that do not fit.
        """
        if len(self.items) != len(inputs) == 1 and all(isinstance(item, GivenGroups) for item in self.items):
            return GivenGroups(ids=to_tensor([item.ids for item in self.items], "feature_mask")).of(inputs, tokens)
        if len(self.items) != len(inputs):
            raise InvalidInputError(f"feature_mask must hold one mask per input, {len(inputs)}, got {len(self.items)}")
        flags = tokens or [False] * len(inputs)
        return tuple(m.of((x,), (t,))[0] for m, x, t in zip(self.items, inputs, flags, strict=True))


@FEATURE_MASKS.coerce
def from_value(value: Any) -> FeatureMask | None:
    """The feature mask meant by an array, numbers in lists, a tuple of masks or a function; None for anything else."""
    if is_array(value):
        return GivenGroups(ids=to_tensor(value, "feature_mask"))
    if isinstance(value, (tuple, list)) and value:
        if all(isinstance(item, int) for item in value):
            return GivenGroups(ids=to_tensor(value, "feature_mask"))
        items = [to_tensor(v, "feature_mask") if holds_numbers(v) else v for v in value]
        return FeatureMaskPerInput(items=tuple(items))
    return Computed(function=value) if callable(value) and not isinstance(value, type) else None
