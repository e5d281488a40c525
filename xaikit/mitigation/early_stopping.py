"""Early stopping: accuracy of the worst group on validation data, and the weights of the best epoch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.mitigation.evaluation import accuracies, class_batches


class EarlyStopping:
    """Looks at validation data after each epoch.

    With a patience, training stops after so many epochs without a better accuracy in the worst group, and the model
    gets the weights of the best epoch (the first one, if several are equal). Without a patience it only measures.
    Counting begins with the first epoch in which the worst group is better than before training. A model that relies
    on a shortcut may need many epochs for that, and stopping earlier would keep the shortcut.
    """

    def __init__(self, data: Any, groups: Any, *, patience: int | None, head: str | int) -> None:
        if data is None and groups is not None:
            raise InvalidInputError("groups are those of the validation data: fit(..., validation=(x, y), groups=...)")
        if data is None and patience is not None:
            raise InvalidInputError("patience needs validation data: fit(..., validation=(x, y), groups=...)")
        self._data, self._groups, self._head, self._patience = data, groups, head, patience
        self.start = -1.0  # the worst group before training
        self.best = -1.0
        self.waited = 0  # epochs since the best one
        self.weights: dict[str, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether there is validation data."""
        return self._data is not None

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self.waited >= self._patience

    def look(self, model: nn.Module) -> dict[str, float]:
        """Accuracy over all validation samples and in the worst group."""
        by_group = accuracies(model, self._data, self._groups, self._head)
        overall = by_group.pop(None)
        return {"validation_accuracy": overall, "validation_worst_group": min(by_group.values())}

    def check(self, model: nn.Module) -> None:
        """Measure the untrained model once: wrong data are refused early, and later epochs have a value to beat."""
        if self.active:
            self.start = self.look(model)["validation_worst_group"]

    def warn_of_unseen(self, model: nn.Module, labels: Tensor, *, stacklevel: int) -> None:
        """Warn of a class among validation samples in memory that no training sample has.

        Args:
            model: whose precision arrays get.
            labels: of all training samples; what is no class for each sample is passed over.
            stacklevel: of the warning.
        """
        if not isinstance(self._data, (tuple, list)) or labels.is_floating_point() or labels.ndim != 1:
            return
        held_out = {int(label) for batch in class_batches(model, self._data) for label in batch.labels.unique()}
        unseen = sorted(held_out - set(labels.unique().tolist()))
        if unseen:
            listed = ", ".join(map(str, unseen[:5])) + (f" and {len(unseen) - 5} more" if len(unseen) > 5 else "")
            which = f"classes {listed} are" if len(unseen) > 1 else f"class {listed} is"
            warnings.warn(
                f"the {which} among the validation samples and in no training sample, and cannot be learnt; take these "
                "samples out, or add some to the data",
                stacklevel=stacklevel,
            )

    def judge(self, model: nn.Module, worst: float) -> None:
        """Remember the weights where they are the best so far."""
        self.waited += self.best > self.start
        if worst > self.best:
            self.best, self.waited = worst, 0
            if self._patience is not None:
                self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def finish(self, model: nn.Module) -> None:
        """Put the best weights in place."""
        if self.weights:
            with torch.no_grad():
                model.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        """The values for a checkpoint."""
        return {"start": self.start, "best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.start, self.best = state.get("start", self.start), state["best"]
        self.waited, self.weights = state["waited"], state["weights"]
