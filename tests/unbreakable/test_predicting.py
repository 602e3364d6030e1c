"""Mean field, laws and free products: a right answer or a refusal, whatever is passed."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isometry import activations, initializers, theory
from tests.unbreakable.calls import (
    ANY_ACTIVATION,
    FEW_OF,
    NUMBERS,
    SIZES,
    VARIABLES,
    WHOLE,
    WRONG,
    answers,
    kept,
)

CURVES = {
    "linear": lambda q: q,
    "relu": lambda q: q / 2,
    "erf": lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),  # Williams (1997)
}


@given(activation=ANY_ACTIVATION, q=NUMBERS, c=NUMBERS, sigma_w=NUMBERS, sigma_b=NUMBERS, depth=WHOLE)
def test_mean_field(activation, q, c, sigma_w, sigma_b, depth):
    """q_map against closed forms; every result a float of Python's, so that no NumPy float32 has crept in."""
    done, found = answers(theory.q_map, activation, q, sigma_w, sigma_b)
    if done:
        assert type(found) is float
        if activation in CURVES and float(q) < 1e100:
            truth = float(sigma_w) ** 2 * CURVES[activation](float(q)) + float(sigma_b) ** 2
            assert math.isclose(found, truth, rel_tol=1e-12, abs_tol=1e-300)
    done, found = answers(theory.chi, activation, q, sigma_w)
    assert not done or (type(found) is float and found >= 0)
    done, found = answers(theory.c_map, activation, c, q, sigma_w, sigma_b)
    assert not done or (type(found) is float and -1 <= found <= 1)
    done, found = answers(theory.q_trajectory, activation, q, sigma_w, sigma_b, depth)
    assert not done or (found.dtype == np.float64 and not np.isnan(found).any())
    done, found = answers(theory.variance_coefficient, activation, q)
    assert not done or not math.isnan(found)
    answers(theory.expectation, activation if callable(activation) else jnp.tanh, q, c if isinstance(c, list) else ())
    answers(initializers.gain, activation, "chi", q)
    answers(initializers.calculate_gain, activation, c)
    answers(activations.get, activation)
    answers(theory.traced.chi, activation, q, sigma_w)


@given(activation=ANY_ACTIVATION, q=NUMBERS, sigma_w=NUMBERS, sigma_b=NUMBERS)
def test_fixed_points(activation, q, sigma_w, sigma_b):
    """A fixed point is one: |V(q*) − q*| ≤ 1e-12 q*."""
    done, points = answers(theory.q_fixed_points, activation, sigma_w, sigma_b)
    reached, point = answers(theory.q_fixed_point, activation, sigma_w, sigma_b)
    assert done or not reached
    for p in [*(points if done else []), *([point] if reached else [])]:
        assert type(p.value) is float
        assert math.isclose(theory.q_map(activation, p.value, sigma_w, sigma_b), p.value, rel_tol=1e-11, abs_tol=1e-290)
    done, c = answers(theory.c_fixed_point, activation, sigma_w, sigma_b)
    assert not done or (0 <= c.value <= 1 and not math.isnan(c.slope))
    done, scales = answers(theory.depth_scales, activation, sigma_w, sigma_b)
    assert not done or not any(math.isnan(v) or v < 0 for v in vars(scales).values())
    done, points = answers(theory.critical_points, activation, sigma_b)
    for p in points if done else []:
        assert math.isclose(theory.chi(activation, p.q, p.sigma_w), 1, rel_tol=1e-11)
    done, p = answers(theory.critical_at, activation, q)
    if done:
        assert math.isclose(theory.chi(activation, p.q, p.sigma_w), 1, rel_tol=1e-11)
    done, diagram = answers(
        theory.phase_diagram, activation, sigma_w, [sigma_b] if isinstance(sigma_b, float) else sigma_b
    )
    assert not done or not np.isnan(diagram.chi).any()


