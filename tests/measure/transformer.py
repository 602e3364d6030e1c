"""A small transformer in plain JAX; of the 512 values of its Jacobian 16 are zero."""

import jax
import jax.numpy as jnp
import numpy as np

TOKENS = 8
WIDTH = 64
HEADS = 4
BLOCKS = 3


def init(seed):
    """Parameters as GPT-2 draws them, but for the larger scale of a narrow model."""
    rng = np.random.default_rng(seed)

    def matrix(n_in, n_out):
        scale = 1 / np.sqrt(n_in)
        return (scale * rng.standard_normal((n_in, n_out))).astype(np.float32)

    return [
        {
            "qkv": matrix(WIDTH, 3 * WIDTH),
            "out": matrix(WIDTH, WIDTH),
            "up": matrix(WIDTH, 4 * WIDTH),
            "down": matrix(4 * WIDTH, WIDTH),
        }
        for _ in range(BLOCKS)
    ]


def stream(seed):
    """One input: embedded tokens, (TOKENS, WIDTH)."""
    rng = np.random.default_rng(100 + seed)
    return rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)


def transformer(params, x):
    """Causal blocks with norms before the branches, and a last norm."""
    for block in params:
        x = x + attention(block, normalized(x))
        hidden = jax.nn.gelu(normalized(x) @ block["up"])
        x = x + hidden @ block["down"]
    # A norm removes two directions of each token: 2 TOKENS values are zero.
    return normalized(x)


def normalized(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True))


def attention(block, x):
    qkv = (x @ block["qkv"]).reshape(TOKENS, 3, HEADS, WIDTH // HEADS)
    query, key, value = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    scores = jnp.einsum("qhd,khd->hqk", query, key) / np.sqrt(WIDTH // HEADS)
    is_past = np.tril(np.ones((1, TOKENS, TOKENS), bool))
    weights = jax.nn.softmax(jnp.where(is_past, scores, -jnp.inf), -1)
    mixed = jnp.einsum("hqk,khd->qhd", weights, value)
    return mixed.reshape(TOKENS, WIDTH) @ block["out"]
