"""The steps of the backward pass of relevance, as functions of autograd."""

from __future__ import annotations

import inspect

from xaikit.explainers.lrp import flow
from xaikit.explainers.lrp.batched import RelevanceStep


def test_the_signature_of_a_step_is_read_once():
    """torch.autograd.Function.apply asks inspect for it in each call; a function that has one is not looked through."""
    assert issubclass(flow.Ruled, flow.Step)
    assert issubclass(flow.Step, RelevanceStep)
    for step in (flow.Step, flow.Stop, flow.Ruled):
        signature, code = inspect.signature(step.forward), step.forward.__code__
        assert signature is step.forward.__signature__
        named = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS)
        assert tuple(signature.parameters) == code.co_varnames[:named]
