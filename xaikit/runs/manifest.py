"""The manifest of a run: its job (explainer, weights, data). Another job in the same folder is refused."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import partial_path

NAME = "manifest.json"
SHARDS = "shards"
FORMAT = 2


class ExplainerRecord(BaseModel):
    """The explainer of a run."""

    name: str
    settings: dict[str, Any]


class JobRecord(BaseModel):
    """The keys of a run's job that the rest of xaikit reads; further keys are only compared."""

    model_config = ConfigDict(extra="allow", strict=True)

    explainer: ExplainerRecord
    model: str
    weights: str
    targets: int | str | dict[str, Any]
    seed: int
    samples: int = Field(ge=1)


class Manifest(BaseModel):
    """The content of ``manifest.json``."""

    model_config = ConfigDict(strict=True)

    format: Literal[2]
    job: JobRecord
    versions: dict[str, str]
    display_names: dict[str, str | list[str]] = {}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(tensor_hash(value).encode())
    return digest.hexdigest()


def tensor_hash(value: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    plain = value.detach().cpu().contiguous()
    head = f"{plain.dtype}{tuple(plain.shape)}".encode()
    # Bytes, since numpy knows no bfloat16.
    return hashlib.sha256(head + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that compute a run."""
    installed = {"python": platform.python_version()}
    for package in ("xaikit", "torch", "zennit", "captum"):
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def check(folder: Path, job: dict[str, Any], *, repair: bool) -> bool:
    """Whether a folder holds this job's manifest; False where the job may begin in it.

    Raises:
        InvalidInputError: for a folder that holds something else, another job, or an unreadable manifest.
    """
    path = folder / NAME
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; name a folder for the run")
    if path.exists() and not (repair and _unreadable(path)):
        _same_job(read(folder), job, folder)
        return True
    mending = repair and (folder / SHARDS).is_dir()
    if not mending and _strangers(folder) and not path.exists():  # again: another process may just have begun
        raise InvalidInputError(f"{folder} is not empty and holds no run of xaikit; name a new folder")
    return False


def claim(folder: Path, job: dict[str, Any], display_names: dict[str, Any], *, repair: bool) -> bool:
    """Write the manifest of a folder for this job, where there is none; compare, where there is one; then True.

    Several processes may claim a folder at once; the first one writes, the others compare.

    Args:
        folder: of the run.
        job: the explainer, the weights, the targets, the data.
        display_names: what to call classes, columns and tokens, which makes no other job.
        repair: write over a manifest that cannot be read.

    Raises:
        InvalidInputError: as `check`.
    """
    if check(folder, job, repair=repair):
        return True
    path = folder / NAME
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    manifest = {"format": FORMAT, "job": job, "versions": versions(), "display_names": display_names}
    partial = partial_path(path)
    try:
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if repair:
            os.replace(partial, path)
        else:
            os.link(partial, path)  # fails where another process was faster
    except FileExistsError:
        _same_job(read(folder), job, folder)
    finally:
        partial.unlink(missing_ok=True)
    return True


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        InvalidInputError: where there is none, or it cannot be read.
    """
    path = folder / NAME
    if path.exists() and not path.is_file():
        raise InvalidInputError(f"{path} is not a file; name a folder that xaikit explain --data wrote")
    if not path.is_file():
        raise InvalidInputError(
            f"{folder} holds no run: there is no {path}; name a folder that explain_dataset or xaikit explain --data "
            "wrote"
        )
    problem = _unreadable(path)
    if problem:
        raise InvalidInputError(
            f"{path} cannot be read ({problem}); the same job with repair=True (--repair) writes it anew"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _strangers(folder: Path) -> bool:
    """Whether a folder holds files other than those of a process that has only begun (and was perhaps killed)."""
    if not folder.exists():
        return False
    begun = [p for p in folder.iterdir() if p.name != SHARDS and not p.match(f"{NAME}.*.partial")]
    return bool(begun) or any((folder / SHARDS).glob("*.safetensors"))


def job_hash(job: dict[str, Any]) -> str:
    """SHA-256 of a job, which every shard carries."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _unreadable(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        return type(err).__name__
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] != FORMAT:
        return f"it has format {content['format']}, this xaikit reads format {FORMAT}"
    try:
        Manifest.model_validate(content)
    except ValidationError as err:
        problem = err.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'the content'}: {problem['msg']}"
    return ""


def _same_job(manifest: dict[str, Any], job: dict[str, Any], folder: Path) -> None:
    stored, current = _flat(manifest["job"]), _flat(job)
    differ = [key for key in {**stored, **current} if stored.get(key) != current.get(key)]
    if "explainer.name" in differ:  # another method has other settings, so only the name is reported
        differ = [key for key in differ if not key.startswith("explainer.settings")]
    if differ:
        differences = "; ".join(
            f"{key}: {_short(stored.get(key))} there, {_short(current.get(key))} here" for key in differ[:4]
        )
        raise InvalidInputError(f"{folder} holds another job ({differences}); name another folder")
    recorded, now = manifest.get("versions", {}), versions()
    if recorded != now:
        changed = ", ".join(
            f"{k} {recorded.get(k)} -> {now.get(k)}" for k in {**recorded, **now} if recorded.get(k) != now.get(k)
        )
        warnings.warn(f"{folder} was begun with other versions ({changed}); values may differ slightly", stacklevel=4)


def _flat(job: Any, name: str = "") -> dict[str, Any]:
    """The values of nested dicts by their dotted names."""
    if not isinstance(job, dict):
        return {name: job}
    return {k: v for key, item in job.items() for k, v in _flat(item, f"{name}.{key}" if name else key).items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
