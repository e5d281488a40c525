"""Mitigators whose penalty is computed from an attribution by any differentiable explainer."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import Categorical, Explainer
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.modes import mode_matters
from xaikit.core.structure import Tensors, flatten, token_ids
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.forward import autocast_on, logits_of
from xaikit.mitigation.penalties import OUTPUTS, TARGETS, score_function
from xaikit.mitigation.task_losses import is_multi_label

MODES = ("auto", "eval", "train")


class AttributionMitigator(Mitigator):
    """Penalises what a differentiable explainer attributes the chosen score to.

    ``mode`` says in which mode the model is explained. "auto": in evaluation mode, as it will be deployed. If both
    modes compute the same, and the explainer needs one plain pass, that pass also gives the logits of the task loss.
    "train": in the model's own mode; one pass gives both if the explainer allows it. The published codes do this; it
    is a third cheaper for a net with BatchNorm or dropout. "eval": evaluation mode in a separate pass, for a model
    whose code does not show that it depends on the mode.
    """

    RENAMED_MEMBERS: ClassVar[Mapping[str, str]] = {"_of": "_attribution_penalty"}
    # `_attribution_penalty` looks at positions, so an embedding's (N, T, D) becomes (N, D, T).
    CHANNELS_FIRST: ClassVar[bool] = False

    target: Annotated[str, Categorical(*TARGETS), "whose score is explained"] = "label"
    output: Annotated[str, Categorical(*OUTPUTS), "what the score is"] = "log_probability"
    mode: Annotated[str, Categorical(*MODES, search=False), "in which the model is explained"] = "auto"

    @property
    def flat_when_sure(self) -> bool:
        """Whether the score is a probability; the logarithms of several, added or in a random mixture, are not flat."""
        return self.output == "probability" or (
            self.output == "log_probability" and self.target in ("label", "predicted")
        )

    def _logits_and_penalty(self, model: nn.Module, x: Any, y: Any, masks: Any, seed: int) -> tuple[Tensor, Tensor]:
        in_own_mode = self.mode == "train"
        if autocast_on(x) or self.mode == "eval" or (not in_own_mode and mode_matters(model)):
            return super()._logits_and_penalty(model, x, y, masks, seed)
        score = self._score(y, seed)
        explained, logits = self._explainer(model).attribute_with_output(
            x, score, create_graph=True, seed=seed, keep_mode=in_own_mode
        )
        if logits is None:
            logits = logits_of(model, x, self.head)
        return logits, self._number(explained, x, masks)

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, masks: Any, *, seed: int, create_graph: bool) -> Tensor:
        score = self._score(y, seed)
        in_own_mode = self.mode == "train" and create_graph
        explained, _ = self._explainer(model).attribute_with_output(
            x,
            score,
            create_graph=create_graph,
            seed=seed,
            keep_mode=in_own_mode,
            keep_writes=False,  # BatchNorm's running statistics are updated by the pass of the task loss
        )
        return self._number(explained, x, masks)

    def _score(self, y: Any, seed: int) -> Callable[[Tensor], Tensor]:
        return score_function(self.target, self.output, y, seed, independent=is_multi_label(self.task_loss))

    def _explainer(self, model: nn.Module) -> Explainer:
        return self.explainer_for(model)

    def _number(self, explained: Any, x: Any, masks: Any) -> Tensor:
        attributions, inputs = flatten(explained, "attributions")[0], flatten(x)[0]
        fitted = self._masks(masks, attributions, inputs)
        if self.CHANNELS_FIRST:
            embedded = [token_ids(a, inputs) is not None for a in attributions]
            attributions, fitted = (
                tuple(t.movedim(-1, 1) if e else t for t, e in zip(parts, embedded, strict=True))
                for parts in (attributions, fitted)
            )
        return self._attribution_penalty(attributions, fitted)

    def _masks(self, masks: Any, attributions: Tensors, inputs: Tensors) -> Tensors:
        return fit_masks(masks, attributions, inputs, what=self.MASK_NAME)

    @abc.abstractmethod
    def _attribution_penalty(self, attributions: Tensors, masks: Tensors) -> Tensor:
        """The penalty of attributions (N, ...) and masks of the same shapes, a scalar."""
