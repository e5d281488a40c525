"""Influences against retraining without each sample, plain gradients and matrices; what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.influence import Influences, gradient_similarity, influence_function, sgd_influence, tracin
from xaikit.influence.influence_function import conjugate_gradients
from xaikit.influence.loss_gradients import LossGradients

N, TESTS, DECAY = 60, 3, 0.05


def blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8 * (2 * y - 1).view(-1, 1)
    return x, y


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


TRAIN, TEST = blobs(N, 0), blobs(TESTS, 1)


def losses_of_tests(model):
    with torch.no_grad():
        return F.cross_entropy(model(TEST[0]), TEST[1], reduction="none")


def without(sample):
    rows = [i for i in range(N) if i != sample]
    return TRAIN[0][rows], TRAIN[1][rows]


def converged(model, x, y):
    """Newton-like training to the minimum of the mean loss with weight decay."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=400, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        # As the mean over all N samples: leaving one out takes its part away and leaves the rest as it is.
        loss = F.cross_entropy(model(x), y, reduction="sum") / N
        loss = loss + DECAY / 2 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


@pytest.mark.slow
def test_the_influence_function_is_what_retraining_without_the_sample_does():
    model = converged(two_layers(), *TRAIN)
    truth = (
        torch.stack([losses_of_tests(converged(model, *without(i))) for i in range(N)], 1)
        - losses_of_tests(model)[:, None]
    )
    values = influence_function(model, TRAIN, TEST, progress=False).values
    for expected, value in zip(truth, values, strict=True):
        assert spearmanr(expected, value).statistic > 0.9
    assert (values - truth).abs().mean() < 0.35 * truth.abs().mean()  # the size too, not only the order


def test_tracin_is_what_descent_without_the_sample_does():
    def descent(x, y, keep=None):
        model = two_layers()
        for _ in range(10):
            loss = F.cross_entropy(model(x), y, reduction="sum")
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            if keep is not None:
                keep.append((copy.deepcopy(model.state_dict()), 3e-4))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(3e-4 * gradient)
        return model

    checkpoints: list = []
    model = descent(*TRAIN, keep=checkpoints)
    truth = torch.stack([losses_of_tests(descent(*without(i))) for i in range(N)], 1) - losses_of_tests(model)[:, None]
    values = tracin(model, TRAIN, TEST, checkpoints=checkpoints, progress=False).values
    for expected, value in zip(truth, values, strict=True):
        assert spearmanr(expected, value).statistic > 0.95
    assert (values - truth).abs().mean() < 0.35 * truth.abs().mean()


def plain_gradients(model, x, y):
    rows = []
    for i in range(len(x)):
        gradients = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [7, 128])
def test_products_are_those_of_plain_gradients(batch_size):
    model = two_layers()
    trained, asked = plain_gradients(model, *TRAIN), plain_gradients(model, *TEST)
    expected = asked @ trained.T
    assert torch.allclose(
        tracin(model, TRAIN, TEST, batch_size=batch_size, progress=False).values, expected, rtol=1e-10
    )
    cosines = expected / (asked.norm(dim=1)[:, None] * trained.norm(dim=1))
    values = gradient_similarity(model, TRAIN, TEST, batch_size=batch_size, progress=False).values
    assert torch.allclose(values, cosines, rtol=1e-10)


def test_the_curvature_is_the_gauss_newton_matrix_and_the_system_is_solved():
    model, (x, y) = two_layers(), TRAIN
    weights = list(model.parameters())
    outputs = model(x)
    jacobian = torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(outputs[i, k], weights, retain_graph=True)])
        for i in range(N) for k in range(2)
    ]).view(N, 2, -1)  # fmt: skip
    p = outputs.softmax(1).detach()
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("nkp,nkl,nlq->pq", jacobian, bend, jacobian) / N + DECAY * torch.eye(jacobian.shape[2])
    trained, asked = plain_gradients(model, x, y), plain_gradients(model, *TEST)
    expected = asked @ torch.linalg.solve(matrix, trained.T) / N
    settings = {"damping": DECAY, "curvature": "gauss_newton", "tolerance": 1e-10, "batch_size": 8}
    found = influence_function(model, TRAIN, TEST, **settings, progress=False)
    assert torch.allclose(found.values, expected, rtol=1e-6, atol=1e-10)


