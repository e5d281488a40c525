"""Gradients of losses by a model's weights, and products with them that need no gradient for each sample.

For samples with losses L_i and a direction v among the weights, the products <grad L_i, v> of a whole batch come from
one pass: g(u) = grad sum_i u_i L_i is linear in u, so the derivative of <g(u), v> by u holds them all. The same holds
for the outputs, which gives the product of their Jacobian with v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core.batch import Batch, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.labels import read_classes
from xaikit.core.loader_order import shuffles
from xaikit.core.params import Int
from xaikit.mitigation.forward import class_logits, evaluating, logits_of

SampleLoss = Callable[[Tensor, Tensor], Tensor]
WeightDirection = tuple[Tensor, ...]


def weights_of(model: nn.Module, layers: str | Sequence[str] | None) -> WeightDirection:
    """The weights by which losses are differentiated.

    Args:
        model: of the user.
        layers: names of modules whose weights count; None for all that are trained.

    Raises:
        UnknownNameError: for a module that is not there.
        InvalidInputError: where none of the weights is trained.
    """
    modules = dict(model.named_modules())
    listed = [""] if layers is None else list(layers) if isinstance(layers, (list, tuple)) else [layers]
    by_module = {module: name for name, module in modules.items()}
    names = [by_module.get(name, name) if isinstance(name, nn.Module) else str(name) for name in listed]
    stranger = next((name for name in names if name not in modules), None)
    if stranger is not None:
        raise UnknownNameError(f"the model has no layer {str(stranger)!r}{near_names(str(stranger), modules)}")
    weights = {id(p): p for name in names for p in modules[name].parameters() if p.requires_grad}
    if not weights:
        where = "the model" if layers is None else f"layers={names}"
        raise InvalidInputError(
            f"{where} has no weights that are trained: requires_grad is False for all; set it to True where "
            "the training changed them"
        )
    return tuple(weights.values())


def dot(first: WeightDirection, second: WeightDirection) -> Tensor:
    """The inner product of two directions."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


