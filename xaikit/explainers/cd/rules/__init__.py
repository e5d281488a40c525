"""The rules by kind of op; importing this package registers them."""

from xaikit.explainers.cd.rules import (
    activations,
    affine,
    by_kind,
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
    "by_kind",
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
