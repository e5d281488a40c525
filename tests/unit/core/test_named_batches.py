"""Inputs and labels in one dict, as loaders of Hugging Face give them, and data that can be read once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from xaikit import RRR, Gradient, assess, evaluate, explain_dataset, recommend
from xaikit.core.batch import collate
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.shortcuts import scan


class Named(nn.Module):
    """Takes its inputs by name, as the models of Hugging Face do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    def forward(self, pixel_values):
        return {"logits": self.net(pixel_values)}


class Samples(Dataset):
    """Samples in one dict each, with a mask for every second one."""

    def __init__(self, masks=False):
        self.x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.masks = masks

    def __len__(self):
        return 12

    def __getitem__(self, index):
        mask = {"shortcut_masks": torch.eye(4) if index % 2 else None} if self.masks else {}
        return {"pixel_values": self.x[index], "labels": index % 2, **mask}


def test_labels_inside_a_dict_are_labels_wherever_data_go(tmp_path):
    model, samples = Named(), Samples()
    pair = (samples.x, torch.arange(12) % 2)
    forms = [samples, DataLoader(samples, batch_size=5), {"pixel_values": samples.x, "labels": pair[1]}]
    mask = torch.eye(4)
    expected = assess(model, pair, shortcut_masks=mask, explainers=(), progress=False)
    follows = scan(model, pair, "corner:size=1", progress=False).to_pandas()
    (abpc,) = evaluate(Gradient(model), "abpc", pair, progress=False).to_pandas()["mean"]
    for data in forms:
        assert assess(model, data, shortcut_masks=mask, explainers=(), progress=False).accuracy == expected.accuracy
        assert scan(model, data, "corner:size=1", progress=False).to_pandas().equals(follows)
        (value,) = evaluate(Gradient(model), "abpc", data, progress=False).to_pandas()["mean"]
        assert value == pytest.approx(abpc, rel=1e-4)
        history = RRR(n_epochs=1, random_state=0).fit(Named(), data, shortcut_masks=mask, progress=False)
        assert history.epochs[0]["accuracy"] > 0
    recommend(model, data=forms[1], explainers=["gradient"], n_samples=2, seconds=5)
    run = explain_dataset(Gradient(model), samples, out=tmp_path / "run", progress=False)
    assert [sample.label for sample in run] == pair[1].tolist()
    labelled = Gradient(model).attribute({"pixel_values": samples.x}, pair[1])["pixel_values"]
    assert labelled.shape == samples.x.shape


def test_masks_inside_a_dict():
    samples, model = Samples(masks=True), Named()
    batch = next(iter(DataLoader(samples, batch_size=4, collate_fn=collate)))
    assert [m is None for m in batch["shortcut_masks"]] == [True, False] * 2
    loss = RRR().loss(model, batch)
    same = RRR().loss(model, ({"pixel_values": batch["pixel_values"]}, batch["labels"], batch["shortcut_masks"]))
    torch.testing.assert_close(loss.total, same.total)
    RRR(n_epochs=1).fit(model, samples, progress=False)
    with pytest.raises(InvalidTypeError, match="must hold its labels under 'labels' or 'label', got pixel_values; or"):
        RRR().loss(model, {"pixel_values": samples.x})


def test_what_can_be_read_once_is_refused_where_it_is_read_twice():
    model, pair = Named(), (Samples().x, torch.arange(12) % 2)
    for reader, call in (
        ("assess", lambda data: assess(model, data, shortcut_masks=torch.eye(4), progress=False)),
        ("scan", lambda data: scan(model, data, "corner:size=1", progress=False)),
    ):
        with pytest.raises(InvalidInputError, match=rf"{reader} reads the data several times.*or list\(data\)"):
            call(iter([pair]))
        call([pair])
