"""Summaries of a run over a data set: every number against plain numpy over all samples at once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from tests.unit.runs.small_runs import explain, stacked
from xaikit import Gradient, GradientXInput, IntegratedGradients
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.runs import Summary, load_run
from xaikit.runs.summary_words import WordCounts, unpadded_length

FEATURES = ["age", "income", "rooms", "district", "constant"]


class Named(torch.utils.data.TensorDataset):
    features = FEATURES
    classes = ("no", "yes")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    torch.manual_seed(0)
    x = torch.randn(23, 5)
    x[:, 1] = x[:, 0] + 0.1 * torch.randn(23)
    x[:, 3] = torch.arange(23) % 3
    x[:, 4] = 0
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        net[2].bias -= net(x).mean(0)  # so that both classes are predicted
    y = torch.arange(23) % 2
    folder = tmp_path_factory.mktemp("table") / "run"
    return x.double().numpy(), explain(IntegratedGradients(net, n_steps=8), Named(x, y), folder, keep_inputs=True)


def numbers(run):
    return stacked(run).double().numpy()


def test_columns_are_means_over_all_rows(table):
    x, run = table
    columns, values = Summary(run).columns(), numbers(run)
    assert columns.names == tuple(FEATURES)
    assert np.allclose(columns.mean, values.mean(0), rtol=0, atol=1e-12)
    assert np.allclose(columns.mean_size, np.abs(values).mean(0), rtol=0, atol=1e-12)
    assert np.allclose(columns.deviation, values.std(0), rtol=0, atol=1e-12)
    assert np.allclose(columns.positive, (values > 0).mean(0))
    assert np.array_equal(columns.points, values)
    assert np.array_equal(columns.values, x)
    frame = columns.to_pandas()
    assert list(frame.column) == FEATURES
    assert frame.mean_size.tolist() == pytest.approx(np.abs(values).mean(0).tolist())
    bars = columns.plot().axes[0]
    assert sorted(p.get_width() for p in bars.patches) == pytest.approx(sorted(np.abs(values).mean(0)))


def test_the_maps_of_classes_are_their_means(table):
    _, run = table
    values = numbers(run)
    for by, key in (("target", "target"), ("label", "label"), ("predicted", "predicted")):
        classes = np.array([row[key] for row in run.rows()])
        maps = Summary(run).class_maps(by)
        assert maps.classes == tuple(np.unique(classes))
        for k, label in enumerate(maps.classes):
            members = values[classes == label]
            assert maps.counts[k] == len(members)
            assert np.allclose(maps.means[k], members.mean(0), atol=1e-12)
            assert np.allclose(maps.sizes[k], np.abs(members).mean(0), atol=1e-12)
    maps = Summary(run).class_maps("label")
    frame = maps.to_pandas()
    row = frame[(frame["class"] == "yes") & (frame.column == "rooms")]
    assert row["mean"].item() == pytest.approx(float(maps.means[list(maps.names).index("yes"), 2]))


def test_one_class_alone_is_a_subset_of_the_rows(table):
    _, run = table
    targets = np.array([row["target"] for row in run.rows()])
    columns = Summary(run, of_class=1).columns()
    assert columns.n == (targets == 1).sum()
    assert np.allclose(columns.mean, numbers(run)[targets == 1].mean(0), atol=1e-12)
    with pytest.raises(InvalidInputError, match="holds no sample of which class 7 was explained"):
        Summary(run, of_class=7)


def test_dependence_is_the_column_beside_its_value(table):
    x, run = table
    dependence = Summary(run).dependence("age", "income")
    assert np.array_equal(dependence.values, x[:, 0])
    assert np.array_equal(dependence.other_values, x[:, 1])
    assert np.array_equal(dependence.relevance, numbers(run)[:, 0])
    frame = dependence.to_pandas()
    assert list(frame.columns) == ["index", "age", "income", "relevance"]
    bins = dependence.binned(4)
    assert bins.samples.sum() == 23
    for row in bins.itertuples():
        members = (x[:, 0] >= row.low) & (x[:, 0] <= row.high)
        assert members.sum() == row.samples
        assert row.relevance == pytest.approx(numbers(run)[members, 0].mean())
    categories = Summary(run).dependence(3).binned()
    assert categories.value.tolist() == [0, 1, 2]
    assert categories.relevance[1] == pytest.approx(numbers(run)[x[:, 3] == 1, 3].mean())
    assert Summary(run).dependence("constant").binned().samples.tolist() == [23]


def test_a_waterfall_reaches_the_score(table):
    x, run = table
    waterfall = Summary(run).waterfall(11)
    assert waterfall.base == pytest.approx(run[11].score - numbers(run)[11].sum())
    frame = waterfall.to_pandas()
    assert frame.reached.iloc[-1] == pytest.approx(run[11].score)
    assert (frame.relevance.abs().diff().dropna() <= 0).all()
    assert frame.value.tolist() == [x[11, FEATURES.index(name)] for name in frame.column]
    assert waterfall.title.startswith("sample 11")


def test_columns_that_go_together_are_one_cluster(table):
    _, run = table
    clusters, values = Summary(run).clusters(), numbers(run)
    truth = np.corrcoef(values[:, :4].T)
    assert np.allclose(clusters.correlation[:4, :4], truth, atol=1e-9)
    assert clusters.correlation[4].tolist() == [0, 0, 0, 0, 1]
    assert clusters.labels[0] == clusters.labels[1]
    assert clusters.labels[4] not in clusters.labels[:4]
    for k, size in enumerate(clusters.joint_size.tolist()):
        members = [j for j, label in enumerate(clusters.labels) if label == k]
        assert size == pytest.approx(np.abs(values[:, members].sum(1)).mean())
    assert sorted(clusters.joint_size.tolist(), reverse=True) == clusters.joint_size.tolist()
    assert len(set(Summary(run).clusters(distance=0.0).labels)) == 5
    assert clusters.to_pandas().cluster.is_monotonic_increasing


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts whose relevance is known: that of a token is its number in a table, and padding has none."""
    weight = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5, -1.0])
    ids = torch.tensor([[1, 2, 3, 0, 0], [3, 3, 4, 5, 2], [5, 1, 0, 0, 0]])
    embedding = nn.Embedding(6, 1)
    embedding.weight.data = weight[:, None]
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(5, 1, bias=False))
    model[2].weight.data = torch.ones(1, 5)
    folder = tmp_path_factory.mktemp("texts") / "run"
    return explain(GradientXInput(model, layer="0"), ids, folder, keep_inputs=True)


