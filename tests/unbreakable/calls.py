"""What the properties of this folder share: how a call is judged, what is passed, and the oracles in float64.

Calls are drawn valid and invalid: dtypes, shapes, sizes of 1 and 0, huge and tiny scales, NaN, infinity, wrong types,
views that are not contiguous, old and new keys, jit, vmap and eval_shape, x64 off and on. The answer is right or a
refusal in our words, never a traceback from below. `pytest -n 0 tests/unbreakable --hypothesis-profile long` makes
more than 10,000.
"""

import collections
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
CALLS = collections.Counter()
_FORM = re.compile(r"[A-Za-z_][\w.]*(\(\))?: \S")  # the call, then what is wrong with which argument
_HOST = re.compile(r"[A-Za-z_][\w.]*\(\): .+ is traced; .+ runs on the host\.", re.DOTALL)


def answers(call, *arguments, **named):
    """(True, the result), or (False, the refusal): an `InputError` or, of a tracer, a `TypeError`, raised by isometry
    itself in the form that `_checks` gives it. Anything else is a failure."""
    CALLS[getattr(call, "__qualname__", type(call).__name__)] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", isometry.PrecisionWarning)
            warnings.simplefilter("ignore", isometry.BatchWarning)
            warnings.simplefilter("ignore", isometry.ZeroJacobianWarning)
            return True, call(*arguments, **named)
    except Exception as error:
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = isinstance(error, (InputError, theory.NotConverged)) and _FORM.match(str(error))
        host = isinstance(error, TypeError) and _HOST.match(str(error))
        if not (ours or host) or not raised.startswith(HOME):
            raise AssertionError(f"{call} of {arguments}, {named} raised {type(error).__name__}: {error}") from error
        return False, error


FEW = settings(max_examples=max(3, settings().max_examples // 4))
"""For what compiles anew at each call, or takes a second."""


WIDE = settings().max_examples > 100
"""The long preset draws shapes of every kind. Each is a program more, so the short one keeps to a few."""


# What is passed.
SIZES = st.sampled_from([1, 2, 3, 5] if WIDE else [1, 3])
SHAPES = st.one_of(
    st.sampled_from([(2, 3), (3, 2), (5, 5), (1, 1), (3,), (3, 3, 2, 2), (3, 2, 4), [3, 2]]),
    st.sampled_from([(), (0,), (2, 0), (-1, 3), (2.5, 3), "ab", None, 7, np.array([2, 3]), (True, 2), (10**30,)]),
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
    [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-320, 1e-200, 1e-45, 1e38, 1e200, 1.7e308, 10**400, -(10**400), -1]
)
PLAIN = st.sampled_from([0.5, 1, 1.5, 2, 0.25, np.float32(0.7), np.float64(1.1), np.int32(2), np.array(1.25)])
NUMBERS = st.one_of(PLAIN, PLAIN, st.floats(1e-3, 10.0), EXTREME, WRONG)
WHOLE = st.one_of(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, -1, 2.5, 10**30, np.int64(3)]), WRONG)
# Of steps and probes, each number of which is a program.
SOME = st.integers(1, 6) if WIDE else st.just(3)
FEW_OF = st.one_of(SOME, SOME, st.sampled_from([0, -1, 2.5, np.int64(3)]), WRONG)
SEEDS = st.integers(0, 2**31 - 1)
GOOD_KEYS = st.one_of(SEEDS.map(jax.random.key), SEEDS.map(jax.random.PRNGKey))
KEYS = st.one_of(
    GOOD_KEYS,
    GOOD_KEYS,
    SEEDS.map(lambda seed: jax.random.key(seed, impl="rbg")),
    st.sampled_from([None, 0, "key", np.zeros(2, np.int32), np.zeros(2, np.uint32), np.zeros((2, 2), np.uint32)]),
    st.just(jax.random.split(jax.random.key(0), 2)),
)
DTYPES = st.one_of(
    st.sampled_from([None, "float32", jnp.float32, jnp.bfloat16, jnp.float16, float]),
    st.sampled_from(["float64", int, "int8", complex, "no", bool, 3, object(), jnp.float8_e4m3fn, jnp.ones(2)]),
)
ACTIVATIONS = st.sampled_from(["tanh", "relu", "linear", "hard_tanh", "erf", "gelu"])
ODD_ACTIVATIONS = st.sampled_from(
    ["tahn", "", None, 3, jnp.sum, jax.nn.softmax, jnp.tanh, jnp.log, jnp.sign, np.tanh, [], b"tanh", jnp.exp]
)
ANY_ACTIVATION = st.one_of(ACTIVATIONS, ACTIVATIONS, ODD_ACTIVATIONS)
VARIABLES = st.sampled_from(["lam", "lam", "s", "log_s", "sigma", None])


