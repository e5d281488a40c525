"""`xaikit scan`: which factors of the data a model follows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.factor_facts import CHANNEL_AXIS_HELP
from xaikit.cli.job import flag
from xaikit.cli.run_match import RunMatchFields
from xaikit.cli.sources import MaskFields

if TYPE_CHECKING:
    from xaikit.shortcuts import Scan

FEWEST = 5  # factors that the printed table has at least
SMALL = 0.02  # share of predictions that follow a factor at the end of the table, at most
SUSPECT_CODE = 3  # exit code of --fail-if-suspect


class FactorScan(RunMatchFields, MaskFields):
    """Find what a model follows: exchanges corners, hue, words, columns and other factors between samples, and counts.

    A factor that should not matter and is followed by more than a tenth of the predictions is a suspect. What may
    matter is listed for you to judge. No mask and no explanation are needed; the data must have labels. Which factors
    are exchanged goes by the kind of the data; --factor names others, see xaikit list factors. Saves the table as JSON
    and, beside it, a figure with exchanged samples.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl) or module:dataset. --mask is a picture, an array or a folder of these named like the images, for the factor
    region.

    \b
    Examples:
      xaikit scan --data test.npz --model mynet:make --weights w.pt
      xaikit scan --data photos/ --model torchvision:resnet18 --weights resnet18.pt --factor hue --limit 500
      xaikit scan --data people.csv --labels outcome --model people:make --fail-if-suspect
    """  # noqa: D301

    VERB = "scan"

    mask: Path | None = flag(
        None,
        help="Where the factor region is: .png, .npy, a folder named like the images, COCO, LabelMe, CVAT or YOLO.",
    )
    factor: tuple[str, ...] = flag((), help="A factor, name:key=value; may be repeated. Default: by the data.")
    out: Path = flag(Path("scan.json"), help="Where the table is saved: .json; the figure lies beside it, .png.")
    figure: bool = flag(True, help="Draw the figure.")
    batch_size: int = flag(64, help="Samples in one pass through the model.")
    limit: int = flag(0, help="Use at most so many samples, evenly spread over the data; 0: all.")
    channel_axis: int | None = flag(None, help=CHANNEL_AXIS_HELP)
    seed: int = flag(0, help="Seed of the pairing with donors.")
    fail_if_suspect: bool = flag(False, help="Exit code 3 if there is a suspect.")

    def run(self) -> int:
        """Load, exchange, tell, save."""
        from xaikit.cli.factor_facts import factor_facts
        from xaikit.cli.options import check_has_labels, check_out
        from xaikit.cli.stream import Stream, tell_skipped, triple
        from xaikit.core import FACTORS, Int
        from xaikit.shortcuts import scan

        check_out(self.out, ".json")
        Int(ge=0).check(self.seed, "--seed")
        factors = [FACTORS.create(text) for text in self.factor]  # before a large model is loaded
        model = self.loaded()
        self.check_run(model, self.data)
        data = self.fit_labels(self.samples(self.model), model, needed=True)
        check_has_labels(data, "--data")
        samples = Stream(data, self.masks(data), batch_size=self.batch_size, limit=self.limit)
        result = scan(
            model,
            samples.map(triple),
            factors or None,
            facts=factor_facts(self, data),
            head=self.view()["head"],
            seed=self.seed,
            progress=not self.quiet,
        )
        result = dataclasses.replace(_numbered(result, samples.read), model=self._model_name)
        skipped = tell_skipped(samples)
        written = self._write(result)
        names = _class_names(data, result)
        text = "\n".join([result.conclusion(names), *_rows(result, names), f"wrote {', '.join(map(str, written))}"])
        content = {"verdict": result.conclusion(names), "suspects": [e.title for e in result.suspects]}
        self.tell(text, **content, scan=result.to_dict(), skipped=skipped, written=[str(path) for path in written])
        if self.fail_if_suspect and result.suspects:
            return SUSPECT_CODE
        return 1 if skipped else 0

    @property
    def _model_name(self) -> str:
        """What tells it from others on a page: the file of its weights, else how it is made."""
        return self.weights.name if self.weights is not None else self.model

    def _write(self, result: Scan) -> list[Path]:
        """The table and the figure."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        written = [result.save(self.out)]
        if self.figure:
            path = self.out.with_suffix(".png")
            result.plot().savefig(path, dpi=120)
            written.append(path)
        return written


def _numbered(result: Scan, indices: list[int]) -> Scan:
    """The scan with its samples numbered as in the data, of which it may have read some only."""
    effects = [
        dataclasses.replace(e, changed_samples=tuple(indices[i] for i in e.changed_samples)) for e in result.effects
    ]
    return dataclasses.replace(result, effects=tuple(effects))


def _rows(result: Scan, names: list[str]) -> list[str]:
    """The table without its end, where nothing happens."""
    moving = [i for i, e in enumerate(result.effects, 1) if e.is_suspect or e.follows.mean >= SMALL]
    most = max([FEWEST, *moving])
    n_folded = len(result.effects) - most
    return [
        *result.table(names, most),
        *([f"and {n_folded} more, which less than 2 % of predictions follow"] if n_folded > 0 else []),
    ]


def _class_names(data: Any, result: Scan) -> list[str]:
    """The names of the classes by number; a number where one has no name."""
    names = list(getattr(data, "classes", ()))
    most = max((max(e.leading_class, e.worst_class) for e in result.effects), default=0)
    return [names[i] if i < len(names) else str(i) for i in range(most + 1)]
