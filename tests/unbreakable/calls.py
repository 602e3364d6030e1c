"""What the properties of this folder share: how a call is judged, and what is passed.

Calls are drawn valid and invalid: dtypes, shapes, sizes of 1 and 0, huge and tiny
scales, NaN, infinity, wrong types, views that are not contiguous, old and new keys,
jit, vmap and eval_shape, x64 off and on. The answer must be right, or a refusal in our
words, and never an error from below. References are NumPy's, in float64.

`pytest -n 0 tests/unbreakable --hypothesis-profile long` makes more than 10,000 calls.
"""

import collections
import functools
import math
import re
import traceback
import warnings
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import isometry
from isometry import InputError, networks, theory

HOME = str(Path(isometry.__file__).parent)

# How often each function was called.
CALLS = collections.Counter()

# "call(): ", then what is wrong with which argument.
_REFUSAL = re.compile(r"[A-Za-z_][\w.]*(\(\))?: \S")
_TRACED = re.compile(
    r"[A-Za-z_][\w.]*\(\): .+ is traced; .+ runs on the host\.", re.DOTALL
)

# Warnings of what is drawn on purpose.
_DRAWN_ON_PURPOSE = (
    isometry.PrecisionWarning,
    isometry.BatchWarning,
    isometry.ZeroJacobianWarning,
)

# The long preset draws shapes of every kind. Each is a program more, so that the short
# one uses few.
WIDE = settings().max_examples > 100

