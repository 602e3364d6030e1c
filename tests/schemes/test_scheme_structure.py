"""Mirrored networks, mimetic attention and layer-sequential unit variance: structure rather than variances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, data, initializers, networks, schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(2)


def factors_of(net, params):
    """The B of each layer: its top-left block."""
    found = []
    for layer in net.layers(params):
        rows, columns = layer.w.shape
        reads, writes = layer.index > 0, layer.role != "head"
        found.append(np.asarray(layer.w, float)[: rows // (1 + reads), : columns // (1 + writes)])
    return found


MIRRORED = {
    "one layer": ([6, 5], "relu", "looks_linear"),
    "looks_linear": ([8, 16, 16, 16, 8], "relu", "looks_linear"),
    "mirrored": ([4, 12, 24, 5], "gelu", "mirrored"),
}


@pytest.fixture(scope="module")
def mirrored():
    """Draw each network, and measure it, by one program: its layers, 8 outputs, and the Jacobian of each span."""
    measured = {}
    for name, (widths, activation, scheme) in MIRRORED.items():
        net = networks.mlp(widths, activation, scheme)
        spans = ("end_to_end", "hidden") if net.depth > 2 else ("end_to_end",)
        xs = jnp.asarray(np.random.default_rng(0).standard_normal((8, widths[0])), jnp.float32)

        @jax.jit
        def measure(key, net=net, spans=spans, xs=xs):
            params = net.init(key)
            with jax.default_matmul_precision("highest"):
                ys = jax.vmap(net, (None, 0))(params, xs)
            return params, ys, {span: isometry.jacobian(net, params, xs[0], span=span) for span in spans}

        params, ys, jacobians = jax.device_get(measure(KEY))
        measured[name] = net, params, np.asarray(xs, float), ys, jacobians
    return measured


@pytest.mark.parametrize("name", MIRRORED)
def test_mirrored_networks_are_linear(name, mirrored):
    """The network is x ↦ x ΠB, whatever x: phi(u) - phi(-u) = u. 1e-5 is 10 eps for each of 4 products of size O(1)."""
    net, params, xs, ys, jacobians = mirrored[name]
    product = np.linalg.multi_dot([*factors_of(net, params), np.eye(net.widths[-1])])
    np.testing.assert_allclose(ys, xs @ product, rtol=0, atol=1e-5 * np.abs(ys).max())
    np.testing.assert_allclose(jacobians["end_to_end"], product.T, rtol=0, atol=1e-5 * np.abs(product).max())


def test_looks_linear_is_an_isometry_although_its_weights_are_not(mirrored):
    net, params, _, _, jacobians = mirrored["looks_linear"]
    for layer in net.layers(params):
        s = np.linalg.svd(np.asarray(layer.w, float), compute_uv=False)
        expected = {"stem": [2**0.5] * 8, "hidden": [2.0] * 8 + [0.0] * 8, "head": [2**0.5] * 8}[layer.role]
        np.testing.assert_allclose(s, expected, atol=1e-5)
    values = {span: np.linalg.svd(np.asarray(j, float), compute_uv=False) for span, j in jacobians.items()}
    np.testing.assert_allclose(values["end_to_end"], 1, atol=1e-5)
    np.testing.assert_allclose(values["hidden"], [2**0.5] * 8 + [0.0] * 8, atol=1e-5)


def test_mirrored_keeps_the_variance_of_units():
    """B_ij ~ N(0, 1/rows of B)."""
    net = networks.mlp([40, 80, 80, 60], "relu", "mirrored")
    for b, rows in zip(factors_of(net, net.init(KEY)), (40, 40, 40), strict=True):
        assert b.shape[0] == rows
        assert (b**2).mean() * rows == pytest.approx(1, abs=5 * (2 / b.size) ** 0.5)


def attention(role, shape, key=KEY, dtype=jnp.float32):
    layer = Layer(role, 0, 9, 24, 24, Branch(0, 4, int(role == "output"), 2))
    return np.asarray(schemes.get("mimetic").initializer(layer)(key, shape, dtype), float)


def best(matrix, rank):
    u, s, vt = np.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def test_mimetic_factors_one_matrix():
    """The best rank-k part of alpha Z + beta I, by NumPy's SVD; Z is what the key draws. Float32: 1e-5 for norm 2."""
    assert schemes.get("mimetic").pairs == (("query", "key"), ("value", "output"))
    width, heads, rank = 24, 3, 8
    q, k = attention("query", (width, heads, rank)), attention("key", (width, heads, rank))
    for h, key in enumerate(jax.random.split(KEY, heads)):
        z = np.asarray(jax.random.normal(key, (width, width)), float) / width**0.5
        np.testing.assert_allclose(q[:, h] @ k[:, h].T, best(0.7 * z + 0.7 * np.eye(width), rank), atol=1e-5)
        np.testing.assert_allclose(q[:, h].T @ q[:, h], k[:, h].T @ k[:, h], atol=1e-5)  # evenly shared
    z = np.asarray(jax.random.normal(KEY, (width, width)), float) / width**0.5
    for channels in ((3, 8), (2, 5)):
        v = attention("value", (width, *channels)).reshape(width, -1)
        o = attention("output", (*channels, width)).reshape(-1, width)
        np.testing.assert_allclose(v @ o, best(0.4 * z - 0.4 * np.eye(width), v.shape[1]), atol=1e-5)
    single = attention("query", (width, rank)) @ attention("key", (width, rank)).T
    assert np.linalg.matrix_rank(single, tol=1e-4) == rank


