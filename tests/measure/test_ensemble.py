"""Ensembles equal a loop over `spectrum`, whatever the budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, linalg, networks
from isometry.measure import _ensemble
from isometry.measure.methods import Footprint, dense
from tests.foreign import Tensor

NET = networks.mlp([6, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
KEYS = jax.random.split(jax.random.key(0), 5)
RNG = np.random.default_rng(0)
XS = RNG.standard_normal((3, 6)).astype(np.float32)
EPS = float(np.finfo(np.float32).eps)


SPOILT = np.where(np.eye(3, 6) > 0, np.float32(np.nan), XS)


def linear(params, x):
    return params @ x


def draw(key):
    return jax.random.normal(key, (4, 6))


@pytest.fixture(scope="module")
def params():
    """What the keys draw, on the host."""
    return jax.device_get(jax.vmap(NET.init)(KEYS))


@pytest.fixture(scope="module")
def whole():
    return isometry.ensemble(NET, KEYS, XS)


def close(a, b):
    """s within a few eps of the largest of its matrix (Weyl).

    The spectra here have s_max < 8.
    """
    np.testing.assert_allclose(
        a.values, b.values, rtol=0, atol=8 * 8 * EPS * float(b.values.max())
    )
    np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(a.log_floor, b.log_floor)
    assert (a.size, a.structural_zeros, a.method, a.span, a.pairs) == (
        b.size,
        b.structural_zeros,
        b.method,
        b.span,
        b.pairs,
    )


def test_equals_a_loop(whole, params):
    assert whole.log_values.shape == (5, 3, 5)
    assert whole.structural_zeros == 1
    results = jax.device_get(whole)
    for i in range(len(KEYS)):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        for j, x in enumerate(XS):
            one = isometry.spectrum(NET, of_seed, x)
            close(
                jax.tree.map(lambda a, i=i, j=j: a[i, j], results),
                jax.device_get(one),
            )


# One Jacobian is given 1584 bytes, and all share 4788; the parameters of a seed are
# 692, counted twice.
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU takes other bytes")
@pytest.mark.parametrize(("budget", "parts"), [(20_000, 3), (9000, 10)])
def test_budget_does_not_matter(whole, params, budget, parts):
    seen = []
    got = isometry.ensemble(
        NET,
        params=params,
        xs=XS,
        max_bytes=budget,
        progress=lambda done, total: seen.append((done, total)),
    )
    close(got, whole)
    assert len(seen) == parts
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (15, 15)


def test_stacked_parameters(whole, params):
    close(isometry.ensemble(NET, params=params, xs=XS), whole)


def test_old_keys(whole):
    old = isometry.ensemble(NET, jax.random.split(jax.random.PRNGKey(0), 5), XS)
    np.testing.assert_array_equal(old.log_values, whole.log_values)


def test_plain_function_with_sample():
    got = isometry.ensemble(linear, KEYS, XS, sample=draw)
    assert got.log_values.shape == (5, 3, 4)
    for i, key in enumerate(KEYS):
        want = np.linalg.svd(np.asarray(draw(key), np.float64), compute_uv=False)
        for j in range(3):
            np.testing.assert_allclose(
                got.values[i, j], want, rtol=0, atol=6 * 4 * EPS * want[0]
            )


def parameters(net, seeds, scale, sigma_b=0.5):
    """Gaussian parameters of seeds, made in NumPy, and the layers (W, b) of each."""
    shapes = jax.eval_shape(net.init, KEYS[0])

    def leaf(a):
        size = scale / a.shape[1] ** 0.5 if len(a.shape) == 3 else sigma_b
        return (size * RNG.standard_normal((seeds, *a.shape))).astype(np.float32)

    params = jax.tree.map(leaf, shapes)
    layers = [
        [
            (w.T, b)
            for run in params["layers"]
            for w, b in zip(run["w"][i], run["b"][i], strict=True)
        ]
        for i in range(seeds)
    ]
    return params, layers


def chain_rule(layers, x, phi, derivative, span):
    """The Jacobian in float64.

    And how many derivatives are not zero in the space where fewest are.
    """
    (w, b), *rest = layers
    z = w.astype(np.float64) @ x + b
    product = w if span == "end_to_end" else np.eye(len(w))
    live = [len(w)]
    for i, (w, b) in enumerate(rest, 1):
        if span == "hidden" and i == len(rest):
            break
        product = w @ (derivative(z)[:, None] * product)
        live.append(int(np.sum(derivative(z) != 0)))
        z = w @ phi(z) + b
    return product, min(live)


def test_hidden_span():
    params, layers = parameters(NET, 5, 1.2)
    got = isometry.ensemble(NET, params=params, xs=XS, span="hidden")
    assert (got.log_values.shape, got.span, got.pairs) == ((5, 3, 8), "hidden", 1)
    for i in range(5):
        for j in range(3):
            jacobian, _ = chain_rule(
                layers[i], XS[j], np.tanh, lambda z: 1 - np.tanh(z) ** 2, "hidden"
            )
            want = np.linalg.svd(jacobian, compute_uv=False)
            np.testing.assert_allclose(
                got.values[i, j], want, rtol=0, atol=8 * 8 * EPS * want[0]
            )


def test_nan_parameters_are_named():
    params = RNG.standard_normal((5, 4, 6)).astype(np.float32)
    params[3, 1, 2] = np.nan
    with pytest.raises(
        InputError,
        match=r"the Jacobian of seed 3 at input 0 is not finite \(3 of 15 in",
    ):
        isometry.ensemble(linear, params=params, xs=XS)


def test_tracers_are_refused():
    with pytest.raises(
        TypeError, match=r"ensemble\(\): xs is traced; this function runs on the host"
    ):
        jax.jit(lambda xs: isometry.ensemble(NET, KEYS, xs))(XS)
    with pytest.raises(TypeError, match=r"ensemble\(\): keys is traced"):
        jax.jit(lambda keys: isometry.ensemble(NET, keys, XS))(KEYS)
    with pytest.raises(TypeError, match=r"ensemble\(\): params is traced"):
        jax.jit(lambda params: isometry.ensemble(linear, params=params, xs=XS))(
            jnp.ones((2, 4, 6))
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: isometry.ensemble(NET, xs=XS),
            r"keys is missing; write keys=.*, or params=",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, params=1),
            r"one of keys .* both are given",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS),
            r"ensemble\(\): xs is missing; write xs=\(inputs, \*x\.shape\)",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS[0], XS),
            r"keys is of shape \(\), not a one-dimensional array of random",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS[:0], XS),
            r"keys is empty; write jax\.random\.split",
        ),
        (
            lambda: isometry.ensemble(jnp.dot, KEYS, XS, sample=lambda key: {}),
            r"f has no parameters, so that all seeds would be the same",
        ),
        (
            lambda: isometry.ensemble(jnp.dot, params={}, xs=XS),
            r"params hold no array, so that there are no seeds",
        ),
        (
            lambda: isometry.ensemble(NET, 3, XS),
            r"keys is 3, not a one-dimensional array of random keys",
        ),
        (
            lambda: isometry.ensemble(linear, KEYS, XS),
            r"f is a plain function; give sample=\(key -> params\), or params=",
        ),
        (
            lambda: isometry.ensemble(
                linear, params=(jnp.ones((2, 1)), jnp.ones(3)), xs=XS
            ),
            r"the leaves of params have leading axes \[\(2,\), \(3,\)\]",
        ),
        (
            lambda: isometry.ensemble(linear, params=jnp.ones(()), xs=XS),
            r"leading axes \[\(\)\]; stack them",
        ),
        (
            lambda: isometry.ensemble(linear, params={"w": Tensor()}, xs=XS),
            r"params\['w'\] is a Tensor of .*write jax\.tree\.map\(np\.asarray",
        ),
        (
            lambda: isometry.ensemble(linear, params={}, xs=XS),
            r"params hold no array, so that there are no seeds",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS[0]),
            r"xs holds rows of shape \(\), and this network takes rows of shape \(6,\)",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS[:, :5]),
            r"xs holds rows of shape \(5,\), and this network takes rows of shape",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS[:0]),
            r"xs is float32 of shape \(0, 6\)",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, jnp.ones((3, 6), int)),
            r"x is int32, which has no derivative",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, SPOILT),
            r"xs holds 3 values that are NaN or infinite",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, max_bytes=0),
            r"max_bytes=0 must be a whole number, at least 1",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, max_bytes=100),
            r"max_bytes=100 is too small for one 5×6 Jacobian by Dense\(\); write "
            r"at least \d+\.",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, method="dens"),
            r"ensemble\(\): method='dens' is not known.*'dense'",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, span="middle"),
            r"ensemble\(\): span='middle' is not known",
        ),
        (lambda: isometry.ensemble(3, KEYS, XS), r"ensemble\(\): f=3 is not callable"),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, progress="a"),
            r"progress='a' is neither True nor a function of \(",
        ),
        (
            lambda: isometry.ensemble(NET, KEYS, XS, dtype="float64"),
            r"ensemble\(\): dtype=float64 needs 64-bit mode",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


FLAT = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: (abs(z) < 1) * 1.0),
}


@pytest.mark.parametrize(
    ("activation", "span"), [("relu", "end_to_end"), ("hard_tanh", "hidden")]
)
def test_dead_units_change_no_value(monkeypatch, activation, span):
    """Zeros are exact.

    They are as many as the narrowest of the spaces between two layers makes them.
    """
    net = networks.mlp([20, 24, 24, 24, 20], activation)
    params, layers = parameters(net, 2, 2.0)
    xs = RNG.standard_normal((3, 20)).astype(np.float32)
    monkeypatch.setattr(dense, "_WORTH", 8)
    monkeypatch.setattr(dense, "_BUCKET", 2)
    monkeypatch.setattr(dense, "_SHARE", 1.0)
    used = []
    monkeypatch.setattr(
        linalg,
        "compact_product",
        lambda *a, g=linalg.compact_product: used.append(a) or g(*a),
    )
    compact = isometry.ensemble(net, params=params, xs=xs, span=span)
    assert used
    for i in range(2):
        for j in range(3):
            jacobian, live = chain_rule(layers[i], xs[j], *FLAT[activation], span)
            want = np.linalg.svd(jacobian, compute_uv=False)
            assert live < len(want)
            np.testing.assert_allclose(
                compact.values[i, j], want, rtol=0, atol=8 * 24 * EPS * want[0]
            )
            assert np.isfinite(compact.log_values[i, j]).sum() == live


@pytest.mark.parametrize(("width", "fault"), [(8, "overflow"), (200, "a NaN bias")])
def test_what_relu_makes_of_nan_is_no_zero(width, fault):
    """relu' of a NaN is 0.

    A network that overflows is not one whose units are all off.
    """
    net = networks.mlp([width] * 7, "relu")
    stacked, _ = parameters(net, 1, 1e10 if fault == "overflow" else 1.0)
    x = np.ones(width, np.float32)
    if fault == "a NaN bias":
        stacked["layers"][0]["b"][0, 0, 3] = np.nan
        with pytest.raises(ValueError, match="seed 0 at input 0 is not finite"):
            isometry.ensemble(net, params=stacked, xs=x[None])
        return
    params = jax.tree.map(lambda a: a[0], stacked)
    for method in ("dense", "product"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            isometry.spectrum(net, params, x, method=method)


def test_a_single_layer_has_no_units_to_leave_out():
    net = networks.mlp([200, 200], "relu")
    params = jax.tree.map(lambda a: a * 0, parameters(net, 1, 1.0)[0])
    params["layers"][0]["w"][0, 0] = np.linalg.qr(RNG.standard_normal((200, 200)))[0]
    found = isometry.ensemble(net, params=params, xs=np.ones((1, 200), np.float32))
    np.testing.assert_allclose(found.values, 1, rtol=0, atol=200 * EPS)


def test_sample_beside_params_is_refused():
    with pytest.raises(
        InputError,
        match=r"sample draws parameters from keys, but params are given; leave one out",
    ):
        isometry.ensemble(
            linear, params=np.ones((5, 4, 6), np.float32), xs=XS, sample=draw
        )


@pytest.mark.parametrize(
    "keys", [np.zeros((2, 5), np.uint32), np.array(["a"])], ids=["numbers", "text"]
)
def test_words_that_are_no_keys_are_refused(keys):
    with pytest.raises(
        InputError,
        match=r"(?s)keys is array.*, not a one-dimensional array of random keys",
    ):
        isometry.ensemble(NET, keys, XS)


@pytest.mark.parametrize(
    "call", [isometry.ensemble, isometry.profile, isometry.signals]
)
def test_keys_that_were_forgotten_are_missed(call):
    params = {"w": jnp.ones((5, 4, 6))}
    message = "keys is missing: in its place stands a dict of 1 .* write params=, stack"
    with pytest.raises(InputError, match=message):
        call(lambda params, x: params["w"] @ x, params, XS)
    message = rf"keys is missing: in its place stand inputs of shape .*{XS.shape[1]}\)"
    with pytest.raises(InputError, match=message):
        call(NET, XS)
    with pytest.raises(InputError, match="keys is missing; write keys="):
        call(NET, xs=XS)


def test_sample_that_cannot_be_traced_is_told_so():
    def in_numpy(key):
        return np.asarray(jax.random.normal(key, (4, 6)))

    with pytest.raises(InputError, match=r"sample is traced, .* write params= instead"):
        isometry.ensemble(linear, KEYS, XS, sample=in_numpy)


def test_bytes_of_all_are_the_least_budget_for_one_chunk():
    takes = Footprint(shared=100, each=50)
    counts = (2, 3)
    budget = _ensemble._bytes_of_all([takes], num_bytes=7, counts=counts)
    fitting = _ensemble._sizes(budget, takes, 7, of_device=counts)
    assert fitting == counts
    too_many = _ensemble._sizes(budget - 1, takes, 7, of_device=counts)
    assert too_many != counts
