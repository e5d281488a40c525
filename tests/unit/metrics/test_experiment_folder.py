"""An experiment in a folder goes on where it ended, and finds no value of anything else."""

from __future__ import annotations

import importlib
import types

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import evaluate
from xaikit.core.call import Call
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import IntegratedGradients, LRPUniformEpsilon
from xaikit.metrics import AbPC, Entropy, Experiment, Sparseness
from xaikit.metrics.content import UnknownContentError, digest_of
from xaikit.transforms import Postprocessor

SCALE = 1.0


class Net(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.factor = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double(), [factor]

    def forward(self, x):
        return scaled(self.layers(x * self.factor[0]))


def scaled(x):
    return x * torch.sigmoid(x * SCALE)


def samples(shift=0.0):
    torch.manual_seed(1)
    return [(torch.randn(n, 6).double() + shift, torch.arange(n) % 3) for n in (4, 3)]


@pytest.fixture
def passes(monkeypatch):
    """Notes each pass of a model."""
    noted, output_of = [], Call.output_of
    monkeypatch.setattr(Call, "output_of", lambda call, *args: noted.append(1) or output_of(call, *args))
    return noted


def test_an_experiment_goes_on_in_its_folder(tmp_path, passes):
    explainers, metrics = ["gradient", "integrated_gradients:n_steps=3"], [Entropy(), AbPC(n_steps=3)]
    expected = evaluate(explainers, metrics, samples(), model=Net(), progress=False)
    assert Experiment(Net(), samples(), folder=tmp_path / "e").evaluate(explainers, metrics, progress=False) == expected
    passes.clear()
    again = Experiment(Net(), samples(), folder=str(tmp_path / "e"))
    assert again.evaluate(explainers, metrics, progress=False) == expected
    again.evaluate(explainers, Sparseness(), progress=False)  # of the stored attributions
    assert not passes
    for path in (tmp_path / "e").glob("*.npz"):
        np.load(path, allow_pickle=False)["meta"]
        path.write_bytes(path.read_bytes()[:-9])
    assert Experiment(Net(), samples(), folder=tmp_path / "e").evaluate(explainers, metrics, progress=False) == expected
    assert passes


def test_after_an_interruption_only_what_is_missing_is_computed(tmp_path, passes, monkeypatch):
    runs, plain = [], AbPC._evaluate

    def interrupted(metric, context):
        runs.append(1)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return plain(metric, context)

    monkeypatch.setattr(AbPC, "_evaluate", interrupted)
    explainer, metrics = IntegratedGradients(n_steps=3), {"a": AbPC(n_steps=3), "e": Entropy()}
    table = Experiment(Net(), samples(), folder=tmp_path).evaluate(explainer, metrics, progress=False)
    assert (table.stopped, [row.n for row in table]) == ("interrupted", [4, 4])
    passes.clear()
    table = Experiment(Net(), samples(), folder=tmp_path).evaluate(explainer, metrics, progress=False)
    second_batch = len(passes)
    assert len(runs) == 3  # the first batch is there
    assert table == evaluate(explainer, metrics, samples(), model=Net(), progress=False)
    assert 0 < second_batch < (len(passes) - second_batch) / 2  # its attribution is, too


def _other_weights(net):
    net.layers[0].weight.data[0, 0] += 0.1
    return net


CHANGES = {
    "weights": {"model": lambda: _other_weights(Net())},
    "what a module holds in a list": {"model": lambda: Net(2.0)},
    "samples": {"data": lambda: samples(0.1)},
    "labels": {"data": lambda: [(x, y.flip(0)) for x, y in samples()]},
    "seed": {"seed": 3},
    "explainer": {"explainer": IntegratedGradients(n_steps=4)},
    "baseline": {"explainer": IntegratedGradients(n_steps=3, baseline=torch.full((6,), 0.1).double())},
    "postprocessing": {"postprocess": Postprocessor(normalization="maxabs")},
    "a function": {"postprocess": lambda a: a * a},
    "metric": {"metric": AbPC(n_steps=4)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_computed_again(change, tmp_path):
    def tables(model=Net, data=samples, seed=0, explainer=IntegratedGradients(n_steps=3), metric=AbPC(n_steps=3), postprocess=None):  # noqa: B008, E501, PLR0913, PLR0917  # fmt: skip
        call = ({"a": explainer}, {"m": metric})
        options = {"postprocess": postprocess, "progress": False}
        kept = Experiment(model(), data(), seed=seed, folder=tmp_path).evaluate(*call, **options)
        fresh = evaluate(*call, data(), model=model(), seed=seed, **options)
        return kept, fresh, {path.name for path in tmp_path.glob("*.npz")}

    _, _, files = tables()
    kept, fresh, more = tables(**CHANGES[change])
    assert kept == fresh
    assert more > files


def test_a_constant_and_code_behind_the_model_count(monkeypatch):
    digests = {digest_of(Net())}
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    digests.add(digest_of(Net()))
    monkeypatch.setitem(globals(), "scaled", lambda x: x * torch.sigmoid(-x * SCALE))
    digests.add(digest_of(Net()))
    net = Net()
    net.layers.register_forward_hook(lambda _m, _i, output: output * 2)
    digests.add(digest_of(net))
    assert len(digests) == 4


def test_what_cannot_be_told_stays_in_memory(tmp_path):
    net = Net()
    net.lock = (n for n in range(3))
    with pytest.raises(UnknownContentError, match="generator"):
        digest_of(net)
    with pytest.warns(UserWarning, match="keeps nothing in its folder of the model"):
        Experiment(net, samples(), folder=tmp_path).evaluate("gradient", "entropy", progress=False)
    assert not list(tmp_path.glob("*.npz"))


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="is not empty and holds no experiment"):
        Experiment(Net(), samples(), folder=tmp_path)
    with pytest.raises(InvalidInputError, match="is a file; name a folder"):
        Experiment(Net(), samples(), folder=tmp_path / "notes.txt")


def test_lrp_and_several_tensors(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, a, b):
            return self.net(a + b)

    (x, y), *_ = samples()
    for _ in range(2):
        table = Experiment(Two(), [((x, x / 2), y)], folder=tmp_path).evaluate(
            LRPUniformEpsilon(), "entropy", progress=False
        )
        assert table == evaluate(LRPUniformEpsilon(), "entropy", [((x, x / 2), y)], model=Two(), progress=False)


def test_a_module_of_the_users_counts_with_its_file_and_what_it_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_scale.py").write_text("import math\n\n\ndef scale(x):\n    return x * math.pi\n")
    (tmp_path / "users_helpers.py").write_text(
        "import users_scale\n\nSHIFT = 1\n\n\ndef f(x):\n    return users_scale.scale(x) + SHIFT\n"
    )
    helpers = importlib.import_module("users_helpers")

    def measured(x):
        return helpers.f(x)

    digests = {digest_of(measured)}
    assert digest_of(measured) in digests
    helpers.SHIFT = 2
    digests.add(digest_of(measured))
    helpers.SHIFT = 1
    (tmp_path / "users_scale.py").write_text("def scale(x):\n    return x * 3\n")
    digests.add(digest_of(measured))
    (tmp_path / "users_helpers.py").write_text("def f(x):\n    return x\n")
    digests.add(digest_of(measured))
    assert len(digests) == 4
    with pytest.raises(UnknownContentError, match="the module users_none, which has no file"):
        digest_of(types.ModuleType("users_none"))
