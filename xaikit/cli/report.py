"""`xaikit report`: one HTML page of runs, evaluations, searches and assessments."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from xaikit.cli.job import Job, argument, flag


class WriteReport(Job):
    """Write one self-contained HTML page about a run, or about several runs over the same data, side by side.

    Results of the other verbs (--evaluation, --tuning, --assessment, --profile, ...) stand above the samples; the runs
    may be left out.

    The runs are folders that xaikit explain --data wrote, the results .json files of the other verbs, and the .npz or
    .safetensors of xaikit explain --prompt.

    \b
    Examples:
      xaikit report run/ --out report.html
      xaikit report run-lrp/ run-vargrad/ --classes classes.txt --title "Ten animals"
      xaikit report run/ --profile recommended.json --evaluation table.json --tuning tuned.json --assessment mended.json
      xaikit report --generation answer.npz --out answer.html
    """  # noqa: D301

    VERB = "report"

    runs: tuple[Path, ...] = argument((), metavar="[RUN]...", help="Folders that xaikit explain --data wrote.")
    out: Path = flag(Path("report.html"), help="Where the page is saved: .html.")
    title: str = flag("Explanations", help="Title of the page.")
    classes: str = flag("", help="Class names: cat,dog; or a file with one on each line. Default: the run's.")
    features: str = flag("", help="Names of a table's columns or a series' channels, as for --classes.")
    tokenizer: str = flag("", help="hf:FOLDER with the tokenizer of the texts. Default: the run's.")
    kind: str = flag("", help="image, series, tabular or text. Default: by the form of the samples.")
    limit: int = flag(10_000, help="Show at most so many samples.")
    profile: Path | None = flag(None, help="What xaikit recommend --out wrote.")
    evaluation: tuple[Path, ...] = flag((), help="A table that xaikit evaluate wrote; may be repeated.")
    tuning: tuple[Path, ...] = flag((), help="What xaikit tune wrote; may be repeated.")
    assessment: tuple[Path, ...] = flag((), help="What mitigate, mend, assess or compare wrote; may be repeated.")
    scan: tuple[Path, ...] = flag((), help="What xaikit scan wrote; may be repeated.")
    clusters: tuple[Path, ...] = flag((), help="The shortcuts.json that xaikit shortcuts wrote; may be repeated.")
    generation: tuple[Path, ...] = flag((), help="An answer that xaikit explain --prompt wrote; may be repeated.")
    atlas: tuple[Path, ...] = flag((), help="A concept atlas that xaikit atlas wrote; may be repeated.")
    table: tuple[Path, ...] = flag((), help="Any other .json with rows, shown as a table; may be repeated.")

    def run(self) -> int:
        """Read the runs, write the page."""
        from xaikit.cli.options import check_kind
        from xaikit.core import Int
        from xaikit.core.errors import InvalidInputError
        from xaikit.report import Names, Report
        from xaikit.runs import load_run

        check_kind(self.kind)
        Int(ge=1).check(self.limit, "--limit")
        sections = self._sections()
        if not self.runs and not sections:
            raise InvalidInputError("name at least one run, or a result such as --evaluation table.json")
        runs = [load_run(folder) for folder in self.runs]
        names = Names(comma_list(self.classes), comma_list(self.features), *self._tokens(runs))
        _check_classes(runs, names.classes)
        sections += self._summaries(runs, names)
        report = Report(
            runs=runs,
            title=self.title,
            names=names,
            kind=self.kind or None,
            sections=sections,
            limit=self.limit,
            progress=not self.quiet,
        )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        path = report.save(self.out)
        size = path.stat().st_size
        self.tell(f"wrote {path} ({size / 2**20:.1f} MiB)", written=[str(path)], bytes=size)
        return 0

    def _tokens(self, runs: list[Any]) -> tuple[Any, str]:
        """A function from token ids to words, and the word for padding: by --tokenizer, else by the first run."""
        from xaikit.cli.hugging_face import tokenizer_of
        from xaikit.core.errors import InvalidInputError

        recorded = runs[0].display_names.get("tokenizer", "") if runs else ""
        tokenizer = tokenizer_of(self.tokenizer or recorded)
        if tokenizer is not None:
            return tokenizer.convert_ids_to_tokens, tokenizer.pad_token or ""
        if self.tokenizer:
            raise InvalidInputError(f"--tokenizer {self.tokenizer} holds no tokenizer; name a folder as hf:FOLDER")
        if recorded:
            self.note(f"{recorded} holds no tokenizer any more, so token ids are shown; name it with --tokenizer")
        return None, ""

    def _summaries(self, runs: list[Any], names: Any) -> list[Any]:
        """What the explanations of each run have in common, where its samples have something."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.report import summary_sections
        from xaikit.report.side_by_side import run_labels

        sections: list[Any] = []
        for run, label in zip(runs, run_labels(runs), strict=True):
            try:
                sections += summary_sections(run, names, kind=self.kind or None, title=label if len(runs) > 1 else "")
            except InvalidInputError as err:
                self.note(f"no summary of {run.folder} on the page: {err}")
        return sections

    def _atlas(self, path: Path) -> list[Any]:
        from xaikit.report import Names, concept_sections
        from xaikit.shortcuts import ConceptAtlas

        atlas = _result(path, ConceptAtlas)
        title = f"Concept atlas, {path.stem}" if len(self.atlas) > 1 else "Concept atlas"
        return concept_sections(atlas, Names(comma_list(self.classes)), title=title)

    def _sections(self) -> list[Any]:
        """The model first, then what was measured, searched and mended."""
        from xaikit.report import evaluation_sections, profile_sections, tuning_sections

        sections: list[Any] = []
        if self.profile is not None:
            sections += _read(self.profile, profile_sections, "recommend --out")
        readers: tuple[tuple[tuple[Path, ...], Callable[..., Any], str, str], ...] = (
            (self.evaluation, lambda c, **t: evaluation_sections(_evaluation(c), **t), "evaluate", "Metrics"),
            (self.tuning, lambda c, **t: tuning_sections(_tuned(c), **t), "tune", "Tuning"),
            (self.scan, _scanned, "scan", "Scan"),
            (self.clusters, _clustered, "shortcuts", "Clusters of explanations"),
            (self.assessment, _assessed, "mitigate, mend, assess or compare", "Mitigation"),
        )
        for paths, read, verb, title in readers:
            for path in paths:
                # If there are several, the title names the file.
                sections += _read(
                    path, partial(read, title=title if len(paths) == 1 else f"{title}, {path.stem}"), verb
                )
        sections += [s for path in self.generation for s in _generated(path, in_title=len(self.generation) > 1)]
        sections += [s for path in self.atlas for s in self._atlas(path)]
        return sections + [section for path in self.table for section in _table(path)]


