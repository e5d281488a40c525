"""Training checkpoints: one ``.pt`` file of plain tensors and text, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from xaikit.mitigation.base import Mitigator

FORMAT = 1


def write(
    path: Any, mitigator: Mitigator, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: list[dict[str, float]]
) -> None:
    """Replace the file in one step; where writing fails the old file stays."""
    if path is None:
        return
    path = Path(path)
    content = {
        "format": FORMAT,
        "settings": json.dumps(_settings(mitigator)),
        "history": json.dumps(epochs),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(content, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def resume(
    path: Any, mitigator: Mitigator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Load a checkpoint into the model and the optimizer where there is one; the epochs that it has behind it.

    Raises:
        InvalidInputError: for a file that is no checkpoint, or one of another model or of other settings.
    """
    if path is None:
        return []
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(f"checkpoint must be the path of a file, got {path!r}")
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"cannot be written: there is no folder {path.parent}"
        raise InvalidInputError(f"checkpoint {path} {wrong}; name a .pt file in a folder that exists")
    if not path.exists():
        return []
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved, history = json.loads(content["settings"]), json.loads(content["history"])
    except Exception as err:
        reason = f"{type(err).__name__} on reading it"
        raise InvalidInputError(f"{path} is no checkpoint of xaikit ({reason}); name another file") from err
    now = _settings(mitigator)
    differ = [k for k in now if k != "n_epochs" and now[k] != saved.get(k)]
    if differ:
        changes = ", ".join(f"{k}: {saved.get(k)!r} there, {now[k]!r} here" for k in differ)
        raise InvalidInputError(f"{path} was written with other settings ({changes}); name another file or use those")
    theirs, ours = content["model"], model.state_dict()
    odd = [k for k in {**ours, **theirs} if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape]
    if odd:
        raise InvalidInputError(f"{path} is of another model: {', '.join(sorted(odd)[:5])} differ")
    model.load_state_dict(theirs)
    optimizer.load_state_dict(content["optimizer"])
    return list(history)


def _settings(mitigator: Mitigator) -> dict[str, Any]:
    settings = {name: repr(value) for name, value in mitigator.settings().items() if name != "device"}
    return {"mitigator": type(mitigator).__name__, **settings}
