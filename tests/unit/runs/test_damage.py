"""Damaged files of a run name themselves, and a run never goes on with other samples than it began with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from xaikit import Gradient, explain_dataset, load_run
from xaikit.core.errors import InvalidInputError
from xaikit.runs import Run

N = 24


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def explain(model: nn.Module, data: object, out: Path) -> Run:
    return explain_dataset(
        Gradient(model), data, out=out, progress=False, shard_size=8, batch_size=4, keep_inputs=True, targets="label"
    )


class Rows(Dataset):
    """Rows that stop at one of them, as after Ctrl-C."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, until: int = N) -> None:
        self.x, self.y, self.until = x, y, until

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if i >= self.until:
            raise KeyboardInterrupt
        return self.x[i], int(self.y[i])


def content(run: Run) -> list[object]:
    return [(s.index, s.name, s.label, s.target, s.score, s.values.tolist(), s.inputs.tolist()) for s in run]


@pytest.mark.parametrize("file", ["shards/00000001.safetensors", "manifest.json"])
def test_a_damaged_file_names_itself_or_holds_what_was_written(file: str, model: nn.Module, tmp_path: Path) -> None:
    run = explain(model, (torch.rand(N, 4), torch.zeros(N, dtype=torch.long)), tmp_path / "run")
    truth = content(run)
    path = tmp_path / "run" / file
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refusals = []
    for trial in range(150):
        damaged = bytearray(whole[: int(random.integers(len(whole)))] if trial % 3 == 0 else whole)
        for at in random.integers(0, max(1, len(damaged)), int(random.integers(1, 20))) if damaged else ():
            damaged[at] = int(random.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            damaged_run = load_run(tmp_path / "run")
            rows, samples = list(damaged_run.rows()), content(damaged_run)
        except InvalidInputError as err:
            refusals.append(str(err))
        else:  # a manifest's versions or weights may read otherwise; what was explained may not
            assert file == "manifest.json"
            assert samples == truth
            assert [row["label"] for row in rows] == [s[2] for s in truth]
    assert len(refusals) > 100
    assert all(path.name in text for text in refusals)


@pytest.mark.parametrize(
    "change",
    [
        {"job": None},
        {"job": {}},
        {"versions": None},
        {"versions": "x"},
        {"format": 9},
        {"display_names": {"classes": [1, 2]}},
    ],
)
def test_a_foreign_manifest_is_refused(change: dict[str, object], model: nn.Module, tmp_path: Path) -> None:
    explain(model, (torch.rand(N, 4), torch.zeros(N, dtype=torch.long)), tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidInputError, match=r"manifest\.json"):
        load_run(tmp_path / "run")


def test_a_number_of_samples_that_no_memory_holds_takes_none(model: nn.Module, tmp_path: Path) -> None:
    explain(model, (torch.rand(N, 4), torch.zeros(N, dtype=torch.long)), tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "job": {**manifest["job"], "samples": 10**12}}))
    assert load_run(tmp_path / "run").n_missing == 10**12 - N
    assert "missing" in repr(load_run(tmp_path / "run"))
    path.write_text(json.dumps({**manifest, "job": {**manifest["job"], "samples": 3}}))
    with pytest.raises(InvalidInputError, match="a run of 3 samples cannot have"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("other", ["inputs", "labels", "order"])
def test_a_run_does_not_go_on_with_other_samples(other: str, model: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x, y = torch.rand(N, 4), torch.randint(3, (N,))
    with pytest.raises(KeyboardInterrupt):
        explain(model, Rows(x, y, 20), tmp_path / "run")
    order = torch.cat([torch.tensor([0]), torch.arange(N - 1, 0, -1)])
    changed = {
        "inputs": (torch.cat([x[:1], torch.rand(N - 1, 4)]), y),
        "labels": (x, torch.cat([y[:1], (y[1:] + 1) % 3])),
        "order": (x[order], y[order]),
    }
    with pytest.raises(InvalidInputError, match="was begun with other data: sample 8"):
        explain(model, Rows(*changed[other]), tmp_path / "run")
    run = explain(model, Rows(x, y), tmp_path / "run")
    assert torch.equal(torch.stack([s.inputs for s in run]), x)


def test_the_old_name_says_its_new_one(model: nn.Module, tmp_path: Path) -> None:
    run = explain(model, (torch.rand(N, 4), torch.zeros(N, dtype=torch.long)), tmp_path / "run")
    with pytest.raises(AttributeError, match="display_names"):
        run.words  # noqa: B018
    assert not hasattr(run, "anything")
