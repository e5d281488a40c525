from __future__ import annotations

import errno
import json
import os
import signal
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.forks import forked
from tests.unit.runs.killed_runs import explain_slowly
from tests.unit.runs.small_runs import N, explain, stacked
from xaikit import Gradient, IntegratedGradients, SmoothGrad, VarGrad, load_run
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.runs import UnreadableSampleError


def test_a_run_holds_what_the_explainer_gives(model, data, tmp_path):
    explainer = IntegratedGradients(model, n_steps=10)
    run = explain(explainer, data, tmp_path / "run")
    predicted = model(data[0]).argmax(1)
    whole = explainer.explain(data[0], predicted)
    assert torch.allclose(stacked(run), whole.values, atol=1e-6)
    assert run.indices == list(range(N))
    assert (run.missing, run.skipped) == ([], {})
    for i in (0, 7, -1):
        sample = run[i]
        at = i % N
        assert (sample.index, sample.target, sample.label) == (at, int(predicted[at]), int(data[1][at]))
        assert sample.score == pytest.approx(float(whole.scores[at]), abs=1e-5)
        assert sample.gap == pytest.approx(float(whole.gap[at]), abs=1e-5)
    assert [len(shard) for shard in run.shards()] == [5, 5, 5, 5, 3]
    assert "23 samples, integrated_gradients" in repr(run)
    with pytest.raises(IndexError, match="23 samples"):
        run[N]


def test_confidence_is_a_probability_also_where_the_model_gives_them(model, data, tmp_path):
    expected = model(data[0]).softmax(1).amax(1).tolist()
    with_softmax = torch.nn.Sequential(model, torch.nn.Softmax(1))
    for name, net in (("logits", model), ("probabilities", with_softmax)):
        run = explain(Gradient(net), data, tmp_path / name)
        assert [row["confidence"] for row in run.rows()] == pytest.approx(expected, abs=1e-6)
        assert run[3].confidence == pytest.approx(expected[3], abs=1e-6)
    single = torch.nn.Sequential(model, torch.nn.Linear(model(data[0]).shape[1], 1))
    run = explain(Gradient(single), data[0], tmp_path / "single")
    assert {row["confidence"] for row in run.rows()} == {None}


@pytest.mark.parametrize("form", ["dataset", "loader", "tensor", "workers"])
def test_every_form_of_data_gives_the_same(form, model, data, tmp_path):
    forms = {
        "dataset": TensorDataset(*data),
        "loader": DataLoader(TensorDataset(*data), batch_size=4),
        "tensor": data[0],
        "workers": DataLoader(TensorDataset(*data), batch_size=4, num_workers=1),
    }
    run = explain(Gradient(model), forms[form], tmp_path / "run", batch_size=None)
    assert torch.allclose(stacked(run), Gradient(model).attribute(data[0], model(data[0]).argmax(1)), atol=1e-6)


class NumpyRows(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x.double().numpy(), y.numpy()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def test_arrays_lists_frames_and_mappings_are_read(data, tmp_path):
    pandas = pytest.importorskip("pandas")
    x, y = data[0].flatten(1), data[1]
    net = nn.Linear(12, 3)
    expected = Gradient(net).attribute(x, y)
    forms = {
        "numpy": (x.double().numpy(), y.numpy().astype("int16")),
        "lists": (x.tolist(), y.tolist()),
        "frame": (pandas.DataFrame(x.numpy()), pandas.Series(y.numpy())),
        "dataset": NumpyRows(x, y),
        "loader": DataLoader(NumpyRows(x, y), batch_size=4),
    }
    for name, form in forms.items():
        run = explain(Gradient(net), form, tmp_path / name, targets="label")
        assert torch.allclose(stacked(run), expected, atol=1e-6), name
        assert [sample.label for sample in run] == y.tolist()
    for name, form in {"array": x.numpy(), "list": x.tolist(), "frame alone": pandas.DataFrame(x.numpy())}.items():
        assert torch.allclose(
            stacked(explain(Gradient(net), form, tmp_path / name, targets=1)), net.weight[1].expand(N, 12)
        )


def test_targets_dtype_and_inputs(model, data, tmp_path):
    x, y = data
    run = explain(Gradient(model), data, tmp_path / "a", targets="label", dtype="bfloat16", keep_inputs=True)
    assert [s.target for s in run] == y.tolist()
    expected = Gradient(model).attribute(x, y)
    assert stacked(run).dtype == torch.bfloat16
    assert torch.equal(stacked(run), expected.bfloat16())
    assert torch.equal(torch.stack([s.inputs for s in run]), x)
    assert [s.target for s in explain(Gradient(model), data, tmp_path / "b", targets=2)] == [2] * N


def test_a_single_output_has_no_classes(data, tmp_path):
    torch.manual_seed(0)
    run = explain(Gradient(nn.Sequential(nn.Flatten(), nn.Linear(12, 1))), data[0], tmp_path / "run")
    assert run[0].target is None
    assert run[0].predicted is None
    assert run[0].label is None


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left, right):
        return self.a(left) * self.b(right)


