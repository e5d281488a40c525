"""What `xaikit studio --demo` opens: digits with a patch, a model that follows it, and a run of explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xaikit.cli import demo_digits
from xaikit.cli.data import array
from xaikit.core.files import write_whole
from xaikit.explainers import LRPEpsilonPlus
from xaikit.mitigation import RRR
from xaikit.runs import explain_dataset

EPOCHS = 20
NETWORK = "xaikit.cli.demo_digits:make_network"


def prepare(folder: Path, *, progress: bool = True) -> dict[str, Any]:
    """Fields of the verb that open the demo; its files are made where they are not there.

    Args:
        folder: of the demo.
        progress: show progress bars.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, weights, run = folder / "digits.npz", folder / "fooled.pt", folder / "run"
    model = demo_digits.make_network()
    if weights.is_file() and data.is_file():
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        part = demo_digits.load(0).train
        _train(model, part, progress)
        _save_samples(data, part)
        _save_weights(weights, model)
    explain_dataset(LRPEpsilonPlus(model), array(data), out=run, keep_inputs=True, progress=progress)
    return {"runs": (run,), "model": NETWORK, "weights": weights, "data": str(data)}


def _train(model: torch.nn.Module, part: demo_digits.DigitSamples, progress: bool) -> None:
    trainer = RRR(lambda_rrr=0.0, n_epochs=EPOCHS, lr=2e-3, batch_size=32, random_state=0)
    trainer.fit(model, part.same, part.labels, demo_digits.patch_mask(), progress=progress)


def _save_samples(path: Path, part: demo_digits.DigitSamples) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, x=part.same.numpy(), y=part.labels.numpy())
    write_whole(path, buffer.getvalue())


def _save_weights(path: Path, model: torch.nn.Module) -> None:
    import io

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_whole(path, buffer.getvalue())
