"""Randomisation: an explanation must change when the model or the explained class changes."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from torch import Tensor, nn

from xaikit.core import METRICS, Call, Categorical, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.model_state import EXCLUSIVE, modules_of, reseed
from xaikit.core.replica import Replica, original_of
from xaikit.core.rows import even_ranges
from xaikit.core.structure import Tensors, by_row
from xaikit.metrics.base import EvaluationContext, Metric
from xaikit.metrics.similarity import ROWWISE, WINDOW, ssim


class Comparing(Metric, abc.ABC):
    """Base of metrics that compare two explanations of a sample."""

    similarity: Annotated[
        str,
        Categorical(*ROWWISE, "ssim", search=False),
        "of two explanations; ssim: structural similarity of maps (N, C, H, W)",
    ] = "spearman"
    absolute: Annotated[bool, "compare the sizes of the attributions, without their signs"] = False

    def _similarity(self, first: Tensors, second: Tensors) -> Tensor:
        if self.absolute:
            first, second = tuple(a.abs() for a in first), tuple(b.abs() for b in second)
        if self.similarity == "ssim":
            for a in first:
                if a.ndim != 4 or min(a.shape[2:]) < WINDOW:
                    raise InvalidInputError(
                        f"similarity='ssim' compares maps (N, C, H, W) of at least {WINDOW} x {WINDOW}, "
                        f"got {tuple(a.shape)}; use 'spearman'"
                    )
            return torch.stack([ssim(a, b) for a, b in zip(first, second, strict=True)]).mean(0)
        rows = [torch.cat([by_row(v) for v in values], 1) for values in (first, second)]
        return ROWWISE[self.similarity](*rows).to(rows[0])


@METRICS.register("model_randomisation")
class ModelRandomisation(Comparing):
    """Mean similarity to the explanations of models with more and more random parameters; lower is better.

    From the output to the input, the parameters of one layer after the other are drawn anew (Adebayo et al. 2018,
    arXiv:1810.03292, cascading), or those of each layer alone (independent). A layer draws by its own
    `reset_parameters`; the values of a layer without this method are shuffled. An explanation that stays similar does
    not depend on what the model has learnt. A private copy is randomised; a model that cannot be copied is randomised
    itself and restored bit for bit. Stages whose explanation is constant are left out.

    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> ModelRandomisation().evaluate(Gradient(model), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "minimize"

    order: Annotated[str, Categorical("cascading", "independent", search=False), "what is random at a time"] = (
        "cascading"
    )
    n_stages: Annotated[
        int | None, Int(ge=1, optional=True), "stages over which the layers are spread evenly; None: one for each"
    ] = None

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        with randomisable(context) as (trial, layers, restore):
            stages = even_ranges(len(layers), -(-len(layers) // (self.n_stages or len(layers))))
            similarities = []
            for stage in stages:
                if self.order == "independent":
                    restore()
                for i in stage:
                    reseed(context.call.inputs[0].device, context.seed + i)
                    for module in layers[i]:
                        randomise(module)
                similarities.append(self._similarity(context.attributions, trial.attribute(context.targets)))
        return torch.stack(similarities).nanmean(0)


@METRICS.register("random_logit")
class RandomLogit(Comparing):
    """Similarity of the explanation to that of another class; lower is better (Sixt et al. 2020, arXiv:1912.09818).

    The other class is the explained one plus k, modulo the number of classes, k drawn once for all samples.

    >>> from xaikit.explainers import Gradient
    >>> RandomLogit().evaluate(Gradient(torch.nn.Linear(4, 3)), torch.rand(2, 4), 0).shape
    torch.Size([2])
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        target = context.call.target
        one = context.call.at(slice(0, 1)) if isinstance(target, Tensor) else context.call
        output = one.run(one.inputs)
        classes = output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else 1
        if not isinstance(target, Tensor) or classes < 2:
            raise InvalidInputError(
                "RandomLogit compares the explained class with another: it needs class targets and a model with "
                f"several outputs, got targets {'of classes' if isinstance(target, Tensor) else repr(target)} and "
                f"{classes} output{'s' if classes > 1 else ''}"
            )
        generator = torch.Generator().manual_seed(context.seed)
        k = int(torch.randint(1, classes, (), generator=generator, device="cpu"))
        return self._similarity(context.attributions, context.attribute((target + k) % classes))


@contextlib.contextmanager
def randomisable(
    context: EvaluationContext,
) -> Iterator[tuple[EvaluationContext, list[list[nn.Module]], Callable[[], None]]]:
    """The evaluation on a model whose weights may change, its layers from the output on, and what puts all back.

    Other threads, and the user, go on with the model as it is, unless it cannot be copied.
    """
    model, layers = original_of(context.call.model), layers_from_output(context.call)
    if not layers:
        raise InvalidInputError(
            f"a randomisation test draws parameters anew, and {type(model).__name__} has none; measure another metric"
        )
    if context.call.facts.replicable is False:
        with EXCLUSIVE, kept(model) as restore:
            yield context, layers, restore
        return
    replica = Replica(modules_of(model), training=None, freeze=False, share_weights=False)
    trial = dataclasses.replace(context, explainer=context.explainer.set_kwargs(model=replica.model))
    with kept(replica.model) as restore:
        yield trial, [[replica.copies[module] for module in unit] for unit in layers], restore


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Put every parameter and buffer back, bit for bit, at the end and whenever the yielded function is called."""
    values = [(t, t.detach().clone()) for t in itertools.chain(model.parameters(), model.buffers())]

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in values:
            tensor.copy_(value)

    try:
        yield restore
    finally:
        restore()


def layers_from_output(call: Call) -> list[list[nn.Module]]:
    """The modules that hold parameters, in reverse order of their first run, each with its parts that never run.

    The order of running, not of definition, says which layer is nearer to the output.
    """
    names = dict(call.model.named_modules())
    started: dict[str, int] = {}
    handles = [
        m.register_forward_pre_hook(lambda _m, _args, key=name: started.update({key: len(started)}))
        for name, m in names.items()
    ]
    try:
        call.run(call.inputs)
    finally:
        for handle in handles:
            handle.remove()
    units: dict[str, list[nn.Module]] = {}
    for name, module in names.items():
        if next(module.parameters(recurse=False), None) is None:
            continue
        runner = name
        while runner and runner not in started:
            runner = runner.rpartition(".")[0]
        units.setdefault(runner, []).append(original_of(module))
    # The model itself never starts if only a part of it runs (after a cut at a layer); it counts as the first.
    return [units[name] for name in sorted(units, key=lambda n: started.get(n, -1), reverse=True)]


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Draw new values for the parameters of the module itself, not of its submodules."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        shuffled = parameter.flatten()[torch.randperm(parameter.numel(), device="cpu").to(parameter.device)]
        parameter.copy_(shuffled.view_as(parameter))
