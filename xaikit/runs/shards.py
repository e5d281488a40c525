"""A shard: some consecutive samples of a run in one ``.safetensors`` file, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.files import write_whole
from xaikit.core.results import Result
from xaikit.runs.manifest import SHARDS, tensor_hash

SUFFIX = ".safetensors"
ABOUT, SHA = "about", "sha256"  # keys of the file's header: the description, and its hash


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shard(Result):
    """Consecutive samples of a run.

    Attributes:
        indices: of the samples in the data, (n,).
        values: the attribution, (n, ...), in the structure of the inputs.
        targets: explained classes, (n,); None for a model with a single output.
        scores: explained scores, (n,).
        predicted: predicted classes, (n,); None for a model with a single output.
        confidence: probabilities of the predicted classes, (n,); None for a model with a single output.
        labels: the data's own classes, (n,); None where it has none.
        gap: what the attribution's sum misses of what the method promises, (n,); None where it promises nothing.
        inputs: what was explained, where it was kept.
        names: of the samples, such as file names; empty where the data has none.
        skipped: reason for each sample that could not be read, by its index.
        fingerprints: hash of each sample's file or row, if the data has it; it does not depend on the preprocessing.
        first_row: hash of the first sample's inputs, so that a resumed run can tell whether the data are the same.
    """

    indices: Tensor
    values: Any
    targets: Tensor | None = None
    scores: Tensor | None = None
    predicted: Tensor | None = None
    confidence: Tensor | None = None
    labels: Tensor | None = None
    gap: Tensor | None = None
    inputs: Any = None
    names: tuple[str, ...] = ()
    skipped: Mapping[int, str] = dataclasses.field(default_factory=dict)
    first_row: str = ""
    fingerprints: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)


PLAIN = ("targets", "scores", "predicted", "confidence", "labels", "gap")


def path_of(folder: Path, number: int) -> Path:
    """The path of a shard."""
    return folder / SHARDS / f"{number:08d}{SUFFIX}"


def numbers(folder: Path) -> list[int]:
    """The shards that a run has, in order."""
    return sorted(int(p.stem) for p in (folder / SHARDS).glob(f"*{SUFFIX}") if p.stem.isdecimal())


def write(folder: Path, number: int, shard: Shard, job: str) -> Path:
    """Write a shard in one step; where writing fails nothing is left behind.

    Raises:
        OSError: when the disk refuses (full, read-only); shards written before stay.
    """
    safetensors = _library()
    tensors = {"indices": shard.indices, **{k: v for k in PLAIN if (v := getattr(shard, k)) is not None}}
    structure = {}
    for what in ("values", "inputs"):
        value = getattr(shard, what)
        if value is not None:
            structure[what], leaves = _leaves(value)
            tensors |= {f"{what}.{key}": leaf for key, leaf in leaves.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    description = {
        "job": job,
        "structure": structure,
        "names": list(shard.names),
        "skipped": dict(shard.skipped),
        "first row": shard.first_row,
        "fingerprints": list(shard.fingerprints),
        "checksums": {name: tensor_hash(tensor) for name, tensor in tensors.items()},
    }
    text = json.dumps(description)
    return write_whole(path_of(folder, number), safetensors.save(tensors, {ABOUT: text, SHA: _text_hash(text)}))


def problem(folder: Path, number: int, job: str, *, thorough: bool = False) -> str:
    """What is wrong with a shard, as text; empty if nothing is. `thorough` reads the whole file."""
    try:
        description, _ = _open(path_of(folder, number), only=None if thorough else ("indices",))
    except InvalidInputError as err:
        return str(err)
    return "" if description["job"] == job else f"{path_of(folder, number)} belongs to another job"


def read(folder: Path, number: int) -> Shard:
    """One shard.

    Raises:
        InvalidInputError: for a damaged file; the message names it.
    """
    return _shard(*_open(path_of(folder, number), only=None))


def _shard(description: dict[str, Any], tensors: dict[str, Tensor]) -> Shard:
    structured = {
        what: _rebuild(kind, {k.removeprefix(f"{what}."): v for k, v in tensors.items() if k.startswith(f"{what}.")})
        for what, kind in description["structure"].items()
    }
    return Shard(
        indices=tensors["indices"],
        names=tuple(description["names"]),
        skipped={int(k): v for k, v in description["skipped"].items()},
        first_row=description["first row"],
        fingerprints=tuple(description["fingerprints"]),
        **{"values": (), **structured},
        **{k: tensors[k] for k in PLAIN if k in tensors},
    )


def read_row(folder: Path, number: int, row: int) -> Shard:
    """One sample of a shard, as a shard of one; only its part of the file is read, and no checksum of the values.

    Args:
        folder: of the run.
        number: of the shard.
        row: of the sample in the shard.

    Raises:
        InvalidInputError: for a damaged file, or a row that it does not have.
    """
    path = path_of(folder, number)
    if not path.is_file():
        raise InvalidInputError(f"there is no shard {path}; {_REPAIR}")
    safetensors = _library()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = file.metadata()[ABOUT]
            if _text_hash(text) != file.metadata()[SHA]:
                raise InvalidInputError(f"{path} does not hold what was written (its checksum differs); {_REPAIR}")
            tensors = {name: file.get_slice(name)[row : row + 1] for name in file.keys()}  # noqa: SIM118
        description = json.loads(text)
        if row < 0 or not len(tensors["indices"]):
            raise InvalidInputError(f"{path} holds no row {row}")
        one = {key: description[key][row : row + 1] for key in ("names", "fingerprints")}
        return _shard({**description, **one, "skipped": {}}, tensors)
    except _damage(safetensors) as err:
        if isinstance(err, InvalidInputError):
            raise
        raise InvalidInputError(f"{path} is damaged ({' '.join(str(err).split())[:80]}); {_REPAIR}") from None


def samples_of(folder: Path, number: int) -> tuple[list[int], dict[int, str], str]:
    """Indices that a shard holds, those that it skipped with the reason, and a hash of all that it holds."""
    description, tensors = _open(path_of(folder, number), only=("indices",))
    content = _text_hash(json.dumps(description, sort_keys=True))
    return tensors["indices"].tolist(), {int(k): v for k, v in description["skipped"].items()}, content


def first_row_of(folder: Path, number: int) -> tuple[int, str] | None:
    """Index and hash of the first sample of a shard; None where it holds no sample or no hash."""
    description, tensors = _open(path_of(folder, number), only=("indices",))
    row = description["first row"]
    return (int(tensors["indices"][0]), row) if row and len(tensors["indices"]) else None


def labels_of(folder: Path, number: int) -> dict[int, Any]:
    """The labels of a shard's samples by their indices; empty where it holds none."""
    _, tensors = _open(path_of(folder, number), only=("indices", "labels"))
    if "labels" not in tensors:
        return {}
    return dict(zip(tensors["indices"].tolist(), tensors["labels"].tolist(), strict=True))


