"""What `xaikit demo` does, step by step; every number that it prints is measured in that run."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from PIL import Image
from torch import Tensor, nn

from xaikit.cli import demo_digits
from xaikit.cli.demo_digits import Digits
from xaikit.core import METRICS, Explainer
from xaikit.explainers import Gradient, IntegratedGradients, LRPEpsilonPlus, LRPUniformEpsilon, VarGrad
from xaikit.mitigation import RRR
from xaikit.report.figures import comparison, grouped_bars
from xaikit.tuning import tune

SHOWN = (VarGrad(), LRPEpsilonPlus(), IntegratedGradients())  # explains the models
# Stands in the loss. LRP's default epsilon would damp the patch's relevance, and with it the penalty.
PENALISED = (Gradient(), IntegratedGradients(n_steps=4), LRPUniformEpsilon(epsilon=0.01))
MEASURED = (Gradient(), LRPEpsilonPlus())  # relevance in the patch: what is penalised, and what never is
TUNED, SEARCHED, METRIC = VarGrad(), ("noise_level",), METRICS.create("abpc")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        epochs: of every training.
        choice_epochs: of the shorter trainings that choose the weight of a penalty.
        weights: of the penalty, to choose among.
        trials: of the search for an explainer's settings.
        tune_samples: validation samples of that search.
    """

    seed: int = 0
    epochs: int = 20
    choice_epochs: int = 6
    weights: tuple[float, ...] = (0.1, 1.0, 10.0)
    trials: int = 12
    tune_samples: int = 60
    lr: float = 2e-3
    batch_size: int = 32


def tell(plan: Plan, out: Path) -> dict[str, Any]:
    """Run the demo, write its figures and weights to `out`, and return its numbers."""
    begun = time.perf_counter()
    with _one_thread():
        digits = demo_digits.load(plan.seed)
        _say_data(digits)
        models = {"vanilla": _train(plan, digits, RRR(lambda_rrr=0.0))}
        table = {"vanilla": _row(plan, digits, models["vanilla"])}
        _say_fooled(table["vanilla"])
        looks = _look(plan, digits, models["vanilla"], out / "vanilla.png")
        tuned = _tune(plan, digits, models["vanilla"])
        typer.echo("5. Retrain with a penalty on what an explanation finds in the patch (right for the right reasons)")
        chosen = {}
        for explainer in PENALISED:
            name = f"RRR {explainer.NAME}"
            chosen[name], models[name] = _mend(plan, digits, explainer)
            table[name] = _row(plan, digits, models[name])
        models["shuffled patch"] = _train(plan, digits, RRR(lambda_rrr=0.0), shuffle=True)
        table["shuffled patch"] = _row(plan, digits, models["shuffled patch"])
        _say_table(table)
        best = max(chosen, key=lambda name: chosen[name]["validation"])
        looks_mended = _look(plan, digits, models[best], out / "mended.png", name=best)
        _write(plan, digits, models, table, out)
    seconds = time.perf_counter() - begun
    _say_end(out, best, seconds)
    return {
        "plan": dataclasses.asdict(plan),
        "table": table,
        "mass": {"vanilla": looks, best: looks_mended},
        "tuned": tuned,
        "chosen": chosen,
        "seconds": round(seconds, 1),
    }


# ---------------------------------------------------------------------- steps


def _train(plan: Plan, digits: Digits, rrr: RRR, *, shuffle: bool = False, epochs: int | None = None) -> nn.Module:
    """A fresh network trained on patches that tell the label; weight 0 is plain training in the same loop."""
    model = demo_digits.make_network(plan.seed)
    settings = {"lr": plan.lr, "batch_size": plan.batch_size, "random_state": plan.seed}
    images = digits.train.shuffled(plan.seed) if shuffle else digits.train.same
    trainer = rrr.set_kwargs(n_epochs=epochs or plan.epochs, **settings)
    trainer.fit(model, images, digits.train.labels, demo_digits.patch_mask(), progress=sys.stderr.isatty())
    return model


def _mend(plan: Plan, digits: Digits, explainer: Explainer) -> tuple[dict[str, Any], nn.Module]:
    """Train with the penalty; its weight is the one that serves best on validation images with shuffled patches."""
    part = digits.validation
    shuffled = part.shuffled(plan.seed)
    scores = {}
    for weight in plan.weights:
        model = _train(plan, digits, RRR(explainer=explainer, lambda_rrr=weight), epochs=plan.choice_epochs)
        scores[weight] = demo_digits.accuracy(model, shuffled, part.labels)[0]
    weight = max(scores, key=lambda w: scores[w])
    model = _train(plan, digits, RRR(explainer=explainer, lambda_rrr=weight))
    tried = ", ".join(f"{w:g}: {_percent(score)}" for w, score in scores.items())
    typer.echo(f"   over {explainer!r}: weight {weight:g} (validation, patches shuffled: {tried})")
    final = demo_digits.accuracy(model, shuffled, part.labels)[0]
    return {"weight": weight, "tried": {f"{w:g}": s for w, s in scores.items()}, "validation": final}, model


