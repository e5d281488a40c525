"""Checkpoints: an unbroken run and a broken one end on the same weights, bit for bit; a file is whole or not there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from tests.forks import forked
from tests.unit.mitigation.killed_processes import train_form
from xaikit.core.errors import CheckpointError, InvalidInputError
from xaikit.core.files import partial_path
from xaikit.mitigation import CDEP, RRR
from xaikit.testing import ContractNet

ROOT = Path(__file__).parents[3]
SETTINGS = {"lr": 1e-2, "explainer": "smoothgrad:n_iter=2", "batch_size": 4}


def net():
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)
    return nn.Sequential(*layers).double()


def data(n=18):
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.zeros(6, 6, dtype=torch.float64)
    mask[:2, :2] = 1
    return x, torch.arange(n) % 3, mask


def fit(mitigator, model, *args, **kwargs):
    return mitigator.fit(model, *args, progress=False, **kwargs)


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


class Noisy(Dataset):
    """Augments with all three random states; raises once at a given read."""

    def __init__(self, stop_at=None):
        self.rows, self.stop_at, self.reads = data(), stop_at, 0

    def __len__(self):
        return len(self.rows[0])

    def __getitem__(self, i):
        self.reads += 1
        if self.reads == self.stop_at:
            raise Unplugged
        x, y, mask = self.rows
        noise = torch.randn(()) + np.random.randn()
        return x[i] + 0.1 * noise, y[i], mask


class Unplugged(Exception):
    pass


def loader(stop_at=None, **settings):
    return DataLoader(Noisy(stop_at), batch_size=4, shuffle=True, **settings)


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("stop_at", [7, 19, 30])
def test_a_loader_resumes_midway_to_the_same_weights(tmp_path, random_state, stop_at):
    """18 samples in batches of 4, shuffled, augmented, with dropout and noise; broken in epoch 1 or 2."""
    settings = {**SETTINGS, "random_state": random_state, "n_epochs": 3, "checkpoint_every": 1}
    whole, broken, file = net(), net(), tmp_path / "rrr.pt"
    torch.manual_seed(5)
    np.random.seed(5)
    expected = fit(RRR(**settings), whole, loader())
    torch.manual_seed(5)
    np.random.seed(5)
    with pytest.raises(Unplugged):
        fit(RRR(**settings), broken, loader(stop_at), checkpoint=file)
    torch.manual_seed(77)
    np.random.seed(77)
    resumed, rest = net(), loader()
    history = fit(RRR(**settings), resumed, rest, checkpoint=file)
    assert same(whole, resumed)
    assert history.epochs == expected.epochs
    assert rest.dataset.reads == 54 - 4 * ((stop_at - 1) // 18 * 4.5 + (stop_at - 1) % 18 // 4)  # none is read in vain


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_workers_and_generators_of_the_users_resume_too(tmp_path, own):
    def make():
        np.random.seed(5)
        generator = torch.Generator().manual_seed(3) if own else None
        return loader(num_workers=0 if own else 1, generator=generator)

    settings = {**SETTINGS, "random_state": 0, "n_epochs": 3, "checkpoint_every": 1}
    whole, broken, file = net(), net(), tmp_path / "rrr.pt"
    fit(RRR(**settings), whole, make())
    steps = []

    def stop(module, *_):
        steps.extend([1] * module.training)
        if len(steps) == 8:
            raise Unplugged

    hook = broken.register_forward_hook(stop)
    with pytest.raises(Unplugged):
        fit(RRR(**settings), broken, make(), checkpoint=file)
    hook.remove()
    resumed = net()
    fit(RRR(**settings), resumed, make(), checkpoint=file)
    assert same(whole, resumed)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["tensors", "loader"])
def test_kill_9_in_the_middle_of_an_epoch(tmp_path, form):
    """Another process is killed in step 10 of 18, the fourth of its epoch; this one takes the training up."""
    whole = train_form(form, str(tmp_path / "whole.pt"))
    file = str(tmp_path / "broken.pt")
    process = forked(train_form, form, file, 10)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert json.loads(torch.load(file, weights_only=True)["stand"])["step"] == 2
    assert same(whole, train_form(form, file))


def test_more_epochs_go_on_from_a_finished_run(tmp_path):
    whole, part, file = net(), net(), tmp_path / "rrr.pt"
    fit(RRR(n_epochs=4, random_state=0, **SETTINGS), whole, *data())
    fit(RRR(n_epochs=2, random_state=0, **SETTINGS), part, *data(), checkpoint=file)
    keys = {"format", "settings", "stand", "model", "optimizer", "guard", "stopping", "data", "random"}
    assert set(torch.load(file, weights_only=True)) == keys
    resumed = net()
    history = fit(RRR(n_epochs=4, random_state=0, **SETTINGS), resumed, *data(), checkpoint=file)
    assert [e["epoch"] for e in history.epochs] == [1, 2, 3, 4]
    assert same(whole, resumed)


def test_what_a_checkpoint_does_not_fit_is_named(tmp_path):
    file, (x, y, mask) = tmp_path / "rrr.pt", data()
    fit(RRR(n_epochs=1, random_state=0, **SETTINGS), net(), x, y, mask, checkpoint=file)
    again = {"random_state": 0, **SETTINGS}
    with pytest.raises(InvalidInputError, match="other settings \\(lr: '0.01' there, '0.02' here\\)"):
        fit(RRR(**{**again, "lr": 0.02}), net(), x, y, mask, checkpoint=file)
    with pytest.raises(InvalidInputError, match="other settings \\(mitigator: 'RRR' there, 'CDEP' here"):
        fit(CDEP(**{**again, "explainer": "gradient"}), net(), x, y, mask, checkpoint=file)
    with pytest.raises(InvalidInputError, match="of another model: .*, 0.weight, 1.bias"):
        fit(
            RRR(**again),
            ContractNet().double(),
            torch.rand(3, 2, 6, 6).double(),
            torch.arange(3),
            mask,
            checkpoint=file,
        )
    (tmp_path / "other.pt").write_text("text")
    with pytest.raises(InvalidInputError, match="is no checkpoint of xaikit"):
        fit(RRR(**again), net(), x, y, mask, checkpoint=tmp_path / "other.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    model, file = net(), tmp_path / "rrr.pt"
    fit(RRR(n_epochs=1, random_state=0, **SETTINGS), model, *data(), checkpoint=file)
    kept = file.read_bytes()
    # Every byte of the new file goes to a device without room.
    partial_path(file).symlink_to("/dev/full")
    with pytest.raises(
        CheckpointError, match=r"rrr.pt could not be written \(.*No space left.*\); the one from before is"
    ):
        fit(RRR(n_epochs=2, random_state=0, **SETTINGS), model, *data(), checkpoint=file)
    assert file.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["rrr.pt"]
    resumed, whole = net(), net()
    fit(RRR(n_epochs=2, random_state=0, **SETTINGS), resumed, *data(), checkpoint=file)
    fit(RRR(n_epochs=2, random_state=0, **SETTINGS), whole, *data())
    assert same(whole, resumed)


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which a shell takes away from what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_the_state(tmp_path):
    settings = {"n_epochs": 3, "random_state": 0, **SETTINGS}
    whole, model, file = net(), net(), tmp_path / "rrr.pt"
    expected = fit(RRR(**settings), whole, *data())
    steps = []

    def press(module, *_):
        steps.extend([1] * module.training)
        if module.training and len(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    hook = model.register_forward_hook(press)
    before = signal.getsignal(signal.SIGINT)
    history = fit(RRR(**settings), model, *data(), checkpoint=file)
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is before
    assert history.stopped == "interrupted"
    assert len(steps) == 7  # the step is finished, and no other begun
    assert repr(history).startswith("History(1 epochs, interrupted")
    resumed = net()
    history = fit(RRR(**settings), resumed, *data(), checkpoint=file)
    assert same(whole, resumed)
    assert history.epochs == expected.epochs


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_stops_at_once():
    model = net()

    def press(module, *_):
        if module.training:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    model.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        fit(RRR(**SETTINGS), model, *data())


def test_a_loader_may_be_anything_that_can_be_iterated(tmp_path):
    """A list of batches resumes like a loader, and its masks may be for all samples."""
    x, y, mask = data()
    batches = [(x[i : i + 4], y[i : i + 4], mask) for i in range(0, 18, 4)]
    settings = {**SETTINGS, "random_state": 0, "checkpoint_every": 1}
    whole, resumed, file = net(), net(), tmp_path / "rrr.pt"
    fit(RRR(n_epochs=2, **settings), whole, batches)

    class Cut:
        def __iter__(self):
            yield from batches[:3]
            raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        fit(RRR(n_epochs=2, **settings), net(), Cut(), checkpoint=file)
    fit(RRR(n_epochs=2, **settings), resumed, batches, checkpoint=file)
    assert same(whole, resumed)


def test_batches_are_dropped_as_soon_as_they_are_used():
    """The data stream through: no more than the present batch and the next are alive."""
    import weakref

    alive, most = weakref.WeakSet(), []

    class Stream:
        def __iter__(self):
            for _ in range(8):
                x = torch.rand(4, 1, 6, 6, dtype=torch.float64)
                alive.add(x)
                most.append(len(alive))
                yield x, torch.arange(4) % 3, data()[2]

    fit(RRR(n_epochs=2, random_state=0), net(), Stream())
    assert max(most) <= 2


def test_a_shuffled_loader_trains_as_a_plain_loop_over_it_does():
    """Weight 0, one epoch: the loop's sampler changes neither the order nor what is drawn."""
    x, y, mask = data()
    make = lambda: DataLoader(TensorDataset(x, y, mask.expand(18, 6, 6)), batch_size=4, shuffle=True)
    ours, plain = net(), net()
    fit(RRR(lambda_rrr=0.0, lr=1e-2, n_epochs=1, random_state=0), ours, make())
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    torch.manual_seed(1)
    for a, b, _ in make():
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(a), b).backward()
        optimizer.step()
    assert same(ours, plain)


