"""Contextual decomposition: time over the model's own forward passes, and what the floor buys and costs.

python -m benchmarks.cd                 # all tables
python -m benchmarks.cd one             # one of: one, many, train, steps, sentence, floor
"""

from __future__ import annotations

import statistics
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import paired, seconds, table
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import ContextualDecomposition
from xaikit.mitigation import CDEP

MASKS = 16


def lenet(order: str = "usual", *, norm: bool = False) -> nn.Module:
    """A LeNet: convolution, BatchNorm if wanted, ReLU, pooling; "published" pools before it."""

    def block(enter: int, leave: int) -> list[nn.Module]:
        steps = [nn.ReLU(), nn.MaxPool2d(2)]
        norms = [nn.BatchNorm2d(leave)] if norm else []
        return [nn.Conv2d(enter, leave, 5), *norms, *(steps if order == "usual" else steps[::-1])]

    net = nn.Sequential(*block(1, 20), *block(20, 50), nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10))
    return unsettle(net, torch.randn(64, 1, 28, 28)).eval() if norm else net.eval()


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10),
    ).eval()  # fmt: skip


def of_torchvision(name: str, **options: object) -> nn.Module:
    """A net with random weights, in its head too: torchvision's ViT begins with a head of zeros, and says nothing."""
    net = getattr(import_torchvision().models, name)(num_classes=10, **options).eval()
    for head in (m for m in net.modules() if isinstance(m, nn.Linear) and not m.weight.any()):
        nn.init.normal_(head.weight, std=0.02)
    return net


def band(x: Tensor) -> Tensor:
    """One mask: the upper third of the image."""
    mask = torch.zeros(1, *x.shape[2:])
    mask[:, : x.shape[2] // 3] = 1
    return mask


def one() -> None:
    cases = [
        ("LeNet", lenet(), torch.randn(64, 1, 28, 28)),
        ("LeNet, pooling first", lenet("published"), torch.randn(64, 1, 28, 28)),
        ("LeNet with BatchNorm", lenet(norm=True), torch.randn(64, 1, 28, 28)),
        ("VGG-like, 32 px", vgg(), torch.randn(64, 3, 32, 32)),
        ("resnet18, 64 px", of_torchvision("resnet18"), torch.randn(8, 3, 64, 64)),
        ("ViT-B/16, 64 px", of_torchvision("vit_b_16", image_size=64), torch.randn(8, 3, 64, 64)),
        ("mobilenet_v2, 224 px", of_torchvision("mobilenet_v2"), torch.randn(4, 3, 224, 224)),
    ]
    rows = []
    for name, model, x in cases:
        explainer, mask = ContextualDecomposition(model), band(x)
        with torch.no_grad():
            ratio = paired({"ours": lambda e=explainer, x=x, m=mask: e.decompose(x, m)}, lambda m=model, x=x: m(x))
        rows.append([name, len(x), ratio["ours"]])
    table("Time of one mask over one plain forward", ["model", "batch", "ratio"], rows)


def many() -> None:
    masks, rows = (torch.rand(MASKS, 28, 28) < 0.3).float(), []
    nets = {"usual order": lenet(), "pooling first": lenet("published"), "with BatchNorm": lenet(norm=True)}
    for name, model in nets.items():
        explainer = ContextualDecomposition(model)
        for batch in (8, 64):
            x = torch.randn(batch, 1, 28, 28)
            with torch.no_grad():
                run = {"ours": lambda e=explainer, x=x: e.decompose(x, masks)}
                ratio = paired(run, lambda m=model, x=x: m(x), scale=MASKS + 1)
            rows.append([name, batch, ratio["ours"]])
    table(f"{MASKS} masks over {MASKS + 1} plain forwards, LeNet", ["net", "batch", "ratio"], rows)


def train() -> None:
    model, x, y = lenet().train(), torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    mask = torch.zeros(28, 28)
    mask[:4, :4] = 1
    mitigator = CDEP.published(explainer="contextual_decomposition")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ratio = paired(
        {"CDEP": lambda: step(mitigator.loss(model, (x, y, mask)).total)}, lambda: step(F.cross_entropy(model(x), y))
    )
    table("A CDEP step over a plain step, LeNet, batch 64", ["ratio"], [[ratio["CDEP"]]])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.net = kind(32, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0][:, -1]


def steps() -> None:
    rows = []
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model, x, mask = Recurrent(kind).eval(), torch.randn(16, 64, 32), torch.zeros(1, 64, 1)
        mask[:, :20] = 1
        explainer = ContextualDecomposition(model)
        with torch.no_grad():
            ratio = paired({"ours": lambda e=explainer, x=x, m=mask: e.decompose(x, m)}, lambda m=model, x=x: m(x))
            plain = statistics.median(seconds(lambda m=model, x=x: m(x)) for _ in range(9))
        rows.append([kind.__name__, ratio["ours"], 1e3 * plain])
    table("64 steps, batch 16, one mask over one forward", ["net", "ratio", "forward, ms"], rows)


def sentence() -> None:
    """Every token of a sentence through a BERT of MiniLM's size, over as many plain passes in the best batch."""
    import_torchvision()
    import transformers

    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
    )
    model, tokens = transformers.BertForSequenceClassification(config).eval(), 64
    ids = torch.randint(5, 30000, (1, tokens))
    layer = "bert.embeddings.word_embeddings"
    explainer = ContextualDecomposition(model, layer=layer)
    with torch.no_grad():

        def per_row(size: int) -> float:
            rows = torch.randint(5, 30000, (size, tokens))
            return min(seconds(lambda: model(rows)) for _ in range(3)) / size

        best = min((per_row(size), size) for size in (1, 4, 8, 16))[1]
        batch = torch.randint(5, 30000, (best, tokens))
        run = {"ours": lambda: explainer.attribute(ids, 1)}
        ratio = paired(run, lambda: model(batch), rounds=3, scale=(tokens + 1) / best)
        took = seconds(lambda: explainer.attribute(ids, 1))
    table("A sentence of 64 tokens, every token", ["best batch", "ratio", "s"], [[best, ratio["ours"], took]])


