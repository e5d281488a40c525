"""A folder of images with a shortcut: found, masked, taken away, and the result proved.

    python -m examples.skin.skin --draw --out report   # on images that we draw
    python -m examples.skin.skin FOLDER --out report   # FOLDER/*.png or *.jpg, FOLDER/labels.csv (file,label)

A small network is trained; its explanations of the benign images are grouped (report/clusters.png); the groups that
look at something away from the middle are taken for the shortcut, and a mask is made of where they look. Then the
network is trained again with counterexamples and with penalties, whose weights are chosen on validation images, and all
are compared on test images with the patches as they are, on anyone, on the malignant only, and on nobody.

After a look at the figure name the groups yourself with --cluster, or draw a picture of the place: --mask.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.skin.data import Images, load
from examples.skin.draw import CLASSES, draw
from examples.skin.patches import Patches
from xaikit import (
    CDEP,
    EXPLAINERS,
    RRR,
    Counterexamples,
    Float,
    Mitigator,
    SpRAy,
    assess,
    compare,
    load_masks,
    make_masks,
    mask_overlap,
    tune_mitigator,
)
from xaikit.mitigation import Assessment, Comparison
from xaikit.report.clusters import clusters_figure
from xaikit.report.comparisons import plot_comparison
from xaikit.report.figures import comparison

# Explained is a random combination of the two logits: of the label's alone, the penalty would leave the patch free to
# lower the other class. A share of the explanation, so that one range of weights suits every explainer; its absolute
# values, not their squares, since spread over a patch each pixel's square is tiny.
SHARE = {
    "target": "random", "output": "logit", "reduction": "mean", "normalization": "total", "power": 1.0, "warmup": 2.0
}  # fmt: skip
TRANSFER = (
    "gradient",
    "integrated_gradients:n_steps=8",
    "lrp_epsilon_plus",
    "gradcam",
)  # whose relevance in the mask is told
SHOWN = ("accuracy kept", "benign removed", "malignant kept", "malignant flipped", "worst flipped")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mitigator with the range of its weight, and other explanations that may stand in its penalty."""

    mitigator: Mitigator
    low: float
    high: float
    explainers: tuple[str, ...] = ()


def rrr(*explainers: str, weight: float = 1.0) -> Candidate:
    """RRR over the explanation that suits best."""
    mitigator = RRR(explainer=explainers[0], lambda_rrr=weight, **SHARE)
    return Candidate(mitigator, 0.1 * weight, 10 * weight, explainers if len(explainers) > 1 else ())


CANDIDATES = {
    "counterexamples": Candidate(Counterexamples(lambda_ce=2.0), 0.3, 10),
    "RRR": rrr("gradient", "gradient_x_input"),
    "RRR GradCam": rrr("gradcam", weight=0.3),
    "CDEP": Candidate(CDEP(explainer="contextual_decomposition:rules=cdep", lambda_cdep=1.0), 0.1, 10),
    "RRR integrated gradients": rrr("integrated_gradients:n_steps=4"),
    "RRR SmoothGrad": rrr("smoothgrad:n_iter=4"),
    "RRR LRP EpsilonPlus": rrr("lrp_epsilon_plus"),
}
SHORT = tuple(CANDIDATES)[:3]  # what is compared unless --methods says otherwise


def network(size: int) -> nn.Module:
    """A small convolutional network; for a real archive put a pretrained one here."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (size // 8) ** 2, len(CLASSES)))


def far_out(place: Tensor) -> bool:
    """Whether a place (size, size) lies away from the middle of the image, where the lesion is."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in place.shape), indexing="ij")
    return float((place * x.hypot(y)).sum() / place.sum()) > 0.7


def shows_something(images: Tensor, samples: list[int], place: Tensor) -> bool:
    """Whether these samples show more there than the others do: away from their own skin, the median colour."""
    skin = images.flatten(2).median(-1).values[..., None, None]
    contrast = ((images - skin).abs().mean(1) * place).sum((1, 2)) / place.sum()
    inside = torch.zeros(len(images), dtype=torch.bool)
    inside[samples] = True
    return bool(contrast[inside].median() > 2 * contrast[~inside].median())


