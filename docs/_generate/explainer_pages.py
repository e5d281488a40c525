"""A page for each registered explainer: what it computes, its source, settings, promises, costs, and a figure.

All of it is read off the class or measured while the site is built, on a small network that has learnt scikit-learn's
digits, so a new explainer, a plugin's too, gets its page by being registered.
"""

from __future__ import annotations

import functools
import inspect
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from formulas import formula
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from xaikit import EXPLAINERS, Attribution, Explainer
from xaikit.core.params import Categorical, Choice, Number
from xaikit.report.figures import SIGNED, UNSIGNED

SOURCE = re.compile(
    r"((?:[A-Z][\w-]+)(?:,? (?:and )?[A-Z][\w-]+)*(?: et al\.)?,? (?:19|20)\d\d)(?:, ((?:arXiv|doi):[^\s),;]*[\w]))?"
)
ADDRESS = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
SAMPLES = slice(1000, 1004)
SHOWN_TOGETHER = (
    "gradient",
    "smoothgrad",
    "integrated_gradients",
    "lrp_epsilon_plus",
    "contextual_decomposition",
    "gradcam",
)


def navigation() -> list[Any]:
    """The overview, ours, then captum's."""
    ours, captums = ([{n: f"explainers/{n}.md"} for n in EXPLAINERS if _captum(n) == c] for c in (False, True))
    return ["explainers/index.md", *ours, {"Captum's": captums}]


@functools.cache
def pages() -> dict[str, str | bytes]:
    """Every page and figure by path."""
    made: dict[str, str | bytes] = {}
    for name in EXPLAINERS:
        attribution, cost = explained(name)
        made[f"explainers/{name}.png"] = _png(_figure(attribution))
        made[f"explainers/{name}.md"] = _page(name, attribution, cost)
    made["explainers/together.png"] = _png(_together())
    made["explainers/index.md"] = "\n".join(
        [
            "# Explainers",
            "",
            "Every registered method. The columns are read off the classes, the cost is counted: multiplications of",
            "matrix products and convolutions over those of one gradient pass, four digits, default settings.",
            "[Which explainer should I use?](../which-explainer.md)",
            "",
            f"![The same digits explained by {', '.join(SHOWN_TOGETHER)}](together.png)",
            "",
            "Red speaks for the digit, blue against it; what is never negative is bright. Each map has its own scale.",
            "",
            overview(),
        ]
    )
    return made


