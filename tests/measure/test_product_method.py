"""method="product": networks of any depth, without a floor.

A program of this method compiles for three seconds, so each network here is one that
another test does not have, and its parameters and its reference are made in NumPy.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import linalg, networks
from tests.measure.targets import target_of

RNG = np.random.default_rng(0)
EPS = float(np.finfo(np.float32).eps)


def drawn(net, sigma_w=1.2, sigma_b=0.3):
    """Gaussian parameters, weights of variance sigma_w² / fan_in."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    scales = {
        run["w"].shape: sigma_w / np.sqrt(run["w"].shape[-2])
        for run in shapes["layers"]
    }

    def leaf(shape):
        return (
            scales.get(shape.shape, sigma_b) * RNG.standard_normal(shape.shape)
        ).astype(shape.dtype)

    return jax.tree.map(leaf, shapes)


def jacobian(params, x, derivative, activation):
    """W_L D_{L-1} … D_1 W_1 in float64, from the definition."""
    product, h, z = np.eye(len(x)), np.asarray(x, np.float64), None
    for run in params["layers"]:
        for w, b in zip(
            np.asarray(run["w"], np.float64),
            np.asarray(run["b"], np.float64),
            strict=True,
        ):
            if z is not None:
                product = derivative(z)[:, None] * product
            product = w.T @ product
            z = h @ w + b
            h = activation(z)
    return product


def of_tanh(params, x):
    return jacobian(params, x, lambda z: 1 - np.tanh(z) ** 2, np.tanh)


def test_every_value_of_a_network_with_dead_units():
    """In a chain that starts at its narrowest place, the middle.

    Of the four units there two live: all other values are zeros, exactly.
    """
    net = networks.mlp([9, 4, 4, 4, 9], "relu")
    params, x = drawn(net), RNG.standard_normal(9).astype(np.float32)
    params["layers"][0]["b"][0] = [-10, -10, 10, 10]
    truth = jacobian(params, x, lambda z: (z > 0) * 1.0, lambda z: np.maximum(z, 0))
    want = np.linalg.svd(truth, compute_uv=False)
    alive = int(np.sum(want > 1e-12))
    assert 0 < alive < 4
    found = isometry.spectrum(net, params, x, method="product")
    assert (found.size, found.structural_zeros, found.pairs) == (9, 0, None)
    logs = np.asarray(found.log_values)
    # Some eps times the condition of each layer.
    layers = [w for run in params["layers"] for w in np.asarray(run["w"], np.float64)]
    error = 8 * EPS * sum(map(np.linalg.cond, layers))
    np.testing.assert_allclose(logs[:alive], np.log(want[:alive]), rtol=0, atol=error)
    assert np.isneginf(logs[alive:]).all()
    assert not np.isfinite(found.log_floor)
    zeros = float(found.zero_fraction(exact=True))
    assert zeros == pytest.approx(1 - alive / 9, abs=9 * EPS)


def test_the_product_of_layers_is_autodiff():
    """The wide product against jax.jacrev, at both spans."""
    net = networks.mlp([5, 7, 7, 7, 4], "gelu")
    params, xs = drawn(net, 1.5, 0.5), RNG.standard_normal((3, 5)).astype(np.float32)
    targets = [
        target_of(net, params, xs[0], span=span) for span in ("end_to_end", "hidden")
    ]

    def by_autodiff(target, x):
        one = jax.jacrev(target.apply, argnums=2)
        return one(params, x, target.start(params, x))

    @jax.jit
    def both(xs):
        return [
            (target.jacobians(params, xs), jax.vmap(partial(by_autodiff, target))(xs))
            for target in targets
        ]

    for wide, truth in both(xs):
        np.testing.assert_allclose(wide, truth, atol=1e-5)


def test_a_thousand_layers():
    """Chaotic and ordered nets far beyond the range of floats.

    Σ ln s is Σ ln |det| of the layers.
    """
    net = networks.mlp([8] * 1003, "linear")
    params = drawn(net, 0.01)
    sp = isometry.spectrum(
        net, params, np.ones(8, np.float32), method="product", span="hidden"
    )
    truth = np.linalg.slogdet(params["layers"][1]["w"].astype(np.float64))[1].sum()
    assert len(params["layers"][1]["w"]) == sp.pairs == 1000
    assert sp.zero_fraction() == 0
    assert float(sp.log_values[0]) < -3000  # float32 ends at -87
    assert abs(float(sp.log_values.sum()) - truth) <= 1e-5 * abs(truth)


