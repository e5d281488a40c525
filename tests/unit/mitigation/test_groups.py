"""Mitigators that go by groups of samples, or by the errors of a first training: against plain loops."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import DFR, JTT, RRR, GroupBalanced, GroupDRO, GroupWeights, assess, mend

METHODS = [GroupDRO, GroupBalanced, DFR]
SETTINGS = {"lr": 1e-2, "n_epochs": 2, "batch_size": 8, "random_state": 0}


def samples(n=48, seed=0):
    """Label 1 where the mean is high; the first column tells the label of nine samples in ten."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 6, generator=generator)
    x[:, 1:] += 0.4 * (2.0 * y - 1)[:, None]
    tells = torch.arange(n) % 20 >= 2
    x[:, 0] = 3 * (2.0 * torch.where(tells, y, 1 - y) - 1)
    return x, y, tells


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def names(y, tells):
    return [f"{label} {'with' if kind else 'against'}" for label, kind in zip(y.tolist(), tells.tolist(), strict=True)]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_group_dro_is_the_published_algorithm():
    """Algorithm 1 of the paper as a plain loop: q of each group, then the weighted losses."""
    x, y, tells = samples()
    groups = names(y, tells)
    model, plain = net().double(), net().double()
    dro, state = GroupDRO(step_size=0.3, adjustment=0.5), GroupWeights()
    optimizer, other = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(plain.parameters(), 0.1)
    q = dict.fromkeys(groups, 1.0)
    for begin in (0, 12, 24, 36):
        rows = slice(begin, begin + 12)
        loss = dro.loss(model, (x[rows].double(), y[rows]), groups=groups[rows], group_weights=state)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

        each = F.cross_entropy(plain(x[rows].double()), y[rows], reduction="none")
        means = {}
        for name in set(groups[rows]):
            members = [i for i, g in enumerate(groups[rows]) if g == name]
            means[name] = each[members].mean()
            # A group that has not been seen yet keeps the weight that it began with.
            q[name] *= np.exp(0.3 * (float(means[name].detach()) + 0.5 / np.sqrt(len(members))))
        seen = {g for g in groups[: begin + 12]}
        total = sum(q[g] for g in seen)
        expected = sum(q[name] / total * mean for name, mean in means.items())
        other.zero_grad()
        expected.backward()
        other.step()
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-10)
    assert torch.allclose(weights(model), weights(plain), rtol=1e-9)
    assert state.to_dict() == pytest.approx({g: q[g] / sum(q.values()) for g in q}, rel=1e-9)


def test_group_balanced_is_the_mean_of_the_groups_means():
    x, y, tells = samples()
    groups, model = names(y, tells), net()
    each = F.cross_entropy(model(x), y, reduction="none").detach()
    expected = np.mean([each[[g == name for g in groups]].mean().item() for name in set(groups)])
    assert GroupBalanced().loss(model, (x, y), groups=groups).total.item() == pytest.approx(expected, rel=1e-5)
    by_class = np.mean([each[y == k].mean().item() for k in (0, 1)])
    assert GroupBalanced().loss(model, (x, y)).total.item() == pytest.approx(by_class, rel=1e-5)


def seen_in_training(mitigator, data, **options):
    """The rows that a training sees, each by its first column."""
    rows = []
    model = net()
    handle = model.register_forward_pre_hook(lambda m, args: rows.append(args[0][:, 0].clone()) if m.training else None)
    mitigator.fit(model, *data, progress=False, **options)
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("form", ["memory", "loader", "data set"])
def test_every_group_is_drawn_equally_often(form):
    x = torch.arange(200.0)[:, None].expand(200, 6).contiguous()
    y = torch.arange(200) % 2
    groups = ["rare" if i < 8 else "common" for i in range(200)]
    data = {
        "memory": (x, y),
        "loader": (DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True),),
        "data set": (TensorDataset(x, y),),
    }[form]
    mitigator = GroupBalanced(lr=1e-9, n_epochs=10, batch_size=50, random_state=0)
    rows = seen_in_training(mitigator, data, groups=groups)
    assert len(rows) == 2000
    assert 0.45 < float((rows < 8).double().mean()) < 0.55  # 0.04 of the samples
    half = seen_in_training(mitigator.set_kwargs(lambda_groups=0.5), data, groups=groups)
    assert 0.22 < float((half < 8).double().mean()) < 0.32


