"""Concepts that nobody named: a layer's activations as sums of a few patterns, each with what it does for the score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from xaikit import upward
from xaikit.core import Call
from xaikit.core.batch import Batch, count_batches, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.image_forms import channels_first
from xaikit.core.layers import find_point, layers_to_name
from xaikit.core.loader_order import shuffles
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Float, Int
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.results import Real, Result
from xaikit.core.structure import Tensors, flatten
from xaikit.explainers import Gradient
from xaikit.explainers.layer_channels import layer_channel_axis
from xaikit.mitigation import Concept
from xaikit.shortcuts.concept_atlas import Ranking, cropped

ROWS = 32  # samples in a pass
POSITIONS = 16  # of each sample that the patterns are fitted to
FITTED = 20_000  # positions in all, at most


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FoundConcepts(Result):
    """K concepts of a layer, that with the largest effect on the score first.

    Attributes:
        layer: its name.
        channel_axis: of the layer's output.
        directions: the pattern of each concept among the channels, not negative and of length 1, (K, C).
        drops: by how much the score falls without the concept, the mean over the samples, (K,).
        sizes: the mean size of that change, (K,).
        strengths: how much of each concept a sample has, the mean over its positions, (N, K).
        samples: the numbers of the samples in which a concept is strongest, (K, n).
        activations: of each sample, the mean over its positions, (N, C).
        error: the part of the activations that the concepts leave over, |A - S V| / |A|.
        pictures: what these samples show where the concept is strongest, (K, n, C, side, side); None where the samples
            or the layer's outputs are no pictures.
        maps: how strong the concept is at each place of the crops, (K, n, side, side); None likewise.
    """

    layer: str
    channel_axis: int
    directions: Tensor
    drops: Tensor
    sizes: Tensor
    strengths: Tensor
    samples: Tensor
    activations: Tensor
    error: Real
    pictures: Tensor | None = None
    maps: Tensor | None = None

    def concept(self, number: int) -> Concept:
        """A concept for `RRClArC`, `AClArC`, `PClArC` and `mend`.

        Its mean activations are those of the samples in which it is stronger than in the median one, and of the others.

        Args:
            number: from 0 on.

        Raises:
            InvalidInputError: for a number that is not there, or a concept that is equally strong in all samples.
        """
        number = Int(ge=0, le=len(self.directions) - 1).check(number, "number")
        strength = self.strengths[:, number]
        shows = strength > strength.median()
        if not bool(shows.any()):
            raise InvalidInputError(f"concept {number} is equally strong in most samples, so none are without it")
        absent, present = self.activations[~shows].mean(0), self.activations[shows].mean(0)
        return Concept(self.layer, self.directions[number], absent, present, self.channel_axis)

    def to_pandas(self) -> Any:
        """A row for each concept and sample.

        Raises:
            MissingDependencyError: without pandas.
        """
        rows = [
            {
                "concept": k,
                "drop": float(self.drops[k]),
                "size": float(self.sizes[k]),
                "sample": sample,
                "strength": float(self.strengths[sample, k]),
            }
            for k, samples in enumerate(self.samples.tolist())
            for sample in samples
        ]
        return import_pandas().DataFrame(rows)

    def plot(self) -> Any:
        """A line of crops for each concept, as a matplotlib figure.

        Raises:
            InvalidInputError: where the samples or the layer's outputs are no pictures.
        """
        return upward.load("concept_figures").found_concepts_figure(self)

    def __repr__(self) -> str:
        return f"FoundConcepts({self.layer}: {len(self.directions)} concepts, {len(self.strengths)} samples)"


def find_concepts(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    *,
    layer: Any = None,
    n_concepts: int = 10,
    n_samples: int = 6,
    crop: float = 0.5,
    channel_axis: int | None = None,
    head: str | int = "logits",
    seed: int = 0,
    progress: bool = True,
) -> FoundConcepts:
    """The patterns among a layer's channels that its activations are made of, and what each does for the score.

    The activations at all positions, A (positions, C), are factorised, A = S V with S, V >= 0 and K rows of V, the
    concepts (non-negative matrix factorisation; ICE, Zhang et al. 2021, arXiv:2006.15417; CRAFT, Fel et al. 2023,
    arXiv:2211.10154). CRAFT fits V to crops of the samples and weighs the concepts by Sobol indices. Here V is fitted
    to single positions, at most 16 of each sample and 20,000 in all, and a concept's effect is S(a) - S(a - s v): its
    part is taken out of the layer at all positions, and the rest of the model runs on.

    Args:
        model: the model, run in evaluation mode.
        data: samples with labels, (x, y), a loader that does not shuffle, or a data set; each sample is explained for
            its label. In place of labels also one class for all, a target, or None for a model with a single output.
            It is read twice, three times with pictures.
        layer: must be named, by name or as a module; its outputs must not be negative, as behind a ReLU.
        n_concepts: K.
        n_samples: how many samples of each concept are shown at most.
        crop: the side of a crop, as a part of the shorter side of the pictures.
        channel_axis: of the layer's output; None: as for `Concept.fit`.
        head: which output is explained.
        seed: of the positions, and of the factorisation's start.
        progress: show a progress bar.

    Returns:
        The concepts; `concept(k)` makes one that a mitigator takes.

    Raises:
        InvalidTypeError: for a layer that is not named, or data that can be read once only.
        InvalidInputError: for a layer with negative outputs, more concepts than channels, or a loader that shuffles.

    >>> model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    >>> data = torch.rand(10, 1, 6, 6), torch.arange(10) % 2
    >>> found = find_concepts(model, data, layer="1", n_concepts=3, progress=False)
    >>> found, found.concept(0).layer
    (FoundConcepts(1: 3 concepts, 10 samples), '1')
    """
    if layer is None:
        raise InvalidTypeError(f"find_concepts needs layer=, whose outputs are factorised, {layers_to_name(model)}")
    if isinstance(data, Iterator):
        raise InvalidTypeError("find_concepts reads the data twice, and an iterator can be read once; pass a list")
    if shuffles(data):
        raise InvalidInputError("find_concepts needs the samples in the same order each time; pass shuffle=False")
    n_concepts, n_samples = Int(ge=1).check(n_concepts, "n_concepts"), Int(ge=1).check(n_samples, "n_samples")
    crop, seed = Float(gt=0, le=1).check(crop, "crop"), Int(ge=0).check(seed, "seed")
    reader = _LayerReader(model, find_point(model, layer).name, channel_axis, head)
    count = count_batches(data, ROWS)
    with tqdm(
        total=None if count is None else 2 * count, disable=not progress, desc="find concepts", unit="pass"
    ) as bar:
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for batch in reader.batches(data):
            rows.append(_some_positions(reader.activations(batch), generator))
            bar.update()
        positions = torch.cat(rows)
        chosen = torch.randperm(len(positions), generator=generator, device="cpu")[:FITTED]
        factors = _Factors.of(positions[chosen], n_concepts, seed, reader.name)
        ranking, measured = Ranking(n_samples), []
        for batch in reader.batches(data):
            measured.append(reader.measured(batch, factors))
            ranking.add(measured[-1][0].float())
            bar.update()
    strengths, activations, changes = (torch.cat(parts) for parts in zip(*measured, strict=True))
    order = changes.abs().mean(0).argsort(descending=True, stable=True)
    samples = ranking.samples.T[order]
    pictures, maps = reader.crops(data, factors, order, samples, crop)
    return FoundConcepts(
        layer=reader.name,
        channel_axis=reader.axis or 0,
        directions=factors.directions[order].float(),
        drops=changes.mean(0)[order].float(),
        sizes=changes.abs().mean(0)[order].float(),
        strengths=strengths[:, order].float(),
        samples=samples,
        activations=activations.float(),
        error=factors.error,
        pictures=pictures,
        maps=maps,
    )


@dataclasses.dataclass(frozen=True)
class _Factors:
    """The concepts' directions (K, C) in float64, and how much of the activations they leave over."""

    directions: Tensor
    error: float

    @classmethod
    def of(cls, rows: Tensor, count: int, seed: int, layer: str) -> _Factors:
        """Fit them to activations (positions, C)."""
        from sklearn.decomposition import NMF

        if not bool((rows >= 0).all()):
            raise InvalidInputError(
                f"layer {layer!r} returns values below 0 or NaN, and concepts are sums of patterns that are not "
                "negative; name a layer behind a ReLU"
            )
        if not bool(rows.any()):
            raise InvalidInputError(f"layer {layer!r} returns 0 everywhere, so there is nothing to factorise")
        if count > min(rows.shape):
            raise InvalidInputError(
                f"n_concepts must be at most {min(rows.shape)}, as layer {layer!r} has {rows.shape[1]} channels and "
                f"{rows.shape[0]} positions were read, got {count}"
            )
        model = NMF(count, init="nndsvda", random_state=seed, max_iter=500)
        with warnings_ignored("Maximum number of iterations", UserWarning):  # `error` says how good it is
            strengths = model.fit_transform(rows.numpy())
        residual = np.linalg.norm(rows.numpy() - strengths @ model.components_)
        directions = torch.from_numpy(model.components_)
        return cls(
            directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-300),
            float(residual / np.linalg.norm(rows.numpy())),
        )

    def strengths(self, rows: Tensor) -> Tensor:
        """How much of each concept activations (positions, C) have, (positions, K): least squares, not negative."""
        from sklearn.decomposition import non_negative_factorization

        patterns: NDArray[Any] = self.directions.numpy()
        with warnings_ignored("Maximum number of iterations", UserWarning):
            strengths, _, _ = non_negative_factorization(
                rows.clamp_min(0).numpy(), H=patterns, n_components=len(patterns), update_H=False, max_iter=500
            )
        return torch.from_numpy(strengths)


