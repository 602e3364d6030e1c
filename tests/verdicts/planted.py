"""Networks with faults that are put into them, measured as an audit measures them."""

import jax
import jax.numpy as jnp
import numpy as np

from isometry.verdicts import Measured, Thresholds
from isometry.verdicts._subject import subject_of
from isometry.verdicts._task import task_of

KEY = jax.random.key(7)


def record(
    f, params, xs, *, num_steps=6, num_inputs=3, certificates=None, keys=None, **task
):
    """What is measured of stacked parameters, with a short probe."""
    lines = task.pop("lines", {})
    if keys is not None:
        params = None
    subject = subject_of(
        "net", f, keys, xs, params=params, sample=None, num_inputs=num_inputs
    )
    settings = {"targets": None, "loss": None, "optimizer": None} | task
    made = task_of(subject, num_steps=num_steps, key=jax.random.key(2), **settings)
    result = Measured(subject, made, thresholds=Thresholds(**lines), key=KEY)
    if certificates is not None:
        result.parts["certificates"] = tuple(certificates)
    return result


def one_seed(params):
    """The parameters of a checkpoint, with an axis of one seed."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)


def inputs(num, *shape):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(num, *shape)), jnp.float32)


def drawn(shapes, seed=0):
    """Gaussian numbers of variance 1/fan_in; the last axis is that of the outputs."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        fan_in = max(int(np.prod(shape[:-1])), 1)
        return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    return {name: draw(shape) for name, shape in shapes.items()}


# An attention of four heads of two channels, with a stream around it, and a head.
ATTENTION = {
    "query": (8, 4, 2),
    "key": (8, 4, 2),
    "value": (8, 4, 2),
    "out": (4, 2, 8),
    "head": (8, 3),
}


def attention(params, x):
    """Tokens x, (tokens, channels), to the scores of three classes."""
    names = ("query", "key", "value")
    q, k, v = (jnp.einsum("tc,chd->htd", x, params[name]) for name in names)
    weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / 2**0.5, axis=-1)
    x = x + jnp.einsum("htd,hdc->tc", weights @ v, params["out"])
    return x.mean(0) @ params["head"]


# Four experts of six units, which a gate mixes.
EXPERTS = {"gate": (6, 4), "first": (4, 6, 6), "second": (4, 6, 6), "head": (6, 3)}


def experts(params, x):
    gates = jax.nn.softmax(x @ params["gate"])
    # Each expert gets a copy, of its own weight, as behind a dispatch of tokens.
    copies = gates[:, None] * x[None]
    h = jnp.tanh(jnp.einsum("ec,ecd->ed", copies, params["first"]))
    y = jnp.einsum("ed,edc->ec", h, params["second"])
    return y.sum(0) @ params["head"]


# Two kernels and a head behind a global average.
KERNELS = {"first": (3, 3, 1, 6), "second": (3, 3, 6, 6), "head": (6, 3)}


def convolutions(params, x):
    """An image (height, width, 1) to the scores of three classes."""
    for name in ("first", "second"):
        x = jnp.tanh(convolved(x, params[name]))
    return x.mean((0, 1)) @ params["head"]


def convolved(x, kernel):
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def dirac(params):
    """Kernels that pass channels on as they are, and a head that reads the first."""
    kernels = {name: np.zeros_like(params[name]) for name in ("first", "second")}
    for kernel in kernels.values():
        rows, columns = kernel.shape[2:]
        kernel[1, 1, np.arange(min(rows, columns)), np.arange(min(rows, columns))] = 1
    head = np.zeros_like(params["head"])
    head[0] = params["head"][0]
    return params | kernels | {"head": head}
