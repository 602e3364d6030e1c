"""Comparisons, certificates, audits, monitors, what is kept: a right answer or a refusal, whatever is passed."""

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
    eps_of,
    kept,
    matrices,
    matrix_map,
)

# Each network is programs of its own.
INDICES = st.integers(0, 1) if WIDE else st.just(0)


def read_strictly(text):
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@functools.cache
def spectra(index, seeds):
    net = NETS[index]
    xs = np.ones((2, net.widths[0]), np.float32)
    return isometry.ensemble(net, jax.random.split(jax.random.key(1), seeds), xs, span="hidden")


@FEW
@given(
    index=INDICES,
    seeds=st.sampled_from([1, 5, 6] if WIDE else [5]),
    key=st.one_of(st.none(), KEYS),
    resamples=st.one_of(st.just(30), FEW_OF),
    law=st.sampled_from([theory.fuss_catalan(1), theory.fuss_catalan(2), theory.marchenko_pastur(1.0), None, "law"]),
    odd=WRONG,
)
def test_comparisons(index, seeds, key, resamples, law, odd):
    sp = spectra(index, seeds)
    done, found = answers(isometry.compare, sp, law, key=key, resamples=resamples)
    if done:
        kept((found.ks, found.wasserstein, found.moment_gaps, found.quantile_gaps), found)
        assert 0 <= found.ks <= 1
        strict(vars(found))
    answers(isometry.compare, odd, law)
    answers(isometry.compare, sp, odd)


@FEW
@given(
    net=st.one_of(st.sampled_from(NETS), st.sampled_from([None, jnp.tanh, 3])),
    seed=SEEDS,
    scale=SCALES,
    kind=st.sampled_from(["same", "float64", "numpy", "bfloat16", "nan", "list", "none", "stacked", "shape"]),
    odd=WRONG,
)
def test_certificates(net, seed, scale, kind, odd):
    params = jax.jit(net.init)(jax.random.key(seed)) if isinstance(net, networks.Network) else odd
    change = {
        "float64": lambda a: np.asarray(a, np.float64),
        "numpy": np.asarray,
        "bfloat16": lambda a: jnp.asarray(a, jnp.bfloat16),
        "nan": lambda a: a * np.float32(math.nan),
        "list": lambda a: np.asarray(a).tolist(),
        "stacked": lambda a: np.asarray(a)[None],
        "shape": lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
    }.get(kind, lambda a: a * np.float32(scale))
    if isinstance(net, networks.Network):
        params = odd if kind == "none" else jax.tree.map(change, params)
    done, found = answers(isometry.certify, net, params)
    if done:
        assert len(found.layers) == net.depth
        assert all(0 <= row.rank_bound <= min(row.shape) for row in found.layers)
        repr(found)


AUDITED = ("f", "keys", "xs", "targets", "loss", "optimizer", "train_steps", "thresholds", "key", "inputs")


@FEW
@given(
    index=INDICES,
    seed=SEEDS,
    scale=SCALES,
    steps=st.sampled_from([0, 0, 0, 3]),
    wrong=st.sampled_from(["", *AUDITED, "progress"]),
    odd=st.one_of(WRONG, ODD_ARRAYS, NUMBERS),
)
def test_audits(index, seed, scale, steps, wrong, odd):
    """Every flag has a state and a number or none; what is written is JSON, what is printed holds no NaN."""
    net = NETS[index]
    xs = np.random.default_rng(seed).standard_normal((6, net.widths[0])).astype(np.float32) * np.float32(scale)
    keys = jax.random.split(jax.random.key(seed), 2)
    given_ = {"f": net, "keys": keys, "xs": xs, "train_steps": steps, "inputs": 2}
    done, report = answers(isometry.audit, **{**given_, **({wrong: odd} if wrong else {})})
    if not done:
        return
    assert report.verdict in ("raised", "undecided", "clear")
    states = {flag.state for flag in report.flags.values()}
    assert states <= {"raised", "undecided", "clear", "not_run"}
    read_strictly(report.to_json())
    assert "nan" not in report.table().lower()


