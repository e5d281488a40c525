"""evaluate and mitigate keep one batch in memory and not all data; the test counts live images while they run."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from xaikit.cli import main, stream
from xaikit.cli.masks import Masks
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import decoys
from xaikit.mitigation.sources import InMemorySource, ProcessRank

NETWORK = "xaikit.cli.demo_digits:make_network"
SIDE, PIXELS = 12, 144
SIZES = 340, 680  # of a fifth, on which mitigate measures, two batches are full
PEAKS: list[int] = []


class Watched(Dataset):
    """Images that are made when they are read; each reading counts the images that are alive in tensors."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(index)), index % 10


def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = (t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape[-2:] == (SIDE, SIDE))
    PEAKS.append(sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values()))
    return torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows])


few, many = (DataLoader(Watched(n), batch_size=8, collate_fn=collate) for n in SIZES)


def peak(*arguments: str) -> float:
    """Most images alive at once."""
    PEAKS.clear()
    gc.collect()
    gc.freeze()  # what is alive now is looked at no more: gc.get_objects() is long otherwise
    with pytest.raises(SystemExit) as left:
        main.run([*arguments, "--model", NETWORK, "--quiet"])
    assert not left.value.code
    return max(PEAKS) / (4 * PIXELS)


@pytest.fixture(autouse=True)
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = f"import sys\nfew, many = (getattr(sys.modules[{__name__!r}], n) for n in ('few', 'many'))"
    Path("watched.py").write_text(code)
    for n in SIZES:
        mask = np.zeros((n, SIDE, SIDE), np.float32)
        mask[:, :3, :3] = 1
        np.save(f"m{n}.npy", mask)


CALLS = {
    "evaluate": ("--explainer", "gradient", "--metric", "relevance_mass", "--batch-size", "8"),
    "mitigate": ("--mitigator", "rrr:n_epochs=1"),
}


@pytest.mark.parametrize("verb", CALLS)
def test_memory_does_not_grow_with_the_data(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        decoys, "DONOR_SAMPLES", 10
    )  # samples that `assess` keeps to lend their regions: a fixed number
    one, more = (
        peak(verb, "--data", f"watched:{name}", "--mask", f"m{n}.npy", *CALLS[verb])
        for name, n in zip(("few", "many"), SIZES, strict=True)
    )
    # Two batches of 8 may wait for the garbage collector; all data would be 340 images and 680.
    assert more <= 1.1 * one + 16 < 300, (one, more)


def test_batches_for_training_come_in_the_order_of_data_in_memory() -> None:
    x, y = torch.rand(11, 3), torch.arange(11)
    ours = stream.Stream((x, y)).only(torch.tensor([1, 2, 3, 4, 6, 7, 8, 9, 10])).training(4)
    rows = torch.tensor([1, 2, 3, 4, 6, 7, 8, 9, 10])
    theirs = InMemorySource(Batch(x[rows], y[rows], None), 4)
    for seed in (0, 1):
        torch.manual_seed(seed)
        found = [batch[1].tolist() for batch in ours]
        after = torch.rand(())
        torch.manual_seed(seed)
        assert [step.batch[1].tolist() for step in theirs.epoch(1, 0, ProcessRank())] == found
        assert torch.rand(()) == after  # the loader draws nothing else
    assert len(ours) == theirs.steps


def test_masks_of_a_folder_are_read_one_by_one(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 2, 2)
    (tmp_path / "each").mkdir()
    for i in range(4):
        np.save(tmp_path / "each" / f"{i}.npy", np.full((2, 2), i / 4, np.float32))
    found = Masks(tmp_path / "each").of(torch.tensor([3, 1]), images, 4)
    assert found.amax((1, 2)).tolist() == [0.75, 0.25]
    np.save(tmp_path / "each" / "2.npy", np.zeros((3, 3), np.float32))
    assert len(Masks(tmp_path / "each").of(torch.tensor([3, 1]), images, 4)) == 2  # the odd one was not asked for
    np.save(tmp_path / "each" / "2.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(InvalidInputError, match=r"has 3x4 \(height x width\), the model's input 2x2; a mask must have"):
        Masks(tmp_path / "each").of(torch.tensor([2]), images, 4)
    np.save(tmp_path / "high.npy", np.full((4, 2, 2), 2.0))
    with pytest.raises(InvalidInputError, match=r"values in \[0, 1\]"):
        Masks(tmp_path / "high.npy").of(torch.tensor([0]), images, 4)
