"""The steps of `xaikit demo`; every number that it prints is measured in that run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.cli import demo_digits
from xaikit.cli.demo_digits import Digits
from xaikit.core import METRICS, Explainer
from xaikit.explainers import Gradient, IntegratedGradients, LRPEpsilonPlus, LRPUniformEpsilon, VarGrad
from xaikit.mitigation import RRR, assess
from xaikit.report.figures import comparison, grouped_bars
from xaikit.tuning import tune

SHOWN = (VarGrad(), LRPEpsilonPlus(), IntegratedGradients())  # explains the models
# The explainer in the loss. LRP's default epsilon would make the patch's relevance and the penalty smaller.
PENALISED = (Gradient(), IntegratedGradients(n_steps=4), LRPUniformEpsilon(epsilon=0.01))
MEASURED = (Gradient(), LRPEpsilonPlus())  # whose relevance in the patch is measured: a penalised one, and another
REFERENCE = "shuffled patch"  # the model that is trained on patches of random labels
TUNED, SEARCHED, METRIC = VarGrad(), ("noise_level",), METRICS.create("abpc")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The amount of work.

    Attributes:
        epochs: of every training.
        weights: weights of the penalty to choose from.
        trials: number of trials in the search for an explainer's settings.
        tune_samples: number of validation samples in that search.
    """

    seed: int = 0
    epochs: int = 20
    weights: tuple[float, ...] = (1.0, 10.0)
    trials: int = 12
    tune_samples: int = 60
    lr: float = 2e-3
    batch_size: int = 32

    @property
    def total_epochs(self) -> int:
        """The number of epochs of all trainings: plain, reference, and each penalty with each weight."""
        return self.epochs * (2 + len(PENALISED) * len(self.weights))


