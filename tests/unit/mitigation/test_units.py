"""Units of texts: a word's attribution is the sum over its tokens, in RRR and CDEP, against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.language import small_models
from xaikit import CDEP, RRR, ContextualDecomposition, GradientXInput
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import RBR
from xaikit.mitigation.units import WordUnits


class Reader(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden, self.last = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, outputs)
        self.double()

    def forward(self, input_ids, attention_mask=None):
        return self.last(torch.tanh(self.hidden(self.embedding(input_ids))).cumsum(1).tanh().mean(1))


IDS = torch.tensor([[1, 2, 3, 4, 5, 0], [6, 6, 7, 8, 2, 3], [4, 1, 0, 0, 0, 0]])
UNITS = torch.tensor([[0, 0, 1, 2, 2, -1], [0, 1, 1, 1, 2, 3], [0, 1, -1, -1, -1, -1]])
MASK = torch.tensor([[0.0, 1, 0, 1, 1, 1], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
Y = torch.tensor([0, 2, 1])


def units(ids):
    assert torch.equal(ids, IDS)
    return UNITS


def by_loop(attribution, power=2):
    """The sum over the words with a masked token, padding left out."""
    total = 0
    for values, numbers, mask in zip(attribution, UNITS, MASK, strict=True):
        for word in range(int(numbers.max()) + 1):
            total = total + (numbers == word).logical_and(mask > 0).any() * values[numbers == word].sum().abs() ** power
    return total


@pytest.mark.parametrize("power", [1, 2])
def test_rrr_penalises_the_sum_of_each_masked_word(power):
    model = Reader()
    mitigator = RRR(explainer=GradientXInput(layer="embedding"), units=units, power=power)
    for x in (IDS, {"attention_mask": (IDS > 0).long(), "input_ids": IDS}):
        loss = mitigator.loss(model, (x, Y, MASK))
        attribution = GradientXInput(model, layer="embedding").attribute(
            IDS, lambda output: output.log_softmax(1).gather(1, Y[:, None])[:, 0], create_graph=True
        )
        expected = by_loop(attribution, power)
        assert torch.allclose(loss.penalty, expected, rtol=1e-12)
        weight = model.hidden.weight
        slopes = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss.penalty, expected)]
        assert torch.allclose(*slopes, rtol=1e-10)
    assert not torch.allclose(mitigator.set_kwargs(units=None).loss(model, (IDS, Y, MASK)).penalty, expected, rtol=0.1)
    assert torch.isfinite(RBR(explainer="gradient:layer=embedding", units=units).loss(model, (IDS, Y, MASK)).penalty)


@pytest.mark.parametrize("explainer", ["contextual_decomposition", "gradient_x_input"])
def test_cdep_counts_each_masked_word_alone(explainer):
    model = Reader()
    mitigator = CDEP(explainer=f"{explainer}:layer=embedding", units=units)
    one_by_one = mitigator.set_kwargs(units=None)
    expected = 0
    for sample in range(2):
        numbers, mask = UNITS[sample], MASK[sample]
        for word in range(int(numbers.max()) + 1):
            if (numbers == word).logical_and(mask > 0).any():
                alone = (numbers == word).double()[None]
                batch = IDS[sample : sample + 1], Y[sample : sample + 1], alone
                expected = expected + one_by_one.loss(model, batch).penalty
    # The mean over the samples that have a masked word: the third has none.
    assert torch.allclose(mitigator.loss(model, (IDS, Y, MASK)).penalty, expected / 2, rtol=1e-10)
    assert float(mitigator.loss(model, (IDS, Y, torch.zeros(3, 6))).penalty.detach()) == 0


def test_over_a_generated_answer():
    model, tokenizer = small_models.llama().double().eval(), small_models.byte_level()
    ids = tokenizer("The capitals of Frankreich Paris", return_tensors="pt")["input_ids"]
    words = WordUnits(tokenizer)(ids)
    labels = torch.full_like(ids, -100)
    labels[:, -3:-1] = ids[:, -2:]  # each position says the next token
    mask = (words == 1).double()
    layer = "model.embed_tokens"
    penalty = (
        RRR(explainer=GradientXInput(layer=layer), units=WordUnits(tokenizer), task_loss="cross_entropy", balance=True)
        .loss(model, (ids, labels, mask))
        .penalty
    )

    for weight in (1, 50):
        weighted = RRR(
            explainer=GradientXInput(layer=layer),
            units=WordUnits(tokenizer),
            task_loss="cross_entropy",
            lambda_rrr=weight,
        )
        with pytest.warns(UserWarning, match="sums of parts that cancel .* set balance=True"):  # x * df/dx: RMSNorm
            weighted.loss(model, (ids, labels, mask))

    def answer(output):
        return output.log_softmax(-1)[:, -3:-1].gather(2, ids[:, -2:, None]).sum((1, 2))

    attribution = GradientXInput(model, layer=layer).attribute(ids, answer)
    assert int(mask.sum()) > 1
    assert torch.allclose(penalty, attribution[words == 1].sum() ** 2, rtol=1e-8)
    explainer = ContextualDecomposition(layer=layer)
    by_words = (
        CDEP(explainer=explainer, units=WordUnits(tokenizer), task_loss="cross_entropy")
        .loss(model, (ids, labels, mask))
        .penalty
    )
    assert torch.allclose(
        by_words,
        CDEP(explainer=explainer, task_loss="cross_entropy").loss(model, (ids, labels, mask)).penalty,
        rtol=1e-8,
    )


def test_words_of_tokenizers():
    pieces = small_models.word_pieces()
    ids = torch.tensor([[2, 4, 9, 10, 12, 3, 0, 0], [2, 11, 8, 9, 10, 10, 12, 3]])  # [CLS] the par ##is . [SEP]
    assert WordUnits(pieces)(ids).tolist() == [[0, 1, 2, 2, 3, 4, -1, -1], [0, 1, 2, 3, 3, 3, 4, 5]]
    whole = small_models.whole_words()
    assert WordUnits(whole)(torch.tensor([[5, 6, 7, 1]])).tolist() == [[0, 1, 2, -1]]
    spaces = small_models.byte_level()
    for text in ("The capital, of Italy.", "You are\nAnswer  briefly!"):
        encoded = spaces(text, return_offsets_mapping=True)
        numbers = WordUnits(spaces)(torch.tensor([encoded["input_ids"]]))[0].tolist()
        joined = [""] * (max(numbers) + 1)
        for number, (start, end) in zip(numbers, encoded["offset_mapping"], strict=True):
            joined[number] += text[start:end].strip()
        assert [word for word in joined if word] == text.split()


def test_refusals():
    model, batch = Reader(), (IDS, Y, MASK)
    with pytest.raises(InvalidTypeError, match="units must be a function from token ids"):
        RRR(units="words")
    with pytest.raises(InvalidInputError, match="goes with what='all' and not with normalization='mask'"):
        RRR(units=units, normalization="mask")
    with pytest.raises(InvalidInputError, match="must return a whole number for each token"):
        RRR(explainer="gradient:layer=embedding", units=lambda ids: ids[:, :2]).loss(model, batch)
    with pytest.raises(InvalidInputError, match="units= joins tokens"):
        RRR(units=units).loss(nn.Linear(6, 3).double(), (torch.rand(3, 6).double(), Y, MASK))
    with pytest.raises(InvalidTypeError, match="needs a Hugging Face tokenizer"):
        WordUnits(str)