@pytest.mark.parametrize("cls", METHODS)
def test_groups_in_every_form_give_one_training(cls):
    x, y, tells = samples()
    text = names(y, tells)
    forms = {
        "names": text,
        "array": np.array(text),
        "series": pd.Series(text, index=range(100, 100 + len(text))),
        "categorical": pd.Categorical(text),
        "numbers": [text.index(name) for name in text],
        "tensor": torch.tensor([text.index(name) for name in text]),
        "function": lambda x, y: [f"{k} {int((v > 0) == (k > 0))}" for v, k in zip(x[:, 0], y.tolist(), strict=True)],
    }
    results = {}
    for name, groups in forms.items():
        model = net()
        cls(**SETTINGS).fit(model, x, y, groups=groups, progress=False)
        results[name] = weights(model)
    assert all(torch.equal(results["names"], other) for other in results.values()), list(results)
    model = net()
    cls(**SETTINGS).fit(model, x, y, progress=False)
    assert not torch.equal(weights(model), results["names"])  # the classes are other groups


def test_batches_of_an_iterable_are_weighed():
    x, y, tells = samples()
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 48, 8)]
    for cls in (*METHODS, JTT):
        model = net()
        function = (lambda x, y: (x[:, 0] > 0) == (y > 0)) if cls is not JTT else None
        cls(**SETTINGS).fit(model, batches, groups=function, progress=False)
        assert not torch.equal(weights(model), weights(net()))
    with pytest.raises(InvalidInputError, match="groups by sample need samples that have a number"):
        GroupDRO(**SETTINGS).fit(net(), batches, groups=names(y, tells), progress=False)


def test_only_the_last_layer_is_retrained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).train()
    model[1].eval()
    before = copy.deepcopy(model)
    x, y, tells = samples()
    DFR(**SETTINGS).fit(model, x, y, groups=names(y, tells), progress=False)
    for (name, new), old in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(new, old) == (not name.startswith("3.")), name
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(p.requires_grad for p in model.parameters())
    DFR(layer="0", restart=False, **SETTINGS).fit(model, x, y, progress=False)
    assert not torch.equal(model[0].weight, before[0].weight)
    with pytest.raises(InvalidInputError, match="the layer '2' has no parameters"):
        DFR(layer="2").fit(model, x, y, progress=False)


def accuracy(model, x, y):
    return float((model(x).argmax(1) == y).float().mean())


def test_the_rare_group_is_learnt():
    """A shortcut that one sample in ten contradicts: the plain training is wrong on these, every method is better."""
    x, y, tells = samples(400)
    test, labels, told = samples(400, seed=1)
    settings = {"lr": 1e-2, "n_epochs": 8, "batch_size": 40, "random_state": 0}

    def rare(mitigator, **options):
        model = net()
        mitigator.set_kwargs(**settings).fit(model, x, y, progress=False, **options)
        return accuracy(model, test[~told], labels[~told])

    plain = rare(GroupBalanced(lambda_groups=0.0))
    assert plain < 0.5
    for cls in (GroupDRO, GroupBalanced):
        assert rare(cls(step_size=0.1) if cls is GroupDRO else cls(), groups=names(y, tells)) > plain + 0.2, cls
    assert rare(JTT(lambda_jtt=20.0, first_epochs=4)) > plain + 0.2
    fooled = net()
    GroupBalanced(lambda_groups=0.0, **settings).fit(fooled, x, y, progress=False)
    DFR(**{**settings, "n_epochs": 20}).fit(fooled, x, y, groups=names(y, tells), progress=False)
    assert accuracy(fooled, test[~told], labels[~told]) > plain + 0.2


def test_jtt_draws_the_errors_of_the_first_training():
    x, y, _ = samples()
    wrong = [i % 6 == 0 for i in range(48)]
    marked = x.clone()
    marked[:, 0] = torch.arange(48.0)
    rows = seen_in_training(JTT(lambda_jtt=9.0, lr=1e-9, n_epochs=40, random_state=0), (marked, y), groups=wrong)
    share = float((rows % 6 == 0).double().mean())
    assert share == pytest.approx(10 * 8 / (10 * 8 + 40), abs=0.04)
    with pytest.raises(InvalidInputError, match="true or false; got 'sea'"):
        JTT().fit(net(), x, y, groups=["sea"] * 48, progress=False)
    with pytest.warns(UserWarning, match="gets none of the samples wrong"):
        JTT(n_epochs=1).fit(net(), x, y, groups=[False] * 48, progress=False)
    loss = JTT(lambda_jtt=2.0).loss(model := net(), (x, y), groups=wrong)
    each = F.cross_entropy(model(x), y, reduction="none")
    assert loss.total.item() == pytest.approx((each * (1 + 2.0 * torch.tensor(wrong))).mean().item(), rel=1e-5)


