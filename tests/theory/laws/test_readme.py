"""The laws that README.md adds in one file each, against closed forms."""

import math
import pathlib
import re

import numpy as np
import pytest

from isometry import theory
from isometry.theory import laws

README = pathlib.Path(laws.__file__).parent / "README.md"


@pytest.fixture(scope="module")
def example():
    text = README.read_text()
    namespace = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, str(README), "exec"), namespace)
    return namespace


def test_dropout_from_factors_that_exist(example):
    """A masked layer of Haar weights has the values of its diagonal; means multiply."""
    one = example["dropout_law"](0.8, 0.3, depth=1)
    assert [(a.lam, a.mass) for a in one.atoms] == [
        (0.0, pytest.approx(0.2)),
        (pytest.approx(0.09 / 0.8), pytest.approx(0.4)),
        (pytest.approx(1 / 0.8), pytest.approx(0.4)),
    ]
    three = example["dropout_law"](0.8, 0.3, depth=3)
    assert three.moment(1) == pytest.approx(((1 + 0.09) / 2) ** 3, rel=1e-12)
    assert three._integral(np.exp) == pytest.approx(three.moment(1), rel=1e-9)


def test_whitening_is_the_inverse_of_marchenko_pastur(example):
    """λ = 1/x with x Marchenko-Pastur of c = 3, edges (√c ± 1)²; E λ = 1/(c − 1)."""
    law = example["whitening_law"](3.0, depth=1)
    inverse = theory.marchenko_pastur(1 / 3)
    root = math.sqrt(3)
    edges = (root + 1) ** -2, (root - 1) ** -2
    assert law.support == (pytest.approx(edges, rel=1e-12),)
    p = np.array([1e-6, 0.1, 0.5, 0.999])
    x = 3 * inverse.quantile(1 - p)
    np.testing.assert_allclose(law.quantile(p), 1 / x, rtol=1e-9)
    assert law.moment(1) == pytest.approx(0.5, rel=1e-12)
    assert example["whitening_law"](3.0, depth=2)._integral(np.exp) == pytest.approx(
        0.25, rel=1e-9
    )


@pytest.mark.parametrize(
    ("square", "depth", "low", "high", "below_one"),
    [
        (1 / 4, 1, 0.136167443, 3.098207557, None),
        (1 / 2, 2, 0.009603121, 10.217252, 0.434348),
        (1 / 8, 8, 0.035969066, 16.788075, 0.482495),
    ],
)
def test_linear_residual_blocks(example, square, depth, low, high, below_one):
    """Edges and P(λ < 1) from the polynomial λ(u), digits as printed."""
    law = example["linear_residual_law"](square, depth)
    assert law.support == (pytest.approx((low, high), rel=5e-8),)
    if below_one is not None:
        assert law.cdf(1.0) == pytest.approx(below_one, abs=5.1e-7)
    # E λ = (1 + a²)^L, and its relative variance Σ (2g + g²)/(1 + g)².
    assert law.moment(1) == pytest.approx((1 + square) ** depth, rel=1e-12)
    spread = depth * (2 * square + square**2) / (1 + square) ** 2
    assert law.product.relative_variance == pytest.approx(spread, rel=1e-12)
    assert law._integral(np.exp) == pytest.approx(law.moment(1), rel=1e-8)