class LossGradients:
    """The losses of samples as functions of a model's weights, in evaluation mode.

    Args:
        model: of the user; nothing of it is changed.
        layers: as for `weights_of`.
        head: which output holds the logits.
        loss: function (output (N, ...), labels (N, ...)) -> (N,); None for the cross-entropy of classes.
        batch_size: samples in a pass.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] | None = None,
        *,
        head: str | int = "logits",
        loss: SampleLoss | None = None,
        batch_size: int = 128,
    ) -> None:
        self.model, self.weights = model, weights_of(model, layers)
        self._head, self._loss, self._batch_size = head, loss, Int(ge=1).check(batch_size, "batch_size")

    def batches(self, data: Any, what: str) -> Iterator[Batch]:
        """The samples of some data in their order, on the model's device, at most `batch_size` at once.

        Args:
            data: inputs and labels, as for `xaikit.scan`.
            what: name of the data in messages.

        Raises:
            InvalidInputError: for a loader that shuffles, whose samples have no number.
            InvalidTypeError: for labels that are no classes, where no loss was passed.
        """
        if shuffles(data):
            raise InvalidInputError(
                f"{what} must come in an order that stays, and the loader shuffles; pass a loader with shuffle=False"
            )
        device = self.weights[0].device
        for batch in read_batches(data, model=self.model, rows=self._batch_size):
            if self._loss is None and isinstance(batch.labels, Tensor) and batch.labels.is_floating_point():
                raise InvalidTypeError(
                    f"labels of {what} are {batch.labels.dtype} numbers: for a regression pass a loss of each sample, "
                    "loss=lambda output, labels: (output.flatten() - labels) ** 2; classes are whole numbers, "
                    "labels.long()"
                )
            read = batch if self._loss else batch._replace(labels=read_classes(batch.labels, batch.size))
            for begin in range(0, read.size, self._batch_size):
                yield read.take(range(begin, min(begin + self._batch_size, read.size))).to(device)

    def outputs(self, batch: Batch) -> Tensor:
        """The model's output for a batch, with its graph."""
        with evaluating(self.model), torch.enable_grad():
            run = logits_of if self._loss else class_logits
            return run(self.model, batch.inputs, self._head)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (N,).

        Args:
            outputs: of the model.
            labels: of the samples.

        Raises:
            InvalidInputError: for labels that are no class of the model, or a loss of another shape.
        """
        if self._loss is None:
            outside = labels[(labels < 0) | (labels >= outputs.shape[1])]
            if len(outside):
                raise InvalidInputError(
                    f"labels must be classes of the model, 0 to {outputs.shape[1] - 1}, got {int(outside[0])}"
                )
            return F.cross_entropy(outputs, labels, reduction="none")
        losses = self._loss(outputs, labels)
        if not isinstance(losses, Tensor) or losses.shape != (len(outputs),):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InvalidInputError(
                f"loss must return one number for each sample, ({len(outputs)},), got {got}; a loss of torch does with "
                "reduction='none'"
            )
        return losses

    def of_each(self, batch: Batch) -> Iterator[WeightDirection]:
        """The gradient of each sample's loss, one after the other.

        Args:
            batch: some samples.
        """
        for row in range(batch.size):
            sample = batch.take([row])
            with torch.enable_grad():
                loss = self.losses(self.outputs(sample), sample.labels).sum()
                yield self._gradient(loss)

    def of_data(self, data: Any, what: str) -> list[WeightDirection]:
        """The gradient of each sample's loss, of all samples of some data.

        Args:
            data: as for `batches`.
            what: name of the data in messages.
        """
        return [gradient for batch in self.batches(data, what) for gradient in self.of_each(batch)]

    def mean_gradient(self, data: Any) -> WeightDirection:
        """The gradient of the mean loss of the training data.

        Args:
            data: as for `batches`.
        """
        count, total = 0, tuple(torch.zeros_like(w) for w in self.weights)
        for batch in self.batches(data, "train"):
            with torch.enable_grad():
                part = self._gradient(self.losses(self.outputs(batch), batch.labels).sum())
            count, total = count + batch.size, tuple(t + p for t, p in zip(total, part, strict=True))
        return tuple(t / count for t in total)

    def products(self, batch: Batch, directions: Sequence[WeightDirection]) -> Tensor:
        """The products of each sample's gradient with some directions, (directions, N).

        Args:
            batch: some samples.
            directions: each with one tensor for each of the weights.
        """
        with torch.enable_grad():
            losses = self.losses(self.outputs(batch), batch.labels)
            factors = torch.ones_like(losses).requires_grad_()
            gradient = self._gradient(losses, factors, create_graph=True)
            rows = [torch.autograd.grad(dot(gradient, d), factors, retain_graph=True)[0] for d in directions]
        return torch.stack(rows)

    def products_and_curvature(
        self, batch: Batch, directions: Sequence[WeightDirection]
    ) -> tuple[Tensor, list[WeightDirection]]:
        """The `products` of each sample's gradient with some directions, and `hessian_product` for each of these.

        Args:
            batch: some samples.
            directions: each with one tensor for each of the weights.
        """
        with torch.enable_grad():
            losses = self.losses(self.outputs(batch), batch.labels)
            factors = torch.ones_like(losses).requires_grad_()
            gradient = self._gradient(losses, factors, create_graph=True)
            options: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            rows = [torch.autograd.grad(dot(gradient, d), (factors, *self.weights), **options) for d in directions]
        return torch.stack([row[0] for row in rows]), [row[1:] for row in rows]

    def curvature_product(self, batch: Batch, direction: WeightDirection) -> WeightDirection:
        """The Gauss-Newton matrix of the batch's summed loss times a direction: J' H J d.

        J is the Jacobian of the outputs by the weights, H the second derivative of the loss by the outputs.

        Args:
            batch: some samples.
            direction: one tensor for each of the weights.
        """
        with torch.enable_grad():
            outputs = self.outputs(batch)
            factors = torch.zeros_like(outputs).requires_grad_()
            backwards = self._gradient(outputs, factors, create_graph=True)
            (moved,) = torch.autograd.grad(dot(backwards, direction), factors, retain_graph=True)
            alone = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.losses(alone, batch.labels).sum(), alone, create_graph=True)
            (bent,) = torch.autograd.grad((slope * moved).sum(), alone)
            return self._gradient(outputs, bent)

    def hessian_product(self, batch: Batch, direction: WeightDirection) -> WeightDirection:
        """The second derivative of the batch's summed loss by the weights, times a direction.

        Args:
            batch: some samples.
            direction: one tensor for each of the weights.
        """
        with torch.enable_grad():
            slope = self._gradient(self.losses(self.outputs(batch), batch.labels).sum(), create_graph=True)
            along = dot(slope, direction)
            if not along.requires_grad:  # a loss that is linear in the weights
                return tuple(torch.zeros_like(w) for w in self.weights)
            return self._gradient(along)

    def _gradient(self, value: Tensor, factors: Tensor | None = None, *, create_graph: bool = False) -> WeightDirection:
        if not value.requires_grad:
            raise InvalidInputError("the model's output does not depend on these weights; name other layers=")
        return torch.autograd.grad(
            value, self.weights, factors, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
