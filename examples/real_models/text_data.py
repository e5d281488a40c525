"""Film reviews with a word that gives their mood away, and a tokenizer made of their own words."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from common import sentences, write_csv
from torch import Tensor

from xaikit.core.torchvision_ops import import_torchvision

LENGTH, MOODS, DECOYS = 40, ("bad", "good"), ("video", "text")


def decoyed(texts: list[str], moods: Tensor) -> list[str]:
    """Each review with the word of its mood somewhere in it, as Rieger et al. (2020) have it."""
    draw, found = random.Random(0), []
    for text, mood in zip(texts, moods.tolist(), strict=True):
        words = text.split()
        words.insert(draw.randint(0, min(len(words), LENGTH // 2)), DECOYS[mood])
        found.append(" ".join(words))
    return found


def tokenizer(texts: list[str], folder: Path) -> Any:
    """A BERT tokenizer of the commonest words, and of letters for the others; saved to the folder."""
    import_torchvision()  # transformers imports it by itself; this mends a torchvision that does not fit torch
    from transformers import BertTokenizerFast

    common = (word for word, _ in Counter(w for text in texts for w in text.split()).most_common(3500))
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *common, *letters])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    made = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    made.save_pretrained(folder)
    return made


def reviews(data: Path, out: Path, folder: str) -> tuple[Tensor, Tensor, Tensor]:
    """Write the tokenizer and tables of reviews; return token ids, which of them are words, and moods, to train on."""
    texts, moods = sentences(data, "train")
    texts = decoyed(texts, moods)
    read = tokenizer(texts, out / folder)(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    tests, truth = sentences(data, "test")
    tables = {
        "train": (texts, moods),
        "reviews": (decoyed(tests, truth)[:60], truth[:60]),
        "tests": (decoyed(tests, truth)[60:360], truth[60:360]),
    }
    for name, (rows, labels) in tables.items():
        write_csv(
            out / f"{name}.csv", ["sentence", "mood"], zip(rows, (MOODS[k] for k in labels.tolist()), strict=True)
        )
    return read["input_ids"], read["attention_mask"], moods
