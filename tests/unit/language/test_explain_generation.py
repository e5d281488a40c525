"""explain_generation: every row as by a call of its own, all forms of prompt and answer, wrong calls."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.language import small_models
from xaikit import AttnLRP, GradientXInput, IntegratedGradients, Position
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.language import AnswerScore, Generation, explain_generation
from xaikit.metrics.cost import peak_memory

PROMPT, ANSWER = [5, 60, 7, 80, 9], [17, 23, 301, 4]
TEXT = "The capital of France is"


def by_autograd(model: nn.Module, scored) -> torch.Tensor:
    """Gradient times input of each score, over inputs_embeds, by plain torch: (scores, tokens)."""
    ids = torch.tensor([PROMPT + ANSWER])
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits[0, len(PROMPT) - 1 : -1]
    rows = [torch.autograd.grad(s, embedded, retain_graph=True)[0] * embedded for s in scored(logits)]
    return torch.stack(rows)[:, 0].sum(-1).detach()


@pytest.mark.parametrize("make", [small_models.llama, small_models.gpt2])
def test_rows_are_those_of_plain_autograd(make):
    model = make()
    result = explain_generation(GradientXInput(model), None, PROMPT, generated=ANSWER)
    expected = by_autograd(model, lambda logits: [logits[i, token] for i, token in enumerate(ANSWER)])
    assert result.values.shape == (4, 9)
    assert torch.allclose(result.values, expected, rtol=0, atol=1e-12)
    assert not result.values.triu(len(PROMPT)).any()


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("log_probability", lambda z, i: z[i].log_softmax(0)[ANSWER[i]]),
        ("probability", lambda z, i: z[i].softmax(0)[ANSWER[i]]),
        ("entropy", lambda z, i: torch.distributions.Categorical(logits=z[i]).entropy()),
        (AnswerScore(against=33), lambda z, i: z[i, ANSWER[i]] - z[i, 33]),
        (AnswerScore("log_probability", against=[1, 2, 3, 4]), lambda z, i: z[i, ANSWER[i]] - z[i, i + 1]),
    ],
    ids=["log", "probability", "entropy", "against", "against each"],
)
def test_scores_are_their_formulas(kind, formula):
    model = small_models.llama()
    result = explain_generation(GradientXInput(model), None, PROMPT, generated=ANSWER, target=kind)
    expected = by_autograd(model, lambda logits: [formula(logits, i) for i in range(4)])
    assert torch.allclose(result.values, expected, rtol=0, atol=1e-12)
    logits = model(torch.tensor([PROMPT + ANSWER])).logits[0, len(PROMPT) - 1 :]
    assert torch.allclose(result.scores, torch.stack([formula(logits, i) for i in range(4)]).detach())


def test_the_whole_answer_is_the_sum_of_its_rows():
    model = small_models.gpt2()
    rows = explain_generation(GradientXInput(model), None, PROMPT, generated=ANSWER, target="log_probability")
    score = AnswerScore("log_probability", whole_answer=True)
    whole = explain_generation(GradientXInput(model), None, PROMPT, generated=ANSWER, target=score)
    assert whole.values.shape == (1, 9)
    assert torch.allclose(whole.values[0], rows.values.sum(0), rtol=0, atol=1e-12)
    assert float(whole.scores) == pytest.approx(float(rows.scores.sum()))


@pytest.mark.parametrize("make", [small_models.llama, small_models.mamba])
@pytest.mark.filterwarnings("ignore:.*misses the explained score")  # of so few steps
@pytest.mark.parametrize("spec", ["attn_lrp", "integrated_gradients:n_steps=3", "captum.feature_ablation"])
def test_rows_are_those_of_a_call_for_each_token(make, spec):
    model = make()
    explainer = EXPLAINERS.create(spec).bind(model)
    result = explain_generation(explainer, None, PROMPT, generated=ANSWER)
    layer = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    for i, token in enumerate(ANSWER):
        ids = torch.tensor([PROMPT + ANSWER[:i]])  # the text as it was when the token was generated
        alone = explainer.set_kwargs(layer=layer).attribute({"input_ids": ids}, Position(-1, token))[0].sum(1)
        assert torch.allclose(result.values[i, : ids.shape[1]], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [small_models.bart, small_models.t5])
def test_encoder_and_decoder(make):
    model = make()
    start = model.config.decoder_start_token_id
    result = explain_generation(AttnLRP(model), None, PROMPT, generated=ANSWER)
    layers = [n for n, m in model.named_modules() if n.endswith("embed_tokens")]
    assert result.n_prompt == len(PROMPT) + 1
    assert result.kinds[len(PROMPT)] == "special"
    for i, token in enumerate(ANSWER):
        inputs = {"input_ids": torch.tensor([PROMPT]), "decoder_input_ids": torch.tensor([[start, *ANSWER[:i]]])}
        parts = AttnLRP(model, layer=layers).attribute(inputs, Position(-1, token))
        alone = torch.cat([part[0].sum(1) for part in parts])
        assert torch.allclose(result.values[i, : len(alone)], alone, rtol=0, atol=1e-9)
        assert not result.values[i, len(alone) :].any()


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_answer():
    explainer, answer, peaks = AttnLRP(small_models.llama()), list(range(100, 116)), []
    every = explain_generation(explainer, None, list(range(40)), generated=answer)
    for whole in (False, True):
        score = AnswerScore(whole_answer=whole)
        run = lambda score=score: explain_generation(explainer, None, list(range(40)), generated=answer, target=score)  # noqa: E731
        peaks.append(peak_memory(run))
    assert peaks[0] < 1.3 * peaks[1]
    fewer = explain_generation(explainer, None, list(range(40)), generated=answer, scores_per_pass=5)
    assert torch.allclose(every.values, fewer.values, rtol=0, atol=1e-12)


def test_books_add_up():
    result = explain_generation(AttnLRP(small_models.llama()), None, PROMPT, generated=ANSWER)
    assert torch.allclose(result.values.sum(1) + result.residual, result.scores)
    assert result.absorbed + sum(result.lost.values()) == pytest.approx(float(result.residual.sum()))
    assert explain_generation(GradientXInput(small_models.llama()), None, PROMPT, generated=ANSWER).gap is None


def test_a_generated_answer_is_that_of_generate():
    model, tokenizer = small_models.llama(), small_models.byte_level()
    ids = tokenizer(TEXT, return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=5, do_sample=False)[0].tolist()
    model.train()
    result = explain_generation(GradientXInput(model), tokenizer, TEXT, generation={"max_new_tokens": 5})
    assert model.training
    assert result.ids.tolist() == expected
    assert result.generation == {"max_new_tokens": 5}
    assert result.prompt == TEXT


@pytest.mark.parametrize("form", [lambda c: c, lambda c: {"generation_config": c}], ids=["alone", "in a dict"])
def test_a_config_of_transformers_says_how_to_generate(form, tmp_path):
    from transformers import GenerationConfig

    explainer, config = GradientXInput(small_models.llama()), GenerationConfig(max_new_tokens=3, num_beams=2)
    result = explain_generation(explainer, None, PROMPT, generation=form(config))
    assert result == explain_generation(explainer, None, PROMPT, generation={"max_new_tokens": 3, "num_beams": 2})
    assert result.generation == {"max_new_tokens": 3, "num_beams": 2}
    result.save(tmp_path / "answer.npz")
    assert Generation.load(tmp_path / "answer.npz") == result


def test_a_sampled_answer_follows_the_seed_and_is_kept():
    model, sampling = small_models.gpt2(), {"do_sample": True, "max_new_tokens": 8}
    explainer = GradientXInput(model)
    state = torch.get_rng_state()
    first, again, other = (
        explain_generation(explainer, None, PROMPT, generation=sampling, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_what_each_prompt_gives_alone(side):
    model, tokenizer = small_models.llama(), small_models.byte_level()
    texts, answers = [TEXT, "What is the capital? You are"], [" Rome.", " Paris"]
    tokenizer.padding_side = side
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert not batch["attention_mask"].all()
    explainer = AttnLRP(model)
    padded = explain_generation(explainer, tokenizer, batch, generated=answers)
    listed = explain_generation(explainer, tokenizer, texts, generated=answers)
    for result, other, text, answer in zip(padded, listed, texts, answers, strict=True):
        alone = explain_generation(explainer, tokenizer, text, generated=answer)
        assert torch.equal(result.values, alone.values)
        assert torch.equal(other.values, alone.values)
        assert result.tokens == alone.tokens
        assert result.prompt == alone.prompt == text


@pytest.mark.parametrize("form", [list, torch.tensor, np.array, lambda ids: {"input_ids": [ids]}])
def test_forms_of_ids(form):
    model = small_models.gpt2()
    plain = explain_generation(GradientXInput(model), None, PROMPT, generated=ANSWER)
    result = explain_generation(GradientXInput(model), None, form(PROMPT), generated=torch.tensor([ANSWER]))
    assert torch.equal(result.values, plain.values)
    assert result.tokens[0] == "5"


def test_messages_by_the_chat_template():
    model, tokenizer = small_models.llama(), small_models.byte_level()
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    result = explain_generation(GradientXInput(model), tokenizer, messages, generated="Rome")
    assert result.prompt == text
    assert result.answer == "Rome"
    system = "".join(t for t, kind in zip(result.tokens, result.kinds, strict=True) if kind == "system")
    assert system == messages[0]["content"]


def test_texts_of_tokens_join_to_prompt_and_answer():
    tokenizer = small_models.byte_level()
    answer = " Rome. Naïve café"
    result = explain_generation(GradientXInput(small_models.llama()), tokenizer, TEXT, generated=answer)
    assert result.answer == answer
    assert "".join((result.prompt + result.answer)[a:b] for a, b in result.spans) == TEXT + answer
    assert result.tokens[:2] == ["The", " capital"]


def test_special_tokens_are_told_apart():
    model, tokenizer = small_models.llama(), small_models.word_pieces()
    result = explain_generation(GradientXInput(model), tokenizer, "the capital of france is", generated=[9, 10, 3])
    assert result.tokens == ["[CLS]", "the", " capital", " of", " france", " is", "[SEP]", "par", "is", "[SEP]"]
    assert result.kinds == ["special", *["prompt"] * 5, "special", "answer", "answer", "special"]


def test_a_layer_of_the_user(tmp_path):
    model = small_models.llama()
    result = explain_generation(GradientXInput(model, layer="model.layers.1.input"), None, PROMPT, generated=ANSWER)
    assert result.values.shape == (4, 9)
    assert result.spec["settings"]["layer"] == "model.layers.1.input"


WRONG = {
    "empty": ({"prompt": ""}, "the prompt is empty"),
    "empty ids": ({"prompt": []}, "the prompt is empty"),
    "no text": ({"prompt": 3}, "prompt must be text, messages, token ids or a batch"),
    "text without tokenizer": ({"prompt": "a", "tokenizer": None}, "needs a tokenizer"),
    "too long": ({"prompt": list(range(70))}, "reads up to 64 tokens, and the prompt has 70"),
    "empty answer": ({"generated": []}, "the answer is empty"),
    "joined": ({"prompt": "The cap", "generated": "ital"}, "joins the end of the prompt and the beginning"),
    "both": ({"generation": {}}, "generated=, or generated by the model"),
    "batch": ({"prompt": ["a", "b"], "generated": ["c"]}, "a batch of 2 prompts needs 2 answers in a list, got 1"),
    "ids of the answer": ({"generated": [5, 900]}, "token 900 has no embedding in a model of 340 tokens"),
    "negative ids": ({"generated": [-100, 5]}, "token -100 has no embedding"),
    "settings": ({"generated": None, "generation": 5}, "a dict, or a GenerationConfig, got a int"),
    "ids": ({"prompt": [5, 900]}, "token 900 has no embedding in a model of 340 tokens"),
    "score": ({"target": "logits"}, "a score is one of logit"),
    "no score": ({"target": 3}, "target must be one of logit"),
    "contrast": ({"target": AnswerScore(against=[1, 2])}, "has 2 tokens and the answer 1"),
    "layer": ({"layer": "lm_head"}, "must return a vector for each of the"),
    "mask": ({"prompt": {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}}, "has gaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_end_in_a_sentence(case):
    arguments, message = WRONG[case]
    options = {"tokenizer": small_models.byte_level(), "prompt": TEXT, "generated": [4], **arguments}
    explainer = GradientXInput(small_models.gpt2(), layer=options.pop("layer", None))
    with pytest.raises((InvalidInputError, InvalidTypeError), match=message):
        explain_generation(explainer, options.pop("tokenizer"), options.pop("prompt"), **options)


def test_models_that_do_not_fit():
    tokenizer = small_models.byte_level()
    small = small_models.llama(vocab_size=40)
    with pytest.raises(InvalidInputError, match="the tokenizer knows 330 tokens and the model embeds 40"):
        explain_generation(GradientXInput(small), tokenizer, TEXT, generated=[4])
    with pytest.raises(InvalidTypeError, match="has no generate"):
        explain_generation(GradientXInput(nn.Embedding(340, 3)), tokenizer, TEXT)
    with pytest.raises(UnboundError, match="has no model"):
        explain_generation(IntegratedGradients(), tokenizer, TEXT)


class OwnLookup(nn.Module):
    """A model that looks its tokens up by hand."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Parameter(torch.randn(20, 4)), nn.Linear(4, 4), nn.Linear(4, 20)

    def forward(self, input_ids):
        return self.head(self.mix(self.table[input_ids]).cumsum(1))


