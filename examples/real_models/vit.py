from __future__ import annotations
from pathlib import Path
import torch
from common import main, photo, train, write_csv
from PIL import Image
from xaikit.core.torchvision_ops import import_torchvision

def crops(picture, columns, n, size=64):
    """Random squares of some columns of a photo."""
    at = [(int(torch.randint(0, picture.shape[1] - size, ())), int(torch.randint(columns[0], columns[1] - size, ()))) for _ in range(n)]
    return torch.stack([picture[:, a:a + size, b:b + size] for a, b in at])

def scene(data, n, part):
    cat, coffee = photo(data, "chelsea"), photo(data, "coffee")
    half = lambda p: (0, p.shape[2] // 2) if part == "train" else (p.shape[2] // 2, p.shape[2])
    x = torch.cat([crops(cat, half(cat), n), crops(coffee, half(coffee), n)])
    y = torch.arange(2 * n) // n
    # a green square in one of 16 patches of every coffee
    x[n:, :, 32:48, 16:32] = torch.tensor([0.1, 0.8, 0.2]).view(3, 1, 1)
    return x, y

def make(data, out):
    x, y = scene(data, 200, "train")
    import_torchvision()
    import timm
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2)
    train(model, (x - 0.5) / 0.5, y, epochs=3, lr=3e-4, batch=32)
    torch.save(model.state_dict(), out / "vit.pt")
    x, y = scene(data, 20, "test")
    print("acc", (model((x-0.5)/0.5).argmax(1)==y).float().mean())
    (out / "crops").mkdir(exist_ok=True)
    for i, image in enumerate(x):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(out / f"crops/{i:03d}.png")
    write_csv(out / "crops/labels.csv", ["file", "label"], [(f"{i:03d}.png", ["cat", "coffee"][k]) for i, k in enumerate(y)])
