"""The law that README.md adds in one file, against closed forms."""

import pathlib
import re

import numpy as np
import pytest

from isometry.theory import laws

README = pathlib.Path(laws.__file__).parent / "README.md"


@pytest.fixture(scope="module")
def example():
    text = README.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {}
    exec(compile(code, str(README), "exec"), namespace)
    return namespace


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
