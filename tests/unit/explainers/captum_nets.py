"""Nets on which captum's classes run through the bridge and directly, and twins of them that captum itself can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()
        self.second, self.last = nn.Conv2d(4, 3, 3, padding=1), nn.ReLU()
        self.pool, self.out = nn.AvgPool2d(2), nn.Linear(12, 4)

    def forward(self, x):
        return self.out(self.pool(self.last(self.second(self.act(self.first(x))))).flatten(1))


class Two(nn.Module):
    """Two explained inputs, and an argument that goes along."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act, self.mid = nn.Linear(4, 5), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6)
        self.last, self.out = nn.Tanh(), nn.Linear(6, 3)

    def forward(self, a, b, scale):
        return self.out(self.last(self.mid(self.act(self.a(a) + self.b(b))))) * scale[:, None]


class TwoImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.last = (
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Linear(48, 3)

    def forward(self, x, y):
        return self.out((self.act(self.a(x)) * self.last(self.b(y))).flatten(1))


class Tokens(nn.Module):
    """Ids and their mask."""

    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.act, self.out = (
            nn.Embedding(11, 4),
            nn.Linear(4, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        )

    def forward(self, ids, mask):
        mask = mask[..., None].double()
        return self.out((self.act(self.inner(self.embedding(ids))) * mask).sum(1) / mask.sum(1))


class Recurrent(nn.Module):
    """A layer that returns a tuple; in the twin its first tensor also passes a module that returns it alone."""

    def __init__(self, of_ids: bool, twin: bool):
        super().__init__()
        self.pre = nn.Embedding(9, 4) if of_ids else nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.rnn, self.act, self.out = nn.LSTM(4, 5, batch_first=True), nn.Tanh(), nn.Linear(5, 3)
        self.tap = nn.Identity() if twin else None

    def forward(self, x):
        hidden, _ = self.rnn(self.pre(x))
        hidden = hidden if self.tap is None else self.tap(hidden)
        return self.out(self.act(hidden).mean(1))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.out = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.act(self.b(self.act(self.a(x)))))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.act, self.out = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x, y):
        return self.out(self.act(self.encoder(x)) * self.act(self.encoder(y)))


class Functional(nn.Module):
    """ReLUs as functions; as modules in the twin."""

    def __init__(self, twin: bool):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.one, self.two = (nn.ReLU(), nn.ReLU()) if twin else (F.relu, torch.relu)

    def forward(self, x):
        return self.out(self.two(self.b(self.one(self.a(x)))))


class InPlace(nn.Module):
    """What follows the layer works in place; not in the twin."""

    def __init__(self, twin: bool):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.act, self.out, self.twin = nn.ReLU(inplace=not twin), nn.Linear(32, 3), twin

    def forward(self, x):
        hidden = self.norm(self.conv(x))
        if self.twin:
            hidden = hidden + x
        else:
            hidden += x
        return self.out(self.act(hidden).flatten(1))


class Deep(nn.Module):
    """A layer that returns tensors inside tuples and a dict."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        return (self.one(x), {"more": self.two(x)}), None


class Nested(nn.Module):
    """Its layer and the model itself return nested outputs; the twin returns tensors."""

    def __init__(self, twin: bool):
        super().__init__()
        self.first, self.deep, self.act, self.out = nn.Linear(4, 5), Deep(), nn.Tanh(), nn.Linear(5, 3)
        self.tap, self.twin = nn.Dropout(0.0), twin  # captum's LRP knows no Identity

    def forward(self, x):
        (one, others), _ = self.deep(self.first(x))
        one = self.tap(one)
        logits = self.out(self.act(one) + others["more"])
        return logits if self.twin else {"states": (one, others), "logits": logits}


class Whole(nn.Module):
    """Whole numbers that are no ids: it computes with them."""

    def __init__(self):
        super().__init__()
        self.inner, self.act, self.out = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.act(self.inner(x.double() / 10)))


class Single(nn.Module):
    """One output for each sample."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.out = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)

    def forward(self, x):
        return self.out(self.act(self.a(x)))[:, 0]


@dataclasses.dataclass(frozen=True)
class Case:
    """A net, what it is called with, and where captum's classes for layers and neurons look."""

    net: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    target: Tensor | None
    layer: str
    neuron: tuple[int, ...]
    extras: tuple[Tensor, ...] = ()
    groups: tuple[Tensor, ...] | None = None
    twin: Callable[[], nn.Module] | None = None
    twin_layer: str | None = None

    def model(self, *, for_captum: bool) -> nn.Module:
        torch.manual_seed(1)
        return (self.twin or self.net if for_captum else self.net)().double().eval()


THREE, IDS = torch.tensor([0, 2, 1]), torch.tensor([[1, 4, 7, 2, 10], [3, 3, 9, 0, 5]])
MASK, SCALE = torch.tensor([[1, 1, 1, 1, 0], [1] * 5]), torch.tensor([1.0, 2.0, 0.5]).double()
PAIR = (randn(3, 4), randn(3, 3, seed=1))
QUICK = {
    "image": Case(Image, (randn(3, 2, 4, 4),), torch.tensor([0, 2, 3]), "second", (1, 2, 2)),
    "two inputs": Case(Two, PAIR, THREE, "mid", (2,), (SCALE,)),
    "shared groups": Case(Two, PAIR, THREE, "mid", (2,), (SCALE,),
                          (torch.tensor([0, 0, 1, 2]), torch.tensor([2, 1, 3]))),
    "ids": Case(Tokens, (IDS,), THREE[:2], "embedding", (2, 1), (MASK,)),
    "a tuple": Case(lambda: Recurrent(False, False), (randn(2, 4, 3),), THREE[:2], "rnn", (2, 1),
                    twin=lambda: Recurrent(False, True), twin_layer="tap"),
    "siamese": Case(Siamese, (randn(3, 4), randn(3, 4, seed=3)), THREE, "encoder", (2,)),
    "in place": Case(lambda: InPlace(False), (randn(2, 2, 4, 4),), THREE[:2], "norm", (1, 2, 2),
                     twin=lambda: InPlace(True)),
}  # fmt: skip
MORE = {
    "groups": Case(Two, PAIR, THREE, "mid", (2,), (SCALE,), (torch.tensor([0, 0, 1, 2]), torch.tensor([3, 4, 4]))),
    "two images": Case(TwoImages, (randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=2)), THREE[:2], "a", (1, 0, 2)),
    "behind ids": Case(Tokens, (IDS,), THREE[:2], "inner", (2, 1), (MASK,)),
    "a tuple of ids": Case(lambda: Recurrent(True, False), (IDS[:, :4].clamp(max=8),), THREE[:2], "rnn", (2, 1),
                           twin=lambda: Recurrent(True, True), twin_layer="tap"),
    "reused": Case(Reused, (randn(3, 4),), THREE, "b", (2,)),
    "a reused layer": Case(Reused, (randn(3, 4),), THREE, "act", (2,)),
    "functions": Case(lambda: Functional(False), (randn(3, 4),), THREE, "b", (2,), twin=lambda: Functional(True)),
    "nested": Case(lambda: Nested(False), (randn(3, 4),), THREE, "deep", (2,), twin=lambda: Nested(True),
                   twin_layer="tap"),
    "numbers like ids": Case(Whole, (IDS,), THREE[:2], "inner", (2,)),
    "one output": Case(Single, (randn(3, 5),), None, "a", (3,)),
}  # fmt: skip
