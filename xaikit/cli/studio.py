"""`xaikit studio`: a local web application to look at samples and maps, mark, mend, and compare before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xaikit.cli.job import Job, argument, flag
from xaikit.cli.printing import printable
from xaikit.cli.sources import DataFields, ModelJob

if TYPE_CHECKING:
    from xaikit.runs.single_rows import SingleRows
    from xaikit.studio import Studio

DEMO = Path("xaikit-studio-demo")
ALIKE = 0.05  # mean difference of two pictures, as a share of the spread of one: another decoder makes less
LOOKED_AT = 8  # samples whose content is compared with the data
FIELDS_OF_JOBS = {*ModelJob.model_fields, *DataFields.model_fields} - set(Job.model_fields)


class OpenStudio(DataFields, ModelJob):
    """Look at a run in the browser, mark what must not matter, mend the model, see before and after.

    RUN is a folder that xaikit explain --data wrote; several over the same data stand side by side. With --model and
    --data (a folder of images, an array .npy or .npz, a table .csv or .parquet), the page starts scan, mend and assess
    as jobs, which go on when browser and server are closed. Marks are files at once, in RUN/marks, and --mask reads
    them: --mask RUN/marks/must-not-matter. The link holds a secret; only this machine reaches it, unless --host says
    otherwise.

    \b
    Examples:
      xaikit studio run/
      xaikit studio run/ run-lrp/ --model mynet:make --weights w.pt --data digits.npz
      xaikit studio --demo
    """  # noqa: D301

    VERB = "studio"

    runs: tuple[Path, ...] = argument((), metavar="[RUN]...", help="Folders that xaikit explain --data wrote.")
    model: str = flag("", help="For jobs: module:factory (its code is run), torchvision:NAME, timm:NAME, or hf:FOLDER.")
    train: str = flag("", help="Samples that mend trains on, as --data, which it then validates on. Default: --data.")
    marks: Path | None = flag(None, help="Folder of the marks. Default: marks in the first RUN.")
    host: str = flag("127.0.0.1", help="Address to listen at. Any other than the default opens it to other machines.")
    port: int = flag(0, help="Port to listen at; 0: the one of the last time, else 8431, else a free one.")
    browser: bool = flag(True, help="Open the page in the browser.")
    demo: bool = flag(False, help="Open digits whose model follows a patch: the five-minute story of docs/guides.")

    def run(self) -> int:
        """Check what was named, listen, tell the link."""
        from xaikit.core.errors import InvalidInputError

        if self.demo:
            return self._demo()
        if not self.runs:
            raise InvalidInputError("name a RUN, a folder that xaikit explain --data wrote, or take --demo")
        if bool(self.model) != bool(self.data):
            missing, other = ("--data", "--model") if self.model else ("--model", "--data")
            raise InvalidInputError(f"jobs need the model and its samples: {missing} is missing beside {other}")
        studio = self._studio()
        if self.model:
            self._check_model()
            self._check_data()
        if studio.is_open:
            self.note(
                f"{self.host} is open to other machines: whoever reaches it and has the link can look at the samples, "
                "mark, and start jobs with this model"
            )
        studio.serve(self._tell_link)
        return 0

    def how_to_go_on(self) -> str:
        """Marks are files, and jobs go on."""
        return "marks are saved, and jobs go on; the same command opens the page again"

    def _demo(self) -> int:
        from xaikit.cli.studio_demo import prepare
        from xaikit.core.errors import InvalidInputError

        if self.runs or self.model or self.data:
            raise InvalidInputError("--demo brings its own run, model and data; leave RUN, --model and --data out")
        return self.model_copy(update={"demo": False, **prepare(DEMO, progress=not self.quiet)}).run()

    def _studio(self) -> Studio:
        from xaikit.cli.report import comma_list
        from xaikit.report import Names
        from xaikit.studio import Studio

        fields = json.loads(self.model_dump_json(include=FIELDS_OF_JOBS, exclude_defaults=True))
        for name in ("data", "weights", "encoding"):
            if fields.get(name) and Path(fields[name]).exists():
                fields[name] = str(Path(fields[name]).absolute())
        if self.train:
            fields["train"] = str(Path(self.train).absolute()) if Path(self.train).exists() else self.train
        model, data, weights = (fields.pop(name, "") for name in ("model", "data", "weights"))
        return Studio(
            list(self.runs),
            model=model,
            data=data,
            weights=weights or None,
            options=fields,
            names=Names(comma_list(self.classes), (), *self._tokens()),
            marks=self.marks,
            host=self.host,
            port=self.port,
        )

    def _tokens(self) -> tuple[Any, str]:
        from xaikit.cli.hugging_face import tokenizer_of
        from xaikit.runs.single_rows import SingleRows

        recorded = SingleRows(self.runs[0]).display_names.get("tokenizer", "")
        tokenizer = tokenizer_of(self.tokenizer or recorded)
        return (None, "") if tokenizer is None else (tokenizer.convert_ids_to_tokens, tokenizer.pad_token or "")

    def _check_model(self) -> None:
        """Refuse a model whose weights are not those that the run explained."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.runs.manifest import weights_hash
        from xaikit.runs.single_rows import SingleRows

        stored, current = SingleRows(self.runs[0]).job["weights"], weights_hash(self.loaded())
        if stored != current:
            raise InvalidInputError(
                f"the model is not the one that {self.runs[0]} explained (weights {stored[:12]} there, {current[:12]} "
                "here); name its weights with --weights, or explain again with xaikit explain --data"
            )

    def _check_data(self) -> None:
        """Refuse data that no longer hold the run's samples; some, spread over the run, are looked at."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.runs.single_rows import SingleRows

        data, run = self.samples(self.model), SingleRows(self.runs[0])
        names, content = list(getattr(data, "names", ())), getattr(data, "fingerprint", None)
        numbers = run.numbers()
        rows = [row for n in {numbers[0], numbers[len(numbers) // 2], numbers[-1]} for row in run.rows(n)]
        for row in (rows[-1], *rows[:: max(1, len(rows) // LOOKED_AT)]):
            if row["index"] >= len(data) or (row["name"] and names and names[row["index"]] != row["name"]):
                raise InvalidInputError(
                    f"--data {self.data} does not hold the samples of {self.runs[0]}: {row['name'] or row['index']} is "
                    "not where it was; name the data that the run explained, or leave --model and --data out to look"
                )
            if row["fingerprint"] and content is not None and str(content(row["index"])) != row["fingerprint"]:
                raise InvalidInputError(
                    f"--data {self.data}: {row['name']} has another content than when {self.runs[0]} explained it; "
                    "explain again with xaikit explain --data"
                )
        self._check_preparation(data, run)

    def _check_preparation(self, data: Any, run: SingleRows) -> None:
        """Refuse pictures that are scaled, cropped or normalised otherwise: marks would lie elsewhere in jobs."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.core.structure import flatten

        number = next(n for n in run.numbers() if run.rows(n))
        sample = run.sample(number, 0)
        if sample.inputs is None:
            return
        item = data[sample.index]
        pairs = zip(flatten(sample.inputs)[0], flatten(item[0] if isinstance(item, tuple) else item)[0], strict=False)
        for stored, current in pairs:
            same = stored.shape == current.shape
            a, b = stored.double(), current.double()
            if same and float((a - b).abs().mean()) <= ALIKE * float((a - a.mean()).abs().mean() + 1e-6):
                continue
            shapes = f"{tuple(stored.shape)} there, {tuple(current.shape)} here" if not same else "other values"
            raise InvalidInputError(
                f"--data {self.data} gives the model another input than when {self.runs[0]} explained it ({shapes}), "
                "so marks would lie elsewhere; take the --size, --mean, --std and --grey of the run"
            )

    def _tell_link(self, link: str) -> None:
        """Print the link, and open it."""
        import webbrowser

        if self.json_output:
            typer.echo(json.dumps({"link": link}))
        else:
            typer.echo(printable(f"xaikit studio: {link}\nCtrl-C ends it; marks are saved, and jobs go on", lines=True))
        if self.browser and not _opens(webbrowser, link):
            self.note("no browser opened; open the link in one on this machine")


def _opens(webbrowser: Any, link: str) -> bool:
    try:
        return bool(webbrowser.open(link))
    except webbrowser.Error:
        return False
