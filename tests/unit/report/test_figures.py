"""Figures, checked by what they draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.collections import LineCollection

from xaikit.core import Attribution
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.explainers import ContextualDecomposition, Gradient, GradientXInput, VarGrad
from xaikit.report.figures import QUANTILE, comparison, grouped_bars, plot


def made(values: Any, **more: Any) -> Attribution:
    return Attribution(values=values, spec={"name": "gradient", "settings": {}}, **more)


def panels(figure: Any) -> list[Any]:
    """The axes that hold something, colour bars left out."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_a_signed_image_is_centred_at_zero() -> None:
    values = torch.randn(2, 3, 8, 9)
    figure = plot(made(values))
    assert len(panels(figure)) == 2
    for axes, value in zip(panels(figure), values, strict=True):
        (drawn,) = axes.images
        flat = value.sum(0).numpy()
        assert np.allclose(drawn.get_array(), flat)
        assert drawn.norm.vmin == -drawn.norm.vmax
        assert drawn.norm.vmax == pytest.approx(np.quantile(np.abs(flat), QUANTILE))
        assert drawn.get_cmap().name == "RdBu_r"


def test_an_unsigned_image_starts_at_zero() -> None:
    (drawn,) = panels(plot(made(torch.rand(1, 1, 8, 8))))[0].images
    assert drawn.norm.vmin == 0
    assert drawn.get_cmap().name == "inferno"


def test_the_input_lies_beside_and_under() -> None:
    values, inputs = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    left, right = panels(plot(made(values), inputs))
    shown = left.images[0].get_array()
    assert shown.shape == (6, 6, 3)
    assert shown.min() == pytest.approx(0, abs=1e-6)
    assert shown.max() == pytest.approx(1, abs=1e-6)
    under, over = right.images
    assert np.allclose(over.get_array(), values[0].sum(0))
    strongest = values[0].sum(0).abs().flatten().argmax()
    assert over.get_alpha().flatten()[strongest] == pytest.approx(1)
    assert np.allclose(np.ptp(under.get_array(), axis=2), 0)  # grey


def test_a_layer_map_covers_the_whole_image() -> None:
    over = panels(plot(made(torch.randn(1, 4, 3, 3)), torch.rand(1, 3, 12, 12)))[1].images[1]
    assert over.get_array().shape == (3, 3)
    assert over.get_extent() == [-0.5, 11.5, 11.5, -0.5]


def test_zero_everywhere_is_drawn() -> None:
    (drawn,) = panels(plot(made(torch.zeros(1, 1, 4, 4))))[0].images
    assert (drawn.norm.vmin, drawn.norm.vmax) == (0, 1)


def test_one_huge_pixel_does_not_hide_the_rest() -> None:
    values = torch.rand(1, 1, 40, 40)
    values[0, 0, 0, 0] = 1e6
    (drawn,) = panels(plot(made(values)))[0].images
    assert drawn.norm.vmax <= 1


def test_the_title_says_what_is_explained() -> None:
    figure = plot(made(torch.rand(2, 1, 4, 4), targets=[3, 7], scores=torch.tensor([1.5, -2.25])), samples=1)
    assert panels(figure)[0].get_title(loc="left") == "gradient, class 7, score -2.25"


def test_the_outline_runs_round_the_mask() -> None:
    mask = torch.zeros(4, 4)
    mask[:2, 1:3] = 1
    (axes,) = panels(plot(made(torch.rand(1, 1, 4, 4)), outline=mask))
    segments = {
        tuple(map(tuple, np.sort(s, axis=0).round(1).tolist()))
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for s in lines.get_segments()
    }
    across = {((x, y), (x, y + 1)) for x in (0.5, 2.5) for y in (-0.5, 0.5)}
    along = {((x, y), (x + 1, y)) for x in (0.5, 1.5) for y in (-0.5, 1.5)}
    assert segments == across | along


def test_series_draw_the_strongest_channels() -> None:
    values, inputs = torch.zeros(1, 9, 20), torch.rand(1, 9, 20)
    strong = [0, 2, 3, 5, 7, 8]
    values[0, strong] = torch.randn(6, 20)
    axes = panels(plot(made(values), inputs, names=[f"lead {i}" for i in range(9)]))
    assert [a.get_ylabel() for a in axes] == [f"lead {i}" for i in strong]
    for a, i in zip(axes, strong, strict=True):
        assert np.allclose(a.images[0].get_array()[0], values[0, i])
        assert np.allclose(a.lines[0].get_ydata(), inputs[0, i])