def check_law(law, p, grid, variable, k):
    """A measure: cdf rises from 0 to 1, quantile inverts it, the density is not negative, moments are numbers."""
    done, found = answers(law.cdf, grid, variable)
    assert not done or ((np.asarray(found) >= 0) & (np.asarray(found) <= 1)).all()
    done, found = answers(law.density, grid, variable)
    assert not done or (np.asarray(found) >= 0).all()
    done, found = answers(law.moment, k, variable)
    assert not done or not math.isnan(found)
    done, x = answers(law.quantile, p, variable)
    if done and np.ndim(p) == 0:
        x = np.asarray(law.quantile(p, "log_s"))
        reach = 1e-6 * (1 + abs(np.nan_to_num(x)))
        below, at = law.cdf(x - reach, "log_s"), law.cdf(x + reach, "log_s")
        assert np.isneginf(x) or (below <= float(p) + 1e-5 and at >= float(p) - 1e-5)
    for name in ("atoms", "support", "s_max", "variance", "mean_log_lam"):
        done, found = answers(getattr, law, name)
        if done:
            kept(found, name)
    answers(repr, law)
    answers(law.finite_width, k)
    answers(law.sample, k, p)


GRIDS = st.one_of(st.sampled_from([[0.0, 0.5, 1.0, 3.0], -1.0, [math.nan], ["a"], [[1.0, 2.0]], math.inf]), NUMBERS)
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, [0.1, 0.9], 1.5]), NUMBERS)


@given(
    name=st.sampled_from(["fuss_catalan", "marchenko_pastur", "bernoulli_class", "smooth_class", "resnet_law"]),
    value=st.one_of(NUMBERS, FEW_OF),
    p=SHARES,
    grid=GRIDS,
    variable=VARIABLES,
    k=NUMBERS,
)
def test_universal_laws(name, value, p, grid, variable, k):
    done, law = answers(getattr(theory, name), value)
    if done:
        check_law(law, p, grid, variable, k)


@given(
    activation=ANY_ACTIVATION,
    depth=st.one_of(st.integers(1, 4), st.sampled_from([0, 2.5, None, "3", True])),
    q=st.one_of(st.none(), NUMBERS),
    sigma_w=st.one_of(st.none(), NUMBERS),
    sigma_b=st.one_of(st.none(), st.none(), NUMBERS),
    weights=st.sampled_from(["gaussian", "orthogonal", "haar"]),
    widths=st.one_of(st.none(), st.none(), st.lists(SIZES, min_size=2, max_size=5), WRONG),
    head=st.one_of(st.none(), st.none(), NUMBERS),
    branch=st.one_of(st.none(), st.none(), NUMBERS),
    padding=st.sampled_from([None, None, "circular", "same", "no", 3]),
    p=SHARES,
    grid=GRIDS,
    variable=VARIABLES,
)
def test_jacobian_laws(
    activation, depth, q, sigma_w, sigma_b, weights, widths, head, branch, padding, p, grid, variable
):
    done, law = answers(
        theory.jacobian_law,
        activation,
        depth,
        q,
        sigma_w,
        sigma_b,
        weights,
        widths=widths,
        head=head,
        branch_scale=branch,
        padding=padding,
    )
    if done:
        check_law(law, p, grid, variable, 1)


@given(
    values=st.one_of(st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.0, -1.0, math.nan, 1e200]), max_size=3), WRONG),
    masses=st.one_of(st.sampled_from([[1.0], [0.5, 0.5], [0.2, 0.3, 0.5], [0.5], []]), WRONG),
    z=NUMBERS,
)
def test_free_products(values, masses, z):
    done, law = answers(theory.freeprob.point_masses, values, masses)
    answers(theory.freeprob.multiply, *([law, theory.fuss_catalan(1)] if done else [values]))
    for f in (theory.freeprob.S, theory.freeprob.M, theory.freeprob.inverse_M):
        found, value = answers(f, law if done else masses, z)
        if found:
            kept(np.abs(np.asarray(value)), f)
