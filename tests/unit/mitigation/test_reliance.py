"""What `assess` counts as reliance: not what any exchange changes, but what follows the class of the donor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.mitigation import Assessment, assess, mend
from xaikit.shortcuts import scan


def corner():
    mask = torch.zeros(3, 3)
    mask[0, 0] = 1
    return mask


def measure(model, samples, **settings):
    return assess(model, samples, progress=False, **settings)


class Jittery(nn.Module):
    """It reads a pixel that tells the label, and more than that a row that tells nothing.

    `follows` is how much it also reads the mark, another pixel that tells the label.
    """

    def __init__(self, follows: float):
        super().__init__()
        self.follows = nn.Parameter(torch.tensor(follows))

    def forward(self, x):
        honest, noise, mark = x[:, 0, 0, 0], x[:, 0, 2].sum(1), x[:, 0, 1, 1]
        score = honest + 4 * noise + self.follows * mark
        return torch.stack([-score, score], 1)


def jittered(n=400, seed=0):
    """The lower row is noise; the middle pixel, the mark, tells the label, and so does the first one, not surely."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 1, 3, 3, generator=generator)
    x[:, 0, 0, 0] += 2.0 * y - 1
    x[:, 0, 1, 1] = 2.0 * y - 1
    mask = torch.zeros(3, 3)
    mask[1:] = 1  # the mark, and the noise that stands beside it
    return (x, y), mask


class Confused(nn.Module):
    """Which of two pixels is the higher one decides, or the lower one: the row that tells nothing says which."""

    def forward(self, x):
        score = x[:, 0, 0, 0] * x[:, 0, 2, 0].sign()
        return torch.stack([-score, score], 1)


def test_a_model_that_any_exchange_confuses_does_not_rely_on_the_shortcut():
    (x, y), mask = jittered()
    x[:, 0, 2, 0] = torch.where(torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.8, 1.0, -1.0)
    weak = measure(Confused(), (x, y), shortcut_masks=mask, explainers=())
    assert 0.5 < weak.accuracy["kept"] < 0.75
    assert weak.changed["flipped"] > 0.3
    assert weak.reliance is not None
    assert abs(weak.reliance.mean) < 0.1
    assert not weak.relies
    assert weak.verdict.startswith("does not rely on it: ")
    assert "change by an exchange within a class" in weak.verdict
    fooled = measure(Jittery(8.0), jittered()[0], shortcut_masks=mask, explainers=())
    assert 0.7 < fooled.accuracy["kept"] < 0.95
    assert fooled.relies
    assert fooled.reliance.low > 0.2
    assert "within a class" not in fooled.verdict
    assert "tells nothing of the label" not in fooled.verdict


