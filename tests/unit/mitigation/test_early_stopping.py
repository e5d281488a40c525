"""Early stopping: by the worst group of the validation data, back to the best weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import RRR
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.evaluation import accuracies

MASK = torch.tensor([1.0, 0])
SETTINGS = {"lr": 0.05, "batch_size": 8, "random_state": 0, "lambda_rrr": 0.0}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))


def data(n=48):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 1] > 0).long()


def validation():
    """Two groups, one for each true class; a quarter of the labels is wrong, so nobody is right everywhere."""
    x, y = data(60)
    groups = ["odd" if label else "even" for label in y]
    return x, torch.where(torch.arange(60) % 4 == 0, 1 - y, y), groups


def test_accuracy_of_each_group_by_hand():
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 2, 1])]
    y = torch.tensor([0, 0, 1, 2, 2])
    assert accuracies(nn.Identity(), (logits, y)) == {None: 0.8, 0: 1.0, 1: 1.0, 2: 0.5}
    assert accuracies(nn.Identity(), (logits, y), list("aabba")) == {None: 0.8, "a": 2 / 3, "b": 1.0}
    by_function = accuracies(nn.Identity(), [(logits[:3], y[:3]), (logits[3:], y[3:])], lambda x, y: y == 2)
    assert by_function == {None: 0.8, False: 1.0, True: 0.5}


@pytest.mark.parametrize("patience", [1, 3])
def test_it_stops_after_patience_and_the_best_weights_return(patience):
    x, y, groups = validation()
    worsts, model = [], net()

    def worst(m):
        right = (m.eval()(x).argmax(1) == y).double()
        m.train()
        return min(right[[i for i in range(60) if groups[i] == g]].mean().item() for g in set(groups))

    # The same training by hand, looking after each epoch.
    plain, (a, b) = net(), data()
    begin = worst(plain)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.05, fused=True)
    weights = []
    for epoch in range(1, 13):
        torch.manual_seed(epoch)
        for rows in torch.randperm(48).split(8):
            optimizer.zero_grad()
            F.cross_entropy(plain(a[rows]), b[rows]).backward()
            optimizer.step()
        worsts.append(worst(plain))
        weights.append([p.detach().clone() for p in plain.parameters()])
        best = max(range(len(worsts)), key=lambda i: (worsts[i], -i))
        if epoch - 1 - best >= patience:
            break
    assert len(worsts) < 12
    assert worsts[0] > begin
    history = RRR(n_epochs=12, patience=patience, **SETTINGS).fit(
        model, a, b, MASK, validation=(x, y), groups=groups, progress=False
    )
    assert history.stopped == "early_stopping"
    assert history["validation_worst_group"] == pytest.approx(worsts)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights[best], strict=True))


def test_patience_begins_where_the_worst_group_rises_above_its_beginning():
    stopping = EarlyStopping((torch.eye(10), torch.zeros(10).long()), None, patience=2, head="logits")
    stopping.check(nn.Identity())  # of class 0, one of ten is right
    assert stopping.start == pytest.approx(0.1)
    over, model = [], nn.Linear(1, 1)
    for worst in (0.1, 0.0, 0.0, 0.1, 0.4, 0.3, 0.5, 0.5, 0.2):
        stopping.judge(model, worst)
        over.append(stopping.over)
    assert over == [False] * 8 + [True]
    again = EarlyStopping((torch.eye(10), torch.zeros(10).long()), None, patience=2, head="logits")
    again.load_state(stopping.state())
    assert (again.start, again.best, again.over) == (stopping.start, 0.5, True)


def test_without_patience_it_only_looks():
    x, y, groups = validation()
    looked, plain = net(), net()
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    history = RRR(n_epochs=3, **SETTINGS).fit(looked, *data(), MASK, validation=loader, groups=groups, progress=False)
    RRR(n_epochs=3, **SETTINGS).fit(plain, *data(), MASK, progress=False)
    assert history.stopped == "done"
    assert len(history["validation_accuracy"]) == 3
    assert all(torch.equal(p, q) for p, q in zip(looked.parameters(), plain.parameters(), strict=True))
    assert set(history.to_pandas().columns) >= {"epoch", "task", "weight", "validation_worst_group"}


def test_what_it_waits_for_is_in_the_checkpoint(tmp_path):
    x, y, groups = validation()
    given = {"validation": (x, y), "groups": groups, "progress": False}
    whole, part, file = net(), net(), tmp_path / "rrr.pt"
    expected = RRR(n_epochs=12, patience=3, **SETTINGS).fit(whole, *data(), MASK, **given)
    RRR(n_epochs=len(expected.epochs) - 1, patience=3, **SETTINGS).fit(part, *data(), MASK, checkpoint=file, **given)
    for _ in range(2):  # resumed, and once more when all is done
        resumed = net()
        history = RRR(n_epochs=12, patience=3, **SETTINGS).fit(resumed, *data(), MASK, checkpoint=file, **given)
        assert history.epochs == expected.epochs
        assert history.stopped == "early_stopping"
        assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"groups": [0]}, InvalidInputError, "groups are those of the validation data"),
        ({}, InvalidInputError, "patience needs validation data"),
        ({"validation": torch.rand(3, 2)}, InvalidTypeError, "data must be \\(inputs, labels\\) or"),
        ({"validation": [torch.rand(3, 2)]}, InvalidTypeError, "a batch must be"),
        ({"validation": []}, InvalidInputError, "data holds no batch"),
        (
            {"validation": data(6), "groups": [0, 1]},
            InvalidInputError,
            "groups must name one for each of the 6 samples",
        ),
        ({"validation": data(6), "groups": [0] * 7}, InvalidInputError, "one for each of the 6 samples, got 7"),
        ({"validation": (torch.rand(6, 2), torch.zeros(5))}, InvalidInputError, "labels must have shape \\(6,\\)"),
    ],
)
def test_wrong_validation_data_are_told_before_the_first_step(given, error, words):
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error, match=words):
        RRR(n_epochs=2, patience=1, **SETTINGS).fit(model, *data(), MASK, progress=False, **given)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_batchnorm_and_a_step_of_one_sample_are_told_before_the_first_step():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = data(9)
    one_by_one = DataLoader(TensorDataset(x, y, MASK.expand(9, 2)), batch_size=4)
    for settings, given in (({"batch_size": 1}, (x, y, MASK)), ({}, (one_by_one,)), ({}, (x[:1], y[:1], MASK))):
        with pytest.raises(InvalidInputError, match="BatchNorm in training mode cannot take a batch of one sample"):
            RRR(**{**SETTINGS, **settings}).fit(model, *given, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    maps = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(2, 2))  # has two values
    RRR(batch_size=1, n_epochs=1).fit(maps, x, y, MASK, progress=False)


@pytest.mark.parametrize(
    ("labels", "held_out", "words"),
    [
        ([0, 1] * 6, [0, 1, 2], "the class 2 is among the validation samples and in no training sample, and cannot"),
        (np.array([1, 3] * 6), np.array([0, 1, 2]), "the classes 0, 2 are among the validation samples"),
        (torch.tensor([4, 3] * 6), torch.tensor([0, 1, 2]), "the classes 0, 1, 2 are among"),
    ],
)
def test_a_class_in_no_training_sample_is_said(labels, held_out, words):
    x = np.random.default_rng(0).random((12, 2), np.float32)
    mitigator = RRR(n_epochs=1, **SETTINGS)
    with pytest.warns(UserWarning, match=words):
        mitigator.fit(nn.Linear(2, 5), x, labels, MASK, validation=(x[:3], held_out), progress=False)
    mitigator.fit(nn.Linear(2, 5), x, labels, MASK, validation=(x[:3], labels[:3]), progress=False)  # warns of nothing