def test_forms_of_data_names_layers_and_a_loss_of_the_users():
    class Samples(torch.utils.data.Dataset):
        names = [f"{i}.png" for i in range(N)]

        def __len__(self):
            return N

        def __getitem__(self, i):
            return TRAIN[0][i], int(TRAIN[1][i])

    model = two_layers()
    state = copy.deepcopy(model.state_dict())
    expected = tracin(model, TRAIN, TEST, layers="2", progress=False)
    numpy_test = (TEST[0].numpy(), TEST[1].tolist())
    for data in (Samples(), torch.utils.data.DataLoader(Samples(), batch_size=9)):
        found = tracin(model, data, numpy_test, layers=["2"], progress=False)
        assert torch.allclose(found.values, expected.values)
        assert found.names[4] == "4.png"
        assert torch.equal(found.of("4.png"), found.of(4))
    assert list(found.to_pandas().index) == Samples.names
    assert found.strongest(2, tests=[1]) == np.argsort(-found.values[1].numpy())[:2].tolist()
    assert found.strongest(1, against=True) == [int(found.values.mean(0).argmin())]
    assert Influences.from_dict(found.to_dict()) == found

    def squares(outputs, labels):
        return (outputs[:, 0] - labels).square()

    numbers = tracin(model, (TRAIN[0], TRAIN[0][:, 0]), (TEST[0], TEST[0][:, 0]), loss=squares, progress=False)
    assert numbers.values.shape == (TESTS, N)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_what_cannot_be_is_refused():
    model = two_layers()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*TRAIN), batch_size=5, shuffle=True)
    with pytest.raises(InvalidInputError, match="order that stays"):
        tracin(model, loader, TEST, progress=False)
    with pytest.raises(UnknownNameError, match="no layer '3'"):
        tracin(model, TRAIN, TEST, layers="3", progress=False)
    with pytest.raises(InvalidInputError, match="0 to 1, got 2"):
        tracin(model, (TRAIN[0], TRAIN[1] + 1), TEST, progress=False)
    with pytest.raises(InvalidInputError, match="damping must be > 0"):
        influence_function(model, TRAIN, TEST, damping=0, progress=False)
    with pytest.raises(InvalidInputError, match="at least one"):
        tracin(model, TRAIN, TEST, checkpoints=[], progress=False)
    with pytest.raises(InvalidTypeError, match="a checkpoint is"):
        tracin(model, TRAIN, TEST, checkpoints=[model.state_dict()], progress=False)
    with pytest.raises(InvalidInputError, match="do not fit the model"):
        tracin(model, TRAIN, TEST, checkpoints=[({"a": TRAIN[0]}, 0.1)], progress=False)
    with pytest.raises(InvalidInputError, match="one number for each sample"):
        tracin(model, TRAIN, TEST, loss=lambda outputs, labels: outputs.sum(), progress=False)
    found = tracin(model, TRAIN, TEST, progress=False)
    with pytest.raises(InvalidInputError, match="a training sample must be >= 0 and <= 59, got 60"):
        found.of(60)
    with pytest.raises(UnknownNameError, match="no training sample is called 'x.png'"):
        found.of("x.png")
    model.requires_grad_(requires_grad=False)
    with pytest.raises(InvalidInputError, match="no weights that are trained"):
        tracin(model, TRAIN, TEST, progress=False)


def test_a_solution_that_is_not_reached_is_told():
    options = {"curvature": "gauss_newton", "damping": 0.01, "max_iter": 1, "tolerance": 1e-8}
    with pytest.warns(UserWarning, match="3 of 3 test samples did not reach the tolerance"):
        influence_function(two_layers(), TRAIN, TEST, **options, progress=False)
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    solution, reached = conjugate_gradients(lambda d: (matrix @ d[0],), (torch.tensor([1.0, 2.0]),), 5, 1e-6)
    assert reached
    assert torch.allclose(solution[0], torch.linalg.solve(matrix, torch.tensor([1.0, 2.0])), atol=1e-5)


