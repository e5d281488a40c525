"""Several factors exchanged together, for a shortcut that shows in more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from torch import Tensor

from xaikit.core.configured import REQUIRED
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.registries import FACTORS
from xaikit.core.spec_strings import nested, parts_between_commas
from xaikit.factors.base import ExchangeContext, Factor
from xaikit.factors.facts import KINDS, DataFacts


def factors_setting(value: Any, where: str) -> tuple[Factor, ...]:
    """Check a setting that holds factors: a text with commas, in brackets, or a list of specs and objects."""
    if isinstance(value, str):
        value = [
            nested(part.strip()) for part in parts_between_commas(value.strip().removeprefix("[").removesuffix("]"))
        ]
    if not isinstance(value, Sequence) or not value:
        raise InvalidTypeError(f"{where} must be factors, such as [brightness, contrast], got {value!r}")
    factors: tuple[Factor, ...] = tuple(FACTORS.create(item) for item in value)
    for factor in factors:
        if factor.IS_FAMILY or factor.needs_masks:
            what = "stands for several factors" if factor.IS_FAMILY else "needs masks"
            raise InvalidInputError(f"{where} must be single factors without masks, and {factor.NAME!r} {what}")
    return factors


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

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        for factor in self.factors:
            x = factor._exchange(x, donors, context)
        return x


def read_factor(value: Any) -> Factor:
    """The factor that a user named; several in a list are exchanged together.

    Args:
        value: what `FACTORS.create` takes, or a list of such.

    Raises:
        InvalidTypeError, InvalidInputError, UnknownNameError: for anything else.
    """
    return Together(factors=value) if isinstance(value, (list, tuple)) and is_factor(value) else FACTORS.create(value)


def is_factor(value: Any) -> bool:
    """Whether a value names a factor, or several in a list, and is no mask.

    Args:
        value: of the user.
    """
    if isinstance(value, (list, tuple)):
        return bool(value) and all(is_factor(item) and not isinstance(item, (list, tuple)) for item in value)
    return isinstance(value, (str, Factor)) or (isinstance(value, type) and issubclass(value, Factor))
