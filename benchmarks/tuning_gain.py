"""Tuned against default settings on held-out samples: eight explainers on two trained models, AbPC.

Run as ``python -m benchmarks.tuning_gain``. The tabular model needs the COMPAS file of ``XAIKIT_SHARED``.
"""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import table
from xaikit.core import EXPLAINERS
from xaikit.core.results import Interval
from xaikit.metrics import AbPC
from xaikit.tuning import tune
from xaikit.tuning.evaluation import gain_interval

EIGHT = (
    "smoothgrad", "vargrad", "integrated_gradients", "lrp_uniform_epsilon", "lrp_epsilon_plus",
    "contextual_decomposition", "captum.gradient_shap", "captum.noise_tunnel",
)  # fmt: skip
SEARCHED, TRIALS = 64, 30


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:256]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional net on scikit-learn's digits; the samples that it was not trained on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
    )
    return trained(model, x[:1000], y[:1000], 100), x[1000:], y[1000:]


def compas() -> tuple[nn.Module, Tensor, Tensor] | None:
    """A dense net on the COMPAS table; the samples that it was not trained on. None where the file is not there."""
    path = Path(os.environ.get("XAIKIT_SHARED", "../shared")) / "data" / "compas" / "compas-scores-two-years.csv.gz"
    if not path.is_file():
        return None
    rows, labels = [], []
    with gzip.open(path, "rt") as file:
        for line in csv.DictReader(file):
            if not line["days_b_screening_arrest"] or abs(int(line["days_b_screening_arrest"])) > 30:
                continue
            flags = [line["race"] == race for race in ("African-American", "Caucasian", "Hispanic")]
            flags += [line["age_cat"] == age for age in ("Less than 25", "25 - 45", "Greater than 45")]
            flags += [line["sex"] == "Male", line["c_charge_degree"] == "F"]
            counts = ("age", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count")
            rows.append([float(f) for f in flags] + [float(line[c]) for c in counts])
            labels.append(int(line["two_year_recid"]))
    x, y = torch.tensor(rows), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = ((x - x.mean(0)) / x.std(0))[order], y[order]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    return trained(model, x[:4000], y[:4000], 400), x[4000:5000], y[4000:5000]


def gains(name: str, model: nn.Module, x: Tensor, y: Tensor) -> list[list[object]]:
    metric, rows = AbPC(), []
    searched, held_out = (x[:SEARCHED], y[:SEARCHED]), (x[SEARCHED:], y[SEARCHED:])
    for who in EIGHT:
        default = EXPLAINERS.create(who).bind(model)
        found = tune(default, metric, searched, n_trials=TRIALS, space="all", progress=False)
        before, after = (metric.evaluate(explainer, *held_out).double() for explainer in (default, found.best))
        interval = gain_interval(found.goals[0], after, before)
        outcome = "default kept" if found.kept_default else "tuned"
        means = before.mean().item(), after.mean().item()
        rows.append([name, who, *means, _words(interval), _words(found.gain_interval), outcome])
    return rows


def _words(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def main() -> None:
    rows = []
    for name, case in (("digits CNN", digits()), ("COMPAS net", compas())):
        rows += [] if case is None else gains(name, *case)
    head = ["model", "explainer", "default", "found", "gain held out, 95 %", "best trial's gain, searched", "outcome"]
    table(f"AbPC on held-out samples, {TRIALS} trials on {SEARCHED} others", head, rows)


if __name__ == "__main__":
    main()
