"""A training in two processes; as a script it may be killed, all of it, in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import sys
import warnings

import torch
from torch import nn

from xaikit.mitigation import RRR


def train(file, fabric=None, last=None):
    """The model; `last` is the step in which the process (and whoever waits for it) is killed."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x, y = torch.rand(22, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(22) % 3
    steps = []

    def kill(module, *_):
        steps.extend([1] * module.training)
        if len(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    handle = model.register_forward_hook(kill)
    mitigator = RRR(lr=1e-2, batch_size=4, n_epochs=3, random_state=0, checkpoint_every=2, reduction="mean")
    mask = torch.tensor([1.0, 1, 0, 0, 0, 0]).double()
    history = mitigator.fit(model, x, y, mask, checkpoint=file, fabric=fabric, progress=False)
    handle.remove()
    return model, history


def main(file, last):
    from lightning_fabric import Fabric

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    # Both die in the same step, as when a machine loses its power.
    model, history = train(file, fabric, last)
    torch.save((model.state_dict(), history.epochs), f"{file}.rank{fabric.global_rank}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) or None)
