"""The ends of error sentences."""

from __future__ import annotations

from xaikit.core.errors import near_names


def test_of_many_names_the_first_are_listed() -> None:
    assert near_names("zzz", ["b", "a"]) == "; known are 'a', 'b'"
    assert near_names("zzz", map(str, range(1000, 1100))).endswith("'1058', '1059' and 40 more")
    assert near_names("zzz", []) == ""
    assert near_names("smothgrad", ["smoothgrad", "vargrad"]) == "; did you mean 'smoothgrad'?"
