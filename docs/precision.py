"""Write docs/precision.md: what is promised beside what is measured.

`python docs/precision.py` takes about a minute. Each promise has cases, chosen to be
hard, and a reference that shares no code with what it judges: a closed form, mpmath, or
NumPy in a wider dtype. A test measures every promise again, with x64 on and off.
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize

import isometry
from isometry import initializers, linalg, networks, theory

PAGE = pathlib.Path(__file__).with_suffix(".md")
HEAD = """# Precision

Made by `python docs/precision.py`; a test measures every row again and fails where one is worse than promised, with
x64 on and off. *promised* is a multiple of a unit and *measured* the worst multiple over the cases named: 0.1 beside
4 max(m, n) eps s_max is a fortieth of what is promised. eps is that of the dtype
(1.2e-7 in float32, 2.2e-16 in float64, 7.8e-3 in bfloat16), s_max the largest singular value of the matrix.

What is below `log_floor` of a spectrum is counted as zero and never reported as a value: in float32 a dense spectrum
resolves no singular value below max(m, n) eps s_max, whatever the row below says of those above. Theory is computed in
float64 on the host whether x64 is on or off.

| quantity | dtype | promised | measured | reference | cases |
|---|---|---|---|---|---|
"""  # noqa: E501 (the page has its own width)

Matrix = Float[np.ndarray, "m n"]
Factors = Float[np.ndarray, "layers n n"]
Values = Float[np.ndarray, " values"]


@dataclass(frozen=True)
class Promise:
    """The worst error of a quantity: what is promised, and how it is measured.

    Attributes:
        quantity: What is computed.
        dtype: The dtype in which, or "host" for float64 on the host.
        promised: The largest error, in units.
        unit: What an error of 1 is.
        reference: What it is compared with.
        cases: What it is computed of.
        measure: Returns the worst error over the cases, in units, in a dtype.
    """

    quantity: str
    dtype: str
    promised: float
    unit: str
    reference: str
    cases: str
    measure: Callable[[str], float]


def relative(value: float, expected: float) -> float:
    """Return |value/expected − 1|."""
    return abs(float(value) / float(expected) - 1)


def eps_of(dtype: str) -> float:
    """Return the distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps)


def matrices() -> Iterator[Matrix]:
    """Yield matrices that are hard, exact in float32.

    Gaussian ones, square, wide and tall; graded over twelve decades; Hilbert's; of
    equal singular values.
    """
    rng = np.random.default_rng(0)
    gaussian = [rng.standard_normal(shape) for shape in ((12, 12), (5, 24), (24, 5))]
    graded = rng.standard_normal((12, 12)) * 10.0 ** -np.arange(12)
    hilbert = 1 / (np.arange(12)[:, None] + np.arange(12) + 1.0)
    orthogonal = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    for a in (*gaussian, graded, hilbert, orthogonal):
        yield in_float32(a)