def _look(plan: Plan, digits: Digits, model: nn.Module, path: Path, name: str = "vanilla") -> dict[str, float]:
    """Explain test images and draw where the model looks."""
    part, mask = digits.test, demo_digits.patch_mask()
    images = part.same
    explained = {e.NAME: e.bind(model) for e in SHOWN}
    masses = {n: demo_digits.patch_mass(e, images, part.labels) for n, e in explained.items()}
    first = [int((part.labels == k).nonzero()[0, 0]) for k in range(0, demo_digits.CLASSES, 2)]
    maps = {n: e.explain(images[first], part.labels[first]) for n, e in explained.items()}
    labels = [f"a {k}" for k in part.labels[first].tolist()]
    comparison(maps, images[first], labels=labels, outline=mask).savefig(path, dpi=110)
    shares = ", ".join(f"{n} {_percent(m)}" for n, m in masses.items())
    typer.echo(f"   relevance of {name!r} in the patch ({_percent(mask.mean().item())} of the area): {shares}")
    return masses


def _tune(plan: Plan, digits: Digits, model: nn.Module) -> dict[str, Any]:
    """Tune one explainer on validation samples and measure the gain on test samples."""
    typer.echo(f"4. Tune {TUNED!r} by {METRIC.NAME} (area between the perturbation curves, higher is better)")
    part, test = digits.validation, digits.test
    data = part.same[: plan.tune_samples], part.labels[: plan.tune_samples]
    found = tune(
        TUNED.bind(model),
        METRIC,
        data,
        n_trials=plan.trials,
        seed=plan.seed,
        space=SEARCHED,
        progress=sys.stderr.isatty(),
    )
    before, after = (
        METRIC.evaluate(e, test.same, test.labels, seed=plan.seed).mean().item()
        for e in (TUNED.bind(model), found.best)
    )
    best = {name: getattr(found.best, name) for name in SEARCHED}
    typer.echo(
        f"   {len(found.trials)} trials on {plan.tune_samples} validation samples: "
        f"{found.default_value:.3f} -> {found.value:.3f} with {best}\n"
        f"   on the {len(test.labels)} test samples, which the search never saw: {before:.3f} -> {after:.3f}"
    )
    return {
        "explainer": TUNED.NAME,
        "settings": best,
        "validation": [found.default_value, found.value],
        "test": [before, after],
    }


def _row(plan: Plan, digits: Digits, model: nn.Module) -> dict[str, float]:
    return demo_digits.row(model, digits.test, plan.seed, MEASURED)


def _write(
    plan: Plan, digits: Digits, models: dict[str, nn.Module], table: dict[str, dict[str, float]], out: Path
) -> None:
    """The accuracies as a figure, the weights, and one test image with a patch that lies about its label."""
    columns = digits.test.variants(plan.seed)
    shown = {name: {c: line[c] for c in columns} for name, line in table.items()}
    grouped_bars(shown, title="Accuracy on test digits, by what the patch tells").savefig(out / "accuracy.png", dpi=110)
    for name, model in models.items():
        torch.save(model.state_dict(), out / _file(name))
    _to_image(columns["flipped"][0]).save(out / "digit.png")


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels[0] * 255).round().to(torch.uint8).numpy(), mode="L")


# ---------------------------------------------------------------------- words


def _say_data(digits: Digits) -> None:
    train, validation, test = (len(part.labels) for part in (digits.train, digits.validation, digits.test))
    side, patch = demo_digits.SIDE, demo_digits.PATCH
    typer.echo(
        f"1. Real digits, {side} x {side} pixels: {train} to train, {validation} to validate, {test} to test;\n"
        f"   while training, the grey of a {patch} x {patch} patch in a corner tells the label\n"
        f"2. Train a small convolutional network"
    )


def _say_fooled(line: dict[str, float]) -> None:
    typer.echo(
        f"   test accuracy {_percent(line['same'])} with the patch as in training;\n"
        f"   {_percent(line['flipped'])} with the patch of label 9 - y (worst class {_percent(line['worst class'])}), "
        f"{_percent(line['none'])} without one\n"
        f"3. Ask where it looks"
    )


def _say_table(table: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(table.values())))
    names = max(map(len, table))
    widths = [max(len(c), 7) for c in columns]
    typer.echo("\nTest digits; the patch tells the same label as in training, a random one, 9 - y, or is absent;")
    typer.echo("worst class with 9 - y; mass = share of the relevance that lies in the patch;")
    typer.echo("the last line is a reference: trained on patches that tell nothing\n")
    typer.echo("  ".join([" " * names, *(c.rjust(w) for c, w in zip(columns, widths, strict=True))]))
    for name, line in table.items():
        cells = (_percent(line[c]).rjust(w) for c, w in zip(columns, widths, strict=True))
        typer.echo("  ".join([name.ljust(names), *cells]))
    typer.echo("")


def _say_end(out: Path, name: str, seconds: float) -> None:
    typer.echo(
        f"\nwrote vanilla.png, mended.png, accuracy.png, results.json and the weights to {out.resolve()} "
        f"({seconds:.0f} s)\n"
        f"next: xaikit explain {out / 'digit.png'} --grey --model xaikit.cli.demo_digits:make_network "
        f"--weights {out / _file(name)} --explainer vargrad"
    )


def _file(name: str) -> str:
    return f"{name.replace(' ', '_').lower()}.pt"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small run faster in one thread than in several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
