"""Concept relevance propagation: the relevance that flows through chosen channels of hidden layers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core import Call
from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.graphs import depends_on
from xaikit.core.layers import LayerPoint, find_point
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.rows import rows_per_pass
from xaikit.core.several_targets import run_for_targets
from xaikit.core.structure import Tensors
from xaikit.core.taps import Readings, tapped
from xaikit.core.targets import is_several
from xaikit.explainers.layer_channels import layer_channel_axis
from xaikit.explainers.lrp.engine import ZennitLRP
from xaikit.explainers.lrp.flow import relevance_of

MAX_CONDITIONS = 16  # in one pass: what lies between convolutions outgrows the processor's cache with more
Condition = Mapping[Any, Any]  # from a layer to its channels
ChannelMasks = Mapping[str, Tensor]  # from the name of a layer to 1 at its channels


def conditional_relevance(  # noqa: PLR0913
    explainer: ZennitLRP,
    inputs: Any,
    targets: Any = None,
    *,
    conditions: Condition | Sequence[Condition],
    channel_axis: int | None = None,
    seed: int = 0,
) -> Any:
    """The relevance of the inputs that flows through some channels of some layers (CRP, Achtibat et al. 2023).

    ``{"layer4": [3, 17]}``: the relevance of the score is handed back to the output of `layer4`, all channels but 3 and
    17 are set to 0 there, and it is handed back further from there alone. Of several layers, it must pass the channels
    of each, from the last that runs to the first. The sum over all channels of a layer is the relevance that flows
    through the layer: all of it, where no path leads past the layer. (Source: 10.1038/s42256-023-00711-8.)

    Args:
        explainer: an LRP explainer with a model, such as ``LRPEpsilonPlus(model)``. With ``layer=`` it is the relevance
            of that layer, such as a text model's embedding, which must run before those in `conditions`.
        inputs: as for `Explainer.attribute`.
        targets: likewise; several in a list share the forward pass.
        conditions: from a layer, by name or as a module, to its channels: whole numbers, or one. Or a list of such
            mappings; they share the forward pass and the first backward pass, and those of the same layers also the
            backward pass from there on, where every rule allows it.
        channel_axis: of the layers' outputs; None: as the kinds of the layer and those before it and the form of an
            image tell, such as the last for tokens (N, T, D).
        seed: as for `Explainer.attribute`.

    Returns:
        For a mapping the relevance in the structure and the shape of the inputs; for a list, with a new first axis. For
        several targets, with a new first axis for them before that.

    Raises:
        InvalidInputError: for a channel that is not there, a layer that stands twice in a condition, one that does not
            tell where its channels are, or one on which an explained one does not depend.
        InvalidTypeError: for an explainer that is not LRP, or conditions of another form.
        UnreachableError: when the score does not depend on a layer.

    >>> from xaikit.explainers import LRPEpsilonPlus
    >>> layers = torch.nn.Linear(4, 6, bias=False), torch.nn.ReLU(), torch.nn.Linear(6, 2, bias=False)
    >>> model = torch.nn.Sequential(*layers)
    >>> explainer, x = LRPEpsilonPlus(model), torch.rand(3, 4)
    >>> parts = conditional_relevance(explainer, x, 0, conditions=[{"1": k} for k in range(6)])
    >>> parts.sum(0).allclose(explainer.attribute(x, 0), atol=1e-5)
    True
    """
    if not isinstance(explainer, ZennitLRP):
        raise InvalidTypeError(
            f"conditional relevance needs an LRP explainer, such as LRPEpsilonPlus(model), got {explainer!r}"
        )
    is_list = not isinstance(conditions, Mapping)
    condition_list: list[Any] = list(conditions) if is_list else [conditions]
    if not condition_list or not all(isinstance(c, Mapping) and c for c in condition_list):
        raise InvalidTypeError(
            f"conditions must be a mapping from layers to channels, or a list of them, got {conditions!r}"
        )

    def method(call: Call) -> tuple[Tensors, ...]:
        return tuple(_conditional(explainer, call, condition_list, channel_axis))

    results = run_for_targets(explainer, method, inputs, targets, seed=seed)
    count = len(condition_list)
    by_target = [
        _stacked(results[begin : begin + count]) if is_list else results[begin]
        for begin in range(0, len(results), count)
    ]
    return _stacked(by_target) if is_several(targets) else by_target[0]


def _stacked(results: Sequence[Any]) -> Any:
    first = results[0]
    if isinstance(first, Tensor):
        return torch.stack(list(results))
    if isinstance(first, Mapping):
        return {key: torch.stack([r[key] for r in results]) for key in first}
    return tuple(torch.stack(list(tensors)) for tensors in zip(*results, strict=True))


def _conditional(
    explainer: ZennitLRP, call: Call, conditions: Sequence[Condition], channel_axis: int | None
) -> list[Tensors]:
    explained = [find_point(call.model, layer) for layer in explainer.layers]
    conditioned = [find_point(call.model, layer) for condition in conditions for layer in condition]
    points = list({p.name: p for p in (*conditioned, *explained)}.values())
    names = [p.name for p in points]
    leaves: list[Tensor] = []

    def at_layers(inputs: Tensors) -> Tensors:
        readings.check(call.model, call.n)
        for point, count, (output, *_) in zip(points, readings.runs, readings.outputs, strict=True):
            if count > 1 or len(output) != call.n:
                raise InvalidInputError(
                    f"layer {point.name!r} must run once and keep the batch of {call.n} first, it runs {count} times "
                    f"and returns {tuple(output.shape)}; name one that does"
                )
        leaves.extend([readings.by_run[names.index(p.name)][0] for p in explained] or inputs)
        for point in conditioned if explained else ():
            output = readings.outputs[names.index(point.name)][0]
            for leaf, layer in zip(leaves, explained, strict=True):
                if not depends_on(output, (leaf,)):
                    raise InvalidInputError(
                        f"layer {point.name!r} of the conditions does not depend on layer {layer.name!r}, whose "
                        "relevance is asked for; explain a layer that runs before it"
                    )
        return readings.leaves

    trace = explainer._trace(call, None, repeated=True)
    with explainer.tracing(call, trace) as traced, tapped(points, traced.tap) as readings:
        # `passes_kept` keeps the graph for the passes from the layers on.
        with_graph = dataclasses.replace(traced, passes_kept={})
        by_target = [dict(zip(names, g, strict=True)) for g in with_graph.grads_of(call.inputs, at=at_layers)]
        masks = []
        for condition in conditions:
            at_layer = {}
            for layer, channels in condition.items():
                point = find_point(call.model, layer)
                if point.name in at_layer:
                    raise InvalidInputError(
                        f"layer {point.name!r} stands twice in a condition, by name and as a module; give all of its "
                        "channels in one list"
                    )
                output = readings.outputs[names.index(point.name)][0]
                at_layer[point.name] = _mask(point, output, channels, _axis(point, output, call, channel_axis))
            masks.append(at_layer)
        # No graph is kept, as in passes without a gradient.
        most = max(1, min(MAX_CONDITIONS, 2 * rows_per_pass(call.inputs) // call.n))
        return [
            relevance
            for arriving in by_target
            for relevance in _all_handed_back(
                functools.partial(_handed_back, points, readings, arriving, leaves=tuple(leaves)), masks, most
            )
        ]


def _all_handed_back(
    handed_back: Callable[[ChannelMasks], Tensors], masks: Sequence[ChannelMasks], most: int
) -> list[Tensors]:
    """The relevance for each condition; those of the same layers share backward passes, at most so many a pass.

    What a rule computes of activations alone, such as z+, is then computed once for all of them.
    """
    results: dict[int, Tensors] = {}
    by_layers: dict[frozenset[str], list[int]] = {}
    for i, mask in enumerate(masks):
        by_layers.setdefault(frozenset(mask), []).append(i)
    for numbers in by_layers.values():
        for begin in range(0, len(numbers), most):
            some = numbers[begin : begin + most]
            results.update(zip(some, _in_one_pass(handed_back, [masks[i] for i in some]), strict=True))
    return [results[i] for i in range(len(masks))]


def _in_one_pass(handed_back: Callable[[ChannelMasks], Tensors], masks: Sequence[ChannelMasks]) -> list[Tensors]:
    if len(masks) > 1:
        stacked = {name: torch.stack([mask[name] for mask in masks]) for name in masks[0]}
        with warnings_ignored("There is a performance drop", UserWarning):
            try:
                together = torch.func.vmap(handed_back)(stacked)
            except Exception:  # noqa: BLE001  (a rule that looks at values, an operation that torch cannot batch)
                together = None
        if together is not None:
            return [tuple(part[i] for part in together) for i in range(len(masks))]
    return [handed_back(mask) for mask in masks]


def _handed_back(
    points: Sequence[LayerPoint],
    readings: Readings,
    arriving: Mapping[str, Tensor],
    masks: ChannelMasks,
    leaves: Tensors,
) -> Tensors:
    """The relevance of the inputs that passes each mask, from the last layer to the first."""
    index = {p.name: i for i, p in enumerate(points)}
    outputs = {name: readings.outputs[i][0] for name, i in index.items()}
    entries = {name: readings.by_run[i][0] for name, i in index.items()}

    def before(a: str, b: str) -> int:
        return 1 if depends_on(outputs[a], (entries[b],)) else -1

    first, *others = sorted(masks, key=functools.cmp_to_key(before), reverse=True)
    flowing, name = arriving[first] * masks[first], first
    for following in others:
        flowing = _step(outputs[name], (entries[following],), flowing)[0] * masks[following]
        name = following
    gradients = _step(outputs[name], leaves, flowing)
    return tuple(relevance_of(g, x.detach()) for g, x in zip(gradients, leaves, strict=True))


def _step(output: Tensor, goals: Tensors, flowing: Tensor) -> Tensors:
    if not output.requires_grad:
        return tuple(torch.zeros_like(x) for x in goals)
    gradients = torch.autograd.grad(output, goals, flowing, retain_graph=True, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, goals, strict=True))


def _axis(point: LayerPoint, output: Tensor, call: Call, channel_axis: int | None) -> int:
    if channel_axis is not None:
        if not -output.ndim < channel_axis < output.ndim or channel_axis % output.ndim == 0:
            raise InvalidInputError(
                f"channel_axis must name an axis of {tuple(output.shape)} after the first, got {channel_axis}"
            )
        return channel_axis % output.ndim
    return layer_channel_axis(call.model, point, output, (call.uncut or call).inputs)


def _mask(point: LayerPoint, output: Tensor, channels: Any, axis: int) -> Tensor:
    """1 at the channels and 0 elsewhere, to broadcast against a layer's output."""
    numbers = to_tensor(channels, f"the channels of layer {point.name!r}").cpu().flatten()
    if numbers.dtype.is_floating_point or numbers.dtype == torch.bool or not len(numbers):
        raise InvalidTypeError(f"the channels of layer {point.name!r} must be whole numbers, got {channels!r}")
    count = output.shape[axis]
    if bool(((numbers < 0) | (numbers >= count)).any()):
        raise InvalidInputError(
            f"layer {point.name!r}, which returns {tuple(output.shape)}, has channels 0 to {count - 1}, got "
            f"{channels!r}"
        )
    mask = torch.zeros(count, dtype=output.dtype, device=output.device)
    mask[numbers.to(output.device)] = 1
    return mask.view(*[-1 if d == axis else 1 for d in range(output.ndim)])


