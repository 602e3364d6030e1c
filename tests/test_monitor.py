"""monitor: training is untouched to the bit, records are those of `ensemble`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import InputError, networks
from isometry.measure._statistics import STATISTICS
from tests.networks.drawing import drawn

NET = networks.mlp([4, 8, 8, 3], "tanh", "orthogonal")
RNG = np.random.default_rng(0)
XS, TARGETS = (
    jax.device_put(RNG.standard_normal((8, n)).astype(np.float32)) for n in (4, 3)
)
PARAMS = drawn(NET)
FEW = XS[:2]
ADAM = optax.adam(1e-2)

# Due at 0, 3 and 6: one more than there is room for.
EVERY, CAPACITY, STEPS = 3, 2, 7


def linear(p, x):
    return p @ x


def loss(params):
    return jnp.mean((jax.vmap(NET, (None, 0))(params, XS) - TARGETS) ** 2)


def step(optimizer, params, state):
    # Adam of optax is written for standard promotion.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state


def by_loop(optimizer):
    compiled = jax.jit(lambda params, state: step(optimizer, params, state))
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(STEPS):
        params, state = compiled(params, state)
    return params, state


def by_scan(optimizer):
    def body(carry, _):
        return step(optimizer, *carry), None

    def run(params, state):
        carry, _ = jax.lax.scan(body, (params, state), length=STEPS)
        return carry

    return jax.jit(run)(PARAMS, optimizer.init(PARAMS))


def calls(sp):
    """Count how often this really runs, and return one number for all inputs."""
    jax.debug.callback(lambda: COUNTED.append(1))
    return sp.stable_rank().max()


COUNTED = []


@pytest.fixture(scope="module", params=[by_loop, by_scan])
def trained(request):
    """Train with a monitor inside nested states, and count the calls of a statistic."""
    COUNTED.clear()
    watch = isometry.monitor(
        NET,
        FEW,
        every=EVERY,
        statistics=["isometry_deviation", "dead_units", calls],
        capacity=CAPACITY,
    )
    inner = optax.chain(optax.clip(1e9), watch)
    params, state = request.param(optax.chain(inner, ADAM))
    jax.effects_barrier()
    return request.param, params, isometry.recorded(state), len(COUNTED)


def test_training_is_the_same_to_the_bit(trained):
    run, params, _, _ = trained
    alone, _ = run(optax.chain(optax.clip(1e9), ADAM))
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(alone), strict=True
    ):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.fixture(scope="module")
def measured():
    """Measure the parameters before updates 0 and 3 of Adam alone, as two seeds."""
    compiled = jax.jit(lambda params, state: step(ADAM, params, state))
    params, state = PARAMS, ADAM.init(PARAMS)
    for _ in range(EVERY):
        params, state = compiled(params, state)
    both = jax.tree.map(lambda *a: jnp.stack(a), PARAMS, params)
    return isometry.ensemble(NET, params=both, xs=FEW)


@pytest.mark.core
def test_the_records_are_those_of_an_ensemble(trained, measured):
    """In float32, and XLA may order sums otherwise."""
    *_, records, _ = trained
    assert records.steps.tolist() == [0, 3]
    assert records.missed == 1
    assert len(records) == CAPACITY
    values = records.values["isometry_deviation"]
    np.testing.assert_allclose(values, measured.isometry_deviation(), rtol=1e-5)
    np.testing.assert_allclose(records["isometry_deviation"], values.mean(1))
    largest = measured.stable_rank().max(1)
    np.testing.assert_allclose(records["calls"], largest, rtol=1e-5)
    assert (records["dead_units"] == 0).all()


def test_nothing_is_measured_between_records_or_after_the_last(trained):
    *_, ran = trained
    assert ran == CAPACITY


def test_dead_units_are_counted():
    """The first 3 of 8 units of z_1 get a bias that no input overcomes."""
    net = networks.mlp([4, 8, 3], "relu", "gaussian")
    params = net.init(jax.random.key(0))
    params["layers"][0]["b"] = params["layers"][0]["b"].at[0, :3].set(-1e6)
    watch = isometry.monitor(net, XS, every=1, statistics=["dead_units"], capacity=1)
    _, state = jax.jit(watch.update)(params, watch.init(params), params)
    first = params["layers"][0]
    z = np.asarray(XS) @ np.asarray(first["w"][0]) + np.asarray(first["b"][0])
    dead = (z <= 0).all(0).mean()
    assert dead >= 3 / 8
    assert isometry.recorded(state)["dead_units"] == pytest.approx([dead])


@pytest.mark.slow
def test_a_stochastic_method_draws_afresh_for_each_record():
    """Of 2 steps from one probe the quadrature is another at every record."""
    matrix = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    watch = isometry.monitor(
        linear,
        jnp.ones((1, 3)),
        every=1,
        statistics={"top": "s_max", "mean": lambda sp: sp.moment(1)},
        capacity=4,
        method=isometry.Lanczos(2, 1),
        key=jax.random.key(0),
    )
    state, update = watch.init(matrix), jax.jit(watch.update)
    for _ in range(2):
        given, state = update(matrix, state, matrix)
        assert given is not None
    records = isometry.recorded(state)
    assert list(records.values) == ["mean", "top"]
    assert records.values["mean"].shape == (2, 1)
    assert records["mean"][0] != records["mean"][1]
    assert (records["top"] <= 3 * (1 + 1e-5)).all()
    assert isometry.recorded(watch.init(matrix))["top"].shape == (0,)


def test_several_spans_are_recorded_at_the_same_steps():
    spans = ["end_to_end", ("layers/0", "layers/1")]
    watch = isometry.monitor(
        NET, FEW, every=1, statistics=["s_max", "mean_s2"], capacity=1, span=spans
    )
    _, state = watch.update(PARAMS, watch.init(PARAMS), PARAMS)
    records = isometry.recorded(state)
    assert list(records) == ["end_to_end", "layers/0 -> layers/1"]
    stacked = jax.tree.map(lambda a: a[None], PARAMS)
    by_span = isometry.ensemble(NET, params=stacked, xs=FEW, span=spans)
    for found, sp in zip(records.values(), by_span.values(), strict=True):
        np.testing.assert_allclose(found.values["mean_s2"], sp.moment(1), rtol=1e-5)
        assert found["s_max"].shape == (1,)


def test_spans_may_have_labels_of_ones_own():
    watch = isometry.monitor(
        NET,
        FEW,
        every=1,
        statistics=["s_max"],
        capacity=1,
        span={"first": ("input", "layers/0"), "last": ("layers/1", "output")},
    )
    assert list(isometry.recorded(watch.init(PARAMS))) == ["first", "last"]


def largest_by_hand(f):
    """Return what computes the mean of s_max at FEW of a function in inference mode."""

    def of_input(params, x):
        return jnp.linalg.norm(jax.jacfwd(f, argnums=1)(params, x), ord=2)

    return jax.jit(lambda params: jax.vmap(of_input, (None, 0))(params, FEW).mean())


# --- Inside other transformations of optax, with what is current

SGD = optax.sgd(0.5)
IS_WEIGHT = jax.tree.map(lambda leaf: leaf.ndim == 3, PARAMS)
LABELS = jax.tree.map(lambda weight: "w" if weight else "b", IS_WEIGHT)


def watching(**arguments):
    return isometry.monitor(
        NET, FEW, every=1, statistics=["s_max"], capacity=8, **arguments
    )


def whole(params, whole):
    return whole


def injected(rate):
    # Made anew at every step, as a schedule of the learning rate wants it.
    return optax.chain(watching(), optax.sgd(rate))


INSIDE = {
    "masked": lambda: optax.masked(optax.chain(watching(state=whole), SGD), IS_WEIGHT),
    "multi_transform": lambda: optax.multi_transform(
        {"w": optax.chain(watching(state=whole), SGD), "b": SGD}, LABELS
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(injected)(rate=0.5),
    "apply_if_finite": lambda: optax.apply_if_finite(
        optax.chain(watching(), SGD), max_consecutive_errors=2
    ),
}


@pytest.mark.parametrize("make", INSIDE.values(), ids=INSIDE)
def test_records_are_current_inside_other_transformations(make):
    optimizer = make()

    @jax.jit
    def update(params, state):
        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, whole=params)
        return optax.apply_updates(params, updates), state

    largest, by_hand = largest_by_hand(NET.function), []
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(2):
        by_hand.append(largest(params))
        params, state = update(params, state)
    records = isometry.recorded(state)
    np.testing.assert_allclose(records["s_max"], by_hand, rtol=1e-5)


def test_accumulated_gradients_count_as_one_update():
    optimizer = optax.MultiSteps(optax.chain(watching(), SGD), every_k_schedule=2)
    state = optimizer.init(PARAMS)
    # As Adam, this is written for standard promotion.
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optimizer.update)
        for _ in range(4):
            _, state = update(PARAMS, state, PARAMS)
    assert isometry.recorded(state).steps.tolist() == [0, 1]


def test_updates_outside_of_jit_are_compiled_once():
    """Also of monitors that are made anew, as by `inject_hyperparams`."""
    traced = []

    def largest(sp):
        traced.append(1)
        return sp.values.max()

    def make():
        return isometry.monitor(NET, FEW, every=2, statistics=[largest], capacity=2)

    state, counts = make().init(PARAMS), []
    for _ in range(3):
        _, state = make().update(PARAMS, state, PARAMS)
        counts.append(len(traced))
    assert counts[0] == counts[-1]
    assert isometry.recorded(state).steps.tolist() == [0, 2]


def normalized(variables, x):
    """Divide by the root of a running average, as batch norm does in inference."""
    params, statistics = variables
    return params @ (x / jnp.sqrt(statistics))


STATES = {
    "of both": lambda params, statistics: (params, statistics),
    "of extra arguments": lambda statistics, w: (w, statistics),
    "of keywords": lambda **extra: (extra["w"], extra["statistics"]),
}


@pytest.mark.parametrize("state_of", STATES.values(), ids=STATES)
def test_statistics_that_training_changes_are_current(state_of):
    """The Jacobian is W over the root of the average, which is passed to `update`."""
    watch = isometry.monitor(
        normalized,
        XS[:1],
        every=1,
        statistics={"top": "s_max"},
        capacity=2,
        state=state_of,
    )
    w, state = 2 * jnp.eye(4), watch.init(2 * jnp.eye(4))
    for average in (1.0, 4.0):
        # An argument that is not named is of another transformation.
        _, state = watch.update(w, state, w, statistics=jnp.full(4, average), w=w)
    np.testing.assert_allclose(isometry.recorded(state)["top"], [2.0, 1.0], rtol=1e-6)


def test_variables_that_carry_their_statistics_are_current():
    watch = isometry.monitor(
        normalized, XS[:1], every=1, statistics=["s_max"], capacity=2
    )
    variables = (2 * jnp.eye(4), jnp.full(4, 16.0))
    _, state = watch.update(variables, watch.init(variables), variables)
    np.testing.assert_allclose(isometry.recorded(state)["s_max"], [0.5], rtol=1e-6)


# --- In loops of the frameworks, with batch norm and dropout

BATCH = 5 * XS + 2


def in_training(f, **arguments):
    watch = isometry.monitor(
        f, FEW, every=2, statistics=["s_max"], capacity=4, **arguments
    )
    return optax.chain(watch, SGD)


def require_current(state, by_hand):
    records = isometry.recorded(state)
    np.testing.assert_allclose(records["s_max"], by_hand[::2], rtol=1e-5)
    # Batch norm divides by another deviation after the first step, so a record that is
    # not current would be off.
    assert by_hand[2] < 0.7 * by_hand[0]


def test_flax_loop_with_batch_norm_and_dropout():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dense(6)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
            x = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x))
            return nn.Dense(3)(x)

    model = Model()
    net = networks.flax(model, FEW[0])

    def joined(params, batch_stats):
        return {"params": params, "batch_stats": batch_stats}

    optimizer = in_training(net, state=joined)

    @jax.jit
    def step(params, averages, state, key):
        def loss(params):
            outputs, changed = model.apply(
                joined(params, averages),
                BATCH,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return ((outputs - TARGETS) ** 2).mean(), changed["batch_stats"]

        gradient, changed = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params, batch_stats=averages)
        return optax.apply_updates(params, updates), changed, state

    variables = net.init(jax.random.key(0))
    params, averages = variables["params"], variables["batch_stats"]
    state = optimizer.init(params)
    largest, by_hand = largest_by_hand(net.function), []
    for key in jax.random.split(jax.random.key(3), 3):
        by_hand.append(largest(joined(params, averages)))
        params, averages, state = step(params, averages, state, key)
    require_current(state, by_hand)


def test_nnx_loop_with_batch_norm_and_dropout():
    """The averages are those after the gradient, which changes them in place."""
    nnx = pytest.importorskip("flax.nnx")

    def build(rngs):
        return nnx.Sequential(
            nnx.Linear(4, 6, rngs=rngs),
            nnx.BatchNorm(6, momentum=0.5, rngs=rngs),
            jnp.tanh,
            nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(6, 3, rngs=rngs),
        )

    net = networks.nnx(build, FEW[0])
    model = build(nnx.Rngs(0))
    model.train()
    watched = in_training(net, state=lambda params, whole: whole)
    optimizer = nnx.Optimizer(model, watched, wrt=nnx.Param)

    @nnx.jit
    def gradient_of(model):
        return nnx.grad(lambda model: ((model(BATCH) - TARGETS) ** 2).mean())(model)

    @nnx.jit
    def update(model, optimizer, gradient):
        optimizer.update(model, gradient, whole=net.params_of(model))

    largest, by_hand = largest_by_hand(net.function), []
    for _ in range(3):
        gradient = gradient_of(model)
        by_hand.append(largest(net.params_of(model)))
        update(model, optimizer, gradient)
    require_current(optimizer.opt_state, by_hand)


@pytest.fixture
def standard_promotion():
    """Equinox's batch norm is written for it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("standard_promotion")
