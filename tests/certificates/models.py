"""Small models of many kinds, as plain functions, and what each is known to lock."""

import jax
import jax.numpy as jnp
import numpy as np

TOKENS, WIDTH, HEADS, ROWS = 4, 8, 4, 7


def normal(*shape, seed=0):
    """A weight of fan_in^-1/2, in float32."""
    rng = np.random.default_rng(seed + sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def copied(params):
    return jax.tree.map(np.copy, params)


# A perceptron, two layers.


def two_layers(activation=jnp.tanh):
    def f(params, x):
        return activation(x @ params["u"]) @ params["v"]

    return f


def drawn_layers(units=6):
    return {"u": normal(4, units), "v": normal(units, 3)}


def equal_layers(units=6):
    return {
        "u": np.full((4, units), 0.3, np.float32),
        "v": np.full((units, 3), 0.2, np.float32),
    }


# A transformer of one block.


def transformer(params, tokens):
    x = params["embedding"][tokens] + params["places"]
    y = _normed(x, params["scale"])
    query, key, value = (_heads(params, y, name) for name in ("query", "key", "value"))
    query = query + params["query_bias"][None]
    key = key + params["key_bias"][None]
    logits = jnp.einsum("thk,shk->hts", query, key)
    mixed = jnp.einsum("hts,shk->thk", jax.nn.softmax(logits), value)
    x = x + jnp.einsum("thk,hkd->td", mixed, params["out"])
    x = x + jax.nn.gelu(x @ params["first"]) @ params["last"]
    return x @ params["head"]


def _heads(params, y, name):
    return jnp.einsum("td,dhk->thk", y, params[name])


def _normed(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return (
        scale[None]
        * centred
        * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    )


def drawn_transformer():
    size = WIDTH // HEADS
    heads = (WIDTH, HEADS, size)
    return {
        "embedding": 2 * normal(ROWS, WIDTH),
        "places": normal(TOKENS, WIDTH),
        "scale": np.ones(WIDTH, np.float32),
        "query": normal(*heads, seed=1),
        "key": normal(*heads, seed=2),
        "value": normal(*heads, seed=3),
        "query_bias": np.zeros((HEADS, size), np.float32),
        "key_bias": np.zeros((HEADS, size), np.float32),
        "out": normal(HEADS, size, WIDTH, seed=4),
        "first": normal(WIDTH, 2 * WIDTH),
        "last": normal(2 * WIDTH, WIDTH),
        "head": normal(WIDTH, ROWS),
    }


def with_heads(sign, off=0.0):
    """Head 1 is head 0 times a sign, but for one weight that is off."""
    params = drawn_transformer()
    for name in ("query", "key", "value"):
        params[name][:, 1] = sign * params[name][:, 0]
    params["out"][1] = sign * params["out"][0]
    params["out"][1, 0, 0] += off
    return params


def without(*names):
    params = drawn_transformer()
    for name in names:
        params[name][...] = 0
    return params


TOKEN_IDS = jax.ShapeDtypeStruct((TOKENS,), jnp.int32)


# A recurrence, and one with gates.


def recurrence(activation):
    def f(params, xs):
        def step(state, x):
            return activation(x @ params["in"] + state @ params["w"]), None

        state, _ = jax.lax.scan(step, jnp.zeros_like(params["w"][0]), xs)
        return state @ params["out"]

    return f


def gated(params, xs):
    def step(state, x):
        update = jax.nn.sigmoid(x @ params["xz"] + state @ params["hz"])
        reset = jax.nn.sigmoid(x @ params["xr"] + state @ params["hr"])
        new = jnp.tanh(x @ params["xn"] + (reset * state) @ params["hn"])
        return (1 - update) * new + update * state, None

    state, _ = jax.lax.scan(step, jnp.zeros_like(params["hz"][0]), xs)
    return state @ params["out"]


def drawn_gated(units=5):
    params = {}
    for i, gate in enumerate("zrn"):
        params["x" + gate] = normal(3, units, seed=i)
        params["h" + gate] = normal(units, units, seed=i)
    return {**params, "out": normal(units, 2)}


def gated_with_twins(off=0.0):
    """Unit 1 is unit 0, but for one weight of the output."""
    params = drawn_gated()
    for gate in "zrn":
        for side in "xh":
            weight = params[side + gate]
            weight[:, 1] = weight[:, 0]
        params["h" + gate][1] = params["h" + gate][0]
    params["out"][1] = params["out"][0]
    params["out"][1, 0] += off
    return params


SEQUENCE = np.ones((3, 3), np.float32)


# A convolutional network of two layers, on images of two channels.


def convolutional(activation, pool=None):
    def f(params, image):
        x = image
        for name in ("conv0", "conv1"):
            x = activation(_conv(x, params[name]))
        if pool is not None:
            x = jax.lax.reduce_window(
                x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID"
            )
        return x.mean((0, 1)) @ params["head"]

    return f


def _conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def drawn_convolutional(channels=6):
    return {
        "conv0": normal(3, 3, 2, channels),
        "conv1": normal(3, 3, channels, channels),
        "head": normal(channels, 3),
    }


def constant_convolutional():
    shapes = drawn_convolutional()
    return jax.tree.map(lambda a: np.full_like(a, 0.05), shapes)


def dirac_convolutional(head):
    """Identities: of kernels at the middle tap, and of the head if it is None."""
    params = drawn_convolutional()
    for name in ("conv0", "conv1"):
        kernel = np.zeros_like(params[name])
        kernel[1, 1] = np.eye(*kernel.shape[2:])
        params[name] = kernel
    params["head"] = np.eye(*params["head"].shape, dtype=np.float32)
    return {**params, "head": params["head"] if head is None else head}


IMAGE = np.ones((4, 4, 2), np.float32)


# Experts as arrays of their own, behind a gate.


def experts(params, x):
    gate = jax.nn.softmax(x @ params["gate"])
    outputs = [jnp.tanh(x @ one["a"]) @ one["b"] for one in params["experts"]]
    return gate @ jnp.stack(outputs)


def equal_experts(off=0.0):
    one = {"a": normal(4, 5), "b": normal(5, 2)}
    each = [copied(one) for _ in range(4)]
    each[1]["a"][0, 0] += off
    return {"gate": np.zeros((4, 4), np.float32), "experts": each}
