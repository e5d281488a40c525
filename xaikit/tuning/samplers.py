"""Optuna's samplers, which propose trials, and its pruners, which end bad trials early, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.process_wide import warnings_ignored

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband")


def make_sampler(name: str, *, shared: bool) -> Callable[[int], optuna.samplers.BaseSampler]:
    """Optuna's sampler of that name, made of a seed: "tpe", "random" or "grid".

    The points of a grid are queued by `Search`, because Optuna's grid has no settings that depend on a choice.

    Args:
        name: of the sampler.
        shared: whether other processes may work on the same study; then TPE keeps away from what they are trying.

    Raises:
        UnknownNameError: for another name.
    """
    import optuna

    if name not in SAMPLERS:
        raise UnknownNameError(f"unknown sampler {name!r}{near_names(str(name), SAMPLERS)}")

    def make(seed: int) -> optuna.samplers.BaseSampler:
        if name != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings_ignored("", optuna.exceptions.ExperimentalWarning):
            return optuna.samplers.TPESampler(seed=seed, constant_liar=shared)

    return make


def make_pruner(pruner: Any, n_goals: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner: "median", "hyperband", an object of Optuna's, or None.

    Raises:
        InvalidInputError: for a pruner with several objectives, which Optuna cannot prune.
        InvalidTypeError, UnknownNameError: for what is no pruner.
    """
    import optuna

    if pruner is None:
        return optuna.pruners.NopPruner()
    if n_goals > 1:
        raise InvalidInputError(
            f"pruner={pruner!r} cannot go with {n_goals} objectives: Optuna prunes no multi-objective study; "
            f"leave pruner out, or join the metrics into a weighted sum {{metric: weight}}"
        )
    if isinstance(pruner, optuna.pruners.BasePruner):
        return pruner
    if not isinstance(pruner, str):
        raise InvalidTypeError(f"pruner must be one of {', '.join(PRUNERS)} or a pruner of Optuna's, got {pruner!r}")
    if pruner not in PRUNERS:
        raise UnknownNameError(f"unknown pruner {pruner!r}{near_names(pruner, PRUNERS)}")
    return optuna.pruners.MedianPruner() if pruner == "median" else optuna.pruners.HyperbandPruner()