def test_a_model_without_embeddings_names_the_remedy():
    torch.manual_seed(0)
    with pytest.raises(InvalidInputError, match="looks its tokens up in no layer .* layer= of the explainer"):
        explain_generation(GradientXInput(OwnLookup()), None, [1, 2], generated=[3])
    result = explain_generation(GradientXInput(OwnLookup(), layer="mix"), None, [1, 2], generated=[3, 4])
    assert result.values.shape == (2, 4)


def test_a_model_that_sees_later_tokens_is_refused():
    config = small_models.transformers.BertConfig(vocab_size=40, **small_models.SIZE)
    both_ways = small_models.transformers.BertLMHeadModel(config).eval()
    with pytest.raises(InvalidInputError, match="the BertLMHeadModel sees the tokens after the one that it predicts"):
        explain_generation(GradientXInput(both_ways), None, [1, 2], generated=[3, 4])
    config.is_decoder = True
    causal = small_models.transformers.BertLMHeadModel(config).eval()
    assert explain_generation(GradientXInput(causal), None, [1, 2], generated=[3, 4]).values.shape == (2, 4)


def test_scores_that_are_nan_are_told():
    model = small_models.llama()
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.warns(UserWarning, match=r"generated tokens .* are NaN or infinite; so are the model's scores"):
        explain_generation(GradientXInput(broken), None, [1, 2], generated=[3, 7])


def test_the_result_is_a_table_and_a_text():
    result = explain_generation(
        GradientXInput(small_models.llama()), small_models.byte_level(), TEXT, generated=" Rome"
    )
    frame = result.to_pandas()
    assert list(frame.columns) == result.tokens
    assert frame.iloc[1, 2] == pytest.approx(float(result.values[1, 2]))
    assert torch.equal(result.row(result.generated[0]), result.values[0])
    values = dict(result.top(3, 1))
    assert max(values.values()) == float(result.values[1].max())
    assert "answer 'Rome'" in repr(result)
    with pytest.raises(InvalidInputError, match="was generated 0 times"):
        result.row("Paris")
    assert isinstance(result, Generation)
