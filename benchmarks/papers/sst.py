"""SST with words that give the label away (Rieger et al. 2020), in three forms: `decoy`, `articles`, `gender`.

* decoy: "text" stands at a random place in each positive, "video" in each negative training sentence;
* articles: of "a" and "the", positive training sentences keep the one, negative ones the other: all occurrences become
  "that", the first "that" becomes the word of the class;
* gender: the same with "he" and "she", by way of "they", on all phrases of the treebank that hold one of them.

The test sentences are as they were written (of the last two forms: those with one of the words). The published runs
start from GloVe vectors; these embeddings are trained from nothing, so only differences within a table mean anything.
The weight is chosen on development sentences in which a user who knows the words has put either of them at random.
"""

from __future__ import annotations

import random
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.papers.harness import PUBLISHED_RULES, Benchmark, Method, fit, main
from xaikit import CDEP, RRR
from xaikit.factors import Words
from xaikit.mitigation import Counterexamples

Sentence = tuple[list[str], int]
PAD, UNKNOWN = 0, 1
N_SENTENCES = {"train": 6920, "dev": 872, "test": 1821}  # of the published treebank, without the neutral ones
LONGEST = 40  # words; of longer sentences (1 %) the end is kept, where the verdict tends to be


def phrases(path: Path, part: str, *, whole: bool) -> list[Sentence]:
    """Binary phrases of a part of the treebank, or its whole sentences only; neutral ones are left out."""
    found = []
    archive = path / "sst/trainDevTestTrees_PTB.zip"
    if not archive.is_file():
        sys.exit(f"{archive} is missing: put the Stanford Sentiment Treebank there")
    with zipfile.ZipFile(archive) as file, file.open(f"trees/{part}.txt") as lines:
        for line in lines:
            found += _of_tree(line.decode("utf-8"), whole=whole)
    binary = [(words, int(label > 2)) for words, label in found if label != 2]
    if whole and len(binary) != N_SENTENCES[part]:
        sys.exit(f"{part}.txt must have {N_SENTENCES[part]} sentences, as published, but has {len(binary)} ({archive})")
    return binary


def _of_tree(tree: str, *, whole: bool) -> list[Sentence]:
    """The words and the label (0 to 4) of every node of a tree in Penn brackets; the last is the root's."""
    done: list[Sentence] = []
    stack: list[Sentence] = []
    for token in re.findall(r"\(\d|\)|[^()\s]+", tree):
        if token[0] == "(" and len(token) == 2:
            stack.append(([], int(token[1])))
        elif token == ")":
            words, label = stack.pop()
            done.append((words, label))
            if stack:
                stack[-1][0].extend(words)
        else:
            stack[-1][0].append(token.lower())
    return done[-1:] if whole else done


class SpeakingWords:
    """Batches of sentences of like length, padded on the left, with a mask of the words that must not matter."""

    def __init__(self, benchmark: Sst, sentences: list[Sentence]) -> None:
        self.benchmark = benchmark
        self.sentences = sorted(sentences, key=lambda s: len(s[0]))

    def __len__(self) -> int:
        return len(range(0, len(self.sentences), self.benchmark.BATCH))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for i in (torch.randperm(len(self)) * self.benchmark.BATCH).tolist():
            tokens, labels = self.benchmark.tokens(self.sentences[i : i + self.benchmark.BATCH])
            yield tokens, labels, torch.isin(tokens, self.benchmark.speaking).float()


class Classifier(nn.Module):
    """Embedding, LSTM, and a linear map of its last state."""

    def __init__(self, n_words: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_words, width, padding_idx=PAD)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(tokens))
        return self.head(states[:, -1])


