"""Products on live units alone: their nonzero singular values are the whole product's.

The whole product is multiplied out by NumPy in float64.
"""

import functools
import itertools

import jax
import numpy as np
import pytest

from isometry import linalg, networks
from isometry.linalg import Factors
from isometry.measure import _resolution

EPS = float(np.finfo(np.float64).eps)
BATCH = 4


def draw_stacks(widths, share, *, scale_at_end):
    """Draw runs of square factors and single rectangular ones.

    A share of the scales is not zero.
    """
    rng = np.random.default_rng(len(widths))
    stacks = []
    for n, m in itertools.pairwise(widths):
        count = 3 if n == m else 1
        shape = (BATCH, count, m)
        scale = rng.standard_normal(shape) * (rng.random(shape) < share)
        stacks.append(Factors(rng.standard_normal((count, m, n)), scale))
    if not scale_at_end:
        stacks[-1] = Factors(stacks[-1].matrix, None)
    return stacks


def factors_of(stacks, member):
    """Return the matrices of one member of the batch, the first acts first."""
    factors = []
    for matrix, scale in stacks:
        count = scale.shape[1] if matrix is None else len(matrix)
        for i in range(count):
            factor = np.eye(scale.shape[-1]) if matrix is None else matrix[i]
            if scale is not None:
                factor = scale[member, i][:, None] * factor
            factors.append(factor)
    return factors


def product(stacks, member):
    return functools.reduce(lambda a, b: b @ a, factors_of(stacks, member))


@functools.partial(jax.jit, static_argnums=1)
def counted_and_compacted(stacks, width):
    return linalg.live_counts(stacks), linalg.compact_product(stacks, width)


@pytest.mark.parametrize(
    ("widths", "share", "scale_at_end"),
    [
        ((9, 9, 9), 0.4, True),
        ((7, 12, 12, 5), 0.5, False),
        ((12, 6, 6, 12), 0.6, True),
    ],
)
def test_values_are_those_of_the_whole_product(widths, share, scale_at_end):
    """By Weyl each value is off by at most the error of the product.

    That is eps times the product of the norms of all factors, for each term of a sum:
    there are up to six products of sums of up to twelve terms.
    """
    stacks = draw_stacks(widths, share, scale_at_end=scale_at_end)
    scales = [stack.scale for stack in stacks if stack.scale is not None]
    between = np.concatenate([np.sum(scale != 0, -1) for scale in scales], -1)
    if scale_at_end:
        between = between[:, :-1]
    with jax.enable_x64(True):
        results = counted_and_compacted(stacks, int(between.max()))
        counts, matrices = jax.device_get(results)
    np.testing.assert_array_equal(counts, between)
    for member in range(BATCH):
        whole = product(stacks, member)
        expected = np.linalg.svd(whole, compute_uv=False)
        values = np.linalg.svd(matrices[member], compute_uv=False)[: len(expected)]
        values = np.pad(values, (0, len(expected) - len(values)))
        norms = [np.linalg.norm(matrix, 2) for stack in stacks for matrix in stack[0]]
        largest = [np.abs(scale[member]).max(-1).prod() for scale in scales]
        size = np.prod(norms) * max(np.prod(largest), 1e-300)
        np.testing.assert_allclose(values, expected, rtol=0, atol=50 * EPS * size)
        assert np.linalg.matrix_rank(whole) <= counts[member].min()


def test_first_factor_may_be_a_diagonal():
    rng = np.random.default_rng(3)
    scale = rng.standard_normal((2, 1, 6)) * (rng.random((2, 1, 6)) < 0.5)
    stacks = [Factors(None, scale), Factors(rng.standard_normal((1, 6, 6)))]
    with jax.enable_x64(True):
        matrices = np.asarray(counted_and_compacted(stacks, 4)[1])
    for member in range(2):
        expected = np.linalg.svd(product(stacks, member), compute_uv=False)
        values = np.linalg.svd(matrices[member], compute_uv=False)
        tolerance = 50 * EPS * expected[0]
        np.testing.assert_allclose(values, expected[:4], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("activation", "is_flat"), [("relu", True), ("hard_tanh", True), ("tanh", False)]
)
def test_only_flat_activations_are_compacted(activation, is_flat):
    """The derivative of ReLU is zero at inactive units; that of tanh is nowhere."""
    net = networks.mlp([4, 4, 4], activation)
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((4,), np.float32)
    target = _resolution.resolve(net, params, x, span="end_to_end", dtype=None)
    assert target.sparse is is_flat
