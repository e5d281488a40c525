"""The learning rate of a mending: which rates are tried, which one wins, and that the winner's training is unbroken."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from xaikit.mitigation import Counterexamples, mend
from xaikit.mitigation import mend_rate as rates
from xaikit.mitigation.mend_data import read_data, read_shortcut
from xaikit.mitigation.mend_measure import Judge
from xaikit.mitigation.mend_methods import candidates, fresh_model, halfway, with_training
from xaikit.mitigation.mend_search import HALFWAY, MendSearch
from xaikit.mitigation.mend_store import TryStore

MASK = torch.tensor([1.0, 0, 0, 0])
GUESSING = math.log(2)


class EvenJudge:
    guessing = GUESSING


def rows(n=200):
    """Columns: the shortcut, the honest signal, noise."""
    x, y = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 2
    x[:, 1] += 2.0 * y - 1
    x[:, 0] = 6.0 * y - 3
    return x, y


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def fooled():
    model = net()
    Counterexamples(lambda_ce=0.0, lr=1e-2, n_epochs=10, random_state=0).fit(model, *rows(), MASK, progress=False)
    return model


@pytest.mark.parametrize(
    ("losses", "winner", "tried"),
    [
        # The larger, the better: up to the end.
        ({3e-3: 0.6, 1e-2: 0.4, 3e-2: 0.3}, 3e-2, [3e-3, 1e-2, 3e-2]),
        ({3e-3: 0.6, 1e-2: 0.4, 3e-2: 2.3}, 1e-2, [3e-3, 1e-2, 3e-2]),
        # Larger ones ruin a pretrained net: down until it gets worse.
        (
            {3e-3: 0.69, 1e-2: math.inf, 1e-3: 0.69, 3e-4: 0.5, 1e-4: 0.3, 3e-5: 0.4},
            1e-4,
            [3e-3, 1e-2, 1e-3, 3e-4, 1e-4, 3e-5],
        ),
        # A hair better by chance where nothing has been learnt says nothing.
        (
            {3e-3: 0.69, 1e-2: 0.67, 3e-2: 0.69, 1e-3: 0.5, 3e-4: 0.6},
            1e-3,
            [3e-3, 1e-2, 3e-2, 1e-3, 3e-4],
        ),
        ({3e-3: 0.3, 1e-2: 0.299, 1e-3: 0.5}, 1e-2, [3e-3, 1e-2, 1e-3]),
        (dict.fromkeys(rates.RATES, math.inf), 3e-3, [3e-3, *reversed(rates.RATES[:5])]),
        ({3e-3: math.nan, 1e-3: 0.4, 3e-4: 0.5}, 1e-3, [3e-3, 1e-3, 3e-4]),
    ],
)
def test_which_rates_are_tried(monkeypatch, losses, winner, tried):
    calls, store = [], TryStore(None, {})

    def trained(self, rate, epochs):  # noqa: ARG001
        calls.append((rate, epochs))
        store.checkpoint("key", rate).content = io.BytesIO(b"weights")
        return losses[rate]

    monkeypatch.setattr(rates.RateRace, "_trained", trained)
    race = rates.RateRace(Counterexamples(n_epochs=20), net, None, EvenJudge(), store, "key", {})
    assert race.winner() == winner
    assert calls == [(rate, 4) for rate in tried]
    kept = [rate for rate in rates.RATES if store.checkpoint("key", rate).content is not None]
    assert kept == [winner]


def test_the_winner_trains_as_if_it_were_alone(fooled):
    x, y = rows()
    result = mend(fooled, (x, y), MASK, n_epochs=12, progress=False)
    assert result.tries[1].method == result.method
    data = read_data(fooled, (x, y), read_shortcut(MASK), None, None, 0)
    lr = float(result.method.partition("lr=")[2].partition(",")[0])
    alone = with_training(candidates(data)[0], data.training.size, n_epochs=12, seed=0).set_kwargs(lr=lr)
    model = net()
    model.load_state_dict(fooled.state_dict())
    validation, groups = Judge(data, "logits", 0).validation
    history = alone.fit(model, data.training, validation=validation, validation_groups=groups, progress=False)
    assert len(history.epochs) == result.chosen.epochs
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_race_that_is_interrupted_goes_on(fooled, monkeypatch, tmp_path):
    options = {"n_epochs": 12, "progress": False}
    unbroken = mend(fooled, rows(), MASK, **options)
    trained, calls = rates.RateRace._trained, []

    def breaks(self, rate, epochs):
        calls.append(rate)
        if len(calls) == 3:
            raise rates.Interrupted
        return trained(self, rate, epochs)

    with monkeypatch.context() as patch:
        patch.setattr(rates.RateRace, "_trained", breaks)
        broken = mend(fooled, rows(), MASK, folder=tmp_path, **options)
    assert broken.stopped == "interrupted"
    assert broken.method == "unchanged"
    measured = calls[:2]
    calls.clear()
    monkeypatch.setattr(
        rates.RateRace, "_trained", lambda self, rate, epochs: calls.append(rate) or trained(self, rate, epochs)
    )
    again = mend(fooled, rows(), MASK, folder=tmp_path, **options)
    assert calls[0] not in measured  # what was measured before is not measured again
    assert again.method == unbroken.method
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), unbroken.model.parameters(), strict=True))
    assert not list(tmp_path.glob("*.checkpoint.pt"))


def test_a_rate_of_the_user_is_kept(fooled, monkeypatch):
    monkeypatch.setattr(rates.RateRace, "winner", lambda self: pytest.fail("rates were compared"))  # noqa: ARG005
    adam = Counterexamples(lambda_ce=10.0, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    for method in ("counterexamples:lambda_ce=10,lr=0.02", adam):
        result = mend(fooled, rows(), MASK, methods=method, n_epochs=3, progress=False)
        assert result.tries[1].epochs == 3


def starts(result):
    return [row.method.partition("counterexamples:")[0] for row in result.tries if "counterexamples" in row.method]


def test_where_the_weights_given_fail_a_training_begins_halfway_to_fresh_ones(fooled, monkeypatch, tmp_path):
    monkeypatch.setattr(MendSearch, "_is_enough", lambda _self: False)
    monkeypatch.setattr(MendSearch, "_went_too_far", lambda _self: True)
    options = {"n_epochs": 2, "progress": False}
    whole = mend(fooled, rows(), "column:indices=[0]", **options, folder=tmp_path)
    assert starts(whole) == ["", HALFWAY, ""]
    first, second = whole.tries[1], whole.tries[2]
    assert first.method == second.method.removeprefix(HALFWAY)  # the rate that suits is not searched again
    assert first.accuracy_kept != second.accuracy_kept
    again = mend(fooled, rows(), "column:indices=[0]", **options, folder=tmp_path)
    assert again.tries == whole.tries
    assert starts(mend(fooled, rows(), "column:indices=[0]", **options, from_scratch=True)) == ["", ""]
    assert starts(mend(fooled, rows(), "column:indices=[0]", **options, methods=["counterexamples:lr=0.01"])) == [""]
    fixed = copy.deepcopy(fooled)
    fixed.scale = nn.Parameter(torch.ones(1))  # nobody knows how it is drawn
    assert starts(mend(fixed, rows(), "column:indices=[0]", **options)) == ["", ""]


def test_halfway_is_the_mean_of_the_weights_and_of_fresh_ones(fooled):
    begun, fresh = halfway(fooled, 3), fresh_model(fooled, True, 3)
    for name, weight in begun.state_dict().items():
        torch.testing.assert_close(weight, (fooled.state_dict()[name] + fresh.state_dict()[name]) / 2)


def test_frozen_weights_stay_also_where_others_are_drawn_anew(fooled):
    partly = copy.deepcopy(fooled)
    partly[0].requires_grad_(False)
    partly[2].bias.requires_grad_(False)
    partly[1] = nn.PReLU()
    partly[1].requires_grad_(False)
    stay = {"0.weight", "0.bias", "1.weight", "2.bias"}
    for begun in (fresh_model(partly, True, 3), halfway(partly, 3)):
        for name, weight in begun.named_parameters():
            assert torch.equal(weight, partly.get_parameter(name)) == (name in stay), name
            assert weight.requires_grad == (name not in stay)