@st.composite
def matrices(draw, batch=False, square=False):
    """An array (m, n) or (b, m, n): entries, dtype, scale and memory layout of every kind, mostly sound."""
    m, n = draw(st.tuples(SIZES, SIZES) if WIDE else st.just((3, 2)))
    shape = (m, m if square else n)
    shape = (draw(SIZES if WIDE else st.just(2)), *shape) if batch and draw(st.booleans()) else shape
    a = np.random.default_rng(draw(SEEDS)).standard_normal(shape)
    a = a * 10.0 ** draw(st.sampled_from([0, 0, 0, -3, 3, -15, 15, -30, 30]))
    kind = draw(st.sampled_from(["plain", "plain", "plain", "zero", "rank one", "identity", "nan", "inf"]))
    if kind in ("zero", "rank one"):
        a = a * 0 if kind == "zero" else a[..., :1] @ np.ones((1, shape[-1]))
    if kind == "identity":
        a = np.broadcast_to(np.eye(*shape[-2:]), shape)
    if kind in ("nan", "inf"):
        a[..., 0, 0] = math.nan if kind == "nan" else math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        a = a.astype(draw(st.sampled_from([np.float32, np.float32, np.float32, np.float64, np.float16, jnp.bfloat16])))
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided", "jax"]))
    if layout == "strided":
        a = np.repeat(a, 2, axis=-1)[..., ::2]
    return {"F": np.asfortranarray, "reversed": lambda a: a[..., ::-1], "jax": jnp.asarray}.get(layout, lambda a: a)(a)


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


def singular_values(a):
    """The oracle: by LAPACK in float64."""
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


def as_measured(a):
    """float64 is float32 with x64 off."""
    a = np.asarray(a)
    with np.errstate(over="ignore"):
        return a.astype(np.float32) if a.dtype == np.float64 and not jax.config.jax_enable_x64 else a


def sound(a):
    return bool(np.isfinite(np.asarray(as_measured(a), np.float64)).all())


def eps_of(a):
    return float(jnp.finfo(a.dtype).eps)


def close_to_svd(log_values, a):
    """ln s within what an SVD in its dtype resolves: off by at most max(m, n)·eps·s_max, at any scale (Weyl)."""
    truth, logs = singular_values(a), np.asarray(log_values, np.float64)
    s = np.exp(logs)
    eps = eps_of(log_values)
    rounding = np.where(np.isfinite(logs), np.abs(logs), 0) * s * eps  # of ln s itself
    bound = 4 * max(np.shape(a)[-2:]) * eps * truth[..., :1] + rounding
    assert (np.abs(s - truth) <= bound + 1e-44).all(), (s, truth)


def kept(values, name):
    """Whether a result holds no NaN."""
    for leaf in jax.tree.leaves(values):
        a = np.asarray(leaf, np.float64)
        assert not np.isnan(a).any(), (name, values)


METHODS = st.sampled_from(
    ["auto", "dense", "product", isometry.Lanczos(8, 2), "lanczos", isometry.Product(2), "danse", None, 3]
)
SCALES = st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e-12, 1e12, 0.0])

NETS = [
    networks.mlp(widths, activation, scheme, bias=bias)
    for widths, activation, scheme, bias in (
        ([3, 5, 5, 5, 2], "tanh", "orthogonal", True),
        ([2, 3, 3, 3], "relu", "gaussian", False),
        ([1, 1, 1, 1], "linear", "orthogonal", True),
        ([5, 2, 5, 3, 5], "relu", "gaussian", True),
    )
][: 4 if WIDE else 1]


def matrix_map(params, x):
    return params @ x


PHI = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "linear": lambda z: z}
SLOPE = {"tanh": lambda z: 1 - np.tanh(z) ** 2, "relu": lambda z: (z > 0) * 1.0, "linear": np.ones_like}


def numpy_network(params, x, activation):
    """(output, pre-activations, weights as (out, in)) in float64, straight from the definition."""
    ws, zs, h = [], [], np.asarray(x, np.float64)
    for run in params["layers"]:
        for i in range(run["w"].shape[0]):
            w = np.asarray(run["w"][i], np.float64)
            h = (PHI[activation](zs[-1]) if zs else h) @ w + (np.asarray(run["b"][i], np.float64) if "b" in run else 0)
            ws.append(w.T)
            zs.append(h)
    return h, zs, ws


def numpy_jacobian(params, x, activation):
    _, zs, ws = numpy_network(params, x, activation)
    jacobian = ws[0]
    for z, w in zip(zs[:-1], ws[1:], strict=True):
        jacobian = w @ (SLOPE[activation](z)[:, None] * jacobian)
    return jacobian, ws
