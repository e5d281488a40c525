"""Mask overlap against every placement done by hand, and against what chance must give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaikit.core import Attribution
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.shortcuts import mask_overlap


def corner(height=6, width=5):
    mask = torch.zeros(height, width)
    mask[:2, :2] = 1
    return mask


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("sign", ["absolute", "positive"])
def test_all_shifts_are_those_done_by_hand(each, sign):
    a = torch.randn(4, 2, 6, 5).double()
    mask = torch.stack([corner().roll(i, 1) for i in range(4)]).double() if each else corner().double()
    found = mask_overlap(a, mask, sign=sign)
    r = (a.abs() if sign == "absolute" else a.clamp_min(0)).sum(1)
    r = r / r.sum((1, 2), keepdim=True)
    placed = torch.stack([(r * mask.roll((i, j), (-2, -1))).sum((1, 2)) for i in range(6) for j in range(5)], 1)
    assert torch.allclose(found.share, placed[:, 0])
    assert torch.allclose(found.expected, placed.mean(1))
    assert torch.allclose(found.p_values, (placed >= placed[:, :1] - 1e-9).double().mean(1))
    assert found.p_value == pytest.approx(float((placed.mean(0) >= placed[:, 0].mean() - 1e-9).double().mean()))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([(7,), (4, 5), (3, 2, 3)]))
def test_shares_add_up_and_p_values_are_ranks(seed, n, shape):
    torch.manual_seed(seed)
    a = torch.randn(n, 2, *shape)
    mask = torch.zeros(shape).flatten()
    mask[torch.randperm(mask.numel())[: 1 + seed % (mask.numel() - 1)]] = 1
    mask = mask.view(shape)
    inside, outside = mask_overlap(a, mask), mask_overlap(a, 1 - mask)
    assert torch.allclose(inside.share + outside.share, torch.ones(n).double())
    assert torch.allclose(inside.expected, mask.double().mean().expand(n))
    assert ((inside.p_values >= 1 / mask.numel() - 1e-12) & (inside.p_values <= 1)).all()


@pytest.mark.parametrize("null", ["shift", "positions"])
def test_chance_is_significant_as_often_as_it_says(null):
    """Under the null hypothesis P(p <= 0.1) = 0.1."""
    a = torch.rand(600, 1, 10, 10)
    p = mask_overlap(a, corner(10, 10), null=null, n_permutations=99).p_values
    assert 0.06 < float((p <= 0.1).double().mean()) < 0.14


def test_smooth_maps_need_the_shift():
    """On smooth maps, permuted positions give far too many small p values; shifts do not."""
    smooth = torch.nn.functional.avg_pool2d(torch.rand(400, 1, 20, 20), 7, 1, 3, count_include_pad=False) ** 8
    mask = torch.zeros(20, 20)
    mask[5:11, 5:11] = 1
    assert float((mask_overlap(smooth, mask).p_values <= 0.05).double().mean()) < 0.09
    loose = mask_overlap(smooth, mask, null="positions", n_permutations=99)
    assert float((loose.p_values <= 0.05).double().mean()) > 0.2


def test_what_samples_share_elsewhere_is_no_evidence():
    """All relevance is in the middle: a mask in a corner overlaps less than elsewhere, one in the middle more."""
    a = torch.rand(30, 1, 9, 9)
    a[:, :, 3:6, 3:6] += 5
    assert mask_overlap(a, corner(9, 9)).p_value > 0.2
    middle = torch.zeros(9, 9)
    middle[3:6, 3:6] = 1
    found = mask_overlap(a, middle)
    assert found.p_value == 1 / 81
    assert "p = 0.012" in repr(found)


def test_tables_attributions_and_samples_without_relevance():
    a = torch.rand(12, 7)
    a[:, 2] += 20
    columns = torch.zeros(7)
    columns[2] = 1
    found = mask_overlap(a, columns, null="positions")
    assert found.p_value == pytest.approx(1 / 7, abs=0.05)
    whole = mask_overlap(Attribution(torch.rand(3, 1, 6, 5), {}), corner()[None, None])
    assert whole.share.shape == (3,)
    a = torch.rand(2, 1, 6, 5)
    a[0] = 0
    found = mask_overlap(a, corner())
    assert found.share[0] == pytest.approx(4 / 30)
    assert found.p_values[0] == 1


@pytest.mark.parametrize(
    ("attributions", "mask", "options", "error", "words"),
    [
        (torch.rand(4, 1, 6, 5), None, {}, InvalidInputError, "must be told which region: pass masks"),
        (torch.rand(4, 1, 6, 5), torch.zeros(6, 5), {}, InvalidInputError, "zero everywhere"),
        (torch.rand(4, 1, 6, 5), torch.ones(6, 5), {}, InvalidInputError, "covers everything"),
        (
            torch.rand(4, 1, 6, 5),
            torch.eye(5),
            {},
            InvalidInputError,
            r"a map of \(5, 5\) is no scaled one of \(6, 5\)",
        ),
        (torch.rand(4, 1, 6, 5), torch.rand(3, 6, 5), {}, InvalidInputError, "masks must have shape"),
        (torch.rand(4, 1, 6, 5), corner() * 2, {}, InvalidInputError, r"\[0, 1\]"),
        (torch.zeros(4, 1, 6, 5), corner(), {}, InvalidInputError, "no sample has any relevance, so"),
        (-torch.rand(4, 1, 6, 5), corner(), {"sign": "positive"}, InvalidInputError, "positive relevance, so"),
        (torch.full((4, 1, 6, 5), float("nan")), corner(), {}, InvalidInputError, "finite"),
        (torch.rand(4), corner(), {}, InvalidInputError, r"shape \(N, ...\)"),
        ("a map", corner(), {}, InvalidTypeError, "attributions must hold numbers"),
        (torch.rand(4, 1, 6, 5), corner(), {"null": "rotate"}, InvalidInputError, "'shift' or 'positions'"),
        (torch.rand(4, 1, 6, 5), corner(), {"sign": "negative"}, InvalidInputError, "sign must be"),
        (
            torch.rand(4, 1, 6, 5),
            corner(),
            {"null": "positions", "n_permutations": 0},
            InvalidInputError,
            "must be >= 1",
        ),
    ],
)
def test_what_cannot_be_right(attributions, mask, options, error, words):
    with pytest.raises(error, match=words):
        mask_overlap(attributions, mask, **options)
