"""Laws and moments of residual networks against what is measured."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from isometry._internal.errors import NotDefined

# --- Laws


@pytest.mark.parametrize(("norm", "norm_at"), [("rms", "pre"), ("layer", "post")])
def test_measured_spectrum_has_the_law(norm, norm_at):
    """Eight draws of width 64, with biases; not if all values are a fifth larger."""
    net = networks.resnet(
        64,
        3,
        "tanh",
        branch=0.8,
        sigma_w=1.3,
        sigma_b=0.4,
        norm=norm,
        norm_at=norm_at,
    )
    xs = 1.2 * jax.random.normal(jax.random.key(1), (1, 64))
    keys = jax.random.split(jax.random.key(0), 8)
    sp = isometry.ensemble(net, keys, xs, span="hidden")
    law = net.law("hidden", xs)
    comparison = isometry.compare(sp, law)
    assert comparison.consistent, comparison.summary()
    zeros = 2 / 64 if norm_at == "post" else 0
    assert law.zero_mass == pytest.approx(zeros, abs=1e-12)
    stretched = dataclasses.replace(sp, log_values=sp.log_values + math.log(1.2))
    assert not isometry.compare(stretched, law).consistent
    mean, variance = net.moments("hidden", xs)
    # Infinite width has no zeros.
    assert law.moment(1) == pytest.approx((1 - zeros) * mean, rel=1e-9)
    relative = variance / mean**2 + zeros / (1 - zeros)
    assert law.variance == pytest.approx(law.moment(1) ** 2 * relative, rel=1e-9)


def test_norms_in_closed_form():
    """ReLU He branches behind a norm in front of them add 1 to q: g_l = 1/q_l.

    Behind the sum a norm divides E λ = 1 + 1 by q = 1 + 1 in every block, that of the
    last behind the hidden span. The variance
    of two Gaussian layers with slopes between them is Σ (2g + 3g²)/(1 + g)². In
    inference before training batch norm divides by 1.
    """
    xs = jnp.tile(jnp.array([-1.0, 1.0]), 4)[None]
    arguments = {"sigma_w": 2**0.5, "branch": 0.5**0.5}
    pre = networks.resnet(8, 4, "relu", norm="layer", **arguments)
    mean, variance = pre.moments("hidden", xs)
    g = 1 / np.arange(1.0, 5.0)
    # The norm's epsilon is 1e-5.
    assert mean == pytest.approx(5, rel=1e-4)
    spread = ((2 * g + 3 * g**2) / (1 + g) ** 2).sum()
    assert variance / mean**2 == pytest.approx(spread, rel=1e-4)
    post = networks.resnet(8, 4, "relu", norm="layer", norm_at="post", **arguments)
    assert post.moments("hidden", xs).mean == pytest.approx(2, rel=1e-4)
    mean, variance = post.moments("end_to_end", xs)
    assert mean == pytest.approx(1, rel=1e-4)
    assert variance == pytest.approx(4 * (2 + 3) / 4, rel=1e-4)
    batch = networks.resnet(8, 4, "relu", norm="batch", **arguments)
    assert batch.moments("hidden", xs).mean == pytest.approx(2**4, rel=1e-4)


def test_scheme_sets_the_scale():
    """He weights: E λ = Π(1 + 2 branch²). Without branches J is the identity."""
    xs = jnp.ones((1, 4))
    plain = networks.resnet(8, 2, "relu", "kaiming", n_in=4, branch=[0.5, 1.0])
    mean, _ = plain.moments("hidden", xs)
    assert mean == pytest.approx((1 + 0.25 * 2) * (1 + 2), rel=1e-6)
    bare = networks.resnet(8, 2, "tanh", "kaiming", n_in=4, branch=0.0)
    assert bare.moments("hidden", xs) == (1.0, 0.0)


def test_slopes_on_a_stream_that_starts_with_ones():
    """x + W relu(x) at x = 1: slopes 1, then 1 with probability p = Φ(1).

    A unit is at 1 + z behind the first block. So E λ = 2 (1 + p), and Var/E² is the sum
    of (2g + g²k)/(1 + g)² with g = 1, k = 1 and then g = p, k = 1/p. Units are sampled:
    4 standard errors.
    """
    net = networks.resnet(8, 2, "relu", order="pre_activation", sigma_w=1.0)
    active = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    mean, variance = net.moments("hidden", jnp.ones((3, 8)))
    # 2**16 units, and a slope has the deviation √(p(1 − p)).
    error = math.sqrt(active * (1 - active)) / 2**8
    assert mean == pytest.approx(2 * (1 + active), abs=4 * 2 * error)
    # The slopes of the first block are all 1, so that the blocks are free.
    spread = (2 + 1) / 4 + (2 * active + active) / (1 + active) ** 2
    assert variance / mean**2 == pytest.approx(spread, rel=1e-2)


# --- What is not known


@pytest.mark.parametrize(
    ("arguments", "span", "message"),
    [
        ({"order": "v2"}, "hidden", r"law\(\): no law is known for order='v2'"),
        ({"n_out": 3}, "end_to_end", r'a stem or a head; take span="hidden"'),
        ({"width": [8, 6]}, "hidden", r"blocks of different widths"),
        ({"scheme": "zer_o"}, "hidden", r"no law is known of zer_o"),
        ({"skip": [1.0, 0.0]}, "hidden", r"skip is 0 in block 1"),
    ],
)
def test_refusals(arguments, span, message):
    net = networks.resnet(**{"width": 8, "blocks": 2, "activation": "tanh"} | arguments)
    with pytest.raises(InputError, match=message):
        net.law(span, jnp.ones((1, 8)))


def test_inputs_of_zero():
    """The slope of ReLU at zero is 0 in JAX, and not the limit ½ of small values."""
    net = networks.resnet(8, 2, "relu", sigma_w=1.0, bias=False)
    for ask in (net.law, net.moments):
        with pytest.raises(NotDefined, match="an activation of block 0 reads is zero"):
            ask("hidden", jnp.zeros((1, 8)))
    on_stream = networks.resnet(8, 2, "relu", order="pre_activation", sigma_w=1.0)
    assert on_stream.moments("hidden", jnp.zeros((1, 8))) == (1.0, 0.0)
    assert np.asarray(on_stream.mean_field(jnp.zeros((1, 8))).apjn[0, 0, 0]) == 1.0


def test_batches_have_no_law():
    batch = networks.resnet(4, 2, norm="batch").training
    for ask in (batch.law, batch.moments):
        with pytest.raises(NotDefined, match=r"theory\.batch_norm_growth"):
            ask("hidden", jnp.ones((1, 8, 4)))
    with pytest.raises(InputError, match=r"shape \(8, 4\)"):
        batch.law("hidden", jnp.ones((1, 8, 5)))
