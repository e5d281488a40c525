"""What a search may spend: a number of trainings, or a time."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import Any

import numpy as np

from xaikit.core.errors import InvalidInputError, InvalidTypeError

UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


@dataclasses.dataclass
class Budget:
    """Trainings and seconds that may be spent.

    Attributes:
        trainings: how many at most; None for any number.
        seconds: how long at most.
        started: when it began, on the monotonic clock.
    """

    trainings: int | None = None
    seconds: float = math.inf
    started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)


def read_budget(value: Any) -> Budget:
    """What a user allows: a whole number of trainings, or a time such as "90 s", "10 min", "2 h"; None for anything.

    Args:
        value: of the user.

    Raises:
        InvalidInputError, InvalidTypeError: for anything else, and for less than one training.

    >>> read_budget("10 min").seconds, read_budget(3).trainings
    (600.0, 3)
    """
    if value is None:
        return Budget()
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = int(value)
        if value < 1:
            raise InvalidInputError(f"a budget must hold at least one training, got {value}")
        return Budget(trainings=value)
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([\d.]+)\s*([a-z]+?)s?\s*", value.lower())):
        number, unit = match.groups()
        if (unit or "s") in UNITS and _is_number(number):
            seconds = float(number) * UNITS[unit or "s"]
            if seconds <= 0:
                raise InvalidInputError(f"a budget must be a time above 0, got {value!r}")
            return Budget(seconds=seconds)
    sentence = f"a budget is a number of trainings, such as 3, or a time, such as '10 min', got {value!r}"
    raise (InvalidInputError if isinstance(value, (str, float)) else InvalidTypeError)(sentence)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
