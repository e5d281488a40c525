"""`xaikit explain`: the attribution of one image, or of the samples in an array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from xaikit.core import Attribution

SHOWN = 10  # samples in the summary


def explain(  # noqa: PLR0913, PLR0917 (typer makes a flag of each)
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, or a .npy with samples (N, ...).")],
    model: Annotated[str, typer.Option(help="module:factory, or torchvision:NAME.")],
    weights: Annotated[Path | None, typer.Option(help="The model's weights: .safetensors or .pt.")] = None,
    explainer: Annotated[str, typer.Option(help="name:key=value,key=value; see xaikit list.")] = "integrated_gradients",
    target: Annotated[str, typer.Option(help="Class, or one class per sample: 3 or 3,1,2. Else the predicted.")] = "",
    layer: Annotated[str | None, typer.Option(help="Explain this layer's output instead of the input.")] = None,
    head: Annotated[str, typer.Option(help="Which output, where the model returns several.")] = "logits",
    out: Annotated[Path | None, typer.Option(help="Result: .npz or .safetensors. Else INPUT.EXPLAINER.npz.")] = None,
    figure: Annotated[bool, typer.Option(help="Draw a .png beside the result.")] = True,
    size: Annotated[str, typer.Option(help="Of an image: 224 (centre square) or 240x320 (height x width).")] = "",
    grey: Annotated[bool, typer.Option("--grey", help="Read an image as one grey channel.")] = False,
    mean: Annotated[
        str, typer.Option(help="Subtracted from pixels in 0..1: one number per channel, or 'imagenet'.")
    ] = "",
    std: Annotated[str, typer.Option(help="Divides the pixels after that: likewise.")] = "",
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, ...")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the explainer's random numbers.")] = 0,
) -> None:
    """Explain a model's decision: writes the attribution and a picture of it.

    torchvision's models get 224 pixels and ImageNet's mean and std unless told otherwise.

    \b
    Examples:
      xaikit explain cat.jpg --model torchvision:resnet18 --weights resnet18.pt
      xaikit explain cat.jpg --model torchvision:resnet18 --explainer vargrad:n_iter=50
      xaikit explain digit.png --model mynet:make --grey --size 28 --target 3
    """  # noqa: D301 (click reads the backspace: the lines below it stay lines)
    from xaikit.cli.inputs import read_batch
    from xaikit.cli.models import load_model
    from xaikit.cli.options import device_of, numbers, preparation, targets_of
    from xaikit.core import EXPLAINERS

    made = EXPLAINERS.create(explainer)
    target_list = numbers(target, int, "--target")
    result = _result_path(out, source, made.NAME)
    inputs, picture = read_batch(source, preparation(model, size, grey, mean, std))
    where = device_of(device)
    net, inputs = load_model(model, weights).to(where), inputs.to(where)
    bound = made.set_kwargs(
        model=net, head=int(head) if head.isdecimal() else head, **({"layer": layer} if layer else {})
    )
    targets = targets_of(target_list, net, inputs, bound.head)
    attribution = bound.explain(inputs, targets, seed=seed)
    result.parent.mkdir(parents=True, exist_ok=True)
    written = [attribution.save(result)]
    if figure:
        written += _draw(attribution, picture, result.with_suffix(".png"))
    typer.echo(_summary(attribution))
    typer.echo(f"wrote {', '.join(map(str, written))}")


def _result_path(out: Path | None, source: Path, explainer: str) -> Path:
    from xaikit.core.errors import InvalidInputError

    result = Path(f"{source.stem}.{explainer}.npz") if out is None else out
    if result.suffix not in (".npz", ".safetensors"):
        raise InvalidInputError(f"--out must end in .npz or .safetensors, got {result.name!r}")
    return result


def _draw(attribution: Attribution, picture: Tensor, path: Path) -> list[Path]:
    """The figure, where there is a way to draw such a shape."""
    from xaikit.report.figures import KINDS

    values = attribution.values
    if values.ndim not in KINDS:
        typer.echo(f"xaikit: note: no figure for an attribution of shape {tuple(values.shape)}", err=True)
        return []
    attribution.plot(picture if picture.ndim == values.ndim else None).savefig(path, dpi=120)
    return [path]


def _summary(attribution: Attribution) -> str:
    targets = attribution.targets
    scores = [] if attribution.scores is None else attribution.scores.tolist()
    gaps = None if attribution.gap is None else attribution.gap.tolist()
    lines = []
    for i, score in enumerate(scores[:SHOWN]):
        target = targets[i] if isinstance(targets, list) else targets
        words = [f"sample {i}:"] if len(scores) > 1 else []
        words += [] if target is None else [f"class {target},"]
        words += [f"score {score:.4g}"]
        words += [] if gaps is None else [f"(the sum of the attribution misses it by {gaps[i]:.2g})"]
        lines.append(" ".join(words))
    return "\n".join([*lines, *([f"and {len(scores) - SHOWN} more samples"] if len(scores) > SHOWN else [])])
