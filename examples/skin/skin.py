"""A folder of images with a shortcut: found, masked, taken away, and the result assessed.

    python -m examples.skin.skin FOLDER --out report   # FOLDER/benign/*.png, FOLDER/malignant/*.png (or .jpg)
    python -m examples.skin.skin --draw --out report   # on images that we draw

The steps are those of docs/shortcuts.md. The clusters' figure (clusters.png) is for you to look at: name those that
look at the wrong thing with --cluster, or bring masks of your own with --masks (a folder of pictures, one for each
image, benign ones first, white where the model must not look).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from examples.skin.draw import CLASSES, draw
from xaikit import RRR, Clusters, IntegratedGradients, LRPEpsilonPlus, SpRAy, load_masks, make_masks, mask_overlap
from xaikit.report.clusters import clusters_figure

ENDINGS = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (N, 3, size, size) in [0, 1], their labels (N,) and files."""

    x: Tensor
    y: Tensor
    files: list[Path]

    def at(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(self.x[rows], self.y[rows], [self.files[i] for i in rows.tolist()])


def load(folder: Path, size: int) -> Images:
    """The images of both classes, resized."""
    files = {name: sorted(f for f in (folder / name).glob("*") if f.suffix.lower() in ENDINGS) for name in CLASSES}
    empty = [name for name, found in files.items() if not found]
    if empty:
        sys.exit(f"{folder} must hold the folders {' and '.join(CLASSES)} with .png or .jpg files; none in {empty[0]}")
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((size, size))) for name in CLASSES for f in files[name]]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    y = torch.tensor([k for k, name in enumerate(CLASSES) for _ in files[name]])
    return Images(x, y, [f for name in CLASSES for f in files[name]])


def network() -> nn.Module:
    """A small convolutional network; for a real archive put a pretrained one here."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, len(CLASSES)))


def train(model: nn.Module, data: Images, masks: Tensor, *, weight: float, epochs: int, seed: int) -> None:
    """Right for the right reasons over integrated gradients; weight 0 is plain training.

    The absolute attributions are penalised, not their squares: spread over a patch, each pixel's square is tiny.
    """
    mitigator = RRR(
        explainer=IntegratedGradients(n_steps=4, baseline="mean") if weight else "gradient",
        output="logit", reduction="mean", power=1.0, lambda_rrr=weight,
        lr=2e-3, n_epochs=epochs, batch_size=32, random_state=seed,
    )  # fmt: skip
    mitigator.fit(model, data.x, data.y, masks, progress=False)


def find(model: nn.Module, benign: Images) -> tuple[Tensor, Clusters]:
    """Explanations of the benign images, and their clusters."""
    heat = torch.cat([LRPEpsilonPlus(model).attribute(part, 0) for part in benign.x.split(64)])
    return heat, SpRAy()(heat)


def far_out(found: Clusters) -> list[int]:
    """The clusters whose relevance lies away from the middle of the image, where the lesion is."""
    height, width = found.maps.shape[1:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    distance = [float((found.mean_map(k) * (x**2 + y**2)).sum()) for k in range(found.n_clusters)]
    return [k for k, d in enumerate(distance) if d >= (min(distance) + max(distance)) / 2]


def pasted(images: Tensor, donors: Tensor, region: Tensor) -> Tensor:
    """The images with the region's pixels of donors, in turn."""
    turn = torch.arange(len(images)) % len(donors)
    return torch.where(region > 0, donors[turn], images)


def assess(model: nn.Module, test: Images, region: Tensor, donors: Tensor) -> dict[str, float]:
    """Accuracy by class, known malignant lesions that a pasted patch turns benign, relevance in the region."""
    model.eval()
    with torch.no_grad():
        right = (model(test.x).argmax(1) == test.y).float()
        known = test.x[(test.y == 1) & (right == 1)]
        fooled = (model(pasted(known, donors, region)).argmax(1) == 0).float()
    heat = IntegratedGradients(model, baseline="mean").attribute(donors, 0)
    figures = {name: float(right[test.y == k].mean()) for k, name in enumerate(CLASSES)}
    share = float(mask_overlap(heat, region).share.mean())
    return figures | {"malignant turned benign by a patch": float(fooled.mean()), "relevance in the region": share}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """The command line; returns the figures before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--draw", action="store_true", help="draw 300 images of each class")
    parser.add_argument("--out", type=Path, default=Path("skin-report"))
    parser.add_argument("--masks", type=Path, help="folder of masks for all images, in the order of their names")
    parser.add_argument("--cluster", type=int, nargs="+", help="the clusters that look at the wrong thing")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weight", type=float, default=1.0, help="of the penalty")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.folder is None and not options.draw:
        parser.error("name the folder of images, or let us draw some with --draw")
    folder = options.folder or draw(options.out / "images", 300, size=options.size, seed=options.seed)

    everything = load(folder, options.size)
    order = torch.randperm(len(everything.y), generator=torch.Generator().manual_seed(options.seed))
    data, test = (everything.at(rows) for rows in order.tensor_split([int(0.7 * len(order))]))
    torch.manual_seed(options.seed)
    start = network()

    plain = copy.deepcopy(start)
    nowhere = torch.zeros(options.size, options.size)
    nowhere[0, 0] = 1  # the weight is 0
    train(plain, data, nowhere, weight=0.0, epochs=options.epochs, seed=options.seed)

    benign = (data.y == 0).nonzero().flatten()
    heat, found = find(plain, data.at(benign))
    clusters_figure(found, data.x[benign], attributions=heat).savefig(options.out / "clusters.png", dpi=120)
    chosen = far_out(found) if options.cluster is None else options.cluster
    suspects = [i for k in chosen for i in found.samples(k)]
    print(f"{found}; clusters {chosen} are taken for the shortcut, see {options.out / 'clusters.png'}")
    region = make_masks(heat, suspects, threshold=0.15, grow=2, everywhere=True)[0]
    masks = (
        region.expand(len(data.y), -1, -1) if options.masks is None else load_masks(options.masks)[order[: len(data.y)]]
    )

    mended = copy.deepcopy(start)
    train(mended, data, masks, weight=options.weight, epochs=options.epochs, seed=options.seed)
    donors = data.x[benign[suspects]]
    figures = {name: assess(model, test, region, donors) for name, model in (("plain", plain), ("mended", mended))}
    (options.out / "suspects.txt").write_text("".join(f"{data.files[i]}\n" for i in benign[suspects].tolist()))
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    for key in figures["plain"]:
        print(f"{key:40s} {figures['plain'][key]:6.1%} -> {figures['mended'][key]:6.1%}")
    return figures


if __name__ == "__main__":
    main()
