"""assess: every number by hand, on models whose reliance is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.factors import MaskedRegion
from xaikit.mitigation import Assessment, assess


class Reads(nn.Module):
    """A model that predicts the class by a pixel of the corner, by the rest of the image, or by a mixture of both."""

    def __init__(self, corner: float, classes: int = 4):
        super().__init__()
        self.corner, self.classes = nn.Parameter(torch.tensor(corner)), classes

    def forward(self, x):
        told = 0.1 + self.corner * x[:, 0, 0, 0] + (1 - self.corner) * x[:, 0, 1:, :].mean((1, 2))
        return -((told[:, None] - torch.arange(self.classes)) ** 2)


def data(n=40, classes=4):
    """The corner tells the label, and so does the lower part."""
    y = torch.arange(n) % classes
    x = torch.zeros(n, 1, 3, 3)
    x[:, 0, 0, 0] = y
    x[:, 0, 1:] = y[:, None, None]
    return x, y


def corner():
    mask = torch.zeros(3, 3)
    mask[0, 0] = 1
    return mask


def put(x, told):
    changed = x.clone()
    changed[:, 0, 0, 0] = 0 if told is None else told
    return changed


def measure(model, given, **settings):
    return assess(model, given, progress=False, **settings)


@pytest.mark.parametrize("how", ["decoy", "masks", "masks in the data", "loader"])
def test_a_model_that_reads_only_the_shortcut(how):
    x, y = data()
    given = {
        "decoy": ((x, y), {"decoy": put}),
        "masks": ((x, y), {"shortcut_masks": corner()}),
        "masks in the data": ((x, y, corner().expand(40, 3, 3)), {}),
        "loader": (DataLoader(TensorDataset(x, y), batch_size=7), {"shortcut_masks": corner().expand(40, 3, 3)}),
    }
    samples, settings = given[how]
    fooled = measure(Reads(1.0), samples, **settings)
    assert fooled.accuracy["kept"] == 1
    assert fooled.accuracy["flipped"] == 0
    assert fooled.accuracy["removed"] == 0.25  # an empty corner tells class 0
    assert fooled.groups["removed"] == {0: 1, 1: 0, 2: 0, 3: 0}
    assert 0.05 < fooled.accuracy["randomised"] < 0.5
    assert fooled.changed == pytest.approx({k: 1 - fooled.accuracy[k] for k in ("randomised", "flipped", "removed")})
    honest = measure(Reads(0.0), samples, **settings)
    assert set(honest.accuracy.values()) == {1.0}
    assert set(honest.changed.values()) == {0.0}
    assert honest.samples == 40
    if how != "decoy":
        assert fooled.mass == {"gradient": 1.0}
        assert honest.mass == {"gradient": 0.0}
        assert fooled.area == pytest.approx(1 / 9)
    else:
        assert fooled.mass == {}


def test_the_middle_class_is_told_as_another_one():
    x, y = data(30, classes=3)
    assert measure(Reads(1.0, 3), (x, y), decoy=put).accuracy["flipped"] == 0


def test_groups_of_the_users_and_the_worst_of_them():
    x, y = data()
    x[:10, 0, 1:] = 0  # the first ten have lost their digit
    groups = ["lost"] * 10 + ["whole"] * 30
    found = measure(Reads(0.0), (x, y), groups=groups, decoy={"greyed": lambda x, y: x * 0})  # noqa: ARG005
    lost = (y[:10] == 0).double().mean().item()
    assert found.groups["kept"] == {"lost": lost, "whole": 1.0}
    assert found.worst == {"kept": lost, "greyed": pytest.approx(min(lost, (y[10:] == 0).double().mean().item()))}
    assert list(found.accuracy) == ["kept", "greyed"]
    by_function = measure(Reads(0.0), [(x[:15], y[:15]), (x[15:], y[15:])], groups=lambda _, y: y > 1)
    assert list(by_function.groups["kept"]) == [False, True]
    assert list(by_function.accuracy) == ["kept"]


def test_mass_counts_the_samples_that_have_a_mask_and_any_explainer():
    """A linear model: gradient and gradient times input have their masses in closed form."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    x, y = torch.rand(8, 1, 3, 3).double(), torch.arange(8) % 3
    masks = (torch.rand(8, 3, 3) > 0.5).double()
    masks[3] = 0
    found = measure(
        model, (x, y), shortcut_masks=masks, explainers=["gradient", "gradient_x_input", "vargrad:n_iter=2"]
    )
    weight = model[1].weight.detach()[y].reshape(8, 3, 3)
    some = [i for i in range(8) if i != 3]
    for name, values in {"gradient": weight, "gradient_x_input": weight * x[:, 0]}.items():
        share = (values.abs() * masks).sum((1, 2)) / values.abs().sum((1, 2))
        assert found.mass[name] == pytest.approx(share[some].mean().item())
    assert found.area == pytest.approx(masks[some].mean().item())
    twice = measure(model, (x, y), shortcut_masks=masks, explainers=["vargrad", "vargrad:n_iter=2"])
    assert [name.partition("(")[0] for name in twice.mass] == ["vargrad", "VarGrad"]
    named = measure(model, (x, y), shortcut_masks=masks, explainers={"penalised": "gradient"})
    assert list(named.mass) == ["penalised"]


