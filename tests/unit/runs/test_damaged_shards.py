"""Damaged shards and manifests are named and repaired."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.runs.small_runs import explain, stacked
from xaikit import Gradient, load_run
from xaikit.core.errors import InvalidInputError
from xaikit.runs import shards


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_shard_is_named_and_repaired(damage, model, data, tmp_path):
    whole = stacked(explain(Gradient(model), data, tmp_path / "run"))
    path = shards.path_of(tmp_path / "run", 2)
    damage(path)
    with pytest.raises(InvalidInputError, match=rf"{path.name} .*repair=True"):
        stacked(load_run(tmp_path / "run"))
    if damage is not flip:  # only a checksum tells a flipped bit, and a resumed run does not read every value
        with pytest.raises(InvalidInputError, match=path.name):
            explain(Gradient(model), data, tmp_path / "run")
    run = explain(Gradient(model), data, tmp_path / "run", repair=True)
    assert torch.equal(stacked(run), whole)


def test_a_damaged_manifest_is_named_and_repaired(model, data, tmp_path):
    whole = stacked(explain(Gradient(model), data, tmp_path / "run"))
    path = tmp_path / "run" / "manifest.json"
    path.write_text("{")
    for what in (load_run, lambda out: explain(Gradient(model), data, out)):
        with pytest.raises(InvalidInputError, match=r"manifest\.json cannot be read .*repair=True"):
            what(tmp_path / "run")
    path.unlink()
    run = explain(Gradient(model), data, tmp_path / "run", repair=True)
    assert torch.equal(stacked(run), whole)


def test_a_shard_of_another_job_is_not_mixed_in(model, data, tmp_path):
    explain(Gradient(model), data, tmp_path / "a")
    explain(Gradient(model), data, tmp_path / "b", seed=1)
    shards.path_of(tmp_path / "a", 1).write_bytes(shards.path_of(tmp_path / "b", 1).read_bytes())
    with pytest.raises(InvalidInputError, match="belongs to another job"):
        explain(Gradient(model), data, tmp_path / "a")
