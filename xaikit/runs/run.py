"""Run: the explanations in a folder, read from the disk when they are used."""

from __future__ import annotations

import bisect
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import similar_paths
from xaikit.core.pandas_import import import_pandas
from xaikit.core.renames import renamed_attribute
from xaikit.core.results import Real, Result
from xaikit.runs import manifest, shards
from xaikit.runs.shards import Shard

__all__ = ["Run", "ExplainedSample", "Shard", "load_run"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExplainedSample(Result):
    """One explained sample.

    Attributes:
        index: of the sample in the data.
        values: the attribution, of the shape of one input.
        target: the explained class; None for a model with a single output.
        score: the explained score.
        predicted: the predicted class; None for a model with a single output.
        confidence: the probability of the predicted class; None for a model with a single output, and in runs of
            earlier versions.
        label: the data's own class; None where it has none.
        gap: what the attribution's sum misses of what the method promises; None where it promises nothing.
        inputs: what was explained, where it was kept.
        name: such as a file name; empty where the data has none.
        fingerprint: of the sample's file or row, see `Shard`.
    """

    index: int
    values: Any
    target: int | None
    score: Real
    predicted: int | None
    label: int | None
    gap: Real | None
    inputs: Any
    name: str
    fingerprint: str = ""
    confidence: Real | None = None


class Run:
    """The explanations in a folder that `explain_dataset` wrote.

    Two runs are equal if they hold the same job and the same values, wherever their folders are.

    Attributes:
        folder: where it is.
        job: explainer, weights, targets, seed, number of samples.
        versions: of the libraries that computed it.
        display_names: what the data calls its "classes" and "features", and the "tokenizer" of its texts.
        skipped: why samples could not be read, by index.
    """

    def __init__(self, folder: Path) -> None:
        content = manifest.read(folder)
        self.folder = folder
        self.job: dict[str, Any] = content["job"]
        self.versions: dict[str, str] = content["versions"]
        self.display_names: dict[str, Any] = content.get("display_names", {})
        self.skipped: dict[int, str] = {}
        self._numbers = shards.numbers(folder)
        self._starts: list[int] = []
        self._content: list[str] = []  # a hash of each shard
        total: int = self.job["samples"]
        finished: list[int] = []
        for number in self._numbers:
            indices, skipped, digest = shards.samples_of(folder, number)
            self._content.append(digest)
            if indices != sorted(set(indices)) or (
                indices and not (finished or [-1])[-1] < indices[0] <= indices[-1] < total
            ):
                raise InvalidInputError(
                    f"{shards.path_of(folder, number)} holds indices that a run of {total} samples cannot have"
                )
            self._starts.append(len(finished))
            finished += indices
            self.skipped |= skipped
        self._indices = finished
        self._open: tuple[int, Shard] | None = None

    @property
    def indices(self) -> list[int]:
        """Indices of the explained samples in the data, ascending."""
        return list(self._indices)

    @property
    def missing(self) -> list[int]:
        """Indices of samples that are neither explained nor skipped: the job is not finished."""
        return sorted(set(range(self.job["samples"])) - set(self._indices) - set(self.skipped))

    @property
    def n_missing(self) -> int:
        """How many samples are neither explained nor skipped."""
        return max(0, int(self.job["samples"]) - len(self._indices) - len(self.skipped))

    def __len__(self) -> int:
        """Number of explained samples."""
        return len(self._indices)

    def __getitem__(self, position: int) -> ExplainedSample:
        """The sample at a position among the explained ones."""
        if not -len(self) <= position < len(self):
            raise IndexError(f"the run holds {len(self)} samples, got position {position}")
        position %= len(self)
        at = bisect.bisect_right(self._starts, position) - 1
        # Empty shards start at the same position as the shard behind them; the last of these has the sample.
        if self._open is None or self._open[0] != self._numbers[at]:
            self._open = (self._numbers[at], shards.read(self.folder, self._numbers[at]))
        return _sample(self._open[1], position - self._starts[at])

    def __iter__(self) -> Iterator[ExplainedSample]:
        for shard in self.shards():
            for row in range(len(shard)):
                yield _sample(shard, row)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Index, name, target, score, predicted, confidence, label and gap of each sample, without its values."""
        for number in self._numbers:
            yield from shards.rows_of(self.folder, number)

    def shards(self) -> Iterator[Shard]:
        """The shards in order, one in memory at a time."""
        for number in self._numbers:
            shard = shards.read(self.folder, number)
            if len(shard):
                yield shard

    def __getattr__(self, name: str) -> Any:
        raise renamed_attribute("Run", name, {"words": "display_names"})

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple[str, ...]:
        return (manifest.job_hash(self.job), *self._content)

    def to_pandas(self) -> Any:
        """A table with one row for each sample: index, name, target, score, predicted, confidence, label, gap.

        Raises:
            MissingDependencyError: without pandas.
        """
        return import_pandas("to_pandas").DataFrame(list(self.rows()))

    def to_dict(self) -> dict[str, Any]:
        """Folder, job and content hashes of the run as plain JSON values; `from_dict` opens the folder again."""
        fields = ("job", "versions", "display_names")
        skipped = {str(index): reason for index, reason in self.skipped.items()}
        content = {"content": list(self._content), "skipped": skipped}
        return {"result": "Run", "folder": str(self.folder), **{f: getattr(self, f) for f in fields}, **content}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Run:
        """The run that `to_dict` described, opened again.

        Args:
            state: what `to_dict` returned.

        Raises:
            InvalidInputError: where its folder is gone or holds other values, or for anything but a run.
        """
        if not isinstance(state, Mapping) or state.get("result") != "Run" or not isinstance(state.get("folder"), str):
            raise InvalidInputError("the content is no Run: 'folder' is missing")
        run = cls(Path(state["folder"]))
        if run.to_dict() | {"versions": state.get("versions")} != dict(state):
            raise InvalidInputError(f"{run.folder} has changed since it was described; open it with load_run")
        return run

    def save(self, folder: str | Path) -> Path:
        """Copy the run into another folder.

        Args:
            folder: a new one, or an empty one.

        Returns:
            The folder.

        Raises:
            InvalidInputError: for a folder that holds anything.
            OSError: when the disk refuses.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidInputError(f"{target} is not empty; name a new folder")
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """The run in a folder; the same as `load_run`.

        Args:
            folder: that `explain_dataset` or `save` wrote.

        Raises:
            InvalidInputError: for a folder that holds no run, or a damaged file in it.
        """
        return load_run(folder)

    def __repr__(self) -> str:
        missing = self.n_missing
        parts = [f"{len(self)} samples", self.job["explainer"]["name"]]
        parts += [f"{missing} missing"] if missing else []
        parts += [f"{len(self.skipped)} skipped"] if self.skipped else []
        return f"Run({str(self.folder)!r}: {', '.join(parts)})"


def load_run(folder: str | Path) -> Run:
    """The run in a folder; its values are read from the disk when they are used.

    Args:
        folder: that `explain_dataset` or `xaikit explain --data` wrote.

    Returns:
        The explained samples in order, with the job that made them.

    Raises:
        InvalidInputError: for a folder that holds no run, or a damaged file in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InvalidInputError(f"there is no folder {path}{similar_paths(path)}")
    return Run(path)


def single_sample(shard: Shard) -> ExplainedSample:
    """The only sample of a shard of one.

    Args:
        shard: as `read_row` gives it.
    """
    return _sample(shard, 0)


def _sample(shard: Shard, row: int) -> ExplainedSample:
    def number(values: Tensor | None) -> Any:
        return None if values is None else values[row].item()

    return ExplainedSample(
        index=int(shard.indices[row]),
        values=_row(shard.values, row),
        target=number(shard.targets),
        score=number(shard.scores),
        predicted=number(shard.predicted),
        label=number(shard.labels),
        gap=number(shard.gap),
        confidence=number(shard.confidence),
        inputs=_row(shard.inputs, row),
        name=shard.names[row] if shard.names else "",
        fingerprint=shard.fingerprints[row] if shard.fingerprints else "",
    )


def _row(value: Any, row: int) -> Any:
    if value is None or isinstance(value, Tensor):
        return value if value is None else value[row]
    if isinstance(value, Mapping):
        return {k: v[row] for k, v in value.items()}
    return tuple(v[row] for v in value)
