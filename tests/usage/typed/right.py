"""A user's file that is right: mypy --strict finds nothing."""

from collections.abc import Callable
from typing import Annotated, ClassVar, assert_type

import numpy as np
import torch
from torch import Tensor, nn

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
    ContextualDecomposition,
    Counterexamples,
    Explainer,
    Float,
    GradCam,
    Gradient,
    IntegratedGradients,
    LRPEpsilonPlus,
    Metric,
    Mitigator,
    SmoothGrad,
    VarGrad,
    XaikitError,
    assess,
    compare,
    evaluate,
    explain_dataset,
    load_run,
    recommend,
    tune,
    tune_mitigator,
)
from xaikit.core import Call
from xaikit.metrics import EvaluationContext, PointingGame
from xaikit.mitigation import History
from xaikit.modality import Image
from xaikit.runs import Run
from xaikit.transforms import Blur, Postprocessor
from xaikit.tuning import TuneResult

model = nn.Linear(4, 2)
x, y = torch.rand(3, 4), torch.tensor([0, 1, 0])
mask = torch.tensor([1.0, 0, 0, 0])

# An explainer: a positional or a named model, settings by keyword, or no model yet.
assert_type(SmoothGrad(model, n_iter=8).attribute(x, 0), Tensor)
assert_type(VarGrad(model=model).attribute(x, y, create_graph=True, seed=3), Tensor)
assert_type(Gradient(model).attribute((x, x)), tuple[Tensor, ...])
assert_type(Gradient(model).attribute({"x": x}, [0, 1, 0]), dict[str, Tensor])
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
