"""Training steps: time and memory of a penalty on an explanation over the plain step.

A step is forward, loss, backward; the optimizer is left out, since it would only bring the ratios closer to 1.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import lenet, paired, peak_memory, resnet18, table
from xaikit import RRR, Counterexamples, Mitigator
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


def written_out(model: nn.Module, x: Tensor, y: Tensor, mask: Tensor, *, passes: int) -> Step:
    """Right for the right reasons in bare torch: in two passes, as the peers write it, or in the least, one."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        logits = model(leaf)
        task = F.cross_entropy(logits if passes == 1 else model(x), y)
        chosen = logits.log_softmax(-1).gather(1, y[:, None]).sum()
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
    forms: dict[str, Mitigator] = {
        "RRR": RRR(),
        'RRR, mode="train"': RRR(mode="train"),
        'RRR, mode="eval"': RRR(mode="eval"),
        "RRR, balanced": RRR(balance=True),
        "RRR, SmoothGrad(n_iter=8)": RRR(explainer=SmoothGrad(n_iter=8)),
        "RRR, integrated gradients (8 steps)": RRR(explainer="integrated_gradients:n_steps=8"),
        "RRR, GradCam": RRR(explainer="gradcam"),
        "RRR, LRP EpsilonPlus": RRR(explainer="lrp_epsilon_plus"),
    }
    forms["counterexamples"] = Counterexamples()
    written = {
        "two passes, written out": written_out(model, x, y, mask, passes=2),
        "one pass, written out": written_out(model, x, y, mask, passes=1),
    }
    return plain(model, x, y), {**written, **{k: penalised(m, model, x, y, mask) for k, m in forms.items()}}


def mode_accuracy(mode: str, weight: float, seed: int) -> float:
    """Accuracy in per cent with the corner flipped: a net with BatchNorm, digits whose corner tells the class."""
    digits = load_digits()
    y = torch.tensor(digits.target)
    x = F.pad(torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], [2] * 4)
    corner = torch.zeros(12, 12)
    corner[:3, :3] = 1

    def patched(told: Tensor) -> Tensor:
        return torch.where(corner > 0, ((told + 1) / 10).view(-1, 1, 1, 1), x)

    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip
    mitigator = RRR(lambda_rrr=weight, mode=mode, lr=3e-3, n_epochs=8, batch_size=64, random_state=seed)
    mitigator.fit(model, patched(y)[:1300], y[:1300], corner, progress=False)
    with torch.no_grad():
        right = model.eval()(patched(9 - y)[1300:]).argmax(1) == y[1300:]
    return 100 * float(right.float().mean())


def modes() -> None:
    """Print what the mode of the explanation does to the model."""
    weights, seeds = (0.0, 1.0, 10.0), (0, 1, 2)
    rows: list[list[object]] = []
    for mode in ("auto", "train"):
        found = [[mode_accuracy(mode, w, s) for s in seeds] for w in weights]
        if statistics.mean(found[0]) > 80:
            raise SystemExit("the plain model is not fooled, so nothing is measured here")
        rows.append([f'mode="{mode}"', *(f"{statistics.mean(f):.1f}" for f in found)])
    table("Accuracy with the corner flipped, mean of 3 seeds.", ["", *(f"lambda {w:g}" for w in weights)], rows)


def main() -> None:
    """Print all tables."""
    names = ("LeNet", "resnet18")
    times, memory = {}, {}
    for name in names:
        limit, columns = steps(name)
        times[name] = paired(columns, limit, rounds=5)
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
    modes()
