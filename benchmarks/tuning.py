"""The tuner's own time per trial beside Optuna's, and the distinct values of twenty distinct settings.

Run as ``python -m benchmarks.tuning``. The explainer and the metric do nothing, so that what is left is the search.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import optuna
import torch
from torch import Tensor, nn

from benchmarks.measure import lenet, seconds, table
from xaikit.core import Call, Explainer, Float
from xaikit.explainers import SmoothGrad
from xaikit.metrics import AbPC, EvaluationContext, Metric
from xaikit.tuning import tune

TRIALS = 100


class Nothing(Explainer):
    """Two settings, no work."""

    a: Annotated[float, Float(low=0, high=1), ""] = 0.5
    b: Annotated[float, Float(low=1e-6, high=1, log=True), ""] = 0.1

    def _attribute(self, call: Call) -> tuple[Tensor, ...]:
        return call.inputs


class Free(Metric):
    DIRECTION = "maximize"

    def _evaluate(self, case: EvaluationContext) -> Tensor:
        return torch.full((case.call.n,), case.explainer.a - case.explainer.b)


def optuna_alone(storage: str | None) -> None:
    study = optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda t: t.suggest_float("a", 0, 1) - t.suggest_float("b", 1e-6, 1, log=True), n_trials=TRIALS)


def ours(storage: str | None) -> None:
    data = (torch.zeros(1, 1), None)
    tune(Nothing(nn.Linear(1, 1)), Free(), data, n_trials=TRIALS, storage=storage, progress=False)


def overhead() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, rounds in (("memory", 5), ("sqlite", 3)):
            times: dict[str, list[float]] = {"optuna": [], "ours": []}
            for i in range(rounds):
                for who, run in (("optuna", optuna_alone), ("ours", ours)):
                    path = None if name == "memory" else f"sqlite:///{Path(folder) / f'{who}{i}.db'}"
                    times[who].append(seconds(lambda r=run, p=path: r(p)) / TRIALS * 1000)
            alone, mine = (statistics.median(times[who]) for who in ("optuna", "ours"))
            rows.append([name, alone, mine, mine - alone])
    table("Milliseconds per trial", ["storage", "Optuna alone", "tune", "more"], rows)


def distinct() -> None:
    torch.manual_seed(0)
    model = lenet().double()
    data = (torch.rand(64, 1, 28, 28, dtype=torch.float64), torch.arange(64) % 10)
    rows = []
    for explainer, setting, spec in (
        (SmoothGrad(model), "noise_level", Float(low=0.05, high=0.95)),
        *_lrp(model),
    ):
        found = tune(explainer, AbPC(), data, n_trials=20, space={setting: spec}, progress=False)
        settings = {row["settings"][setting] for row in found.trials}
        values = {row["value"] for row in found.trials}
        rows.append([type(explainer).__name__, setting, len(settings), len(values), found.default_value, found.value])
    head = ["explainer", "setting", "distinct settings", "distinct values", "default", "best"]
    table("Twenty trials of TPE on AbPC", head, rows)


def _lrp(model: nn.Module) -> list[tuple[Explainer, str, Float]]:
    from xaikit.core import EXPLAINERS

    names = [n for n in ("lrp_uniform_epsilon", "lrp_epsilon_plus") if n in EXPLAINERS]
    spec = Float(low=1e-6, high=1, log=True)
    return [(EXPLAINERS.create(n).bind(model), "epsilon", spec) for n in names]


if __name__ == "__main__":
    overhead()
    distinct()
