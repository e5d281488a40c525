"""Attention rollout and its kin against their published formulas, head by head and entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.language import small_models
from xaikit.core.errors import InvalidInputError
from xaikit.language import AnswerScore, explain_attention

PROMPT, ANSWER = [5, 60, 7, 80, 9], [17, 23, 301]
IDS = torch.tensor([PROMPT + ANSWER[:-1]])


@pytest.fixture(scope="module")
def model():
    net = small_models.llama()
    net.set_attn_implementation("eager")
    return net


def weights_and_gradients(model, row: int):
    """The attention weights (heads, T, T) of each layer, and the derivative of a generated token's logit by them."""
    output = model(IDS, output_attentions=True)
    score = output.logits[0, len(PROMPT) - 1 + row, ANSWER[row]]
    gradients = torch.autograd.grad(score, output.attentions)
    return [[t[0].detach().numpy() for t in tensors] for tensors in (output.attentions, gradients)]


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("method", ["rollout", "gradient_rollout", "transformer_attribution"])
def test_the_published_formula(model, method, row):
    weights, gradients = weights_and_gradients(model, row)
    count = IDS.shape[1]
    relevance = np.eye(count)
    for layer, gradient in zip(weights, gradients, strict=True):
        mean = np.zeros((count, count))
        for head, by_head in zip(layer, gradient, strict=True):
            mean += (head if method == "rollout" else np.maximum(head * by_head, 0)) / len(layer)
        if method == "transformer_attribution":
            relevance = relevance + mean @ relevance
        elif method == "rollout":
            relevance = (0.5 * mean + 0.5 * np.eye(count)) @ relevance
        else:
            residual = mean + np.eye(count)
            relevance = (residual / residual.sum(1, keepdims=True)) @ relevance
    result = explain_attention(model, None, PROMPT, method=method, generated=ANSWER)
    expected = relevance[len(PROMPT) - 1 + row]
    assert np.allclose(result.values[row, :count], expected, atol=1e-12)
    assert not result.values[row, len(PROMPT) + row :].any()


def test_the_whole_answer_and_units(model):
    result = explain_attention(model, small_models.byte_level(), "The capital of France is", generated=" Rome")
    assert result.aggregate("words").tokens == ["The", " capital", " of", " France", " is", " Rome"]
    assert torch.allclose(result.values.sum(1), torch.ones(2, dtype=torch.float64))  # each row is a distribution
    score = AnswerScore(whole_answer=True)
    whole = explain_attention(model, None, PROMPT, generated=ANSWER, target=score)
    rows = explain_attention(model, None, PROMPT, generated=ANSWER)
    assert torch.allclose(whole.values[0], rows.values.sum(0))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (small_models.mamba, {}, "returns no attention weights"),
        (small_models.llama, {"method": "roll"}, "method is one of rollout"),
        (small_models.t5, {}, "takes causal models"),
        (small_models.llama, {"prompt": [[1, 2], [3]]}, "takes one prompt"),
    ],
    ids=["state space", "method", "encoder", "batch"],
)
def test_wrong_calls(make, options, message):
    options = {"prompt": PROMPT, "generated": ANSWER, **options}
    with pytest.raises(InvalidInputError, match=message):
        explain_attention(make(), None, options.pop("prompt"), **options)
