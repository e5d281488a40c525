"""A concept as a direction among a layer's channels, fitted from samples that show it and samples that do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.labels import label_values, read_classes
from xaikit.core.layers import cut_at, find_point, layers_to_name
from xaikit.core.model_state import evaluated
from xaikit.core.results import Result
from xaikit.core.structure import check_batch, flatten
from xaikit.explainers.layer_channels import layer_channel_axis
from xaikit.mitigation.forward import run_model

BATCH = 64  # samples in a pass
METHODS = ("pattern", "ridge", "svm")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Concept(Result):
    """A direction among the channels of a layer.

    Attributes:
        layer: name of the layer.
        direction: of length 1, (channels,); it points from samples without the concept to those with it.
        absent: mean activation of the samples without, (channels,).
        present: mean activation of the samples with it, (channels,).
        channel_axis: of the layer's output.
    """

    layer: str
    direction: Tensor
    absent: Tensor
    present: Tensor
    channel_axis: int = 1

    def spec(self) -> dict[str, Any]:
        """The concept as plain JSON values, for the spec of a mitigator that holds it."""
        return self.to_dict()

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        inputs: Any,
        labels: Any,
        *,
        layer: str | nn.Module | None = None,
        method: str = "pattern",
        channel_axis: int | None = None,
        regularization: float = 1.0,
    ) -> Concept:
        """A concept whose direction is fitted to activations, averaged over the positions.

        Args:
            model: the model, run in evaluation mode.
            inputs: samples (N, ...), in any form that an explainer takes.
            labels: (N,), true or 1 where a sample shows the concept, false or 0 elsewhere.
            layer: whose output, (N, channels, ...), holds the concept; ``"NAME.input"`` for the layer's input. It must
                be named; `concept_layers` measures which one suits.
            method: "pattern": the covariance of activation and label over the label's variance, which is the difference
                of the two means; noise that both classes share does not change it (Pahde et al. 2022,
                arXiv:2202.03482). "ridge" and "svm": the weights of a linear classifier on standardised activations,
                with squared error or squared hinge loss.
            channel_axis: where the output has its channels, such as -1 in (N, tokens, channels); None: as the kinds of
                the layer and those before it and the form of images tell.
            regularization: of "ridge" and "svm": the penalty regularization * |w|² / 2 against a sum over samples.

        Raises:
            InvalidInputError: for labels of one kind only, or of another number of samples; for a layer that does not
                tell where its channels are.
            InvalidTypeError: for a layer that is not named.
        """
        check_method(method)
        if not isinstance(layer, (str, nn.Module)):
            raise InvalidTypeError(
                f"Concept.fit needs layer=, the layer that holds the concept, got {layer!r}; name one, "
                f"{layers_to_name(model)}, or measure which suits: xaikit.mitigation.concept_layers(model, x, labels)"
            )
        inputs = read_inputs(inputs, model)
        shows = _read_flags(labels, check_batch(flatten(inputs)[0]))
        name = find_point(model, layer).name
        a, axis = channel_activations(model, inputs, layer, channel_axis=channel_axis)
        absent, present = a[~shows].mean(0), a[shows].mean(0)
        direction = separating_direction(a, shows, method=method, regularization=regularization, layer=name)
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        return cls(name, direction.to(dtype), absent.to(dtype), present.to(dtype), axis)

    def moved_value(self, value: Any, to: Tensor) -> Any:
        """What a layer returns, or the arguments that it gets, with the activation moved as `moved` does.

        Args:
            value: a tensor, or a tuple or a dict that holds one.
            to: an activation, (channels,).

        Raises:
            InvalidInputError: for several tensors of numbers, of which none is known to be the activation.
        """
        if isinstance(value, Tensor):
            return self.moved(value, to)
        items = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        places = [key for key, item in items.items() if isinstance(item, Tensor) and self._fits(item)]
        if len(places) != 1:
            raise InvalidInputError(
                f"layer {self.layer!r} has {len(places)} tensors with {len(self.direction)} channels, and a concept is "
                f"of one; name a layer that has one"
            )
        items[places[0]] = self.moved(items[places[0]], to)
        return items if isinstance(value, Mapping) else tuple(items.values())

    def _fits(self, item: Tensor) -> bool:
        axis = self.channel_axis
        has_axis = -item.ndim <= axis < item.ndim
        return has_axis and item.is_floating_point() and item.shape[axis] == len(self.direction)

    def moved(self, activation: Tensor, to: Tensor) -> Tensor:
        """Activations a - v vᵀ (a - to), whose part along the direction v is that of `to`.

        Args:
            activation: of the layer, (N, channels, ...) or as `channel_axis` says.
            to: an activation, (channels,).
        """
        v, z = self.direction.to(activation), to.to(activation)
        last = activation.movedim(self.channel_axis, -1)
        return (last - ((last - z) @ v)[..., None] * v).movedim(-1, self.channel_axis)


def check_method(method: Any) -> None:
    """Refuse a way to fit that is none.

    Raises:
        InvalidInputError: for anything but "pattern", "ridge" and "svm".
    """
    if method not in METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")


def channel_activations(
    model: nn.Module, inputs: Any, layer: str | nn.Module, *, channel_axis: int | None = None
) -> tuple[Tensor, int]:
    """The activations of a layer, averaged over the positions, (N, channels) in float64 on the CPU; their axis there.

    Args:
        model: the model, run in evaluation mode.
        inputs: samples (N, ...), in any form that an explainer takes.
        layer: as for `Concept.fit`.
        channel_axis: likewise.
    """
    tensors, rebuild = flatten(read_inputs(inputs, model))
    n = check_batch(tensors)
    name = find_point(model, layer).name
    parts: list[Tensor] = []
    with torch.no_grad(), evaluated(model, tensors[0].device) as running:
        point = find_point(running, name)

        def read(rows: Tensor) -> Tensor:
            batch = rebuild(tuple(t[rows.to(t.device)] for t in tensors))
            return cut_at(running, [point], lambda: run_model(running, batch), len(rows), False)[0]

        for rows in torch.arange(n, device="cpu").split(BATCH):
            a = read(rows)
            if not parts and a.ndim > 2 and a.shape[1] == len(rows) > 1:
                read(rows[1:])  # (T, N, D) with T = N looks like (N, T, D); with one sample less it is refused
            if channel_axis is None:
                channel_axis = layer_channel_axis(running, point, a, tensors)
            parts.append(_channels(a, channel_axis).double().cpu())
    return torch.cat(parts), int(channel_axis or 0)


def separating_direction(
    a: Tensor, shows: Tensor, *, method: str = "pattern", regularization: float = 1.0, layer: str = ""
) -> Tensor:
    """The direction of length 1 from activations without the concept to those with it, (channels,).

    Args:
        a: activations (N, channels).
        shows: which samples show the concept, flags (N,).
        method: as for `Concept.fit`.
        regularization: likewise.
        layer: its name, for the message.

    Raises:
        InvalidInputError: where both have the same mean.
    """
    absent, present = a[~shows].mean(0), a[shows].mean(0)
    if float((present - absent).norm()) <= 1e-12 * float(present.norm() + absent.norm()):
        raise InvalidInputError(f"layer {layer!r} has the same activations with and without the concept")
    direction = present - absent if method == "pattern" else _classifier(a, shows, method, regularization)
    return direction / direction.norm()


def check_concept(value: Any, where: str) -> Concept:
    """The value, when it is a concept, or what `Concept.to_dict` made of one.

    Raises:
        InvalidTypeError: for anything else.
    """
    if isinstance(value, Mapping):  # as a mitigator's spec holds it
        return Concept.from_dict(value)
    if not isinstance(value, Concept):
        raise InvalidTypeError(
            f"{where} must be a Concept, made by Concept.fit(model, x, labels, layer=...), got {value!r}"
        )
    return value


def _read_flags(labels: Any, n: int) -> Tensor:
    """Which samples show the concept, (N,) booleans."""
    flags = label_values(labels).cpu()
    shows = read_classes(flags.long() if flags.dtype == torch.bool else flags, n, n_classes=2).bool()
    if bool(shows.all()) or not bool(shows.any()):
        raise InvalidInputError(
            f"labels must say of each of {n} samples whether it shows the concept, and there must be both; "
            f"got {int(shows.sum())} true"
        )
    return shows


def _channels(activation: Tensor, axis: int) -> Tensor:
    """Activations averaged over positions, (N, channels)."""
    if axis % max(activation.ndim, 1) == 0 or not -activation.ndim <= axis < activation.ndim:
        raise InvalidInputError(
            f"channel_axis must be an axis of the layer's output after the first, which holds the samples, got {axis} "
            f"for shape {tuple(activation.shape)}"
        )
    return activation.movedim(axis, 1).flatten(2).mean(2) if activation.ndim > 2 else activation


def _classifier(a: Tensor, shows: Tensor, method: str, regularization: float) -> Tensor:
    """The weights of a linear classifier, for activations as they are, fitted to standardised ones."""
    scale = a.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    z, t = (a - a.mean(0)) / scale, torch.where(shows, 1.0, -1.0).double()
    if method == "ridge":
        gram = z.T @ z + regularization * torch.eye(z.shape[1], dtype=z.dtype, device="cpu")
        return torch.linalg.solve(gram, z.T @ (t - t.mean())) / scale
    weights = torch.zeros(z.shape[1] + 1, dtype=z.dtype, requires_grad=True, device="cpu")
    solver = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def loss() -> Tensor:
        solver.zero_grad()
        w, b = weights[:-1], weights[-1]
        value: Tensor = regularization * w.square().sum() / 2 + F.relu(1 - t * (z @ w + b)).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weights.detach()[:-1] / scale