@pytest.mark.parametrize("kind", ["batch norm and dropout", "dict"])
def test_models_as_they_come(kind):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Flatten())
            self.head = nn.Linear(8, 2)

        def forward(self, signal):
            return {"logits": self.head(self.net(signal[:, None]))}

    torch.manual_seed(0)
    model = Named().double().train()
    before = copy.deepcopy(model.state_dict())
    data = ({"signal": TRAIN[0]}, TRAIN[1]) if kind == "dict" else TRAIN
    tests = ({"signal": TEST[0]}, TEST[1]) if kind == "dict" else TEST
    found = tracin(model, data, tests, progress=False).values
    still = copy.deepcopy(model).eval()
    asked = plain_gradients(lambda_model(still), *TEST)
    assert torch.allclose(found, asked @ plain_gradients(lambda_model(still), *TRAIN).T, rtol=1e-8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(LossGradients(model, "head").weights) == 2


class lambda_model(nn.Module):  # noqa: N801
    """The logits of a model that returns a dict."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["logits"]


SHUFFLED = {
    "subset": {"sampler": SubsetRandomSampler(range(N))},
    "weights": {"sampler": WeightedRandomSampler(torch.ones(N), N)},
    "batches": {"batch_sampler": BatchSampler(RandomSampler(range(N)), 8, drop_last=False)},
}


@pytest.mark.parametrize("name", SHUFFLED)
@pytest.mark.parametrize("function", [tracin, gradient_similarity, influence_function])
def test_loaders_that_shuffle_in_any_way_are_refused(function, name):
    with pytest.raises(InvalidInputError, match="the loader shuffles; pass a loader with shuffle=False"):
        function(two_layers(), DataLoader(TensorDataset(*TRAIN), **SHUFFLED[name]), TEST, progress=False)


@pytest.mark.parametrize("function", [tracin, gradient_similarity, influence_function])
def test_what_users_pass(function, tmp_path):
    """Modules and numbers as layers, inference mode, numpy's numbers; labels and losses that cannot be."""
    model, options = two_layers(), {"progress": False}
    if function is influence_function:
        options |= {"curvature": "gauss_newton", "damping": 0.01}
    expected = function(model, TRAIN, TEST, layers="2", **options).values
    for layers in (model[2], 2, ["2"], [model[2]]):
        assert torch.equal(function(model, TRAIN, TEST, layers=layers, **options).values, expected)
    with torch.inference_mode():
        inside = function(model, TRAIN, TEST, layers="2", batch_size=np.int64(128), **options)
    assert torch.equal(inside.values, expected)
    assert inside.strongest(3, tests=np.int64(1)) == inside.strongest(3, tests=[1])
    with pytest.raises(InvalidInputError, match="tests must name one of the test samples 0 to 2, got none"):
        inside.strongest(3, tests=[])
    with pytest.raises(InvalidInputError, match="0 to 1, got -1"):
        function(model, (TRAIN[0], TRAIN[1] - 1), TEST, **options)
    with pytest.raises(InvalidInputError, match="one number for each sample, .*got float"):
        function(model, TRAIN, TEST, loss=lambda *_: 1.0, **options)


def test_settings_and_files_of_checkpoints(tmp_path):
    model, options = two_layers(), {"progress": False}
    whole = {**options, "curvature": "gauss_newton"}
    plain = influence_function(model, TRAIN, TEST, damping=0.5, **whole)
    assert torch.equal(influence_function(model, TRAIN, TEST, damping=np.float32(0.5), **whole).values, plain.values)
    for settings in ({"damping": 0}, {"damping": "0.1"}, {"max_iter": 0}, {"tolerance": "a"}):
        with pytest.raises((InvalidInputError, InvalidTypeError), match=next(iter(settings))):
            influence_function(model, TRAIN, TEST, **settings, **options)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "lightning.ckpt")
    torch.save(model, tmp_path / "model.pt")
    (tmp_path / "text.pt").write_text("hello")
    files = ((tmp_path / name, rate) for name, rate in (("lightning.ckpt", 0.5), ("lightning.ckpt", 1.5)))
    assert torch.allclose(
        tracin(model, TRAIN, TEST, checkpoints=files, **options).values,
        2 * tracin(model, TRAIN, TEST, **options).values,
    )
    for name, sentence in (
        ("none.pt", "no such file"),
        ("text.pt", "not a file of weights"),
        ("model.pt", "more than"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            tracin(model, TRAIN, TEST, checkpoints=[(tmp_path / name, 1.0)], **options)


def test_the_hessian_is_the_exact_curvature_and_must_have_no_negative_direction():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3).double(), torch.arange(12) % 2
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    weights = list(model.parameters())

    def slope(inputs, labels, **options):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, **options)])

    total = slope(x, y, create_graph=True)
    rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in total]
    hessian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    lowest = float(torch.linalg.eigvalsh(hessian)[0])
    assert lowest < 0
    samples = torch.stack([slope(x[i : i + 1], y[i : i + 1]) for i in range(12)])
    damping = 0.1 - lowest
    expected = samples[:2] @ torch.linalg.solve(hessian + damping * torch.eye(len(hessian)), samples.T) / 12
    options = {"curvature": "hessian", "tolerance": 1e-10, "progress": False}
    values = influence_function(model, (x, y), (x[:2], y[:2]), damping=damping, **options).values
    torch.testing.assert_close(torch.as_tensor(values), expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(InvalidInputError, match="negative direction at these weights"):
        influence_function(model, (x, y), (x[:2], y[:2]), damping=-lowest / 10, **options)
    with pytest.raises(InvalidInputError, match="curvature must be one of"):
        influence_function(model, (x, y), (x[:2], y[:2]), curvature="newton")


@pytest.mark.parametrize("biases_decay", [True, False], ids=["all decayed", "no decay of biases"])
def test_by_default_the_weights_tell_their_decay_and_the_curvature_is_the_exact_one(biases_decay):
    torch.manual_seed(0)
    x, y = blobs(40, 3)
    y = torch.where(torch.rand(40) < 0.2, 1 - y, y)
    model, decay = nn.Linear(3, 2).double(), 0.02
    decayed = [p for p in model.parameters() if biases_decay or p.ndim > 1]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + decay / 2 * sum(p.square().sum() for p in decayed)
        loss.backward()
        return loss

    optimizer.step(closure)
    options = {"progress": False, "tolerance": 1e-9}
    values = influence_function(model, (x, y), (x[:3], y[:3]), **options).values
    # Of a linear model the Gauss-Newton matrix is the Hessian; a common shift of both biases changes nothing.
    weights = list(model.parameters())
    losses = [F.cross_entropy(model(x[[i]]), y[[i]]) for i in range(40)]
    gradients = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(v, weights)]) for v in losses])
    scales = torch.cat(
        [torch.full_like(w, decay if biases_decay or w.ndim > 1 else decay / 100).flatten() for w in weights]
    )
    p = model(x).softmax(1).detach()
    inputs = torch.cat([x, torch.ones(40, 1)], 1)
    bent = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("nab,ni,nj->aibj", bent, inputs, inputs) / 40  # (class, input or bias) twice
    order = [4 * c + i for c in range(2) for i in range(3)] + [3, 7]
    matrix = hessian.reshape(8, 8)[order][:, order] + torch.diag(scales)
    torch.testing.assert_close(
        values, gradients[:3] @ torch.linalg.solve(matrix, gradients.T) / 40, rtol=1e-5, atol=1e-9
    )


