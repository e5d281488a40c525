"""`xaikit shortcuts`: clusters of a run, masks of what a cluster looks at, overlap with a known region."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import Job, argument, flag

if TYPE_CHECKING:
    from xaikit.cli.run_maps import RunMaps
    from xaikit.runs import Run
    from xaikit.shortcuts import Clusters

RESULT = "shortcuts.json"
SHOWN = 40  # letters of a sample's name


class Shortcuts(Job):
    """Find shortcuts in a run: clusters of samples with similar explanations (spectral relevance analysis).

    Writes shortcuts.json, a figure, and for each --cluster a mask of the region that only this cluster has relevance
    in; xaikit mitigate takes such a mask. --mask measures how much relevance lies in a known region, and whether that
    is more than chance. Texts are compared by the relevance of each word, wherever it stands. Use it on one class at a
    time (--of-class): explanations of different classes differ anyway.

    RUN is a folder that xaikit explain --data wrote. --mask is a picture, an array, or a folder with one for each
    sample, named like it.

    \b
    Examples:
      xaikit shortcuts run/ --out found/
      xaikit shortcuts run/ --of-class 3 --cluster 1 --grow 1 --out found/
      xaikit shortcuts run/ --mask ruler.png --out found/
    """  # noqa: D301

    VERB = "shortcuts"

    folder: Path = argument(metavar="RUN", help="Folder that xaikit explain --data wrote.")
    out: Path = flag(Path("shortcuts"), help="Folder for the results.")
    of_class: str = flag(
        "", help="Only samples of this class (3, or its name): their label, without labels the explained class."
    )
    method: str = flag("spray", help="spray:n_clusters=4,n_neighbors=10,size=32; all settings are optional.")
    cluster: tuple[int, ...] = flag((), help="Write a mask of this cluster, mask-K.npy; may be repeated.")
    threshold: float = flag(0.5, help="With --cluster: inside is at least this share of the largest excess, in (0, 1].")
    grow: int = flag(0, help="With --cluster: widen the mask by so many positions.")
    per_sample: bool = flag(False, help="With --cluster: one mask for each sample, empty outside of the cluster.")
    mask: Path | None = flag(None, help="A known region: .png, .npy, or a folder with one for each sample of the data.")
    mask_names: str = flag("", help="A known region by names: columns of a table, or words of texts: age,sex")
    figure: bool = flag(True, help="Draw the clusters of images (clusters.png).")

    def run(self) -> int:
        """Cluster, draw, mask, measure."""
        import json

        from xaikit.cli.options import check_folder
        from xaikit.cli.run_maps import read_maps
        from xaikit.core.files import write_whole
        from xaikit.runs import load_run

        settings = self._settings()
        run = load_run(self.folder)
        check_folder(self.out, RESULT)
        run_maps = read_maps(run, _class_of(self.of_class, run), pictures=self.figure)
        clusters = settings(run_maps.maps)
        chosen = self._chosen(clusters)  # before anything is written
        overlap = self._overlap(run_maps, run)
        self.out.mkdir(parents=True, exist_ok=True)
        written = [self._mask(k, run_maps, samples, run.job["samples"]) for k, samples in chosen.items()]
        if self.figure:
            written += self._draw(clusters, run_maps)
        result = {
            "run": str(self.folder),
            "clusters": [
                _described(clusters, k, run_maps, run.display_names.get("classes", ()))
                for k in range(clusters.n_clusters)
            ],
            "eigenvalues": clusters.eigenvalues.tolist(),
            "overlap": None if overlap is None else self._measured(overlap, clusters),
        }
        path = self.out / RESULT
        write_whole(path, json.dumps(result, indent=1) + "\n")
        written.append(path)
        text = f"{_summary(result)}\nwrote {', '.join(map(str, written))}"
        self.tell(text, **result, written=[str(p) for p in written])
        return 0

    def written_alone(self) -> Path | None:
        """The folder, whose files belong together."""
        return self.out

    def _settings(self) -> Any:
        from xaikit.core.errors import InvalidInputError
        from xaikit.core.spec_strings import parse_spec
        from xaikit.shortcuts import SpRAy

        name, settings = parse_spec(self.method)
        if name != "spray":
            raise InvalidInputError(f"--method is spray:key=value, got {self.method!r}")
        return SpRAy(**settings)

    def _chosen(self, clusters: Clusters) -> dict[int, list[int]]:
        """The samples of each --cluster."""
        from xaikit.core.errors import InvalidInputError

        about_masks = ("threshold", "grow", "per_sample")
        idle = [n for n in about_masks if getattr(self, n) != type(self).model_fields[n].default]
        if idle and not self.cluster:
            option = f"--{idle[0].replace('_', '-')}"
            raise InvalidInputError(f"{option} is about the mask of a cluster; name one, --cluster K")
        if not 0 < self.threshold <= 1:
            raise InvalidInputError(f"--threshold is a share of the largest excess, in (0, 1], got {self.threshold}")
        if self.grow < 0:
            raise InvalidInputError(f"--grow must be >= 0, got {self.grow}")
        if self.cluster and clusters.n_clusters == 1:
            raise InvalidInputError(
                "all samples are in one cluster, so there is nothing peculiar to it; --method spray:n_clusters=2 "
                "divides them"
            )
        return {k: clusters.samples(k) for k in self.cluster}

    def _overlap(self, run_maps: RunMaps, run: Run) -> Any:
        from xaikit.cli.options import split_list
        from xaikit.cli.run_masks import masks_of_run
        from xaikit.core.errors import InvalidInputError
        from xaikit.shortcuts import mask_overlap

        total = run.job["samples"]
        names = split_list(self.mask_names)
        if names and self.mask is not None:
            raise InvalidInputError("name the region by --mask or by --mask-names, not both")
        if not names and self.mask is None:
            return None
        maps = run_maps.over_places
        table = maps.ndim == 2
        masks = run_maps.named(names) if self.mask is None else masks_of_run(self.mask, run)
        if self.mask is not None and masks.ndim == maps.ndim - (0 if table else 1):
            if len(masks) != total:
                raise InvalidInputError(f"--mask holds {len(masks)} masks for the {total} samples of the data")
            masks = masks[run_maps.indices]
        if masks.ndim < maps.ndim - (0 if table else 1):  # one region for all
            return mask_overlap(maps, masks, null="positions" if table else "shift")
        # A sample without the region, such as a text without the word, says nothing about it.
        has = masks.flatten(1).any(1)
        if not bool(has.any()):
            raise InvalidInputError("no sample has anything of the region")
        overlap = mask_overlap(maps[has], masks[has], null="positions" if table else "shift")
        share = maps.new_full((len(maps),), float("nan"), dtype=overlap.share.dtype)
        share[has] = overlap.share
        return dataclasses.replace(overlap, share=share)

    def _mask(self, number: int, run_maps: RunMaps, samples: list[int], total: int) -> Path:
        """The region (H, W), or one for each sample of the data; of texts always the latter."""
        import numpy as np

        from xaikit.shortcuts import make_masks

        masks = run_maps.region_of(make_masks(run_maps.maps, samples, threshold=self.threshold, grow=self.grow))
        values = masks[samples[0]]
        if self.per_sample or run_maps.tokens is not None:
            values = masks.new_zeros(total, *masks.shape[1:])
            values[run_maps.indices] = masks
        path = self.out / f"mask-{number}.npy"
        np.save(path, values.numpy())
        return path

    def _draw(self, clusters: Clusters, run_maps: RunMaps) -> list[Path]:
        if clusters.maps.ndim != 3:
            return []
        from xaikit.report.clusters import clusters_figure

        path = self.out / "clusters.png"
        clusters_figure(clusters, run_maps.inputs).savefig(path, dpi=120)
        return [path]

    def _measured(self, overlap: Any, clusters: Clusters) -> dict[str, Any]:
        shares = [float(overlap.share[clusters.samples(k)].nanmean()) for k in range(clusters.n_clusters)]
        return {
            "mask": self.mask_names or str(self.mask),
            "share": float(overlap.share.nanmean()),
            "expected": float(overlap.expected.mean()),
            "p_value": overlap.p_value,
            "share_by_cluster": [None if math.isnan(share) else share for share in shares],
        }


def _class_of(text: str, run: Run) -> int | None:
    """The class that a number or a name of the run's data means; None for all."""
    from xaikit.core.errors import UnknownNameError, near_names

    names = list(run.display_names.get("classes", ()))
    if text in names:
        return names.index(text)
    if text and not text.isdecimal():
        raise UnknownNameError(f"--of-class {text!r} is no class of the run{near_names(text, names)}")
    return int(text) if text else None


