"""Attention rollout and its kin for classifiers, against their formulas head by head: ViT and BERT."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.attention import attention_relevance

import_torchvision()
import transformers  # noqa: E402

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def vit() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZE, image_size=8, patch_size=4, num_labels=3, initializer_range=0.5)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 8, 8).double()}


def bert() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZE, vocab_size=30, num_labels=3, initializer_range=0.5)
    ids, mask = torch.randint(1, 30, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    return transformers.BertForSequenceClassification(config), {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(params=[vit, bert], ids=["vit", "bert"])
def case(request):
    model, inputs = request.param()
    model = model.double().eval()
    model.set_attn_implementation("eager")
    return model, inputs


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout", "transformer_attribution"])
def test_the_published_formula(case, method):
    model, inputs = case
    classes = [2, 0]
    output = model(**inputs, output_attentions=True)
    gradients = torch.autograd.grad(output.logits[[0, 1], classes].sum(), output.attentions)
    relevance = attention_relevance(model, inputs, classes, method=method)
    for sample in range(2):
        count = output.attentions[0].shape[-1]
        joined = np.eye(count)
        for weights, by_weight in zip(output.attentions, gradients, strict=True):
            heads, slopes = weights[sample].detach().numpy(), by_weight[sample].numpy()
            layer = np.mean(heads if method == "rollout" else np.maximum(heads * slopes, 0), 0)
            if method == "transformer_attribution":
                joined = joined + layer @ joined
            else:
                mixed = layer + np.eye(count)
                joined = mixed / mixed.sum(1, keepdims=True) @ joined
        assert np.allclose(relevance[sample], joined[0], atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


def test_forms_of_inputs_and_positions():
    model, inputs = vit()
    model = model.double().eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    named = attention_relevance(model, inputs, 1)
    assert torch.equal(attention_relevance(model, inputs["pixel_values"].numpy(), 1), named)
    rows = [attention_relevance(model, inputs, 1, position=i) for i in range(5)]
    mean = attention_relevance(model, inputs, 1, position=None)
    assert torch.allclose(torch.stack(rows).mean(0), mean)
    assert named[:, 1:].unflatten(1, (2, 2)).shape == (2, 2, 2)


def test_wrong_calls():
    model, inputs = vit()
    with pytest.raises(InvalidInputError, match=r"method is one of rollout, .* got 'roll'; did you mean|got 'roll'"):
        attention_relevance(model.double(), inputs, 1, method="roll")
    with pytest.raises(InvalidTypeError, match="takes a model, got a str"):
        attention_relevance("vit", inputs, 1)
    model.set_attn_implementation("sdpa")
    with pytest.raises(InvalidInputError, match="returns no attention weights"):
        attention_relevance(model, inputs, 1)
