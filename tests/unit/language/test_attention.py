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


def test_a_call_leaves_no_hook_in_the_model():
    """Transformers installs hooks in the first pass that returns attention weights, and notes that it has."""
    model = small_models.llama()
    model.set_attn_implementation("eager")
    first, again = (explain_attention(model, None, PROMPT, generated=ANSWER) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert len(model(IDS, output_attentions=True).attentions) == 2


def average(heads, gradients) -> np.ndarray:
    return np.mean([np.maximum(a * g, 0) for a, g in zip(heads, gradients, strict=True)], 0)


def scaled(relevance: np.ndarray) -> np.ndarray:
    rest = relevance - np.eye(len(relevance))
    sums = rest.sum(1, keepdims=True)
    return np.divide(rest, sums, out=np.zeros_like(rest), where=sums > 0) + np.eye(len(relevance))


@pytest.mark.parametrize("make", [small_models.bart, small_models.t5])
def test_encoder_and_decoder_by_the_published_formula(make):
    model = make()
    model.set_attn_implementation("eager")
    start, row = model.config.decoder_start_token_id, 2
    decoder_ids = torch.tensor([[start, *ANSWER[:-1]]])
    output = model(input_ids=torch.tensor([PROMPT]), decoder_input_ids=decoder_ids, output_attentions=True)
    groups = [output.encoder_attentions, output.decoder_attentions, output.cross_attentions]
    gradients = iter(torch.autograd.grad(output.logits[0, row, ANSWER[row]], [layer for g in groups for layer in g]))
    encoder, decoder, cross = (
        [average(layer[0].detach().numpy(), next(gradients)[0].numpy()) for layer in group] for group in groups
    )
    inside, own, other = np.eye(len(PROMPT)), np.eye(len(ANSWER)), np.zeros((len(ANSWER), len(PROMPT)))
    for layer in encoder:
        inside = inside + layer @ inside
    for layer, across in zip(decoder, cross, strict=True):
        own, other = own + layer @ own, other + layer @ other
        other = other + scaled(own).T @ across @ scaled(inside)
    result = explain_attention(model, None, PROMPT, method="transformer_attribution", generated=ANSWER)
    expected = np.concatenate([other[row], own[row]])
    assert expected.any()
    assert np.allclose(result.values[row, : len(expected)], expected, atol=1e-12)


def with_half(layer: np.ndarray) -> np.ndarray:
    mixed = layer + np.eye(len(layer))
    return mixed / mixed.sum(1, keepdims=True)


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
@pytest.mark.parametrize("make", [small_models.bart, small_models.t5])
def test_rollout_through_the_cross_attention(make, method):
    """Every sublayer, cross-attention too, is (A + 1) with rows divided by their sums, over encoder and decoder."""
    model = make(2)
    model.set_attn_implementation("eager")
    row, n, m = 2, len(PROMPT), len(ANSWER)
    decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *ANSWER[:-1]]])
    output = model(input_ids=torch.tensor([PROMPT]), decoder_input_ids=decoder_ids, output_attentions=True)
    groups = [output.encoder_attentions, output.decoder_attentions, output.cross_attentions]
    gradients = iter(torch.autograd.grad(output.logits[0, row, ANSWER[row]], [layer for g in groups for layer in g]))
    encoder, decoder, cross = (
        [
            average(heads, slopes) if method == "gradient_rollout" else heads.mean(0)
            for heads, slopes in ((layer[0].detach().numpy(), next(gradients)[0].numpy()) for layer in group)
        ]
        for group in groups
    )
    relevance = np.eye(n + m)  # of one stack that holds both texts
    whole = np.eye(n + m)
    for layer in encoder:
        whole[:n, :n] = with_half(layer)
        relevance = whole @ relevance
    for layer, across in zip(decoder, cross, strict=True):
        for block, begin in ((layer, n), (across, 0)):
            whole = np.zeros((n + m, n + m))
            whole[n:, begin : begin + block.shape[1]] = block
            whole = with_half(whole)
            whole[:n, :n] = np.eye(n)
            relevance = whole @ relevance
    result = explain_attention(model, None, PROMPT, method=method, generated=ANSWER)
    assert np.allclose(result.values[row, : n + m], relevance[n + row], atol=1e-12)
    assert np.isclose(relevance[n + row].sum(), 1)
    assert relevance[n + row, :n].min() > 0


