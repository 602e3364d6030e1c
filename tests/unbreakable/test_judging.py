"""Comparisons, certificates, audits, monitors, what is stored: right, or refused."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isometry
from isometry import InputError, data, initializers, networks, store, theory
from isometry._internal import strict_json
from isometry._internal.errors import public
from tests.unbreakable.calls import (
    FEW,
    FEW_OF,
    KEYS,
    METHODS,
    NETS,
    NUMBERS,
    ODD_ARRAYS,
    SCALES,
    SEEDS,
    WIDE,
    WRONG,
    answers,
    drawing,
    eps_of,
    matrices,
    matrix_map,
    mostly,
    require_no_nan,
)

# Each network is programs of its own.
INDICES = st.integers(0, 1) if WIDE else st.just(0)

ANYTHING = st.one_of(WRONG, ODD_ARRAYS, NUMBERS)


def read_strictly(text):
    """Read JSON, in which NaN and Infinity do not exist."""
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def is_stored(value):
    """Whether the store takes a value; then a strict reader reads it."""
    done, text = answers(public("strict_json")(strict_json.dumps), value)
    if done:
        read_strictly(text)
    return done


@functools.cache
def spectra(index, num_seeds):
    """The spectra of a network over seeds and two equal inputs."""
    net = NETS[index]
    keys = jax.random.split(jax.random.key(1), num_seeds)
    xs = np.ones((2, net.widths[0]), np.float32)
    # Of networks of relu some Jacobians are zero, of which a warning says so.
    _, sp = answers(isometry.ensemble, net, keys, xs, span="hidden")
    return sp


# Of two pairs (W, D), as the hidden span of these networks has, and of others.
LAWS = mostly(
    st.sampled_from(
        [theory.fuss_catalan(2), theory.jacobian_law("relu", depth=2, q=1.0)]
    ),
    st.sampled_from(
        [theory.fuss_catalan(1), theory.marchenko_pastur(1.0), None, "law"]
    ),
)


@FEW
@given(
    index=INDICES,
    seeds=st.sampled_from([1, 5, 6] if WIDE else [5]),
    key=st.one_of(st.none(), KEYS),
    resamples=mostly(st.just(30), FEW_OF),
    law=LAWS,
    odd=WRONG,
)
def test_comparisons_are_numbers_or_refused(index, seeds, key, resamples, law, odd):
    """A Kolmogorov distance lies in [0, 1]."""
    sp = spectra(index, seeds)
    done, compared = answers(isometry.compare, sp, law, key=key, resamples=resamples)
    if done:
        gaps = (compared.moment_gaps, compared.quantile_gaps)
        require_no_nan((compared.ks, compared.wasserstein, *gaps), compared)
        assert 0 <= compared.ks <= 1
        assert is_stored(vars(compared))
    answers(isometry.compare, odd, law)
    answers(isometry.compare, sp, odd)


CHANGES = st.sampled_from(
    [
        "same",
        "float64",
        "numpy",
        "bfloat16",
        "nan",
        "list",
        "none",
        "stacked",
        "shape",
    ]
)


def changed(array, change, scale):
    """A leaf of parameters in another form; "same" is scaled only."""
    if change == "float64":
        return np.asarray(array, np.float64)
    if change == "numpy":
        return np.asarray(array)
    if change == "bfloat16":
        return jnp.asarray(array, jnp.bfloat16)
    if change == "nan":
        return array * np.float32(math.nan)
    if change == "list":
        return np.asarray(array).tolist()
    if change == "stacked":
        return np.asarray(array)[None]
    if change == "shape":
        return jax.ShapeDtypeStruct(array.shape, array.dtype)
    return array * np.float32(scale)


@FEW
@given(
    net=mostly(st.sampled_from(NETS), st.sampled_from([None, jnp.tanh, 3])),
    seed=SEEDS,
    scale=SCALES,
    change=CHANGES,
    odd=WRONG,
)
def test_certificates_bound_ranks_or_are_refused(net, seed, scale, change, odd):
    """A rank is at most the smaller side of the matrix."""
    params = odd
    if isinstance(net, networks.Network) and change != "none":
        drawn = drawing(net)(jax.random.key(seed))
        params = jax.tree.map(lambda array: changed(array, change, scale), drawn)
    done, certificate = answers(isometry.certify, net, params)
    if done:
        assert len(certificate.layers) == net.depth
        for row in certificate.layers:
            assert 0 <= row.rank_bound <= min(row.shape)
        repr(certificate)


AUDITED = (
    "f",
    "keys",
    "xs",
    "targets",
    "loss",
    "optimizer",
    "train_steps",
    "thresholds",
    "key",
    "inputs",
)


@FEW
@given(
    index=INDICES,
    seed=SEEDS,
    scale=SCALES,
    steps=st.sampled_from([0, 0, 0, 3]),
    wrong=st.sampled_from(["", *AUDITED, "progress"]),
    odd=ANYTHING,
)
def test_audits_are_written_and_printed_or_refused(
    index, seed, scale, steps, wrong, odd
):
    """Every flag has a state, the record is strict JSON, the table holds no NaN."""
    net = NETS[index]
    normal = np.random.default_rng(seed).standard_normal((6, net.widths[0]))
    arguments = {
        "f": net,
        "keys": jax.random.split(jax.random.key(seed), 2),
        "xs": normal.astype(np.float32) * np.float32(scale),
        "train_steps": steps,
        "inputs": 2,
    }
    if wrong:
        arguments[wrong] = odd
    done, report = answers(isometry.audit, **arguments)
    if not done:
        return
    assert report.verdict in ("raised", "undecided", "clear")
    states = {flag.state for flag in report.flags.values()}
    assert states <= {"raised", "undecided", "clear", "not_run"}
    read_strictly(report.to_json())
    assert "nan" not in report.table().lower()


MONITORED = ("f", "xs", "every", "capacity", "statistics", "method", "span", "key")
STATISTICS = st.sampled_from(
    [["s_max"], ["s_max", "dead_units", "log_spread"], {"top": "s_max"}]
)


@FEW
@given(
    seed=SEEDS,
    every=st.integers(1, 3),
    capacity=st.integers(1, 3),
    statistics=STATISTICS,
    wrong=st.sampled_from(["", "", *MONITORED]),
    odd=st.one_of(WRONG, ODD_ARRAYS, NUMBERS, METHODS),
)
def test_monitors_record_spectra_and_leave_updates_or_refuse(
    seed, every, capacity, statistics, wrong, odd
):
    """Updates are untouched to the bit.

    The first record is that of `spectrum` at the first parameters.
    """
    net = NETS[0]
    normal = np.random.default_rng(seed).standard_normal((2, net.widths[0]))
    xs = normal.astype(np.float32)
    params = drawing(net)(jax.random.key(seed))
    arguments = {
        "f": net,
        "xs": xs,
        "every": every,
        "capacity": capacity,
        "statistics": statistics,
    }
    if wrong:
        arguments[wrong] = odd
    done, monitor = answers(isometry.monitor, **arguments)
    if not done:
        return
    started, state = answers(monitor.init, params)
    if not started:
        return
    num_steps = 3
    leaves = jax.tree.leaves(params)
    for _ in range(num_steps):
        updates, state = monitor.update(params, state, params)
        assert all(map(np.array_equal, jax.tree.leaves(updates), leaves))
    records = isometry.recorded(state)
    require_no_nan(records.values, "records")
    num_due = len(range(0, num_steps, every))
    assert len(records.steps) + records.missed == num_due
    if not wrong:
        name = "top" if "top" in records.values else "s_max"
        recorded = float(records.values[name][0][0])
        s_max = isometry.spectrum(net, params, xs[0]).quantile(1.0, "s")
        tolerance = 8 * eps_of(s_max) * float(s_max)
        assert abs(recorded - float(s_max)) <= tolerance


@given(xs=mostly(matrices(batch=True), ODD_ARRAYS), q=NUMBERS)
def test_normalized_inputs_have_the_mean_square_q_or_are_refused(xs, q):
    done, normalized = answers(data.normalize, xs, q)
    if done:
        require_no_nan(normalized, "normalize")
        values = np.asarray(normalized, np.float64).reshape(len(normalized), -1)
        eps = float(jnp.finfo(normalized.dtype).eps)
        tolerance = 16 * eps * (1 + values.shape[1] ** 0.5)
        assert np.allclose((values**2).mean(1), float(q), rtol=tolerance)


@given(key=KEYS, examples=FEW_OF, features=FEW_OF, classes=FEW_OF)
def test_gaussian_inputs_are_finite_or_refused(key, examples, features, classes):
    done, drawn = answers(data.gaussian, key, examples, features, classes)
    if done:
        assert np.isfinite(np.asarray(drawn.xs)).all()
        assert drawn.targets.max() < classes


VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=3)),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.text(max_size=2), children, max_size=3),
    ),
)


@given(value=VALUES)
def test_what_is_stored_is_strict_json(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    done, _ = answers(store.write_json, path, value)
    assert done == is_stored(value)


@pytest.mark.parametrize("x", [1.0, np.ones(3, np.float32)], ids=["number", "vector"])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: theory.q_map("tanh", x, 1.0, 0.0), id="q_map"),
        pytest.param(lambda x: theory.fuss_catalan(1).cdf(x), id="cdf"),
        pytest.param(lambda x: theory.jacobian_law("tanh", 2, x), id="jacobian_law"),
        pytest.param(
            lambda x: isometry.ensemble(NETS[0], params=x, xs=x), id="ensemble"
        ),
        pytest.param(lambda x: isometry.certify(NETS[0], x), id="certify"),
        pytest.param(lambda x: isometry.cost(matrix_map, x, x), id="cost"),
        pytest.param(
            lambda x: initializers.calculate_gain("leaky_relu", x), id="calculate_gain"
        ),
    ],
)
def test_what_runs_on_the_host_refuses_tracers(call, x):
    done, refusal = answers(jax.jit(call), x)
    assert not done
    assert isinstance(refusal, (TypeError, InputError))
