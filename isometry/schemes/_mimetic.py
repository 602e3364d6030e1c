"""Mimetic initialization: products of attention weights look like trained ones.

The products are those of query and key, and of value and output.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal.errors import NotDefined
from isometry._internal.types import Initializer as Init
from isometry._internal.types import Key
from isometry.initializers import Initializer
from isometry.initializers._initializer import Draw
from isometry.linalg._factorizations import thin_svd
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Scheme
from isometry.schemes._transformer import refuse_fused, xavier_uniform

# (alpha, beta) of section 4 of the paper.
QUERY_KEY = (0.7, 0.7)
VALUE_OUTPUT = (0.4, -0.4)


def factors(
    key: Key,
    shape: tuple[int, int],
    *,
    numbers: tuple[float, float],
    dtype: np.dtype,
) -> tuple[Float[Array, "width rank"], Float[Array, "width rank"]]:
    """Draw A and B such that A Bᵀ is near alpha Z + beta I, with Z_ij ~ N(0, 1/width).

    A Bᵀ is the best approximation of this matrix of the given rank, and AᵀA = BᵀB.

    Args:
        key: A random key.
        shape: The shape of A, and of B: (width, rank).
        numbers: (alpha, beta).
        dtype: The dtype of A and B.
    """
    width, rank = shape
    alpha, beta = numbers
    z = jax.random.normal(key, (width, width), dtype) * jnp.asarray(width**-0.5, dtype)
    identity = jnp.eye(width, dtype=dtype)
    target = jnp.asarray(alpha, dtype) * z + jnp.asarray(beta, dtype) * identity
    u, s, vt = thin_svd(target)
    # The SVD fixes singular vectors only up to a common sign, and A and B are drawn by
    # two programs, which must agree. So the largest entry of each left vector is made
    # positive.
    largest = jnp.take_along_axis(u, jnp.abs(u).argmax(0)[None, :], 0)
    root = jnp.sign(largest)[:, :rank] * jnp.sqrt(s)[None, :rank]
    return u[:, :rank] * root, vt.T[:, :rank] * root


def _check_rank(role: str, shape: tuple[int, ...], *, width: int, rank: int) -> None:
    """Refuse a rank above the width; role and shape are for the message."""
    if rank > width:
        raise NotDefined(
            f"the {role} of shape={shape} asks for rank {rank} of a {width}×{width} "
            "matrix; the channels (of a head for query and key, of all heads for value "
            "and output) must not outnumber the width."
        )


def _query_or_key(layer: Layer) -> Init:
    """Return the initializer of queries or keys: one factor for each head."""
    side = ("query", "key").index(layer.role)

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        # Heads are an axis of their own, or `layer.heads` tells their number.
        width, *heads, channels = shape
        num_heads = math.prod(heads) if heads else layer.heads or 1
        rank = math.prod((*heads, channels)) // num_heads
        # A width×width matrix has no factors of a rank above the width.
        _check_rank(layer.role, shape, width=width, rank=rank)

        def draw_head(key: Key) -> Array:
            return factors(key, (width, rank), numbers=QUERY_KEY, dtype=dtype)[side]

        # Query and key split the same key alike, so head h of both shares its matrix.
        keys = jax.random.split(key, num_heads)
        return jax.vmap(draw_head, out_axes=1)(keys).reshape(shape)

    return _attention_weight(layer, draw)


def _value_or_output(layer: Layer) -> Init:
    """Return the initializer of values or of the output: one factor for all heads."""
    is_value = layer.role == "value"

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        width, *channels = shape if is_value else (shape[-1], *shape[:-1])
        rank = math.prod(channels)
        _check_rank(layer.role, shape, width=width, rank=rank)
        # All heads together are one factor here, unlike for query and key.
        value, output = factors(key, (width, rank), numbers=VALUE_OUTPUT, dtype=dtype)
        return (value if is_value else output.T).reshape(shape)

    return _attention_weight(layer, draw)


def _attention_weight(layer: Layer, draw: Draw) -> Init:
    """Return the initializer with this draw function, named for the layer's role."""
    return Initializer(
        "mimetic",
        repr(layer.role),
        draw,
        least_axes=2,
        why="an attention weight has two or three.",
    )


def _mimetic(layer: Layer, sigma_w: float) -> Init:
    """Choose factors of one matrix in an attention, and xavier_uniform elsewhere."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    refuse_fused(layer, "mimetic")
    if layer.role in ("query", "key"):
        return _query_or_key(layer)
    if layer.role in ("value", "output"):
        return _value_or_output(layer)
    return xavier_uniform(layer, gain=1.0)


SCHEMES = (
    Scheme(
        "mimetic",
        _mimetic,
        "attention whose W_Q W_Kᵀ is near 0.7 I and whose W_V W_O is near -0.4 I, as "
        "in trained vision transformers",
        law="W_Q W_Kᵀ, in each head, and W_V W_O are the best approximations of their "
        "rank to 0.7 Z + 0.7 I and 0.4 Z - 0.4 I, Z_ij ~ N(0, 1/d); both factors share "
        "the singular values evenly; all other layers xavier_uniform()",
        citation="Trockman and Kolter (2023), arXiv:2305.09828",
        differs="circulating code draws Z uniformly, of the same variance",
        pairs=(("query", "key"), ("value", "output")),
        made_for="attentions",
        otherwise="draws what xavier does",
    ),
)
