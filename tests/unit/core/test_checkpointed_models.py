"""Models of other libraries that drop activations and compute them again: everything as without it, in float64."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import CDEP, EXPLAINERS, RRR
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.mitigation import AClArC, Concept, PClArC

FEW = {"n_samples": 4, "n_steps": 3, "nt_samples": 2, "n_iter": 3, "n_segments": 3, "window": 0.5}
NAMES = [name for name in EXPLAINERS if name != "lrp_composite"]
PENALISED = ["gradient", "smoothgrad:n_iter=3", "integrated_gradients:n_steps=3", "lrp_epsilon_plus", "attn_lrp"]
PICTURES = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IDS = {"input_ids": torch.tensor([[5, 9, 3, 7], [2, 2, 8, 6]])}


def timm() -> Any:
    import_torchvision()  # also where its compiled operators do not match torch
    return pytest.importorskip("timm", reason="timm is part of the extra dev: pip install timm")


def timm_vit(**_options: Any) -> Any:
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm().models.vision_transformer.VisionTransformer(**small), "blocks.0", PICTURES


def timm_convnext(**_options: Any) -> Any:
    small = {"depths": (1, 1, 2, 1), "dims": (2, 2, 4, 4), "num_classes": 3, "patch_size": 2}
    return timm().models.convnext.ConvNeXt(**small), "stages.2", PICTURES.repeat(1, 1, 2, 2)


def timm_resnet(**_options: Any) -> Any:
    """Between checkpoints it runs the blocks of a stage, and not the stage."""
    resnet = timm().models.resnet
    small = {"layers": (1, 1, 1, 1), "stem_width": 4, "num_classes": 3}
    if "channels" in inspect.signature(resnet.ResNet).parameters:  # timm 1.0.3 knows one width
        small["channels"] = (4, 4, 8, 8)
    return resnet.ResNet(resnet.BasicBlock, **small), "layer2", PICTURES


def hugging_face(name: str, layer: str, inputs: Any, **config: Any) -> Callable[..., Any]:
    def make(**_options: Any) -> Any:
        transformers = pytest.importorskip("transformers", reason="part of the extra dev: pip install transformers")
        small = getattr(
            transformers, name.replace("ForSequenceClassification", "").replace("ForImageClassification", "") + "Config"
        )
        return getattr(transformers, name)(small(num_labels=3, **config)), layer, inputs

    return make


WIDTHS = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODELS: dict[str, Callable[..., Any]] = {
    "timm ViT": timm_vit,
    "timm ConvNeXt": timm_convnext,
    "timm ResNet": timm_resnet,
    "BERT": hugging_face("BertForSequenceClassification", "bert.embeddings.word_embeddings", IDS, vocab_size=11,
                         **WIDTHS, **NO_DROPOUT),
    "GPT-2": hugging_face("GPT2ForSequenceClassification", "transformer.wte", IDS, vocab_size=11, pad_token_id=0,
                          bos_token_id=1, eos_token_id=1, **GPT2),
    "ViT": hugging_face("ViTForImageClassification", "vit.layers.0", PICTURES, image_size=16, patch_size=8, **WIDTHS,
                        **NO_DROPOUT),
}  # fmt: skip
REENTRANT = {"BERT": (True, False), "GPT-2": (True, False), "ViT": (True, False)}
# An explanation runs in evaluation mode. There Hugging Face's models drop nothing, however they were made to drop, and
# timm's ViT nothing if it was training; timm's others drop the same in both. The task loss runs in the model's mode.
EXPLAINED = {"timm ViT": False, "timm ConvNeXt": True, "timm ResNet": True, "BERT": True, "GPT-2": True, "ViT": True}
PENALISED_MODES = {"timm ResNet": (False, True), "timm ViT": (False, True)}
CASES = [
    (name, reentrant, train)
    for name in MODELS
    for reentrant in REENTRANT.get(name, (None,))
    for train in PENALISED_MODES.get(name, (True,))
]


def pair(name: str, reentrant: bool | None, *, train: bool) -> tuple[nn.Module, nn.Module, str, Any]:
    """The model without and with checkpoints, with the same weights; a layer; the inputs."""
    plain, layer, inputs = MODELS[name]()
    torch.manual_seed(1)
    for p in plain.parameters():  # some start at 0, so that nothing would pass them
        nn.init.normal_(p, 0.0 if p.ndim > 1 else 0.5, 0.3)
    dropping = copy.deepcopy(plain.double()).train(train)
    if reentrant is None:
        dropping.set_grad_checkpointing()
    else:
        dropping.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return plain.double().train(train), dropping, layer, inputs


def values_or_words(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as err:  # noqa: BLE001
        return f"{type(err).__name__}: {err}"


def difference(values: Any, expected: Any) -> str | None:
    if isinstance(expected, str) or isinstance(values, str):
        return None if values == expected else f"{values} instead of {expected}"
    error = float((values - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    return None if error < 1e-9 else f"off by {error:.1e}"


def wrong(name: str, reentrant: bool | None, names: list[str], *, train: bool) -> list[str]:
    plain, dropping, layer, inputs = pair(name, reentrant, train=train)
    of_ids = isinstance(inputs, dict)
    answers, refused = [], 0
    for spec in names:
        for where in (layer,) if of_ids else (None, layer):
            kind = EXPLAINERS.create(spec, layer=where)
            kind = kind.set_kwargs(**{k: v for k, v in FEW.items() if k in kind.SETTINGS})
            results = [
                values_or_words(lambda m=m, kind=kind: kind.bind(m).attribute(inputs, [0, 2]))
                for m in (dropping, plain)
            ]
            answers.append((spec, where, difference(*results)))
            refused += isinstance(results[1], str)
    assert refused < len(answers) / 3  # class activation maps and DeepLift do not take every model
    return [f"{name} {spec} {where}: {words}" for spec, where, words in answers if words]


def penalty(model: nn.Module, mitigator: Any, inputs: Any, masks: Any) -> torch.Tensor:
    model = copy.deepcopy(model)  # torch moves BatchNorm's statistics once more when it computes a part again
    loss = mitigator.loss(model, (inputs, np.array([0, 2]), masks), seed=3)
    loss.total.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([loss.penalty.detach().reshape(1), *(g.flatten() for g in gradients)])


def wrong_penalties(name: str, reentrant: bool | None, specs: list[str], *, train: bool) -> list[str]:
    plain, dropping, layer, inputs = pair(name, reentrant, train=train)
    of_ids = isinstance(inputs, dict)
    masks = np.array([1.0, 1, 0, 0]) if of_ids else np.tril(np.ones(inputs.shape[-2:]))
    kinds = [RRR(explainer=EXPLAINERS.create(spec, layer=layer if of_ids else None)) for spec in specs]
    kinds.append(CDEP())
    answers = []
    for mitigator in kinds:
        results = [
            values_or_words(lambda m=m, mitigator=mitigator: penalty(m, mitigator, inputs, masks))
            for m in (dropping, plain)
        ]
        answers.append((mitigator, results[1], difference(*results)))
    return [f"{name} {m}: {words or expected}" for m, expected, words in answers if words or isinstance(expected, str)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["timm ViT", "timm ResNet"])
def test_a_gradient_and_a_penalty(name):
    assert not wrong(name, None, ["gradient", "attn_lrp"], train=True)
    assert not wrong_penalties(name, None, ["gradient"], train=True)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_every_explainer_gives_what_it_gives_without_checkpoints(name):
    assert not wrong(name, REENTRANT.get(name, (None,))[0], NAMES, train=EXPLAINED[name])


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "reentrant", "train"), CASES)
def test_every_penalty_is_what_it_is_without_checkpoints(name, reentrant, train):
    assert not wrong_penalties(name, reentrant, PENALISED, train=train)


@pytest.mark.filterwarnings("ignore")
def test_a_concept_moves_what_a_checkpoint_would_run_again():
    plain, dropping, layer, x = pair("timm ResNet", None, train=True)
    concepts = [Concept.fit(m, torch.cat([x, x.flip(2)]), [1, 0, 0, 1], layer=layer) for m in (dropping, plain)]
    assert torch.equal(concepts[0].direction, concepts[1].direction)
    gradients = [penalty(m, AClArC(concept=concepts[0]), x, None) for m in (dropping, plain)]
    assert difference(*gradients) is None
    with PClArC(concepts[0]).apply(dropping.eval()), PClArC(concepts[0]).apply(plain.eval()):
        assert torch.allclose(dropping(x), plain(x), rtol=1e-12)
        changed = dropping(x)
    assert not torch.allclose(changed, dropping(x), rtol=1e-3)


class Iterates(nn.Module):
    """It runs the layers inside a Sequential by itself, or the Sequential."""

    def __init__(self, inside: bool, shared: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.Tanh()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(5, 5), self.act if shared else nn.Tanh()))
        self.out, self.inside = nn.Linear(5, 2), inside

    def forward(self, x):
        if not self.inside:
            return self.out(self.body(x))
        for layer in self.body:
            x = layer(x)
        return self.out(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["body", "body.input", "body.1"])
def test_the_layers_inside_a_sequential_stand_for_it(name, layer):
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    explainer = EXPLAINERS.create(name, layer=layer)
    explainer = explainer.set_kwargs(**{k: v for k, v in FEW.items() if k in explainer.SETTINGS})
    results = [values_or_words(lambda i=i: explainer.bind(Iterates(i)).attribute(x, 1)) for i in (True, False)]
    if isinstance(results[1], str):
        assert results[0] == results[1]
    else:
        assert torch.equal(*results)


def test_an_end_that_is_part_of_something_else_does_not():
    model, x = Iterates(True, shared=True), torch.rand(3, 4)
    with pytest.raises(Exception, match="layer 'body' does not run"):
        EXPLAINERS.create("gradient", layer="body").bind(model).attribute(x, 1)
