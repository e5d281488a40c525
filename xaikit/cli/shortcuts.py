"""`xaikit shortcuts`: clusters of a run, masks of what a cluster looks at, overlap with a known region."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import Job, argument, flag

if TYPE_CHECKING:
    from torch import Tensor

    from xaikit.runs import Run
    from xaikit.shortcuts import Clusters

RESULT = "shortcuts.json"


class Shortcuts(Job):
    """Find shortcuts in a run: clusters of samples that the model looks at alike (spectral relevance analysis).

    Writes shortcuts.json, a figure, and for each --cluster a mask of what is peculiar to it, which xaikit mitigate
    takes. --mask measures how much relevance lies in a known region, and whether that is more than chance.
    Best run on the samples of one class: between classes, explanations differ for good reasons.

    \b
    Examples:
      xaikit shortcuts run/ --out found/
      xaikit shortcuts run/ --of-class 3 --cluster 1 --grow 1 --out found/
      xaikit shortcuts run/ --mask ruler.png --out found/
    """  # noqa: D301

    VERB = "shortcuts"

    folder: Path = argument(metavar="RUN", help="Folder that xaikit explain --data wrote.")
    out: Path = flag(Path("shortcuts"), help="Folder for the results.")
    of_class: int | None = flag(None, help="Only samples of this class: their label, else the explained class.")
    method: str = flag("spray", help="spray:n_clusters=4,n_neighbors=10,size=32; all settings are optional.")
    cluster: tuple[int, ...] = flag((), help="Write the mask of this cluster, mask-K.npy; repeat it.")
    threshold: float = flag(0.5, help="Of a mask: share of the largest excess relevance, in (0, 1].")
    grow: int = flag(0, help="Of a mask: positions by which it is widened.")
    per_sample: bool = flag(False, help="A mask for each sample of the data, empty outside the cluster.")
    mask: Path | None = flag(None, help="A known region: .png, .npy, or a folder with one for each sample of the data.")
    figure: bool = flag(True, help="Draw the clusters, of images.")

    def run(self) -> int:
        """Cluster, draw, mask, measure."""
        import json

        from xaikit.cli.options import check_folder
        from xaikit.core.files import write_whole
        from xaikit.runs import load_run

        settings = self._settings()
        run = load_run(self.folder)
        check_folder(self.out, RESULT)
        rows, maps, inputs = _read(run, self.of_class, pictures=self.figure)
        clusters = settings(maps)
        indices = [row["index"] for row in rows]
        chosen = [clusters.samples(k) for k in self.cluster]  # before anything is written
        overlap = None if self.mask is None else self._overlap(maps, indices, run.job["samples"])
        self.out.mkdir(parents=True, exist_ok=True)
        written = [
            self._mask(k, maps, samples, indices, run.job["samples"])
            for k, samples in zip(self.cluster, chosen, strict=True)
        ]
        if self.figure:
            written += self._draw(clusters, inputs)
        found = {
            "run": str(self.folder),
            "clusters": [_described(clusters, k, rows) for k in range(clusters.n_clusters)],
            "eigenvalues": clusters.eigenvalues.tolist(),
            "overlap": None if overlap is None else self._measured(overlap, clusters),
        }
        path = self.out / RESULT
        write_whole(path, json.dumps(found, indent=1) + "\n")
        written.append(path)
        words = f"{_summary(found)}\nwrote {', '.join(map(str, written))}"
        self.tell(words, **found, written=[str(p) for p in written])
        return 0

    def _settings(self) -> Any:
        from xaikit.core.errors import InvalidInputError
        from xaikit.core.registry import parse_spec
        from xaikit.shortcuts import SpRAy

        name, settings = parse_spec(self.method)
        if name != "spray":
            raise InvalidInputError(f"--method is spray:key=value, got {self.method!r}")
        return SpRAy(**settings)

    def _overlap(self, maps: Tensor, indices: list[int], total: int) -> Any:
        from xaikit.core.errors import InvalidInputError
        from xaikit.shortcuts import load_masks, mask_overlap

        assert self.mask is not None
        masks = load_masks(self.mask)
        if masks.ndim == maps.ndim - 1:
            if len(masks) != total:
                raise InvalidInputError(f"--mask holds {len(masks)} masks for the {total} samples of the data")
            masks = masks[indices]
        return mask_overlap(maps, masks)

    def _mask(self, number: int, maps: Tensor, samples: list[int], indices: list[int], total: int) -> Path:
        """The region (H, W), or one for each sample of the data."""
        import numpy as np

        from xaikit.shortcuts import make_masks

        found = make_masks(maps, samples, threshold=self.threshold, grow=self.grow)
        values = found[samples[0]]
        if self.per_sample:
            values = found.new_zeros(total, *found.shape[1:])
            values[indices] = found
        path = self.out / f"mask-{number}.npy"
        np.save(path, values.numpy())
        return path

    def _draw(self, clusters: Clusters, inputs: Tensor | None) -> list[Path]:
        if clusters.maps.ndim != 3:
            self.note("clusters are drawn for images only")
            return []
        from xaikit.report.clusters import clusters_figure

        path = self.out / "clusters.png"
        clusters_figure(clusters, inputs).savefig(path, dpi=120)
        return [path]

    def _measured(self, overlap: Any, clusters: Clusters) -> dict[str, Any]:
        shares = [float(overlap.share[clusters.samples(k)].mean()) for k in range(clusters.n_clusters)]
        return {
            "mask": str(self.mask),
            "share": float(overlap.share.mean()),
            "expected": float(overlap.expected.mean()),
            "p_value": overlap.p_value,
            "share_by_cluster": shares,
        }


def _read(run: Run, of_class: int | None, *, pictures: bool) -> tuple[list[dict[str, Any]], Tensor, Tensor | None]:
    """What is known of the chosen samples, their relevance maps (n, 1, ...), and their inputs where these were kept."""
    import torch

    from xaikit.core.errors import InvalidInputError

    rows, maps, inputs = [], [], []
    for sample, row in zip(run, run.rows(), strict=True):
        label = row["target"] if row["label"] is None else row["label"]
        if of_class not in (None, label):
            continue
        if not isinstance(sample.values, torch.Tensor):
            raise InvalidInputError(f"{run.folder} holds attributions of several tensors; shortcuts takes those of one")
        size = sample.values.float().abs()
        rows.append(row)
        # Only one channel is kept of each map, so a run of any length costs no more than its pixels.
        maps.append(size.sum(0, keepdim=True) if size.ndim > 1 else size)
        if pictures and isinstance(sample.inputs, torch.Tensor):
            inputs.append(sample.inputs.float())
    if len(rows) < 3:
        which = "" if of_class is None else f" of class {of_class}"
        raise InvalidInputError(f"clusters need at least 3 samples, {run.folder} holds {len(rows)}{which}")
    return rows, torch.stack(maps), torch.stack(inputs) if len(inputs) == len(rows) else None


def _described(clusters: Clusters, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A cluster: its size, how many predictions in it are right, its samples, most typical first."""
    members = [rows[i] for i in clusters.samples(number)]
    judged = [m for m in members if m["label"] is not None and m["predicted"] is not None]
    right = sum(m["label"] == m["predicted"] for m in judged)
    return {
        "cluster": number,
        "size": len(members),
        "accuracy": right / len(judged) if judged else None,
        "samples": [{"index": m["index"], "name": m["name"]} for m in members],
    }


def _summary(found: dict[str, Any]) -> str:
    lines = [f"{len(found['clusters'])} clusters"]
    for item in found["clusters"]:
        right = "" if item["accuracy"] is None else f", {item['accuracy']:.1%} right"
        typical = ", ".join(s["name"] or f"sample {s['index']}" for s in item["samples"][:3])
        lines.append(f"cluster {item['cluster']}: {item['size']} samples{right}; most typical: {typical}")
    if found["overlap"] is not None:
        o = found["overlap"]
        lines.append(
            f"relevance in {o['mask']}: {o['share']:.1%}, by chance {o['expected']:.1%} (p = {o['p_value']:.2g}); "
            + ", ".join(f"cluster {k} {share:.1%}" for k, share in enumerate(o["share_by_cluster"]))
        )
    return "\n".join(lines)
