"""Where layers lie: positions on branches, encoder and decoder, heads, activations."""

import jax
import jax.numpy as jnp
import pytest

from isometry import initializers, schemes
from isometry._internal.errors import NotDefined
from isometry.schemes import Branch, _places
from isometry.structure import anatomy
from tests.schemes import models


@pytest.fixture(scope="module")
def both():
    """Encoder of two layers, decoder of one."""
    _, an = models.read(models.Transformer(has_decoder=True), models.tokens())
    return an, _places.places(an)


def test_encoder_and_decoder_are_told_apart(both):
    _, places = both
    stacks = [(branch.stack, branch.count) for _, branch in places.branches]
    assert stacks == [("encoder", 4)] * 4 + [("decoder", 3)] * 3
    crossing = places.on_branch["cross/out", 0]
    assert crossing == Branch(1, 3, 1, 2, "decoder", other=4)
    assert crossing.layers == 1


def test_keys_of_the_encoder_lie_on_the_branch_of_their_attention(both):
    _, places = both
    for name in ("query", "key", "value"):
        here = places.on_branch[f"cross/{name}", 0]
        assert here == Branch(1, 3, 0, 2, "decoder", other=4)


def test_one_stack_has_no_name():
    _, an = models.read(models.Transformer(), models.tokens())
    places = _places.places(an)
    assert {branch.stack for _, branch in places.branches} == {None}
    assert places.on_branch["embed", 0] == Branch(0, 4, 0, 2)
    assert "head" not in {name for name, _ in places.on_branch}


def test_heads_are_counted_by_the_size_of_one(both):
    _, places = both
    for name in ("query", "key", "value", "out"):
        assert places.heads[f"attn1/{name}"] == 2


def test_order_is_that_of_computation():
    """Slices of the layers of a block come block by block."""
    f, shapes, x = models.scanned(depth=2)
    order = _places.places(anatomy(f, shapes, x)).order
    assert sorted(order, key=lambda key: order[key]) == [
        ("stem", 0),
        ("first", 0),
        ("second", 0),
        ("first", 1),
        ("second", 1),
        ("head", 0),
    ]


def test_schemes_see_what_is_before_and_behind():
    _, an = models.read(models.Cnn(), models.images())
    places = _places.places(an)
    seen = {}
    for layer in an.layers:
        (one,) = _places.layers(layer, places)
        seen[one.name] = (one.precedes, one.follows, one.kind, one.groups, one.window)
    assert seen["stem"] == (None, "relu", "conv", 1, (3, 3))
    assert seen["grouped"] == ("relu", "relu", "conv", 2, (3, 3))
    assert seen["depthwise"] == ("relu", "tanh", "conv", 8, (3, 3))
    assert seen["head"] == ("tanh", None, "dense", 1, ())


def test_steps_of_a_recurrence_are_one_branch():
    """h + F(h) at each of nine steps is the same branch, not nine."""

    def f(params, x):
        def step(h, x_t):
            return h + jnp.tanh(h @ params["w"] + x_t @ params["v"]), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h @ params["head"]

    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    shapes = {"w": shape, "v": shape, "head": shape}
    x = jax.ShapeDtypeStruct((9, 4), jnp.float32)
    places = _places.places(anatomy(f, shapes, x))
    assert [branch.count for _, branch in places.branches] in ([], [1])
    rows = schemes.assign("kaiming", anatomy(f, shapes, x), shapes).rows
    assert {row.role for row in rows} >= {"recurrent", "head"}


def test_branches_of_weights_shared_over_depth_count_each_time():
    """Four blocks of the same weights are four branches, in a loop or a scan."""

    def block(params, x):
        return x + jnp.tanh(x @ params["a"]) @ params["b"]

    def looped(params, x):
        for _ in range(4):
            x = block(params, x)
        return x @ params["head"]

    def scanned(params, x):
        x, _ = jax.lax.scan(lambda x, _: (block(params, x), None), x, length=4)
        return x @ params["head"]

    def mapped(params, xs):
        return jax.lax.map(lambda x: block(params, x), xs) @ params["head"]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    shapes = {"a": shape(4, 8), "b": shape(8, 4), "head": shape(4, 2)}
    for f, x, count in (
        (looped, shape(4), 4),
        (scanned, shape(4), 4),
        (mapped, shape(9, 4), 1),
    ):
        an = anatomy(f, shapes, x)
        ((_, branch),) = _places.places(an).branches
        assert (branch.index, branch.count) == (0, count)
        # Branches of two layers: std² = 2/fan_out · L^(-1/(m - 1)).
        row = schemes.assign("fixup", an, shapes).rows[0]
        assert row.initializer == repr(initializers.normal(std=0.5 * count**-0.5))


def test_admin_refuses_one_skip_for_several_depths():
    def f(params, x):
        for _ in range(2):
            x = jax.nn.standardize(params["skip"] * x + jnp.tanh(x @ params["w"]))
        return x

    shapes = {
        "w": jax.ShapeDtypeStruct((4, 4), jnp.float32),
        "skip": jax.ShapeDtypeStruct((), jnp.float32),
    }
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    with pytest.raises(NotDefined, match=r"the same weights are used at several"):
        schemes.assign("admin", an, shapes)


