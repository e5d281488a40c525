"""A sentence alone is explained as inside a padded batch, and padding gets nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit import ContextualDecomposition

SHORT, LONG = [5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}


def padded(side):
    ids = torch.tensor([[0, 0, 0, *SHORT] if side == "left" else [*SHORT, 0, 0, 0], LONG])
    return ids, (ids != 0).long(), slice(3, 7) if side == "left" else slice(0, 4)


def check(explainer, batch, alone, at, targets=(1, 1)):
    """Scores of tokens in the batch against those of the sentence alone; exact zeros at the padding."""
    inside, by_itself = (explainer.attribute(x, t) for x, t in zip((batch, alone), targets, strict=True))
    inside, by_itself = (scores.sum(2) if scores.dim() == 3 else scores for scores in (inside, by_itself))
    assert (inside[0, at] - by_itself[0]).abs().max() < 1e-5 * by_itself.abs().max()
    outside = torch.ones(inside.shape[1], dtype=torch.bool)
    outside[at] = False
    assert not inside[0, outside].any()


class Bag(nn.Module):
    """A masked mean of embeddings, told what is padding in one of the usual ways."""

    def __init__(self, padding_idx=None):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.l, self.h = nn.Embedding(50, 6, padding_idx=padding_idx), nn.Linear(6, 6), nn.Linear(6, 3)

    def pooled(self, ids, valid):
        valid = valid[..., None].to(self.l.weight)
        return self.h((torch.relu(self.l(self.e(ids))) * valid).sum(1) / valid.sum(1))


class ByMask(Bag):
    def forward(self, input_ids, attention_mask):
        return self.pooled(input_ids, attention_mask)


class ByPaddingMask(Bag):
    def forward(self, input_ids, key_padding_mask):
        return self.pooled(input_ids, ~key_padding_mask)


class ByLengths(Bag):
    def forward(self, input_ids, lengths):
        return self.pooled(input_ids, torch.arange(input_ids.shape[1]) < lengths[:, None])


class ByIds(Bag):
    def forward(self, input_ids):
        return self.pooled(input_ids, input_ids != 0)


@pytest.mark.parametrize("layer", ["e", None])
def test_what_says_where_the_padding_is(layer):
    ids, mask, at = padded("right")
    alone = torch.tensor([SHORT])
    split = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: b[1:]}
    named = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: {b[1]: b[2]}}
    ones = torch.ones(1, 4).long()
    cases = [
        (ByMask(), split, (ids, mask), (alone, ones)),
        (ByMask(), named, (ids, "attention_mask", mask), (alone, "attention_mask", ones)),
        (ByPaddingMask(), split, (ids, mask == 0), (alone, ones == 0)),
        (ByLengths(), split, (ids, mask.sum(1)), (alone, torch.tensor([4]))),
        (ByIds(padding_idx=0), {}, ids, alone),
    ]
    for net, settings, batch, one in cases:
        check(ContextualDecomposition(net.double(), layer=layer, **settings), batch, one, at)
    if layer:
        explainer = ContextualDecomposition(ByMask().double(), layer=layer)
        check(explainer, {"attention_mask": mask, "input_ids": ids}, {"attention_mask": ones, "input_ids": alone}, at)


def test_a_mask_for_each_sample_counts_its_own_tokens():
    ids, mask, _ = padded("right")
    words = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [1.0, 1, 0, 0, 0, 0, 0]])[None]
    split = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: b[1:]}
    explainer = ContextualDecomposition(ByMask().double(), **split)
    both = explainer.decompose((ids, mask), words)
    one = explainer.decompose((ids[:1, :4], mask[:1, :4]), words[:, :1, :4])
    assert torch.allclose(both.relevant[:, 0], one.relevant[:, 0], atol=1e-12)


def models():
    """Small language models of Hugging Face, and whether they take position ids."""
    from xaikit.core.torchvision_ops import import_torchvision

    import_torchvision()
    transformers = pytest.importorskip("transformers")
    grouped = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
    gpt2 = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 50, "n_positions": 64}
    opt = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
           "word_embed_proj_dim": 32, "pad_token_id": 0}  # fmt: skip
    return {
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**grouped), True),
        "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**grouped), True),
        "gemma": (transformers.GemmaForCausalLM, transformers.GemmaConfig(**grouped, head_dim=8), True),
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**gpt2), True),
        "opt": (transformers.OPTForCausalLM, transformers.OPTConfig(**opt), False),
        "bert": (transformers.BertForSequenceClassification, transformers.BertConfig(**SIZES, num_labels=3), False),
    }


LANGUAGE_MODELS = [(name, side) for name in ("llama", "qwen2", "gemma", "gpt2", "opt") for side in ("left", "right")]


# BERT counts its positions from the left, so padding on the left is another text.
@pytest.mark.parametrize(("name", "side"), [*LANGUAGE_MODELS, ("bert", "right")])
@pytest.mark.filterwarnings("ignore")
def test_language_models_under_their_default_attention(name, side):
    torch.manual_seed(0)
    make, config, positions = models()[name]
    net = make(config).eval()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if key.endswith("bias") else parameter.mul_(2)
    ids, mask, at = padded(side)
    batch = {"input_ids": ids, "attention_mask": mask}
    alone = {"input_ids": torch.tensor([SHORT]), "attention_mask": torch.ones(1, 4).long()}
    if positions:
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        alone["position_ids"] = torch.arange(4)[None]
    layer = next(path for path, module in net.named_modules() if module is net.get_input_embeddings())
    last = at.stop - 1
    targets = (1, 1) if name == "bert" else (lambda o: o[:, last, 5], lambda o: o[:, -1, 5])
    check(ContextualDecomposition(net, layer=layer), batch, alone, at, targets)


class Masked(nn.Module):
    """Attention with heads, a causal mask, and a boolean or additive mask that may hide all keys of a row."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.q, self.heads = kind, nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x, keep):
        x = self.q(x)
        pairs = keep[:, None, :] & keep[:, :, None]
        if self.kind == "additive":
            pairs = torch.zeros(pairs.shape, dtype=x.dtype).masked_fill(~pairs, -torch.inf)
        if self.kind == "heads":
            pairs = (~pairs).repeat_interleave(2, 0)
            y = self.heads(x, x, x, attn_mask=pairs, need_weights=False)[0]
        elif self.kind == "causal":
            y = F.scaled_dot_product_attention(x, x, x, attn_mask=pairs.tril())
        else:
            y = F.scaled_dot_product_attention(x, x, x, attn_mask=pairs)
        return (y * keep[..., None]).sum(1)


