"""``hf:FOLDER``: a local Hugging Face folder with a model, its tokenizer or image processor, its classes."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.token_inputs import CACHE_NAMES
from xaikit.core.torchvision_ops import import_torchvision

PREFIX = "hf:"


def hugging_face(folder: str) -> nn.Module:
    """The model in a folder; where it has a tokenizer, padding gets no attention, as in the user's own calls.

    Raises:
        InvalidInputError: for a folder that holds no model of transformers, or no safetensors.
        MissingDependencyError: without transformers.
    """
    path = _model_folder(folder)  # first: a wrong name needs no package
    transformers = _transformers()
    cls = _model_class(transformers, path)
    with warnings_ignored():
        # safetensors only: a pickled .bin could run any code.
        model: nn.Module = cls.from_pretrained(
            path, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    pad = getattr(tokenizer_of(PREFIX + folder), "pad_token_id", None)
    if pad is not None and "attention_mask" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(functools.partial(_hide_padding, pad), with_kwargs=True)
    return model


def _model_class(transformers: Any, path: Path) -> Any:
    """The class of transformers that config.json names; code in the folder is never run.

    Raises:
        InvalidInputError: where it names none, or attention code from elsewhere.
    """
    config = _config(path)
    names = config.get("architectures") or [""]
    name = names[0] if isinstance(names, list) and isinstance(names[0], str) else ""
    cls = getattr(transformers, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, transformers.PreTrainedModel)):
        remedy = (
            "; the folder brings its own code, which xaikit does not run: name a function of yours that makes the "
            "model, --model module:factory"
            if config.get("auto_map")
            else ""
        )
        raise InvalidInputError(f"{path}/config.json names no model class that transformers has, got {name!r}{remedy}")
    attention = [config.get(key) for key in ("attn_implementation", "_attn_implementation")]
    if any(isinstance(value, str) and "/" in value for value in attention):
        raise InvalidInputError(f"{path}/config.json names attention code from elsewhere ({attention}); remove it")
    return cls


def _hide_padding(pad: int, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    """Add the attention mask that token ids alone leave out; a hook, so that no name in the model changes."""
    ids = args[0] if args else kwargs.get("input_ids")
    if any(kwargs.get(name) is not None for name in CACHE_NAMES):
        return args, kwargs  # generate() knows what is padding; these ids are not the whole text
    if len(args) < 2 and isinstance(ids, Tensor) and not ids.is_floating_point() and "attention_mask" not in kwargs:
        kwargs = {**kwargs, "attention_mask": (ids != pad).long()}
    return args, kwargs


@functools.lru_cache(maxsize=1)
def tokenizer_of(name: str) -> Any:
    """The tokenizer in the folder of ``hf:FOLDER``; None for any other name, or a folder without one."""
    if not name.startswith(PREFIX):
        return None
    path = Path(name.removeprefix(PREFIX))
    if not any((path / file).is_file() for file in ("tokenizer_config.json", "tokenizer.json", "vocab.txt")):
        return None
    try:
        return _transformers().AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def classes_of(name: str) -> Sequence[str]:
    """The names of a model's classes, by index, where the folder of ``hf:FOLDER`` gives them any."""
    path = Path(name.removeprefix(PREFIX))
    if not name.startswith(PREFIX) or not (path / "config.json").is_file():
        return ()
    labels = _config(path).get("id2label") or {}
    names = [str(labels.get(str(i), "")) for i in range(len(labels))]
    return () if any(not n or n == f"LABEL_{i}" for i, n in enumerate(names)) else names


def image_settings(name: str) -> dict[str, Any]:
    """The settings of the image processor in the folder of ``hf:FOLDER``, as fields of `Preparation`."""
    path = Path(name.removeprefix(PREFIX)) / "preprocessor_config.json"
    if not name.startswith(PREFIX) or not path.is_file():
        return {}
    settings = _config(path.parent, path.name)
    size = (settings.get("do_center_crop") and settings.get("crop_size")) or settings.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    preparation: dict[str, Any] = {}
    if "height" in size:
        height, width = int(size["height"]), int(size["width"])
        # A crop keeps the proportions, else the image is stretched to the size.
        preparation["size"] = (height,) if settings.get("do_center_crop") and height == width else (height, width)
        edge = (settings.get("size") or {}).get("shortest_edge") if len(preparation["size"]) == 1 else None
        if edge:
            preparation["crop"] = height / int(edge)
    elif "shortest_edge" in size:
        preparation["size"] = (int(size["shortest_edge"]),)
    if "resample" in settings:
        preparation["resampling"] = int(settings["resample"])
    if settings.get("do_normalize", True):
        preparation |= {key: tuple(settings[f"image_{key}"]) for key in ("mean", "std") if settings.get(f"image_{key}")}
    return preparation


def _config(path: Path, name: str = "config.json") -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((path / name).read_text(encoding="utf-8"))
    except ValueError as err:
        raise InvalidInputError(f"{path / name} is not JSON ({err})") from None
    return content


def _model_folder(folder: str) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise InvalidInputError(
            f"hf:{folder} is no Hugging Face folder: it has no config.json; save one with save_pretrained"
        )
    if not any(path.glob("*.safetensors")):
        raise InvalidInputError(f"{path} holds no .safetensors weights; save them with save_pretrained(folder)")
    return path


def _transformers() -> Any:
    import_torchvision()  # transformers imports torchvision by itself
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError("hf:FOLDER needs transformers: pip install transformers") from None
    transformers.utils.logging.disable_progress_bar()  # a bar of its own beside ours, and under --quiet
    return transformers
