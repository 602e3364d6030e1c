"""monitor: training is untouched to the bit, records are those of `ensemble`, nothing runs between them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.measure._statistics import STATISTICS

NET = networks.mlp([4, 8, 8, 3], "tanh", "orthogonal")
XS, TARGETS = jax.random.normal(jax.random.key(1), (8, 4)), jax.random.normal(jax.random.key(2), (8, 3))
PARAMS = NET.init(jax.random.key(0))
FEW = XS[:2]
ADAM = optax.adam(1e-2)
EVERY, CAPACITY, STEPS = 3, 2, 7  # due at 0, 3 and 6: one more than there is room for


def linear(p, x):
    return p @ x


def loss(params):
    return jnp.mean((jax.vmap(NET, (None, 0))(params, XS) - TARGETS) ** 2)


def step(optimizer, params, state):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam is written for it
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state


def by_loop(optimizer):
    compiled = jax.jit(lambda params, state: step(optimizer, params, state))
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(STEPS):
        params, state = compiled(params, state)
    return params, state


def by_scan(optimizer):
    def run(params, state):
        return jax.lax.scan(lambda carry, _: (step(optimizer, *carry), None), (params, state), length=STEPS)[0]

    return jax.jit(run)(PARAMS, optimizer.init(PARAMS))


def calls(sp):
    """A statistic of one's own, one number for all inputs, that counts how often it really runs."""
    jax.debug.callback(lambda: COUNTED.append(1))
    return sp.stable_rank().max()


COUNTED = []


@pytest.fixture(scope="module", params=[by_loop, by_scan])
def trained(request):
    """(parameters, records, how often the statistic ran) of training with a monitor inside nested states."""
    COUNTED.clear()
    watch = isometry.monitor(
        NET, FEW, every=EVERY, statistics=["isometry_deviation", "dead_units", calls], capacity=CAPACITY
    )
    inner = optax.chain(optax.clip(1e9), watch)
    params, state = request.param(optax.chain(inner, ADAM))
    jax.effects_barrier()
    return request.param, params, isometry.recorded(state), len(COUNTED)


def test_training_is_the_same_to_the_bit(trained):
    run, params, _, _ = trained
    alone, _ = run(optax.chain(optax.clip(1e9), ADAM))
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(alone), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.fixture(scope="module")
def measured():
    """The spectra of an ensemble of two: the parameters before updates 0 and 3 of Adam alone."""
    compiled = jax.jit(lambda params, state: step(ADAM, params, state))
    params, state = PARAMS, ADAM.init(PARAMS)
    for _ in range(EVERY):
        params, state = compiled(params, state)
    both = jax.tree.map(lambda *a: jnp.stack(a), PARAMS, params)
    return isometry.ensemble(NET, params=both, xs=FEW)


@pytest.mark.core
def test_the_records_are_those_of_an_ensemble(trained, measured):
    """float32, and XLA may order sums otherwise."""
    *_, records, _ = trained
    assert records.steps.tolist() == [0, 3]
    assert records.missed == 1
    assert len(records) == CAPACITY
    values = records.values["isometry_deviation"]
    np.testing.assert_allclose(values, measured.isometry_deviation(), rtol=1e-5)
    np.testing.assert_allclose(records["isometry_deviation"], values.mean(1))
    np.testing.assert_allclose(records["calls"], measured.stable_rank().max(1), rtol=1e-5)
    assert (records["dead_units"] == 0).all()


def test_nothing_is_measured_between_records_or_after_the_last(trained):
    *_, ran = trained
    assert ran == CAPACITY


def test_dead_units_are_counted():
    """The first 3 of 8 units of z_1 get a bias no input overcomes; the head has none."""
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
def test_a_plain_function_and_a_stochastic_method():
    """Of 2 steps from one probe the quadrature is another at every record; E s² is then an estimate."""
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
    found = isometry.recorded(state)
    assert list(found.values) == ["mean", "top"]
    assert found.values["mean"].shape == (2, 1)
    assert found["mean"][0] != found["mean"][1]
    assert (found["top"] <= 3 * (1 + 1e-5)).all()
    assert isometry.recorded(watch.init(matrix))["top"].shape == (0,)


def wrong_shape(sp):
    return sp.log_values


