"""Ensembles equal a loop over `spectrum`, whatever the budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, _measure, linalg, networks

NET = networks.mlp([6, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
KEYS = jax.random.split(jax.random.key(0), 5)
XS = jax.random.normal(jax.random.key(1), (3, 6))
EPS = float(np.finfo(np.float32).eps)


def linear(params, x):
    return params @ x


def draw(key):
    return jax.random.normal(key, (4, 6))


@pytest.fixture(scope="module")
def whole():
    return isometry.ensemble(NET, KEYS, XS)


def close(a, b):
    """s within a few eps of the largest of its matrix (Weyl); the spectra here have s_max < 8."""
    np.testing.assert_allclose(a.values, b.values, rtol=0, atol=8 * 8 * EPS * float(b.values.max()))
    np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(a.log_floor, b.log_floor)
    assert (a.size, a.structural_zeros, a.method, a.span, a.pairs) == (
        b.size,
        b.structural_zeros,
        b.method,
        b.span,
        b.pairs,
    )


def test_equals_a_loop(whole):
    assert whole.log_values.shape == (5, 3, 5)
    assert whole.structural_zeros == 1
    one = jax.jit(lambda params, x: isometry.spectrum(NET, params, x))
    for i, key in enumerate(KEYS):
        params = NET.init(key)
        for j, x in enumerate(XS):
            close(jax.tree.map(lambda a, i=i, j=j: a[i, j], whole), one(params, x))


# One Jacobian is given 1584 bytes, and all share 4788; the parameters of a seed are 692, counted twice.
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU takes other bytes")
@pytest.mark.parametrize(("budget", "parts"), [(10**9, 1), (20_000, 3), (12_000, 5), (9000, 10), (7000, 15)])
def test_budget_does_not_matter(whole, budget, parts):
    seen = []
    got = isometry.ensemble(NET, KEYS, XS, max_bytes=budget, progress=lambda done, total: seen.append((done, total)))
    close(got, whole)
    assert len(seen) == parts
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (15, 15)


def test_stacked_parameters(whole):
    close(isometry.ensemble(NET, params=jax.vmap(NET.init)(KEYS), xs=XS), whole)


def test_old_keys():
    new = isometry.ensemble(NET, jax.random.split(jax.random.key(7), 2), XS)
    old = isometry.ensemble(NET, jax.random.split(jax.random.PRNGKey(7), 2), XS)
    np.testing.assert_array_equal(old.log_values, new.log_values)


def test_plain_function_with_sample():
    got = isometry.ensemble(linear, KEYS, XS, sample=draw)
    assert got.log_values.shape == (5, 3, 4)
    for i, key in enumerate(KEYS):
        want = np.linalg.svd(np.asarray(draw(key), np.float64), compute_uv=False)
        for j in range(3):
            np.testing.assert_allclose(got.values[i, j], want, rtol=0, atol=6 * 4 * EPS * want[0])


def test_hidden_span():
    got = isometry.ensemble(NET, KEYS[:2], XS[:1], span="hidden")
    assert (got.log_values.shape, got.span, got.pairs) == ((2, 1, 8), "hidden", 1)
    want = isometry.spectrum(NET, NET.init(KEYS[1]), XS[0], span="hidden")
    close(jax.tree.map(lambda a: a[1, 0], got), want)


def test_nan_parameters_are_named():
    params = jax.vmap(draw)(KEYS).at[3, 1, 2].set(jnp.nan)
    with pytest.raises(InputError, match=r"the Jacobian of seed 3 at input 0 is not finite \(3 of 15 in this chunk\)"):
        isometry.ensemble(linear, params=params, xs=XS)


def test_tracers_are_refused():
    with pytest.raises(TypeError, match=r"ensemble\(\): xs is traced; ensemble runs on the host"):
        jax.jit(lambda xs: isometry.ensemble(NET, KEYS, xs))(XS)
    with pytest.raises(TypeError, match=r"ensemble\(\): keys is traced"):
        jax.jit(lambda keys: isometry.ensemble(NET, keys, XS))(KEYS)
    with pytest.raises(TypeError, match=r"ensemble\(\): params is traced"):
        jax.jit(lambda params: isometry.ensemble(linear, params=params, xs=XS))(jnp.ones((2, 4, 6)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: isometry.ensemble(NET, xs=XS),
            r"one of keys \(to draw parameters\) and params .* is needed; neither is given",
        ),
        (lambda: isometry.ensemble(NET, KEYS, XS, params=1), r"one of keys .* both are given"),
        (lambda: isometry.ensemble(NET, KEYS), r"ensemble\(\): xs is missing; write xs=\(inputs, \*x\.shape\)"),
        (lambda: isometry.ensemble(NET, KEYS[0], XS), r"keys is of shape \(\), not a one-dimensional array of random"),
        (lambda: isometry.ensemble(NET, KEYS[:0], XS), r"keys is empty; write jax\.random\.split"),
        (lambda: isometry.ensemble(NET, 3, XS), r"keys is 3, not a one-dimensional array of random keys"),
        (
            lambda: isometry.ensemble(linear, KEYS, XS),
            r"f is a plain function; give sample=\(key -> params\), or params=",
        ),
        (
            lambda: isometry.ensemble(linear, params=(jnp.ones((2, 1)), jnp.ones(3)), xs=XS),
            r"the leaves of params have leading axes \[\(2,\), \(3,\)\]",
        ),
        (lambda: isometry.ensemble(linear, params=jnp.ones(()), xs=XS), r"leading axes \[\(\)\]; stack them"),
        (lambda: isometry.ensemble(linear, params={}, xs=XS), r"leading axes \[\]; stack them"),
        (lambda: isometry.ensemble(NET, KEYS, XS[0]), r"xs has shape \(6,\); this network takes rows of shape \(6,\)"),
        (lambda: isometry.ensemble(NET, KEYS, XS[:, :5]), r"xs has shape \(3, 5\); this network takes rows of shape"),
        (lambda: isometry.ensemble(NET, KEYS, XS[:0]), r"xs is float32 of shape \(0, 6\)"),
        (lambda: isometry.ensemble(NET, KEYS, jnp.ones((3, 6), int)), r"xs is int32 .*; it must be floating"),
        (lambda: isometry.ensemble(NET, KEYS, XS.at[1, 2].set(jnp.nan)), r"xs holds 1 values that are NaN or infinite"),
        (lambda: isometry.ensemble(NET, KEYS, XS, max_bytes=0), r"max_bytes=0 must be a whole number, at least 1"),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, max_bytes=100),
            r"max_bytes=100 is too small for one 5×6 Jacobian by Dense\(\); write at least \d+\.",
        ),
        (lambda: isometry.ensemble(NET, KEYS, XS, method="dens"), r"ensemble\(\): method='dens' is not known.*'dense'"),
        (lambda: isometry.ensemble(NET, KEYS, XS, span="middle"), r"ensemble\(\): span='middle' is not known"),
        (lambda: isometry.ensemble(3, KEYS, XS), r"ensemble\(\): f=3 is not callable"),
        (lambda: isometry.ensemble(NET, KEYS, XS, progress="a"), r"progress='a' is neither True nor a function of \("),
        (lambda: isometry.ensemble(NET, KEYS, XS, dtype="float64"), r"ensemble\(\): dtype=float64 needs 64-bit mode"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
@pytest.mark.parametrize("span", ["end_to_end", "hidden"])
def test_dead_units_change_no_value(monkeypatch, activation, span):
    net = networks.mlp([20, 24, 24, 24, 20], activation, "gaussian", 2.0, 0.5)
    keys, xs = KEYS[:2], jax.random.normal(jax.random.key(5), (3, 20))
    whole = isometry.ensemble(net, keys, xs, span=span)
    monkeypatch.setattr(_measure, "_WORTH", 8)
    monkeypatch.setattr(_measure, "_BUCKET", 2)
    monkeypatch.setattr(_measure, "_SHARE", 1.0)
    used = []
    monkeypatch.setattr(linalg, "compact_product", lambda *a, g=linalg.compact_product: used.append(a) or g(*a))
    compact = isometry.ensemble(net, keys, xs, span=span)
    assert used
    bound = 8 * 24 * EPS * float(whole.values.max())
    np.testing.assert_allclose(compact.values, whole.values, rtol=0, atol=bound)
    assert (np.asarray(compact.zero_fraction(exact=True)) > 0).all()
    # what is exactly zero now was noise below the floor before, or nearly so
    assert (np.asarray(whole.values)[np.isneginf(compact.log_values)] <= bound).all()
    # the narrowest space between two weights bounds the rank; what is beyond it is zero exactly
    see = jax.vmap(jax.vmap(net.function.pre_activations, (None, 0)), (0, None))
    layers = see(jax.vmap(net.init)(keys), xs)
    spaces = layers if span == "end_to_end" else layers[:-1]
    live = np.array([np.asarray(net.activation.slope(z) != 0).sum(-1) for z in spaces])
    zeros = np.isneginf(compact.log_values).sum(-1)
    assert (zeros >= compact.size - live.min(0)).all()


@pytest.mark.parametrize(("width", "fault"), [(8, "overflow"), (200, "a NaN bias")])
def test_what_relu_makes_of_nan_is_no_zero(width, fault):
    """relu' of a NaN is 0: a network that overflows is not one whose units are all off."""
    net = networks.mlp([width] * 7, "relu", "gaussian", sigma_w=1e10, bias=fault != "overflow")
    params, x = net.init(KEYS[0]), jnp.ones(width)
    if fault != "overflow":
        first, *others = params["layers"]
        params = {"layers": (first | {"b": first["b"].at[0, 3].set(jnp.nan)}, *others)}
    assert np.isnan(net(params, x)).all()
    stacked = jax.tree.map(lambda a: a[None], params)
    for method in ("dense", "product") if width == 8 else ("dense",):
        with pytest.raises(ValueError, match="NaN or infinite"):
            isometry.spectrum(net, params, x, method=method)
        with pytest.raises(ValueError, match="seed 0 at input 0 is not finite"):
            isometry.ensemble(net, params=stacked, xs=x[None], method=method)
    with pytest.raises(ValueError, match="NaN or infinite"):
        isometry.jacobian(net, params, x)


def test_a_single_layer_has_no_units_to_leave_out():
    net = networks.mlp([200, 200], "relu", "orthogonal", sigma_w=1.0)
    found = isometry.ensemble(net, KEYS[:1], jnp.ones((1, 200)))
    np.testing.assert_allclose(found.values, 1, rtol=0, atol=200 * EPS)


def test_sample_beside_params_is_refused():
    with pytest.raises(InputError, match=r"sample draws parameters from keys, but params are given; leave one out"):
        isometry.ensemble(linear, params=jax.vmap(draw)(KEYS), xs=XS, sample=draw)


def test_words_that_are_no_keys_are_refused():
    with pytest.raises(InputError, match=r"(?s)keys is array.*, not a one-dimensional array of random keys"):
        isometry.ensemble(NET, np.zeros((2, 5), np.uint32), XS)
