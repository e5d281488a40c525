"""Training steps: time and memory of a penalty on an explanation over the plain step.

A step is forward, loss, backward; the optimizer is left out, since it would only bring the ratios closer to 1.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import lenet, paired, peak_memory, resnet18, table
from xaikit import RRR, Mitigator
from xaikit.explainers import SmoothGrad

Step = Callable[[], None]


def case(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A net in training mode, a batch of its usual size, labels, and a mask of a quarter of the image."""
    torch.manual_seed(0)
    model, x = (lenet(), torch.randn(64, 1, 28, 28)) if name == "LeNet" else (resnet18(), torch.randn(16, 3, 64, 64))
    mask = torch.zeros(x.shape[2:])
    mask[: x.shape[2] // 2, : x.shape[3] // 2] = 1
    return model.train(), x, torch.arange(len(x)) % 10, mask


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """The step without a penalty."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()

    return step


def two_passes(model: nn.Module, x: Tensor, y: Tensor, mask: Tensor) -> Step:
    """Right for the right reasons as the peers write it: the logits once, and once more for the gradient."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        task = F.cross_entropy(model(x), y)
        leaf = x.clone().requires_grad_()
        chosen = model(leaf).log_softmax(-1).gather(1, y[:, None]).sum()
        (g,) = torch.autograd.grad(chosen, leaf, create_graph=True)
        (task + (mask * g).square().sum()).backward()

    return step


def penalised(mitigator: Mitigator, model: nn.Module, x: Tensor, y: Tensor, mask: Tensor) -> Step:
    """The step with a penalty of ours."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        mitigator.loss(model, (x, y, mask), seed=0).total.backward()

    return step


def steps(name: str) -> tuple[Step, dict[str, Step]]:
    """The plain step and the others of one net."""
    model, x, y, mask = case(name)
    forms = {
        "RRR": RRR(),
        'RRR, mode="train"': RRR(mode="train"),
        'RRR, mode="eval"': RRR(mode="eval"),
        "RRR, balanced": RRR(balance=True),
        "RRR, SmoothGrad(n_iter=8)": RRR(explainer=SmoothGrad(n_iter=8)),
        "RRR, VarGrad(n_iter=8)": RRR(explainer="vargrad:n_iter=8"),
        "RRR, integrated gradients (8 steps)": RRR(explainer="integrated_gradients:n_steps=8"),
        "RRR, LRP EpsilonPlus": RRR(explainer="lrp_epsilon_plus"),
    }
    columns = {"two passes, as the peers do": two_passes(model, x, y, mask)}
    return plain(model, x, y), {**columns, **{k: penalised(m, model, x, y, mask) for k, m in forms.items()}}


def main() -> None:
    """Print both tables."""
    names = ("LeNet", "resnet18")
    times, memory = {}, {}
    for name in names:
        limit, columns = steps(name)
        times[name] = paired(columns, limit)
        gc.collect()
        least = peak_memory(limit)
        memory[name] = {k: peak_memory(run) / least for k, run in columns.items()}
    head = ["step over the plain step", *(f"{n}, {what}" for n in names for what in ("time", "memory"))]
    table(
        "LeNet: 64 images of 28 x 28; resnet18: 16 images of 64 x 64; both in training mode.",
        head,
        [[k, *(v for n in names for v in (times[n][k], memory[n][k]))] for k in times["LeNet"]],
    )


if __name__ == "__main__":
    main()
