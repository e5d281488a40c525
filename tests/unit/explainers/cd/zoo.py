"""Models of many architectures with random weights, each with a function that makes an input for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {}


def image(size, channels=3):
    return lambda: torch.randn(2, channels, size, size)


def tokens():
    return torch.randint(5, 100, (2, 12))


def series():
    return torch.randn(2, 4, 32)


def row():
    return torch.randn(2, 12)


# ------------------------------------------------------------------ torchvision
SIZES = {
    "alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "resnet18": 64, "resnet50": 64,
    "resnext50_32x4d": 64, "densenet121": 64, "squeezenet1_0": 64, "squeezenet1_1": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "mobilenet_v3_large": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64, "convnext_tiny": 64,
    "swin_t": 64, "swin_v2_t": 64,
}  # fmt: skip
OPTIONS = {
    "googlenet": (64, {"aux_logits": False, "init_weights": True, "transform_input": True}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": True}),
    "vit_b_16": (32, {"image_size": 32}),
}


def from_torchvision(name, **options):
    from xaikit.core.errors import MissingDependencyError
    from xaikit.core.torchvision_ops import import_torchvision

    try:
        import_torchvision()
    except MissingDependencyError as err:
        pytest.skip(str(err))
    from torchvision import models

    if name == "maxvit":
        return models.maxvit.MaxVit(
            input_size=(64, 64), stem_channels=16, block_channels=[16, 32], block_layers=[1, 1], head_dim=8,
            stochastic_depth_prob=0.0, partition_size=4, num_classes=10,
        )  # fmt: skip
    model = getattr(models, name)(weights=None, num_classes=10, **options)
    if name in ("alexnet", "vgg11", "vgg11_bn"):
        narrow(model)
    return model


def narrow(model):
    """Give the linear layers of an AlexNet or VGG 64 hidden units of 4,096: most of the net's weights, all alike."""
    linear = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
    widths = [model.classifier[linear[0]].in_features, 64, 64, model.classifier[linear[-1]].out_features]
    for i, before, after in zip(linear, widths, widths[1:], strict=False):
        model.classifier[i] = nn.Linear(before, after)


ZOO |= {name: (partial(from_torchvision, name), image(size)) for name, size in SIZES.items()}
ZOO |= {name: (partial(from_torchvision, name, **options), image(size)) for name, (size, options) in OPTIONS.items()}
ZOO["maxvit"] = (partial(from_torchvision, "maxvit"), image(64))


# ------------------------------------------------------------------ transformers
class Language(nn.Module):
    """Logits of a Hugging Face classifier, with or without an attention mask that hides some tokens."""

    def __init__(self, model, *, masked=False):
        super().__init__()
        self.model, self.masked = model, masked

    def forward(self, ids):
        mask = torch.ones(ids.shape[:2], dtype=torch.long)
        if self.masked:
            mask[1, -3:] = 0
        return self.model(input_ids=ids, attention_mask=mask).logits


class Encoder(nn.Module):
    """A classifier on top of a T5 encoder."""

    def __init__(self, model):
        super().__init__()
        self.model, self.head = model, nn.Linear(32, 10)

    def forward(self, ids):
        return self.head(self.model(input_ids=ids).last_hidden_state.mean(1))