def test_equinox_loop_with_batch_norm_and_dropout():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout
        last: eqx.nn.Linear

        def __init__(self, key):
            one, other = jax.random.split(key)
            self.first = eqx.nn.Linear(4, 6, key=one)
            self.norm = eqx.nn.BatchNorm(6, "batch", momentum=0.5, mode="batch")
            self.dropout = eqx.nn.Dropout(0.5)
            self.last = eqx.nn.Linear(6, 3, key=other)

        def __call__(self, x, state, key=None, inference=False):
            x, state = self.norm(self.first(x), state, inference=inference)
            x = self.dropout(jnp.tanh(x), key=key, inference=inference)
            return self.last(x), state

    build = eqx.nn.make_with_state(Model)
    net = networks.equinox(build, FEW[0])
    model, averages = build(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def joined(params, averages):
        return net.params_of(eqx.combine(params, static), averages)

    optimizer = in_training(net, state=joined)

    @jax.jit
    def step(params, averages, state, key):
        def loss(params):
            batched = jax.vmap(
                eqx.combine(params, static),
                axis_name="batch",
                in_axes=(0, None, 0),
                out_axes=(0, None),
            )
            keys = jax.random.split(key, len(BATCH))
            outputs, changed = batched(BATCH, averages, keys)
            return ((outputs - TARGETS) ** 2).mean(), changed

        gradient, changed = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params, averages=averages)
        return eqx.apply_updates(params, updates), changed, state

    largest, by_hand = largest_by_hand(net.function), []
    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(3), 3):
        by_hand.append(largest(joined(params, averages)))
        params, averages, state = step(params, averages, state, key)
    require_current(state, by_hand)