def channel_relevance(  # noqa: PLR0913
    explainer: ZennitLRP,
    inputs: Any,
    targets: Any = None,
    *,
    layer: Any,
    channel_axis: int | None = None,
    seed: int = 0,
) -> Tensor:
    """The relevance of each channel of a layer, summed over its positions: which channels to put into `conditions`.

    Args:
        explainer: an LRP explainer with a model.
        inputs: as for `Explainer.attribute`.
        targets: likewise.
        layer: by name or as a module.
        channel_axis: of the layer's output; None: as in `conditional_relevance`.
        seed: as for `Explainer.attribute`.

    Returns:
        (N, K) for K channels; for several targets (targets, N, K). The sum over the channels is the relevance that
        flows through the layer.

    Raises:
        InvalidTypeError: for an explainer that is not LRP.
        InvalidInputError: for an axis that is not there, a layer that runs several times.

    >>> from xaikit.explainers import LRPEpsilonPlus
    >>> layers = torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24, 2)
    >>> model = torch.nn.Sequential(*layers)
    >>> channel_relevance(LRPEpsilonPlus(model), torch.rand(3, 1, 4, 4), 0, layer="1").topk(2).indices.shape
    torch.Size([3, 2])
    """
    if not isinstance(explainer, ZennitLRP):
        raise InvalidTypeError(
            f"the relevance of channels needs an LRP explainer, such as LRPEpsilonPlus(model), got {explainer!r}"
        )
    sums: list[Tensor] = []

    def method(call: Call) -> tuple[Tensors, ...]:
        point = find_point(call.model, layer)
        runs: list[int] = []
        # Counted in the last pass alone: a batch as large as the layer is wide is passed twice, to tell its axes apart.
        with (
            call.model.register_forward_pre_hook(lambda *_: runs.clear()),
            point.module.register_forward_pre_hook(lambda *_: runs.append(1)),
        ):
            every = [relevance for (relevance,) in explainer_at.attribute_each(call)]
        if len(runs) > 1:  # the relevance is (N, runs, ...), and one run may feed another
            raise InvalidInputError(
                f"layer {point.name!r} must run once, it runs {len(runs)} times; name one that does"
            )
        axis = _axis(point, every[0], call, channel_axis)
        others = [d for d in range(1, every[0].ndim) if d != axis]
        sums.extend((relevance.sum(others) if others else relevance).detach() for relevance in every)
        return ()

    explainer_at = explainer.set_kwargs(layer=layer)
    run_for_targets(explainer_at, method, inputs, targets, seed=seed)
    return torch.stack(sums) if is_several(targets) else sums[0]
