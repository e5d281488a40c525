"""Jobs: scan, mend and assess in processes of their own, each in a folder that says all about it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.files.marks import HEADER, SCOPES, MarkFolder
from xaikit.studio import job_process
from xaikit.studio.job_forms import MODEL_FREE, checked_settings

LOG_BYTES = 64 * 1024  # of a log's end that is read
LOG_LINES = 60
START_SECONDS = 20.0  # until a process must have said that it runs
KILL_SECONDS = 20.0  # after which a step that does not heed Ctrl-C is ended
BAR = re.compile(r"^(?P<name>[^|%]*?):?\s*(?P<percent>\d{1,3})%\|.*?\|\s*\S+ \[(?P<spent>[\d:]+)<(?P<left>[\d:?]+)")
STEP = re.compile(r"step \d+ of \d+: ")  # as `job_process` writes it into the log
# Children of this process by their folders: the system is to be asked how they ended, else a dead one looks alive.
STARTED: dict[Path, subprocess.Popen[bytes]] = {}


class Jobs:
    """The jobs of a run's studio.

    Args:
        folder: where each job has its folder.
        template: fields of every job file: the model, its weights, the data; empty where no model was named.
        run: the run's folder.
        explain: fields of the job that explains the run's samples with other weights.
        directory: where the jobs run: the folder in which the studio was started.
    """

    def __init__(
        self,
        folder: Path,
        template: Mapping[str, Any],
        run: Path,
        explain: Mapping[str, Any],
        directory: Path | None = None,
    ) -> None:
        self.folder, self._template, self._run, self._explain = folder, dict(template), run, dict(explain)
        self._directory = directory or Path.cwd()

    @property
    def can_start(self) -> bool:
        """Whether a model and data were named."""
        return bool(self._template.get("model") and self._template.get("data"))

    def start(self, verb: str, settings: Mapping[str, Any], marks: MarkFolder | None) -> str:
        """Start a job with the marks as they are now.

        Args:
            verb: scan, mend, assess or shortcuts.
            settings: from the page.
            marks: of the run; None where nothing is marked.

        Returns:
            The job's number.

        Raises:
            InvalidInputError: without a model, without marks where they are needed, for settings that cannot be.
            OSError: when the disk refuses.
        """
        if not self.can_start and verb not in MODEL_FREE:
            raise InvalidInputError("a job needs the model and its data: start the studio with --model and --data")
        checked = checked_settings(verb, settings)
        marked = marks is not None and any(True for s in SCOPES for _ in marks.files(MASK, s))
        if verb in ("mend", "assess") and not marked:
            raise InvalidInputError(f"{verb} needs to know what must not matter: mark it first")
        number, home = self._new()
        try:
            self._write(home, verb, checked, marks if marked else None)
        except OSError:
            shutil.rmtree(home, ignore_errors=True)
            raise
        self._launch(number)
        return number

    def _write(self, home: Path, verb: str, checked: Mapping[str, Any], marks: MarkFolder | None) -> None:
        mask: dict[str, Any] = {}
        if marks is not None:
            _copy_marks(marks, home / "marks")
            mask = {"mask": str(home / "marks" / MASK)}
        for step, content in enumerate(self._steps(verb, checked, mask, home)):
            write_whole(home / f"step-{step:02d}.json", json.dumps(content, indent=1) + "\n")
        record = {"verb": verb, "settings": checked, "begun": time.time()}
        write_whole(home / "job.json", json.dumps(record) + "\n")

    def _new(self) -> tuple[str, Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max([int(p.name) for p in self.folder.iterdir() if p.name.isdecimal()], default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                (self.folder / str(number)).mkdir()
                return str(number), (self.folder / str(number)).absolute()

    def _steps(
        self, verb: str, settings: Mapping[str, Any], mask: Mapping[str, Any], home: Path
    ) -> list[dict[str, Any]]:
        """The job files: of mend also the explanation by the mended model, and the report of both."""
        if verb == "shortcuts":
            number = settings.get("n_clusters")
            method = {"method": f"spray:n_clusters={number}"} if number else {}
            chosen = {k: v for k, v in settings.items() if k == "of_class"}
            return [{"verb": verb, "folder": str(self._run.absolute()), "out": str(home / "found"), **chosen, **method}]
        template = {k: v for k, v in self._template.items() if k != "train"}
        step = {"verb": verb, **template, **settings, **mask, "same_as": str(self._run.absolute())}
        if verb == "scan":
            return [{**step, "out": str(home / "scan.json")}]
        if verb == "assess":
            return [{**step, "out": str(home / "assessed.json")}]
        if self._template.get("train"):
            step |= {"data": self._template["train"], "validation": template["data"]}
        weights, table = str(home / "mended.pt"), str(home / "mended.json")
        return [
            {**step, "out": weights, "assessment": table, "folder": str(home / "tries")},
            {
                "verb": "explain",
                **template,
                **self._explain,
                "weights": weights,
                "out": str(home / "run"),
                "figure": False,
            },
            {
                "verb": "report",
                "runs": [str(self._run.absolute()), str(home / "run")],
                "assessment": [table],
                "out": str(home / "report.html"),
                "title": f"{self._run.name}: before and after",
                "limit": 500,
            },
        ]

    def _launch(self, number: str) -> None:
        home = (self.folder / number).absolute()
        for name in ("exit.json", "process.json"):
            (home / name).unlink(missing_ok=True)
        write_whole(home / "launched.json", json.dumps({"time": time.time()}) + "\n")
        command = [sys.executable, str(Path(job_process.__file__).absolute()), str(home.absolute())]
        STARTED[home] = subprocess.Popen(  # noqa: S603
            command,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self, number: str) -> None:
        """End a job as Ctrl-C does; what it has done stays, and `go_on` continues.

        Args:
            number: of the job.

        Raises:
            InvalidInputError: for a job that there is not.
        """
        process = self._process(self._home(number))
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGINT)
        write_whole(self._home(number) / "stopping.json", json.dumps({"time": time.time()}) + "\n")

    def go_on(self, number: str) -> None:
        """Continue a job that was stopped, failed or was killed.

        Args:
            number: of the job.

        Raises:
            InvalidInputError: for a job that there is not, or that runs.
        """
        if self.describe(number)["state"] in ("running", "done"):
            raise InvalidInputError(f"job {number} runs or is done; there is nothing to go on with")
        (self._home(number) / "stopping.json").unlink(missing_ok=True)
        self._launch(number)

    def list(self) -> list[dict[str, Any]]:
        """What is known of each job, the newest first."""
        if not self.folder.is_dir():
            return []
        numbers = [p.name for p in self.folder.iterdir() if p.name.isdecimal() and (p / "job.json").is_file()]
        return [self.describe(n) for n in sorted(numbers, key=int, reverse=True)]

    def describe(self, number: str) -> dict[str, Any]:
        """What is known of a job: its state, how far it is, the end of its log.

        Args:
            number: of the job.

        Raises:
            InvalidInputError: for a job that there is not.
        """
        home = self._home(number)
        process = self._process(home)  # first, so that a child that has ended is noticed
        record, code = _json(home / "job.json"), _json(home / "exit.json").get("code")
        state = {None: "running", 0: "done", 3: "done", 130: "stopped"}.get(code, "failed")
        if code is None and process is None:
            launched = float(_json(home / "launched.json").get("time", 0))
            young = time.time() - launched < START_SECONDS and not (home / "process.json").exists()
            state = "running" if young else "stopped"
        lines, bar = _log(home / "log.txt")
        stopping = state == "running" and (home / "stopping.json").exists()
        if stopping:
            self._kill_if_late(home)
        return {
            "number": number,
            **_json(home / "step.json"),
            **record,
            "state": "stopping" if stopping else state,
            "code": code,
            "progress": bar if state == "running" else None,
            "log": lines,
            "report": (home / "report.html").is_file(),
            "after": (home / "run" / "manifest.json").is_file() and (home / "step-01.done").is_file(),
            "result": (home / "step-00.done").is_file(),
        }

    def home(self, number: str) -> Path:
        """The folder of a job.

        Args:
            number: of the job.

        Raises:
            InvalidInputError: for a job that there is not.
        """
        return self._home(number)

    def _home(self, number: str) -> Path:
        if not number.isdecimal() or len(number) > 9 or not (self.folder / number / "job.json").is_file():
            raise InvalidInputError(f"there is no job {number[:20]}")
        return (self.folder / number).absolute()

    def _process(self, home: Path) -> int | None:
        """The number of a job's process, if it is alive."""
        child = STARTED.get(home)
        if child is not None and child.poll() is not None:
            STARTED.pop(home, None)
        process = _json(home / "process.json")
        number = process.get("process")
        if not isinstance(number, int):
            return None
        try:
            os.kill(number, 0)
        except (ProcessLookupError, PermissionError):
            return None
        return number if job_process.started_at(number) == process.get("started") else None

    def _kill_if_late(self, home: Path) -> None:
        process, since = self._process(home), float(_json(home / "stopping.json").get("time", 0))
        if process is not None and time.time() - since > KILL_SECONDS:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)


MASK = "must-not-matter"


def _copy_marks(marks: MarkFolder, target: Path) -> None:
    for path in [marks.path / HEADER, *(marks.path / MASK).rglob("*")]:
        if path.is_file():
            copy = target / path.relative_to(marks.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _log(path: Path) -> tuple[Sequence[str], dict[str, Any] | None]:
    """The last lines of a log, and its last progress bar."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return [], None
    bar, lines = None, []
    for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "\n", text)):  # bars in bars move the cursor
        match = BAR.match(line.strip())
        if STEP.match(line):
            bar = None  # the last one was of the step before
        if match:
            bar = {**match.groupdict(), "percent": int(match["percent"])}
        elif line.strip():
            lines.append(line.rstrip())
    return lines[-LOG_LINES:], bar
