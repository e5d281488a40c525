"""The jobs that the page may start: four verbs, and the settings of each, checked one by one.

A setting is a number, a yes or no, or the name of something registered. None can name code, a file or a folder.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from xaikit.core import FACTORS, MITIGATORS
from xaikit.core.errors import InvalidInputError, XaikitError, near_names

SPEC = re.compile(r"[a-z][a-z0-9_.]*(:[\w=,.+\-\[\] ]{1,200})?")
FORMS_OF_TEXT = {
    "budget": re.compile(r"\d{1,4}( ?(s|sec|min|h))?"),
    "class": re.compile(r"\d{1,9}"),
    "factor": SPEC,
    "mitigator": SPEC,
}


@dataclasses.dataclass(frozen=True)
class JobSetting:
    """One setting of a job.

    Attributes:
        kind: "whole", "share", "switch", "budget", "class", "factor" or "mitigator".
        label: of the field in the page.
        usual: its default.
        most: the largest whole number.
        hint: what it means.
    """

    kind: str
    label: str
    usual: Any
    most: int = 10**6
    hint: str = ""


SEED = JobSetting("whole", "Seed", 0, hint="Of everything random.")
FORMS: dict[str, dict[str, JobSetting]] = {
    "scan": {
        "factor": JobSetting("factor", "Factor", "", hint="Such as hue or corner:size=3. Empty: what suits the data."),
        "limit": JobSetting("whole", "Samples at most", 2000, hint="0: all."),
        "seed": SEED,
    },
    "mend": {
        "budget": JobSetting("budget", "Budget", "", hint="Trainings (2) or a time (10 min). Empty: all methods."),
        "epochs": JobSetting("whole", "Epochs at most", 0, 10_000, "0: by the number of samples."),
        "max_loss": JobSetting("share", "Accuracy that may be lost", 0.02, hint="With the shortcut kept: 0.02 is 2 %."),
        "from_scratch": JobSetting("switch", "Train from scratch", False, hint="Draw the weights anew."),
        "method": JobSetting("mitigator", "Method", "", hint="Such as rrr:lambda_rrr=1. Empty: those that suit."),
        "seed": SEED,
    },
    "assess": {"seed": SEED},
    "shortcuts": {
        "of_class": JobSetting("class", "Class", "", hint="Its number. Empty: all; one class at a time shows more."),
        "n_clusters": JobSetting("whole", "Clusters", 0, 50, "0: by the explanations themselves."),
    },
}
MODEL_FREE = ("shortcuts",)  # verbs that read the run alone


def checked_settings(verb: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a job as a job file has them, without those that are as usual.

    Args:
        verb: one of `FORMS`.
        settings: from the page.

    Raises:
        InvalidInputError: for a verb or a setting that the page may not name, or a value that it cannot have.
    """
    if verb not in FORMS:
        raise InvalidInputError(f"the studio starts {', '.join(FORMS)}, not {verb!r}")
    form = FORMS[verb]
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in form:
            raise InvalidInputError(f"{verb} has no setting {name!r} in the studio{near_names(str(name), form)}")
        result = _checked(form[name], value)
        if result != form[name].usual or name == "limit":
            checked[name] = [result] if form[name].kind == "mitigator" or (verb, name) == ("scan", "factor") else result
    return checked


def form_of(verb: str) -> list[dict[str, Any]]:
    """The fields of a verb, for the page.

    Args:
        verb: one of `FORMS`.
    """
    return [{"name": name, **dataclasses.asdict(setting)} for name, setting in FORMS[verb].items()]


def _checked(setting: JobSetting, value: Any) -> Any:
    checks = {"switch": _switch, "whole": _whole, "share": _share}
    return checks.get(setting.kind, _text)(setting, value)


def _wrong(setting: JobSetting, value: Any) -> InvalidInputError:
    return InvalidInputError(f"{setting.label} cannot be {str(value)[:60]!r}")


def _switch(setting: JobSetting, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(setting, value)
    return value


def _whole(setting: JobSetting, value: Any) -> int:
    number = _number(value)
    if number is None or number != int(number) or not 0 <= number <= setting.most:
        raise _wrong(setting, value)
    return int(number)


def _share(setting: JobSetting, value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise _wrong(setting, value)
    return number


def _text(setting: JobSetting, value: Any) -> str:
    text = value.strip() if isinstance(value, str) else None
    if text == "":
        return text
    if text is None or not FORMS_OF_TEXT[setting.kind].fullmatch(text):
        raise _wrong(setting, value)
    if setting.kind in ("factor", "mitigator"):
        try:
            (FACTORS if setting.kind == "factor" else MITIGATORS).create(text)
        except XaikitError as err:
            raise InvalidInputError(f"{setting.label}: {err}") from None
    return text


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < 1e12 else None
