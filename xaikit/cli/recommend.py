"""`xaikit recommend`: which explainers suit a model, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xaikit.cli.job import flag
from xaikit.cli.sources import TARGET_HELP, DataFields, ModelJob


class Recommend(DataFields, ModelJob):
    """Say what a model is made of and which explainers suit it, ranked, with reasons.

    With --data, every suitable method is also measured on a few samples.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl: numbers, texts with --text, time series with --series) or module:dataset.

    \b
    Examples:
      xaikit recommend --model torchvision:resnet18 --modality image
      xaikit recommend --model mynet:make --data digits.npz --seconds 20 --out recommended.json
      xaikit recommend --model people:make --modality tabular --differentiable
    """  # noqa: D301

    VERB = "recommend"

    modality: str = flag("", help="image, text, time_series or tabular. Default: by the form of the data.")
    differentiable: bool = flag(False, help="Only methods with exact derivatives, which a training loss can use.")
    explainer: tuple[str, ...] = flag((), help="Consider only this explainer; may be repeated.")
    metric: str = flag("abpc", help="With --data: the metric that measures them.")
    n_samples: int = flag(8, help="With --data: number of samples to measure on.")
    seconds: float = flag(60.0, help="With --data: time limit of the measuring.")
    target: str = flag("", help=TARGET_HELP)
    out: Path | None = flag(None, help="Where the result is saved: .json, for xaikit report --profile.")

    def run(self) -> int:
        """Print and save the recommendation; return 1 if no explainer suits."""
        import json

        from xaikit.cli.options import check_out
        from xaikit.cli.stream import Stream, tell_skipped
        from xaikit.core import Int
        from xaikit.core.files import write_whole
        from xaikit.recommendation import recommend

        if self.out is not None:
            check_out(self.out, ".json")
            self.out.parent.mkdir(parents=True, exist_ok=True)
        Int(ge=1).check(self.n_samples, "--n-samples")
        data = self.samples(self.model) if self.data else None
        model = self.loaded()
        data = self.fit_labels(data, model, needed=self.target == "label")
        samples = None if data is None else Stream(data, limit=self.n_samples)
        sample = None if samples is None else samples.whole()
        skipped = 0 if samples is None else tell_skipped(samples)
        job = self if samples is None else self.with_embedding_layer(model, samples.first)
        result = recommend(
            model,
            self.modality or None,
            None if sample is None else self._pair(sample, data, model),
            self.differentiable or None,
            explainers=list(self.explainer) or None,
            metric=self.metric,
            n_samples=self.n_samples,
            seconds=self.seconds,
            **job.view(),
        )
        if self.out is not None:
            write_whole(self.out, result.to_json() + "\n")
        written = f"\nwrote {self.out}" if self.out else ""
        self.tell(f"{result!r}{written}", **json.loads(result.to_json()))
        suits = any(item.suitable for item in result.candidates)
        return 0 if suits and not skipped else 1

    def _pair(self, samples: Any, data: Any, model: Any) -> Any:
        """The samples with their targets; None for a model with a single output."""
        from xaikit.cli.targets import targets_for

        target = self.checked_target(self.target, data, model, samples.inputs)
        return samples.inputs, targets_for(target, samples.inputs, samples.labels, model, self.view()["head"])
