"""With many masks the total is mapped once for all: the same values, the same exact zeros, exact derivatives."""

from __future__ import annotations

import pytest
import torch

from tests.unit.explainers.cd.helpers import decompose, standard_masks
from xaikit.explainers.cd import linear

NAMES = [
    "cdep-mnist-cnn", "cnn1d", "mlp-tab", "lstm", "gru", "unet-like", "nn.TransformerEncoder",
    "nn.TransformerEncoder-prenorm", "hf:bert", "hf:llama",
]  # fmt: skip


def masks_of(shape, dtype):
    """Four standard masks, among them the empty and the full one, and eight random ones."""
    random = (torch.rand((8, *shape), generator=torch.Generator().manual_seed(3)) < 0.3).to(dtype)
    return torch.cat([standard_masks(shape, dtype), random])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.filterwarnings("ignore")
def test_many_masks_are_split_as_few(zoo, name, dtype, monkeypatch):
    _, model, x = zoo.get(name, dtype=dtype, among=zoo.SMALL)
    masks = masks_of(x.shape[1:], dtype if x.is_floating_point() else torch.get_default_dtype())
    with torch.no_grad():
        scale = model(x).abs().max()
    many = decompose(model, x, masks, max_rows=64)
    monkeypatch.setattr(linear, "MANY_MASKS", len(masks) + 1)
    few = decompose(model, x, masks, max_rows=64)
    tolerance = 1e-5 if dtype == torch.float32 or name == "hf:llama" else 1e-10  # it casts to float32
    assert (many.relevant - few.relevant).abs().max() < tolerance * scale
    assert (many.irrelevant - few.irrelevant).abs().max() < tolerance * scale
    assert not many.relevant[2].any()
    assert not many.irrelevant[3].any()


def test_samples_whose_irrelevant_part_is_empty_among_others_that_have_one(zoo):
    _, model, x = zoo.get("cdep-mnist-cnn", dtype=torch.float64, among=zoo.SMALL)
    masks = masks_of(x.shape[1:], torch.float64)
    each = torch.stack([masks, masks.roll(1, 0)], 1)
    result = decompose(model, x, each, max_rows=64)
    assert not result.irrelevant[3, 0].any()
    assert not result.irrelevant[4, 1].any()
    assert result.irrelevant[3, 1].any()
    alone = decompose(model, x[:1], masks, max_rows=64)
    assert torch.allclose(result.relevant[:, 0], alone.relevant[:, 0], atol=1e-10)


@pytest.mark.parametrize("name", ["cdep-mnist-cnn", "nn.TransformerEncoder"])
def test_derivatives(zoo, name):
    _, model, x = zoo.get(name, dtype=torch.float64, among=zoo.SMALL)
    masks = masks_of(x.shape[1:], torch.float64)
    live = decompose(model, x, masks, grad=True, max_rows=64)
    weights = torch.randn_like(live.relevant)
    gradients = torch.autograd.grad((live.relevant * weights).sum(), list(model.parameters()), allow_unused=True)
    for parameter, gradient in list(zip(model.parameters(), gradients, strict=True))[:: max(1, len(gradients) // 8)]:
        if gradient is None:
            continue
        direction, moved = torch.randn_like(parameter), []
        direction /= direction.norm()
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-7 * direction)
            moved.append((decompose(model, x, masks, max_rows=64).relevant * weights).sum())
            with torch.no_grad():
                parameter.sub_(sign * 1e-7 * direction)
        slope = (gradient * direction).sum()
        assert ((moved[0] - moved[1]) / 2e-7 - slope).abs() < 1e-5 * (1 + gradient.norm())
