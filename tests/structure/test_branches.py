"""Residual branches and attentions of small models, written down by hand."""

import jax
import jax.numpy as jnp
import pytest

from isometry import schemes
from isometry._internal.errors import NotDefined
from isometry.structure import Attention, Branch, anatomy
from tests.structure import small_models as models
from tests.structure.small_models import shape


def test_branches_on_identities_and_projections():
    an = anatomy(*models.residual())
    assert an.branches == (
        Branch(
            "one",
            "stem",
            "one/fc2:sum",
            layers=("one/fc1", "one/fc2"),
            shortcut=(),
            positions=(0, 1),
        ),
        Branch(
            "two",
            "one/fc2:sum",
            "two/fc2:sum",
            layers=("two/fc1", "two/fc2"),
            shortcut=("two/proj",),
            positions=(0, 1),
            skip_factor=None,
        ),
        Branch(
            "three/fc",
            "two/fc2:sum:out",
            "three/fc:sum",
            layers=("three/fc",),
            shortcut=(),
            positions=(0,),
        ),
    )
    on_branch = {layer.name: layer.branch for layer in an.layers}
    assert on_branch["one/fc1"] == "one"
    assert on_branch["two/proj"] is None
    assert on_branch["head"] is None


def test_branches_of_a_transformer():
    an = anatomy(*models.transformer())
    attention, mlp = an.branches
    assert (attention.leaves, attention.joins) == ("embed:out", "block/attn/out:sum")
    assert (mlp.leaves, mlp.joins) == ("block/attn/out:sum", "block/mlp/fc2:sum")
    assert mlp.layers == ("block/mlp/fc1", "block/mlp/fc2")


def test_branches_beside_each_other_leave_at_one_point():
    """x + f(h) + g(h) of h = norm(x): both leave at x, though both depend on h."""

    def f(p, x):
        h = models.layer_norm(p["norm"], x)
        return x + jnp.tanh(h @ p["a"]) @ p["b"] + jnp.tanh(h @ p["c"]) @ p["d"]

    square = shape(4, 4)
    params = {"norm": shape(4), "a": square, "b": square, "c": square, "d": square}
    an = anatomy(f, params, shape(4))
    assert [branch.layers for branch in an.branches] == [("a", "b"), ("c", "d")]
    assert [branch.leaves for branch in an.branches] == ["input", "input"]


def test_branch_leaves_at_the_skip_itself():
    """x + f(x) + g(x + f(x)): the skip of each sum is a value that its branch reads."""

    def f(p, x):
        x = jnp.tanh(x)
        x = x + jnp.tanh(x @ p["a"]) @ p["b"]
        return x + jnp.tanh(models.layer_norm(p["norm"], x) @ p["c"]) @ p["d"]

    square = shape(4, 4)
    params = {"norm": shape(4), "a": square, "b": square, "c": square, "d": square}
    an = anatomy(f, params, shape(4))
    assert [branch.layers for branch in an.branches] == [("a", "b"), ("c", "d")]
    assert [branch.leaves for branch in an.branches] == ["input:out", "b:sum"]


def test_stacked_branches_are_named_in_every_turn():
    def f(p, x):
        def block(x, w):
            return x + jnp.tanh(x @ w), None

        x, _ = jax.lax.scan(block, x, p["blocks"]["w"])
        return x @ p["head"]

    params = {"blocks": {"w": shape(9, 4, 4)}, "head": shape(4, 2)}
    an = anatomy(f, params, shape(4))
    assert [branch.name for branch in an.branches] == [f"blocks[{i}]" for i in range(9)]
    leaves = ["input", *(f"blocks[{i}]:sum" for i in range(8))]
    assert [branch.leaves for branch in an.branches] == leaves


def test_gates_and_recurrences_are_no_branches():
    def gated(p, x):
        def step(h, x_t):
            z = jax.nn.sigmoid(x_t @ p["Vz"] + h @ p["Uz"])
            new = jnp.tanh(x_t @ p["V"] + h @ p["U"])
            return new + z * (h - new), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h

    weights = {name: shape(4, 4) for name in ("Vz", "Uz", "V", "U")}
    assert anatomy(gated, weights, shape(6, 4)).branches == ()
    assert anatomy(*models.recurrent()).branches == ()


def test_steps_of_a_gru_and_an_lstm_have_no_branches():
    """W(r * h) + V x is no skip around the gate r, nor f * c one around the next h."""

    def gru(p, x):
        def step(h, x_t):
            reset = jax.nn.sigmoid(x_t @ p["Vr"] + h @ p["Ur"])
            return jnp.tanh(x_t @ p["V"] + (reset * h) @ p["U"]), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h

    def lstm(p, x):
        def step(states, x_t):
            h, c = states
            forget = jax.nn.sigmoid(x_t @ p["Vr"] + h @ p["Ur"])
            c = forget * c + jnp.tanh(x_t @ p["V"] + h @ p["U"])
            return (jnp.tanh(c), c), None

        (h, _), _ = jax.lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), x)
        return h

    weights = {name: shape(4, 4) for name in ("Vr", "Ur", "V", "U")}
    assert anatomy(gru, weights, shape(6, 4)).branches == ()
    assert anatomy(lstm, weights, shape(6, 4)).branches == ()


