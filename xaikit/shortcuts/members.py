"""The factors that a scan measures: those that are named, or those that suit the data; families by their members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.arrays import is_array
from xaikit.core.errors import InvalidInputError
from xaikit.core.registries import FACTORS
from xaikit.factors.base import Factor
from xaikit.factors.defaults import default_factors
from xaikit.factors.donors import DonorPool
from xaikit.factors.facts import DataFacts
from xaikit.factors.regions import MaskedRegion
from xaikit.factors.together import read_factor


class ScanMember(NamedTuple):
    """A factor that is measured, and what is known of the input that it is of."""

    factor: Factor
    facts: DataFacts


def scan_members(pool: DonorPool, factors: Any, data_facts: Mapping[str, Any]) -> list[ScanMember]:
    """The factors with what is known of their data, each once.

    Args:
        pool: samples of all classes.
        factors: one or several, in any form that `read_factor` takes (those of an inner list are exchanged together);
            None takes those that suit the data.
        data_facts: fields of `DataFacts`.

    Raises:
        InvalidInputError: for a factor of another kind of data, one that no sample shows; where there is none at all.
        UnknownNameError: for an unknown factor, word or column.
    """
    members = _suited(pool, data_facts) if factors is None else _named(pool, factors, data_facts)
    unique: dict[str, ScanMember] = {}
    for member in members:
        earlier = unique.setdefault(member.factor.title, member).factor
        if isinstance(earlier, MaskedRegion) and earlier != member.factor:
            raise InvalidInputError(
                "the table of a scan has one row for a mask, and there are two; scan each by itself"
            )
    if not unique:
        raise InvalidInputError("there is no factor for such data; name some with factors=")
    return list(unique.values())


def _named(pool: DonorPool, factors: Any, data_facts: Mapping[str, Any]) -> list[ScanMember]:
    members = []
    one = isinstance(factors, (str, Mapping, Tensor)) or not isinstance(factors, Iterable) or is_array(factors)
    for item in (factors,) if one else factors:
        factor = read_factor(item)
        # Of a single input, a user may have said what it is; of several, the forms tell.
        facts = DataFacts.of(pool.tensors[0], **data_facts) if len(pool.tensors) == 1 else None
        x = pool.tensors[factor.place(pool.tensors, facts)]
        facts = facts or DataFacts.of(x, **{**data_facts, "kind": None})
        for member in factor.members(x, pool.labels, facts):
            _check_shown(member, pool, x, facts)
            members.append(ScanMember(member, facts))
    return members


def _suited(pool: DonorPool, data_facts: Mapping[str, Any]) -> list[ScanMember]:
    members = []
    kinds = set()
    for x in pool.tensors:
        facts = DataFacts.of(x, **(data_facts if len(pool.tensors) == 1 else {**data_facts, "kind": None}))
        if facts.kind in kinds:  # an attention mask or token types beside the tokens
            continue
        kinds.add(facts.kind)
        for factor in default_factors(x, facts):
            members += [ScanMember(member, facts) for member in factor.members(x, pool.labels, facts)]
        if pool.masks is not None and x is pool.tensors[0]:
            members.append(ScanMember(FACTORS.create("region"), facts))
    return members


def _check_shown(factor: Factor, pool: DonorPool, x: Tensor, facts: DataFacts) -> None:
    """Refuse a factor that is the same in all samples."""
    rows = torch.arange(len(x), device="cpu").roll(1)
    masks = pool.masks
    changed = factor.exchange(x, x[rows], masks=masks, donor_masks=None if masks is None else masks[rows], facts=facts)
    # Neighbours in the pool may be of one class and alike in it, so the other half lends as well.
    far = torch.arange(len(x), device="cpu").roll(len(x) // 2)
    if torch.equal(changed, x) and torch.equal(
        factor.exchange(x, x[far], masks=masks, donor_masks=None if masks is None else masks[far], facts=facts), x
    ):
        raise InvalidInputError(
            f"no sample shows the factor {factor.title!r}: its exchange between {len(x)} samples changes nothing"
        )
