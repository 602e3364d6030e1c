"""Parameters of any network, drawn by NumPy: every leaf, whatever its scheme does."""

import operator

import jax
import numpy as np


def drawn(net, seed=0):
    """Draw weights of variance 1/fan_in, other leaves around their start."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        if path[-1].key == "w":
            noise /= np.sqrt(np.prod(leaf.shape[:-1][-3:]))
        elif path[-1].key == "var":
            noise = 1 + noise**2
        else:
            noise = 1 + 0.3 * noise
        return jax.device_put(noise.astype(leaf.dtype))

    return jax.tree.map_with_path(draw, net.shapes)


def in_float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def unstacked(leaves, length):
    """Return the leaves of each layer of a stack; of one layer they are not stacked."""
    if length == 1:
        return [leaves]
    return [jax.tree.map(operator.itemgetter(i), leaves) for i in range(length)]