class Story:
    """All steps, on images that were split into three parts."""

    def __init__(self, options: argparse.Namespace, images: Images) -> None:
        self.options, self.out = options, options.out
        self.train, self.validation, self.test = images.split(options.seed)
        self.settings = {"lr": 3e-3, "n_epochs": options.epochs, "batch_size": 32}

    def fresh(self, seed: int) -> nn.Module:
        """A network with the weights of a seed."""
        torch.manual_seed(seed)
        return network(self.options.size)

    def plain(self, seed: int) -> nn.Module:
        """A network trained as usual."""
        model, nowhere = self.fresh(seed), torch.zeros(self.options.size, self.options.size)
        nowhere[0, 0] = 1  # the weight is 0
        mitigator = RRR(lambda_rrr=0.0, random_state=seed, **self.settings)
        mitigator.fit(model, self.train.x, self.train.y, nowhere, progress=False)
        return model

    def find(self, model: nn.Module) -> Patches:
        """The images whose explanations make the suspicious clusters, and where these look."""
        benign = (self.train.y == 0).nonzero()[:, 0]
        explainer = EXPLAINERS.create(self.options.explainer).bind(model)
        shown = self.train.x[benign]
        heat = torch.cat([explainer.attribute(part, 0) for part in shown.split(64)])
        found = SpRAy(n_clusters=self.options.clusters)(heat)
        clusters_figure(found, shown, attributions=heat).savefig(self.out / "clusters.png", dpi=120)
        several = range(found.n_clusters) if found.n_clusters > 1 else ()
        places = [make_masks(heat, found.samples(k), threshold=0.25, grow=2).amax(0) for k in several]
        chosen = self.options.cluster or [
            k for k, place in enumerate(places) if far_out(place) and shows_something(shown, found.samples(k), place)
        ]
        if not chosen:
            sys.exit(f"{found}; none shows something away from the middle: see clusters.png, then name some: --cluster")
        suspects = [i for k in chosen for i in found.samples(k)]
        where = torch.stack([places[k] for k in chosen for _ in found.samples(k)])
        if self.options.mask is not None:
            where = load_masks(self.options.mask).expand_as(where)
        names = "".join(f"{self.train.files[i].name}\n" for i in benign[suspects].tolist())
        (self.out / "suspects.txt").write_text(names, encoding="utf-8")
        patches = Patches(shown[suspects], where)
        print(f"{found}; clusters {chosen} are taken for the shortcut: see clusters.png")
        print(f"relevance of their {len(suspects)} images in the mask: {mask_overlap(heat[suspects], patches.region)}")
        return patches

    def choose(self, candidate: Candidate, patches: Patches) -> Mitigator:
        """The weight, and the explanation, with the best worst group on validation images.

        Groups are the classes, each with a patch on all and on none; the best epoch's weights are kept by the same.
        """
        start, mask = self.fresh(self.options.seed), patches.region
        # As patient as there are epochs: the best epoch's weights return, and a slow start is no reason to stop.
        patience = self.options.epochs
        mitigator = candidate.mitigator.set_kwargs(patience=patience, random_state=self.options.seed, **self.settings)
        found = tune_mitigator(
            mitigator,
            start,
            (self.train.x, self.train.y, mask),
            "worst_group_accuracy",
            validation=self.groups(patches),
            explainers=candidate.explainers or None,
            space={mitigator.WEIGHT: Float(low=candidate.low, high=candidate.high, log=True)},
            n_trials=self.options.trials,
            seed=self.options.seed,
            progress=False,
        )
        print(f"  {found.best!r}: worst validation group {100 * found.value:.1f} %")
        return found.best

    def groups(self, patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
        """The validation images twice, with a patch and without; their labels and groups."""
        x, y = self.validation.x, self.validation.y
        both = torch.cat([patches.put(x, torch.full_like(y, shown)) for shown in (1, 0)])
        return both, y.repeat(2), torch.cat([2 * y + 1, 2 * y])

    def mended(self, mitigator: Mitigator, patches: Patches, seed: int) -> nn.Module:
        """A network trained with a mitigator."""
        model, (x, y, groups) = self.fresh(seed), self.groups(patches)
        mitigator.set_kwargs(random_state=seed).fit(
            model, self.train.x, self.train.y, patches.region, validation=(x, y), groups=groups, progress=False
        )
        return model

    def assess(self, model: nn.Module, patches: Patches) -> Assessment:
        """What becomes of the test images."""
        return assess(
            model,
            (self.test.x, self.test.y),
            groups=lambda _, y: [CLASSES[k] for k in y.tolist()],
            shortcut_masks=patches.region,
            decoy=patches.decoys(),
            explainers=TRANSFER,
            progress=False,
        )

    def tell(self) -> Comparison:
        """All of it; writes the figures and the table."""
        seeds = range(self.options.seed, self.options.seed + self.options.seeds)
        models = {"plain": [self.plain(seed) for seed in seeds]}
        patches = self.find(models["plain"][0])
        for name in self.options.methods:
            print(f"{name}: {self.options.trials} trials", flush=True)
            chosen = self.choose(CANDIDATES[name], patches)
            models[name] = [self.mended(chosen, patches, seed) for seed in seeds]
        table = compare({name: [self.assess(m, patches) for m in made] for name, made in models.items()}, groups=True)
        self.draw(models, patches, table)
        print(table)
        (self.out / "figures.json").write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
        return table

    def draw(self, models: dict[str, list[nn.Module]], patches: Patches, table: Comparison) -> None:
        """Bars before and after, relevance in the mask, and what the networks see in malignant images with a patch."""
        plot_comparison(table, measures=SHOWN, title="On test images").savefig(self.out / "before_after.png", dpi=120)
        plot_comparison(table, kind="mass").savefig(self.out / "mass.png", dpi=120)
        x = patches.put(self.test.x[self.test.y == 1][:5], torch.ones(5))
        maps, told = {}, {}
        for name, (model, *_) in models.items():
            with torch.no_grad():
                told[name] = [CLASSES[k] for k in model.eval()(x).argmax(1).tolist()]
            maps[name] = EXPLAINERS.create(self.options.explainer).bind(model).attribute(x, 0)
        figure = comparison(maps, x, outline=patches.region, captions=told)
        figure.savefig(self.out / "examples.png", dpi=120)


def main(arguments: list[str] | None = None) -> Comparison:
    """The command line; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="of images")
    add("--labels", type=Path, help="a .csv with a line of column names; else FOLDER/labels.csv")
    add("--columns", nargs=2, default=("file", "label"), help="of the file and of its label, benign or malignant")
    add("--draw", type=int, nargs="?", const=300, metavar="N", help="draw N images of each class, else 300")
    add("--out", type=Path, default=Path("skin-report"))
    add("--size", type=int, default=32, help="side of the images in pixels")
    add("--explainer", default="lrp_epsilon_plus", help="whose explanations are grouped: gradcam, ...")
    add("--clusters", type=int, help="how many; else by the eigengap")
    add("--cluster", type=int, nargs="+", help="the clusters that look at the wrong thing")
    add("--mask", type=Path, help="a picture, white where the networks must not look, of --size pixels")
    add("--methods", nargs="+", choices=CANDIDATES, default=SHORT, metavar="NAME", help=f"of {', '.join(CANDIDATES)}")
    add("--epochs", type=int, default=15)
    add("--trials", type=int, default=6, help="trainings to choose each weight")
    add("--seeds", type=int, default=3, help="trainings of each kind, for the intervals")
    add("--seed", type=int, default=0, help="the first of them")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.folder is None and options.draw is None:
        parser.error("name the folder of images, or let us draw some with --draw")
    folder = options.folder or draw(options.out / "images", options.draw, size=options.size, seed=options.seed)
    images = load(folder, options.size, options.labels or folder / "labels.csv", tuple(options.columns))
    return Story(options, images).tell()


if __name__ == "__main__":
    main()
