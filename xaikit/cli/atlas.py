"""`xaikit atlas`: what the channels of a layer stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import flag
from xaikit.cli.sources import TARGET_HELP, DataFields, ModelJob

if TYPE_CHECKING:
    from torch import nn

    from xaikit.shortcuts import ConceptAtlas


class MakeAtlas(DataFields, ModelJob):
    """Show what a layer has learnt: its strongest channels, each with the pictures in which it counts most.

    For each channel of the layer the relevance for the score is computed (LRP). Shown are the channels that scores rest
    on most, and for each the crops of the samples in which it has most relevance: a concept atlas. Saves it as .npz
    and, beside it, a figure; xaikit report --atlas shows it on a page.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz) or module:dataset.

    \b
    Examples:
      xaikit atlas --data digits.npz --model mynet:make --weights w.pt
      xaikit atlas --data photos/ --model torchvision:resnet18 --weights resnet18.pt --layer layer4 --channels 12
    """  # noqa: D301

    VERB = "atlas"

    layer: str = flag("", help="The layer whose channels are shown. Default: the last convolution.")
    explainer: str = flag("lrp_epsilon_plus", help="An explainer by LRP, name:key=value.")
    target: str = flag("", help=TARGET_HELP)
    channels: int = flag(8, help="How many channels are shown.")
    crops: int = flag(6, help="How many samples are shown for each channel.")
    crop: float = flag(0.5, help="Side of a crop, as a part of the picture's shorter side.")
    out: Path = flag(Path("atlas.npz"), help="Where the atlas is saved: .npz; the figure lies beside it, .png.")
    figure: bool = flag(True, help="Draw the figure.")
    batch_size: int = flag(32, help="Samples in one pass through the model.")
    limit: int = flag(0, help="Use at most so many samples, evenly spread over the data; 0: all.")

    def run(self) -> int:
        """Load, rank the channels, save."""
        import torch

        from xaikit.cli.options import check_out
        from xaikit.cli.stream import Stream, tell_skipped
        from xaikit.cli.targets import targets_for
        from xaikit.core import EXPLAINERS, Float, Int
        from xaikit.core.errors import InvalidInputError
        from xaikit.explainers.lrp.engine import ZennitLRP
        from xaikit.shortcuts import concept_atlas

        check_out(self.out, ".npz")
        Int(ge=1).check(self.channels, "--channels")
        Int(ge=1).check(self.crops, "--crops")
        Float(gt=0, le=1).check(self.crop, "--crop")
        explainer: Any = EXPLAINERS.create(self.explainer)
        if not isinstance(explainer, ZennitLRP):
            raise InvalidInputError(
                f"a concept atlas needs LRP, such as --explainer lrp_epsilon_plus or attn_lrp, got {self.explainer!r}"
            )
        model, head = self.loaded(), self.view()["head"]
        layer = self.layer or _last_convolution(model)
        data = self.fit_labels(self.samples(self.model), model, needed=self.target == "label")
        samples = Stream(data, batch_size=self.batch_size, limit=self.limit)
        target = self.checked_target(self.target, data, model, samples.first)
        atlas = concept_atlas(
            explainer.set_kwargs(model=model, head=head),
            samples.map(lambda b: (b.inputs, targets_for(target, b.inputs, b.labels, model, head))),
            layer=layer,
            n_channels=self.channels,
            n_samples=self.crops,
            crop=self.crop,
            progress=not self.quiet,
        )
        skipped = tell_skipped(samples)
        atlas = dataclasses.replace(atlas, samples=torch.tensor(samples.read)[atlas.samples])
        written = self._write(atlas)
        names = list(getattr(data, "classes", ()))
        text = "\n".join([*_lines(atlas, names), f"wrote {', '.join(map(str, written))}"])
        channels = [
            {"channel": channel, "share": share, "samples": atlas.samples[k].tolist()}
            for k, (channel, share) in enumerate(zip(atlas.channels, atlas.shares, strict=True))
        ]
        self.tell(text, layer=layer, channels=channels, skipped=skipped, written=[str(path) for path in written])
        return 1 if skipped else 0

    def _write(self, atlas: ConceptAtlas) -> list[Path]:
        """The atlas and the figure."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        written = [atlas.save(self.out)]
        if self.figure:
            path = self.out.with_suffix(".png")
            atlas.plot().savefig(path, dpi=120)
            written.append(path)
        return written


def _lines(atlas: ConceptAtlas, names: list[str]) -> list[str]:
    """A line for each channel: its share, and the classes and numbers of its samples."""
    lines = [f"layer {atlas.layer}: the channels that scores rest on most, and the samples that show each"]
    for k, (channel, share) in enumerate(zip(atlas.channels, atlas.shares, strict=True)):
        classes = [int(c) for c in atlas.classes[k].unique().tolist() if c >= 0]
        class_text = ", ".join(names[c] if c < len(names) else str(c) for c in classes)
        numbers = ", ".join(map(str, atlas.samples[k].tolist()))
        lines.append(
            f"channel {channel} ({100 * share:.1f} %): samples {numbers}{f'; class {class_text}' if class_text else ''}"
        )
    return lines


def _last_convolution(model: nn.Module) -> str:
    """The name of a model's last convolution."""
    from torch import nn

    from xaikit.core.errors import InvalidInputError

    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise InvalidInputError("--layer is missing, and the model has no convolution; name the layer to look at")
    return names[-1]