class _LayerReader:
    """Reads the activations of a layer, channels last and in float64, and runs the rest of the model on others.

    Args:
        model: of the user.
        name: of the layer.
        channel_axis: of its output; None: it is found with the first batch.
        head: which output is explained.
    """

    def __init__(self, model: nn.Module, name: str, channel_axis: int | None, head: str | int) -> None:
        self.name, self.axis = name, channel_axis
        self._explainer = Gradient(model, layer=name, head=head)

    def batches(self, data: Any) -> Iterator[Batch]:
        """The data, batch by batch."""
        yield from read_batches(data, model=self._explainer.model, rows=ROWS, targets=True)

    def activations(self, batch: Batch) -> Tensor:
        """The activations of a batch, (n, *positions, C)."""
        readings: list[Tensor] = []

        def read(call: Call) -> tuple[Tensors, ...]:
            readings.append(self._last(call))
            return ()

        self._run(read, batch)
        return readings[0]

    def measured(self, batch: Batch, factors: _Factors) -> tuple[Tensor, Tensor, Tensor]:
        """Strengths (n, K), mean activations (n, C), and the drop of the score without each concept, (n, K)."""
        results: list[tuple[Tensor, Tensor, Tensor]] = []

        def measure(call: Call) -> tuple[Tensors, ...]:
            a = self._last(call)
            rows = a.flatten(1, -2) if a.ndim > 2 else a[:, None]
            strengths = factors.strengths(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
            (x,), drops = call.inputs, []
            before = call.scores((x,))
            for k, direction in enumerate(factors.directions):
                part = (strengths[..., k, None] * direction).view(a.shape).movedim(-1, self.axis or 0)
                drops.append(before - call.scores((x - part.to(x),)))
            results.append((strengths.mean(1), rows.mean(1), torch.stack(drops, 1).detach().double().cpu()))
            return ()

        self._run(measure, batch)
        return results[0]

    def crops(
        self, data: Any, factors: _Factors, order: Tensor, samples: Tensor, crop: float
    ) -> tuple[Tensor | None, Tensor | None]:
        """The crops of the samples (K, n) of each concept, and its strength there; None where they are no pictures."""
        numbers_shown, by_number = set(samples.flatten().tolist()), {}
        begin, shape = 0, None
        for batch in self.batches(data):
            x = flatten(batch.inputs)[0][0]
            a = self.activations(batch)
            shape = shape or x.shape[1:]
            if len(flatten(batch.inputs)[0]) != 1 or x.ndim != 4 or a.ndim != 4 or x.shape[1:] != shape:
                return None, None
            for i in sorted(numbers_shown & set(range(begin, begin + len(x)))):
                by_number[i] = channels_first(x[i - begin]).detach().float().cpu(), a[i - begin]
            begin += len(x)
        pictures, maps = [], []
        for k, numbers in zip(order.tolist(), samples.tolist(), strict=True):
            image = torch.stack([by_number[i][0] for i in numbers])
            a = torch.stack([by_number[i][1] for i in numbers])
            heat = factors.strengths(a.flatten(0, 2))[:, k].view(len(a), 1, *a.shape[1:3])
            heat = F.interpolate(heat, size=image.shape[2:], mode="bilinear")[:, 0]
            cut, cut_heat = cropped(image, heat, max(1, round(crop * min(image.shape[2:]))))
            pictures.append(cut)
            maps.append(cut_heat.float())
        return torch.stack(pictures), torch.stack(maps)

    def _last(self, call: Call) -> Tensor:
        (a,) = call.inputs
        if self.axis is None:
            point = find_point(call.model, self.name)
            self.axis = layer_channel_axis(call.model, point, a, (call.uncut or call).inputs)
        if not -a.ndim < self.axis < a.ndim or self.axis % a.ndim == 0:
            raise InvalidInputError(
                f"channel_axis must name an axis of {tuple(a.shape)} after the first, got {self.axis}"
            )
        self.axis %= a.ndim
        return a.detach().movedim(self.axis, -1).double().cpu()

    def _run(self, method: Any, batch: Batch) -> None:
        self._explainer.run_call(method, batch.inputs, batch.labels, cut=True)


def _some_positions(a: Tensor, generator: torch.Generator) -> Tensor:
    """At most 16 positions of each sample of activations (n, ..., C), at random, (positions, C)."""
    rows = a.flatten(1, -2) if a.ndim > 2 else a[:, None]
    keys = torch.rand(rows.shape[:2], generator=generator, device="cpu")
    chosen = keys.argsort(1)[:, :POSITIONS]
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2])).flatten(0, 1)
