"""What theory predicts of recurrent networks, against measured signals and spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry._internal import errors

SEEDS = 24
XS = jax.random.normal(jax.random.key(1), (2, 3, 8))
SCALES = {"sigma_w": 1.2, "sigma_v": 0.7, "sigma_b": 0.3}


def _standardized(net, fields):
    """Return (measured − predicted)/standard error of all fields at all points."""
    predicted = net.mean_field(XS)
    keys = jax.random.split(jax.random.key(0), SEEDS)
    measured = isometry.signals(net, keys, XS)
    # Of gated networks theory knows the states alone.
    places = [measured.points.index(name) for name in predicted.points]
    for field in fields:
        # On the host, where taking a point out of an array is no program.
        of_all = np.asarray(getattr(measured, field), float)[..., places]
        theory = np.asarray(getattr(predicted, field)[0])
        for index, name in enumerate(predicted.points):
            values = of_all[..., index]
            off = values.mean(axis=0) - theory[..., index]
            error = values.std(axis=0, ddof=1) / SEEDS**0.5
            # Values without any scatter are equal but for float32.
            yield name, field, off / (error + 1e-6)


@pytest.mark.parametrize("scheme", ["gaussian", "orthogonal"])
def test_signals_of_vanilla_networks(scheme):
    """Every field at every point, of 24 draws of width 96; the bias is 1/width."""
    net = networks.rnn(96, 8, 3, scheme=scheme, **SCALES)
    fields = ("q", "c", "gradient", "apjn", "chi")
    points = set()
    for name, field, off in _standardized(net, fields):
        points.add(name)
        # NaN where theory has no value, or there is none.
        assert (np.isnan(off) | (np.abs(off) < 4.5)).all(), (name, field, off)
    assert len(points) == 14
    assert net.mean_field(XS).why("chi").startswith("not defined at points around")


@pytest.mark.parametrize("cell", ["lstm", "minimal"])
def test_states_of_gated_networks(cell):
    """q and c of h after three steps; theory itself is right to one percent."""
    net = networks.rnn(96, 8, 3, cell, scheme="gaussian", **SCALES)
    for name, field, off in _standardized(net, ("q", "c")):
        assert (np.abs(off) < 5).all(), (name, field, off)
    assert np.isnan(net.mean_field(XS).at("h@0").apjn).all()
    assert "theory.recurrent" in net.mean_field(XS).why("apjn")


def test_law_between_two_states():
    """Mean and second moment of 8 draws: bias and error are of order 1/width."""
    net = networks.rnn(96, 8, 3, scheme="gaussian", **SCALES)
    mean, variance = net.moments(("h@0", "h@2"), XS)
    law = net.law(("h@0", "h@2"), XS)
    assert law.pairs == 2
    keys = jax.random.split(jax.random.key(0), 8)
    sp = isometry.ensemble(net, keys, XS, span=("h@0", "h@2"))
    first, second = (np.asarray(sp.moment(k)).ravel() for k in (1, 2))
    for values, predicted in ((first, mean), (second, variance + mean**2)):
        error = values.std(ddof=1) / len(values) ** 0.5
        # The two inputs have variances of their own, and the law that of their mean.
        assert abs(values.mean() - predicted) < 4 * error + 0.05 * predicted


@pytest.mark.parametrize("cell", ["minimal", "lstm"])
def test_law_of_one_gated_step_has_its_moments(cell):
    """The law and the moments are of the same gates, by different formulas."""
    net = networks.rnn(16, 8, 3, cell, scheme="gaussian", **SCALES)
    law = net.law(("h@0", "h@1"), XS)
    moments = net.moments(("h@0", "h@1"), XS)
    assert (law.moment(1), law.variance) == pytest.approx(moments, rel=1e-6)
    assert len(law.laws) == len(XS)


def test_refusals_name_the_reason():
    vanilla = networks.rnn(16, 8, 2)
    gru = networks.rnn(16, 8, 2, "gru")
    with pytest.raises(errors.NotDefined, match="reset stands between"):
        gru.law(("h@0", "h@1"), XS)
    with pytest.raises(errors.NotDefined, match="gates multiply the state"):
        gru.moments(("h@0", "h@2"), XS)
    with pytest.raises(errors.NotDefined, match="Gaussian weights"):
        gru.moments(("h@0", "h@1"), XS)
    with pytest.raises(errors.NotDefined, match="between two states"):
        vanilla.law("hidden", XS)
    with pytest.raises(isometry.InputError, match="3 steps"):
        vanilla.law(("h@0", "h@3"), XS)
    with pytest.raises(isometry.InputError, match="shape"):
        vanilla.mean_field(jnp.ones((2, 3, 7)))
    with pytest.raises(errors.NotDefined, match="identity"):
        networks.rnn(16, 8, 2, scheme="identity").mean_field(XS)
    chrono = networks.rnn(16, 8, 2, "gru", gate_bias=networks.chrono(20))
    with pytest.raises(errors.NotDefined, match="chrono"):
        chrono.mean_field(XS)