# --- What is refused


def wrong_shape(sp):
    return sp.log_values


REFUSED = {
    "every": ({"every": 0}, "every=0"),
    "capacity": ({"capacity": 0}, "capacity=0"),
    "unknown": ({"statistics": ["effectiv_rank"]}, "Did you mean 'effective_rank'"),
    "no units": (
        {"f": linear, "statistics": ["dead_units"]},
        r"'dead_units' are counted of networks\.mlp alone.* write 'exact_zero",
    ),
    "a string": (
        {"statistics": "s_max"},
        r'statistics=.s_max. is no sequence; write \["isometry_deviation"\]',
    ),
    "empty": ({"statistics": []}, "statistics is empty"),
    "twice": ({"statistics": ["s_max", "s_max"]}, "two statistics are called 's_max'"),
    "no key": ({"key": [1.0]}, r"monitor\(\): key is .*, not a single random key"),
    "key missing": ({"method": "lanczos"}, "write key=jax.random.key"),
    "features": ({"xs": XS[:, :3]}, r"takes rows of shape \(4,\)"),
    "nan": ({"xs": XS.at[0, 0].set(jnp.nan)}, "NaN"),
    "span": ({"span": "middle"}, "span='middle'"),
    "no span": ({"span": []}, "span is empty"),
    "a span of numbers": ({"span": [[1.0, 2.0]]}, "span holds 1.0, not a point"),
    "no span in a list": ({"span": [None]}, "span=None is not a span"),
    "span twice": ({"span": ["hidden", "hidden"]}, "span holds 'hidden' twice"),
    # A number and its text are two keys of a mapping, and one label of the records.
    "label twice": ({"span": {1: "hidden", "1": "end_to_end"}}, "span holds '1' twice"),
    "state": ({"state": PARAMS}, "state=.* is not a function"),
}


