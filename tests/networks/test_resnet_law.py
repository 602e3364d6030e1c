"""Laws and moments of residual networks against what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks


def test_measured_spectrum_has_the_law():
    """Four draws of width 150 stay within 0.015, of which 0.006 is their own noise."""
    net = networks.resnet(150, 3, "tanh", "gaussian", branch=0.8, sigma_w=1.3)
    xs = 1.2 * jax.random.normal(jax.random.key(1), (1, 150))
    keys = jax.random.split(jax.random.key(0), 4)
    sp = isometry.ensemble(net, keys, xs, span="hidden")
    log_s = np.sort(np.asarray(sp.log_values).ravel())
    place = (np.arange(len(log_s)) + 0.5) / len(log_s)
    law = net.law("hidden", xs)
    assert np.abs(law.cdf(log_s, "log_s") - place).max() < 0.015
    assert net.moments("hidden", xs) == pytest.approx(
        (law.moment(1), law.variance), rel=1e-12
    )


def test_scheme_sets_the_scale():
    """He weights: E λ = Π(1 + 2 branch²). Without branches J is the identity."""
    xs = jnp.ones((1, 4))
    plain = networks.resnet(8, 2, "relu", "kaiming", n_in=4, branch=[0.5, 1.0])
    mean, _ = plain.moments("hidden", xs)
    assert mean == pytest.approx((1 + 0.25 * 2) * (1 + 2), rel=1e-6)
    bare = networks.resnet(8, 2, "tanh", "kaiming", n_in=4, branch=0.0)
    assert bare.moments("hidden", xs) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "span", "message"),
    [
        ({"order": "v2"}, "hidden", r"law\(\): no law is known for order='v2'"),
        ({"norm": "layer"}, "hidden", r"norm='layer'"),
        ({"n_out": 3}, "end_to_end", r'a stem or a head; take span="hidden"'),
        ({"sigma_w": 1.0, "sigma_b": 0.1}, "hidden", r"biases, and sigma_b is 0\.1"),
        ({"scheme": "zer_o"}, "hidden", r"no law is known of zer_o"),
    ],
)
def test_refusals(arguments, span, message):
    net = networks.resnet(8, 2, "tanh", **arguments)
    with pytest.raises(InputError, match=message):
        net.law(span, jnp.ones((1, 8)))
