"""`xaikit mend`: train a model so that it does not rely on a shortcut, by the method that works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from xaikit.cli.factor_facts import factor_facts
from xaikit.cli.flags import in_flags
from xaikit.cli.groups import read_groups
from xaikit.cli.job import INTERRUPTED, flag
from xaikit.cli.judging import RELIES_CODE, ShortcutFields, finite
from xaikit.cli.run_match import RunMatchFields


class Mend(RunMatchFields, ShortcutFields):
    """Mend a model that relies on a shortcut: try the methods that suit it, keep the best, say what came of it.

    --mask or --mask-names say where the shortcut is; --factor names something that can be exchanged between samples,
    see xaikit list factors. The methods are tried from the cheapest until one works, and chosen on held-out samples:
    --validation, else a fifth of --data. The same command goes on where it was interrupted. The samples are held in
    memory. Where the group of each sample is known (its class together with its shortcut), --groups says it: group
    methods are tried as well, and the worst group counts. Then no shortcut need be named.

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl) or module:dataset. --mask is a picture, an array, a folder of these named like the images, or a file of
    COCO, LabelMe, CVAT or YOLO.

    \b
    Examples:
      xaikit mend --data digits.npz --model mynet:make --weights w.pt --mask corner.png --out mended.pt
      xaikit mend --data digits.npz --model mynet:make --weights w.pt --factor corner:size=3 --budget "10 min"
    """  # noqa: D301

    VERB = "mend"

    validation: str = flag("", help="Held-out samples, in any form of --data. Default: a fifth of --data.")
    groups: str = flag("", help="Groups of the samples: a column of a table, or a file (.npy, .txt, .csv). See below.")
    validation_groups: str = flag("", help="Those of --validation, if they are in a file.")
    method: tuple[str, ...] = flag((), help="A mitigator to try instead, name:key=value; may be repeated.")
    from_scratch: bool = flag(False, help="Draw the weights anew instead of going on with those of the model.")
    budget: str = flag("", help="What may be spent: a number of trainings (2) or a time ('10 min'). Default: all.")
    max_loss: float = flag(0.02, help="Accuracy with the shortcut kept that may be lost, a fraction.")
    epochs: int = flag(0, help="Epochs of each training at most. Default: by the number of samples.")
    out: Path = flag(Path("mended.pt"), help="Where the weights are saved: .pt (a state dict).")
    assessment: Path | None = flag(None, help="Tries, measures and verdict: .json. Default: the name of --out.")
    folder: Path | None = flag(None, help="Where tries are kept until the end. Default: OUT.tries.")
    fail_if_relies: bool = flag(False, help="Exit code 3 if the model still relies on the shortcut, or collapsed.")

    def run(self) -> int:
        """Load, try, choose, write."""
        import json
        import shutil

        from xaikit.cli.options import check_out
        from xaikit.cli.stream import tell_skipped
        from xaikit.core import MITIGATORS, Int
        from xaikit.core.errors import InvalidInputError
        from xaikit.core.files import write_whole
        from xaikit.mitigation import mend

        check_out(self.out, ".pt")
        table = self.assessment or self.out.with_suffix(".json")
        if table.suffix != ".json":
            raise InvalidInputError(f"--assessment must end in .json, got {table.name!r}")
        Int(ge=0).check(self.epochs, "--epochs")
        for method in self.method:
            MITIGATORS.create(method)  # before a large model is loaded, and a folder made
        if not self._by_groups_alone:
            self.check_shortcut()
        model = self.loaded()
        self.check_run(model, self.validation or self.data)
        data, stream, classes = self.judged(model)
        streams = [stream]
        if self.validation:
            job = self.model_copy(update={"data": self.validation})
            streams.append(job.judged(model, like=data)[1])
        samples = [_whole(s, option) for s, option in zip(streams, ("--data", "--validation"), strict=False)]
        result = mend(
            model,
            samples[0],
            None if self._by_groups_alone else self.named_factor or "region",
            groups=read_groups(self.groups, self.data) if self.groups else None,
            validation_groups=self._read_validation_groups(),
            validation=samples[1] if self.validation else None,
            from_scratch=self.from_scratch,
            methods=list(self.method) or None,
            budget=self.budget or None,
            max_loss=self.max_loss,
            n_epochs=self.epochs or None,
            facts=factor_facts(self, data) if self.factor else None,
            folder=self._folder,
            head=self.view()["head"],
            seed=self.seed,
            progress=not self.quiet,
        )
        if result.stopped == "interrupted":
            typer.echo(f"xaikit: interrupted; {self.how_to_go_on()}", err=True)
            return INTERRUPTED
        self.out.parent.mkdir(parents=True, exist_ok=True)
        assert result.model is not None
        write_weights(result.model, self.out)
        content = {
            **_judgements(result, () if self.groups else classes),
            "mend": result.to_dict(),
            "verdict": result.verdict,
            "relies": result.relies,
        }
        write_whole(table, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
        if self.folder is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        written = [str(self.out), str(table)]
        self.tell(in_flags(f"{result}\nwrote {', '.join(written)}"), **finite(content), written=written)
        if self.fail_if_relies and (result.relies or result.chosen.note):
            return RELIES_CODE
        return 1 if tell_skipped(*streams) else 0

    @property
    def _by_groups_alone(self) -> bool:
        """Whether no shortcut is named, and the groups say what there is to mend."""
        return bool(self.groups) and self.mask is None and not self.mask_names and not self.factor

    def _read_validation_groups(self) -> list[Any] | None:
        if not self.groups or not self.validation:
            return None
        is_file = Path(self.groups).is_file()
        if is_file and not self.validation_groups:
            from xaikit.core.errors import InvalidInputError

            raise InvalidInputError(
                "--groups is a file of the samples of --data; name that of --validation with --validation-groups"
            )
        return read_groups(self.validation_groups or self.groups, self.validation)

    @property
    def _folder(self) -> Path:
        return self.folder or self.out.with_suffix(".tries")

    def how_to_go_on(self) -> str:
        """What was tried stays in the folder."""
        return f"the same command goes on from {self._folder}"


def write_weights(model: Any, path: Path) -> None:
    """The state dict, whole or not at all.

    Args:
        model: whose weights they are.
        path: of the file.
    """
    import io

    import torch

    from xaikit.core.files import write_whole

    buffer = io.BytesIO()
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, buffer)
    write_whole(path, buffer.getvalue())


def _whole(stream: Any, option: str) -> tuple[Any, ...]:
    """All samples in memory, with labels, and masks where there are some."""
    from xaikit.core.errors import InvalidInputError

    batch = stream.whole()
    if batch.labels is None:
        raise InvalidInputError(
            f"{option} has no labels: a folder needs labels.csv, a .npz its 'y', a .csv --labels COLUMN"
        )
    return (batch.inputs, batch.labels) if batch.masks is None else (batch.inputs, batch.labels, batch.masks)


def _judgements(result: Any, classes: Sequence[str]) -> dict[str, Any]:
    """What `xaikit report --assessment` shows: before, after, both side by side; groups that are classes by name."""
    from xaikit.mitigation import Comparison

    if result.before is None or result.after is None:
        return {}
    before, after = (_by_class_name(assessment, classes) for assessment in (result.before, result.after))
    compared = Comparison({"before": [before.row()], "after": [after.row()]})
    return {
        "comparison": compared.to_dict(),
        "before": before.to_dict(),
        "after": after.to_dict(),
        "mitigator": result.method,
    }


def _by_class_name(assessment: Any, classes: Sequence[str]) -> Any:
    import dataclasses

    names = {str(number): name for number, name in enumerate(classes)}
    groups = {
        variant: {names.get(str(group), group): share for group, share in shares.items()}
        for variant, shares in assessment.groups.items()
    }
    return dataclasses.replace(assessment, groups=groups)
