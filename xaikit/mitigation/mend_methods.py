"""Which mitigators `mend` tries, in which order, and with which settings of the training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.model_copy import trainable_copy
from xaikit.core.model_device import model_device
from xaikit.core.spec_strings import split_spec
from xaikit.core.structure import flatten
from xaikit.factors import MaskedRegion
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.clarc import AClArC, RRClArC
from xaikit.mitigation.counterexamples import Counterexamples
from xaikit.mitigation.dfr import DFR
from xaikit.mitigation.group_balanced import GroupBalanced
from xaikit.mitigation.group_dro import GroupDRO
from xaikit.mitigation.mend_data import CONCEPT, FACTOR, GROUPS, REGION, MendData
from xaikit.mitigation.pgd_ex import PGDEx
from xaikit.mitigation.rrr import RRR

BATCH, STEPS = 64, 1000  # samples in a step, and steps of a training, where the data are enough
# The samples as they are still tell the shortcut, so hardly anything of them is left beside the exchanged ones. From a
# fooled model at 10 and 100, accuracy with the shortcut exchanged: a word of SST 69.3 and 70.9 %, a line 94.6 and 94.7.
EXCHANGED = 100.0
# This share of the epochs may pass without a better held-out accuracy: near the end it still rises, as the rate falls.
PATIENCE = 0.5


def candidates(data: MendData, *, from_scratch: bool = False) -> list[Mitigator]:
    """The mitigators that suit a kind of shortcut, from the cheapest; then those that go by groups, if there are some.

    Args:
        data: what is known of samples and shortcut.
        from_scratch: whether models are untrained, whose last layer alone is not worth a training.
    """
    by_groups: list[Mitigator] = []
    if data.groups is not None:
        by_groups = [*([] if from_scratch else [DFR()]), GroupBalanced(), GroupDRO()]
    return [*_suited(data), *by_groups]


def _suited(data: MendData) -> list[Mitigator]:
    shortcut = data.shortcut
    if shortcut.kind == GROUPS:
        return []
    if shortcut.kind == CONCEPT:
        return [AClArC(concept=shortcut.concept, lambda_a=3.0), RRClArC(concept=shortcut.concept, lambda_rr=10.0)]
    if shortcut.kind != REGION:
        options: dict[str, Any] = {"fill": shortcut.factor, "facts": data.facts}
        return [Counterexamples(**options, lambda_ce=EXCHANGED), Counterexamples(**options, lambda_ce=3.0)]
    # A region that moves is exchanged with the donor's own.
    methods: list[Mitigator] = [Counterexamples(lambda_ce=EXCHANGED, fill=MaskedRegion(), facts=data.facts)]
    if flatten(data.training.inputs)[0][data.place].is_floating_point():
        random_target: dict[str, Any] = {"target": "random", "output": "logit", "lambda_rrr": 1.0}
        methods += [RRR(**random_target), PGDEx(lambda_pgd=3.0)]
    return methods


def read_methods(methods: Any, data: MendData, *, from_scratch: bool = False) -> list[Mitigator]:
    """The mitigators that are tried.

    Args:
        methods: names, spec strings or objects; None takes those that suit.
        data: what is known of samples and shortcut.
        from_scratch: whether models are untrained.

    Raises:
        InvalidTypeError, InvalidInputError, UnknownNameError: for anything else, or none.
    """
    if methods is None:
        return candidates(data, from_scratch=from_scratch)
    if isinstance(methods, (str, Configured, type, Mapping)):
        methods = [methods]
    if not isinstance(methods, Iterable):
        raise InvalidTypeError(f"methods must be a list of mitigators or their spec strings, got {methods!r}")
    methods = list(methods)
    if not methods:
        raise InvalidInputError("methods must name at least one mitigator, got none")
    return [_of_shortcut(method, data) for method in methods]


def _of_shortcut(method: Any, data: MendData) -> Mitigator:
    """The mitigator with what it needs of the shortcut, where the user left that open."""
    shortcut = data.shortcut
    takes_concept = isinstance(method, str) and "concept" in MITIGATORS.get(split_spec(method)[0]).SETTINGS
    mitigator = MITIGATORS.create(method, **({"concept": shortcut.concept} if takes_concept else {}))
    if isinstance(mitigator, Counterexamples):
        fill = shortcut.factor if shortcut.kind == FACTOR else mitigator.fill
        settings = {"fill": fill, "facts": data.facts}
        mitigator = mitigator.set_kwargs(**{name: v for name, v in settings.items() if _is_open(mitigator, name)})
    if mitigator.needs_mask and data.training.masks is None:
        raise InvalidInputError(
            f"{type(mitigator).__name__} needs masks, and {shortcut.title} has none; name a mask as the shortcut, or "
            "another method"
        )
    return mitigator


def _is_open(mitigator: Mitigator, name: str) -> bool:
    return mitigator.SETTINGS[name].is_default(getattr(mitigator, name))


def with_training(mitigator: Mitigator, n: int, *, n_epochs: int | None, seed: int) -> Mitigator:
    """The mitigator with the settings of its training that the user left at their defaults; but for the learning rate.

    Args:
        mitigator: to be trained with.
        n: samples to train on.
        n_epochs: passes over the data; None goes by their number.
        seed: of the training.
    """
    batch_size = min(BATCH, max(8, n // 32))
    epochs = n_epochs or min(50, max(8, math.ceil(STEPS * batch_size / n)))
    wishes: dict[str, Any] = {
        "lr_schedule": "cosine",
        "batch_size": batch_size,
        "n_epochs": epochs,
        "patience": max(1, round(PATIENCE * epochs)),
        "random_state": seed,
    }
    changes = {
        name: value for name, value in wishes.items() if _is_open(mitigator, name) or (name == "n_epochs" and n_epochs)
    }
    return mitigator.set_kwargs(**changes)


def fresh_model(model: nn.Module, from_scratch: Any, seed: int) -> nn.Module:
    """A copy of the model to train: with its weights, with weights drawn anew, or what the user's function makes.

    Args:
        model: of the user; it stays as it is.
        from_scratch: False, True (frozen weights stay), or a function that makes an untrained model.
        seed: of the weights.

    Raises:
        InvalidInputError: for a module whose weights cannot be drawn anew.
        InvalidTypeError: for a function that makes no module.
    """
    if from_scratch is False:
        return trainable_copy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if callable(from_scratch):
            untrained = from_scratch()
            if not isinstance(untrained, nn.Module):
                raise InvalidTypeError(f"from_scratch must make a torch.nn.Module, got {type(untrained).__name__}")
            return untrained.to(model_device(model))
        return _drawn_anew(trainable_copy(model))


def can_be_drawn_anew(model: nn.Module) -> bool:
    """Whether every module with weights that train has `reset_parameters`.

    Args:
        model: of the user.
    """
    trained = (module for module in model.modules() if any(p.requires_grad for p in module.parameters(recurse=False)))
    return all(callable(getattr(module, "reset_parameters", None)) for module in trained)


def halfway(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the model with weights halfway to fresh ones: shrink and perturb (Ash and Adams, arXiv:1910.08475).

    On exchanged samples a fooled model is sure and wrong. The first steps of its training then may switch off most
    units, and no later step wins them back. Halfway to fresh weights it is no longer sure.

    Args:
        model: of the user; it stays as it is.
        seed: of the fresh weights.

    Raises:
        InvalidInputError: for a module whose weights cannot be drawn anew.
    """
    fresh, begun = fresh_model(model, True, seed), trainable_copy(model)
    with torch.no_grad():
        for weight, drawn in zip(begun.parameters(), fresh.parameters(), strict=True):
            weight.lerp_(drawn, 0.5)
    return begun


