"""Studio: the server and its link."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from xaikit.core.files import write_whole
from xaikit.report import Names
from xaikit.studio.app import make_app
from xaikit.studio.guard import LOCAL, RequestGuard, read_secret
from xaikit.studio.session import STUDIO, Session

PORT = 8431  # where it is free, so that an open page goes on after a restart


@dataclasses.dataclass(frozen=True)
class Studio:
    """A local web application for a run: look, mark, mend, prove.

    Attributes:
        run: folder that `explain_dataset` wrote, or several over the same data, one for each explainer.
        model: "module:factory", "torchvision:NAME", "timm:NAME" or "hf:FOLDER", as on the command line: jobs run in
            processes of their own. Empty for looking and marking only.
        weights: file with the model's weights.
        data: the samples of the run, as --data takes them; needed for jobs.
        options: further fields of the job files, such as ``{"size": "224", "train": "more.npz"}``.
        names: of classes, columns and tokens.
        marks: folder of the marks; None takes ``marks`` in the run's folder.
        host: address to listen at. Only this machine reaches the default.
        port: 0 takes the one of the last time, else 8431, else any free one.

    >>> import tempfile, torch
    >>> from xaikit.explainers import Gradient
    >>> from xaikit.runs import explain_dataset
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> _ = explain_dataset(Gradient(torch.nn.Linear(4, 2)), torch.rand(6, 4), out=folder, progress=False)
    >>> Studio(folder).session().state()["samples"]
    6
    """

    run: Any
    model: str = ""
    weights: str | Path | None = None
    data: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: Names = dataclasses.field(default_factory=Names)
    marks: str | Path | None = None
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not isinstance(self.data, str):
            wrong = "model" if not isinstance(self.model, str) else "data"
            raise InvalidTypeError(
                f"{wrong} is named as on the command line, such as 'mynet:make', since jobs run in processes of their "
                f"own; got {type(getattr(self, wrong)).__name__}"
            )
        if not isinstance(self.port, int) or not 0 <= self.port < 2**16:
            raise InvalidInputError(f"a port is a number from 0 to 65535, got {self.port!r}; name another --port")
        if not self.folders:
            raise InvalidInputError("the studio needs a run: a folder that explain_dataset wrote")

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs."""
        runs = self.run if isinstance(self.run, Sequence) and not isinstance(self.run, str) else [self.run]
        return [Path(run.folder if hasattr(run, "folder") else run) for run in runs]

    def session(self) -> Session:
        """What the server works with, without a server.

        Raises:
            InvalidInputError: for folders that hold no run, runs without a sample, marks of other samples.
        """
        for folder in self.folders:
            if not folder.is_dir():
                raise InvalidInputError(f"there is no folder {folder}")
        return Session(
            self.folders,
            self.names,
            marks=None if self.marks is None else Path(self.marks),
            template=self._template(),
            explain=self._explain(),
        )

    def app(self, session: Session, port: int) -> RequestGuard:
        """The guarded ASGI application.

        Args:
            session: that answers.
            port: of the server.

        Raises:
            MissingDependencyError: without Starlette.
            OSError: when the disk refuses the secret.
        """
        return RequestGuard(make_app(session), self.secret(), self.host, port)

    def secret(self) -> str:
        """The secret of the link.

        Raises:
            OSError: when the disk refuses.
        """
        return read_secret(self.folders[0] / STUDIO / "secret")

    def link(self, port: int) -> str:
        """The link with the secret.

        Args:
            port: of the server.
        """
        name = f"[{self.host}]" if ":" in self.host else self.host
        name = socket.gethostname() if self.host in ("0.0.0.0", "::") else name
        return f"http://{name}:{port}/?key={self.secret()}"

    def serve(self, ready: Callable[[str], None] = print) -> None:
        """Answer until Ctrl-C.

        Args:
            ready: gets the link once the server listens.

        Raises:
            InvalidInputError: where the port is taken.
            MissingDependencyError: without uvicorn.
        """
        running = self._prepared()
        ready(running.link)
        with contextlib.suppress(KeyboardInterrupt):
            running.answer()

    def start(self) -> RunningStudio:
        """The studio, answering in a thread, as in a notebook: it has the `link`, and `stop()`.

        Raises:
            InvalidInputError: where the port is taken.
            MissingDependencyError: without uvicorn.
        """
        running = self._prepared()
        running.thread.start()
        return running

    def _prepared(self) -> RunningStudio:
        try:
            import uvicorn
        except ImportError as err:
            raise MissingDependencyError(
                "the studio needs starlette and uvicorn: pip install 'xaikit[studio]'"
            ) from err
        session = self.session()
        listener = self._listening()
        port = listener.getsockname()[1]
        write_whole(self.folders[0] / STUDIO / "port", str(port))
        config = uvicorn.Config(
            self.app(session, port), log_level="error", access_log=False, server_header=False, ws="none"
        )
        session.begin()
        return RunningStudio(self.link(port), session, uvicorn.Server(config), listener)

    def _listening(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for port in [self.port] if self.port else [*self._last_port(), PORT, 0]:
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, port))
                listener.listen(128)
            except OSError as err:
                listener.close()
                reason = err.strerror or str(err)
                if isinstance(err, socket.gaierror) or err.errno == errno.EADDRNOTAVAIL:
                    raise InvalidInputError(
                        f"the studio cannot listen at {self.host} ({reason}): it is no address of this machine; name "
                        "one as --host, or leave it out"
                    ) from None
                if self.port or port == 0:
                    raise InvalidInputError(
                        f"the studio cannot listen at {self.host}:{port} ({reason}); name another "
                        "--port, or 0 for a free one"
                    ) from None
            else:
                return listener
        raise AssertionError

    def _last_port(self) -> list[int]:
        """The port of the last time, where it was chosen here: an open page goes on after a restart."""
        try:
            return [int((self.folders[0] / STUDIO / "port").read_text(encoding="ascii"))]
        except (OSError, ValueError):
            return []

    def _template(self) -> dict[str, Any]:
        fields = {"model": self.model, "data": self.data, **self.options}
        fields |= {} if self.weights is None else {"weights": str(self.weights)}
        return {name: value for name, value in fields.items() if value not in ("", None)} if self.model else {}

    def _explain(self) -> dict[str, Any]:
        """Fields of the job that explains the samples again: the first run's explainer, targets and seed."""
        from xaikit.runs.single_rows import SingleRows
        from xaikit.studio.explainer_text import explainer_text, target_field

        if not self.model or not self.folders[0].is_dir():
            return {}
        job = SingleRows(self.folders[0]).job
        return {
            "explainer": explainer_text(job["explainer"]),
            "seed": job["seed"],
            "target": target_field(job["targets"]),
        }

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        return self.host not in LOCAL


class RunningStudio:
    """A studio that answers.

    Args:
        link: with the secret.
        session: that answers.
        server: of uvicorn.
        listener: the socket that it listens at.

    Attributes:
        link: the same.
        session: the same.
        thread: that answers, once it is started.
    """

    def __init__(self, link: str, session: Session, server: Any, listener: socket.socket) -> None:
        self.link, self.session = link, session
        self._server, self._listener = server, listener
        self.thread = threading.Thread(target=self.answer, daemon=True)

    def answer(self) -> None:
        """Answer until `stop`, or Ctrl-C."""
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self.session.close()
            self._listener.close()

    def stop(self) -> None:
        """End the server; marks are saved, and jobs go on."""
        self._server.should_exit = True
        self.thread.join()
