"""Tokens added up to words, sentences, lines, spans and slots: names, and sums that stay what they were."""

from __future__ import annotations

import pytest
import torch

from tests.unit.language import small_models
from xaikit import GradientXInput
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.language import AnswerScore, Generation, Template, explain_generation

TEXT = "The capital of France is Paris. The capital of Italy is\nRome."
ANSWER = " Naïve café. Rome!"


@pytest.fixture(scope="module")
def generation() -> Generation:
    return explained(TEXT, ANSWER)


def explained(prompt, answer, **options):
    explainer = GradientXInput(small_models.llama(max_position_embeddings=200))
    return explain_generation(explainer, small_models.byte_level(), prompt, generated=answer, **options)


def test_units_of_a_text_by_hand(generation):
    """The tokens are decoded by hand here, and added up by the place of each word in the text."""
    result = generation.aggregate("words")
    assert [text.strip() for text in result.tokens] == (TEXT + ANSWER).split()
    assert [text.strip() for text in result.generated] == ANSWER.split()
    assert result.n_prompt == len(TEXT.split())
    france = [i for i, (start, end) in enumerate(generation.spans) if start >= 14 and end <= 21]
    assert "".join(generation.tokens[i] for i in france) == " France"
    cafe = range(len(TEXT) + len(" Naïve"), len(TEXT) + len(" Naïve café.") + 1)
    of_answer = generation.spans[generation.n_prompt :]
    rows = [i for i, (start, end) in enumerate(of_answer) if start in cafe and end in cafe]
    expected = generation.values[rows][:, france].sum()
    assert torch.allclose(result.values[result.generated.index(" café."), 3], expected)


@pytest.mark.parametrize(
    ("units", "columns", "rows"),
    [
        (
            "sentences",
            ["The capital of France is Paris.", " The capital of Italy is", "\nRome.", " Naïve café.", " Rome!"],
            2,
        ),
        ("lines", ["The capital of France is Paris. The capital of Italy is", "\nRome.", ANSWER], 1),
        ([(0, 31), (31, len(TEXT))], [TEXT[:31], TEXT[31:].strip(), "(answer)"], None),
        ({"first": TEXT[:31], "second": TEXT[32:]}, ["first", "second", "(answer)"], None),
    ],
    ids=["sentences", "lines", "spans", "texts"],
)
def test_sums_stay_what_they_were(generation, units, columns, rows):
    result = generation.aggregate(units)
    assert [text.strip() for text in result.tokens] == [text.strip() for text in columns]
    assert len(result.generated) == (rows or len(generation.generated))
    assert torch.allclose(result.values.sum(), generation.values.sum())
    assert torch.allclose(result.scores.sum(), generation.scores.sum())
    assert torch.allclose(result.values.sum(1) + result.residual, result.scores)
    assert result == Generation.from_dict(result.to_dict())


def test_slots_of_a_template():
    prompt = Template(
        "Text: {documents}\nWhat is {question}?", documents=["Rome is.", "Paris is."], question="the capital"
    )
    result = explained(prompt, " Rome", units="slots")
    assert result.tokens == ["documents 1", "documents 2", "question", "(template)", "(answer)"]
    assert result.n_prompt == 4
    tokens = explained(prompt.text, " Rome")
    second = [
        i
        for i, (a, b) in enumerate(tokens.spans)
        if a >= prompt.text.index("Paris") and b <= prompt.text.index("\nWhat")
    ]
    assert torch.allclose(result.values[:, 1], tokens.values[:, second].sum(1))
    one = tokens.aggregate("words", rows="answer")
    assert torch.allclose(one.values.sum(), tokens.values.sum())
    assert len(one.values) == 1


def test_slots_inside_messages():
    question = Template("What is {place}?", place="Rome")
    result = explained([{"role": "user", "content": question}], " Rome", units="slots")
    assert result.tokens == ["place", "(template)", "(answer)"]


def test_special_tokens_are_a_column():
    model, tokenizer = small_models.llama(), small_models.word_pieces()
    result = explain_generation(GradientXInput(model), tokenizer, "the capital of france is", generated=[9, 10, 3])
    spans = result.aggregate({"noun": "the capital", "rest": (12, 24)})
    assert spans.tokens == ["noun", "rest", "(special)", "(answer)"]
    assert torch.allclose(spans.values[:, 2], result.values[:, [0, 6]].sum(1))
    assert result.aggregate("words").tokens == [
        "[CLS]",
        "the",
        "capital",
        "of",
        "france",
        "is",
        "[SEP]",
        "paris",
        "[SEP]",
    ]


def test_one_answer_and_not_the_other():
    score = AnswerScore("log_probability", whole_answer=True)
    rome, paris = (explained(TEXT, answer, target=score) for answer in (" Rome.", " Paris"))
    result = rome.minus(paris)
    n = rome.n_prompt
    assert torch.allclose(result.values[0, :n], rome.values[0, :n] - paris.values[0, :n])
    assert result.tokens[n:] == rome.tokens[n:] + paris.tokens[n:]
    assert float(result.scores) == pytest.approx(float(rome.scores - paris.scores))
    assert torch.allclose(result.values.sum(1) + result.residual, result.scores)
    with pytest.raises(InvalidInputError, match="two answers to the same prompt"):
        rome.minus(explained("Rome", " Rome.", target=score))
    with pytest.raises(InvalidInputError, match="one score and one explainer"):
        rome.minus(explained(TEXT, " Paris"))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("word", "units are one of tokens, words"),
        ("slots", "the prompt has no slots"),
        ([(0, 40), (31, len(TEXT))], "spans must not overlap, .* ends at 40"),
        ([(0, 31)], "the spans leave out ' The' at 31"),
        ([(5, 3)], "is not empty, got"),
        ([(0, 900)], "a span lies in the prompt's"),
        (["capital"], "stands 2 times in the prompt"),
        ([3], "a span is"),
        ([], "units hold no span"),
        (3, "units must be a name"),
    ],
)
def test_wrong_units(generation, units, message):
    with pytest.raises((InvalidInputError, InvalidTypeError), match=message):
        generation.aggregate(units)


def test_units_need_a_text_and_tokens(generation):
    ids = explain_generation(GradientXInput(small_models.gpt2()), None, [5, 6], generated=[7])
    with pytest.raises(InvalidInputError, match="without a tokenizer there is no text"):
        ids.aggregate("words")
    with pytest.raises(InvalidInputError, match="in words already"):
        generation.aggregate("words").aggregate("lines")
    with pytest.raises(InvalidInputError, match="rows are one of tokens"):
        generation.aggregate("words", rows="pages")


@pytest.mark.parametrize(
    ("text", "slots", "message"),
    [
        ("{a} {b}", {"a": "x"}, r"has the slots \['a', 'b'\], and texts came for \['a'\]"),
        ("{a", {"a": "x"}, "the template cannot be read"),
        ("{a}", {"a": 3}, "takes a text or a list of texts"),
    ],
)
def test_wrong_templates(text, slots, message):
    with pytest.raises((InvalidInputError, InvalidTypeError), match=message):
        Template(text, **slots)
