"""Several runs side by side on one page: checks that their samples are the same, labels, models and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.percentages import percent
from xaikit.report.names import Names
from xaikit.runs import ExplainedSample, Run


def check_same_samples(runs: Sequence[Run]) -> None:
    """Refuse runs over different samples, so that no map is shown beside the picture of another sample.

    Samples are compared by the fingerprints of their files or rows, else by their names. Runs that have neither must
    have begun with the same first sample.

    Args:
        runs: whose samples are joined by their index.

    Raises:
        InvalidInputError: if an index means different samples in two runs; the message names the first difference.
    """
    if len(runs) < 2:
        return
    first = runs[0]
    rows = {row["index"]: row for row in first.rows()}
    for other in runs[1:]:
        for row in other.rows():
            earlier = rows.get(row["index"])
            key = None if earlier is None else next((k for k in ("fingerprint", "name") if earlier[k] and row[k]), None)
            if earlier is not None and key is not None and earlier[key] != row[key]:
                raise InvalidInputError(
                    f"{first.folder} and {other.folder} explain different samples: number {row['index']} is "
                    f"{_name_or_number(earlier)} there and {_name_or_number(row)} here{_same_name(earlier, row)}; "
                    "one page shows runs over the same data"
                )
            if earlier is not None and key is None and first.job.get("first sample") != other.job.get("first sample"):
                raise InvalidInputError(
                    f"{first.folder} and {other.folder} began with different first samples, and these have no names "
                    "that would tell which belong together; one page shows runs over the same data"
                )


def run_labels(runs: Sequence[Run]) -> list[str]:
    """The label of each run: its explainer, with the settings or the model by which it differs from the others."""
    names = [run.job["explainer"]["name"] for run in runs]
    labels = [
        name if names.count(name) == 1 else _with_difference(run, runs) for name, run in zip(names, runs, strict=True)
    ]
    if len(models(runs)) == 1:
        return labels
    folders = [run.folder.name for run in runs]
    return [label if f in label else f"{label}, {f}" for label, f in zip(labels, folders, strict=True)]


def models(runs: Sequence[Run]) -> dict[str, Run]:
    """The first run of each model, by the hash of its weights."""
    by_weights: dict[str, Run] = {}
    for run in runs:
        by_weights.setdefault(run.job["weights"], run)
    return by_weights


def model_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each model: its weights, its accuracy on the labelled samples, and its explainers."""
    labels = run_labels(runs)
    rows = []
    for weights, run in models(runs).items():
        share = accuracy(run)
        rows.append(
            {
                "run": run.folder.name,
                "model": run.job["model"],
                "weights": weights[:12],
                "accuracy": "no labels" if share is None else f"{percent(share[0])} of {share[1]}",
                "explained by": ", ".join(n for n, r in zip(labels, runs, strict=True) if r.job["weights"] == weights),
            }
        )
    return rows


def accuracy(run: Run) -> tuple[float, int] | None:
    """The share of right predictions, and the number of samples with a label and a prediction; None for none."""
    judged = [row for row in run.rows() if row["label"] is not None and row["predicted"] is not None]
    if not judged:
        return None
    return sum(row["label"] == row["predicted"] for row in judged) / len(judged), len(judged)


def verdicts(runs: Sequence[Run], samples: Sequence[ExplainedSample], names: Names) -> list[dict[str, str]]:
    """What each model predicts for a sample, and whether that is right."""
    firsts = list(models(runs).values())
    return [
        {
            "run": run.folder.name if len(firsts) > 1 else "",
            "predicted": names.of_class(sample.predicted),
            "label": names.of_class(sample.label),
            "right": _right(sample),
        }
        for run, sample in zip(runs, samples, strict=True)
        if any(run is first for first in firsts)
    ]


def check_same_inputs(samples: Sequence[ExplainedSample]) -> None:
    """Refuse a sample whose stored inputs differ between runs, if it has neither a fingerprint nor a name.

    Raises:
        InvalidInputError: for inputs of one shape and other values.
    """
    unnamed = [s for s in samples if not (s.name or s.fingerprint) and isinstance(s.inputs, Tensor)]
    for other in unnamed[1:]:
        same_shape = other.inputs.shape == unnamed[0].inputs.shape
        if same_shape and not bool((other.inputs == unnamed[0].inputs).logical_or(other.inputs.isnan()).all()):
            raise InvalidInputError(
                f"sample {other.index} differs between the runs; one page shows runs over the same data"
            )


def _right(sample: ExplainedSample) -> str:
    if sample.label is None or sample.predicted is None:
        return ""
    return "right" if sample.label == sample.predicted else "wrong"


def _name_or_number(row: dict[str, Any]) -> str:
    return str(row["name"] or f"sample {row['index']}")


def _same_name(row: dict[str, Any], other: dict[str, Any]) -> str:
    return " (a file of the same name with other content)" if row["name"] == other["name"] else ""


def _with_difference(run: Run, runs: Sequence[Run]) -> str:
    explainers = [r.job["explainer"] for r in runs]
    name, settings = run.job["explainer"]["name"], run.job["explainer"]["settings"]
    others = [other["settings"] for other in explainers if other["name"] == name]
    differing = ", ".join(f"{k}={v}" for k, v in settings.items() if any(o.get(k) != v for o in others))
    return f"{name} ({differing or run.folder.name})"
