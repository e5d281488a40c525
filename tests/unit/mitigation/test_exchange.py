"""Regions exchanged: from every class, the worst shown, moved to where they belong; and penalties that cannot act."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from xaikit import RRR, assess
from xaikit.factors.exchange import exchanged, transplanted
from xaikit.mitigation import mend
from xaikit.shortcuts import scan


def spot(n, size, row, column, height=2):
    mask = torch.zeros(n, 1, size, size)
    mask[:, :, row : row + height, column : column + height] = 1
    return mask


def test_a_region_is_moved_to_where_the_mask_is():
    donors, source, target = torch.arange(36.0).view(1, 1, 6, 6), spot(1, 6, 0, 1), spot(1, 6, 3, 4)
    moved = transplanted(donors, source, target)
    assert torch.equal(moved[0, 0, 3:5, 4:6], donors[0, 0, 0:2, 1:3])
    assert torch.equal(transplanted(donors, source, source), donors)
    assert torch.equal(transplanted(donors, 0 * source, target), donors)
    larger = transplanted(donors, source, spot(1, 6, 2, 2, height=4))
    assert larger[0, 0, 2, 2] == larger[0, 0, 3, 3] == donors[0, 0, 0, 1]


def moved_by_a_loop(donor, source, target):
    """One image with what its mask's box holds, pixel by pixel, in the box of another mask."""
    moved = donor.clone()
    if bool(source.any()) and bool(target.any()):
        (a, b), (c, d) = (
            [(p.min().item(), p.max().item() + 1) for p in m.any(0).nonzero().T] for m in (source, target)
        )
        for i in range(*c):
            for j in range(*d):
                row = a[0] + (i - c[0]) * (a[1] - a[0]) // (c[1] - c[0])
                column = b[0] + (j - d[0]) * (b[1] - b[0]) // (d[1] - d[0])
                moved[:, i, j] = donor[:, row, column]
    return moved


def test_regions_of_any_size_are_moved_as_a_plain_loop_moves_them():
    generator = torch.Generator().manual_seed(0)
    donors = torch.rand(40, 2, 9, 11, generator=generator)
    masks = torch.zeros(2, 40, 2, 9, 11)
    for mask in masks.flatten(0, 1)[:-2]:  # the last two mark nothing
        top, left = (int(torch.randint(n, (), generator=generator)) for n in (9, 11))
        mask[:, top : top + int(torch.randint(1, 5, (), generator=generator)), left : left + 3] = 1
    found = transplanted(donors, masks[0], masks[1])
    truth = [moved_by_a_loop(d, s, t) for d, s, t in zip(donors, *masks, strict=True)]
    assert torch.equal(found, torch.stack(truth))


@pytest.mark.parametrize("series", [False, True])
def test_windows_of_signals_and_of_series_are_moved(series):
    x = torch.arange(16.0).view(1, 2, 8)  # (N, C, L)
    source, target = torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)
    source[..., 1:3], target[..., 4:8] = 1, 1
    parts = [t.transpose(1, 2) if series else t for t in (x, source, target)]
    moved = transplanted(*parts)
    moved = moved.transpose(1, 2) if series else moved
    assert torch.equal(moved[..., 4:8], x[..., [1, 1, 2, 2]])
    assert torch.equal(moved[..., :4], x[..., :4])


def test_tables_stay():
    x = torch.rand(3, 4)
    assert transplanted(x, torch.eye(4)[:3], torch.eye(4)[1:]) is x


def test_flipped_is_the_worst_class_and_the_verdict_says_so():
    # Of five classes, only the region of class 3 moves predictions, to class 3.
    model = nn.Linear(6, 5)
    model.weight.data, model.bias.data = torch.zeros(5, 6), torch.zeros(5)
    model.weight.data[:, :5] = torch.eye(5)
    model.weight.data[3, 5] = 5
    y = torch.arange(40) % 5
    x = torch.cat([nn.functional.one_hot(y, 5).float(), (y == 3).float()[:, None]], 1)
    mask = torch.tensor([0.0, 0, 0, 0, 0, 1])
    found = assess(model, (x, y), shortcut_masks=mask, progress=False)
    assert found.accuracy["kept"] == 1
    assert found.accuracy["flipped"] == pytest.approx(0.2)  # class 3 itself keeps its own feature
    assert found.groups["flipped"][3] == 1
    assert found.verdict.startswith("still relies on it: 80.0 % of predictions")
    model.weight.data[3, 5] = 0
    assert assess(model, (x, y), shortcut_masks=mask, progress=False).verdict.startswith("does not rely on it: 0.0 %")


