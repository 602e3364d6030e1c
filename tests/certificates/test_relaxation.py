"""Functions with their kinks replaced, against the functions themselves."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import initializers, networks
from isometry.certificates._relaxation import relaxed

KEY = jax.random.key(11)

# Elementwise functions with their kinks. All are 0 at 0 but those of `NOT_ZERO`.
ACTIVATIONS = {
    "relu": (jax.nn.relu, (0.0,)),
    "relu6": (jax.nn.relu6, (0.0, 6.0)),
    "leaky_relu": (jax.nn.leaky_relu, (0.0,)),
    "elu": (jax.nn.elu, (0.0,)),
    "selu": (jax.nn.selu, (0.0,)),
    "celu": (jax.nn.celu, (0.0,)),
    "hard_tanh": (jax.nn.hard_tanh, (-1.0, 1.0)),
    "hard_sigmoid": (jax.nn.hard_sigmoid, (-3.0, 3.0)),
    "hard_swish": (jax.nn.hard_swish, (-3.0, 3.0)),
    "abs": (jnp.abs, (0.0,)),
    "clip": (lambda x: jnp.clip(x, -1, 1), (-1.0, 1.0)),
    "clamp": (lambda x: jax.lax.clamp(0.0, x, 2.0), (0.0, 2.0)),
    "maximum": (lambda x: jnp.maximum(x, 0), (0.0,)),
    "raised": (lambda x: jnp.maximum(x, 2), (2.0,)),
    "where": (lambda x: jnp.where(x >= 0, x, 0.3 * x), (0.0,)),
    "masked": (lambda x: (x > 0).astype(x.dtype) * x, (0.0,)),
    "shrink": (
        lambda x: jnp.where(x > 0.5, x - 0.5, jnp.where(x < -0.5, x + 0.5, 0.0)),
        (-0.5, 0.5),
    ),
}
EVEN = ("abs",)
ODD = ("hard_tanh", "clip", "shrink")


@pytest.fixture(autouse=True, scope="module")
def float64():
    """Rounding of float32 would hide asymmetries."""
    with jax.enable_x64(True):
        yield


def all_activations(params, x):
    del params
    return {name: function(x) for name, (function, _) in ACTIVATIONS.items()}


@pytest.fixture(scope="module")
def curves(float64):
    """Each activation, relaxed, and itself: values and derivatives at points."""
    del float64
    points = jax.ShapeDtypeStruct((16,), jnp.float64)
    made = relaxed(all_activations, (), points, KEY)
    assert not made.unrelaxed

    @jax.jit
    def derived(x):
        ones = jnp.ones_like(x)
        ours = jax.jvp(lambda x: made.f((), x), (x,), (ones,))
        original = jax.jvp(lambda x: all_activations((), x), (x,), (ones,))
        return ours, original

    def at(*points):
        padded = np.zeros(16)
        padded[: len(points)] = points
        return jax.tree.map(lambda a: a[: len(points)], derived(padded))

    return at


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_and_derivative_at_zero_and_at_kinks_are_those_of_jax(curves, name):
    points = (0.0, *ACTIVATIONS[name][1])
    (values, slopes), (jax_values, jax_slopes) = curves(*points)
    # Weighted means of a few numbers of order 1 to 6.
    np.testing.assert_allclose(values[name], jax_values[name], rtol=0, atol=1e-14)
    np.testing.assert_allclose(slopes[name], jax_slopes[name], rtol=0, atol=1e-13)
    # A layer of zeros must stay one, bit for bit.
    if jax_values[name][0] == 0:
        assert values[name][0] == 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_continuous_across_kinks(curves, name):
    """The original jumps by 1/6 or more; a smooth one by its curvature times 2 step."""
    kinks = np.array(ACTIVATIONS[name][1])
    step = 1e-9
    # A dip of x²/(x² + 1/sharp) in a function of size 6, with `sharp` up to 8e4.
    curvature = 2 * 8e4 * 6
    (_, slopes), (_, jax_slopes) = curves(*(kinks - step), *(kinks + step))
    below, above = np.split(slopes[name], 2)
    np.testing.assert_allclose(above, below, atol=2 * curvature * step)
    jax_below, jax_above = np.split(jax_slopes[name], 2)
    # elu and celu at alpha = 1 have a continuous derivative themselves.
    if name not in ("elu", "celu"):
        assert np.abs(jax_above - jax_below).max() > 0.1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_that_of_the_value(curves, name):
    points = np.array([-7.3, -2.1, -0.7, 0.3, 1.4, 5.2])
    step = 1e-5
    (_, slopes), _ = curves(*points)
    (above, _), _ = curves(*(points + step))
    (below, _), _ = curves(*(points - step))
    secants = (above[name] - below[name]) / (2 * step)
    # Third derivatives of order 10 to 100 times step^2, and rounding over the step.
    np.testing.assert_allclose(slopes[name], secants, atol=1e-7)


def test_odd_and_even_functions_stay_so(curves):
    points = np.array([0.2, 0.9, 1.0, 1.7, 6.0, 30.0])
    (right, _), _ = curves(*points)
    (left, _), _ = curves(*-points)
    for name in EVEN:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-15)
    for name in ODD:
        np.testing.assert_allclose(left[name], -right[name], rtol=1e-14)
    for name in set(ACTIVATIONS) - {*EVEN, *ODD}:
        assert np.abs(np.abs(left[name]) - np.abs(right[name])).max() > 1e-3


def test_near_miss_of_an_odd_function_is_not_made_odd():
    def f(params, x):
        del params
        return jnp.clip(x, -1, 1 + 1e-6)

    x = jnp.array([0.4, 1.3, 2.2])
    made = relaxed(f, (), x, KEY)
    run = jax.jit(lambda x: made.f((), x))
    assert np.abs(run(x) + run(-x)).min() > 1e-8


def test_function_that_is_not_negative_stays_so(curves):
    """Networks take roots and logarithms of relu, and divide by sums of it."""
    (values, _), (exact, _) = curves(*np.linspace(-9, 9, 16))
    for name in ("relu", "relu6", "abs"):
        assert exact[name].min() >= 0
        assert values[name].min() > 0, name


@pytest.mark.parametrize("shift", [2.0, 6.0, 20.0])
def test_unit_that_no_probe_turns_on_gets_a_gradient(shift):
    def f(weights, x):
        return jax.nn.relu(x @ weights - shift)

    rng = np.random.default_rng(0)
    weights, x = 0.1 * rng.standard_normal((4, 12)), rng.standard_normal(4)
    made = relaxed(f, weights, x, KEY)
    gradient = jax.jit(jax.grad(lambda w: made.f(w, x).sum()))
    assert not np.any(jax.grad(lambda w: f(w, x).sum())(weights))
    assert np.abs(gradient(weights)).min() > 1e-8
    # A layer of zeros is another matter: no input turns it on.
    assert not np.any(gradient(0 * weights))


def looped(params, x):
    """The same activation called plainly and inside of everything that calls."""

    def step(carry, shift):
        return carry, jax.nn.relu(carry + shift)

    def branch(x):
        return jax.nn.relu(x)

    _, scanned = jax.lax.scan(step, x, params)
    return {
        "plain": jax.nn.relu(x),
        "scan": scanned[0],
        "jit": jax.jit(jax.nn.relu)(x),
        "remat": jax.checkpoint(jax.nn.relu)(x),
        "vmap": jax.vmap(jax.nn.relu)(x[:, None])[:, 0],
        "cond": jax.lax.cond(jnp.arange(3).sum() > 2, branch, jnp.tanh, x),
        "row": jax.nn.relu(jnp.stack([x, x]))[1],
    }


def test_all_calls_share_one_function():
    x = jnp.array([-2.0, -0.3, 0.0, 0.4, 3.0])
    shifts = jnp.zeros((2, 5))
    made = relaxed(looped, shifts, x, KEY)
    assert made.replaced == ("max",)
    assert not made.unrelaxed

    @jax.jit
    def derived(x):
        # All are elementwise, so this is the whole derivative.
        return jax.jvp(lambda x: made.f(shifts, x), (x,), (jnp.ones(5),))

    results, slopes = derived(x)
    for name in results:
        np.testing.assert_array_equal(results[name], results["plain"], err_msg=name)
        np.testing.assert_allclose(slopes[name], slopes["plain"], atol=1e-15)
    assert np.abs(results["plain"] - jax.nn.relu(x)).max() > 1e-2


def carried(params, x):
    """Whether a value depends on params or x is known across loops and branches."""

    def step(carry, _):
        first, second = carry
        return (second, first), jnp.zeros(())

    def same(x):
        return x

    zeros = params * 0
    (_, swapped), _ = jax.lax.scan(step, (zeros + x, jnp.zeros(5)), None, length=3)
    # Which branch is taken is no matter of the signal.
    branch = jax.lax.cond(jnp.arange(3).sum() > 5, jnp.zeros_like, same, x)
    other = jax.lax.cond(jnp.arange(3).sum() > 2, same, jnp.zeros_like, x)
    return [jax.nn.relu(swapped), jax.nn.relu(branch), jax.nn.relu(other)]


def test_kinks_behind_loops_and_branches_are_found():
    x, params = jnp.array([-2.0, -0.3, 0.0, 0.4, 3.0]), jnp.ones(5)
    made = relaxed(carried, params, x, KEY)
    for result in jax.jit(made.f)(params, x):
        assert np.abs(result - jax.nn.relu(x)).max() > 1e-2


def test_another_key_gives_another_function():
    x = jnp.array([-2.0, 0.4, 3.0])
    first, second = (
        relaxed(lambda _, x: jax.nn.relu(x), (), x, jax.random.key(seed)).f((), x)
        for seed in (0, 1)
    )
    assert np.abs(first - second).min() > 1e-4


def choices(params, x):
    del params
    pooled = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
    return {
        "two signals": jnp.maximum(x[..., 0], x[..., 1]),
        "reduce_max": x.max((1, 2)),
        "reduce_min": x.min((1, 2)),
        "pool": pooled,
        "sort": jnp.sort(x, axis=-1),
        "median": jnp.median(x, axis=-1),
    }


def test_maxima_pools_and_sorts_are_symmetric_in_their_arguments():
    rng = np.random.default_rng(1)
    x = jax.device_put(rng.standard_normal((1, 4, 4, 2)))
    made = relaxed(choices, (), x, KEY)
    run = jax.jit(lambda x: made.f((), x))
    results = run(x)
    # Rows 0 and 1 are in one window, and the channels are the pair of signals.
    rows, channels = run(x[:, [1, 0, 2, 3]]), run(x[..., ::-1])
    for name in ("reduce_max", "reduce_min", "pool"):
        np.testing.assert_allclose(rows[name], results[name], rtol=1e-14)
    for name in ("two signals", "sort", "median"):
        np.testing.assert_allclose(channels[name], results[name], rtol=1e-14)
    # Of equal arguments the result is their value; zero, exactly.
    for value in (0.0, -1.7):
        for name, result in run(jnp.full_like(x, value)).items():
            np.testing.assert_allclose(result, value, rtol=1e-15, err_msg=name)
    # Otherwise it is between them.
    for name, result in results.items():
        assert np.all((result > x.min()) & (result < x.max())), name


def test_tie_of_two_signals_has_the_derivative_of_jax():
    def f(params, x):
        del params
        return jnp.maximum(x[0], x[1]) - 3 * jnp.minimum(x[0], x[1]) + x.max()

    x = jnp.array([0.7, 0.7])
    made = relaxed(f, (), x, KEY)
    of_x = jax.jit(lambda x: (jax.grad(made.f, 1)((), x), jax.grad(f, 1)((), x)))
    slopes, expected = of_x(x)
    np.testing.assert_allclose(slopes, expected, rtol=1e-14)


def unchanged(params, x):
    """What has kinks, but not as a function of params and signal."""
    scores, key = x["scores"], x["key"]
    causal = jnp.tril(jnp.ones((4, 4), bool))
    masked = jnp.where(causal, scores, -jnp.inf)
    kept = jax.random.bernoulli(key, 0.5, scores.shape)
    shifted = scores - scores.max(-1, keepdims=True)
    positions = jnp.maximum(jnp.arange(4) - 1, 0)
    embedded = params[jnp.clip(x["tokens"], 0, 2)]
    return {
        "softmax": jax.nn.softmax(masked),
        "log_softmax": jax.nn.log_softmax(scores),
        "logsumexp": jax.nn.logsumexp(scores, axis=-1),
        "by hand": jnp.exp(shifted) / jnp.exp(shifted).sum(-1, keepdims=True),
        "dropout": jnp.where(kept, scores, 0) / 0.5,
        "positions": scores * positions.astype(scores.dtype)[None],
        "tokens": jnp.where((x["tokens"] > 1)[:, None], embedded, 0),
        "guard": 1 / jnp.where(scores == 0, 1, scores),
        "silu": jax.nn.silu(scores),
    }


def test_softmax_and_masks_of_anything_but_the_signal_stay_as_they_are():
    rng = np.random.default_rng(2)
    x = {
        "scores": jax.device_put(5 * rng.standard_normal((4, 4))),
        "key": jax.random.key(5),
        "tokens": jnp.array([0, 2, 1, 7]),
    }
    params = jax.device_put(rng.standard_normal((3, 2)))
    made = relaxed(unchanged, params, x, KEY)
    assert made.replaced == ()
    assert made.unrelaxed == ()
    run = jax.jit(lambda params, x: (made.f(params, x), unchanged(params, x)))
    results, expected = run(params, x)
    for name in expected:
        np.testing.assert_array_equal(results[name], expected[name], err_msg=name)


def test_steps_pass_no_derivative_as_in_jax():
    def f(params, x):
        del params
        mask = (x > 0) & ~(x > 1)
        return {
            "sign": jnp.sign(x),
            "round": jnp.round(3 * x),
            "floor": jnp.floor(x),
            "ceil": jnp.ceil(x),
            "step": jnp.where(x > 0, 1.0, -1.0),
            "whole": jnp.where(x > 0, 1, 0).astype(x.dtype),
            "mask": mask.astype(x.dtype),
            "other": jnp.where(mask, x[::-1], 0.0),
        }

    x = jnp.array([-1.3, 0.0, 0.4, 2.6])
    made = relaxed(f, (), x, KEY)
    assert made.unrelaxed == ()

    @jax.jit
    def derived(x):
        return made.f((), x), f((), x), jax.jacobian(made.f, argnums=1)((), x)

    values, expected, slopes = derived(x)
    for name in set(slopes) - {"other"}:
        np.testing.assert_array_equal(slopes[name], 0, err_msg=name)
    # Only what is chosen is differentiated, not which.
    np.testing.assert_array_equal(jnp.diag(slopes["other"]), 0)
    for name in values:
        assert np.abs(values[name] - expected[name]).max() > 1e-3, name
        assert values[name][1] == expected[name][1], name
    for name in ("step", "whole", "mask"):
        assert np.all((values[name] > -1) & (values[name] < 1) | (x == 0)), name
        assert len(np.unique(values[name])) == 4, name


def test_straight_through_estimator_keeps_its_derivative():
    def f(params, x):
        del params
        return x + jax.lax.stop_gradient(jnp.round(x) - x)

    x = jnp.array([-1.3, 0.0, 0.4, 2.6])
    made = relaxed(f, (), x, KEY)
    assert made.replaced == ("round",)

    @jax.jit
    def derived(x):
        return jax.jacobian(made.f, argnums=1)((), x), made.f((), x)

    slopes, values = derived(x)
    np.testing.assert_array_equal(slopes, np.eye(4))
    assert np.abs(values - np.round(x)).max() > 1e-2


@jax.custom_vjp
def binarized(x):
    return jnp.sign(x)


binarized.defvjp(lambda x: (jnp.sign(x), None), lambda _, cotangent: (cotangent,))


@jax.custom_vjp
def own_relu(x):
    return jnp.maximum(x, 0)


own_relu.defvjp(lambda x: (own_relu(x), x), lambda x, c: (jnp.where(x > 0, c, 0),))


@jax.custom_vjp
def clipped_gradient(x):
    return jnp.sin(x)


clipped_gradient.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (jnp.clip(c, -1, 1),))


def routed(params, x):
    del params
    gates, experts = jax.lax.top_k(x, 1)
    return gates * x[::-1][experts]


def chosen(params, x):
    del params
    return jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)


def halved(params, x):
    del params
    return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)


LEFT = {
    "straight-through": (lambda p, x: binarized(x), "custom_vjp whose rule"),
    "clipped": (lambda p, x: clipped_gradient(x), "a derivative rule with kinks"),
    "argmax": (lambda p, x: x * jnp.argmax(x).astype(x.dtype), "argmax"),
    "routing": (routed, "which entries top_k"),
    "cond": (chosen, "a cond whose branch"),
    "while": (halved, "a loop of unknown length"),
    "index": (lambda p, x: x[x.astype(int)], "whole numbers"),
    "hard mask": (lambda p, x: jnp.where(x == x.max(), x, 0), "by == or !="),
    "dead mask": (lambda p, x: jnp.where(jax.nn.relu(x) == 0, 1, x), "by == or !="),
    "count": (lambda p, x: x * (x > 0).sum().astype(x.dtype), "whole numbers"),
    "argsort": (lambda p, x: x[jnp.argsort(x)], "sort"),
    "remainder": (lambda p, x: x % 1.0, "remainder"),
    "eigenvalues": (lambda p, x: jnp.linalg.eigvalsh(jnp.outer(x, x)), "eigh, which"),
    "few bits": (lambda p, x: jax.lax.reduce_precision(x, 8, 4), "may have kinks"),
    "scatter": (lambda p, x: jnp.zeros(3).at[jnp.array([0, 1, 1])].max(x), "scatter"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_relaxed_is_named_and_left_as_it_is(name):
    f, sentence = LEFT[name]
    x = jnp.array([0.2, 1.3, -0.6])
    made = relaxed(f, (), x, KEY)
    assert sentence in " ".join(made.unrelaxed)


def test_custom_vjp_that_follows_its_function_is_relaxed():
    x = jnp.array([-0.6, 0.0, 1.3])
    own = relaxed(lambda _, x: own_relu(x), (), x, KEY)
    assert own.unrelaxed == ()
    # The same kink as jax.nn.relu, whose rule is a custom_jvp.
    usual = relaxed(lambda _, x: jax.nn.relu(x), (), x, KEY)
    np.testing.assert_array_equal(own.f((), x), usual.f((), x))


def test_repeated_products_of_one_number_cost_no_more_each_time():
    def f(params, x):
        del params
        for _ in range(20):
            x = x + 0.01 * x * jnp.tanh(x)
        return jax.nn.relu(x)

    # Written out, x stands there 3^20 times, and each is a line of the program.
    made = relaxed(f, (), jnp.ones(2), KEY)
    assert made.replaced == ("max",)


def experts(params, x):
    def expert(p, x):
        hidden = jax.nn.relu(x @ p["in"])
        return jax.nn.hard_tanh(hidden @ p["out"])

    outputs = jax.vmap(expert, in_axes=(0, None))(params, x)
    apart = expert(jax.tree.map(lambda a: a[0], params), x)
    return outputs, apart


def test_equal_experts_stay_equal():
    rng = np.random.default_rng(3)
    one = {"in": rng.standard_normal((1, 3, 5)), "out": rng.standard_normal((1, 5, 2))}
    params = jax.tree.map(lambda a: np.repeat(a, 3, axis=0), one)
    x = rng.standard_normal(3)
    made = relaxed(experts, params, x, KEY)
    outputs, apart = jax.jit(made.f)(params, x)
    np.testing.assert_allclose(outputs, np.stack([apart] * 3), rtol=1e-14)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(made.f(p, x)[0] ** 2)))(params)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf[1:], leaf[:-1], rtol=1e-12)
        assert np.abs(leaf).min() > 0


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), param_dtype=float, name="first")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(3, (3, 3), param_dtype=float, name="second")(x))
        return nn.Dense(2, param_dtype=float, name="head")(x.mean((1, 2)))


def test_equal_channels_of_a_flax_network_with_max_pooling_stay_equal():
    model = Convolutional()
    x = jax.device_put(np.random.default_rng(4).standard_normal((2, 6, 6, 1)))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), shapes)
    first, second = (params["params"][name] for name in ("first", "second"))
    for layer in (first, second):
        layer["bias"][...] = 0
    first["kernel"][..., 1] = first["kernel"][..., 0]
    second["kernel"][:, :, 1] = second["kernel"][:, :, 0]
    made = relaxed(model.apply, params, x, KEY)
    assert made.replaced == ("max", "reduce_window_max")
    assert made.unrelaxed == ()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(made.f(p, x) ** 3)))(params)
    kernel = gradient["params"]["first"]["kernel"]
    np.testing.assert_allclose(kernel[..., 1], kernel[..., 0], rtol=1e-10)
    assert np.abs(kernel[..., 2] - kernel[..., 0]).min() > 1e-9


def test_equinox_network_in_a_batch_is_relaxed_example_by_example():
    model = eqx.nn.MLP(3, 2, 4, 2, activation=jax.nn.relu, key=jax.random.key(1))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def f(params, x):
        return eqx.combine(params, static)(x)

    x = jax.device_put(np.random.default_rng(5).standard_normal((6, 3)))
    one = relaxed(f, params, x[0], KEY)
    many = relaxed(jax.vmap(f, in_axes=(None, 0)), params, x, KEY)
    assert one.replaced == many.replaced == ("max",)
    by_example = jax.jit(jax.vmap(one.f, in_axes=(None, 0)))(params, x)
    np.testing.assert_allclose(jax.jit(many.f)(params, x), by_example, rtol=1e-13)


def test_units_whose_inputs_cancel_stay_at_the_kink_of_relu():
    """relu itself is decided there by rounding, and lets all 64 units learn."""
    net = networks.mlp([16, 64, 64, 10], "relu", "zeros", bias=False, dtype=float)
    draw = initializers.hadamard()
    shapes = ((16, 64), (64, 64), (64, 10))
    drawn = [draw(jax.random.key(i), shape, float) for i, shape in enumerate(shapes)]
    params = {"layers": tuple({"w": array[None]} for array in drawn)}
    # The first layer has 16 kinds of units. A unit of the second has an input only if
    # its weights to the units of some kind do not cancel.
    columns, kinds = np.unique(drawn[0], axis=1, return_inverse=True)
    merged = np.zeros((columns.shape[1], 64))
    np.add.at(merged, kinds.ravel(), np.asarray(drawn[1]))
    num_alive = np.any(merged != 0, axis=0).sum()
    rng = np.random.default_rng(6)
    xs, cotangents = rng.standard_normal((64, 16)), rng.standard_normal((64, 10))
    made = relaxed(net, params, xs[0], KEY)

    @jax.jit
    def gradient(params):
        def loss(p):
            outputs = jax.vmap(made.f, in_axes=(None, 0))(p, xs)
            return jnp.mean(jnp.sum(outputs * cotangents, axis=1))

        return jax.grad(loss)(params)

    second = gradient(params)["layers"][1]["w"][0]
    assert num_alive == 16
    # Rounding of float64 is squared by the function at its kink.
    moves = np.abs(second).max(0) > 1e-12
    assert moves.sum() == num_alive
    assert np.linalg.matrix_rank(second) == num_alive
