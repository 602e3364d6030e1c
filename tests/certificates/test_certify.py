"""certify on perceptrons, against the exact partition of their units; its errors."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import certificates, networks
from tests.certificates import models

WIDTHS = [8, 16, 16, 16, 5]

# Duplicates (zer_o), dead units (partial_identity), opposite ones (mirrored), pairs
# that cancel exactly, on the kink of ReLU (hadamard), and a healthy scheme.
SCHEMES = ("zer_o", "partial_identity", "mirrored", "hadamard", "orthogonal")
SAMPLE = [
    (scheme, activation, bias)
    for scheme in SCHEMES
    for activation, bias in (("tanh", True), ("relu", False))
]


def _claimed(row):
    """The rank bound of a row, as far as it is claimed."""
    return min(row.shape) if row.grade == "evidence" else row.rank_bound


# For each network of the key 0: rank bounds of its layers, and their first steps with a
# gradient, by the coarsest equitable partition of the units (Kemeny and Snell, 1960).
# They were computed by an algorithm of its own, which knew perceptrons alone and
# compared sums of weights without any rounding.
PARTITION = json.loads(Path(__file__).with_name("exact_partition.json").read_text())


def assert_as_the_partition_says(size, scheme, activation, bias):
    widths = {"small": WIDTHS, "wide": [16, 64, 64, 64, 10]}[size]
    net = networks.mlp(widths, activation, scheme, bias=bias)
    cert = certificates.certify(net, net.init(jax.random.key(0)))
    name = f"{size}/{scheme}/{activation}/{'bias' if bias else 'none'}"
    ranks, first = PARTITION[name]
    assert [_claimed(row) for row in cert.layers] == ranks
    assert [row.first_gradient for row in cert.layers] == first


@pytest.mark.parametrize(("scheme", "activation", "bias"), SAMPLE)
def test_perceptrons_agree_with_the_exact_partition(scheme, activation, bias):
    assert_as_the_partition_says("small", scheme, activation, bias)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in PARTITION if "wide" in name])
def test_every_scheme_agrees_with_the_exact_partition(name):
    size, scheme, activation, biases = name.split("/")
    assert_as_the_partition_says(size, scheme, activation, biases == "bias")


def test_training_mode_is_certified_and_named():
    """Dropout parts units that are equal in inference."""

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            constant = nn.initializers.constant(0.3)
            x = jnp.tanh(nn.Dense(6, kernel_init=constant)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(2, kernel_init=constant)(x)

    net = networks.flax(Dropped(), jnp.ones(3), batch=2)
    params = jax.jit(net.init)(jax.random.key(0))
    cert = certificates.certify(net, params)
    assert cert.mode == "training mode"
    assert cert.clear
    cert = certificates.certify(net.function, params, jnp.ones(3))
    assert cert.layers[0].distinct == (3, 1)
    # A chain cannot switch its blocks to training, and does not pretend to.
    cert = certificates.certify([net], (params,))
    assert cert.mode == "inference mode only"


def test_chain_of_plain_functions_is_certified():
    """All six units between the two blocks are equal, and stay so."""

    def first(params, x):
        return jnp.tanh(x @ params["u"])

    def last(params, x):
        return x @ params["v"]

    params = models.equal_layers()
    blocks = ({"u": params["u"]}, {"v": params["v"]})
    cert = certificates.certify([first, last], blocks, jnp.ones(4))
    assert cert.mode == "f as it is"
    assert [row.distinct for row in cert.layers] == [(4, 1), (1, 3)]


def test_averages_of_a_batch_norm_are_no_findings():
    """Training does not read them; the bias before the norm is cancelled."""

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.Dense(4)(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            return nn.Dense(2)(jnp.tanh(x))

    net = networks.flax(Normed(), jnp.ones(3), batch=4)
    cert = certificates.certify(net, jax.jit(net.init)(jax.random.key(0)))
    assert [one.layer for one in cert.findings] == ["Dense_0/bias"]
    assert cert.clear


def test_constant_pixels_never_move_on_given_data():
    """A pixel that is always zero multiplies its weights by zero."""
    xs = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    xs[:, 2] = 0
    cert = certificates.certify(models.two_layers(), models.drawn_layers(), xs=xs)
    (finding,) = cert.findings
    assert str(finding) == "u: 4 inputs, 3 distinct, 1 never moves"
    assert "40 examples" in cert.mode


def test_two_classes_with_cross_entropy_have_opposite_outputs():
    """The gradient of log-softmax sums to zero over the classes."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((12, 4)).astype(np.float32)
    labels = rng.integers(2, size=12)

    def loss(logits, label):
        return -jax.nn.log_softmax(logits)[label]

    params = {"u": models.normal(4, 6), "v": np.zeros((6, 2), np.float32)}
    f = models.two_layers()
    cert = certificates.certify(f, params, xs=(xs, labels), loss=loss)
    told = {one.layer: one.what for one in cert.findings if not one.is_harmless}
    assert told["v"] == "2 outputs, 1 distinct up to sign"
    # Another loss parts them.
    assert certificates.certify(f, params, xs=xs).clear


