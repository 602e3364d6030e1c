"""Compare predicted signals with measured ones."""

import jax
import numpy as np

import isometry

FIELDS = ("q", "c", "gradient", "apjn", "chi")


def require_predicted(net, xs, *, seeds, bias, errors=4.0):
    """Require that every field is measured as predicted, at every point.

    Args:
        net: The network.
        xs: Inputs.
        seeds: The number of draws.
        bias: How far a mean may be off relatively, besides `errors` standard errors:
            of order 1/width.
        errors: How many standard errors it may be off.

    Returns:
        The predicted signals.
    """
    keys = jax.random.split(jax.random.key(0), seeds)
    measured = isometry.signals(net, keys, xs)
    predicted = net.mean_field(xs)
    assert (predicted.points, predicted.sizes) == (measured.points, measured.sizes)
    for field in FIELDS:
        values = np.asarray(getattr(measured, field), float)
        wanted = np.asarray(getattr(predicted, field))[0]
        # They are known at the same points.
        assert (np.isnan(values).any(axis=0) == np.isnan(wanted)).all(), field
        error = values.std(axis=0, ddof=1) / seeds**0.5
        # Cosines have an error of their own where they are near zero.
        scale = np.ones_like(wanted) if field == "c" else np.abs(wanted)
        off = np.abs(values.mean(axis=0) - wanted)
        is_far = off > errors * error + (bias + 1e-6) * scale
        assert not is_far.any(), (field, np.argwhere(is_far))
    return predicted
