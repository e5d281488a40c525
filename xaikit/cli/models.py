"""Models from the command line: ``module:factory``, ``torchvision:``, ``timm:`` or ``hf:``, and their weights."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xaikit.cli.hugging_face import hugging_face
from xaikit.cli.user_imports import current_folder, imported, no_exit
from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError, UnknownNameError, near_names
from xaikit.core.spec_strings import parse_spec
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.files.weights import read_weights

# Settings by which timm would fetch or unpickle a file.
TIMM_FILES = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
SHOWN = 4  # names in a message
WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")  # endings of files of weights
WAYS = {"bilinear": 2, "bicubic": 3}  # of resampling, as PIL counts them


def load_model(name: str, weights: Path | None = None) -> nn.Module:
    """The model in evaluation mode, with its weights.

    Args:
        name: ``module:factory``, an importable function (or a module object), found from the current folder too, or
            ``./file.py:factory``; or
            ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``, or ``hf:FOLDER``, a local Hugging Face folder. What
            makes a model may be given settings: ``torchvision:resnet18:num_classes=10``.
        weights: a ``.safetensors`` file, or a ``.pt`` file that holds nothing but tensors.

    Raises:
        UnknownNameError, InvalidTypeError, InvalidInputError: for a model or weights that cannot be used; the message
            says why.
        MissingDependencyError: when torchvision is needed and does not import.
    """
    source, colon, item = name.partition(":")
    if not colon and Path(name).suffix in WEIGHTS:
        raise InvalidInputError(
            f"{name} holds weights: name it with --weights, and the function that makes the model with --model, such "
            "as mymodel:make for make() in mymodel.py"
        )
    if not colon or not source or not item:
        raise InvalidInputError(
            "a model is named 'module:factory', './file.py:factory', 'torchvision:NAME', 'timm:NAME' or 'hf:FOLDER', "
            f"got {name!r}"
        )
    if source == "hf":
        model = hugging_face(item)
    else:
        factory, settings = parse_spec(item)
        zoos = {"torchvision": _torchvision, "timm": _timm}
        model = zoos[source](factory, settings) if source in zoos else _made(source, factory, settings)
    if weights is not None:
        _fill(model, read_weights(weights), weights)
    elif source in ("torchvision", "timm"):
        warnings.warn(f"{name} has random weights; pass --weights to explain a trained model", stacklevel=2)
    return model.eval()


def _torchvision(name: str, settings: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise UnknownNameError(f"torchvision has no model {name!r}{near_names(name, models.list_models())}")
    return _seeded(functools.partial(models.get_model, name, weights=None), name, settings)


def torchvision_settings(item: str) -> dict[str, Any]:
    """How the newest published weights of ``NAME`` have their images prepared; nothing for what is no classifier."""
    models = import_torchvision().models
    name, _ = parse_spec(item)
    if name not in models.list_models(models):
        return {}
    transform = models.get_model_weights(name).DEFAULT.transforms()
    return {
        "size": tuple(transform.crop_size),
        "crop": transform.crop_size[0] / transform.resize_size[0],
        "resampling": WAYS[transform.interpolation.value],
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
    }


def timm_settings(item: str) -> dict[str, Any]:
    """How ``NAME`` or ``NAME:img_size=64`` has its images prepared, as timm's own transform does it."""
    timm = _timm_library()
    name, settings = parse_spec(item)
    config = timm.get_pretrained_cfg(name) if name in timm.list_models() else None
    if config is None:  # an unknown model is reported when it is loaded
        return {}
    size = settings.get("img_size", config.input_size[1])
    return {
        "size": (size,) if isinstance(size, int) else tuple(size),
        "crop": config.crop_pct if config.crop_mode == "center" else 1.0,
        "resampling": WAYS.get(config.interpolation, WAYS["bicubic"]),
        "mean": config.mean,
        "std": config.std,
    }


def _timm_library() -> Any:
    import_torchvision()  # timm imports torchvision by itself
    try:
        import timm
    except ImportError:
        raise MissingDependencyError("timm:NAME needs timm: pip install timm") from None
    return timm


def _timm(name: str, settings: dict[str, Any]) -> nn.Module:
    timm = _timm_library()
    if name not in timm.list_models():
        raise UnknownNameError(f"timm has no model {name!r}{near_names(name, timm.list_models())}")
    files = sorted(set(settings) & TIMM_FILES)
    if files:
        raise InvalidInputError(f"timm:{name} takes no {files[0]} here; name a file of weights with --weights")
    return _seeded(functools.partial(timm.create_model, name, pretrained=False), name, settings)


def _seeded(make: Callable[..., nn.Module], name: str, settings: dict[str, Any]) -> nn.Module:
    """A model with random weights, but the same ones at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _with_settings(make, name, settings)


def _with_settings(make: Callable[..., Any], name: str, settings: dict[str, Any]) -> Any:
    """The model that a factory makes. Settings that it does not take are refused; its own errors are passed on."""
    if not settings:
        _check_arguments(make, name)
        return make()
    try:
        return make(**settings)
    except (TypeError, ValueError) as err:
        setting_text = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        raise InvalidInputError(f"{name} cannot be made with {setting_text} ({err})") from err


def _check_arguments(factory: Callable[..., Any], name: str) -> None:
    """Refuse to call a factory without the arguments that it needs."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a built-in function has no signature
        return
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in optional]
    if needed:
        values = ",".join(f"{parameter}=..." for parameter in needed)
        raise InvalidInputError(
            f"{name} needs {', '.join(needed)}: give {'them' if needed[1:] else 'it'} as {name}:{values}"
        )


def _made(module_name: str, factory_name: str, settings: dict[str, Any]) -> nn.Module:
    name = f"{module_name}:{factory_name}"
    factory = imported(name, "the model", "module:factory")
    with current_folder(), no_exit(name):  # a factory may import its neighbours when it is called
        ready = isinstance(factory, nn.Module) and not settings
        model = factory if ready else _with_settings(factory, name, settings)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"a factory returns a torch.nn.Module, and {name} returned {type(model).__name__}; return the model there, "
            "or name another function with --model"
        )
    return model


def _fill(model: nn.Module, weights: dict[str, Any], path: Path) -> None:
    model_state = model.state_dict()
    weights = _without_prefix(weights, model_state.keys())
    shapes = [
        f"{k}: {tuple(weights[k].shape)} in the file, {tuple(model_state[k].shape)} in the model"
        for k in model_state
        if k in weights and weights[k].shape != model_state[k].shape
    ]
    problems = {
        "missing": [k for k in model_state if k not in weights],
        "unexpected": [k for k in weights if k not in model_state],
        "of another shape": shapes,
    }
    if any(problems.values()):
        differences = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise InvalidInputError(f"the weights in {path} do not fit the model ({differences})")
    model.load_state_dict(weights)


def _without_prefix(weights: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Weights by the model's own names.

    What holds a model puts a name before all of them: "module." (data parallel), "model." or "net." (a Lightning
    module), "_orig_mod." (a compiled model).
    """
    beginning = os.path.commonprefix([*weights])
    for end in (i + 1 for i, letter in enumerate(beginning) if letter == "."):
        if weights.keys() != set(names) and {name[end:] for name in weights} == set(names):
            return {name[end:]: value for name, value in weights.items()}
    return weights


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