def test_the_model_and_the_random_state_are_as_found():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 4))
    model[1].eval()
    before = torch.random.get_rng_state()
    first, second = (
        measure(model, data(), shortcut_masks=corner(), explainers=["smoothgrad:n_iter=2"]) for _ in range(2)
    )
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert measure(model, data(), shortcut_masks=corner(), seed=1) != first


def test_tokens_lend_whole_tokens():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 2)
            self.embedding.weight.data[:, 0] = torch.arange(10)

        def forward(self, tokens):
            told = self.embedding(tokens)[:, 0, 0]
            return -((told[:, None] - torch.tensor([3.0, 7.0])) ** 2)

    y = torch.arange(12) % 2
    tokens = torch.zeros(12, 5).long()
    tokens[:, 0] = torch.tensor([3, 7])[y]
    mask = torch.tensor([1.0, 0, 0, 0, 0])
    found = measure(Words(), (tokens, y), shortcut_masks=mask, explainers=())
    assert (found.accuracy["kept"], found.accuracy["flipped"]) == (1, 0)


def test_masked_tokens_are_exchanged_wherever_they_stand():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 2)
            self.embedding.weight.data.zero_()
            self.embedding.weight.data[3, 0] = self.embedding.weight.data[7, 1] = 1

        def forward(self, tokens):
            return self.embedding(tokens).sum(1)

    y = torch.arange(12) % 2
    tokens = torch.ones(12, 5).long()
    tokens[torch.arange(12), torch.randint(5, (12,), generator=torch.Generator().manual_seed(0))] = torch.tensor(
        [3, 7]
    )[y]
    found = measure(
        Counts(), (tokens, y), shortcut_masks=torch.isin(tokens, torch.tensor([3, 7])).float(), explainers=()
    )
    assert (found.accuracy["kept"], found.accuracy["flipped"], found.accuracy["removed"]) == (1, 0, 0.5)
    assert 0 < found.accuracy["randomised"] < 1


def test_what_it_looks_like():
    found = measure(Reads(1.0), data(), shortcut_masks=corner())
    assert repr(found).splitlines()[:3] == [
        "Assessment of 40 samples",
        found.verdict,
        "shortcut    accuracy  worst group  changed",
    ]
    again = Assessment.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.groups["removed"] == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}
    assert again.worst["removed"] == 0
    frame = found.to_pandas()
    assert list(frame.index) == ["kept", "randomised", "flipped", "removed"]
    assert frame.loc["removed", 0] == 1
    assert frame.loc["kept", "changed"] == 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            {"shortcut_masks": torch.ones(39, 3, 3)},
            InvalidInputError,
            r"masks must have shape \(3, 3\) for all samples, \(40, 3, 3\) .*; got \(39, 3, 3\)",
        ),
        ({"shortcut_masks": torch.ones(41, 3, 3)}, InvalidInputError, r"masks must have shape .* got \(41, 3, 3\)"),
        (
            {"masks": torch.ones(3, 3)},
            InvalidTypeError,
            "assess.. has no argument 'masks' any more; it is called 'shortcut_masks' now",
        ),
        ({"shortcut_masks": torch.ones(2, 2, 2, 2, 2)}, InvalidInputError, "masks must have shape"),
        ({"groups": [0] * 39}, InvalidInputError, "groups must name one for each of the 40 samples"),
        ({"groups": [0] * 41}, InvalidInputError, "groups must name one for each of the 40 samples, got 41"),
        ({"decoy": 3}, InvalidTypeError, "decoy must be a function"),
        ({"explainers": ["gradiant"]}, UnknownNameError, "gradient"),
    ],
)
def test_wrong_calls(given, error, words):
    with pytest.raises(error, match=words):
        measure(Reads(1.0), data(), **given)