DEEP = networks.mlp([8] * 66, "tanh")


@pytest.fixture(scope="module")
def gentle_and_saturated():
    """Parameters of two seeds in float64.

    The layers of the second driven into saturation by their biases.
    """
    shapes = jax.eval_shape(DEEP.init, jax.random.key(0))
    turns = {
        run["w"].shape: np.linalg.qr(RNG.standard_normal(run["w"].shape))[0]
        for run in shapes["layers"]
    }
    gentle = jax.tree.map(lambda a: turns.get(a.shape, np.zeros(a.shape)), shapes)
    stem, *runs = gentle["layers"]
    saturated = {
        "layers": (
            stem,
            {**runs[0], "b": runs[0]["b"] + 8 * np.linspace(0, 1, 8)},
            *runs[1:],
        )
    }
    return gentle, saturated


def by_product(*seeds):
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *a: np.stack(a), *seeds)
        xs = 1e-3 * np.linspace(1, 2, 24).reshape(3, 8)
        return isometry.ensemble(
            DEEP, params=stacked, xs=xs, method=isometry.Product()
        ), xs


def test_an_ensemble_with_a_saturated_seed_beside_a_gentle_one(gentle_and_saturated):
    """Multiplied by eights, as the first seed alone would allow.

    Five of the eight values of the second were lost.
    """
    gentle, saturated = gentle_and_saturated
    found, xs = by_product(gentle, saturated)
    logs = np.asarray(found.log_values)
    assert logs.shape == (2, 3, 8)
    assert np.isfinite(logs).all()
    for x, one in zip(xs, logs[0], strict=True):
        want = np.linalg.svd(of_tanh(gentle, x), compute_uv=False)
        np.testing.assert_allclose(one, np.log(want), rtol=0, atol=1e-9)
    assert (logs[1, :, -1] < -300).all()
    swapped, _ = by_product(saturated, gentle)
    np.testing.assert_allclose(swapped.log_values[::-1], logs, rtol=1e-12)
    with jax.enable_x64(True):
        assert found.pooled().zero_fraction() == 0


def test_nan_in_the_first_seed_is_reported(gentle_and_saturated):
    gentle, saturated = gentle_and_saturated
    with pytest.raises(
        isometry.InputError, match="the Jacobian of seed 0 at input 0 is not finite"
    ):
        by_product(jax.tree.map(lambda a: a * np.nan, gentle), saturated)


@pytest.mark.parametrize("widths", [[4, 5, 5, 4], [6, 6]])
def test_product_is_traceable(widths):
    net = networks.mlp(widths, "tanh")

    def measure(params, x):
        return isometry.spectrum(net, params, x, method="product").log_values

    many = jax.eval_shape(
        jax.vmap(measure, (None, 0)), drawn(net), np.ones((3, widths[0]), np.float32)
    )
    assert many.shape == (3, widths[0])


def test_a_plain_function_shows_no_layers():
    with pytest.raises(ValueError, match=r"networks\.chain"):
        isometry.spectrum(
            lambda p, x: p * x, 1.0, np.ones(3, np.float32), method="product"
        )
    with pytest.raises(ValueError, match="every"):
        isometry.Product(every=0)


def test_wide_products_of_every_shape():
    """Against the factors multiplied one by one, built from either end."""

    def array(*shape):
        return RNG.standard_normal(shape).astype(np.float32)

    cases = []
    for sizes in ([3, 5, 5, 5, 4], [4, 5, 5, 5, 2], [5, 5, 5]):
        stacks = [
            linalg.Factors(array(1, m, n), array(2, 1, m))
            for n, m in itertools.pairwise(sizes)
        ]
        cases.append(
            [
                linalg.Factors(None, array(2, 1, sizes[0])),
                *stacks[:-1],
                linalg.Factors(stacks[-1].matrix),
            ]
        )
    products = jax.jit(
        lambda cases: [linalg.wide_product(stacks, 2) for stacks in cases]
    )(cases)
    for stacks, wide in zip(cases, products, strict=True):
        for b in range(2):
            truth = np.eye(stacks[0].size[2])
            for matrix, scale in stacks:
                truth = truth if matrix is None else matrix[0] @ truth
                truth = truth if scale is None else scale[b, 0][:, None] * truth
            # Products of four matrices, of sums of five terms each.
            rounding = 4 * 5 * EPS * np.linalg.norm(truth)
            np.testing.assert_allclose(wide[b], truth, rtol=0, atol=rounding)


