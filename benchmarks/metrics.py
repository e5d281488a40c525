"""Metrics' time over the passes that cannot be avoided; Quantus and captum beside it where they are installed.

Run as ``python -m benchmarks.metrics [rounds] [flipping fidelity road sensitivity]``. AbPC of K steps needs 2 K rows
per sample: both curves, their ends shared.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import gradient_pass, lenet, paired, resnet18, seconds, table
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import Gradient
from xaikit.metrics import ROAD, AbPC, MaxSensitivity, MuFidelity

STEPS = 10


def forward(model: nn.Module, x: Tensor, rows: int) -> None:
    """`rows` rows of plain inference in passes of x's size."""
    with torch.no_grad():
        for start in range(0, rows, len(x)):
            model(x[: rows - start])


def of_size(x: Tensor, size: int) -> Tensor:
    """A batch of that many different samples: copies of one run up to a third faster (branches are foretold)."""
    rows = x.repeat(-(-size // len(x)), *[1] * (x.ndim - 1))[:size]
    return rows + 0.01 * torch.rand_like(rows)


def best_size(model: nn.Module, x: Tensor, sizes: tuple[int, ...] = (4, 8, 16, 32, 64)) -> int:
    """The number of rows at which plain inference is cheapest per row."""

    batches = {size: of_size(x, size) for size in sizes}
    least = dict.fromkeys(sizes, float("inf"))
    # Sizes take turns, so that a disturbance meets all of them.
    for _ in range(12):
        for size, rows in batches.items():
            least[size] = min(least[size], seconds(lambda r=rows: forward(model, r, sizes[-1])))
    return min(sizes, key=least.__getitem__)


def quantus_metric(
    name: str, model: nn.Module, x: Tensor, y: Tensor, a: Tensor, *, softmax: bool = False, **settings: object
) -> Callable[[], object] | None:
    """A metric of Quantus on one batch, or None where it is absent."""
    try:
        import quantus
    except ImportError:
        return None
    metric = getattr(quantus, name)(**settings, disable_warnings=True, return_aggregate=False)
    arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": a.numpy()}
    options = {"device": "cpu", "softmax": softmax, "batch_size": len(x), "channel_first": True}
    return lambda: metric(model=model, **arrays, **options)


def quantus_flipping(model: nn.Module, x: Tensor, y: Tensor, a: Tensor) -> Callable[[], object] | None:
    """Quantus' PixelFlipping in eight steps, since its steps must divide the features."""
    steps = {"features_in_step": x[0, 0].numel() // 8, "perturb_baseline": "black"}
    return quantus_metric("PixelFlipping", model, x, y, a, softmax=True, **steps)


def rows_of(model: nn.Module, run: Callable[[], object]) -> int:
    """How many rows the model sees."""
    seen: list[int] = []
    handle = model.register_forward_hook(lambda _m, inputs, _out: seen.append(len(inputs[0])))
    run()
    handle.remove()
    return sum(seen)


def flipping(rounds: int) -> None:
    rows = []
    for name, model, x, y, a in cases():
        size = best_size(model, x)
        batch, explainer = of_size(x, size), Gradient(model)
        passes = 2 * STEPS * len(x)
        ours = {"ours": lambda e=explainer, x=x, y=y, a=a: AbPC(n_steps=STEPS).evaluate(e, x, y, a)}
        ratio = paired(ours, lambda m=model, b=batch, p=passes: forward(m, b, p), rounds=rounds)["ours"]
        rows.append([name, size, ratio, by_quantus(quantus_flipping(model, x, y, a), model, batch, rounds)])
    table(
        f"Pixel flipping, {STEPS} steps: time over the passes that cannot be avoided",
        ["", "rows in the best pass", "AbPC (two curves)", "Quantus PixelFlipping (one curve)"],
        rows,
    )


def fidelity(rounds: int, n_iter: int = 16) -> None:
    rows = []
    for name, model, x, y, a in cases():
        batch, explainer = of_size(x, best_size(model, x)), Gradient(model)
        metric = MuFidelity(n_iter=n_iter)
        ours = {"ours": lambda e=explainer, m=metric, x=x, y=y, a=a: m.evaluate(e, x, y, a)}
        passes = (n_iter + 1) * len(x)  # the input itself, once
        ratio = paired(ours, lambda m=model, b=batch, p=passes: forward(m, b, p), rounds=rounds)["ours"]
        peer = quantus_metric(
            "FaithfulnessCorrelation", model, x, y, a, nr_runs=n_iter, subset_size=32, perturb_baseline=0.0
        )
        rows.append([name, ratio, by_quantus(peer, model, batch, rounds)])
    table(
        f"Fidelity, n={n_iter}: time over the passes that cannot be avoided",
        ["", "MuFidelity", "Quantus FaithfulnessCorrelation"],
        rows,
    )


def road(rounds: int) -> None:
    rows, percentages = [], [10, 30, 50, 70, 90]
    for name, model, x, y, a in cases():
        batch, explainer = of_size(x, best_size(model, x)), Gradient(model)
        metric = ROAD(percentages=percentages)
        ours = {"ours": lambda e=explainer, m=metric, x=x, y=y, a=a: m.evaluate(e, x, y, a)}
        passes = len(percentages) * len(x)
        ratio = paired(ours, lambda m=model, b=batch, p=passes: forward(m, b, p), rounds=rounds)["ours"]
        peer = quantus_metric("ROAD", model, x, y, a, percentages=percentages, noise=0.01)
        rows.append([name, ratio, by_quantus(peer, model, batch, max(1, rounds // 4))])
    table("ROAD, 5 percentages: time over the passes that cannot be avoided", ["", "ROAD", "Quantus ROAD"], rows)


def sensitivity(rounds: int, n_iter: int = 8) -> None:
    rows = []
    for name, model, x, y, a in cases():
        explainer = Gradient(model)
        columns = {"ours": lambda e=explainer, x=x, y=y, a=a: MaxSensitivity(n_iter=n_iter).evaluate(e, x, y, a)}
        try:
            from captum.attr import Saliency
            from captum.metrics import sensitivity_max
        except ImportError:
            pass
        else:
            saliency = Saliency(model)
            columns["captum"] = lambda s=saliency, x=x, y=y: sensitivity_max(
                s.attribute, x, n_perturb_samples=n_iter, target=y
            )

        def passes(copies: int, m: nn.Module = model, x: Tensor = x) -> None:
            for _ in range(copies):
                gradient_pass(m, x)

        # Ours is given the explanation of the input; captum makes it.
        found = {
            "ours": paired({"c": columns["ours"]}, lambda p=passes: p(n_iter), rounds=rounds)["c"],
            **(
                {"captum": paired({"c": columns["captum"]}, lambda p=passes: p(n_iter + 1), rounds=rounds)["c"]}
                if "captum" in columns
                else {}
            ),
        }
        rows.append([name, found["ours"], found.get("captum", "-")])
    table(
        f"MaxSensitivity of the gradient, n={n_iter}: time over its gradient passes in batches of that size",
        ["", "MaxSensitivity", "captum sensitivity_max"],
        rows,
    )


def cases() -> Iterator[tuple[str, nn.Module, Tensor, Tensor, Tensor]]:
    """Name, model, inputs, targets, attributions."""
    for name, model, x in (
        ("LeNet, batch 64", lenet(), torch.rand(64, 1, 28, 28)),
        ("resnet18 64 px, batch 8", resnet18(), torch.rand(8, 3, 64, 64)),
    ):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        y = torch.arange(len(x)) % 10
        yield name, model, x, y, Gradient(model).attribute(x, y)


def by_quantus(run: Callable[[], object] | None, model: nn.Module, batch: Tensor, rounds: int) -> object:
    """A metric of Quantus over the passes of as many rows as it gives the model, or a dash."""
    if run is None:
        return "-"
    passes = rows_of(model, run)
    with contextlib.redirect_stdout(None):
        return paired({"q": run}, lambda: forward(model, batch, passes), rounds=rounds)["q"]


def main(rounds: int, *names: str) -> None:
    torch.manual_seed(0)
    import_torchvision()  # before Quantus, which wants it
    warnings.simplefilter("ignore")
    parts = {"flipping": flipping, "fidelity": fidelity, "road": road, "sensitivity": sensitivity}
    for name in names or parts:
        parts[name](rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9, *sys.argv[2:])
