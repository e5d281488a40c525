"""Every function of torch inside a model, through a penalty: its derivative is exact, or the function is refused."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit import Gradient
from xaikit.core.errors import NotDifferentiableError, UnreachableError

HOMES = (torch, torch.Tensor, F, torch.special, torch.linalg, torch.fft)
# They draw, look at the world outside, change the precision, or (the last) start from a random guess.
LEFT_OUT = (
    "dropout",
    "rrelu",
    "bernoulli",
    "multinomial",
    "poisson",
    "normal",
    "gumbel",
    "fractional",
    "rand",
    "seed",
    "save",
    "load",
    "compile",
    "vmap",
    "cuda",
    "fork",
    "import",
    "export",
    "share",
    "pin_memory",
    "map",
    "apply",
    "backward",
    "register",
    "barrier",
    "wait",
    "init",
    "typed",
    "numpy",
    "dlpack",
    "set_",
    "manual",
    "half",
    "bfloat16",
    "float",
    "cfloat",
    "chalf",
    "lowrank",
    "lobpcg",
)
SYMMETRIC = ("eigh", "eigvalsh", "cholesky", "cholesky_ex", "cholesky_inverse")  # they read one triangle


def unary_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    seen = set()
    for home in HOMES:
        for name in dir(home):
            function = getattr(home, name)
            odd = name.startswith("_") or name.endswith("_") or any(part in name for part in LEFT_OUT)
            if callable(function) and not inspect.isclass(function) and not odd and function not in seen:
                seen.add(function)
                yield f"{home.__name__.rpartition('.')[2]}.{name}", function


def vectors(h: Tensor, size: int) -> Tensor:
    return h.flatten(1)[:, :size]


def image(h: Tensor) -> Tensor:
    return h.flatten(1).unflatten(1, (1, 4, 4))


def with_weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def net(module: nn.Module) -> Callable[[Tensor], Any]:
    torch.manual_seed(0)
    return module.double().eval()


LAYERS = {
    "LSTM": net(nn.LSTM(4, 3, batch_first=True)),
    "GRU": net(nn.GRU(4, 3, batch_first=True)),
    "RNN": net(nn.RNN(4, 3, batch_first=True)),
    "encoder": net(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
}
ATTENTION = net(nn.MultiheadAttention(4, 2, batch_first=True))
MORE: dict[str, Callable[[Tensor], Any]] = {
    **{f"cdist p={p}": lambda h, p=p: torch.cdist(h, h.flip(1) * 2, p=p) for p in (1.0, 1.5, 2.0, 3.0, float("inf"))},
    **{f"pdist p={p}": lambda h, p=p: torch.stack([F.pdist(row, p=p) for row in h]) for p in (1.0, 2.0, 3.0)},
    **{f"pairwise p={p}": lambda h, p=p: F.pairwise_distance(h, h.flip(1), p=p) for p in (1.0, 2.0, 3.0)},
    **{f"norm {p}": lambda h, p=p: torch.linalg.vector_norm(h, p, dim=1) for p in (0.5, 1, 2, 3, float("inf"))},
    **{
        f"interpolate {m}": lambda h, m=m: F.interpolate(image(h), scale_factor=2, mode=m)
        for m in ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
    },
    **{
        f"grid_sample {m}": lambda h, m=m: F.grid_sample(
            image(h), with_weights(1, 3, 3, 2).expand(len(h), -1, -1, -1), mode=m, align_corners=False
        )
        for m in ("bilinear", "bicubic")
    },
    "grid_sample by its grid": lambda h: F.grid_sample(
        with_weights(len(h), 1, 4, 4), h[:, :2, None, :2], align_corners=False
    ),
    "max_pool2d": lambda h: F.max_pool2d(image(h), 2),
    "avg_pool2d": lambda h: F.avg_pool2d(image(h), 2),
    "lp_pool2d": lambda h: F.lp_pool2d(image(h), 3, 2),
    "adaptive_max_pool2d": lambda h: F.adaptive_max_pool2d(image(h), 2),
    "conv2d": lambda h: F.conv2d(image(h), with_weights(2, 1, 3, 3)),
    "conv_transpose2d": lambda h: F.conv_transpose2d(image(h), with_weights(1, 2, 3, 3)),
    "local_response_norm": lambda h: F.local_response_norm(image(h), 2),
    "layer_norm": lambda h: F.layer_norm(h, (4,)),
    "group_norm": lambda h: F.group_norm(h, 2),
    "rms_norm": lambda h: F.rms_norm(h, (4,)),
    "batch_norm": lambda h: F.batch_norm(h, torch.zeros(4).double(), torch.ones(4).double()),
    "prelu": lambda h: F.prelu(h - 0.5, with_weights(4)),
    "threshold": lambda h: F.threshold(h, 0.4, 0.1),
    "softmax": lambda h: h.softmax(1),
    "logsumexp": lambda h: h.logsumexp(1),
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "cumprod": lambda h: h.cumprod(1),
    "cummax": lambda h: h.cummax(1),
    "quantile": lambda h: h.quantile(0.3, 1),
    "renorm": lambda h: h.renorm(2, 1, 0.5),
    "polygamma": lambda h: torch.polygamma(1, h),
    "zeta": lambda h: torch.special.zeta(h + 2, h + 1),
    "igamma": lambda h: torch.igamma(torch.ones_like(h), h),
    "igammac": lambda h: torch.igammac(torch.ones_like(h), h),
    "xlogy": lambda h: torch.xlogy(h, h + 1),
    "atan2": lambda h: torch.atan2(h, h.flip(1) + 1),
    "hypot": lambda h: torch.hypot(h, h + 1),
    "logaddexp": lambda h: torch.logaddexp(h, h.flip(1)),
    "lerp": lambda h: torch.lerp(h, h.flip(1), 0.3),
    "cosine_similarity": lambda h: F.cosine_similarity(h, h.flip(2), 2),
    "bilinear": lambda h: F.bilinear(h, h.flip(1), with_weights(3, 4, 4)),
    "sdpa": lambda h: F.scaled_dot_product_attention(h, h.flip(1), h),
    "sdpa causal": lambda h: F.scaled_dot_product_attention(h, h, h, is_causal=True),
    "scatter_reduce amax": lambda h: torch.zeros_like(h).scatter_reduce(1, torch.zeros_like(h).long(), h, "amax"),
    "scatter_reduce prod": lambda h: torch.ones_like(h).scatter_reduce(1, torch.zeros_like(h).long(), h, "prod"),
    "scatter_reduce mean": lambda h: torch.ones_like(h).scatter_reduce(1, torch.zeros_like(h).long(), h, "mean"),
    "index_reduce prod": lambda h: torch.ones_like(h).index_reduce(1, torch.zeros(4).long(), h, "prod"),
    "segment_reduce": lambda h: torch.segment_reduce(
        vectors(h, 4).reshape(-1), "mean", lengths=torch.full((len(h),), 4)
    ),
    "solve": lambda h: torch.linalg.solve(h + 3 * torch.eye(4).double(), h),
    "pinv": torch.linalg.pinv,
    "lstsq": lambda h: torch.linalg.lstsq(h + torch.eye(4).double(), h.flip(1)).solution,
    "solve_triangular": lambda h: torch.linalg.solve_triangular(h.triu() + torch.eye(4).double(), h, upper=True),
    "matrix_power": lambda h: torch.linalg.matrix_power(h, 3),
    "householder": lambda h: torch.linalg.householder_product(h, vectors(h, 4)),
    "stft": lambda h: torch.stft(h.flatten(1), 4, window=torch.ones(4).double(), return_complex=True),
    "ctc_loss": lambda h: F.ctc_loss(
        h.transpose(0, 1).log_softmax(2), torch.ones(len(h), 2).long(), (4,) * len(h), (2,) * len(h), reduction="none"
    ),
    "cross_entropy": lambda h: F.cross_entropy(h, torch.ones(len(h), 4).long(), reduction="none"),
    "binary_cross_entropy": lambda h: F.binary_cross_entropy(h, torch.ones_like(h), reduction="none"),
    "kl_div": lambda h: F.kl_div(h.log_softmax(1), torch.ones_like(h) / 4, reduction="none"),
    "smooth_l1": lambda h: F.smooth_l1_loss(h, torch.zeros_like(h), reduction="none"),
    "huber": lambda h: F.huber_loss(h, torch.zeros_like(h), reduction="none"),
    "multi_margin": lambda h: F.multi_margin_loss(vectors(h, 4), torch.ones(len(h)).long(), reduction="none"),
    "embedding_bag": lambda h: F.embedding_bag(
        torch.tensor([[0, 1]] * len(h)), with_weights(3, 4), per_sample_weights=vectors(h, 2), mode="sum"
    ),
    **LAYERS,
    "attention": lambda h: ATTENTION(h, h, h)[0],
}
# torch has no second derivative of these, and no composite form stands in for them; what the refusal names.
REFUSED = {
    "ctc_loss": "ctc_loss",
    "embedding_bag": "embedding_bag",
    "multi_margin": "multi_margin_loss",
    "segment_reduce": "segment_reduce",
    "zeta": "zeta",
}


class Net(nn.Module):
    """A smooth layer, the function, and a smooth reading of what it returns."""

    def __init__(self, function: Callable[..., Any], shift: float, symmetric: bool):
        super().__init__()
        self.inner = nn.Linear(5, 16).double()
        self.function, self.shift, self.symmetric = function, shift, symmetric
        self.reading = with_weights(400)

    def forward(self, x):
        h = torch.sigmoid(self.inner(x)).unflatten(1, (4, 4)) * 0.8 + 0.1 + self.shift
        if self.symmetric:
            h = h + h.mT + 4 * torch.eye(4).double()
        y = self.function(h)
        y = y[0] if isinstance(y, (tuple, list)) else y
        y = (y.abs() if y.is_complex() else y).reshape(len(x), -1)
        return (y.sin() * self.reading[: y.shape[1]]).sum(1)


X = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def model_of(name: str, function: Callable[..., Any]) -> Net | None:
    """A model in which the function computes something, on the first domain that it takes."""
    for shift in (0.0, 1.0, -0.5):
        torch.manual_seed(0)
        model = Net(function, shift, name.rpartition(".")[2] in SYMMETRIC)
        try:
            with torch.no_grad():
                y = model(X)
        except Exception:  # noqa: BLE001, S112  not a function of one tensor, or of other numbers
            continue
        if y.shape == (2,) and y.dtype == torch.float64 and bool(y.isfinite().all()):
            return model
    return None


def outcome(model: Net) -> str:
    """How the derivative of a penalty fares: exact, refused, unreachable, or what is wrong."""
    weight = model.inner.weight
    try:
        (gradient,) = torch.autograd.grad(Gradient(model).attribute(X, create_graph=True).square().sum(), weight)
    except NotDifferentiableError:
        return "refused"
    except UnreachableError:
        return "unreachable"
    except Exception as err:  # noqa: BLE001
        return f"{type(err).__name__}: {str(err)[:100]}"
    direction = with_weights(16, 5)

    def penalty(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * direction)
        value = float(Gradient(model).attribute(X).square().sum())
        with torch.no_grad():
            weight.sub_(step * direction)
        return value

    step = 1e-6
    expected, exact = (penalty(step) - penalty(-step)) / (2 * step), float((gradient * direction).sum())
    error = abs(exact - expected) / max(abs(expected), abs(exact), 1e-6)
    return "exact" if error < 1e-4 else f"off by {error:.1e}"


def torch_before(*version: int) -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) < version


def outcomes(functions: Iterator[tuple[str, Callable[..., Any]]]) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = ((name, model_of(name, function)) for name, function in functions)
        return {name: outcome(model) for name, model in models if model is not None}


@pytest.mark.nightly
def test_every_function_of_one_tensor():
    results = outcomes(unary_functions())
    odd = {name: words for name, words in results.items() if words not in ("exact", "refused", "unreachable")}
    assert not odd
    assert sum(words == "exact" for words in results.values()) > 250


def test_functions_of_more():
    results = outcomes(iter(MORE.items()))
    assert results.keys() == MORE.keys()
    inexact = {name: words for name, words in results.items() if words != "exact"}
    if torch_before(2, 13):  # torch 2.6 has no second derivative of these
        inexact = {name: words for name, words in inexact.items() if "grid_sample" not in name or words != "refused"}
    assert inexact == dict.fromkeys(REFUSED, "refused")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_operation(name):
    model = model_of(name, MORE[name])
    with pytest.raises(NotDifferentiableError, match=REFUSED[name]):
        Gradient(model).attribute(X, create_graph=True)
