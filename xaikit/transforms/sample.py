"""A sample of the data as a baseline."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical, Int
from xaikit.core.registries import BASELINES
from xaikit.core.structure import by_row
from xaikit.transforms.baselines import Baseline


@BASELINES.register("sample")
class Sample(Baseline):
    """One of some given samples, for instance of the training data.

    A random one is the same for every input, so that a sample gets the same baseline alone and inside a batch. The
    farthest one is each input's own, by the sum of absolute differences (Sturmfels et al. 2020,
    doi:10.23915/distill.00022).

    >>> import torch
    >>> samples = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> Sample(samples=samples, pick="farthest")(torch.tensor([[0.1, 0.2], [0.9, 0.7]]))
    tensor([[1., 1.],
            [0., 0.]])
    """

    samples: Annotated[Tensor, "what to draw from, (M, ...)"]
    pick: Annotated[str, Categorical("random", "farthest"), "which of them"] = "random"
    random_state: Annotated[int, Int(ge=0), "seed of the draw"] = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The samples that stand in for `x`.

        Raises:
            InvalidInputError: when they have another shape than a sample of `x`, or there are none.
        """
        if self.samples.ndim != x.ndim or self.samples.shape[1:] != x.shape[1:] or not len(self.samples):
            raise InvalidInputError(
                f"samples to draw a baseline from must be (M, {', '.join(map(str, x.shape[1:]))}), M > 0, "
                f"got {tuple(self.samples.shape)}"
            )
        samples = self.samples.to(x)
        if self.pick == "random":
            generator = torch.Generator().manual_seed(self.random_state)
            drawn = int(torch.randint(len(samples), (), generator=generator, device="cpu"))
            return samples[drawn].expand_as(x)
        distances = torch.stack([by_row((x - sample).abs()).sum(1) for sample in samples])
        return samples[distances.argmax(0)]
