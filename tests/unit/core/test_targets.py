"""Targets as values: each against a function that means the same, through every kind of method."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from xaikit import Class, Contrast, Gradient, Heads, IntegratedGradients, LogProbability, Position, Probability, Region
from xaikit.core import EXPLAINERS, TARGETS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.spec_strings import target_text

METHODS = ("gradient", "smoothgrad:n_iter=3", "integrated_gradients:n_steps=3", "lrp_epsilon_plus",
           "contextual_decomposition", "captum.feature_ablation", "captum.deep_lift")  # fmt: skip


class Model(nn.Module):
    """Outputs of a form by name."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.a, self.act, self.b = form, nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)

    def forward(self, x):
        h = self.b(self.act(self.a(x)))  # (N, 3, 5)
        if self.form == "classes":
            return h.sum(1)
        if self.form == "segments":
            return h.transpose(1, 2)[..., None].expand(-1, -1, -1, 2)
        return {"start": h.sum(1), "end": h.sum(2)} if self.form == "heads" else h


ROWS = torch.arange(4)
CASES = {
    "class": ("classes", Class([0, 2, 1, 4]), lambda o: o[ROWS, [0, 2, 1, 4]]),
    "contrast": ("classes", Contrast(3, Class(1)), lambda o: o[:, 3] - o[:, 1]),
    "log_probability": ("classes", LogProbability(2), lambda o: o.log_softmax(1)[:, 2]),
    "probability": ("classes", "probability:of=2", lambda o: o.softmax(1)[:, 2]),
    "position": ("tokens", Position(-1, 4), lambda o: o[:, -1, 4]),
    "pair": ("tokens", (1, 4), lambda o: o[:, 1, 4]),
    "pairs": ("tokens", [(0, 1), (-1, 2), (1, 0), (2, 4)], lambda o: o[ROWS, [0, -1, 1, 2], [1, 2, 0, 4]]),
    "token probability": ("tokens", Probability(Position(0, 3)), lambda o: o[:, 0].softmax(1)[:, 3]),
    "region": ("segments", Region(2, torch.tensor([[1.0, 0], [0, 1], [1, 1]])),
               lambda o: (o[:, 2] * torch.tensor([[1.0, 0], [0, 1], [1, 1]]).double()).sum((1, 2))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:captum's DeepLift misses")  # it has no rule for the softmax of the target
@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_a_target_is_what_a_function_says(spec, name):
    form, target, function = CASES[name]
    explainer = EXPLAINERS.create(spec).bind(Model(form).double())
    x = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    expected = explainer.attribute(x, function)
    assert expected.any()
    assert torch.allclose(explainer.attribute(x, target), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("spec", ["gradient", "integrated_gradients:n_steps=3", "captum.feature_ablation"])
def test_heads_add_up(spec):
    explainer, x = EXPLAINERS.create(spec).bind(Model("heads").double()), torch.randn(4, 3, 4).double()
    total = explainer.attribute(x, Heads({"start": 1, "end": Class([0, 1, 2, 0])}))
    parts = (
        explainer.set_kwargs(head="start").attribute(x, 1),
        explainer.set_kwargs(head="end").attribute(x, [0, 1, 2, 0]),
    )
    assert torch.allclose(total, sum(parts), rtol=1e-9)
    alike = explainer.set_kwargs(head=None).attribute(x, lambda o: o["start"][:, 1] + o["end"][ROWS, [0, 1, 2, 0]])
    assert torch.allclose(total, alike, rtol=1e-9)


@pytest.mark.parametrize("spec", METHODS)
def test_several_targets_have_a_leading_axis(spec):
    model, x = Model("classes").double(), torch.randn(2, 3, 4).double()
    explainer, targets = EXPLAINERS.create(spec).bind(model), [Class(0), "contrast:for_=1,against=2", lambda o: o[:, 4]]
    together = explainer.attribute(x, targets)
    assert together.shape == (3, *x.shape)
    for values, target in zip(together, targets, strict=True):
        assert torch.allclose(values, explainer.attribute(x, target), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("spec", ["gradient", "gradient_x_input", "lrp_epsilon_plus", "smoothgrad:n_iter=6",
                                  "vargrad:n_iter=6", "integrated_gradients:n_steps=6", "expected_gradients:n_iter=6",
                                  "contextual_decomposition"])  # fmt: skip
def test_several_targets_take_the_forward_passes_of_one(spec):
    model, x = Model("classes").double(), torch.randn(3, 3, 4).double()
    explainer, targets = EXPLAINERS.create(spec).bind(model), [Class(2), Contrast(0, 3), "log_probability:of=1"]
    if hasattr(explainer, "max_rows"):
        explainer = explainer.set_kwargs(max_rows=7)
    explainer.attribute(x, 0)  # the first call on a model takes some passes to get to know it
    passes = []
    model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    one = explainer.attribute(x, targets[0])
    for_one, passes[:] = list(passes), []
    together = explainer.attribute(x, targets)
    assert passes == for_one
    torch.testing.assert_close(together[0], one, rtol=1e-12, atol=1e-15)  # steps that are joined round in another order
    for values, target in zip(together, targets, strict=True):
        assert torch.allclose(values, explainer.attribute(x, target), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    "spec", ["smoothgrad:n_iter=3", "integrated_gradients:n_steps=3", "expected_gradients:n_iter=3"]
)
@pytest.mark.parametrize("max_rows", [None, 2])
def test_several_targets_are_exact_in_a_loss(spec, max_rows):
    model, x, targets = Model("classes").double(), torch.randn(2, 3, 4).double(), [Class(2), Contrast(0, 3)]
    explainer = EXPLAINERS.create(spec).bind(model)
    explainer = explainer.set_kwargs(max_rows=max_rows) if hasattr(explainer, "max_rows") else explainer

    def slope(*values):
        return torch.autograd.grad(sum(v.square().sum() for v in values), list(model.parameters()), allow_unused=True)

    together = slope(explainer.attribute(x, targets, create_graph=True))
    alone = slope(*(explainer.attribute(x, target, create_graph=True) for target in targets))
    for a, b in zip(together, alone, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("spec", ["attn_lrp", "lrp_epsilon_gamma_box", "lrp_epsilon_alpha2_beta1"])
@pytest.mark.parametrize("layer", [None, "0"])
def test_lrp_of_several_targets_is_that_of_each(spec, layer):
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 8), encoder, nn.Flatten(), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    explainer = EXPLAINERS.create(spec, layer=layer).bind(model.double().eval())
    x, targets = torch.rand(2, 3, 6).double(), [Class(0), Class([2, 1]), lambda o: o[:, 1] - o[:, 2]]
    for values, target in zip(explainer.attribute(x, targets), targets, strict=True):
        assert torch.equal(values, explainer.attribute(x, target))


def test_a_subclass_with_a_method_of_its_own_is_asked_for_each_target():
    class Half(IntegratedGradients):
        def _attribute(self, call):
            return tuple(v / 2 for v in super()._attribute(call))

    model, x = Model("classes").double(), torch.randn(2, 3, 4).double()
    found = Half(model).attribute(x, [Class(0), Class(1)])
    assert torch.allclose(found, IntegratedGradients(model).attribute(x, [Class(0), Class(1)]) / 2)


def test_two_numbers_for_two_samples_mean_what_the_output_allows():
    tokens, classes, x = Gradient(Model("tokens")), Gradient(Model("classes")), torch.rand(2, 3, 4)
    assert torch.equal(tokens.attribute(x, (1, 4)), tokens.attribute(x, Position(1, 4)))
    assert torch.equal(classes.attribute(x, (1, 4)), classes.attribute(x, Class([1, 4])))


def test_specs_come_back():
    for target in (Class(2), Position(-1, 5), Contrast(1, Position(0, 2)), Heads({"a": 1}), LogProbability(3)):
        assert TARGETS.create(target.spec()) == target
    assert Gradient(Model("tokens")).explain(torch.rand(3, 3, 4), Position(-1, 2)).targets["name"] == "position"


@pytest.mark.parametrize(
    ("form", "target", "error", "words"),
    [
        ("tokens", Position(3, 0), InvalidInputError, "position must lie in 0..2"),
        ("tokens", Position(0, 5), InvalidInputError, "index must lie in 0..4"),
        ("classes", Position(0, 1), InvalidInputError, r"needs an output of shape \(N, T, V\), got \(N, 5\)"),
        ("tokens", 1, InvalidInputError, "pass a target such as Position"),
        ("classes", Region(1), InvalidInputError, "needs an output of shape"),
        ("segments", Region(1, torch.ones(2, 2)), InvalidInputError, r"must have the shape \(3, 2\)"),
        ("tokens", Position([0, 1, 2], 1), InvalidInputError, "one for each of the 4 samples"),
        ("classes", "class:index=a", InvalidTypeError, "index"),
        ("classes", Probability(-1), InvalidInputError, "class must lie in 0..4 of an output with 5, got -1"),
        ("classes", Contrast(0, [1, 2, -1, 0]), InvalidInputError, "class must lie in 0..4 .*, got -1"),
        ("segments", Region(-1), InvalidInputError, "class must lie in 0..4 .*, got -1"),
        ("tokens", Position(-1, -1), InvalidInputError, "index must lie in 0..4 .*, got -1"),
    ],
)
def test_targets_that_the_output_does_not_allow(form, target, error, words):
    with pytest.raises(error, match=words):
        Gradient(Model(form)).attribute(torch.rand(4, 3, 4), target)


@pytest.mark.parametrize("both", [(0, 0), (Class([1, 2]), Class([1, 2])), (Probability(3), "probability:of=3")])
def test_a_contrast_of_a_target_with_itself_is_refused(both):
    with pytest.raises(InvalidInputError, match="two targets that differ, got .* twice"):
        Contrast(*both)


@pytest.mark.parametrize("mask", [torch.zeros(3, 2), torch.zeros(4, 3, 2, dtype=torch.bool), [[0, 0], [0, 0]]])
def test_a_region_without_a_place_is_refused(mask):
    with pytest.raises(InvalidInputError, match=r"Region.mask must mark a place, got a mask \(.*\) without any"):
        Region(1, mask)


def test_a_target_of_a_target_has_a_spec_string():
    target = Contrast(LogProbability(Position(0, 3)), Position(-1, 5))
    text = target_text(target.spec())
    inner = "(log_probability:of=(position:position=0,index=3))"
    assert text == f"contrast:for_={inner},against=(position:position=-1,index=5)"
    assert TARGETS.create(text) == target


def test_heads_named_by_their_place_come_back_from_json():
    target = Heads({0: 1, 1: Contrast(0, 2)})
    assert TARGETS.create(json.loads(json.dumps(target.spec()))) == target
    assert TARGETS.create(target.spec()) != Heads({"0": 1, "1": Contrast(0, 2)})


SCORES = {"whole": lambda output: output.argmax(1), "boolean": lambda output: output[:, 0] > 0}


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_are_whole_numbers_or_booleans(name):
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    explained = EXPLAINERS.create("exact_shapley").bind(model).explain(x, SCORES[name])
    expected = SCORES[name](model(x)).float() - SCORES[name](model(torch.zeros_like(x))).float()
    assert torch.allclose(explained.values.sum(1), expected, atol=1e-6)


@pytest.mark.parametrize("spec", METHODS)
def test_a_complex_score_is_refused(spec):
    class Wave(nn.Linear):
        def forward(self, x):
            return torch.fft.rfft(super().forward(x))

    with pytest.raises(InvalidInputError, match="must be a real number, got torch.complex64"):
        EXPLAINERS.create(spec).bind(Wave(4, 4)).attribute(torch.randn(2, 4), 1)


def test_a_class_beside_other_targets_may_stand_as_its_number():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(2, 4)
    explainer = Gradient(model)
    both = explainer.attribute(x, [1, Contrast(1, 2), "probability:of=0"])
    for values, target in zip(both, (1, Contrast(1, 2), Probability(0)), strict=True):
        assert torch.equal(values, explainer.attribute(x, target))
    with pytest.raises(InvalidTypeError, match="numbers, got strings"):
        explainer.attribute(x, ["cat", "dog"])


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "exact_shapley", "lrp_epsilon_plus"])
def test_a_target_function_that_does_not_fit_the_output_is_told_with_its_form(name):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    for function, kind in ((lambda out: out[:, 7], "IndexError"), (lambda out: out.logits, "AttributeError")):
        with pytest.raises(InvalidInputError, match=rf"target function ended in {kind} .* output of shape \(2, 3\)"):
            EXPLAINERS.create(name).bind(model).attribute(torch.randn(2, 4), function)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "lrp_epsilon_plus", "contextual_decomposition"])
def test_a_target_function_may_write_into_the_output(name):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(5, 4)
    explainer = EXPLAINERS.get(name)(model)
    values = explainer.attribute(x, lambda output: output.mul_(2)[:, 1])
    torch.testing.assert_close(values, explainer.attribute(x, lambda output: output[:, 1] * 2))
