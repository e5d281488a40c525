"""Networks of a user's own, as the command line finds them: `--model networks:reader`."""

from __future__ import annotations

from torch import Tensor, nn

WORDS, PAD = 4000, 0  # entries of the vocabulary; the id of padding


class Reader(nn.Module):
    """A bidirectional LSTM over token ids (N, T); padding takes no part in what its states are joined to."""

    def __init__(self, words: int = WORDS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32, padding_idx=PAD)
        self.lstm = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (N, 2)."""
        states, _ = self.lstm(self.embedding(ids))
        there = (ids != PAD).unsqueeze(2)
        return self.head((states * there).sum(1) / there.sum(1).clamp(min=1))


def reader() -> nn.Module:
    """Two moods of a sentence."""
    return Reader()


def profiles() -> nn.Module:
    """A 1-D CNN over (N, 2, 28): how much ink lies in each row and in each column of a digit."""
    return nn.Sequential(
        nn.Conv1d(2, 32, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(32, 32, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 14, 10),
    )  # fmt: skip


def offender() -> nn.Module:
    """An MLP over the 12 columns of a person."""
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