def _drawn_anew(model: nn.Module) -> nn.Module:
    """The model with new weights; frozen ones stay, since no training would make anything of them."""
    frozen = [(weight, weight.detach().clone()) for weight in model.parameters() if not weight.requires_grad]
    for name, module in model.named_modules():
        weights = list(module.parameters(recurse=False))
        if weights and not any(weight.requires_grad for weight in weights):
            continue
        reset: Callable[[], Any] | None = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif weights:
            raise InvalidInputError(
                f"the weights of {type(module).__name__} {name!r} cannot be drawn anew, since it has no "
                "reset_parameters; pass a function that makes an untrained model: from_scratch=make"
            )
    with torch.no_grad():
        for weight, value in frozen:
            weight.copy_(value)
    return model


def spec_string(value: Configured) -> str:
    """The object as a spec string, ``name:key=value``, with the settings that are not at their defaults.

    Args:
        value: a mitigator or a factor.
    """
    parts = []
    for name, setting in value.SETTINGS.items():
        current = getattr(value, name)
        # Values that come from the data cannot stand in a spec string.
        if setting.is_default(current) or name in ("facts", "concept", "random_state"):
            continue
        parts.append(f"{name}={_setting_text(current)}")
    return ":".join([value.NAME, ",".join(parts)]) if parts else value.NAME


def _setting_text(value: Any) -> str:
    if isinstance(value, Configured) and value.NAME:
        text = spec_string(value)
        return f"({text})" if "," in text else text
    if isinstance(value, Tensor):  # a mask, which no spec string can hold, is described for the reader
        return f"({'x'.join(map(str, value.shape))}, {float(value.sum()):g} inside)"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_setting_text, value)) + "]"
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except TypeError:
        return getattr(value, "__qualname__", type(value).__name__)