# For what compiles anew at each call, or takes a second.
FEW = settings(max_examples=max(3, settings().max_examples // 4))


def is_refusal(error):
    """Whether an error was raised by isometry itself, in the form of its checks."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if not raised_in.startswith(HOME):
        return False
    if isinstance(error, (InputError, theory.NotConverged)):
        return bool(_REFUSAL.match(str(error)))
    return isinstance(error, TypeError) and bool(_TRACED.match(str(error)))


def answers(call, *arguments, **named):
    """Call a function that may refuse its arguments.

    Returns:
        (True, the result), or (False, the refusal): an `InputError` or, of a tracer, a
        `TypeError`. Any other error is a failure.
    """
    CALLS[getattr(call, "__qualname__", type(call).__name__)] += 1
    try:
        with warnings.catch_warnings():
            for category in _DRAWN_ON_PURPOSE:
                warnings.simplefilter("ignore", category)
            return True, call(*arguments, **named)
    except Exception as error:
        if is_refusal(error):
            return False, error
        raised = f"{type(error).__name__}: {error}"
        raise AssertionError(
            f"{call} of {arguments}, {named} raised {raised}"
        ) from error


# What is passed.


@st.composite
def mostly(draw, sound, odd):
    """A sound value nine times of ten, so that calls of many arguments often answer."""
    is_odd = draw(st.integers(0, 9)) == 9
    return draw(odd if is_odd else sound)


SIZES = st.sampled_from([1, 2, 3, 5] if WIDE else [1, 3])
SHAPES = mostly(
    st.sampled_from(
        [(2, 3), (3, 2), (5, 5), (1, 1), (3,), (3, 3, 2, 2), (3, 2, 4), [3, 2]]
    ),
    st.sampled_from(
        [
            (),
            (0,),
            (2, 0),
            (-1, 3),
            (2.5, 3),
            "ab",
            None,
            7,
            np.array([2, 3]),
            (True, 2),
            (10**30,),
        ]
    ),
)
WRONG = st.sampled_from(
    [
        None,
        "a",
        b"1",
        "0.5",
        True,
        np.bool_(True),
        1j,
        [],
        (),
        {},
        [1.0, 2.0],
        object(),
        np.ones(1),
        np.ones((2, 2)),
        np.array(["a"]),
        jnp.ones(3),
        Fraction(1, 2),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.random.key(0),
    ]
)
EXTREME = st.sampled_from(
    [
        0.0,
        -0.0,
        math.nan,
        math.inf,
        -math.inf,
        1e-320,
        1e-200,
        1e-45,
        1e38,
        1e200,
        1.7e308,
        10**400,
        -(10**400),
        -1,
    ]
)
PLAIN = st.sampled_from(
    [
        0.5,
        1,
        1.5,
        2,
        0.25,
        np.float32(0.7),
        np.float64(1.1),
        np.int32(2),
        np.array(1.25),
    ]
)
NUMBERS = mostly(st.one_of(PLAIN, st.floats(1e-3, 10.0)), st.one_of(EXTREME, WRONG))
ODD_COUNTS = st.one_of(st.sampled_from([0, -1, 2.5, np.int64(3)]), WRONG)
WHOLE = mostly(st.integers(1, 6), st.one_of(ODD_COUNTS, st.just(10**30)))

# Of steps and probes, each number of which is a program.
SOME = st.integers(1, 6) if WIDE else st.just(3)
FEW_OF = mostly(SOME, ODD_COUNTS)

SEEDS = st.integers(0, 2**31 - 1)
GOOD_KEYS = st.one_of(SEEDS.map(jax.random.key), SEEDS.map(jax.random.PRNGKey))
ODD_KEYS = st.one_of(
    SEEDS.map(lambda seed: jax.random.key(seed, impl="rbg")),
    st.sampled_from(
        [
            None,
            0,
            "key",
            np.zeros(2, np.int32),
            np.zeros(2, np.uint32),
            np.zeros((2, 2), np.uint32),
            jax.random.split(jax.random.key(0), 2),
        ]
    ),
)
KEYS = mostly(GOOD_KEYS, ODD_KEYS)
DTYPES = mostly(
    st.sampled_from([None, "float32", jnp.float32, jnp.bfloat16, jnp.float16, float]),
    st.sampled_from(
        [
            "float64",
            int,
            "int8",
            complex,
            "no",
            bool,
            3,
            object(),
            jnp.float8_e4m3fn,
            jnp.ones(2),
        ]
    ),
)
ACTIVATIONS = st.sampled_from(["tanh", "relu", "linear", "hard_tanh", "erf", "gelu"])
ODD_ACTIVATIONS = st.sampled_from(
    [
        "tahn",
        "",
        None,
        3,
        jnp.sum,
        jax.nn.softmax,
        jnp.tanh,
        jnp.log,
        jnp.sign,
        np.tanh,
        [],
        b"tanh",
        jnp.exp,
    ]
)
ANY_ACTIVATION = mostly(ACTIVATIONS, ODD_ACTIVATIONS)
VARIABLES = mostly(
    st.sampled_from(["lam", "s", "log_s"]), st.sampled_from(["sigma", None])
)
METHODS = mostly(
    st.sampled_from(
        [
            "auto",
            "dense",
            "product",
            isometry.Lanczos(8, 2),
            "lanczos",
            isometry.Product(2),
        ]
    ),
    st.sampled_from(["danse", None, 3]),
)
SCALES = st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e-12, 1e12, 0.0])

# Arrays that no function of matrices takes as they are.
ODD_ARRAYS = st.one_of(
    WRONG,
    st.sampled_from(
        [
            np.ones((2, 2), int),
            np.ones((2, 2), complex),
            np.ones((2, 2), bool),
            np.ones((0, 3), np.float32),
            np.float32(2),
            np.ones((2, 3, 0), np.float32),
            [[1.0, 2.0], [3.0, 4.0]],
            [[1.0], [2.0, 3.0]],
            np.array([["a", "b"]]),
            np.array([[None, 1.0]]),
            np.ones(3, np.float32),
            np.array(object()),
            3.0,
        ]
    ),
)

EXPONENTS = st.sampled_from([0, 0, 0, -3, 3, -15, 15, -30, 30])
ENTRIES = st.sampled_from(
    ["plain", "plain", "plain", "zero", "rank one", "identity", "nan", "inf"]
)
FLOATS = st.sampled_from(
    [np.float32, np.float32, np.float32, np.float64, np.float16, jnp.bfloat16]
)
LAYOUTS = st.sampled_from(["C", "F", "reversed", "strided", "jax"])


@st.composite
def matrices(draw, batch=False, square=False):
    """An array (m, n) or (b, m, n), most often sound.

    Entries, dtype, scale and memory layout are of every kind.
    """
    m, n = draw(st.tuples(SIZES, SIZES) if WIDE else st.just((3, 2)))
    shape = (m, m if square else n)
    if batch and draw(st.booleans()):
        shape = (draw(SIZES if WIDE else st.just(2)), *shape)
    normal = np.random.default_rng(draw(SEEDS)).standard_normal(shape)
    scaled = normal * 10.0 ** draw(EXPONENTS)
    entries = with_entries(scaled, draw(ENTRIES))
    # Entries that do not fit into float16 become infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        array = entries.astype(draw(FLOATS))
    return with_layout(array, draw(LAYOUTS))


def with_entries(array, kind):
    """An array of the same shape with entries of a kind."""
    if kind == "zero":
        return array * 0
    if kind == "rank one":
        return array[..., :1] @ np.ones((1, array.shape[-1]))
    if kind == "identity":
        return np.broadcast_to(np.eye(*array.shape[-2:]), array.shape)
    if kind == "nan":
        array[..., 0, 0] = math.nan
    if kind == "inf":
        array[..., 0, 0] = math.inf
    return array


def with_layout(array, layout):
    """The same numbers in another layout; "reversed" is another order of columns."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[..., ::-1]
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "jax":
        return jnp.asarray(array)
    return array


# References and requirements.


def singular_values(a):
    """By LAPACK in float64."""
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


def as_measured(a):
    """The array in the dtype of JAX: float64 is float32 with x64 off."""
    a = np.asarray(a)
    if a.dtype != np.float64 or jax.config.jax_enable_x64:
        return a
    with np.errstate(over="ignore"):
        return a.astype(np.float32)


def is_finite(a):
    return bool(np.isfinite(np.asarray(as_measured(a), np.float64)).all())


def eps_of(a):
    return float(jnp.finfo(a.dtype).eps)


def require_close_to_svd(log_values, a):
    """ln s is what an SVD in its dtype resolves.

    That is off by at most a few max(m, n) eps s_max, at any scale (Weyl).
    """
    expected = singular_values(a)
    logs = np.asarray(log_values, np.float64)
    s = np.exp(logs)
    eps = eps_of(log_values)
    # The logarithm itself is rounded too.
    rounding = np.where(np.isfinite(logs), np.abs(logs), 0) * s * eps
    bound = 4 * max(np.shape(a)[-2:]) * eps * expected[..., :1] + rounding
    # Numbers of float32 are multiples of 1.4e-45.
    bound = bound + 1e-44
    assert (np.abs(s - expected) <= bound).all(), (s, expected)


def require_no_nan(values, name):
    for leaf in jax.tree.leaves(values):
        assert not np.isnan(np.asarray(leaf, np.float64)).any(), (name, values)


# Networks.

_ALL_NETS = [
    networks.mlp([3, 5, 5, 5, 2], "tanh", "orthogonal"),
    networks.mlp([2, 3, 3, 3], "relu", "gaussian", bias=False),
    networks.mlp([1, 1, 1, 1], "linear", "orthogonal"),
    networks.mlp([5, 2, 5, 3, 5], "relu", "gaussian"),
]
NETS = _ALL_NETS if WIDE else _ALL_NETS[:1]


@functools.cache
def drawing(net):
    """The program that draws parameters: `jax.jit(net.init)` is another each time."""
    return jax.jit(net.init)


def matrix_map(params, x):
    return params @ x


def _relu(z):
    return np.maximum(z, 0)


def _linear(z):
    return z


def _tanh_slope(z):
    return 1 - np.tanh(z) ** 2


def _relu_slope(z):
    return (z > 0) * 1.0


PHI = {"tanh": np.tanh, "relu": _relu, "linear": _linear}
SLOPE = {"tanh": _tanh_slope, "relu": _relu_slope, "linear": np.ones_like}


def numpy_network(params, x, activation):
    """(output, pre-activations, weights as (out, in)) in float64, by the definition."""
    weights, pre_activations = [], []
    h = np.asarray(x, np.float64)
    for run in params["layers"]:
        num_layers = run["w"].shape[0]
        for i in range(num_layers):
            if pre_activations:
                h = PHI[activation](pre_activations[-1])
            w = np.asarray(run["w"][i], np.float64)
            z = h @ w
            if "b" in run:
                z = z + np.asarray(run["b"][i], np.float64)
            weights.append(w.T)
            pre_activations.append(z)
    return pre_activations[-1], pre_activations, weights


def numpy_jacobian(params, x, activation):
    """(Jacobian, weights as (out, in)) in float64, by the chain rule."""
    _, pre_activations, weights = numpy_network(params, x, activation)
    jacobian = weights[0]
    for z, w in zip(pre_activations[:-1], weights[1:], strict=True):
        slopes = SLOPE[activation](z)
        jacobian = w @ (slopes[:, None] * jacobian)
    return jacobian, weights
