"""Reading what describes an explainer: a name, a spec string, a spec dict, a class or an object."""

from __future__ import annotations

from typing import Any

from torch import nn

from xaikit.core.explainer import Explainer


def as_explainer(value: Any, model: nn.Module | None = None) -> Explainer:
    """An explainer from a name, a spec string, a spec dict, a class or an object.

    Args:
        value: what `EXPLAINERS.create` accepts.
        model: the model to bind it to; None leaves the explainer as it is.

    Raises:
        UnknownNameError: for a name that is not registered.
        InvalidTypeError: for a value that describes no explainer.
    """
    return Explainer.from_spec(value, model)