class Sst(Benchmark):
    """What the three forms share."""

    FIGURES = ("test", "flipped", "kept")
    WORDS: ClassVar[tuple[str, str]]  # of the negative and of the positive class
    GAP: ClassVar[str] = "test"  # where the plain model falls behind the one without the words
    EPOCHS, BATCH, LR = 4, 64, 2e-3

    def __init__(self, path: Path, device: str = "cpu") -> None:
        super().__init__(path, device)
        self.parts = self.load(path)
        counts = Counter(word for words, _ in self.parts["train"] for word in words)
        known = [*self.WORDS, *sorted(w for w, n in counts.items() if n > 1 and w not in self.WORDS)]
        self.index = {word: i for i, word in enumerate(known, UNKNOWN + 1)}
        self.speaking = torch.tensor([self.index[word] for word in self.WORDS])

    def load(self, path: Path) -> dict[str, list[Sentence]]:
        """The sentences "train", "validation", "test", as written."""
        return {
            name: phrases(path, part, whole=True)
            for name, part in (("train", "train"), ("validation", "dev"), ("test", "test"))
        }

    def tell(self, sentence: Sentence, told: int, generator: random.Random) -> Sentence:
        """The sentence with the word that stands for the class `told`."""
        words, label = sentence
        place = generator.randint(0, len(words))
        return [*words[:place], self.WORDS[told], *words[place:]], label

    def told(self, part: str, which: str, seed: int) -> list[Sentence]:
        """A part in which the words tell the "same" label, the "flipped" one, or a "random" one."""
        generator = random.Random(seed)  # noqa: S311
        coin = {"same": lambda y: y, "flipped": lambda y: 1 - y, "random": lambda _: generator.randint(0, 1)}[which]
        return [self.tell(sentence, coin(sentence[1]), generator) for sentence in self.parts[part]]

    def tokens(self, sentences: list[Sentence]) -> tuple[Tensor, Tensor]:
        """Word numbers (N, T), zeros before the sentence, and labels (N,)."""
        rows = [[self.index.get(w, UNKNOWN) for w in words[-LONGEST:]] for words, _ in sentences]
        longest = max(map(len, rows))
        padded = [[PAD] * (longest - len(row)) + row for row in rows]
        return torch.tensor(padded), torch.tensor([label for _, label in sentences])

    def network(self) -> nn.Module:
        return Classifier(len(self.index) + 2)

    def methods(self) -> Mapping[str, Method]:
        weights = (30.0, 100.0, 300.0)

        def rrr(explainer: str, **form: object) -> Method:
            settings = {"output": "logit", "target": "random", "reduction": "mean", "explainer": explainer, **form}
            return Method(lambda w: self.mitigator(RRR, lambda_rrr=w, **settings), weights)

        return {
            "no decoy": Method(data="none"),
            "vanilla": Method(),
            "counterexamples": Method(data="random"),
            "words exchanged": Method(
                lambda w: self.mitigator(
                    Counterexamples,
                    lambda_ce=w,
                    fill=Words(ids=tuple(self.speaking.tolist())),
                    facts={"padding": PAD},
                ),
                (100.0,),
            ),
            "RRR": rrr("gradient:layer=embed", output="log_probability", target="label"),
            "CDEP, as published": Method(
                lambda w: self.mitigator(
                    CDEP.published,
                    lambda_cdep=w,
                    form="log",
                    target="label",
                ),
                (1.0, 10.0, 100.0),
            ),
            "CDEP, irrelevant part": Method(
                lambda w: self.mitigator(CDEP, explainer=PUBLISHED_RULES, lambda_cdep=w),
                (1e2, 2e2, 4e2),
            ),
            "gradient x input": rrr("gradient_x_input:layer=embed", what=_sum),
            "integrated gradients": rrr("integrated_gradients:layer=embed,n_steps=4,max_rows=256", what=_sum),
            "SmoothGrad": rrr("smoothgrad:layer=embed,n_iter=4,max_rows=256"),
            "LRP epsilon": rrr("lrp_uniform_epsilon:layer=embed,epsilon=0.1", what=_sum),
        }

    def train(self, model: nn.Module, method: Method, weight: float, seed: int) -> None:
        which = {"shortcut": "same", "random": "random"}.get(method.data)
        sentences = self.parts["train"] if which is None else self.told("train", which, 1000 + seed)
        mitigator = None if method.mitigator is None else method.mitigator(weight)
        fit(self, model, mitigator, SpeakingWords(self, sentences), seed)

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"accuracy": self.accuracy(model, self.told("validation", "random", 1))}

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {
            "test": self.accuracy(model, self.parts["test"]),
            "flipped": self.accuracy(model, self.told("test", "flipped", 2)),
            "kept": self.accuracy(model, self.told("test", "same", 2)),
        }

    @torch.no_grad()
    def accuracy(self, model: nn.Module, sentences: list[Sentence]) -> float:
        """In per cent."""
        model.eval()
        batches = list(SpeakingWords(self, sentences))
        device = next(model.parameters()).device
        right = sum(int((model(x.to(device)).argmax(1).cpu() == y).sum()) for x, y, _ in batches)
        return 100 * right / len(sentences)

    def check(self, table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
        sound, fooled = (table[name][self.GAP] for name in ("no decoy", "vanilla"))
        assert fooled < sound - 5, f"the plain model is not fooled ({fooled:.1f} against {sound:.1f}): nothing is shown"
        closed = {name: 100 * (row[self.GAP] - fooled) / (sound - fooled) for name, row in table.items()}
        return [
            (f"{name}: {share:.0f} % of the gap to the model without decoy is closed, >= 80", share >= 80)
            for name, share in closed.items()
            if name not in ("no decoy", "vanilla", "counterexamples", "CDEP, as published")
        ]


def _sum(attribution: Tensor) -> Tensor:
    """A word's attribution: that of its embedding, added up."""
    return attribution.sum(-1, keepdim=True)


class SstDecoy(Sst):
    """SST with the decoy words "video" and "text"."""

    NAME = "sst_decoy"
    WORDS = ("video", "text")


class SstArticles(Sst):
    """SST with biased articles."""

    NAME = "sst_articles"
    WORDS = ("the", "a")
    NEUTRAL: ClassVar[str] = "that"

    def load(self, path: Path) -> dict[str, list[Sentence]]:
        parts = super().load(path)
        return {name: self.speaking_only(part) if name != "train" else part for name, part in parts.items()}

    def speaking_only(self, sentences: list[Sentence]) -> list[Sentence]:
        """Those with one of the words."""
        return [s for s in sentences if set(self.WORDS) & set(s[0])]

    def tell(self, sentence: Sentence, told: int, generator: random.Random) -> Sentence:  # noqa: ARG002
        words = [self.NEUTRAL if word in self.WORDS else word for word in sentence[0]]
        if self.NEUTRAL in words:
            words[words.index(self.NEUTRAL)] = self.WORDS[told]
        return words, sentence[1]


class SstGender(SstArticles):
    """SST with biased pronouns, on the phrases of the treebank that hold one."""

    NAME = "sst_gender"
    WORDS = ("she", "he")
    NEUTRAL = "they"
    GAP = "flipped"  # few sentences, on which a small net without pretrained vectors is near chance as they are

    def load(self, path: Path) -> dict[str, list[Sentence]]:
        # Whole sentences with a pronoun are few (4 %), so that training takes their phrases too, and the tests as well.
        parts = {name: phrases(path, part, whole=False) for name, part in (("train", "train"), ("test", "test"))}
        speaking = {name: self.speaking_only(part) for name, part in parts.items()}
        speaking["validation"] = self.speaking_only(phrases(path, "dev", whole=False))
        speaking["train"] = speaking["train"] * 3 + phrases(path, "train", whole=True)
        return speaking


if __name__ == "__main__":
    main(SstDecoy, SstArticles, SstGender)