def hued(n=120, seed=0):
    """One hue for each of two classes; the brightness of the left half tells nothing."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    grey = 0.2 + 0.8 * torch.rand(n, 1, 4, 4, generator=generator)
    colours = torch.tensor([[1.0, 0.1, 0.1], [0.1, 0.1, 1.0]])
    return grey * colours[y].view(n, 3, 1, 1), y


class RedOrBlue(nn.Module):
    """Answers by the hue alone."""

    def forward(self, x):
        return x.mean((2, 3))[:, [0, 2]]


def test_a_factor_in_place_of_masks():
    x, y = hued()
    found = assess(RedOrBlue(), (x, y), factor="hue", explainers=(), progress=False)
    assert list(found.accuracy) == ["kept", "randomised", "flipped"]
    assert found.accuracy["kept"] == 1.0
    assert found.accuracy["flipped"] == 0.0
    assert 0.3 < found.accuracy["randomised"] < 0.7
    assert found.relies
    assert found.verdict.startswith("still relies on it: 100.0 % of predictions change")
    # The saturation is the same in all: nothing to exchange.
    with pytest.raises(InvalidInputError, match="no sample shows the factor"):
        assess(RedOrBlue(), (x, y), factor="saturation", explainers=(), progress=False)
    bright = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    nn.init.zeros_(bright[1].weight)
    assert not assess(bright, (x, y), factor="hue", explainers=(), progress=False).relies


def test_a_region_as_a_factor_is_a_mask():
    x, y = hued()
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    by_mask = assess(RedOrBlue(), (x, y), shortcut_masks=mask, explainers=(), progress=False)
    assert assess(RedOrBlue(), (x, y), factor=MaskedRegion(mask=mask), explainers=(), progress=False) == by_mask
    # The same region as a corner, by its factor; a factor is never removed.
    square = torch.zeros(4, 4)
    square[:2, :2] = 1
    corner = assess(RedOrBlue(), (x, y), factor="corner:size=2", explainers=(), progress=False)
    region = assess(RedOrBlue(), (x, y), shortcut_masks=square, explainers=(), progress=False)
    assert {**corner.accuracy, "removed": region.accuracy["removed"]} == region.accuracy


def test_factors_that_cannot_be_assessed():
    x, y = hued()
    for options, kind, sentence in (
        ({"factor": "hue", "decoy": lambda x, told: x}, InvalidTypeError, "a factor or a decoy, got both"),  # noqa: ARG005
        ({"factor": "corners"}, InvalidInputError, "the factor 'corners' stands for several"),
        ({"factor": "hues"}, UnknownNameError, "unknown factor 'hues'"),
        ({"factor": "words:ids=[3]"}, InvalidInputError, "is of text data, got image"),
    ):
        with pytest.raises(kind, match=sentence):
            assess(RedOrBlue(), (x, y), explainers=(), progress=False, **options)
    with pytest.raises(InvalidInputError, match="nothing was exchanged; assess needs samples of two classes"):
        assess(RedOrBlue(), (x, y), explainers=(), progress=False).relies  # noqa: B018


def test_one_of_several_labels_is_judged_by_its_output_alone():
    class Alone(nn.Module):
        def __init__(self, model, place):
            super().__init__()
            self.model, self.place = model, place

        def forward(self, x):
            return self.model(x)[:, self.place : self.place + 1]

    torch.manual_seed(0)
    model, x = nn.Linear(6, 4), torch.randn(40, 6)
    with torch.no_grad():
        model.weight.zero_()[:, 0] = 5
        model.bias.zero_()
    labels, mask = (x[:, :1] > 0).float().expand(40, 4), torch.zeros(40, 6)
    mask[:, 0] = 1
    with pytest.raises(InvalidInputError, match=r"to judge one of them pass labels\[:, 0\] as whole numbers"):
        assess(model, (x, labels, mask), explainers=())
    assert assess(Alone(model, 2), (x, labels[:, 2].long(), mask), explainers=()).relies


def test_a_region_that_is_the_same_in_all_samples_tells_nothing():
    """The model follows it alone; exchanged for an equal one it changes no prediction, which would read as free."""
    x, y = np.random.default_rng(0).normal(size=(20, 3)).astype("float32"), [0, 1] * 10
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-9.0, 0, 0], [9, 0, 0]]))
    mask = np.array([1, 0, 0])
    x[:, 0] = [-1.5, 1.5] * 10
    assert assess(model, (x, y), shortcut_masks=mask, progress=False).relies
    x[:, 0] = 1.5
    for masks in (mask, [mask if i % 2 else None for i in range(20)]):
        result = assess(model, (x, y), shortcut_masks=masks, progress=False)
        assert result.verdict == "whether it relies on the shortcut is unknown: nothing was exchanged"
        with pytest.raises(InvalidInputError, match="neither empty nor the same in all of them"):
            _ = result.relies
    x[3, 0] = -1.5  # one sample differs, and lends
    assert assess(model, (x, y), shortcut_masks=mask, progress=False).changed["flipped"] == pytest.approx(1 / 20)


class Bag(nn.Module):
    """Texts of token 1 are of class 1, unless the attention mask leaves it out."""

    def forward(self, input_ids, attention_mask):
        shown = ((input_ids == 1) * attention_mask).sum(1).float()
        return torch.stack([0.5 - shown, shown - 0.5], 1)


def test_masks_of_tokens_beside_an_attention_mask():
    """One mask is over the first of several inputs, as the mitigators have it."""
    ids = np.full((24, 4), 3)
    y = [i % 2 for i in range(24)]
    ids[:, 0] = [1 if label else 2 for label in y]
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    result = assess(Bag(), (batch, y), shortcut_masks=(ids < 3), explainers=(), progress=False)
    assert result.relies
    assert result.accuracy["flipped"] == 0
    several = {"input_ids": ids < 3, "attention_mask": ids < 3}
    with pytest.raises(InvalidInputError, match=r"masks of 2 inputs; pass one mask.*decoy="):
        assess(Bag(), (batch, y), shortcut_masks=several, explainers=(), progress=False)
