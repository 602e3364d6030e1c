"""Named layouts, attention kernels, and the dtype of a factory."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, initializers
from tests.dense_convolution import rounding, singular_values
from tests.initializers.drawing import draw_together
from tests.needed import NEEDED

KEY = jax.random.key(44)
ENTRIES = {entry.name: entry for entry in initializers.catalogue()}
LAYOUTS = {  # the axes that a word stands for, and a shape
    "jax": ({"in_axis": -2, "out_axis": -1}, (6, 8)),
    "torch": ({"in_axis": 1, "out_axis": 0}, (8, 6)),
    "heads_in": ({"in_axis": -3, "out_axis": (-2, -1)}, (6, 2, 4)),
    "heads_out": ({"in_axis": (-3, -2), "out_axis": -1}, (2, 4, 6)),
}
WITH_LAYOUT = [
    name
    for name, entry in ENTRIES.items()
    if "in_axis" in inspect.signature(entry.factory).parameters
]
KERNELS = ("block_orthogonal", "delta_orthogonal", "dirac")


def make(name, **more):
    return ENTRIES[name].factory(**NEEDED.get(name, {}), **more)


def program_of(initializer, shape):
    """The traced program of a draw: of equal programs the draws are equal."""
    return str(jax.make_jaxpr(lambda key: initializer(key, shape))(KEY))


def shape_for(name, layout):
    """A shape of this layout that the factory takes."""
    _, shape = LAYOUTS[layout]
    if name == "identity":
        shape = {"heads_in": (8, 2, 4), "heads_out": (2, 4, 8)}.get(layout, (8, 8))
    if name in KERNELS:
        shape = (*shape, 3) if layout == "torch" else (3, *shape)
    return shape


@pytest.mark.parametrize("name", WITH_LAYOUT)
def test_named_layout_draws_what_its_axes_draw(name):
    for layout, (axes, _) in LAYOUTS.items():
        shape = shape_for(name, layout)
        by_name = program_of(make(name, layout=layout), shape)
        assert by_name == program_of(make(name, **axes), shape)


def test_torch_layout_of_a_kernel_has_its_window_last():
    """(out, in, *window): the isometry is the transposed one of JAX's layout."""
    in_torch_layout = initializers.delta_orthogonal(layout="torch")(KEY, (5, 3, 3, 3))
    ours = initializers.delta_orthogonal()(KEY, (3, 3, 3, 5))
    np.testing.assert_array_equal(in_torch_layout, np.moveaxis(ours, (-1, -2), (0, 1)))


@pytest.mark.parametrize(
    ("layout", "shape", "matrix_shape"),
    [("heads_in", (12, 2, 4), (12, 8)), ("heads_out", (2, 4, 12), (8, 12))],
)
def test_attention_kernels_are_matrices_of_all_heads(layout, shape, matrix_shape):
    """Orthogonal as a matrix, and of the variance of its fans 12 and 8."""
    weight = np.asarray(initializers.orthogonal(layout=layout)(KEY, shape))
    matrix = weight.reshape(matrix_shape)
    tolerance = rounding(matrix, dtype="float32")
    np.testing.assert_allclose(singular_values(matrix), 1, rtol=tolerance)
    fan_in, fan_out = matrix_shape
    for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        init = initializers.variance_scaling(1.0, mode, "uniform", layout=layout)
        assert init.largest(shape) == pytest.approx((3 / fan) ** 0.5)


def test_layers_in_front_of_a_named_layout_are_a_batch():
    init = initializers.orthogonal(layout="heads_in", batch_axis=0)
    weight = np.asarray(init(KEY, (3, 8, 2, 4)))
    for matrix in weight.reshape(3, 8, 8):
        np.testing.assert_allclose(
            singular_values(matrix), 1, rtol=rounding(matrix, dtype="float32")
        )


@pytest.mark.parametrize("axes", [{"in_axis": 0}, {"out_axis": 0}])
def test_layout_beside_other_axes_is_refused(axes):
    with pytest.raises(InputError, match=r"^orthogonal\(\): .*layout='jax'.*_axis=0"):
        initializers.orthogonal(layout="jax", **axes)


@pytest.mark.parametrize("name", ["glorot_normal", "zer_o"])
def test_unknown_layout_is_refused_with_the_nearest_name(name):
    words = rf"^{name}\(\): layout='troch'.*heads_in.*Did you mean 'torch'"
    with pytest.raises(InputError, match=words):
        make(name, layout="troch")


# --- attention layers of Flax ---------------------------------------------------------


