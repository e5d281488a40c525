"""Is it right? Derivatives against finite differences, completeness, VarGrad's sign, LRP against zennit, live settings.

python -m benchmarks.exactness                 # all tables
python -m benchmarks.exactness derivatives     # one of: derivatives, completeness, vargrad, tuning, lrp, import
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from captum import attr as captum
from torch import Tensor, nn

from benchmarks.measure import lenet, table
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import IntegratedGradients, LRPEpsilonPlus, LRPUniformEpsilon, VarGrad
from xaikit.metrics import AbPC


class Residual(nn.Module):
    """Convolution, BatchNorm with statistics of its own, residual add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Linear(4, 3)
        for bn in (self.bn1, self.bn2):
            bn.running_mean.normal_(0, 0.2)
            bn.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.fc(self.relu2(self.bn2(self.conv2(h)) + h).mean((2, 3)))


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    conv1d = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    return {
        "MLP": (mlp.double().eval(), torch.randn(2, 6).double()),
        "conv-BatchNorm-residual": (Residual().double().eval(), torch.randn(2, 2, 5, 5).double()),
        "1-D conv": (conv1d.double().eval(), torch.randn(2, 2, 14).double()),
    }


def derivative_error(model: nn.Module, penalty: Callable[[], Tensor], step: float = 1e-6) -> float:
    """Relative error, in norm over all entries of all parameters, of autograd against central differences."""
    parameters = list(model.parameters())
    value = penalty()
    grads = (
        torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else [None] * len(parameters)
    )
    wrong = size = 0.0
    for p, g in zip(parameters, grads, strict=True):
        flat = p.data.view(-1)
        found = torch.zeros_like(flat)
        for i in range(len(flat)):
            kept, ends = float(flat[i]), []
            for sign in (1, -1):
                flat[i] = kept + sign * step
                ends.append(float(penalty().detach()))
            flat[i] = kept
            found[i] = (ends[0] - ends[1]) / (2 * step)
        claimed = torch.zeros_like(flat) if g is None else g.flatten()
        wrong += float((claimed - found).square().sum())
        size += float(found.square().sum())
    return (wrong / max(size, 1e-300)) ** 0.5


def derivatives() -> None:
    y, nets = torch.tensor([0, 2]), cases()
    rows: list[list[object]] = []
    for name in EXPLAINERS:
        if EXPLAINERS.get(name).DIFFERENTIABLE:
            row: list[object] = [name]
            for model, x in nets.values():
                explainer = EXPLAINERS.create(name).bind(model)
                try:
                    error = derivative_error(
                        model, lambda e=explainer, v=x: e.attribute(v, y, create_graph=True).square().sum()
                    )
                except InvalidInputError:
                    if x.ndim > 2:
                        raise
                    error = ""  # a map needs positions, and a table has none
                row.append(error)
            rows.append(row)
            print("measured:", row, file=sys.stderr, flush=True)
    for name, peer in peers().items():
        row = [name]
        for model, x in nets.values():
            row.append(derivative_error(model, lambda m=model, v=x, p=peer: p(m, v, y).square().sum()))
        rows.append(row)
    table(
        "d sum(attribution²) / d every parameter: relative error against finite differences, float64", ["", *nets], rows
    )


