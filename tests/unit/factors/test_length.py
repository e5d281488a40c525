"""The length of texts exchanged: against texts written out by hand, and models whose reliance on it is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.factors import DataFacts, Length
from xaikit.mitigation import Counterexamples
from xaikit.shortcuts import scan

PAD, BEGIN, END = 0, 1, 2
FACTS = {"padding": PAD, "special": (BEGIN, END)}


def exchanged(x, donor):
    tokens = torch.tensor([x, donor])
    return Length().exchange(tokens[:1], tokens[1:], facts=DataFacts.of(tokens, **FACTS))[0].tolist()


@pytest.mark.parametrize(
    ("x", "donor", "expected"),
    [
        ([5, 6, 7, 8, 0, 0], [9, 9, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0]),
        ([5, 6, 0, 0, 0, 0], [9, 9, 9, 9, 9, 0], [5, 6, 5, 6, 5, 0]),
        ([0, 0, 5, 6, 7, 8], [0, 0, 0, 0, 9, 9], [0, 0, 0, 0, 5, 6]),  # filled up in front
        ([1, 5, 6, 7, 2, 0], [1, 9, 2, 0, 0, 0], [1, 5, 2, 0, 0, 0]),
        ([1, 5, 2, 0, 0, 0], [1, 9, 9, 9, 9, 2], [1, 5, 5, 5, 5, 2]),
        ([0, 0, 1, 5, 6, 2], [0, 1, 9, 9, 9, 2], [0, 1, 5, 6, 5, 2]),
        ([5, 6, 7, 8, 5, 6], [9, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]),
        ([1, 5, 2, 0, 0, 0], [9, 9, 9, 9, 9, 9], [1, 5, 5, 5, 5, 2]),  # no more than there is room for
        ([5, 6, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0]),  # no text lends no length
        ([0, 0, 0, 0, 0, 0], [9, 9, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_text_gets_the_length_of_another(x, donor, expected):
    assert exchanged(x, donor) == expected


def test_what_stands_beside_the_tokens_goes_along():
    tokens = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 5, 6, 7, 8, 2]])
    inputs = {
        "input_ids": tokens,
        "attention_mask": (tokens != PAD).long(),
        "token_type_ids": torch.tensor([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]),
        "position_ids": torch.arange(6).expand(2, 6),
    }
    donors = {name: value.flip(0) for name, value in inputs.items()}
    changed = Length().exchange(inputs, donors, facts=DataFacts.of(tokens, **FACTS))
    assert changed["input_ids"].tolist() == [[1, 5, 6, 5, 6, 2], [1, 5, 6, 2, 0, 0]]
    assert torch.equal(changed["attention_mask"], (changed["input_ids"] != PAD).long())
    assert changed["token_type_ids"].tolist() == [[0, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    assert torch.equal(changed["position_ids"], inputs["position_ids"])


class ByLength(nn.Module):
    """Answers by the length of a text, or by whether it has the word 7."""

    def __init__(self, by_length: float):
        super().__init__()
        self.by_length = nn.Parameter(torch.tensor(by_length))

    def forward(self, tokens):
        long = ((tokens != PAD).sum(1) > 7).float()
        has_word = (tokens == 7).any(1).float()
        score = self.by_length * long + (1 - self.by_length) * has_word - 0.5
        return torch.stack([-score, score], 1)


def texts(n=200):
    """The word 7 tells the class, always as the first one; and the long texts are of class 1."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    length = 4 + torch.randint(3, (n,), generator=generator) + 5 * y
    tokens = torch.randint(10, 20, (n, 12), generator=generator) * (torch.arange(12) < length[:, None])
    tokens[y == 1, 0] = 7
    return tokens, y


def test_a_scan_says_whether_predictions_follow_the_length():
    fooled, honest = (scan(ByLength(share), texts(), progress=False) for share in (1.0, 0.0))
    assert fooled.effects[0].title == "length"
    assert fooled["length"].nature == "content"  # what is cut off takes its words along
    assert fooled["length"].follows.mean == 1
    assert honest.suspects == ()
    assert honest["length"].changed.mean == 0


def test_texts_without_padding_have_no_length():
    tokens, y = torch.randint(1, 9, (40, 6), generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    assert "length" not in [e.title for e in scan(ByLength(1.0), (tokens, y), progress=False).effects]
    with pytest.raises(InvalidInputError, match="needs the token that fills them up"):
        Length().exchange(tokens, tokens.flip(0))


def test_counterexamples_of_the_length():
    tokens, y = texts(16)
    seen = []
    model = nn.Sequential(nn.Embedding(20, 2), nn.Flatten(), nn.Linear(24, 2))
    handle = model.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    Counterexamples(fill="length", facts={"padding": PAD}).loss(model, (tokens, y), seed=0)
    handle.remove()
    before, after = ((t != PAD).sum(1) for t in seen)
    assert sorted(after.tolist()) == sorted(before.tolist())
    assert not torch.equal(before, after)
