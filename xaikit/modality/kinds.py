"""The modalities: image, text, time series, table, and several of them together."""

from __future__ import annotations

from typing import Annotated, Any

from xaikit.core.registries import MODALITIES
from xaikit.modality.base import Modality, OneInput, modalities
from xaikit.transforms.baselines import BaselinePerInput
from xaikit.transforms.feature_masks import FeatureMaskPerInput


@MODALITIES.register("image")
class Image(OneInput):
    """Images (N, channels, H, W): patches of a grid, black (or what zero stands for) where a patch is absent.

    >>> from xaikit.explainers import IntegratedGradients
    >>> Image(baseline="blur:sigma=2").prepare(IntegratedGradients).baseline
    Blur(sigma=2.0, channel_axis=1)
    """

    channel_axis = 1
    feature_mask = "grid"


@MODALITIES.register("text")
class Text(OneInput):
    """Tokens (N, T), explained at their embeddings (N, T, features): one group for each token.

    Pass ``baseline="token_id:token=0"`` with the tokenizer's own padding or mask token to explain against that token.
    """

    channel_axis = -1
    feature_mask = "tokens"


@MODALITIES.register("time_series")
class TimeSeries(OneInput):
    """Series (N, channels, T) or (N, T): windows in time, and each channel's mean where one is absent.

    Pass ``channel_axis=-1`` for series (N, T, channels).
    """

    channel_axis = 1
    baseline = "mean"
    feature_mask = "time_windows"


@MODALITIES.register("tabular")
class Tabular(OneInput):
    """Tables (N, features): every column by itself; zero, the mean of standardised columns, where one is absent."""

    feature_mask = "columns"


@MODALITIES.register("multimodal")
class Multimodal(Modality):
    """Several inputs, each with its modality; a tuple of modalities means the same.

    >>> import torch
    >>> [part.NAME for part in Modality.of((torch.rand(2, 3, 8, 8), torch.rand(2, 5))).parts]
    ['image', 'tabular']
    """

    modalities: Annotated[Any, modalities, "the modality of each input, in the order of the inputs"]

    @property
    def parts(self) -> tuple[OneInput, ...]:
        """The modality of each input."""
        return tuple(self.modalities)

    def transforms(self) -> dict[str, Any]:
        """One baseline and one feature mask for each input."""
        per_part = [part.transforms() for part in self.parts]
        return {
            "baseline": BaselinePerInput(items=tuple(t["baseline"] for t in per_part)),
            "feature_mask": FeatureMaskPerInput(items=tuple(t["feature_mask"] for t in per_part)),
        }


@MODALITIES.coerce
def from_value(value: Any) -> Modality | None:
    """The modality meant by a tuple or a list of modalities; None for anything else."""
    return Multimodal(modalities=tuple(value)) if isinstance(value, (tuple, list)) and value else None