class Vision(nn.Module):
    """Logits of a Hugging Face image classifier."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixel_values=pixels).logits


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LLAMA = BERT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def hugging_face_library():
    from xaikit.core.errors import MissingDependencyError
    from xaikit.core.torchvision_ops import import_torchvision

    with contextlib.suppress(MissingDependencyError):  # transformers takes no torchvision, but not a broken one
        import_torchvision()
    return pytest.importorskip("transformers")


def hugging_face(family, options, *, masked=False):
    transformers = hugging_face_library()
    config = getattr(transformers, f"{family}Config")(vocab_size=100, num_labels=10, **options)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    return Language(model, masked=masked)


def t5():
    transformers = hugging_face_library()
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return Encoder(transformers.T5EncoderModel(config))


def hugging_face_vit():
    transformers = hugging_face_library()
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=10, **BERT)
    return Vision(transformers.ViTForImageClassification(config))


DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
ZOO |= {
    "hf_bert": (lambda: hugging_face("Bert", BERT), tokens),
    "hf_bert_masked": (lambda: hugging_face("Bert", BERT, masked=True), tokens),
    "hf_bert_eager": (lambda: hugging_face("Bert", BERT | {"attn_implementation": "eager"}, masked=True), tokens),
    "hf_distilbert": (lambda: hugging_face("DistilBert", DISTILBERT), tokens),
    "hf_roberta": (lambda: hugging_face("Roberta", BERT), tokens),
    "hf_gpt2": (lambda: hugging_face("GPT2", GPT2), tokens),
    "hf_llama": (lambda: hugging_face("Llama", LLAMA), tokens),
    "hf_t5": (t5, tokens),
    "hf_vit": (hugging_face_vit, image(32)),
}


# ------------------------------------------------------------------ written here
class Recurrent(nn.Module):
    """Tokens, a recurrent net, and its last state or the mean of all."""

    def __init__(self, kind, *, layers=1, both_ways=False):
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.net = getattr(nn, kind)(16, 24, layers, batch_first=True, bidirectional=both_ways)
        self.head, self.mean = nn.Linear(48 if both_ways else 24, 10), both_ways

    def forward(self, ids):
        states, _ = self.net(self.embed(ids))
        return self.head(states.mean(1) if self.mean else states[:, -1])


class Temporal(nn.Module):
    """Dilated causal convolutions with weight norm and residuals."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        sizes = [4, 16, 16, 16]
        self.convolutions = nn.ModuleList(
            norm(nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i))
            for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        )
        self.shortcut, self.head = nn.Conv1d(4, 16, 1), nn.Linear(16, 10)

    def forward(self, x):
        for i, convolution in enumerate(self.convolutions):
            cut = convolution(x)[:, :, : -2 * 2 * 2**i // 2].contiguous()
            x = F.relu(F.dropout(F.relu(cut), 0.2, self.training) + (self.shortcut(x) if i == 0 else x))
        return self.head(x.amax(-1))


class Digits(nn.Module):
    """The net of the published experiments, with functional ops."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2)).view(-1, 800)
        return self.fc2(F.relu(self.fc1(x)))


class Attentive(nn.Module):
    """Tokens and torch's own transformer."""

    def __init__(self, *, norm_first):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.embed, self.head = nn.Embedding(100, 32), nn.Linear(32, 10)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        return self.head(self.encoder(self.embed(ids)).mean(1))


class UNet(nn.Module):
    """Group and instance norm, transposed convolution, interpolation, in-place ops, a gate, a global maximum."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.down, self.instance = nn.Conv2d(8, 16, 3, 2, 1), nn.InstanceNorm2d(16, affine=True)
        self.up, self.slope = nn.ConvTranspose2d(16, 8, 2, 2), nn.PReLU()
        self.leave, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        top = F.silu(self.norm(self.enter(x)))
        low = F.leaky_relu_(self.instance(self.down(top)), 0.1)
        up = self.up(low)
        up += F.interpolate(low[:, :8], scale_factor=2, mode="bilinear")
        y = F.elu(self.leave(torch.cat([top, self.slope(up)], 1)))
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.head(y.flatten(2).max(-1)[0])


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self):
        super().__init__()
        self.enter, self.again, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        hidden = torch.relu(self.enter(x))
        for _ in range(3):
            hidden = torch.tanh(self.again(hidden)) if hidden.norm() > 1 else hidden.clamp(min=0) * 2
        return self.head(torch.where(hidden > 0, hidden, 0.1 * hidden))


def cnn1d():
    return nn.Sequential(
        nn.Conv1d(4, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def mlp():
    return nn.Sequential(
        nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.SELU(), nn.Linear(32, 32), nn.Tanh(),
        nn.Linear(32, 10),
    )  # fmt: skip


ZOO |= {
    "lstm": (lambda: Recurrent("LSTM"), tokens),
    "bilstm": (lambda: Recurrent("LSTM", layers=2, both_ways=True), tokens),
    "gru": (lambda: Recurrent("GRU"), tokens),
    "rnn": (lambda: Recurrent("RNN"), tokens),
    "tcn": (Temporal, series),
    "cnn1d": (cnn1d, series),
    "mlp": (mlp, row),
    "digits": (Digits, image(28, 1)),
    "transformer": (lambda: Attentive(norm_first=False), tokens),
    "transformer_prenorm": (lambda: Attentive(norm_first=True), tokens),
    "unet": (UNet, image(16)),
    "branching": (Branching, row),
}
FAST = ["lstm", "bilstm", "gru", "rnn", "tcn", "cnn1d", "mlp", "digits", "transformer", "transformer_prenorm", "unet",
        "branching", "hf_bert_masked", "hf_llama", "resnet18"]  # fmt: skip


def build(name, dtype=torch.float32):
    """The model in evaluation mode with biases and statistics that matter, and an input."""
    torch.manual_seed(0)
    make, make_input = ZOO[name]
    model = make().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.add_(0.05 * torch.randn_like(parameter))
            elif "layer_scale" in key:
                parameter.add_(0.3 * torch.rand_like(parameter))
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            model(torch.cat([make_input() for _ in range(3)]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
            norm.running_var.clamp_(min=1e-6).mul_(0.7 + 0.6 * torch.rand_like(norm.running_var))
            norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
    x = make_input()
    return model.to(dtype), x.to(dtype) if x.is_floating_point() else x
