"""The application behind the guard: which address answers what."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, MissingDependencyError, XaikitError
from xaikit.studio.coco_files import marks_from_coco, marks_to_coco
from xaikit.studio.groups import checked_group
from xaikit.studio.mark_desk import MarkDesk
from xaikit.studio.sample_cards import CardView
from xaikit.studio.session import Session

PAGE = Path(__file__).parent / "page"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
SIDES = (16, 1600)  # pixels of a picture's longer side
DISK_FULL, FORBIDDEN_CONTENT = 507, 400


def make_app(session: Session) -> Any:
    """The Starlette application of a session.

    Args:
        session: that answers.

    Raises:
        MissingDependencyError: without Starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import FileResponse, Response
        from starlette.routing import Route
    except ImportError as err:
        raise MissingDependencyError("the studio needs starlette and uvicorn: pip install 'xaikit[studio]'") from err

    # Read once: no path of a request is ever joined to a folder.
    static = {p.name: p.read_bytes() for p in PAGE.iterdir() if p.suffix in TYPES}

    def answer(work: Callable[[Mapping[str, Any]], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            query: dict[str, Any] = {**dict(request.query_params), **request.path_params}
            if request.method != "GET":
                try:
                    content = json.loads(await request.body() or b"{}")
                except ValueError:
                    return _json(Response, {"error": "the request is no JSON"}, 400)
                if not isinstance(content, dict):
                    return _json(Response, {"error": "the request is no JSON object"}, 400)
                query = {**content, **query}
            status, result = await run_in_threadpool(_done, work, query)
            if isinstance(result, Path):
                return FileResponse(result, filename=result.name)
            return _json(Response, result, status)

        return endpoint

    async def page(_: Request) -> Response:
        return Response(static["index.html"], media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in static:
            return _json(Response, {"error": "there is no such file in the studio"}, 404)
        return Response(static[name], media_type=TYPES[Path(name).suffix])

    def route(path: str, work: Callable[[Mapping[str, Any]], Any], method: str = "GET") -> Route:
        return Route(path, answer(work), methods=[method])

    desk = MarkDesk(session)
    api = Answers(session, desk)
    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", file),
            route("/api/state", lambda _: session.state()),
            route("/api/samples", api.samples),
            route("/api/samples/{position:int}", api.detail),
            route("/api/marks", api.mark),
            route("/api/marks", desk.change, "POST"),
            route("/api/suggest", api.suggest, "POST"),
            route("/api/measure", api.measure, "POST"),
            route("/api/coco", lambda _: marks_to_coco(session)),
            route("/api/coco", lambda query: marks_from_coco(session, desk, query), "POST"),
            route("/api/jobs", lambda _: {"jobs": session.jobs.list()}),
            route("/api/jobs", api.start, "POST"),
            route("/api/jobs/{number}", lambda query: session.jobs.describe(query["number"])),
            route("/api/jobs/{number}/stop", api.stop, "POST"),
            route("/api/jobs/{number}/go-on", api.go_on, "POST"),
            route("/api/jobs/{number}/result", lambda query: session.result(query["number"])),
            route("/api/jobs/{number}/after", lambda query: session.mended.show(query["number"])),
            route("/api/jobs/{number}/groups", lambda query: {"groups": session.groups.of_job(query["number"])}),
            route("/api/jobs/{number}/report.html", api.report),
        ]
    )


class Answers:
    """What the addresses ask of a session, with their arguments checked.

    Args:
        session: that answers.
        desk: that answers about marks.
    """

    def __init__(self, session: Session, desk: MarkDesk) -> None:
        self._session, self._desk = session, desk

    def samples(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Cards of the gallery."""
        return self._session.cards(
            filters_of(query),
            str(query.get("order", "position")),
            _number(query, "start", 0, 2**40),
            _number(query, "count", 40, 1000),
            self._view(query, 160),
        )

    def detail(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """One sample in full."""
        view = dataclasses.replace(self._view(query, 1024), is_whole=True)
        return self._session.detail(query["position"], view)

    def _view(self, query: Mapping[str, Any], side: int) -> CardView:
        side = max(SIDES[0], _number(query, "side", side, SIDES[1]))
        return CardView(side, query.get("scale") == "one", str(query.get("after", "")))

    def mark(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A mark as it is on the disk."""
        position = _number(query, "position", 0, 2**40)
        key, facts = self._desk.mark_key(
            str(query.get("meaning")), str(query.get("scope")), position, query.get("cluster")
        )
        return self._session.marks.state(key, facts).to_json()

    def suggest(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A suggested mark."""
        return {"runs": self._desk.suggest(query, filters_of(query.get("filters") or {}))}

    def measure(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a measure."""
        self._session.measure.begin(str(query.get("name")))
        return {}

    def start(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Start a job."""
        settings = query.get("settings") or {}
        if not isinstance(settings, dict):
            raise InvalidInputError("settings are an object")
        return {"number": self._session.jobs.start(str(query.get("verb")), settings, self._session.marks.folder)}

    def stop(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a job."""
        self._session.jobs.stop(query["number"])
        return {}

    def go_on(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Continue a job."""
        self._session.jobs.go_on(query["number"])
        return {}

    def report(self, query: Mapping[str, Any]) -> Path:
        """The report page of a job, as a file."""
        path = self._session.jobs.home(query["number"]) / "report.html"
        if not path.is_file():
            raise InvalidInputError("this job has no report yet")
        return path


def filters_of(query: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """The filters of the gallery that a request names.

    Args:
        query: label, predicted, folder, name, right ("right", "wrong"), change ("changed", "mended", "broken"),
            cluster and factor (names of groups).

    Raises:
        InvalidInputError: for values that these cannot have.
    """
    numbers = [c for c in ("label", "predicted") if query.get(c, "") != ""]
    filters: list[tuple[str, str, Any]] = [(c, "is", _number(query, c, 0, 2**40)) for c in numbers]
    filters += [("sample", "in group", checked_group(query[c])) for c in ("cluster", "factor") if query.get(c)]
    if query.get("folder"):
        filters.append(("folder", "is", str(query["folder"])))
    if query.get("name"):
        filters.append(("name", "contains", str(query["name"])[:200]))
    for name, column in (("right", "label"), ("change", "after")):
        if query.get(name):
            filters.append((column, str(query[name]), None))
    return filters


def _number(query: Mapping[str, Any], name: str, usual: int, most: int) -> int:
    text = str(query.get(name, usual))
    if not text.isdecimal() or len(text) > 15 or int(text) > most:
        raise InvalidInputError(f"{name} is a whole number up to {most}, got {text[:20]!r}")
    return int(text)


def _done(work: Callable[[Mapping[str, Any]], Any], query: Mapping[str, Any]) -> tuple[int, Any]:
    """The status and the result of some work; an error is one sentence."""
    try:
        return 200, work(query)
    except OSError as err:
        place = f"{err.filename}: " if err.filename else ""
        return DISK_FULL, {"error": f"{place}{err.strerror or err}; nothing was changed; make room on the disk"}
    except XaikitError as err:
        return FORBIDDEN_CONTENT, {"error": str(err)}
    except Exception as err:  # the server must go on
        traceback.print_exc()
        return 500, {"error": f"{type(err).__name__}: {err}"}


def _json(response: Any, content: Any, status: int = 200) -> Any:
    # allow_nan: NaN is no JSON, and a browser would refuse the whole answer.
    text = json.dumps(_finite(content), allow_nan=False, ensure_ascii=False)
    return response(text.encode("utf-8", "replace"), status_code=status, media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value
