"""`xaikit tune`: the settings of an explainer, or the best of several, searched by one process or many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xaikit.cli.job import INTERRUPTED, argument, flag
from xaikit.cli.sources import MaskFields, ModelJob

if TYPE_CHECKING:
    from xaikit.tuning import TuneResult

SHOWN = 5  # lines of a table in the summary


class Tune(MaskFields, ModelJob):
    """Search the settings of an explainer, or the best of several explainers: writes a result as JSON, and figures.

    The samples are those of INPUT (an image or a .npy) or some of a data set (--data); every trial explains all.
    To work on one study with several machines, run the same command on each, with the same --storage and --resume.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl: numbers, texts with --text, time series with --series) or module:dataset. --mask is a picture, an array, a
    folder of these named like the images, or a file of COCO, LabelMe, CVAT or YOLO.

    \b
    Examples:
      xaikit tune digits.npy --target labels.npy --model mynet:make --explainer vargrad
      xaikit tune --data photos/ --target label --limit 20 --model torchvision:resnet18 --weights resnet18.pt
      xaikit tune digits.npy --model mynet:make --explainer vargrad --explainer lrp_epsilon_plus --trials 100
      xaikit tune digits.npy --model mynet:make --storage sqlite:///digits.db --workers 4
    """  # noqa: D301 (click reads the backspace: the lines below it stay lines)

    VERB = "tune"

    source: Path | None = argument(None, metavar="INPUT", help="An image, or a .npy with samples (N, ...).")
    explainer: tuple[str, ...] = flag(
        ("integrated_gradients",), help="An explainer, name:key=value; repeat it to search among several."
    )
    metric: tuple[str, ...] = flag(("abpc",), help="A metric, name:key=value; repeat it for several objectives.")
    weigh: str = flag("", help="Weights that add the metrics up to one objective: 1,0.5")
    vary: tuple[str, ...] = flag((), help="A setting to search: NAME, NAME=a,b,c, or all; may be repeated.")
    postprocess: bool = flag(False, help="Search pooling and normalisation as well.")
    target: str = flag("", help="As for explain; of INPUT also one class for each sample: 3,1,2, or a .npy.")
    limit: int = flag(100, help="Use at most so many samples of --data, evenly spread; 0: all.")
    trials: int = flag(50, help="Number of trials of all workers together.")
    workers: int = flag(1, help="Number of processes on this machine.")
    storage: str = flag("", help="sqlite:///FILE, postgresql://..., or a .journal file.")
    study: str = flag("xaikit", help="Name of the study in the storage.")
    resume: bool = flag(False, help="Continue the study in the storage, or join it.")
    sampler: str = flag("tpe", help="tpe, random or grid.")
    pruner: str = flag("", help="median or hyperband: stops bad trials after some batches.")
    batch_size: int = flag(0, help="Samples in a batch; 0: all in one batch.")
    timeout: float = flag(0, help="Seconds after which no new trial starts; 0: no limit.")
    out: Path = flag(Path("tuned.json"), help="Where the result is saved: .json.")
    figure: bool = flag(True, help="Draw figures (.png) beside the result.")
    seed: int = flag(0, help="Seed of the search and of all trials.")

    def run(self) -> int:
        """Search, write, draw, tell."""
        from xaikit.cli.options import check_out
        from xaikit.cli.workers import run_job

        check_out(self.out, ".json")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        result, skipped = run_job(self)
        try:
            written = [result.save(self.out)]
        except OSError:  # if the disk is full, the result is still printed
            self.tell(_summary(result), **_plain(result))
            raise
        if self.figure:
            written += _draw(result, self.out)
        text = f"{_summary(result)}\nwrote {', '.join(map(str, written))}"
        self.tell(text, **_plain(result), written=[str(path) for path in written])
        # What was left out must not look like success to a script.
        if result.stopped == "interrupted":
            typer.echo(f"xaikit: interrupted; {self.how_to_go_on()}", err=True)
            return INTERRUPTED
        return 1 if skipped else 0

    def how_to_go_on(self) -> str:
        """A study in a storage stays."""
        if self.storage:
            return f"the trials are in {self.storage}; the same command with --resume goes on"
        return "without --storage the trials are not kept, so a search starts again"


def tune_worker(rank: int, until: int) -> None:
    """One of the processes of `xaikit tune --workers`: the job comes on standard input."""
    from xaikit.cli.workers import work

    work(Tune.model_validate_json(sys.stdin.read()), rank, until)


def _draw(result: TuneResult[Any], out: Path) -> list[Path]:
    """Write the figures for which the result has data."""
    kinds = ["history"]
    values = {row["value"] for row in result.trials if row["state"] == "complete"}
    kinds += ["importance"] if len(values) > 1 else []
    kinds += ["front"] if len(result.goals) in (2, 3) else []
    paths = [out.with_suffix(f".{kind}.png") for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        result.plot(kind).savefig(path, dpi=120)
    return paths


def _plain(result: TuneResult[Any]) -> dict[str, Any]:
    """The result as plain values, with the number of trials instead of the trials."""
    summary = {k: v for k, v in result.to_dict().items() if k not in ("trials", "space")}
    return {**summary, "trials": len(result.trials)}


def _summary(result: TuneResult[Any]) -> str:
    goal = result.goals[0]
    note = " (the default: no gain beyond noise)" if result.kept_default else ""
    lines = [f"best: {result.best.set_kwargs(model=None)}{note}"]
    lines += [] if result.postprocess is None else [f"then: {result.postprocess}"]
    interval = result.gain_interval
    spread = (
        ""
        if interval is None
        else f" (gain of the best trial: 95 % interval {interval.low:.3g} to {interval.high:.3g})"
    )
    lines += [f"{goal.name}: {result.value:.4g}, before {result.default_value:.4g}{spread}"]
    if len(result.goals) > 1:
        lines.append(f"front: {len(result.front)} of {len(result.trials)} trials")
        for candidate in result.front[:SHOWN]:
            values = ", ".join(f"{name} {value:.4g}" for name, value in candidate.values.items())
            lines.append(f"  {values}: {candidate.value.set_kwargs(model=None)}")
    counts = {"failed": result.n_failed, "NaN": result.n_nan, "stopped early": result.n_pruned}
    counts_text = [f"{len(result.trials)} trials", *(f"{n} {word}" for word, n in counts.items() if n)]
    lines.append(
        ", ".join(counts_text)
        + {"exhausted": "; nothing is left to try", "out_of_time": "; time was up"}.get(result.stopped, "")
    )
    lines += [f"without any effect: {', '.join(result.inactive_settings)}"] if result.inactive_settings else []
    reason = next((row["error"] for row in result.trials if row["error"]), None)
    lines += [f"first failure: {reason}"] if reason else []
    return "\n".join(lines)
