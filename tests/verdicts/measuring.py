"""Records of an audit with parts that a test has made, so that nothing is measured."""

import jax
import numpy as np

import isometry
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import registered
from isometry.verdicts._subject import subject_of

KEY = jax.random.key(7)

EPS = float(np.finfo(np.float32).eps)


def rounding(num_products, width):
    """Bound the relative error of float32 behind so many products with matrices.

    A sum of `width` terms is rounded by at most width·eps/2 of the sum of their moduli
    (Higham, 2002, equation 3.5), on both sides of a comparison.
    """
    return num_products * width * EPS


def subject(f, *, params=None, xs, keys=None, sample=None):
    """Return a subject whose examples are all used for Jacobians."""
    return subject_of(
        "network", f, keys, xs, params=params, sample=sample, num_inputs=len(xs)
    )


def measured(f, *, xs, params=None, keys=None, lines=None, **parts):
    """Return a record of f in which the named parts are those that are given."""
    record = Measured(
        subject(f, params=params, keys=keys, xs=xs),
        None,
        thresholds=isometry.verdicts.Thresholds(**(lines or {})),
        key=KEY,
    )
    # The spectrum of what is not finite would not be measured.
    vars(record)["not_finite"] = ""
    # Flags name layers by them, and do without.
    record.parts["signals"] = None
    for name, value in parts.items():
        if name in ("spectra", "activity", "signals", "gradients"):
            record.parts[name] = value
        else:
            # What a cached property would hold.
            vars(record)[name] = value
    return record


def judged(name, record):
    """Return the judgement of one flag."""
    (one,) = [flag for flag in registered() if flag.name == name]
    return one.judge(record, KEY)


def spectrum(s, floor=-14.0):
    """Return a spectrum of these singular values, (seeds, inputs, size)."""
    s = np.asarray(s, float)
    with np.errstate(divide="ignore"):
        log_s = np.log(s)
    size = s.shape[-1]
    weights = np.full_like(s, 1 / size)
    return isometry.Spectrum(log_s, weights, np.full(s.shape[:-1], floor), size=size)


def drawn(net, sigma_w, sigma_b=0.0, *, orthogonal=False, seeds=6):
    """Return weights and biases of a perceptron, drawn by NumPy, stacked over seeds."""
    rng = np.random.default_rng(0)
    runs = []
    for run in net.shapes["layers"]:
        w = rng.normal(size=(seeds, *run["w"].shape)) * run["w"].shape[-2] ** -0.5
        if orthogonal:
            w = _isometries(w)
        b = sigma_b * rng.normal(size=(seeds, *run["b"].shape))
        runs.append({"w": (sigma_w * w).astype(np.float32), "b": b.astype(np.float32)})
    return {"layers": tuple(runs)}


def _isometries(w):
    """Return orthonormal columns or, of wide matrices, rows."""
    is_wide = w.shape[-2] < w.shape[-1]
    tall = w.swapaxes(-1, -2) if is_wide else w
    q = np.linalg.qr(tall)[0]
    return q.swapaxes(-1, -2) if is_wide else q
