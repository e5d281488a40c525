"""Models that register hooks on themselves in their first pass, as those of transformers do for hidden states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaikit import EXPLAINERS, RRR
from xaikit.core.errors import InvalidInputError

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Collecting(nn.Module):
    """Doubles what its first layer returns, by a hook of its first pass; twice registered, it would double twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "installed", False):
            self.first.register_forward_hook(_doubled)
            self.installed = True
        return self.last(self.first(x).tanh())


def _doubled(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return 2 * output


def _used() -> Collecting:
    model = Collecting()
    model(X)
    return model


@pytest.mark.parametrize("spec", ["smoothgrad", "integrated_gradients", "captum.feature_ablation", "lrp_epsilon_plus"])
def test_a_model_that_never_ran_is_explained_as_one_that_did(spec: str) -> None:
    explainer, fresh = EXPLAINERS.create(spec), Collecting()
    expected = explainer.bind(_used()).attribute(X, 1)
    for _ in range(2):  # the first call, and one that knows the model
        assert torch.allclose(explainer.bind(fresh).attribute(X, 1), expected, atol=1e-6)
    assert not fresh.first._forward_hooks
    assert not hasattr(fresh, "installed")


def test_captum_s_passes_sample_by_sample_on_a_model_that_cannot_be_copied() -> None:
    class Held(nn.Module):
        def __init__(self, inner: Collecting) -> None:
            super().__init__()
            self.inner, self.call = inner, lambda x: inner(x) + 0

        def forward(self, x: Tensor) -> Tensor:
            return self.call(x)

    explainer = EXPLAINERS.create("captum.gradient_shap:n_samples=3")
    expected = explainer.bind(_used()).attribute(X, 1)
    assert torch.allclose(explainer.bind(Held(Collecting())).attribute(X, 1), expected, atol=1e-6)


@pytest.mark.parametrize("spec", ["gradient", "smoothgrad", "lrp_epsilon_plus"])
def test_after_a_loss_the_model_is_as_after_a_pass_of_its_own(spec: str) -> None:
    model, expected = Collecting(), _used()(X)
    RRR(explainer=spec).loss(model, (X, torch.tensor([0, 1, 0, 1]), torch.ones(3)))
    assert len(model.first._forward_hooks) == 1
    assert torch.allclose(model(X), expected)


@pytest.mark.parametrize("kind", ["layer", "weight"])
def test_a_model_that_makes_its_last_layer_in_its_first_pass(kind: str) -> None:
    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "late"):
                self.late = nn.Linear(3, 2) if kind == "layer" else nn.Parameter(torch.rand(3, 2))
            return self.late(x) if isinstance(self.late, nn.Linear) else x @ self.late

    model = Late()
    with pytest.raises(InvalidInputError, match="makes 'late' in its first pass; run it on a batch once"):
        EXPLAINERS.create("gradient").bind(model).attribute(X, 1)
    model(X)
    weight = model.late.weight[1] if isinstance(model.late, nn.Linear) else model.late[:, 1]
    assert torch.allclose(EXPLAINERS.create("gradient").bind(model).attribute(X, 1), weight.expand(4, 3))


def test_hooks_that_a_pass_of_another_thread_registers_meanwhile() -> None:
    model, explainer = Collecting(), EXPLAINERS.create("captum.feature_ablation")
    expected = explainer.bind(_used()).attribute(X, 1)
    explainer.bind(model).attribute(X, 1)  # what a pass writes is known from here on

    def score(output: Tensor) -> Tensor:
        if not model.first._forward_hooks:
            model(X)  # as a thread of the user's own may do between two passes
        return output[:, 1]

    assert torch.allclose(explainer.bind(model).attribute(X, score), expected, atol=1e-6)
    assert len(model.first._forward_hooks) == 1


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "lrp_epsilon_plus", "deep_lift", "smoothgrad"])
def test_a_layer_is_read_behind_the_hook_of_its_first_pass(name):
    first, later = (EXPLAINERS.create(name, layer="first").bind(m).attribute(X, 1) for m in (Collecting(), _used()))
    torch.testing.assert_close(first, later)