def test_other_data_are_refused_and_named(tmp_path):
    file, (x, y, mask) = tmp_path / "rrr.pt", data()
    mitigator = RRR(n_epochs=1, random_state=0, **SETTINGS)
    fit(mitigator, net(), x, y, mask, checkpoint=file)
    further = mitigator.set_kwargs(n_epochs=2)
    for changed, names in (
        ((x + 1, y, mask), "inputs"),
        ((x, (y + 1) % 3, mask), "labels"),
        ((x, y, 1 - mask), "masks"),
        ((x[:12], y[:12], mask), "samples, inputs, labels"),
    ):
        with pytest.raises(InvalidInputError, match=rf"other data \({names} differ\); name another file"):
            fit(further, net(), *changed, checkpoint=file)
    assert len(fit(further, net(), x.numpy(), y.tolist(), mask.numpy(), checkpoint=file).epochs) == 2
    shorter = DataLoader(TensorDataset(x[:12], y[:12], mask.expand(12, 6, 6)), batch_size=4)
    with pytest.raises(InvalidInputError, match=r"other data \(samples differ\)"):
        fit(further, net(), shorter, checkpoint=file)


def batches(x, y, mask, form):
    if form == "batches":
        return [(x[:12].numpy(), y[:12].tolist(), mask), (x[12:].numpy(), y[12:].tolist(), mask)]
    whole = TensorDataset(x, y, mask.expand(len(x), *mask.shape))
    return DataLoader(whole if form == "tensors" else Subset(whole, range(8)), batch_size=4)


