"""Trainings in processes that may be killed in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.mitigation import RRR


def killer(last):
    """A hook that kills its process in a step of the training."""
    steps = []

    def kill(module, *_):
        steps.extend([1] * module.training)
        if len(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def train_form(form, file, last=None):
    """The model, trained on tensors or on a loader in an order that is drawn; `last` as in `train`."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Softplus(), nn.Linear(8, 3))
    x, y, mask = torch.rand(22, 6), torch.arange(22) % 3, torch.tensor([1.0, 1, 0, 0, 0, 0])
    samples = (x, y, mask)
    if form == "loader":
        samples = (DataLoader(TensorDataset(x, y, mask.expand(22, 6)), batch_size=4, shuffle=True),)
    model.register_forward_hook(killer(last))
    settings = {"lr": 1e-2, "batch_size": 4, "n_epochs": 3, "random_state": 0, "checkpoint_every": 2}
    mitigator = RRR(explainer="smoothgrad:n_iter=2", **settings)
    mitigator.fit(model, *samples, checkpoint=file, progress=False)
    return model


def train(file, fabric=None, last=None):
    """The model; `last` is the step in which the process (and whoever waits for it) is killed."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x, y = torch.rand(22, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(22) % 3
    handle = model.register_forward_hook(killer(last))
    mitigator = RRR(lr=1e-2, batch_size=4, n_epochs=3, random_state=0, checkpoint_every=2, reduction="mean")
    mask = torch.tensor([1.0, 1, 0, 0, 0, 0]).double()
    history = mitigator.fit(model, x, y, mask, checkpoint=file, fabric=fabric, progress=False)
    handle.remove()
    return model, history


def train_as(rank, port, file, last):
    """Train as one of the two processes, as torchrun would start it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    from lightning_fabric import Fabric

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    # Both die in the same step, as when a machine loses its power.
    model, history = train(file, fabric, last)
    torch.save((model.state_dict(), history.epochs), f"{file}.rank{fabric.global_rank}")
