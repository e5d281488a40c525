"""The summary of a run, as one paragraph of text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from xaikit.runs import Run

FAR = 0.05  # share of the score by which a sum of relevances may miss it without a note


def run_summary(run: Run, folder: Path) -> str:
    """How many samples were explained, how often the model is right, what it predicts, how far to trust the sums.

    Args:
        run: that is complete.
        folder: where it lies, as the user called it.
    """
    rows = list(run.rows())
    sentences = [f"{len(run)} samples explained in {folder}{_left_out(run)}."]
    sentences += _predictions(rows, run.display_names.get("classes", ()))
    sentences += _gaps(rows)
    sentences.append(f"See them with: xaikit report {folder}")
    return " ".join(sentences)


def _left_out(run: Run) -> str:
    parts = [f"{n} {word}" for word, n in (("skipped", len(run.skipped)), ("missing", run.n_missing)) if n]
    return f", {', '.join(parts)}" if parts else ""


def _predictions(rows: list[dict[str, Any]], classes: Any) -> list[str]:
    predicted = [row["predicted"] for row in rows if row["predicted"] is not None]
    if not predicted:
        return []
    sentences = []
    judged = [row for row in rows if row["label"] is not None and row["predicted"] is not None]
    if judged:
        right = sum(row["label"] == row["predicted"] for row in judged)
        sentences.append(f"The model is right for {right} of {len(judged)} ({100 * right / len(judged):.1f} %).")
    (most, n), *others = Counter(predicted).most_common(2)
    if not others:
        return (
            [*sentences, f"It predicts {_named(most, classes)} for every sample."] if len(predicted) > 1 else sentences
        )
    return [*sentences, f"It predicts {_named(most, classes)} most often ({n} of {len(predicted)})."]


def _gaps(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence on how far the attributions are from their promised sums; empty for methods without a promise."""
    shares = [abs(row["gap"]) / abs(row["score"]) for row in rows if row.get("gap") is not None and row["score"]]
    if not shares:
        return []
    far = sum(share > FAR for share in shares)
    if not far:
        return [f"The relevance of each sample adds up to its score, within {100 * FAR:.0f} % of it."]
    return [
        f"In {far} of {len(shares)} samples the relevance misses the score by more than {100 * FAR:.0f} % of it, so "
        "read its size with care."
    ]


def _named(index: int, classes: Any) -> str:
    return f"class {index} ({classes[index]})" if 0 <= index < len(classes) else f"class {index}"
