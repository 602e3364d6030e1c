"""Locks that are known by construction, of models of many kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import certificates
from tests.certificates import models

# The certificates of the table below, each made once.
_MADE = {}


def certificate(name):
    if name not in _MADE:
        f, params, x = MODELS[name]
        _MADE[name] = certificates.certify(f, params, x)
    return _MADE[name]


def low_rank(params, x):
    return x @ (jnp.ones((4, 3)) + params["A"] @ params["B"])


def tied(params, x):
    code = jnp.tanh(x @ params["w"])
    return code @ params["w"].T


PARTIAL = {
    "in": np.eye(2, 7, dtype=np.float32),
    "w": np.eye(7, dtype=np.float32),
    "out": np.eye(7, 3, dtype=np.float32),
}
PAIRS = np.ones((3, 2), np.float32)

MODELS = {
    "cnn tanh": (
        models.convolutional(jnp.tanh),
        models.drawn_convolutional(),
        models.IMAGE,
    ),
    "cnn tanh constant": (
        models.convolutional(jnp.tanh),
        models.constant_convolutional(),
        models.IMAGE,
    ),
    "cnn relu constant pool": (
        models.convolutional(jax.nn.relu, pool="max"),
        models.constant_convolutional(),
        models.IMAGE,
    ),
    "cnn relu constant, head drawn": (
        models.convolutional(jax.nn.relu),
        {**models.constant_convolutional(), "head": models.normal(6, 3)},
        models.IMAGE,
    ),
    "cnn relu dirac": (
        models.convolutional(jax.nn.relu),
        models.dirac_convolutional(None),
        models.IMAGE,
    ),
    "cnn tanh dirac": (
        models.convolutional(jnp.tanh),
        models.dirac_convolutional(None),
        models.IMAGE,
    ),
    "cnn tanh dirac, head drawn": (
        models.convolutional(jnp.tanh),
        models.dirac_convolutional(models.normal(6, 3)),
        models.IMAGE,
    ),
    "transformer": (models.transformer, models.drawn_transformer(), models.TOKEN_IDS),
    "heads equal": (models.transformer, models.with_heads(1), models.TOKEN_IDS),
    "heads opposite": (models.transformer, models.with_heads(-1), models.TOKEN_IDS),
    "heads near": (models.transformer, models.with_heads(1, 1e-6), models.TOKEN_IDS),
    "no queries or keys": (
        models.transformer,
        models.without("query", "key"),
        models.TOKEN_IDS,
    ),
    "no queries": (models.transformer, models.without("query"), models.TOKEN_IDS),
    "no perceptron": (
        models.transformer,
        models.without("first", "last"),
        models.TOKEN_IDS,
    ),
    "rnn tanh partial": (models.recurrence(jnp.tanh), PARTIAL, PAIRS),
    "rnn relu partial": (models.recurrence(jax.nn.relu), PARTIAL, PAIRS),
    "rnn identity, ends drawn": (
        models.recurrence(jax.nn.relu),
        {**PARTIAL, "in": models.normal(2, 7), "out": models.normal(7, 3)},
        PAIRS,
    ),
    "gated": (models.gated, models.drawn_gated(), models.SEQUENCE),
    "gated twins": (models.gated, models.gated_with_twins(), models.SEQUENCE),
    "gated near": (models.gated, models.gated_with_twins(1e-6), models.SEQUENCE),
    "low rank": (
        low_rank,
        {"A": models.normal(4, 2), "B": np.zeros((2, 3), np.float32)},
        np.ones(4, np.float32),
    ),
    "low rank, both zero": (
        low_rank,
        {"A": np.zeros((4, 2), np.float32), "B": np.zeros((2, 3), np.float32)},
        np.ones(4, np.float32),
    ),
    "experts": (models.experts, models.equal_experts(), np.ones(4, np.float32)),
    "experts near": (
        models.experts,
        models.equal_experts(1e-6),
        np.ones(4, np.float32),
    ),
    "tied": (tied, {"w": np.eye(4, 9, dtype=np.float32)}, np.ones(4, np.float32)),
}

CLEAR = (
    "cnn tanh",
    "cnn tanh dirac, head drawn",
    "transformer",
    "heads near",
    "no queries",
    "rnn identity, ends drawn",
    "gated",
    "gated near",
    "low rank",
)

EXACT, BIT = "in exact arithmetic", "bit for bit"

# For each model and weight: what its certificate says, and the grade. Counts follow
# from the construction: equal channels count once. A channel that no input reaches is
# at zero, where tanh has a slope and ReLU has none: it moves if it is tanh's and an
# output reaches it.
LOCKED = [
    ("cnn tanh constant", "conv0", "6 channels, 1 distinct", EXACT),
    ("cnn tanh constant", "conv1", "6 channels, 1 distinct", EXACT),
    ("cnn tanh constant", "head", "6 inputs, 1 distinct", EXACT),
    ("cnn relu constant pool", "conv1", "6 channels, 1 distinct", EXACT),
    ("cnn relu constant, head drawn", "conv0", "6 channels, 1 distinct", EXACT),
    ("cnn relu constant, head drawn", "conv1", "6 inputs, 1 distinct", EXACT),
    ("cnn relu dirac", "conv1", "6 channels, 2 distinct, 4 never move", BIT),
    ("cnn tanh dirac", "conv1", "6 channels, 3 distinct, 3 never move", BIT),
    ("heads equal", "query", "4 heads, 3 distinct", EXACT),
    ("heads equal", "out", "4 heads, 3 distinct", EXACT),
    ("heads opposite", "key", "4 heads, 3 distinct up to sign", EXACT),
    ("no queries or keys", "query", "never gets a gradient", BIT),
    ("no queries or keys", "key", "never gets a gradient", BIT),
    ("no perceptron", "first", "never gets a gradient", BIT),
    ("no perceptron", "last", "never gets a gradient", BIT),
    ("rnn tanh partial", "w", "7 units, 3 distinct, 4 never move", BIT),
    ("rnn relu partial", "w", "7 units, 2 distinct, 5 never move", BIT),
    ("gated twins", "xz", "5 units, 4 distinct", EXACT),
    ("gated twins", "out", "5 inputs, 4 distinct", EXACT),
    ("low rank, both zero", "A", "never gets a gradient", BIT),
    ("low rank, both zero", "B", "never gets a gradient", BIT),
    ("experts", "gate", "never gets a gradient", EXACT),
    (
        "experts",
        "experts/0/a, experts/1/a, experts/2/a, experts/3/a",
        "4 equal weights, 1 distinct",
        EXACT,
    ),
    (
        "experts near",
        "experts/0/b, experts/2/b, experts/3/b",
        "3 equal weights, 1 distinct",
        EXACT,
    ),
    ("tied", "w", "9 units, 4 distinct, 5 never move", BIT),
]


@pytest.mark.parametrize("name", CLEAR)
def test_healthy_models_and_near_misses_are_clear(name):
    """Nothing is equal or dead by construction, but for 1e-6 in one weight."""
    cert = certificate(name)
    assert cert.clear, cert


@pytest.mark.parametrize(("name", "layer", "what", "grade"), LOCKED)
def test_planted_locks_are_found_with_their_grade(name, layer, what, grade):
    """What is planted is known by construction; zeros of zeros hold bit for bit."""
    cert = certificate(name)
    told = {finding.layer: (finding.what, finding.grade) for finding in cert.findings}
    assert told.get(layer) == (what, grade), cert
    assert not cert.clear


def test_biases_of_keys_are_harmless():
    """A softmax cancels what is added to all logits of a row (Vaswani et al., 2017)."""
    cert = certificate("transformer")
    (finding,) = cert.findings
    assert finding.layer == "key_bias"
    assert finding.is_harmless
    assert finding.grade == EXACT


def scaled_branch(params, x):
    """A branch of zero weights behind a scale, and a bias that nothing depends on."""
    branch = jnp.maximum(x @ params["a"], 0) @ params["b"]
    idle = params["idle"] - params["idle"]
    return (x + params["scale"] * branch) @ params["head"] + idle


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_zero_scale_that_waits_for_zero_weights_is_not_harmless(scale):
    """The gradient of each is a multiple of the other; from one on both move."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "a": jax.random.normal(keys[0], (4, 6)),
        "b": jnp.zeros((6, 4)),
        "scale": jnp.full(1, scale),
        "head": jax.random.normal(keys[1], (4, 3)),
        "idle": jnp.zeros(3),
    }
    cert = isometry.certify(scaled_branch, params, jnp.ones(4))
    told = {finding.layer: finding for finding in cert.findings}
    if scale:
        assert cert.clear
        assert "scale" not in told
    else:
        assert not told["scale"].is_harmless
        assert "a, b" in told["scale"].remedy
    assert told["idle"].is_harmless


