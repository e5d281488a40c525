"""What a model's passes change in the objects that it holds on to, and in random numbers, is as it was before."""

from __future__ import annotations

import array
import collections
import pickle
import random
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.model_state import profile_of

SPECS = ("gradient", "smoothgrad:n_iter=3", "lrp_epsilon_plus", "contextual_decomposition", "captum.feature_ablation")


class Cache:
    def __init__(self):
        self.n, self.items = 0, []

    def add(self, _x=None):
        self.n += 1
        self.items.append(self.n)


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


class Grid(np.ndarray):
    pass


class Outer:
    def __init__(self):
        self.inner = Cache()


def count(value, _x):
    value.n += 1


def state(value):
    """All that a value holds, in a form that can be compared."""
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    if isinstance(value, Slotted):
        return value.n
    return pickle.dumps(value)


WRITES = {
    "deque": (lambda: collections.deque(maxlen=3), lambda v, x: v.append(len(x))),
    "a list in a dict": (lambda: {"sizes": [1]}, lambda v, x: v["sizes"].append(len(x))),
    "a dict in a tuple": (lambda: ({"n": 0},), lambda v, _x: v[0].update(n=v[0]["n"] + 1)),
    "counter": (collections.Counter, lambda v, _x: v.update("a")),
    "default dict": (lambda: collections.defaultdict(list), lambda v, x: v["sizes"].append(len(x))),
    "a tensor in a list": (lambda: [torch.zeros(2)], lambda v, _x: v[0].add_(1)),
    "array of numpy": (lambda: np.zeros(3), lambda v, _x: v.__iadd__(1)),
    "array of a subclass": (lambda: np.zeros(3).view(Grid), lambda v, _x: v.__iadd__(1)),
    "array of Python": (lambda: array.array("d"), lambda v, _x: v.append(1.0)),
    "bytes": (bytearray, lambda v, _x: v.append(1)),
    "object": (Cache, Cache.add),
    "object with slots": (Slotted, count),
    "object in an object": (Outer, lambda v, _x: v.inner.add()),
    "namespace": (lambda: types.SimpleNamespace(n=0), count),
    "generator of torch": (lambda: torch.Generator().manual_seed(0), lambda v, _x: torch.rand(1, generator=v)),
    "generator of numpy": (lambda: np.random.default_rng(0), lambda v, _x: v.normal()),
    "older generator of numpy": (lambda: np.random.RandomState(0), lambda v, _x: v.normal()),
    "generator of Python": (lambda: random.Random(0), lambda v, _x: v.random()),
}


class Holds(nn.Module):
    def __init__(self, value, write):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.value, self.write = nn.Linear(4, 2), value, write

    def forward(self, x):
        self.write(self.value, x)
        return self.layer(x).tanh()


class Past(Holds):
    """Reaches its layer by a function, so that no copy of it can be made."""

    def __init__(self, value, write):
        super().__init__(value, write)
        layer = self.layer
        self.run = lambda x: layer(x) * 1

    def forward(self, x):
        self.write(self.value, x)
        return self.run(x).tanh()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", [Holds, Past])
@pytest.mark.parametrize("name", WRITES)
def test_what_the_model_holds_is_as_it_was(name, kind, spec):
    make, write = WRITES[name]
    model, x = kind(make(), write), torch.randn(3, 4)
    before, value = state(model.value), model.value
    for _ in range(2):  # the first call finds out, the second knows
        EXPLAINERS.create(spec).bind(model).attribute(x, 1)
        assert model.value is value
        assert state(value) == before
    assert profile_of(model)[1].replicable is (kind is Holds)


class Counts(nn.Module):
    """Counts its passes and keeps what they read in the body of its class."""

    passes, last, memory, sizes, cache = 0, None, torch.zeros(2), [1], Cache()

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        self.sizes.append(len(x))
        self.memory += 1
        self.cache.add()
        self.passes += 1
        self.last = self.new = x
        return self.layer(x).tanh() * (self.passes + len(self.sizes) + self.cache.n + float(self.memory[0]))


