"""Patches that were found in some images, put into any image and taken out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Patches:
    """Images that show a patch, (M, 3, size, size), and where each of them shows it, (M, size, size)."""

    donors: Tensor
    masks: Tensor

    @property
    def region(self) -> Tensor:
        """All the places where patches lie, (size, size): what must not matter."""
        return self.masks.amax(0)

    def put(self, images: Tensor, shown: Tensor, seed: int = 0) -> Tensor:
        """The images with some donor's patch where `shown` (N,) is true, with bare skin in its place elsewhere.

        Bare skin is the image's own median colour, since most of an image is skin.
        """
        inside = self.region > 0
        skin = images[:, :, ~inside].median(-1).values[:, :, None, None]
        bare = torch.where(inside, skin, images)
        some = torch.randint(len(self.donors), (len(images),), generator=torch.Generator().manual_seed(seed))
        patched = torch.where(self.masks[some][:, None] > 0, self.donors[some], bare)
        return torch.where(shown.bool().view(-1, 1, 1, 1), patched, bare)

    def decoys(self, seed: int = 0) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """What `xaikit.assess` makes of the shortcut: a patch on anyone, on the malignant only, on nobody."""

        def coin(y: Tensor) -> Tensor:
            return torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.5

        return {
            "randomised": lambda x, y: self.put(x, coin(y), seed),
            "flipped": lambda x, y: self.put(x, y == 1, seed),
            "removed": lambda x, y: self.put(x, torch.zeros_like(y), seed),
        }
