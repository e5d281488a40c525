"""Factor: something that can be exchanged between samples, such as a region, the hue, some words, a column."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xaikit.core.configured import REQUIRED, Configured
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical
from xaikit.core.registries import FACTORS
from xaikit.core.structure import flatten
from xaikit.factors.exchange import mask_like
from xaikit.factors.facts import TEXT, DataFacts, kind_of

NUISANCE, CONTENT = "nuisance", "content"


class ExchangeContext(NamedTuple):
    """What `Factor._exchange` gets beside the samples and their donors.

    Attributes:
        facts: what is known of the data.
        mask: of the samples, of their shape; None where there are no masks.
        donor_mask: of the donors, likewise.
    """

    facts: DataFacts
    mask: Tensor | None = None
    donor_mask: Tensor | None = None


class Factor(Configured, abc.ABC):
    """Something that can be exchanged between samples.

    A subclass says in `KINDS` for which kinds of data it is made, and writes `_exchange`. It does not pair samples with
    donors: sample i gets the factor of donor i, and nothing is random.
    """

    REGISTRY: ClassVar[Any] = FACTORS
    KINDS: ClassVar[tuple[str, ...]]  # of data, names of `xaikit.factors.facts.KINDS`
    BESIDE: ClassVar[tuple[str, ...]] = ()  # spec strings of factors that often change together with this one
    IS_FAMILY: ClassVar[bool] = False  # stands for several factors, `members`, and cannot be exchanged as one

    nature: Annotated[
        str, Categorical("nuisance", "content", search=False), "nuisance: it should not matter; content: it may"
    ] = CONTENT

    @property
    def title(self) -> str:
        """The factor's name in tables and figures."""
        return self.NAME.replace("_", " ")

    @classmethod
    def needed_settings(cls) -> list[str]:
        """The settings that have no default: a factor that has some is only measured where it is named."""
        return [name for name, setting in cls.SETTINGS.items() if setting.default is REQUIRED]

    @property
    def needs_masks(self) -> bool:
        """Whether only masks say where it lies in each sample."""
        return False

    def shows(self, x: Tensor, facts: DataFacts) -> Tensor:  # noqa: ARG002
        """Which samples have something of this factor to lend, bool (N,): all, but for what only some hold, as words.

        Args:
            x: samples of this factor's kind.
            facts: what is known of them.
        """
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def applies(self, x: Tensor, facts: DataFacts) -> bool:  # noqa: ARG002
        """Whether such data can have this factor, as only images of three channels have a hue.

        Args:
            x: samples of this factor's kind.
            facts: what is known of them.
        """
        return facts.kind in self.KINDS

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """The factors that a scan measures in place of this one: itself, or the members of a family.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        return (self,)

    def exchange(
        self, x: Any, donors: Any, *, masks: Any = None, donor_masks: Any = None, facts: DataFacts | None = None
    ) -> Any:
        """Samples with this factor taken from others: sample i from donor i.

        Args:
            x: (N, ...): images, series or tables of any value range; token ids. Of a tuple or dict of inputs the
                first one that is of this factor's kind is changed, the others stay.
            donors: of the same form.
            masks: of the samples, where the factor is a region that differs between samples.
            donor_masks: of the donors, likewise.
            facts: what is known of the data; None reads it off x and donors.

        Returns:
            The same form as x, on x's device and in its precision.

        Raises:
            InvalidInputError: for data of another kind, donors of another shape, missing masks.
        """
        tensors, rebuild = flatten(x)
        others = flatten(donors, "donors")[0]
        place = self.place(tensors, facts)
        sample, donor = tensors[place], others[place] if len(others) == len(tensors) else others[0]
        if donor.shape != sample.shape:
            raise InvalidInputError(
                f"each sample needs a donor of its form, got {tuple(sample.shape)} and {tuple(donor.shape)}"
            )
        donor = donor.to(sample.device)
        if facts is None or facts.kind not in self.KINDS:
            facts = DataFacts.of(torch.cat([sample, donor]))
        context = ExchangeContext(facts, *(None if m is None else mask_like(m, sample) for m in (masks, donor_masks)))
        changed = self._changed(sample.clone(), donor.clone(), context)  # a plugin may write into them
        return rebuild((*tensors[:place], changed, *tensors[place + 1 :]))

    def place(self, tensors: tuple[Tensor, ...], facts: DataFacts | None = None) -> int:
        """Which of several inputs this factor is of.

        Args:
            tensors: the inputs.
            facts: what is known of the data; None goes by their forms.

        Raises:
            InvalidInputError: where none is of this factor's kind.
        """
        kinds = [kind_of(tensor) for tensor in tensors] if facts is None or len(tensors) > 1 else [facts.kind]
        place = next((i for i, kind in enumerate(kinds) if kind in self.KINDS), None)
        if place is None:
            forms = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise InvalidInputError(
                f"the factor {self.title!r} is of {' or '.join(self.KINDS)} data, got {', '.join(kinds)} of shape "
                f"{forms}"
            )
        return place

    def _changed(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        """The exchange in floating-point numbers; whole numbers, but for tokens, are rounded again."""
        if x.is_floating_point() or context.facts.kind == TEXT:
            return self._exchange(x, donors, context)
        changed = self._exchange(x.float(), donors.float(), context).round()
        return changed.clamp(min(0, int(x.min())), max(255, int(x.max()))).to(x.dtype)

    @abc.abstractmethod
    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        """Samples with this factor of the donors: (N, ...) like x, deterministic."""


class Family(Factor):
    """Several factors that a scan measures one by one."""

    IS_FAMILY: ClassVar[bool] = True

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:  # noqa: ARG002
        raise InvalidInputError(
            f"{self.NAME!r} stands for several factors, which are exchanged one by one; name one of them"
        )
