"""Products of factors as an operator, and the smooth distribution of a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, linalg
from isometry.linalg import Factors, Operator

RNG = np.random.default_rng(0)


def draw_stacks():
    """Draw 3 ← 5 ← 5 ← 5 ← 4: scales alone in front, a factor without scales last."""

    def draw(*shape):
        return RNG.standard_normal(shape)

    return [
        Factors(None, draw(1, 4)),
        Factors(draw(1, 5, 4), draw(1, 5)),
        Factors(draw(2, 5, 5)),
        Factors(draw(1, 3, 5)),
    ]


def multiplied_out(stacks):
    """Return the product by NumPy."""
    product = np.eye(stacks[0].size[2])
    for stack in stacks:
        for i in range(stack.size[0]):
            if stack.matrix is not None:
                product = np.asarray(stack.matrix[i]) @ product
            if stack.scale is not None:
                product = np.asarray(stack.scale[i])[:, None] * product
    return product


@pytest.mark.core
def test_products_of_factors_go_both_ways():
    """Four products of five terms each: 1e-12 is some hundred times their rounding."""
    with jax.enable_x64(True):
        stacks = draw_stacks()
        operator = linalg.factored(stacks)

        @jax.jit
        def both_ways(v, u):
            return jax.vmap(operator.matvec)(v), jax.vmap(operator.rmatvec)(u)

        columns, rows = both_ways(np.eye(4), np.eye(3))
    expected = multiplied_out(stacks)
    assert operator.shape == (3, 4)
    np.testing.assert_allclose(columns.T, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-14)


def distance(cdf, s):
    """Return the largest distance of a cdf to the staircase of the values s."""
    n = len(s)
    share = np.asarray(cdf(np.sort(s)), float)
    # On both sides of each stair.
    upper = abs(share - np.arange(1, n + 1) / n)
    lower = abs(share - np.arange(n) / n)
    return max(upper.max(), lower.max())


smooth_cdf = jax.jit(linalg.smooth_cdf, static_argnums=2)


def quarter_circle(steps):
    """Return the Gauss quadrature of the quarter circle on [0, 2].

    The nodes are the positive zeros of Chebyshev's U of degree 2·steps.
    """
    angle = np.pi * np.arange(1, steps + 1) / (2 * steps + 1)
    return 2 * np.cos(angle), 4 / (2 * steps + 1) * np.sin(angle) ** 2


@pytest.mark.parametrize("steps", [1, 4])
def test_smooth_cdf_of_the_quarter_circle_is_exact(steps):
    s, weights = quarter_circle(steps)
    points = np.linspace(0.01, 1.99, 60)
    area = points * np.sqrt(4 - points**2) / 2 + 2 * np.arcsin(points / 2)
    with jax.enable_x64(True):
        share = smooth_cdf(np.log(s), weights, steps, np.log(points))
    np.testing.assert_allclose(share, area / np.pi, rtol=0, atol=1e-12)


def test_smooth_cdf_takes_batches_and_any_scale():
    """The tolerance is the rounding of ln s + 40 in float32, 4e-6, on a slope."""
    rng = np.random.default_rng(1)
    logs = np.sort(rng.standard_normal((2, 3, 4)))[..., ::-1].astype(np.float32)
    logs[..., -1] = -np.inf
    weights = np.full(logs.shape, 0.25, np.float32)
    points = np.linspace(-2, 2, 5, dtype=np.float32)
    share = smooth_cdf(logs, weights, 3, points)
    shifted = smooth_cdf(logs + 40, weights, 3, points + 40)
    assert share.shape == (2, 3, 5)
    np.testing.assert_allclose(shifted, share, atol=1e-4)


def test_smooth_cdf_of_a_batch_knows_the_steps_of_each():
    """Nodes of no mass fill up the quadrature of fewer steps."""
    logs = np.full((2, 4), -1, np.float32)
    weights = np.zeros((2, 4), np.float32)
    for row, steps in enumerate((1, 4)):
        s, masses = quarter_circle(steps)
        logs[row, :steps] = np.log(s)
        weights[row, :steps] = masses
    points = np.log(np.linspace(0.1, 1.9, 5)).astype(np.float32)
    of_both = jax.jit(linalg.smooth_cdf, static_argnames="most")
    share = of_both(logs, weights, np.array([1, 4]), points, most=4)
    few = smooth_cdf(logs[0, :1], weights[0, :1], 1, points)
    many = smooth_cdf(logs[1], weights[1], 4, points)
    np.testing.assert_allclose(share, [few, many], rtol=0, atol=1e-6)


def test_smooth_cdf_of_zeros_alone_is_finite():
    logs = np.full((2, 3, 4), -np.inf, np.float32)
    weights = np.full(logs.shape, 0.25, np.float32)
    points = np.array([-np.inf, -1, 0, 1, 2], np.float32)
    share = smooth_cdf(logs, weights, 3, points)
    assert np.isfinite(share).all()
    np.testing.assert_array_equal(share[..., -1], 1)


SEEDS, WIDTH, PROBES = 4, 64, 32


@pytest.fixture(scope="module")
def deep_tanh():
    """Jacobians of orthogonal tanh networks of 21 layers, and spectra of four steps."""
    rng = np.random.default_rng(0)
    gaussian = rng.standard_normal((SEEDS, 21, WIDTH, WIDTH))
    weights = np.linalg.qr(gaussian)[0]
    x = rng.standard_normal(WIDTH)
    jacobians = []
    for layers in weights:
        product, z = layers[0].T, x @ layers[0]
        for w in layers[1:]:
            slopes = 1 - np.tanh(z) ** 2
            product = w.T @ (slopes[:, None] * product)
            z = np.tanh(z) @ w
        jacobians.append(product)

    def quadrature(jacobian, key):
        operator = Operator.of(jacobian)
        return linalg.spectral_quadrature(operator, key=key, steps=4, probes=PROBES)

    keys = jax.random.split(jax.random.key(2), SEEDS)
    of_all = jax.jit(jax.vmap(quadrature))
    rules = jax.device_get(of_all(np.asarray(jacobians, np.float32), keys))
    spectra = isometry.Spectrum(
        rules.log_values.reshape(SEEDS, -1),
        rules.weights.reshape(SEEDS, -1) / PROBES,
        rules.log_floor,
        size=WIDTH,
        quadrature=rules,
    )
    return np.linalg.svd(jacobians, compute_uv=False).ravel(), spectra


def test_four_steps_know_the_distribution_of_a_deep_tanh_network(deep_tanh):
    """At most two in a hundred are the series', the rest the spread over probes.

    That is √(1/(n + 2)/probes/2) for all probes of all seeds, taken four times. The
    staircase of the nodes themselves is far away.
    """
    s, spectra = deep_tanh
    spread = (1 / (WIDTH + 2) / (SEEDS * PROBES) / 2) ** 0.5

    def smooth(points):
        return np.asarray(spectra.smooth_cdf(points, "s")).mean(0)

    def staircase(points):
        nodes = np.exp(spectra.log_values)[..., None, :]
        is_below = nodes <= points[:, None]
        masses = np.asarray(spectra.weights)[:, None]
        return np.sum(is_below * masses, -1).mean(0)

    assert distance(smooth, s) <= 0.02 + 4 * spread
    assert distance(staircase, s) > 0.1


def test_smooth_cdf_of_a_spectrum_takes_both_variables_and_is_zero_below_zero(
    deep_tanh,
):
    """The tolerance is the rounding of s² and its logarithm in float32, on a slope."""
    s, spectra = deep_tanh
    points = np.sort(s)
    of_s = spectra.smooth_cdf(points, "s")
    np.testing.assert_allclose(spectra.smooth_cdf(points**2), of_s, atol=1e-5)
    with_negative = np.r_[-1.0, points[1:]]
    share = spectra.smooth_cdf(with_negative, "s")
    np.testing.assert_array_equal(share[..., 0], 0)


def test_smooth_cdf_of_known_values_is_refused():
    """Their cdf is exact."""
    log_s = np.zeros(3, np.float32)
    weights = np.full(3, 1 / 3, np.float32)
    spectrum = isometry.Spectrum(log_s, weights, np.float32(-np.inf), size=3)
    message = r"smooth_cdf\(\): of .* every value is known; write cdf\(grid\)"
    with pytest.raises(isometry.InputError, match=message):
        spectrum.smooth_cdf([1.0])


CALLS = (linalg.factored, linalg.live_counts)
BAD = {
    "empty": ([], r"stacks is empty; write \[Factors\(matrix, scale\)"),
    "a number": ([3], r"stacks\[0\]=3 is not a Factors"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_product_is_refused(call, bad):
    stacks, words = BAD[bad]
    with pytest.raises(isometry.InputError, match=rf"{call.__name__}\(\): {words}"):
        call(stacks)


@pytest.mark.parametrize("smooth", [linalg.smooth_cdf, linalg.smooth_density])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_s": None}, "log_s is None, not an array of numbers"),
        ({"log_s": np.ones((2, 3), np.int32)}, "log_s has dtype int32; write"),
        ({"log_s": np.float32(1)}, r"log_s has shape \(\); write \(\.\.\., nodes\)"),
        ({"weights": np.ones((2, 3), np.int32)}, "weights has dtype int32; write"),
        ({"weights": np.ones(3, np.float32)}, r"weights has shape \(3,\) and log_s"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, r"steps=2\.5 is no whole number"),
        ({"steps": True}, "steps=True is no whole number"),
        ({"steps": np.array([1, 2, 3])}, r"steps has shape \(3,\); write one number"),
        ({"log_points": np.float32(1)}, r"log_points has shape \(\)"),
        ({"steps": np.array([1, 2]), "most": 0}, "most=0"),
    ],
)
def test_what_is_no_quadrature_is_refused(smooth, changes, words):
    arguments = {
        "log_s": np.zeros((2, 3), np.float32),
        "weights": np.ones((2, 3), np.float32),
        "steps": 3,
        "log_points": np.zeros(4, np.float32),
    }
    with pytest.raises(InputError, match=rf"^{smooth.__name__}\(\): {words}"):
        smooth(**(arguments | changes))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, np.ones(3, np.float32)), "g=None is no function"),
        ((np.tanh, np.ones((3, 1), np.float32)), r"point is an array of shape \(3, 1"),
        ((np.tanh, np.ones(3, np.int32)), "point is an array of .* dtype int32"),
        ((jnp.sum, np.ones(3, np.float32)), r"g\(point\) is an array of shape \(\)"),
        ((lambda x: (x, x), np.ones(3, np.float32)), r"g\(point\) is a tuple of 2"),
        ((jnp.tanh, np.ones(3, np.float32), 0), "chunk=0"),
        ((jnp.tanh, np.ones(3, np.float32), 1, "yes"), "forward='yes' is not a bool"),
    ],
)
def test_what_is_no_map_of_vectors_is_refused(arguments, words):
    with pytest.raises(InputError, match=rf"^matrix_of\(\): {words}"):
        linalg.matrix_of(*arguments)
