"""Moments of the Jacobian of attention: a bulk, and outliers that carry its mean."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.theory.laws._moments import Moments
from isometry.theory.mean_field import _attention
from isometry.theory.mean_field._attention import Gram


class AttentionMoments(NamedTuple):
    """What is known of the Jacobian of skip x + branch Attention(x) over all tokens.

    Attributes:
        mean: E lam of all values, |J|_F²/(tokens · width): skip² and the three paths.
        value: The share of the path through the values, A ⊗ W_V W_O.
        query: The share of the path through the queries.
        key: The share of the path through the keys.
        bulk: Mean and variance of lam without the paths through queries and keys: of
            all singular values but the outliers.
        outliers: How many singular values those two paths add at most. Each of their
            lam is of the order of the width, and all together have the share
            outliers/(tokens · width) of the values.

    Example:
        >>> moments = theory.attention_moments([[1.0, 0.3], [0.3, 1.0]])
        >>> moments.outliers
        2
    """

    mean: float
    value: float
    query: float
    key: float
    bulk: Moments
    outliers: int


@public("attention_moments")
def attention_moments(
    gram: ArrayLike,
    *,
    heads: int = 1,
    sigma_q: float = 1.0,
    sigma_k: float = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float = 1.0,
    causal: bool = False,
    skip: float = 1.0,
    branch: float = 1.0,
    samples: int = 4096,
    key: Key | None = None,
) -> AttentionMoments:
    """Compute what is known of the singular values of an attention layer.

    J is the Jacobian of skip x + branch Attention(x), from all tokens to all tokens,
    with random Gaussian weights as in `attention_gram`, in the limit of many features.
    It has two parts. Through the values it is A ⊗ W_V W_O, a full matrix. Through
    queries and keys, the softmax itself changes: for each head that is a matrix of rank
    tokens · (tokens − 1), whose squared singular values grow with the width. So these
    outliers have no mass, but a share of E lam that does not vanish. A law of the bulk
    has `bulk.mean`, and the averaged partial Jacobian norm measures `mean`.

    At parallel tokens the second part is zero, and with it the gradients of query and
    key weights (Noci et al., 2022). It is zero too for uniform attention, sigma_q = 0.

    Args:
        gram: x_s · x_t/d of the tokens that are read, of shape (tokens, tokens).
        heads: The number of heads, each of width d/heads.
        sigma_q: Scale of the query weights: fan_in · Var(W_ij) = sigma_q².
        sigma_k: Scale of the key weights.
        sigma_v: Scale of the value weights.
        sigma_o: Scale of the output weights.
        causal: Whether a token attends to itself and earlier tokens only.
        skip: The factor of x.
        branch: The factor of the attention.
        samples: Draws of A, unless attention is uniform. The error of a share is about
            1/√samples of it.
        key: The random key of these draws. None is `jax.random.key(0)`: equal arguments
            give equal results.

    Returns:
        The moments.

    Raises:
        InputError: `gram` is not square, symmetric and positive; a number out of range.

    Example:
        >>> import numpy as np
        >>> gram = np.full((6, 6), 0.3) + 0.7 * np.eye(6)
        >>> moments = theory.attention_moments(gram, skip=0.0)
        >>> round(moments.value, 2), round(moments.query + moments.key, 2)
        (0.26, 0.18)
    """
    matrix = _attention.checked_gram(gram)
    _attention.check_scales(
        sigma_q=sigma_q, sigma_k=sigma_k, sigma_v=sigma_v, sigma_o=sigma_o
    )
    _attention.check_factors(skip=skip, branch=branch)
    heads = checks.integer("heads", heads, low=1)
    samples = checks.integer("samples", samples, low=1)
    if not np.diag(matrix).min() > 0:
        raise InputError("gram has a token of length zero on its diagonal.")
    strength = float(sigma_q * sigma_k)
    found = _Sums(matrix)
    rng = _attention.generator(key)
    # Uniform attention is the same in every draw.
    num = 1 if strength == 0 else samples
    for weights in _attention.attention_weights(
        _attention.factor_of(matrix),
        strength,
        causal=causal,
        samples=num,
        rng=rng,
        length=len(matrix),
    ):
        found.add(weights[:, 0])
    found.divide(num)
    gain = float(branch * sigma_v * sigma_o) ** 2
    value = gain * float(found.value)
    query = gain * strength**2 * float(found.query)
    by_key = gain * strength**2 * float(found.key)
    second = gain**2 * float(found.second(heads))
    tokens = len(matrix)
    # A logit for each pair of tokens in each head. Adding a number to all logits of a
    # row changes no weight, so one of each row is lost.
    outliers = tokens * (tokens - 1) * heads
    return AttentionMoments(
        mean=skip**2 + value + query + by_key,
        value=value,
        query=query,
        key=by_key,
        # skip times the identity, and a matrix that a rotation makes free of it.
        bulk=Moments(
            skip**2 + value,
            2 * skip**2 * value + second - value**2,
        ),
        outliers=outliers // 2 if causal else outliers,
    )


class _Sums:
    """Means over draws of A of what the moments consist of, for unit scales."""

    def __init__(self, gram: Gram):
        self.gram = gram
        self.value = self.query = self.key = self.fourth = 0.0
        self.of_rows = np.zeros_like(gram)
        self.of_columns = np.zeros_like(gram)

    def add(self, weights: _attention.Weights) -> None:
        """Add the draws of a block."""
        gram = self.gram
        tokens = len(gram)
        squares = weights**2
        self.value += squares.sum() / tokens
        # The tokens that a row sees, centred by its weights: the softmax has the
        # derivative diag(A_t) − A_t A_tᵀ.
        rows = weights @ gram
        means = (rows * weights).sum(axis=-1)
        # Σ_ss' A_s A_s' C_ss' C̃_ss', with C̃ = C − row_s − row_s' + mean.
        products = ((weights @ gram**2) * weights).sum(axis=-1)
        crossed = ((weights * rows) * rows).sum(axis=-1)
        self.query += (products - 2 * crossed + means**2).sum() / tokens
        centred = np.diag(gram) - 2 * rows + means[..., None]
        own = (squares * centred).sum(axis=-1)
        self.key += (own * np.diag(gram)).sum() / tokens
        # A Aᵀ and Aᵀ A, of which the second moment is made.
        of_rows = weights @ weights.transpose(0, 2, 1)
        self.of_rows += of_rows.sum(axis=0)
        self.of_columns += (weights.transpose(0, 2, 1) @ weights).sum(axis=0)
        self.fourth += (of_rows**2).sum() / tokens

    def divide(self, num: int) -> None:
        """Turn the sums over this number of draws into means."""
        self.value /= num
        self.query /= num
        self.key /= num
        self.fourth /= num
        self.of_rows /= num
        self.of_columns /= num

    def second(self, heads: int) -> float:
        """Return the second moment of lam of Σ_h A_h ⊗ W_V W_O / heads.

        W_V W_O of a head has rank d/heads, and its own fourth moment enters for one
        head with itself: 1 + 2/heads. Two different heads meet in their means.
        """
        between = (self.of_rows**2).sum() + (self.of_columns**2).sum()
        between /= len(self.gram)
        return (1 + 2 / heads) * self.fourth + (1 - 1 / heads) * between
