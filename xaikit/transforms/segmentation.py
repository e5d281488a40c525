"""Segments of an image as feature masks: regions of similar colour, found by scikit-image sample by sample."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.params import Float, Int
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.registries import FEATURE_MASKS
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, channel_axis
from xaikit.transforms.feature_masks import FeatureMask

LIGHTNESS = 100.0  # of white in CIELAB; images that are not RGB are brought to that scale


class Segmentation(FeatureMask, abc.ABC):
    """Segments of images (N, C, H, W) with any number of channels, numbered 0, 1, ... in each sample.

    Each sample is scaled to [0, 1]; three channels are taken for red, green and blue. The samples may have different
    numbers of segments. Segments are a function of the values alone: a sample gets the same alone and inside a batch.
    """

    REMEDY: ClassVar[str]  # which settings make more segments

    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, x: Tensor) -> Tensor:
        """The segments of each sample, all channels together.

        Raises:
            InvalidInputError: when a sample would be a single segment, or the inputs are no images.
            MissingDependencyError: where scikit-image is absent.
        """
        axis = channel_axis(x, self.channel_axis)
        if x.ndim != 4 or axis is None or not x.is_floating_point():
            raise InvalidInputError(
                f"{self.NAME} divides images, floating-point numbers (N, C, H, W), got {x.dtype} {tuple(x.shape)}"
            )
        images = x.detach().movedim(axis, -1).double().cpu().numpy()
        segments = [_numbered(self._segment(_unit_range(image))) for image in images]
        single = [i for i, ids in enumerate(segments) if ids.size > 1 and not ids.any()]
        if single:
            raise InvalidInputError(
                f"{self!r} finds a single segment in sample {', '.join(map(str, single[:5]))} of shape "
                f"{tuple(x.shape[1:])}, which would be all of the input; {self.REMEDY}, or take feature_mask='grid'"
            )
        return torch.from_numpy(np.stack(segments)).to(x.device).unsqueeze(axis).expand(x.shape)

    @abc.abstractmethod
    def _segment(self, image: np.ndarray) -> np.ndarray:
        """Integer labels (H, W) of an image (H, W, C) in [0, 1]."""


@FEATURE_MASKS.register("felzenszwalb")
class Felzenszwalb(Segmentation):
    """Regions within which colours differ less than across their border (Felzenszwalb and Huttenlocher 2004)."""

    REMEDY = "lower scale, sigma or min_size"

    scale: Annotated[float, Float(low=10, high=1000, log=True, gt=0), "larger: larger segments"] = 100.0
    sigma: Annotated[float, Float(low=0.2, high=2.0, ge=0), "std of the blur that comes first, in pixels"] = 0.8
    min_size: Annotated[
        Any, Int(ge=1, optional=True), "pixels of the smallest segment; None: one two-hundredth of the image"
    ] = None

    def _segment(self, image: np.ndarray) -> np.ndarray:
        smallest = max(1, image.shape[0] * image.shape[1] // 200) if self.min_size is None else self.min_size
        # It says that four channels may be unintended; here they are channels.
        with warnings_ignored("Got image with third dimension", RuntimeWarning):
            return _skimage()[0].felzenszwalb(
                image, scale=self.scale, sigma=self.sigma, min_size=smallest, channel_axis=-1
            )


@FEATURE_MASKS.register("slic")
class Slic(Segmentation):
    """Superpixels: k-means of colour and position (Achanta et al. 2012, doi:10.1109/TPAMI.2012.120)."""

    REMEDY = "raise n_segments or compactness"

    n_segments: Annotated[int, Int(low=10, high=200, step=10, ge=2), "about how many"] = 50
    compactness: Annotated[
        float, Float(low=0.1, high=100, log=True, gt=0), "weight of nearness against colour: larger, squarer"
    ] = 10.0
    sigma: Annotated[float, Float(ge=0), "std of the blur that comes first, in pixels"] = 0.0

    def _segment(self, image: np.ndarray) -> np.ndarray:
        colour = image.shape[-1] == 3
        return _skimage()[0].slic(
            image,
            n_segments=self.n_segments,
            # slic scales images that are not CIELAB to [0, 1]; a hundredth of the compactness has the same effect as
            # colours on the scale of CIELAB.
            compactness=self.compactness if colour else self.compactness / LIGHTNESS,
            sigma=self.sigma,
            convert2lab=colour,
            start_label=0,
            channel_axis=-1,
        )


@FEATURE_MASKS.register("quickshift")
class Quickshift(Segmentation):
    """Modes of the density of colour and position (Vedaldi and Soatto 2008, doi:10.1007/978-3-540-88693-8_52)."""

    REMEDY = "lower max_dist or kernel_size, or raise ratio"

    kernel_size: Annotated[float, Float(low=1, high=7, gt=0), "std of the density, in pixels; larger: fewer"] = 3.0
    max_dist: Annotated[float, Float(low=2, high=50, log=True, gt=0), "cut-off for links; larger: fewer"] = 6.0
    ratio: Annotated[float, Float(low=0.1, high=1.0, ge=0, le=1), "weight of colour against nearness"] = 0.5

    def _segment(self, image: np.ndarray) -> np.ndarray:
        colour = image.shape[-1] == 3
        return _skimage()[0].quickshift(
            image if colour else image * LIGHTNESS,
            ratio=self.ratio,
            kernel_size=self.kernel_size,
            max_dist=self.max_dist,
            convert2lab=colour,
            rng=0,  # of its tie breaks
            channel_axis=-1,
        )


@FEATURE_MASKS.register("watershed")
class Watershed(Segmentation):
    """Basins of the size of the gradient, flooded from markers on a grid (Neubert and Protzel 2014)."""

    REMEDY = "raise n_segments"

    n_segments: Annotated[int, Int(low=10, high=200, step=10, ge=2), "how many markers"] = 50
    compactness: Annotated[
        float, Float(low=1e-5, high=0.1, log=True, ge=0), "weight of nearness against the gradient: larger, squarer"
    ] = 0.001

    def _segment(self, image: np.ndarray) -> np.ndarray:
        segmentation, filters = _skimage()
        steepness = np.sqrt(sum(filters.sobel(image[..., c]) ** 2 for c in range(image.shape[-1])))
        return segmentation.watershed(steepness, markers=self.n_segments, compactness=self.compactness)


def _skimage() -> tuple[Any, Any]:
    """The modules of scikit-image for segmentation and filters."""
    try:
        from skimage import filters, segmentation
    except ImportError as err:
        raise MissingDependencyError(
            f"segments of images need scikit-image, which does not import ({err}): pip install 'xaikit[images]'"
        ) from err
    return segmentation, filters


def _unit_range(image: np.ndarray) -> np.ndarray:
    """A sample scaled to [0, 1]; a constant one becomes 0."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels as 0, 1, 2, ... without a gap, (H, W)."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
