"""Each private name of torch that xaikit uses still means what `xaikit.core.torch_private` says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from xaikit import Gradient
from xaikit.core import torch_private
from xaikit.core.lightning_private import lightning_inner


def test_base_classes_of_layers():
    assert all(issubclass(c, torch_private.Convolution) for c in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose3d))
    assert all(issubclass(c, torch_private.BatchNorm) for c in (nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm))
    assert issubclass(nn.BatchNorm2d, torch_private.RunningNorm)
    assert issubclass(nn.InstanceNorm2d, torch_private.RunningNorm)
    assert issubclass(nn.InstanceNorm2d, torch_private.InstanceNorm)
    assert not issubclass(nn.LayerNorm, torch_private.RunningNorm)
    assert all(issubclass(c, torch_private.Dropout) for c in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout))


def test_what_a_module_holds():
    norm = nn.BatchNorm1d(3, affine=False)
    model = nn.Sequential(nn.Linear(3, 3), norm)
    model.add_module("absent", None)
    assert torch_private.children_of(model) == {"0": model[0], "1": norm, "absent": None}
    assert dict(norm.named_buffers()) == torch_private.buffers_of(norm)
    assert torch_private.parameters_of(norm) == {"weight": None, "bias": None}
    torch_private.buffers_of(norm)["running_mean"] = changed = torch.ones(3)
    assert norm.running_mean is changed
    hook = print
    model[0].register_forward_hook(hook)
    model[0].register_forward_pre_hook(hook)
    norm.register_full_backward_hook(hook)
    assert [*torch_private.forward_hooks_of(model[0]).values()] == [hook]
    assert [*torch_private.forward_pre_hooks_of(model[0]).values()] == [hook]
    assert [*torch_private.backward_hooks_of(norm).values()] == [hook]
    parametrizations.weight_norm(model[0])  # parameters move into a child, which the dicts show
    assert set(torch_private.parameters_of(model[0])) == {"bias"}


def test_settings_of_a_convolution_as_numbers():
    convolution = nn.Conv2d(2, 2, (3, 5), padding="same", dilation=(2, 1), groups=2)
    convolution.stride = 1
    y = convolution(torch.ones(1, 2, 9, 9))
    assert torch_private.convolution_settings(y.grad_fn) == ((1, 1), (2, 2), (2, 1), 2)


def test_the_function_of_a_node():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x.clone()

        @staticmethod
        def backward(_ctx, g):
            return g

    assert torch_private.function_of(Same.apply(torch.ones(1, requires_grad=True)).grad_fn) is Same


def test_what_is_compiled_is_known():
    plain, wrapped = nn.Linear(2, 2), nn.Linear(2, 2)
    compiled = torch.compile(wrapped, backend="eager")
    assert torch_private.compiler_is_loaded()
    assert torch_private.compiled_inner(compiled) is wrapped
    assert torch_private.compiled_inner(plain) is None


class Logged(torch.Tensor):
    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Logged.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def test_torch_functions_can_be_turned_off():
    value, seen = torch_private.make_subclass(Logged, torch.ones(2)), Logged.calls
    for off in (torch_private.DisableTorchFunction, torch_private.DisableTorchFunctionSubclass):
        with off():
            assert value.shape == (2,)
            torch.add(value, 1)
    assert Logged.calls == seen
    torch.add(value, 1)
    assert Logged.calls > seen


class Dispatched(Logged):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


def test_a_wrapper_has_a_shape_and_no_storage():
    value = torch_private.make_wrapper_subclass(Dispatched, (2, 3), dtype=torch.float64, device=torch.device("cpu"))
    with torch_private.DisableTorchFunctionSubclass():
        assert type(value) is Dispatched
        assert (value.shape, value.dtype) == ((2, 3), torch.float64)
        with pytest.raises(NotImplementedError):
            torch.add(value, 1)  # it has nothing to compute with: its class must answer


def test_many_tensors_at_once():
    to, values = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), torch.full((3,), 2.0)]
    torch_private.foreach_copy_(to, values)
    assert all(torch.equal(a, b) for a, b in zip(to, values, strict=True))
    assert torch.allclose(torch.stack(torch_private.foreach_norm(values)), torch.tensor([2.0, 12.0]).sqrt())
    nested = {"a": [values[0]], "b": 3}
    assert [*torch_private.tree_iter(nested)] == [values[0], 3]
    doubled = torch_private.tree_map_only(torch.Tensor, lambda t: t * 2, nested)
    assert (doubled["b"], doubled["a"][0].tolist()) == (3, [2.0, 2.0])


def test_the_slow_kernel_differentiates_a_convolution():
    x, w = torch.randn(2, 1, 5, 5, requires_grad=True), torch.randn(4, 1, 3, 3)
    y = torch.conv2d(x, w)
    g = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, g)
    arguments = (g, x.detach(), w, (3, 3), (1, 1), (0, 0), [True, False, False])
    assert torch.allclose(torch_private.slow_conv2d_backward(*arguments)[0], expected, atol=1e-5)


def test_views_schemas_and_nodes():
    base = torch.zeros(4)
    assert torch_private.view_base(base[1:]) is base
    assert torch_private.view_base(base) is None
    before = torch_private.version_of(base)
    base[1:].zero_()
    assert torch_private.version_of(base) == torch_private.version_of(base[:1]) == before + 1
    schema = torch_private.schema_of(torch.ops.aten.add.Tensor)
    assert (schema.name, schema.overload_name) == ("aten::add", "Tensor")
    assert torch_private.schema_of(torch.add) is None
    names = {argument.name for schema in torch_private.schemas_named("mul") for argument in schema.arguments}
    assert {"self", "other"} <= names
    assert torch_private.NN_FUNCTIONS.linear is torch.nn.functional.linear

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

    x = torch.ones(1, requires_grad=True)
    assert torch_private.autograd_class(Double.apply(x).grad_fn) is Double
    assert torch_private.autograd_class((2 * x).grad_fn) is None


def test_lightning_wraps_under_that_name():
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    model = nn.Linear(2, 2)
    assert lightning_inner(fabric.setup(model)) is model
    assert lightning_inner(model) is None


def test_the_batch_behind_an_example_of_vmap():
    x, behind = torch.randn(2, 3), []

    def example(row):
        assert torch_private.is_batched(row)
        assert torch_private.is_mapped()
        behind.append(torch_private.batch_of(row))
        return row * 2

    torch.vmap(example)(x)
    assert behind[0] is x
    assert torch_private.batch_of(x) is x
    assert not torch_private.is_batched(x)
    assert not torch_private.is_mapped()


def test_operators_have_a_qualified_name():
    assert torch_private.operator_name(torch.ops.aten.add) == "aten::add"
    assert torch_private.operator_name(torch.ops.aten.add.Tensor) == "aten::add"
    assert torch_private.operator_name(torch.add) is None


def test_a_checkpoint_of_an_explained_pass_runs_no_part_twice():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant, runs):
            super().__init__()
            self.reentrant = reentrant
            self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
            self.body.register_forward_pre_hook(lambda *_: runs.append(reentrant))

        def forward(self, x):
            return self.body(x) if self.reentrant is None else checkpoint(self.body, x, use_reentrant=self.reentrant)

    runs = []
    for reentrant in (None, True, False):
        Gradient(Checkpointed(reentrant, runs)).attribute(torch.rand(2, 3), 0)
    assert runs.count(None) == runs.count(True) == runs.count(False) > 0


@pytest.mark.nightly
def test_the_first_that_compiles_loads_the_compiler():
    code = (
        "import torch\nfrom xaikit.core.torch_private import compiler_is_loaded as loaded\n"
        "before = loaded()\ntorch.nn.Linear(2, 2).compile()\nassert (before, loaded()) == (False, True)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_batch_norms_derivative_says_whose_statistics_it_takes():
    for training in (True, False):
        x = torch.rand(3, 2, requires_grad=True)
        norm = torch.nn.functional.batch_norm(x, torch.zeros(2), torch.ones(2), training=training)
        (g,) = torch.autograd.grad(norm.square().sum(), x, create_graph=True)
        assert torch_private.takes_batch_statistics(g.grad_fn) is training
