"""Similar gradients: which training samples move the weights in the direction in which a test sample moves them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from xaikit.influence.loss_gradients import LossGradients, SampleLoss, dot
from xaikit.influence.result import Influences, names_of


@torch.inference_mode(mode=False)
def gradient_similarity(  # noqa: PLR0913
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    layers: Any = None,
    head: str | int = "logits",
    loss: SampleLoss | None = None,
    batch_size: int = 128,
    progress: bool = True,
) -> Influences:
    """The cosine between the gradients of the losses of training and test samples (Charpiat et al. 2019).

    Unlike `tracin` it does not depend on how large a sample's loss is: outliers do not come first everywhere.

    Args:
        model: a classifier; nothing of it is changed.
        train: the training samples: (x, y), a loader that does not shuffle, or a data set.
        test: the samples whose predictions are asked for, likewise.
        layers: modules whose weights count, a name or several; None for all.
        head: which output holds the logits.
        loss: function (output, labels) -> (N,); None for the cross-entropy.
        batch_size: samples in a pass.
        progress: show a progress bar.

    Returns:
        Influences, (test samples, training samples), from -1 to 1; 0 for a sample without a gradient.

    Raises:
        InvalidInputError: for a loader that shuffles, labels that are no classes.
        UnknownNameError: for a layer that is not there.
    """
    gradients = LossGradients(model, layers, head=head, loss=loss, batch_size=batch_size)
    test_gradients = gradients.of_data(test, "test")
    lengths = torch.stack([dot(g, g).sqrt() for g in test_gradients])
    columns = []
    with tqdm(disable=not progress, desc="gradient similarity", unit="sample") as bar:
        for batch in gradients.batches(train, "train"):
            for gradient in gradients.of_each(batch):
                length = dot(gradient, gradient).sqrt()
                products = torch.stack([dot(gradient, g) for g in test_gradients])
                columns.append((products / (lengths * length).clamp_min(torch.finfo(length.dtype).tiny)).cpu())
                bar.update()
    values = torch.stack(columns, 1)
    return Influences(values, "similar gradients", names_of(train, values.shape[1]))
