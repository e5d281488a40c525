"""Training through a Lightning Fabric: two processes give what one gives, in every form of the penalty."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.forks import forked, warm
from tests.unit.mitigation import killed_processes
from xaikit.core import MITIGATORS
from xaikit.core.batch import read_batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import RRR, Concept
from xaikit.mitigation.fabric import BatchFraction, _counts
from xaikit.testing import ContractNet

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("two_processes.py")
lightning = pytest.importorskip("lightning_fabric")


def environment():
    """For other processes."""
    own = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}
    return {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def here():
    """The script's trainings, in this process."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The results of the same trainings in two real processes."""
    folder = tmp_path_factory.mktemp("ddp")
    call = [sys.executable, str(SCRIPT), str(folder)]
    with warm():  # the second one, which Lightning starts, too
        done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [torch.load(folder / f"rank{rank}.out", weights_only=False) for rank in (0, 1)]
    return *results, done.stderr, folder


def error(one, other):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.nightly
def test_two_processes_give_the_weights_of_one(here, there):
    for name in here["CASES"]:
        model, history = here["train"](name)
        for rank in (0, 1):
            weights, epochs = there[rank][0][name]
            assert error(weights, model.state_dict()) < 1e-10, name
            for ours, theirs in zip(history.epochs, epochs, strict=True):
                assert theirs == pytest.approx(ours, rel=1e-6), name  # a Fabric reports losses in float32
        start = here["net"]().state_dict()
        assert error(model.state_dict(), start) > 1e-4


@pytest.mark.nightly
def test_a_sample_that_is_not_finite_stops_neither_process(here, there):
    model = here["net"]()
    with pytest.warns(UserWarning, match="for sample row 2 of the batch"):
        RRR(**here["BASE"]).fit(model, here["nan_batches"](), progress=False)
    for rank in (0, 1):
        assert error(there[rank][0]["nan"][0], model.state_dict()) < 1e-10
        assert [epoch["skipped"] for epoch in there[rank][0]["nan"][1]] == [1, 1]


@pytest.mark.nightly
def test_errors_reach_every_process(there):
    assert there[1][1] == "InvalidInputError: labels must lie in 0..2 for a model with 3 outputs, got 9"
    assert there[0][1] == "TrainingError: another process stopped with an error; it says which"
    assert "smaller lr (now 1e+300)" in there[0][2]
    for rank in (0, 1):  # each names the samples of its own part
        assert there[rank][2].endswith(there[0][2].partition(", after")[2])


@pytest.mark.nightly
def test_the_first_process_writes_and_shows(here, there):
    model = here["net"]()
    mitigator = RRR(**here["BASE"])
    history = mitigator.fit(model, *here["data"](), progress=False, validation=here["data"]()[:2], groups=[0] * 11)
    for rank in (0, 1):
        weights, epochs = there[rank][0]["resumed"]
        assert error(weights, model.state_dict()) < 1e-10
        assert epochs[1] == pytest.approx(history.epochs[1], rel=1e-6)
    assert there[2].count("\n  0%|") == 2  # two trainings asked for a bar
    assert (there[3] / "rrr.pt").exists()


@pytest.mark.nightly
def test_loaders_that_are_each_a_processes_own_are_left_alone(here, there):
    """A DistributedSampler deals samples out in turn, so a step of both takes two rows of each."""
    model, (x, y, masks) = here["net"](), here["data"]()
    steps = [[0, 2, 1, 3], [4, 6, 5, 7], [8, 9]]
    mitigator = RRR(**{**here["BASE"], "n_epochs": 1})
    mitigator.fit(model, [(x[r], y[r], masks[r]) for r in steps], progress=False)
    for rank in (0, 1):
        assert error(there[rank][0]["own loaders"][0], model.state_dict()) < 1e-10


