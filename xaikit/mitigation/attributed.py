"""A mitigator whose penalty is a number made of an attribution, by any differentiable explainer."""

from __future__ import annotations

import abc
import contextlib
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import Categorical, Explainer
from xaikit.core.model_state import private_buffers
from xaikit.core.modes import mode_matters
from xaikit.core.structure import Tensors, flatten
from xaikit.mitigation.base import Mitigator, autocast_on, logits_of
from xaikit.mitigation.masks import batch_masks, fit_masks, of_tokens
from xaikit.mitigation.penalties import OUTPUTS, TARGETS, score_function

MODES = ("auto", "eval", "train")


class AttributionMitigator(Mitigator):
    """Penalises what a differentiable explainer attributes the chosen score to.

    ``mode`` says in which mode the model is explained. "auto": in evaluation mode, as it will be deployed; where no
    module in training mode would notice, and the explainer needs one plain pass, that pass also gives the logits of the
    task loss. "train": in the model's own mode, always in that one pass where the explainer allows it: what the
    published codes do, a third cheaper for a net with BatchNorm or dropout. "eval": evaluation mode in a pass of its
    own, for a model whose dependence on the mode cannot be seen in its code.
    """

    CHANNELS_FIRST: ClassVar[bool] = False  # `_of` looks at positions, so an embedding's (N, T, D) becomes (N, D, T)

    target: Annotated[str, Categorical(*TARGETS, search=False), "whose score is explained"] = "label"
    output: Annotated[str, Categorical(*OUTPUTS, search=False), "what the score is"] = "log_probability"
    mode: Annotated[str, Categorical(*MODES, search=False), "in which the model is explained"] = "auto"

    def _logits_and_penalty(self, model: nn.Module, x: Any, y: Any, mask: Any, seed: int) -> tuple[Tensor, Tensor]:
        own = self.mode == "train"
        if autocast_on(x) or self.mode == "eval" or (not own and mode_matters(model)):
            return super()._logits_and_penalty(model, x, y, mask, seed)
        score = score_function(self.target, self.output, y, seed)
        explained, logits = self._explainer(model).attribute_with_output(
            x, score, create_graph=True, seed=seed, keep_mode=own
        )
        if logits is None:
            logits = logits_of(model, x, self.head)
        return logits, self._number(explained, x, batch_masks(mask, y, self.where))

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, mask: Any, *, seed: int, create_graph: bool) -> Tensor:
        score = score_function(self.target, self.output, y, seed)
        own = self.mode == "train" and create_graph
        # BatchNorm's running statistics take in the pass of the task, not this one.
        with private_buffers(model) if own else contextlib.nullcontext():
            explained, _ = self._explainer(model).attribute_with_output(
                x, score, create_graph=create_graph, seed=seed, keep_mode=own
            )
        return self._number(explained, x, mask)

    def _explainer(self, model: nn.Module) -> Explainer:
        return self.explainer_for(model)

    def _number(self, explained: Any, x: Any, mask: Any) -> Tensor:
        attributions, inputs = flatten(explained, "attributions")[0], flatten(x)[0]
        masks = self._masks(mask, attributions, inputs)
        if self.CHANNELS_FIRST:
            embedded = [of_tokens(a, inputs) for a in attributions]
            attributions, masks = (
                tuple(t.movedim(-1, 1) if e else t for t, e in zip(parts, embedded, strict=True))
                for parts in (attributions, masks)
            )
        return self._of(attributions, masks)

    def _masks(self, mask: Any, attributions: Tensors, inputs: Tensors) -> Tensors:
        # Where no mask is needed, `fit` says "everything" with ones like the first input.
        everything = not self.NEEDS_MASK and isinstance(mask, Tensor) and bool((mask == 1).all())
        return fit_masks(None if everything else mask, attributions, inputs)

    @abc.abstractmethod
    def _of(self, attributions: Tensors, masks: Tensors) -> Tensor:
        """The penalty of attributions (N, ...) and masks of the same shapes, a scalar."""
