"""Replaced tokens against the published update, each generated token by passes of its own context."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.unit.language import small_models
from xaikit.core.errors import InvalidInputError
from xaikit.language import Replacing, explain_replacements

PROMPT, ANSWER = [5, 60, 7, 80, 9], [17, 23, 301]


@pytest.fixture(scope="module")
def model():
    net = small_models.llama()
    for parameter in net.parameters():
        parameter.data.mul_(4)  # so that probabilities differ
    return net


def test_the_published_update(model):
    """No teacher forcing here: one pass for each generated token and changed context."""
    drawn = []

    def propose(ids, is_replaced, generator):
        proposed = torch.randint(0, 340, is_replaced.shape, generator=generator)
        drawn.append((is_replaced.clone(), proposed))
        return proposed

    settings = Replacing(propose, n_iter=20, share=0.4)
    result = explain_replacements(model, None, PROMPT, by=settings, generated=ANSWER, seed=3)
    masks, proposals = (torch.cat(tensors) for tensors in zip(*drawn, strict=True))
    assert masks.shape == (20, 7)
    assert masks.sum(1).tolist() == [3] * 20
    expected, values = np.zeros((3, 7)), np.zeros((3, 8))
    for row, token in enumerate(ANSWER):
        context = [*PROMPT, *ANSWER[:row]]

        def probability(ids, token=token):
            with torch.no_grad():
                return float(model(torch.tensor([ids])).logits[0, -1].softmax(0)[token])

        plain = probability(context)
        assert result.scores[row] == pytest.approx(plain, rel=1e-5)
        for mask, proposed in zip(masks.tolist(), proposals.tolist(), strict=True):
            changed = [proposed[i] if mask[i] else kept for i, kept in enumerate(context)]
            share = (plain - probability(changed) + 1) / 2
            update = math.log(share / (1 - share))
            for i in range(len(context)):
                expected[row, i] += (update if mask[i] else -update) / 20
        shares = np.exp(expected[row, : len(context)])
        values[row, : len(context)] = shares / shares.sum()
    assert np.abs(expected).max() > 1e-5
    assert np.allclose(result.values, values, rtol=0, atol=1e-7)


@pytest.mark.parametrize("source", ["model", "vocabulary"])
def test_a_seed_repeats_and_special_tokens_stay(model, source):
    tokenizer = small_models.byte_level()
    ids = [*tokenizer("The capital of France is")["input_ids"], tokenizer.pad_token_id]
    results = [
        explain_replacements(model, tokenizer, ids, by=Replacing(source, n_iter=8), generated=ANSWER, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0].values, results[1].values)
    assert not torch.equal(results[0].values, results[2].values)
    special = results[0].kinds.index("special")
    assert not results[0].values[:, special].any()
    assert not results[0].values.triu(len(ids)).any()
    assert results[0].aggregate("words").values.shape[0] >= 1


class Copying(torch.nn.Module):
    """Predicts the second token of a text, at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(12) * 3)

    def forward(self, input_ids: torch.Tensor) -> object:
        logits = self.weight[input_ids[:, 1:2]].expand(-1, input_ids.shape[1], -1)
        return type("Output", (), {"logits": logits})()


@pytest.mark.parametrize("source", ["model", "vocabulary"])
def test_the_token_that_decides_comes_first(source):
    result = explain_replacements(Copying(), None, [4, 7, 5, 6, 8], by=source, generated=[7])
    assert int(result.values[0].argmax()) == 1


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (small_models.bart, {}, "reads an encoder and a decoder"),
        (small_models.gpt2, {"by": "modell"}, "proposals come from model or vocabulary, or a function, got 'modell'"),
        (small_models.gpt2, {"prompt": [[1, 2], [3]]}, "takes one prompt"),
    ],
)
def test_wrong_calls(make, options, message):
    options = {"prompt": PROMPT, "generated": ANSWER, **options}
    with pytest.raises(InvalidInputError, match=message):
        explain_replacements(make(), None, options.pop("prompt"), **options)


@pytest.mark.parametrize(
    ("settings", "message"), [({"share": 1.0}, "share must be"), ({"n_iter": 0}, "n_iter must be")]
)
def test_wrong_settings(settings, message):
    with pytest.raises(InvalidInputError, match=message):
        Replacing(**settings)


def test_a_batch_of_one_and_what_proposals_may_be(model):
    """A tokenizer returns (1, T); a function of the user's returns ids of the vocabulary."""
    options = {"generated": ANSWER, "by": Replacing("vocabulary", n_iter=3)}
    alone = explain_replacements(model, None, PROMPT, **options)
    assert torch.equal(explain_replacements(model, None, torch.tensor([PROMPT]), **options).values, alone.values)
    with pytest.raises(InvalidInputError, match="one prompt, got a batch of 2"):
        explain_replacements(model, None, torch.tensor([PROMPT, PROMPT]), **options)
    for proposals, sentence in (
        (lambda ids, *_: ids, r"must return ids of shape \(3, 7\)"),
        (lambda _, flags, __: flags * 10**6, "must be ids from 0 to"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            explain_replacements(model, None, PROMPT, generated=ANSWER, by=Replacing(proposals, n_iter=3))


def test_a_bar_counts_the_texts(model, capsys):
    options = {"by": Replacing("vocabulary", n_iter=18), "generated": ANSWER}
    explain_replacements(model, None, PROMPT, **options)
    assert "18/18" in capsys.readouterr().err
    explain_replacements(model, None, PROMPT, **options, progress=False)
    assert not capsys.readouterr().err