def two_processes(file, last):
    """How both end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [forked(killed_processes.train_as, rank, port, str(file), last) for rank in (0, 1)]
    for process in both:
        process.join(240)
    return [process.exitcode for process in both]


@pytest.mark.nightly
def test_two_processes_that_are_killed_resume_in_the_middle_of_an_epoch(tmp_path):
    """Killed in step 10 of 18, the fourth of its epoch; two other processes take the training up."""
    file, whole, history = tmp_path / "rrr.pt", *killed_processes.train(None)
    assert two_processes(file, 10) == [-signal.SIGKILL] * 2
    assert not list(tmp_path.glob("*.rank*"))
    stand = json.loads(torch.load(file, weights_only=True)["stand"])
    assert (len(stand["epochs"]), stand["step"]) == (1, 2)
    assert two_processes(file, None) == [0, 0]
    for rank in (0, 1):
        weights, epochs = torch.load(f"{file}.rank{rank}", weights_only=False)
        assert error(weights, whole.state_dict()) < 1e-10
        for ours, theirs in zip(history.epochs, epochs, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-6)


SEPARABLE = {
    "attribution_prior": {"explainer": "gradient"},
    "rr_clarc": {"target": "label"},  # a random score is drawn by the place in a part
    "hint": {"target": "label"},
    "counterexamples": {"fill": lambda x, mask, generator: x.flip(-1)},  # noqa: ARG005
}
WHOLE_BATCHES = ("group_dro", "group_balanced", "dfr")


@pytest.mark.parametrize("name", WHOLE_BATCHES)
def test_weights_of_groups_are_of_whole_batches(name):
    with pytest.raises(InvalidInputError, match="weighs the samples of whole batches, so it trains in one process"):
        MITIGATORS.create(name).penalty_share(BatchFraction(0.5, 0.5, 0.5))


# A part of a batch has another range than the whole, so pgd_ex changes its samples otherwise.
@pytest.mark.parametrize("name", [name for name in MITIGATORS if name not in (*WHOLE_BATCHES, "pgd_ex")])
def test_parts_of_a_batch_add_up(name):
    """Every mitigator's penalty of a batch is the shared sum of that of its parts; so is the gradient."""
    torch.manual_seed(0)
    cls, settings = MITIGATORS.get(name), dict(SEPARABLE.get(name, {}))
    if "concept" in cls.SETTINGS:
        unit = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5, 1.0]).double(), dim=0)
        settings["concept"] = Concept("second", unit, torch.zeros(4).double(), torch.ones(4).double())
    mitigator, model = cls(**settings), ContractNet().double().eval()
    x, y, masks = torch.randn(5, 2, 6, 6).double(), torch.tensor([0, 2, 1, 1, 0]), torch.rand(5, 6, 6).double()
    masks[1] = 0
    batch = read_batch((x, y, masks))
    whole = mitigator.loss(model, batch, seed=1)
    parts = [batch.take(rows) for rows in ([0, 1, 2], [3, 4])]
    counts = [_counts(part) for part in parts]
    sums = [sum(column) for column in zip(*counts, strict=True)]
    shares = [BatchFraction(*(a / b for a, b in zip(own, sums, strict=True))) for own in counts]
    losses = [mitigator.loss(model, part, seed=1) for part in parts]
    task = sum(share.samples * loss.task for share, loss in zip(shares, losses, strict=True))
    penalty = sum(mitigator.penalty_share(s) * loss.penalty for s, loss in zip(shares, losses, strict=True))
    assert torch.allclose(task, whole.task, rtol=1e-12)
    assert torch.allclose(penalty, whole.penalty, rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore")
def test_one_process_through_a_fabric_is_plain_training(here):
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="64-true")
    for name in ("sum", "plain", "loader"):
        plain, _ = here["train"](name)
        model, history = here["train"](name, fabric)
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
        assert not any(hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))
    assert history.stopped == "done"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_processes_that_are_spawned_send_the_weights_back():
    x, y, mask = torch.rand(20, 4).double(), torch.arange(20) % 2, torch.tensor([1.0, 0, 0, 0]).double()
    ends = []
    for fabric in (None, lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn", precision="64-true")):
        torch.manual_seed(0)
        model = nn.Linear(4, 2).double()
        mitigator = RRR(n_epochs=2, batch_size=6, lr=1e-2, random_state=0)
        history = mitigator.fit(model, x, y, mask, fabric=fabric, progress=False)
        ends.append((model.state_dict(), history["task"]))
    assert error(ends[1][0], ends[0][0]) < 1e-10
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_bfloat16_trains():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.rand(32, 6)
    y = (x[:, 0] > 0.5).long()
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    history = RRR(lr=1e-2, n_epochs=15, random_state=0).fit(
        model, x, y, torch.tensor([0, 0, 0, 0, 0, 1.0]), fabric=fabric, progress=False
    )
    assert history["task"][-1] < history["task"][0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_what_is_no_fabric_is_told():
    model, x, y, mask = nn.Linear(3, 2), torch.rand(4, 3), torch.arange(4) % 2, torch.tensor([1.0, 0, 0])
    with pytest.raises(InvalidTypeError, match=r"fabric must be a lightning_fabric.Fabric object \(pip install"):
        RRR().fit(model, x, y, mask, fabric="ddp")
    with pytest.raises(InvalidTypeError, match="fabric must be a lightning_fabric.Fabric object"):
        RRR().fit(model, x, y, mask, fabric=lightning.Fabric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
    with pytest.raises(InvalidInputError, match="device='cpu' and fabric= contradict each other"):
        RRR(device="cpu").fit(model, x, y, mask, fabric=fabric)
    with pytest.raises(InvalidInputError, match="fit takes the bare model"):
        RRR().fit(fabric.setup(model), x, y, mask, fabric=fabric)
