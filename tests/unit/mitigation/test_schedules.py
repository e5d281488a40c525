"""The learning rate over a training: torch's own schedulers in a bare loop give the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import RRR

EPOCHS, BATCH, LR = 3, 4, 1e-2
SCHEDULERS = {
    "constant": lambda optimizer, _steps: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "linear": lambda optimizer, steps: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps),
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
}


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(18, 5, generator=generator, dtype=torch.float64)
    y, mask = torch.arange(18) % 3, torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    return [(x[i : i + BATCH], y[i : i + BATCH], mask) for i in range(0, 18, BATCH)]


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_fit_follows_torchs_scheduler(schedule):
    data, ours = batches(), net()
    theirs = copy.deepcopy(ours)
    mitigator = RRR(lr=LR, n_epochs=EPOCHS, lr_schedule=schedule, random_state=0)
    mitigator.fit(ours, data, progress=False)

    optimizer = torch.optim.Adam(theirs.parameters(), lr=LR)
    scheduler = SCHEDULERS[schedule](optimizer, EPOCHS * len(data))
    for _ in range(EPOCHS):
        for batch in data:
            optimizer.zero_grad()
            mitigator.loss(theirs, batch).total.backward()
            optimizer.step()
            scheduler.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_a_broken_run_takes_up_the_schedule_where_it_was(tmp_path):
    data, whole, broken, file = batches(), net(), net(), tmp_path / "run.pt"
    mitigator = RRR(lr=LR, n_epochs=EPOCHS, lr_schedule="cosine", random_state=0, checkpoint_every=1)
    mitigator.fit(whole, data, progress=False)

    class Unplugged(Exception):
        pass

    class Failing(list):
        reads = 0

        def __iter__(self):
            for batch in super().__iter__():
                Failing.reads += 1
                if Failing.reads == 8:
                    raise Unplugged
                yield batch

    with pytest.raises(Unplugged):
        mitigator.fit(broken, Failing(data), checkpoint=file, progress=False)
    resumed = net()
    mitigator.fit(resumed, data, checkpoint=file, progress=False)
    for own, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(own, other)


def test_an_unknown_schedule_is_named():
    with pytest.raises(InvalidInputError, match="lr_schedule.*step"):
        RRR(lr_schedule="step")