def test_same_key_gives_the_same_certificate():
    f, params = models.two_layers(jax.nn.relu), models.drawn_layers()
    first, second = (
        certificates.certify(f, params, np.ones(4), key=jax.random.key(3))
        for _ in range(2)
    )
    assert first.to_dict() == second.to_dict()


def test_certify_changes_no_global_state():
    before = jax.config.jax_enable_x64
    certificates.certify(models.two_layers(), models.drawn_layers(), np.ones(4))
    assert jax.config.jax_enable_x64 == before


def test_near_miss_is_no_lock_where_f_insists_on_float32():
    """Units that differ by 1e-6 part; sums in float32 are too coarse to show it."""
    rng = np.random.default_rng(0)
    w_in, w_out = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    w_in[:, 1], w_out[1] = w_in[:, 0], w_out[0]
    equal = {"in": w_in.astype(np.float32), "out": w_out.astype(np.float32)}
    near = {"in": equal["in"].copy(), "out": equal["out"]}
    near["in"][:, 1] *= np.float32(1 + 1e-6)

    def f(params, x):
        def step(state, row):
            return jnp.tanh(0.5 * state + row @ params["in"]), None

        state, _ = jax.lax.scan(step, jnp.zeros(4, np.float32), x)
        return state @ params["out"]

    x = np.ones((5, 3), np.float32)
    assert certificates.certify(f, equal, x).layers[0].grade != "evidence"
    lock = certificates.certify(f, near, x).layers[0]
    assert lock.grade in (None, "evidence")


def test_leaf_in_float32_inside_a_scan_is_certified():
    """A scan whose state begins in float32 cannot be traced in float64."""

    def f(params, xs):
        def step(state, x):
            return jnp.tanh(x @ params["in"] + state @ params["w"]), None

        state, _ = jax.lax.scan(step, jnp.zeros(5, jnp.float32), xs)
        return state @ params["out"]

    params = {"in": models.normal(2, 5), "w": models.normal(5, 5)}
    params["out"] = np.full((5, 1), 0.5, np.float32)
    xs = np.ones((3, 2), np.float32)
    cert = certificates.certify(f, params, xs)
    assert cert.clear
    # Which arithmetic it was, and what f raised in the other, within a screen's width.
    assert cert.to_dict()["arithmetic"] == cert.arithmetic
    # Of the strict promotion of dtypes, in which tests run.
    beginning = "float32; given float64, f raises TypePromotionError: Input dtypes"
    assert cert.arithmetic.startswith(beginning)
    heading, *said = repr(cert).splitlines()[:3]
    assert heading.endswith("clear, nothing locks any of 3 weights")
    assert " ".join(map(str.strip, said)) == f"computed in {cert.arithmetic}"
    assert max(map(len, said)) <= 80
    params |= {"in": np.full((2, 5), 0.5, np.float32), "w": np.eye(5, dtype=np.float32)}
    assert certificates.certify(f, params, xs).layers[0].distinct == (2, 1)


