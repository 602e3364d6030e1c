"""Gradients of every weight, and that underflow is not zero."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks
from isometry.verdicts import _gradients
from isometry.verdicts.flags import zero_gradient
from tests.verdicts import measuring, planted
from tests.verdicts.measuring import rounding
from tests.verdicts.planted import KEY, inputs, one_seed, record

# A network of twelve layers that loses 2^-POWER in each of them.
DEPTH, POWER = 12, 25
WIDTH = 12
NET = networks.mlp([6, *[WIDTH] * (DEPTH - 1), 3], "relu", "gaussian")

# Forth and back through all layers.
ROUNDING = rounding(2 * DEPTH, WIDTH)


def total(output, target):
    """A loss that is linear, so that gradients scale as the network does."""
    return output.sum()


@pytest.fixture(scope="module")
def drawn():
    params = measuring.drawn(NET, 2**0.5, seeds=2)
    certificates = record(NET, params, inputs(4, 6)).certificates
    return params, certificates


def measured(drawn, power):
    """The networks of `drawn` with every weight divided by 2^power: nothing rounds."""
    params, certificates = drawn
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(2.0**-power), params)
    # No certificate depends on the scale.
    return record(
        NET, scaled, inputs(4, 6), loss=total, num_steps=0, certificates=certificates
    )


def test_norms_are_those_of_the_gradient_of_each_example(drawn):
    """Against `jax.grad`, weight by weight, of a network whose layers are stacked."""
    result = measured(drawn, 0)
    subject, task = result.subject, result.task
    found = result.gradients
    # Of three examples the last is the last of all.
    x, target = subject.xs[-1], task.targets[-1]
    one = subject.params_of(1)
    gradient = jax.jit(jax.grad(lambda p: total(NET(p, x), target)))(one)
    norms = [
        np.linalg.norm(matrix) for run in gradient["layers"] for matrix in run["w"]
    ]
    assert found.layers[:2] == ("layers/0", "layers/1[0]")
    np.testing.assert_allclose(np.exp(found.log_norm[1, -1]), norms, rtol=ROUNDING)


def test_what_underflows_float32_is_found_in_float64(drawn):
    """2^-275 = 1e-83: ln of the norms shifts by what homogeneity says."""
    plain = measured(drawn, 0).gradients
    result = measured(drawn, POWER)
    small = result.gradients
    assert plain.underflows == ()
    assert small.underflows == small.layers
    shift = POWER * (DEPTH - 1) * math.log(2)
    np.testing.assert_allclose(small.log_norm, plain.log_norm - shift, atol=ROUNDING)
    flag = zero_gradient.judge(result, KEY)
    assert flag.state == "clear"
    assert "(12 weights) underflows float32: see vanishing" in flag.reason


def test_what_underflows_float64_too_is_undecided(drawn):
    """2^-1100."""
    flag = zero_gradient.judge(measured(drawn, 4 * POWER), KEY)
    assert flag.state == "undecided"
    assert "underflows float64 too" in flag.reason


def test_a_kernel_underflows_as_a_matrix_does():
    def deep(params, x):
        for _ in range(8):
            x = planted.convolved(x, params["kernel"])
        return x.mean((0, 1))

    params = planted.drawn({"kernel": (3, 3, 1, 1)})
    xs = inputs(4, 5, 5, 1)
    plain = record(deep, one_seed(params), xs, loss=total, num_steps=0).gradients
    params["kernel"] *= np.float32(2.0**-40)
    small = record(deep, one_seed(params), xs, loss=total, num_steps=0).gradients
    assert small.underflows == ("kernel",)
    shift = 7 * 40 * math.log(2)
    # Sums over the nine taps, eight times forth and back.
    np.testing.assert_allclose(
        small.log_norm, plain.log_norm - shift, atol=rounding(16, 9)
    )


def test_units_that_are_saturated_in_float32_have_no_gradient():
    """sigmoid'(25) = 1.4e-11 in float64, and 0 in float32, in which it is trained."""

    def f(params, x):
        return jax.nn.sigmoid(x @ params["w"] + 25) @ params["head"]

    params = planted.drawn({"w": (6, 8), "head": (8, 3)})
    params["w"] *= 0.1
    found = record(f, one_seed(params), inputs(4, 6), loss=total).gradients
    assert found.zeros == ("w",)
    assert found.underflows == ()
    assert found.lost == ""


def test_gradients_that_cancel_are_no_underflow():
    """Four equal outputs: the softmax is 1/4 each, and the head of ones adds up zeros.

    In thirds, the sum of the normalized gradients would leave a rest in float64.
    """

    def f(params, x):
        return jnp.tanh(x @ params["w"]) @ params["head"]

    params = planted.drawn({"w": (6, 8), "head": (8, 4)})
    params["head"] = np.ones_like(params["head"])
    found = record(f, one_seed(params), inputs(4, 6)).gradients
    assert found.zeros == ("w",)
    assert found.underflows == ()


def test_a_function_that_insists_on_its_dtype_is_said_to_be_unknown():
    def f(params, x):
        w = params["w"].astype(jnp.float32)
        return x.astype(jnp.float32) @ w @ w

    params = planted.drawn({"w": (6, 6)})
    xs = inputs(4, 6)
    certificates = record(f, one_seed(params), xs).certificates
    params["w"] *= np.float32(1e-30)
    small = record(
        f,
        one_seed(params),
        xs,
        loss=lambda y, t: np.float32(1e-30) * y.sum(),
        certificates=certificates,
    )
    assert small.gradients.zeros == ("w",)
    assert small.gradients.lost == "f computes in float32 whatever its parameters are"


def test_a_batch_norm_of_a_single_input_gets_a_batch():
    """Of one example, it would return zeros, and no weight a gradient."""

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
            return nn.Dense(3)(x)

    net = networks.flax(Normed(), jnp.zeros(4))
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    result = record(net, params, inputs(9, 4), num_inputs=1, certificates=())
    assert result.gradients.mode == "training"
    assert result.gradients.log_norm.shape == (1, 1, 2)
    assert np.isfinite(result.gradients.log_norm).all()


def test_without_certificates_nothing_is_measured_again(drawn):
    result = measured(drawn, POWER)
    found = _gradients.gradients(result.subject, result.task)
    assert found.underflows == ()
    assert len(found.zeros) > 0
