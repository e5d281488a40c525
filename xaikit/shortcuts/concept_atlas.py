"""A concept atlas: the channels that scores rest on, each with the samples and crops that it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from xaikit import upward
from xaikit.core.batch import Batch, count_batches, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.core.image_forms import channels_first
from xaikit.core.layers import find_point, layers_to_name
from xaikit.core.loader_order import shuffles
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Float, Int
from xaikit.core.results import Result
from xaikit.core.structure import flatten
from xaikit.core.target_values import Class
from xaikit.explainers.lrp import channel_relevance, conditional_relevance
from xaikit.explainers.lrp.engine import ZennitLRP

ROWS = 32  # samples in a pass
PICTURE_AXES = 4
NO_CLASS = -1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConceptAtlas(Result):
    """The K channels of a layer that scores rest on most, each with n samples and the crops that it stands for.

    Attributes:
        layer: its name.
        channels: their numbers, that with the largest share first.
        shares: the mean size of a channel's relevance over all samples, as a part of that of all channels together.
        samples: the numbers of the samples in the data in which a channel has most relevance, (K, n).
        relevance: of the channel in these samples, (K, n).
        classes: whose score was explained there, (K, n); -1 where it is that of no class.
        pictures: what these samples show where the channel's relevance is, (K, n, C, side, side).
        maps: the relevance of the crop's places that flows through the channel, (K, n, side, side).
    """

    layer: str
    channels: tuple[int, ...]
    shares: tuple[float, ...]
    samples: Tensor
    relevance: Tensor
    classes: Tensor
    pictures: Tensor
    maps: Tensor

    def to_pandas(self) -> Any:
        """A row for each channel and sample.

        Raises:
            MissingDependencyError: without pandas.
        """
        rows = [
            {
                "channel": channel,
                "share": share,
                "sample": int(self.samples[k, i]),
                "relevance": float(self.relevance[k, i]),
                "class": int(self.classes[k, i]),
            }
            for k, (channel, share) in enumerate(zip(self.channels, self.shares, strict=True))
            for i in range(self.samples.shape[1])
        ]
        return import_pandas().DataFrame(rows)

    def plot(self) -> Any:
        """A line of crops for each channel, as a matplotlib figure."""
        return upward.load("concept_figures").concept_atlas_figure(self)

    def __repr__(self) -> str:
        return f"ConceptAtlas({self.layer}: {len(self.channels)} channels, {self.samples.shape[1]} samples each)"


def concept_atlas(  # noqa: PLR0913
    explainer: ZennitLRP,
    data: Any,
    *,
    layer: Any = None,
    n_channels: int = 8,
    n_samples: int = 6,
    crop: float = 0.5,
    channel_axis: int | None = None,
    progress: bool = True,
) -> ConceptAtlas:
    """What the channels of a layer stand for: the samples in which they have most relevance, cropped to it.

    For each sample the relevance of a channel is that of `channel_relevance`, the sum over its positions. Shown are the
    channels whose relevance has the largest mean size, and for each the samples in which it is largest (relevance
    maximisation, Achtibat et al. 2023, 10.1038/s42256-023-00711-8). A crop is the square in which the sum of the
    positive relevance that flows through the channel (`conditional_relevance`) is largest; where none is positive, the
    sum of the sizes. The data is read twice.

    Args:
        explainer: an LRP explainer with a model, such as ``LRPEpsilonPlus(model)``.
        data: pictures (N, C, H, W) with labels, (x, y), a loader that does not shuffle, or a data set; each sample
            is explained for its label. In place of labels also one class for all, a target, or None for a model with
            a single output.
        layer: must be named, by name or as a module.
        n_channels: how many channels are shown at most.
        n_samples: how many samples of each at most.
        crop: the side of a crop, as a part of the shorter side of the pictures.
        channel_axis: of the layer's output; None: as in `conditional_relevance`.
        progress: show a progress bar.

    Returns:
        An atlas; `save`, `plot` and `xaikit report --atlas` show it.

    Raises:
        InvalidTypeError: for an explainer that is not LRP, a layer that is not named, data that can be read once only,
            or a function as target.
        UnboundError: for an explainer without a model.
        InvalidInputError: for samples that are no pictures of one size, or a loader that shuffles.

    >>> from xaikit.explainers import LRPEpsilonPlus
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(96, 2)
    ... )
    >>> data = torch.rand(10, 1, 6, 6), torch.arange(10) % 2
    >>> concept_atlas(LRPEpsilonPlus(model), data, layer="1", n_channels=3, progress=False)
    ConceptAtlas(1: 3 channels, 6 samples each)
    """
    if not isinstance(explainer, ZennitLRP):
        raise InvalidTypeError(
            f"a concept atlas needs an LRP explainer, such as LRPEpsilonPlus(model), got {explainer!r}"
        )
    if isinstance(data, Iterator):
        raise InvalidTypeError("a concept atlas reads the data twice, and an iterator can be read once; pass a list")
    if shuffles(data):
        raise InvalidInputError("a concept atlas needs the samples in the same order each time; pass shuffle=False")
    n_channels, n_samples = Int(ge=1).check(n_channels, "n_channels"), Int(ge=1).check(n_samples, "n_samples")
    crop = Float(gt=0, le=1).check(crop, "crop")
    if explainer.model is None:
        raise UnboundError("a concept atlas needs an explainer with a model: LRPEpsilonPlus(model)")
    if layer is None:
        raise InvalidTypeError(
            f"a concept atlas needs layer=, whose channels are shown, {layers_to_name(explainer.model)}"
        )
    name = find_point(explainer.model, layer).name
    options: dict[str, Any] = {"layer": name, "channel_axis": channel_axis}
    count = count_batches(data, ROWS)
    ranking = Ranking(n_samples)
    with tqdm(
        total=None if count is None else count + n_channels, disable=not progress, desc="concept atlas", unit="pass"
    ) as bar:
        for batch in _pictures_of(data, explainer):
            ranking.add(channel_relevance(explainer, batch.inputs, batch.labels, **options))
            bar.update()
        chosen = ranking.strongest(n_channels)
        samples = ranking.samples[:, chosen].T
        pictures, labels = _picked(data, explainer, samples)
        crops, maps, classes = [], [], []
        for channel, numbers in zip(chosen.tolist(), samples.tolist(), strict=True):
            x = torch.stack([pictures[i] for i in numbers])
            target = torch.stack([labels[i] for i in numbers]) if isinstance(labels, dict) else labels
            heat = conditional_relevance(explainer, x, target, conditions={name: channel}, channel_axis=channel_axis)
            x, heat = (torch.stack([channels_first(image) for image in images]) for images in (x, heat.to(x)))
            cut, cut_heat = cropped(x, heat.sum(1), max(1, round(crop * min(x.shape[2:]))))
            crops.append(cut)
            maps.append(cut_heat)
            classes.append(_classes(target, len(numbers)))
            bar.update()
    return ConceptAtlas(
        name,
        tuple(chosen.tolist()),
        tuple(ranking.shares[chosen].tolist()),
        samples,
        ranking.relevance[:, chosen].T.float(),
        torch.stack(classes),
        torch.stack(crops).float().cpu(),
        torch.stack(maps).float().cpu(),
    )


class Ranking:
    """Of each channel the mean size of its relevance, and the samples in which it is largest, batch by batch.

    Args:
        n: how many samples are kept of each channel.
    """

    def __init__(self, n: int) -> None:
        self._n, self._count = n, 0
        self._sizes: Tensor | None = None
        self.relevance = torch.zeros(0, 0, device="cpu")  # (n, K), the largest first
        self.samples = torch.zeros(0, 0, dtype=torch.long, device="cpu")

    def add(self, relevance: Tensor) -> None:
        """The next samples of the data.

        Args:
            relevance: of their channels, (N, K).
        """
        # A sample without finite relevance says nothing of any channel.
        values = relevance.double().cpu()
        finite = values.isfinite().all(1, keepdim=True)
        numbers = torch.arange(self._count, self._count + len(values), device="cpu")[:, None].expand_as(values)
        sizes = values.abs().where(finite, 0).sum(0)
        values = values.where(finite, -torch.inf)
        if self._sizes is not None:
            values, numbers = torch.cat([self.relevance, values]), torch.cat([self.samples, numbers])
            sizes = sizes + self._sizes
        # A stable sort, so that ties do not depend on how the data is cut into batches.
        order = values.sort(dim=0, descending=True, stable=True).indices[: self._n]
        self.relevance, self.samples, self._sizes = values.gather(0, order), numbers.gather(0, order), sizes
        self._count += len(relevance)

    @property
    def shares(self) -> Tensor:
        """The mean size of each channel's relevance, as a part of all, (K,)."""
        sizes = torch.zeros(0, device="cpu") if self._sizes is None else self._sizes
        return sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)

    def strongest(self, count: int) -> Tensor:
        """The numbers of the channels with the largest shares, the largest first.

        Args:
            count: how many at most.
        """
        return self.shares.argsort(descending=True, stable=True)[:count]


