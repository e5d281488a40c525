"""A user's file that is right: mypy --strict finds nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, assert_type, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xaikit
from xaikit import (
    CDEP,
    EXPLAINERS,
    METRICS,
    MITIGATORS,
    RRR,
    AbPC,
    AttnLRP,
    Attribution,
    CaptumExplainer,
    Class,
    Concept,
    ContextualDecomposition,
    Contrast,
    Counterexamples,
    Explainer,
    Float,
    GradCam,
    Gradient,
    Heads,
    Int,
    IntegratedGradients,
    LogProbability,
    LRPEpsilonPlus,
    Metric,
    Mitigator,
    Position,
    Report,
    SmoothGrad,
    SpRAy,
    VarGrad,
    XaikitError,
    assess,
    boxes_to_masks,
    compare,
    evaluate,
    explain_dataset,
    load_masks,
    load_run,
    make_masks,
    mask_overlap,
    recommend,
    tune,
    tune_mitigator,
)
from xaikit.core import Call, Interval, Stopped
from xaikit.explainers import AgglomerativeDecomposition
from xaikit.metrics import Evaluation, EvaluationContext, PointingGame
from xaikit.mitigation import AttributionMitigator, Direction, History
from xaikit.modality import Image
from xaikit.report import Names, evaluation_sections
from xaikit.runs import Run
from xaikit.testing import EXPLAINER_CHECKS
from xaikit.transforms import Blur, Postprocessor
from xaikit.tuning import TuneResult

model = nn.Linear(4, 2)
x, y = torch.rand(3, 4), torch.tensor([0, 1, 0])
mask = torch.tensor([1.0, 0, 0, 0])
pairs = TensorDataset(x, y)

# An explainer: a positional or a named model, settings by keyword, or no model yet.
assert_type(SmoothGrad(model, n_iter=8).attribute(x, 0), Tensor)
assert_type(VarGrad(model=model).attribute(x, y, create_graph=True, seed=3), Tensor)
assert_type(Gradient(model).attribute((x, x)), tuple[Tensor, ...])
of_a_pair_at_a_layer = cast(Tensor, Gradient(model, layer="1").attribute((x, x)))
of_a_dict_at_a_layer = cast(Tensor, Gradient(model, layer="1").attribute({"a": x, "b": x}))
of_a_pair_at_layers: tuple[Tensor, ...] = Gradient(model, layer=("0", "1")).attribute((x, x))
of_a_dict_at_layers: tuple[Tensor, ...] = Gradient(model, layer=("0", "1")).attribute({"a": x, "b": x})
assert_type(Gradient(model).attribute({"x": x}, [0, 1, 0]), dict[str, Tensor])
layers: tuple[Tensor, ...] = Gradient(model, layer=["0", "1"]).attribute(x)
of_dict: tuple[Tensor, ...] = Gradient(model, layer=("0", model)).attribute({"x": x}, 0, create_graph=True)
assert_type(Gradient(model, layer="0").attribute(x), Tensor)
IntegratedGradients(model, n_steps=50, baseline="mean", layer="0")
IntegratedGradients(baseline=("zeros", torch.zeros(4), 0.5, Blur(sigma=2.0)))
GradCam(model, target_layer=model)
LRPEpsilonPlus(model, epsilon=1e-3)
AttnLRP(model, head=1, n_classes=2)
CaptumExplainer("Occlusion", sliding_window_shapes=(1,))
ContextualDecomposition(model, rules="cdep", floor=None).decompose(x, mask[None]).relevant.sum()

# Targets: a class, one for each sample, a function of the output; inputs: arrays and lists, too.
positive: Callable[[Tensor], Tensor] = lambda output: output.sum(1)  # noqa: E731
for targets in (0, y, [0, 1, 0], np.array([0, 1, 0]), positive, None):
    Gradient(model).attribute(x, targets)
Gradient(model).attribute(np.zeros((3, 4), dtype=np.float32), 1)
Gradient(model).attribute([[0.0, 1.0, 2.0, 3.0]], 1)

# What comes back keeps its type.
explanation = Gradient(model).explain(x, 0)
assert_type(explanation, Attribution)
assert_type(explanation.scores, Tensor | None)
assert_type(IntegratedGradients(model).set_kwargs(n_steps=3), IntegratedGradients)
assert_type(SmoothGrad().bind(model), SmoothGrad)
assert_type(SmoothGrad.from_spec("smoothgrad:n_iter=3", model), SmoothGrad)
assert_type(SmoothGrad().copy(), SmoothGrad)
assert_type(EXPLAINERS.create("vargrad"), Explainer)
assert_type(EXPLAINERS.get("vargrad"), type[Explainer])
assert_type(METRICS.create("abpc"), Metric)
assert_type(MITIGATORS.create("rrr:lambda_rrr=3"), Mitigator)
assert_type(list(EXPLAINERS), list[str])
spec: dict[str, object] = VarGrad(n_iter=3).spec()

# Metrics and searches.
assert_type(AbPC().evaluate(Gradient(model), x, y), Tensor)
PointingGame().evaluate(Gradient(model), x, y, relevant_region=mask)
table = evaluate([Gradient(model), "vargrad"], ["abpc", AbPC()], (x, y), model=model, progress=False)
table.to_pandas()
result = tune(IntegratedGradients(model), "abpc", (x, y), n_trials=3)
assert_type(result, TuneResult[IntegratedGradients])
assert_type(result.best, IntegratedGradients)
assert_type(recommend(model, "tabular").best, Explainer)
run = explain_dataset(Gradient(model), (x, y), out="run", targets="label")
assert_type(run, Run)
assert_type(load_run("run"), Run)
pooled = Postprocessor(pooling="l2norm", normalization="maxabs")(torch.rand(1, 3, 4, 4))
Image().postprocess(torch.rand(1, 3, 4, 4))

# Training.
mitigator = RRR(explainer="smoothgrad:n_iter=4", lambda_rrr=1.0, n_epochs=2)
loss = mitigator.loss(model, (x, y, mask))
loss.total.backward()
assert_type(mitigator.fit(model, x, y, mask, progress=False), History)
assert_type(tune_mitigator(mitigator, model, (x, y, mask), "accuracy", validation=(x, y)).best, RRR)
CDEP(explainer=ContextualDecomposition(rules="cdep"), lambda_cdep=2.0).fit(model, x.numpy(), y.numpy(), mask.numpy())
Counterexamples(n_epochs=1, lr=1e-3)
compare({"before": assess(model, (x, y), shortcut_masks=mask), "after": assess(model, (x, y), shortcut_masks=mask)})

# Searches: weights, spaces, several explainers or objectives, and their results.
weights = {"abpc": 1, "entropy": 2}
assert_type(tune(SmoothGrad(model), weights, (x, y), n_trials=2, space=["n_iter"]).best, SmoothGrad)
space: dict[str, Float | Int] = {"noise_level": Float(low=0.1, high=0.5), "n_iter": Int(low=2, high=8)}
tune(SmoothGrad(model), ["abpc", AbPC(n_steps=4)], DataLoader(pairs, 2), space=space, storage=Path("s.journal"))
chosen = tune([Gradient(model), "smoothgrad"], "abpc", (x, y), space="all", seed=1, timeout=60.0)
assert_type(chosen.best, Explainer)
assert_type(chosen.gain_interval, Interval | None)
assert_type(result.front[0].value, IntegratedGradients)
if result.gain_interval is not None and result.stopped == "done":
    assert_type(result.gain_interval.low, float)
result.save("tuned.json")
TuneResult.load("tuned.json", model=model).plot("importance").savefig("importance.png")
assert_type(TuneResult.from_dict(result.to_dict()).stopped, Stopped)

# Tables: rows, intervals, back from files.
row = table["gradient", "abpc"]
assert_type(row.interval.mean, float)
means: dict[str, float] = {r.explainer: r.mean for r in table}
assert_type(table.difference("abpc", "gradient", "vargrad"), Interval)
assert_type(Evaluation.load(table.save("table.json")), Evaluation)
assert_type(Evaluation.from_dict(table.to_dict()).best("abpc"), str)
evaluate({"plain": Gradient(model)}, AbPC(), DataLoader(pairs, 2), relevant_region=mask, confidence=0.9)
advice = recommend(model, data=(x, y), explainers=["gradient"], n_samples=3, head=0)
assert_type([candidate.value for candidate in advice.candidates], list[float | None])
assert_type(type(advice).load("advice.json", model).best.attribute(x, 0), Tensor)

# Explanations: read again, over a data set, clustered, as masks.
assert_type(Attribution.load(explanation.save(Path("maps.npz"))), Attribution)
assert_type(explanation == Attribution.from_dict(explanation.to_dict()), bool)
assert_type(run[0].score, float)
names: list[str] = [sample.name for sample in run]
clusters = SpRAy(n_clusters=2, random_state=1)(explanation)
assert_type(clusters.samples(1), list[int])
region = make_masks(explanation, clusters.samples(1), threshold=0.4, grow=1)
assert_type(mask_overlap(explanation, region).share, Tensor)
assert_type(load_masks(Path("masks")), Tensor)
Report([run], names=Names(classes=["cat", "dog"]), sections=[*evaluation_sections(table)]).save(Path("r.html"))

# Registries: settings by keyword, names, membership.
assert_type(EXPLAINERS.create("smoothgrad", n_iter=3, model=model), Explainer)
assert_type(EXPLAINERS.create(SmoothGrad(model)).attribute(x, 1), Tensor)
assert_type("vargrad" in EXPLAINERS and len(METRICS) > 3, bool)

# Training: loaders, groups, concepts, projections, comparisons.
history = RRR(mask_scope="class", what=Direction(vector=torch.ones(4))).fit(
    model, DataLoader(pairs, 2), shortcut_masks=[mask, None, mask], validation=(x, y), groups=["a", "b", "a"]
)
assert_type(history["penalty"], list[float])
assert_type(History.from_dict(history.to_dict()).seed, int | None)
concept = Concept.fit(model, x, y, layer="0", method="pattern")
assert_type(Concept.load(concept.save("concept.safetensors")).direction, Tensor)
before = assess(model, DataLoader(pairs, 2), groups=lambda x, y: y, explainers={"plain": Gradient()}, head=0)
assert_type(before.verdict, str)
comparison = compare({"none": [before, before], "rrr": [before]}, confidence=0.9)
assert_type(comparison.interval("rrr", "accuracy kept"), Interval)
assert_type(
    tune_mitigator("rrr", model, (x, y, mask), lambda trained: 1.0, explainers=["gradient", VarGrad()]).best, Mitigator
)

# Targets, modalities, masks of boxes, hierarchies.
for score in (Class(1), Contrast(1, 0), Position(-1, 0), LogProbability(1), Heads({"logits": 1}), "probability:of=1"):
    Gradient(model).attribute(x, score)
assert_type(Gradient(model).attribute(x, [Contrast(1, 0), 1]), Tensor)
assert_type(Image().prepare(IntegratedGradients), IntegratedGradients)
assert_type(Image(baseline="blur:sigma=2").prepare(AbPC(n_steps=3)), AbPC)
assert_type(boxes_to_masks([[0, 0, 2, 2], None], (4, 4)), Tensor)
assert_type(AgglomerativeDecomposition(model).hierarchy(x[:1], 1).scores, Tensor)


@MITIGATORS.register("typed_absolute")
class Absolute(AttributionMitigator):
    """A plugin's mitigator."""

    WEIGHT = "lambda_absolute"
    lambda_absolute: Annotated[float, Float(low=0.1, high=10, log=True, ge=0), "weight of the penalty"] = 1.0

    def _attribution_penalty(self, attributions: tuple[Tensor, ...], masks: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([(a.abs() * m).sum() for a, m in zip(attributions, masks, strict=True)]).sum()


assert_type(Absolute(lambda_absolute=2.0).loss(model, (x, y, mask)).penalty, Tensor)
for check in EXPLAINER_CHECKS:
    check(SmoothGrad)


@EXPLAINERS.register("typed_squashed")
class Squashed(Explainer):
    """A plugin's explainer."""

    MADE_FOR = ("convolution",)
    DIFFERENTIABLE: ClassVar[bool] = True
    sharpness: Annotated[float, Float(low=0.1, high=10, log=True, gt=0), "slope at zero"] = 1.0

    def _attribute(self, call: Call) -> tuple[Tensor, ...]:
        return tuple(torch.tanh(self.sharpness * g) for g in call.grad_of(call.inputs))


class Sharper(Squashed):
    """A subclass that changes a default and adds a setting."""

    sharpness = 3.0
    offset: Annotated[float, "added"] = 0.0


@METRICS.register("typed_largest")
class Largest(Metric):
    """A plugin's metric."""

    DIRECTION = "maximize"
    power: Annotated[float, Float(gt=0), "of the values"] = 1.0

    def _evaluate(self, case: EvaluationContext) -> Tensor:
        return case.attributions[0].flatten(1).abs().amax(1) ** self.power


assert_type(Squashed(model, sharpness=2.0, layer="0").attribute(x, 0), Tensor)
assert_type(Sharper(model, offset=1.0, sharpness=2.0).set_kwargs(offset=2.0), Sharper)
assert_type(Squashed(sharpness=2.0).sharpness, float)
assert_type(Largest(power=2.0).evaluate(Squashed(model), x), Tensor)
try:
    xaikit.Gradient().attribute(x)
except XaikitError as err:
    print(err)
