"""Class artifact compensation: three methods that make a model ignore a concept in a layer's channels."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xaikit.core import MITIGATORS, Categorical, Explainer, Float
from xaikit.core.forward import checkpoints_off
from xaikit.core.layers import find_point, hooked
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.structure import Tensors
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.mitigation.concepts import Concept, check_concept
from xaikit.mitigation.penalties import OUTPUTS, TARGETS, masked_power
from xaikit.mitigation.projections import Direction


@MITIGATORS.register("rr_clarc")
class RRClArC(AttributionMitigator):
    """Mean cross-entropy + lambda_rr * mean of <dS/da, v>² (Dreyer et al. 2024, arXiv:2308.09437).

    a are the activations of the concept's layer, and v is the concept's direction, to which the score S must not react.
    At a layer with positions, the squares of all positions are added. By default S is a random combination of the
    logits, so that no class reacts; ``target="label"`` is the class-specific form. A mask is optional; it selects
    positions.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x, y = torch.rand(40, 4), torch.tensor([0, 1] * 20)
    >>> concept = Concept.fit(model, x, x[:, 0] > 0.5, layer="1")
    >>> history = RRClArC(concept=concept, lambda_rr=10.0, lr=0.01, random_state=0).fit(model, x, y, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_rr"
    NEEDS_MASK: ClassVar[bool] = False

    concept: Annotated[Any, check_concept, "what must not matter, from Concept.fit"]
    target: Annotated[str, Categorical(*TARGETS), "whose score is explained"] = "random"
    output: Annotated[str, Categorical(*OUTPUTS), "what the score is"] = "logit"
    lambda_rr: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 1.0

    def _explainer(self, model: nn.Module) -> Explainer:
        return self.explainer_for(model).set_kwargs(layer=self.concept.layer)

    def _masks(self, masks: Any, attributions: Tensors, inputs: Tensors) -> Tensors:
        (attribution,) = attributions
        if masks is not None and attribution.ndim == 2:
            # The layer's output has no positions that a mask could mark, only samples.
            (at_input,) = fit_masks(masks, inputs[:1], what=self.MASK_NAME)
            return (at_input.flatten(1).amax(1, keepdim=True).expand_as(attribution),)
        return super()._masks(masks, attributions, inputs)

    def _attribution_penalty(self, attributions: Tensors, masks: Tensors) -> Tensor:
        what = Direction(vector=self.concept.direction, channel_axis=self.concept.channel_axis)
        return masked_power(attributions, masks, what=what, power=2, normalization="none", reduction="mean")


@MITIGATORS.register("a_clarc")
class AClArC(ChangedMitigator):
    """Mean cross-entropy + lambda_a * that of the samples with the concept added.

    At the concept's layer, the activations a become a - v vᵀ (a - z), with z the mean of samples that show the concept:
    every sample seems to show the concept, so it says nothing about the class (Anders et al. 2022, arXiv:1912.11425).
    Masks are not used.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x, y = torch.rand(40, 4), torch.tensor([0, 1] * 20)
    >>> concept = Concept.fit(model, x, x[:, 0] > 0.5, layer="1")
    >>> history = AClArC(concept=concept, lr=0.01, random_state=0).fit(model, x, y, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_a"
    NEEDS_MASK: ClassVar[bool] = False
    EMPTY_MASK_WARNING: ClassVar[str | None] = None

    concept: Annotated[Any, check_concept, "what must not matter, from Concept.fit"]
    lambda_a: Annotated[float, Float(low=1e-2, high=1e2, log=True, ge=0), "weight of the changed samples"] = 1.0

    def _changed_logits(self, model: nn.Module, x: Any, y: Tensor, masks: Any, seed: int) -> Tensor:  # noqa: ARG002
        point = find_point(model, self.concept.layer)
        # Another thread may explain the model meanwhile; nn.DataParallel runs the model in threads of its own.
        in_this_thread = not any(isinstance(m, nn.DataParallel) for m in model.modules())
        move = functools.partial(self.concept.moved_value, to=self.concept.present)
        moved = hooked([(point, move)]) if in_this_thread else _moved(model, self.concept, self.concept.present)
        with moved, checkpoints_off(model):  # what they run again in the backward pass would be without the projection
            return self._logits(model, x)


class PClArC:
    """Removes a concept from a model without training (Anders et al. 2022, arXiv:1912.11425).

    At the concept's layer, the activations a become a - v vᵀ (a - z), with z the mean of samples without the concept.

    >>> import torch
    >>> from torch import nn
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(40, 4)
    >>> concept = Concept.fit(model, x, x[:, 0] > 0.5, layer="0")
    >>> with PClArC(concept).apply(model):  # or keep the handle, and handle.remove() to undo it
    ...     hidden = model[0](x)
    >>> bool(((hidden - concept.absent) @ concept.direction).abs().max() < 1e-6)
    True
    """

    def __init__(self, concept: Concept | None = None) -> None:
        self.concept = check_concept(concept, "PClArC.concept")

    def apply(self, model: nn.Module) -> RemovableHandle:
        """Change the model's activations from now on, until the handle is removed or its `with` block ends.

        Args:
            model: the one that the concept was fitted on, or one with the same layer.

        Returns:
            The handle of the hook: ``handle.remove()`` undoes the change, and it is a context manager.
        """
        return _moved(model, self.concept, self.concept.absent)

    def __repr__(self) -> str:
        return f"PClArC(layer={self.concept.layer!r})"


def _moved(model: nn.Module, concept: Concept, to: Tensor) -> RemovableHandle:
    point = find_point(model, concept.layer)
    if point.is_input:
        module = point.module if point.ends is None else point.ends[0]
        return module.register_forward_pre_hook(_MoveInput(concept, to), with_kwargs=True)
    # The last layer of a Sequential also runs if the model calls the layers one by one.
    module = point.module if point.ends is None else point.ends[1]
    return module.register_forward_hook(_Move(concept, to))


class _Move:
    """A forward hook that can be pickled with its model."""

    def __init__(self, concept: Concept, to: Tensor) -> None:
        self._concept, self._to = concept, to

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        return self._concept.moved_value(output, self._to)


class _MoveInput(_Move):
    """The same for what a layer gets."""

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        moved = self._concept.moved_value(args or kwargs, self._to)
        return (moved, kwargs) if args else (args, moved)
