"""The ends of error sentences."""

from __future__ import annotations

import pytest
import torch

from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names


def test_of_many_names_the_first_are_listed() -> None:
    assert near_names("zzz", ["b", "a"]) == "; known are 'a', 'b'"
    assert near_names("zzz", map(str, range(1000, 1100))).endswith("'1058', '1059' and 40 more")
    assert near_names("zzz", []) == ""
    assert near_names("smothgrad", ["smoothgrad", "vargrad"]) == "; did you mean 'smoothgrad'?"


@pytest.mark.parametrize("value", [torch.rand(20, 20), list(range(500)), torch.nn.Sequential(*[torch.nn.ReLU()] * 50)])
def test_a_message_shows_a_large_value_in_one_short_line(value: object) -> None:
    for wrong in (lambda: EXPLAINERS.create(value), lambda: EXPLAINERS.create("smoothgrad", n_iter=value)):
        with pytest.raises((InvalidTypeError, InvalidInputError)) as error:
            wrong()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300
