"""Mimetic initialization: the products of query and key, and of value and output, look like those of trained ones."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.initializers import Initializer, uniform
from isometry.linalg._factorizations import thin_svd
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Init, Scheme

QUERY_KEY, VALUE_OUTPUT = (0.7, 0.7), (0.4, -0.4)  # (alpha, beta); section 4 of the paper


def factors(
    key: Array, width: int, rank: int, alpha: float, beta: float, dtype
) -> tuple[Float[Array, "width rank"], Float[Array, "width rank"]]:
    """(A, B) with A Bᵀ the best approximation of rank `rank` to alpha Z + beta I, Z_ij ~ N(0, 1/width); AᵀA = BᵀB.

    Singular vectors have two signs: the largest entry of each left one is made positive, so that the program that
    draws A and the one that draws B agree.
    """
    z = jax.random.normal(key, (width, width), dtype) * jnp.asarray(width**-0.5, dtype)
    target = jnp.asarray(alpha, dtype) * z + jnp.asarray(beta, dtype) * jnp.eye(width, dtype=dtype)
    u, s, vt = thin_svd(target)
    largest = jnp.take_along_axis(u, jnp.abs(u).argmax(0)[None, :], 0)
    root = jnp.sqrt(s)[None, :rank]
    return u[:, :rank] * jnp.sign(largest)[:, :rank] * root, vt.T[:, :rank] * jnp.sign(largest)[:, :rank] * root


def _check_rank(role: str, shape: tuple[int, ...], width: int, rank: int) -> None:
    if rank > width:
        raise _checks.NotDefined(
            f"the {role} of shape={shape} asks for rank {rank} of a {width}×{width} matrix; the channels "
            "(of a head for query and key, of all heads for value and output) must not outnumber the width."
        )


def _draw_query_or_key(role: str):
    def draw(key, shape, dtype):
        width, *heads, rank = shape
        _check_rank(role, shape, width, rank)
        keys = jax.random.split(key, math.prod(heads))
        side = ("query", "key").index(role)
        drawn = jax.vmap(lambda k: factors(k, width, rank, *QUERY_KEY, dtype)[side], out_axes=1)(keys)
        return drawn.reshape(shape)

    return draw


def _draw_value_or_output(role: str):
    def draw(key, shape, dtype):
        width, *channels = shape if role == "value" else (shape[-1], *shape[:-1])
        _check_rank(role, shape, width, math.prod(channels))
        value, output = factors(key, width, math.prod(channels), *VALUE_OUTPUT, dtype)
        return (value if role == "value" else output.T).reshape(shape)

    return draw


def _mimetic(layer: Layer, sigma_w: float) -> Init:
    role = layer.role
    if role in ("query", "key", "value", "output"):
        draw = (_draw_query_or_key if role in ("query", "key") else _draw_value_or_output)(role)
        return Initializer("mimetic", repr(role), draw, least_axes=2, why="an attention weight has two or three.")
    bound = (6 / (layer.fan_in + layer.fan_out)) ** 0.5
    return uniform(low=-bound, high=bound)


SCHEMES = (
    Scheme(
        "mimetic",
        _mimetic,
        "attention whose W_Q W_Kᵀ is near 0.7 I and whose W_V W_O is near -0.4 I, as in trained vision transformers",
        law="W_Q W_Kᵀ, in each head, and W_V W_O are the best approximations of their rank to 0.7 Z + 0.7 I and "
        "0.4 Z - 0.4 I, Z_ij ~ N(0, 1/d); both factors share the singular values evenly; all other layers "
        "xavier_uniform()",
        citation="Trockman and Kolter (2023), arXiv:2305.09828",
        differs="circulating code draws Z uniformly, of the same variance",
        pairs=(("query", "key"), ("value", "output")),
    ),
)
