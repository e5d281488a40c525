"""Class activation maps against pytorch-grad-cam, on a resnet18, a vision transformer and a Swin with random weights.

The peer's maps are computed where it is installed, else read from tests/data/golden/grad_cam.json.
``XAIKIT_RECORD=1 pytest tests/unit/explainers/test_cam_peer.py`` writes that file again; it needs
``pip install grad-cam``.
"""

from __future__ import annotations

import functools
import importlib

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.stored_results import StoredResults
from xaikit.core import EXPLAINERS
from xaikit.core.torchvision_ops import import_torchvision

CLASS = 3
SIZE = 32
THEIRS = {
    "gradcam": "GradCAM", "hirescam": "HiResCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM",
    "elementwise_cam": "GradCAMElementWise", "eigencam": "EigenCAM", "eigengradcam": "EigenGradCAM",
    "shapleycam": "ShapleyCAM", "finercam": "FinerCAM", "scorecam": "ScoreCAM", "ablationcam": "AblationCAM",
    "fullgrad": "FullGrad",
}  # fmt: skip
# There a channel is replaced by the smallest value less 1e7 where the activations can be negative: no ablation by 0.
OF_RELU = {"ablationcam"}
CONVOLUTIONAL = {"fullgrad"}
PASSES = {"scorecam", "ablationcam"}  # a pass for each channel
CASES = [
    pytest.param(name, net, marks=[pytest.mark.nightly] * (net == "resnet18" and name in PASSES), id=f"{name}-{net}")
    for net in ("resnet18", "vit", "swin")
    for name in THEIRS
    if net == "resnet18" or name not in OF_RELU | CONVOLUTIONAL
]


@functools.cache
def built(net):
    """The model, a function of it that gives the peer's target layer, our settings, and the peer's reshaping."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if net == "resnet18":
            import_torchvision()
            from torchvision.models import resnet18

            return resnet18(num_classes=10).double().eval(), lambda m: m.layer1, {"target_layer": "layer1"}, None
        # Older ones draw other weights than those that the file is of.
        timm = pytest.importorskip("timm", minversion="1.0.31" if net == "vit" else None)
        if net == "vit":
            size = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
            model = timm.create_model("vit_tiny_patch16_224", **size)
            reshape = lambda t: t[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
            return model.double().eval(), lambda m: m.blocks[-1].norm1, {}, reshape
        size = {"img_size": SIZE, "window_size": 2, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
        model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **size)
        return model.double().eval(), lambda m: m.norm, {}, lambda t: t.movedim(3, 1)


def theirs(name, net, x):
    """The peer's maps; ScoreCAM's masks resized as in its paper's code and as here, not from corner to corner."""
    import_torchvision()
    peer = importlib.import_module("pytorch_grad_cam")
    model, layer, _, reshape = built(net)
    peer.activations_and_gradients.ActivationsAndGradients.clear = lambda self: None  # raises after ShapleyCAM
    cls = getattr(peer, THEIRS[name])
    if name == "shapleycam" and reshape is not None:

        class Reshaped(cls):  # the peer forgets to reshape the activations
            def get_cam_image(self, x, layer, targets, activations, grads, eigen_smooth):
                weights = self.get_cam_weights(x, layer, targets, activations, grads)
                return (weights[:, :, None, None] * reshape(activations).detach().numpy()).sum(1)

        cls = Reshaped
    original = torch.nn.UpsamplingBilinear2d
    torch.nn.UpsamplingBilinear2d = functools.partial(torch.nn.Upsample, mode="bilinear", align_corners=False)
    options = {"ablation_layer": peer.ablation_layer.AblationLayer()} if name == "ablationcam" else {}
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            cls(model, [] if name == "fullgrad" else [layer(model)], reshape_transform=reshape, **options) as cam,
        ):
            if name == "finercam":
                return cam(x.clone(), None, target_idx=CLASS)
            target = peer.utils.model_targets.ClassifierOutputTarget(CLASS)
            return cam(x.clone(), [target] * len(x))
    finally:
        torch.nn.UpsamplingBilinear2d = original


def scaled(maps):
    """Maps (N, H, W), each scaled to [0, 1]."""
    maps = maps - maps.min((1, 2), keepdims=True)
    return maps / maps.max((1, 2), keepdims=True)


@pytest.mark.parametrize(("name", "net"), CASES)
def test_same_map(request, name, net):
    model, _, settings, _ = built(net)
    count = 1 if name in PASSES else 2
    x = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    explainer = EXPLAINERS.get(name)(model, **({} if name == "fullgrad" else settings))
    ours = scaled(explainer.attribute(x, CLASS)[:, 0].numpy())
    stored = StoredResults("pytorch_grad_cam", "grad_cam.json", f"{request.node.path.name}::{request.node.name}")
    weights = np.array([float(p.detach().abs().sum()) for p in model.parameters()])
    every = np.s_[:, 1::3, 1::3]  # every third pixel, so that the file stays small

    def compute():
        maps = theirs(name, net, x)
        if name == "eigencam" or name == "eigengradcam":  # its sign is the solver's
            maps = [signed(m, o, name, net, x[i : i + 1]) for i, (m, o) in enumerate(zip(maps, ours, strict=True))]
        return np.round(scaled(np.stack(maps))[every], 6).tolist()

    expected = np.array(stored.result(THEIRS[name], [x.numpy(), weights], compute))
    assert np.abs(ours[every] - expected).max() < 1e-4
    for mine, other in zip(ours[every], expected, strict=True):
        assert np.corrcoef(mine.ravel(), other.ravel())[0, 1] > 0.99999


def signed(their_map, our_map, name, net, x):
    """Their map, or that of the other sign, whichever is ours."""
    if np.abs(scaled(their_map[None])[0] - our_map).max() < 1e-4:
        return their_map
    peer = importlib.import_module("pytorch_grad_cam")
    module = importlib.import_module(f"pytorch_grad_cam.{'eigen_cam' if name == 'eigencam' else 'eigen_grad_cam'}")
    original = module.get_2d_projection
    module.get_2d_projection = lambda activations: -original(activations)
    assert peer
    try:
        return theirs(name, net, x)[0]
    finally:
        module.get_2d_projection = original