@pytest.mark.parametrize("cls", METHODS)
def test_groups_that_cannot_be_right(cls):
    x, y, _ = samples()
    rows = len(y)
    for groups, kind, sentence in (
        ([0] * 5, InvalidInputError, "groups must name one for each of the 48 samples, got 5"),
        ([0] * 47 + [None], InvalidInputError, "sample 47 has None"),
        (np.zeros((rows, 2)), InvalidInputError, r"shape \(48,\), got \(48, 2\)"),
        ("sea", InvalidTypeError, "must be .N,. names or numbers, or a function"),
        (7, InvalidTypeError, "must be .N,. names or numbers, or a function"),
        (pd.Categorical([0] * rows, categories=[0, 1]), InvalidInputError, "the group 1 is empty"),
        (lambda x, y: [0], InvalidInputError, "one for each of the 48 samples, got 1"),  # noqa: ARG005
    ):
        with pytest.raises(kind, match=sentence):
            cls(**SETTINGS).fit(net(), x, y, groups=groups, progress=False)
    with pytest.raises(InvalidInputError, match="these labels are no classes"):
        cls(**SETTINGS).fit(nn.Linear(6, 1), x, torch.rand(rows), progress=False)


def test_validation_groups_stand_beside_those_of_training():
    x, y, tells = samples()
    options = {"validation": (x, y), "progress": False}
    history = GroupDRO(**SETTINGS).fit(
        net(), x, y, groups=names(y, tells), validation_groups=names(y, tells), **options
    )
    worst = history["validation_worst_group"]
    function = lambda x, y: (x[:, 0] > 0).long() + 2 * y  # noqa: E731
    again = GroupDRO(**SETTINGS).fit(net(), x, y, groups=function, **options)
    assert again["validation_worst_group"] == worst  # a function serves both
    classes = GroupDRO(**SETTINGS).fit(net(), x, y, groups=names(y, tells), **options)
    assert classes["validation_worst_group"] != worst
    with pytest.raises(InvalidInputError, match="groups are those of the validation data"):
        GroupDRO(**SETTINGS).fit(net(), x, y, validation_groups=[0] * 48, progress=False)


def test_a_resumed_group_dro_is_the_unbroken_one(tmp_path):
    x, y, tells = samples()
    groups, mitigator = names(y, tells), GroupDRO(step_size=1.0, **SETTINGS)
    whole, parts = net(), net()
    mitigator.set_kwargs(n_epochs=3).fit(whole, x, y, groups=groups, progress=False)
    for epochs in (1, 3):
        longer = mitigator.set_kwargs(n_epochs=epochs)
        longer.fit(parts, x, y, groups=groups, checkpoint=tmp_path / "c.pt", progress=False)
    assert torch.equal(weights(whole), weights(parts))


@pytest.mark.parametrize(
    "order", [{"shuffle": True}, {"sampler": range(47, -1, -1)}, {"batch_sampler": [[1, 0], [2, 3]]}]
)
def test_groups_by_sample_are_refused_beside_a_loader_with_an_order_of_its_own(order):
    """They would be laid on other samples than theirs."""
    x, y, tells = samples()
    loader, groups, mask = DataLoader(TensorDataset(x, y), **order), names(y, tells), torch.eye(6)[0]
    calls = (
        lambda groups: assess(net(), loader, shortcut_masks=mask, groups=groups, progress=False),
        lambda groups: RRR(**SETTINGS).fit(net(), x, y, mask, validation=loader, groups=groups, progress=False),
        lambda groups: mend(net(), loader, None, groups=groups, progress=False),
        lambda groups: mend(
            net(), (x, y), None, groups=groups, validation=loader, validation_groups=groups, progress=False
        ),
    )
    for call in calls:
        with pytest.raises(InvalidInputError, match="groups with one for each sample need the samples in"):
            call(groups)
    calls[0](lambda x, y: (x[:, 0] > 0).long() + 2 * y)  # a function sees the samples themselves
