"""A small model of every kind, as f, params and x. Shapes only: nothing is run."""

import jax
import jax.numpy as jnp


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def whole(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.int32)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def affine(n_in, n_out):
    return {"kernel": shape(n_in, n_out), "bias": shape(n_out)}


def conv(kernel, x, *, strides=1, groups=1, padding="SAME"):
    """Convolve one image (h, w, c)."""
    y = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(strides, strides),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y[0]


def layer_norm(scale, x):
    x = x - x.mean(-1, keepdims=True)
    return scale * x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def perceptron():
    def f(p, x):
        for name in ("first", "second"):
            x = jnp.tanh(dense(p[name], x))
        return dense(p["last"], x)

    params = {"first": affine(3, 5), "second": affine(5, 7), "last": affine(7, 2)}
    return f, {"params": params}, shape(3)


def unwrapped(model):
    """Let f take what is inside the collection."""
    f, variables, x = model
    return lambda v, x: f(v["params"], x), variables, x


def stacked():
    """Three equal layers in a scan, between a stem and a head."""

    def f(p, x):
        z = x @ p["stem"]

        def step(z, layer):
            w, b = layer
            return jnp.tanh(z) @ w + b, None

        z, _ = jax.lax.scan(step, z, (p["hidden"]["w"], p["hidden"]["b"]))
        return jnp.tanh(z) @ p["head"]

    hidden = {"w": shape(7, 4, 4), "b": shape(7, 4)}
    return f, {"stem": shape(3, 4), "hidden": hidden, "head": shape(4, 2)}, shape(3)


def convolutional():
    """Strided, grouped and depthwise convolutions, pooling, and a head."""

    def f(p, x):
        x = jax.nn.relu(conv(p["stem"]["w"], x, strides=2) + p["stem"]["b"])
        x = jax.nn.relu(conv(p["grouped"]["w"], x, groups=2))
        x = jax.nn.relu(conv(p["depthwise"]["w"], x, groups=8))
        x = conv(p["pointwise"]["w"], x)
        x = jax.lax.reduce_window(
            jax.nn.relu(x),
            -jnp.inf,
            jax.lax.max,
            (2, 2, 1),
            (2, 2, 1),
            padding="VALID",
        )
        return x.mean((0, 1)) @ p["head"]["w"] + p["head"]["b"]

    params = {
        "stem": {"w": shape(3, 3, 2, 4), "b": shape(4)},
        "grouped": {"w": shape(3, 3, 2, 8)},
        "depthwise": {"w": shape(3, 3, 1, 8)},
        "pointwise": {"w": shape(1, 1, 8, 6)},
        "head": {"w": shape(6, 5), "b": shape(5)},
    }
    return f, params, shape(8, 8, 2)


def residual():
    """A block on the identity, then one on a projection, then a sum behind a norm."""

    def f(p, x):
        x = dense(p["stem"], x)
        x = x + dense(p["one"]["fc2"], jax.nn.relu(dense(p["one"]["fc1"], x)))
        skip = x @ p["two"]["proj"]["kernel"]
        x = skip + dense(p["two"]["fc2"], jax.nn.relu(dense(p["two"]["fc1"], x)))
        x = jax.nn.relu(x)
        x = layer_norm(p["three"]["norm"], x + jnp.tanh(dense(p["three"]["fc"], x)))
        return dense(p["head"], x)

    params = {
        "stem": affine(3, 4),
        "one": {"fc1": affine(4, 4), "fc2": affine(4, 4)},
        "two": {
            "proj": {"kernel": shape(4, 6)},
            "fc1": affine(4, 5),
            "fc2": affine(5, 6),
        },
        "three": {"norm": shape(6), "fc": affine(6, 6)},
        "head": affine(6, 2),
    }
    return f, params, shape(3)


def attention(p, x, heads):
    """Attend with separate queries, keys and values in `heads` heads."""
    q = jnp.einsum("td,dhe->the", x, p["query"]["kernel"])
    k = jnp.einsum("td,dhe->the", x, p["key"]["kernel"])
    v = jnp.einsum("td,dhe->the", x, p["value"]["kernel"]) + p["value"]["bias"]
    scores = jnp.einsum("qhe,khe->hqk", q, k) / jnp.sqrt(q.shape[-1])
    mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
    mixed = jnp.einsum("hqk,khe->qhe", weights, v)
    return jnp.einsum("qhe,hed->qd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def attention_shapes(width, heads):
    size = width // heads
    return {
        "query": {"kernel": shape(width, heads, size)},
        "key": {"kernel": shape(width, heads, size)},
        "value": {"kernel": shape(width, heads, size), "bias": shape(heads, size)},
        "out": {"kernel": shape(heads, size, width), "bias": shape(width)},
    }


def transformer():
    """A pre-norm block on tokens, with embedding and head tied."""

    def f(p, tokens):
        x = p["embed"]["embedding"][tokens] + p["positions"]
        h = layer_norm(p["block"]["norm1"], x)
        x = x + attention(p["block"]["attn"], h, heads=2)
        h = layer_norm(p["block"]["norm2"], x)
        h = jax.nn.gelu(dense(p["block"]["mlp"]["fc1"], h))
        x = x + dense(p["block"]["mlp"]["fc2"], h)
        return layer_norm(p["norm"], x) @ p["embed"]["embedding"].T

    block = {
        "norm1": shape(8),
        "attn": attention_shapes(8, heads=2),
        "norm2": shape(8),
        "mlp": {"fc1": affine(8, 32), "fc2": affine(32, 8)},
    }
    params = {
        "embed": {"embedding": shape(11, 8)},
        "positions": shape(6, 8),
        "block": block,
        "norm": shape(8),
    }
    return f, params, whole(6)


def fused():
    """One attention whose queries, keys and values are one product."""

    def f(p, x):
        q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)
        weights = jax.nn.softmax(q @ k.T / 8**0.5)
        return x + dense(p["proj"], weights @ v)

    return f, {"qkv": affine(8, 24), "proj": affine(8, 8)}, shape(5, 8)


def recurrent():
    """A vanilla network: h = tanh(W h + V x + b) over nine steps, and a head."""

    def f(p, x):
        def step(h, x_t):
            return jnp.tanh(x_t @ p["V"] + h @ p["U"] + p["b"]), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h @ p["head"]

    params = {"V": shape(3, 4), "U": shape(4, 4), "b": shape(4), "head": shape(4, 2)}
    return f, params, shape(9, 3)