def overview(up: str = "") -> str:
    """One row for each explainer; `up` leads to the folder of their pages."""
    rows = ["| explainer | made for | sum promised | in a loss | arithmetic | needs |", "|---|---|---|---|---|---|"]
    for name in sorted(EXPLAINERS, key=_captum):
        cls = EXPLAINERS.get(name)
        if cls.IS_GENERIC:
            continue
        made_for = " and ".join(cls.MADE_FOR) or "any"
        promised, exact = ("yes" if yes else "no" for yes in (cls.promises_total(), cls.DIFFERENTIABLE))
        cells = [f"[`{name}`]({up}{name}.md)", made_for, promised, exact, f"{explained(name)[1]:.3g}", _needs(cls)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


# ---------------------------------------------------------------------- a page


def _page(name: str, attribution: Attribution, cost: float) -> str:
    cls = EXPLAINERS.get(name)
    text, example = _words(cls)
    own = {n: s for n, s in cls.SETTINGS.items() if n not in Explainer.SETTINGS}
    return "\n".join(
        [
            f"# {cls.__name__}",
            "",
            f'`EXPLAINERS.create("{name}")`{_reference(cls)}',
            "",
            formula(name),
            "",
            '!!! abstract "What it computes"',
            "",
            *(f"    {line}" for line in text.splitlines()),
            "",
            f"**Source**: {_sources(cls)}",
            "",
            f"![Four digits, each with its attribution by {name}]({name}.png)",
            "",
            *(["```pycon", example, "```", ""] if example else []),
            "## Settings",
            "",
            *(_settings(own) if own else ["None of its own."]),
            "",
            "Those of every explainer (`layer`, `head`, extractors, `n_classes`) are in the",
            "[reference][xaikit.core.Explainer].",
            "",
            "## What it promises",
            "",
            *_promises(cls, attribution),
            "",
            "## What it costs",
            "",
            *_costs(cls, cost),
            "",
        ]
    )


def _words(cls: type[Explainer]) -> tuple[str, str]:
    """The docstring without its example, and the example."""
    text = re.sub(r"(?ms)^(Args|Attributes|Raises|Warns):\n.*?(?=^\S|\Z)", "", inspect.getdoc(cls) or "")
    prose, mark, example = text.partition(">>>")
    return prose.replace("``", "`").strip(), (mark + example).strip()


def _sources(cls: type[Explainer]) -> str:
    """The publications that the class names, else those of the classes it derives from."""
    for kind in cls.__mro__:
        found = SOURCE.findall(" ".join((kind.__dict__.get("__doc__") or "").split()))
        if found:
            return "; ".join(_publication(words, where) for words, where in found)
        if kind is Explainer:
            break
    return "the package that offers it; nothing is cited in the class"


def _publication(words: str, where: str) -> str:
    scheme, _, number = where.partition(":")
    return f"{words}, [{where}]({ADDRESS[scheme]}{number})" if where else words


def _reference(cls: type[Explainer]) -> str:
    from xaikit import explainers

    public = getattr(explainers, cls.__name__, None) is cls
    return f", [`xaikit.explainers.{cls.__name__}`][xaikit.explainers.{cls.__name__}]" if public else ""


def _settings(own: dict[str, Any]) -> Iterator[str]:
    yield "| setting | default | may be | a search looks at | |"
    yield "|---|---|---|---|---|"
    for name, setting in own.items():
        legal, searched = _ranges(setting.spec)
        cells = [f"`{name}`", f"`{setting.default!r}`", legal, searched, setting.doc]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _ranges(spec: Any) -> tuple[str, str]:
    if isinstance(spec, Number):
        step = f", step {spec.step:g}" if spec.step else ", log" if spec.log else ""
        legal = " and ".join(
            f"{sign} {bound:g}"
            for sign, bound in (("≥", spec.ge), (">", spec.gt), ("≤", spec.le), ("<", spec.lt))
            if bound is not None
        )
        words = f"{spec.WORD} {legal}".strip() + (" or None" if spec.optional else "")
        return words, f"{spec.low:g} to {spec.high:g}{step}" if spec.tunable else ""
    if isinstance(spec, Categorical):
        choices = ", ".join(f"`{choice!r}`" for choice in spec.choices)
        return choices, "all" if spec.tunable else ""
    if isinstance(spec, Choice):
        named = ", ".join(f"`{n}`" for n in spec.registry)
        return f"{named}, or what makes one", "all" if spec.tunable else 'with `space="all"`'
    return "", ""


def _promises(cls: type[Explainer], attribution: Attribution) -> Iterator[str]:
    if attribution.gap is not None and attribution.scores is not None:
        share = float((attribution.gap / attribution.scores.abs().clamp_min(1e-12)).max())
        yield (
            "* **A sum.** `explain(...).gap` says for each sample how far the attribution is from what it should sum "
            f"to. In the figure above the largest gap is {100 * share:.2g} % of the score."
        )
        if attribution.absorbed is not None:
            yield "* Where the rules let biases and stabilisers absorb relevance, `explain(...).absorbed` is how much."
    else:
        yield "* **No sum.** Nothing is promised about what the values add up to."
    if cls.GAP_TOLERANCE is not None:
        yield f"* `explain` warns where the gap exceeds {100 * cls.GAP_TOLERANCE:g} % of what is promised."
    if cls.DIFFERENTIABLE:
        yield (
            "* **Exact inside a loss.** With `create_graph=True` the derivative of a penalty with respect to every "
            "weight equals finite differences ([measured](../../benchmarks/README.md#exactness))."
        )
    else:
        yield "* **Not in a loss.** `create_graph=True` is refused: there is no exact derivative."
    yield "* A sample gets the same attribution alone and in any batch; the model is left as it was."


def _costs(cls: type[Explainer], cost: float) -> Iterator[str]:
    yield (
        f"* **{cost:.3g} times** the arithmetic of one gradient pass, counted for the figure above: multiplications of "
        "matrix products and convolutions, at the default settings."
    )
    named = [factor for factor in cls.PASSES if isinstance(factor, str)]
    if named:
        yield f"* It grows with {' and '.join(f'`{n}`' for n in named)}."
    if cls.SHARES_TASK_FORWARD:
        yield "* Inside a training loss one pass gives the explanation and the logits, where the model's mode allows."
    if cls.SINGLE_BACKWARD:
        yield "* Any number of layers at once for the price of one."
    if _needs(cls) != "":
        yield f"* It needs {_needs(cls)}."


def _needs(cls: type[Explainer]) -> str:
    if nn.Module in cls.SUPPORTED_MODULES:
        return "" if cls.REUSED_MODULES else "modules that run once"
    kinds = [f"`{kind.__name__.strip('_')}`" for kind in cls.SUPPORTED_MODULES]
    shown = ", ".join(kinds[:4]) + (", ..." if len(kinds) > 4 else "")
    return f"one of {shown}" + ("" if cls.REUSED_MODULES else "; modules that run once")


# ---------------------------------------------------------------------- the figures


@functools.cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learnt the first 1,000 digits, and four of the others."""
    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()),
            nn.Linear(576, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(5):
            for rows in torch.randperm(1000).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model, x[SAMPLES], y[SAMPLES]


@functools.cache
def explained(name: str) -> tuple[Attribution, float]:
    """The attribution of the four digits, and its arithmetic over that of one gradient pass."""
    model, x, y = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a gap above the tolerance is shown on the page
        explainer = EXPLAINERS.create(name).bind(model)
        with Products() as spent:
            explainer.attribute(x, y)
        return explainer.explain(x, y), spent.count / gradient_pass()


@functools.cache
def gradient_pass() -> int:
    """The arithmetic of one gradient pass over the four digits."""
    model, x, y = digits()
    with Products() as spent:
        EXPLAINERS.create("gradient").bind(model).attribute(x, y)
    return spent.count


class Products(TorchDispatchMode):
    """Counts the multiplications of matrix products and convolutions, as torch's table of them says."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        if func is torch.ops.aten._slow_conv2d_backward.output_mask:  # noqa: SLF001  (not in the table)
            grad, _, weight = args[:3]
            self.count += 2 * grad.numel() * weight[0].numel()
        return out


@functools.cache
def _canvas() -> tuple[Figure, list[AxesImage], Colorbar]:
    """The four digits above places for their attributions: one figure for all pages, since axes are slow to make."""
    _, x, y = digits()
    figure = Figure(figsize=(7.2, 3.6))  # places by hand: a constrained layout draws each of the 50 figures three times
    places = {"left": 0.02, "right": 0.86, "top": 0.92, "bottom": 0.03, "wspace": 0.06, "hspace": 0.08}
    grid = figure.subplots(2, len(x), gridspec_kw=places)
    for axes, image, label in zip(grid[0], x, y.tolist(), strict=True):
        _draw(axes, image[0], f"a {label}", grey=True)
    shown = [_draw(axes, image[0]) for axes, image in zip(grid[1], x, strict=True)]
    return figure, shown, figure.colorbar(shown[-1], cax=figure.add_axes((0.88, 0.06, 0.02, 0.37)))


def _figure(attribution: Attribution) -> Figure:
    """The digits above their attributions; the next call draws into the same figure."""
    figure, shown, bar = _canvas()
    for image, values in zip(shown, attribution.values, strict=True):
        image.set(data=values[0], **_colours(values[0]))
    low, high = shown[-1].get_clim()
    bar.set_ticks([low, high], labels=["against", "for"] if low < 0 else ["none", "most"])
    return figure


def _together() -> Figure:
    """Two digits, one column for each of some explainers."""
    _, x, _ = digits()
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    grid = figure.subplots(2, 1 + len(SHOWN_TOGETHER))
    for row in (0, 1):
        _draw(grid[row, 0], x[row, 0], "" if row else "input", grey=True)
        for axes, name in zip(grid[row, 1:], SHOWN_TOGETHER, strict=True):
            _draw(axes, explained(name)[0].values[row, 0], "" if row else name.replace("_", "\n"))
    return figure


def _draw(axes: Axes, values: Tensor, title: str = "", *, grey: bool = False) -> AxesImage:
    """One image with a colour scale of its own: grey for inputs, red and blue for and against, else black to bright."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    if grey:
        return axes.imshow(values, cmap="gray")
    shown = axes.imshow(values)
    shown.set(**_colours(values))
    return shown


def _colours(values: Tensor) -> dict[str, Any]:
    """Red and blue about 0 where there is anything negative, else black to bright."""
    size, signed = float(values.abs().max()) or 1.0, bool((values < 0).any())
    return {"cmap": SIGNED if signed else UNSIGNED, "clim": (-size if signed else 0, size)}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _captum(name: str) -> bool:
    return name.startswith("captum")
