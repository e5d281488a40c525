"""Options as text, turned into values and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.cli.inputs import IMAGENET
from xaikit.cli.user_code import line_of_user
from xaikit.core.errors import InvalidInputError, NonFiniteError
from xaikit.core.model_device import model_device
from xaikit.core.structure import flatten
from xaikit.core.targets import pick_head
from xaikit.files.pictures import Preparation


def split_list(text: str) -> list[str]:
    """The words in a text like "no,yes"."""
    return [word.strip() for word in text.split(",") if word.strip()]


def class_words(text: str) -> list[str]:
    """The words of --classes.

    Args:
        text: of the option.

    Raises:
        InvalidInputError: for a word that stands twice.
    """
    names = split_list(text)
    twice = next((word for word in names if names.count(word) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"--classes names each output of the model by a word of its own, got {twice!r} twice")
    return names


def numbers(text: str, kind: type, option: str, word: str = "") -> list[Any]:
    """The numbers in a text like "3,1,2"; `word` is what the option takes besides, for the message."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        units = "whole numbers" if kind is int else "numbers"
        besides = f", or {word!r}" if word else ""
        raise InvalidInputError(f"{option} takes {units} with commas between{besides}, got {text!r}") from None


def preparation(model: str, size: str, grey: bool, mean: str, std: str) -> Preparation:
    """The preparation of images; by default that of the model's own library (torchvision, timm, Hugging Face)."""
    usual = _usual(model)
    if not re.fullmatch(r"(\d+(x\d+)?)?", size):
        raise InvalidInputError(f"--size is 224 or 240x320 (height x width), got {size!r}")
    height_width = numbers(size.replace("x", ","), int, "--size") or list(usual.get("size", ())) or None
    if height_width and (len(height_width) > 2 or min(height_width) < 1):
        raise InvalidInputError(f"--size is 224 or 240x320 (height x width), got {size!r}")
    scales = []
    for text, option, imagenet in ((mean, "--mean", IMAGENET[0]), (std, "--std", IMAGENET[1])):
        scale = imagenet if text == "imagenet" else tuple(numbers(text, float, option, "imagenet"))
        scales.append(scale or usual.get(option[2:]))
    # A size of the user's own is that of the whole centre square.
    way = {key: usual[key] for key in ("crop", "resampling") if key in usual and (key != "crop" or not size)}
    return Preparation(tuple(height_width) if height_width else None, grey=grey, mean=scales[0], std=scales[1], **way)


def _usual(model: str) -> dict[str, Any]:
    """The preparation of images for a model's published weights."""
    source, _, item = model.partition(":")
    if source == "torchvision":
        from xaikit.cli.models import torchvision_settings

        return {"size": (224,), "mean": IMAGENET[0], "std": IMAGENET[1], **torchvision_settings(item)}
    if source == "timm":
        from xaikit.cli.models import timm_settings

        return timm_settings(item)
    from xaikit.cli.hugging_face import image_settings

    return image_settings(model)


def device_of(name: str) -> Any:
    """The device of that name, tried out; of several processes on a machine each has a GPU of its own."""
    place = os.environ.get("LOCAL_RANK", "")
    if name == "cuda" and place.isdecimal() and torch.cuda.is_available():
        name = f"cuda:{int(place) % torch.cuda.device_count()}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as err:
        raise InvalidInputError(f"--device {name} cannot be used here ({str(err).splitlines()[0]})") from None


def returned_by(model: nn.Module, inputs: Any) -> Any:
    """Whatever the model returns for some samples, which are moved to where it is.

    Raises:
        InvalidInputError: where the model does not take such inputs.
    """
    device = model_device(model)
    tensors, rebuild = flatten(inputs)
    try:
        with torch.no_grad():
            return model(rebuild(tuple(t.to(device) for t in tensors)))
    except RuntimeError as err:
        shapes, place = ", ".join(str(tuple(t.shape)) for t in tensors), line_of_user(err)
        weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        other = next((t.dtype for t in tensors if weights is not None and t.dtype != weights), None)
        if other is not None and "type" in str(err):
            kind = str(weights).removeprefix("torch.")
            raise InvalidInputError(
                f"the model holds {weights} parameters and does not take {other} inputs ({err}); write "
                f"the file as {kind}, or give --model a factory whose model takes such numbers"
            ) from err
        raise InvalidInputError(
            f"the model does not take inputs of shape {shapes} ({err}{f', raised in {place}' if place else ''}); "
            "--size and --grey change an image, --columns a table"
        ) from err


def run_model(model: nn.Module, inputs: Any, head: str | int | None) -> Tensor:
    """The model's output for some samples.

    Raises:
        InvalidInputError: where the model does not take such inputs, or returns no such output.
        NonFiniteError: for a model that gives NaN or infinite numbers.
    """
    returned = returned_by(model, inputs)
    if isinstance(returned, Tensor) and isinstance(head, str) and head != "logits":
        raise InvalidInputError(f"--head {head} names one of several outputs, and the model returns one tensor")
    output: Tensor = pick_head(returned, head)
    if output.ndim == 0:
        raise InvalidInputError(
            "a model returns a row of scores for each sample, and this one returns a single number for all samples; "
            "give --model one without the sum or mean at its end"
        )
    n_bad = int((~torch.isfinite(output.flatten(1) if output.ndim > 1 else output[:, None]).all(1)).sum())
    if n_bad == len(output) and n_bad:
        raise NonFiniteError(
            "the model gives NaN or infinite numbers, so there is nothing to explain; look at --weights (a training "
            "that diverged?) and at the values of the samples"
        )
    return output


def check_masked(metrics: Sequence[str], masks: Any) -> None:
    """Refuse a metric that compares with masks where none are named."""
    from xaikit.core import METRICS

    needing = next((name for name in metrics if METRICS.create(name).NEEDS_MASK), None)
    if needing is not None and masks is None:
        raise InvalidInputError(f"--metric {needing} compares with a region: name it by --mask or --mask-names")


def check_has_labels(data: Any, option: str) -> None:
    """Refuse samples of the command line's own that have no labels."""
    from xaikit.cli.samples import Samples

    if isinstance(data, Samples) and not len(data.labels):
        raise InvalidInputError(
            f"{option} has no labels: a folder needs class folders or labels.csv, a .npz its 'y', a table "
            "--labels COLUMN"
        )


def check_out(path: Path, *endings: str) -> None:
    """Refuse a result whose name has another ending."""
    if path.suffix not in endings:
        raise InvalidInputError(f"--out must end in {' or '.join(endings)}, got {path.name!r}")


def check_kind(kind: str) -> None:
    """Refuse a kind of samples that there is not; none is right."""
    kinds = ("image", "series", "tabular", "text")
    if kind and kind not in kinds:
        raise InvalidInputError(f"--kind is {', '.join(kinds[:-1])} or {kinds[-1]}, got {kind!r}")


def check_folder(folder: Path, result: str) -> None:
    """Refuse a folder of results that is neither new nor empty nor one that holds such a result."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"--out {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / result).is_file():
        raise InvalidInputError(f"--out {folder} is not empty and holds no {result}; name another folder")


def check_unique(names: Sequence[str], option: str) -> None:
    """Refuse an option that is missing, or a value that is given twice."""
    if not names:
        raise InvalidInputError(f"name at least one {option}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{option} {twice} is given twice")