def peers() -> dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]]:
    def plain(make: Callable[[nn.Module], captum.Attribution]) -> Callable[..., Tensor]:
        return lambda m, x, y: make(m).attribute(x.clone().requires_grad_(), target=y)

    def zennit(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        from zennit.attribution import Gradient
        from zennit.composites import EpsilonPlus

        with Gradient(model, EpsilonPlus(), create_graph=True) as attributor:
            return attributor(x.clone().requires_grad_(), torch.eye(3).double()[y])[1]

    import_torchvision()
    return {
        "captum InputXGradient": plain(captum.InputXGradient),
        "captum IntegratedGradients": plain(captum.IntegratedGradients),
        "zennit EpsilonPlus, create_graph": zennit,
    }


def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A LeNet trained on scikit-learn's real digits, enlarged to 28 x 28; and held-out samples."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    x, y = nn.functional.interpolate(x, (28, 28), mode="bilinear"), torch.tensor(data.target)
    torch.manual_seed(0)
    model = lenet().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(4):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    print(f"LeNet on digits: {float((model(x[1400:]).argmax(1) == y[1400:]).float().mean()):.1%} on held-out samples")
    return model, x[1400:], y[1400:]


def completeness() -> None:
    model, x, y = digits()
    x, y = x[:128], y[:128]
    with torch.no_grad():
        promised = (model(x) - model(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    rows: list[list[object]] = []
    for method, theirs in (("gausslegendre", "gausslegendre"), ("trapezoid", "riemann_trapezoid")):
        peer = captum.IntegratedGradients(model).attribute(x, target=y, n_steps=20, method=theirs).sum((1, 2, 3))
        ours = IntegratedGradients(model, n_steps=20, method=method).explain(x, y).gap
        gap = (peer - promised).abs()
        means = (f"{float(ours.mean()):.6f}", f"{float(gap.mean()):.6f}")
        rows.append([method, *means, float(ours.max()), float(gap.max())])
    head = ["20 steps", "xaikit, mean", "captum, mean", "xaikit, largest", "captum, largest"]
    table("Completeness gap |sum - (S(x) - S(0))| of integrated gradients on a trained LeNet, 128 digits", head, rows)


def vargrad() -> None:
    model, x, y = digits()
    negative = float((VarGrad(model).attribute(x[:64], y[:64]) < 0).float().mean())
    linear = nn.Linear(12, 3)
    size = float(VarGrad(linear).attribute(torch.randn(64, 12), 1).abs().max())
    table("VarGrad", ["share of negative values", "largest value on a linear model"], [[negative, size]])


def tuning() -> None:
    model, x, y = digits()
    epsilons = torch.logspace(-6, 0, 20).tolist()
    rows: list[list[object]] = []
    for kind in (LRPUniformEpsilon, LRPEpsilonPlus):
        explainers = [kind(model, epsilon=e) for e in epsilons]
        relevances = {float(e.attribute(x[:4], y[:4]).double().abs().sum()) for e in explainers}
        values = {AbPC(n_steps=50).evaluate(e, x[:128], y[:128]).mean().item() for e in explainers}
        rows.append([kind.NAME, len(relevances), len(values)])
    head = ["20 epsilons", "distinct relevances", "distinct AbPC values (128 digits, 50 steps)"]
    table("Does epsilon act?", head, rows)


def lrp() -> None:
    """Against zennit with its canonizers on whole torchvision nets, float64.

    zennit merges BatchNorm into the convolution but leaves the eps in it, which changes the model's own output a
    little; so the comparison is made with eps = 0, where nothing but the rules can differ, and with eps as it is.
    """
    models = import_torchvision().models
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    pairs = {
        "lrp_epsilon_plus": lambda c: composites.EpsilonPlus(canonizers=c),
        "lrp_epsilon_alpha2_beta1": lambda c: composites.EpsilonAlpha2Beta1(canonizers=c),
        "lrp_epsilon_gamma_box": lambda c: composites.EpsilonGammaBox(low=-3, high=3, canonizers=c),
    }
    rows: list[list[object]] = []
    for name, canonizer in (("resnet18", ResNetCanonizer()), ("vgg11_bn", VGGCanonizer())):
        torch.manual_seed(0)
        model, x = getattr(models, name)(num_classes=10).double().eval(), torch.randn(2, 3, 64, 64).double()
        for ours, composite in pairs.items():
            row: list[object] = [name, ours]
            for eps in (0.0, 1e-5):
                for module in model.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eps = eps
                found = EXPLAINERS.create(ours).bind(model).attribute(x, 3)
                output = model(x)
                with Gradient(model, composite([canonizer])) as attributor:
                    # Relevance starts from the logit itself, so that it sums to the explained score.
                    theirs, expected = attributor(x.clone().requires_grad_(), lambda out: out * torch.eye(10)[3])
                row.append(float((found - expected).norm() / expected.norm()))
                if eps:
                    row.append(float((theirs - output).norm() / output.norm()))
            rows.append(row)
    head = ["model", "explainer", "eps 0", "eps 1e-5", "eps 1e-5: zennit's change of the model's output"]
    table("LRP against zennit with its canonizers: relative difference", head, rows)


def import_() -> None:
    script = "import time, torch; t = time.perf_counter(); import xaikit; print(time.perf_counter() - t)"
    use = script.replace("import xaikit;", "import xaikit; xaikit.VarGrad;")
    rows = []
    for name, text in (("import xaikit", script), ("import xaikit; xaikit.VarGrad", use)):
        runs = [
            float(subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout)
            for _ in range(5)
        ]
        rows.append([name, statistics.median(runs)])
    table("Seconds beyond `import torch`, median of 5", ["", "s"], rows)


PARTS = {
    "derivatives": derivatives, "completeness": completeness, "vargrad": vargrad, "tuning": tuning, "lrp": lrp,
    "import": import_,
}  # fmt: skip

if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Input Tensor")
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
