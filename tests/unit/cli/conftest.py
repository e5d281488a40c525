"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.cli import main
from xaikit.cli.demo_digits import make_network


@pytest.fixture(scope="session")
def leave() -> Callable[..., int]:
    """Runs the command line on some words; the exit code."""

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as left:
            main.run(arguments)
        return int(left.value.code or 0)

    return run


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples, weights and a mask in the current folder."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((20, 1, 12, 12), np.float32)
    y = np.arange(20) % 10
    np.savez("d.npz", x=x, y=y)
    mask = np.zeros((12, 12), np.float32)
    mask[:3, :3] = 1
    np.save("m.npy", mask)
    torch.save(make_network().state_dict(), "w.pt")
    return torch.from_numpy(x), torch.from_numpy(y)