def sure_model(outputs):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    x[:, 0] = x[:, 0].sign() * 3
    model = nn.Linear(4, outputs)
    model.weight.data.zero_()
    model.weight.data[-1, 0] = 9.0
    return model, x, (x[:, 0] > 0).long()


@pytest.mark.parametrize(
    "settings", [{}, {"output": "probability"}, {"target": "predicted"}, {"warmup": 1.0}, {"explainer": "smoothgrad"}]
)
def test_a_sure_model_under_a_flat_score_is_warned_of(settings):
    model, x, y = sure_model(2)
    with pytest.warns(UserWarning, match="output='logit'"):
        RRR(n_epochs=2, random_state=0, **settings).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)


@pytest.mark.parametrize("settings", [{"output": "logit"}, {"target": "random"}, {"target": "all"}, {"lambda_rrr": 0}])
def test_a_score_that_is_not_flat_is_not_warned_of(settings):
    model, x, y = sure_model(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RRR(n_epochs=2, random_state=0, **settings).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)


def test_one_logit_is_its_own_score_and_a_model_that_is_not_sure_yet_is_let_be():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for outputs, scale in ((1, 1.0), (2, 0.0)):
            model, x, y = sure_model(outputs)
            model.weight.data *= scale
            RRR(n_epochs=1, random_state=0).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)


def line(angle, size=9):
    """A line through the middle, (1, size, size)."""
    mask = torch.zeros(1, size, size)
    for step in torch.linspace(-4, 4, 40):
        mask[0, int(torch.round(4 + step * math.sin(angle))), int(torch.round(4 + step * math.cos(angle)))] = 1
    return mask


def test_a_line_of_another_direction_lends_its_colour():
    """Moved onto each other the lines hardly meet, so the donor's mean colour is taken over; what is beside stays."""
    masks = torch.stack([line(0.0), line(1.2)])
    colours = torch.tensor([[1.0, 0.2, 0.2], [0.2, 0.2, 1.0]]).view(2, 3, 1, 1)
    x = 0.1 * torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * (1 - masks) + masks * colours
    inside = masks.expand(2, 3, 9, 9)
    found = exchanged(x, inside, x.flip(0), inside.flip(0))
    assert torch.allclose(found, torch.where(inside > 0, colours.flip(0).expand_as(x), x), atol=1e-6)
    # A line that lies elsewhere and has the same direction is moved, with all that is on it.
    shade = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    here = torch.stack([line(0.0), line(0.0).roll(2, 1)]).expand(2, 3, 9, 9)
    moved = exchanged(shade, here, shade.flip(0), here.flip(0))
    assert torch.equal(moved[0][here[0] > 0], shade[1][here[1] > 0])
    # A donor without a region lends what stands at the place.
    empty = torch.stack([line(0.0), 0 * line(0.0)]).expand(2, 3, 9, 9)
    assert torch.equal(exchanged(shade, empty, shade.flip(0), empty.flip(0))[0][empty[0] > 0], shade[1][empty[0] > 0])


