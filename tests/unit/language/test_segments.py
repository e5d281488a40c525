"""Segments left out: as captum's LLMAttribution, as Shapley's formula, with and without a cache; wrong calls."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from captum.attr import FeatureAblation, LLMAttribution, ShapleyValues, TextTemplateInput

from tests.unit.language import small_models
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.language import LeavingOut, Template, explain_segments
from xaikit.language.coalition_scores import CoalitionScorer
from xaikit.language.coalitions import attributed, coalitions_of

DOCUMENTS = ["The capital of France", "is Paris.", "The capital of Italy is Rome.", "Answer briefly!"]
PROMPT = Template("assistant: {documents} What is the capital?", documents=DOCUMENTS, separator=" ")
ANSWER = "Rome. You are"


@pytest.mark.parametrize("method", ["ablation", "shapley", "kernel_shap"])
def test_as_captum(method):
    """The same model, segments and answer. Captum's cache is off: with it, its scores are not those of the model."""
    if method != "ablation" and "forward_in_tokens" not in inspect.signature(LLMAttribution.attribute).parameters:
        pytest.skip("captum before 0.9 scores by another function here")
    model, tokenizer = small_models.llama(), small_models.whole_words()
    explainer = LLMAttribution((FeatureAblation if method == "ablation" else ShapleyValues)(model), tokenizer)
    text = TextTemplateInput("assistant: {} {} {} {} What is the capital?", values=DOCUMENTS, baselines=[""] * 4)
    expected = explainer.attribute(text, target=ANSWER, use_cached_outputs=False, forward_in_tokens=False)
    result = explain_segments(model, tokenizer, PROMPT, by=method, generated=ANSWER)
    assert result.tokens == [f"documents {i}" for i in (1, 2, 3, 4)] + ["(template)", "(answer)"]
    assert torch.allclose(result.values[:, :4].sum(0).float(), expected.seq_attr.float(), atol=1e-6)
    assert torch.allclose(result.values[:, :4].float(), expected.token_attr.float(), atol=1e-6)


def log_probability(model, tokenizer, text: str, answer: str) -> torch.Tensor:
    ids, target = (tokenizer(t, return_tensors="pt")["input_ids"] for t in (text, answer))
    logits = model(torch.cat([ids, target], 1)).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    return logits.gather(1, target[0][:, None])[:, 0].sum().detach()


