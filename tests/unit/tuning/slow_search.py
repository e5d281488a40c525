"""What several processes run on one study; each trial takes a while, so that a kill meets one that is running."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import torch
from torch import nn

from xaikit.explainers import SmoothGrad
from xaikit.metrics import Metric
from xaikit.tuning import tune


class Slow(Metric):
    """The squared relevance, some seconds later."""

    DIRECTION = "maximize"
    seconds = 0.0

    def _evaluate(self, case):
        time.sleep(type(self).seconds)
        return case.attributions[0].flatten(1).square().sum(1)


def search(storage: str, n_trials: int, resume: bool, seconds: float, out: Path | None = None) -> None:
    """Search in a study of this storage, and write down how many trials of it the result has."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    Slow.seconds = seconds
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    found = tune(
        *(SmoothGrad(model), Slow(), (torch.rand(6, 4), 0)),
        **{"n_trials": n_trials, "storage": storage, "study_name": "shared", "resume": resume, "progress": False},
    )
    if out is not None:
        out.write_text(str(len({row["trial"] for row in found.trials})))