def marked_in_one_class(n=200, share=0.3):
    """A bright square anywhere on some images of class 0, which the model goes by; a faint pixel tells both classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x, masks = torch.zeros(n, 1, 8, 8), torch.zeros(n, 8, 8)
    x[:, 0, 7, 7] = 2.0 * y - 1
    for i in ((y == 0) & (torch.rand(n, generator=generator) < share)).nonzero()[:, 0].tolist():
        row, column = torch.randint(6, (2,), generator=generator).tolist()
        x[i, 0, row : row + 2, column : column + 2] = 5
        masks[i, row : row + 2, column : column + 2] = 1
    return x, y, masks


class GoesByTheSquare(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        score = x[:, 0, 7, 7] - self.weight * x[:, 0, :7].flatten(1).amax(1)
        return torch.stack([-score, score], 1)


def test_a_region_that_some_samples_show_is_put_on_those_that_do_not():
    """Plasters on some benign images: taken away nothing changes, the harm is done where they are put on others."""
    x, y, masks = marked_in_one_class()
    some = [mask if bool(mask.any()) else None for mask in masks]
    found = assess(GoesByTheSquare(), (x, y), shortcut_masks=some, explainers=(), progress=False)
    assert found.accuracy["kept"] == 1
    assert found.accuracy["flipped"] == 0.5
    assert found.relies
    assert not assess(GoesByTheSquare(0.0), (x, y), shortcut_masks=some, explainers=(), progress=False).relies
    mended = mend(
        GoesByTheSquare(), (x, y), some, methods="counterexamples:lr=0.1,fill=region,lambda_ce=100", n_epochs=10,
        progress=False,
    )  # fmt: skip
    assert mended.tries[0].relies
    assert not mended.relies
    measured = scan(GoesByTheSquare(), (x, y), "region", shortcut_masks=some, progress=False).effects[0]
    assert measured.leads.mean > 0.4  # as many donors of class 0 without a square as with one
    assert measured.leading_class == 0


def test_where_a_region_is_put_that_a_sample_does_not_have():
    x, donor = torch.zeros(3, 1, 4, 4), torch.arange(16.0).view(1, 1, 4, 4).expand(3, 1, 4, 4)
    mask, lent = spot(3, 4, 0, 0), spot(3, 4, 1, 2)
    mask[0], lent[2] = 0, 0
    changed = exchanged(x, mask, donor, lent)
    assert torch.equal(changed[0], donor[0] * lent[0])  # where it lies in the donor
    assert torch.equal(changed[1, 0, :2, :2], donor[1, 0, 1:3, 2:4])  # moved to the sample's own mask
    assert torch.equal(changed[2], donor[2] * mask[2])  # what the donor has at this place
    assert torch.equal(exchanged(x, 0 * mask, donor, 0 * lent), x)


def test_tokens_that_a_text_does_not_have_are_put_at_the_same_part_of_its_length():
    x, donors = torch.tensor([[4, 5, 6, 0, 0], [4, 9, 6, 7, 8]]), torch.tensor([[1, 2, 3, 9, 9], [1, 2, 3, 0, 0]])
    inside, lent = torch.tensor([[0] * 5, [0, 0, 1, 0, 0]]), torch.tensor([[0, 0, 1, 0, 0], [0] * 5])
    assert exchanged(x, inside.float(), donors, lent.float()).tolist() == [[4, 5, 3, 0, 0], [4, 9, 2, 7, 8]]


def test_a_word_in_few_texts_of_one_class_is_lent_by_those_that_have_it():
    """The word 7 is in 6 of 100 texts of class 1; put into one of class 0 it decides."""
    y = torch.arange(200) % 2
    x = torch.stack([3 + y, *torch.randint(5, 7, (4, 200), generator=torch.Generator().manual_seed(0))], 1)
    x[(y == 1).nonzero()[:6, 0], 2] = 7

    class Reads(nn.Module):
        def forward(self, tokens):
            score = (tokens[:, 0] == 4).float() * 2 - 1 + 9.0 * (tokens == 7).any(1)
            return torch.stack([-score, score], 1)

    options = {"explainers": (), "facts": {"padding": 0}, "progress": False}
    found = assess(Reads(), (x, y), factor="words:ids=[7]", **options)
    assert found.relies
    assert found.groups["flipped"][0] == 0
    both = assess(Reads(), (x, y), factor=["words:ids=[7]", "words:ids=[9]"], **options)
    assert both.groups["flipped"][0] == 0
    assert not assess(Reads(), (x, y), factor="words:ids=[5,6]", **options).relies


def test_that_a_word_is_missing_is_lent_too():
    """The word 7 is in every text of class 0 and in 6 of 100 of class 1; where there is none, the model says 1."""
    y = torch.arange(200) % 2
    x = torch.randint(5, 7, (200, 5), generator=torch.Generator().manual_seed(0))
    x[y == 0, 2] = 7
    x[(y == 1).nonzero()[:6, 0], 2] = 7

    class Reads(nn.Module):
        def forward(self, tokens):
            score = 1.0 - 2.0 * (tokens == 7).any(1)
            return torch.stack([-score, score], 1)

    found = assess(Reads(), (x, y), factor="words:ids=[7]", explainers=(), facts={"padding": 0}, progress=False)
    assert found.accuracy["kept"] == 0.97
    assert found.relies
    assert found.groups["flipped"][0] == 0
