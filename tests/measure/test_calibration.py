"""Calibrated networks: E s² = 1 over a span, on networks of any kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import initializers, networks
from isometry._internal.errors import NotDefined
from isometry.measure import _calibration
from tests.networks.plain import plain

KEYS = jax.random.split(jax.random.key(0), 3)
XS = jax.device_put(
    np.asarray(np.random.default_rng(0).standard_normal((2, 6)), np.float32)
)
# As near to 1 as `calibrated` promises.
NEAR = 1e-3


def gains_of(net):
    return {row.name: row.value for row in net.gains.rows}


def test_linear_layers_get_the_inverse_of_their_scale():
    net = networks.mlp([6] * 5, "linear", initializers.identity(gain=0.5))
    calibrated = net.calibrated(KEYS, XS)
    for gain in gains_of(calibrated).values():
        assert gain == pytest.approx(2, rel=NEAR)
    assert calibrated.gains.before == pytest.approx(0.5**8, rel=1e-5)
    assert calibrated.gains.after == pytest.approx(1, abs=NEAR)
    weights = [run["w"] for run in calibrated.init(KEYS[0])["layers"]]
    drawn = [run["w"] for run in net.init(KEYS[0])["layers"]]
    for new, old in zip(weights, drawn, strict=True):
        np.testing.assert_allclose(new, 2 * old, rtol=NEAR)


def test_span_begins_at_all_inputs_together():
    """[W W] with W = I/2 has six values s² = 1/2."""

    def f(params, x):
        return params["last"] @ (params["first"] @ (x["a"] + x["b"]))

    def draw(key):
        return {"first": jnp.eye(6) / 2, "last": jnp.eye(6) / 2}

    xs = {"a": XS, "b": 2 * XS}
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((6,), leaf.dtype), xs)
    calibrated = plain(f, draw, example).calibrated(KEYS, xs)
    assert gains_of(calibrated) == pytest.approx({"first": 2**0.5, "last": 2}, rel=NEAR)
    assert calibrated.gains.before == pytest.approx(1 / 8)


def test_every_prefix_of_a_smooth_network_is_calibrated():
    """Gains of later layers depend on those before, which saturate less or more."""
    net = networks.mlp([6] * 5, "tanh", "gaussian", sigma_w=2.5)
    # Three draws of six units vary by more than a third.
    with pytest.warns(UserWarning, match="carried by few draws") as caught:
        calibrated = net.calibrated(KEYS, XS)
    (warning,) = calibrated.gains.warnings
    assert warning in calibrated.gains.table()
    assert str(caught[0].message) == f"calibrated(): {warning}"
    assert calibrated.gains.error > calibrated.gains.after / 3
    profile = isometry.profile(calibrated, KEYS, XS, toward="input")
    means = profile.statistics["mean_square"].mean((0, 1))
    np.testing.assert_allclose(means, 1, atol=NEAR)


def residual(params, x, *, skip, has_head):
    """Three scanned blocks x -> skip x + W2 tanh(W1 norm(x)) behind a stem."""

    def block(x, layer):
        h = (x - x.mean()) / jnp.sqrt(x.var() + 1e-5)
        return skip * x + jnp.tanh(h @ layer["first"]) @ layer["last"], None

    x, _ = jax.lax.scan(block, x @ params["stem"], params["blocks"])
    if has_head:
        x = x @ params["head"]
    return x


def draw(key):
    keys = jax.random.split(key, 4)
    scale = 6**-0.5
    return {
        "stem": jax.random.normal(keys[0], (6, 6)),
        "blocks": {
            "first": scale * jax.random.normal(keys[1], (3, 6, 6)),
            "last": scale * jax.random.normal(keys[2], (3, 6, 6)),
        },
        "head": jax.random.normal(keys[3], (6, 6)),
    }


def resnet(skip, has_head=True):
    function = functools.partial(residual, skip=skip, has_head=has_head)
    return plain(function, draw, (6,))


@pytest.mark.filterwarnings("ignore:.*carried by few draws:UserWarning")
def test_layers_on_branches_are_left_alone_if_others_suffice():
    net = resnet(1.0).calibrated(KEYS, XS)
    changed = [name for name, gain in gains_of(net).items() if gain != 1.0]
    assert changed == ["stem", "head"]
    notes = {row.name: row.note for row in net.gains.rows}
    assert notes["blocks/last[2]"] == "on a branch: some path leads around it"
    assert "on a branch" in net.gains.table()
    sp = isometry.ensemble(net, KEYS, XS)
    by_seed = np.asarray(sp.moment(1), float).mean(axis=1)
    assert by_seed.mean() == pytest.approx(1, abs=NEAR)
    assert net.gains.error == pytest.approx(by_seed.std(ddof=1) / 3**0.5, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*carried by few draws:UserWarning")
def test_branches_share_a_gain_where_nothing_else_is_in_the_span():
    net = resnet(0.8).calibrated(KEYS, XS, "hidden")
    gains = gains_of(net)
    shared = {gains[f"blocks/last[{i}]"] for i in range(3)}
    assert len(shared) == 1
    assert gains["blocks/first[0]"] == gains["stem"] == 1.0
    sp = isometry.ensemble(net, KEYS, XS, span=net.gains.span)
    assert float(sp.moment(1).mean()) == pytest.approx(1, abs=NEAR)


def test_skips_that_are_too_large_are_refused():
    with pytest.raises(NotDefined, match="at 0 the skips around them leave 1"):
        resnet(1.0).calibrated(KEYS, XS, "hidden")


def saturating(params, x):
    """A skip of 0.1, and a branch that is 0.1 at most."""
    return 0.1 * x + 0.1 * jnp.tanh(x @ params["w"])


def test_units_that_saturate_before_the_target_are_refused():
    """s of the branch is at most 0.1 |W| max tanh', and tanh' falls as W grows."""
    net = plain(saturating, lambda key: {"w": jax.random.normal(key, (6, 6))}, (6,))
    with pytest.raises(NotDefined, match=r"no gain of w .* at most\. The units .* sat"):
        net.calibrated(KEYS, XS)


def test_jacobians_that_the_gains_have_made_zero_are_counted():
    """Of four pairs one is lost; another was zero before."""
    before = np.array([[1.0, 1.0], [1.0, 0.0]])
    after = np.array([[2.0, 1.0], [0.0, 0.0]])
    *_, lost = _calibration._doubts(before, after)
    assert "1 of 4 Jacobians are exactly 0" in lost
    assert list(_calibration._doubts(before, before)) == []


def test_heads_in_the_arms_of_a_cond_are_left_alone():
    """No path leads around both, and each acts at some inputs alone."""

    def f(params, x):
        h = x @ params["w"]
        arms = [lambda h: h @ params["a"], lambda h: h @ params["b"]]
        return jax.lax.cond(x[0] > 0, *arms, h)

    def draw(key):
        keys = jax.random.split(key, 3)
        names = ("w", "a", "b")
        return {
            n: jnp.linalg.qr(jax.random.normal(k, (6, 6)))[0]
            for n, k in zip(names, keys, strict=True)
        }

    net = plain(f, draw, (6,)).calibrated(KEYS, XS)
    notes = {row.name: row.note for row in net.gains.rows}
    note = "in an arm of a cond: where another is taken, it does not act"
    assert notes == {"w": "", "a": note, "b": note}
    assert net.gains.warnings == ()


def normed(params, x):
    """A norm stands behind the first layer, and the second is used twice."""
    h = x @ params["stem"]
    h = (h - h.mean()) / jnp.sqrt(h.var() + 1e-5)
    return (h @ params["tied"]) @ params["tied"] @ params["head"]


def draw_normed(key):
    keys = jax.random.split(key, 3)
    names = ("stem", "tied", "head")
    return {n: jax.random.normal(k, (6, 6)) for n, k in zip(names, keys, strict=True)}


@pytest.mark.filterwarnings("ignore:.*carried by few draws:UserWarning")
def test_scale_that_a_norm_undoes_is_left_alone():
    net = plain(normed, draw_normed, (6,)).calibrated(KEYS, XS)
    notes = {row.name: row.note for row in net.gains.rows}
    assert notes["stem"] == "a norm behind it undoes its scale"
    assert notes["tied"] == "used more than once"
    assert net.gains.after == pytest.approx(1, abs=NEAR)
    with pytest.raises(NotDefined, match=r"no weight layer .* stem: a norm behind it"):
        plain(normed, draw_normed, (6,)).calibrated(KEYS, XS, ("input", "tied#2"))


def test_zero_jacobians_are_refused():
    net = networks.mlp([6, 6, 6], "relu", "zeros")
    with pytest.raises(NotDefined, match=r"calibrated\(\): E s² to .* is exactly 0"):
        net.calibrated(KEYS, XS)


def test_data_driven_networks_are_adjusted_before_they_are_scaled():
    """lsuv would undo gains that came before it."""
    net = networks.mlp([6, 6], "tanh", "lsuv").calibrated(KEYS, XS)
    assert net.data_driven
    sp = isometry.ensemble(net, KEYS, XS)
    assert float(sp.moment(1).mean()) == pytest.approx(1, abs=NEAR)
