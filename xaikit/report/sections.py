"""Sections of a report: tables and figures of evaluations, searches, trainings and model profiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xaikit.core import Explainer
from xaikit.core.percentages import percent
from xaikit.report.html import Picture, Table

if TYPE_CHECKING:  # a report of one kind of result need not load the code of the others
    from xaikit.metrics import Evaluation
    from xaikit.mitigation import Comparison
    from xaikit.recommendation import Recommendation
    from xaikit.tuning import TuneResult

Section = Table | Picture
DRAWN_MEASURES = {
    "accuracy": "accuracy",
    "mass": "relevance in the mask",
}  # drawn for a mitigation, with their headings
MOST_TRIALS = 200
MOST_EXPLAINERS = 10


def evaluation_sections(evaluation: Evaluation, *, title: str = "Metrics") -> list[Section]:
    """One row for each explainer: every metric's mean, and its interval.

    Args:
        evaluation: what `evaluate` returned.
        title: of the table.

    Returns:
        One table.

    >>> from xaikit.metrics.table import Evaluation, make_row
    >>> row = make_row("vargrad", "abpc", "maximize", [0.1, 0.3], confidence=0.95, seed=0, error=None)
    >>> table, = evaluation_sections(Evaluation((row,), 0.95, 0, {"vargrad": {}}, {"abpc": {}}))
    >>> table.columns
    ['explainer', 'abpc ↑', 'abpc, 95 % interval', 'samples']
    """
    interval = f"{percent(evaluation.confidence, 0)} interval"
    rows = []
    for explainer in evaluation.explainers:
        line: dict[str, Any] = {"explainer": explainer}
        counts = []
        for metric in evaluation.metrics:
            row = evaluation[explainer, metric]
            arrow = "↑" if row.direction == "maximize" else "↓"
            line[f"{metric} {arrow}"] = row.mean if row.n else ("failed" if row.error else "NaN")
            line[f"{metric}, {interval}"] = _range_text(row.low, row.high)
            counts.append(row.n)
        rows.append({**line, "samples": max(counts, default=0)})
    notes = [f"{sentence}." for sentence in evaluation.directions()]
    notes += ["Intervals are bootstraps over the samples."]
    notes += [f"{row.explainer}, {row.metric} failed: {row.error}." for row in evaluation if row.error]
    notes += [f"{row.explainer}, {row.metric}: {row.n_nan} samples without a value." for row in evaluation if row.n_nan]
    notes += ["Stopped by Ctrl-C."] if evaluation.stopped == "interrupted" else []
    return [Table(title, rows, " ".join(notes))]


def tuning_sections(result: TuneResult[Any], *, title: str = "Tuning") -> list[Section]:
    """Tables and figures of a search: the best settings, history, importance, Pareto front, trials.

    Args:
        result: what `tune` or `tune_mitigator` returned.
        title: of the first section, and before those of the others.

    Returns:
        Tables and figures; a kind of figure for which the result has no data is left out.
    """
    goal = result.goals[0]
    best, gain = _unbound(result.best), result.gain_interval
    summary = {
        "found": "the default: no gain beyond noise" if result.kept_default else "best settings",
        "settings": best,
        goal.name: result.value,
        f"{goal.name} before": _cell(result.default_value),
        "95 % interval of the gain": _range_text(gain.low, gain.high) if gain else _range_text(math.nan, math.nan),
    }
    inactive = f" Without any effect: {', '.join(result.inactive_settings)}." if result.inactive_settings else ""
    sections: list[Section] = [
        Table(title, [summary], f"{len(result.trials)} trials; better: {goal.direction}.{inactive}")
    ]
    sections += list(_tuning_pictures(result, title, best))
    if len(result.goals) > 1:
        front = [{"trial": p.trial, **p.values, "settings": _unbound(p.value)} for p in result.front]
        sections.append(Table(f"{title}: Pareto front", front, "What no other trial beats in every objective."))
    columns = [
        {
            "trial": row["trial"],
            "state": row["state"],
            **_objectives(row, result),
            "seconds": _cell(row["seconds"]),
            **{name: _cell(value) for name, value in row["settings"].items()},
        }
        for row in result.trials[:MOST_TRIALS]
    ]
    note = f"The first {MOST_TRIALS} of {len(result.trials)}." if len(result.trials) > MOST_TRIALS else ""
    return [*sections, Table(f"{title}: trials", columns, note)]


def _tuning_pictures(result: TuneResult[Any], title: str, best: str) -> Iterator[Picture]:
    from xaikit.report import tuning_figures

    goal = result.goals[0].name
    values = [row["value"] for row in result.trials if row["state"] == "complete"]
    if not values:
        return
    description = (
        f"{goal} of {len(values)} trials, from {min(values):.4g} to {max(values):.4g}; "
        f"{result.value:.4g} at the best, {best}"
    )
    yield Picture(f"{title}: history", tuning_figures.history(result), description)
    if len(set(values)) > 1:
        names = ", ".join(dict.fromkeys(name for row in result.trials for name in row["settings"]))
        yield Picture(
            f"{title}: what mattered", tuning_figures.importance(result), f"share of each setting in {goal}: {names}"
        )
    if len(result.goals) in (2, 3):
        names = " against ".join(g.name for g in result.goals)
        yield Picture(
            f"{title}: front", tuning_figures.front(result), f"{names}; {len(result.front)} trials on the front"
        )


def mitigation_sections(
    comparison: Comparison,
    groups: Mapping[str, Mapping[str, Mapping[Any, float]]] | None = None,
    *,
    title: str = "Mitigation",
    conclusion: str = "",
) -> list[Section]:
    """Every measure before and after (or of each training), and a figure of the accuracies and the relevance.

    Args:
        comparison: what `compare` returned.
        groups: accuracies by training, variant of the shortcut and group, as in `Assessment.groups`; None leaves out
            their table.
        title: of the first section, and before those of the others.
        conclusion: the sentence for the head of the page; empty tells the accuracy with the shortcut exchanged.

    Returns:
        A table of all measures, figures, and with `groups` a table of the accuracies in each group.
    """
    from xaikit.mitigation.compare import better
    from xaikit.report.comparisons import plot_comparison

    rows = []
    for measure in comparison.measures:
        line: dict[str, Any] = {"measure": f"{measure} {better(measure)}".rstrip()}
        for name in comparison.rows:
            line[name] = comparison.mean(name, measure)
            margin = comparison.margin(name, measure)
            if not math.isnan(margin):
                line[f"{name} ±"] = margin
        rows.append(line)
    note = (
        "kept, randomised, flipped, removed: what became of the shortcut; worst: accuracy in the worst "
        "group; changed: share of predictions that change; reliance: share that change by the shortcut of another "
        "class, less those that change by that of the same class; mass: share of the relevance that lies in the mask. "
        "↑ higher and ↓ lower is better, for the model: it should be right, and little should hang on the shortcut."
    )
    sections: list[Section] = [Table(title, rows, note, shares=True, conclusion=conclusion or _exchanged(comparison))]
    for kind, heading in DRAWN_MEASURES.items():
        measures = [m for m in comparison.measures if m.startswith(f"{kind} ")]
        if measures:
            values_text = "; ".join(f"{m.removeprefix(f'{kind} ')}: {_shares(comparison, m)}" for m in measures)
            picture = plot_comparison(comparison, kind=kind)
            sections.append(Picture(f"{title}: {heading}", picture, f"{heading}, {values_text}"))
    if groups:
        sections.append(Table(f"{title}: accuracy in each group", _by_group(groups), shares=True))
    return sections


def _exchanged(comparison: Comparison) -> str:
    """What became of the predictions with the shortcut exchanged, from the first training to the last."""
    from xaikit.mitigation.reliance import RELIES

    measure = next((f"accuracy {n}" for n in ("flipped", "randomised") if f"accuracy {n}" in comparison.measures), None)
    trainings = list(comparison.rows)
    if measure is None or not trainings:
        return ""
    first, last = trainings[0], trainings[-1]
    shares = {name: f"{percent(comparison.mean(name, measure))} ({name})" for name in (first, last)}
    became = f"is {shares[first]}" if first == last else f"goes from {shares[first]} to {shares[last]}"
    changed = measure.replace("accuracy", "changed")
    if changed not in comparison.measures:
        return f"With the shortcut exchanged, the accuracy {became}."
    follows = comparison.mean(last, changed)
    if "relies" in comparison.measures:
        relies = comparison.mean(last, "relies") > 0.5  # of the trainings with several seeds
    else:  # of an older version
        relies = min(comparison.mean(last, m) for m in (changed, "reliance") if m in comparison.measures) > RELIES
    verdict = "still relies" if relies else "does not rely"
    model = "The model" if first == last else f"The model {last!r}"
    return (
        f"{model} {verdict} on the shortcut: with it exchanged, {percent(follows)} of the predictions change, and the "
        f"accuracy {became}."
    )


def _by_group(groups: Mapping[str, Mapping[str, Mapping[Any, float]]]) -> list[dict[str, Any]]:
    first = next(iter(groups.values()))
    names = next(iter(first.values()), {})
    return [
        {"group": str(name)}
        | {f"{became}, {training}": groups[training][became].get(name) for became in first for training in groups}
        for name in names
    ]


def profile_sections(
    recommendation: Recommendation | Mapping[str, Any], *, title: str = "Model profile"
) -> list[Section]:
    """The profile of a model, and the explainers that suit it.

    Args:
        recommendation: what `recommend` returned, or the values that its `to_dict` gives.
        title: of the first table.

    Returns:
        Two tables.
    """
    content = recommendation if isinstance(recommendation, Mapping) else recommendation.to_dict()
    profile, metric = content["profile"], content["metric"]
    facts: dict[str, Any] = {"class": profile["model"], "parameters": profile["parameters"]}
    facts |= {f"{kind} layers": count for kind, count in profile["kinds"].items()}
    facts["outputs per sample"] = profile["outputs"]
    facts["runs more than once"] = ", ".join(profile["reused"])
    facts["between modules"] = ", ".join(profile["functions"] or ())
    facts["embedding"] = profile["embedding"]
    table = Table(title, [{"what": what, "value": value} for what, value in facts.items() if value not in (None, "")])
    suited = [item for item in content["candidates"] if item["against"] is None]
    rows = [
        {
            "place": place,
            "explainer": item["name"],
            **({} if metric is None else {metric: _cell(item["value"]), "95 % interval": _interval(item)}),
            "points": round(item["points"], 2),
            "passes": item["passes"],
            "why": "; ".join(item["reasons"]),
        }
        for place, item in enumerate(suited[:MOST_EXPLAINERS], 1)
    ]
    against = "; ".join(f"{item['name']}: {item['against']}" for item in content["candidates"] if item["against"])
    others = ", ".join(item["name"] for item in suited[MOST_EXPLAINERS:])
    notes = [f"Further down: {others}."] if others else []
    notes += [f"Not suited: {against}."] if against else []
    return [table, Table("Explainers that suit it", rows, " ".join(notes))]


def _interval(candidate: Mapping[str, Any]) -> str:
    """The interval of a candidate's mean, as text; files of xaikit 0.1 have none."""
    interval = candidate.get("interval")
    return "" if interval is None or interval["low"] is None else _range_text(interval["low"], interval["high"])


def _objectives(row: Mapping[str, Any], result: TuneResult[Any]) -> dict[str, Any]:
    """The values of a trial by the names of the goals; only a search with several goals keeps a value for each."""
    names = [goal.name for goal in result.goals]
    values = row.get("values") or {names[0]: row["value"]}
    return {name: _cell(values.get(name)) for name in names}


def _shares(comparison: Comparison, measure: str) -> str:
    return ", ".join(f"{name} {percent(comparison.mean(name, measure))}" for name in comparison.rows)


def _unbound(value: Any) -> str:
    return str(value.set_kwargs(model=None) if isinstance(value, Explainer) else value)


def _cell(value: Any) -> Any:
    """A cell of a table: None for numbers that are not finite, text for values that are neither number nor text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _range_text(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3g} to {high:.3g}"
