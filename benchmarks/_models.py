"""Networks that a user has written in plain JAX: f(params, x), and random values.

Weights and inputs are NumPy's, the same in every process and of the type asked for.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

# Blocks of ResNet-18, by width: the first of a stage but the first halves the image.
STAGES = (64, 128, 256, 512)


class Model(NamedTuple):
    """A function of a user, with parameters and one input.

    Attributes:
        f: The function of (params, x); its output is a vector.
        params: The parameters.
        x: The input.
        depth: How many products follow one another.
        fan_in: The most terms of a sum in one of them.
        num_outputs: The length of the output.
    """

    f: Callable[..., Any]
    params: Any
    x: np.ndarray
    depth: int
    fan_in: int
    num_outputs: int


def _he(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw weights of variance 2 over the fan-in: all axes but the last."""
    fan_in = np.prod(shape[:-1])
    weights = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    return weights.astype(dtype)


def _conv(x: "jax.Array", kernel: "jax.Array", stride: int = 1) -> "jax.Array":
    """Convolve images (height, width, channels), padded at their borders."""
    import jax

    batch = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return batch[0]


def cnn(side: int, dtype: str) -> Model:
    """Make a network of four convolutions from an image to one as large.

    Its Jacobian is side² × side².
    """
    rng = np.random.default_rng(side)
    channels = (1, 16, 16, 16, 1)
    kernels = [
        _he(rng, dtype, (3, 3, before, after))
        for before, after in itertools.pairwise(channels)
    ]

    def f(kernels: "list[jax.Array]", x: "jax.Array") -> "jax.Array":
        import jax

        for kernel in kernels[:-1]:
            x = jax.numpy.tanh(_conv(x, kernel))
        return _conv(x, kernels[-1]).ravel()

    x = rng.standard_normal((side, side, 1)).astype(dtype)
    return Model(f, kernels, x, depth=4, fan_in=9 * 16, num_outputs=side**2)


def transformer(tokens: int, dtype: str) -> Model:
    """Make two blocks of attention and a perceptron, of width 16, without norms.

    The Jacobian is 16 tokens × 16 tokens.
    """
    rng = np.random.default_rng(tokens)
    width = 16
    shapes = {
        "query": (width, width),
        "key": (width, width),
        "value": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    params = [
        {name: _he(rng, dtype, shape) for name, shape in shapes.items()}
        for _ in range(2)
    ]

    def f(params: "list[dict[str, jax.Array]]", x: "jax.Array") -> "jax.Array":
        import jax

        for block in params:
            query, key = x @ block["query"], x @ block["key"]
            weights = jax.nn.softmax(query @ key.T / width**0.5)
            x = x + weights @ (x @ block["value"])
            x = x + jax.nn.gelu(x @ block["up"]) @ block["down"]
        return x.ravel()

    x = rng.standard_normal((tokens, width)).astype(dtype)
    return Model(
        f,
        params,
        x,
        depth=8,
        fan_in=max(4 * width, tokens),
        num_outputs=width * tokens,
    )


def resnet18(side: int, dtype: str) -> Model:
    """Make a ResNet-18 of 1000 classes with random weights, and a random image.

    Its batch norms are left out: as drawn, with mean 0 and variance 1, they change
    nothing in inference.

    Args:
        side: Height and width of the image, of three channels; 224 for ImageNet.
        dtype: The type of weights and image.
    """
    rng = np.random.default_rng(18)

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        before = STAGES[0]
        for width in STAGES:
            first = {
                "first": _he(rng, dtype, (3, 3, before, width)),
                "second": _he(rng, dtype, (3, 3, width, width)),
            }
            if width != before:
                first["skip"] = _he(rng, dtype, (1, 1, before, width))
            yield first
            yield {
                "first": _he(rng, dtype, (3, 3, width, width)),
                "second": _he(rng, dtype, (3, 3, width, width)),
            }
            before = width

    params = {
        "stem": _he(rng, dtype, (7, 7, 3, STAGES[0])),
        "blocks": list(blocks()),
        "head": _he(rng, dtype, (STAGES[-1], 1000)),
    }
    x = rng.standard_normal((side, side, 3)).astype(dtype)
    return Model(
        _resnet18, params, x, depth=18, fan_in=9 * STAGES[-1], num_outputs=1000
    )


def _resnet18(params: "dict[str, Any]", x: "jax.Array") -> "jax.Array":
    """Return the logits of an image."""
    import jax

    relu = jax.nn.relu
    x = relu(_conv(x, params["stem"], stride=2))
    x = jax.lax.reduce_window(
        x,
        -jax.numpy.inf,
        jax.lax.max,
        window_dimensions=(3, 3, 1),
        window_strides=(2, 2, 1),
        padding="SAME",
    )
    for block in params["blocks"]:
        stride = 2 if "skip" in block else 1
        branch = _conv(relu(_conv(x, block["first"], stride)), block["second"])
        skip = x
        if "skip" in block:
            skip = _conv(x, block["skip"], stride)
        x = relu(skip + branch)
    return x.mean((0, 1)) @ params["head"]


MODELS = {"cnn": cnn, "transformer": transformer, "resnet18": resnet18}
