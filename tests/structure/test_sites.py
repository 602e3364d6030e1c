"""Sites of nonlinearities: found by hand in models of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.structure._sites import sites


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def found(f, params, x):
    return sites(isometry.anatomy(f, params, x))


def names(f, params, x):
    return [(site.point, site.nonlinearity) for site in found(f, params, x)]


W = {"a": shape(4, 4), "b": shape(4, 4)}


def test_each_layer_has_the_nonlinearity_behind_it():
    def f(p, x):
        return jax.nn.gelu(jnp.tanh(x @ p["a"]) @ p["b"]).sum()

    assert names(f, W, shape(4)) == [("a", "tanh"), ("b", "gelu tanh")]


def test_norm_and_pooling_may_come_first():
    """The value is that behind the norm: its units are off where the relu is."""

    def f(p, x):
        z = x @ p["a"]
        z = (z - z.mean()) / jnp.sqrt(z.var() + 1e-5)
        return jax.nn.relu(z) @ p["b"]

    (site,) = found(f, W, shape(4))
    assert (site.point, site.nonlinearity) == ("a", "relu")
    assert site.is_cut


def test_softmax_and_norms_are_none():
    def f(p, x):
        h = jax.nn.softmax(x @ p["a"])
        h = h * jax.lax.rsqrt(jnp.maximum((h**2).mean(), 1e-6))
        return jax.nn.log_softmax(h @ p["b"])

    assert names(f, W, shape(3, 4)) == []


def test_the_head_of_a_branch_reads_the_stream():
    """What is read around is bypassed: the skip goes on whatever the relu does."""

    def f(p, x):
        z = x @ p["a"]
        return z + jax.nn.relu(z) @ p["b"]

    (site,) = found(f, W, shape(4))
    assert site.point == "a"
    assert site.is_bypassed


def test_a_number_and_its_bounds_are_one_nonlinearity():
    """Neither the maximum nor the minimum is bounded alone."""

    def f(p, x):
        return jnp.minimum(jnp.maximum(2 * (x @ p["a"]), -0.3), 0.7) @ p["b"]

    (site,) = found(f, W, shape(4))
    z = jnp.array([-9.0, -1.0, 0.1, 9.0])
    # Behind the factor of 2, which is no nonlinearity.
    np.testing.assert_allclose(site.function(z), [-0.3, -0.3, 0.1, 0.7])
    assert site.known == ""


def test_gates_are_told():
    def f(p, x):
        return jax.nn.sigmoid(x @ p["a"]) * (x @ p["b"])

    (site,) = found(f, W, shape(4))
    assert site.is_gate
    assert site.known == "sigmoid"


@pytest.mark.parametrize("length", [1, 2, 7])
def test_every_iteration_of_a_scan_has_its_own(length):
    def f(p, x):
        def step(z, w):
            return jax.nn.relu(z) @ w, None

        z, _ = jax.lax.scan(step, x @ p["stem"], p["hidden"])
        return jnp.tanh(z)

    params = {"stem": shape(3, 4), "hidden": shape(length, 4, 4)}
    rows = found(f, params, shape(3))
    points = ["stem", *(f"hidden[{i}]" for i in range(length))]
    assert [site.point for site in rows] == points
    assert [site.known for site in rows] == ["relu"] * length + ["tanh"]
    assert [site.place.iterations for site in rows[:-1]] == [
        (i,) for i in range(length)
    ]


def test_the_derivative_is_that_of_the_program():
    """At zero jax.nn.relu has the slope 0, by its own rule, and a maximum ½."""

    def f(p, x):
        return jnp.maximum(jax.nn.relu(x @ p["a"]) @ p["b"], 0)

    for site, slope in zip(found(f, W, shape(4)), (0.0, 0.5), strict=True):
        assert site.known == "relu"
        zero = jnp.zeros(4)
        _, slopes = jax.jvp(site.function, (zero,), (jnp.ones(4),))
        np.testing.assert_array_equal(slopes, slope)


def test_a_rule_of_ones_own_is_kept():
    """A straight-through estimator lets gradients pass where the function is flat."""

    @jax.custom_jvp
    def hard(z):
        return jnp.clip(z, -1, 1)

    hard.defjvp(lambda primals, tangents: (hard(*primals), *tangents))

    def f(p, x):
        return hard(x @ p["a"]) @ p["b"]

    (site,) = found(f, W, shape(4))
    far = jnp.full(4, 9.0)
    value, slopes = jax.jvp(site.function, (far,), (jnp.ones(4),))
    np.testing.assert_array_equal(value, 1)
    np.testing.assert_array_equal(slopes, 1)


def test_learned_slopes_are_no_site():
    """A PReLU is no function of its units alone."""

    def f(p, x):
        z = x @ p["a"]
        return jnp.where(z > 0, z, p["slope"] * z) @ p["b"]

    assert names(f, {**W, "slope": shape()}, shape(4)) == []
