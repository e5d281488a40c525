"""Several targets of one call: a method that can shares its passes among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors

if TYPE_CHECKING:
    from xaikit.core.call import Call
    from xaikit.core.explainer import Explainer


def run_for_targets(
    explainer: Explainer, method: Callable[[Call], tuple[Tensors, ...]], inputs: Any, targets: Any, **options: Any
) -> tuple[Any, ...]:
    """What `Explainer.run_call` returns, of a function of a call that has one target, or several (`Call.targets`).

    Args:
        explainer: with a model.
        method: as for `Explainer.run_call`.
        inputs: as for `Explainer.attribute`.
        targets: likewise: one, or a list of targets.
        options: as for `Explainer.run_call`.

    Raises:
        InvalidInputError: for several targets of which one looks at other heads.
    """
    if not target_rules.is_several(targets):
        return explainer.run_call(method, inputs, targets, **options)

    def for_each(call: Call) -> tuple[Tensors, ...]:
        device = call.inputs[0].device
        several = [target_rules.normalise(target, len(call.batch[0]), device) for target in targets]
        if not all(target_rules.shares_head(target) for target in several):
            raise InvalidInputError("several targets at once must look at the same head; explain Heads by itself")
        first, *others = several
        return method(dataclasses.replace(call, target=first, more_targets=tuple(others)))

    return explainer.run_call(for_each, inputs, **options)
