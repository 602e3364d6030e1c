"""Gaussian expectations against mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import InputError, theory


@pytest.mark.parametrize(
    ("g", "reference"),
    [
        (jnp.tanh, None),
        (lambda u: jnp.tanh(u) ** 2, lambda u: mpmath.tanh(u) ** 2),
        (lambda u: jax.nn.softplus(u), lambda u: mpmath.log(1 + mpmath.exp(u))),
        (
            lambda u: jax.nn.gelu(u, approximate=False) ** 2,
            lambda u: (u * mpmath.ncdf(u)) ** 2,
        ),
    ],
)
@pytest.mark.parametrize("q", [0.01, 2.5])
def test_expectation_against_mpmath(g, reference, q):
    def weighted(z):
        return reference(mpmath.sqrt(q) * z) * mpmath.npdf(z)

    want = (
        0.0 if reference is None else float(mpmath.quad(weighted, [-12, -4, 0, 4, 12]))
    )
    assert theory.expectation(g, q) == pytest.approx(want, rel=1e-12, abs=1e-13)


def test_moments_and_a_point_mass():
    assert theory.expectation(lambda u: u**4, 2.0) == pytest.approx(12, rel=1e-13)
    assert theory.expectation(lambda u: np.asarray(u) ** 2) == pytest.approx(
        1, rel=1e-13
    )
    assert theory.expectation(lambda u: u + 3, 0.0) == pytest.approx(3, rel=1e-13)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"g": None}, "g=None is no function"),
        ({"kinks": 1.0}, r"kinks=1\.0 is no list"),
        ({"kinks": ["a"]}, "kinks='a'"),
    ],
)
def test_expectation_refuses_what_is_no_function_or_kink(arguments, words):
    with pytest.raises(InputError, match=rf"^expectation\(\): {words}"):
        theory.expectation(**({"g": jnp.abs} | arguments))