def test_weights_at_no_minimum_are_told():
    with pytest.warns(UserWarning, match="at no minimum of the training loss that a weight decay would explain"):
        found = influence_function(two_layers(), TRAIN, TEST, progress=False)
    options = {"curvature": "gauss_newton", "damping": 0.01, "progress": False}
    assert torch.equal(found.values, influence_function(two_layers(), TRAIN, TEST, **options).values)


def trained_by_sgd(weights, epochs, momentum, weight_decay, keep=None, batch=20, rate=0.1):
    """A net after SGD on weighted losses in batches, each step kept as `sgd_influence` takes it."""
    model = two_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(N, generator=generator).split(batch):
            if keep is not None:
                keep.append(({k: v.clone() for k, v in model.state_dict().items()}, rate, rows))
            optimizer.zero_grad()
            losses = F.cross_entropy(model(TRAIN[0][rows]), TRAIN[1][rows], reduction="none")
            (weights[rows] * losses).mean().backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0, 0), (0.9, 0.02)])
@pytest.mark.parametrize("batch_size", [7, 128])
def test_sgd_influence_is_the_derivative_of_the_training_by_a_samples_weight(momentum, weight_decay, batch_size):
    settings, steps = {"momentum": momentum, "weight_decay": weight_decay}, []
    model = trained_by_sgd(torch.ones(N), 4, **settings, keep=steps)
    options = {"batch_size": batch_size, "progress": False}
    values = sgd_influence(model, TRAIN, TEST, steps=steps, **settings, **options).values
    for sample in (0, 17, 59):
        change = 1e-4 * (torch.arange(N) == sample).double()
        less, more = (losses_of_tests(trained_by_sgd(weights, 4, **settings)) for weights in (1 - change, 1 + change))
        torch.testing.assert_close(values[:, sample], (less - more) / 2e-4, rtol=1e-5, atol=1e-9)


