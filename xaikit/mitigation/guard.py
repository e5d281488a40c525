"""Guard: if a loss or its gradient is not finite, skip the step, go back, halve the weight, or stop."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, TrainingError
from xaikit.core.model_state import isolated
from xaikit.core.structure import flatten
from xaikit.mitigation.loss_watch import in_fit

MAX_SAMPLES_BISECTED = 256  # samples that are tried one by one


class Guard:
    """Keeps the last good state: weights, buffers and optimizer when loss and gradient were last finite.

    A step that is not finite is skipped. After `limit` skipped steps in a row the last good state is restored, and the
    weight of the penalty is halved. If then `limit` more steps are skipped before `limit` good steps in a row, the
    training ends with that state.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, limit: int) -> None:
        self.limit = limit
        self.factor = 1.0  # of the penalty's weight
        self.streak = 0  # steps skipped in a row
        self.recovery = 0  # good steps still needed after going back to the last good state
        self._optimizer = optimizer
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._buffers = list(model.buffers())
        self._saved = [t.detach().clone() for t in (*self._parameters, *self._buffers)]
        self._saved_buffers = self._saved[len(self._parameters) :]
        self._moments: list[Tensor] = []

    def before(self) -> None:
        """Call before the forward pass, which moves BatchNorm's running statistics: they are put back on a skip."""
        if self._buffers:
            self._present = [b.detach().clone() for b in self._buffers]

    @torch.no_grad()
    def passed(self) -> None:
        """Call after a finite loss and gradient, before the optimizer's step."""
        torch_private.foreach_copy_(self._saved[: len(self._parameters)], self._parameters)
        if self._buffers:
            torch_private.foreach_copy_(self._saved_buffers, self._present)
        current = self._current_moments()
        if len(current) != len(self._moments):
            self._moments = [t.detach().clone() for t in current]
        elif current:
            torch_private.foreach_copy_(self._moments, current)
        self.streak = 0
        self.recovery = max(0, self.recovery - 1)

    def skip(self, problem: str, remedy: str) -> None:
        """Skip a step; `problem` says which step and why.

        Raises:
            TrainingError: when too many steps were skipped; the model holds the last good state.
        """
        self._undo_buffers()
        self.streak += 1
        if self.streak < self.limit:
            warnings.warn(f"step skipped: {problem} ({self.streak} of {self.limit} in a row)", stacklevel=2)
        else:
            self.go_back(f"{problem}, after {self.limit} such steps in a row", remedy)

    def go_back(self, problem: str, remedy: str) -> None:
        """Return to the last good state with half the weight.

        Raises:
            TrainingError: when the training has not recovered from the last return.
        """
        self.restore()
        if self.recovery:
            raise TrainingError(
                f"{problem}, also with the weight halved; the model holds the last good state: {remedy}"
            )
        self.factor /= 2
        self.recovery = self.limit
        warnings.warn(
            f"{problem}; the last good state is back and the weight of the penalty is halved (now {self.factor:g} of "
            "what was set)",
            stacklevel=3,
        )

    def end(self, remedy: str) -> None:
        """Call after the last step, so that a training does not end with weights whose loss is not finite.

        Raises:
            TrainingError: when it ends while it has not recovered from a return.
        """
        if not self.streak:
            return
        recovering = self.recovery
        problem = f"the last {self.streak} steps had a loss or a gradient that is not finite"
        self.restore()
        if recovering:
            raise TrainingError(
                f"{problem}, also with the weight halved; the model holds the last good state: {remedy}"
            )
        warnings.warn(f"{problem}; the model holds the state before them", stacklevel=3)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the last good state in place."""
        torch_private.foreach_copy_([*self._parameters, *self._buffers], self._saved)
        if self._moments:
            torch_private.foreach_copy_(self._current_moments(), self._moments)
        else:
            self._optimizer.state.clear()
        self.streak = 0

    def state(self) -> dict[str, Any]:
        """The values for a checkpoint; the last good state only if it is not the present one."""
        good = {"kept": self._saved, "moments": self._moments} if self.streak else {}
        return {"factor": self.factor, "streak": self.streak, "recovery": self.recovery, **good}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; call when model and optimizer are loaded."""
        self.factor, self.streak, self.recovery = state["factor"], state["streak"], state["recovery"]
        torch_private.foreach_copy_(self._saved, state.get("kept", [*self._parameters, *self._buffers]))
        moments = state.get("moments", self._current_moments())
        self._moments = [m.detach().clone() for m in moments]

    def _current_moments(self) -> list[Tensor]:
        return [v for state in self._optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]

    @torch.no_grad()
    def _undo_buffers(self) -> None:
        if self._buffers:
            torch_private.foreach_copy_(self._buffers, self._present)


def suspects(mitigator: Any, model: nn.Module, batch: Batch, weight: float) -> list[int]:
    """The rows of a batch whose loss or gradient is not finite on the row alone, in evaluation mode.

    Empty if only the batch as a whole fails, or if the batch is too large to try each row.
    """
    tensors = flatten(batch.inputs)[0]
    n = batch.size
    wrong = {row for t in tensors if t.is_floating_point() for row in _not_finite(t)}
    if wrong or n > MAX_SAMPLES_BISECTED:
        return sorted(wrong)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with isolated(model, parameters[0].device, 0), torch.enable_grad():
        for row in range(n):
            try:
                with in_fit():
                    total = mitigator.loss(model, batch.take([row]), seed=0, weight=weight).total
                gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            except InvalidInputError:
                wrong.add(row)
                continue
            if not all(bool(torch.isfinite(t).all()) for t in (total, *gradients) if t is not None):
                wrong.add(row)
    return sorted(wrong)


def _not_finite(tensor: Tensor) -> list[int]:
    rows: list[int] = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten().tolist()
    return rows
