"""The table: what a reader sees of a model."""

import jax.numpy as jnp

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
    assert cells(rows[1])[4:] == ["query", "layer norm", "attention", "block/attn 1/4"]
    assert cells(rows[5])[4:] == ["hidden", "layer norm", "gelu tanh", "block/mlp 1/2"]
    assert cells(rows[6])[4:] == ["hidden", "sum → layer norm", "block/mlp 2/2"]


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