MONITORED = ("f", "xs", "every", "capacity", "statistics", "method", "span", "key")


@FEW
@given(
    seed=SEEDS,
    every=st.integers(1, 3),
    capacity=st.integers(1, 3),
    statistics=st.sampled_from([["s_max"], ["s_max", "dead_units", "log_spread"], {"top": "s_max"}]),
    wrong=st.sampled_from(["", "", *MONITORED]),
    odd=st.one_of(WRONG, ODD_ARRAYS, NUMBERS, METHODS),
)
def test_monitors(seed, every, capacity, statistics, wrong, odd):
    """Updates untouched to the bit; the first record that of `spectrum` at the first parameters."""
    net = NETS[0]
    xs = np.random.default_rng(seed).standard_normal((2, net.widths[0])).astype(np.float32)
    params = jax.jit(net.init)(jax.random.key(seed))
    given_ = {"f": net, "xs": xs, "every": every, "capacity": capacity, "statistics": statistics}
    done, watching = answers(isometry.monitor, **{**given_, **({wrong: odd} if wrong else {})})
    started, state = answers(watching.init, params) if done else (False, None)
    if not started:
        return
    for _ in range(3):
        updates, state = watching.update(params, state, params)
        assert all(map(np.array_equal, jax.tree.leaves(updates), jax.tree.leaves(params)))
    records = isometry.recorded(state)
    kept(records.values, "records")
    assert len(records.steps) + records.missed == len(range(0, 3, every))
    if not wrong:
        first = records.values["top" if "top" in records.values else "s_max"][0]
        top = isometry.spectrum(net, params, xs[0]).quantile(1.0, "s")
        assert abs(float(first[0]) - float(top)) <= 8 * eps_of(top) * float(top)


@given(xs=st.one_of(matrices(batch=True), ODD_ARRAYS), q=NUMBERS)
def test_normalized_inputs(xs, q):
    """|x|²/n = q for every input."""
    done, found = answers(data.normalize, xs, q)
    if done:
        kept(found, "normalize")
        square = (np.asarray(found, np.float64) ** 2).reshape(len(found), -1).mean(1)
        eps = float(jnp.finfo(found.dtype).eps)
        assert np.allclose(square, float(q), rtol=16 * eps * (1 + found[0].size ** 0.5))


@given(key=KEYS, examples=FEW_OF, features=FEW_OF, classes=FEW_OF)
def test_gaussian_inputs(key, examples, features, classes):
    done, found = answers(data.gaussian, key, examples, features, classes)
    assert not done or (np.isfinite(np.asarray(found.xs)).all() and found.targets.max() < classes)


def strict(value):
    """Whether the store writes `value`; then it is JSON that a strict reader reads."""
    done, text = answers(public("strict_json")(strict_json.dumps), value)
    if done:
        read_strictly(text)
    return done


@given(
    value=st.recursive(
        st.one_of(NUMBERS, st.text(max_size=3)),
        lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=2), v, max_size=3)),
    )
)
def test_what_is_stored_is_strict_json(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    done, _ = answers(store.write_json, path, value)
    assert done == strict(value)


@given(x=st.sampled_from([1.0, np.ones(3, np.float32)]))
def test_what_runs_on_the_host_says_so(x):
    for call in (
        lambda x: theory.q_map("tanh", x, 1.0, 0.0),
        lambda x: theory.fuss_catalan(1).cdf(x),
        lambda x: theory.jacobian_law("tanh", 2, x),
        lambda x: isometry.ensemble(NETS[0], params=x, xs=x),
        lambda x: isometry.certify(NETS[0], x),
        lambda x: isometry.cost(matrix_map, x, x),
        lambda x: initializers.calculate_gain("leaky_relu", x),
    ):
        done, refusal = answers(jax.jit(call), x)
        assert not done
        assert isinstance(refusal, (TypeError, InputError))