@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(changed, words):
    how = {"f": NET, "xs": XS, "every": 1, "statistics": ["s_max"], "capacity": 1}
    how |= changed
    with pytest.raises(InputError, match=words) as error:
        isometry.monitor(how.pop("f"), how.pop("xs"), **how)
    assert str(error.value).startswith("monitor()")


def test_what_is_refused_once_the_parameters_are_known():
    watch = isometry.monitor(linear, XS, every=1, statistics=["s_max"], capacity=1)
    state = watch.init(jnp.eye(4))
    with pytest.raises(InputError, match=r"got no params; write optimizer\.update"):
        watch.update(jnp.eye(4), state)
    shaped = isometry.monitor(linear, XS, every=1, statistics=[wrong_shape], capacity=1)
    with pytest.raises(InputError, match=r"returns shape \(8, 4\); it must return one"):
        shaped.init(jnp.eye(4))
    net = networks.cnn([1, 2], (4,))
    of_net = isometry.monitor(
        net, XS[:, :, None], every=1, statistics=["s_max"], capacity=1
    )
    wider = networks.cnn([1, 2], (4,), kernel=5).skeleton(jax.random.key(0))
    with pytest.raises(InputError, match=r"of shape \(3, 1, 2\) in this network"):
        of_net.init(wider)


