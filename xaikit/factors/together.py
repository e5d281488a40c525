"""Several factors exchanged together, for a shortcut that shows in more than one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xaikit.core.arrays import is_array
from xaikit.core.configured import REQUIRED
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.registries import FACTORS
from xaikit.core.spec_strings import nested, parts_between_commas
from xaikit.factors.base import ExchangeContext, Factor
from xaikit.factors.facts import KINDS, DataFacts
from xaikit.factors.regions import MaskedRegion

MASK_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy", ".npz", ".pt", ".pth", ".csv")


def factors_setting(value: Any, where: str) -> tuple[Factor, ...]:
    """Check a setting that holds factors: a text with commas, in brackets, or a list of specs, objects and masks."""
    if isinstance(value, str):
        value = [nested(part) for part in _specs(value)]
    if not isinstance(value, Sequence) or not value:
        raise InvalidTypeError(f"{where} must be factors, such as [brightness, contrast], got {value!r}")
    factors: tuple[Factor, ...] = tuple(_single(item, where) for item in value)
    for factor in factors:
        if factor.IS_FAMILY or factor.needs_masks:
            what = "stands for several factors" if factor.IS_FAMILY else "needs masks"
            raise InvalidInputError(f"{where} must be single factors without masks, and {factor.NAME!r} {what}")
    return factors


def _specs(text: str) -> list[str]:
    """The spec strings in a text with commas; `key=value` belongs to the factor before it."""
    specs: list[str] = []
    for part in parts_between_commas(text.strip().removeprefix("[").removesuffix("]")):
        if specs and re.match(r"\s*\w+=", part):
            specs[-1] += "," + part.strip()
        else:
            specs.append(part.strip())
    return specs


def _single(value: Any, where: str) -> Factor:
    """One of several factors; a mask is a region that is the same in all samples."""
    if is_array(value) or (isinstance(value, (list, tuple)) and not is_factor(value)):
        return MaskedRegion(mask=value)
    if isinstance(value, (list, tuple)):
        raise InvalidInputError(
            f"{where} must be one list, and holds a list of factors; write their names side by side"
        )
    factor: Factor = FACTORS.create(value)
    return factor


@FACTORS.register("together")
class Together(Factor):
    """Several factors of one donor, exchanged one after the other.

    >>> Together(factors=["brightness", "contrast"]).title
    'brightness and contrast'
    """

    KINDS: ClassVar[tuple[str, ...]] = KINDS
    factors: Annotated[Any, factors_setting, "the factors in their order: [brightness, contrast]"] = REQUIRED

    @property
    def title(self) -> str:
        """Such as "brightness and contrast"."""
        return " and ".join(factor.title for factor in self.factors)

    def place(self, tensors: tuple[Tensor, ...], facts: DataFacts | None = None) -> int:
        """Which of several inputs these factors are of, all of them of one.

        Args:
            tensors: the inputs.
            facts: what is known of the data; None goes by their forms.

        Raises:
            InvalidInputError: where they are of different inputs, or one is of none.
        """
        places = {factor.place(tensors, facts) for factor in self.factors}
        if len(places) > 1:
            raise InvalidInputError(f"factors that are exchanged together must be of one input, got {self.title}")
        return places.pop()

    def shows(self, x: Tensor, facts: DataFacts) -> Tensor:
        """Which samples have something of one of these factors, bool (N,).

        Args:
            x: samples of their kind.
            facts: what is known of the data.
        """
        return torch.stack([factor.shows(x, facts) for factor in self.factors]).any(0)

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        for factor in self.factors:
            x = factor._exchange(x, donors, context)
        return x


def read_factor(value: Any) -> Factor:
    """The factor that a user named; several in a list, masks among them, are exchanged together.

    Args:
        value: what `FACTORS.create` takes, a mask for all samples, or a list of such with a factor in it.

    Raises:
        InvalidTypeError, InvalidInputError, UnknownNameError: for anything else.
    """
    value = _plain(value)
    if isinstance(value, (list, tuple)) and is_factor(value):
        return Together(factors=value)
    return MaskedRegion(mask=value) if is_array(value) else FACTORS.create(value)


def is_factor(value: Any) -> bool:
    """Whether a value names a factor, or is a list that holds one; else it is a mask.

    Args:
        value: of the user.
    """
    value = _plain(value)
    if isinstance(value, (list, tuple)):
        return any(is_factor(item) for item in value)
    return isinstance(value, (str, Factor)) or (isinstance(value, type) and issubclass(value, Factor))


def _plain(value: Any) -> Any:
    """An array of names as a list of them.

    Raises:
        InvalidInputError: for the name of a file.
    """
    if isinstance(value, os.PathLike) or (isinstance(value, str) and _names_a_file(value)):
        name = os.fspath(value)
        raise InvalidInputError(
            f"a mask is passed as numbers, and {name!r} names a file; read it first, such as "
            f"numpy.asarray(PIL.Image.open({name!r})) > 0, or numpy.load; on the command line --mask {name}"
        )
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind in "UO" else value


def _names_a_file(text: str) -> bool:
    """Whether a text looks like the name of a file or a folder, and not like the spec of a factor."""
    name = text.partition(":")[0]
    return name not in FACTORS and (text.endswith(("/", os.sep)) or PurePath(text).suffix.lower() in MASK_FILES)