@pytest.mark.parametrize(
    ("make", "encoder", "decoder", "values"),
    [
        (
            small_models.bart,
            "model.encoder.layers",
            "model.decoder.layers",
            ["self_attn.v_proj", "encoder_attn.v_proj"],
        ),
        (
            small_models.t5,
            "encoder.block",
            "decoder.block",
            ["layer.0.SelfAttention.v", "layer.1.EncDecAttention.v"],
        ),
        (
            small_models.bert_to_bert,
            "encoder.encoder.layer",
            "decoder.bert.encoder.layer",
            ["attention.self.value", "crossattention.self.value"],
        ),
    ],
    ids=["bart", "t5", "bert to bert"],
)
def test_value_zeroing_through_the_cross_attention(make, encoder, decoder, values):
    """By passes of the whole model, with a value vector set to 0 in one attention of one layer."""
    model, n, m = make(2), len(PROMPT), len(ANSWER)
    inputs = {"input_ids": torch.tensor([PROMPT])}
    inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id, *ANSWER[:-1]]])

    def output_of(block: str, zeroed: str = "", token: int = 0) -> np.ndarray:
        outputs = []

        def read(_m, _a, out):
            outputs.append((out if isinstance(out, torch.Tensor) else out[0])[0].numpy())

        handles = [model.get_submodule(block).register_forward_hook(read)]
        if zeroed:

            def zero(_m, _a, out):
                return torch.cat([out[:, :token], torch.zeros_like(out[:, :1]), out[:, token + 1 :]], 1)

            handles.append(model.get_submodule(f"{block}.{zeroed}").register_forward_hook(zero))
        with torch.no_grad():
            model(**inputs)
        for handle in handles:
            handle.remove()
        return outputs[0]

    def distances(block: str, zeroed: str, count: int) -> np.ndarray:
        a, columns = output_of(block), []
        for token in range(count):
            b = output_of(block, zeroed, token)
            columns.append(1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        return np.stack(columns, 1)

    relevance = np.eye(n + m)
    for layer in range(2):
        whole = np.eye(n + m)
        within = distances(f"{encoder}.{layer}", values[0], n)
        whole[:n, :n] = within / within.sum(1, keepdims=True)
        relevance = whole @ relevance
    for layer in range(2):
        whole = np.eye(n + m)
        block = f"{decoder}.{layer}"
        whole[n:] = np.concatenate([distances(block, values[1], n), distances(block, values[0], m)], 1)
        whole[n:] /= whole[n:].sum(1, keepdims=True)
        relevance = whole @ relevance
    result = explain_attention(model, None, PROMPT, method="value_zeroing", generated=ANSWER)
    for row in range(m):
        assert np.allclose(result.values[row, : n + m], relevance[n + row], atol=1e-7)
    assert relevance[n:, :n].min() > 0


@pytest.mark.parametrize(
    ("make", "blocks", "values", "share"),
    [
        (small_models.llama, "model.layers", "self_attn.v_proj", 1),
        (small_models.gpt2, "transformer.h", "attn.c_attn", 3),
    ],
    ids=["llama", "gpt2"],
)
def test_value_zeroing_by_passes_of_the_whole_model(make, blocks, values, share):
    """A layer's output, with a value vector set to 0 in that layer alone: the layers before it stay as they were."""
    model = make()
    outputs, count = {}, IDS.shape[1]

    def passed(zeroed_layer: int | None, token: int) -> dict[int, torch.Tensor]:
        def read(i):
            return lambda _m, _a, out: outputs.update({i: (out if isinstance(out, torch.Tensor) else out[0])[0]})

        def zero(_m, _a, out):
            mask = torch.ones_like(out)
            mask[0, token, -(out.shape[-1] // share) :] = 0
            return out * mask

        layers = model.get_submodule(blocks)
        handles = [layer.register_forward_hook(read(i)) for i, layer in enumerate(layers)]
        if zeroed_layer is not None:
            handles.append(layers[zeroed_layer].get_submodule(values).register_forward_hook(zero))
        with torch.no_grad():
            model(IDS)
        for handle in handles:
            handle.remove()
        return dict(outputs)

    clean, relevance = passed(None, 0), np.eye(count)
    for layer in range(2):
        distances = np.zeros((count, count))
        for token in range(count):
            changed = passed(layer, token)[layer]
            a, b = clean[layer].numpy(), changed.numpy()
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            distances[:, token] = 1 - (a * b).sum(1) / lengths
        relevance = distances / distances.sum(1, keepdims=True) @ relevance
    result = explain_attention(model, None, PROMPT, method="value_zeroing", generated=ANSWER)
    for row in range(len(ANSWER)):
        assert np.allclose(result.values[row, :count], relevance[len(PROMPT) - 1 + row], atol=1e-9)


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
        pytest.param(
            small_models.t5,
            {},
            "returns no attention weights",
            marks=pytest.mark.skipif(
                not small_models.t5()._supports_sdpa, reason="T5 of transformers 5.0 always computes its weights"
            ),
        ),
        (small_models.llama, {"prompt": [[1, 2], [3]]}, "takes one prompt"),
    ],
    ids=["state space", "method", "encoder", "batch"],
)
def test_wrong_calls(make, options, message):
    options = {"prompt": PROMPT, "generated": ANSWER, **options}
    with pytest.raises(InvalidInputError, match=message):
        explain_attention(make(), None, options.pop("prompt"), **options)