def rows_of(folder: Path, number: int) -> list[dict[str, Any]]:
    """The rows of a shard's samples, without the values."""
    description, tensors = _open(path_of(folder, number), only=("indices", *PLAIN))
    n = len(tensors["indices"])
    columns = {k: tensors[k].tolist() if k in tensors else [None] * n for k in ("indices", *PLAIN)}
    singular = {"indices": "index", "targets": "target", "scores": "score", "labels": "label"}
    names, prints = description["names"] or [""] * n, description["fingerprints"] or [""] * n
    return [
        {"name": names[i], "fingerprint": prints[i], **{singular.get(k, k): column[i] for k, column in columns.items()}}
        for i in range(n)
    ]


_REPAIR = "run the same job with repair=True (--repair) to compute it again"


def _open(path: Path, *, only: tuple[str, ...] | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a shard: all, or those of the given names that it has; hashes are compared."""
    safetensors = _library()
    if not path.is_file():
        raise InvalidInputError(f"there is no shard {path}; {_REPAIR}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = file.metadata()[ABOUT]
            names = [name for name in file.keys() if only is None or name in only]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            changed = _text_hash(text) != file.metadata()[SHA]
        description = json.loads(text)
        changed = changed or any(tensor_hash(t) != description["checksums"][name] for name, t in tensors.items())
        complete = only is not None or set(names) == set(description["checksums"])
    except _damage(safetensors) as err:
        raise InvalidInputError(f"{path} is damaged ({' '.join(str(err).split())[:80]}); {_REPAIR}") from None
    if changed or not complete:
        raise InvalidInputError(f"{path} does not hold what was written (its checksum differs); {_REPAIR}")
    return description, tensors


def _damage(safetensors: Any) -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    return (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError, MemoryError)


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _leaves(value: Any) -> tuple[str, dict[str, Tensor]]:
    if isinstance(value, Tensor):
        return "tensor", {"0": value}
    if isinstance(value, Mapping):
        return "dict", {str(k): v for k, v in value.items()}
    return "tuple", {str(i): v for i, v in enumerate(value)}


def _rebuild(kind: str, leaves: dict[str, Tensor]) -> Any:
    if kind == "tensor":
        return leaves["0"]
    return leaves if kind == "dict" else tuple(leaves[str(i)] for i in range(len(leaves)))


def concatenated(parts: list[Any]) -> Any:
    """Batches of one structure, joined along the samples."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        other = next((p for p in parts if p.shape[1:] != first.shape[1:]), None)
        if other is not None:
            raise InvalidInputError(
                f"samples that are read together must be of one size, got {tuple(first.shape[1:])} and "
                f"{tuple(other.shape[1:])}; resize them, or pass those of each size by themselves"
            )
        return torch.cat([p.detach().cpu() for p in parts])
    if isinstance(first, Mapping):
        return {k: concatenated([p[k] for p in parts]) for k in first}
    return tuple(concatenated([p[i] for p in parts]) for i in range(len(first)))


def _library() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as err:
        raise MissingDependencyError("a run is stored as .safetensors: pip install 'xaikit[cli]'") from err
    names = {
        "save": staticmethod(safetensors.torch.save),
        "safe_open": safetensors.safe_open,
        "SafetensorError": safetensors.SafetensorError,
    }
    return type("safetensors", (), names)
