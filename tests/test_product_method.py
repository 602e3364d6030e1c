"""method="product": networks of any depth, without a floor."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import _jacobian, linalg, networks

KEYS = jax.random.split(jax.random.key(0), 2)


def inputs(n, count=3):
    return jnp.asarray(np.random.default_rng(0).standard_normal((count, n)), jnp.float32)


@pytest.mark.parametrize(
    "widths",
    [
        pytest.param([5, 8, 8, 8, 3], marks=pytest.mark.core),
        [3, 8, 8, 8, 8, 5],
        [6, 6],
        [6, 4, 6],
        pytest.param([9, 4, 4, 4, 9], marks=pytest.mark.core),
    ],
)
@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_product_and_dense_agree(widths, span):
    if span == "hidden" and len(widths) < 4:
        pytest.skip("needs depth 3")
    net = networks.mlp(widths, "tanh", "gaussian", sigma_w=1.2, sigma_b=0.3)
    params, x = net.init(KEYS[0]), inputs(widths[0])[0]
    dense, product = (isometry.spectrum(net, params, x, method=m, span=span) for m in ("dense", "product"))
    assert (product.size, product.structural_zeros, product.pairs) == (dense.size, dense.structural_zeros, dense.pairs)
    seen = np.asarray(dense.resolved)
    allowed = 1e-3 + np.exp(dense.log_floor - dense.log_values[seen])  # what each method promises
    assert (abs(product.log_values[seen] - dense.log_values[seen]) <= allowed).all()
    assert np.isneginf(product.log_values[~seen]).all()  # a waist loses directions exactly
    assert not np.isfinite(product.log_floor)


def test_the_product_of_layers_is_autodiff():
    """The wide product against jax.jacrev, at both spans."""
    net = networks.mlp([5, 7, 7, 7, 4], "gelu", "gaussian", sigma_w=1.5, sigma_b=0.5)
    params, xs = net.init(KEYS[0]), inputs(5)
    for span in ("end_to_end", "hidden"):
        aim = _jacobian.target("spectrum", net, span)
        wide = _jacobian.wide_jacobians(aim, params, xs, jnp.dtype("float32"))
        for x, matrix in zip(xs, wide, strict=True):
            truth = jax.jacrev(lambda z: aim.apply(params, z))(aim.start(params, x))  # noqa: B023
            np.testing.assert_allclose(matrix, truth, atol=1e-5)


def test_a_thousand_layers():
    """Chaotic and ordered nets far beyond the range of floats: Σ ln s is Σ ln |det| of the layers."""
    net = networks.mlp([8] * 1003, "linear", "gaussian", sigma_w=0.01)
    params = net.init(KEYS[0])
    sp = isometry.spectrum(net, params, inputs(8)[0], method="product", span="hidden")
    truth = sum(np.linalg.slogdet(np.asarray(layer.w, np.float64))[1] for layer in list(net.layers(params))[1:-1])
    assert sp.pairs == 1000
    assert sp.zero_fraction() == 0
    assert float(sp.log_values[0]) < -3000  # float32 ends at -87
    assert abs(float(sp.log_values.sum()) - truth) <= 1e-5 * abs(truth)


def test_dead_units_are_exact_zeros():
    net = networks.mlp([6, 12, 12, 12, 6], "relu", "gaussian", sigma_w=1.5)
    params, x = net.init(KEYS[1]), inputs(6)[1]
    dense, product = (isometry.spectrum(net, params, x, method=m, span="hidden") for m in ("dense", "product"))
    alive = np.asarray(dense.resolved).sum()
    assert alive < 12
    assert np.isfinite(product.log_values).sum() == alive
    assert float(product.zero_fraction(exact=True)) == pytest.approx(1 - alive / 12, abs=1e-6)


def test_ensemble_by_product():
    net = networks.mlp([4, 9, 9, 9, 9, 4], "tanh", "orthogonal", sigma_w=1.1, sigma_b=0.1)
    xs = inputs(4)
    dense, product = (isometry.ensemble(net, KEYS, xs, method=m) for m in ("dense", isometry.Product()))
    assert product.log_values.shape == dense.log_values.shape == (2, 3, 4)
    np.testing.assert_allclose(product.log_values, dense.log_values, atol=1e-4)
    assert product.pooled().zero_fraction() == 0


def test_a_saturated_seed_beside_a_gentle_one_keeps_its_values():
    """Multiplied by eights, as the first seed alone would allow, five of the eight values of the second were lost."""
    with jax.enable_x64(True):
        net = networks.mlp([8] * 66, "tanh", "orthogonal", dtype=jnp.float64)
        params = net.init(KEYS[0])
        stem, *runs = params["layers"]
        biased = {"layers": (stem, {**runs[0], "b": runs[0]["b"] + 8 * jnp.linspace(0, 1, 8)[None]}, *runs[1:])}
        both = jax.tree.map(lambda *a: jnp.stack(a), params, biased)
        sp = isometry.ensemble(net, params=both, xs=jnp.full((1, 8), 1e-3), method="product")
        alone = isometry.spectrum(net, biased, jnp.full(8, 1e-3), method="product")
    logs = np.asarray(sp.log_values)
    assert np.isfinite(logs).all()
    assert logs[1, 0, -1] < -300
    np.testing.assert_allclose(logs[1, 0], np.asarray(alone.log_values), rtol=1e-12)


def test_what_is_no_number_in_the_first_seed_is_said_of_it():
    net = networks.mlp([4, 4, 4, 4, 4, 4], "tanh", "orthogonal")
    params = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan)[None], net.init(KEYS[0]))
    with pytest.raises(isometry.InputError, match="the Jacobian of seed 0 at input 0 is not finite"):
        isometry.ensemble(net, params=params, xs=inputs(4, 1), method="product")


@pytest.mark.core
def test_product_is_traceable():
    net = networks.mlp([4, 5, 5, 4], "tanh", "orthogonal")
    params, xs = net.init(KEYS[0]), inputs(4)
    measure = jax.jit(jax.vmap(lambda x: isometry.spectrum(net, params, x, method="product").log_values))
    alone = isometry.spectrum(net, params, xs[2], method="product").log_values
    np.testing.assert_allclose(measure(xs)[2], alone, atol=1e-5)


def test_a_plain_function_shows_no_layers():
    with pytest.raises(ValueError, match=r"networks\.chain"):
        isometry.spectrum(lambda p, x: p * x, 1.0, inputs(3)[0], method="product")
    with pytest.raises(ValueError, match="every"):
        isometry.Product(every=0)


def test_wide_products_of_every_shape():
    """Against the factors multiplied one by one, built from either end."""
    rng = np.random.default_rng(3)
    array = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    for sizes in ([3, 5, 5, 5, 4], [4, 5, 5, 5, 2], [5, 5, 5]):
        stacks = [linalg.Factors(array(1, m, n), array(2, 1, m)) for n, m in itertools.pairwise(sizes)]
        stacks = [linalg.Factors(None, array(2, 1, sizes[0])), *stacks[:-1], linalg.Factors(stacks[-1].matrix)]
        wide = linalg.wide_product(stacks, 2)
        for b in range(2):
            truth = np.eye(sizes[0])
            for matrix, scale in stacks:
                truth = truth if matrix is None else np.asarray(matrix[0]) @ truth
                truth = truth if scale is None else np.asarray(scale[b, 0])[:, None] * truth
            np.testing.assert_allclose(wide[b], truth, rtol=1e-4, atol=1e-4)


def test_products_are_traced_at_full_precision():
    """Forward pass, slopes, the Jacobians of a chain's blocks, and the product itself."""
    dot = lambda p, x: jnp.tanh(p @ x)  # noqa: E731
    net, params = networks.chain([dot, dot]), (jnp.eye(3), jnp.eye(3))
    measure = lambda x: isometry.spectrum(net, params, x, method="product").log_values  # noqa: E731
    text = str(jax.make_jaxpr(measure)(jnp.ones(3)))
    assert text.count("dot_general") > 3
    assert "precision=None" not in text


def test_a_list_of_blocks_is_a_chain():
    blocks = [lambda p, x: jnp.tanh(p @ x), lambda p, x: p * x]
    params, x = [jnp.asarray([[0.5, 0.2], [0.1, -1.0]]), jnp.asarray([2.0, 1e-30])], jnp.asarray([1.0, 0.5])
    product = isometry.spectrum(blocks, params, x, method="product")
    np.testing.assert_array_equal(
        product.log_values, isometry.spectrum(networks.chain(blocks), params, x, method="product").log_values
    )
    stacked = jax.tree.map(lambda a: a[None], params)
    many = isometry.ensemble(blocks, params=stacked, xs=x[None], method="product")
    np.testing.assert_allclose(many.log_values[0, 0], product.log_values, rtol=1e-6)
    with pytest.raises(ValueError, match="neither an array"):
        linalg.product_log_singular_values([jnp.tanh])
