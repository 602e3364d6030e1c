"""What could pass for a lock and is none: refused, or no more than evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import certificates, networks
from tests.certificates import models

X = np.ones(4, np.float32)
CLAIMS = ("bit for bit", "in exact arithmetic")


def claims(f, params, x=X, **given):
    """What is claimed, beyond evidence, of weights."""
    cert = certificates.certify(f, params, x, **given)
    told = [one for one in cert.findings if not one.is_harmless]
    return [str(one) for one in told if one.grade in CLAIMS], told


def test_constant_bias_is_no_proof_of_dead_units():
    """Large inputs wake a unit at 20; inputs up to 8 standard deviations do not."""
    f = models.two_layers(lambda z: jax.nn.relu(z - 20))
    claimed, told = claims(f, models.drawn_layers())
    assert not claimed
    # With probability 95 % the share of inputs that wake it is below 3/N.
    assert any("random inputs)" in one.what for one in told)


def test_clipped_range_is_no_proof_of_dead_units():
    """The slope is 1 between 100 and 101, where no input that is drawn gets."""
    claimed, _ = claims(
        models.two_layers(lambda z: jnp.clip(z, 100, 101)), models.drawn_layers()
    )
    assert not claimed


@pytest.mark.parametrize("steepness", [1e3, 1e6])
def test_steep_units_are_not_claimed_to_be_dead(steepness):
    """1 - tanh² is 0 in float64 from 19.1 on."""
    f = models.two_layers(lambda z: jnp.tanh(steepness * z))
    claimed, _ = claims(f, models.drawn_layers())
    assert not claimed


def test_saturated_weights_are_equal_and_not_dead():
    """All ones saturate tanh; they are equal for ever, and weight decay moves them."""
    params = {"u": np.ones((64, 8), np.float32), "v": models.normal(8, 3)}
    f = models.two_layers()
    cert = certificates.certify(f, params, np.ones(64, np.float32))
    assert cert.layers[0].distinct == (64, 8)
    assert cert.layers[0].never_moves == 0


@pytest.mark.parametrize("depth", [400, 1500])
def test_underflow_is_no_proof(depth):
    """0.1^400 is below the smallest float64; with other gains the layers train."""

    def f(params, x):
        def layer(h, w):
            return jnp.tanh(h @ w), None

        return jax.lax.scan(layer, x, params["w"])[0] @ params["v"]

    layers = 0.1 * np.stack([models.normal(4, 4, seed=i) for i in range(depth)])
    claimed, _ = claims(f, {"w": layers.astype(np.float32), "v": models.normal(4, 2)})
    assert not claimed


@pytest.mark.parametrize("size", [1e-15, 1e-300])
def test_asymmetry_below_rounding_is_no_proof_of_symmetry(size):
    """f parts unit 0 from the others, by less than a rounding of its values."""

    def f(params, x):
        shifted = x @ params["u"] + jnp.zeros(6).at[0].set(size)
        return jnp.tanh(shifted) @ params["v"]

    claimed, told = claims(f, models.equal_layers())
    assert not claimed
    assert told


@pytest.mark.parametrize("off", [1e-6, 1e-14])
def test_near_misses_in_float64_are_told_apart(off):
    """A weight that is off is a class by itself, whatever its size."""
    params = jax.tree.map(np.float64, models.equal_layers())
    params["u"][0, 0] *= 1 + off
    cert = certificates.certify(models.two_layers(), params, X)
    assert cert.layers[0].distinct == (4, 2)


def test_smallest_weight_is_not_zero():
    """Unit 0 has a weight of 1e-300, and gets a gradient from it."""
    params = {"u": np.zeros((4, 6)), "v": np.zeros((6, 3))}
    params["u"][0, 0] = 1e-300
    cert = certificates.certify(models.two_layers(), params, X)
    assert cert.layers[0].distinct == (4, 1)
    # Four weights of the unit move, and those of the other five units do not.
    assert cert.layers[0].never_moves == pytest.approx(20 / 24)


def test_equal_sums_of_float64_are_evidence():
    """What differs by less than the rounding of a sum is equal only as far as seen."""
    # Rows and columns of a magic square have one sum, and no two entries are equal.
    square = np.array([[2, 7, 6], [9, 5, 1], [4, 3, 8]])
    params = {"u": np.full((4, 3), 0.5), "w": square / 10, "v": np.full((3, 2), 0.5)}

    def f(params, x):
        hidden = jnp.tanh(x @ params["u"]) @ params["w"]
        return jnp.tanh(hidden) @ params["v"]

    claimed, told = claims(f, params)
    assert not claimed
    assert told
    in_float32 = jax.tree.map(np.float32, params)
    in_float32["w"] = (square / 16).astype(np.float32)
    claimed, _ = claims(f, in_float32)
    assert "w: 3 units, 1 distinct" in claimed


def test_locks_on_kinks_say_that_rounding_breaks_them():
    """Duplicates cancel to a pre-activation of 0, where ReLU has no slope.

    Trained in float64 the update of the middle layer has rank 32 at step 2.
    """
    net = networks.mlp([16, 32, 32, 8], "relu", "hadamard", bias=False)
    cert = certificates.certify(net, jax.jit(net.init)(jax.random.key(0)))
    assert cert.layers[1].rank_bound == 16
    assert cert.layers[1].grade == "in exact arithmetic"
    told = [one.what for one in cert.findings]
    assert all("first rounding parts them" in what for what in told)


def half(params, x):
    """Two layers in bfloat16, as a module with dtype=bfloat16 computes them."""

    def step(state, _):
        return jax.nn.relu(state), None

    hidden = x.astype(jnp.bfloat16) @ params["u"].astype(jnp.bfloat16)
    hidden, _ = jax.lax.scan(step, hidden + jnp.bfloat16(0.5), None, length=1)
    return hidden @ params["v"].astype(jnp.bfloat16)


def test_half_precision_inside_f_is_computed_in_float64():
    """Eight bits of mantissa do not tell equal from near: all would be dead."""
    assert certificates.certify(half, models.drawn_layers(), X).clear
    cert = certificates.certify(half, models.equal_layers(), X)
    assert cert.layers[0].distinct == (4, 1)
    near = models.equal_layers()
    near["u"][0, 0] += 1e-6
    assert certificates.certify(half, near, X).layers[0].distinct == (4, 2)


@jax.custom_vjp
def straight_through(z):
    return jnp.sign(z)


straight_through.defvjp(lambda z: (jnp.sign(z), None), lambda _, g: (g,))


def in_half(activation):
    def f(params, x):
        hidden = activation(x.astype(jnp.bfloat16) @ params["u"].astype(jnp.bfloat16))
        return hidden @ params["v"].astype(jnp.bfloat16)

    return f


def test_derivatives_of_ones_own_are_kept_in_half_precision():
    """The sign has slope 0, its rule has not; relu has slope 0 at 0, max(z, 0) 1/2."""
    f = in_half(straight_through)
    assert certificates.certify(f, models.drawn_layers(), X).clear
    off = models.drawn_layers()
    off["u"][:, 1] = 0
    rows = certificates.certify(in_half(jax.nn.relu), off, X).layers
    assert rows[0].distinct == (4, 5)
    assert rows[0].grade == "bit for bit"


def test_slope_of_a_rule_at_a_kink_is_no_zero():
    """Softplus has slope 1/2 at 0; max(z, 0) + log1p(exp(-|z|)), as it is computed, 0.

    Units with weights of zero are there at every input, and get a gradient.
    """
    off = models.drawn_layers()
    off["u"][:, 1:3] = 0
    f = models.two_layers(jax.nn.softplus)
    gradient = jax.grad(lambda params: f(params, X).sum())(off)
    assert np.abs(gradient["u"][:, 1:3]).min() > 0
    assert certificates.certify(f, off, X).clear


def test_equal_numbers_that_are_sorted_part():
    """Two equal units are sorted behind each other, and meet different weights."""
    params = models.drawn_layers()
    params["u"][:, 1] = params["u"][:, 0]
    claimed, _ = claims(lambda p, x: jnp.sort(x @ p["u"]) @ p["v"], params)
    assert not claimed


def test_half_precision_parameters_are_computed_in_float64():
    half = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), models.equal_layers())
    x = jax.ShapeDtypeStruct((4,), jnp.bfloat16)
    cert = certificates.certify(models.two_layers(), half, x)
    assert cert.layers[0].distinct == (4, 1)


def test_single_precision_inside_f_is_certified():
    """Gaps are 6e-8 for rounding and 1e-3 for what differs."""

    def f(params, x):
        hidden = jnp.tanh((x @ params["u"]).astype(jnp.float32))
        return hidden @ params["v"].astype(jnp.float32)

    assert certificates.certify(f, models.drawn_layers(), X).clear
    cert = certificates.certify(f, models.equal_layers(), X)
    assert cert.layers[0].distinct == (4, 1)


def test_rows_that_draw_never_draws_are_not_claimed():
    """draw returns row 0 alone; the default returns every row."""

    def f(params, tokens):
        return jnp.tanh(params["embedding"][tokens]) @ params["v"]

    params = {"embedding": models.normal(300, 4), "v": models.normal(4, 2)}
    tokens = jax.ShapeDtypeStruct((3,), jnp.int32)
    claimed, told = claims(f, params, None, draw=lambda key: jnp.zeros(3, jnp.int32))
    assert not claimed
    assert told
    assert certificates.certify(f, params, tokens).clear


def test_dropout_parts_equal_units_and_a_fixed_mask_is_no_proof():
    """With its key in x every mask is drawn; one that f holds is one mask."""

    def dropped(params, x, key):
        hidden = jnp.tanh(x @ params["u"])
        return jnp.where(jax.random.bernoulli(key, 0.5, (6,)), hidden, 0) @ params["v"]

    params = models.equal_layers()
    with_key = (X, jax.random.key(0))
    assert certificates.certify(lambda p, x: dropped(p, *x), params, with_key).clear
    fixed = jax.random.key(3)
    claimed, told = claims(lambda p, x: dropped(p, x, fixed), params)
    assert not claimed
    assert "key of its own" in told[0].what


def routed(offset):
    """The expert of the largest logit alone; the last logit is lowered."""

    def f(params, x):
        logits = x @ params["gate"] - jnp.array([0.0, 0.0, offset])
        chosen = jnp.argmax(logits)
        hidden = jnp.tanh(x @ params["a"][chosen])
        return jax.nn.softmax(logits)[chosen] * (hidden @ params["b"][chosen])

    return f


def test_expert_that_is_never_routed_to_is_no_proof():
    """An offset of 1000 hides expert 2 from all inputs that are drawn.

    What is told rests on f as it is, at these parameters: if the offset were one of
    them, the exact search would draw it anew.
    """
    params = {
        "gate": models.normal(4, 3),
        "a": models.normal(3, 4, 5),
        "b": models.normal(3, 5, 2),
    }
    claimed, told = claims(routed(1000.0), params)
    assert not claimed
    told = {one.layer: one for one in told}
    assert "random inputs" in told["a[2]"].what
    assert "xs=" in told["a[2]"].remedy
    healthy = certificates.certify(routed(0.0), params, X)
    assert healthy.clear
    assert healthy.layers[2].first_gradient == 1


def test_branch_of_a_cond_that_is_never_taken_is_no_proof():
    """Inputs have up to 8 standard deviations, and the branch begins at 500."""

    def f(params, x):
        def rare():
            return jnp.tanh(x @ params["u"]) @ params["v"]

        return jax.lax.cond(x[0] > 500, rare, lambda: x @ params["w"])

    claimed, told = claims(f, {**models.drawn_layers(), "w": models.normal(4, 3)})
    assert not claimed
    assert told


@pytest.mark.parametrize(
    "activation",
    [
        lambda z: z + jax.lax.stop_gradient(jnp.round(z) - z),
        lambda z: jnp.concatenate([z.reshape(3, 2).max(1), z.reshape(3, 2).min(1)]),
        lambda z: jax.nn.sigmoid(60 * z),
    ],
    ids=["straight through", "maxout", "steep sigmoid"],
)
def test_kinks_and_estimators_of_gradients_lock_nothing(activation):
    cert = certificates.certify(models.two_layers(activation), models.drawn_layers(), X)
    assert cert.clear


def test_near_misses_that_f_rounds_away_are_no_claim():
    """In float32 gradients of units that differ by 1e-6 agree to rounding."""

    def f(params, x):
        u, v = (params[name].astype(jnp.float32) for name in ("u", "v"))
        return jnp.tanh(x.astype(jnp.float32) @ u) @ v

    params = models.drawn_layers()
    u, v = np.array(params["u"]), np.array(params["v"])
    u[:, 3] = u[:, 1]
    v[3] = v[1] * (1 + 1e-6)
    claimed, _ = claims(f, {"u": u, "v": v})
    assert not claimed


@pytest.mark.parametrize(
    ("activation", "sigma_w"),
    [("relu", 0.5), ("relu", 2**0.5), (jnp.abs, 1.4)],
)
def test_signals_of_a_deep_network_without_biases_do_not_vanish(activation, sigma_w):
    """A smooth kink has a double zero, at which signals must not be squared away."""
    net = networks.mlp([8] * 26, activation, "orthogonal", sigma_w=sigma_w)
    cert = certificates.certify(net, net.init(jax.random.key(0)))
    assert cert.clear
    assert {layer.first_gradient for layer in cert.layers} == {1}
    assert max(layer.never_moves for layer in cert.layers) < 0.5
