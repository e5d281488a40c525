"""Which data `recommend` takes, and what it says of others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit import recommend
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


def test_bad_inputs():
    x = torch.randn(4, 5)
    with pytest.raises(InvalidTypeError, match=r"recommend takes a torch\.nn\.Module"):
        recommend("resnet", "image")
    with pytest.raises(InvalidInputError, match="recommend needs a modality"):
        recommend(mlp())
    with pytest.raises(UnknownNameError, match="did you mean 'tabular'"):
        recommend(mlp(), "tabula")
    with pytest.raises(UnknownNameError, match="did you mean 'gradient'"):
        recommend(mlp(), "tabular", explainers="gradien")
    with pytest.raises(InvalidInputError, match="2 modalities .* for 1 input"):
        recommend(mlp(), ("image", "tabular"), x)
    with pytest.raises(InvalidInputError, match=r"targets must have shape \(4,\), one for each sample, got \(3,\)"):
        recommend(mlp(), "tabular", (x, [0, 1, 0]))
    with pytest.raises(InvalidTypeError, match="differentiable must be True, False or None, got 'yes'"):
        recommend(mlp(), "tabular", differentiable="yes")
    with pytest.raises(InvalidInputError, match="n_samples must be >= 1"):
        recommend(mlp(), "tabular", n_samples=0)
    with pytest.raises(InvalidTypeError, match="has no argument 'metrics'"):
        recommend(mlp(), "tabular", metrics="abpc")
    with pytest.raises(InvalidInputError, match="data must be finite"):
        recommend(mlp(), "tabular", x * float("nan"))
    with pytest.raises(InvalidInputError, match="data holds no tensor"):
        recommend(mlp(), "tabular", iter([]))
    with pytest.raises(InvalidInputError, match="data must have a batch dimension first, got a scalar"):
        recommend(mlp(), "tabular", 3)
    with pytest.raises(InvalidTypeError, match="data must hold tensors or arrays of numbers, got str"):
        recommend(mlp(), "tabular", "all")
    with pytest.raises(InvalidInputError, match=r"pass data=\(inputs, targets\) with a function"):
        recommend(nn.Conv2d(1, 2, 3), "image", torch.randn(2, 1, 5, 5))


def test_arrays_lists_and_data_sets_are_read_like_tensors():
    model, x, y = mlp(), torch.randn(6, 5), torch.tensor([0, 1] * 3)
    truth = recommend(model, None, (x, y), explainers=["gradient"]).candidates[0].value
    for data in ((x.numpy(), y.numpy()), (x.double().numpy(), y.tolist()), torch.utils.data.TensorDataset(x, y)):
        assert recommend(model, None, data, explainers=["gradient"]).candidates[0].value == pytest.approx(truth)
    alone = recommend(model, None, x, explainers=["gradient"]).candidates[0].value
    assert recommend(model, None, x.numpy(), explainers=["gradient"]).candidates[0].value == pytest.approx(alone)


class TwoInputs(nn.Module):
    """Takes a vector and, where `optional` is False, must have a second one."""

    def __init__(self, *, optional):
        super().__init__()
        self.layer = nn.Linear(5, 2)
        if optional:
            self.forward = lambda x, kind=None: self.layer(x) if kind is None else self.layer(x) + kind
        else:
            self.forward = lambda x, kind: self.layer(x) + kind


def test_rows_that_look_one_hot_are_labels_unless_the_model_needs_them():
    x, y = torch.randn(6, 5), torch.tensor([0, 1] * 3)
    rows, scores = torch.eye(2)[y], torch.rand(6, 2)
    for labels in (rows, rows.long(), rows.numpy(), rows.tolist()):
        for model in (mlp(), TwoInputs(optional=True)):
            with pytest.raises(InvalidInputError, match="these are one-hot rows: pass targets.argmax"):
                recommend(model, None, (x, labels), explainers=["gradient"])
    with pytest.raises(InvalidInputError, match="of scores pass targets.argmax"):
        recommend(mlp(), None, (x, scores), explainers=["gradient"])
    with pytest.raises(InvalidTypeError, match="targets must be whole class indices of an integer type"):
        recommend(mlp(), None, (x, y.double()), explainers=["gradient"])
    for model, second in ((TwoInputs(optional=False), rows), (TwoInputs(optional=True), scores)):
        found = recommend(model, ("tabular", "tabular"), (x, second), explainers=["gradient"])
        assert found.candidates[0].value is not None
