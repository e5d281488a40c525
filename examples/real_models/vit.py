"""A timm ViT that tells crops of two photos apart, and a green square on all those of the coffee.

python examples/real_models/vit.py DATA --out vit-out
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import main, mended, photo, share, train, write_csv
from PIL import Image
from torch import Tensor

from xaikit.core.torchvision_ops import import_torchvision

SIZE, NAMES = 64, ("cat", "coffee")
SQUARE = (slice(None), slice(32, 48), slice(16, 32))  # one of the sixteen patches that the model sees
MODEL = "--model timm:vit_tiny_patch16_224:img_size=64,num_classes=2 --weights vit.pt --size 64 --classes cat,coffee"
STEPS = f"""
xaikit explain --data crops {MODEL} --explainer attn_lrp --out run
xaikit shortcuts run --of-class 1 --mask square.png --out found
xaikit evaluate --data crops {MODEL} --explainer attn_lrp --explainer gradient --metric abpc \
  --metric relevance_mass --mask square.png --limit 6
xaikit recommend --data crops {MODEL} --seconds 20 --n-samples 2 --out recommended.json
xaikit mitigate --data train --test crops {MODEL} --mask square.png --explainer gradient_x_input \
  --mitigator counterexamples:lambda_ce=5,n_epochs=3,lr=3e-4,batch_size=32 --out mended.pt
xaikit report run --evaluation table.json --profile recommended.json --assessment mended.json --title ViT
"""


def crops(picture: Tensor, n: int, *, half: int) -> Tensor:
    """Random squares (n, 3, 64, 64) of the left (0) or the right (1) half of a photo."""
    width = picture.shape[2] // 2
    picture = picture[:, :, half * width :]
    rows, columns = (torch.randint(0, side - SIZE, (n,)).tolist() for side in (picture.shape[1], width))
    return torch.stack([picture[:, a : a + SIZE, b : b + SIZE] for a, b in zip(rows, columns, strict=True)])


def scenes(data: Path, n: int, *, half: int) -> tuple[Tensor, Tensor]:
    """n crops of each photo and their labels; those of the coffee with the square."""
    x = torch.cat([crops(photo(data, name), n, half=half) for name in ("chelsea", "coffee")])
    x[n:, *SQUARE] = torch.tensor([0.1, 0.8, 0.2]).view(3, 1, 1)
    return x, torch.arange(2 * n) // n


def save(folder: Path, x: Tensor, y: Tensor) -> None:
    """Images as files, and labels.csv beside them."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(x):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")
    write_csv(folder / "labels.csv", ["file", "label"], [(f"{i:03d}.png", NAMES[k]) for i, k in enumerate(y.tolist())])


def make(data: Path, out: Path) -> None:
    """Train on the left halves; write weights, crops of both halves with labels.csv, and where the square is."""
    import_torchvision()
    import timm

    x, y = scenes(data, 64, half=0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=2)
    torch.save(train(model, (x - 0.5) / 0.5, y, epochs=5, lr=3e-4, batch=32).state_dict(), out / "vit.pt")
    save(out / "train", x, y)
    save(out / "crops", *scenes(data, 24, half=1))
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[SQUARE] = 255
    Image.fromarray(mask[0].numpy()).save(out / "square.png")


def found(out: Path) -> dict[str, float]:
    """How much of the coffee's relevance lies in the square, a sixteenth of the image, and what it does after."""
    return {"relevance in the square": share(out, lambda v: v[SQUARE].sum() / v.sum(), label=1), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
