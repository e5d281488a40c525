"""--target: what is explained, read from text, and checked on one sample before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.cli.options import numbers, returned_by, run_model
from xaikit.core import TARGETS
from xaikit.core.errors import InvalidInputError, near_names
from xaikit.core.model_device import model_device
from xaikit.core.spec_strings import parse_spec
from xaikit.core.structure import flatten
from xaikit.core.target_rows import pick_head
from xaikit.core.targets import looks_at_all_heads, normalise, score

LABEL = "label"


def read_target(text: str, classes: Sequence[str] = (), *, per_sample: bool = False) -> Any:
    """The target that a text names: None for the predicted class, LABEL, a class, a list of classes, or an object.

    Args:
        text: the value of --target.
        classes: names of the classes, by index; each may be a target.
        per_sample: whether one class for each sample (3,1,2) may be named.

    Raises:
        InvalidInputError, UnknownNameError: for a text that is none of these, or a target whose settings are wrong.
    """
    text = text.strip()
    if text in ("", LABEL):
        return text or None
    if text in classes:
        return list(classes).index(text)
    if text.isdecimal():
        return int(text)
    if per_sample and re.fullmatch(r"\d+(,\d+)*", text.replace(" ", "")):
        return numbers(text, int, "--target")
    name = text.partition(":")[0]
    if name in TARGETS:
        return _target_object(text)
    several = "one per sample: 3,1,2" if per_sample else "one for all samples"
    raise InvalidInputError(
        f"--target takes a class (3, {several}), a word of --classes, 'label', or a target such as "
        f"contrast:for_=3,against=5 or position:position=-1,index=5; got {text!r}"
        f"{near_names(name, [*classes, *TARGETS])}"
    )


def _target_object(text: str) -> Any:
    """The registered target of a spec string; a region's mask may be a file."""
    name, settings = parse_spec(text)
    mask = settings.get("mask")
    if not isinstance(mask, str):
        return TARGETS.create(text)
    from xaikit.shortcuts import load_masks

    return TARGETS.create({"name": name, "settings": {**settings, "mask": load_masks(Path(mask))}})


def check_target(target: Any, model: nn.Module, inputs: Any, head: str | int | None) -> None:
    """Refuse a target that the model's output does not have; the model runs once, on the inputs given.

    Args:
        target: as `read_target` gives it.
        model: in evaluation mode.
        inputs: a sample or several, (n, ...).
        head: which output, unless the target looks at all of them.

    Raises:
        InvalidInputError: in the words of the command line.
    """
    if target == LABEL:
        return
    returned, n = returned_by(model, inputs), len(flatten(inputs)[0][0])
    output = returned if looks_at_all_heads(target) else pick_head(returned, head)
    is_class = not hasattr(target, "scores") or getattr(target, "NAME", "") == "class"
    if isinstance(output, Tensor) and output.ndim > 2 and is_class:
        example = "position:position=-1,index=5" if output.ndim == 3 else "region:class_=1"
        form = ", ".join(map(str, output.shape[1:]))
        raise InvalidInputError(
            f"the model returns (N, {form}), not one score for each class: say what is explained, --target {example}"
        )
    if target is not None:
        classes = torch.tensor(target) if isinstance(target, list) else target
        score(output, normalise(classes, n, model_device(model)), n=n)


def targets_for(target: Any, inputs: Any, labels: Any, model: nn.Module, head: str | int | None) -> Any:
    """The targets of some samples, as an explainer takes them.

    Args:
        target: as `read_target` gives it.
        inputs: the samples.
        labels: their labels, where there are some.
        model: which predicts the class where no target is named.
        head: which of its outputs.

    Raises:
        InvalidInputError: for labels that are not there, or another number of classes than of samples.
    """
    if target is None:
        output = run_model(model, inputs, head)
        return output.argmax(1) if output.ndim == 2 and output.shape[1] > 1 else None
    if isinstance(target, list):
        n = len(flatten(inputs)[0][0])
        if len(target) != n:
            raise InvalidInputError(
                f"--target takes one class for all samples, or one for each of {n}, got {len(target)}"
            )
        return torch.tensor(target)
    if target != LABEL:
        return target
    if labels is None:
        raise InvalidInputError(
            "--target label needs data with labels: --data with class folders or labels.csv, a .npz with 'y', a table "
            "with --labels; or --row of such a file"
        )
    return labels