def test_sgd_influence_is_what_the_training_without_the_sample_does():
    steps: list = []
    settings = {"epochs": 20, "momentum": 0.9, "weight_decay": 0, "rate": 0.05}
    model = trained_by_sgd(torch.ones(N), **settings, keep=steps)
    truth = torch.stack(
        [losses_of_tests(trained_by_sgd((torch.arange(N) != i).double(), **settings)) for i in range(N)], 1
    )
    truth -= losses_of_tests(model)[:, None]
    values = sgd_influence(model, TRAIN, TEST, steps=steps, momentum=0.9, progress=False).values
    checkpoints = [(weights, rate / 20) for weights, rate, _ in steps]
    by_tracin = tracin(model, TRAIN, TEST, checkpoints=checkpoints, progress=False).values
    for expected, value, traced in zip(truth, values, by_tracin, strict=True):
        assert spearmanr(expected, value).statistic > 0.9
        assert spearmanr(expected, traced).statistic < 0.9
    assert (values - truth).abs().mean() < 0.35 * truth.abs().mean()


def test_a_record_that_does_not_fit_is_told(tmp_path):
    steps, options = [], {"progress": False}
    model = trained_by_sgd(torch.ones(N), 2, 0, 0, keep=steps)
    expected = sgd_influence(model, TRAIN, TEST, steps=steps, **options)
    torch.save(steps[0][0], tmp_path / "0.pt")
    of_file = [(tmp_path / "0.pt", np.float32(0.1), steps[0][2].tolist()), *steps[1:]]
    assert torch.allclose(sgd_influence(model, TRAIN, TEST, steps=iter(of_file), **options).values, expected.values)
    for record, settings in ((steps, {"momentum": 0.9}), (steps[:-1], {}), ([(w, 0.2, r) for w, _, r in steps], {})):
        with pytest.warns(UserWarning, match="does not lead to the model's weights"):
            sgd_influence(model, TRAIN, TEST, steps=record, **settings, **options)
    longer = (torch.cat([TRAIN[0], TEST[0]]), torch.cat([TRAIN[1], TEST[1]]))
    with pytest.warns(UserWarning, match="3 of 63 training samples stand in no step, so their influence is 0"):
        assert not sgd_influence(model, longer, TEST, steps=steps, **options).values[:, N:].any()
    weights = steps[0][0]
    for record, sentence in (
        ([], "at least one"),
        ([weights], "a step is .weights before it"),
        ([(weights, 0.1)], "got tuple of 2"),
        ([(weights, 0.1, [N])], "step 0 names training sample 60, and train has samples 0 to 59"),
        ([(weights, 0.1, [])], "one or more"),
        ([(weights, 0.1, [0.5])], "whole numbers"),
        ([({"a": TRAIN[0]}, 0.1, None)], "weights of a step do not fit"),
    ):
        with pytest.raises((InvalidInputError, InvalidTypeError), match=sentence):
            sgd_influence(model, TRAIN, TEST, steps=record, **options)
    with pytest.raises(InvalidInputError, match="momentum must be"):
        sgd_influence(model, TRAIN, TEST, steps=steps, momentum=1, **options)


@pytest.mark.parametrize("method", [tracin, gradient_similarity, influence_function])
def test_labels_of_a_regression_ask_for_a_loss(method):
    model, x, y = nn.Linear(3, 1), torch.randn(6, 3), torch.randn(6)
    with pytest.raises(InvalidTypeError, match="for a regression pass a loss of each sample"):
        method(model, (x, y), (x[:2], y[:2]), progress=False)


def test_a_rate_below_0_and_a_frozen_model_are_refused():
    model, x, y = nn.Linear(3, 2), torch.randn(6, 3), torch.tensor([0, 1] * 3)
    with pytest.raises(InvalidInputError, match="learning rate of a checkpoint must be >= 0"):
        tracin(model, (x, y), (x, y), checkpoints=[(model.state_dict(), -0.1)], progress=False)
    with pytest.raises(InvalidInputError, match="set it to True"):
        tracin(model.requires_grad_(False), (x, y), (x, y), progress=False)