def test_mimetic_law_of_z():
    """v @ o at full rank is 0.4 Z - 0.4 I: off the diagonal mean 0 and variance 0.16/d, on it mean -0.4."""
    width = 128
    found = attention("value", (width, width)) @ attention("output", (width, width))
    off = found[~np.eye(width, dtype=bool)]
    assert (off**2).mean() * width / 0.16 == pytest.approx(1, abs=5 * (2 / off.size) ** 0.5)
    assert np.diag(found).mean() == pytest.approx(-0.4, abs=5 * 0.4 / width)


def test_mimetic_draws_agree_between_programs():
    """Query and key may be drawn by different programs (batched, jitted): the signs of singular vectors are fixed."""
    layers = [Layer(role, 0, 9, 24, 8, Branch(0, 4, 0, 2)) for role in ("query", "key")]
    query, key = (schemes.get("mimetic").initializer(layer) for layer in layers)
    keys = jax.random.split(KEY, 3)
    batched = jax.jit(jax.vmap(lambda k: query(k, (24, 8))))(keys)
    for i in range(3):
        np.testing.assert_allclose(
            batched[i] @ key(keys[i], (24, 8)).T, query(keys[i], (24, 8)) @ key(keys[i], (24, 8)).T, atol=1e-4
        )


@pytest.mark.parametrize(("role", "shape"), [("query", (4, 5)), ("value", (4, 2, 3)), ("output", (5, 4))])
def test_mimetic_refuses_more_channels_than_width(role, shape):
    with pytest.raises(InputError, match=r"asks for rank \d of a 4×4 matrix; the channels \(of a head"):
        attention(role, shape)


def outputs(net, params, xs):
    """z_1 … z_depth of every example, in float64, by NumPy."""
    phi = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[net.activation.name]
    h, found = np.asarray(xs, float), []
    for layer in net.layers(params):
        found.append(h @ np.asarray(layer.w, float))
        h = phi(found[-1])
    return found


@pytest.mark.parametrize(
    ("activation", "dtype", "tolerance"),
    [("tanh", jnp.float32, 1e-5), ("relu", jnp.float32, 1e-5), ("relu", jnp.bfloat16, 2e-2)],
)
def test_lsuv_on_real_digits(activation, dtype, tolerance):
    """Every layer has std 1 within the paper's 0.1, and, as one division suffices, within rounding (bfloat16 2^-8 a
    weight, inputs and sums too)."""
    xs, _ = data.digits()
    net = networks.mlp([64, 64, 64, 64], activation, "lsuv", dtype=dtype)
    drawn = net.init(KEY)
    assert max(abs(z.std() - 1) for z in outputs(net, drawn, xs)) > 0.1
    params = net.scheme.adjust(net, drawn, xs)
    assert [z.std() for z in outputs(net, params, xs)] == pytest.approx([1] * 3, abs=tolerance)
    for layer, before in zip(net.layers(params), net.layers(drawn), strict=True):
        assert layer.w.dtype == dtype
        s = np.linalg.svd(np.asarray(layer.w, float), compute_uv=False)
        assert s.max() / s.min() < 1 + 20 * float(jnp.finfo(dtype).eps)  # still orthogonal, rescaled
        np.testing.assert_array_equal(layer.b, before.b)


