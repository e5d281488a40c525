"""Models as people write them: recurrent, convolutional, tabular, and with the odd operations that users have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.entry import Entry, images, token_ids

weight_norm = nn.utils.parametrizations.weight_norm


class Recurrent(nn.Module):
    """Embedding, a recurrent net, and a linear map of its last or of its mean state."""

    def __init__(self, kind: str, pool: str = "last", *, bidirectional: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.emb = nn.Embedding(100, 16)
        self.rnn = getattr(nn, kind)(16, 24, batch_first=True, bidirectional=bidirectional, num_layers=layers)
        self.fc = nn.Linear(48 if bidirectional else 24, 10)
        self.pool = pool

    def forward(self, ids: Tensor) -> Tensor:
        return self.from_emb(self.emb(ids))

    def from_emb(self, embeddings: Tensor) -> Tensor:
        states, _ = self.rnn(embeddings)
        return self.fc(states[:, -1] if self.pool == "last" else states.mean(1))


class CutEnd(nn.Module):
    """Drops the last steps, so that a padded convolution sees the past only."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.steps].contiguous()


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions with weight normalisation, and a residual connection."""

    def __init__(self, n_in: int, n_out: int, dilation: int) -> None:
        super().__init__()
        padding = 2 * dilation
        self.net = nn.Sequential(
            weight_norm(nn.Conv1d(n_in, n_out, 3, padding=padding, dilation=dilation)),
            CutEnd(padding),
            nn.ReLU(),
            nn.Dropout(0.2),
            weight_norm(nn.Conv1d(n_out, n_out, 3, padding=padding, dilation=dilation)),
            CutEnd(padding),
            nn.ReLU(),
        )
        self.down = nn.Conv1d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + (x if self.down is None else self.down(x)))


class TemporalNet(nn.Module):
    """A temporal convolutional network that reads the largest value over time."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(TemporalBlock(4, 16, 1), TemporalBlock(16, 16, 2), TemporalBlock(16, 16, 4))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(x).amax(-1))


class FunctionalNet(nn.Module):
    """The net of the CDEP paper, with functional pooling and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.f1, self.f2 = nn.Linear(800, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.c1(x), 2))
        x = F.relu(F.max_pool2d(self.c2(x), 2))
        return self.f2(F.relu(self.f1(x.view(-1, 800))))


class TransformerText(nn.Module):
    """Embedding, torch's own encoder, and a linear map of the mean state."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.enc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(32, 10)

    def forward(self, ids: Tensor) -> Tensor:
        return self.from_emb(self.emb(ids))

    def from_emb(self, embeddings: Tensor) -> Tensor:
        return self.fc(self.enc(embeddings).mean(1))


class SmallUNet(nn.Module):
    """Interpolation, a transposed convolution, group and instance normalisation, in-place operations, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.g = nn.GroupNorm(2, 8)
        self.b = nn.Conv2d(8, 16, 3, 2, 1)
        self.i = nn.InstanceNorm2d(16, affine=True)
        self.u = nn.ConvTranspose2d(16, 8, 2, 2)
        self.c = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)
        self.p = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.g(self.a(x)))
        b = F.leaky_relu_(self.i(self.b(a)), 0.1)
        u = self.u(b)
        u += F.interpolate(b[:, :8], scale_factor=2, mode="bilinear")
        y = F.elu(self.c(torch.cat([a, self.p(u)], 1)))
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.fc(y.flatten(2).max(-1)[0])


class DataDependent(nn.Module):
    """Which layers run depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        for _ in range(3):
            h = torch.tanh(self.b(h)) if h.norm() > 1 else h.clamp(min=0) * 2
        return self.c(torch.where(h > 0, h, 0.1 * h))


def _series_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def _table_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.SELU(), nn.Linear(32, 32), nn.Tanh(),
        nn.Linear(32, 10),
    )  # fmt: skip


def _series() -> Tensor:
    return torch.randn(2, 4, 32)


def _rows() -> Tensor:
    return torch.randn(2, 12)


def entries() -> dict[str, Entry]:
    """Name to architecture."""

    def text(build: object) -> Entry:
        return Entry(build, token_ids, lambda model: model.emb)

    return {
        "lstm": text(lambda: Recurrent("LSTM")),
        "bilstm2": text(lambda: Recurrent("LSTM", "mean", bidirectional=True, layers=2)),
        "gru": text(lambda: Recurrent("GRU")),
        "rnn": text(lambda: Recurrent("RNN")),
        "tcn": Entry(TemporalNet, _series),
        "cnn1d": Entry(_series_net, _series),
        "mlp-tab": Entry(_table_net, _rows),
        "cdep-mnist-cnn": Entry(FunctionalNet, lambda: torch.randn(2, 1, 28, 28)),
        "nn.TransformerEncoder": text(TransformerText),
        "nn.TransformerEncoder-prenorm": text(lambda: TransformerText(norm_first=True)),
        "unet-like": Entry(SmallUNet, images(16)),
        "data-dependent-branch": Entry(DataDependent, _rows),
    }