def test_dicts_and_names(tmp_path):
    torch.manual_seed(0)
    left, right = torch.randn(N, 4), torch.randn(N, 2)

    class Rows:
        names = [f"row{i}" for i in range(N)]

        def __len__(self):
            return N

        def __getitem__(self, i):
            return {"left": left[i], "right": right[i]}

    net = TwoInputs()
    run = explain(Gradient(net), Rows(), tmp_path / "run", keep_inputs=True)
    expected = Gradient(net).attribute({"left": left, "right": right}, net(left, right).argmax(1))
    for key in ("left", "right"):
        assert torch.allclose(torch.stack([s.values[key] for s in run]), expected[key], atol=1e-6)
    assert run[4].name == "row4"
    assert torch.equal(run[6].inputs["right"], right[6])


class Fails(Exception):
    pass


def counting(model, limit=None):
    """Counts explained samples, and fails after some batches."""
    seen = []

    class Counted(Gradient):
        NAME = "counted"

        def _attribute(self, call):
            if limit is not None and len(seen) >= limit:
                raise Fails
            seen.append(call.n)
            return super()._attribute(call)

    return Counted(model), seen


def test_a_run_goes_on_where_it_stopped(model, data, tmp_path):
    whole = explain(counting(model)[0], data, tmp_path / "whole")
    failing, _ = counting(model, limit=7)  # two shards of three batches, and a part of the third
    with pytest.raises(Fails):
        explain(failing, data, tmp_path / "run")
    assert load_run(tmp_path / "run").missing == list(range(10, N))
    assert "13 missing" in repr(load_run(tmp_path / "run"))
    again, seen = counting(model)
    run = explain(again, data, tmp_path / "run")
    assert sum(seen) == N - 10
    assert torch.equal(stacked(run), stacked(whole))
    done, seen = counting(model)
    explain(done, data, tmp_path / "run")
    assert seen == []


def test_two_processes_share_a_run(model, data, tmp_path, monkeypatch):
    explainer = SmoothGrad(model, n_iter=4)
    alone = explain(explainer, data, tmp_path / "alone")
    explain(explainer, data, tmp_path / "shared", rank=1, world_size=2)
    assert load_run(tmp_path / "shared").indices == [*range(5, 10), *range(15, 20)]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = explain(explainer, data, tmp_path / "shared")
    assert run.missing == []
    assert torch.equal(stacked(run), stacked(alone))
    with pytest.raises(InvalidInputError, match="rank must lie in 0..1 for world_size=2, got 2"):
        explain(explainer, data, tmp_path / "shared", rank=2)


@pytest.mark.nightly
def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path):
    out = tmp_path / "run"
    for wait in (0.05, 0.15, 0.2, 0.3):
        begun = tmp_path / f"begun{wait}"
        process = forked(explain_slowly, out, begun)
        while not begun.exists():
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it had not come to its end
    process = forked(explain_slowly, out, tmp_path / "begun", True)
    process.join()
    assert process.exitcode == 0
    run = load_run(out)
    assert run.indices == list(range(60))
    assert run.missing == []
    assert [s.index for s in run] == list(range(60))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"explainer": VarGrad}, 'explainer.name: "gradient" there, "vargrad" here'),
        ({"seed": 3}, "seed: 0 there, 3 here"),
        ({"targets": 1}, 'targets: "predicted" there, 1 here'),
        ({"shard_size": 4}, "shard size: 5 there, 4 here"),
        ({"weights": True}, "weights: "),
        ({"n": 20}, "samples: 23 there, 20 here"),
        ({"shift": True}, "first sample: "),
    ],
)
def test_another_job_is_refused_with_the_difference(change, said, model, data, tmp_path):
    explain(Gradient(model), data, tmp_path / "run")
    kind = change.pop("explainer", Gradient)
    if change.pop("weights", False):
        with torch.no_grad():
            model[1].weight += 1
    n, shift = change.pop("n", N), change.pop("shift", False)
    with pytest.raises(InvalidInputError, match="holds another job") as caught:
        explain(kind(model), (data[0][:n] + shift, data[1][:n]), tmp_path / "run", **change)
    assert said in str(caught.value)


