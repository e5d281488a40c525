"""What every registered factor keeps: form, precision, repeatability, row by row, and the sentence for other data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError
from xaikit.factors import DataFacts

GENERATOR = torch.Generator().manual_seed(0)
WORDS = ["[PAD]", "[CLS]", "the", "a", "he", "good", "Bad", ".", "7", "film"]


def texts() -> torch.Tensor:
    tokens = torch.randint(2, 10, (7, 12), generator=GENERATOR)
    tokens[:, 0] = 1
    tokens[torch.arange(12) >= 6 + torch.arange(7)[:, None]] = 0
    return tokens


SAMPLES: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "image": tuple(torch.rand(2, 7, 3, 16, 16, generator=GENERATOR)),
    "text": (texts(), texts().flip(0)),
    "time_series": tuple(torch.randn(2, 7, 3, 16, generator=GENERATOR)),
    "tabular": tuple(torch.randn(2, 7, 5, generator=GENERATOR)),
}
FACTS: dict[str, dict[str, Any]] = {
    "text": {"vocabulary": WORDS, "padding": 0, "special": (1,)},
    "tabular": {"columns": ["age", "race=a", "race=b", "sex", "priors"]},
}
SPECS = {"words": "words:names=[good, Bad]", "column": "column:names=race"}
TOGETHER = {
    "image": "[brightness,(frequencies:band=high,cutoff=0.2)]", "text": "[length,word_kind:kind=articles]",
    "time_series": "[window:number=1,channel:index=0]", "tabular": "[column:names=race,column:names=sex]",
}  # fmt: skip
LABELS = torch.arange(7) % 2


def measured() -> list[tuple[str, str]]:
    """Each factor, or a member of each family, with each kind of data that it is made for."""
    cases = []
    for name in FACTORS:
        for kind in FACTORS.get(name).KINDS:
            cases.append((name, kind))
    return cases


def spec_of(name: str, kind: str) -> str:
    return f"together:factors={TOGETHER[kind]}" if name == "together" else SPECS.get(name, name)


def of_kind(name: str, kind: str) -> tuple[Any, torch.Tensor, torch.Tensor, DataFacts, dict[str, Any]]:
    x, donors = SAMPLES[kind]
    facts = DataFacts.of(torch.cat([x, donors]), **FACTS.get(kind, {}))
    factor = FACTORS.create(spec_of(name, kind))
    members = factor.members(x, LABELS, facts)
    masks: dict[str, Any] = {}
    if name == "region":
        mask = torch.zeros(x.shape[0], *x.shape[2:] if x.ndim > 2 else x.shape[1:])
        mask[..., :3] = 1
        masks = {"masks": mask, "donor_masks": mask}
    return members[0], x, donors, facts, masks


@pytest.mark.parametrize(("name", "kind"), measured())
def test_an_exchange(name: str, kind: str) -> None:
    factor, x, donors, facts, masks = of_kind(name, kind)
    before, lenders = x.clone(), donors.clone()
    changed = factor.exchange(x, donors, facts=facts, **masks)
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    assert not torch.equal(changed, x)
    assert torch.equal(x, before)
    assert torch.equal(donors, lenders)
    assert torch.equal(factor.exchange(x, donors, facts=facts, **masks), changed)
    same = factor.exchange(x, x, facts=facts, **masks)
    assert torch.allclose(same.double(), x.double(), atol=1e-5)  # of itself it has everything already
    for i in range(len(x)):
        row_masks = {key: mask[i : i + 1] for key, mask in masks.items()}
        row = factor.exchange(x[i : i + 1], donors[i : i + 1], facts=facts, **row_masks)
        assert torch.allclose(row[0].double(), changed[i].double(), atol=1e-6)
    assert isinstance(factor.title, str)
    assert FACTORS.create(factor.spec()) == factor
    assert factor.nature in ("nuisance", "content")


@pytest.mark.parametrize(("name", "kind"), [case for case in measured() if case[1] != "text"])
def test_precision_and_whole_numbers(name: str, kind: str) -> None:
    factor, x, donors, facts, masks = of_kind(name, kind)
    changed = factor.exchange(x, donors, facts=facts, **masks)
    double = factor.exchange(x.double(), donors.double(), facts=facts, **masks)
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), changed, atol=1e-4)
    half = factor.exchange(x.bfloat16(), donors.bfloat16(), facts=facts, **masks)
    assert half.dtype == torch.bfloat16
    if kind == "image":
        pixels = factor.exchange((x * 255).byte(), (donors * 255).byte(), **masks)
        assert pixels.dtype == torch.uint8


@pytest.mark.parametrize("name", list(FACTORS))
def test_other_data_are_refused_by_the_factors_name(name: str) -> None:
    factor = FACTORS.create(spec_of(name, "image"))
    kinds = ["image"] if name == "together" else factor.KINDS
    other = next((kind for kind in SAMPLES if kind not in kinds), None)
    if other is None:
        assert name == "region"
        return
    with pytest.raises(InvalidInputError, match=f"is of .* data, got {other}"):
        factor.exchange(*SAMPLES[other])
