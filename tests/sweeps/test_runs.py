"""Ready runs: what they measure, what they compile, and which settings they read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.sweeps import _learning, _statistics, runs
from isometry.sweeps._settings import keys_of

KEY = jax.random.key(3)
EPS = float(np.finfo(np.float32).eps)

# Sizes that most tests share, and with them their programs. With three outputs of
# twelve inputs, Jacobians are well conditioned.
WIDTH, DEPTH, OUTPUTS, SEEDS, INPUTS = 12, 4, 3, 3, 2
SIZES = {
    "width": WIDTH,
    "depth": DEPTH,
    "n_out": OUTPUTS,
    "seeds": SEEDS,
    "inputs": INPUTS,
}


def run(name, **keywords):
    """One of the runs at these sizes, that returns arrays by name."""
    function = functools.partial(getattr(runs, name), **SIZES, **keywords)
    return lambda point, key=KEY: {
        name: array for name, (_, array, _) in function(point, key).items()
    }


def directly(sigma_w, sigma_b, **arguments):
    """The arguments with which a user would measure the network of a cell."""
    keys = keys_of(KEY)
    widths = [*[WIDTH] * DEPTH, OUTPUTS]
    net = networks.mlp(widths, **arguments, sigma_w=sigma_w, sigma_b=sigma_b)
    xs = jax.random.normal(keys.inputs, (INPUTS, WIDTH))
    return net, jax.random.split(keys.networks, SEEDS), xs


@pytest.mark.parametrize("scheme", ["gaussian", "orthogonal"])
def test_spectrum_is_that_of_the_network_that_the_user_would_build(scheme):
    """Seeds are averaged over their inputs before their spread is taken."""
    cell = run("spectrum", scheme=scheme)({"sigma_w": 1.3, "sigma_b": 0.2})
    sp = isometry.ensemble(*directly(1.3, 0.2, scheme=scheme))
    s = np.asarray(sp.values, np.float64)
    logs = np.asarray(sp.log_values, np.float64)
    expected = {
        "mean_lam": (s**2).mean(-1),
        "var_lam": (s**2).var(-1),
        "s_max": s[..., 0],
        "s_min": s[..., -1],
        "condition_number": s[..., 0] / s[..., -1],
        "mean_log_s": logs.mean(-1),
        "var_log_s": logs.var(-1),
        "zero_fraction": np.zeros(s.shape[:2]),
    }
    assert set(expected) == set(_statistics.MEANINGS) - {"quantile_s"}
    # Weights that are drawn with a traced sigma differ by roundings, each of which
    # moves singular values by eps s_max in each of the layers.
    tolerance = 4 * DEPTH * EPS * (s[..., 0] / s[..., -1]).max()
    assert tolerance < 1e-3
    for name, value in expected.items():
        by_seed = value.mean(1)
        error = by_seed.std(ddof=1) / SEEDS**0.5
        agree = functools.partial(
            np.testing.assert_allclose, rtol=tolerance, atol=tolerance
        )
        agree(cell[name], by_seed.mean())
        agree(cell[f"{name}_error"], error)
    low, high = cell["quantile_s"][[0, -1]]
    assert (low, high) == (cell["s_min"], cell["s_max"])


def test_spectrum_and_law_of_an_isometry_are_powers_of_its_scale():
    """All singular values of a linear orthogonal network are sigma_w^depth."""
    measure = run("spectrum", activation="linear", scheme="orthogonal", law=True)
    cell = measure({"sigma_w": 2.0})
    s = 2.0**DEPTH
    for prefix in ("", "law_"):
        of = {name: cell[prefix + name] for name in _statistics.MEANINGS}
        np.testing.assert_allclose(of["quantile_s"], s, 8 * DEPTH * EPS)
        np.testing.assert_allclose(of["mean_lam"], s**2, 8 * DEPTH * EPS)
        np.testing.assert_allclose(of["mean_log_s"], np.log(s), 8 * DEPTH * EPS)
        np.testing.assert_allclose(of["condition_number"], 1, 8 * DEPTH * EPS)
        assert 0 <= of["var_lam"] < (8 * DEPTH * EPS * s**2) ** 2
    # Of a scheme that has no law, the measured statistics are there all the same.
    cell = run("spectrum", scheme="zer_o", law=True)({})
    assert np.isfinite(cell["mean_lam"])
    assert np.isnan(cell["law_mean_lam"])
    assert np.isnan(cell["law_quantile_s"]).all()


def test_singular_values_that_are_not_resolved_count_as_zeros():
    """1e-9 is below the rounding of a float32 matrix of norm 2, and 1e-3 is not."""
    matrix = np.diag(np.array([2.0, 1e-3, 1e-9, 0.0], np.float32))
    sp = isometry.Spectrum.of_jacobians(matrix[None, None])
    cell = {name: array for name, (_, array, _) in _statistics.of_spectrum(sp).items()}
    # At the probabilities 0, 0.05, 0.25, 0.5, 0.75, 0.95 and 1.
    expected = [0, 0, 0, 0, 1e-3, 2, 2]
    np.testing.assert_allclose(cell["quantile_s"], expected, 4 * EPS)
    assert (cell["s_min"], cell["zero_fraction"]) == (0, 0.5)
    assert cell["condition_number"] == np.inf
    np.testing.assert_allclose(cell["mean_lam"], 1.0, 1e-6)
    np.testing.assert_allclose(cell["mean_log_s"], np.log(2e-3) / 2, 4 * EPS)


def test_signals_of_an_isometry_grow_by_its_scale():
    """q grows by sigma_w² in each layer, and so does the gradient backwards."""
    measure = run("signals", activation="linear", scheme="orthogonal", theory=True)
    cell = measure({"sigma_w": 2.0})
    net, keys, xs = directly(2.0, None, activation="linear", scheme="orthogonal")
    points = isometry.signals(net, keys, xs).points
    assert tuple(cell["point_name"]) == points
    # The number of weights before each point.
    layers = np.arange(DEPTH + 1)
    start = np.mean(np.asarray(xs, np.float64) ** 2)
    cosine = xs[0] @ xs[1] / jnp.linalg.norm(xs[0]) / jnp.linalg.norm(xs[1])
    tolerance = 8 * DEPTH * EPS
    for prefix in ("", "theory_"):
        # The output keeps a part of each vector only.
        q, c = cell[f"{prefix}q"][:-1], cell[f"{prefix}c"][:-1]
        np.testing.assert_allclose(q, start * 4.0 ** layers[:-1], tolerance)
        # The pairs are of two inputs, never of one with itself.
        np.testing.assert_allclose(c, cosine, atol=tolerance)
        apjn = 4.0 ** (DEPTH - layers)
        np.testing.assert_allclose(cell[f"{prefix}apjn"], apjn, tolerance)
    assert np.nanmax((cell["q_error"] / cell["q"])[:-1]) < tolerance


def test_audit_tells_the_state_of_every_flag():
    """Gradients of this network shrink by 4 a layer, beyond any width."""
    settings = {"activation": "linear", "scheme": "orthogonal", "steps": 0}
    cell = runs.audit({"sigma_w": 0.25}, KEY, **settings, width=WIDTH, depth=8)
    states = dict(zip(cell["flag"][1], cell["flag_state"][1], strict=True))
    assert cell["flag"][0] == ("flag",)
    assert states["vanishing"] == "raised"
    assert states["exploding"] == "clear"
    assert states["rank_constrained_training"] == "not_run"
    assert cell["num_raised"][1] == sum(s == "raised" for s in states.values())
    # ½ ln E s² = depth ln sigma_w.
    values = dict(zip(cell["flag"][1], cell["flag_value"][1], strict=True))
    np.testing.assert_allclose(values["vanishing"], 8 * np.log(0.25), 8 * EPS)


# --- Training


FEATURES, CLASSES, EXAMPLES = 5, 3, 40
TASK = isometry.data.gaussian(jax.random.key(5), EXAMPLES, FEATURES, classes=CLASSES)
# All examples in every batch.
train = functools.partial(runs.train, data=TASK, depth=1, batch=EXAMPLES, steps=20)


def descended(learning_rate, steps):
    """Gradient descent of a softmax regression in float64: losses before each step."""
    sets = _learning.split(TASK, 1.0)
    net = networks.mlp([FEATURES, CLASSES], "tanh")
    params = net.init(jax.random.split(keys_of(KEY).networks, 1)[0])["layers"][0]
    w, b = (np.asarray(params[name][0], np.float64) for name in ("w", "b"))
    xs = np.asarray(sets.train_xs, np.float64)
    # A fifth is for the test, and its mean is not looked at.
    given = np.asarray(TASK.xs)
    chosen = np.random.default_rng(0).permutation(EXAMPLES)[EXAMPLES // 5 :]
    centred = given[chosen] - given[chosen].mean(0)
    sizes = np.sqrt((centred**2).mean(1, keepdims=True))
    np.testing.assert_allclose(xs, centred / sizes, atol=8 * EPS)
    labels = np.eye(CLASSES)[np.asarray(sets.train_labels)]
    losses = []
    for _ in range(steps + 1):
        scores = xs @ w + b
        scores -= scores.max(1, keepdims=True)
        log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        losses.append(-(labels * log_p).sum(1).mean())
        delta = (np.exp(log_p) - labels) / len(xs)
        w, b = w - learning_rate * xs.T @ delta, b - learning_rate * delta.sum(0)
    accuracy = (scores.argmax(1) == labels.argmax(1)).mean()
    return np.array(losses), accuracy


def test_training_is_gradient_descent():
    """With full batches, every loss is that of gradient descent in NumPy."""
    losses, accuracy = descended(0.5, 20)
    # Smoothed as the docstring says, each with the weight of a step nine tenths of
    # that of the next.
    smoothed = [
        np.average(losses[:n], weights=0.9 ** -np.arange(n)) for n in range(1, 21)
    ]
    # A loss between two steps, so that rounding does not decide.
    target = (smoothed[9] + smoothed[10]) / 2
    cell = train({"learning_rate": 0.5}, KEY, target_loss=target)
    curve = {name: array for name, (_, array, _) in cell.items()}
    np.testing.assert_array_equal(curve["record_step"], np.arange(2, 21, 2))
    tolerance = 100 * EPS
    np.testing.assert_allclose(curve["record_train_loss"], losses[2::2], tolerance)
    assert curve["train_loss"] == curve["record_train_loss"][-1]
    np.testing.assert_allclose(curve["train_accuracy"], accuracy, EPS)
    assert curve["steps_to_target"] == 11
    assert curve["diverged"] == 0


def test_divergence_is_a_result():
    cell = train({"learning_rate": 3e38}, KEY)
    assert cell["diverged"][1] == 1
    assert np.isnan(cell["train_loss"][1])
    assert np.isnan(cell["test_accuracy"][1])
    assert np.isnan(cell["steps_to_target"][1])


# --- Compilation and randomness


@pytest.fixture
def lowered():
    """The events of JAX so far, one "jaxpr_to_mlir" for each new program."""
    events = []
    listen = jax.monitoring.register_event_duration_secs_listener
    listen(lambda event, *_, **__: events.append(event))
    return events


@pytest.mark.parametrize(
    ("measure", "other"),
    [
        (run("spectrum", scheme="gaussian"), {"sigma_w": np.float64(2.0)}),
        (run("signals", scheme="gaussian"), {"sigma_w": 0.5, "sigma_b": 0.0}),
        (train, {"sigma_w": 2.0, "learning_rate": 0.02, "target_loss": 0.1}),
    ],
)
def test_cells_of_one_architecture_share_their_programs(measure, other, lowered):
    """Scales, rates and targets are arguments of the programs."""
    measure({"sigma_w": 1.0, "sigma_b": 0.3, "seed": 0}, KEY)
    lowered.clear()
    measure({"sigma_b": 0.1, "seed": 1, **other}, jax.random.fold_in(KEY, 1))
    assert not any("jaxpr_to_mlir" in event for event in lowered)


def test_seed_enters_the_key_alone():
    first = run("spectrum")({"sigma_w": 1.0, "seed": 0})
    second = run("spectrum")({"sigma_w": 1.0, "seed": 1})
    assert first["mean_lam"] == second["mean_lam"]
    # Networks, inputs, probes and batches share no random numbers.
    keys = np.array([jax.random.key_data(key) for key in keys_of(KEY)])
    assert len(np.unique(keys, axis=0)) == len(keys)


# --- Settings


def built(settings):
    """A network of the settings `units` and `sigma_b`."""
    units = settings["units"]
    return networks.mlp([units] * 3, "linear", sigma_b=settings.get("sigma_b"))


def test_build_makes_the_network_and_what_it_leaves_draws_it():
    """sigma_w is not read by `build`, and acts by `with_scheme`."""
    measure = functools.partial(runs.spectrum, build=built, seeds=1, inputs=1)
    cell = measure({"units": 6, "sigma_w": 3.0, "scheme": "orthogonal"}, KEY)
    np.testing.assert_allclose(cell["s_min"][1], 9.0, 8 * EPS)
    # One network has no spread.
    assert np.isnan(cell["s_min_error"][1])
    with pytest.raises(isometry.InputError, match="depth=2 is read by nobody"):
        measure({"units": 6, "depth": 2}, KEY)


def test_sigma_w_of_a_given_network_leaves_its_sigma_b():
    net = networks.mlp([6] * 3, "tanh", sigma_w=1.0, sigma_b=0.5)
    settings = {"network": net, "sigma_w": 2.0}
    drawn = runs._architectures.sampled(settings, KEY, seeds=1).network
    assert (drawn.scheme.sigma_w, drawn.scheme.sigma_b) == (2.0, 0.5)


def test_networks_are_kept_for_one_mode_of_jax():
    dtypes = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            drawn = runs._architectures.sampled({"width": WIDTH}, KEY, seeds=1)
            dtypes.append(drawn.network.dtype)
    assert dtypes == [np.float32, np.float64]


@pytest.mark.parametrize(
    ("axes", "keywords", "message"),
    [
        (["sigmaw"], {}, "axis='sigmaw' is not known.*Did you mean 'sigma_w'"),
        (["depth"], {"widht": 8}, "keyword='widht' is not known.*Did you mean 'width'"),
        (["depth"], {"depth": 8}, "depth is an axis of the grid and a keyword"),
        (["depth"], {"seed": 1}, "would change nothing"),
        (["depth"], {"network": 0}, "depth is given beside network"),
    ],
)
def test_settings_that_nobody_reads_are_refused_before_any_cell(
    axes, keywords, message
):
    for name in ("spectrum", "signals", "audit", "train"):
        with pytest.raises(isometry.InputError, match=message):
            getattr(runs, name).check_axes(axes, keywords)
    # What every run reads.
    runs.spectrum.check_axes(["seed", "sigma_w", "inputs"], {"width": 8})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": 3}, "network gives 3, which is no Network"),
        ({"n_out": 2, "depth": 1}, r"shape \(2,\), and the data have 3 classes"),
        ({"data": (np.ones((4, 2)), np.ones(4))}, "as many integer labels"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"scheme": "kaiming", "sigma_w": 1.0}, "fixes its own scale"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings, message):
    given = {"data": TASK, **settings}
    with pytest.raises(isometry.InputError, match=message):
        runs.train(given, KEY)