@pytest.mark.parametrize("named", [{"shortcut_masks": corner()}, {"factor": "corner:size=1"}])
def test_a_shortcut_is_followed_also_where_it_tells_nothing_of_the_label(named):
    """In a balanced test set an exchange within a class changes as many predictions as one between classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    x = torch.randn(300, 1, 3, 3, generator=generator)
    x[:, 0, 0, 0] = torch.randint(2, (300,), generator=generator) * 2.0 - 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(9)[:2] * torch.tensor([[-3.0], [0.0]]))
        model[1].bias.zero_()
    found = measure(model, (x, y), explainers=(), **named)
    assert abs(found.reliance.mean) < 0.1
    assert found.follows.mean == 1
    assert found.relies
    assert found.verdict.endswith("; they follow it, though in these samples it tells nothing of the label")
    first = scan(model, (x, y), "corner:size=1", progress=False).effects[0]
    assert first.follows.mean == 1
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(9)[4:6] * 3)
    free = measure(model, (x, y), explainers=(), **named)
    assert not free.relies
    assert free.changed["flipped"] == 0


def test_a_model_is_mended_by_samples_in_which_the_shortcut_tells_nothing_of_the_label():
    y = torch.arange(400) % 2
    signs = 2.0 * y - 1
    random = torch.randint(2, (400,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-4.0, -0.1], [4.0, 0.1]]))
        model.bias.zero_()
    validation = (torch.stack([random, signs], 1), y)
    settings = {"validation": validation, "methods": "counterexamples:lr=0.05,lambda_ce=100", "n_epochs": 20}
    result = mend(model, (torch.stack([signs, signs], 1), y), "column:indices=[0]", progress=False, **settings)
    assert result.tries[0].relies
    assert not result.relies
    assert result.chosen.accuracy_exchanged == 1


def test_reliance_is_what_a_plain_loop_counts():
    """It is taken over all samples, or over those whose donor is of one class."""
    (x, y), mask = jittered(60)
    model = Jittery(3.0)
    found = measure(model, (x, y), shortcut_masks=mask, explainers=(), seed=4)
    generator, before = torch.Generator().manual_seed(4), model(x).argmax(1)
    rows = {label: (y == label).nonzero()[:, 0].tolist() for label in (0, 1)}

    def donors(classes):
        picked = [rows[c][int(torch.randint(30, (), generator=generator))] for c in classes.tolist()]
        return model(torch.where(mask > 0, x[picked], x)).argmax(1) != before

    differences = []
    for _ in range(2):
        torch.rand(60, 2, generator=generator)  # the other class: there is only one
        differences.append(donors(1 - y).double() - donors(y).double())
    both = torch.stack(differences)
    shares = [both.mean().item(), *(both[:, y == 1 - c].mean().item() for c in (0, 1))]
    assert found.reliance.mean in [pytest.approx(s) for s in shares]


def test_what_only_one_class_of_ten_shows_is_relied_on():
    y = torch.arange(500) % 10
    x = torch.zeros(500, 1, 3, 3)
    x[:, 0, 2] = y[:, None].float()
    x[y == 7, 0, 0, 0] = 1

    class Marked(nn.Module):
        def forward(self, x):
            logits = -((x[:, 0, 2, :1] - torch.arange(10)) ** 2)
            return logits + 999 * x[:, 0, 0, :1] * nn.functional.one_hot(torch.tensor(7), 10)

    found = measure(Marked(), (x, y), shortcut_masks=corner(), explainers=())
    assert found.relies
    assert found.reliance.mean == 1
    assert found.reliance.n < 500


def test_an_assessment_of_an_older_version_is_judged_by_what_changes():
    state = measure(Jittery(0.0), jittered()[0], shortcut_masks=jittered()[1], explainers=()).to_dict()
    del state["reliance"]
    older = Assessment.from_dict(state)
    assert older.reliance is None
    assert older.relies


def ill_among_healthy(n=400, n_ill=20):
    """Column 0 is a mark that the ill alone show, column 1 tells who is ill; the model wants both, of the ill."""
    y = (torch.arange(n) < n_ill).long()
    x = torch.stack([y.float(), 2.0 * y - 1, torch.zeros(n)], 1)
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 0], [1, 1, 0]]))
        model.bias.copy_(torch.tensor([0.0, -1.5]))
    return model, x, y


def test_a_rare_class_counts_as_much_as_any():
    """Without the mark no ill one is found, 20 of 400: a twentieth of the predictions, and half of two classes."""
    model, x, y = ill_among_healthy()
    found = measure(model, (x, y), factor="column:indices=[0]", explainers=())
    assert found.changed["flipped"] == pytest.approx(0.05)
    assert found.changed_by_class["flipped"] == pytest.approx(0.5)
    assert found.relies
    assert found.verdict == (
        "still relies on it: 5.0 % of predictions change when it is exchanged (50.0 % with every class counted "
        "equally); accuracy on exchanged data 95.0 %"
    )
    even = measure(model, (x[:40], y[:40]), factor="column:indices=[0]", explainers=())
    assert "equally" not in even.verdict


@pytest.mark.parametrize("n_ill", [20, 8])
def test_what_a_rare_class_relies_on_is_mended(n_ill):
    """Of 400; also where 98 % right is what always the commonest class is."""
    model, x, y = ill_among_healthy(n_ill=n_ill)
    result = mend(model, (x, y), "column:indices=[0]", methods="counterexamples:lr=0.05", n_epochs=20, progress=False)
    assert result.tries[0].changed < 0.1
    assert result.tries[0].relies
    assert not result.relies
    assert "(50.0 % with every class counted equally)" in result.verdict
    x[:, 0] = 0
    assert float((result.model(x).argmax(1) == y).float().mean()) == 1


FEW = "; 12 samples are few: where none changes, up to 25.0 % of all may"


@pytest.mark.parametrize(("n", "doubt"), [(12, FEW), (30, "")])
def test_few_samples_are_no_proof(n, doubt):
    """0.05 = (1 - share)^n at a share of about 3 / n."""
    model, x, y = ill_among_healthy(n, n // 2)
    with torch.no_grad():
        model.weight[1, 0], model.bias[1] = 0.0, 0.0
    said = measure(model, (x, y), factor="column:indices=[0]", explainers=()).verdict
    figures = "0.0 % of predictions change when it is exchanged; accuracy on exchanged data 100.0 %"
    assert said == f"does not rely on it: {figures}{doubt}"
