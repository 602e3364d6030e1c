"""What theory predicts of transformers, against measured signals."""

import jax
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry._internal import errors

SEEDS = 24
WIDTH = 48
# Tokens with a mean over features, and of which some are alike.
XS = np.asarray(jax.random.normal(jax.random.key(1), (2, 3, WIDTH))) + np.float32(0.3)
XS[:, 1] += XS[:, 0]
XS = jax.device_put(XS)
TOKENS = jax.device_put(np.array([[1, 2, 3], [0, 2, 1]], np.int32))


@pytest.mark.parametrize(
    ("options", "xs"),
    [
        (
            {"scheme": "deep_norm", "norm_at": "post", "causal": False, "branch": 0.5},
            XS,
        ),
        ({"scheme": "gpt2", "vocabulary": 4, "positions": "learned"}, TOKENS),
    ],
)
def test_signals_of_tokens(options, xs):
    """All fields at every point, of 24 draws of width 48; the bias is 1/width."""
    net = networks.transformer(WIDTH, 2, heads=1, mlp=2, length=3, **options)
    predicted = net.mean_field(xs)
    keys = jax.random.split(jax.random.key(0), SEEDS)
    measured = isometry.signals(net, keys, xs, span=predicted.span)
    assert predicted.points == measured.points
    assert predicted.sizes == measured.sizes
    # Each norm takes two of 48 directions from a gradient.
    biases = {"q": 0.1, "c": 0.1, "apjn": 3.0, "chi": 3.0, "gradient": 3.0}
    for field, share in biases.items():
        values = np.asarray(getattr(measured, field), float)
        theory = np.asarray(getattr(predicted, field)[0])
        off = values.mean(axis=0) - theory
        error = values.std(axis=0, ddof=1) / SEEDS**0.5
        # A norm behind a weak signal hardly scatters, and has this bias.
        bias = share / WIDTH * np.abs(theory) + 1e-5
        # NaN where some path leads around the point.
        assert (np.isnan(values[0]) == np.isnan(theory)).all()
        assert not (np.abs(off) > 4.5 * error + bias).any(), field
    assert "path leads" in predicted.why("chi")


def test_multipliers_of_the_scheme_are_those_of_the_prediction():
    """DeepNorm's α = (2 N)^(1/4) on the skip: its square, √6, multiplies q."""
    net = networks.transformer(
        WIDTH, 3, heads=2, length=3, scheme="deep_norm", norm_at="post"
    )
    sig = net.mean_field(XS)
    branch = "blocks/attention/output[0]"
    points = ("input", f"{branch}:out", f"{branch}:sum")
    start, added, stream = (np.asarray(sig.at(name).q) for name in points)
    assert stream == pytest.approx(6**0.5 * start + added, rel=1e-7)


def test_refusals_name_the_reason():
    def net(**options):
        return networks.transformer(WIDTH, 1, heads=2, length=3, **options)

    with pytest.raises(errors.NotDefined, match="no law is known of xavier"):
        net(scheme="xavier").mean_field(XS)
    with pytest.raises(errors.NotDefined, match="shaped"):
        net(attention="shaped").mean_field(XS)
    with pytest.raises(errors.NotDefined, match=r"theory\.attention_moments"):
        net().moments("hidden", XS)
    with pytest.raises(errors.NotDefined, match=r"theory\.uniform_attention_law"):
        net().law("hidden", XS)
    with pytest.raises(isometry.InputError, match="xs is"):
        net().mean_field(XS[:, :2])
    with pytest.raises(isometry.InputError, match="write tokens"):
        net(vocabulary=4).mean_field(XS)
    biased = net().with_scheme("gaussian", sigma_b=0.1)
    with pytest.raises(errors.NotDefined, match="sigma_b=0"):
        biased.mean_field(XS)
