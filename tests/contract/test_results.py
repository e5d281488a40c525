"""The contract of every result class: compared, hashed, shown, saved, read back; a wrong file says what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pickle
import pkgutil
import random
import sys
import tempfile

import numpy as np
import pytest
import torch
from torch import nn

import xaikit
from xaikit.core.errors import InvalidInputError
from xaikit.core.results import Interval, Result
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.interactions import shapley_interactions
from xaikit.influence import tracin
from xaikit.language import explain_generation, layer_relevance, logit_lens
from xaikit.mitigation import MendResult, MendTry
from xaikit.runs import Summary
from xaikit.runs.summary_tables import Waterfall, WordRelevance

GENERATOR = torch.Generator().manual_seed(0)
NET = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
X, Y = torch.rand(9, 4, generator=GENERATOR), torch.arange(9) % 3
SHORTCUT = torch.tensor([1.0, 0, 0, 0])
QUIET = {"progress": False}


def evaluation():
    return xaikit.evaluate(["gradient", "smoothgrad"], ["abpc", "auc"], (X, Y, X > 0.5), model=NET, **QUIET)


def tuned(**options):
    return xaikit.tune(xaikit.SmoothGrad(NET), "abpc", (X, Y), n_trials=3, **options, **QUIET)


def tuned_mitigator():
    data = {"validation": (X, Y), "n_trials": 2, **QUIET}
    return xaikit.tune_mitigator(xaikit.RRR(n_epochs=1), NET, (X, Y, SHORTCUT), "accuracy", **data)


def recommendation():
    return xaikit.recommend(NET, None, (X, Y), explainers=["gradient", "lrp_epsilon_plus", "gradcam"])


def mend_try():
    return MendTry("rrr", 0.9, 0.8, 0.1, 3, 1.5, "it collapsed to one class")


def assessment():
    by_name = {"groups": ["a", "b", "c"] * 3, "shortcut_masks": SHORTCUT}
    return xaikit.assess(NET, (X, Y), explainers=["gradient", "gradient_x_input"], **by_name, **QUIET)


def scanned():
    return xaikit.shortcuts.scan(NET, (X, Y), ["columns"], **QUIET)


def run():
    folder = tempfile.mkdtemp()
    return xaikit.explain_dataset(xaikit.Gradient(NET), (X, Y), out=folder + "/run", keep_inputs=True, **QUIET)


def language_model():
    import_torchvision()  # transformers imports it
    torch.manual_seed(0)
    config = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 20, "n_positions": 16}
    transformers = importlib.import_module("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))


def generation():
    return explain_generation(xaikit.AttnLRP(language_model()), None, [3, 4, 5], generation={"max_new_tokens": 3})


def summary():
    return Summary(run())


def concept_scores():
    return xaikit.shortcuts.tcav(
        NET, (X, Y), {"a": X + 1}, random_sets=list(torch.rand(3, 6, 4, generator=GENERATOR)), layers="0"
    )


def concept_atlas():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.Flatten(), torch.nn.Linear(18, 2))
    data = torch.rand(3, 1, 4, 4, generator=GENERATOR), 0
    return xaikit.shortcuts.concept_atlas(xaikit.LRPEpsilonPlus(net), data, layer="0", progress=False)


def found_concepts():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36, 2))
    data = torch.rand(8, 1, 4, 4, generator=GENERATOR), 0
    torch.nn.init.uniform_(net[0].weight)
    return xaikit.shortcuts.find_concepts(net, data, layer="1", n_concepts=2, progress=False)


EXAMPLES = {
    "FoundConcepts": found_concepts,
    "ConceptAtlas": concept_atlas,
    "Interactions": lambda: shapley_interactions(xaikit.explainers.ExactShapley(NET), X[:2], 1),
    "ConceptScores": concept_scores,
    "ConceptScore": lambda: concept_scores().rows[0],
    "ClassMaps": lambda: summary().class_maps("label"),
    "ColumnRelevance": lambda: summary().columns(),
    "Dependence": lambda: summary().dependence(0, 1),
    "ColumnClusters": lambda: summary().clusters(),
    "Waterfall": lambda: Waterfall(3, "sample 3", ("a", "b"), torch.tensor([1.0, -2.0]), None, 0.5, -0.5),
    "WordRelevance": lambda: WordRelevance(("a", "b"), (2, 1), (1, 1), torch.rand(2), -torch.rand(2), 1),
    "Generation": generation,
    "LayerRelevance": lambda: layer_relevance(
        xaikit.AttnLRP(language_model()), torch.tensor([[3, 4, 5]]), xaikit.Position(-1, 2)
    ),
    "LogitLens": lambda: logit_lens(language_model(), torch.tensor([[3, 4, 5]])),
    "Concept": lambda: xaikit.Concept("0", torch.tensor([0.6, 0.8]), torch.zeros(2), torch.ones(2), -1),
    "Assessment": assessment,
    "Assessment by class": lambda: xaikit.assess(NET, (X, Y), shortcut_masks=SHORTCUT, **QUIET),
    "Assessment without masks": lambda: xaikit.assess(NET, (X, Y), decoy=lambda x, told: x, explainers=[], **QUIET),
    "Effect": lambda: scanned().effects[0],
    "Scan": scanned,
    "Comparison": lambda: xaikit.compare({"a": [assessment()] * 3, "b": assessment()}, confidence=0.5),
    "History": lambda: xaikit.RRR(n_epochs=2).fit(nn.Linear(4, 3), X, Y, SHORTCUT, validation=(X, Y), **QUIET),
    "MendTry": mend_try,
    "MendResult": lambda: MendResult("the hue", "rrr", [mend_try()], assessment(), assessment(), 0.02, "exhausted", 1),
    "MendResult of a concept": lambda: MendResult("the concept", "rrr", [mend_try()], None, None, 0.02),
    "History of a regression": lambda: xaikit.RRR(n_epochs=1).fit(nn.Linear(4, 1), X, X[:, 0], SHORTCUT, **QUIET),
    "Attribution": lambda: xaikit.Gradient(NET).explain(X, Y),
    "Clusters": lambda: xaikit.SpRAy()(torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))),
    "ExplainedSample": lambda: run()[2],
    "Overlap": lambda: xaikit.mask_overlap(torch.rand(9, 4), SHORTCUT, null="positions"),
    "Shard": lambda: next(run().shards()),
    "Influences": lambda: tracin(NET, (X, Y), (X[:2], Y[:2]), progress=False),
    "Curves": lambda: xaikit.AbPC(n_steps=3).curves(xaikit.Gradient(NET), X, Y),
    "Candidate": lambda: recommendation().candidates[0],
    "Decomposition": lambda: xaikit.ContextualDecomposition(NET).decompose(X, SHORTCUT[None]),
    "Evaluation": evaluation,
    "Evaluation with tensors in its specs": lambda: xaikit.evaluate(
        [xaikit.explainers.ExpectedGradients(NET, references=X[:5]), "integrated_gradients:n_steps=3"],
        ["abpc"],
        (X, Y),
        model=NET,
        **QUIET,
    ),
    "TuneResult with tensors in its specs": lambda: xaikit.tune(
        xaikit.explainers.ExpectedGradients(NET, references=X[:5]), "abpc", (X, Y), n_trials=2, **QUIET
    ),
    "EvaluationRow": lambda: evaluation().rows[0],
    "FrontPoint": lambda: tuned().front[0],
    "Hierarchy": lambda: xaikit.explainers.AgglomerativeDecomposition(NET).hierarchy(X[:1], 1),
    "Interval": lambda: Interval(0.25, 0.5, 0.75, 0.95, 8),
    "ModelProfile": lambda: recommendation().profile,
    "Recommendation": recommendation,
    "TuneResult": tuned,
    "TuneResult of several": lambda: xaikit.tune(
        ["gradient", xaikit.SmoothGrad(NET)], ["abpc", "entropy"], (X, Y), n_trials=4, postprocess=True, **QUIET
    ),
    "TuneResult of a mitigator": tuned_mitigator,
    "Recommendation without data": lambda: xaikit.recommend(NET, "tabular"),
    "Recommendation of one sample": lambda: xaikit.recommend(NET, "tabular", (X[:1], Y[:1]), explainers=["gradient"]),
}


def result_classes() -> set[type[Result]]:
    """Every result class of the package."""
    for module in pkgutil.walk_packages(xaikit.__path__, "xaikit."):
        if module.name != "xaikit.__main__":
            importlib.import_module(module.name)
    classes, todo = set(), [Result]
    while todo:
        todo += (subclasses := todo.pop().__subclasses__())
        # A class that an example in a docstring made lives on for a while, and is no attribute of its module.
        classes |= {
            cls
            for cls in subclasses
            if cls.__module__.startswith("xaikit.") and hasattr(sys.modules[cls.__module__], cls.__name__)
        }
    return classes


@pytest.fixture(scope="module")
def results():
    made: dict[str, Result] = {}

    def of(name: str) -> Result:
        if name not in made:
            torch.manual_seed(0)
            made[name] = EXAMPLES[name]()
        return made[name]

    return of


@pytest.fixture(params=sorted(EXAMPLES))
def result(request, results):
    return results(request.param)


def test_losses_compare_without_raising():
    loss = xaikit.RRR().loss(NET, (X, Y, SHORTCUT), seed=0)
    again, other = xaikit.RRR().loss(NET, (X, Y, SHORTCUT), seed=0), xaikit.RRR().loss(NET, (X, Y.flip(0), SHORTCUT))
    assert loss == again
    assert hash(loss) == hash(again)
    assert loss != other
    assert loss != tuple(loss)
    assert loss is not None
    task, penalty, total, logits = loss
    assert (task, penalty, total, logits) == tuple(loss)


def test_every_result_class_has_an_example_here():
    assert {cls.__name__ for cls in result_classes()} == {name.split(" ")[0] for name in EXAMPLES}


def test_every_result_class_compares_and_shows_as_the_base_does():
    for cls in result_classes():
        assert dataclasses.is_dataclass(cls), cls
        assert cls.__eq__ is Result.__eq__, f"{cls.__name__}: dataclass(eq=False) is missing"
        assert cls.__hash__ is Result.__hash__, f"{cls.__name__}: dataclass(eq=False) is missing"
        assert "__dataclass_params__" in vars(cls)
        assert not cls.__dataclass_params__.repr, f"{cls.__name__}: dataclass(repr=False) is missing"


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors"])
def test_a_file_gives_back_an_equal_result(result, suffix, tmp_path):
    path = result.save(tmp_path / f"result{suffix}")
    again = type(result).load(path)
    assert again == result
    assert not again != result  # noqa: SIM202 - what is tested
    assert repr(again) == repr(result)
    assert hash(again) == hash(result)
    assert list(tmp_path.iterdir()) == [path]


def test_plain_values_give_back_an_equal_result(result):
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert type(result).from_dict(plain) == result
    assert plain["result"] == type(result).__name__


def test_a_copy_is_equal(result):
    assert copy.copy(result) == result
    # A study of optuna's and a trained model are copied with it, and take no part.
    assert copy.deepcopy(dataclasses.replace(result)) == result or isinstance(result, xaikit.tuning.TuneResult)
    if not isinstance(result, xaikit.tuning.TuneResult):
        assert pickle.loads(pickle.dumps(result)) == result


def test_comparing_with_anything_else_is_false(result, results):
    for other in (None, 1, "x", [], X, results("Interval"), results("Evaluation")):
        if type(other) is not type(result):
            assert (result == other) is False
            assert (result != other) is True


def test_a_short_repr(result):
    text = repr(result)
    assert len(text) < 3000
    assert "tensor([" not in text
    assert "object at 0x" not in text


def test_another_kind_of_file_is_refused_by_name(result, results, tmp_path):
    other = results("Interval" if type(result) is not Interval else "Evaluation")
    path = other.save(tmp_path / "other.json")
    kind = type(other).__name__
    with pytest.raises(InvalidInputError, match=rf"other\.json holds no .*of the kind {kind}.*{kind}\.load reads it"):
        type(result).load(path)


def test_a_newer_file_is_refused(result, tmp_path):
    path = tmp_path / "newer.json"
    path.write_text(json.dumps({**result.to_dict(), "format": 99}))
    with pytest.raises(InvalidInputError, match=r"newer\.json holds no .*format 99.*a newer xaikit wrote it"):
        type(result).load(path)


def test_a_file_that_lacks_a_field_or_holds_nonsense_is_refused_in_one_sentence(result, tmp_path):
    state, path = result.to_dict(), tmp_path / "short.json"
    defaults = {f.name for f in dataclasses.fields(result) if f.default is not dataclasses.MISSING}
    defaults |= {f.name for f in dataclasses.fields(result) if f.default_factory is not dataclasses.MISSING}
    for name in state.keys() - defaults - {"result", "format"}:
        path.write_text(json.dumps({k: v for k, v in state.items() if k != name}))
        refused_in_one_sentence(type(result), path, required=True)
    for name in state.keys() - {"result", "format"}:
        for nonsense in ({"x": []}, [[None]], "?"):
            path.write_text(json.dumps({**state, name: nonsense}))
            refused_in_one_sentence(type(result), path)


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors"])
def test_a_damaged_file_is_refused_in_one_sentence(result, suffix, tmp_path):
    sound, path = result.save(tmp_path / f"sound{suffix}").read_bytes(), tmp_path / f"hurt{suffix}"
    draw = random.Random(0)
    for _ in range(12):
        hurt = bytearray(sound[: draw.randrange(len(sound)) + 1])
        for _ in range(6):
            hurt[draw.randrange(len(hurt))] = draw.randrange(256)
        path.write_bytes(bytes(hurt))
        refused_in_one_sentence(type(result), path)
    for content in (b"", b"null", b"[]", np.random.default_rng(0).bytes(300)):
        path.write_bytes(content)
        refused_in_one_sentence(type(result), path, required=True)


def refused_in_one_sentence(cls, path, *, required=False) -> None:
    """Loading fails with the file's name in the message; without `required` it may also succeed."""
    try:
        loaded = cls.load(path)
    except InvalidInputError as err:
        assert path.name in str(err)  # noqa: PT017
        assert "\n" not in str(err)  # noqa: PT017
    else:
        assert not required, f"{cls.__name__} read {path.read_bytes()[:200]!r} as {loaded!r}"


