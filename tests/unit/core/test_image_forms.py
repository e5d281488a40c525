"""Images without an axis, or with their channels behind: one sentence about the input, from every explainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError

NAMES = [name for name in EXPLAINERS if name != "lrp_composite"]


class Pooled(nn.Module):
    """It takes an image without its batch axis, too: then its channels pass for samples."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv, self.out = nn.Conv2d(channels, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().mean((-2, -1)))


FORMS = {
    (3, (3, 8, 8)): r"the batch axis is missing: pass inputs\[None\]",
    (3, (2, 8, 8, 3)): r"the channels are last: pass inputs.movedim\(-1, 1\)",
    (3, (8, 8, 3)): r"the batch axis is missing and the channels are last: pass inputs.movedim\(-1, 0\)\[None\]",
    (3, (2, 8, 8)): "so an axis is missing",
    (1, (8, 8, 1)): r"the channels are last: pass inputs.movedim\(-1, 0\)\[None\]",
    (1, (2, 8, 8)): r"the axis of channels is missing: pass inputs\[:, None\]",
    (1, (8, 8)): r"pass inputs\[None, None\]",
}


@pytest.mark.parametrize(("channels", "shape"), FORMS)
def test_the_sentence_says_what_to_pass(channels, shape):
    with pytest.raises(InvalidInputError, match=FORMS[channels, shape]):
        EXPLAINERS.create("gradient").bind(Pooled(channels)).attribute(np.random.rand(*shape), 0)


class Functional(Pooled):
    """The same by a function, with as many filters as channels: the filters pass for samples."""

    def __init__(self, channels: int, **names: torch.Tensor):
        super().__init__(channels)
        del self.conv
        self.weight, self.names = nn.Parameter(torch.rand(channels, channels, 3, 3)), names
        self.out = nn.Linear(channels, 3)

    def forward(self, x):
        y = torch.conv2d(input=x, weight=self.weight) if self.names else nn.functional.conv2d(x, self.weight)
        return self.out(y.relu().flatten(-2).mean(-1).expand(len(y), -1))


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "lrp_epsilon_plus", "captum.feature_ablation"])
@pytest.mark.parametrize("names", [{}, {"by": "name"}])
def test_a_convolution_that_is_called_as_a_function(name, names):
    model = Functional(3, **names)
    explainer = EXPLAINERS.create(name).bind(model)
    images = torch.rand(2, 3, 8, 8)
    assert explainer.attribute(images, 0).shape == images.shape
    with pytest.raises(InvalidInputError, match=r"so the batch axis is missing: pass inputs\[None\] for one sample"):
        explainer.attribute(images[0], 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_explainer_refuses_an_image_without_its_batch_axis(name):
    model = Pooled(3)
    image = torch.rand(3, 8, 8)
    assert model(image).shape == (3,)  # three classes, which would pass for the scores of three samples
    for target in (0, None):
        with pytest.raises(InvalidInputError, match=r"so the batch axis is missing: pass inputs\[None\] for one"):
            EXPLAINERS.create(name).bind(model).attribute(image, target)


def test_a_model_of_one_sample_may_take_the_batch_axis_off_itself():
    class One(Pooled):
        def forward(self, x):
            return super().forward(x[0])[None]

    x = torch.rand(1, 3, 8, 8)
    model = One(3)
    expected = EXPLAINERS.create("gradient").bind(model).attribute(x, 1)
    leaf = x.clone().requires_grad_()
    model(leaf)[0, 1].backward()
    assert torch.equal(expected, leaf.grad)


@pytest.mark.parametrize("name", ["captum.feature_ablation", "captum.occlusion", "contextual_decomposition"])
def test_pictures_of_bytes(name):
    pictures = (np.random.rand(2, 3, 8, 8) * 255).astype("uint8")
    with pytest.raises(InvalidTypeError, match=r"fails on torch.int64 inputs; pass inputs.to\(torch.float32\)"):
        EXPLAINERS.create(name).bind(Pooled(3)).attribute(pictures, 0)


def test_an_operation_without_any_derivative_is_refused():
    class Unique(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.unique(x.flatten()).sum()

    with pytest.raises(NotDifferentiableError, match="torch cannot differentiate an operation of this model .*unique"):
        EXPLAINERS.create("gradient").bind(Unique(4, 2)).attribute(torch.rand(2, 4), 0)


def test_what_is_made_smaller_before_its_first_convolution():
    class Smaller(Pooled):
        def forward(self, x):
            return super().forward(nn.functional.avg_pool2d(x, 2))

    explainer = EXPLAINERS.create("gradient").bind(Smaller(3))
    images = torch.rand(2, 3, 8, 8)
    assert explainer.attribute(images, 0).shape == images.shape
    with pytest.raises(InvalidInputError, match=r"so the batch axis is missing: pass inputs\[None\] for one sample"):
        explainer.attribute(images[0], 0)


class Transposed(Functional):
    def forward(self, x):
        return self.out(nn.functional.conv_transpose2d(x, self.weight).relu().flatten(-2).mean(-1).expand(len(x), -1))


class Beside(Functional):
    """It has a convolution that does not run, beside one that does."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.unused = nn.Conv2d(channels, channels, 3)


class Later(Functional):
    """Its first convolution by the order of its modules runs last, on a batch."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.last, self.first = nn.Conv2d(1, 3, 1), nn.Conv2d(channels, channels, 3)

    def forward(self, x):
        return self.out(self.last(self.first(x).relu().mean((-2, -1)).reshape(-1, 1, 3, 1)).flatten(1)[:, :3])


@pytest.mark.parametrize("model", [Transposed(3), Beside(3), Later(3)])
def test_each_convolution_is_looked_at(model):
    explainer = EXPLAINERS.create("gradient").bind(model)
    images = torch.rand(3, 3, 8, 8)
    for _ in range(2):
        assert explainer.attribute(images, 0).shape == images.shape
        with pytest.raises(InvalidInputError, match=r"so the batch axis is missing: pass inputs\[None\]"):
            explainer.attribute(images[0], 0)


@pytest.mark.parametrize(("norm", "x"), [(nn.BatchNorm2d(3), (3, 8, 8)), (nn.BatchNorm2d(3), (3, 8))])
def test_a_batch_norm_that_meets_the_image_first(norm, x):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(InvalidInputError, match=r"its first convolution takes \(N, 3, height, width\), so"):
        EXPLAINERS.create("gradient").bind(model).attribute(torch.rand(x), 1)
