"""Folders of marks: what a person marked on samples, as files that `--mask` and `load_masks` read.

A folder holds ``marks.json`` and, for each meaning (``must-not-matter``, ``must-matter``), ``all.png``,
``class/K.png``, ``cluster/JOB-K.png`` and ``sample/NAME.png``; of texts, series and tables these are ``.json``. What
counts for a sample is the union of them. A sample without a mark has an empty one. ``cluster/JOB-K.samples`` lists the
names of the samples in a cluster.

A mark is a set of positions: the places of a flat picture, series, row or text. A mark on a word of all texts, or of
those of a class, holds token ids instead.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.files.pictures import PICTURES

HEADER, FORMAT, CHUNK = "marks.json", 1, "xaikit"
MEANINGS = ("must-not-matter", "must-matter")
SCOPES = ("all", "class", "cluster", "sample")
SAMPLES = ".samples"  # ending of a cluster's list of names
KINDS = ("image", "series", "tabular", "text")
LONGEST_NAME = 180  # bytes of a file's name; longer ones are cut and told apart by a hash
Positions = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class MarkKey:
    """Which mark is meant.

    Attributes:
        meaning: one of `MEANINGS`.
        scope: one of `SCOPES`.
        name: of the sample, the number of the class, or the job and number of the cluster; empty for all.
    """

    meaning: str
    scope: str
    name: str = ""

    def __post_init__(self) -> None:
        if self.meaning not in MEANINGS or self.scope not in SCOPES or bool(self.name) == (self.scope == "all"):
            raise InvalidInputError(
                f"a mark is {' or '.join(MEANINGS)}, of {', '.join(SCOPES)} with a name, got {self.meaning!r}, "
                f"{self.scope!r}, {self.name!r}"
            )


@dataclasses.dataclass(frozen=True)
class StoredMark:
    """A mark as its file holds it.

    Attributes:
        positions: what is marked, ascending.
        edit: number of the last edit in it.
        facts: of the sample: its index in the data, its name and fingerprint.
    """

    positions: Positions
    edit: int = 0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class MarkFolder:
    """A folder of marks.

    Args:
        path: that holds ``marks.json``.

    Attributes:
        path: the same.
        kind: of the samples, one of `KINDS`.
        shape: of the marks: (height, width), or one number.

    Raises:
        InvalidInputError: for a folder without marks, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = path / HEADER
        if not header.is_file():
            raise InvalidInputError(f"{path} holds no marks: there is no {header}")
        try:
            content = json.loads(header.read_text(encoding="utf-8"))
            self.kind, self.shape = str(content["kind"]), tuple(int(n) for n in content["shape"])
            fits = content["format"] == FORMAT and self.kind in KINDS and all(0 < n < 2**24 for n in self.shape)
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits or len(self.shape) != (2 if self.kind == "image" else 1):
            raise InvalidInputError(f"{header} is damaged, or of another version; marks are read beside it")
        self.ending = ".png" if self.kind == "image" else ".json"

    @classmethod
    def begin(cls, path: Path, kind: str, shape: Sequence[int]) -> MarkFolder:
        """The folder, made where it is not there.

        Args:
            path: of the folder.
            kind: of the samples.
            shape: of the marks.

        Raises:
            InvalidInputError: for a folder with marks of another form.
            OSError: when the disk refuses.
        """
        if not (path / HEADER).is_file():
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / HEADER, json.dumps({"format": FORMAT, "kind": kind, "shape": list(shape)}) + "\n")
        folder = cls(path)
        if folder.kind != kind or folder.shape != tuple(shape):
            raise InvalidInputError(
                f"{path} holds marks of {folder.kind} samples of shape {folder.shape}, and these are {kind} of shape "
                f"{tuple(shape)}; name another folder with --marks"
            )
        return folder

    def file_of(self, key: MarkKey) -> Path:
        """The file of a mark, always inside the folder.

        Args:
            key: which mark.
        """
        home = self.path / key.meaning
        if key.scope == "all":
            return home / f"all{self.ending}"
        return home / key.scope / safe_path(key.name, self.ending)

    def read(self, key: MarkKey) -> StoredMark:
        """A mark; an empty one where there is no file.

        Args:
            key: which mark.

        Raises:
            InvalidInputError: for a damaged file.
        """
        path = self.file_of(key)
        return self.read_file(path) if path.is_file() else StoredMark(np.empty(0, np.int64))

    def read_file(self, path: Path) -> StoredMark:
        """The mark in a file of the folder.

        Args:
            path: of the file.

        Raises:
            InvalidInputError: for a damaged one, or one of another size.
        """
        try:
            if self.ending == ".png":
                with Image.open(path) as picture:
                    picture.load()
                    facts = json.loads(getattr(picture, "text", {}).get(CHUNK, "{}"))
                    pixels = np.array(picture.convert("L")) > 127
                self._check_size(path, pixels.shape)
                positions = np.flatnonzero(pixels)
            else:
                facts = json.loads(path.read_text(encoding="utf-8"))
                positions = from_runs([n for start, end in facts.pop("spans") for n in (start, end - start)])
                facts = {key: facts[key] for key in facts if key not in ("kind", "shape")}
            return StoredMark(positions.astype(np.int64), int(facts.pop("edit", 0)), facts)
        except InvalidInputError:
            raise
        except Exception as err:  # a file may hold anything
            raise InvalidInputError(f"{path} is no mark ({' '.join(str(err).split())[:80]})") from None

    def _check_size(self, path: Path, size: Sequence[int]) -> None:
        if tuple(size) != self.shape:
            raise InvalidInputError(
                f"{path} has {size[0]}x{size[1]} pixels (height x width), the marks beside it "
                f"{self.shape[0]}x{self.shape[1]}"
            )

    def write(self, key: MarkKey, mark: StoredMark) -> Path:
        """Write a mark, whole or not at all; an empty one too, so that the file says when it became empty.

        Args:
            key: which mark.
            mark: its content.

        Raises:
            OSError: when the disk refuses.
        """
        path = self.file_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {**mark.facts, "edit": mark.edit}
        if self.ending == ".json":
            runs = to_runs(mark.positions)
            spans = [[a, a + n] for a, n in zip(runs[::2], runs[1::2], strict=True)]
            content = {"kind": self.kind, "shape": list(self.shape), "spans": spans, **facts}
            return write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        pixels = np.zeros(self.shape[0] * self.shape[1], np.uint8)
        pixels[mark.positions] = 255
        info, buffer = PngInfo(), io.BytesIO()
        info.add_itxt(CHUNK, json.dumps(facts))
        Image.fromarray(pixels.reshape(self.shape)).save(buffer, "PNG", pnginfo=info)
        return write_whole(path, buffer.getvalue())

    def files(self, meaning: str, scope: str) -> Iterator[Path]:
        """The files of the marks of a meaning and a scope, in no order.

        Args:
            meaning: one of `MEANINGS`.
            scope: one of `SCOPES`.
        """
        home = self.path / meaning
        if scope == "all":
            yield from [p for p in [home / f"all{self.ending}"] if p.is_file()]
        elif (home / scope).is_dir():
            yield from (p for p in (home / scope).rglob(f"*{self.ending}") if p.is_file())

    def written(self, meaning: str) -> list[tuple[str, int, int]]:
        """Path, time and size of each file of a meaning, so that a change is noticed.

        Args:
            meaning: one of `MEANINGS`.
        """
        files = [(path, path.stat()) for path in (self.path / meaning).rglob("*") if path.is_file()]
        return sorted((str(path), info.st_mtime_ns, info.st_size) for path, info in files)

    def name_samples(self, key: MarkKey, names: Sequence[str]) -> None:
        """Say which samples a cluster has.

        Args:
            key: of the cluster's mark.
            names: of its samples.

        Raises:
            OSError: when the disk refuses.
        """
        path = self.file_of(key).with_suffix(SAMPLES)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(list(names), ensure_ascii=False) + "\n")

    def union(self, meaning: str, name: str, label: int | None, ids: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """What is marked of a sample, by all scopes: of the folder's shape, or of the text's.

        Args:
            meaning: one of `MEANINGS`.
            name: of the sample.
            label: its class; None for none.
            ids: the token ids of a text.

        Raises:
            InvalidInputError: for a damaged file.
        """
        wide = [self.read(MarkKey(meaning, "all")).positions]
        wide += [] if label is None else [self.read(MarkKey(meaning, "class", str(label))).positions]
        wide += [self.read_file(path).positions for path in self.files(meaning, "cluster") if name in _members(path)]
        own = self.read(MarkKey(meaning, "sample", name)).positions
        inside: NDArray[np.bool_]
        if self.kind == "text" and ids is not None:
            inside = np.isin(ids, np.concatenate(wide))
            inside[own[own < len(ids)]] = True
            return inside
        inside = np.zeros(int(np.prod(self.shape)), np.bool_)
        positions = np.concatenate([*wide, own])
        inside[positions[positions < len(inside)]] = True
        return inside.reshape(self.shape)


def _members(path: Path) -> frozenset[str]:
    """The samples of a cluster's mark."""
    samples = path.with_suffix(SAMPLES)
    try:
        info = samples.stat()
        return _read_members(samples, info.st_mtime_ns, info.st_size)
    except (OSError, ValueError):
        raise InvalidInputError(
            f"{path} is the mark of a cluster, and {samples} does not say which samples it has; mark it again"
        ) from None


@functools.lru_cache(64)
def _read_members(samples: Path, written: int, size: int) -> frozenset[str]:  # noqa: ARG001
    return frozenset(str(name) for name in json.loads(samples.read_text(encoding="utf-8")))


def find_marks(path: Path) -> tuple[MarkFolder, str] | None:
    """The folder of marks and the meaning that a path names; None where it holds no marks.

    Args:
        path: such as ``run/marks/must-not-matter``.

    Raises:
        InvalidInputError: for the folder of all meanings, which says not which is meant.
    """
    if (path / HEADER).is_file():
        names = " or ".join(str(path / meaning) for meaning in MEANINGS)
        raise InvalidInputError(f"{path} holds marks of two meanings; name {names}")
    if path.name in MEANINGS and (path.parent / HEADER).is_file():
        return MarkFolder(path.parent), path.name
    return None


def safe_path(name: str, ending: str) -> PurePosixPath:
    """The file of a sample's mark: the sample's name, with its folders, in letters that every system allows.

    A picture's ending is replaced. What is not allowed, and what would leave the folder, is written as ``%41``.

    Args:
        name: of the sample.
        ending: of the file.

    >>> safe_path("cats/1.jpg", ".png"), safe_path("../a", ".png")
    (PurePosixPath('cats/1.png'), PurePosixPath('%2E%2E/a.png'))
    """
    stem = name
    for picture in PICTURES:
        if name.lower().endswith(picture) and not name.lower().endswith("/" + picture):
            stem = name[: -len(picture)]
            break
    parts = [_safe(part) for part in stem.split("/")]
    return PurePosixPath(*parts[:-1], f"{parts[-1]}{ending}")


def _safe(part: str) -> str:
    text = "".join(
        c if c.isprintable() and c not in '%\\:*?"<>|' else "".join(f"%{b:02X}" for b in _bytes(c)) for c in part
    )
    text = text.replace(".", "%2E") if set(text) <= {"."} else text
    if text.startswith("."):
        text = f"%2E{text[1:]}"
    if len(_bytes(text)) <= LONGEST_NAME:
        return text or "%"
    return f"{_bytes(text)[:LONGEST_NAME].decode(errors='ignore')}~{hashlib.sha256(_bytes(part)).hexdigest()[:12]}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def to_runs(positions: Positions) -> list[int]:
    """Ascending positions as runs: start, length, start, length, ...

    Args:
        positions: ascending, each once.
    """
    if not len(positions):
        return []
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    starts = positions[np.concatenate([[0], breaks])]
    lengths = np.diff(np.concatenate([[0], breaks, [len(positions)]]))
    return [int(n) for n in np.stack([starts, lengths], 1).reshape(-1)]


def from_runs(runs: Any, limit: int = 2**31) -> Positions:
    """The positions of runs, ascending.

    Args:
        runs: start, length, start, length, ...
        limit: that every position lies below.

    Raises:
        InvalidInputError: for anything else.
    """
    try:
        pairs = np.asarray(runs, np.int64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError("positions are runs of whole numbers: start, length, start, length, ...") from None
    ends = pairs.sum(1)
    if len(pairs) and (
        pairs.min() < 0 or pairs.max() > limit or int(ends.max()) > limit or int(pairs[:, 1].sum()) > 2**28
    ):
        raise InvalidInputError(f"positions lie in 0..{limit - 1}, got some to {int(ends.max()) - 1}")
    parts = [np.arange(start, end, dtype=np.int64) for start, end in zip(pairs[:, 0], ends, strict=True)]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
