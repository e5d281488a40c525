"""Models from the command line: ``module:factory`` or ``torchvision:NAME``, and their weights."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError, UnknownNameError, near_names
from xaikit.core.torchvision_ops import import_torchvision

SHOWN = 4  # names in a message


def load_model(name: str, weights: Path | None = None) -> nn.Module:
    """The model in evaluation mode, with its weights.

    Args:
        name: ``module:factory``, an importable function (or a module object), found from the current folder too; or
            ``torchvision:resnet18``.
        weights: a ``.safetensors`` file, or a ``.pt`` file that holds nothing but tensors.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidInputError: for a model or weights that cannot be used; the message
            says why.
        MissingDependencyError: when torchvision is needed and does not import.
    """
    source, colon, item = name.partition(":")
    if not colon or not source or not item:
        raise InvalidInputError(f"a model is named 'module:factory' or 'torchvision:NAME', got {name!r}")
    model = _torchvision(item) if source == "torchvision" else _made(source, item)
    if weights is not None:
        _fill(model, read_weights(weights), weights)
    elif source == "torchvision":
        warnings.warn(f"{name} has random weights; pass --weights to explain a trained model", stacklevel=2)
    return model.eval()


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors in a file, by name; code in it is never run.

    Raises:
        InvalidInputError: for a file that holds anything but weights.
        MissingDependencyError: for ``.safetensors`` where that library is absent.
    """
    if not path.is_file():
        raise InvalidInputError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InvalidInputError(
            f"{path} holds more than weights (a whole pickled model?), and loading that could run any code; save "
            f"model.state_dict() with torch.save, or as .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as err:
        raise InvalidInputError(f"{path} is not a file of weights ({' '.join(str(err).split())[:120]})") from None
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise InvalidInputError(f"{path} holds no state dict (tensors by parameter name)")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError:
        raise MissingDependencyError("reading .safetensors needs it: pip install 'xaikit[cli]'") from None
    try:
        return load_file(path)
    except safetensors.SafetensorError as err:
        raise InvalidInputError(f"{path} is not a .safetensors file ({err})") from None


def _torchvision(name: str) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise UnknownNameError(f"torchvision has no model {name!r}{near_names(name, models.list_models())}")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # random weights, but the same ones at each call
        return models.get_model(name, weights=None)


def _made(module_name: str, factory_name: str) -> nn.Module:
    with _current_folder():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            where = f"looked in {Path.cwd()} and the installed packages"
            raise UnknownNameError(f"cannot import {module_name!r} for the model: {err} ({where})") from None
        if not hasattr(module, factory_name):
            known = [n for n in vars(module) if callable(vars(module)[n]) and not n.startswith("_")]
            raise UnknownNameError(f"module {module_name!r} has no {factory_name!r}{near_names(factory_name, known)}")
        made = getattr(module, factory_name)
        model = made if isinstance(made, nn.Module) else made()
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"{module_name}:{factory_name} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Modules in the current folder can be imported, as under `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _fill(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    # Data-parallel training puts "module." before every name.
    weights = {k.removeprefix("module."): v for k, v in weights.items()}
    own = model.state_dict()
    shapes = [
        f"{k}: {tuple(weights[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems = {
        "missing": [k for k in own if k not in weights],
        "unexpected": [k for k in weights if k not in own],
        "of another shape": shapes,
    }
    if any(problems.values()):
        words = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InvalidInputError(f"the weights in {path} do not fit the model ({words})")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
