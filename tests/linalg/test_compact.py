"""Products on the coordinates that live have the nonzero singular values of the whole product."""

import functools
import itertools

import jax
import numpy as np
import pytest

from isometry import linalg
from isometry.linalg import Factors
from isometry.measure import _resolution

EPS = float(np.finfo(np.float64).eps)


def stacks_of(rng, widths, batch, kept, ends):
    """Runs of square factors and single rectangular ones, a share `kept` of the scales alive."""
    stacks = []
    for n, m in itertools.pairwise(widths):
        count = 3 if n == m else 1
        scale = rng.standard_normal((batch, count, m)) * (rng.random((batch, count, m)) < kept)
        stacks.append(Factors(rng.standard_normal((count, m, n)), scale))
    if not ends:
        stacks[-1] = Factors(stacks[-1].matrix, None)
    return stacks


def product(stacks, member):
    whole = None
    for matrix, scale in stacks:
        count = len(scale[member]) if matrix is None else len(matrix)
        for i in range(count):
            one = np.eye(scale.shape[-1]) if matrix is None else np.asarray(matrix[i])
            one = one if scale is None else np.asarray(scale[member, i])[:, None] * one
            whole = one if whole is None else one @ whole
    return whole


@functools.partial(jax.jit, static_argnums=1)
def counted_and_compacted(stacks, width):
    return linalg.live_counts(stacks), linalg.compact_product(stacks, width)


@pytest.mark.parametrize(
    ("widths", "kept", "ends"), [((9, 9, 9), 0.4, True), ((7, 12, 12, 5), 0.5, False), ((12, 6, 6, 12), 0.6, True)]
)
def test_the_values_of_the_whole_product(widths, kept, ends):
    stacks = stacks_of(np.random.default_rng(len(widths)), widths, 4, kept, ends)
    between = np.concatenate([np.sum(s.scale != 0, -1) for s in stacks if s.scale is not None], -1)
    between = between[:, :-1] if ends else between
    with jax.enable_x64(True):
        counts, matrix = jax.device_get(counted_and_compacted(stacks, int(between.max())))
    np.testing.assert_array_equal(counts, between)
    for member in range(4):
        want = np.linalg.svd(product(stacks, member), compute_uv=False)
        got = np.linalg.svd(matrix[member], compute_uv=False)[: len(want)]
        got = np.pad(got, (0, len(want) - len(got)))
        size = np.prod([np.linalg.norm(s.matrix[i], 2) for s in stacks for i in range(len(s.matrix))])
        largest = np.prod([np.abs(s.scale[member]).max(-1).prod() for s in stacks if s.scale is not None])
        np.testing.assert_allclose(got, want, rtol=0, atol=50 * EPS * size * max(largest, 1e-300))
        rank = np.linalg.matrix_rank(product(stacks, member))
        assert rank <= counts[member].min()


def test_a_diagonal_in_front():
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        scale = rng.standard_normal((2, 1, 6)) * (rng.random((2, 1, 6)) < 0.5)
        stacks = [Factors(None, scale), Factors(rng.standard_normal((1, 6, 6)))]
        matrix = np.asarray(counted_and_compacted(stacks, 4)[1])
    for member in range(2):
        want = np.linalg.svd(product(stacks, member), compute_uv=False)
        np.testing.assert_allclose(np.linalg.svd(matrix[member], compute_uv=False), want[:4], atol=50 * EPS * want[0])


def test_only_activations_that_are_flat_are_compacted():
    from isometry import networks

    for name, flat in (("relu", True), ("hard_tanh", True), ("tanh", False)):
        net = networks.mlp([4, 4, 4], name)
        params = jax.eval_shape(net.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((4,), np.float32)
        target = _resolution.resolve(net, params, x, span="end_to_end", dtype=None)
        assert target.sparse is flat