def test_part_of_the_parameters_is_refused():
    optimizer = optax.masked(watching(), IS_WEIGHT)
    with pytest.raises(InputError, match=r"params has 3 masked nodes.* state=lambda"):
        optimizer.init(PARAMS)
    without_biases = networks.mlp([4, 8, 8, 3], "tanh", bias=False)
    params = without_biases.init(jax.random.key(0))
    with pytest.raises(InputError, match="params has 3 leaves, and the network has 6"):
        watching().init(params)


def test_function_with_statistics_of_its_own_is_refused():
    average = jnp.full(4, 16.0)

    def frozen(params, x):
        return normalized((params, average), x)

    how = {"every": 1, "statistics": ["s_max"], "capacity": 1}
    watch = isometry.monitor(frozen, XS, **how)
    with pytest.raises(InputError, match=r"closes over 1 floating arrays \(float32\[4"):
        watch.init(jnp.eye(4))
    # Whoever says so may keep them.
    watch = isometry.monitor(frozen, XS, state=lambda params: params, **how)
    _, state = watch.update(jnp.eye(4), watch.init(jnp.eye(4)), jnp.eye(4))
    np.testing.assert_allclose(isometry.recorded(state)["s_max"], [0.25], rtol=1e-6)


VARIANCE = np.arange(1.0, 5.0, dtype=np.float32)
VARIANCES = np.stack([VARIANCE, 2 * VARIANCE])


def scanned(w, x):
    def layer(x, variance):
        return w @ x * jax.lax.rsqrt(variance + 1e-5), None

    return jax.lax.scan(layer, x, VARIANCES)[0]


# What batch norm does with a running variance, which is an array of NumPy here.
NORMALIZED = {
    "root": lambda w, x: (
        w @ (x - VARIANCE) * jax.lax.rsqrt(VARIANCE + jnp.asarray(1e-5))
    ),
    "power": lambda w, x: w @ x * jnp.power(jnp.maximum(VARIANCE, 1e-5), -0.5),
    "deviation": lambda w, x: w @ x / np.sqrt(VARIANCE),
    "scan": scanned,
}


def init_of(f, **arguments):
    how = {"every": 1, "statistics": ["s_max"], "capacity": 1}
    return isometry.monitor(f, XS, **how, **arguments).init(jnp.eye(4))


@pytest.mark.parametrize("f", NORMALIZED.values(), ids=NORMALIZED)
def test_running_variance_of_numpy_is_refused(f):
    with pytest.raises(InputError, match=r"its root \(float32\[.*running variance"):
        init_of(f)
    init_of(f, state=lambda params: params)


def test_flax_model_that_closes_over_numpy_statistics_is_refused():
    nn = pytest.importorskip("flax.linen")
    norm = nn.BatchNorm(use_running_average=True, use_bias=False, use_scale=False)
    statistics = {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}

    def f(w, x):
        return norm.apply({"batch_stats": statistics}, w @ x)

    with pytest.raises(InputError, match=r"its root \(float32\[4\]\).*all other stat"):
        init_of(f)


