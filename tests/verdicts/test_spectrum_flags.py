"""vanishing, exploding, anisometric and outlier_dominated, on spectra known by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry.verdicts import _measured
from tests.verdicts.measuring import drawn, judged, measured, spectrum

LINEAR = networks.mlp([12] * 6, "linear", "gaussian")
NUM_LAYERS, WIDTH = 5, 12
XS = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
FLAGS = ("vanishing", "exploding", "anisometric")


@pytest.fixture(scope="module")
def linear():
    """Spectra of linear chains: small, large and critical Gaussian ones, orthogonal."""
    laws = {
        "small": {"sigma_w": 0.1},
        "large": {"sigma_w": 5.0},
        "gaussian": {"sigma_w": 1.0},
        "orthogonal": {"sigma_w": 1.0, "orthogonal": True},
    }
    return {
        name: isometry.ensemble(LINEAR, params=drawn(LINEAR, **law), xs=XS)
        for name, law in laws.items()
    }


def record(sp, **lines):
    params = drawn(LINEAR, 1.0, seeds=sp.log_values.shape[0])
    return measured(
        LINEAR, params=params, xs=XS, lines=lines, spectra={"end_to_end": sp}
    )


@pytest.mark.parametrize(
    ("name", "raised", "other", "sigma_w"),
    [("small", "vanishing", "exploding", 0.1), ("large", "exploding", "vanishing", 5)],
)
def test_scale_is_judged(linear, name, raised, other, sigma_w):
    """The gain of a linear Gaussian chain is L ln sigma_w; finite width takes < 1."""
    one = record(linear[name])
    flag = judged(raised, one)
    assert flag.raised
    assert judged(other, one).state == "clear"
    assert abs(flag.value - NUM_LAYERS * np.log(sigma_w)) < 1
    low, high = flag.interval
    assert low <= flag.value <= high
    assert "sigma_w" in flag.remedy


def test_an_orthogonal_linear_chain_is_clear_of_everything(linear):
    """Every singular value is 1, up to rounding of 5 products of 12 terms."""
    one = record(linear["orthogonal"])
    assert [judged(name, one).state for name in FLAGS] == ["clear"] * 3
    tolerance = NUM_LAYERS * WIDTH * float(jnp.finfo(jnp.float32).eps)
    assert abs(judged("vanishing", one).value) < tolerance
    assert abs(judged("anisometric", one).value) < tolerance


def test_the_anisometry_of_a_linear_gaussian_chain_is_its_depth(linear):
    """A free product of L Marchenko-Pastur laws has variance L; at width 12 less."""
    flag = judged("anisometric", record(linear["gaussian"]))
    assert flag.raised
    assert NUM_LAYERS / 2 < flag.value < 2 * NUM_LAYERS


def test_few_seeds_are_undecided(linear):
    sp = linear["small"]
    arrays = ("log_values", "weights", "log_floor")
    few = dataclasses.replace(sp, **{name: getattr(sp, name)[:4] for name in arrays})
    one = record(few)
    assert {judged(name, one).state for name in FLAGS} == {"undecided"}
    assert "4 seeds, 5 are needed" in judged("vanishing", one).reason
    assert judged("vanishing", record(few, least_seeds=4)).raised


def test_a_threshold_within_the_interval_is_undecided(linear):
    sp = linear["large"]
    value = judged("exploding", record(sp)).value
    flag = judged("exploding", record(sp, log_gain=value))
    assert flag.state == "undecided"
    assert "interval" in flag.reason
    assert judged("exploding", record(sp, log_gain=value + 3)).state == "clear"


def test_a_zero_jacobian_vanishes_and_has_no_anisometry():
    one = record(spectrum(np.zeros((6, 2, WIDTH))))
    assert judged("vanishing", one).value == -np.inf
    assert judged("vanishing", one).raised
    assert "zero_gradient" in judged("vanishing", one).remedy
    flag = judged("anisometric", one)
    assert flag.state == "undecided"
    assert flag.value == np.inf
    assert "undefined" in flag.reason
    # No weight is zero, and of layers nothing is known: the span is named.
    assert judged("vanishing", one).where == ("input", "output")


def test_a_head_of_zeros_is_named_and_no_scale_blamed():
    params = drawn(LINEAR, 1.0)
    params["layers"][-1]["w"][...] = 0
    zero = spectrum(np.zeros((6, 2, WIDTH)))
    one = measured(LINEAR, params=params, xs=XS, spectra={"end_to_end": zero})
    flag = judged("vanishing", one)
    assert flag.raised
    assert flag.where == (LINEAR.anatomy.layers[-1].name,)
    assert flag.remedy.startswith("none by sigma_w")


def test_a_mean_of_all_pixels_takes_no_gain_away():
    """Of 16 pixels with |J|² = 1 each, their mean has |J|² = 1/16: ½ ln 16 is put back.

    The network is linear: a 1×1 convolution that keeps its two channels, then the mean.
    """
    net = networks.cnn([2, 2], (4, 4), kernel=1, activation="linear", head=2)
    params = jax.tree.map(identity, net.shapes)
    xs = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    one = measured(net, params=params, xs=xs)
    assert one.gains["end_to_end"].log_gain == pytest.approx(np.zeros(6), abs=1e-5)
    assert judged("vanishing", one).evidence["log_averaging"]["end_to_end"] == (
        pytest.approx(np.log(16) / 2)
    )


def identity(leaf):
    """Return six identities of a weight's shape, or zeros of a bias's."""
    value = np.zeros(leaf.shape, np.float32)
    if leaf.shape[-2:] == (2, 2):
        value[...] = np.eye(2)
    return np.broadcast_to(value, (6, *leaf.shape))


def test_a_bulk_and_an_outlier():
    """One value of 10, 31 near 1: its share of Σ s² is 100/131, the bulk's gain 0."""
    bulk = np.linspace(0.9, 1.1, 31)
    bulk /= np.sqrt((bulk**2).mean())
    s = np.broadcast_to(np.r_[10.0, bulk], (6, 2, 32))
    flag = judged("outlier_dominated", record(spectrum(s)))
    assert flag.raised
    assert flag.value == pytest.approx(100 / 131)
    found = flag.evidence["outliers"]["end_to_end"]
    assert found["number"].tolist() == [1] * 6
    np.testing.assert_allclose(found["log_gain_of_bulk"], 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_products_of_gaussian_matrices_have_no_outliers(seed):
    """Their largest value carries much of Σ s² at depth, but belongs to the bulk."""
    rng = np.random.default_rng(seed)
    product = np.eye(32)
    for _ in range(8):
        product = rng.normal(size=(12, 32, 32)) / np.sqrt(32) @ product
    s = np.linalg.svd(product, compute_uv=False).reshape(6, 2, 32)
    assert judged("outlier_dominated", record(spectrum(s))).state == "clear"


def test_weights_of_positive_mean_make_an_outlier():
    """W = noise + 0.3: the mean adds a value of 0.3·32 above the bulk's edge of 2."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 2, 32, 32)) / np.sqrt(32) + 0.3
    s = np.linalg.svd(w, compute_uv=False)
    assert judged("outlier_dominated", record(spectrum(s))).raised


def normed(h):
    from_mean = h - h.mean(-1, keepdims=True)
    return from_mean / jnp.sqrt((from_mean**2).mean(-1, keepdims=True) + 1e-5)


def pre_norm(params, tokens):
    h = params["table"][tokens]
    return h + normed(h) @ params["w"]


def post_norm(params, tokens):
    h = normed(params["table"][tokens])
    return h + jnp.tanh(h @ params["w"])


def half_normed(params, tokens):
    h = params["table"][tokens]
    return normed(h) @ params["w"] + jnp.tanh(h @ params["w"])


TOKENS = np.arange(6, dtype=np.int32).reshape(2, 3)
ENTRIES = np.random.default_rng(0).normal(size=(6, 8, WIDTH)).astype(np.float32)
TABLE = {
    "table": 1e-2 * ENTRIES,
    "w": np.broadcast_to(np.eye(WIDTH, dtype=np.float32), (6, WIDTH, WIDTH)),
}


@pytest.mark.parametrize("scale", [1, 100])
def test_the_scale_of_a_normalized_embedding_is_no_explosion(scale):
    """By an embedding of size 0.01 in front of a norm ½ ln E s² is larger by 4.6.

    What the weights add is kept: ln of their scale.
    """
    params = TABLE | {"w": scale * TABLE["w"]}
    one = measured(pre_norm, params=params, xs=TOKENS)
    gain = one.gains["end_to_end"].log_gain
    # The norm takes the mean and the length of each token, 2 of 12 directions.
    assert gain == pytest.approx(np.full(6, np.log(scale)), abs=0.2)
    flag = judged("exploding", one)
    assert flag.raised == (scale == 100)
    assert flag.evidence["log_scaling"]["end_to_end"] == pytest.approx(4.6, abs=0.2)


def with_positions(params, tokens):
    h = params["table"][tokens] + params["positions"]
    return h + normed(h) @ params["w"]


def norm_of_sum(params, tokens):
    h = normed(params["table"][tokens] + params["positions"])
    return h + jnp.tanh(h @ params["w"])


@pytest.mark.parametrize("f", [with_positions, norm_of_sum])
def test_large_positions_leave_the_norm_nothing_to_divide_by(f):
    """A gain of 100 is then that of the weights, however small the table is."""
    positions = 2 * np.random.default_rng(1).normal(size=(6, 3, WIDTH))
    params = TABLE | {"positions": np.float32(positions), "w": 100 * TABLE["w"]}
    one = measured(f, params=params, xs=TOKENS)
    assert (one.log_scaling["end_to_end"] == 0).all()


def test_no_more_is_taken_than_a_norm_with_an_epsilon_adds():
    """It divides values of size 1e-4 by √(1e-8 + 1e-5), and not by 1e-4."""
    params = TABLE | {"table": 1e-4 * ENTRIES, "w": 100 * TABLE["w"]}
    one = measured(pre_norm, params=params, xs=TOKENS)
    assert one.log_scaling["end_to_end"] == pytest.approx(np.full(6, 5.76), abs=0.01)
    assert judged("exploding", one).raised


@pytest.mark.parametrize(
    ("f", "points"),
    [(pre_norm, ["table"]), (post_norm, ["table"]), (half_normed, [])],
)
def test_an_embedding_is_normalized_if_every_layer_reads_it_behind_a_norm(f, points):
    found = measured(f, params=TABLE, xs=TOKENS).subject.normalized_points
    assert [name for name in found if ":" not in name] == points


def test_a_scale_is_taken_from_growth_alone():
    """A scale may explain all of a growth, but no decay."""
    gains, scaling = np.array([3.0, 1.0, -1.0, -np.inf]), np.full(4, 2.0)
    left = _measured._unscaled(gains, scaling)
    assert left.tolist() == [1.0, 0.0, -1.0, -np.inf]
