"""Methods with a rule for every ReLU, on models of which some ReLUs cannot be reached."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, UnsupportedOperationError

METHODS = ("beta_smooth", "captum.guided_backprop", "captum.deconvolution", "guided_gradcam:target_layer=first")


class Net(nn.Module):
    """A ReLU in a place of one's choice, behind a convolution."""

    def __init__(self, relu: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.last = nn.Conv1d(2, 4, 3), relu, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.first(x)).mean(2))


def _x() -> Tensor:
    return torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_relu_inside_torchscript_is_refused(spec: str) -> None:
    scripted = Net(torch.jit.script(nn.Sequential(nn.ReLU())))
    for _ in range(3):  # TorchScript compiles what ran twice
        with pytest.raises(UnsupportedOperationError, match=r"before torch\.jit\.script"):
            EXPLAINERS.create(spec).bind(scripted).attribute(_x(), 1)


@pytest.mark.parametrize("spec", METHODS)
def test_a_relu_of_an_exported_program_is_any_other(spec: str) -> None:
    explainer = EXPLAINERS.create(spec)
    expected = explainer.bind(Net(nn.ReLU())).attribute(_x(), 1)
    for relu in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
        assert torch.equal(explainer.bind(Net(relu)).attribute(_x(), 1), expected)
    assert not torch.equal(EXPLAINERS.create("gradient").bind(Net(F.relu)).attribute(_x(), 1), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_fullgrad_needs_convolutions_that_python_sees() -> None:
    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().mean(2)

    for model in (Pooled(), torch.jit.script(nn.Sequential(nn.Conv1d(2, 3, 3), Pooled()))):
        with pytest.raises(InvalidInputError, match="runs none that Python sees"):
            EXPLAINERS.create("fullgrad").bind(model).attribute(_x(), 1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_contextual_decomposition_refuses_a_scripted_function() -> None:
    @torch.jit.script
    def scripted(x: Tensor) -> Tensor:
        return torch.relu(x)

    with pytest.raises(UnsupportedOperationError, match=r"cannot look inside a scripted function"):
        EXPLAINERS.create("contextual_decomposition").bind(Net(scripted)).attribute(_x(), 1)


@pytest.mark.parametrize("spec", ["captum.guided_backprop", "captum.deep_lift"])
def test_captum_s_hooks_on_modules_before_a_layer_behind_ids(spec: str) -> None:
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 2))
    model, ids = nn.Sequential(nn.Embedding(7, 4), nn.ReLU(), nn.Identity(), tail), torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = EXPLAINERS.create(spec).bind(tail).attribute(model[:3](ids).detach(), 1)
    assert torch.allclose(EXPLAINERS.create(spec, layer="2").bind(model).attribute(ids, 1), expected, atol=1e-6)


@pytest.mark.parametrize("spec", ["beta_smooth", "captum.guided_backprop", "captum.deconvolution"])
def test_relus_under_vmap_are_any_other(spec: str) -> None:
    class Each(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.inner)(x)

    class Called(nn.Module):  # captum hooks modules of ReLU, which cannot work under vmap
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    torch.manual_seed(0)
    x, explainer = torch.randn(3, 4), EXPLAINERS.create(spec)
    modules = Each(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    if spec.startswith("captum"):
        with pytest.raises(UnsupportedOperationError, match="refuses this model"):
            explainer.bind(modules).attribute(x, 1)
    inner = nn.Sequential(nn.Linear(4, 5), Called(), nn.Linear(5, 2))
    assert torch.allclose(explainer.bind(Each(inner)).attribute(x, 1), explainer.bind(inner).attribute(x, 1), atol=1e-6)


@pytest.mark.parametrize("spec", ["lrp_uniform_epsilon", "attn_lrp"])
def test_lrp_of_a_model_that_runs_a_copy_of_its_part(spec: str) -> None:
    """As ensembles by `torch.func.functional_call` are written."""

    class Copies(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return copy.deepcopy(self.inner)(x)

    torch.manual_seed(0)
    inner, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(3, 4)
    explainer = EXPLAINERS.create(spec)
    expected = explainer.bind(inner).attribute(x, 1)
    assert torch.allclose(explainer.bind(Copies(inner)).attribute(x, 1), expected, atol=1e-6)