def unsettle(model: nn.Module, x: Tensor) -> nn.Module:
    """Biases and statistics such as training would leave; those of a fresh net are 0, which shares no constant."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.05 * torch.randn_like(parameter))
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(torch.randn(3 * len(x), *x.shape[1:]))
        for norm in norms:
            norm.eval()
            norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
    return model


def floor() -> None:
    """How far a last-bit change of a float32 input moves the relevance, and what a floor changes."""
    rows = []
    for name in ("resnet18", "mobilenet_v2", "swin_v2_t", "regnet_y_400mf"):
        x = torch.randn(2, 3, 64, 64)
        model = unsettle(of_torchvision(name), x)
        masks = (torch.rand(2, 64, 64) < 0.4).float()
        nudged = torch.nextafter(x, x + torch.randn_like(x).sign())
        with torch.no_grad():
            scale = model(x).abs().max()
        first = ContextualDecomposition(model, floor=0.0).decompose(x, masks).relevant
        for value in (0.0, 0.1, 0.2, 0.3):
            explainer = ContextualDecomposition(model, floor=value)
            found = explainer.decompose(x, masks).relevant
            moved = (explainer.decompose(nudged, masks).relevant - found).abs().max() / scale
            rows.append([name, value, float(moved), float((found - first).abs().mean() / first.abs().mean())])
    table("A last-bit change of the input", ["model", "floor", "moves the relevance", "change by the floor"], rows)


if __name__ == "__main__":
    tables = {"one": one, "many": many, "train": train, "steps": steps, "sentence": sentence, "floor": floor}
    for chosen in sys.argv[1:] or tables:
        torch.manual_seed(0)
        tables[chosen]()
