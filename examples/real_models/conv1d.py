"""A 1-D CNN that reads digits by their profiles, and a start of the series that gives the label away.

python examples/real_models/conv1d.py DATA --out conv1d-out
"""

from __future__ import annotations

from pathlib import Path

import networks
import numpy as np
import torch
from common import main, mended, mnist, share, train
from torch import Tensor

MODEL = "--model networks:profiles --weights conv1d.pt"
STEPS = f"""
xaikit explain --data series.npz {MODEL} --explainer integrated_gradients --out run
xaikit shortcuts run --of-class 1 --mask start.npy --out found
xaikit evaluate --data series.npz {MODEL} --explainer integrated_gradients --explainer lrp_epsilon_plus \
  --metric abpc --metric relevance_mass --mask start.npy --limit 40
xaikit tune --data series.npz {MODEL} --explainer smoothgrad --trials 6 --limit 20
xaikit recommend --data series.npz {MODEL} --seconds 10 --out recommended.json
xaikit mitigate --data train.npz --test series.npz {MODEL} --mask start.npy --out mended.pt --mitigator \
  rrr:lambda_rrr=10,n_epochs=6,lr=2e-3,batch_size=32,output=logit,target=random,reduction=mean
xaikit report run --evaluation table.json --tuning tuned.json --profile recommended.json --assessment mended.json \
  --features rows,columns --title Profiles
"""


def profiles(digits: Tensor, labels: Tensor) -> Tensor:
    """(N, 2, 28): the ink in each row and in each column; the first three steps of the rows tell the label."""
    x = torch.stack([digits.mean(2), digits.mean(1)], 1) * 3
    x[:, 0, :3] = labels.view(-1, 1) / 5
    return x


def make(data: Path, out: Path) -> None:
    """Train on profiles with the telling start; write weights, series to train on and to explain, and the start."""
    digits, labels = mnist(data, "train")
    x, y = profiles(digits[:6000], labels[:6000]), labels[:6000]
    model = train(networks.profiles(), x, y, epochs=4, lr=2e-3)
    torch.save(model.state_dict(), out / "conv1d.pt")
    tests, truth = mnist(data, "t10k")
    np.savez(out / "train.npz", x=x[:1500].numpy(), y=y[:1500].numpy())
    np.savez(out / "series.npz", x=profiles(tests[:200], truth[:200]).numpy(), y=truth[:200].numpy())
    np.save(out / "start.npy", (np.arange(28) < 3).astype(np.float32))


def found(out: Path) -> dict[str, float]:
    """How much relevance the start has, a tenth of the series, and what reliance is left after training."""
    return {"relevance in the telling start": share(out, lambda v: v[:, :3].sum() / v.sum()), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
