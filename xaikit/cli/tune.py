"""`xaikit tune`: the settings of an explainer, or the best of several, searched by one process or many."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from xaikit.tuning import TuneResult

SHOWN = 5  # lines of a table in the summary


def tune(  # noqa: PLR0913, PLR0917 (typer makes a flag of each)
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, or a .npy with samples (N, ...).")],
    model: Annotated[str, typer.Option(help="module:factory, or torchvision:NAME.")],
    weights: Annotated[Path | None, typer.Option(help="The model's weights: .safetensors or .pt.")] = None,
    explainer: Annotated[
        list[str] | None, typer.Option(help="name:key=value; give it again to search among several.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="name:key=value; give it again for several objectives.")
    ] = None,
    weigh: Annotated[str, typer.Option(help="Join the metrics into a sum with these weights: 1,0.5")] = "",
    vary: Annotated[
        list[str] | None, typer.Option(help="What to search: NAME, NAME=a,b,c, or all (baselines too); repeat it.")
    ] = None,
    postprocess: Annotated[bool, typer.Option("--postprocess", help="Search pooling and normalisation too.")] = False,
    target: Annotated[str, typer.Option(help="As for explain, or a .npy with a class for each sample.")] = "",
    trials: Annotated[int, typer.Option(help="Trials to make, by all workers together.")] = 50,
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    storage: Annotated[str, typer.Option(help="sqlite:///FILE, postgresql://..., or a .journal file.")] = "",
    study: Annotated[str, typer.Option(help="Name of the study in the storage.")] = "xaikit",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study, or join it.")] = False,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="median or hyperband: ends bad trials after a batch.")] = "",
    batch_size: Annotated[int, typer.Option(help="Samples in a batch; 0: all in one.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds after which no trial starts; 0: none.")] = 0,
    layer: Annotated[str, typer.Option(help="Explain this layer's output instead of the input.")] = "",
    head: Annotated[str, typer.Option(help="Which output, where the model returns several.")] = "logits",
    out: Annotated[Path, typer.Option(help="Result: .json.")] = Path("tuned.json"),
    figure: Annotated[bool, typer.Option(help="Draw .png files beside the result.")] = True,
    size: Annotated[str, typer.Option(help="Of an image: 224 (centre square) or 240x320 (height x width).")] = "",
    grey: Annotated[bool, typer.Option("--grey", help="Read an image as one grey channel.")] = False,
    mean: Annotated[str, typer.Option(help="As for explain.")] = "",
    std: Annotated[str, typer.Option(help="As for explain.")] = "",
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the search and of every trial's random numbers.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Search the settings of an explainer, or the best of several explainers: writes a result as JSON, and figures.

    Several machines work on one study: run the same command on each, with the same storage and --resume.

    \b
    Examples:
      xaikit tune digits.npy --target labels.npy --model mynet:make --explainer vargrad
      xaikit tune digits.npy --model mynet:make --explainer vargrad --explainer lrp_epsilon_plus --trials 100
      xaikit tune digits.npy --model mynet:make --storage sqlite:///digits.db --workers 4
    """  # noqa: D301 (click reads the backspace: the lines below it stay lines)
    options = dict(locals())  # before anything else has a name here
    from xaikit.cli.workers import Job, run_job

    job = Job.from_options(options)
    _check_out(out)
    result = run_job(job)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = [result.save(out)]
    if figure:
        written += _draw(result, out)
    typer.echo(_summary(result))
    typer.echo(f"wrote {', '.join(map(str, written))}")


def tune_worker(rank: int, until: int) -> None:
    """One of the processes of `xaikit tune --workers`: the job comes on standard input."""
    from xaikit.cli.workers import Job, work

    work(Job.from_json(sys.stdin.read()), rank, until)


def _check_out(out: Path) -> None:
    from xaikit.core.errors import InvalidInputError

    if out.suffix != ".json":
        raise InvalidInputError(f"--out must end in .json, got {out.name!r}")


def _draw(result: TuneResult[Any], out: Path) -> list[Path]:
    """The figures that this result has something for."""
    kinds = ["history"]
    kinds += ["importance"] if sum(row["state"] == "complete" for row in result.trials) > 1 else []
    kinds += ["front"] if len(result.goals) in (2, 3) else []
    paths = [out.with_suffix(f".{kind}.png") for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        result.plot(kind).savefig(path, dpi=120)
    return paths


def _summary(result: TuneResult[Any]) -> str:
    goal = result.goals[0]
    kept = " (the default: no gain beyond noise)" if result.kept_default else ""
    lines = [f"best: {result.best.set_kwargs(model=None)}{kept}"]
    lines += [] if result.postprocess is None else [f"then: {result.postprocess}"]
    interval = result.gain_interval
    spread = (
        "" if interval is None else f" (gain of the best trial: 95 % interval {interval[0]:.3g} to {interval[1]:.3g})"
    )
    lines += [f"{goal.name}: {result.value:.4g}, before {result.default_value:.4g}{spread}"]
    if len(result.goals) > 1:
        lines.append(f"front: {len(result.front)} of {len(result.trials)} trials")
        for candidate in result.front[:SHOWN]:
            values = ", ".join(f"{name} {value:.4g}" for name, value in candidate.values.items())
            lines.append(f"  {values}: {candidate.value.set_kwargs(model=None)}")
    counts = {"failed": result.n_failed, "NaN": result.n_nan, "stopped early": result.n_pruned}
    told = [f"{len(result.trials)} trials", *(f"{n} {word}" for word, n in counts.items() if n)]
    lines.append(
        ", ".join(told) + {"space": "; nothing is left to try", "timeout": "; time was up"}.get(result.stopped, "")
    )
    lines += [f"without any effect: {', '.join(result.dead)}"] if result.dead else []
    reason = next((row["error"] for row in result.trials if row["error"]), None)
    lines += [f"first failure: {reason}"] if reason else []
    return "\n".join(lines)
