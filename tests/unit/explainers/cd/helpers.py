"""What the tests of contextual decomposition share."""

from __future__ import annotations

import torch

from xaikit.core.call import Call
from xaikit.explainers.cd import RULE_SETS, Context, Split, decompose_call


def decompose(model, inputs, masks, rules="symmetric", *, grad=False, on_missing="error", max_rows=None):
    """The decomposition of a model's output, or of a function's, without the explainer around it."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    call = Call(
        model=model,
        inputs=inputs,
        target=None,
        create_graph=grad,
        seed=0,
        forward=lambda tensors, samples: model(*(t.clone() for t in tensors)),
    )
    splits = [Split.of_masks(masks, inputs[0])] + [Split.of_masks(masks, x) for x in inputs[1:]]
    rules = RULE_SETS[rules] if isinstance(rules, str) else rules
    with torch.set_grad_enabled(grad):
        return decompose_call(call, splits, Context(rules, on_missing), max_rows=max_rows)


def standard_masks(shape, dtype=torch.float64):
    """A random mask, its complement, the empty and the full one."""
    part = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)
    return torch.stack([part, 1 - part, torch.zeros_like(part), torch.ones_like(part)])


def mixed_masks(shape, dtype=torch.float64):
    """Masks of their own for the samples of a batch of two: partial and full, empty and partial, full and empty."""
    part, _, empty, full = standard_masks(shape, dtype)
    return torch.stack([torch.stack([part, full]), torch.stack([empty, part]), torch.stack([full, empty])])


def check_promises(model, x, tolerance):
    """Completeness; exact zeros of full and empty masks, also where a batch mixes them with partial ones."""
    with torch.no_grad():
        y = model(x)
    scale = y.abs().max()
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    result = decompose(model, x, standard_masks(x.shape[1:], dtype))
    assert ((result.total - y).abs().max() / scale) <= tolerance
    assert not result.irrelevant[3].any()
    assert not result.relevant[2].any()
    mixed = decompose(model, x, mixed_masks(x.shape[1:], dtype))
    assert ((mixed.total - y).abs().max() / scale) <= tolerance
    for zero in (mixed.irrelevant[0, 1], mixed.relevant[1, 0], mixed.irrelevant[2, 0], mixed.relevant[2, 1]):
        assert not zero.any()
    assert not result.approximations
