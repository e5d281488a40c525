"""Trainings that are run in one process and in two; as a script it runs them in two and writes what came out."""

from __future__ import annotations

import math
import sys
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from xaikit.core.errors import TrainingError
from xaikit.mitigation import CDEP, RRR

N = 11
BASE = {"lr": 1e-2, "n_epochs": 2, "random_state": 0, "batch_size": 4}
SMOOTH = "smoothgrad:n_iter=2"


def net(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N, 1, 6, 6, generator=generator, dtype=torch.float64)
    masks = (torch.rand(N, 6, 6, generator=generator) > 0.6).double()
    masks[::4] = 0  # some samples have none
    return x, torch.arange(N) % 3, masks


def loader(size):
    return DataLoader(TensorDataset(*data()), batch_size=size, shuffle=True)


def square():
    mask = torch.zeros(6, 6, dtype=torch.float64)
    mask[:2, :2] = 1
    return mask


x, y, masks = data()
ONE_MASK = (x, y, square())
# Name: the mitigator, and what it is fitted to. 11 samples in batches of 4: no part is as large as the other for long.
CASES = {
    "sum": (RRR(**BASE), (x, y, masks)),
    "mean": (RRR(reduction="mean", **BASE), (x, y, masks)),
    "one mask": (RRR(reduction="mean", explainer=SMOOTH, **BASE), ONE_MASK),
    "by masked entries": (RRR(normalization="mask", **BASE), (x, y, masks)),
    "by samples": (RRR(score_reduction="mean", lambda_rrr=100.0, **BASE), (x, y, masks)),
    "share of the total": (RRR(normalization="total", reduction="mean", **BASE), (x, y, masks)),
    "cdep": (CDEP(form="squared", lambda_cdep=10.0, **BASE), (x, y, masks)),
    "plain": (RRR(lambda_rrr=0.0, **BASE), (x, y, masks)),
    "sgd, clipped, warm-up": (RRR(optimizer="sgd", clip_grad_norm=0.05, warmup=1.0, **BASE), (x, y, masks)),
    "loader": (RRR(**BASE), (loader(4),)),
    "a batch of one": (RRR(**BASE), (loader(2),)),
    "batches": (RRR(**BASE), ([(x[i : i + 4], y[i : i + 4], masks[i : i + 4]) for i in (0, 4, 7)],)),
}


def train(name, fabric=None, **options):
    mitigator, given = CASES[name]
    model = net()
    history = mitigator.fit(model, *given, fabric=fabric, progress=False, **options)
    return model, history


def nan_batches():
    """One sample of the second batch is NaN; it is in one process's part only."""
    sick = x.clone()
    sick[6] = math.nan
    return [(sick[i : i + 4], y[i : i + 4], masks[i : i + 4]) for i in (0, 4, 7)]


def diverge(fabric):
    """Ends in an error, in every process the same."""
    try:
        RRR(**{**BASE, "lr": 1e300, "n_epochs": 6, "max_skips": 2}).fit(
            net(), x, y, masks, fabric=fabric, progress=False
        )
    except TrainingError as err:
        return str(err)
    return "no error"


def main(folder):
    from lightning_fabric import Fabric

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    out = {}
    for name in CASES:
        model, history = train(name, fabric)
        out[name] = (model.state_dict(), history.epochs)
    model = net()
    history = RRR(**BASE).fit(model, nan_batches(), fabric=fabric, progress=False)
    out["nan"] = (model.state_dict(), history.epochs)
    # The process whose own data are wrong says so; the other does not wait for ever.
    wrong = [(x[:4], y[:4] + (7 if fabric.global_rank == 1 else 0), masks[:4])]
    try:
        RRR(**BASE).fit(net(), wrong, fabric=fabric, progress=False)
    except Exception as err:
        said = f"{type(err).__name__}: {err}"
    diverged = diverge(fabric)
    file = f"{folder}/rrr.pt"
    RRR(**{**BASE, "n_epochs": 1}).fit(net(), x, y, masks, fabric=fabric, progress=True, checkpoint=file)
    model = net()
    validation = (x, y)
    history = RRR(**BASE).fit(
        model, x, y, masks, fabric=fabric, progress=True, checkpoint=file, validation=validation, groups=[0] * N
    )
    out["resumed"] = (model.state_dict(), history.epochs)
    given = TensorDataset(x[:10], y[:10], masks[:10])
    sampler = DistributedSampler(given, num_replicas=2, rank=fabric.global_rank, shuffle=False)
    model = net()
    mitigator = RRR(**{**BASE, "n_epochs": 1})
    mitigator.fit(model, DataLoader(given, batch_size=2, sampler=sampler), fabric=fabric, progress=False)
    out["own loaders"] = (model.state_dict(), [])
    torch.save((out, said, diverged), f"{folder}/rank{fabric.global_rank}.out")


if __name__ == "__main__":
    main(sys.argv[1])