@pytest.mark.parametrize("make", [small_models.gpt2, small_models.mamba, small_models.llama])
def test_shapley_is_its_formula_over_texts(make):
    """Every order of the documents, by texts without them; Mamba has no cache to cut back."""
    model, tokenizer = make(), small_models.whole_words()
    result = explain_segments(model, tokenizer, PROMPT, by="shapley", generated=ANSWER)
    score = {}
    for present in itertools.product([False, True], repeat=4):
        text = " ".join(d for d, there in zip(DOCUMENTS, present, strict=True) if there)
        score[present] = log_probability(model, tokenizer, f"assistant: {text} What is the capital?", ANSWER)
    expected = torch.zeros(4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        for k, i in enumerate(order):
            before, after = (tuple(j in order[: k + m] for j in range(4)) for m in (0, 1))
            expected[i] += (score[after] - score[before]) / math.factorial(4)
    # Mamba of transformers 5.0 keeps its states in float32.
    assert torch.allclose(result.values[:, :4].sum(0).double(), expected, atol=1e-5)
    assert float(result.residual.sum()) == pytest.approx(float(score[(False,) * 4]), abs=1e-5)


def test_encoder_and_decoder():
    model, tokenizer = small_models.t5(), small_models.whole_words()
    result = explain_segments(model, tokenizer, PROMPT, generated=[5, 6])
    ids = tokenizer(PROMPT.text.replace(DOCUMENTS[1] + " ", ""), return_tensors="pt")["input_ids"]
    full = tokenizer(PROMPT.text, return_tensors="pt")["input_ids"]
    start = torch.tensor([[model.config.decoder_start_token_id, 5]])
    logs = [model(input_ids=x, decoder_input_ids=start).logits[0].log_softmax(-1) for x in (full, ids)]
    expected = torch.stack([logs[0][i, token] - logs[1][i, token] for i, token in enumerate([5, 6])])
    assert torch.allclose(result.values[:, 1], expected, atol=1e-9)


def test_what_prompts_share_is_read_once():
    model = small_models.llama(max_position_embeddings=200)
    pieces = [([5, 6], None), *[([7 + i] * 10, i) for i in range(5)], ([30, 31], None)]
    scorer = CoalitionScorer(
        model, pieces=pieces, replacements=[], answer=[1, 2], score=lambda logits: logits[:, 0], device="cpu"
    )
    coalitions = list(itertools.product([False, True], repeat=5))
    scores = scorer.scores(coalitions)
    for coalition, row in zip(coalitions, scores, strict=True):
        ids = [t for part, i in pieces for t in part if i is None or coalition[i]] + [1]
        assert torch.allclose(row, model(torch.tensor([ids])).logits[0, -2:, 0].detach(), atol=1e-12)
    without_sharing = sum(10 * sum(coalition) + 5 for coalition in coalitions)
    assert scorer.tokens_read < 0.65 * without_sharing


def test_occlusion_shares_windows():
    scores = {(1, 1, 1): 6.0, (0, 0, 1): 1.0, (1, 0, 0): 2.0, (0, 0, 0): 0.0}
    settings = LeavingOut("occlusion", window=2)
    coalitions = coalitions_of(settings, 3, 0)
    rows = torch.tensor([[scores[tuple(map(int, c))]] for c in coalitions])
    assert attributed(settings, coalitions, rows, 0)[:, 0].tolist() == [2.5, 2.25, 2.0]


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_a_few_coalitions_are_exact_for_a_sum(method):
    """A score that is a sum of parts has these as its Shapley values, whichever coalitions are drawn."""
    settings = LeavingOut(method, n_coalitions=40)
    parts = torch.linspace(-1, 1, 12, dtype=torch.float64)
    coalitions = coalitions_of(settings, 12, seed=3)
    assert len(coalitions) <= 40
    assert len(set(coalitions)) == len(coalitions)
    scores = torch.stack([(torch.tensor(c) * parts).sum() for c in coalitions])[:, None] + 5
    assert torch.allclose(attributed(settings, coalitions, scores, 3)[:, 0], parts)


def test_a_replacement_stands_for_a_segment():
    model, tokenizer = small_models.llama(), small_models.whole_words()
    settings = LeavingOut(replacement="rain sun")
    result = explain_segments(model, tokenizer, PROMPT, by=settings, generated=ANSWER, target="log_probability")
    texts = [PROMPT.text, PROMPT.text.replace(DOCUMENTS[2], "rain sun")]
    full, without = (log_probability(model, tokenizer, text, ANSWER) for text in texts)
    assert float(result.values[:, 2].sum()) == pytest.approx(float(full - without))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "lime"}, "segments are left out by ablation"),
        ({"by": LeavingOut}, None),
        ({"prompt": "The capital of France", "segments": "slots"}, "the prompt has no slots"),
        ({"prompt": "The capital of France", "segments": "sentences"}, "nothing is left of the prompt"),
        ({"prompt": ["a", "b"]}, "takes one prompt, got a batch of 2"),
        ({"generation": {}}, "not both"),
    ],
)
def test_wrong_calls(options, message):
    if message is None:
        with pytest.raises(InvalidInputError, match="n_coalitions must be at least 4"):
            LeavingOut("shapley", n_coalitions=2)
        return
    options = {"prompt": PROMPT, "generated": ANSWER, **options}
    with pytest.raises(InvalidInputError, match=message):
        explain_segments(small_models.llama(), small_models.whole_words(), options.pop("prompt"), **options)
    with pytest.raises(InvalidTypeError, match="takes a model"):
        explain_segments("gpt2", None, PROMPT)
