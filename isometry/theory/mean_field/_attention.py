"""Attention in the limit of many features: which tokens mix, and how much.

Tokens x_s of width d are known by their Gram matrix C_st = x_s · x_t/d. With W_Q and
W_K of variances sigma_q²/d and sigma_k²/d, the logits x_t W_Q W_Kᵀ x_s/√d_k of a random
head are Gaussian of order one, with covariance

    E l_ts l_t's' = (sigma_q sigma_k)² C_tt' C_ss',

so the weights A = softmax(l) are not uniform. The output has the Gram matrix
(sigma_v sigma_o)² E A C Aᵀ.
"""

import math
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key

Points = Float[np.ndarray, " points"]
Gram = Float[np.ndarray, "tokens tokens"]
Factor = Float[np.ndarray, "tokens rank"]
Weights = Float[np.ndarray, "samples tokens tokens"]

# Steps of the trapezoidal rule, in logits and in log t. Integrands are analytic up to
# π/2 away from the real line, so the error is exp(−π²/0.3), 5e-15. Twice as wide steps
# have an error of 1e-7.
_STEP = 0.3

# Standard deviations of logits that are integrated over; beyond, their mass is 1e-19.
_REACH = 9.0

# Steps for each standard deviation of the logits, at least: the error is 1e-34, with
# half as many 1e-8.
_PER_DEVIATION = 2

# The integrand falls like t towards small t, and so to 1e-13 over this way in log t.
_TAIL = 30.0

# Logits of larger deviation attend to one token, and no number of this size is meant.
_LARGEST_BETA = 20.0

# Numbers held at once in the sampling of weights: 30 MB.
_BLOCK = 4_000_000

# A matrix with an eigenvalue below minus this share of its largest entry, for each
# token, is no Gram matrix. In float32 rounding leaves 1e-7.
_NEGATIVE = 1e-6


@public("participation")
def participation(
    tokens: int,
    beta: float,
    correlation: float = 1.0,
) -> float:
    """Compute E Σ_s A_s A'_s, where A and A' are the softmax of Gaussian logits.

    The logits l_s are independent with variance beta², and those of the two rows have
    this correlation, token by token. At correlation 1 both rows are the same, and the
    result is E Σ A_s²: one over the number of tokens that a row attends to. Uniform
    attention has 1/tokens, and attention to one token 1. With 1/Σ² as an integral of
    t exp(−t Σ) the expectation factorizes over tokens, so the result is exact to 1e-11.

    At fixed beta, tokens · E Σ A_s A'_s → exp(correlation · beta²) for many tokens.

    Args:
        tokens: The number of tokens that a row sees.
        beta: The standard deviation of the logits, up to 20. For equally long tokens of
            cosine ρ and mean square q it is sigma_q sigma_k q √(1 − ρ), and two rows of
            one head have the correlation ρ.
        correlation: The correlation of the logits of two rows, in [−1, 1].

    Returns:
        The expectation.

    Raises:
        InputError: A number out of range.

    Example:
        >>> round(theory.participation(2, 1.0), 8)
        0.63683815
        >>> round(64 * theory.participation(64, 0.5, correlation=0.5), 3)
        1.13
    """
    tokens = checks.integer("tokens", tokens, low=1)
    checks.on_host("beta", beta)
    checks.on_host("correlation", correlation)
    checks.number("beta", beta, low=0.0, high=_LARGEST_BETA)
    checks.number("correlation", correlation, low=-1.0, high=1.0)
    beta, rho = float(beta), float(correlation)
    if tokens == 1:
        return 1.0
    # The sums are between 1/n and n times the largest exponential.
    reach = _REACH * beta
    low = -reach - math.log(tokens) - _TAIL
    # Whole multiples of the step, so that points of both integrals have their sums in
    # common.
    high = reach + 6.0
    first = math.floor(low / _STEP)
    last = math.ceil(high / _STEP)
    log_t = _STEP * np.arange(first, last)
    if rho == 1:
        weight, second = _laplace(log_t, beta, power=2)
        total = weight ** (tokens - 1) * second
        integrand = np.exp(2 * log_t) * total
        return float(tokens * _STEP * integrand.sum())
    # Given the common part of both rows their logits are independent.
    common, masses = _normal(beta * math.sqrt(abs(rho)))
    rest = beta * math.sqrt(1 - abs(rho))
    shifted = log_t + common[:, None]
    # In millionths: sums of the same points differ by rounding.
    keys = np.rint(1e6 * shifted)
    _, first_of, index = np.unique(
        keys,
        return_index=True,
        return_inverse=True,
    )
    distinct = shifted.ravel()[first_of]
    weight, mean = _laplace(distinct, rest, power=1)
    plain = weight[index].reshape(shifted.shape)
    mean = mean[index].reshape(shifted.shape)
    # t exp(l) is exp(log t + shift) times the exponential of the logit that is left.
    tilted = np.exp(shifted) * mean
    # A negative correlation is a common part of the other sign.
    order = slice(None)
    if rho < 0:
        order = slice(None, None, -1)
    weight = (masses * plain.T) @ plain[order]
    product = (masses * tilted.T) @ tilted[order]
    total = weight ** (tokens - 1) * product
    return float(tokens * _STEP**2 * total.sum())


