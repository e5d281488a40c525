"""`xaikit evaluate`: explainers by metrics over a data set, as a table with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xaikit.cli.job import INTERRUPTED, flag
from xaikit.cli.sources import TARGET_HELP, MaskFields, ModelJob

if TYPE_CHECKING:
    from torch import nn

    from xaikit.cli.stream import MaskedBatch


class Evaluate(MaskFields, ModelJob):
    """Measure explainers by metrics on a data set: prints a table with intervals and saves it as JSON.

    xaikit report --evaluation shows the saved table. If an explainer or a metric fails, the table holds the reason, the
    others are measured all the same, and the exit code is 1.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl: numbers, texts with --text, time series with --series) or module:dataset. --mask is a picture, an array, a
    folder of these named like the images, or a file of COCO, LabelMe, CVAT or YOLO.

    \b
    Examples:
      xaikit evaluate --data digits.npz --model mynet:make --explainer vargrad --explainer lrp_epsilon_plus
      xaikit evaluate --data photos/ --model torchvision:resnet18 --weights resnet18.pt --metric abpc --limit 50
      xaikit evaluate --data skin/ --model skinnet:make --target label --metric relevance_mass --mask rulers/
    """  # noqa: D301 (click reads the backspace: the lines below it stay lines)

    VERB = "evaluate"

    explainer: tuple[str, ...] = flag(("integrated_gradients",), help="An explainer, name:key=value; may be repeated.")
    metric: tuple[str, ...] = flag(("abpc",), help="A metric, name:key=value; may be repeated.")
    target: str = flag("", help=TARGET_HELP)
    postprocess: str = flag("", help="Postprocessor of each attribution: name:key=value.")
    out: Path = flag(Path("table.json"), help="Where the table is saved: .json.")
    batch_size: int = flag(32, help="Samples in one pass through the model.")
    limit: int = flag(0, help="Use at most so many samples, evenly spread over the data; 0: all.")
    confidence: float = flag(0.95, help="Confidence of the intervals.")
    seed: int = flag(0, help="Seed of all random numbers.")

    def run(self) -> int:
        """Measure, print, save."""
        from xaikit.cli.options import check_masked, check_out, check_unique
        from xaikit.cli.stream import Stream, tell_skipped
        from xaikit.core import EXPLAINERS, METRICS, POSTPROCESSORS
        from xaikit.metrics import evaluate

        check_out(self.out, ".json")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        # Checked before a large model is loaded.
        for names, registry, option in (
            (self.explainer, EXPLAINERS, "--explainer"),
            (self.metric, METRICS, "--metric"),
        ):
            check_unique(names, option)
            for name in names:
                registry.create(name)
        after = POSTPROCESSORS.create(self.postprocess) if self.postprocess else None
        data = self.samples(self.model)
        masks = self.masks(data)
        check_masked(self.metric, masks)
        model = self.loaded()
        data = self.fit_labels(data, model, needed=self.target == "label")
        samples = Stream(data, masks, batch_size=self.batch_size, limit=self.limit)
        target = self.checked_target(self.target, data, model, samples.first)
        with_layer = self.with_embedding_layer(model, samples.first)
        table = evaluate(
            {name: with_layer.bound(name, model) for name in self.explainer},
            list(self.metric),
            samples.map(lambda batch: self._metric_batch(batch, target, model)),
            postprocess=after,
            confidence=self.confidence,
            seed=self.seed,
            progress=not self.quiet,
        )
        skipped = tell_skipped(samples)
        try:
            table.save(self.out)
        except OSError:  # if the disk is full, the numbers are still printed
            self.tell(str(table), **table.to_dict())
            raise
        rows = [{k: v for k, v in row.items() if k != "values"} for row in table.to_dict()["rows"]]
        counts = {"samples": len(samples) - skipped, "skipped": skipped}
        self.tell(f"{table}\nwrote {self.out}", rows=rows, **counts, written=[str(self.out)])
        if table.stopped == "interrupted":
            typer.echo(f"xaikit: interrupted; {self.out} holds what was measured until then", err=True)
            return INTERRUPTED
        failed = any(row.error for row in table)
        # What was left out must not look like success to a script.
        return 1 if failed or skipped else 0

    def _metric_batch(self, batch: MaskedBatch, target: Any, model: nn.Module) -> tuple[Any, ...]:
        """A batch as the metrics take it."""
        from xaikit.cli.targets import targets_for

        targets = targets_for(target, batch.inputs, batch.labels, model, self.view()["head"])
        return (batch.inputs, targets) if batch.masks is None else (batch.inputs, targets, batch.masks)
