"""method="lanczos": densities of Jacobians that are never formed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks

KEY = jax.random.key(3)


def network():
    return networks.mlp([24, 40, 40, 24], "tanh", "gaussian", sigma_w=1.3, sigma_b=0.1)


XS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24)), jnp.float32)


@pytest.mark.core
@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_moments_and_distribution_within_their_errors(span):
    """32 probes: standard error √(2/(n + 2)/32) of the spread, 5 of them allowed; the KS distance by the same."""
    net = network()
    params = net.init(jax.random.key(0))
    dense = isometry.spectrum(net, params, XS[0], span=span)
    method = isometry.Lanczos(steps=40, probes=32)
    found = isometry.spectrum(net, params, XS[0], method=method, span=span, key=KEY)
    assert (found.size, found.structural_zeros, found.pairs) == (dense.size, dense.structural_zeros, dense.pairs)
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
    bound = 5 * (2 / (dense.size + 2) / 32) ** 0.5
    spread = float(jnp.sqrt(dense.moment(2) - dense.moment(1) ** 2))
    assert abs(float(found.moment(1) - dense.moment(1))) <= bound * spread
    grid = jnp.exp(dense.log_values) ** 2
    assert float(jnp.abs(found.cdf(grid * 1.0001) - dense.cdf(grid * 1.0001)).max()) <= bound


@pytest.mark.parametrize("widths", [[5, 6, 3], [3, 6, 5]])
def test_a_rectangle_has_the_structural_zeros_of_its_shape(widths):
    net = networks.mlp(widths, "tanh", "gaussian")
    measured = functools.partial(isometry.spectrum, net, method="lanczos", key=KEY)
    params = jax.eval_shape(net.init, KEY)
    x = jax.ShapeDtypeStruct(widths[:1], jnp.float32)
    found = jax.eval_shape(measured, params, x)  # traced, never compiled
    assert (found.size, found.structural_zeros) == (3, 2)


def test_an_isometry_is_found_without_error():
    net = networks.mlp([16, 16, 16], "linear", "orthogonal")
    found = isometry.spectrum(net, net.init(KEY), jnp.ones(16), method="lanczos", key=KEY)
    np.testing.assert_allclose(found.isometry_deviation(), 0, atol=1e-5)
    assert float(found.zero_fraction()) == 0
    assert found.method == isometry.Lanczos(steps=16)  # of the 64 asked for: there are no more than 16


def test_ensembles_do_not_depend_on_their_chunks():
    net, keys = network(), jax.random.split(KEY, 2)
    method = isometry.Lanczos(steps=6, probes=2)
    whole = isometry.ensemble(net, keys, XS, method=method, key=KEY)
    parts = isometry.ensemble(net, keys, XS, method=method, key=KEY, max_bytes=2**17)
    assert whole.log_values.shape == (2, 2, 12)
    np.testing.assert_allclose(parts.log_values, whole.log_values, atol=1e-3)
    assert float(jnp.abs(whole.log_values[0, 0] - whole.log_values[0, 1]).max()) > 1e-3


def test_any_function_may_be_probed():
    def f(params, x):
        return jnp.stack([params * x[0], jnp.sin(x[1]), x[0] + x[2]])

    x = jnp.asarray([0.3, 0.2, 0.1])
    exact = isometry.spectrum(f, jnp.float32(2), x)
    found = isometry.spectrum(f, jnp.float32(2), x, method=isometry.Lanczos(3, 400), key=KEY)
    assert abs(float(found.moment(1) - exact.moment(1))) <= 5 * (2 / 5 / 400) ** 0.5 * float(exact.moment(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isometry.spectrum(network(), None, XS[0], method="lanczos"), r"write key=jax\.random\.key"),
        (lambda: isometry.Lanczos(steps=0), "steps"),
        (lambda: isometry.Lanczos(probes=0), "probes"),
        (lambda: isometry.spectrum(network(), None, XS[0], method="lanzcos"), "lanczos"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_jacobian_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the Jacobian"):
        isometry.spectrum(lambda p, x: p * x, jnp.float32(jnp.nan), XS[0], method=isometry.Lanczos(2, 1), key=KEY)