@pytest.mark.parametrize("name", ["orthogonal", "partial_identity"])
def test_flax_attention_projections_are_isometries(name):
    """Flax flattens (d, heads, head_dim) before it calls the initializer."""
    nn = pytest.importorskip("flax.linen")
    layer = nn.MultiHeadDotProductAttention(num_heads=2, kernel_init=make(name))
    params = jax.jit(layer.init)(KEY, jnp.ones((1, 3, 8)))["params"]
    assert params["query"]["kernel"].shape == (8, 2, 4)
    assert params["out"]["kernel"].shape == (2, 4, 8)
    for projection in ("query", "key", "value", "out"):
        matrix = np.asarray(params[projection]["kernel"]).reshape(8, 8)
        tolerance = rounding(matrix, dtype="float32")
        np.testing.assert_allclose(singular_values(matrix), 1, rtol=tolerance)


def test_flax_dense_general_has_the_fans_of_its_matrix():
    """Inputs 4·6 = 24 and outputs 2·8 = 16: uniform on ±sqrt(6/(24 + 16))."""
    nn = pytest.importorskip("flax.linen")
    layer = nn.DenseGeneral((2, 8), axis=(-2, -1), kernel_init=make("glorot_uniform"))
    kernel = layer.init(KEY, jnp.ones((1, 4, 6)))["params"]["kernel"]
    assert kernel.shape == (4, 6, 2, 8)
    largest = np.abs(np.asarray(kernel)).max()
    bound = (6 / 40) ** 0.5
    # 384 entries leave 17/384 of the interval beyond their extreme with exp(-17).
    assert bound * (1 - 17 / 384) < largest <= bound


# --- dtype of the factory -------------------------------------------------------------


@pytest.mark.parametrize("name", ENTRIES)
def test_dtype_of_the_factory_is_the_default_of_its_draws(name):
    """The dtype of a call comes first."""
    shape = (3, 4, 6) if name in KERNELS else (4, 4)
    init = make(name, dtype="bfloat16")
    default = jax.eval_shape(lambda key: init(key, shape), KEY)
    asked = jax.eval_shape(lambda key: init(key, shape, "float32"), KEY)
    assert default.dtype == jnp.bfloat16
    assert asked.dtype == jnp.float32


def test_dtype_of_the_factory_rounds_the_float32_draw():
    names = ("glorot_normal", "orthogonal", "zer_o")
    coarse = {name: (make(name, dtype="float16"), (4, 6)) for name in names}
    single = {name: (make(name), (4, 6)) for name in names}
    drawn_coarse, drawn_single = draw_together(coarse, KEY), draw_together(single, KEY)
    for name in names:
        expected = drawn_single[name].astype(np.float16)
        np.testing.assert_array_equal(drawn_coarse[name], expected)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "float63"])
def test_impossible_dtype_of_the_factory_is_refused(dtype):
    with pytest.raises(InputError, match=r"^he_normal\(\): dtype=.*[Ww]rite "):
        initializers.he_normal(dtype=dtype)(KEY, (4, 6))


def test_flattened_attention_kernel_is_told_to_leave_the_layout_out():
    """Flax's attention layers hand over (in, heads·head_dim)."""
    for layout in ("heads_in", "heads_out"):
        init = initializers.he_normal(layout=layout)
        with pytest.raises(
            InputError, match=rf"layout='{layout}' needs .*leave layout"
        ):
            init(KEY, (6, 6))


def test_groups_are_checked_at_the_factory():
    for groups in (0, -1, 2.0, "depthwise"):
        with pytest.raises(InputError, match=r"orthogonal\(\): groups=.*whole number"):
            initializers.orthogonal(groups=groups)


def test_narrow_numpy_scalars_do_not_wrap_around():
    """lower - mean of uint8 would be 56 for 0 - 200."""
    narrow = initializers.truncated_normal(
        mean=np.uint8(200), lower=np.uint8(0), upper=np.uint8(150), std=60.0
    )
    plain = initializers.truncated_normal(mean=200, lower=0, upper=150, std=60.0)
    np.testing.assert_array_equal(narrow(KEY, (64,)), plain(KEY, (64,)))
    half = initializers.variance_scaling(np.float16(2), "fan_in", "normal")
    whole = initializers.variance_scaling(2, "fan_in", "normal")
    np.testing.assert_array_equal(half(KEY, (70000, 1)), whole(KEY, (70000, 1)))


def test_haikus_call_without_a_key_is_explained():
    with pytest.raises(InputError, match=r"orthogonal\(\): key=.*hk\.next_rng_key"):
        initializers.orthogonal()([4, 3], np.float32)


def test_torchs_table_points_to_the_gain_of_theory():
    with pytest.raises(InputError, match=r"initializers\.gain\('gelu'\)"):
        initializers.calculate_gain("gelu")
