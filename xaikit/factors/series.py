"""Windows of time and channels of series, exchanged between them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Int
from xaikit.core.registries import FACTORS
from xaikit.factors.base import ExchangeContext, Factor, Family
from xaikit.factors.facts import IMAGE, SERIES, DataFacts


@FACTORS.register("window")
class Window(Factor):
    """A part of the time of series."""

    KINDS: ClassVar[tuple[str, ...]] = (SERIES,)

    windows: Annotated[int, Int(ge=1), "into which the time is divided"] = 8
    number: Annotated[int, Int(ge=0), "which of them, from 0"] = 0

    def _check_settings(self) -> None:
        if self.number >= self.windows:
            raise InvalidInputError(f"a window is one of its {self.windows}, counted from 0, got number={self.number}")

    @property
    def title(self) -> str:
        """Such as "window 2 of 8", counted from 1."""
        return f"window {self.number + 1} of {self.windows}"

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        axis = 3 - context.facts.channel_axis
        steps = x.shape[axis]
        if self.windows > steps:
            raise InvalidInputError(f"a series of {steps} steps cannot be divided into {self.windows} windows")
        inside = torch.arange(steps, device=x.device) * self.windows // steps == self.number
        return torch.where(inside if axis == 2 else inside[:, None], donors, x)


@FACTORS.register("windows")
class Windows(Family):
    """The windows of time, each by itself."""

    KINDS: ClassVar[tuple[str, ...]] = (SERIES,)
    windows: Annotated[int, Int(ge=1), "into which the time is divided"] = 8

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """A `Window` for each of them; no more than there are steps.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        windows = min(self.windows, x.shape[3 - facts.channel_axis])
        return tuple(Window(windows=windows, number=i, nature=self.nature) for i in range(windows))


@FACTORS.register("channel")
class Channel(Factor):
    """A channel of series or images."""

    KINDS: ClassVar[tuple[str, ...]] = (SERIES, IMAGE)

    index: Annotated[int, Int(), "which channel, from 0"] = 0
    name: Annotated[str, "of the channel, for people"] = ""

    @property
    def title(self) -> str:
        """Such as "channel 3", counted from 0, or "channel heart rate"."""
        return f"channel {self.name or self.index}"

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        axis = context.facts.channel_axis
        if not -x.shape[axis] <= self.index < x.shape[axis]:
            raise InvalidInputError(f"there is no channel {self.index} among {x.shape[axis]}")
        changed = x.clone()
        changed.select(axis, self.index).copy_(donors.select(axis, self.index))
        return changed


@FACTORS.register("channels")
class Channels(Family):
    """The channels of series or images, each by itself."""

    KINDS: ClassVar[tuple[str, ...]] = (SERIES, IMAGE)

    def applies(self, x: Tensor, facts: DataFacts) -> bool:
        """Whether there are several channels.

        Args:
            x: samples (N, ...).
            facts: what is known of them.
        """
        return super().applies(x, facts) and x.shape[facts.channel_axis] > 1

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """A `Channel` for each of them.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        count = x.shape[facts.channel_axis]
        names = facts.columns if len(facts.columns) == count else ("",) * count
        return tuple(Channel(index=i, name=names[i], nature=self.nature) for i in range(count))