@pytest.mark.parametrize("form", ["tensors", "subset", "batches"])
def test_other_data_in_a_loader_or_a_list_are_refused(tmp_path, form):
    file, (x, y, mask) = tmp_path / "rrr.pt", data()
    mitigator = RRR(n_epochs=1, random_state=0, **SETTINGS)
    fit(mitigator, net(), batches(x, y, mask, form), checkpoint=file)
    further = mitigator.set_kwargs(n_epochs=2)
    for changed in ((x + 1, y, mask), (x, (y + 1) % 3, mask), (x, y, 1 - mask)):
        with pytest.raises(InvalidInputError, match=r"other data \(tensors differ\); name another file"):
            fit(further, net(), batches(*changed, form), checkpoint=file)
    assert len(fit(further, net(), batches(x.clone(), y, mask, form), checkpoint=file).epochs) == 2


class Samples(Dataset):
    """Single samples of attributes: tensors or arrays, public, private or in a dict, a frame, names, paths."""

    def __init__(self, form, shift=0.0):
        x, y, mask = data()
        x = x + shift
        self.reads, self.classes, self.samples_of = 0, ["a", "b", "c"], lambda i: (x[i], int(y[i]), mask)
        self.cache = []  # fills while it is read
        files = [(f"{float(row.sum()):.3f}.png", int(label)) for row, label in zip(x, y, strict=True)]
        if form == "array":
            self.x = x.numpy()
        elif form == "dict":
            self.parts = {"image": x}
        elif form == "frame":
            self.table = pd.DataFrame(files, columns=["file", "label"])
        elif form == "list":
            self.samples = files
        elif form == "paths":
            self.paths = [Path(name) for name, _ in files]
        elif form == "private":
            self._x = x
        elif form == "tensor":
            self.x = x

    def __len__(self):
        return 18

    def __getitem__(self, i):
        self.reads += 1
        self.cache.append(self.samples_of(i))
        return self.samples_of(i)


@pytest.mark.parametrize("form", ["array", "dict", "frame", "list", "paths", "private", "tensor"])
def test_other_single_samples_are_refused(tmp_path, form):
    file, mitigator = tmp_path / "rrr.pt", RRR(n_epochs=1, random_state=0, **SETTINGS)
    fit(mitigator, net(), Samples(form), checkpoint=file)
    further = mitigator.set_kwargs(n_epochs=2)
    with pytest.raises(InvalidInputError, match=r"other data \(content differ\); name another file"):
        fit(further, net(), Samples(form, shift=1.0), checkpoint=file)
    assert len(fit(further, net(), Samples(form), checkpoint=file).epochs) == 2