def test_tabular_bars_are_ordered_by_size() -> None:
    values, inputs = torch.tensor([[0.5, -2.0, 1.0]]), torch.tensor([[7.0, 8.0, 9.5]])
    (axes,) = panels(plot(made(values), inputs, names=["age", "sex", "priors"]))
    assert [bar.get_width() for bar in axes.patches] == [-2.0, 1.0, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sex = 8", "priors = 9.5", "age = 7"]


def test_comparison_has_a_row_per_sample_and_a_column_per_explainer() -> None:
    images = torch.rand(3, 1, 5, 5)
    signed, unsigned = torch.randn(3, 1, 5, 5), torch.rand(3, 1, 5, 5)
    figure = comparison(
        {"ig": made(signed), "vargrad": unsigned},
        images,
        labels=["a", "b", "c"],
        captions={"vargrad": ["cat", "dog", "owl"]},
        samples=[2, 0],
    )
    assert [axes.get_xlabel() for axes in panels(figure)] == ["", "", "owl", "", "", "cat"]
    grid = np.array(panels(figure)).reshape(2, 3)
    assert [axes.get_title() for axes in grid[0]] == ["input", "ig", "vargrad"]
    assert [row[0].get_ylabel() for row in grid] == ["c", "a"]
    assert np.allclose(grid[0, 1].images[-1].get_array(), signed[2, 0])
    assert np.allclose(grid[1, 2].images[-1].get_array(), unsigned[0, 0])
    assert len(figure.axes) == grid.size + 2  # a colour bar for signed maps, one for unsigned ones


def test_grouped_bars() -> None:
    figure = grouped_bars({"a": {"same": 0.9, "flipped": 0.3}, "b": {"same": 0.8}}, title="t")
    heights = [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]
    assert heights[0] == [0.9, 0.3]
    assert heights[1][0] == 0.8
    assert np.isnan(heights[1][1])


def test_attribution_plot_is_this_and_writes_a_file(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.Tanh())
    x = torch.rand(2, 1, 4, 4)
    explained = VarGrad(model).explain(x, 1)
    figure = explained.plot(x)
    assert np.allclose(panels(figure)[3].images[1].get_array(), explained.values[1, 0])
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert not Gcf.get_all_fig_managers()  # where pyplot would keep it


def test_parts_of_a_dict() -> None:
    explained = made({"image": torch.rand(1, 1, 4, 4), "facts": torch.rand(1, 3)})
    assert len(panels(plot(explained, part="facts"))[0].patches) == 3
    with pytest.raises(UnknownNameError, match=r"part=, one of \['image', 'facts'\]"):
        plot(explained)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot(torch.rand(1, 2)), InvalidTypeError, "takes the Attribution that explain"),
        (lambda: plot(made(torch.rand(2, 3)), torch.rand(1, 3)), InvalidInputError, "must fit the attribution"),
        (lambda: plot(made(torch.rand(2, 3)), kind="image"), InvalidInputError, "not drawn as 'image'"),
        (lambda: plot(made(torch.rand(2))), InvalidInputError, "kinds are 'tabular'"),
        (lambda: plot(made(torch.rand(2, 3)), samples=2), InvalidInputError, "samples must lie in 0..1, got 2"),
        (lambda: plot(made(torch.rand(2, 3)), samples=[]), InvalidInputError, "no sample to draw"),
        (lambda: plot(made(torch.rand(2, 3)), names=["a"]), InvalidInputError, "names must name 3 features, got 1"),
        (
            lambda: plot(made(torch.rand(1, 1, 4, 4)), outline=torch.ones(3, 4)),
            InvalidInputError,
            r"outline must be a map of shape \(4, 4\), got \(3, 4\)",
        ),
        (
            lambda: comparison({"a": torch.rand(2, 1, 4, 4)}, torch.rand(3, 1, 4, 4)),
            InvalidInputError,
            "'a' has 2 samples, the inputs have 3",
        ),
    ],
)
def test_a_wrong_call_is_told(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_names_are_as_many_as_the_channels():
    attribution = Attribution(torch.randn(2, 3, 4), {"name": "lrp"}, [1, 0], torch.tensor([1.0, 2.0]))
    with pytest.raises(InvalidInputError, match="names must hold 3 channels, got 2"):
        attribution.plot(names=["left", "right"])


def test_tokens_stand_in_lines_and_never_overlap():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    words = ["the", "movie", "$x_1$", "ünïcode", "", "longer-than-the-others", "a\nb"] * 5
    attribution = Attribution(torch.randn(2, len(words), 4), {"name": "lrp"}, [1, 0], torch.tensor([1.0, 2.0]))
    figure = attribution.plot(kind="text", names=[words, words])
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [t for t in figure.axes[0].texts if t.get_bbox_patch() is not None]
    assert len(texts) == 2 * len(words)
    boxes = [t.get_window_extent(renderer) for t in texts]
    for left, right in zip(boxes, boxes[1:], strict=False):
        assert right.y0 != left.y0 or right.x0 > left.x1
    assert max(b.x1 for b in boxes) <= figure.bbox.x1
    with pytest.raises(InvalidInputError, match="35 tokens for each of 2 samples"):
        attribution.plot(kind="text", names=[words[:3], words])


def test_an_attribution_at_an_embedding_is_drawn_as_tokens(text_net, tmp_path):
    ids = torch.tensor([[3, 1, 4, 1], [5, 0, 2, 6]])
    explained = GradientXInput(text_net, layer="embedding").explain(ids, 1)
    assert torch.equal(explained.tokens, ids)
    assert torch.equal(Attribution.load(explained.save(tmp_path / "a.npz")).tokens, ids)

    def shown(attribution, **options):
        return [t.get_text() for t in attribution.plot(**options).axes[0].texts if t.get_bbox_patch() is not None]

    assert shown(explained) == ["3", "1", "4", "1", "5", "0", "2", "6"]
    assert shown(explained, names=[list("abcd")] * 2, samples=1) == list("abcd")
    padded = torch.cat([torch.ones(2, 4, 4), torch.zeros(2, 3, 4)], 1)
    padding = Attribution(padded, {"name": "x"}, tokens=torch.cat([ids, ids.new_zeros(2, 3)], 1))
    assert shown(padding) == shown(explained)
    assert Gradient(text_net.out).explain(torch.rand(2, 4), 1).tokens is None
    assert shown(ContextualDecomposition(text_net, layer="embedding").explain(ids, 1)) == shown(explained)


def test_a_notebook_shows_the_picture_by_itself():
    shown = Attribution(torch.rand(1, 1, 4, 4), {"name": "<lrp>"})._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,')
    assert "&lt;lrp&gt;" in shown
    assert Attribution(torch.rand(1, 1, 2, 2, 2, 2), {"name": "x"})._repr_html_() is None
