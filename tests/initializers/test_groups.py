"""Grouped and depthwise weights: with `groups`, each group keeps the law by itself.

A grouped weight (*window, in/groups, out) holds the outputs of one group after those of
another, as feature_group_count of JAX's and Flax's convolutions reads it.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, initializers
from tests.dense_convolution import convolution_matrix, rounding, singular_values
from tests.initializers.drawing import draw_many, draw_together
from tests.needed import NEEDED

KEY = jax.random.key(33)
GAIN = 1.5
ENTRIES = {entry.name: entry for entry in initializers.catalogue()}
ELEMENTWISE = ("zeros", "ones", "constant", "uniform", "normal", "truncated_normal")
WEIGHTS = [n for n in ENTRIES if n not in (*ELEMENTWISE, "torch_default_bias")]


def make(name, **more):
    return ENTRIES[name].factory(**NEEDED.get(name, {}), **more)


def split_groups(weight, groups):
    """The outputs of each group, stacked in front."""
    return np.stack(np.split(np.asarray(weight), groups, axis=-1))


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_factory_with_a_layout_takes_groups(name):
    """One group unless said otherwise."""
    parameters = inspect.signature(ENTRIES[name].factory).parameters
    assert parameters["groups"].default == 1


# --- convolutions that are isometries -------------------------------------------------

CONVOLUTIONS = {  # window, inputs of a group, outputs, groups, image
    "depthwise": ((3, 3), 1, 5, 5, (4, 5)),
    "depthwise, two outputs a channel": ((3, 3), 1, 6, 3, (3, 4)),
    "narrowing groups": ((4,), 3, 4, 2, (5,)),
    "widening groups": ((3, 2), 2, 6, 2, (3, 3)),
}


# Those that are slow to compile on fewer of them.
ISOMETRIES = {
    "delta_orthogonal": list(CONVOLUTIONS),
    "block_orthogonal": ["depthwise", "narrowing groups"],
    "dirac": list(CONVOLUTIONS),
    "sparse_orthogonal": ["widening groups"],
}
CASES = [(name, case) for name, cases in ISOMETRIES.items() for case in cases]


@pytest.fixture(scope="module")
def kernels():
    """The isometric factories in grouped shapes, in float64, as one program."""
    cases = {}
    for name, case in CASES:
        window, n_in, n_out, groups, _ = CONVOLUTIONS[case]
        arguments = NEEDED.get(name, {}) | {"gain": GAIN, "groups": groups}
        init = getattr(initializers, name)(**arguments)
        cases[name, case] = (init, (*window, n_in, n_out))
    return draw_together(cases, KEY, "float64")


@pytest.mark.parametrize(("name", "case"), CASES)
def test_grouped_circular_convolution_is_an_isometry(name, case, kernels):
    """All min(in, out) singular values of each group at each pixel are gain.

    Without `groups` the depthwise delta-orthogonal kernel had s down to 0.004.
    """
    window, n_in, n_out, groups, image = CONVOLUTIONS[case]
    matrix = convolution_matrix(kernels[name, case], image, "circular", groups)
    num_values = groups * min(n_in, n_out // groups) * math.prod(image)
    s = singular_values(matrix)
    factors = 1 + sum(k - 1 for k in window)
    tolerance = rounding(matrix, factors)
    np.testing.assert_allclose(s[:num_values], GAIN, rtol=tolerance)
    np.testing.assert_allclose(s[num_values:], 0, atol=tolerance)


def test_depthwise_delta_orthogonal_keeps_or_flips_each_channel():
    """A 1×1 orthogonal matrix is a sign: each channel has ±1 at the middle tap."""
    init = initializers.delta_orthogonal(groups=16)
    kernel = np.array(init(KEY, (3, 3, 1, 16)))
    middle = kernel[1, 1, 0].copy()
    np.testing.assert_array_equal(np.abs(middle), 1)
    assert set(middle) == {-1.0, 1.0}
    kernel[1, 1] = 0
    assert not kernel.any()


def test_ungrouped_kernel_of_a_depthwise_convolution_is_no_isometry():
    """What the docstrings warn of: the shape alone does not tell the groups."""
    kernel = np.asarray(initializers.delta_orthogonal()(KEY, (3, 3, 1, 8)))
    s = singular_values(convolution_matrix(kernel, (4, 4), "circular", groups=8))
    assert s.min() < 0.5


def test_flax_grouped_convolution_is_an_isometry():
    """The kernel and the groups as Flax's Conv reads them, by its Jacobian."""
    nn = pytest.importorskip("flax.linen")
    layer = nn.Conv(
        features=6,
        kernel_size=(3,),
        padding="CIRCULAR",
        feature_group_count=2,
        use_bias=False,
        kernel_init=initializers.block_orthogonal(groups=2),
    )
    x = jnp.zeros((1, 5, 4))
    params = layer.init(KEY, x)
    assert params["params"]["kernel"].shape == (3, 2, 6)
    with jax.default_matmul_precision("highest"):
        jacobian = jax.jit(jax.jacobian(layer.apply, argnums=1))(params, x)
    matrix = np.asarray(jacobian).reshape(30, 20)
    tolerance = rounding(matrix, factors=3, dtype="float32")
    np.testing.assert_allclose(singular_values(matrix), 1, rtol=tolerance)


