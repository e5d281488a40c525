"""Runs all explainers, metrics and mitigators on the pretended GPU; prints as JSON what came of each, or an error.

`explainer NAME`, `metric NAME`: {"same": whether it gives what the CPU gives}, and of the explainers in `COUNTED`
"waits": in a call. `mitigator NAME`:
{"loss": waits in a loss with data on the device, "backward", "step DEVICE": waits in a step of `fit` with data there}.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings

import torch
from torch.nn import functional as F

import pretend_gpu  # noqa: F401 - registers the device
from pretend_gpu.waits import Waits
from xaikit.core import EXPLAINERS, METRICS, MITIGATORS
from xaikit.explainers import GradientXInput
from xaikit.mitigation import Concept
from xaikit.testing import ContractNet
from xaikit.testing.case import make

N = 4
COUNTED = ("gradient", "gradient_x_input")  # watching each operation takes longer than the operations
FITTED = ("captum.kernel_shap", "captum.lime")  # to more coalitions than the 72 values of a sample, 200 by themselves


def case(device: str):
    torch.manual_seed(0)
    model, x = ContractNet().eval(), torch.rand(N, 2, 6, 6)
    masks = torch.zeros(N, 6, 6)
    masks[:, :2] = 1
    return tuple(value.to(device) for value in (model, x, torch.tensor([0, 2, 1, 1]), masks))


def explain(name: str):
    def run(device: str):
        model, x, y, _ = case(device)
        explainer = make(EXPLAINERS.get(name), model)
        if name in FITTED:
            explainer = explainer.set_kwargs(n_samples=100)
        result = explainer.attribute(x, y, seed=0)
        assert result.device.type == device
        return result

    report = compared(run)
    if name in COUNTED:
        model, x, y, _ = case("fake")
        explainer = make(EXPLAINERS.get(name), model)
        explainer.attribute(x, y, seed=0)  # what is found out once about a model and a form of input
        with Waits() as waits:
            explainer.attribute(x, y, seed=0)
        report["waits"] = waits.count
    return report


def measure(name: str):
    def run(device: str):
        model, x, y, masks = case(device)
        metric = METRICS.create(name)
        result = metric.evaluate(GradientXInput(model), x, y, relevant_region=masks)
        return result if metric.NAME not in ("seconds", "peak_memory") else torch.zeros(N)

    return compared(run)


def compared(run):
    result, truth = run("fake"), run("cpu")
    return {"same": torch.allclose(result.cpu(), truth, rtol=1e-4, atol=1e-5, equal_nan=True)}


def train(name: str):
    cls = MITIGATORS.get(name)
    settings = {"batch_size": 2, "random_state": 0}
    if "concept" in cls.SETTINGS:
        direction = F.normalize(torch.tensor([1.0, -2.0, 0.5, 1.0]), dim=0)
        settings["concept"] = Concept("second", direction, torch.zeros(4), torch.ones(4))
    if "first_epochs" in cls.SETTINGS:
        settings["first_epochs"] = 0  # a training before the training, with steps of its own
    model, x, y, masks = case("fake")
    mitigator = cls(**settings)
    mitigator.loss(model, (x, y, masks), seed=0)
    result = {}
    with Waits() as waits:
        loss = mitigator.loss(model, (x, y, masks), seed=0)
    result["loss"] = waits.count
    with Waits() as waits:
        loss.total.backward()
    result["backward"] = waits.count
    for place in ("fake", "cpu"):
        data = (x.to(place), y.to(place), masks.to(place))
        result[f"step {place}"] = waits_of_a_step(mitigator, model, data)
    return result


def waits_of_a_step(mitigator, model, data) -> float:
    """Waits of one step, from trainings with two and with six steps, so that waits at the start do not count."""
    counts = []
    for copies in (1, 3):
        longer = [torch.cat([part] * copies) for part in data]
        with Waits() as waits:
            mitigator.set_kwargs(n_epochs=1).fit(copy.deepcopy(model), *longer, progress=False)
        counts.append(waits.count)
    return (counts[1] - counts[0]) / 4


def main() -> None:
    report = {}
    jobs = {"explainer": (EXPLAINERS, explain), "metric": (METRICS, measure), "mitigator": (MITIGATORS, train)}
    for kind, (registry, job) in jobs.items():
        for name in registry:
            print(kind, name, file=sys.stderr, flush=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    report[f"{kind} {name}"] = job(name)
                except Exception as error:
                    report[f"{kind} {name}"] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)  # the device's autograd thread does not end by itself


if __name__ == "__main__":
    main()
