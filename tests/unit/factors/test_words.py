"""Words exchanged between texts: against texts written out by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import mutual_info_score

from xaikit.core import FACTORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.factors import DataFacts, Words
from xaikit.factors.facts import padding_of
from xaikit.factors.word_kinds import telling_tokens

VOCABULARY = ["[PAD]", "[CLS]", "good", "bad", "film", "text", "video", "a", "the", "##ly", "Ġtext"]
FACTS = {"vocabulary": VOCABULARY, "padding": 0, "special": (1,)}


def ids(*texts):
    width = max(len(text.split()) for text in texts)
    return torch.tensor(
        [[VOCABULARY.index(w) for w in text.split()] + [0] * (width - len(text.split())) for text in texts]
    )


def text_of(row):
    return " ".join(VOCABULARY[i] for i in row.tolist()).replace(" [PAD]", "")


def exchanged(factor, x, donor):
    tokens = ids(x, donor)
    facts = DataFacts.of(tokens, **FACTS)
    return text_of(factor.exchange(tokens[:1], tokens[1:], facts=facts)[0])


DECOY = Words(names=["text", "video"])


@pytest.mark.parametrize(
    ("x", "donor", "expected"),
    [
        ("good text film", "bad video", "good video film"),
        ("text good text film", "bad video", "video good video film"),
        ("good text film", "video bad text a", "good video film"),
        (
            "[CLS] good text film",
            "[CLS] a bad the",
            "[CLS] good bad film",
        ),  # the donor has none: its word in that place
        ("[CLS] good a film", "[CLS] video bad", "[CLS] video a film"),  # only the donor has one
        ("good a film", "the bad a bad video", "good a video"),
        ("good film", "bad film a", "good film"),
        ("good", "bad text film", "text"),
        ("Ġtext film", "bad video", "video film"),  # what a tokenizer writes before a word is no part of it
    ],
)
def test_words_are_exchanged(x, donor, expected):
    assert exchanged(DECOY, x, donor) == expected


def test_tokens_by_id_need_no_vocabulary():
    x, donors = ids("good text film", "a the"), ids("bad video a", "the film")
    facts = DataFacts.of(torch.cat([x, torch.cat([donors, donors[:, :0]], 1)]), padding=0)
    changed = Words(ids=[5, 6]).exchange(x, donors[:, :3], facts=facts)
    assert text_of(changed[0]) == "good video film"
    assert text_of(changed[1]) == "a the"


def test_a_batch_of_texts_equals_the_texts_one_by_one():
    generator = torch.Generator().manual_seed(0)
    x, donors = torch.randint(1, 9, (2, 40, 7), generator=generator)
    for tokens in (x, donors):
        length = torch.randint(1, 8, (40, 1), generator=generator)
        tokens[torch.arange(7) >= length] = 0
    facts = DataFacts.of(x, **FACTS)
    together = DECOY.exchange(x, donors, facts=facts)
    for i in range(40):
        assert torch.equal(DECOY.exchange(x[i : i + 1], donors[i : i + 1], facts=facts)[0], together[i])
    assert torch.equal(together == 0, x == 0)


def test_the_padding_is_read_off_the_texts():
    assert padding_of(ids("good film", "a", "the bad film")) == 0
    assert padding_of(ids("good film", "a", "the bad film").flip(1)) == 0
    assert padding_of(torch.tensor([[3, 4], [4, 4], [4, 3]])) is None
    assert padding_of(torch.randint(1, 9, (20, 7), generator=torch.Generator().manual_seed(0))) is None


def test_words_that_cannot_be():
    with pytest.raises(UnknownNameError, match="did you mean 'video'"):
        exchanged(Words(names=["vidoe"]), "good", "bad")
    with pytest.raises(InvalidInputError, match="needs the vocabulary"):
        DECOY.exchange(ids("good"), ids("bad"))
    with pytest.raises(InvalidInputError, match="needs some words"):
        Words()
    with pytest.raises(InvalidTypeError, match="must be names"):
        Words(names=[3])
    with pytest.raises(InvalidTypeError, match="a vocabulary is"):
        DataFacts.of(ids("good"), vocabulary=3)
    with pytest.raises(InvalidTypeError, match="did you mean 'vocabulary'"):
        DataFacts.of(ids("good"), vocab=VOCABULARY)


def test_specs():
    assert FACTORS.create("words:names=[text, video]") == DECOY
    assert FACTORS.create("words:names=text") == Words(names=["text"])
    assert FACTORS.create("words:ids=[5,6],nature=nuisance").nature == "nuisance"
    assert DataFacts.of(ids("good"), vocabulary={"good": 2}).vocabulary == {2: "good"}


def test_kinds_of_words_and_ends():
    assert exchanged(FACTORS.create("word_kind"), "good a film", "the bad the") == "good the film"
    assert exchanged(FACTORS.create("word_kind:kind=articles"), "good a film", "bad the text") == "good the film"
    assert exchanged(FACTORS.create("tokens"), "[CLS] good a film", "[CLS] bad text") == "[CLS] bad a film"
    assert exchanged(FACTORS.create("tokens:where=last,count=2"), "a good film", "the bad text") == "a bad text"
    facts = DataFacts.of(ids("good film"), **FACTS)
    assert not FACTORS.create("word_kind:kind=punctuation").applies(ids("good film"), facts)
    with pytest.raises(InvalidInputError, match="stop words are told from other words by the vocabulary"):
        FACTORS.create("word_kind").exchange(ids("good"), ids("bad"))


def test_the_telling_words_by_mutual_information():
    texts = ["good text film", "bad text film", "good video film", "bad video a"] * 5
    labels = torch.tensor([1, 1, 0, 0] * 5)
    x = ids(*texts)
    facts = DataFacts.of(x, **FACTS)
    members = FACTORS.create("telling_words:count=4").members(x, labels, facts)
    titles = [m.title for m in members]
    assert set(titles[:3]) == {"words text, video", "word text", "word video"}
    tokens, information = telling_tokens(x, labels, facts)
    for token, value in zip(tokens, information, strict=True):
        assert value == pytest.approx(mutual_info_score((x == token).any(1).numpy(), labels.numpy()), abs=1e-9)
