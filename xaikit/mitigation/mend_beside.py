"""What goes with a factor: a picture that is scaled has another brightness and another contrast at once."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from xaikit.core.registries import FACTORS
from xaikit.core.structure import flatten
from xaikit.factors import Factor, Together, default_factors
from xaikit.mitigation.assess import assess
from xaikit.mitigation.mend_data import FACTOR, MendData, Shortcut

JUDGED = 500  # held-out samples, enough for a yes or a no


def followed_beside(model: nn.Module, data: MendData, head: str | int, seed: int) -> list[Factor]:
    """The factors that often change together with the shortcut, are not it, and that the model relies on.

    Args:
        model: in any mode.
        data: of `mend`.
        head: which output holds the logits.
        seed: of the donors.
    """
    if data.shortcut.kind != FACTOR:
        return []
    assert data.facts is not None
    x = flatten(data.held_out.inputs)[0][data.place]
    batch = data.judged(JUDGED, seed)[:2]
    options: dict[str, Any] = {"facts": data.facts, "head": head, "seed": seed, "explainers": (), "progress": False}
    parts = _parts(data.shortcut.factor)
    titles = {factor.title for factor in parts}
    companions = {spec: FACTORS.create(spec) for factor in parts for spec in factor.BESIDE}
    return [
        factor
        for factor in companions.values()
        if factor.title not in titles
        and factor.applies(x, data.facts)
        and assess(model, batch, factor=factor, **options).relies
    ]


def with_beside(data: MendData, companions: list[Factor]) -> MendData:
    """The data with these factors in the shortcut, so that all are exchanged together.

    The light of a picture is exchanged before its contrast: a change of light changes the contrast, too, and the other
    way round it hardly does.

    Args:
        data: of `mend`; its shortcut is a factor.
        companions: what `followed_beside` gave.
    """
    assert data.facts is not None
    x = flatten(data.held_out.inputs)[0][data.place]
    order = [factor.title for factor in default_factors(x, data.facts)]
    parts = sorted(
        [*_parts(data.shortcut.factor), *companions], key=lambda f: order.index(f.title) if f.title in order else -1
    )
    return dataclasses.replace(data, shortcut=Shortcut(factor=Together(factors=parts)))


def _parts(factor: Factor | None) -> tuple[Factor, ...]:
    assert factor is not None
    return factor.factors if isinstance(factor, Together) else (factor,)
