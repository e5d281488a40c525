"""The rules that a decomposition follows, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

Activation = Literal["symmetric", "relevant_first"]
OnMissing = Literal["error", "proportional"]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The choices that contextual decomposition leaves open.

    Attributes:
        activation: how f(r + s) is split. ``"symmetric"``: each part gets its mean gain over the two orders in which
            the parts can be added (the Shapley value of two players). ``"relevant_first"``: r' = f(r) and
            s' = f(r + s) - f(r).
        undecided: share of the relevant part in a constant where both parts are 0. None takes the mean of the mask.
        floor: a constant c is shared as |r| : |s| where |r| + |s| >= floor * |c|; below, the share goes linearly to
            `undecided`. It smooths the kink of the share at 0/0. With floor 0 a last-bit change of a float32 input
            moves the result by up to 5e-2 of the output, and by more than 1e-4 in 10 of 44 nets tried; with 0.1 in 4,
            with 0.2 in 2, whose own outputs move by as much (efficientnet_b0 and _v2_s). The price is agreement with
            floor 0: the relevance changes by 6, 9 and 10 % of its mean size with 0.1, 0.2 and 0.3 (median of the nets),
            by 10 to 36 % in nets with large biases, and several times over in BERTs, whose first LayerNorm has
            constants of the size of the signal. `benchmarks/README.md` has the table.
    """

    activation: Activation = "symmetric"
    undecided: float | None = None
    floor: float = 0.0


RULE_SETS: Mapping[str, RuleSet] = {
    "symmetric": RuleSet(floor=0.2),
    "cdep": RuleSet(activation="relevant_first", undecided=0.5),
}
"""``"symmetric"``: two-way Shapley splits. ``"cdep"``: the published rules (Rieger et al. 2020, arXiv:1909.13584)."""


@dataclass(frozen=True, slots=True)
class Approximation:
    """An op that was split in proportion to its operand, for want of a rule."""

    operation: str
    where: str


@dataclass(frozen=True, slots=True)
class Context:
    """The data that one decomposition carries through the forward pass.

    Attributes:
        rules: the rules.
        on_missing: what to do about an op without a rule.
        step_masks: (masks, 1 or N, time), the steps of an LSTM whose constant is relevant; None follows the input of
            each step.
        approximations: a log of the ops that had no rule.
        written: the plain tensors that decomposed values were written into, during a pass (`storage`).
    """

    rules: RuleSet = RuleSet()
    on_missing: OnMissing = "error"
    step_masks: Tensor | None = None
    approximations: list[Approximation] = field(default_factory=list)
    written: Any = None

    def take(self, masks: slice, samples: slice) -> Context:
        """The context for some of the masks and samples; the log is shared."""
        if self.step_masks is None:
            return self
        steps = self.step_masks[masks]
        return replace(self, step_masks=steps if steps.shape[1] == 1 else steps[:, samples])
