"""A layer with batch norm, relu and dropout, in NumPy; and examples for all libraries.

Every library has the same model: x → dropout(relu(norm(x W + b))), with dropout at rate
1/2 last, so that the numbers that it dropped can be read off the output.
"""

import jax
import jax.numpy as jnp
import numpy as np

import isometry

# What libraries add to the variance.
EPSILON = 1e-5

EPS = float(jnp.finfo(jnp.float32).eps)

# Some ten operations on numbers of order 1, of which the norm multiplies errors by the
# inverse of a standard deviation of order 1/3.
BOUND = 100 * EPS

X = jnp.asarray([0.3, -1.2, 0.8])
KEYS = jax.random.split(jax.random.key(7), 3)
BATCH = jax.random.normal(jax.random.key(8), (4, 3))


def inference(kernel, bias, x, *, mean=0.0, var=1.0):
    """The output for one x, by the averages."""
    z = np.asarray(x, np.float64) @ np.asarray(kernel) + np.asarray(bias)
    return np.maximum((z - mean) / np.sqrt(var + EPSILON), 0.0)


def training(kernel, bias, xs):
    """The outputs for a batch by its own statistics, before dropout."""
    z = np.asarray(xs, np.float64) @ np.asarray(kernel) + np.asarray(bias)
    return np.maximum((z - z.mean(0)) / np.sqrt(z.var(0) + EPSILON), 0.0)


def training_jacobian(kernel, bias, xs, kept):
    """The Jacobian of all outputs by all inputs, if dropout keeps these numbers."""
    kernel = np.asarray(kernel, np.float64)
    z = np.asarray(xs, np.float64) @ kernel + np.asarray(bias)
    rows, units = z.shape
    deviation = np.sqrt(z.var(0) + EPSILON)
    normed = (z - z.mean(0)) / deviation
    jacobian = np.zeros((rows, units, rows, kernel.shape[0]))
    for u in range(units):
        # The derivative of a norm: the projection off the mean and off the result.
        h = normed[:, u]
        of_norm = np.eye(rows) - 1 / rows - np.outer(h, h) / rows
        slope = 2.0 * kept[:, u] * (h > 0)
        of_z = slope[:, None] * of_norm / deviation[u]
        jacobian[:, u] = np.einsum("rs,i->rsi", of_z, kernel[:, u])
    return jacobian.reshape(rows * units, -1)


def close(came, expected, bound=BOUND):
    np.testing.assert_allclose(came, expected, rtol=bound, atol=bound)


def require_dropped(came, before):
    """Require outputs to be twice what was before dropout, or zero; return which."""
    came = np.asarray(came)
    kept = came != 0
    close(came, np.where(kept, 2 * before, 0.0))
    # Of 16 numbers half are dropped: all or none has probability 2^-15.
    is_active = before > 0
    assert 0 < kept[is_active].sum() < is_active.sum()
    return kept


def same_states(net, params, xs, *, h, c):
    """Compare the mean squares of the states of an LSTM after its second step."""
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    signals = isometry.signals(net, params=stacked, xs=xs[None])
    q = dict(zip(signals.points, np.asarray(signals.q[0, 0]), strict=True))
    for name, state in (("carry/h@1", h), ("carry/c@1", c)):
        # A dozen roundings of float32 in two steps.
        np.testing.assert_allclose(q[name], np.mean(np.square(state)), rtol=1e-5)