def test_low_rank_factor_waits_for_the_other():
    """The gradient of A is zero until B has moved, which it does at step 1."""
    rows = {row.name: row for row in certificate("low rank").layers}
    assert rows["A"].first_gradient == 2


def test_zero_queries_recover_and_zero_queries_and_keys_do_not():
    """Each of two factors gets its gradient through the other."""
    rows = {row.name: row for row in certificate("no queries").layers}
    assert (rows["query"].first_gradient, rows["key"].first_gradient) == (1, 2)
    rows = {row.name: row for row in certificate("no queries or keys").layers}
    assert rows["query"].first_gradient is None


def test_experts_hold_only_for_optimizers_that_treat_arrays_alike():
    """Experts are arrays of their own; a rate for one of them would part them."""
    findings = {one.layer: one for one in certificate("experts").findings}
    assert "all arrays" in findings["gate"].holds_for
    text = repr(certificate("experts"))
    assert "gate: holds for" in text
    assert "experts/0/a, experts/1/a, experts/2/a and 5 more: holds for" in text


def test_equal_experts_are_rows_that_are_equal_to_others():
    """Each of the four by itself may be anything; the gate of zeros never moves."""
    cert = certificate("experts")
    rows = {row.name: row for row in cert.layers}
    assert rows["experts/1/b"].equal_to == tuple(f"experts/{i}/b" for i in (0, 2, 3))
    assert "9 of 9 weights locked" in repr(cert)
    assert cert.table().count("as 3 others") == 8
    near = {row.name: row for row in certificate("experts near").layers}
    assert near["experts/1/a"].equal_to == ()


def test_a_factor_beside_the_weights_waits_for_the_other():
    """Of w + A B with B = 0 nothing reaches A before B has moved, at step 1."""

    def f(params, x):
        w = jax.lax.stop_gradient(params["w"]) + params["A"] @ params["B"]
        return jnp.tanh(x @ w) @ params["head"]

    params = {"w": models.normal(4, 4), "A": models.normal(4, 2)}
    params |= {"B": np.zeros((2, 4), np.float32), "head": models.normal(4, 2)}
    cert = certificates.certify(f, params, np.ones(4, np.float32))
    assert "A: first gradient at step 2" in map(str, cert.findings)