PIECES = ["[PAD]", "good", "bad", "##ness", "fine", "film"]


def test_words_are_counted_over_all_texts(texts):
    words = Summary(texts).words().to_pandas().set_index("word")
    assert words["count"].to_dict() == {"1": 2, "2": 2, "3": 3, "4": 1, "5": 2}
    assert words.texts.to_dict() == {"1": 2, "2": 2, "3": 2, "4": 1, "5": 2}
    assert words["mean"].to_dict() == {"1": 1, "2": -2, "3": 3, "4": 0.5, "5": -1}
    assert words.index[0] == "3"  # nine in all


def test_pieces_are_put_together_and_both_signs_are_kept(texts):
    summary = Summary(texts, tokens=lambda ids: [PIECES[i] for i in ids])
    words = summary.words(padding="[PAD]").to_pandas().set_index("word")
    assert words["mean"].to_dict() == {"good": 1, "badness": 1, "##nessness": 6, "fine": 0.5, "film": -1, "bad": -2}
    apart = summary.words(padding=0, join=False)
    assert apart.names[0] == "##ness"
    assert torch.equal(apart.mean, apart.positive + apart.negative)
    figure = summary.words(padding=0).plot(min_count=2)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["good  (2)", "film  (2)"]
    with pytest.raises(InvalidInputError, match="no word stands there 9 times"):
        summary.words().plot(min_count=9)
    with pytest.raises(InvalidInputError, match="tokens must give 5 strings"):
        Summary(texts, tokens=lambda _: ["one"]).words()


def test_marked_beginnings_of_words_part_them():
    counts = WordCounts(lambda ids: ["<s>", "▁a", "b", "▁c", "</s>"], None, join=True)
    counts.add([1, 2, 3, 4, 5], [0.1, 1.0, 2.0, -1.0, 0.2], [1, 1, 1, 1, 0])
    assert dict(zip(counts.result().names, counts.result().mean.tolist(), strict=True)) == {
        "ab": 3,
        "c": -1,
        "<s>": 0.1,
    }


def test_padding_ends_a_text():
    assert unpadded_length([1, 2, 0, 0], [1.0, 1.0, 0.0, 0.0]) == 2
    assert unpadded_length([1, 2, 0], [1.0, 1.0, 0.0]) == 3
    assert unpadded_length([], [1.0, 2.0]) == 2


