"""--same-as: whether a model and samples are those that a run explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import flag
from xaikit.cli.sources import DataFields, ModelJob

if TYPE_CHECKING:
    from torch import nn

    from xaikit.runs.single_rows import SingleRows

ALIKE = 0.05  # mean difference of two pictures, as a share of the spread of one: another decoder makes less
MOST_SHARDS = 40  # whose names are all compared; of more, those of three
LOOKED_AT = 8  # samples whose content is compared with the data


class RunMatchFields(DataFields, ModelJob):
    """A run whose model and samples are meant."""

    same_as: Path | None = flag(
        None, help="A run of xaikit explain --data: a model or samples that are not those of the run are refused."
    )

    def check_run(self, model: nn.Module, source: str) -> None:
        """Refuse a model or samples that are not those of the run.

        Args:
            model: with its weights.
            source: that holds the samples of the run, as --data names it.
        """
        if self.same_as is not None:
            check_model(self.same_as, model)
            check_data(self.same_as, self.model_copy(update={"data": source}).samples(self.model), source)


def check_model(folder: Path, model: nn.Module) -> None:
    """Refuse a model whose weights are not those that a run explained.

    Args:
        folder: of the run.
        model: with its weights.

    Raises:
        InvalidInputError: for such a model.
    """
    from xaikit.core.errors import InvalidInputError
    from xaikit.runs.manifest import weights_hash
    from xaikit.runs.single_rows import SingleRows

    stored, current = SingleRows(folder).job["weights"], weights_hash(model)
    if stored != current:
        raise InvalidInputError(
            f"the model is not the one that {folder} explained (weights {stored[:12]} there, {current[:12]} here); "
            "name its weights with --weights, or explain again with xaikit explain --data"
        )


def check_data(folder: Path, data: Any, source: str) -> None:
    """Refuse data that no longer hold a run's samples; some, spread over the run, are looked at.

    Args:
        folder: of the run.
        data: the samples.
        source: what --data names.

    Raises:
        InvalidInputError: for such data, or data that are prepared otherwise.
    """
    from xaikit.core.errors import InvalidInputError
    from xaikit.runs.single_rows import SingleRows

    run = SingleRows(folder)
    names, content = list(getattr(data, "names", ())), getattr(data, "fingerprint", None)
    numbers = run.numbers()
    looked_at = numbers if len(numbers) <= MOST_SHARDS else {numbers[0], numbers[len(numbers) // 2], numbers[-1]}
    rows = [row for n in looked_at for row in run.rows(n)]
    for row in rows:
        if row["index"] >= len(data) or (row["name"] and names and names[row["index"]] != row["name"]):
            raise InvalidInputError(
                f"--data {source} does not hold the samples of {folder}: {row['name'] or row['index']} is not where it "
                "was; name the data that the run explained, or leave --model and --data out to look"
            )
    for row in (rows[-1], *rows[:: max(1, len(rows) // LOOKED_AT)]):
        if row["fingerprint"] and content is not None and str(content(row["index"])) != row["fingerprint"]:
            raise InvalidInputError(
                f"--data {source}: {row['name']} has another content than when {folder} explained it; explain again "
                "with xaikit explain --data"
            )
    _check_preparation(run, data, source)


def _check_preparation(run: SingleRows, data: Any, source: str) -> None:
    """Refuse pictures that are scaled, cropped or normalised otherwise: marks would lie elsewhere in jobs."""
    from xaikit.core.errors import InvalidInputError
    from xaikit.core.structure import flatten

    number = next(n for n in run.numbers() if run.rows(n))
    sample = run.sample(number, 0)
    if sample.inputs is None:
        return
    item = data[sample.index]
    pairs = zip(flatten(sample.inputs)[0], flatten(item[0] if isinstance(item, tuple) else item)[0], strict=False)
    for stored, current in pairs:
        same = stored.shape == current.shape
        a, b = stored.double(), current.double()
        if same and float((a - b).abs().mean()) <= ALIKE * float((a - a.mean()).abs().mean() + 1e-6):
            continue
        shapes = f"{tuple(stored.shape)} there, {tuple(current.shape)} here" if not same else "other values"
        raise InvalidInputError(
            f"--data {source} gives the model another input than when {run.folder} explained it ({shapes}), so marks "
            "would lie elsewhere; take the --size, --mean, --std and --grey of the run"
        )