POSITIONS = np.sin(np.arange(4, dtype=np.float32))
MASK = np.tril(np.ones((4, 4), np.float32))

# Arrays that training leaves alone, and whether they can be told from its own.
FIXED = {
    "positions": (lambda w, x: jnp.tanh(w @ x + POSITIONS), True),
    "filter": (lambda w, x: w @ (np.diag(POSITIONS) @ x), True),
    "standardized inputs": (lambda w, x: w @ (x / np.sqrt(VARIANCE)), True),
    "graph": (lambda w, x: w @ x / jnp.sqrt(jnp.sum(VARIANCES, axis=0)), True),
    "mask": (lambda w, x: (w * MASK) @ x, False),
    "identity": (lambda w, x: (w + np.eye(4, dtype=np.float32)) @ x, False),
    "number": (lambda w, x: w @ x / np.float32(3), False),
}


@pytest.mark.parametrize(("f", "is_named"), FIXED.values(), ids=FIXED)
def test_other_arrays_of_numpy_are_named_in_a_warning(f, is_named):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_of(f)
        init_of(f, state=lambda params: params)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == is_named
    for text in texts:
        assert text.startswith(
            "monitor(): f closes over 1 floating NumPy arrays (float"
        )
        assert caught[0].filename == __file__


def test_missing_extra_argument_is_named():
    watch = watching(state=whole)
    with pytest.raises(InputError, match=r"state takes whole.* params, whole=\.\.\."):
        watch.update(PARAMS, watch.init(PARAMS), PARAMS, loss=0.0)


def test_what_cannot_be_read():
    watch = isometry.monitor(linear, XS, every=1, statistics=["s_max"], capacity=1)
    state = watch.init(jnp.eye(4))
    with pytest.raises(InputError, match=r"0 monitors in this state; chain isometry"):
        isometry.recorded(ADAM.init(jnp.eye(4)))
    with pytest.raises(InputError, match="2 monitors in this state; pass the part"):
        isometry.recorded((state, state))
    with pytest.raises(InputError, match=r"the state of \(2,\) runs; write jax\.tree"):
        isometry.recorded(jax.tree.map(lambda a: jnp.stack([a, a]), state))
    with pytest.raises(InputError, match="name='s_min' is not known"):
        isometry.recorded(state)["s_min"]
    with pytest.raises(TypeError, match="opt_state is traced"):
        jax.jit(isometry.recorded)(state)


def test_parameters_that_blew_up_are_no_isometry():
    watch = isometry.monitor(NET, FEW, every=1, capacity=2, statistics=list(STATISTICS))
    params = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), PARAMS)
    _, state = watch.update(params, watch.init(params), params)
    values = isometry.recorded(state).values
    assert all(np.isnan(value).all() for value in values.values())


UNKNOWN = ("s_min", "s_median", "condition_number", "log_spread", "zero_fraction")


@pytest.mark.parametrize("name", ["s_min", "zero_fraction"])
def test_statistic_that_lanczos_does_not_tell_is_refused(name):
    """Its records would be NaN, all of them, after the training is over."""
    how = {
        "every": 1,
        "capacity": 1,
        "statistics": ["s_max", name],
        "key": jax.random.key(1),
    }
    words = rf"monitor\(\): statistics: '{name}' would be NaN .* write"
    with pytest.raises(InputError, match=words):
        isometry.monitor(NET, FEW, method=isometry.Lanczos(2, 2), **how)
    watch = isometry.monitor(linear, XS, method=isometry.Lanczos(2, 2), **how)
    with pytest.raises(InputError, match=f"'{name}' would be NaN"):
        watch.init(jnp.eye(4))


def test_as_many_steps_as_values_find_all_of_them():
    watch = isometry.monitor(
        linear,
        XS,
        every=1,
        capacity=1,
        statistics=UNKNOWN,
        method=isometry.Lanczos(4, 2),
        key=jax.random.key(1),
    )
    watch.init(jnp.eye(4))


def test_precision_warning_names_the_monitor():
    def low(w, x):
        return jnp.dot(w, x, precision="default")

    watch = isometry.monitor(low, XS, every=1, statistics=["s_max"], capacity=1)
    with pytest.warns(isometry.PrecisionWarning, match=r"^monitor\(\): f asks"):
        watch.init(jnp.eye(4))
