"""The length of texts, exchanged between them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.registries import FACTORS
from xaikit.core.structure import flatten
from xaikit.factors.base import ExchangeContext, Factor
from xaikit.factors.facts import TEXT, DataFacts


@FACTORS.register("length")
class Length(Factor):
    """How many tokens a text has before it is filled up with padding.

    A text gets the donor's length: it is cut off at its end, or begun again until it is long enough. Special tokens
    before and behind it stay there, and padding stays on its side. Attention masks and token types beside the tokens,
    whole numbers of their shape, go along. What is cut off takes its words with it, so this is content, for a person to
    judge: where a word at the end tells the class, the length seems to.
    """

    KINDS: ClassVar[tuple[str, ...]] = (TEXT,)

    def applies(self, x: Tensor, facts: DataFacts) -> bool:
        """Whether there is padding, and texts differ in length.

        Args:
            x: token ids.
            facts: what is known of them.
        """
        if not super().applies(x, facts) or facts.padding is None:
            return False
        return len((x != facts.padding).sum(1).unique()) > 1

    def exchange(
        self, x: Any, donors: Any, *, masks: Any = None, donor_masks: Any = None, facts: DataFacts | None = None
    ) -> Any:
        """Texts of the length of others: as `Factor.exchange`, and what goes along with the tokens.

        Args:
            x: token ids (N, T), or several inputs.
            donors: of the same form.
            masks: not used.
            donor_masks: not used.
            facts: what is known of the data; None reads it off x and donors.

        Raises:
            InvalidInputError: as `Factor.exchange`; for texts without padding.
        """
        changed = super().exchange(x, donors, masks=masks, donor_masks=donor_masks, facts=facts)
        tensors, rebuild = flatten(x)
        if len(tensors) == 1:
            return changed
        place, others = self.place(tensors, facts), flatten(donors, "donors")[0]
        tokens = tensors[place]
        donor = others[place if len(others) == len(tensors) else 0].to(tokens.device)
        if facts is None or facts.kind != TEXT:
            facts = DataFacts.of(torch.cat([tokens, donor]))
        source = _source(tokens, donor, facts)
        along = [_moved(t, source, 0) if _goes_along(t, tokens) else t for t in tensors]
        along[place] = flatten(changed)[0][place]
        return rebuild(tuple(along))

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        if context.facts.padding is None:
            raise InvalidInputError(
                "the length of texts needs the token that fills them up, and these show none; name it with "
                "facts={'padding': ...}"
            )
        return _moved(x, _source(x, donors, context.facts), context.facts.padding)


def _goes_along(other: Tensor, tokens: Tensor) -> bool:
    """Whether another input says something of each token, but for its position."""
    if other.shape != tokens.shape or other.is_floating_point():
        return False
    return not torch.equal(other, torch.arange(other.shape[1], device=other.device).expand_as(other).to(other))


def _moved(x: Tensor, source: Tensor, filling: int) -> Tensor:
    """What stands at the source of each position, and the filling where there is none."""
    return torch.where(source >= 0, x.gather(1, source.clamp_min(0)), filling)


def _source(x: Tensor, donors: Tensor, facts: DataFacts) -> Tensor:
    """For each position of the new texts the position in the old ones; -1 for padding, (N, T)."""
    width = x.shape[1]
    begin, size, lead, tail = _parts(x, facts)
    donor_size = _parts(donors, facts)[1]
    target = torch.minimum(donor_size, width - lead - tail)
    target = torch.where((size > 0) & (donor_size > 0), target, size)
    total = lead + target + tail
    # An empty text is padding from the first position on, and says nothing of the side.
    padded_before = any(bool(((t[:, 0] == facts.padding) & facts.ordinary(t).any(1)).any()) for t in (x, donors))
    number = torch.arange(width, device=x.device) - (width - total if padded_before else 0 * total)
    body = begin + (number - lead) % size.clamp_min(1)
    behind = begin + size + number - lead - target
    source = torch.where(number < lead, begin - lead + number, torch.where(number < lead + target, body, behind))
    return torch.where((number >= 0) & (number < total), source, -1)


def _parts(x: Tensor, facts: DataFacts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where a text begins, its length, and the number of special tokens before and behind it, (N, 1) each."""
    ordinary = facts.ordinary(x)
    has = ordinary.any(1, keepdim=True)
    begin = ordinary.int().argmax(1, keepdim=True)
    last = x.shape[1] - 1 - ordinary.flip(1).int().argmax(1, keepdim=True)
    place = torch.arange(x.shape[1], device=x.device)
    filled = torch.ones_like(ordinary) if facts.padding is None else x.ne(facts.padding)
    begin = torch.where(has, begin, filled.int().argmax(1, keepdim=True))
    size = torch.where(has, last - begin + 1, 0)
    lead = (filled & (place < begin)).sum(1, keepdim=True)
    tail = (filled & (place >= begin + size)).sum(1, keepdim=True)
    return begin, size, lead, tail
