"""Models for two threads: with state of every kind, of modules that a private copy cannot redirect, of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Stateful(nn.Module):
    """Writes into buffers, attributes and activations; BatchNorm, dropout, a residual in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=0.0), nn.ReLU(True)
        self.inner, self.drop, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5), nn.Linear(64, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("largest", torch.zeros(4))
        self.seen: list[int] = []
        self.by_size: dict[int, int] = {}
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.by_size[len(x)] = self.by_size.get(len(x), 0) + 1
        h = self.relu(self.norm(self.conv(x)))
        self.largest = torch.maximum(self.largest, h.detach().amax((0, 2, 3)))
        self.last = self.inner(h)
        out = self.last.clone()
        out += h
        out.relu_()
        return self.head(self.drop(out.flatten(1)))


class Deployed(Stateful):
    """The same in evaluation mode, so that what a loss runs in the model's own mode draws nothing."""


class Closed(nn.Module):
    """Its forward pass is a closure over its modules, so that it runs itself."""

    def __init__(self) -> None:
        super().__init__()
        conv, norm, head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.0), nn.Linear(16, 3)
        self.conv, self.norm, self.relu, self.head = conv, norm, nn.ReLU(), head
        self.drop = nn.Dropout(0.5)
        relu, drop = self.relu, self.drop
        self.run = lambda x: head(drop(relu(norm(conv(x))).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Tokens(nn.Module):
    """An embedding, attention and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.mix = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.rnn, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.mix(self.embedding(ids)))[0][:, -1])


def make(kind: Callable[[], nn.Module]) -> nn.Module:
    """The model of a kind, always the same, in training mode but for those that are deployed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().double().train(kind is not Deployed)
