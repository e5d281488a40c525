"""What jobs found, for the page: the verdict in words on top, then tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.report import Names
from xaikit.studio.suggestions import PLACED

MOST_EFFECTS = 14
BECAME = {"flipped": "of the worst donor", "randomised": "of a random sample"}  # what an assessment calls them
PLACED_FACTORS = tuple(factor for factors in PLACED.values() for factor in factors)
FILES = {
    "scan": "scan.json",
    "mend": "mended.json",
    "assess": "assessed.json",
    "shortcuts": "found/shortcuts.json",
}


def result_of(home: Path, verb: str, names: Names) -> dict[str, Any]:
    """The verdict and the tables of a finished job.

    Args:
        home: the job's folder.
        verb: of the job.
        names: of the classes.

    Raises:
        InvalidInputError: where the result cannot be read.
    """
    file = FILES[verb]
    try:
        content = json.loads((home / file).read_text(encoding="utf-8"))
        return {"scan": _scan, "mend": _mend, "assess": _assess, "shortcuts": _clusters}[verb](content, names)
    except (OSError, ValueError, KeyError, TypeError, XaikitError) as err:
        raise InvalidInputError(f"{home / file} cannot be read ({type(err).__name__}: {err})") from None


def _mend(content: dict[str, Any], names: Names) -> dict[str, Any]:
    tries = [
        {
            "method": str(row["method"]).partition(":")[0],
            "kept": row["accuracy_kept"],
            "exchanged": row["accuracy_exchanged"],
            "changed": row["changed"],
            "epochs": row["epochs"],
            "seconds": round(row["seconds"] or 0),
            "note": row["note"],
        }
        for row in content["mend"]["tries"]
    ]
    tables = [_table("What was tried, on held-out samples", tries, chosen=_chosen(content))]
    rows = content.get("comparison", {}).get("rows", {})
    if rows:
        before, after = rows["before"][0], rows["after"][0]
        measures = [{"measure": _worded(m), "before": before[m], "after": after.get(m)} for m in before]
        tables.insert(0, _table("Before and after", measures))
    by_class = _by_class(content, names)
    tables += (
        [_table("Right predictions with the shortcut of the worst donor, class by class", by_class)] if by_class else []
    )
    return {"verdict": content["verdict"], "relies": content["relies"], "tables": tables}


def _chosen(content: dict[str, Any]) -> int | None:
    methods = [row["method"] for row in content["mend"]["tries"]]
    return len(methods) - 1 - methods[::-1].index(content["mend"]["method"])


def _by_class(content: dict[str, Any], names: Names) -> list[dict[str, Any]]:
    before, after = ((content.get(when) or {}).get("groups", {}).get("flipped", {}) for when in ("before", "after"))
    return [
        {"class": names.of_class(int(g)) if str(g).isdecimal() else str(g), "before": v, "after": after.get(g)}
        for g, v in before.items()
    ]


def _assess(content: dict[str, Any], names: Names) -> dict[str, Any]:  # noqa: ARG001
    assessment = content["assessment"]
    rows = [
        {"shortcut": BECAME.get(name, name), "right": share, "changed": assessment.get("changed", {}).get(name)}
        for name, share in assessment["accuracy"].items()
    ]
    return {
        "verdict": content["verdict"],
        "relies": content["relies"],
        "tables": [_table("With the shortcut kept, of another sample, and removed", rows)],
    }


def clusters_of(home: Path) -> dict[int, list[int]]:
    """The indices of the samples of each cluster that a job found.

    Args:
        home: the job's folder.

    Raises:
        InvalidInputError: where the result cannot be read.
    """
    try:
        content = json.loads((home / FILES["shortcuts"]).read_text(encoding="utf-8"))
        return {int(c["cluster"]): [int(s["index"]) for s in c["samples"]] for c in content["clusters"]}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InvalidInputError(f"{home} holds no clusters ({type(err).__name__}: {err})") from None


def changed_by_factors(home: Path) -> list[tuple[int, str, list[int]]]:
    """Number and title of each factor that a job scanned, and the samples whose prediction changes with it.

    Args:
        home: the job's folder.

    Raises:
        InvalidInputError: where the result cannot be read.
    """
    try:
        effects = json.loads((home / FILES["scan"]).read_text(encoding="utf-8"))["effects"]
        return [(i, str(e["title"]), [int(s) for s in e["changed_samples"]]) for i, e in enumerate(effects)]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InvalidInputError(
            f"{home} does not say which samples changed ({type(err).__name__}: {err}); scan again"
        ) from None


def _clusters(content: dict[str, Any], names: Names) -> dict[str, Any]:  # noqa: ARG001
    rows = [
        {
            "cluster": cluster["cluster"],
            "samples": cluster["size"],
            "right": cluster["accuracy"],
            "looks at": ", ".join(str(part["name"]) for part in cluster["strongest"]),
            "most typical": ", ".join(s["name"] or f"sample {s['index']}" for s in cluster["samples"][:3]),
        }
        for cluster in content["clusters"]
    ]
    verdict = f"{len(rows)} clusters of explanations: samples of one cluster are decided for the same reason"
    if len(rows) == 1:
        verdict = "the explanations do not fall into groups"
    return {"verdict": verdict, "relies": None, "tables": [_table("Clusters", rows)]}


def _scan(content: dict[str, Any], names: Names) -> dict[str, Any]:
    from xaikit.shortcuts import Scan

    scan = Scan.from_dict(content)
    most = max((max(e.leading_class, e.worst_class) for e in scan.effects), default=0)
    rows = [
        {
            "factor": effect.title,
            "nature": "should not matter" if effect.nature == "nuisance" else "may matter",
            "follow it": effect.follows.mean,
            "change": effect.changed.mean,
            "right": effect.accuracy,
            "suspect": "suspect" if effect.is_suspect else "",
        }
        for effect in scan.effects[:MOST_EFFECTS]
    ]
    return {
        "verdict": scan.conclusion([names.of_class(k) for k in range(most + 1)]),
        "relies": bool(scan.suspects) or None,  # no suspect among these factors is no proof
        "tables": [_table("How many predictions follow each factor", rows)],
        "factors": [
            {"title": effect.title, "number": i, "suspect": effect.is_suspect}
            for i, effect in enumerate(scan.effects[:MOST_EFFECTS])
            if hasattr(effect.factor, "mask_of") or isinstance(effect.factor, PLACED_FACTORS)
        ],
    }


def _worded(measure: str) -> str:
    """Such as "right, shortcut of the worst donor" for "accuracy flipped"."""
    what, _, became = measure.partition(" ")
    became = BECAME.get(became, became)
    label = {"accuracy": "right", "worst": "right in the worst class"}.get(what, what)
    return f"{label}, shortcut {became}" if became else label


def _table(title: str, rows: list[dict[str, Any]], chosen: int | None = None) -> dict[str, Any]:
    return {"title": title, "columns": list(rows[0]) if rows else [], "rows": rows, "chosen": chosen}
