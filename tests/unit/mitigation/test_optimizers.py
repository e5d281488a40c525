"""The optimizer of a training: by name with settings, or made by a function."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import RRR

X = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2] * 4)
MASK = torch.tensor([1.0, 0, 0, 0])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def trained(optimizer, *, epochs=3, **settings):
    model = net()
    plain = RRR(lambda_rrr=0.0, optimizer=optimizer, n_epochs=epochs, batch_size=12, lr=0.05, random_state=0)
    plain.set_kwargs(**settings).fit(model, X, Y, MASK, progress=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(make, factors=(1.0, 1.0, 1.0)):
    """Plain steps on all samples; the order within a batch is of no account."""
    model = net()
    optimizer = make(model)
    first = [group["lr"] for group in optimizer.param_groups]
    for factor in factors:
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * factor
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def nesterov(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True)


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("sgd:momentum=0.9,nesterov=true", lambda model: nesterov(model.parameters())),
        (nesterov, lambda model: nesterov(model.parameters())),
        ("rmsprop:alpha=0.9", lambda model: torch.optim.RMSprop(model.parameters(), lr=0.05, alpha=0.9)),
        ("NAdam", lambda model: torch.optim.NAdam(model.parameters(), lr=0.05)),
        ("adam:betas=[0.8,0.9]", lambda model: torch.optim.Adam(model.parameters(), lr=0.05, betas=(0.8, 0.9))),
        (torch.optim.Adagrad, lambda model: torch.optim.Adagrad(model.parameters(), lr=0.05)),
        (functools.partial(torch.optim.SGD, lr=0.2), lambda model: torch.optim.SGD(model.parameters(), lr=0.2)),
    ],
    ids=["spec", "function", "rmsprop", "nadam", "adam", "class", "partial"],
)
def test_it_is_torchs(setting, make):
    torch.testing.assert_close(trained(setting), by_hand(make), rtol=1e-4, atol=1e-6)


def test_parameter_groups_keep_their_rates_under_the_schedule():
    def groups(model):
        head, body = model[2].parameters(), model[0].parameters()
        return torch.optim.SGD([{"params": head, "lr": 0.5}, {"params": body, "lr": 0.01}])

    model = net()
    settings = {"lambda_rrr": 0.0, "n_epochs": 2, "batch_size": 12, "lr_schedule": "linear", "random_state": 0}
    RRR(optimizer=lambda _: groups(model), **settings).fit(model, X, Y, MASK, progress=False)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights, by_hand(groups, factors=(1.0, 0.5)), rtol=1e-4, atol=1e-6)


def test_a_training_with_momentum_resumes_bit_for_bit(tmp_path):
    def run(epochs, model):
        rrr = RRR(optimizer="sgd:momentum=0.9", n_epochs=epochs, batch_size=4, lr=0.05, random_state=0)
        rrr.fit(model, X, Y, MASK, checkpoint=tmp_path / f"{id(model)}.pt", progress=False)

    straight, broken = net(), net()
    run(4, straight)
    run(2, broken)
    run(4, broken)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), broken.parameters(), strict=True))


def test_a_name_goes_into_a_spec():
    rrr = MITIGATORS.create("rrr:optimizer=sgd:momentum=0.9")
    assert MITIGATORS.create(rrr.spec()) == rrr
    assert rrr.optimizer == "sgd:momentum=0.9"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("adm", "must be one of adadelta, .* or a function, got 'adm'"),
        ("lbfgs", "must be one of"),
        ("sgd:momentun=0.9", "sgd has no setting 'momentun'; it has lr, momentum"),
        ("sgd:lr=0.1", "lr and weight_decay are settings of the mitigator"),
        ("sgd:nesterov=true", "Nesterov momentum requires a momentum"),
        (3, "must be a name such as 'adam' or 'sgd:momentum=0.9', or a function"),
    ],
)
def test_wrong_names_are_refused_at_once(setting, sentence):
    with pytest.raises((InvalidInputError, InvalidTypeError), match=sentence):
        RRR(optimizer=setting)


def test_wrong_functions_are_refused_before_the_training():
    with pytest.raises(InvalidTypeError, match=r"must return a torch.optim.Optimizer, got list"):
        trained(list)
    other = net()
    with pytest.raises(InvalidInputError, match="changes no parameter of this model"):
        trained(lambda _: torch.optim.SGD(other.parameters(), lr=0.1))


def test_on_epoch_gets_each_row_and_the_model(tmp_path):
    rows, model = [], net()

    def on_epoch(row, trained_model):
        assert trained_model is model
        rows.append(row)

    rrr = RRR(n_epochs=3, batch_size=4, random_state=0)
    history = rrr.fit(model, X, Y, MASK, on_epoch=on_epoch, checkpoint=tmp_path / "a.pt", progress=False)
    assert rows == history.epochs
    rrr.set_kwargs(n_epochs=4).fit(model, X, Y, MASK, on_epoch=on_epoch, checkpoint=tmp_path / "a.pt", progress=False)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    with pytest.raises(InvalidTypeError, match=r"on_epoch must be a function \(row, model\), got 3"):
        rrr.fit(model, X, Y, MASK, on_epoch=3, progress=False)
