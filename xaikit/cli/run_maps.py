"""The maps of a run that `xaikit shortcuts` compares: over positions, columns, or the words of a vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.cli.masks import chosen_columns
from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.runs import ExplainedSample, Run

MOST = 40  # number of names that an error lists
STRONGEST = 5  # words or columns that describe a cluster


@dataclasses.dataclass(frozen=True)
class RunMaps:
    """The relevance of the chosen samples of a run.

    Attributes:
        rows: what is known of each sample, see `Run.rows`.
        maps: (n, 1, ...) over places, (n, columns) of a table, (n, words) of texts: a word counts wherever it stands.
        inputs: the samples, where these were kept and are wanted.
        tokens: token ids (n, T) of texts, else None.
        token_maps: relevance (n, 1, T) of each token of texts, else None.
        names: of the columns or words; empty for maps over places.
    """

    rows: list[dict[str, Any]]
    maps: Tensor
    inputs: Tensor | None = None
    tokens: Tensor | None = None
    token_maps: Tensor | None = None
    vocabulary: Tensor | None = None
    names: Sequence[str] = ()

    @property
    def indices(self) -> list[int]:
        """The indices of the samples in the data."""
        return [row["index"] for row in self.rows]

    @property
    def over_places(self) -> Tensor:
        """The maps as masks of the data's form meet them: of texts token by token."""
        return self.maps if self.token_maps is None else self.token_maps

    def region_of(self, masks: Tensor) -> Tensor:
        """The masks (n, T) of texts from those over words (n, words); others as they are."""
        if self.tokens is None or self.vocabulary is None:
            return masks
        return torch.stack(
            [torch.isin(ids, self.vocabulary[row_mask > 0]) for ids, row_mask in zip(self.tokens, masks, strict=True)]
        ).float()

    def named(self, names: Sequence[str]) -> Tensor:
        """The mask of some columns (columns,), or of some words wherever they stand (n, T).

        Raises:
            UnknownNameError: for a name that is none of them.
            InvalidInputError: for maps over places.
        """
        if not self.names:
            raise InvalidInputError("--mask-names takes columns of a table, or words of texts; else give --mask")
        if self.tokens is None:
            return torch.tensor(chosen_columns(names, self.names, "the run has no")).float()
        stranger = next((name for name in names if name not in self.names), None)
        if stranger is not None:
            near = near_names(stranger, self.names) if len(self.names) <= MOST else ""
            raise UnknownNameError(f"the run has no {stranger!r}{near}")
        chosen = torch.tensor([name in names for name in self.names])
        return self.region_of(chosen.expand(len(self.rows), -1))

    def strongest(self, mean: Tensor) -> list[dict[str, Any]]:
        """The columns or words with the largest share of a mean map; none for maps over places."""
        if not self.names:
            return []
        shares = (mean / mean.sum()).tolist()
        order = sorted(range(len(shares)), key=lambda i: -shares[i])[:STRONGEST]
        return [{"name": self.names[i], "share": shares[i]} for i in order]


def read_maps(run: Run, of_class: int | None, *, pictures: bool) -> RunMaps:
    """The maps of a run's samples, or of those of one class: their label, else the explained class.

    Raises:
        InvalidInputError: for too few samples, or attributions of several tensors.
    """
    rows, maps, inputs = [], [], []
    for sample, row in zip(run, run.rows(), strict=True):
        label = row["target"] if row["label"] is None else row["label"]
        if of_class not in (None, label):
            continue
        if not isinstance(sample.values, Tensor):
            raise InvalidInputError(f"{run.folder} holds attributions of several tensors; shortcuts takes those of one")
        rows.append(row)
        # Only one channel is kept of each map, so a run of any length costs no more than its places.
        maps.append(_map(sample))
        if isinstance(sample.inputs, Tensor) and (pictures or _is_text(sample)):
            inputs.append(sample.inputs)
    if len(rows) < 3:
        which = "" if of_class is None else f" of class {of_class}"
        raise InvalidInputError(f"clusters need at least 3 samples, {run.folder} holds {len(rows)}{which}")
    relevance = torch.stack(maps)
    stacked = torch.stack(inputs) if len(inputs) == len(rows) else None
    if _is_text(run[0]) and stacked is not None:
        return _of_words(rows, relevance, stacked, run.display_names.get("tokenizer", ""))
    names = run.display_names.get("features") or [f"column {i}" for i in range(relevance.shape[1])]
    return RunMaps(
        rows, relevance, None if stacked is None else stacked.float(), names=names if relevance.ndim == 2 else ()
    )


def _map(sample: ExplainedSample) -> Tensor:
    values = sample.values.float()
    if _is_text(sample):  # a token's vector counts by its sum, which is what a report shows
        return values.flatten(1).sum(1).abs() if values.ndim > 1 else values.abs()
    return values.abs().sum(0, keepdim=True) if values.ndim > 1 else values.abs()


def _is_text(sample: ExplainedSample) -> bool:
    ids, values = sample.inputs, sample.values
    integer_rows = isinstance(ids, Tensor) and ids.ndim == 1 and not ids.is_floating_point()
    return integer_rows and isinstance(values, Tensor) and values.shape[:1] == ids.shape


def _of_words(rows: list[dict[str, Any]], relevance: Tensor, tokens: Tensor, tokenizer: str) -> RunMaps:
    """Texts by how much relevance each word of theirs has, wherever it stands."""
    from xaikit.cli.hugging_face import tokenizer_of

    vocabulary, place = tokens.unique(return_inverse=True)
    maps = relevance.new_zeros(len(tokens), len(vocabulary)).scatter_add_(1, place, relevance)
    reader = tokenizer_of(tokenizer)
    ids = vocabulary.tolist()
    names = [str(i) for i in ids] if reader is None else [str(w) for w in reader.convert_ids_to_tokens(ids)]
    return RunMaps(rows, maps, None, tokens, relevance[:, None], vocabulary, names)
