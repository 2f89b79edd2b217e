"""The last layer: logits from the inputs z, for ranker, trainer and `explain` alike. It learns nothing.

One function computes a logit everywhere (docs/formats.md §4): f64, terms added in listed order, a block's
value being the sum over its dimensions in order. An item's result does not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.last_layer_kernels import sum_terms, term_sums

Floats = npt.NDArray[np.float64]
Bounds = npt.NDArray[np.int64]
Terms = Sequence[tuple[str, slice]]


def term_bounds(terms: Terms) -> Bounds:
    """The [start, stop) of every term as i64 (terms, 2): what `logits` takes when it is called often."""
    return np.array([(part.start, part.stop) for _, part in terms], np.int64).reshape(-1, 2)


def logits(z_t: npt.NDArray[np.float32], weights: Floats, terms: Terms | Bounds) -> Floats:
    """Logits of n items under several heads.

    Args: z_t f32 (d, n), dimension-major; weights f64 (heads, d); terms as the assembler lists them, or
    their bounds.
    Returns f64 (heads, n). Raises ValueError where the shapes do not agree.
    """
    bounds = terms if isinstance(terms, np.ndarray) else term_bounds(terms)
    if z_t.shape[0] != weights.shape[1]:
        raise ValueError(f"z has {z_t.shape[0]} dimensions, the weights {weights.shape[1]}")
    out = np.empty((weights.shape[0], z_t.shape[1]), np.float64)
    sum_terms(np.ascontiguousarray(z_t, np.float32), np.ascontiguousarray(weights, np.float64), bounds, out)
    return out


def contributions(z: npt.NDArray[np.float32], weights: Floats, terms: Terms | Bounds) -> Floats:
    """The terms of one item's logit, f64 (terms,): added one after the other they equal `logits` to the bit.

    Args: z f32 (d,); weights f64 (d,) of one head.
    """
    bounds = terms if isinstance(terms, np.ndarray) else term_bounds(terms)
    out = np.empty(bounds.shape[0], np.float64)
    term_sums(np.ascontiguousarray(z, np.float32), np.ascontiguousarray(weights, np.float64), bounds, out)
    return out


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x) in f64, without overflow; 0 < result < 1 for |x| < 700."""
    positive = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, positive) / (1.0 + positive)


def log_sigmoid(x: Floats) -> Floats:
    """log of `sigmoid(x)` in f64, exact where the sigmoid itself would round to 0."""
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))
