"""Operands: which array a layer multiplies the signal with, and in which slice."""

import jax
import jax.numpy as jnp
import numpy as np

import isometry
from isometry.structure._operands import operands
from isometry.structure._tapping import tapped

RNG = np.random.default_rng(0)


def array(*shape):
    return jax.device_put(np.asarray(RNG.standard_normal(shape), np.float32))


def slices_of(f, params, x):
    """For each layer, the slices of its operands, read in the program."""
    anatomy = isometry.anatomy(f, params, x)
    slices = {}
    for use in operands(anatomy):
        program = tapped(anatomy.closed, {"weight": use.place})
        _, readings = program(jax.tree.leaves((params, x)), {})
        known = slices.setdefault(use.layer.name, [])
        known += list(use.slices(readings["weight"]))
    return slices


def check(slices, expected):
    assert len(slices) == len(expected)
    for one, other in zip(slices, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scans_take_the_slices_of_a_stack_in_any_direction():
    weights = array(3, 4, 4)

    def scanned(params, x, reverse):
        def step(h, w):
            return jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(step, x, params["w"], reverse=reverse)
        return h

    for reverse in (False, True):
        slices = slices_of(
            lambda p, x, reverse=reverse: scanned(p, x, reverse),
            {"w": weights},
            jnp.ones(4),
        )
        check(slices["w"], weights)


def test_recurrences_have_one_weight():
    weight = array(4, 4)

    def unrolled(params, xs):
        def step(h, x):
            h = jnp.tanh(h @ params["w"] + x)
            return h, None

        h, _ = jax.lax.scan(step, jnp.zeros(4), xs)
        return h

    check(slices_of(unrolled, {"w": weight}, jnp.ones((5, 4)))["w"], [weight])


def test_leaves_that_f_stacks_itself_are_told_apart():
    params = {f"layer_{i}": array(4, 4) for i in range(3)}

    def stacked(params, x):
        def step(h, w):
            return jnp.tanh(h @ w), None

        leaves = [params[f"layer_{i}"] for i in (2, 0, 1)]
        h, _ = jax.lax.scan(step, x, jnp.stack(leaves), reverse=True)
        return h

    slices = slices_of(stacked, params, jnp.ones(4))
    for name, weight in params.items():
        check(slices[name], [weight])


def test_slices_by_number_are_those_that_are_used():
    weights = array(3, 4, 4)

    def picked(params, x):
        return jnp.tanh(x @ params["w"][2]) @ params["w"][0]

    check(slices_of(picked, {"w": weights}, jnp.ones(4))["w"], weights[::2])


def test_weights_are_read_as_they_are_computed_from_leaves():
    weight = array(4, 4)

    def masked(params, x):
        return x @ jnp.tril(params["w"])

    check(slices_of(masked, {"w": weight}, jnp.ones(4))["w"], [jnp.tril(weight)])