class Counted(Counts):
    passes = 0


@pytest.mark.parametrize("spec", [*SPECS, "integrated_gradients:n_steps=4"])
@pytest.mark.parametrize("kind", [Counts, Counted])
def test_what_the_class_of_the_model_holds_is_as_it_was(kind, spec):
    model, x = kind(), torch.randn(3, 4)
    before = [dict(vars(c)) for c in (Counts, Counted)]
    results = [EXPLAINERS.create(spec).bind(model).attribute(x, 1) for _ in range(2)]
    assert [dict(vars(c)) for c in (Counts, Counted)] == before
    assert (Counts.sizes, Counts.memory.tolist(), vars(Counts.cache)) == ([1], [0, 0], {"n": 0, "items": []})
    assert "last" not in vars(model)
    torch.testing.assert_close(*results, rtol=0, atol=0)
    if spec == "gradient":
        factor = 1 + 2 + 1 + 1  # one of each, and the size that was in the list
        grads = torch.autograd.functional.jacobian(lambda x: model.layer(x).tanh()[:, 1].sum() * factor, x)
        torch.testing.assert_close(results[0], grads)


def test_a_class_hides_what_its_base_holds():
    class Base(nn.Module):
        table, names, scale = [1.0], [2.0], [3.0]

        def forward(self, x):
            return x * (self.table or [5.0])[0] * self.names()[0] * self.scale

    class Hides(Base):
        table, scale = None, 7.0

        def names(self):
            return [11.0]

    x = torch.randn(2, 3)
    values = EXPLAINERS.create("gradient").bind(Hides()).attribute(x, lambda output: output.sum(1))
    assert torch.equal(values, torch.full((2, 3), 5.0 * 7 * 11))


def test_large_arrays_are_data_beside_one_that_is_written():
    data = np.zeros(2**20 + 1, dtype=np.int8)
    model, x = Holds([np.zeros(3), data], lambda v, _x: v[0].__iadd__(1)), torch.randn(3, 4)
    for _ in range(2):
        EXPLAINERS.create("gradient").bind(model).attribute(x, 1)
        assert not model.value[0].any()
        assert model.value[1] is data


@pytest.mark.parametrize("draw", [np.random.normal, random.random], ids=["numpy", "Python"])
def test_random_numbers_of_numpy_and_python_start_from_the_seed(draw):
    class Noisy(Holds):
        def forward(self, x):
            return self.layer(x * (1 + float(draw()))).tanh()

    model, x = Noisy(None, None), torch.randn(3, 4)
    before = pickle.dumps(np.random.get_state()), random.getstate()
    explainer = EXPLAINERS.create("gradient").bind(model)
    first = explainer.attribute(x, 1, seed=1)
    assert torch.equal(explainer.attribute(x, 1, seed=1), first)
    assert not torch.equal(explainer.attribute(x, 1, seed=2), first)
    assert (pickle.dumps(np.random.get_state()), random.getstate()) == before


layer = nn.Linear(4, 2)  # a global of the name of an attribute


def test_a_global_of_the_name_of_an_attribute_is_another_thing(monkeypatch):
    model = Holds([], list.append)
    monkeypatch.setattr(sys.modules[__name__], "layer", model.layer)
    EXPLAINERS.create("gradient").bind(model).attribute(torch.randn(3, 4), 1)
    assert profile_of(model)[1].replicable
    assert model.value == []


class ByGlobal(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return [layer(row) for row in [x]][0]


def test_a_global_that_is_read_inside_a_function_of_the_forward_pass_is_seen(monkeypatch):
    model = ByGlobal()
    monkeypatch.setattr(sys.modules[__name__], "layer", model.layer)
    EXPLAINERS.create("gradient").bind(model).attribute(torch.randn(3, 4), 1)
    assert not profile_of(model)[1].replicable
