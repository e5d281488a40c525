"""Modalities: what they hold, what they prepare, what they guess."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaikit.core import MODALITIES
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import ContextualDecomposition, Gradient, IntegratedGradients
from xaikit.metrics import AbPC, MuFidelity, Sparseness
from xaikit.modality import Image, Modality, Tabular, Text, TimeSeries, as_modality
from xaikit.transforms import BaselinePerInput

ONE = {
    "image": torch.rand(2, 3, 8, 8),
    "text": torch.randint(5, (2, 6)),
    "time_series": torch.rand(2, 3, 16),
    "tabular": torch.rand(2, 5),
}


@pytest.mark.parametrize("name", sorted(ONE))
def test_a_guess_by_form(name):
    assert Modality.of(ONE[name]) == as_modality(name)
    assert as_modality(as_modality(name).spec()) == as_modality(name)


def test_what_could_be_several_things():
    for x in (torch.rand(3), torch.rand(2, 2, 2, 2, 2), torch.randint(5, (2, 3, 4)), torch.rand(2, 3).cfloat()):
        with pytest.raises(InvalidInputError, match="name their modality, one of image, "):
            Modality.of(x)
    with pytest.raises(InvalidTypeError, match="inputs must be a tensor"):
        Modality.of("photo.png")
    with pytest.raises(LookupError, match="did you mean 'image'"):
        as_modality("imag")
    with pytest.raises(InvalidTypeError, match="expected modality"):
        as_modality(3)


def test_prepare_changes_what_an_explainer_has():
    image = Image(baseline="mean", feature_mask="grid:n_patches=4")
    model = nn.Linear(3, 1)
    assert image.prepare(IntegratedGradients(model, n_steps=7)) == IntegratedGradients(model, n_steps=7).set_kwargs(
        baseline="mean:channel_axis=1"
    )
    assert image.prepare("contextual_decomposition").feature_mask.n_patches == 4
    assert image.prepare(Gradient(model)) == Gradient(model)
    ablation = Tabular(baseline=1.0).prepare("captum.feature_ablation")
    assert ablation.baseline.value == 1.0
    assert ablation.feature_mask.NAME == "columns"


def test_prepare_changes_what_a_metric_has():
    text = Text(baseline="token_id:token=0")
    for method in (MuFidelity(n_iter=7), "mu_fidelity:n_iter=7", MuFidelity(n_iter=7).spec()):
        assert text.prepare(method) == MuFidelity(n_iter=7, baseline="token_id:token=0", feature_mask="tokens")
    assert text.prepare(AbPC) == AbPC(baseline="token_id:token=0", channel_axis=-1)
    assert text.prepare("sparseness") == Sparseness()
    both = as_modality((Image(baseline="mean"), Tabular(baseline=0.5)), n_inputs=2).prepare("abpc")
    assert both == AbPC(baseline=("mean:channel_axis=1", 0.5), channel_axis=1)
    # Vectors of tokens and images have no channel axis in common; each input's is the usual one.
    assert as_modality((Image(), Text()), n_inputs=2).prepare("abpc").channel_axis is None


def test_the_channel_axis_reaches_every_transform():
    series = TimeSeries(channel_axis=-1, feature_mask="time_windows:n_windows=4")
    x = torch.rand(2, 16, 3)
    cd = series.prepare(ContextualDecomposition)
    assert torch.equal(cd.feature_mask(x)[0, :, 1], torch.arange(16) // 4)
    made = series.prepare(IntegratedGradients).baseline(x)
    assert torch.allclose(made, x.mean(1, keepdim=True).expand_as(x))
    assert torch.equal(series.postprocess(x), x.sum(2, keepdim=True))
    kept = TimeSeries(channel_axis=-1, baseline="mean:channel_axis=1").prepare(IntegratedGradients)
    assert kept.baseline.channel_axis == 1
    image = Image(channel_axis=-1).prepare(ContextualDecomposition).feature_mask(torch.rand(1, 4, 4, 3))
    assert torch.equal(image[..., 0], image[..., 2])
    assert image.unique().numel() == 16


def test_text_at_its_embeddings_and_at_its_tokens():
    hidden = torch.randn(2, 6, 4)
    assert torch.equal(Text().postprocess(hidden), hidden.sum(2, keepdim=True))
    assert torch.equal(Text().postprocess(hidden[..., 0]), hidden[..., 0])
    groups = Text().prepare(ContextualDecomposition).feature_mask(hidden)
    assert torch.equal(groups[0, :, 3], torch.arange(6))


class ImageAndTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.table = nn.Linear(3 * 64, 2).double(), nn.Linear(5, 2).double()

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.image(image.flatten(1)) + self.table(table)


def test_several_inputs_have_a_modality_each():
    model = ImageAndTable()
    inputs = (torch.rand(2, 3, 8, 8).double(), torch.rand(2, 5).double())
    modality = Modality.of(inputs)
    assert modality == as_modality(("image", "tabular"), 2)
    assert MODALITIES.create(modality.spec()) == modality
    modality = as_modality((Image(baseline="mean", feature_mask="grid:n_patches=2"), Tabular(baseline=0.5)), 2)
    prepared = modality.prepare(IntegratedGradients(model))
    assert isinstance(prepared.baseline, BaselinePerInput)
    image, table = prepared.attribute(inputs, 1)
    # A linear model: weight * (input - baseline), each input with its own baseline.
    absent = inputs[0].mean((2, 3), keepdim=True)
    assert torch.allclose(image.flatten(1), model.image.weight[1] * (inputs[0] - absent).flatten(1))
    assert torch.allclose(table, model.table.weight[1] * (inputs[1] - 0.5))
    assert IntegratedGradients.from_spec(prepared.spec(), model) == prepared
    pooled = modality.postprocess((image, table))
    assert [tuple(p.shape) for p in pooled] == [(2, 1, 8, 8), (2, 5)]

    ablation = modality.prepare("captum.feature_ablation").bind(model)
    image, table = ablation.attribute(inputs, 1)
    contribution = (model.image.weight[1].view(3, 8, 8) * (inputs[0] - absent))[:, :, :4, :4].sum((1, 2, 3))
    assert torch.allclose(image[:, 0, 0, 0], contribution)
    assert torch.allclose(table, model.table.weight[1] * (inputs[1] - 0.5))
    cd = modality.prepare(ContextualDecomposition).bind(model).attribute(inputs, 1)
    assert cd[0][0].unique().numel() == 4
    assert cd[1][0].unique().numel() == 5


def test_wrong_numbers_of_modalities():
    with pytest.raises(InvalidInputError, match=r"2 modalities \(image, text\) for 3 inputs"):
        as_modality(("image", "text"), 3)
    with pytest.raises(InvalidInputError, match="2 modalities .* for 1 input;"):
        as_modality(("image", "text"))
    assert as_modality("tabular", 3).each(3) == (Tabular(),) * 3
    with pytest.raises(InvalidTypeError, match="must hold modalities of one input each"):
        as_modality((("image", "text"), "text"), 2)
    with pytest.raises(InvalidInputError, match="2 baselines for 1 inputs"):
        as_modality(("image", "tabular"), 2).prepare(IntegratedGradients(nn.Linear(3, 1))).attribute(torch.rand(2, 3))