def _normal(deviation: float) -> tuple[Points, Points]:
    """Return points of a Gaussian and their masses: the trapezoidal rule."""
    if deviation == 0:
        return np.zeros(1), np.ones(1)
    step = min(_STEP, deviation / _PER_DEVIATION)
    count = math.ceil(_REACH * deviation / step)
    points = step * np.arange(-count, count + 1)
    masses = np.exp(-((points / deviation) ** 2) / 2)
    return points, masses / masses.sum()


def _laplace(
    log_t: Points,
    deviation: float,
    *,
    power: int,
) -> tuple[Points, Points]:
    """Return E exp(−t e^l) and E e^(power l) exp(−t e^l) of a Gaussian l."""
    points, masses = _normal(deviation)
    # t e^l, at each t and l.
    products = np.exp(log_t[:, None] + points)
    falling = np.exp(-products)
    tilted = masses * np.exp(power * points)
    return falling @ masses, falling @ tilted


@public("attention_gram")
def attention_gram(
    gram: ArrayLike,
    *,
    sigma_q: float = 1.0,
    sigma_k: float = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float = 1.0,
    causal: bool = False,
    skip: float = 1.0,
    branch: float = 1.0,
    depth: int = 1,
    samples: int = 4096,
    key: Key | None = None,
) -> Float[np.ndarray, "tokens tokens"]:
    """Compute the Gram matrix of tokens behind layers skip x + branch Attention(x).

    Attention(x)_t = Σ_s A_ts x_s W_V W_O, in any number of heads, with A = softmax of
    x_t W_Q · x_s W_K/√d_k. Weights have fan_in · Var(W_ij) = sigma². The matrix is the
    mean over weights in the limit of many features and of many entries of a head. There
    is no norm: divide the matrix by the mean squares for one.

    Without causal mask, and with one mean square q and one product p of all tokens, two
    numbers are left, and the result is exact:

        q' = skip² q + g (p + (q − p) E Σ A_s²),    g = (branch sigma_v sigma_o)²,
        p' = skip² p + g (p + (q − p) E Σ A_s A'_s),

    by `participation` with beta = sigma_q sigma_k √(q(q − p)). With sigma_q = 0
    attention is uniform, and exact too. Otherwise A is sampled.

    Args:
        gram: x_s · x_t/d, of shape (tokens, tokens).
        sigma_q: Scale of the query weights.
        sigma_k: Scale of the key weights.
        sigma_v: Scale of the value weights.
        sigma_o: Scale of the output weights.
        causal: Whether a token attends to itself and earlier tokens only.
        skip: The factor of x.
        branch: The factor of the attention.
        depth: The number of such layers, each with weights of its own.
        samples: Draws of A where it is sampled. The error of an entry is about
            1/√samples of the part that attention adds to it.
        key: The random key of these draws. None is `jax.random.key(0)`: equal arguments
            give equal results.

    Returns:
        The Gram matrix behind the last layer.

    Raises:
        InputError: `gram` is not square, symmetric and positive; a number out of range.

    Example:
        Uniform attention adds to the mean of the tokens alone, so that they become
        parallel:

        >>> gram = [[1.0, 0.5], [0.5, 1.0]]
        >>> theory.attention_gram(gram, sigma_q=0.0, depth=2)
        array([[3.25, 2.75],
               [2.75, 3.25]])
        >>> theory.attention_gram(gram, skip=0.0).round(4)
        array([[0.7934, 0.7714],
               [0.7714, 0.7934]])
    """
    matrix = checked_gram(gram)
    check_scales(sigma_q=sigma_q, sigma_k=sigma_k, sigma_v=sigma_v, sigma_o=sigma_o)
    check_factors(skip=skip, branch=branch)
    depth = checks.integer("depth", depth, low=1)
    samples = checks.integer("samples", samples, low=1)
    rng = generator(key)
    for _ in range(depth):
        mixed = mixed_gram(
            matrix,
            float(sigma_q * sigma_k),
            causal=causal,
            samples=samples,
            rng=rng,
        )
        strength = (branch * sigma_v * sigma_o) ** 2
        matrix = skip**2 * matrix + strength * mixed
    return matrix


