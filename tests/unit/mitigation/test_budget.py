"""What a search may spend, read."""

from __future__ import annotations

import pytest

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation.budget import read_budget


@pytest.mark.parametrize(
    ("value", "trainings", "seconds"),
    [
        (3, 3, float("inf")), ("3", 3, float("inf")), (None, None, float("inf")), ("90 s", None, 90),
        ("90s", None, 90), ("1.5 min", None, 90), ("10 minutes", None, 600), ("2 h", None, 7200),
        ("1 hour", None, 3600), ("30 Seconds", None, 30),
    ],
)  # fmt: skip
def test_budgets(value, trainings, seconds):
    budget = read_budget(value)
    assert (budget.trainings, budget.seconds) == (trainings, seconds)


def test_what_is_no_budget():
    for value in (0, -1, "0 s"):
        with pytest.raises(InvalidInputError, match="at least one training, got|must be a time above 0, got"):
            read_budget(value)
    for value in ("ten", "10 days", "1.2.3 s", "", "s", 2.5):
        with pytest.raises(InvalidInputError, match="a number of trainings, such as 3, or a time, such as '10 min'"):
            read_budget(value)
    for value in (True, [3], {}):
        with pytest.raises(InvalidTypeError, match="a number of trainings"):
            read_budget(value)