def test_ensemble_and_audit_adjust_what_they_draw():
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)), jnp.float32)
    net = networks.mlp([6, 6, 6, 6], "relu", "lsuv")
    keys = jax.random.split(KEY, 5)
    raw = jax.vmap(net.init)(keys)
    seeds = [jax.tree.map(lambda a, i=i: a[i], raw) for i in range(5)]
    adjusted = [net.scheme.adjust(net, params, xs) for params in seeds]
    by_hand = isometry.ensemble(net, params=jax.tree.map(lambda *a: jnp.stack(a), *adjusted), xs=xs)
    drawn = isometry.ensemble(net, keys, xs)
    bound = 64 * float(np.finfo(np.float32).eps) * float(drawn.values.max())  # of s, relative to the largest (Weyl)
    np.testing.assert_allclose(drawn.values, by_hand.values, rtol=0, atol=bound)
    chunks = []
    chunked = isometry.ensemble(net, keys, xs, max_bytes=2**15, progress=lambda done, total: chunks.append(done))
    assert len(set(chunks)) > 2
    np.testing.assert_allclose(chunked.values, drawn.values, rtol=0, atol=bound)
    as_drawn = isometry.ensemble(net, keys, xs, sample=net.init)
    assert np.abs(np.asarray(as_drawn.values - drawn.values)).max() > 0.1


def test_audit_adjusts_what_it_draws():
    """One orthogonal layer of outputs x W divided by their standard deviation: its singular values are all 1/std."""
    xs = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    net, keys = networks.mlp([6, 6], "relu", "lsuv"), jax.random.split(KEY, 5)
    report = isometry.audit(net, keys, jnp.asarray(xs), train_steps=0, inputs=8)
    for seed, params in enumerate(map(net.init, keys)):
        (layer,) = net.layers(params)
        w = np.asarray(layer.w, float)
        want = np.linalg.norm(w, 2) / (xs @ w).std()
        assert abs(want - np.linalg.norm(w, 2)) > 0.01
        np.testing.assert_allclose(report.spectra["end_to_end"].values[seed], want, rtol=1e-5)


def test_other_schemes_are_left_alone():
    net = networks.mlp([64, 24, 10], "relu", "orthogonal")
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(net.init, KEY))
    assert not net.scheme.data_driven
    assert net.scheme.adjust(net, params, jnp.ones((3, 64))) is params


@pytest.mark.parametrize(
    ("xs", "message"),
    [
        (jnp.ones((3, 5)), r"adjust\(\): xs is float32 of shape \(3, 5\); write floating rows of shape \(4,\)"),
        (jnp.ones(4), r"shape \(4,\); write floating rows"),
        (jnp.ones((0, 4)), r"at least one"),
        (jnp.ones((3, 4), jnp.int32), r"int32"),
        (None, r"xs is None"),
        (jnp.full((3, 4), jnp.nan), r"NaN or infinite"),
        (jnp.zeros((3, 4)), r"outputs of layer 0 have standard deviation 0\.0 over xs"),
    ],
)
def test_adjust_refuses(xs, message):
    net = networks.mlp([4, 8, 3], "relu", "lsuv")
    with pytest.raises(InputError, match=message):
        net.scheme.adjust(net, net.init(KEY), xs)


def test_adjust_says_when_it_does_not_converge_and_where_it_cannot_run():
    net = networks.mlp([4, 8, 3], "relu", "lsuv")
    rng = np.random.default_rng(0)
    params, xs = net.init(KEY), jnp.asarray(rng.standard_normal((9, 4)), jnp.float32)
    far = jax.tree.map(lambda a: a, params)
    # The spread of these biases alone is beyond 1.
    far["layers"][0]["b"] = jnp.asarray(5 * rng.standard_normal((1, 8)), jnp.float32)
    with pytest.raises(InputError, match=r"after 10 divisions the outputs of layer 0 still"):
        net.scheme.adjust(net, far, xs)
    with pytest.raises(TypeError, match=r"adjust\(\): .* traced"):
        jax.jit(lambda x: net.scheme.adjust(net, params, x))(xs)


def test_layers_of_one_shape_need_not_be_alike():
    scheme = schemes.Scheme("deeper", lambda layer, _: initializers.constant(layer.index), "its index", alike=False)
    net = networks.mlp([4] * 6, "tanh", scheme)
    assert [float(layer.w.mean()) for layer in net.layers(net.init(KEY))] == [0, 1, 2, 3, 4]
