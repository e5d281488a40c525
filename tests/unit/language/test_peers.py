"""The rows of generations against captum's LLMGradientAttribution, and against stored outputs of inseq 0.7.1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients, LLMGradientAttribution, TextTokenInput

from tests.unit.language import small_models
from xaikit import GradientXInput, IntegratedGradients
from xaikit.language import explain_generation
from xaikit.transforms import TokenId

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "inseq.json"


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients"])
def test_as_captums_gradients(method):
    """Captum's baseline is token 0 for the prompt; the answer stays."""
    model, tokenizer = small_models.llama(), small_models.whole_words()
    prompt, answer = "assistant: The capital of France is Paris. What is the capital?", "Rome. You are"
    embedding = model.get_input_embeddings()
    if method == "gradient_x_input":
        theirs, ours = LayerGradientXActivation(model, embedding), GradientXInput(model)
    else:
        theirs = LayerIntegratedGradients(model, embedding)
        baseline = TokenId(token=0, keep=tuple(tokenizer(answer)["input_ids"]))
        ours = IntegratedGradients(model, n_steps=50, baseline=baseline)
    expected = LLMGradientAttribution(theirs, tokenizer).attribute(TextTokenInput(prompt, tokenizer), target=answer)
    result = explain_generation(ours, tokenizer, prompt, generated=answer, target="log_probability")
    assert torch.allclose(result.to_prompt, expected.token_attr, rtol=0, atol=1e-9)
    assert torch.allclose(result.to_prompt.sum(0), expected.seq_attr, rtol=0, atol=1e-9)


def settled_gpt2() -> torch.nn.Module:
    """A GPT-2 whose weights follow from a formula, so that no version of torch draws others."""
    model = small_models.gpt2()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            waves = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.7 + 0.13 * i).sin()
            parameter.copy_(0.3 * waves.view_as(parameter) + (parameter.ndim == 1))
    return model


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_as_inseq(method):
    """Stored: `load_model(model, method).attribute(prompt, answer)`; of integrated gradients 20 steps from "<unk>"."""
    stored, model = json.loads(GOLDEN.read_text()), settled_gpt2()
    explainer = GradientXInput(model)
    if method == "integrated_gradients":
        explainer = IntegratedGradients(model, n_steps=20, baseline="token_id:token=0")
    result = explain_generation(explainer, small_models.whole_words(), stored["prompt"], generated=stored["answer"])
    expected = torch.tensor(stored[method], dtype=torch.float64)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(result.values, expected, rtol=1e-5, atol=1e-6)