def in_float32(a: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Round to float32, and return that in float64."""
    return a.astype(np.float32).astype(np.float64)


@functools.cache
def exact_values() -> list[Values]:
    """Return the singular values of `matrices` from forty digits."""
    found = []
    with mpmath.workdps(40):
        for a in matrices():
            s = mpmath.svd_r(mpmath.matrix(a.tolist()), compute_uv=False)
            found.append(np.array([float(value) for value in s]))
    return found


def dense(dtype: str) -> float:
    """Return the largest error of singular values, in max(m, n) eps s_max."""
    # One program for all shapes.
    compute = jax.jit(lambda batch: [linalg.singular_values(a) for a in batch])
    measured = compute([jnp.asarray(a, dtype) for a in matrices()])
    worst = 0.0
    for a, s, values in zip(matrices(), exact_values(), measured, strict=True):
        error = np.abs(np.asarray(values, float) - s).max()
        worst = np.maximum(worst, error / (max(a.shape) * eps_of(dtype) * s[0]))
    return worst


def extremes(dtype: str) -> float:
    """Return the error of extreme values, in the bound returned beside each."""

    @jax.jit
    def compute(a: Array) -> linalg.Extremes:
        operator = linalg.Operator.of(a)
        key = jax.random.key(0)
        return linalg.extreme_singular_values(operator, key=key, steps=12)

    worst = 0.0
    for a, s in zip(matrices(), exact_values(), strict=True):
        found = compute(jnp.asarray(a, dtype))
        # A value approximates some singular value, whichever.
        gaps = np.abs(np.asarray(found.values, float)[:, None] - s).min(1)
        worst = np.maximum(worst, float((gaps / np.asarray(found.bounds, float)).max()))
    return worst


def moments(dtype: str) -> float:
    """Return the error of exact moments of s², orders 1 to 3, in max(m, n) eps."""
    orders = (1, 2, 3)
    compute = jax.jit(lambda batch: [linalg.spectral_moments(a, orders) for a in batch])
    measured = compute([jnp.asarray(a, dtype) for a in matrices()])
    worst = 0.0
    for a, s, found in zip(matrices(), exact_values(), measured, strict=True):
        unit = max(a.shape) * eps_of(dtype)
        for k, moment in zip(orders, found, strict=True):
            worst = np.maximum(worst, relative(moment, (s ** (2 * k)).mean()) / unit)
    return worst


@functools.cache
def products() -> list[tuple[Factors, Values]]:
    """Return factors, exact in float32, with ln s of their product by mpmath."""
    rng = np.random.default_rng(1)
    shape = (60, 8, 8)
    units = (60, 8, 1)
    rotations = np.linalg.qr(rng.standard_normal(shape))[0]
    gaussian = rng.standard_normal(shape) / 8**0.5
    slopes_of_tanh = 1 - np.tanh(0.3 * rng.standard_normal(units)) ** 2
    slopes_of_leaky_relu = np.where(rng.random(units) < 0.5, 0.1, 1.0)
    six_decades = 10 ** rng.uniform(-6, 0, units) * rng.standard_normal(shape)
    # Each with digits for twice the decades between its values.
    cases = [
        (gaussian, 160),
        (slopes_of_tanh * rotations, 60),
        (slopes_of_leaky_relu * rotations, 160),
        (six_decades, 900),
    ]
    rounded = [(in_float32(factors), digits) for factors, digits in cases]
    return [(factors, log_values(factors, digits)) for factors, digits in rounded]


def log_values(factors: Factors, digits: int) -> Values:
    """Return ln s of a product, descending.

    Args:
        factors: The factors, first to last.
        digits: Decimal digits of the computation, at least twice the decades between
            the values: their squares are eigenvalues.
    """
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[1])
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        squares = mpmath.eigsy(product.T * product, eigvals_only=True)
        logs = [float(mpmath.log(square) / 2) for square in squares]
    return np.array(sorted(logs, reverse=True))


def product(dtype: str) -> float:
    """Return the error of ln s of products at every index, absolute."""
    worst = 0.0
    for factors, expected in products():
        logs = linalg.product_log_singular_values(jnp.asarray(factors, dtype))
        worst = np.maximum(worst, np.abs(np.asarray(logs, float) - expected).max())
    return worst


def jacobian(dtype: str) -> float:
    """Return the error of a Jacobian over its norm, in depth · width · eps."""
    width = 16
    net = networks.mlp([width] * 9, "tanh", "orthogonal", dtype=dtype)

    # One program, where a draw outside of it would compile some forty.
    @jax.jit
    def draw(key: Array) -> tuple:
        x = jax.random.normal(jax.random.key(1), (width,), dtype)
        return net.init(key), x

    params, x = draw(jax.random.key(0))
    z = np.asarray(x, np.longdouble)
    expected = np.eye(width, dtype=np.longdouble)
    for index, layer in enumerate(net.layers(params)):
        w, b = (np.asarray(leaf, np.longdouble) for leaf in (layer.w, layer.b))
        # Before the first weight there is no activation.
        if index:
            expected = (1 - np.tanh(z)[:, None] ** 2) * expected
            z = np.tanh(z)
        expected = w.T @ expected
        z = z @ w + b
    computed = np.asarray(isometry.jacobian(net, params, x), np.longdouble)
    square_error = ((computed - expected) ** 2).sum()
    error = np.sqrt(square_error / (expected**2).sum())
    return float(error) / (net.depth * width * eps_of(dtype))


def orthogonality(dtype: str) -> float:
    """Return the error of s of nine draws whose s are 1, in max(m, n) eps."""
    factories = (
        initializers.orthogonal(),
        initializers.zer_o(),
        initializers.partial_identity(),
    )
    shapes = ((64, 64), (64, 16), (16, 64))

    @jax.jit
    def draw(key: Array) -> list[Array]:
        pairs = itertools.product(factories, shapes)
        return [init(key, shape, jnp.dtype(dtype)) for init, shape in pairs]

    worst = 0.0
    for w in draw(jax.random.key(0)):
        s = np.linalg.svd(np.asarray(w, float), compute_uv=False)
        worst = np.maximum(worst, np.abs(s - 1).max() / (64 * eps_of(dtype)))
    return worst


SCALES = (1e-6, 0.01, 0.3, 1.0, 7.0, 100.0)


def erf_square(q: float) -> float:
    """Return E erf(√q z)²."""
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


def erf_slope(q: float) -> float:
    """Return E erf'(√q z)²."""
    return 4 / math.pi / math.sqrt(1 + 4 * q)


def averages(_: str) -> float:
    """Return the error of the maps of variance and correlation and chi_1, relative."""
    return max(max(_errors_at(q)) for q in SCALES)


def _errors_at(q: float) -> Iterator[float]:
    """Yield the errors of Gaussian averages of erf, hard tanh and ReLU at one q."""
    sigma_w, sigma_b = 1.3, 0.2
    variance = sigma_w**2 * erf_square(q) + sigma_b**2
    yield relative(theory.q_map("erf", q, sigma_w, sigma_b=sigma_b), variance)
    chi = {
        "erf": erf_slope(q),
        "hard_tanh": math.erf(1 / math.sqrt(2 * q)),
        "relu": 1 / 2,
    }
    for activation, square_slope in chi.items():
        computed = theory.chi(activation, q, sigma_w)
        yield relative(computed, sigma_w**2 * square_slope)
    for c in (-0.5, 0.3, 0.999):
        cross = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
        expected = (sigma_w**2 * cross + sigma_b**2) / variance
        computed = theory.c_map("erf", c, q, sigma_w=sigma_w, sigma_b=sigma_b)
        yield relative(computed, expected)


def exponential(_: str) -> float:
    """Return the error of the correlation map of exp, relative.

    E exp(u1) exp(u2) = exp(q (1 + c)).
    """
    sigma_b = 0.3
    worst = 0.0
    for q, c in itertools.product((0.01, 1.0, 2.0, 8.0), (-0.9, 0.0, 0.5, 0.999)):
        cross = math.exp(q * (1 + c)) + sigma_b**2
        square = math.exp(2 * q) + sigma_b**2
        computed = theory.c_map(jnp.exp, c, q, sigma_w=1.0, sigma_b=sigma_b)
        worst = np.maximum(worst, relative(computed, cross / square))
    return worst


def critical(_: str) -> float:
    """Return the error of sigma_w and sigma_b of erf at which chi_1 = 1, relative."""
    worst = 0.0
    for scale in SCALES:
        point = theory.critical_at("erf", scale)
        with mpmath.workdps(30):
            q = mpmath.mpf(scale)
            square = 2 / mpmath.pi * mpmath.asin(2 * q / (1 + 2 * q))
            sigma_w2 = mpmath.pi / 4 * mpmath.sqrt(1 + 4 * q)
            sigma_w = mpmath.sqrt(sigma_w2)
            sigma_b = mpmath.sqrt(q - sigma_w2 * square)
        error_w = relative(point.sigma_w, float(sigma_w))
        error_b = relative(point.sigma_b, float(sigma_b))
        worst = np.max([worst, error_w, error_b])
    return worst


def fixed_points(_: str) -> float:
    """Return the error of q* of erf, relative, in 1/|1 − slope|."""
    points = ((0.9, 0.1), (1.0, 0.01), (1.5, 0.05), (3.0, 0.0), (1.2, 1.0))
    worst = 0.0
    for sigma_w, sigma_b in points:
        found = theory.q_fixed_point("erf", sigma_w, sigma_b)
        gap = functools.partial(_exact_gap, sigma_w=sigma_w, sigma_b=sigma_b)
        with mpmath.workdps(30):
            expected = float(mpmath.findroot(gap, found.value))
        # Where the slope is near 1, the map says little of where it crosses.
        worst = np.maximum(
            worst, relative(found.value, expected) * abs(1 - found.slope)
        )
    return worst


def _exact_gap(q: Any, sigma_w: float, sigma_b: float) -> Any:
    """Return how far the variance map of erf goes beyond q, as numbers of mpmath."""
    square = 2 / mpmath.pi * mpmath.asin(2 * q / (1 + 2 * q))
    return sigma_w**2 * square + sigma_b**2 - q


def depth_scale(_: str) -> float:
    """Return the error of xi_c of erf in the ordered phase, in units of xi_c.

    There c* = 1 and xi_c = −1/ln chi_1.
    """
    worst = 0.0
    for sigma_w, sigma_b in ((0.5, 0.3), (0.85, 0.1), (1.0, 0.5)):
        gap = functools.partial(_gap, sigma_w=sigma_w, sigma_b=sigma_b)
        q = float(optimize.brentq(gap, 1e-6, 10.0, xtol=1e-16))  # pyright: ignore
        expected = -1 / math.log(sigma_w**2 * erf_slope(q))
        xi = theory.depth_scales("erf", sigma_w, sigma_b).xi_c
        worst = np.maximum(worst, relative(xi, expected) / expected)
    return worst


def _gap(q: float, sigma_w: float, sigma_b: float) -> float:
    """Return the same in floating point."""
    return sigma_w**2 * erf_square(q) + sigma_b**2 - q


def traced(dtype: str) -> float:
    """Return the error of chi_1 and q* of erf of `theory.traced`, relative."""
    q = np.array(SCALES[1:])
    sigma_w = jnp.asarray(1.3, dtype)
    compute_chi = jax.vmap(lambda q: theory.traced.chi("erf", q, sigma_w))
    chi = np.asarray(compute_chi(jnp.asarray(q, dtype)))
    expected_chi = 1.3**2 * 4 / np.pi / np.sqrt(1 + 4 * q)
    points = ((0.9, 0.3), (1.5, 0.05), (3.0, 0.1))
    compute_q = jax.vmap(lambda w, b: theory.traced.q_fixed_point("erf", w, b))
    fixed = np.asarray(compute_q(*jnp.asarray(points, dtype).T))
    expected = [theory.q_fixed_point("erf", w, b).value for w, b in points]
    worst_chi = np.abs(chi / expected_chi - 1).max()
    worst_q = np.abs(fixed / np.array(expected) - 1).max()
    return float(max(worst_chi, worst_q))


def edges(_: str) -> float:
    """Return the error of edges of Fuss-Catalan and Marchenko-Pastur laws, relative."""
    errors = []
    for depth in (1, 2, 8, 32, 128):
        law = theory.jacobian_law(
            "linear", depth, q=1.0, sigma_w=1.0, weights="gaussian"
        )
        top = (depth + 1) * (1 + 1 / depth) ** depth
        errors.append(relative(law.s_max**2, top))
    low, high = theory.marchenko_pastur(0.25).support[0]
    return max(*errors, relative(low, 0.25), relative(high, 2.25))


def relu_law() -> theory.Law:
    """Return a law with half its mass at zero; the rest is an arcsine law on [0, 4]."""
    return theory.jacobian_law(
        "relu", 2, q=1.0, sigma_w=math.sqrt(2.0), weights="orthogonal"
    )


def masses(_: str) -> float:
    """Return the error of the cdf of that law, and of one layer of erf, absolute."""
    lam = 4 * np.sin(np.pi / 2 * np.linspace(0.02, 0.98, 25)) ** 2
    expected = 0.5 + np.arcsin(np.sqrt(lam / 4)) / np.pi
    worst = np.abs(relu_law().cdf(lam) - expected).max()
    for q in (0.1, 1.0, 10.0):
        # lam = erf'(√q z)² = 4/π exp(−2 q z²) falls with t = 2 q z².
        t = np.linspace(0.01, 40, 25)
        lam = 4 / np.pi * np.exp(-t)
        expected = np.array([math.erfc(math.sqrt(t_i / (4 * q))) for t_i in t])
        cdf = np.asarray(theory.jacobian_law("erf", 1, q, sigma_w=1.0).cdf(lam))
        worst = np.maximum(worst, np.abs(cdf - expected).max())
    return float(worst)


def quantiles(_: str) -> float:
    """Return the error of the quantiles of the law of ReLU, relative."""
    p = np.linspace(0.51, 0.99, 25)
    expected = 4 * np.sin(np.pi / 2 * (2 * p - 1)) ** 2
    return float(np.abs(relu_law().quantile(p) / expected - 1).max())


def densities(_: str) -> float:
    """Return the error of the density of lam of Marchenko-Pastur laws, relative."""
    worst = 0.0
    for ratio in (1.0, 0.25):
        low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
        lam = low + (high - low) * np.linspace(0.001, 0.999, 40)
        root = np.sqrt((high - lam) * (lam - low))
        expected = root / (2 * np.pi * ratio * lam)
        density = theory.marchenko_pastur(ratio).density(lam)
        worst = np.maximum(worst, float(np.abs(density / expected - 1).max()))
    return worst


def law_moments(_: str) -> float:
    """Return the error of moments to order six, Fuss-Catalan numbers, relative."""
    worst = 0.0
    for depth, k in itertools.product((1, 3, 32), range(1, 7)):
        expected = math.comb((depth + 1) * k, k) / (depth * k + 1)
        worst = np.maximum(
            worst, relative(theory.fuss_catalan(depth).moment(k), expected)
        )
    return worst


HARD = "Gaussian, twelve decades, Hilbert, orthogonal, wide and tall, to 24"
DEEP = "Gaussian, tanh, leaky, rows of six decades; 60 factors, 8 × 8"
SHAPES = "64 × 64, 64 × 16, 16 × 64"


PROMISES = (
    Promise(
        quantity="singular values, dense",
        dtype="float32",
        promised=4,
        unit="max(m, n) eps s_max",
        reference="mpmath",
        cases=HARD,
        measure=dense,
    ),
    Promise(
        quantity="singular values, dense",
        dtype="float64",
        promised=4,
        unit="max(m, n) eps s_max",
        reference="mpmath",
        cases=HARD,
        measure=dense,
    ),
    Promise(
        quantity="extreme singular values, Lanczos",
        dtype="float32",
        promised=1,
        unit="bounds returned",
        reference="mpmath",
        cases=HARD,
        measure=extremes,
    ),
    Promise(
        quantity="extreme singular values, Lanczos",
        dtype="float64",
        promised=1,
        unit="bounds returned",
        reference="mpmath",
        cases=HARD,
        measure=extremes,
    ),
    Promise(
        quantity="moments of s², exact",
        dtype="float32",
        promised=4,
        unit="max(m, n) eps, relative",
        reference="mpmath",
        cases=HARD,
        measure=moments,
    ),
    Promise(
        quantity="moments of s², exact",
        dtype="float64",
        promised=4,
        unit="max(m, n) eps, relative",
        reference="mpmath",
        cases=HARD,
        measure=moments,
    ),
    Promise(
        quantity="log singular values, product",
        dtype="float32",
        promised=0.003,
        unit="absolute, at every index",
        reference="mpmath",
        cases=DEEP,
        measure=product,
    ),
    Promise(
        quantity="log singular values, product",
        dtype="float64",
        promised=1e-09,
        unit="absolute, at every index",
        reference="mpmath",
        cases=DEEP,
        measure=product,
    ),
    Promise(
        quantity="Jacobian",
        dtype="float32",
        promised=1,
        unit="depth width eps, of its norm",
        reference="long double",
        cases="tanh, depth 8",
        measure=jacobian,
    ),
    Promise(
        quantity="Jacobian",
        dtype="float64",
        promised=1,
        unit="depth width eps, of its norm",
        reference="long double",
        cases="tanh, depth 8",
        measure=jacobian,
    ),
    Promise(
        quantity="s of orthogonal, ZerO, partial identity",
        dtype="bfloat16",
        promised=4,
        unit="max(m, n) eps",
        reference="1",
        cases=SHAPES,
        measure=orthogonality,
    ),
    Promise(
        quantity="s of orthogonal, ZerO, partial identity",
        dtype="float32",
        promised=4,
        unit="max(m, n) eps",
        reference="1",
        cases=SHAPES,
        measure=orthogonality,
    ),
    Promise(
        quantity="s of orthogonal, ZerO, partial identity",
        dtype="float64",
        promised=4,
        unit="max(m, n) eps",
        reference="1",
        cases=SHAPES,
        measure=orthogonality,
    ),
    Promise(
        quantity="q_map, chi_1, c_map",
        dtype="host",
        promised=1e-09,
        unit="relative",
        reference="closed forms",
        cases="erf, hard tanh, ReLU",
        measure=averages,
    ),
    Promise(
        quantity="c_map of exp",
        dtype="host",
        promised=1e-13,
        unit="relative",
        reference="closed form",
        cases="q to 8",
        measure=exponential,
    ),
    Promise(
        quantity="critical sigma_w, sigma_b",
        dtype="host",
        promised=1e-09,
        unit="relative",
        reference="closed form",
        cases="erf, q = 1e-6 to 100",
        measure=critical,
    ),
    Promise(
        quantity="q*",
        dtype="host",
        promised=1e-09,
        unit="relative, over abs(1 − slope)",
        reference="mpmath",
        cases="erf, five points",
        measure=fixed_points,
    ),
    Promise(
        quantity="xi_c",
        dtype="host",
        promised=1e-09,
        unit="xi_c, relative",
        reference="closed form",
        cases="erf, ordered phase",
        measure=depth_scale,
    ),
    Promise(
        quantity="theory.traced: chi, q*",
        dtype="float32",
        promised=0.0001,
        unit="relative",
        reference="closed form, theory",
        cases="erf",
        measure=traced,
    ),
    Promise(
        quantity="theory.traced: chi, q*",
        dtype="float64",
        promised=1e-09,
        unit="relative",
        reference="closed form, theory",
        cases="erf",
        measure=traced,
    ),
    Promise(
        quantity="law: edges",
        dtype="host",
        promised=1e-06,
        unit="relative",
        reference="closed forms",
        cases="Gaussian, L to 128; rectangular",
        measure=edges,
    ),
    Promise(
        quantity="law: cdf",
        dtype="host",
        promised=1e-06,
        unit="absolute",
        reference="closed forms",
        cases="ReLU, L = 2; erf, L = 1",
        measure=masses,
    ),
    Promise(
        quantity="law: quantiles",
        dtype="host",
        promised=1e-06,
        unit="relative",
        reference="arcsine law",
        cases="ReLU orthogonal, L = 2",
        measure=quantiles,
    ),
    Promise(
        quantity="law: density",
        dtype="host",
        promised=1e-06,
        unit="relative",
        reference="Marchenko-Pastur",
        cases="square and 4 to 1",
        measure=densities,
    ),
    Promise(
        quantity="law: moments to order six",
        dtype="host",
        promised=1e-09,
        unit="relative",
        reference="Fuss-Catalan",
        cases="L = 1, 3, 32",
        measure=law_moments,
    ),
)


def modes(promise: Promise) -> tuple[bool, ...]:
    """Return whether x64 is on: both, where the dtype exists in both."""
    return (True,) if promise.dtype == "float64" else (True, False)


def measured(promise: Promise, x64: bool) -> float:
    """Return the worst error of a promise, with x64 on or off."""
    with jax.enable_x64(x64):
        return float(promise.measure(promise.dtype))


def page() -> str:
    """Return the page as text."""
    rows = []
    for promise in PROMISES:
        worst = max(measured(promise, x64) for x64 in modes(promise))
        cells = (
            promise.quantity,
            promise.dtype,
            f"{promise.promised:g} {promise.unit}",
            f"{worst:.1e}",
            promise.reference,
            promise.cases,
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