def test_products_are_traced_at_full_precision():
    """Forward pass, slopes, the Jacobians of a chain's blocks.

    And the product itself.
    """

    def dot(p, x):
        return jnp.tanh(p @ x)

    net, params = networks.chain([dot, dot]), (np.eye(3, dtype=np.float32),) * 2

    def measure(x):
        return isometry.spectrum(net, params, x, method="product").log_values

    text = str(jax.make_jaxpr(measure)(np.ones(3, np.float32)))
    assert text.count("dot_general") > 3
    assert "precision=None" not in text


def test_a_list_of_blocks_is_a_chain():
    """Of diag(2, 1e-30) W with a tanh between: 1e-30 is lost by no factorization."""
    blocks = [lambda p, x: jnp.tanh(p @ x), lambda p, x: p * x]
    w, d = (
        np.asarray([[0.5, 0.2], [0.1, -1.0]], np.float32),
        np.asarray([2.0, 1e-30], np.float32),
    )
    x = np.asarray([1.0, 0.5], np.float32)
    many = isometry.ensemble(
        blocks, params=[w[None], d[None]], xs=x[None], method="product"
    )
    rows = (d * (1 - np.tanh(w @ x) ** 2)).astype(np.float64)[:, None] * w
    determinant = np.linalg.slogdet(rows)[1]
    largest = np.log(np.linalg.norm(rows[0]))  # the other row adds 1e-60 of it
    np.testing.assert_allclose(
        many.log_values[0, 0], [largest, determinant - largest], rtol=1e-5
    )

    def measure(x):
        return isometry.spectrum(blocks, [w, d], x, method="product").log_values

    assert jax.eval_shape(measure, x).shape == (2,)
    with pytest.raises(ValueError, match="neither an array"):
        linalg.product_log_singular_values([jnp.tanh])


def residual(params, x):
    h = x @ params["stem"]
    for block in params["blocks"]:
        h = h + jnp.tanh(h @ block["up"]) @ block["down"]
    return h @ params["head"]


def test_a_residual_function_is_multiplied_block_by_block():
    """Against the SVD in float64 of the Jacobian that autodiff forms."""

    def matrix(m, n):
        return (RNG.standard_normal((m, n)) / np.sqrt(m)).astype(np.float32)

    blocks = [{"up": matrix(6, 8), "down": matrix(8, 6)} for _ in range(3)]
    params = {"stem": matrix(4, 6), "blocks": blocks, "head": matrix(6, 5)}
    x = RNG.standard_normal(4).astype(np.float32)
    sp = isometry.spectrum(residual, params, x, method="product")
    truth = np.asarray(jax.jit(jax.jacrev(residual, argnums=1))(params, x), np.float64)
    want = np.log(np.linalg.svd(truth, compute_uv=False))
    # The reference is formed in float32: an error of a few eps s_max in each value.
    error = 64 * EPS * np.exp(want[0] - want)
    assert (np.abs(np.asarray(sp.log_values) - want) <= error).all()
    assert not np.isfinite(sp.log_floor)


def convolution(kernel, x):
    return jnp.tanh(jax.lax.conv(x[None], kernel, (1, 1), "SAME")[0])


def convolutions(kernels, x):
    for kernel in kernels:
        x = convolution(kernel, x)
    return x


def test_convolutions_are_resolved_below_the_range_of_floats():
    """Of small kernels: values go on below e^-87, where float32 ends.

    The determinant, their product, is that of the layers, in float64.
    """
    kernels = 1e-3 * RNG.standard_normal((14, 2, 2, 3, 3))
    x = RNG.standard_normal((2, 3, 3))
    sp = isometry.spectrum(
        convolutions,
        list(kernels.astype(np.float32)),
        x.astype(np.float32),
        method="product",
    )
    assert sp.size == 18
    assert float(sp.log_values[-1]) < -87
    assert sp.zero_fraction() == 0
    want = 0.0
    with jax.enable_x64(True):
        layer = jax.jit(
            lambda kernel, x: (
                convolution(kernel, x),
                jax.jacrev(convolution, argnums=1)(kernel, x),
            )
        )
        conditions = 0.0
        for kernel in kernels:
            x, jacobian = map(np.asarray, layer(kernel, x))
            jacobian = jacobian.reshape(18, 18)
            want += np.linalg.slogdet(jacobian)[1]
            conditions += np.linalg.cond(jacobian)
    # Each of 18 values may be off by some eps times the conditions of all layers.
    assert abs(float(sp.log_values.sum()) - want) <= 18 * 8 * EPS * conditions