def test_pictures_and_series_have_maps(tmp_path):
    torch.manual_seed(0)
    pictures, net = torch.rand(9, 2, 4, 4), nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    run = explain(Gradient(net), (pictures, torch.arange(9) % 3), tmp_path / "pictures")
    maps = Summary(run).class_maps("label")
    values = numbers(run)
    assert np.allclose(maps.means[1], values[1::3].mean(0), atol=1e-12)
    shown = np.concatenate([image.get_array() for axes in maps.plot().axes for image in axes.images])
    assert np.allclose(shown, maps.means.sum(1).reshape(-1, 4), atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"the run holds image \(2, 4, 4\); use class_maps"):
        Summary(run).columns()
    series, net = torch.rand(8, 3, 6), nn.Sequential(nn.Flatten(), nn.Linear(18, 2))
    run = explain(Gradient(net), series, tmp_path / "series")
    channels = Summary(run, features=["x", "y", "z"]).columns()
    assert np.allclose(channels.mean, numbers(run).sum(2).mean(0), atol=1e-12)
    assert channels.values is None
    assert Summary(run).class_maps().to_pandas().columns.tolist()[2:4] == ["channel", "step"]
    steps_first = explain(Gradient(net), series.transpose(1, 2), tmp_path / "steps first")
    last = Summary(steps_first, features=["x", "y", "z"])
    assert np.allclose(last.columns().mean, numbers(steps_first).sum(1).mean(0), atol=1e-12)
    assert last.class_maps().means.shape[1:] == (3, 6)
    with pytest.raises(InvalidInputError, match="dependence needs a table"):
        Summary(run).dependence(0)


def test_one_shard_at_a_time_is_in_memory(table, monkeypatch):
    _, run = table
    from xaikit.runs import shards

    alive, most, read = [], [], shards.read

    class Watched(shards.Shard):
        def __del__(self):
            alive.remove(id(self))

    def reading(folder, number):
        shard = read(folder, number)
        watched = Watched(**{k: getattr(shard, k) for k in shard.__dataclass_fields__})
        alive.append(id(watched))
        most.append(len(alive))
        return watched

    summary = Summary(run)
    monkeypatch.setattr(shards, "read", reading)
    summary.class_maps()
    assert max(most) <= 2  # the next one is read while the loop still holds the one before
    assert len(most) == 5


def test_samples_that_are_not_finite_are_left_out(table, tmp_path):
    run = explain(GradientXInput(nn.Linear(2, 2)), torch.ones(4, 2), tmp_path / "run", shard_size=2)
    from xaikit.runs import shards

    shard = shards.read(run.folder, 1)
    values = shard.values.clone()
    values[0, 0] = torch.nan
    state = {k: getattr(shard, k) for k in shard.__dataclass_fields__} | {"values": values}
    shards.write(run.folder, 1, shards.Shard(**state), "job")
    with pytest.warns(UserWarning, match="1 samples whose relevance is not finite are left out"):
        assert Summary(load_run(run.folder)).columns().n == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.class_maps("truth"), InvalidInputError, "by must be one of target, label, predicted, got 'truth'"),
        (lambda s: s.dependence("agee"), UnknownNameError, "no column 'agee'; did you mean 'age'"),
        (lambda s: s.dependence(5), InvalidInputError, "the number of a column must be >= 0 and <= 4, got 5"),
        (lambda s: s.waterfall(99), InvalidInputError, "23 samples with indices 0 to 22, got 99"),
        (lambda s: s.waterfall("x"), UnknownNameError, "no sample is called 'x'; they have none"),
        (lambda s: s.clusters(2), InvalidInputError, "distance must be >= 0 and <= 1, got 2"),
        (lambda s: s.words(), InvalidInputError, "words need token ids beside the relevance"),
        (lambda s: s.dependence(0).binned(0), InvalidInputError, "bins must be >= 1, got 0"),
    ],
)
def test_wrong_calls(table, call, error, message):
    with pytest.raises(error, match=message):
        call(Summary(table[1]))


def test_wrong_runs(table, texts, tmp_path):
    with pytest.raises(InvalidTypeError, match="takes a run, from explain_dataset or load_run"):
        Summary("run")
    with pytest.raises(InvalidInputError, match="kind must be tabular"):
        Summary(table[1], kind="picture")
    with pytest.raises(InvalidInputError, match="features must name 5 features, got 1"):
        Summary(table[1], features=["a"]).columns()
    with pytest.raises(InvalidInputError, match=r"places of texts .* use words\(\)"):
        Summary(texts).class_maps()
    bare = explain(Gradient(nn.Linear(3, 2)), torch.rand(4, 3), tmp_path / "bare")
    with pytest.raises(InvalidInputError, match="explain the data with keep_inputs=True"):
        Summary(bare).dependence(0)
    with pytest.raises(InvalidInputError, match="gradient promises no such sum"):
        Summary(bare).waterfall(0)


