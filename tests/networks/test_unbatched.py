"""Models of batches, taken one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks

W = jnp.asarray([[0.5, -0.2], [0.1, 0.8], [1.0, 0.3]])
XS = jax.device_put(
    np.asarray(np.random.default_rng(0).standard_normal((4, 3)), np.float32)
)


def dense(w, xs):
    return jnp.tanh(xs @ w)


def normalized(w, xs):
    z = xs @ w
    return (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True)


def summed(w, xs):
    return (xs @ w).sum()


def decided(w, xs):
    return (xs @ w > 0).astype(int)


def last_reads_first(w, xs):
    return (xs @ w).at[3].add(xs[0, 0])


def test_jacobian_is_that_of_one_example():
    f = networks.unbatched(dense, W, XS)
    by_hand = (W * (1 - dense(W, XS[:1]) ** 2)).T
    # Two products and a square: a few eps.
    np.testing.assert_allclose(isometry.jacobian(f, W, XS[0]), by_hand, rtol=1e-6)


def test_outputs_that_change_from_call_to_call_are_refused():
    random = np.random.default_rng(0)

    def dropped(w, xs):
        return xs @ w * random.random()

    with pytest.raises(InputError, match=r"apply is not deterministic: .* Switch drop"):
        networks.unbatched(dropped, W, XS)


@pytest.mark.parametrize(
    ("apply", "xs", "message"),
    [
        (normalized, XS, "examples interact: beside others .* evaluation mode"),
        # The first three examples do not interact.
        (last_reads_first, XS, "examples interact"),
        (dense, XS[:1], r"xs has shape \(1, 3\); write at least two examples, one a r"),
        (summed, XS, r"apply returns shape \(\) for 4 examples; write one row each"),
        (decided, XS, "apply returns int32; it must return real floating numbers"),
    ],
)
def test_what_is_no_batch_of_examples_is_refused(apply, xs, message):
    with pytest.raises(InputError, match=message):
        networks.unbatched(apply, W, xs)


def test_traced_arguments_are_refused():
    with pytest.raises(TypeError, match=r"unbatched\(\): xs is traced"):
        jax.eval_shape(lambda xs: networks.unbatched(dense, W, xs)(W, xs[0]), XS)


def test_models_of_low_precision_keep_it():
    w = W.astype(jnp.bfloat16)
    xs = XS.astype(jnp.bfloat16)
    f = networks.unbatched(dense, w, xs)
    np.testing.assert_array_equal(f(w, xs[0]), dense(w, xs[:1])[0])
