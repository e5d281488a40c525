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
    from xaikit.studio import Studio

DEMO = Path("xaikit-studio-demo")
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
        from xaikit.cli.run_match import check_data, check_model
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
            check_model(self.runs[0], self.loaded())
            check_data(self.runs[0], self.samples(self.model), self.data)
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
