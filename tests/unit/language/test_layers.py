"""Relevance by block and by head, and the logit lens, against passes of the model taken apart by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.language import small_models
from xaikit import AttnLRP, GradientXInput, IntegratedGradients, LRPUniformEpsilon, Position
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.language import LayerRelevance, LogitLens, layer_relevance, logit_lens

IDS = torch.tensor([[5, 60, 7, 80, 9], [3, 4, 5, 6, 7]])
TARGET = Position(-1, 17)


def zero_biases(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


def test_gradient_times_input_by_hand():
    """With gradient x input each value is the product at that place, of hidden states kept by the model itself."""
    model = small_models.llama()
    inputs, projected = {}, {}
    for i, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(lambda _m, args, i=i: inputs.update({i: args[0]}))
        block.self_attn.o_proj.register_forward_pre_hook(lambda _m, args, i=i: projected.update({i: args[0]}))
    score = model(IDS).logits[:, -1, 17]
    places = [*inputs.values(), *projected.values()]
    products = [(p * g).detach() for p, g in zip(places, torch.autograd.grad(score.sum(), places), strict=True)]
    result = layer_relevance(GradientXInput(small_models.llama()), IDS, TARGET)
    assert result.layers == ["model.layers.0", "model.layers.1"]
    assert torch.allclose(result.scores, score.detach())
    for layer in range(2):
        assert torch.allclose(result.values[:, layer], products[layer].sum(2), atol=1e-12)
        for head in range(4):
            features = products[2 + layer][:, :, 4 * head : 4 * head + 4]
            assert torch.allclose(result.heads[:, layer, head], features.sum((1, 2)), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "heads"),
    [
        (small_models.llama, 4),
        (small_models.gpt2, 2),
        (
            lambda: small_models.transformers.BertForSequenceClassification(
                small_models.transformers.BertConfig(**small_models.SIZE, vocab_size=340, num_labels=3)
            ),
            4,
        ),
    ],
    ids=["llama", "gpt2", "bert"],
)
def test_each_block_conserves_the_score(make, heads):
    """LRP's relevance at every block sums to the score; heads carry a part of it, the rest goes past them."""
    torch.manual_seed(0)
    model = zero_biases(make().double().eval())
    target = 1 if "Bert" in type(model).__name__ else TARGET
    result = layer_relevance(LRPUniformEpsilon(model, epsilon=1e-9), IDS, target)
    assert result.values.shape == (2, 2, 5)
    assert result.heads.shape == (2, 2, heads)
    shares = (result.residual / result.scores[:, None]).abs()
    assert float(shares.max()) < 1e-2  # what the epsilon in the norms takes up
    assert result.through_attention.abs().max() > 0


def test_the_first_block_as_by_the_explainer_itself():
    model = small_models.llama()
    result = layer_relevance(AttnLRP(model), {"input_ids": IDS}, TARGET, tokenizer=small_models.byte_level())
    alone = AttnLRP(model, layer="model.layers.0.input").attribute({"input_ids": IDS}, TARGET)
    assert torch.allclose(result.values[:, 0], alone.sum(-1))
    assert [len(row) for row in result.tokens] == [5, 5]
    single = layer_relevance(AttnLRP(model), IDS[1:], TARGET)
    assert torch.allclose(single.heads[0], result.heads[1])
    gradients = layer_relevance(IntegratedGradients(model, n_steps=4), IDS, TARGET)  # a pass of its own for each block
    one = IntegratedGradients(model, n_steps=4, layer="model.layers.1.input").attribute(IDS, TARGET)
    assert torch.allclose(gradients.values[:, 1], one.sum(-1))


