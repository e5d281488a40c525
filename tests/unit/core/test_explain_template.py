"""`explain` is one template for every explainer, and what a plugin needs of an explainer is public."""

from __future__ import annotations

import warnings
from typing import Annotated, ClassVar

import pytest
import torch
from torch import Tensor, nn

from xaikit import CDEP, EXPLAINERS, ContextualDecomposition, Explainer, Float, Mitigator, SmoothGrad, VarGrad
from xaikit.core.errors import InvalidInputError

X, Y = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def net(**options) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, **options), nn.ReLU(), nn.Linear(6, 3, **options))


def test_no_explainer_has_an_explain_of_its_own():
    for name in EXPLAINERS:
        cls = EXPLAINERS.get(name)
        template = next(c for c in cls.__mro__ if "explain" in vars(c))
        assert template is Explainer or template.__name__ == "ZennitLRP", name  # LRP adds what became of the rest


@pytest.mark.parametrize("targets", [[0, 1, 2, 0, 1, 2], (0, 1, 2, 0, 1, 2), Y, Y.numpy()])
def test_targets_of_any_form_are_kept(targets):
    for name in ("contextual_decomposition", "gradient", "lrp_epsilon_plus"):
        assert EXPLAINERS.create(name).bind(net()).explain(X, targets).targets == [0, 1, 2, 0, 1, 2]


def test_contextual_decomposition_warns_of_a_large_gap(monkeypatch):
    explainer = ContextualDecomposition(net())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explainer.explain(X, Y).gap.max() < 1e-5
    monkeypatch.setattr("xaikit.explainers.cd.decomposition.Decomposition.gap", lambda self, scores: scores.abs())
    with pytest.warns(UserWarning, match="misses the explained score by 100.0 %, more than the tolerance of 1 %"):
        explainer.explain(X, Y)


def test_from_spec_gives_its_own_class_or_refuses():
    assert type(SmoothGrad.from_spec("smoothgrad:n_iter=3")) is SmoothGrad
    assert type(Explainer.from_spec("vargrad", net())) is VarGrad
    with pytest.raises(InvalidInputError, match="makes a SmoothGrad, and 'vargrad' describes a VarGrad"):
        SmoothGrad.from_spec("vargrad")
    with pytest.raises(InvalidInputError, match="VarGrad.from_spec makes a VarGrad"):
        VarGrad.from_spec(SmoothGrad())


def test_describe_holds_what_a_spec_cannot():
    def first(inputs):
        return inputs[0]

    described = SmoothGrad(n_iter=3, forward_arg_extractor=first).describe()
    assert described["name"] == "smoothgrad"
    assert described["settings"]["n_iter"] == 3
    assert described["settings"]["forward_arg_extractor"].endswith("first")
    assert "0x" not in described["settings"]["forward_arg_extractor"]  # the same in the next process


def test_an_open_call_is_explained_like_a_closed_one():
    explainer, results = SmoothGrad(net(), n_iter=3), []

    def method(call):
        results.append(explainer.attribute_call(call)[0])
        return (tuple(results),)

    (values,) = explainer.run_call(method, X, Y, seed=3)
    assert torch.equal(values, explainer.attribute(X, Y, seed=3))


class TopContribution(Mitigator):
    """A penalty on what the masked part contributes to the label's score, by any explainer that decomposes."""

    WEIGHT: ClassVar[str] = "lambda_top"
    lambda_top: Annotated[float, Float(low=0.1, high=10, log=True, ge=0), "weight"] = 1.0

    def _penalty(self, model, x, y, mask, *, seed, create_graph) -> Tensor:
        explainer = self.explainer_for(model)
        explained: list[Tensor] = []

        def method(call):
            explained.extend(call.inputs)
            return ()

        explainer.run_call(method, x, seed=seed, cut=True)
        masks = torch.as_tensor(mask).float().expand_as(explained[0])[None]
        split = explainer.decompose(x, masks, create_graph=create_graph)
        return split.relevant[0].gather(1, y[:, None]).square().mean()


def test_a_decomposing_mitigator_is_written_with_public_names_only():
    mask = torch.tensor([1.0, 0, 0, 0])
    mitigator = TopContribution(explainer="contextual_decomposition:rules=cdep", lambda_top=2.0)
    model = net()
    loss = mitigator.loss(model, (X, Y, mask))
    split = ContextualDecomposition(model, rules="cdep").decompose(X, mask[None])
    expected = split.relevant[0].gather(1, Y[:, None]).square().mean()
    assert torch.allclose(loss.penalty, expected)
    loss.total.backward()
    assert model[0].weight.grad[:, 0].abs().max() > 0
    history = mitigator.set_kwargs(n_epochs=20, lr=1e-2, random_state=0).fit(model, X, Y, mask, progress=False)
    assert history["penalty"][-1] < history["penalty"][0]
    assert type(CDEP()) is not type(mitigator)


def nearly_cancelling() -> nn.Module:
    """Two inputs whose difference counts a billion times."""
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1e9, -1e9]]))
    return model


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attn_lrp", r"grows most in linear \(.*'1'\), 2e\+09 times.*larger epsilon"),
        ("lrp_uniform_epsilon", r"grows most in linear \(.*'1'\), 2e\+09 times.*lrp_epsilon_plus"),
        ("contextual_decomposition", r"up to layer '1'.*floor"),
        ("integrated_gradients", r"so it says little\.$"),
    ],
)
def test_an_attribution_far_above_the_scores_warns_and_names_where_it_grows(name, words):
    x = torch.tensor([[1.0, 1 - 1e-9]], dtype=torch.float64)
    with pytest.warns(UserWarning, match=f"adds up to 2e\\+09 in absolute value, for scores up to 1.*{words}") as seen:
        result = EXPLAINERS.create(name).bind(nearly_cancelling()).explain(x)
    assert seen[0].filename == __file__
    assert float(result.values.abs().sum()) == pytest.approx(2e9, rel=0.25)  # LRP's epsilon takes a part


@pytest.mark.parametrize("name", ["attn_lrp", "contextual_decomposition", "integrated_gradients"])
def test_a_score_near_0_is_no_reason_to_warn(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, -1.0]]))
        EXPLAINERS.create(name).bind(model).explain(torch.tensor([[1.0, 1 - 1e-9]], dtype=torch.float64))
