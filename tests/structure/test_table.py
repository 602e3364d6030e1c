"""The table: what a reader sees of a model."""

import jax
import jax.numpy as jnp
import pytest

from isometry.structure import anatomy
from tests.structure import small_models as models
from tests.structure.small_models import shape


def cells(line):
    """Split a line where two blanks stand."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_table_of_a_transformer_shows_norms_attention_and_sums():
    heading, titles, *rows = anatomy(*models.transformer()).table().splitlines()
    assert heading == "7 weight layers, depth 6, 2 branches, 1 attention"
    assert cells(titles) == [
        "layer",
        "kind",
        "shape",
        "fans",
        "role",
        "before",
        "then",
        "branch",
    ]
    assert [cells(row)[0] for row in rows] == [
        "embed",
        "block/attn/query",
        "block/attn/key",
        "block/attn/value",
        "block/attn/out",
        "block/mlp/fc1",
        "block/mlp/fc2",
    ]
    assert cells(rows[0])[1:] == [
        "embedding, tied",
        "11×8",
        "11 → 8",
        "stem",
        "+ positions",
    ]
    assert cells(rows[1])[4:] == ["query", "layer norm", "attention", "1/4"]
    assert cells(rows[5])[4:] == ["hidden", "layer norm", "gelu tanh", "1/2"]
    assert cells(rows[6])[4:] == ["hidden", "sum → layer norm", "2/2"]


def test_long_names_are_cut_in_the_middle():
    """A table is at most 100 wide; one that is narrow enough names the branches."""

    def f(p, x):
        ((_, p),) = p.items()
        ((_, p),) = p.items()
        return x + jax.nn.relu(x @ p["projection_in"]) @ p["projection_out"]

    def table_of(outer, inner):
        leaves = {"projection_in": shape(4, 4), "projection_out": shape(4, 4)}
        return anatomy(f, {outer: {inner: leaves}}, shape(4)).table().splitlines()

    *_, row = table_of("block", "mlp")
    assert cells(row)[-1] == "block/mlp 2/2"
    lines = table_of("TransformerEncoder", "encoderblock_0_MultiLayerPerceptron")
    assert cells(lines[-1])[0] == "Trans…der/encod…ron/projection_out"
    assert max(map(len, lines)) <= 100


def test_table_of_a_convolutional_network_shows_what_follows():
    text = anatomy(*models.convolutional()).table()
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[2][:4] == ["depthwise", "conv,", "8", "groups"]
    assert " ".join(rows[3][-6:]) == "relu → max pool → average"


def test_repr_of_a_hundred_layers_fits_a_screen():
    def f(p, x):
        for w in p["layers"]:
            x = jnp.tanh(x @ w)
        return x

    an = anatomy(f, {"layers": [shape(4, 4)] * 100}, shape(4))
    lines = repr(an).splitlines()
    # Twenty-four lines of eighty columns.
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "84 more layers" in repr(an)
    assert len(an.table().splitlines()) == 102


def halves(x):
    """Rotary positions (Su et al., 2021) of pairs (i, i + d/2)."""
    angles = jnp.arange(6.0)[:, None] * jnp.float32(0.1) ** jnp.arange(2.0)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def neighbours(x):
    """Rotary positions of pairs (2 i, 2 i + 1), as in the paper."""
    angles = jnp.repeat(
        jnp.arange(6.0)[:, None] * jnp.float32(0.1) ** jnp.arange(2.0), 2, axis=-1
    )
    turned = jnp.stack([-x[:, 1::2], x[:, ::2]], axis=-1).reshape(x.shape)
    return x * jnp.cos(angles) + turned * jnp.sin(angles)


def state_space(decay, x):
    """The states h_t = a_t h_(t - 1) + x_t of a linear recurrence."""

    def after(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(after, (decay(x), x))[1]


def gated_state_space(x):
    return state_space(jax.nn.sigmoid, x)


def fixed_state_space(x):
    return state_space(lambda x: jnp.full(x.shape, 0.9), x)


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (halves, "rotary"),
        (neighbours, "rotary"),
        (gated_state_space, "associative scan"),
        (fixed_state_space, "associative scan"),
    ],
)
def test_rotary_positions_are_told_from_a_state_space_model(between, word):
    params = {"q": shape(4, 4), "out": shape(4, 4)}
    an = anatomy(lambda p, x: between(x @ p["q"]) @ p["out"], params, shape(6, 4))
    assert an.layers[0].then == (word,)


def test_scale_by_parameters_is_no_rotation():
    """Each half has its own learned scale."""

    def f(p, x):
        a, b = jnp.split(x @ p["q"], 2)
        return jnp.concatenate([a * p["scale"], b * p["scale"]]) @ p["out"]

    params = {"q": shape(4, 4), "scale": shape(2), "out": shape(4, 4)}
    (words, *_) = (layer.then for layer in anatomy(f, params, shape(4)).layers)
    assert "rotary" not in words