def test_other_versions_are_told(model, data, tmp_path):
    explain(Gradient(model), data, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"torch 1\.0 -> "):
        explain(Gradient(model), data, tmp_path / "run")


def test_a_folder_of_something_else_is_refused(model, data, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    for repair in (False, True):
        with pytest.raises(InvalidInputError, match="is not empty and holds no run"):
            explain(Gradient(model), data, tmp_path, repair=repair)
    with pytest.raises(InvalidInputError, match="is a file"):
        explain(Gradient(model), data, tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InvalidInputError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(InvalidInputError, match="there is no folder"):
        load_run(tmp_path / "nowhere")


def test_what_a_process_left_that_was_killed_while_it_began_is_no_hindrance(model, data, tmp_path):
    (tmp_path / "run" / "shards").mkdir(parents=True)
    (tmp_path / "run" / "manifest.json.123.partial").write_text("{")
    assert explain(Gradient(model), data, tmp_path / "run").missing == []
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(InvalidInputError, match="holds no run of xaikit"):
        explain(Gradient(model), data, tmp_path / "run")


def test_a_full_disk_keeps_what_was_written(model, data, tmp_path, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        explain(Gradient(model), data, tmp_path / "run")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "run" / "shards").iterdir()) == [
        "00000000.safetensors",
        "00000001.safetensors",
    ]
    assert explain(Gradient(model), data, tmp_path / "run").missing == []


class SomeUnreadable:
    def __init__(self, x, bad):
        self.x, self.bad = x, bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i in self.bad:
            raise UnreadableSampleError(f"sample{i}.png is no image")
        return self.x[i]


def test_unreadable_samples_are_noted_and_left_out(model, data, tmp_path):
    bad = {0, 5, 6, 7, 8, 9, 22}  # the second shard has none that can be read
    run = explain(Gradient(model), SomeUnreadable(data[0], bad), tmp_path / "run")
    assert run.indices == [i for i in range(N) if i not in bad]
    assert run.skipped == {i: f"sample{i}.png is no image" for i in bad}
    assert run.missing == []
    assert [run[k].index for k in range(len(run))] == run.indices
    with pytest.raises(InvalidInputError, match="none of the samples can be read"):
        explain(Gradient(model), SomeUnreadable(data[0], set(range(N))), tmp_path / "other")


def test_what_cannot_be_right_is_refused(model, data, tmp_path):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(data[0])

    x, y = data
    e = Gradient(model)
    out = tmp_path / "run"
    mixed = [torch.rand(3, 2, 2), torch.rand(3, 2, 3)]
    for error, said, call in [
        (UnboundError, "bind", lambda: explain(Gradient(), data, out)),
        (InvalidTypeError, "takes an Explainer", lambda: explain("gradient", data, out)),
        (InvalidInputError, "dtype must be one of", lambda: explain(e, data, out, dtype="int8")),
        (InvalidInputError, "targets must be", lambda: explain(e, data, out, targets="best")),
        (InvalidInputError, "needs data of pairs", lambda: explain(e, x, out, targets="label")),
        (InvalidInputError, "without shuffle", lambda: explain(e, DataLoader(TensorDataset(x), shuffle=True), out)),
        (
            InvalidInputError,
            "sampler of its own",
            lambda: explain(e, DataLoader(TensorDataset(x), batch_sampler=[[1, 0]]), out),
        ),
        (InvalidTypeError, "map-style", lambda: explain(e, Endless(), out)),
        (InvalidTypeError, "data must be a Dataset", lambda: explain(e, 3, out)),
        (InvalidInputError, r"labels must have shape \(23,\)", lambda: explain(e, (x, y[:3]), out)),
        (InvalidInputError, "no sample", lambda: explain(e, x[:0], out)),
        (InvalidInputError, "bring them to one size", lambda: explain(e, TensorList(mixed), out)),
        (InvalidInputError, "shard_size must be >= 1", lambda: explain(e, data, out, shard_size=0)),
    ]:
        with pytest.raises(error, match=said):
            call()


class TensorList:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]
