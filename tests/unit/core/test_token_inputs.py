"""Which of a model's inputs are tokens: baselines, `Attribution.tokens` and hints look at these alone."""

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS, GradientXInput, IntegratedGradients
from xaikit.cli.sources import ModelJob
from xaikit.core.errors import InvalidTypeError

IDS = torch.tensor([[1, 4, 5, 3, 0], [1, 6, 2, 4, 5]])
KINDS = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
MASK = (IDS != 0).long()
ABSENT = torch.where(IDS == 1, 1, 0)
TOKEN = "token_id:token=0,keep=[1]"


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 4).double(), nn.Embedding(2, 4).double()

    def forward(self, ids, kinds):
        return torch.tanh(self.words(ids) + self.kinds(kinds))


class Reader(nn.Module):
    """Words, kinds and a mask under names that say nothing of kinds."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Embedding(20, 4).double()
        self.embedded, self.head = Embedded(), nn.Linear(4, 3).double()

    def forward(self, words, kinds, seen_mask):
        mean = (self.embedded(words, kinds) * seen_mask.unsqueeze(-1)).sum(1) / seen_mask.sum(1, keepdim=True)
        return self.head(mean)


class Translator(nn.Module):
    """An encoder and a decoder with vocabularies of different sizes."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(40, 4).double(), nn.Embedding(12, 4).double()

    def forward(self, source, target):
        return torch.tanh(self.source(source).mean(1) * self.target(target).mean(1))


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader()


ORDERS = {
    "in order": ((IDS, KINDS, MASK), (ABSENT, KINDS, MASK)),
    "by name": ({"words": IDS, "kinds": KINDS, "seen_mask": MASK}, (ABSENT, KINDS, MASK)),
    "the mask first": ({"seen_mask": MASK, "kinds": KINDS, "words": IDS}, (ABSENT, KINDS, MASK)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layer", ["embedded.words", "embedded"])
def test_a_token_baseline_replaces_words_only(reader, order, layer):
    inputs, absent = ORDERS[order]
    difference = (reader(IDS, KINDS, MASK) - reader(*absent))[:, 1]
    explainer = IntegratedGradients(reader, layer=layer, baseline=TOKEN, n_steps=200)
    result = explainer.explain(inputs, 1)
    torch.testing.assert_close(result.values.sum((1, 2)), difference, rtol=0, atol=1e-5)
    assert torch.equal(result.tokens, IDS)


def test_what_is_no_token_stays_without_a_layer(reader):
    ablation = EXPLAINERS.create("captum.feature_ablation", baseline=TOKEN).bind(reader)
    words, kinds, mask = ablation.attribute((IDS, KINDS, MASK), 1)
    assert not kinds.any()
    assert not mask.any()
    swapped = IDS.clone()
    swapped[:, 1] = 0
    change = (reader(IDS, KINDS, MASK) - reader(swapped, KINDS, MASK))[:, 1]
    torch.testing.assert_close(words[:, 1].double(), change, rtol=1e-5, atol=1e-6)


def test_both_vocabularies_of_a_translator():
    torch.manual_seed(0)
    net, source, target = Translator(), torch.tensor([[30, 8, 9]]), torch.tensor([[3, 1, 5, 6]])
    explainer = IntegratedGradients(net, layer=("source", "target"), baseline="token_id:token=0", n_steps=300)
    parts = explainer.attribute((source, target), 2)
    difference = net(source, target) - net(source * 0, target * 0)
    torch.testing.assert_close(parts[0].sum() + parts[1].sum(), difference[0, 2], rtol=1e-4, atol=1e-7)
    alone = IntegratedGradients(net, layer="target", baseline="token_id:token=0", n_steps=300)
    difference = net(source, target) - net(source, target * 0)
    torch.testing.assert_close(alone.attribute((source, target), 2).sum(), difference[0, 2], rtol=1e-4, atol=1e-7)


def test_a_model_without_embedding_modules():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.point = nn.Parameter(torch.randn(20, 4)), nn.Identity()

        def forward(self, words, words_mask):
            return (self.point(nn.functional.embedding(words, self.weight)) * words_mask.unsqueeze(-1)).sum((1, 2))

    net = Functional()
    explainer = IntegratedGradients(net, layer="point", baseline=TOKEN, n_steps=4)
    difference = net(IDS, MASK) - net(ABSENT, MASK)
    torch.testing.assert_close(explainer.attribute((IDS, MASK)).sum((1, 2)), difference, rtol=1e-4, atol=1e-5)


def test_the_hint_names_the_embeddings_that_run(reader):
    with pytest.raises(InvalidTypeError, match=r"layer='embedded\.words', the model's embedding,"):
        GradientXInput(reader).attribute((IDS, KINDS, MASK), 1)
    assert not any(m._forward_pre_hooks for m in reader.modules())
    with pytest.raises(InvalidTypeError, match=r"layer=\('source', 'target'\), the model's embeddings"):
        GradientXInput(Translator()).attribute((IDS, IDS[:, :3]), 1)
    with pytest.raises(InvalidTypeError, match=r"layer='unused'"):  # the model fails on these, and says so later
        GradientXInput(reader).attribute(IDS, 1)
    with pytest.raises(InvalidTypeError, match=r"a float tensor"):
        GradientXInput(nn.Linear(5, 2)).attribute(IDS, 1)


def test_the_command_line_finds_the_embedding_that_runs(reader):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = reader

        def forward(self, ids):
            return self.reader(ids, torch.zeros_like(ids), torch.ones_like(ids))

    job = ModelJob(model="anywhere:model")
    assert job.with_embedding_layer(Words(), IDS).layer == "reader.embedded.words"
    assert job.with_embedding_layer(nn.Linear(5, 2), IDS).layer == ""
    assert job.with_embedding_layer(Words(), IDS.float()).layer == ""


def test_the_tokens_of_an_attribution_are_those_of_its_shape():
    net = Translator()
    result = GradientXInput(net, layer="target").explain((torch.tensor([[30, 8, 9]]), torch.tensor([[3, 1, 5, 6]])), 1)
    assert result.tokens.tolist() == [[3, 1, 5, 6]]
    assert GradientXInput(nn.Linear(3, 2)).explain(torch.rand(1, 3), 0).tokens is None
