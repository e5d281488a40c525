"""What a value depends on, as one digest: models with the code of their classes, settings, samples, functions."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.core import Configured
from xaikit.core.batch import Batch

PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
    slice,
    range,
    types.EllipsisType,
)
NOT_STATE = ("training", "_parameters", "_buffers", "_modules", "_is_full_backward_hook", "_compiled_call_impl")
DERIVED = ("_abc_impl", "SETTINGS", "TUNABLES")  # of other members, or of none


class UnknownContentError(TypeError):
    """Something of which it cannot be told whether it is the same in another process."""


def digest_of(*values: Any) -> str:
    """A digest of values, the same in every process.

    A model counts with its weights and buffers, the code of its classes and what else its modules hold; a function with
    its code, and with the functions and constants that the code names. Of installed packages the version counts.

    Args:
        values: models, objects with settings, batches, tensors, functions, numbers, text, and collections of these.

    Raises:
        UnknownContentError: for any other object.
    """
    digest, visited = hashlib.sha256(), dict[int, Any]()
    for part in _parts(values, visited):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(value: Any, visited: dict[int, Any]) -> Iterator[bytes]:
    if isinstance(value, (*PLAIN, np.generic)):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, (Tensor, np.ndarray)):
        yield from _tensor(torch.as_tensor(value, device="cpu") if isinstance(value, np.ndarray) else value)
    elif isinstance(value, (Mapping, Sequence, Set)):
        yield f"{type(value).__name__} {len(value)}".encode()
        items = value.items() if isinstance(value, Mapping) else value
        for item in sorted(items, key=repr) if isinstance(value, Set) else items:
            for part in item if isinstance(value, Mapping) else (item,):
                yield from _parts(part, visited)
    elif id(value) in visited:
        yield f"again {visited[id(value)][0]}".encode()
    else:
        visited[id(value)] = len(visited), value  # held, so that no other object gets its id
        yield from _object(value, visited)


def _object(value: Any, visited: dict[int, Any]) -> Iterator[bytes]:
    if isinstance(value, nn.Module):
        yield from _module(value, visited)
    elif isinstance(value, Batch):
        yield from _parts((value.inputs, value.labels, value.masks), visited)
    elif isinstance(value, Configured):
        yield from _parts((type(value), {n: v for n, v in value.settings().items() if n != "model"}), visited)
    elif isinstance(value, functools.partial):
        yield from _parts(("partial", value.func, value.args, value.keywords), visited)
    elif isinstance(value, types.MethodType):
        yield from _parts(("method", value.__func__, value.__self__), visited)
    elif isinstance(value, (types.FunctionType, type)):
        yield from _code(value, visited)
    elif isinstance(value, types.BuiltinFunctionType):
        yield f"{value.__module__} {value.__qualname__}".encode()
    elif isinstance(value, types.ModuleType):
        yield from _imported(value, visited)
    elif hasattr(value, "__dict__") and (_package_of(type(value)) is not None or _is_plain(type(value))):
        # Such as a transformers config. A hash is of the other attributes, and another number in each process.
        yield from _parts((type(value), {k: v for k, v in vars(value).items() if not k.endswith("_hash")}), visited)
    else:
        raise UnknownContentError(f"a {type(value).__name__}")


def _is_plain(kind: type) -> bool:
    """Whether all that the user's objects of a class hold is in their `__dict__`."""
    return all(base is object or (_package_of(base) is None and "__slots__" not in vars(base)) for base in kind.__mro__)


def _tensor(value: Tensor) -> Iterator[bytes]:
    plain = value.detach().cpu()
    if plain.layout != torch.strided or plain.is_quantized:
        raise UnknownContentError(f"a tensor of layout {plain.layout}")
    plain = plain.resolve_conj().resolve_neg().contiguous()
    yield f"{plain.dtype} {tuple(plain.shape)}".encode()
    yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _module(model: nn.Module, visited: dict[int, Any]) -> Iterator[bytes]:
    yield repr(model).encode()
    for name, module in model.named_modules():
        state = {k: v for k, v in vars(module).items() if k not in NOT_STATE}
        # Hooks stand under numbers that count up in a process.
        attributes = {
            k: list(v.values()) if k.endswith("hooks") and isinstance(v, dict) else v for k, v in state.items()
        }
        tensors = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
        yield from _parts((name, type(module), tensors, attributes), visited)


def _code(value: Any, visited: dict[int, Any]) -> Iterator[bytes]:
    package = _package_of(value)
    yield f"{value.__module__} {value.__qualname__} {package}".encode()
    if package is not None:
        return
    if isinstance(value, type):
        for base in value.__mro__[1:]:
            yield from _parts((base,), visited)
        for name, member in vars(value).items():
            function = isinstance(member, types.FunctionType)
            if name in DERIVED or (name.startswith("__") and not function):
                continue
            yield name.encode()
            yield from _parts(_plain_member(member), visited)
        return
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    yield from _compiled(value.__code__, value.__globals__, visited)
    yield from _parts((value.__defaults__, value.__kwdefaults__, cells), visited)


def _imported(module: types.ModuleType, visited: dict[int, Any]) -> Iterator[bytes]:
    """The version of an installed module; of the user's own its file, its constants and what it imports itself."""
    package = _package(module.__name__)
    yield f"{module.__name__} {package}".encode()
    if package is not None:
        return
    if getattr(module, "__file__", None) is None:
        raise UnknownContentError(f"the module {module.__name__}, which has no file")
    yield Path(str(module.__file__)).read_bytes()
    for name, item in list(vars(module).items()):
        elsewhere = isinstance(item, (types.FunctionType, type)) and item.__module__ != module.__name__
        if not name.startswith("__") and (elsewhere or isinstance(item, (types.ModuleType, *PLAIN))):
            yield from _parts((name, item), visited)


def _plain_member(member: Any) -> Any:
    """What a descriptor in the body of a class runs."""
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


def _compiled(code: types.CodeType, space: Mapping[str, Any], visited: dict[int, Any]) -> Iterator[bytes]:
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _compiled(constant, space, visited)
        else:
            yield from _parts(constant, visited)
    for name in code.co_names:
        yield name.encode()
        if name in space:
            yield from _parts(space[name], visited)


def _package_of(value: Any) -> str | None:
    """The installed package that a class or function comes from, with its version; None for the user's own code."""
    return _package(getattr(value, "__module__", None) or "")


def _package(name: str) -> str | None:
    root = name.partition(".")[0]
    if root == __name__.partition(".")[0]:
        return f"xaikit {importlib.metadata.version('xaikit')}"
    if root in sys.stdlib_module_names and root != "__main__":
        return "python"
    return _version(root)


@functools.cache
def _version(root: str) -> str | None:
    for distribution in _distributions().get(root, ()):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
