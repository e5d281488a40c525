"""Every mitigator trains a model with a single output on numbers."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit import CDEP, RRR
from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError

CORNER = torch.zeros(4, 4)
CORNER[:2, :2] = 1


class Flat(nn.Module):
    """Outputs (N,) in place of (N, 1)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[:, 0]


def net(*, flat: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 1)).double()
    return Flat(layers) if flat else layers


def batch(n: int = 6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, x[:, 0, 3, 3] + 0.5 * x[:, 0, 0, 0], CORNER


@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1)", "(N,)"])
def test_right_for_the_right_reasons_by_hand(flat):
    model, (x, y, mask) = net(flat=flat), batch()
    loss = RRR(lambda_rrr=2.0).loss(model, (x, y, mask))
    leaf = x.clone().requires_grad_()
    output = model(leaf).reshape(-1)
    (gradient,) = torch.autograd.grad(output.sum(), leaf, create_graph=True)
    task, penalty = (output - y).square().mean(), (mask * gradient.square()).sum()
    assert torch.allclose(loss.task, task)
    assert torch.allclose(loss.penalty, penalty)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(task + 2 * penalty, parameters, allow_unused=True)
    found = torch.autograd.grad(loss.total, parameters, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b)


@pytest.mark.filterwarnings("ignore:a prior shapes the explanation")
@pytest.mark.parametrize("name", ["cdep", "rrr", "hint", "attribution_prior", "counterexamples"])
@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1)", "(N,)"])
def test_every_mitigator_falls_in_its_loss(name, flat):
    if name not in MITIGATORS:
        pytest.skip(f"{name} is not registered")
    model, (x, y, mask) = net(flat=flat), batch(24)
    mitigator = MITIGATORS.create(name, lr=0.01, n_epochs=15, batch_size=8, random_state=0)
    history = mitigator.fit(model, x, y, mask, progress=False)
    assert history["total"][-1] < history["total"][0]
    assert "accuracy" not in repr(history)


@pytest.mark.parametrize("target", ["label", "all", "predicted", "random"])
def test_a_single_output_is_its_own_score(target):
    model, data = net(), batch()
    assert torch.equal(RRR(target=target).loss(model, data).penalty, RRR().loss(model, data).penalty)


@pytest.mark.parametrize("explainer", ["contextual_decomposition", "gradient_x_input"])
def test_cdep_gives_the_same_for_both_forms_of_a_single_output(explainer):
    one, other = (CDEP(explainer=explainer).loss(net(flat=flat), batch()).penalty for flat in (False, True))
    assert torch.allclose(one, other)
    assert one > 0


def test_wrong_labels():
    model, (x, y, mask) = net(), batch()
    with pytest.raises(InvalidInputError, match=r"must be the classes 0 and 1, or floating-point numbers .* up to 5"):
        RRR().loss(model, (x, torch.arange(6), mask))
    with pytest.raises(InvalidInputError, match=r"could be classes or numbers; pass labels.long\(\) .* task_loss="):
        RRR().loss(model, (x, (y > 0).double(), mask))
    with pytest.raises(InvalidInputError, match="labels must be finite"):
        RRR().loss(model, (x, y * torch.nan, mask))
    with pytest.raises(InvalidInputError, match=r"labels must have shape \(6,\), one for each sample, got \(5,\)"):
        RRR().loss(model, (x, y[:5], mask))
    several = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    with pytest.raises(InvalidTypeError, match="whole class indices of an integer type, got torch.float64"):
        RRR().loss(several, (x, y, mask))
    with pytest.raises(InvalidTypeError, match="labels must be whole class indices"):
        RRR(n_epochs=1).fit(model, x, y, mask, validation=(x, y), progress=False)


def test_the_first_labels_decide_for_the_whole_training():
    x, y = torch.randn(8, 4), torch.tensor([0.3, 1.7, 0.0, 1.0, 1.0, 0.0, 2.5, 0.1])
    mask = torch.tensor([1.0, 0, 0, 0])

    def trained(data, *labels, **settings):
        torch.manual_seed(0)
        model, mitigator = nn.Linear(4, 1), RRR(n_epochs=3, random_state=0, batch_size=2, **settings)
        mitigator.fit(model, data, *labels, shortcut_masks=mask, progress=False)
        return model.weight.detach()

    loader = DataLoader(TensorDataset(x, y), batch_size=2)  # the second and the third batch hold 0.0 and 1.0 only
    assert torch.equal(trained(loader), trained(loader, task_loss="regression"))
    assert torch.equal(trained(x, y), trained(x, y, task_loss="regression"))
    rolled = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.5, 0.1, 0.3, 1.7])
    assert torch.equal(trained(x, rolled), trained(x, rolled, task_loss="regression"))
    with pytest.raises(InvalidInputError, match=r"could be classes or numbers; .* task_loss='regression'"):
        trained(DataLoader(TensorDataset(x, rolled), batch_size=2))  # nothing has been trained yet


def test_a_resumed_regression_remembers_that_it_is_one(tmp_path):
    x, y = torch.randn(6, 4), torch.tensor([0.3, 1.7, 0.0, 1.0, 1.0, 0.0])
    mask, path = torch.tensor([1.0, 0, 0, 0]), tmp_path / "half.pt"

    class Loader:
        def __init__(self, stops):
            self.stops = stops

        def __iter__(self):
            for i in range(0, 6, 2):
                if i and self.stops:
                    signal.raise_signal(signal.SIGINT)
                yield x[i : i + 2], y[i : i + 2], mask

    def trained(*loaders, **options):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        for loader in loaders:
            RRR(n_epochs=1, random_state=0).fit(model, loader, progress=False, **options)
        return model.weight.detach()

    whole = trained(Loader(False))
    assert torch.equal(trained(Loader(True), Loader(False), checkpoint=path), whole)


def test_one_logit_with_classes_is_a_binary_classifier():
    model, (x, y, mask) = net(), batch()
    labels = (y > y.median()).long()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(model(x).reshape(-1), labels.double())
    for given in (labels, labels.tolist(), labels.numpy().astype("int8")):
        assert torch.allclose(RRR().loss(model, (x, given, mask)).task, wanted)
    numbers = RRR(task_loss="regression").loss(model, (x, labels.double(), mask)).task
    assert torch.allclose(numbers, torch.nn.functional.mse_loss(model(x).reshape(-1), labels.double()))
    history = RRR(n_epochs=30, lr=0.05, random_state=0, lambda_rrr=0.0).fit(model, x, labels, mask, progress=False)
    assert history["accuracy"][-1] > 0.9
