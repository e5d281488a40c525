"""The rules by kind of op; importing this package registers them."""

from xaikit.explainers.cd.rules import (
    activations,
    affine,
    casts,
    einsum,
    elementwise,
    embedding,
    metadata,
    normalisation,
    pooling,
    products,
    recurrent,
    reductions,
    structure,
    writes,
)

__all__ = [
    "activations",
    "affine",
    "casts",
    "einsum",
    "elementwise",
    "embedding",
    "metadata",
    "normalisation",
    "pooling",
    "products",
    "recurrent",
    "reductions",
    "structure",
    "writes",
]