def test_the_lens_reads_the_final_norm_and_the_head():
    model = small_models.llama()
    states = model(IDS, output_hidden_states=True).hidden_states
    lens = logit_lens(model, IDS, [17, 23])
    for layer in range(3):
        hidden = states[layer] if layer == 2 else model.model.norm(states[layer])  # the last is behind the norm
        logits = model.lm_head(hidden)[:, -1].detach()
        expected = logits[torch.arange(2), torch.tensor([17, 23])]
        assert torch.allclose(lens.values[:, layer], expected)
        assert lens.best[:, layer].tolist() == logits.argmax(1).tolist()
        order = logits.argsort(1, descending=True)
        assert lens.ranks[:, layer].tolist() == [int((order[i] == t).nonzero()) for i, t in enumerate([17, 23])]
        assert torch.allclose(lens.probabilities[:, layer].double(), logits.softmax(1)[[0, 1], [17, 23]], atol=1e-6)


def test_the_lens_of_a_classifier_reads_pooler_and_classifier():
    torch.manual_seed(0)
    config = small_models.transformers.BertConfig(**small_models.SIZE, vocab_size=340, num_labels=3)
    model = small_models.transformers.BertForSequenceClassification(config).eval()
    states = model(IDS, output_hidden_states=True).hidden_states
    lens = logit_lens(model, {"input_ids": IDS}, 2)
    for layer, hidden in enumerate(states):
        expected = model.classifier(model.bert.pooler(hidden))[:, 2].detach()
        assert torch.allclose(lens.values[:, layer], expected, atol=1e-6)


def test_an_encoder_and_a_decoder_need_a_name():
    model = small_models.bart()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    with pytest.raises(InvalidInputError, match=r"several lists of layers, model\.encoder\.layers"):
        logit_lens(model, inputs)
    lens = logit_lens(model, inputs, layers="model.decoder.layers")
    own = model(**inputs).logits[:, -1].detach()
    assert torch.equal(lens.values[:, -1], own.max(1).values)
    assert lens.ranks[:, -1].tolist() == [0, 0]
    result = layer_relevance(GradientXInput(model), inputs, TARGET, layers="model.encoder.layers")
    assert result.values.shape == (2, 1, 5)
    with pytest.raises(UnknownNameError, match="no list of layers 'model'"):
        logit_lens(model, inputs, layers="model")


def test_a_model_without_attention():
    result = layer_relevance(GradientXInput(small_models.mamba()), IDS, TARGET)
    assert result.heads.shape == (2, 2, 0)
    assert result.plot().axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": 340}, "targets must be from 0 to 339"),
        ({"targets": [1, 2, 3]}, "one for each of the 2"),
        ({"position": 9}, "within the text of 5 tokens"),
    ],
)
def test_wrong_lenses(options, message):
    with pytest.raises(InvalidInputError, match=message):
        logit_lens(small_models.llama(), IDS, **options)


def test_tables_figures_and_files(tmp_path):
    model, tokenizer = small_models.llama(), small_models.byte_level()
    result = layer_relevance(AttnLRP(model), IDS, TARGET, tokenizer=tokenizer)
    lens = logit_lens(model, IDS, 17, tokenizer=tokenizer)
    table = result.to_pandas()
    assert np.allclose(table["sum"], result.values.sum(-1).flatten())
    assert np.allclose(table[[f"head {i}" for i in range(4)]].sum(axis=1), table["heads"])
    assert list(lens.to_pandas()["layer"]) == ["input", "model.layers.0", "model.layers.1"] * 2
    figure = result.plot(1, lens=lens)
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == 3
    figure.savefig(tmp_path / "layers.png")
    lens.plot().savefig(tmp_path / "lens.png")
    with pytest.raises(InvalidInputError, match="sample must be from 0 to 1"):
        result.plot(2)
    assert LayerRelevance.load(result.save(tmp_path / "layers.npz")) == result
    assert LogitLens.load(lens.save(tmp_path / "lens.npz")) == lens


def test_empty_batches_and_several_targets():
    model = small_models.llama()
    with pytest.raises(InvalidInputError, match="empty batch"):
        logit_lens(model, IDS[:0], 17)
    with pytest.raises(InvalidInputError, match="layer_relevance takes one target"):
        layer_relevance(GradientXInput(model), IDS, [TARGET, Position(-1, 18)])
    assert torch.equal(logit_lens(model, IDS.tolist(), 17).values, logit_lens(model, IDS, 17).values)
