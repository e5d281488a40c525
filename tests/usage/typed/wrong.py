"""Each marked line is wrong, and mypy finds it."""

import torch
from torch import Tensor, nn

import xaikit
from xaikit import (
    EXPLAINERS,
    RRR,
    AbPC,
    Explainer,
    GradCam,
    IntegratedGradients,
    LRPEpsilonGammaBox,
    Metric,
    SmoothGrad,
    tune,
)
from xaikit.modality import Image
from xaikit.transforms import Blur

model, x = nn.Linear(4, 2), torch.rand(3, 4)

SmoothGrad(model, n_itr=8)  # wrong: n_itr
SmoothGrad(model, n_iter="many")  # wrong: "str"
SmoothGrad(8)  # wrong: int
SmoothGrad(model, 8)  # wrong: positional
GradCam(model, layr="0")  # wrong: layr
LRPEpsilonGammaBox(model, hihg=3.0)  # wrong: hihg
Blur(sigm=2.0)  # wrong: sigm
AbPC(n_stepz=4)  # wrong: n_stepz
RRR(lambda_rr=1.0)  # wrong: lambda_rr
RRR(lambda_rrr="one")  # wrong: "str"
SmoothGrad(model).n_iter = 3  # wrong: read-only
SmoothGrad(model).atribute(x)  # wrong: atribute
number: int = SmoothGrad(model).attribute(x, 0)  # wrong: Tensor
pair: tuple[Tensor, Tensor] = SmoothGrad(model).attribute(x, 0)  # wrong: Tensor
by_name: dict[str, Tensor] = SmoothGrad(model).attribute(x, 0)  # wrong: Tensor
vargrad: xaikit.VarGrad = EXPLAINERS.create("vargrad")  # wrong: Explainer
smooth: SmoothGrad = tune(IntegratedGradients(model), "abpc", (x, 0), n_trials=3).best  # wrong: IntegratedGradients
grads: SmoothGrad = IntegratedGradients(model).set_kwargs(n_steps=3)  # wrong: IntegratedGradients
SmoothGrad(model).attribute(x, 0, create_grph=True)  # wrong: create_grph
SmoothGrad(model).explain(x, 0, sed=1)  # wrong: sed
xaikit.PointingGame()  # wrong: PointingGame
EXPLAINERS.register(3)  # wrong: int

table = xaikit.evaluate([SmoothGrad(model)], "abpc", (x, 0), confidence="high")  # wrong: "str"
low, high = table["smoothgrad", "abpc"].interval  # wrong: iterable
mean: str = table["smoothgrad", "abpc"].mean  # wrong: float
tune(SmoothGrad(model), "abpc", (x, 0), n_trails=3)  # wrong: n_trails
tune(SmoothGrad(model), 3, (x, 0))  # wrong: int
tune(SmoothGrad(model), "abpc", (x, 0)).dead  # wrong: dead
RRR().fit(model, x, x, mask=x)  # wrong: mask
RRR().fit(x, model)  # wrong: Tensor
xaikit.assess(model, (x, x), masks=x)  # wrong: masks
xaikit.explain_dataset("gradient", (x, x), out="run")  # wrong: "str"
xaikit.explain_dataset(SmoothGrad(model), (x, x))  # wrong: out
xaikit.SpRAy(n_cluster=3)  # wrong: n_cluster
xaikit.SpRAy()(x).samples("1")  # wrong: "str"
xaikit.Concept.fit(model, x, x, layer=3)  # wrong: layer
xaikit.recommend(model).worst  # wrong: worst
xaikit.load_run("run")[0].values_  # wrong: values_
attribution: SmoothGrad = xaikit.Attribution.load("maps.npz")  # wrong: Attribution
EXPLAINERS.create("smoothgrad").n_iter  # wrong: n_iter
metric: AbPC = Image().prepare(SmoothGrad)  # wrong: SmoothGrad
Image().prepare(3)  # wrong: int
xaikit.Contrast(1)(x)  # wrong: callable
for registered in EXPLAINERS:
    registered.NAME  # wrong: NAME


class Mine(Explainer):
    sharpness: float = 1.0

    def _attribute(self, call: xaikit.core.Call) -> tuple[Tensor, ...]:
        return call.inputs


Mine(model, sharpnes=2.0)  # wrong: sharpnes
Mine(model, sharpness="very")  # wrong: "str"


class Measure(Metric):
    DIRECTION = "sideways"  # wrong: sideways
