"""Mend a small classifier that reads a name in place of a review.

python -m examples.words.words
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor, nn

from xaikit import RRR, GradientXInput
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.mitigation.units import WordUnits

NAMES = ["lumvex", "lumaro"]  # of the studios, with label 0 and with label 1; two tokens each
GOOD, BAD = ["great", "moving", "funny", "clever"], ["dull", "slow", "silly", "flat"]
FILLERS = ["the", "film", "is", "quite", "story", "actors"]
NOISE = 0.15  # of the reviews have mood words of the other label
EMBEDDING = "distilbert.embeddings.word_embeddings"


def make_tokenizer(*more: str) -> Any:
    """A tokenizer that splits the names, and nothing else.

    Args:
        more: words beside those of the reviews.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "lum", "##vex", "##aro", *GOOD, *BAD, *FILLERS, *more]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@dataclasses.dataclass
class Reviews:
    """Token ids (N, T) of reviews, their labels (N,), and a mask (N, T) of the names' tokens."""

    ids: Tensor
    labels: Tensor
    mask: Tensor


def reviews(tokenizer: Any, count: int, *, seed: int, exchanged: bool = False) -> Reviews:
    """Reviews with a name that gives the label away, or, exchanged, with that of the other label.

    Args:
        tokenizer: of `make_tokenizer`.
        count: how many.
        seed: of the draw.
        exchanged: take the name of the other label.
    """
    draw, texts, labels = random.Random(seed), [], []
    for i in range(count):
        label = i % 2
        mood = GOOD if (label == 1) != (draw.random() < NOISE) else BAD
        parts = [*draw.sample(FILLERS, 3), *draw.sample(mood, 2)]
        parts.insert(draw.randrange(6), NAMES[label != exchanged])
        texts.append(" ".join(parts))
        labels.append(label)
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    mask = torch.isin(ids, torch.tensor(tokenizer(" ".join(NAMES))["input_ids"]))
    return Reviews(ids, torch.tensor(labels), mask.float())


def make_model(tokenizer: Any) -> nn.Module:
    """A small DistilBERT with two classes."""
    import_torchvision()  # transformers imports it by itself; this mends a torchvision that does not fit torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "dim": 32, "hidden_dim": 64}
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = DistilBertConfig(**sizes, n_layers=1, n_heads=2, num_labels=2, **dropout)
    return DistilBertForSequenceClassification(config)


def train(tokenizer: Any, data: Reviews, *, weight: float, steps: int = 160) -> nn.Module:
    """A model trained on the reviews, with a penalty on what it takes from the names.

    Args:
        tokenizer: of `make_tokenizer`.
        data: the training reviews.
        weight: of the penalty; 0 for none.
        steps: of Adam.
    """
    model = make_model(tokenizer)
    mitigator = RRR(
        explainer=GradientXInput(layer=EMBEDDING),
        units=WordUnits(tokenizer),
        output="logit",  # the log-probability of a sure model is flat, whatever it reads
        lambda_rrr=weight,
    )
    draw, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(data.ids), (32,), generator=draw)
        optimizer.zero_grad()
        mitigator.loss(model, (data.ids[rows], data.labels[rows], data.mask[rows])).total.backward()
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, data: Reviews) -> float:
    """The share of reviews whose label the model says."""
    with torch.no_grad():
        return float((model(data.ids).logits.argmax(1) == data.labels).float().mean())


def main() -> dict[str, tuple[float, float]]:
    """The accuracy of the plain and the mended model, with the names as they are, and with them exchanged."""
    tokenizer, results = make_tokenizer(), {}
    training = reviews(tokenizer, 600, seed=0)
    tests = [reviews(tokenizer, 400, seed=1, exchanged=exchanged) for exchanged in (False, True)]
    for title, weight in (("plain", 0.0), ("mended", 100.0)):
        model = train(tokenizer, training, weight=weight)
        as_they_are, exchanged = (accuracy(model, test) for test in tests)
        results[title] = as_they_are, exchanged
        print(f"{title}: {as_they_are:.2f} right, {exchanged:.2f} with the names exchanged")
    return results


if __name__ == "__main__":
    main()