def cropped(x: Tensor, maps: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The square of each picture in which the sum of the positive relevance is largest, and the map there.

    Where none is positive, the sum of the sizes counts.

    Args:
        x: pictures (N, C, H, W).
        maps: relevance (N, H, W).
        side: of the square.
    """
    positive = maps.clamp(min=0)
    weights = torch.where((positive > 0).flatten(1).any(1)[:, None, None], positive, maps.abs())
    sums = F.avg_pool2d(weights[:, None].double(), side, 1)[:, 0]
    places = sums.flatten(1).argmax(1).tolist()
    corners = [divmod(place, sums.shape[2]) for place in places]
    boxes = [tuple(slice(begin, begin + side) for begin in corner) for corner in corners]
    pictures = torch.stack([picture[:, box[0], box[1]] for picture, box in zip(x, boxes, strict=True)])
    return pictures, torch.stack([heat[box] for heat, box in zip(maps, boxes, strict=True)])


def _pictures_of(data: Any, explainer: ZennitLRP) -> Iterator[Batch]:
    """The batches of the data, each of pictures."""
    shape = None
    for batch in read_batches(data, model=explainer.model, rows=ROWS, targets=True):
        tensors = flatten(batch.inputs)[0]
        shape = shape or tuple(tensors[0].shape[1:])
        if len(tensors) != 1 or tensors[0].ndim != PICTURE_AXES or tuple(tensors[0].shape[1:]) != shape:
            raise InvalidInputError(
                f"a concept atlas shows crops of pictures (N, C, H, W) of one size, got {len(tensors)} inputs, "
                f"{tuple(tensors[0].shape)} the first; channel_relevance takes any samples"
            )
        if callable(batch.labels):
            raise InvalidTypeError("a concept atlas needs labels, a class or a target, got a function")
        yield batch


def _classes(target: Any, count: int) -> Tensor:
    """The classes that were explained, as numbers."""
    target = target.index if isinstance(target, Class) else target
    numbers = target if isinstance(target, (Tensor, int)) else NO_CLASS
    return torch.as_tensor(numbers, device="cpu").long().expand(count)


def _picked(data: Any, explainer: ZennitLRP, samples: Tensor) -> tuple[dict[int, Tensor], Any]:
    """These samples of the data by their numbers, and their labels likewise, or the target of all."""
    chosen = set(samples.flatten().tolist())
    pictures: dict[int, Tensor] = {}
    labels: Any = {}
    begin = 0
    for batch in _pictures_of(data, explainer):
        x = flatten(batch.inputs)[0][0]
        for i in sorted(chosen & set(range(begin, begin + len(x)))):
            pictures[i] = x[i - begin]
            if isinstance(batch.labels, Tensor) and batch.labels.ndim:
                labels[i] = batch.labels[i - begin]
            else:
                labels = batch.labels
        begin += len(x)
    return pictures, labels
