"""Intervals over seeds, beside what width adds to them."""

import jax
import pytest

from isometry import compare, theory
from isometry.comparison import _seeds
from tests.comparison.drawn import drawn


def test_bands_shrink_with_seeds_and_with_width():
    law = theory.fuss_catalan(2)
    sp = drawn("linear", "gaussian", 2, 48, 1.0, 40)
    few = compare(jax.tree.map(lambda a: a[:10], sp), law).band["mean"]
    many = compare(sp, law).band["mean"]
    assert many.seeds < 0.75 * few.seeds
    assert many.width == pytest.approx(few.width, rel=0.2)
    wide = compare(drawn("linear", "gaussian", 2, 192, 1.0, 10), law).band["mean"]
    assert wide.width < 0.4 * few.width
    # 200 resamples have a standard error of 5 %.
    keyed = compare(sp, law, key=jax.random.key(0)).band["mean"]
    assert keyed.seeds == pytest.approx(many.seeds, rel=0.25)


def test_quantiles_of_student():
    """As printed in tables; of many degrees of freedom it is the normal one."""
    printed = {1: 12.7062, 9: 2.2622, 10**9: 1.9600}
    for freedom, value in printed.items():
        assert _seeds.t_quantile(0.975, freedom) == pytest.approx(value, abs=5e-5)
