"""mend with groups: a planted world in which few samples lack the shortcut; refusals."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import MendResult, mend
from xaikit.mitigation.mend_groups import split_rows
from xaikit.mitigation.mend_result import MendTry


def world(n=600, seed=0):
    """Column 0 is the shortcut, which agrees with the label in nine of ten samples; column 1 is the honest signal."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    agrees = torch.rand(n, generator=generator) < 0.9
    sign = 2.0 * y - 1
    x = torch.randn(n, 4, generator=generator)
    x[:, 0] = 4 * torch.where(agrees, sign, -sign)
    x[:, 1] += sign
    return x, y, [f"{label} {'with' if a else 'against'}" for label, a in zip(y.tolist(), agrees.tolist(), strict=True)]


def fooled(x, y):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def worst(model, x, y, groups):
    right = (model(x).argmax(1) == y).double()
    return min(right[[i for i, g in enumerate(groups) if g == name]].mean().item() for name in set(groups))


def test_groups_alone_raise_the_worst_of_them():
    x, y, groups = world()
    model = fooled(x, y)
    result = mend(model, (x, y), None, groups=groups, n_epochs=6, progress=False)
    names = {row.method.partition(":")[0] for row in result.tries[1:]}
    assert names <= {"dfr", "group_balanced", "group_dro"}
    assert "dfr" in names
    test = world(2000, seed=1)
    before, after = worst(model, *test), worst(result.model, *test)
    assert after > before + 0.15
    assert result.chosen.worst_group == max(row.worst_group for row in result.tries)
    assert result.tries[0].worst_group == pytest.approx(before, abs=0.2)
    assert f"worst group {100 * result.tries[0].worst_group:.1f} % before" in result.verdict
    assert "worst group" in repr(result)
    assert MendResult.from_dict(result.to_dict()) == result


def test_a_function_names_the_same_groups():
    x, y, groups = world(200)
    options = {"methods": "group_balanced:lr=0.05", "n_epochs": 2, "progress": False}
    named = mend(fooled(x, y), (x, y), None, groups=groups, **options)
    by_function = mend(fooled(x, y), (x, y), None, groups=lambda x, y: (2 * y + (x[:, 0] > 0)).tolist(), **options)
    assert [row.worst_group for row in by_function.tries] == [row.worst_group for row in named.tries]


def test_beside_a_shortcut_the_worst_group_with_it_exchanged_counts():
    x, y, groups = world()
    mask = torch.tensor([1.0, 0, 0, 0])
    options = {"n_epochs": 3, "progress": False, "methods": ["counterexamples:lambda_ce=100,fill=region,lr=0.01"]}
    options["methods"] += ["dfr:lr=0.01"]
    result = mend(fooled(x, y), (x, y), mask, groups=groups, **options)
    plain = mend(fooled(x, y), (x, y), mask, **options)
    assert result.tries[1].method.startswith("counterexamples")
    assert result.tries[0].worst_group < result.tries[0].accuracy_exchanged
    assert "in the worst group with it exchanged" in result.verdict
    assert "worst group" not in plain.verdict
    assert not result.relies


def test_a_named_method_gets_its_groups():
    x, y, groups = world(200)
    result = mend(
        fooled(x, y), (x, y), None, groups=groups, methods="group_balanced:lr=0.05", n_epochs=4, progress=False
    )
    assert [row.method.partition(":")[0] for row in result.tries] == ["unchanged", "group_balanced"]


def test_every_group_is_held_out():
    labels = torch.arange(40) % 2
    groups = ["a"] * 36 + ["b", "b", "c", "c"]
    training, held_out = split_rows(labels, groups, seed=3)
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(40))
    assert len(held_out) == 8 + 0  # 4 of 18 each, and none of the pairs, whose two samples are of two classes
    training, held_out = split_rows(0 * labels, groups, seed=3)
    assert {groups[i] for i in held_out.tolist()} == {"a", "b", "c"} == {groups[i] for i in training.tolist()}


def test_groups_that_cannot_be_right():
    x, y, groups = world(100)
    model = nn.Linear(4, 2)
    empty = pd.Series(groups, dtype=pd.CategoricalDtype([*sorted(set(groups)), "none"]))
    for options, kind, sentence in (
        ({"groups": groups[:-1]}, InvalidInputError, "groups must name one for each of the 100 samples, got 99"),
        ({"groups": empty}, InvalidInputError, "the group 'none' is empty"),
        ({"groups": ["a"] * 100}, InvalidInputError, "at least two groups of samples apart, and all are of 'a'"),
        ({"groups": ["b", *"a" * 99]}, InvalidInputError, r"the group 'b' is empty among the samples held out \(1"),
        ({"groups": groups, "validation": (x, y)}, InvalidInputError, "name them with validation_groups="),
        (
            {"groups": groups, "validation": (x, y), "validation_groups": ["a"] * 100},
            InvalidInputError,
            "is empty among the samples",
        ),
        ({"groups": 3}, InvalidTypeError, "groups must be"),
        ({}, InvalidTypeError, "None is for samples whose groups are known"),
    ):
        with pytest.raises(kind, match=sentence):
            mend(model, (x, y), None, progress=False, **options)


@pytest.mark.parametrize(("kept", "is_told"), [(0.98, False), (0.97, True)])
def test_a_loss_that_was_allowed_is_not_told(kept, is_told):
    """1 - 0.98 is a little more than 0.02 in floating point."""
    tries = [MendTry("unchanged", 1.0, 0.4, 0.6), MendTry("rrr", kept, 0.97, 0.01)]
    verdict = MendResult("the region", "rrr", tries, None, None, 0.02).verdict
    assert ("points were lost" in verdict) is is_told


def test_the_verdict_speaks_of_one_factor_and_of_several():
    tries = [MendTry("unchanged", 1.0, 0.4, 0.6), MendTry("rrr", 0.99, 0.97, 0.01)]

    def verdict(*titles):
        names = {"added": list(titles), "remaining": list(titles)}
        return MendResult("the hue and contrast", "rrr", tries, None, None, 0.02, **names).verdict

    assert "60.0 % of predictions changed with the hue and contrast exchanged, now 1.0 %" in verdict("light")
    assert "relies on the light, which often changes with it" in verdict("light")
    assert verdict("light").endswith("relied on the light, too, so it was exchanged with it")
    assert "relies on the light and the edges, which often change with it" in verdict("light", "edges")
    assert verdict("light", "edges").endswith("relied on the light and the edges, too, so they were exchanged with it")