def check_scales(**scales: float) -> None:
    """Require scales of weights, by name, to be numbers that are not negative."""
    for name, value in scales.items():
        checks.on_host(name, value)
        checks.number(name, value, low=0.0)


def check_factors(**factors: float) -> None:
    """Require factors of a block, by name, to be numbers."""
    for name, value in factors.items():
        checks.number(name, checks.on_host(name, value))


def checked_gram(gram: ArrayLike) -> Gram:
    """Return a Gram matrix in float64.

    Raises:
        InputError: It is not square, symmetric, finite and positive semidefinite.
    """
    checks.on_host("gram", gram)
    try:
        matrix = np.asarray(gram, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"gram={checks.show(gram)} is not made of numbers.") from None
    shape = matrix.shape
    if matrix.ndim != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise InputError(f"gram has shape {shape}; write (tokens, tokens).")
    if not np.isfinite(matrix).all():
        raise InputError("gram holds a number that is not finite.")
    largest = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > _NEGATIVE * largest:
        raise InputError("gram is not symmetric; write x @ x.T / width.")
    least = np.linalg.eigvalsh(matrix)[0]
    if least < -_NEGATIVE * largest * len(matrix):
        raise InputError(
            f"gram has the negative eigenvalue {least:.3g}; write x @ x.T / width."
        )
    return (matrix + matrix.T) / 2


def generator(key: Key | None) -> np.random.Generator:
    """Return NumPy's generator for a random key; None is `jax.random.key(0)`."""
    if key is None:
        key = jax.random.key(0)
    return randomness.host_generator(checks.key("key", key))


