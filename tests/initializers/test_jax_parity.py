"""Our laws against jax.nn.initializers: the bits, and what JAX's own tests check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as theirs

from isometry import initializers as ours
from tests.initializers.drawing import draw_together

KEY = jax.random.key(11)
# One shape for all, so that each sampler is compiled once.
SHAPE = (3, 32, 64)
FANS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal")
FANS += ("lecun_uniform", "lecun_normal")
MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")


def pairs_of_one_law():
    """(ours, JAX's) by name: the calls that docstrings and catalogue name as JAX's."""
    pairs = {
        "zeros": (ours.zeros(), theirs.zeros),
        "ones": (ours.ones(), theirs.ones),
        "constant": (ours.constant(0.3), theirs.constant(0.3)),
        "uniform": (ours.uniform(low=0, high=0.3), theirs.uniform(0.3)),
        "normal": (ours.normal(std=0.3), theirs.normal(0.3)),
        "truncated_normal": (
            ours.truncated_normal(std=0.3, lower=-0.6, upper=0.6),
            theirs.truncated_normal(0.3),
        ),
        "truncated_normal, uneven": (
            ours.truncated_normal(std=0.02, lower=-0.02, upper=0.08),
            theirs.truncated_normal(0.02, lower=-1.0, upper=4.0),
        ),
        "xavier_uniform": (ours.glorot_uniform(), theirs.xavier_uniform()),
        "xavier_normal": (ours.glorot_normal(), theirs.xavier_normal()),
        "kaiming_uniform": (ours.he_uniform(), theirs.kaiming_uniform()),
        "kaiming_normal": (ours.he_normal(), theirs.kaiming_normal()),
    }
    several_axes = {"in_axis": (0, 1), "out_axis": -1, "batch_axis": ()}
    for name in FANS:
        our_factory, their_factory = getattr(ours, name), getattr(theirs, name)
        pairs[name] = (our_factory(), their_factory())
        axes = (our_factory(**several_axes), their_factory(**several_axes))
        pairs[f"{name}, axes"] = axes
    for mode in MODES:
        for distribution in DISTRIBUTIONS:
            arguments = (1.7, mode, distribution)
            pairs[f"variance_scaling, {mode}, {distribution}"] = (
                ours.variance_scaling(*arguments, batch_axis=0),
                theirs.variance_scaling(*arguments, batch_axis=0),
            )
    return pairs


SAME_BITS = pairs_of_one_law()


# From 0.12 on JAX multiplies sqrt(2) by the scale before it multiplies the result of
# its inverse error function, and ours after it: two roundings of half an eps
# on each side.
NEWER_JAX = jax.__version_info__ >= (0, 12)
NORMAL_ULPS = 2 if NEWER_JAX else 0


@pytest.mark.parametrize("case", SAME_BITS)
def test_bits_are_jaxs_in_float32_and_float64(case):
    our_init, their_init = SAME_BITS[case]
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            weight = our_init(KEY, SHAPE, dtype)
            expected = their_init(KEY, SHAPE, jnp.dtype(dtype))
            is_normal = case.endswith("normal") and "truncated" not in case
            rtol = NORMAL_ULPS * jnp.finfo(dtype).eps if is_normal else 0
            np.testing.assert_allclose(weight, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_orthogonal_kernels_are_jaxs(dtype):
    """Tall, flattened by another axis, and at the middle tap of an even window."""
    pairs = {
        "orthogonal": (ours.orthogonal(1.3), theirs.orthogonal(1.3), (9, 4)),
        "orthogonal, first axis": (
            ours.orthogonal(out_axis=0),
            theirs.orthogonal(column_axis=0),
            (6, 4, 3),
        ),
        "delta_orthogonal": (
            ours.delta_orthogonal(1.3),
            theirs.delta_orthogonal(1.3),
            (4, 2, 3, 5),
        ),
    }
    cases = {}
    for name, (our_init, their_init, shape) in pairs.items():
        cases[name, "ours"] = (our_init, shape)
        cases[name, "theirs"] = (their_init, shape)
    drawn = draw_together(cases, KEY, dtype)
    for name in pairs:
        np.testing.assert_array_equal(
            drawn[name, "ours"], drawn[name, "theirs"], err_msg=name
        )


# --- what jax/tests/nn_test.py checks of its initializers -----------------------------

RANKS = {  # the least and the greatest number of axes that JAX's test asks for
    "uniform": (1, 4),
    "normal": (1, 4),
    "truncated_normal": (1, 4),
    **dict.fromkeys(FANS, (2, 4)),
    "variance_scaling": (2, 4),
    "orthogonal": (2, 2),
    "delta_orthogonal": (4, 4),
}
SHAPES = [(2,), (2, 2), (2, 3), (3, 2), (2, 3, 4), (4, 3, 2), (2, 3, 4, 5)]
NEEDED = {"variance_scaling": (1, "fan_geo_avg", "normal")}
DTYPES = ["bfloat16", "float16", "float32", "float64"]


def shapes_of(name):
    least, most = RANKS[name]
    return [shape for shape in SHAPES if least <= len(shape) <= most]


def abstract(initializer, *call):
    """Shape and dtype of a draw, without drawing it."""
    return jax.eval_shape(lambda key: initializer(key, *call), KEY)


@pytest.mark.parametrize("name", RANKS)
def test_shape_and_dtype_are_those_asked_for(name):
    initializer = getattr(ours, name)(*NEEDED.get(name, ()))
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            for shape in shapes_of(name):
                weight = abstract(initializer, shape, dtype)
                assert weight.shape == shape
                assert weight.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("name", RANKS)
def test_dtype_of_the_factory_is_the_default_of_the_call(name):
    shape = shapes_of(name)[-1]
    for dtype in DTYPES:
        with jax.enable_x64(dtype == "float64"):
            initializer = getattr(ours, name)(*NEEDED.get(name, ()), dtype=dtype)
            assert abstract(initializer, shape).dtype == jnp.dtype(dtype)
            assert abstract(initializer, shape, "float16").dtype == jnp.float16


@pytest.mark.parametrize(
    "axes",
    [
        {"in_axis": (0, 1), "out_axis": (-2, -1)},
        {"in_axis": 0, "out_axis": (2, 3), "batch_axis": 1},
    ],
)
def test_variance_scaling_over_several_axes_is_jaxs(axes):
    arguments = (1.0, "fan_avg", "truncated_normal")
    shape = (2, 3, 32, 32)
    weight = ours.variance_scaling(*arguments, **axes)(KEY, shape)
    expected = theirs.variance_scaling(*arguments, **axes)(KEY, shape)
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), {"in_axis": (), "out_axis": ()}),
        ((5,), {"in_axis": 0, "out_axis": ()}),
        ((5,), {"in_axis": (), "out_axis": 0}),
        ((5,), {"in_axis": (), "out_axis": (), "batch_axis": 0}),
        ((5,), {"in_axis": 0, "out_axis": 0}),
        ((5,), {"in_axis": -1}),
    ],
)
def test_scalars_and_vectors_with_explicit_axes_are_jaxs(shape, axes):
    """An axis that is both input and output makes both fans 1, as JAX counts."""
    for mode, distribution in (("fan_in", "normal"), ("fan_avg", "uniform")):
        weight = ours.variance_scaling(3.0, mode, distribution, **axes)(KEY, shape)
        expected = theirs.variance_scaling(3.0, mode, distribution, **axes)(KEY, shape)
        rtol = NORMAL_ULPS * jnp.finfo("float32").eps if distribution == "normal" else 0
        np.testing.assert_allclose(weight, expected, rtol=rtol, atol=0)
    np.testing.assert_array_equal(
        ours.he_normal(**axes)(KEY, shape), theirs.he_normal(**axes)(KEY, shape)
    )


@pytest.mark.parametrize("shape", [(), (5,)])
def test_scalars_and_vectors_without_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"variance_scaling\(\): shape=.*at least two"):
        ours.variance_scaling(1.0, "fan_avg", "truncated_normal")(KEY, shape)


def test_float32_arguments_do_not_widen_a_coarse_dtype():
    """As JAX's test of accidental upcasting."""
    scale = jnp.ones((), "float32")
    for initializer in (
        ours.uniform(high=scale, dtype="bfloat16"),
        ours.normal(std=scale, dtype="bfloat16"),
        ours.truncated_normal(std=scale, dtype="bfloat16"),
    ):
        assert initializer(KEY, (4, 4)).dtype == jnp.bfloat16
