"""What is recommended for models of every kind, and why."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit import AbPC, Explainer, evaluate, recommend
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError
from xaikit.core.results import Interval
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import Gradient
from xaikit.recommendation import Candidate, Recommendation, profile_model
from xaikit.recommendation.recommend import _place

QUICK = ("gradient", "gradient_x_input", "integrated_gradients", "lrp_epsilon_plus", "contextual_decomposition")


def cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers)


def mlp(outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(9, 6)
        self.words = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1]).expand_as(ids)
        return self.head(self.lstm(self.words(ids) + self.positions(places))[0][:, -1])


class Transformer(nn.Module):
    """Attention by torch's function, in a block of its own writing."""

    def __init__(self):
        super().__init__()
        self.words, self.mix, self.norm, self.head = (
            nn.Embedding(20, 8),
            nn.Linear(8, 24),
            nn.LayerNorm(8),
            nn.Linear(8, 2),
        )

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.words(ids)
        q, k, v = self.mix(hidden)[:, None].chunk(3, -1)
        return self.head(self.norm(hidden + F.scaled_dot_product_attention(q, k, v)[:, 0]).mean(1))


class Odd(nn.Module):
    """An activation that is used twice, and an operation that no method has a rule for."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(torch.atan2(torch.tanh(self.relu(self.first(x))) * 0.9, self.first.bias)))


def test_the_profile_of_modules_alone():
    profile = profile_model(cnn())
    assert (profile.model, profile.parameters) == ("Sequential", sum(p.numel() for p in cnn().parameters()))
    assert profile.kinds == {"convolution": 1, "linear": 1, "normalization": 1}
    assert profile.modules == dict.fromkeys(["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"], 1)
    assert (profile.functions, profile.outputs, profile.gradient) == (None, None, None)
    shared = nn.Linear(4, 4)
    assert profile_model(nn.Sequential(shared, nn.ReLU(), shared)).reused == ("0",)
    assert profile_model(nn.TransformerEncoderLayer(8, 2)).kinds["attention"] == 1


def test_the_profile_of_what_runs():
    profile = profile_model(Odd(), torch.randn(3, 5))
    assert profile.reused == ("relu",)
    assert profile.functions == {"atan2": 1, "tanh": 1, "mul": 1}
    assert (profile.outputs, profile.gradient) == (1, True)
    ids = torch.randint(20, (3, 7))
    reader = profile_model(Reader(), ids)
    assert reader.kinds == {"linear": 1, "recurrent": 1, "embedding": 2}
    assert reader.embedding == "words"  # which the ids meet, not the first that stands in the model
    assert profile_model(Transformer(), ids).kinds["attention"] == 1
    assert profile_model(Transformer()).kinds.get("attention") is None
    model = Odd().train()
    profile_model(model, torch.randn(3, 5))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("model", "kind"), [(cnn(), "convolution"), (Reader(), "recurrent")])
def test_what_was_made_for_a_layer_comes_first(model, kind):
    modality = "image" if kind == "convolution" else "text"
    found = recommend(model, modality, differentiable=True)
    assert kind in type(found.best).MADE_FOR
    assert f"+2.0 made for {kind} layers" in found.candidates[0].reasons
    assert all(c.explainer.DIFFERENTIABLE for c in found.candidates if c.suitable)
    barred = next(c for c in found.candidates if c.name == "captum.saliency")
    assert barred.against == "has no exact derivative, so no loss can hold it"
    if modality == "text":
        assert found.best.layer == "positions"  # without data, the first embedding


def test_every_registered_method_is_judged_by_what_its_class_says():
    found = recommend(Odd(), "tabular", torch.randn(6, 5), explainers=QUICK)
    assert {c.name for c in found.candidates} == set(QUICK)
    all_of_them = recommend(mlp(), "tabular")
    assert {c.name for c in all_of_them.candidates} == {n for n in EXPLAINERS if not EXPLAINERS.get(n).IS_GENERIC}
    guided = next(c for c in all_of_them.candidates if c.name == "captum.guided_backprop")
    assert guided.against == "needs one of the modules ReLU, which the model does not have"


def test_a_plugin_says_what_it_is_for():
    class Mine(Explainer):
        MADE_FOR = ("linear",)
        PASSES = (3, "n_iter")
        n_iter: int = 100

        def _attribute(self, call):
            return call.grad_of(call.inputs)

        def missing_rules(self, inputs):
            return ("Linear in 0",)

    EXPLAINERS.register("mine")(Mine)
    try:
        found = recommend(mlp(), "tabular", torch.randn(4, 5), explainers=["mine", "gradient"])
    finally:
        del EXPLAINERS._items["mine"]
    mine = next(c for c in found.candidates if c.name == "mine")
    assert mine.passes == 300
    assert mine.reasons[:4] == (
        "+2.0 made for linear layers", "+1.0 exact inside a loss", "-2.0 has no rule for Linear in 0",
        "-2.5 about 300 passes",
    )  # fmt: skip
    assert found.profile.without_rule == {"mine": ("Linear in 0",)}
    assert mine.value is not None


def test_operations_without_a_rule_are_found_and_told():
    found = recommend(Odd(), "tabular", torch.randn(6, 5), explainers=[*QUICK, "captum.deep_lift"])
    assert found.profile.without_rule["lrp_epsilon_plus"] == ("atan2 in Odd",)
    by_name = {c.name: c for c in found.candidates}
    assert "-2.0 has no rule for atan2 in Odd" in by_name["lrp_epsilon_plus"].reasons
    assert "has no rule for `atan2`" in by_name["contextual_decomposition"].against
    assert by_name["captum.deep_lift"].against == "needs every module to run once, which 'relu' does not"
    assert by_name["gradient"].suitable


def test_what_is_measured_is_the_metric():
    model, x = cnn(), torch.randn(12, 1, 8, 8)
    found = recommend(model, "image", x, explainers=QUICK, n_samples=6)
    assert found.metric == "abpc"
    assert len(found.candidates) == len(QUICK)
    labels = model.eval()(x[:6]).argmax(1)
    for item in found.candidates:
        value = AbPC(channel_axis=1).evaluate(item.explainer, x[:6], labels)
        assert item.value == pytest.approx(float(value.mean()), abs=1e-7)
        table = evaluate([item.explainer], [AbPC(channel_axis=1)], (x[:6], labels), progress=False)
        assert item.interval == next(iter(table)).interval
        assert item.low <= item.value <= item.high
        assert item.seconds > 0
    values = [item.value for item in found.candidates if not item.tied]
    assert values == sorted(values, reverse=True)
    assert found.candidates[0].tied
    assert found.best == found.candidates[0].explainer
    assert found.best.attribute(x, labels.new_zeros(12)).shape == x.shape


def measured_as(name: str, value: float, *, tied: bool, points: float, seconds: float) -> Candidate:
    interval = Interval(value, value, value, 0.95, 8)
    return Candidate(name, Gradient(), points, (), 1, interval=interval, seconds=seconds, tied=tied)


def test_ties_go_by_points_then_cost_and_the_measurement_says_where_it_overrules() -> None:
    """Five candidates by hand: three that noise does not tell apart, two that are worse."""
    items = [
        measured_as("slow", 0.9, tied=True, points=1, seconds=3.0),
        measured_as("quick", 0.7, tied=True, points=1, seconds=0.1),
        measured_as("made_for_it", 0.6, tied=True, points=2, seconds=5.0),
        measured_as("worse", 0.4, tied=False, points=0, seconds=0.1),
        measured_as("worst", 0.2, tied=False, points=9, seconds=0.1),
    ]
    items = sorted(items, key=lambda item: _place(item, -1))
    assert [item.name for item in items] == ["made_for_it", "quick", "slow", "worse", "worst"]
    found = recommend(mlp(), "tabular")
    text = repr(dataclasses.replace(found, candidates=tuple(items), metric="abpc"))
    assert "~: 3 that noise does not tell apart, by points, then by cost" in text
    assert "by points alone worst would be first (9.0); on these samples made_for_it is better" in text
    text = repr(dataclasses.replace(found, candidates=tuple(items[:4]), metric="abpc"))
    assert "would be first" not in text


def test_the_points_are_those_of_the_reasons() -> None:
    for item in recommend(cnn(), "image").candidates:
        named = [float(reason.split()[0]) for reason in item.reasons if reason[0] in "+-"]
        assert sum(named) == pytest.approx(item.points, abs=0.06)  # each is written with one decimal


@pytest.mark.parametrize(
    ("model", "data", "modality"),
    [
        (cnn(), (torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])), "image"),
        (mlp(), torch.randn(4, 5), "tabular"),
        (mlp(1), (torch.randn(4, 5), None), "tabular"),
        (Reader(), torch.randint(20, (4, 7)), "text"),
        (Transformer(), [(torch.randint(20, (4, 7)), torch.tensor([0, 1, 1, 0]))], "text"),
        (
            nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)),
            torch.randn(4, 2, 8),
            "time_series",
        ),
    ],
    ids=["cnn", "mlp", "regression", "lstm", "attention", "series"],
)
def test_every_kind_of_model(model, data, modality):
    data = torch.utils.data.DataLoader(_Pairs(*data[0]), batch_size=4) if isinstance(data, list) else data
    found = recommend(model, None, data, explainers=QUICK)
    assert [part.NAME for part in found.modality.parts] == [modality]
    assert all(item.value is not None for item in found.candidates), found
    if modality == "text":
        assert found.best.layer == "words"
    plain = json.loads(found.to_json())
    assert [c["name"] for c in plain["candidates"]] == [c.name for c in found.candidates]
    again = EXPLAINERS.create(plain["candidates"][0]["explainer"])
    assert again.bind(model) == found.best
    text = repr(found)
    assert text.startswith(f"Recommendation for {modality}")
    assert all(item.name in text for item in found.candidates)


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.pairs = list(zip(x, y, strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


@pytest.mark.slow
def test_a_transformer_of_a_library():
    import_torchvision()  # transformers imports it, also where its compiled operations are of another torch
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=2
    )
    model = transformers.BertForSequenceClassification(config).eval()
    found = recommend(model, "text", {"input_ids": torch.randint(30, (4, 7))}, explainers=[*QUICK, "attn_lrp"])
    assert found.profile.kinds["attention"] == 2
    assert found.best.layer == "bert.embeddings.word_embeddings"
    assert all(item.value is not None for item in found.candidates), found
    attention = recommend(model, "text", differentiable=True)
    assert "attention" in type(attention.best).MADE_FOR


def test_several_inputs():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.table = nn.Linear(64, 2), nn.Linear(5, 2)

        def forward(self, image: Tensor, table: Tensor) -> Tensor:
            return self.image(image.flatten(1)) + self.table(table)

    data = (torch.randn(4, 1, 8, 8), torch.randn(4, 5))
    found = recommend(Both(), ("image", "tabular"), data, explainers=QUICK)
    assert all(item.value is not None for item in found.candidates), found
    assert (
        recommend(Both(), None, (data, torch.zeros(4, dtype=torch.long)), explainers=QUICK).modality == found.modality
    )
    assert repr(found).startswith("Recommendation for image and tabular")


def test_an_explainer_that_fails_and_one_that_warns_are_told():
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    found = recommend(Detached(5, 2), "tabular", torch.randn(4, 5), explainers=["gradient", "captum.feature_ablation"])
    assert found.best.NAME == "captum.feature_ablation"
    assert "does not depend on its input through autograd" in found.candidates[1].against
    assert found.profile.gradient is False
    assert "no gradient reaches its input" in repr(found)
    nothing = recommend(Detached(5, 2), "tabular", torch.randn(4, 5), explainers="gradient")
    with pytest.raises(InvalidInputError, match="no explainer suits this model"):
        _ = nothing.best
    ends = nn.Sequential(nn.Linear(5, 3), nn.Softmax(1))
    warned = recommend(ends, "tabular", torch.randn(4, 5), explainers="lrp_epsilon_plus").candidates[0]
    assert any("the model ends in a softmax" in reason for reason in warned.reasons)


def test_a_budget_leaves_out_what_takes_longer():
    found = recommend(mlp(), "tabular", torch.randn(8, 5), explainers=["gradient", "captum.kernel_shap"], seconds=1e-9)
    assert all("not measured: it takes about" in item.reasons[-1] for item in found.candidates)
    assert found.best is not None
    assert json.loads(found.to_json())["candidates"][0]["value"] is None


def test_one_sample_says_nothing_of_others():
    found = recommend(mlp(), "tabular", torch.randn(1, 5), explainers=["gradient", "smoothgrad"])
    assert math.isnan(found.candidates[0].low)
    assert json.loads(found.to_json())["candidates"][0]["interval"]["low"] is None


def test_a_recommendation_of_xaikit_01_is_read():
    """It held the mean and its standard error, and no error for a single sample."""
    found = recommend(mlp(), "tabular", torch.randn(3, 5), explainers=["gradient", "smoothgrad"])
    state = json.loads(found.to_json())
    for item, error in zip(state["candidates"], (0.1, None), strict=True):
        del item["interval"]
        item["error"] = error
    first, second = Recommendation.from_dict(state).candidates
    assert first.value == found.candidates[0].value
    assert first.interval.margin == pytest.approx(0.196)
    assert second.value == found.candidates[1].value
    assert math.isnan(second.high)
    with pytest.raises(AttributeError, match="Candidate has no 'error' any more; it is called 'interval' now"):
        first.error  # noqa: B018
    assert list(found.to_pandas()[["value", "low", "high"]].iloc[0]) == [
        found.candidates[0].value, found.candidates[0].low, found.candidates[0].high
    ]  # fmt: skip


def test_a_saved_recommendation_is_ready_to_use_again(tmp_path):
    model = mlp()
    found = recommend(model, "tabular", torch.randn(4, 5), explainers=["gradient", "smoothgrad"], seed=3)
    again = type(found).load(found.save(tmp_path / "found.json"), model)
    assert (again, again.seed, again.best) == (found, 3, found.best)
    assert again.best.model is model
    frame = again.to_pandas()
    assert list(frame["name"]) == [c.name for c in found.candidates]
