"""Attribution: the values together with where they come from."""

from __future__ import annotations

import dataclasses
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, MissingDependencyError, XaikitError
from xaikit.core.files import write_whole
from xaikit.core.structure import flatten

TENSORS = ("scores", "gap", "tokens")  # the fields that hold one, or None
JSON = ("spec", "targets", "absorbed", "lost")  # the fields that hold no tensor


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What `Explainer.explain` returns.

    Attributes:
        values: the attribution, in the structure of the inputs.
        spec: name and settings of the explainer.
        targets: the explained classes, or None where a function chose the score.
        scores: the explained score of each sample, (N,).
        gap: |sum of the attribution - what the method promises as its sum|, (N,); None where nothing is promised.
        absorbed: the part of the promised sums that biases, constants and stabilizers hold by a method's rules, and at
            a layer what flows past it, for the batch; None for a method that keeps no such books (LRP does).
        lost: the part that other operations did not hand on, by operation; empty where all is conserved.
        tokens: ids (N, T) of the tokens at whose embedding (N, T, D) the values stand; None for anything else.
    """

    values: Any
    spec: dict[str, Any]
    targets: Any = None
    scores: Tensor | None = None
    gap: Tensor | None = None
    absorbed: float | None = None
    lost: dict[str, float] | None = None
    tokens: Tensor | None = None

    def save(self, path: str | Path) -> Path:
        """Write to ``.npz`` or ``.safetensors``; `load` reads either.

        Raises:
            InvalidInputError: for another ending.
            MissingDependencyError: for ``.safetensors`` where that library is absent.
        """
        path = Path(path)
        arrays = {f"values.{key}": t.detach().cpu() for key, t in self._named_values().items()}
        arrays |= {k: t.detach().cpu() for k in TENSORS if (t := getattr(self, k)) is not None}
        named = {name: getattr(self, name) for name in JSON}
        meta = json.dumps({**named, "structure": self._structure()})
        if path.suffix == ".npz":
            buffer = io.BytesIO()
            np.savez(buffer, meta=np.array(meta), **{k: _to_numpy(t) for k, t in arrays.items()})
            return write_whole(path, buffer.getvalue())
        if path.suffix == ".safetensors":
            content = _safetensors().save({k: t.contiguous() for k, t in arrays.items()}, {"meta": meta})
            return write_whole(path, content)
        raise InvalidInputError(f"an attribution is saved as .npz or .safetensors, got {path.name!r}")

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote."""
        path = Path(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                arrays = {k: torch.from_numpy(file[k]) for k in file.files if k != "meta"}
        elif path.suffix == ".safetensors":
            with _safetensors().safe_open(path, framework="pt") as file:
                meta = json.loads(file.metadata()["meta"])
                arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        else:
            raise InvalidInputError(f"an attribution is saved as .npz or .safetensors, got {path.name!r}")
        values: Any = {k.removeprefix("values."): t for k, t in arrays.items() if k.startswith("values.")}
        if meta["structure"] == "tensor":
            values = values["0"]
        elif meta["structure"] == "tuple":
            values = tuple(values[str(i)] for i in range(len(values)))
        named: dict[str, Any] = {**{name: meta[name] for name in JSON}, **{name: arrays.get(name) for name in TENSORS}}
        return cls(values, **named)

    def plot(self, inputs: Any = None, **options: Any) -> Any:
        """A figure of the attribution beside (or over) the inputs; see `xaikit.report.figures.plot`."""
        # The one call upwards: figures need matplotlib, which nobody pays for before drawing.
        from importlib import import_module

        return import_module("xaikit.report.figures").plot(self, inputs, **options)

    def _repr_html_(self) -> str | None:
        """What a notebook shows by itself: the picture, where there is a way to draw such a shape."""
        from importlib import import_module

        try:
            figure = self.plot()
        except XaikitError:
            return None
        picture = import_module("xaikit.report.pictures").drawing(figure)
        size = f'width="{round(96 * figure.get_figwidth())}" style="max-width: 100%"'
        return f'<img src="{picture}" {size} alt="attribution by {html.escape(str(self.spec.get("name")))}">'

    def _named_values(self) -> dict[str, Tensor]:
        if isinstance(self.values, Mapping):
            return {str(k): v for k, v in self.values.items()}
        return {str(i): t for i, t in enumerate(flatten(self.values, "values")[0])}

    def _structure(self) -> str:
        return "tensor" if isinstance(self.values, Tensor) else "dict" if isinstance(self.values, Mapping) else "tuple"


@dataclasses.dataclass(frozen=True)
class Explained:
    """What an explainer measures inside its call for `Explainer.explain`.

    Attributes:
        values: the attribution, one tensor per explained input.
        scores: the explained score of each sample, (N,).
        gap: how far the attribution's sum is from the promised total, (N,); None where nothing is promised.
        promised: the promised total of each sample, (N,).
    """

    values: tuple[Tensor, ...]
    scores: Tensor
    gap: Tensor | None = None
    promised: Tensor | None = None

    @property
    def missing_share(self) -> float | None:
        """The largest gap as a share of the largest promised total of the batch."""
        if self.gap is None or self.promised is None:
            return None
        return float(self.gap.max() / self.promised.abs().max().clamp_min(torch.finfo(self.gap.dtype).tiny))


def _to_numpy(tensor: Tensor) -> Any:
    return tensor.float().numpy() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.numpy()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as err:
        raise MissingDependencyError(
            "writing .safetensors needs safetensors: pip install safetensors, or use .npz"
        ) from err
    return type("safetensors", (), {"save": staticmethod(safetensors.torch.save), "safe_open": safetensors.safe_open})