def mixed_gram(
    gram: Gram,
    strength: float,
    *,
    causal: bool,
    samples: int,
    rng: np.random.Generator,
    length: int | None = None,
) -> Gram:
    """Return E A C Aᵀ for the attention weights A of a random head.

    Args:
        gram: C. Its tokens may be those of several sequences, one after the other; each
            attends to itself alone, with the same weights W_Q and W_K.
        strength: sigma_q sigma_k.
        causal: Whether a token attends to itself and earlier ones only.
        samples: The number of draws of A, where it is sampled.
        rng: Draws them.
        length: The number of tokens of a sequence; None is all of them.
    """
    num_tokens = len(gram)
    length = length or num_tokens
    if strength == 0:
        # The softmax of equal logits, in each sequence for itself.
        num_sequences = num_tokens // length
        own_sequence = np.eye(num_sequences)
        uniform = np.kron(own_sequence, visible(length, causal))
        uniform = uniform / uniform.sum(axis=1, keepdims=True)
        return uniform @ gram @ uniform.T
    q, p = gram[0, 0], gram[0, -1]
    symmetric = np.where(np.eye(num_tokens, dtype=bool), q, p)
    is_one = length == num_tokens and not causal
    if is_one and np.allclose(gram, symmetric, rtol=1e-12, atol=1e-300):
        return _mixed_symmetric(num_tokens, float(q), p=float(p), strength=strength)
    factor = factor_of(gram)
    sequences = factor.reshape(-1, length, factor.shape[1])
    total = np.zeros_like(gram)
    for weights in attention_weights(
        factor,
        strength,
        causal=causal,
        samples=samples,
        rng=rng,
        length=length,
    ):
        mixed = weights @ sequences
        rows = mixed.reshape(len(mixed), num_tokens, -1)
        # Over draws and the columns of the factor.
        axes = (0, 2)
        total += np.tensordot(rows, rows, (axes, axes))
    return total / samples


def _mixed_symmetric(
    tokens: int,
    q: float,
    p: float,
    strength: float,
) -> Gram:
    """Return E A C Aᵀ if all tokens have one mean square q and one product p."""
    if tokens == 1 or q == 0:
        return np.full((tokens, tokens), q)
    beta = strength * math.sqrt(max(q * (q - p), 0.0))
    own = p + (q - p) * participation(tokens, beta)
    # Two rows of one head see logits whose correlation is that of the tokens.
    cross = p + (q - p) * participation(tokens, beta, correlation=p / q)
    return np.where(np.eye(tokens, dtype=bool), own, cross)


def factor_of(gram: Gram) -> Factor:
    """Return L with C = L Lᵀ, without columns that vanish."""
    values, vectors = np.linalg.eigh(gram)
    is_kept = values > 1e-14 * values[-1]
    lengths = np.sqrt(values[is_kept])
    return vectors[:, is_kept] * lengths


def visible(
    tokens: int,
    causal: bool,
) -> Gram:
    """Return 1 where a token (row) attends to another (column), else 0."""
    ones = np.ones((tokens, tokens))
    if causal:
        return np.tril(ones)
    return ones


def attention_weights(
    factor: Factor,
    strength: float,
    *,
    causal: bool,
    samples: int,
    rng: np.random.Generator,
    length: int,
) -> Iterator[Float[np.ndarray, "samples sequences tokens tokens"]]:
    """Draw the attention weights of random heads, in blocks.

    Args:
        factor: L with C = L Lᵀ, of all tokens of all sequences.
        strength: sigma_q sigma_k.
        causal: Whether a token attends to itself and earlier ones only.
        samples: The number of heads.
        rng: Draws the logits.
        length: The number of tokens of a sequence.

    Yields:
        A of (samples in the block, sequences, tokens, tokens).
    """
    rank = factor.shape[1]
    sequences = factor.reshape(-1, length, rank)
    transposed = sequences.transpose(0, 2, 1)
    is_visible = visible(length, causal) == 1
    hidden = np.where(is_visible, 0.0, -np.inf)
    # Numbers that one head takes: its matrix, and the logits of all tokens.
    num_tokens = len(sequences) * length
    of_one = rank**2 + num_tokens * (rank + length)
    block = max(1, _BLOCK // of_one)
    for first in range(0, samples, block):
        num = min(block, samples - first)
        shape = (num, 1, rank, rank)
        middle = strength * rng.standard_normal(shape)
        logits = sequences @ middle @ transposed
        logits = logits + hidden
        # The largest logit is subtracted, so that no exponential overflows.
        logits -= logits.max(axis=-1, keepdims=True)
        weights = np.exp(logits)
        yield weights / weights.sum(axis=-1, keepdims=True)
