"""SingleRows: the samples of a run one by one, with nothing in memory that grows with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xaikit.runs import manifest, shards
from xaikit.runs.run import ExplainedSample, single_sample


class SingleRows:
    """The samples of a run by shard and row.

    Unlike `Run`, it neither lists the samples nor reads whole shards.

    Args:
        folder: that `explain_dataset` wrote.

    Attributes:
        folder: the same.
        job: explainer, weights, targets, seed, number of samples.
        display_names: what the data calls its "classes" and "features", and the "tokenizer" of its texts.

    Raises:
        InvalidInputError: for a folder that holds no run.
    """

    def __init__(self, folder: Path) -> None:
        content = manifest.read(folder)
        self.folder = folder
        self.job: dict[str, Any] = content["job"]
        self.display_names: dict[str, Any] = content.get("display_names", {})

    def numbers(self) -> list[int]:
        """The shards that the run has now, in order; one that is still being computed gets more."""
        return shards.numbers(self.folder)

    def path(self, number: int) -> Path:
        """The file of a shard.

        Args:
            number: of the shard.
        """
        return shards.path_of(self.folder, number)

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Index, name, target, score, predicted, confidence, label and gap of each sample, without its values.

        Args:
            number: of the shard.

        Raises:
            InvalidInputError: for a damaged file.
        """
        return shards.rows_of(self.folder, number)

    def sample(self, number: int, row: int) -> ExplainedSample:
        """One sample with its values, read alone.

        Args:
            number: of the shard.
            row: of the sample in the shard.

        Raises:
            InvalidInputError: for a damaged file, or a row that it does not have.
        """
        return single_sample(shards.read_row(self.folder, number, row))
