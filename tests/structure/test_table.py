"""The table: what a reader sees of a model."""

import jax.numpy as jnp
import small_models as models
from small_models import shape

from isometry.structure import anatomy


def test_table_of_a_transformer_shows_norms_attention_and_sums():
    assert anatomy(*models.transformer()).table().splitlines() == [
        "7 weight layers, depth 6, 2 branches, 1 attention",
        "layer             kind             shape  fans    role    before      then"
        "              branch",
        "embed             embedding, tied  11×8   11 → 8  stem                + positions",
        "block/attn/query  dense            8×2×4  8 → 8   query   layer norm  attention"
        "         block/attn 1/4",
        "block/attn/key    dense            8×2×4  8 → 8   key     layer norm  attention"
        "         block/attn 2/4",
        "block/attn/value  dense            8×2×4  8 → 8   value   layer norm  attention"
        "         block/attn 3/4",
        "block/attn/out    dense            2×4×8  8 → 8   output              sum"
        "               block/attn 4/4",
        "block/mlp/fc1     dense            8×32   8 → 32  hidden  layer norm  gelu"
        "              block/mlp 1/2",
        "block/mlp/fc2     dense            32×8   32 → 8  hidden              "
        "sum → layer norm  block/mlp 2/2",
    ]


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
