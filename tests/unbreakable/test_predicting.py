"""Mean field, laws, free products: a right answer or a refusal, whatever is passed."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isometry import activations, initializers, theory
from tests.unbreakable.calls import (
    ANY_ACTIVATION,
    FEW_OF,
    KEYS,
    NUMBERS,
    SIZES,
    VARIABLES,
    WHOLE,
    WRONG,
    answers,
    mostly,
    require_no_nan,
)

# Close to the largest float, 2 q in the closed form of erf is infinite.
LARGEST_Q = 1e100


def _linear(q):
    return q


def _relu(q):
    return q / 2


def _erf(q):
    """Williams (1997)."""
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


# E phi(z)^2 of a Gaussian z of variance q.
MEAN_SQUARES = {"linear": _linear, "relu": _relu, "erf": _erf}


CORRELATIONS = mostly(st.floats(-1, 1), NUMBERS)


@given(
    activation=ANY_ACTIVATION,
    q=NUMBERS,
    c=CORRELATIONS,
    sigma_w=NUMBERS,
    sigma_b=NUMBERS,
    depth=WHOLE,
)
def test_mean_field_is_in_its_range_or_refused(
    activation, q, c, sigma_w, sigma_b, depth
):
    """`q_map` against closed forms.

    Every result is a float of Python's, so that no float32 of NumPy has crept in.
    """
    done, q_next = answers(theory.q_map, activation, q, sigma_w, sigma_b)
    if done:
        assert type(q_next) is float
        if activation in MEAN_SQUARES and float(q) < LARGEST_Q:
            mean_square = MEAN_SQUARES[activation](float(q))
            expected = float(sigma_w) ** 2 * mean_square + float(sigma_b) ** 2
            assert math.isclose(q_next, expected, rel_tol=1e-12, abs_tol=1e-300)
    done, chi = answers(theory.chi, activation, q, sigma_w)
    if done:
        assert type(chi) is float
        assert chi >= 0
    done, c_next = answers(theory.c_map, activation, c, q, sigma_w, sigma_b)
    if done:
        assert type(c_next) is float
        assert -1 <= c_next <= 1
    done, qs = answers(theory.q_trajectory, activation, q, sigma_w, sigma_b, depth)
    if done:
        assert qs.dtype == np.float64
        assert not np.isnan(qs).any()
    done, coefficient = answers(theory.variance_coefficient, activation, q)
    if done:
        assert not math.isnan(coefficient)


@given(activation=ANY_ACTIVATION, q=NUMBERS, c=NUMBERS, sigma_w=NUMBERS)
def test_functions_of_an_activation_answer_or_refuse(activation, q, c, sigma_w):
    function = activation if callable(activation) else jnp.tanh
    points = c if isinstance(c, list) else ()
    answers(theory.expectation, function, q, points)
    answers(initializers.gain, activation, "chi", q)
    answers(initializers.calculate_gain, activation, c)
    answers(activations.get, activation)
    answers(theory.traced.chi, activation, q, sigma_w)


@given(activation=ANY_ACTIVATION, sigma_w=NUMBERS, sigma_b=NUMBERS)
def test_fixed_points_are_fixed_or_refused(activation, sigma_w, sigma_b):
    """|V(q*) - q*| is at most 1e-11 q*."""
    has_all, points = answers(theory.q_fixed_points, activation, sigma_w, sigma_b)
    has_one, point = answers(theory.q_fixed_point, activation, sigma_w, sigma_b)
    assert has_all or not has_one
    found = list(points) if has_all else []
    if has_one:
        found.append(point)
    for point in found:
        assert type(point.value) is float
        q_next = theory.q_map(activation, point.value, sigma_w, sigma_b)
        assert math.isclose(q_next, point.value, rel_tol=1e-11, abs_tol=1e-290)
    done, c = answers(theory.c_fixed_point, activation, sigma_w, sigma_b)
    if done:
        assert 0 <= c.value <= 1
        assert not math.isnan(c.slope)
    done, scales = answers(theory.depth_scales, activation, sigma_w, sigma_b)
    if done:
        assert all(scale >= 0 for scale in vars(scales).values())


@given(activation=ANY_ACTIVATION, q=NUMBERS, sigma_w=NUMBERS, sigma_b=NUMBERS)
def test_critical_points_have_a_chi_of_one_or_are_refused(
    activation, q, sigma_w, sigma_b
):
    done, points = answers(theory.critical_points, activation, sigma_b)
    critical = list(points) if done else []
    done, point = answers(theory.critical_at, activation, q)
    if done:
        critical.append(point)
    for point in critical:
        chi = theory.chi(activation, point.q, point.sigma_w)
        assert math.isclose(chi, 1, rel_tol=1e-11)
    sigmas_b = [sigma_b] if isinstance(sigma_b, float) else sigma_b
    done, diagram = answers(theory.phase_diagram, activation, sigma_w, sigmas_b)
    if done:
        assert not np.isnan(diagram.chi).any()


def require_measure(law, p, grid, *, variable, order, width, key):
    """The law is a measure.

    Its distribution function lies in [0, 1], its quantile inverts that, its density is
    not negative, and its moments and samples are numbers.
    """
    done, cdf = answers(law.cdf, grid, variable)
    if done:
        assert ((np.asarray(cdf) >= 0) & (np.asarray(cdf) <= 1)).all()
    done, density = answers(law.density, grid, variable)
    if done:
        assert (np.asarray(density) >= 0).all()
    done, moment = answers(law.moment, order, variable)
    if done:
        assert not math.isnan(moment)
    done, _ = answers(law.quantile, p, variable)
    if done and np.ndim(p) == 0:
        require_inverse(law, p)
    for name in ("atoms", "support", "s_max", "variance", "mean_log_lam"):
        done, value = answers(getattr, law, name)
        if done:
            require_no_nan(value, name)
    repr(law)
    done, log_normal = answers(law.finite_width, width)
    if done:
        assert log_normal.variance >= 0
    done, sample = answers(law.sample, key, (2,), variable)
    if done:
        assert sample.shape == (2,)
        require_no_nan(sample, "sample")


def require_inverse(law, p):
    """The distribution function passes p at the quantile, to within 1e-5."""
    log_s = np.asarray(law.quantile(p, "log_s"))
    if np.isneginf(log_s):
        return
    reach = 1e-6 * (1 + abs(log_s))
    assert law.cdf(log_s - reach, "log_s") <= float(p) + 1e-5
    assert law.cdf(log_s + reach, "log_s") >= float(p) - 1e-5


GRIDS = st.one_of(
    st.sampled_from(
        [[0.0, 0.5, 1.0, 3.0], -1.0, [math.nan], ["a"], [[1.0, 2.0]], math.inf]
    ),
    NUMBERS,
)
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, [0.1, 0.9], 1.5]), NUMBERS)
UNIVERSAL = (
    "fuss_catalan",
    "marchenko_pastur",
    "bernoulli_class",
    "smooth_class",
    "resnet_law",
)


# What a law is asked.
QUESTIONS = {
    "p": SHARES,
    "grid": GRIDS,
    "variable": VARIABLES,
    "order": NUMBERS,
    "width": WHOLE,
    "key": KEYS,
}

# A variance of pre-activations, or the scales from which it follows.
VARIANCES = st.one_of(
    st.fixed_dictionaries({"q": NUMBERS}),
    st.fixed_dictionaries({"q": NUMBERS, "sigma_w": NUMBERS}),
    st.fixed_dictionaries({"sigma_w": NUMBERS, "sigma_b": NUMBERS}),
)


@given(name=st.sampled_from(UNIVERSAL), value=st.one_of(NUMBERS, FEW_OF), **QUESTIONS)
def test_universal_laws_are_measures_or_refused(name, value, **questions):
    done, law = answers(getattr(theory, name), value)
    if done:
        require_measure(law, **questions)


@given(
    activation=ANY_ACTIVATION,
    depth=mostly(st.integers(1, 4), st.sampled_from([0, 2.5, None, "3", True])),
    variances=VARIANCES,
    weights=mostly(st.sampled_from(["gaussian", "orthogonal"]), st.just("haar")),
    widths=mostly(st.none(), st.one_of(st.lists(SIZES, min_size=2, max_size=5), WRONG)),
    head=mostly(st.none(), NUMBERS),
    branch_scale=mostly(st.none(), NUMBERS),
    padding=mostly(st.none(), st.sampled_from(["circular", "same", "no", 3])),
    questions=st.fixed_dictionaries(QUESTIONS),
)
def test_jacobian_laws_are_measures_or_refused(variances, questions, **arguments):
    done, law = answers(theory.jacobian_law, **arguments, **variances)
    if done:
        require_measure(law, **questions)


MASSES = mostly(
    st.sampled_from([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]),
    st.one_of(st.sampled_from([[1.0], [0.5, 0.5], [0.5], []]), WRONG),
)
POINTS = mostly(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.0]), min_size=3, max_size=3),
    st.one_of(
        st.lists(
            st.sampled_from([0.0, 0.5, 1.0, 4.0, -1.0, math.nan, 1e200]), max_size=3
        ),
        WRONG,
    ),
)


@given(values=POINTS, masses=MASSES, z=NUMBERS)
def test_free_products_are_numbers_or_refused(values, masses, z):
    done, law = answers(theory.freeprob.point_masses, values, masses)
    if done:
        answers(theory.freeprob.multiply, law, theory.fuss_catalan(1))
    else:
        answers(theory.freeprob.multiply, values)
    transformed = law if done else masses
    for transform in (
        theory.freeprob.S,
        theory.freeprob.M,
        theory.freeprob.inverse_M,
    ):
        answered, value = answers(transform, transformed, z)
        if answered:
            require_no_nan(np.abs(np.asarray(value)), transform)
