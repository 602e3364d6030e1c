"""Signals at points, against the same network written out and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry._internal import memory
from isometry.measure import _run

N_IN, WIDTH, N_OUT = 3, 4, 2
LAYERS, SEEDS, INPUTS = 3, 2, 3
POINTS = ("stem", "layers[0]", "layers[1]", "layers[2]", "output")
EPS = float(np.finfo(np.float32).eps)

# Each value comes from sums of at most four terms in each of five layers: 20 roundings,
# of either of the two ways to compute it. A mean of squares has twice that relative
# error.
ROUNDING = 2 * 20 * EPS
MEAN_SQUARE = {"rtol": 2 * ROUNDING}


def scanned(params, x):
    z = params["stem"] @ x
    z, _ = jax.lax.scan(lambda z, w: (w @ jnp.tanh(z), None), z, params["layers"])
    return params["head"] @ jnp.tanh(z)


def written_out(params, x, bumps):
    """The values at `POINTS`, with a bump added to each."""
    z = params["stem"] @ x + bumps[0]
    values = [z]
    for w, bump in zip(params["layers"], bumps[1:], strict=False):
        z = w @ jnp.tanh(z) + bump
        values.append(z)
    values.append(params["head"] @ jnp.tanh(z) + bumps[-1])
    return values


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (SEEDS, WIDTH, N_IN),
        "layers": (SEEDS, LAYERS, WIDTH, WIDTH),
        "head": (SEEDS, N_OUT, WIDTH),
    }
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def xs():
    drawn = np.random.default_rng(1).standard_normal((INPUTS, N_IN))
    return drawn.astype(np.float32)


def loss(output):
    return jnp.sum(jnp.sin(output))


@pytest.fixture(scope="module")
def measured(params, xs):
    return isometry.signals(scanned, params=params, xs=xs, loss=loss)


@pytest.fixture(scope="module")
def reference(params, xs):
    """Values, gradients and Jacobians at `POINTS`, for each seed and input."""

    def of(params, x):
        sizes = [WIDTH] * (LAYERS + 1) + [N_OUT]
        zeros = [jnp.zeros(size) for size in sizes]
        values = written_out(params, x, zeros)
        gradients = jax.grad(lambda b: loss(written_out(params, x, b)[-1]))(zeros)
        jacobians = jax.jacfwd(lambda b: written_out(params, x, b)[-1])(zeros)
        return values, gradients, jacobians

    of_seed = jax.vmap(of, (None, 0))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_seed, (0, None)))(params, xs))


def at(signals, name):
    """The values of a field at `POINTS`, on a first axis."""
    return np.stack([getattr(signals.at(point), name) for point in POINTS])


def test_mean_square_is_over_the_entries_of_each_value(measured, reference):
    values, _, _ = reference
    expected = [np.mean(value**2, -1) for value in values]
    np.testing.assert_allclose(at(measured, "q"), expected, **MEAN_SQUARE)


def test_cosine_is_between_values_of_two_inputs_of_one_seed(measured, reference):
    values, _, _ = reference
    for found, value in zip(at(measured, "c"), values, strict=True):
        units = value / np.linalg.norm(value, axis=-1, keepdims=True)
        cosines = units @ np.swapaxes(units, 1, 2)
        np.testing.assert_allclose(found, cosines, rtol=0, atol=ROUNDING)


def test_gradient_is_of_the_loss_with_respect_to_each_value(measured, reference):
    _, gradients, _ = reference
    expected = [np.mean(gradient**2, -1) for gradient in gradients]
    np.testing.assert_allclose(at(measured, "gradient"), expected, **MEAN_SQUARE)


def test_apjn_is_the_squared_jacobian_over_the_size_of_the_output(measured, reference):
    _, _, jacobians = reference
    expected = [np.sum(jacobian**2, (-2, -1)) / N_OUT for jacobian in jacobians]
    np.testing.assert_allclose(at(measured, "apjn"), expected, **MEAN_SQUARE)


def test_chi_is_the_ratio_to_the_point_of_the_same_kind_before(measured):
    apjn, chi = at(measured, "apjn"), at(measured, "chi")
    np.testing.assert_allclose(chi[1:], apjn[:-1] / apjn[1:], rtol=1e-5)
    first = measured.at("input")
    assert np.isnan(first.chi).all()
    np.testing.assert_allclose(chi[0], first.apjn / apjn[0], rtol=1e-5)
    assert measured.why("chi") is None


ROTATIONS, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(1, 3, 4, 4)))
ONE = np.ones((1, 4), np.float32)


def linear(params, x):
    return jax.lax.scan(lambda z, w: (w @ z, None), x, params["layers"])[0]


def test_chi_of_a_linear_orthogonal_network_is_the_squared_gain():
    """Every singular value of a layer is the gain, so chi is its square everywhere."""
    gain = 1.5
    weights = {"layers": np.float32(gain * ROTATIONS)}
    signals = isometry.signals(linear, params=weights, xs=ONE)
    chi = signals.chi[0, 0, signals.points.index("input") + 1 : -1]
    np.testing.assert_allclose(chi, gain**2, rtol=1e-5)


def test_gradient_without_a_loss_is_that_of_a_random_cotangent(params, xs):
    """Its mean over g ~ N(0, I/n) is apjn over the size, which is what no key gives."""
    count = 400
    same = np.broadcast_to(xs[:1], (count, N_IN))
    one = jax.tree.map(lambda a: a[:1], params)
    key = jax.random.key(2)
    of_keys = isometry.signals(scanned, params=one, xs=same, key=key)
    drawn = np.asarray(of_keys.gradient)[0]
    signals = isometry.signals(scanned, params=one, xs=xs[:1])
    sizes = np.array(signals.sizes)
    expected = np.asarray(signals.apjn)[0, 0] / sizes
    gradient = np.asarray(signals.gradient)[0, 0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(count)
    assert np.all(error > 0)
    # All points see the same draws, so this is one test of one mean.
    np.testing.assert_array_less(np.abs(np.mean(drawn, axis=0) - expected), 4 * error)


def test_draws_of_g_do_not_depend_on_how_many_others_there_are():
    keys_of = jax.jit(_run.keys_of, static_argnums=(1, 2))
    many = keys_of(jax.random.key(2), 3, 4)
    few = keys_of(jax.random.key(2), 2, 2)
    bits = [np.array(jax.random.key_data(keys)) for keys in (many, few)]
    np.testing.assert_array_equal(bits[0][:2, :2], bits[1])
    assert len(np.unique(bits[0].reshape(12, -1), axis=0)) == 12


def test_little_memory_changes_nothing(params, xs, measured, monkeypatch):
    monkeypatch.setattr(memory, "budget", lambda max_bytes: 1)
    small = isometry.signals(scanned, params=params, xs=xs, loss=loss)
    for name in ("q", "c", "gradient", "apjn"):
        a, b = getattr(small, name), getattr(measured, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def residual(params, tokens):
    z = params["embed"][tokens]
    z = z + jnp.tanh(z @ params["up"]) @ params["down"]
    return z @ params["head"]


@pytest.fixture(scope="module")
def residual_params():
    rng = np.random.default_rng(3)
    shapes = {"embed": (5, 3), "up": (3, 4), "down": (4, 3), "head": (3, 2)}
    return {
        name: rng.standard_normal((1, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


TOKENS = np.array([[1, 4], [0, 1]])


@pytest.fixture(scope="module")
def of_tokens(residual_params):
    span = ("embed", ("output", -1))
    return isometry.signals(residual, params=residual_params, xs=TOKENS, span=span)


def test_tokens_are_measured_from_the_embedding_to_a_position(
    of_tokens, residual_params
):
    rows = residual_params["embed"][0][TOKENS]
    expected = np.mean(np.square(rows), (1, 2))
    np.testing.assert_allclose(of_tokens.at("embed").q[0], expected, rtol=1e-6)
    # No token sees another, so only the last row of the embedding matters.
    up, down, head = (residual_params[name][0] for name in ("up", "down", "head"))
    slopes = 1 - np.tanh(rows[0, -1] @ up) ** 2
    jacobian = (np.eye(3) + up * slopes @ down) @ head
    expected = np.sum(np.square(jacobian)) / 2
    np.testing.assert_allclose(of_tokens.at("embed").apjn[0, 0], expected, rtol=1e-5)


def test_points_that_a_path_leads_around_have_no_chi(of_tokens):
    assert np.isnan(of_tokens.at("up").chi).all()
    assert "around" in of_tokens.why("chi")
    assert np.isfinite(of_tokens.at("output").chi).all()


def test_overflow_is_said_with_the_point_where_it_begins():
    huge = {"layers": np.float32(1e30 * ROTATIONS)}
    signals = isometry.signals(linear, params=huge, xs=ONE)
    # The square of a value of 1e30 overflows.
    assert "'layers[0]'" in signals.why("q")


def test_low_precision_is_warned_of(params, xs):
    def low(params, x):
        return jnp.dot(params["stem"], x, precision="default")

    with pytest.warns(isometry.PrecisionWarning, match="precision=DEFAULT"):
        isometry.signals(low, params=params, xs=xs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xs": TOKENS}, r'span=\("embed", "output"\)'),
        ({}, "xs is missing"),
        ({"xs": TOKENS, "span": (("embed", 0), "output")}, "write the name alone"),
        ({"xs": TOKENS, "span": ("embed", "output"), "loss": 3}, "not callable"),
        (
            {"xs": TOKENS, "span": ("embed", "output"), "loss": lambda y: y},
            r"float32 of shape \(.*\); it must return one floating number",
        ),
        (
            {"xs": TOKENS, "span": ("embed", "output"), "loss": lambda y: 1},
            r"loss returns int32 of shape \(\)",
        ),
        ({"xs": TOKENS[:0], "span": ("embed", "output")}, "not empty"),
    ],
)
def test_what_cannot_be_measured_is_refused(residual_params, arguments, message):
    with pytest.raises(isometry.InputError, match=message) as caught:
        isometry.signals(residual, params=residual_params, **arguments)
    assert str(caught.value).startswith("signals(): ")


def test_gradients_through_a_layer_norm_are_right_in_float32():
    """XLA of jaxlib 0.10.2 computes some sums wrong: without care 3 % is lost."""

    def f(params, x):
        mean = x.mean(-1, keepdims=True)
        variance = jnp.mean(x**2, -1, keepdims=True) - mean**2
        return (x - mean) * jax.lax.rsqrt(variance) @ params

    rng = np.random.default_rng(0)
    params = rng.standard_normal((1, 16, 40)) / 4
    xs = rng.standard_normal((2, 8, 16))
    in_float32 = [jnp.asarray(a, jnp.float32) for a in (params, xs)]
    measured = isometry.signals(f, params=in_float32[0], xs=in_float32[1])
    with jax.enable_x64(True):
        jacobians = jax.jit(jax.vmap(jax.jacrev(f, 1), (None, 0)))(params[0], xs)
    expected = np.sum(np.asarray(jacobians) ** 2, axis=(1, 2, 3, 4)) / 320
    # Rounding of sums of 16 terms, at a condition below 2, squared.
    tolerance = 64 * float(np.finfo(np.float32).eps)
    assert measured.at("input").apjn[0] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("measure", [isometry.signals, isometry.profile])
def test_what_f_raises_is_said_as_by_spectrum(measure):
    def f(params, x):
        return params["w"] @ x["image"]

    params, x = {"w": jnp.ones((1, 2, 2))}, jnp.ones((1, 2))
    said = r"\(\): f\(params, x\) raised TypeError at x of shape \(2,\): "
    with pytest.raises(isometry.InputError, match=measure.__name__ + said) as caught:
        measure(f, params=params, xs=x)
    assert isinstance(caught.value.__cause__, TypeError)


def test_loops_without_a_reverse_derivative_are_refused(xs):
    def looped(w, x):
        def is_small(z):
            return jnp.sum(z**2) < 1

        return jax.lax.while_loop(is_small, lambda z: w * z, x)

    with pytest.raises(isometry.InputError, match=r"signals\(\): gradients need a rev"):
        isometry.signals(looped, params=np.full(1, 2, np.float32), xs=xs)
