"""Deep feature reweighting: only the last layer is trained anew, on samples whose groups come equally often."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import nn

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.layers import find_layer
from xaikit.mitigation.arrangement import in_order, sample_count
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.forward import evaluating, run_model
from xaikit.mitigation.group_balanced import GroupBalanced
from xaikit.mitigation.sources import Source


def _layer(value: Any, where: str) -> Any:
    if value is not None and not isinstance(value, str):
        raise InvalidTypeError(f"{where} must be the name of a layer or None, got {value!r}")
    return value


@MITIGATORS.register("dfr")
class DFR(GroupBalanced):
    """The last layer retrained on group-balanced samples, the features as they are (DFR, Kirichenko et al. 2023).

    A fooled model often has the right features and weighs them wrongly (arXiv:2204.02937). `fit` trains the last layer
    alone, in evaluation mode, on samples drawn so that every group comes equally often; pass it held-out samples, whose
    shortcut and class are not tied, as the paper does. `restart` draws the layer's weights anew first; the paper fits
    a logistic regression from scratch. `loss` is that of `GroupBalanced`: in a loop of one's own give the optimizer the
    last layer's parameters alone.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x, y, before = torch.rand(8, 4), torch.tensor([0, 1] * 4), model[0].weight.clone()
    >>> history = DFR(random_state=0).fit(model, x, y, groups=[0, 0, 0, 1] * 2, progress=False)
    >>> torch.equal(model[0].weight, before)
    True
    """

    lr = 1e-2
    layer: Annotated[Any, _layer, "the last layer; None takes the last linear one that the model runs"] = None
    restart: Annotated[bool, "draw the layer's weights anew before"] = True

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:
        layer = self._last(model, source)
        flags = [(p, p.requires_grad) for p in model.parameters()]
        modes = [(m, m.training) for m in model.modules()]
        with super()._training(model, source, groups) as arranged:
            try:
                for parameter, _ in flags:
                    parameter.requires_grad_(False)
                for parameter in layer.parameters():
                    parameter.requires_grad_(True)
                if self.restart and isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                    with torch.random.fork_rng():
                        torch.manual_seed(self.random_state or 0)
                        layer.reset_parameters()
                # Also in training mode the layers before the last stay in evaluation mode.
                for module, _ in modes:
                    module.training = module is model or module in set(layer.modules())
                yield arranged
            finally:
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)
                for module, training in modes:
                    module.training = training

    def _last(self, model: nn.Module, source: Source) -> nn.Module:
        """The layer that is trained."""
        if self.layer is not None:
            layer: nn.Module = find_layer(model, self.layer)[1]
            if not any(True for _ in layer.parameters()):
                raise InvalidInputError(f"the layer {self.layer!r} has no parameters, so there is nothing to train")
            return layer
        run: list[nn.Module] = []
        linear: list[nn.Module] = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
        handles = [m.register_forward_hook(lambda module, *_: run.append(module)) for m in linear]
        try:
            if sample_count(source):
                with evaluating(model) as device:
                    run_model(model, next(in_order(source))[0].take([0]).to(device).inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not linear:
            raise InvalidInputError("the model has no linear layer that could be the last; name one with layer=")
        return (run or linear)[-1]