REFUSED = {
    "every": ({"every": 0}, "every=0"),
    "capacity": ({"capacity": 0}, "capacity=0"),
    "unknown": ({"statistics": ["effectiv_rank"]}, "Did you mean 'effective_rank'"),
    "no units": ({"f": linear, "statistics": ["dead_units"]}, "dead_units.*is not known"),
    "a string": (
        {"statistics": "s_max"},
        r'statistics=.s_max. is no sequence; write \["isometry_deviation"\]',
    ),
    "empty": ({"statistics": []}, "statistics is empty"),
    "twice": ({"statistics": ["s_max", "s_max"]}, "two statistics are called 's_max'"),
    "no number of a key": ({"key": [1.0]}, r"monitor\(\): key is .*, not a single random key"),
    "no key": ({"method": "lanczos"}, "write key=jax.random.key"),
    "features": ({"xs": XS[:, :3]}, r"takes rows of shape \(4,\)"),
    "nan": ({"xs": XS.at[0, 0].set(jnp.nan)}, "NaN"),
    "span": ({"span": "middle"}, "span='middle'"),
}


@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(changed, words):
    how = {"f": NET, "xs": XS, "every": 1, "statistics": ["s_max"], "capacity": 1, **changed}
    with pytest.raises(isometry.InputError, match=words) as error:
        isometry.monitor(how.pop("f"), how.pop("xs"), **how)
    assert str(error.value).startswith("monitor()")


def test_what_is_refused_once_the_parameters_are_known():
    watch = isometry.monitor(linear, XS, every=1, statistics=["s_max"], capacity=1)
    state = watch.init(jnp.eye(4))
    with pytest.raises(isometry.InputError, match=r"got no params; write optimizer\.update"):
        watch.update(jnp.eye(4), state)
    shaped = isometry.monitor(linear, XS, every=1, statistics=[wrong_shape], capacity=1)
    with pytest.raises(isometry.InputError, match=r"returns shape \(8, 4\); it must return one number, or one for"):
        shaped.init(jnp.eye(4))


def test_what_cannot_be_read():
    watch = isometry.monitor(linear, XS, every=1, statistics=["s_max"], capacity=1)
    state = watch.init(jnp.eye(4))
    with pytest.raises(isometry.InputError, match=r"0 monitors in this state; chain isometry\.monitor"):
        isometry.recorded(ADAM.init(jnp.eye(4)))
    with pytest.raises(isometry.InputError, match="2 monitors in this state; pass the part that holds the one"):
        isometry.recorded((state, state))
    with pytest.raises(isometry.InputError, match=r"the state of \(2,\) runs; write jax\.tree\.map"):
        isometry.recorded(jax.tree.map(lambda a: jnp.stack([a, a]), state))
    with pytest.raises(isometry.InputError, match="name='s_min' is not known"):
        isometry.recorded(state)["s_min"]
    with pytest.raises(TypeError, match="opt_state is traced"):
        jax.jit(isometry.recorded)(state)


def test_outside_jit_updates_are_traced_once():
    """A loop that is not compiled would else pay a compilation for every step, due or not."""
    traced = []

    def largest(sp):
        traced.append(1)
        return sp.values.max()

    watch = isometry.monitor(NET, FEW, every=2, statistics=[largest], capacity=2)
    state, counts = watch.init(PARAMS), []
    for _ in range(3):
        _, state = watch.update(PARAMS, state, PARAMS)
        counts.append(len(traced))
    assert counts[0] == counts[-1]
    assert isometry.recorded(state).steps.tolist() == [0, 2]


def test_parameters_that_blew_up_are_no_isometry():
    watch = isometry.monitor(NET, XS[:2], every=1, capacity=2, statistics=list(STATISTICS))
    params = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), NET.init(jax.random.key(0)))
    state = watch.init(params)
    _, state = watch.update(params, state, params)
    records = isometry.recorded(state)
    assert {name for name, value in records.values.items() if not np.isnan(value).all()} == set()


@pytest.mark.parametrize("name", ["s_min", "s_median", "condition_number", "log_spread", "zero_fraction"])
def test_statistic_that_lanczos_does_not_tell_is_refused(name):
    """Its records would be NaN, all of them, after the training is over."""
    how = {"every": 1, "capacity": 1, "statistics": ["s_max", name], "key": jax.random.key(1)}
    with pytest.raises(isometry.InputError, match=rf"monitor\(\): statistics: '{name}' would be NaN .* write"):
        isometry.monitor(NET, XS[:2], method=isometry.Lanczos(2, 2), **how)
    watch = isometry.monitor(linear, XS, method=isometry.Lanczos(2, 2), **how)
    with pytest.raises(isometry.InputError, match=f"'{name}' would be NaN"):
        watch.init(jnp.eye(4))
    # As many steps as there are values find all of them.
    isometry.monitor(linear, XS, method=isometry.Lanczos(4, 2), **how).init(jnp.eye(4))


def test_precision_warning_names_the_monitor():
    def low(w, x):
        return jnp.dot(w, x, precision="default")

    watch = isometry.monitor(low, XS, every=1, statistics=["s_max"], capacity=1)
    with pytest.warns(isometry.PrecisionWarning, match=r"^monitor\(\): f asks"):
        watch.init(jnp.eye(4))