# --- each group has the law of a weight -----------------------------------------------

DETERMINISTIC = ["partial_identity", "hadamard", "dirac", "zer_o", "idinit"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_group_is_the_ungrouped_weight(name):
    """Widening and narrowing groups, one outputs' block for each."""
    window = (3,) if name in ("dirac", "zer_o", "idinit") else ()
    for n_in, outputs in ((3, 5), (5, 3)):
        grouped = make(name, groups=3)(None, (*window, n_in, 3 * outputs))
        alone = make(name)(None, (*window, n_in, outputs))
        for group in split_groups(grouped, 3):
            np.testing.assert_array_equal(group, alone)


def test_identity_of_every_group_is_square():
    grouped = initializers.identity(2.0, groups=3)(None, (4, 12))
    np.testing.assert_array_equal(grouped, 2 * np.tile(np.eye(4), 3))
    wrong = r"identity\(\): .*not square: 4 inputs and 3 outputs of a group"
    with pytest.raises(InputError, match=wrong):
        initializers.identity(groups=3)(None, (4, 9))


def test_sparse_counts_zeros_in_every_group():
    """ceil(0.3 · 5) = 2 of the five outputs of an input, in each of three groups."""
    weight = initializers.sparse(0.3, groups=3)(KEY, (4, 15))
    num_zeros = (split_groups(weight, 3) == 0).sum(-1)
    np.testing.assert_array_equal(num_zeros, 2)


def critical_orthogonal(**axes):
    return initializers.critical("relu", weights="orthogonal", **axes)


@pytest.mark.parametrize(
    ("factory", "gain"),
    [(initializers.orthogonal, 1.0), (critical_orthogonal, 2**0.5)],
)
def test_flattened_kernel_of_every_group_is_orthogonal(factory, gain):
    """ReLU is critical at sigma_w = sqrt(2), He et al. (2015)."""
    for shape in ((3, 2, 8), (2, 12)):
        weight = np.asarray(factory(groups=4)(KEY, shape), np.float64)
        for group in split_groups(weight, 4):
            matrix = group.reshape(-1, shape[-1] // 4)
            tolerance = rounding(matrix, dtype="float32")
            np.testing.assert_allclose(singular_values(matrix), gain, rtol=tolerance)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [(initializers.orthogonal, (2, 4)), (initializers.delta_orthogonal, (1, 2, 4))],
)
def test_groups_are_independent(factory, shape):
    """Entries of two groups are uncorrelated, and each is Haar: E w² is 1/2."""
    num_draws = 2000
    keys = jax.random.split(KEY, num_draws)
    weights = draw_many(factory(groups=2), shape, keys).astype(np.float64)
    first, second = weights[..., :2], weights[..., 2:]
    standard_error = 1 / math.sqrt(num_draws)
    assert np.abs((first * second).mean(0)).max() < 5 * standard_error
    for group in (first, second):
        variances = (group**2).mean(0)
        assert np.abs(variances - 0.5).max() < 5 * 0.5 * standard_error


# By fans: fan_in does not depend on the groups, fan_out counts the outputs of one.
BY_FAN_IN = ["kaiming_uniform", "kaiming_normal", "torch_default", "he_uniform"]
BY_FAN_IN += ["he_normal", "lecun_uniform", "lecun_normal", "critical"]
BY_BOTH_FANS = ["xavier_uniform", "xavier_normal", "glorot_uniform", "glorot_normal"]
GROUPED_SHAPE = (3, 8, 32)


@pytest.mark.parametrize("name", BY_FAN_IN)
def test_law_by_fan_in_does_not_depend_on_the_groups(name):
    weight = make(name, groups=4)(KEY, GROUPED_SHAPE)
    np.testing.assert_array_equal(weight, make(name)(KEY, GROUPED_SHAPE))


@pytest.mark.parametrize("name", BY_BOTH_FANS)
def test_law_by_both_fans_counts_the_outputs_of_one_group(name):
    """The same variates, of variance 2/(24 + 24) instead of 2/(24 + 96)."""
    weight = np.asarray(make(name, groups=4)(KEY, GROUPED_SHAPE))
    ungrouped = np.asarray(make(name)(KEY, GROUPED_SHAPE))
    ratio = math.sqrt((24 + 96) / (24 + 24))
    # Uniform entries are low + (high - low) u: each is off by rounding of the bounds.
    rounding = 4 * np.finfo(np.float32).eps * np.abs(weight).max()
    np.testing.assert_allclose(weight, ratio * ungrouped, rtol=0, atol=rounding)


# --- layouts and refusals -------------------------------------------------------------


def test_groups_in_torch_layout_are_the_same_weights():
    """torch stores (out, in/groups, *window), one group of outputs after another."""
    names = ["delta_orthogonal", "dirac", "zer_o", "idinit"]
    axes = {"in_axis": 1, "out_axis": 0}
    cases = {}
    for name in names:
        cases[name, "ours"] = (make(name, groups=2), (3, 2, 8))
        cases[name, "theirs"] = (make(name, groups=2, **axes), (8, 2, 3))
    drawn = draw_together(cases, KEY)
    for name in names:
        moved = np.moveaxis(drawn[name, "ours"], (-1, -2), (0, 1))
        np.testing.assert_array_equal(drawn[name, "theirs"], moved)


def test_stack_of_grouped_kernels_holds_isometries():
    init = initializers.delta_orthogonal(groups=4, batch_axis=0)
    stack = np.asarray(init(KEY, (2, 3, 1, 4)))
    np.testing.assert_array_equal(np.abs(stack[:, 1]), 1)
    assert not stack[:, [0, 2]].any()


@pytest.mark.parametrize(
    "name", ["orthogonal", "zer_o", "glorot_normal", "he_uniform", "critical"]
)
def test_groups_that_do_not_divide_the_outputs_are_refused(name):
    with pytest.raises(InputError, match=rf"^{name}\(\): groups=4.* 6 outputs"):
        make(name, groups=4)(KEY, (3, 6))


@pytest.mark.parametrize("groups", [0, -1, 1.5, "2"])
def test_groups_are_a_positive_whole_number(groups):
    with pytest.raises(InputError, match=r"orthogonal\(\): groups="):
        initializers.orthogonal(groups=groups)(KEY, (3, 6))