def test_an_evaluation_of_version_0_1_still_loads(results, tmp_path):
    evaluation, path = results("Evaluation"), tmp_path / "old.json"
    old = evaluation.to_dict()
    del old["result"], old["format"]
    for row in old["rows"]:
        del row["level"]
    path.write_text(json.dumps(old))
    assert xaikit.metrics.Evaluation.load(path) == evaluation


def test_a_search_of_version_0_1_still_loads(results, tmp_path):
    tuned, path = results("TuneResult"), tmp_path / "old.json"
    old = tuned.to_dict()
    gain = old["gain_interval"]
    for name in ("result", "format", "seed"):
        del old[name]
    old |= {
        "dead": old.pop("inactive_settings"),
        "gain_interval": gain and [gain["low"], gain["high"]],
        "stopped": "trials",
    }
    path.write_text(json.dumps(old))
    loaded = xaikit.tuning.TuneResult.load(path, NET)
    assert loaded.best == tuned.best
    assert loaded.best.model is NET
    assert loaded.trials == tuned.trials
    assert (loaded.stopped, loaded.inactive_settings, loaded.seed) == ("done", tuned.inactive_settings, None)
    assert loaded.gain_interval.mean == pytest.approx(tuned.gain_interval.mean, abs=1e-9)
    assert (loaded.gain_interval.low, loaded.gain_interval.high) == (gain["low"], gain["high"])


def test_a_recommendation_of_version_0_1_still_loads(results, tmp_path):
    recommendation, path = results("Recommendation"), tmp_path / "old.json"
    old = recommendation.to_dict()
    for name in ("result", "format", "seed"):
        del old[name]
    path.write_text(json.dumps(old))
    assert xaikit.recommendation.Recommendation.load(path) == recommendation
