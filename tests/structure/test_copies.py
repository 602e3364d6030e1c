"""Weights side by side that read one signal: copies of a layer, or one wide layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from isometry.structure import anatomy
from tests.structure.small_models import shape

E, D, F = 3, 4, 5

ROUTED = {"r": shape(D, E), "w": shape(E, D, F), "v": shape(E, F, D)}


def of_first(f, params, x):
    """Return what the anatomy says of the weight "w"."""
    (layer,) = (layer for layer in anatomy(f, params, x).layers if layer.name == "w")
    return layer.out_axes, layer.batch_axes, (layer.fan_in, layer.fan_out)


def mixture_of_tokens(p, x):
    hidden = jax.nn.gelu(jnp.einsum("td,edf->tef", x, p["w"]))
    results = jnp.einsum("tef,efd->ted", hidden, p["v"])
    return x + jnp.einsum("te,ted->td", jax.nn.softmax(x @ p["r"]), results)


def mapped_ensemble(p, x):
    return jax.vmap(lambda w, v: jnp.tanh(x @ w) @ v)(p["w"], p["v"]).mean(0)


def mapped_ensemble_of_norms(p, x):
    def one(w, v):
        h = x @ w
        return ((h - h.mean()) / jnp.sqrt(h.var() + 1e-5)) @ v

    return jax.vmap(one)(p["w"], p["v"])


def products_written_as_sums(p, x):
    hidden = jnp.tanh((x[None, :, None] * p["w"]).sum(1))
    return (hidden[:, :, None] * p["v"]).sum(1).sum(0)


def shallow_mixture(p, x):
    gate = jax.nn.softmax(x @ p["r"])
    return gate @ jnp.einsum("d,edf->ef", x, p["w"])


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (mixture_of_tokens, shape(2, D)),
        (mapped_ensemble, shape(D)),
        (mapped_ensemble, shape(2, D)),
        (mapped_ensemble_of_norms, shape(D)),
        (products_written_as_sums, shape(D)),
        (shallow_mixture, shape(D)),
    ],
)
def test_experts_that_read_one_signal_are_copies(f, x):
    """One expert is a map from D to F, whatever the others are."""
    assert of_first(f, ROUTED, x) == ((2,), (0,), (D, F))


def attention(p, x):
    q, k, v = (jnp.einsum("td,dhe->the", x, p[name]) for name in ("w", "k", "v"))
    mixed = jax.nn.softmax(jnp.einsum("the,she->hts", q, k))
    return jnp.einsum("hts,she,hed->td", mixed, v, p["o"])


def relative_attention(p, x):
    """Positions of keys, as in Transformer-XL, have a vector for each head."""
    q, k, v = (jnp.einsum("td,hde->the", x, p[name]) for name in ("w", "k", "v"))
    logits = jnp.einsum("the,she->hts", q, k) + jnp.einsum("the,she->hts", q, p["pos"])
    mixed = jax.nn.softmax(logits)
    return jnp.einsum("hts,she,hed->td", mixed, v, p["o"])


@pytest.mark.parametrize(
    ("f", "w"),
    [(attention, shape(D, 2, F)), (relative_attention, shape(2, D, F))],
)
def test_heads_of_an_attention_are_one_layer(f, w):
    params = {"w": w, "k": w, "v": w, "o": shape(2, F, D), "pos": shape(6, 2, F)}
    head = w.shape.index(2)
    layers = anatomy(f, params, shape(6, D)).layers
    made = {layer.name: layer for layer in layers}
    for name in ("w", "k", "v"):
        assert made[name].out_axes == (head, 2)
        assert made[name].batch_axes == ()
        assert (made[name].fan_in, made[name].fan_out) == (D, 2 * F)


def test_outputs_that_the_next_layer_sums_are_one_layer():
    """Reshaped or not, E·F hidden units that one weight reads are one wide layer."""

    def f(p, x):
        hidden = jnp.tanh(jnp.einsum("d,edf->ef", x, p["w"]))
        return hidden.reshape(-1) @ p["u"]

    params = {"w": shape(E, D, F), "u": shape(E * F, 2)}
    assert of_first(f, params, shape(D)) == ((0, 2), (), (D, E * F))


def test_partial_identity_starts_every_expert_at_the_identity():
    def draw(key):
        return {
            name: jax.random.normal(key, leaf.shape)
            for name, leaf in ROUTED.items()
            if name != "r"
        }

    net = networks.function(mapped_ensemble, draw, jnp.ones(D))
    params = net.with_scheme("partial_identity").init(jax.random.key(0))
    np.testing.assert_array_equal(params["w"], np.tile(np.eye(D, F), (E, 1, 1)))


def test_outputs_of_which_nothing_tells_are_noted():
    """Nothing behind w says whether its E rows of outputs are E layers."""
    net = networks.function(
        lambda p, x: jnp.einsum("d,edf->ef", x, p["w"]),
        lambda key: {"w": jax.random.normal(key, (E, D, F))},
        jnp.ones(D),
    )
    assert of_first(net, ROUTED, shape(D))[:2] == ((0, 2), ())
    (row,) = net.with_scheme("xavier").assignment.rows
    assert "drawn as one layer, although axis 0 may count copies" in row.note
