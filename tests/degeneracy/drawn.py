"""Parameters of several seeds, drawn by NumPy, which compiles nothing."""

import jax
import numpy as np


def params_of(net, sigma_w, sigma_b=0.0, *, orthogonal=False, seeds=6):
    """Weights and biases of an MLP with a law, stacked over seeds."""
    rng = np.random.default_rng(0)
    runs = []
    for run in jax.eval_shape(net.init, jax.random.key(0))["layers"]:
        w = rng.normal(size=(seeds, *run["w"].shape)) * run["w"].shape[-2] ** -0.5
        if orthogonal:
            w = _isometries(w)
        b = sigma_b * rng.normal(size=(seeds, *run["b"].shape))
        runs.append({"w": (sigma_w * w).astype(np.float32), "b": b.astype(np.float32)})
    return {"layers": tuple(runs)}


def _isometries(w):
    """Orthonormal columns or, of wide matrices, rows."""
    is_wide = w.shape[-2] < w.shape[-1]
    tall = w.swapaxes(-1, -2) if is_wide else w
    q = np.linalg.qr(tall)[0]
    return q.swapaxes(-1, -2) if is_wide else q
