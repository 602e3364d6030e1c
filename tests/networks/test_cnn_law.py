"""Laws, moments and predicted signals of convolutional networks, and what has none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, initializers, networks, schemes, theory
from isometry._internal.errors import NotDefined
from isometry.networks import _cnn_law
from tests.networks.predicted import require_predicted

KEYS = jax.random.split(jax.random.key(0), 6)
RNG = np.random.default_rng(0)
WIDTH, SIZE = 24, 5


def unit_images(count=1, channels=WIDTH):
    """Images with the same mean square at every position."""
    xs = RNG.standard_normal((count, SIZE, channels))
    return jnp.asarray(xs / np.sqrt((xs**2).mean(-1, keepdims=True)), jnp.float32)


def square_of_tanh(q):
    """E tanh(√q z)², by the trapezoidal rule."""
    z, step = np.linspace(-12, 12, 2001, retstep=True)
    density = np.exp(-(z**2) / 2) * step / math.sqrt(2 * math.pi)
    return float(density @ np.tanh(math.sqrt(q) * z) ** 2)


# --- Spectra


@pytest.fixture(scope="module")
def measured():
    """Squared singular values of a circular network."""
    channels = [WIDTH, WIDTH, WIDTH, WIDTH, 4]
    net = networks.cnn(channels, (SIZE,), scheme="gaussian", sigma_w=1.3)
    xs = unit_images()
    sp = isometry.ensemble(net, KEYS, xs, span="hidden")
    return net, xs, np.asarray(sp.values, float)[:, 0] ** 2


def test_spectrum_of_a_circular_network_is_that_of_its_law(measured):
    """KS, and the mean of λ: four standard errors over seeds.

    The distribution functions of seeds differ by some 1/c, and c is 24.
    """
    net, xs, lam = measured
    law = net.law("hidden", xs)
    assert (law.span, law.pairs) == ("hidden", 2)
    points = np.sort(lam.ravel())
    ranks = (np.arange(points.size) + 0.5) / points.size
    some = slice(None, None, 9)
    assert np.abs(law.cdf(points[some]) - ranks[some]).max() < 1 / WIDTH
    means = lam.mean(axis=1)
    error = means.std(ddof=1) / len(means) ** 0.5
    assert abs(means.mean() - law.moment(1)) < 4 * error
    # Position by position, which is another way to them.
    mean, variance = net.moments("hidden", xs)
    assert mean == pytest.approx(law.moment(1), rel=1e-6)
    assert variance == pytest.approx(law.variance, rel=1e-6)


def test_circular_laws_are_those_of_dense_layers():
    """By scheme, at the variances of the dense map."""
    xs = unit_images()
    q = [1.1**2]
    q.append(1.1**2 * square_of_tanh(q[0]))
    for scheme, arguments in (
        ("gaussian", {"weights": "gaussian"}),
        ("block_orthogonal", {"weights": "orthogonal"}),
        ("delta_orthogonal", {"weights": "orthogonal"}),
        ("orthogonal", {"weights": "orthogonal_kernel", "taps": 3}),
    ):
        net = networks.cnn([WIDTH] * 5, (SIZE,), scheme=scheme, sigma_w=1.1)
        found = net.law("hidden", xs)
        dense = theory.jacobian_law("tanh", 2, q, 1.1, **arguments)
        for k in (1, 2, 3):
            # The inputs are float32.
            assert found.moment(k) == pytest.approx(dense.moment(k), rel=1e-5)
    # End to end there are four W's and three D's. What each adds to the variance of λ
    # over its squared mean is 1 − 1/3 of a flattened kernel of three taps.
    whole = net.law("end_to_end", xs)
    assert (whole.span, whole.pairs) == ("end_to_end", None)
    q.append(1.1**2 * square_of_tanh(q[1]))
    spread = sum(theory.variance_coefficient("tanh", value) for value in q)
    relative = whole.variance / whole.moment(1) ** 2
    assert relative == pytest.approx(spread + 4 * (1 - 1 / 3), rel=1e-5)


def test_delta_kernels_average_over_positions_and_inputs():
    """Positions of different sizes keep their variances, with zero padding too."""
    sizes = np.array([0.5, 0.5, 1.0, 2.0, 2.0])[:, None]
    xs = np.asarray(unit_images(2)) * np.sqrt(sizes)
    net = networks.cnn([WIDTH] * 4, (SIZE,), sigma_w=1.0, padding="same")
    law = net.law("hidden", jnp.asarray(xs, jnp.float32))
    parts = [theory.jacobian_law("tanh", 1, q, 1.0) for q in (0.5, 1.0, 2.0)]
    for k in (1, 2):
        wanted = np.dot([0.4, 0.2, 0.4], [part.moment(k) for part in parts])
        assert law.moment(k) == pytest.approx(wanted, rel=1e-5)
    assert sum(law.shares) == pytest.approx(1)
    # A rule of few nodes stands for many variances.
    many = net.law("hidden", jnp.asarray(RNG.standard_normal((40, SIZE, WIDTH))))
    assert len(many.laws) < 10


def test_delta_kernels_are_dense_at_the_positions_that_they_read():
    """Windows of 3 begin at 0, 2 and 4 of 7, and the taps of the next at 0 and 1.

    So the middles at 1 and 3 are read, and a dense network says what happens to each.
    """
    channels, options = [6, 4, 8, 8, 4], {"sigma_w": 1.3, "sigma_b": 0.2}
    net = networks.cnn(
        channels,
        (7,),
        kernel=[3, 2, 1, 1],
        strides=[2, 1, 1, 1],
        padding="valid",
        **options,
    )
    xs = jax.random.normal(KEYS[0], (1, 7, 6))
    dense = networks.mlp(channels, "tanh", "orthogonal", **options)
    found, wanted = net.mean_field(xs), dense.mean_field(xs[0, 1:4:2])
    for field in ("q", "apjn"):
        values = np.asarray(getattr(wanted, field))[0].mean(axis=0)
        # "input" of the other holds what is read alone; "output" has the last place.
        last = np.asarray(getattr(found, field))[0, 0, -1]
        assert last == pytest.approx(values[-1], rel=1e-6), field
    assert found.at("input").apjn[0, 0] == pytest.approx(
        np.asarray(wanted.at("input").apjn).mean(), rel=1e-6
    )
    # 4 · 3 inputs by 8 · 2 outputs, of rank 4 · 2.
    law = net.law("hidden", xs)
    assert law.zero_mass == pytest.approx(1 / 3)
    assert law.structural_zeros == pytest.approx(1 / 3)
    first, last = (
        np.asarray(wanted.at(name).apjn[0]) for name in ("layers/0", "layers/2")
    )
    growth = (first / last).mean()
    # From |J|_F² over 8 outputs to the 12 values.
    assert law.moment(1) == pytest.approx(growth * 8 * 2 / 12, rel=1e-6)
    sp = isometry.ensemble(net, KEYS[:1], xs, span="hidden")
    assert np.isneginf(np.asarray(sp.log_values)).sum() == 4


def test_moments_with_zero_padding_strides_and_unequal_channels():
    """The mean of λ from sums over windows, layer by layer, of a ReLU network."""
    net = networks.cnn(
        [3, 8, 16, 12, 12, 4],
        (7,),
        kernel=[3, 3, 2, 3, 1],
        activation="relu",
        scheme="kaiming",
        padding="same",
        strides=[1, 1, 2, 1, 1],
    )
    mean, _ = net.moments("hidden", jnp.ones((1, 7, 3)))
    steps = ((7, 7, 3, 1), (7, 4, 2, 2), (4, 4, 3, 1))
    a = np.ones(7)
    for size, size_out, taps, stride in steps:
        front = max((size_out - 1) * stride + taps - size, 0) // 2
        reads = stride * np.arange(size_out)[:, None] + np.arange(taps) - front
        is_inside = (reads >= 0) & (reads < size)
        a = (a[np.clip(reads, 0, size - 1)] * is_inside).sum(axis=1) / taps
    # 12·4 outputs and 8·7 inputs.
    assert mean == pytest.approx(a.mean(), rel=1e-12)


def test_distributions_are_those_of_the_draws():
    """fan_in · Var W exactly, as |W| is fixed; and the taps of block-orthogonal ones.

    Nine outputs are more than the six inputs of a window. A projection keeps 32 ± 4 of
    64 directions, and two of them make three taps.
    """
    layer = schemes.Layer("hidden", 1, 3, fan_in=6, fan_out=27, window=(3,))
    for name in ("orthogonal", "delta_orthogonal"):
        scheme = schemes.get(name).at("linear", 1.5)
        kernel = np.asarray(scheme.initializer(layer)(KEYS[0], (3, 2, 9)), float)
        gain = scheme.drawn(layer).gain(layer)
        assert 6 * (kernel**2).mean() == pytest.approx(gain**2, rel=1e-5)
    kernel = initializers.block_orthogonal()(KEYS[0], (3, 64, 64))
    shares = (np.asarray(kernel, float) ** 2).mean(axis=(1, 2))
    expected = _cnn_law._side_variances(3, "block_orthogonal")
    np.testing.assert_allclose(shares / shares.sum(), expected, atol=3 / 16)
    np.testing.assert_allclose(expected, [0.25, 0.5, 0.25])


# --- Signals


def images(size):
    """Two images, of which one holds a part of the other."""
    xs = jax.random.normal(jax.random.key(2), (2, size, WIDTH))
    return xs.at[1].add(xs[0])


@pytest.mark.parametrize(
    "arguments",
    [
        # Zero padding, an even window, a stride, and a head.
        {"kernel": [3, 2, 3], "strides": [1, 2, 1], "head": 6},
        {"pooling": ["average", "max"], "padding": "circular"},
    ],
    ids=["head", "pooling"],
)
def test_predicted_signals_are_measured(arguments):
    """All fields at every point, also behind pooling: 4 standard errors, and 2/c."""
    arguments = {"scheme": "gaussian", "padding": "same", **arguments}
    channels = [WIDTH, WIDTH, 36, WIDTH]
    net = networks.cnn(channels, (7,), sigma_w=1.2, sigma_b=0.3, **arguments)
    require_predicted(net, images(7), seeds=16, bias=2 / WIDTH)


def test_pooling_of_relu():
    """Average pooling divides |∂|² by 2; its q is the mean of all products."""
    arguments = {"activation": "relu", "scheme": "kaiming", "pooling": "average"}
    net = networks.cnn([4, 4, 4], (6,), padding="circular", **arguments)
    predicted = net.mean_field(jnp.ones((1, 6, 4)))
    # From the output: 1 at what is pooled, ½ before it, and ½ of the slopes.
    assert predicted.at("layers/0:out").apjn[0, 0] == pytest.approx(2)
    assert predicted.at("layers/0").apjn[0, 0] == pytest.approx(0.5)
    assert predicted.at("input").apjn[0, 0] == pytest.approx(1)
    # All positions are alike, so that pooling changes nothing.
    assert predicted.at("layers/0:out").q[0, 0] == pytest.approx(1)
    assert predicted.at("output").q[0, 0] == pytest.approx(2)


def test_images_too_large_to_follow_their_correlations():
    """Before average pooling the derivatives of ReLU are known at any variance."""
    arguments = {"activation": "relu", "scheme": "kaiming"}
    xs = jnp.ones((1, 1026, 2))
    net = networks.cnn([2, 2, 2], (1026,), pooling="max", **arguments)
    predicted = net.mean_field(xs)
    assert np.isnan(predicted.at("layers/0").apjn[0, 0])
    assert np.isnan(predicted.at("output").q[0, 0])
    assert "largest" in predicted.why("apjn")
    assert "up to 1024 values" in predicted.why("q")
    net = networks.cnn([2, 2, 2], (1026,), pooling="average", **arguments)
    assert net.mean_field(xs).at("layers/0").apjn[0, 0] == pytest.approx(0.5)


# --- What has no law


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "same", "scheme": "gaussian"}, "'same'.*net.moments has mean"),
        (
            {"padding": "valid", "kernel": [3, 3, 1, 1], "scheme": "gaussian"},
            "'valid'.*no law is known",
        ),
        (
            {
                "strides": [1, 2, 1, 1],
                "scheme": "block_orthogonal",
                "padding": "circular",
            },
            r"strides \(2,\) and block_orthogonal",
        ),
        (
            {"strides": [1, 2, 1, 1], "scheme": "gaussian"},
            r"do not divide its window \(3,\).*net.moments",
        ),
        ({"pooling": "max"}, "max pooling stands in front of layer 1"),
        ({"groups": [1, 6, 6, 1]}, "layer 1 is depthwise.*depthwise_moments"),
        ({"scheme": "identity"}, "no law is known of identity"),
    ],
)
def test_networks_without_a_law(arguments, message):
    net = networks.cnn([6] * 5, (8,), **({"activation": "relu"} | arguments))
    with pytest.raises(NotDefined, match=rf"law\(\): .*{message}"):
        net.law("hidden", jnp.ones((1, 8, 6)))


def test_positions_that_differ_have_no_law_but_moments():
    net = networks.cnn([6] * 5, (8,), scheme="gaussian", sigma_w=1.5)
    xs = jnp.ones((1, 8, 6)).at[:, :2].set(3.0)
    with pytest.raises(NotDefined, match="differs between positions"):
        net.law("hidden", xs)
    assert net.moments("hidden", xs)[0] > 0
    with pytest.raises(NotDefined, match="mean over positions"):
        networks.cnn([6] * 4, (8,), head=3).law("end_to_end", xs)
    with pytest.raises(InputError, match="needs three weight layers"):
        networks.cnn([6] * 3, (8,)).law("hidden", xs)