def test_tied_block_that_is_iterated_is_a_branch():
    def f(p, x):
        def step(h, _):
            return h + jnp.tanh(h @ p["V"]) @ p["W"], None

        h, _ = jax.lax.scan(step, x, None, length=5)
        return h

    branches = anatomy(f, {"V": shape(4, 4), "W": shape(4, 4)}, shape(4)).branches
    assert [branch.layers for branch in branches] == [("V", "W")] * 5


def test_separate_queries_keys_and_values():
    an = anatomy(*models.transformer())
    assert an.attentions == (
        Attention(
            ("block/attn/query",),
            ("block/attn/key",),
            value=("block/attn/value",),
            output=("block/attn/out",),
            head_size=4,
        ),
    )
    roles = [layer.role for layer in an.layers[1:5]]
    assert roles == ["query", "key", "value", "output"]


def test_fused_queries_keys_and_values():
    an = anatomy(*models.fused())
    assert [layer.role for layer in an.layers] == ["qkv", "output"]
    assert an.attentions[0].shares == ((0, 8), (8, 16), (16, 24))


def test_keys_are_what_the_softmax_runs_over():
    """Logits may be written as k q^T: then queries are the right factor."""

    def f(p, x):
        logits = (x @ p["k"]) @ (x @ p["q"]).T
        weights = jax.nn.softmax(logits, axis=0)
        return (weights.T @ (x @ p["v"])) @ p["o"]

    params = {name: shape(4, 4) for name in "qkvo"}
    (attention,) = anatomy(f, params, shape(5, 4)).attentions
    assert attention == Attention(("q",), ("k",), ("v",), ("o",), head_size=4)


def test_products_without_softmax_are_no_attention():
    def f(p, x):
        return ((x @ p["q"]) @ (x @ p["k"]).T) @ (x @ p["v"])

    params = {name: shape(4, 4) for name in "qkv"}
    assert anatomy(f, params, shape(5, 4)).attentions == ()


@pytest.mark.parametrize(
    "join",
    [
        lambda h, branch: h - branch,
        lambda h, branch: h.at[:].add(branch),
        lambda h, branch: jnp.stack([h, branch]).sum(0),
        lambda h, branch: jnp.mean(jnp.array([h, branch]), axis=0),
    ],
)
def test_sum_of_a_branch_may_be_written_in_many_ways(join):
    """All are h + F(h), half of it, or h - F(h)."""

    def f(p, x):
        h = x @ p["stem"]
        return join(h, jax.nn.relu(h @ p["fc1"]) @ p["fc2"]) @ p["head"]

    params = dict.fromkeys(("stem", "fc1", "fc2", "head"), shape(4, 4))
    (branch,) = anatomy(f, params, shape(4)).branches
    assert (branch.leaves, branch.joins) == ("stem", "fc2:sum")
    assert (branch.layers, branch.positions) == (("fc1", "fc2"), (0, 1))
    assert branch.skip_factor == 1


@pytest.mark.parametrize(
    "join",
    [
        lambda h, branch: branch - h,
        # The interpolation of a GRU, with a gate of 1/2.
        lambda h, branch: branch + 0.5 * (h - branch),
        lambda h, branch: h.at[:2].add(branch[:2]),
        lambda h, branch: jnp.stack([h, branch]).sum(1),
    ],
)
def test_differences_and_parts_are_no_sums_of_a_branch(join):
    def f(p, x):
        h = x @ p["stem"]
        return join(h, jax.nn.relu(h @ p["fc1"]) @ p["fc2"])

    params = dict.fromkeys(("stem", "fc1", "fc2"), shape(4, 4))
    branches = anatomy(f, params, shape(4)).branches
    assert not [branch for branch in branches if branch.layers == ("fc1", "fc2")]


def test_branch_that_ends_with_a_branch():
    """x + (g + F(g)): the outer sum, too, is a point and the end of a branch."""

    def f(p, x):
        h = x @ p["stem"]
        g = jnp.tanh(h @ p["outer"])
        return (h + (g + jnp.tanh(g @ p["inner"]))) @ p["head"]

    params = dict.fromkeys(("stem", "outer", "inner", "head"), shape(4, 4))
    an = anatomy(f, params, shape(4))
    found = [(branch.name, branch.leaves, branch.joins) for branch in an.branches]
    assert found == [
        ("inner", "outer:out", "inner:sum"),
        ("inner:sum", "stem", "inner:sum:sum"),
    ]
    assert an.branches[1].layers == ("outer", "inner")
    assert an.upstream("inner:sum", "inner:sum:sum")
    # No layer is the last of the outer branch, so it cannot start at zero.
    with pytest.raises(NotDefined, match=r"layer 'outer'.* ends with another branch"):
        schemes.assign("fixup", an, params)
