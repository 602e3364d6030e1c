"""Networks whose weights are given, and their certificates."""

import itertools

import jax
import numpy as np

import isometry
from isometry import networks


def net_of(weights, activation="tanh", bias=True):
    return networks.mlp([weights[0].shape[0], *(w.shape[1] for w in weights)], activation, "zeros", bias=bias)


def params_of(net, weights, biases=None):
    """Parameters as `net` stores them, from a list of matrices."""
    arrays = [np.asarray(w) for w in weights]
    shapes = [run["w"].shape for run in jax.eval_shape(net.init, jax.random.key(0))["layers"]]
    ends = np.cumsum([0] + [s[0] for s in shapes])
    runs = []
    for start, end in itertools.pairwise(ends):
        run = {"w": np.stack(arrays[start:end])}
        if net.bias:
            chosen = [np.zeros(w.shape[1], w.dtype) for w in arrays] if biases is None else biases
            run["b"] = np.stack(chosen[start:end])
        runs.append(run)
    return {"layers": tuple(runs)}


def certificate(weights, activation="tanh", biases=None, bias=True):
    net = net_of(weights, activation, bias)
    return isometry.certify(net, params_of(net, weights, biases))


def planted(random, sign, dtype=np.float32):
    """Gaussian, of widths 5, 8, 9, 3; units 0, 3 of layer 1 and 1, 2, 4 of layer 2 are alike up to sign."""
    w = [random.standard_normal(s).astype(dtype) for s in ((5, 8), (8, 9), (9, 3))]
    w[0][:, 3] = sign * w[0][:, 0]
    w[1][3] = sign * w[1][0]
    for j, s in ((2, sign), (4, 1)):
        w[1][:, j] = s * w[1][:, 1]
        w[2][j] = s * w[2][1]
    return w