def test_only_refusals_of_float64_are_tried_again_in_float32():
    """A mistake of f that float64 brings to light is the user's to see."""

    def f(params, x):
        if x.dtype == np.float64:
            raise KeyError("double")
        return x @ params["u"]

    params = {"u": models.normal(4, 6)}
    with pytest.raises(KeyError, match="double"):
        certificates.certify(f, params, X)
    # What f casts by itself is said too.

    def single(params, x):
        return x.astype(np.float32) @ params["u"].astype(np.float32)

    cast = certificates.certify(single, params, X)
    assert cast.arithmetic.startswith("float32, in which f computes")


X = np.ones(4, np.float32)


def _of_number(params, x):
    return jnp.cos(x["n"].sum().astype(float)) * params["u"]


def _root(params, x):
    return jnp.sqrt(-1 - x**2) * params["u"][:, 0]


def _bad(change):
    params = models.drawn_layers()
    change(params)
    return params


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"params": _bad(lambda p: p["v"].__setitem__((1, 2), np.nan))},
            r"params\['v'\] is nan at \(1, 2\)",
        ),
        ({"params": {"u": np.ones(3, int)}}, "params holds no floating array"),
        ({"f": 3}, "f=3 is not callable"),
        ({"f": lambda p, x: jnp.argmax(x @ p["u"])}, "f returns no floating array"),
        ({"x": None}, "x is missing; write x="),
        ({"draw": 3}, "draw=3 is not callable"),
        ({"draw": lambda key: X, "xs": X[None]}, "draw and xs were both given"),
        ({"loss": jnp.sum}, "loss was given without xs"),
        ({"xs": np.zeros((0, 4))}, "xs has leading axes"),
        (
            {"xs": X[None], "loss": lambda out, target: out},
            "write xs=\\(inputs, targets\\)",
        ),
        ({"x": {"n": np.ones(2, int)}, "f": _of_number}, r"x\['n'\] holds whole"),
        ({"key": 3}, "not a single random key"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:24],
)
def test_bad_input_is_refused_with_the_argument(given, message):
    arguments = {"f": models.two_layers(), "params": models.drawn_layers(), "x": X}
    if "xs" in given or "draw" in given:
        arguments["x"] = None
    arguments |= given
    f, params = arguments.pop("f"), arguments.pop("params")
    with pytest.raises(isometry.InputError, match=message) as caught:
        certificates.certify(f, params, arguments.pop("x"), **arguments)
    assert str(caught.value).startswith("certify(): ")


def test_params_of_another_network_are_refused():
    net = networks.mlp([4, 6, 3], "tanh")
    shapes = networks.mlp([4, 5, 3], "tanh").shapes
    other = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(isometry.InputError, match=r"has shape .* not .*net.init"):
        certificates.certify(net, other)


def test_draw_that_changes_its_shapes_is_refused():
    shapes = iter([(4,), (4,), (4,), (5, 4)] + [(6, 4)] * 20)
    with pytest.raises(isometry.InputError, match="same shapes every time"):
        certificates.certify(
            models.two_layers(),
            models.drawn_layers(),
            draw=lambda key: np.ones(next(shapes)),
        )


def test_traced_params_are_refused():
    def traced(params):
        certificates.certify(models.two_layers(), params, X)
        return params

    with pytest.raises(TypeError, match="params is traced"):
        jax.jit(traced)(models.drawn_layers())


def test_gradients_that_are_not_finite_are_refused():
    """The root of a negative number is NaN, whatever the parameters."""
    with pytest.raises(isometry.InputError, match="not finite"):
        certificates.certify(_root, models.drawn_layers(), X)
