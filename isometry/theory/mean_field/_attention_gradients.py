"""Gradients behind attention in the limit of many features: three ways back.

The gradient of a loss with respect to the output tokens is known by its Gram matrix
G_tt' = E g_t · g_t', over weights behind the attention. It comes back to the tokens

- through the values: E Aᵀ G A;
- through the logits l_ts, whose gradient is c_ts = A_ts g_t · (v_s − Σ_r A_tr v_r) with
  v = x W_V W_O, Gaussian for given A and G. It multiplies keys on its way to queries,
  and queries on its way to keys.

Terms that mix two of the three vanish, because each has matrices of its own.
"""

from typing import NamedTuple

import numpy as np

from isometry.theory.mean_field._attention import Gram, attention_weights, factor_of


class PulledBack(NamedTuple):
    """Gram matrices of gradients at the tokens that an attention reads.

    They are for weights of scale 1: those of values and outputs multiply all three by
    their squares, those of queries and keys the last two.

    Attributes:
        value: Of what comes through the values.
        query: Of what comes through the queries.
        key: Of what comes through the keys.
    """

    value: Gram
    query: Gram
    key: Gram


def pulled_back(
    gram: Gram,
    gradient: Gram,
    strength: float,
    *,
    causal: bool,
    samples: int,
    rng: np.random.Generator,
) -> PulledBack:
    """Return the gradient at the tokens of an attention, for that at its outputs.

    Args:
        gram: C, x_s · x_s'/d of the tokens that are read.
        gradient: G at the outputs.
        strength: sigma_q sigma_k.
        causal: Whether a token attends to itself and earlier ones only.
        samples: The number of draws of A, where it is not uniform.
        rng: Draws them.
    """
    if strength == 0:
        # Uniform attention is the same in every draw.
        samples = 1
    total = np.zeros((3, *gram.shape))
    both = gradient * gram
    for block in attention_weights(
        factor_of(gram),
        strength,
        causal=causal,
        samples=samples,
        rng=rng,
        length=len(gram),
    ):
        weights = block[:, 0]
        columns = weights.transpose(0, 2, 1)
        # x_s · y_t and y_t · y_t', where y = A x are the means that tokens see.
        rows = weights @ gram
        means = rows @ columns
        value = columns @ gradient @ weights
        # Σ_ss' A_ts A_t's' C_ss' (x_s − y_t) · (x_s' − y_t')
        crossed = weights @ (rows**2).transpose(0, 2, 1)
        query = weights @ gram**2 @ columns + means**2
        query = query - crossed - crossed.transpose(0, 2, 1)
        # Σ_tt' G_tt' C_tt' A_ts A_t's' (x_s − y_t) · (x_s' − y_t')
        seen = both @ weights
        crossed = (seen * rows).transpose(0, 2, 1) @ weights
        key = gram * (columns @ seen)
        key = key + columns @ (both * means) @ weights
        key = key - crossed - crossed.transpose(0, 2, 1)
        total += np.stack([value, gradient * query, key]).sum(axis=1)
    value, query, key = total / samples
    return PulledBack(value, query, key)
