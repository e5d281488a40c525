"""A torchvision ResNet that reads digits, and a grey patch in the corner that gives their label away.

python examples/real_models/resnet.py DATA --out resnet-out
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import main, mended, mnist, share, train, write_csv
from PIL import Image
from torch import Tensor, nn

from xaikit.core.torchvision_ops import import_torchvision

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PATCH = (slice(None), slice(26, 31), slice(26, 31))
MODEL = "--model torchvision:resnet18:num_classes=10 --weights resnet.pt --size 32"
STEPS = f"""
xaikit explain digits/003.png {MODEL} --out one.npz
xaikit explain --data digits {MODEL} --explainer gradient_x_input --out run
xaikit shortcuts run --of-class 1 --mask corner.png --out found
xaikit evaluate --data digits {MODEL} --explainer gradient_x_input --explainer lrp_epsilon_plus \
  --metric abpc --metric relevance_mass --mask corner.png --limit 20
xaikit tune --data digits {MODEL} --explainer vargrad --trials 3 --limit 6
xaikit recommend --data digits {MODEL} --seconds 20 --out recommended.json
xaikit mitigate --data digits {MODEL} --mask corner.png --out mended.pt --mitigator \
  rrr:n_epochs=2,lr=1e-3,batch_size=32,output=logit
xaikit report run --evaluation table.json --tuning tuned.json --profile recommended.json --assessment mended.json \
  --title ResNet
"""


def patched(digits: Tensor, labels: Tensor) -> Tensor:
    """Digits (N, 32, 32) with a patch whose grey tells the label, as Ross et al. (2017) have it."""
    x = nn.functional.pad(digits, [2] * 4)
    x[PATCH] = (1 - labels / 10.2).view(-1, 1, 1)
    return x


def make(data: Path, out: Path) -> None:
    """Train on patched digits; write weights, a folder of images with labels.csv, and where the patch is."""
    digits, labels = mnist(data, "train")
    # As `import torchvision`, also beside a torch that it was not built for.
    model = import_torchvision().models.resnet18(num_classes=10)
    x = (patched(digits[:1000], labels[:1000])[:, None] - MEAN) / STD
    torch.save(train(model, x, labels[:1000], epochs=3, lr=1e-3).state_dict(), out / "resnet.pt")
    (out / "digits").mkdir(exist_ok=True)
    tests, truth = mnist(data, "t10k")
    for i, image in enumerate(patched(tests[:160], truth[:160])):
        Image.fromarray((image * 255).byte().numpy()).save(out / f"digits/{i:03d}.png")
    rows = [(f"{i:03d}.png", label) for i, label in enumerate(truth[:160].tolist())]
    write_csv(out / "digits/labels.csv", ["file", "label"], rows)
    mask = np.zeros((32, 32), np.uint8)
    mask[PATCH[1:]] = 255
    Image.fromarray(mask).save(out / "corner.png")


def found(out: Path) -> dict[str, float]:
    """How much relevance the patch has, 2.4 % of the pixels, and what is left after training."""
    return {"relevance in the patch": share(out, lambda v: v[PATCH].sum() / v.sum()), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