def _check_classes(runs: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse names that are fewer than the classes of a run, which would mix names and numbers on the page."""
    from xaikit.core.errors import InvalidInputError

    for run in runs if names else ():
        classes = [row[k] for row in run.rows() for k in ("target", "predicted", "label") if isinstance(row[k], int)]
        if max(classes, default=0) >= len(names):
            raise InvalidInputError(
                f"--classes names {len(names)} classes, and {run.folder} has a class {max(classes)} (they count from "
                "0); name all of them in the order of the model's outputs"
            )


def _result(path: Path, cls: Any) -> Any:
    """A saved result; every error names the file."""
    from xaikit.core.files import check_is_file

    check_is_file(path)
    return cls.load(path)


def _generated(path: Path, *, in_title: bool) -> Any:
    """The sections of an explained answer; several have the file's name in their title."""
    from xaikit.language import Generation
    from xaikit.report import generation_sections

    title = f"Generated answer, {path.stem}" if in_title else "Generated answer"
    return generation_sections(_result(path, Generation), title=title)


def _scanned(content: Any, title: str) -> Any:
    from xaikit.report.scans import scan_sections
    from xaikit.shortcuts import Scan

    return scan_sections(Scan.from_dict(content), title=title)


def _clustered(content: Any, title: str) -> Any:
    from xaikit.report.clusters import cluster_sections

    return cluster_sections(content, title=title)


def _evaluation(content: Any) -> Any:
    from xaikit.metrics import Evaluation

    return Evaluation.from_dict(content)


def _tuned(content: Any) -> Any:
    from xaikit.tuning import TuneResult

    return TuneResult.from_dict(content)


def _assessed(content: Any, title: str) -> Any:
    """The sections of trainings that are compared, or of one model that was judged."""
    from xaikit.mitigation import Assessment, Comparison, compare
    from xaikit.report import mitigation_sections

    if "comparison" in content:
        groups = {when: Assessment.from_dict(content[when]).groups for when in ("before", "after") if when in content}
        title = title.replace("Mitigation", "Comparison") if "verdicts" in content else title
        return mitigation_sections(Comparison.from_dict(content["comparison"]), groups, title=title)
    judged = Assessment.from_dict(content["assessment"])
    verdict = f"The model {judged.verdict.replace(' on it', ' on the shortcut', 1)}."
    title = title.replace("Mitigation", "Assessment")
    return mitigation_sections(compare({"model": [judged]}), {"model": judged.groups}, title=title, conclusion=verdict)


def _read(path: Path, make: Callable[[Any], list[Any]], verb: str) -> list[Any]:
    """The sections of what a verb wrote."""
    from xaikit.core.errors import InvalidInputError

    content = _json(path)
    try:
        return make(content)
    except InvalidInputError as err:
        raise InvalidInputError(f"{path} is not what xaikit {verb} wrote ({err})") from None
    except (KeyError, TypeError, AttributeError, IndexError) as err:
        reason = f"{type(err).__name__} {err}"
        raise InvalidInputError(f"{path} is not what xaikit {verb} wrote ({reason})") from None


def comma_list(text: str) -> list[str]:
    """The names in a text like "no,yes", or the lines of the file that it names.

    Args:
        text: of an option.
    """
    path = Path(text)
    if text and path.is_file():
        return path.read_text(encoding="utf-8").splitlines()
    return [word.strip() for word in text.split(",")] if text else []


def _json(path: Path) -> Any:
    from xaikit.core.errors import InvalidInputError
    from xaikit.core.files import check_is_file

    check_is_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise InvalidInputError(f"{path} is not JSON ({err})") from None


def _table(path: Path) -> list[Any]:
    """A .json that evaluate wrote, or one that holds rows: a list of objects, or an object with `rows` or `trials`."""
    from xaikit.core.errors import InvalidInputError
    from xaikit.report import Table, evaluation_sections

    content = _json(path)
    if isinstance(content, dict) and {"rows", "explainers", "metrics"} <= set(content):
        return _read(path, lambda c: list(evaluation_sections(_evaluation(c), title=path.stem)), "evaluate")
    rows = content.get("rows") or content.get("trials") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"{path} holds no rows to show")
    plain = [{k: v if not isinstance(v, (dict, list)) else json.dumps(v) for k, v in r.items()} for r in rows]
    return [Table(path.stem, plain)]