@pytest.mark.parametrize("kind", ["truth", "additive", "heads", "causal"])
def test_rows_that_see_nothing(kind):
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keep = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    split = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: b[1:]}
    net = Masked(kind).double().eval()
    explainer = ContextualDecomposition(net, feature_mask="tokens", **split)
    found = explainer.decompose((x, keep), torch.tensor([1.0, 1, 1, 0, 0])[None, :, None])
    assert torch.allclose(found.total[0], net(x, keep), atol=1e-12)
    inside, alone = explainer.attribute((x, keep), 1), explainer.attribute((x[:1, 2:], keep[:1, 2:]), 1)
    assert torch.allclose(inside[0, 2:], alone[0], atol=1e-12)
    assert not inside[0, :2].any()


BAGS = [
    (setting, mode)
    for setting in ("plain", "padding_idx", "negative padding_idx", "max_norm")
    for mode in ("sum", "mean")
]


@pytest.mark.parametrize(("setting", "mode"), [*BAGS, ("per_sample_weights", "sum")])
def test_an_embedding_bag_is_its_rows_of_embeddings(setting, mode):
    settings = {
        "padding_idx": {"padding_idx": 0},
        "negative padding_idx": {"padding_idx": -7},
        "max_norm": {"max_norm": 0.5},
    }
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]])
    bag = nn.EmbeddingBag(7, 3, mode=mode, **settings.get(setting, {})).double()
    rows = nn.Embedding(7, 3, padding_idx=0 if "padding" in setting else None).double()
    out = nn.Linear(3, 2).double()
    scale = (0.5 / bag.weight.detach().norm(dim=1, keepdim=True)).clamp(max=1) if setting == "max_norm" else 1
    rows.weight = nn.Parameter(bag.weight.detach() * scale)
    weights = torch.rand(4).double() if setting == "per_sample_weights" else torch.ones(4).double()

    class OfBag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.out = bag, out

        def forward(self, x):
            per_sample = weights.expand(x.shape) if setting == "per_sample_weights" else None
            return self.out(self.bag(x, per_sample_weights=per_sample).relu())

    class OfRows(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.out = rows, out

        def forward(self, x):
            valid = (x != 0) if "padding" in setting else torch.ones_like(x, dtype=torch.bool)
            total = (self.rows(x) * (valid * weights).unsqueeze(-1)).sum(1)
            return self.out((total if mode == "sum" else total / valid.sum(1, keepdim=True).clamp(min=1)).relu())

    expected = ContextualDecomposition(OfRows()).explain(ids, 0)
    values = ContextualDecomposition(OfBag()).explain(ids, 0)
    torch.testing.assert_close(values.scores, expected.scores)
    torch.testing.assert_close(values.values, expected.values)
    assert values.gap.max() < 1e-9
