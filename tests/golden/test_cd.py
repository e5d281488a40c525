"""Contextual decomposition against the outputs of the published code (CDEP, ACD), in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.explainers import ContextualDecomposition
from xaikit.mitigation import CDEP

SOFT = 6  # the last mask is soft; the references round it, and one minus it, to float32


def load(golden, name):
    with np.load(golden / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "if"}


def sequential(data, layers, prefixes):
    """An nn.Sequential whose layers with weights get those stored under the prefixes."""
    model = nn.Sequential(*layers).double()
    weighted = [layer for layer in layers if hasattr(layer, "weight")]
    for layer, prefix in zip(weighted, prefixes, strict=True):
        layer.weight.data, layer.bias.data = (data[f"w:{prefix}.{name}"].double() for name in ("weight", "bias"))
    return model


def lenet(data):
    channels, hidden = data["w:conv1.weight"].shape[1], len(data["w:fc1.weight"])
    layers = [
        nn.Conv2d(channels, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, hidden), nn.ReLU(), nn.Linear(hidden, 10),
    ]  # fmt: skip
    return sequential(data, layers, ["conv1", "conv2", "fc1", "fc2"])


def vgg(data):
    layers = [
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10),
    ]  # fmt: skip
    return sequential(data, layers, ["0", "2", "5", "7", "11", "14"])


def overlap(data):
    layers = [
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 10),
    ]  # fmt: skip
    return sequential(data, layers, ["0", "3", "6"])


CASES = [
    ("cd_lenet_decoy.npz", lenet, "x", "seq_cdep_{}64"),
    ("cd_lenet_decoy.npz", lenet, "x", "seq_acd_{}64"),
    ("cd_lenet_decoy.npz", lenet, "x_zero_background", "zb_seq_acd_{}64"),
    ("cd_lenet_color.npz", lenet, "x", "seq_cdep_{}64"),
    ("cd_lenet_color.npz", lenet, "x", "seq_acd_{}64"),
    ("cd_vgg.npz", vgg, "x", "cdep_{}64"),
    ("cd_vgg.npz", vgg, "x", "acd_{}64"),
    ("cd_pool_overlap.npz", overlap, "x", "acd_{}64"),
]


@pytest.mark.parametrize(("name", "build", "inputs", "keys"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_published_rules(golden, name, build, inputs, keys):
    data = load(golden, name)
    x, masks = data[inputs].double(), data["masks"]
    explainer = ContextualDecomposition(build(data), rules="cdep")
    soft = masks[SOFT].float()
    part, rest = soft.double() * x, (1 - soft).double() * x
    results = [explainer.decompose(x, masks[:SOFT])]
    if inputs == "x":  # on a background of zeros windows tie, and the last bit of part + rest picks the winner
        results.append(explainer.decompose(part + rest, relevant=part))
    for name, key in (("relevant", "rel"), ("irrelevant", "irrel")):
        ours = torch.cat([getattr(result, name) for result in results])
        assert (ours - data[keys.format(key)][: len(ours)]).abs().max() < 1e-10


@pytest.mark.parametrize("reference", ["cd_lenet_color.npz", "cd_vgg.npz"])
def test_float32(golden, reference):
    data = load(golden, reference)
    build, keys = (lenet, "seq_cdep_{}64") if "lenet" in reference else (vgg, "cdep_{}32")
    explainer = ContextualDecomposition(build(data).float(), rules="cdep")
    result = explainer.decompose(data["x"], data["masks"])
    for part, key in ((result.relevant, "rel"), (result.irrelevant, "irrel")):
        assert (part - data[keys.format(key)]).abs().max() < 5e-6


class Text(nn.Module):
    """The reference text net; the references leave the output bias out of both parts."""

    def __init__(self, data):
        super().__init__()
        self.embed, self.lstm, self.hidden_to_label = nn.Embedding(40, 10), nn.LSTM(10, 12), nn.Linear(12, 2)
        self.double().load_state_dict({k[2:]: v.double() for k, v in data.items() if k.startswith("w:")})
        nn.init.zeros_(self.hidden_to_label.bias)

    def forward(self, ids):
        return self.hidden_to_label(self.lstm(self.embed(ids.T))[0][-1])


# The references differ in the steps whose constant is relevant: with or without the last word of the span.
VARIANTS = [("cd_text", 1), ("acd_cd_text", 1), ("cd_batch_text", 0), ("cd_text_irreg", 0)]


@pytest.mark.parametrize(("variant", "last"), VARIANTS, ids=[name for name, _ in VARIANTS])
def test_text_spans(golden, variant, last):
    data = load(golden, "cd_lstm_text.npz")
    tokens = data["text"].T.contiguous()
    words, steps = torch.zeros(2, len(data["spans"]), tokens.shape[1])
    for i, (start, stop) in enumerate(data["spans"].tolist()):
        words[i, start : stop + 1] = 1
        steps[i, start : stop + last] = 1
    explainer = ContextualDecomposition(Text(data), rules="cdep")
    result = explainer.decompose(tokens, words, step_masks=steps)
    assert (result.relevant - data[f"{variant}_rel64"]).abs().max() < 1e-10
    if f"{variant}_irrel64" in data:
        assert (result.irrelevant - data[f"{variant}_irrel64"]).abs().max() < 1e-10
    if last:  # the default: a constant is relevant at the relevant words
        assert torch.equal(explainer.decompose(tokens, words).relevant, result.relevant)


@pytest.mark.parametrize(("reference", "mask"), [("cd_vgg.npz", 0)])
def test_gradients_of_the_published_penalty(golden, reference, mask):
    data = load(golden, reference)
    model = vgg(data)
    explainer = ContextualDecomposition(model, rules="cdep")
    result = explainer.decompose(data["x"].double(), data["masks"][mask][None], create_graph=True)
    penalty = torch.sigmoid(result.relevant - result.irrelevant).mean()
    assert (penalty - data["cdep_penalty64"]).abs() < 1e-10
    penalty.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad.norm() - data[f"cdep_gradnorm64:{name}"]).abs() < 1e-10
        if f"cdep_grad64:{name}" in data:
            assert (parameter.grad - data[f"cdep_grad64:{name}"]).abs().max() < 1e-10


def test_gradients_of_the_lenet_penalty_with_pooling_first(golden):
    """The LeNet references pool before the ReLU; so does this net, which `rel64` then matches."""
    for name, mask in (("cd_lenet_decoy.npz", 0), ("cd_lenet_color.npz", 1)):
        data = load(golden, name)
        model = lenet(data)
        order = [0, 2, 1, 3, 5, 4, 6, 7, 8, 9]
        first = nn.Sequential(*(model[i] for i in order))
        explainer = ContextualDecomposition(first, rules="cdep")
        result = explainer.decompose(data["x"].double(), data["masks"].float())
        assert (result.relevant[:SOFT] - data["rel64"][:SOFT]).abs().max() < 1e-10
        one = explainer.decompose(data["x"].double(), data["masks"][mask][None], create_graph=True)
        torch.sigmoid(one.relevant - one.irrelevant).mean().backward()
        for key, layer in (("conv1", first[0]), ("conv2", first[3]), ("fc1", first[7]), ("fc2", first[9])):
            for kind in ("weight", "bias"):
                norm = data[f"cdep_gradnorm64:{key}.{kind}"]
                assert (getattr(layer, kind).grad.norm() - norm).abs() < 1e-10 * max(1, float(norm))


def test_ties_are_complete(golden):
    data = load(golden, "cd_lenet_decoy.npz")
    model = lenet(data)
    result = ContextualDecomposition(model, rules="cdep").decompose(data["x_ties"].double(), data["masks"])
    assert F.mse_loss(result.total, model(data["x_ties"].double()).expand_as(result.total)) < 1e-24


def first_of_span(words):
    """The steps whose bias the published batch code counts: the decoy word, but not the word after it."""
    return words * (1 - torch.cat([torch.zeros_like(words[..., :1]), words[..., :-1]], -1))


def test_the_text_penalty(golden):
    """The published loss of a text batch, by the mitigator: log form, label class, the decoy word and the next one."""
    data = load(golden, "cd_lstm_text.npz")
    model, tokens = Text(data), data["text"].T.contiguous()
    model.embed.weight.requires_grad_(False)  # the reference cuts the graph there
    words = torch.zeros(tokens.shape)
    for sample, start in enumerate(data["decoy_all_start"].tolist()):
        if start >= 0:
            words[sample, start : start + 2] = 1
    mitigator = CDEP.published(form="log", target="label", steps=first_of_span)
    penalty = mitigator.loss(model, (tokens, data["label"], words)).penalty
    assert (penalty - data["decoy_all_penalty64"]).abs() < 1e-12
    penalty.backward()
    for name in ("hidden_to_label.weight", "lstm.weight_hh_l0"):
        found = dict(model.named_parameters())[name].grad
        assert (found - data[f"decoy_all_grad64:{name}"]).abs().max() < 1e-10


def test_float32_of_the_other_references(golden):
    """The references ran in float32 too: pooling before the ReLU, overlapping windows, text."""
    for name in ("cd_lenet_decoy.npz", "cd_lenet_color.npz"):
        data = load(golden, name)
        model = lenet(data).float()
        first = nn.Sequential(*(model[i] for i in (0, 2, 1, 3, 5, 4, 6, 7, 8, 9)))
        result = ContextualDecomposition(first, rules="cdep").decompose(data["x"], data["masks"])
        assert (result.relevant - data["rel32"]).abs().max() < 5e-6
        assert (result.irrelevant - data["irrel32"]).abs().max() < 5e-6
        penalty = torch.sigmoid(result.relevant - result.irrelevant).mean((1, 2))
        assert (penalty - data["cdep_penalty32"]).abs().min() < 1e-6
    data = load(golden, "cd_pool_overlap.npz")
    result = ContextualDecomposition(overlap(data).float(), rules="cdep").decompose(data["x"], data["masks"])
    assert (result.relevant - data["acd_rel32"]).abs().max() < 5e-6
    assert (result.irrelevant - data["acd_irrel32"]).abs().max() < 5e-6
    data = load(golden, "cd_vgg.npz")
    result = ContextualDecomposition(vgg(data).float(), rules="cdep").decompose(data["x"], data["masks"])
    assert (result.relevant - data["acd_rel32"]).abs().max() < 5e-6


def test_sums_where_windows_tie_and_all_other_outputs(golden):
    """Where entries are equal, only the sums of the parts are defined; the logits are those of the net."""
    data = load(golden, "cd_lenet_decoy.npz")
    model = lenet(data)
    for inputs, prefix in (("x", ""), ("x_ties", "ties_"), ("x_zero_background", "zb_")):
        x = data[inputs].double()
        total = ContextualDecomposition(model, rules="cdep").decompose(x, data["masks"]).total
        assert (total - data[f"{prefix}logits64"]).abs().max() < 1e-10
        if prefix != "zb_":  # the reference loses biases on a background of zeros
            assert (total[:SOFT] - (data[f"{prefix}rel64"] + data[f"{prefix}irrel64"])[:SOFT]).abs().max() < 1e-10
