"""`xaikit assess` and `xaikit compare`: whether models rely on a shortcut, without training them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import flag
from xaikit.cli.judging import RELIES_CODE, ShortcutFields, finite
from xaikit.cli.run_match import RunMatchFields

if TYPE_CHECKING:
    from torch import nn

    from xaikit.mitigation import Assessment


class Judging(ShortcutFields):
    """What both verbs share."""

    explainer: tuple[str, ...] = flag((), help="Explainer that measures relevance in the mask; may be repeated.")
    out: Path | None = flag(None, help="Where the measures are saved: .json.")
    fail_if_relies: bool = flag(False, help="Exit code 3 if a model relies on the shortcut.")

    def assessed(self, model: nn.Module) -> tuple[Assessment, bool]:
        """The model on the data, and whether samples were skipped."""
        from xaikit.cli.options import run_model
        from xaikit.cli.stream import tell_skipped, triple
        from xaikit.core import EXPLAINERS
        from xaikit.mitigation import assess

        data, stream, classes = self.judged(model)
        view = self.with_embedding_layer(model, stream.first).view()
        run_model(model, next(iter(stream)).inputs, view["head"])  # one that does not take such samples says so now
        panels = [EXPLAINERS.create(text) for text in self.explainer]
        panels = [e if e.layer else e.set_kwargs(**view) for e in panels]
        options = self.assess_options(data, classes)
        return assess(model, stream.map(triple), explainers=panels, **options), bool(tell_skipped(stream))

    def check_call(self) -> None:
        """Refuse what cannot be right before anything is computed."""
        from xaikit.cli.options import check_out

        if self.out is not None:
            check_out(self.out, ".json")
        self.check_shortcut()

    def write(self, content: dict[str, Any]) -> str:
        """Save the measures where that was asked for; the end of the text."""
        import json

        from xaikit.core.files import write_whole

        if self.out is None:
            return ""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.out, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
        return f"\nwrote {self.out}"


class Assess(RunMatchFields, Judging):
    """Say whether a model relies on a shortcut: its accuracy with the shortcut kept, exchanged and removed.

    --mask or --mask-names say where the shortcut is; --factor names something that can be exchanged between samples,
    see xaikit list factors. Nothing is trained. With --fail-if-relies the exit code is 3 where more than a tenth of the
    predictions change when the shortcut is exchanged, for scripts.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl) or module:dataset. --mask is a picture, an array, a folder of these named like the images, or a file of
    COCO, LabelMe, CVAT or YOLO.

    \b
    Examples:
      xaikit assess --data test.npz --model mynet:make --weights w.pt --mask corner.png
      xaikit assess --data test.npz --model mynet:make --weights w.pt --factor corner:size=3 --out assessed.json
    """  # noqa: D301

    VERB = "assess"

    def run(self) -> int:
        """Load, measure, tell."""
        self.check_call()
        model = self.loaded()
        self.check_run(model, self.data)
        result, skipped = self.assessed(model)
        content = {"assessment": result.to_dict(), "verdict": result.verdict, "relies": result.relies}
        text = f"{result}{self.write(content)}"
        self.tell(text, **finite(content), written=[str(self.out)] if self.out else [])
        if self.fail_if_relies and result.relies:
            return RELIES_CODE
        return 1 if skipped else 0


class Compare(Judging):
    """Compare the weights of one model by how far they rely on a shortcut, side by side, without training.

    --weights is repeated, each time with a name: --weights before=w.pt --weights after=mended.pt. Several files with
    one name are seeds of one training; the table then has intervals.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl) or module:dataset. --mask is a picture, an array, a folder of these named like the images, or a file of
    COCO, LabelMe, CVAT or YOLO.

    \b
    Examples:
      xaikit compare --data test.npz --model mynet:make --weights old=w.pt --weights new=mended.pt --mask corner.png
    """  # noqa: D301

    VERB = "compare"

    weights: tuple[str, ...] = flag((), help="NAME=FILE with the model's weights; repeat it.")  # type: ignore[assignment]

    def run(self) -> int:
        """Load and measure each, tell them side by side."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.core.files import check_is_file
        from xaikit.mitigation import compare

        self.check_call()
        if len(self.weights) < 2:
            raise InvalidInputError(f"compare needs --weights NAME=FILE at least twice, got {len(self.weights)}")
        weight_files = [_named(text) for text in self.weights]
        for _, path in weight_files:
            check_is_file(path)  # before the first is measured
        results: dict[str, list[Any]] = {}
        skipped = False
        for name, path in weight_files:
            result, some = self.assessed(self.loaded_from(path))
            results.setdefault(name, []).append(result)
            skipped = skipped or some
        compared = compare(results)
        relying = [name for name, parts in results.items() if any(part.relies for part in parts)]
        verdicts = {name: [part.verdict for part in parts] for name, parts in results.items()}
        content = {"comparison": compared.to_dict(), "verdicts": verdicts, "relying": relying}
        lines = "\n".join(f"{name}: {text}" for name, texts in verdicts.items() for text in texts)
        written = [str(self.out)] if self.out else []
        self.tell(f"{lines}\n{compared}{self.write(content)}", **finite(content), written=written)
        if self.fail_if_relies and relying:
            return RELIES_CODE
        return 1 if skipped else 0

    def loaded_from(self, path: Path) -> nn.Module:
        """The model with some weights, on its device."""
        from xaikit.cli.models import load_model
        from xaikit.cli.options import device_of

        return load_model(self.model, path).to(device_of(self.device))


def _named(text: str) -> tuple[str, Path]:
    from xaikit.core.errors import InvalidInputError

    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InvalidInputError(f"--weights of compare reads NAME=FILE, such as after=mended.pt, got {text!r}")
    return name, Path(path)
