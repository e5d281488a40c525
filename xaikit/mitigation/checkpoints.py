"""Training checkpoints: one ``.pt`` file of plain tensors and text, written whole or not at all."""

from __future__ import annotations

import inspect
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from xaikit.core.archives import check_archive
from xaikit.core.errors import CheckpointError, InvalidInputError, InvalidTypeError
from xaikit.core.files import partial_path

if TYPE_CHECKING:
    from xaikit.mitigation.base import Mitigator

FORMAT = 2
# Settings that change when a training ends or what it writes, but not its steps.
FREE = ("device", "n_epochs", "checkpoint_every", "patience", "max_skips")


class InMemory:
    """A checkpoint that is kept in memory, where no file was asked for; a closed one is read once, but not written."""

    def __init__(self) -> None:
        self.content: io.BytesIO | None = None
        self.closed = False


def check_path(path: Any) -> Path | InMemory | None:
    """The path of a checkpoint that can be written.

    Raises:
        InvalidTypeError: for what is no path.
        InvalidInputError: for a folder, or a path in a folder that does not exist.
    """
    if path is None or isinstance(path, InMemory):
        return path
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(f"checkpoint must be the path of a file, got {path!r}")
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"cannot be written: there is no folder {path.parent}"
        raise InvalidInputError(f"checkpoint {path} {wrong}; name a .pt file in a folder that exists")
    return path


def write(path: Path | InMemory, mitigator: Mitigator, parts: dict[str, Any], progress: dict[str, Any]) -> None:
    """Replace the file in one step; where writing fails the old file stays.

    Args:
        path: of the file.
        mitigator: whose settings go along, to be compared on resuming.
        parts: state dicts: tensors and plain values.
        progress: plain values, kept as text.

    Raises:
        CheckpointError: where it cannot be written.
    """
    content = {
        "format": FORMAT,
        "settings": json.dumps(_settings(mitigator)),
        "stand": json.dumps(progress),
        **parts,
    }
    if isinstance(path, InMemory):
        path.content = io.BytesIO()
        torch.save(content, path.content)
        return
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    # torch's own writer turns a full disk into a RuntimeError.
    except (OSError, RuntimeError) as err:
        cause = err.__context__ if isinstance(err.__context__, OSError) else err
        before = "the one from before is untouched" if path.exists() else "there was none before"
        raise CheckpointError(
            f"the checkpoint {path} could not be written ({cause}); {before}, and the model holds the present weights"
        ) from err
    finally:
        partial.unlink(missing_ok=True)


def read(
    path: Path | InMemory, mitigator: Mitigator, model: nn.Module, data: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The parts and the progress that `write` was given; None where there is no file.

    Args:
        path: of the file.
        mitigator: whose settings must be those in the file.
        model: which must have the weights in the file.
        data: fingerprint of the training data, which must be that in the file where it holds one.

    Raises:
        InvalidInputError: for a file that is no checkpoint, or one of another model, of other settings or other data.
    """
    if isinstance(path, InMemory):
        if path.content is None:
            return None
        file: Any = path.content
        file.seek(0)
        path.content = None if path.closed else file
    else:
        if not path.exists():
            return None
        check_archive(path)
        file = path
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        saved, progress = json.loads(content.pop("settings")), json.loads(content.pop("stand"))
        saved_weights = content["model"]
    except Exception as err:
        reason = f"{type(err).__name__} on reading it"
        raise InvalidInputError(f"{path} is no checkpoint of xaikit ({reason}); name another file") from err
    saved = {mitigator.RENAMED_SETTINGS.get(name, name): value for name, value in saved.items()}
    now = _settings(mitigator)
    differ = [k for k in now if now[k] != saved.get(k, _default(mitigator, k))]
    if differ:
        changes = ", ".join(f"{k}: {saved.get(k)!r} there, {now[k]!r} here" for k in differ)
        raise InvalidInputError(f"{path} was written with other settings ({changes}); name another file or use those")
    weights = model.state_dict()
    shapes = [{name: value.shape for name, value in state.items()} for state in (weights, saved_weights)]
    odd = [name for name in {**weights, **saved_weights} if shapes[0].get(name) != shapes[1].get(name)]
    if odd:
        raise InvalidInputError(f"{path} is of another model: {', '.join(sorted(odd)[:5])} differ")
    saved_data = content.get("data", {})
    other = [name for name in data if name in saved_data and data[name] != saved_data[name]]
    if other:
        raise InvalidInputError(
            f"{path} is of a training on other data ({', '.join(other)} differ); name another file, or pass those data"
        )
    return content, progress


def _settings(mitigator: Mitigator) -> dict[str, Any]:
    settings = {name: _described(value) for name, value in mitigator.settings().items() if name not in FREE}
    return {"mitigator": type(mitigator).__name__, **settings}


def _described(value: Any) -> str:
    """A setting as text that is the same in the next process: functions by their name, not their address."""
    return f"{value.__module__}.{value.__qualname__}" if inspect.isroutine(value) else repr(value)


def _default(mitigator: Mitigator, name: str) -> Any:
    """The value of a setting for a file of a version that did not have it yet."""
    return _described(mitigator.SETTINGS[name].default) if name in mitigator.SETTINGS else None