def test_every_picture_is_drawn(table, texts):
    summary = Summary(table[1])
    tables = [summary.class_maps(), summary.columns(), summary.dependence(0, 1), summary.dependence(4)]
    tables += [summary.waterfall(0), summary.clusters(), Summary(texts).words()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in tables:
            one.plot().canvas.draw()


def test_names_with_dollar_signs_are_no_formulas(tmp_path):
    """`$a_b_c$` once stopped every figure."""
    names = ["$a_b_c$", "price ($) of two ($)", "b"]
    run = explain(IntegratedGradients(nn.Linear(3, 2)), torch.randn(9, 3), tmp_path / "run", keep_inputs=True)
    summary = Summary(run, features=names)
    tables = [summary.class_maps(), summary.columns(), summary.dependence(0, 1), summary.waterfall(0)]
    for figure in (*(one.plot() for one in tables), summary.clusters().plot()):
        figure.savefig(tmp_path / "figure.svg")
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if text.get_text())


def test_a_model_without_classes_has_one_mean_map(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 1))
    run = explain(GradientXInput(net), torch.randn(9, 1, 4, 6), tmp_path / "run")
    maps = Summary(run).class_maps()
    assert maps.names == ("all samples",)
    assert torch.allclose(maps.means[0], stacked(run).double().mean(0))
    with pytest.raises(InvalidInputError, match="holds no predicted class of its samples"):
        Summary(run).class_maps("predicted")


def test_no_column_hides_another(table):
    """A table may have columns called "index" and "relevance", or two of one name."""
    x, run = table
    summary = Summary(run, features=["index", "relevance", "a", "a", "b"])
    values = numbers(run)
    for column, other, labels in (
        (0, None, ["index", "index (value)", "relevance"]),
        (1, 0, ["index", "relevance (value)", "index (value)", "relevance"]),
        (2, 3, ["index", "a", "a (value)", "relevance"]),
    ):
        frame = summary.dependence(column, other).to_pandas()
        assert list(frame.columns) == labels
        assert np.allclose(frame.iloc[:, 1], x[:, column])
        assert np.allclose(frame["relevance"], values[:, column])
    with pytest.raises(InvalidInputError, match="features must name 5 features, got 1"):
        Summary(run, features=["a"]).class_maps()


def test_parts_by_number_and_classes_by_name(table, tmp_path):
    _, run = table
    assert (
        Summary(run, of_class="yes").columns()
        == Summary(run, of_class=1).columns()
        == Summary(run, of_class="1").columns()
    )
    with pytest.raises(UnknownNameError, match="no class is called 'yess'; did you mean 'yes'"):
        Summary(run, of_class="yess")

    class Two(nn.Module):
        def forward(self, *, a, b):
            return torch.cat([a * a.sum(1, keepdim=True), b], 1)

    x = {"a": torch.rand(6, 2), "b": torch.rand(6, 3)}
    two = explain(GradientXInput(Two()), (x, torch.arange(6) % 5), tmp_path / "run")
    assert Summary(two, part=1).columns() == Summary(two, part="b").columns()
    assert Summary(two, part=0).columns() == Summary(two, part="a").columns()


def test_runs_that_say_nothing(table, texts, tmp_path):
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt().cumsum(1)

    with pytest.warns(UserWarning, match="infinite"):
        run = explain(Gradient(Root()), (torch.zeros(4, 3), torch.zeros(4).long()), tmp_path / "run")
    with (
        pytest.warns(UserWarning, match="4 samples whose relevance"),
        pytest.raises(InvalidInputError, match="none of the 4 samples"),
    ):
        Summary(run)
    for options, kind, sentence in (
        ({"part": "b"}, InvalidInputError, "each sample has one: 'b'"),
        ({"tokens": {1: "a"}}, InvalidTypeError, "tokens must be a function"),
    ):
        with pytest.raises(kind, match=sentence):
            Summary(table[1], **options)
    with pytest.raises(InvalidInputError, match="words need token ids, whole numbers"):
        Summary(table[1], kind="text").words()
