"""Models of batches, taken one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

W = jnp.asarray([[0.5, -0.2], [0.1, 0.8], [1.0, 0.3]])
XS = jax.random.normal(jax.random.key(0), (4, 3))


def dense(w, xs):
    return jnp.tanh(xs @ w)


def normalized(w, xs):
    z = xs @ w
    return (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True)


def test_one_example_of_a_batch():
    f = networks.unbatched(dense, W, XS)
    np.testing.assert_allclose(isometry.jacobian(f, W, XS[0]), (W * (1 - dense(W, XS[:1]) ** 2)).T, rtol=1e-5)


def test_examples_that_interact_are_refused():
    with pytest.raises(ValueError, match=r"examples interact: beside others .* evaluation mode"):
        networks.unbatched(normalized, W, XS)


def test_outputs_that_change_from_call_to_call_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"apply is not deterministic: two calls differ\. Switch dropout off"):
        networks.unbatched(lambda w, xs: xs @ w * rng.random(), W, XS)


@pytest.mark.parametrize(
    ("apply", "xs", "said"),
    [
        (dense, XS[:1], r"xs has shape \(1, 3\); write at least two examples, one a row"),
        (lambda w, xs: (xs @ w).sum(), XS, r"apply returns shape \(\) for 4 examples; write one row each"),
        (lambda w, xs: (xs @ w > 0).astype(int), XS, "apply returns int32; it must return real floating numbers"),
        (lambda w, xs: (xs @ w).at[3].add(xs[0, 0]), XS, "examples interact"),  # the first three do not
    ],
)
def test_what_is_no_batch_is_refused(apply, xs, said):
    with pytest.raises(ValueError, match=said):
        networks.unbatched(apply, W, xs)


def test_models_of_low_precision():
    w, xs = W.astype(jnp.bfloat16), XS.astype(jnp.bfloat16)
    np.testing.assert_array_equal(networks.unbatched(dense, w, xs)(w, xs[0]), dense(w, xs[:1])[0])