def _described(clusters: Clusters, number: int, run_maps: RunMaps, classes: Any) -> dict[str, Any]:
    """A cluster: its size, how many predictions are right, what is predicted, its strongest names, its samples."""
    members = [run_maps.rows[i] for i in clusters.samples(number)]
    judged = [m for m in members if m["label"] is not None and m["predicted"] is not None]
    right = sum(m["label"] == m["predicted"] for m in judged)
    return {
        "cluster": number,
        "size": len(members),
        "accuracy": right / len(judged) if judged else None,
        "predicted": _counted([m["predicted"] for m in members if m["predicted"] is not None], classes),
        "strongest": run_maps.strongest(clusters.mean_map(number)),
        "samples": [{"index": m["index"], "name": m["name"]} for m in members],
    }


def _counted(predicted: list[int], classes: Any) -> dict[str, int]:
    """How often each class is predicted, by its word where it has one, the commonest first."""
    counts = Counter(str(classes[k]) if k < len(classes) else str(k) for k in predicted)
    return dict(counts.most_common())


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else f"{name[: SHOWN - 3]}..."


def _summary(result: dict[str, Any]) -> str:
    from xaikit.core.percentages import percent

    count = len(result["clusters"])
    lines = [f"{count} cluster{'s' if count > 1 else ''}{'' if count > 1 else ': the maps do not fall into groups'}"]
    for item in result["clusters"]:
        right = "" if item["accuracy"] is None else f", {percent(item['accuracy'])} right"
        typical = ", ".join(_short(s["name"]) or f"sample {s['index']}" for s in item["samples"][:3])
        strongest = ", ".join(f"{s['name']} {percent(s['share'], 0)}" for s in item["strongest"])
        looks = f"; looks at {strongest}" if strongest else ""
        lines.append(f"cluster {item['cluster']}: {item['size']} samples{right}{looks}; most typical: {typical}")
    if result["overlap"] is not None:
        o = result["overlap"]
        lines.append(
            f"relevance in {o['mask']}: {percent(o['share'])}, by chance {percent(o['expected'])} "
            f"(p = {o['p_value']:.2g}); "
            + ", ".join(
                f"cluster {k} {percent(share)}" for k, share in enumerate(o["share_by_cluster"]) if share is not None
            )
        )
    return "\n".join(lines)