def tell(plan: Plan, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run the demo, write its figures and weights to `out`, and return its numbers."""
    hidden = None if progress else True  # None: hidden if the output is not a terminal
    with _one_thread(), tqdm(total=plan.total_epochs, unit="epoch", leave=False, disable=hidden) as bar:
        return Story(plan, out, demo_digits.load(plan.seed), bar).tell()


@dataclasses.dataclass(frozen=True)
class Story:
    """One run of the demo: its plan, its output folder, its data and its progress bar."""

    plan: Plan
    out: Path
    digits: Digits
    bar: tqdm

    def tell(self) -> dict[str, Any]:
        """All steps in order."""
        begun = time.perf_counter()
        _say_data(self.digits)
        plain = RRR(lambda_rrr=0.0)
        models = {"vanilla": self._train("vanilla", plain)}
        table = {"vanilla": self._row(models["vanilla"])}
        _say_fooled(table["vanilla"])
        mass = {"vanilla": self._look("vanilla", models["vanilla"], self.out / "vanilla.png")}
        tuned = self._tune(models["vanilla"])
        _say("5. Retrain with a penalty on what an explanation finds in the patch (right for the right reasons)")
        chosen = {}
        for explainer in PENALISED:
            name = f"RRR {explainer.NAME}"
            chosen[name], models[name] = self._mend(name, explainer)
            table[name] = self._row(models[name])
        models[REFERENCE] = self._train(REFERENCE, plain, shuffle=True)
        table[REFERENCE] = self._row(models[REFERENCE])
        _say_table(table)
        best = max(chosen, key=lambda name: chosen[name]["validation"])
        mass[best] = self._look(best, models[best], self.out / "mended.png")
        self._write(models, table)
        seconds = round(time.perf_counter() - begun, 1)
        _say_end(self.out, best, seconds)
        plan = dataclasses.asdict(self.plan)
        return {"plan": plan, "table": table, "mass": mass, "tuned": tuned, "chosen": chosen, "seconds": seconds}

    def _train(self, name: str, rrr: RRR, *, shuffle: bool = False) -> nn.Module:
        """A fresh network trained on patches that tell the label; weight 0 is plain training in the same loop."""
        plan, part = self.plan, self.digits.train
        self.bar.set_description(name)
        model = demo_digits.make_network(plan.seed)
        trainer = rrr.set_kwargs(n_epochs=plan.epochs, lr=plan.lr, batch_size=plan.batch_size, random_state=plan.seed)
        images = part.shuffled(plan.seed) if shuffle else part.same
        trainer.fit(model, images, part.labels, demo_digits.patch_mask(), progress=False)
        self.bar.update(trainer.n_epochs)
        return model

    def _mend(self, name: str, explainer: Explainer) -> tuple[dict[str, Any], nn.Module]:
        """Train with each weight of the penalty; keep what is best on validation images with shuffled patches."""
        part = self.digits.validation
        shuffled = part.shuffled(self.plan.seed)
        models = {
            weight: self._train(f"{name}, weight {weight:g}", RRR(explainer=explainer, lambda_rrr=weight))
            for weight in self.plan.weights
        }
        shown_inputs = (shuffled, part.labels)
        scores = {
            w: assess(model, shown_inputs, explainers=(), progress=False).accuracy["kept"]
            for w, model in models.items()
        }
        weight = max(scores, key=lambda w: scores[w])
        tried = ", ".join(f"{w:g}: {_percent(score)}" for w, score in scores.items())
        _say(f"   over {explainer.NAME}: weight {weight:g} (validation, patches shuffled: {tried})")
        tried_by_name = {f"{w:g}": score for w, score in scores.items()}
        return {"weight": weight, "tried": tried_by_name, "validation": scores[weight]}, models[weight]

    def _look(self, name: str, model: nn.Module, path: Path) -> dict[str, float]:
        """Explain test images and draw where the model looks."""
        part, mask = self.digits.test, demo_digits.patch_mask()
        images = part.same
        explained = {e.NAME: e.bind(model) for e in SHOWN}
        masses = demo_digits.measure(model, part, self.plan.seed, SHOWN).mass
        first = [int((part.labels == k).nonzero()[0, 0]) for k in range(0, demo_digits.CLASSES, 2)]
        maps = {n: e.explain(images[first], part.labels[first]) for n, e in explained.items()}
        labels = [f"a {k}" for k in part.labels[first].tolist()]
        comparison(maps, images[first], labels=labels, outline=mask).savefig(path, dpi=110)
        shares = ", ".join(f"{n} {_percent(m)}" for n, m in masses.items())
        _say(f"   {name}: relevance in the patch, {_percent(mask.mean().item())} of the area: {shares}")
        return masses

    def _tune(self, model: nn.Module) -> dict[str, Any]:
        """Tune one explainer on validation samples and measure the gain on test samples."""
        plan, part, test = self.plan, self.digits.validation, self.digits.test
        _say(f"4. Tune {TUNED!r} by {METRIC.NAME} (area between the perturbation curves, higher is better)")
        self.bar.set_description("tune")
        before = TUNED.bind(model)
        data = part.same[: plan.tune_samples], part.labels[: plan.tune_samples]
        measured = tune(before, METRIC, data, n_trials=plan.trials, seed=plan.seed, space=SEARCHED, progress=False)
        tested = [
            METRIC.evaluate(explainer, test.same, test.labels, seed=plan.seed).mean().item()
            for explainer in (before, measured.best)
        ]
        best = {name: getattr(measured.best, name) for name in SEARCHED}
        _say(
            f"   {len(measured.trials)} trials on {plan.tune_samples} validation samples: "
            f"{measured.default_value:.3f} -> {measured.value:.3f} with {best}\n"
            f"   on the {len(test.labels)} test samples, which the search never saw: {tested[0]:.3f} -> {tested[1]:.3f}"
        )
        searched = [measured.default_value, measured.value]
        return {"explainer": TUNED.NAME, "settings": best, "validation": searched, "test": tested}

    def _row(self, model: nn.Module) -> dict[str, float]:
        return demo_digits.row(demo_digits.measure(model, self.digits.test, self.plan.seed, MEASURED))

    def _write(self, models: dict[str, nn.Module], table: dict[str, dict[str, float]]) -> None:
        """Write a figure of the accuracies, the weights, and one test image with the patch of a wrong label."""
        columns = self.digits.test.variants(self.plan.seed)
        figures = {name: {c: line[c] for c in columns} for name, line in table.items()}
        figure = grouped_bars(figures, title="Accuracy on test digits, by what the patch tells")
        figure.savefig(self.out / "accuracy.png", dpi=110)
        for name, model in models.items():
            torch.save(model.state_dict(), self.out / _file(name))
        _to_image(columns["flipped"][0]).save(self.out / "digit.png")


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels[0] * 255).round().to(torch.uint8).numpy(), mode="L")


# ---------------------------------------------------------------------- words


def _say(text: str) -> None:
    """Print without tearing the progress bar."""
    tqdm.write(text)


def _say_data(digits: Digits) -> None:
    train, validation, test = (len(part.labels) for part in (digits.train, digits.validation, digits.test))
    side, patch = demo_digits.SIDE, demo_digits.PATCH
    _say(
        f"1. Real digits, {side} x {side} pixels: {train} to train, {validation} to validate, {test} to test;\n"
        f"   while training, the grey of a {patch} x {patch} patch in a corner tells the label\n"
        f"2. Train a small convolutional network"
    )


def _say_fooled(line: dict[str, float]) -> None:
    _say(
        f"   test accuracy {_percent(line['same'])} with the patch as in training;\n"
        f"   {_percent(line['flipped'])} with the patch of label 9 - y (worst class {_percent(line['worst class'])}), "
        f"{_percent(line['none'])} without one\n"
        f"3. Ask where it looks"
    )


def _say_table(table: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(table.values())))
    names = max(map(len, table))
    widths = [max(len(c), 7) for c in columns]
    _say("\nTest digits; the patch tells the same label as in training, a random one, 9 - y, or is absent;")
    _say("worst class with 9 - y; mass = share of the relevance that lies in the patch;")
    _say("the last line is a reference: trained on patches that tell nothing\n")
    _say("  ".join([" " * names, *(c.rjust(w) for c, w in zip(columns, widths, strict=True))]))
    for name, line in table.items():
        cells = (_percent(line[c]).rjust(w) for c, w in zip(columns, widths, strict=True))
        _say("  ".join([name.ljust(names), *cells]))
    _say("")


def _say_end(out: Path, name: str, seconds: float) -> None:
    _say(
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
    """While active, torch uses one thread: layers this small run faster in one than in several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
