"""A slow explanation of a data set, for a process that is killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from xaikit import Gradient, explain_dataset


class Slow(Gradient):
    """The gradient, a while later; the 15th sample of a process that is to be killed waits for it."""

    NAME = "slow"
    left: ClassVar[int] = 60

    def _attribute(self, call):
        time.sleep(0.02 if Slow.left else 600)
        Slow.left -= 1
        return super()._attribute(call)


def explain_slowly(out: Path, begun: Path, to_the_end: bool = False) -> None:
    """Explain 60 samples in 20 shards; a file says that it begins."""
    Slow.left = 60 if to_the_end else 14
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    torch.manual_seed(1)
    begun.touch()
    explain_dataset(Slow(model), torch.randn(60, 12), out=out, shard_size=3, batch_size=1, progress=False)
