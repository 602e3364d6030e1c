"""Differentiable theory.

Values and gradients against the host, and the example that uses it.
"""

import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, theory
from isometry.theory import traced


@pytest.mark.parametrize("name", ["hard_tanh", "gelu"])
def test_fixed_point_and_its_gradient(name):
    value, (d_w, d_b) = jax.jit(
        jax.value_and_grad(lambda w, b: traced.q_fixed_point(name, w, b), (0, 1))
    )(1.2, 0.3)
    point = theory.q_fixed_point(name, 1.2, 0.3)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(point.value, rel=2e-6 / abs(1 - point.slope))
    # implicit: dq/dsigma_b = 2 sigma_b/(1 − V'), dq/dsigma_w = 2 (q −
    # sigma_b²)/sigma_w/(1 − V')
    assert float(d_b) == pytest.approx(2 * 0.3 / (1 - point.slope), rel=1e-5)
    assert float(d_w) == pytest.approx(
        2 * (point.value - 0.09) / 1.2 / (1 - point.slope), rel=1e-5
    )


def test_float64_where_the_caller_is():
    with jax.enable_x64(True):
        chi, q = jax.jit(
            lambda: (
                traced.chi("tanh", 0.7, 1.3),
                traced.q_fixed_point("tanh", 1.1, 0.3),
            )
        )()
    assert chi.dtype == q.dtype == jnp.float64
    assert float(chi) == pytest.approx(theory.chi("tanh", 0.7, 1.3), rel=1e-12)
    assert float(q) == pytest.approx(
        theory.q_fixed_point("tanh", 1.1, 0.3).value, rel=1e-11
    )


def test_what_does_not_exist_is_marked_and_has_no_gradient():
    f = jax.jit(
        jax.vmap(
            jax.value_and_grad(lambda w, b: traced.q_fixed_point("relu", w, b), (0, 1))
        )
    )
    value, gradient = f(jnp.array([1.0, 1.6, 0.9]), jnp.array([0.5, 0.1, 0.0]))
    np.testing.assert_allclose(value, [0.5, np.inf, 0.0], rtol=2e-6)
    np.testing.assert_allclose(gradient[0], [2 * 0.25 / 0.5, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(gradient[1], [2.0, 0, 0], rtol=1e-5)


def test_gradient_in_a_parameter_of_the_activation():
    """chi_1 of max(u − k, 0) is P(u > k).

    Its derivative is minus the density, through a kink that moves.
    """
    k, q = 0.2, 0.5
    slope = jax.jit(
        jax.grad(
            lambda k: traced.chi(lambda x: jnp.maximum(x - k, 0), q, 1.0, kinks=(k,))
        )
    )(k)
    assert float(slope) == pytest.approx(
        -math.exp(-(k**2) / (2 * q)) / math.sqrt(2 * math.pi * q), rel=1e-5
    )


def test_unnamed_kinks_are_found_or_asked_for():
    def phi(x):
        return jnp.maximum(x - 0.3, 0)

    want = 0.5 * math.erfc(0.3 / math.sqrt(2 * 0.7))
    assert float(jax.jit(lambda q: traced.chi(phi, q, 1.0))(0.7)) == pytest.approx(
        want, rel=1e-5
    )
    with pytest.raises(
        InputError,
        match=r"traced\.chi\(\): .* closes over traced values.* or kinks=\(\) if",
    ):
        jax.grad(lambda k: traced.chi(lambda x: jnp.maximum(x - k, 0), 0.5, 1.0))(0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: traced.chi("tanh", 0.0, 1.0), r"traced\.chi\(\): q=0\.0"),
        (
            lambda: traced.q_fixed_point("tanh", -1.0, 1.0),
            r"traced\.q_fixed_point\(\): sigma_w=-1\.0",
        ),
        (
            lambda: traced.q_fixed_point("tan", 1.0, 1.0),
            r"activation='tan' is not known",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_example_tunes_to_criticality(capsys):
    path = pathlib.Path(__file__).parents[2] / "examples" / "tune_activation.py"
    example = runpy.run_path(str(path))
    a = example["tune"]()
    assert "step  0" in capsys.readouterr().out

    def phi(x):
        return jnp.tanh(a * x)

    q = theory.q_fixed_point(phi, 1.5, 0.3).value
    assert theory.chi(phi, q, 1.5) == pytest.approx(1, abs=1e-5)