def chained(weights, h):
    return jax.lax.scan(lambda h, w: (jnp.tanh(w @ h), None), h, weights)[0]


def unrolled(weights, h):
    for w in weights:
        h = jnp.tanh(w @ h)
    return h


def one_branch(chain):
    def f(params, x):
        x = x + chain(params["b"], chain(params["a"], x))
        return params["head"] @ (x + params["v"] @ jnp.tanh(params["u"] @ x))

    return f


def nested(params, x):
    def step(x, stack):
        a, b = stack
        return x + chained(b, chained(a, x)), None

    x, _ = jax.lax.scan(step, x, (params["a"], params["b"]))
    return params["head"] @ x


def side_by_side(params, x):
    """All first layers in one loop, all second ones in another."""
    _, hidden = jax.lax.scan(lambda c, w: (c, jnp.tanh(w @ x)), 0.0, params["a"])

    def step(y, layer):
        w, h = layer
        return y + w @ h, None

    y, _ = jax.lax.scan(step, x, (params["b"], hidden))
    return params["head"] @ y


def one_from_the_other(params, x):
    """As `side_by_side`, but each first layer reads the one before it."""

    def before(h, w):
        h = jnp.tanh(w @ h)
        return h, h

    def step(y, layer):
        w, h = layer
        return y + w @ h, None

    _, hidden = jax.lax.scan(before, x, params["a"])
    y, _ = jax.lax.scan(step, x, (params["b"], hidden))
    return params["head"] @ y


def stacks(*sizes, **others):
    a, b = sizes
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return {
        "a": jax.ShapeDtypeStruct((*a, 4, 4), jnp.float32),
        "b": jax.ShapeDtypeStruct((*b, 4, 4), jnp.float32),
        "head": jax.ShapeDtypeStruct((2, 4), jnp.float32),
    } | dict.fromkeys(others, square)


LOOPS = {
    "two loops on one branch": (one_branch(chained), stacks((5,), (3,), u=1, v=1)),
    "slices by number": (one_branch(unrolled), stacks((5,), (3,), u=1, v=1)),
    "loops within a loop": (nested, stacks((2, 5), (2, 3))),
    "loops side by side": (side_by_side, stacks((2,), (2,))),
}


# Versions of JAX iterate over an array in different ways.
@pytest.mark.core
@pytest.mark.parametrize("how", LOOPS)
def test_slices_of_several_loops_are_counted_on_their_branch(how):
    """Two branches each; of 5 + 3 layers in a row, or of 1 + 1."""
    f, shapes = LOOPS[how]
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    on_branch = _places.places(an).on_branch
    per_branch = {"a": 5, "b": 3} if how != "loops side by side" else {"a": 1, "b": 1}
    length = sum(per_branch.values())
    for name in ("a", "b"):
        for number in range(shapes[name].size // 16):
            here = on_branch[name, number]
            position = number % per_branch[name] + (
                per_branch["a"] if name == "b" else 0
            )
            assert (here.position, here.length, here.count) == (position, length, 2)
    # Fixup's factor L^(-1/(2m - 2)), and zero at the end.
    rows = {
        row.name: row.initializer for row in schemes.assign("fixup", an, shapes).rows
    }
    std = (2 / 4) ** 0.5 * 2 ** (-1 / (2 * length - 2))
    assert rows["a"] == repr(initializers.normal(std=std))
    assert rows["b"].endswith("zeros()")


def test_slices_computed_one_from_the_other_beside_their_branches_are_refused():
    """By schemes that scale by the place on a branch."""
    shapes = stacks((2,), (2,))
    an = anatomy(one_from_the_other, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    message = r"branches 'b\[0\]' and 'b\[1\]' read slices of 'a' that are computed one"
    with pytest.raises(NotDefined, match=message):
        schemes.assign("fixup", an, shapes)
    assert len(schemes.assign("kaiming", an, shapes).rows) == 3


def excited(params, h):
    """Two blocks with squeeze and excitation (Hu et al., 2018), of a vector."""
    h = h @ params["stem"]
    for block in params["blocks"]:
        y = jax.nn.relu(h @ block["w1"]) @ block["w2"]
        gate = jax.nn.sigmoid(jax.nn.relu(y @ block["s1"]) @ block["s2"])
        h = h + y * gate
    return h @ params["head"]


def test_fixup_closes_branches_and_not_their_gates():
    """Zhang et al. (2019): L^(-1/(2m - 2)), L = 2 blocks of m = 2 layers each."""
    square = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    block = dict.fromkeys(("w1", "w2", "s1", "s2"), square)
    shapes = {"stem": square, "blocks": [block, block], "head": square}
    an = anatomy(excited, shapes, jnp.ones(64))
    rows = {row.path: row for row in schemes.assign("fixup", an, shapes).rows}
    he = initializers.normal(std=(2 / 64) ** 0.5)
    scaled = initializers.normal(std=(2 / 64) ** 0.5 * 2**-0.5)
    for number in (0, 1):
        of_block = {name: rows[f"['blocks'][{number}]['{name}']"] for name in block}
        assert of_block["w2"].initializer == "zeros()"
        assert of_block["w1"].initializer == repr(scaled)
        for name in ("s1", "s2"):
            assert of_block[name].initializer == repr(he)
            assert "gates its branch" in of_block[name].note
