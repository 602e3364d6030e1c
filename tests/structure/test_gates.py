"""Leaves and numbers that multiply branches and skips, written down by hand."""

import jax
import jax.numpy as jnp

from isometry.structure import anatomy
from tests.structure import small_models as models
from tests.structure.small_models import shape


def branch_of(f, params, x):
    (branch,) = anatomy(f, params, x).branches
    return branch


SQUARE = shape(4, 4)


def test_scalars_and_scales_of_norms_are_gates():
    """y = s x + a (g norm(V relu(W h)) + c), h = norm(x): a and g, not the first g."""

    def f(p, x):
        h = models.layer_norm(p["before"], x)
        h = jax.nn.relu(h @ p["w"]) @ p["v"] + p["bias"]
        return p["s"] * x + p["a"] * (models.layer_norm(p["g"], h) + p["c"])

    params = {"w": SQUARE, "v": SQUARE, "a": shape(), "s": shape()}
    params |= {"g": shape(4), "before": shape(4), "bias": shape(4), "c": shape(4)}
    branch = branch_of(f, params, shape(4))
    assert set(branch.gates) == {"['a']", "['g']"}
    assert branch.skip_gates == ("['s']",)
    assert branch.skip_factor == 1


def test_scale_of_fixed_statistics_is_a_gate_and_the_statistics_are_none():
    """Batch norm in inference: (y - mean) scale / sqrt(var + eps) + bias."""

    def f(p, x):
        y = jnp.tanh(x @ p["w"]) @ p["v"]
        factor = jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"]
        return x + (y - p["mean"]) * factor + p["bias"]

    names = ("var", "scale", "mean", "bias")
    params = {"w": SQUARE, "v": SQUARE} | {name: shape(4) for name in names}
    assert branch_of(f, params, shape(4)).gates == ("['scale']",)


def test_one_plus_a_leaf_is_no_gate():
    def f(p, x):
        return x + (1 + p["a"]) * (x @ p["w"])

    assert branch_of(f, {"w": SQUARE, "a": shape()}, shape(4)).gates == ()


def test_number_on_the_skip_is_reported():
    def f(p, x):
        return 3.0 * x / jnp.sqrt(4.0) + x @ p["w"]

    # The root is computed by the program, so the factor is not known.
    assert branch_of(f, {"w": SQUARE}, shape(4)).skip_factor is None

    def g(p, x):
        return 3.0 * x / 2 + x @ p["w"]

    assert branch_of(g, {"w": SQUARE}, shape(4)).skip_factor == 1.5


def test_stacked_gates_have_a_branch_for_each_slice():
    """Slice i of the stack [3, 4, 4] is on branch i; its gate is slice i of [3]."""

    def f(p, x):
        def step(x, layer):
            w, v, a = layer
            return x + a * (jnp.tanh(x @ w) @ v), None

        return jax.lax.scan(step, x, (p["w"], p["v"], p["a"]))[0] @ p["head"]

    stack = shape(3, 4, 4)
    params = {"w": stack, "v": stack, "a": shape(3), "head": SQUARE}
    an = anatomy(f, params, shape(4))
    assert [branch.slice for branch in an.branches] == [0, 1, 2]
    assert {branch.gates for branch in an.branches} == {("['a']",)}
    assert {branch.positions for branch in an.branches} == {(0, 1)}
    assert an.layers[0].stacked_axes == (0,)


def test_layers_beside_each_other_share_a_position():
    """Query, key and value come before the output of an attention."""
    attention, mlp = anatomy(*models.transformer()).branches
    assert attention.positions == (0, 0, 0, 1)
    assert mlp.positions == (0, 1)


def test_layers_say_what_they_read_and_what_follows():
    an = anatomy(*models.transformer())
    layers = {layer.name: layer for layer in an.layers}
    first, second = layers["block/mlp/fc1"], layers["block/mlp/fc2"]
    assert (first.reads, first.before) == ("block/attn/out:sum", ("layer norm",))
    assert first.then == ("gelu tanh",)
    assert (second.reads, second.before) == ("block/mlp/fc1:out", ())


def test_stretches_say_where_they_lie():
    def f(p, x):
        return jnp.tanh(x @ p["w"][:, :4]) @ p["w"][:, 4:].T

    layers = anatomy(f, {"w": shape(4, 8)}, shape(4)).layers
    assert [layer.stretches for layer in layers] == [((1, 0, 4),), ((1, 4, 8),)]


def test_parts_of_a_split_weight_are_stretches():
    def f(p, x):
        first, second = jnp.split(p["w"], [3], axis=1)
        return jnp.tanh(x @ first) @ second[:3]

    layers = anatomy(f, {"w": shape(4, 8)}, shape(4)).layers
    assert [layer.name for layer in layers] == ["w[:, 0:3]", "w[0:3, 3:8]"]
    assert [(layer.in_axes, layer.out_axes) for layer in layers] == [((0,), (1,))] * 2
