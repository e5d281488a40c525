"""The tries of `mend` in a folder, so that an interrupted one goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.files import write_whole
from xaikit.core.results import Result
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.checkpoints import InMemory
from xaikit.mitigation.mend_data import MendData
from xaikit.mitigation.mend_result import MendTry
from xaikit.mitigation.sources import InMemorySource

FILE = "mend.json"


class TryStore:
    """What was trained, in a folder; without one it keeps the weights in memory.

    Args:
        folder: where to; None for nowhere.
        fingerprint: what tells this call from others, by what it is of.

    Raises:
        InvalidTypeError: for what is no path.
        InvalidInputError: for a folder that holds another call's tries, or that cannot be read.
    """

    def __init__(self, folder: Any, fingerprint: dict[str, str]) -> None:
        if folder is not None and not isinstance(folder, (str, Path)):
            raise InvalidTypeError(f"folder must be the path of a folder, got {folder!r}")
        self._folder = None if folder is None else Path(folder)
        self._fingerprint = fingerprint
        self._rows: dict[str, dict[str, Any]] = {}
        self._weights: dict[str, dict[str, Any]] = {}
        self._losses: dict[str, float] = {}
        self._in_memory: dict[str, InMemory] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (self._folder / FILE).exists():
                self._read(self._folder / FILE)

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            self._rows, self._losses = content["tries"], content.get("losses", {})
            saved = content["fingerprint"]
        except (ValueError, KeyError, TypeError) as err:
            raise InvalidInputError(f"{path} holds no tries of mend; name another folder") from err
        differ = [name for name, value in self._fingerprint.items() if saved.get(name) != value]
        if differ:
            raise InvalidInputError(
                f"{path.parent} holds the tries of another call ({', '.join(differ)} differ); name another folder"
            )

    def _write(self) -> None:
        assert self._folder is not None
        content = {"fingerprint": self._fingerprint, "tries": self._rows, "losses": self._losses}
        write_whole(self._folder / FILE, json.dumps(content, indent=1) + "\n")

    def checkpoint(self, key: str, rate: float) -> Path | InMemory:
        """Where the training of a try keeps its checkpoint.

        Args:
            key: of the try.
            rate: at which it learns.
        """
        name = f"{_short(key)}-{rate:g}.checkpoint.pt"
        return self._in_memory.setdefault(name, InMemory()) if self._folder is None else self._folder / name

    def close(self) -> None:
        """Write no more checkpoints where there is no folder: the rest of a training needs none."""
        for checkpoint in self._in_memory.values():
            checkpoint.closed = True

    def drop(self, key: str, rate: float) -> None:
        """Forget the checkpoint of a training that does not go on.

        Args:
            key: of the try.
            rate: at which it learned.
        """
        checkpoint = self.checkpoint(key, rate)
        if isinstance(checkpoint, Path):
            checkpoint.unlink(missing_ok=True)
        else:
            checkpoint.content = None

    def loss(self, name: str) -> float | None:
        """A loss that was measured before.

        Args:
            name: of what.
        """
        return self._losses.get(name)

    def keep_loss(self, name: str, value: float) -> None:
        """Remember a loss.

        Args:
            name: of what.
            value: may be infinite.
        """
        self._losses[name] = value
        if self._folder is not None:
            self._write()

    def find(self, key: str) -> MendTry | None:
        """A try that was finished before.

        Args:
            key: of the try.
        """
        return MendTry(**self._rows[key]) if key in self._rows else None

    def keep(self, key: str, row: MendTry, model: nn.Module) -> None:
        """Remember a finished try.

        Args:
            key: of the try.
            row: its measures.
            model: that was trained.
        """
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        self._rows[key] = dataclasses.asdict(row)
        self._in_memory.clear()
        if self._folder is None:
            self._weights[key] = weights
            return
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        write_whole(self._folder / f"{_short(key)}.pt", buffer.getvalue())
        self._write()
        for path in self._folder.glob(f"{_short(key)}-*.checkpoint.pt"):
            path.unlink()

    def load(self, key: str, model: nn.Module) -> nn.Module:
        """The model with the weights of a try.

        Args:
            key: of the try.
            model: which gets them.
        """
        if self._folder is None:
            weights = self._weights[key]
        else:
            weights = torch.load(self._folder / f"{_short(key)}.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        return model


def fingerprint(model: nn.Module, data: MendData, **settings: Any) -> dict[str, str]:
    """What tells one call of `mend` from others, by what it is of.

    Args:
        model: before the training.
        data: samples and shortcut.
        settings: further ones, whose text counts.
    """
    parts = {f"data {name}": value for name, value in InMemorySource(data.training, 1).fingerprint().items()}
    parts |= {f"validation {name}": value for name, value in InMemorySource(data.held_out, 1).fingerprint().items()}
    parts["model"] = _digest(model.state_dict())
    parts["shortcut"] = _text(data.shortcut.factor or data.shortcut.concept)
    return {**parts, **{name: str(value) for name, value in settings.items()}}


def key_of(mitigator: Mitigator) -> str:
    """What tells a try from others: the mitigator and all its settings.

    Args:
        mitigator: as it is trained with.
    """
    return _text(mitigator)


def _text(value: Any) -> str:
    """The repr of settings; tensors in them, such as a mask, show only their shape there, so their digest follows."""
    tensors = dict(_tensors(value, ""))
    return f"{value!r} {_digest(tensors)}" if tensors else repr(value)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()[:16]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in settings, in a result, or in a list, by where they stand."""
    if isinstance(value, Tensor):
        yield name, value
        return
    parts: dict[Any, Any] = {}
    if isinstance(value, Configured):
        parts = value.settings()
    elif isinstance(value, Result):
        parts = vars(value)
    elif isinstance(value, Mapping):
        parts = dict(value)
    elif isinstance(value, (list, tuple)):
        parts = dict(enumerate(value))
    for key, part in parts.items():
        yield from _tensors(part, f"{name}.{key}")


def _short(key: str) -> str:
    return "try-" + hashlib.sha256(key.encode()).hexdigest()[:12]
