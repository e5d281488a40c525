"""Relevance rules, one file a kind of operation; importing this package registers them."""

from xaikit.explainers.lrp.rules import affine, attention, batch_norm, elementwise, normalisation, products

__all__ = ["affine", "attention", "batch_norm", "elementwise", "normalisation", "products"]
