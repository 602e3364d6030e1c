"""Writes docs/precision.md, what is promised beside what is measured: `python docs/precision.py` (about a minute).

Each promise has cases, chosen to be hard, and a reference that shares no code with what it judges: a closed form,
mpmath, or numpy in a wider dtype. A test measures every promise again, with x64 on and off.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
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
"""


class Promise(NamedTuple):
    """The worst error of a quantity, in `unit`s: what is promised, and how it is measured."""

    quantity: str
    dtype: str
    promised: float
    unit: str
    reference: str
    cases: str
    measure: Callable[[str], float]


def relative(found: float, want: float) -> float:
    """|found/want − 1|."""
    return abs(float(found) / float(want) - 1)


def matrices() -> Iterator[np.ndarray]:
    """Gaussian, graded over twelve decades, Hilbert's, of equal singular values; wide and tall; exact in float32."""
    rng = np.random.default_rng(0)
    hilbert = 1 / (np.arange(12)[:, None] + np.arange(12) + 1.0)
    for a in (
        *(rng.standard_normal(shape) for shape in ((12, 12), (5, 24), (24, 5))),
        rng.standard_normal((12, 12)) * 10.0 ** -np.arange(12),
        hilbert,
        np.linalg.qr(rng.standard_normal((12, 12)))[0],
    ):
        yield a.astype(np.float32).astype(np.float64)


@functools.cache
def exact_values() -> list[np.ndarray]:
    """Singular values of `matrices` at forty digits."""
    with mpmath.workdps(40):
        return [
            np.array([float(s) for s in mpmath.svd_r(mpmath.matrix(a.tolist()), compute_uv=False)]) for a in matrices()
        ]


def dense(dtype: str) -> float:
    """In max(m, n) eps s_max."""
    eps = float(jnp.finfo(dtype).eps)
    of_all = jax.jit(lambda batch: [linalg.singular_values(a) for a in batch])
    measured = of_all([jnp.asarray(a, dtype) for a in matrices()])
    return max(
        np.abs(np.asarray(found, float) - s).max() / (max(a.shape) * eps * s[0])
        for a, s, found in zip(matrices(), exact_values(), measured, strict=True)
    )


def extremes(dtype: str) -> float:
    """In the bound that is returned beside each value."""
    find = jax.jit(lambda a: linalg.extreme_singular_values(linalg.Operator.of(a), key=jax.random.key(0), steps=12))
    worst = 0.0
    for a, s in zip(matrices(), exact_values(), strict=True):
        found = find(jnp.asarray(a, dtype))
        gaps = np.abs(np.asarray(found.values, float)[:, None] - s).min(1)
        worst = max(worst, float((gaps / np.asarray(found.bounds, float)).max()))
    return worst


def moments(dtype: str) -> float:
    """In max(m, n) eps, relative."""
    worst = 0.0
    of_all = jax.jit(lambda batch: [linalg.spectral_moments(a, (1, 2, 3)) for a in batch])
    measured = of_all([jnp.asarray(a, dtype) for a in matrices()])
    for a, s, found in zip(matrices(), exact_values(), measured, strict=True):
        each = [relative(m, (s ** (2 * k)).mean()) for k, m in zip((1, 2, 3), found, strict=True)]
        worst = max(worst, max(each) / (max(a.shape) * float(jnp.finfo(dtype).eps)))
    return worst


@functools.cache
def products() -> list[tuple[np.ndarray, np.ndarray]]:
    """Factors, exact in float32, and the log singular values of their product by mpmath."""
    rng = np.random.default_rng(1)
    turns = np.linalg.qr(rng.standard_normal((60, 8, 8)))[0]
    cases = [
        (rng.standard_normal((60, 8, 8)) / 8**0.5, 160),
        ((1 - np.tanh(0.3 * rng.standard_normal((60, 8, 1))) ** 2) * turns, 60),
        (np.where(rng.random((60, 8, 1)) < 0.5, 0.1, 1.0) * turns, 160),
        (10 ** rng.uniform(-6, 0, (60, 8, 1)) * rng.standard_normal((60, 8, 8)), 900),
    ]
    exact = [(f.astype(np.float32).astype(np.float64), digits) for f, digits in cases]
    return [(f, log_values(f, digits)) for f, digits in exact]


def log_values(factors: np.ndarray, digits: int) -> np.ndarray:
    """ln of the singular values of the product, descending; twice the decades between them must fit `digits`."""
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[1])
        for factor in factors:
            product = mpmath.matrix(factor.tolist()) * product
        squares = mpmath.eigsy(product.T * product, eigvals_only=True)
        return np.array(sorted((float(mpmath.log(v) / 2) for v in squares), reverse=True))


def product(dtype: str) -> float:
    """Absolute, in log s, at every index."""
    return max(
        np.abs(np.asarray(linalg.product_log_singular_values(jnp.asarray(f, dtype)), float) - want).max()
        for f, want in products()
    )


def jacobian(dtype: str) -> float:
    """In depth · width · eps, relative to the norm."""
    net = networks.mlp([16] * 9, activation="tanh", scheme="orthogonal", dtype=dtype)

    # One program: drawn operation by operation it would be some forty.
    @jax.jit
    def draw(key: jax.Array) -> tuple:
        return net.init(key), jax.random.normal(jax.random.key(1), (16,), dtype)

    params, x = draw(jax.random.key(0))
    h, want = np.asarray(x, np.longdouble), np.eye(16, dtype=np.longdouble)
    for index, layer in enumerate(net.layers(params)):
        w, b = (np.asarray(v, np.longdouble) for v in (layer.w, layer.b))
        if index:
            want, h = (1 - np.tanh(h)[:, None] ** 2) * want, np.tanh(h)
        want, h = w.T @ want, h @ w + b
    found = np.asarray(isometry.jacobian(net, params, x), np.longdouble)
    error = np.sqrt((abs(found - want) ** 2).sum() / (want**2).sum())
    return float(error) / (net.depth * 16 * float(jnp.finfo(dtype).eps))


def orthogonality(dtype: str) -> float:
    """Of nine draws, in max(m, n) eps of the dtype."""
    inits = (initializers.orthogonal(), initializers.zer_o(), initializers.partial_identity())
    shapes = ((64, 64), (64, 16), (16, 64))

    @jax.jit
    def draw(key: jax.Array) -> list[jax.Array]:
        return [init(key, shape, jnp.dtype(dtype)) for init in inits for shape in shapes]

    worst = 0.0
    for w in draw(jax.random.key(0)):
        s = np.linalg.svd(np.asarray(w, float), compute_uv=False)
        worst = max(worst, np.abs(s - 1).max() / (64 * float(jnp.finfo(dtype).eps)))
    return worst


SCALES = (1e-6, 0.01, 0.3, 1.0, 7.0, 100.0)


def erf_square(q: float) -> float:
    """E erf(√q z)²."""
    return 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


def erf_slope(q: float) -> float:
    """E erf'(√q z)²."""
    return 4 / math.pi / math.sqrt(1 + 4 * q)


def averages(_: str) -> float:
    """Relative, of the variance map, chi_1 and the correlation map of erf, hard tanh and ReLU."""
    worst = 0.0
    for q in SCALES:
        worst = max(
            worst,
            relative(theory.q_map("erf", q, 1.3, 0.2), 1.3**2 * erf_square(q) + 0.2**2),
            relative(theory.chi("erf", q, 1.3), 1.3**2 * erf_slope(q)),
            relative(theory.chi("hard_tanh", q, 1.3), 1.3**2 * math.erf(1 / math.sqrt(2 * q))),
            relative(theory.chi("relu", q, 1.3), 1.3**2 / 2),
        )
        for c in (-0.5, 0.3, 0.999):
            cross = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
            square = 1.3**2 * erf_square(q) + 0.2**2
            worst = max(worst, relative(theory.c_map("erf", c, q, 1.3, 0.2), (1.3**2 * cross + 0.2**2) / square))
    return worst


def exponential(_: str) -> float:
    """Relative, of the correlation map of exp: E exp(u1) exp(u2) = exp(q (1 + c))."""
    worst = 0.0
    for q in (0.01, 1.0, 2.0, 8.0):
        for c in (-0.9, 0.0, 0.5, 0.999):
            expected = (math.exp(q * (1 + c)) + 0.3**2) / (math.exp(2 * q) + 0.3**2)
            worst = max(worst, relative(theory.c_map(jnp.exp, c, q, 1.0, 0.3), expected))
    return worst


def critical(_: str) -> float:
    """Relative, sigma_w of erf at which chi_1 = 1, and sigma_b."""
    worst = 0.0
    for q in SCALES:
        point = theory.critical_at("erf", q)
        with mpmath.workdps(30):
            spread = mpmath.mpf(2) / mpmath.pi * mpmath.asin(mpmath.mpf(2) * q / (1 + mpmath.mpf(2) * q))
            sigma_w2 = mpmath.pi / 4 * mpmath.sqrt(1 + 4 * mpmath.mpf(q))
            sigma_b = mpmath.sqrt(q - sigma_w2 * spread)
        worst = max(worst, relative(point.sigma_w, float(mpmath.sqrt(sigma_w2))), relative(point.sigma_b, sigma_b))
    return worst


def fixed_points(_: str) -> float:
    """q* of erf in 1/|1 − slope|, relative."""
    worst = 0.0
    for sigma_w, sigma_b in ((0.9, 0.1), (1.0, 0.01), (1.5, 0.05), (3.0, 0.0), (1.2, 1.0)):
        found = theory.q_fixed_point("erf", sigma_w, sigma_b)
        with mpmath.workdps(30):
            want = mpmath.findroot(
                lambda q, w=sigma_w, b=sigma_b: w**2 * 2 / mpmath.pi * mpmath.asin(2 * q / (1 + 2 * q)) + b**2 - q,
                found.value,
            )
        worst = max(worst, relative(found.value, float(want)) * abs(1 - found.slope))
    return worst


def depth_scale(_: str) -> float:
    """xi_c of erf in the ordered phase, where c* = 1 and xi_c = −1/ln chi_1; in units of xi_c."""
    worst = 0.0
    for sigma_w, sigma_b in ((0.5, 0.3), (0.85, 0.1), (1.0, 0.5)):
        q: Any = optimize.brentq(
            lambda q, w=sigma_w, b=sigma_b: w**2 * erf_square(q) + b**2 - q, 1e-6, 10.0, xtol=1e-16
        )
        want = -1 / math.log(sigma_w**2 * erf_slope(q))
        worst = max(worst, relative(theory.depth_scales("erf", sigma_w, sigma_b).xi_c, want) / want)
    return worst


def traced(dtype: str) -> float:
    """chi_1 and q* of erf, relative."""
    q = np.array(SCALES[1:])
    chi = jax.vmap(lambda q: theory.traced.chi("erf", q, jnp.asarray(1.3, dtype)))(jnp.asarray(q, dtype))
    want = 1.3**2 * 4 / np.pi / np.sqrt(1 + 4 * q)
    sigma_w, sigma_b = np.array([(0.9, 0.3), (1.5, 0.05), (3.0, 0.1)]).T
    fixed_point = jax.vmap(lambda w, b: theory.traced.q_fixed_point("erf", w, b))
    found = fixed_point(jnp.asarray(sigma_w, dtype), jnp.asarray(sigma_b, dtype))
    fixed = [theory.q_fixed_point("erf", w, b).value for w, b in zip(sigma_w, sigma_b, strict=True)]
    return float(max(np.abs(np.asarray(chi) / want - 1).max(), np.abs(np.asarray(found) / fixed - 1).max()))


def edges(_: str) -> float:
    """Relative, s_max² of linear Gaussian products (Fuss-Catalan), and both edges of Marchenko-Pastur."""
    depths = (1, 2, 8, 32, 128)
    tops = [
        relative(theory.jacobian_law("linear", n, 1.0, 1.0, weights="gaussian").s_max ** 2, (n + 1) * (1 + 1 / n) ** n)
        for n in depths
    ]
    low, high = theory.marchenko_pastur(0.25).support[0]
    return max(*tops, relative(low, 0.25), relative(high, 2.25))


def masses(_: str) -> float:
    """Absolute, cdf of ReLU orthogonal at L = 2 (half at zero, the rest an arcsine law) and of one layer of erf."""
    law = theory.jacobian_law("relu", 2, 1.0, math.sqrt(2.0), weights="orthogonal")
    lam = 4 * np.sin(np.pi / 2 * np.linspace(0.02, 0.98, 25)) ** 2
    worst = np.abs(law.cdf(lam) - 0.5 - np.arcsin(np.sqrt(lam / 4)) / np.pi).max()
    for q in (0.1, 1.0, 10.0):
        lam = 4 / np.pi * np.exp(-np.linspace(0.01, 40, 25))
        want = [math.erfc(math.sqrt(math.log(4 / math.pi / x) / (4 * q))) for x in lam]
        found = np.asarray(theory.jacobian_law("erf", 1, q, 1.0).cdf(lam))
        worst = max(worst, np.abs(found - want).max())
    return float(worst)


def quantiles(_: str) -> float:
    """Relative, of the same law."""
    law = theory.jacobian_law("relu", 2, 1.0, math.sqrt(2.0), weights="orthogonal")
    p = np.linspace(0.51, 0.99, 25)
    return float(np.abs(law.quantile(p) / (4 * np.sin(np.pi / 2 * (2 * p - 1)) ** 2) - 1).max())


def densities(_: str) -> float:
    """Relative, of lam: Marchenko-Pastur, square and not."""
    worst = 0.0
    for ratio in (1.0, 0.25):
        low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
        lam = low + (high - low) * np.linspace(0.001, 0.999, 40)
        want = np.sqrt((high - lam) * (lam - low)) / (2 * np.pi * ratio * lam)
        worst = max(worst, float(np.abs(theory.marchenko_pastur(ratio).density(lam) / want - 1).max()))
    return worst


def law_moments(_: str) -> float:
    """Relative, to order six: Fuss-Catalan numbers."""
    return max(
        relative(theory.fuss_catalan(n).moment(k), math.comb((n + 1) * k, k) / (n * k + 1))
        for n in (1, 3, 32)
        for k in range(1, 7)
    )


HARD = "Gaussian, twelve decades, Hilbert, orthogonal, wide and tall, to 24"
DEEP = "Gaussian, tanh, leaky, rows of six decades; 60 factors, 8 × 8"
SHAPES = "64 × 64, 64 × 16, 16 × 64"
BOTH = ("float32", "float64")
PROMISES = (
    *(Promise("singular values, dense", d, 4, "max(m, n) eps s_max", "mpmath", HARD, dense) for d in BOTH),
    *(Promise("extreme singular values, Lanczos", d, 1, "bounds returned", "mpmath", HARD, extremes) for d in BOTH),
    *(Promise("moments of s², exact", d, 4, "max(m, n) eps, relative", "mpmath", HARD, moments) for d in BOTH),
    Promise("log singular values, product", "float32", 3e-3, "absolute, at every index", "mpmath", DEEP, product),
    Promise("log singular values, product", "float64", 1e-9, "absolute, at every index", "mpmath", DEEP, product),
    *(
        Promise("Jacobian", d, 1, "depth width eps, of its norm", "long double", "tanh, depth 8", jacobian)
        for d in BOTH
    ),
    *(
        Promise("s of orthogonal, ZerO, partial identity", d, 4, "max(m, n) eps", "1", SHAPES, orthogonality)
        for d in ("bfloat16", *BOTH)
    ),
    Promise("q_map, chi_1, c_map", "host", 1e-9, "relative", "closed forms", "erf, hard tanh, ReLU", averages),
    Promise("c_map of exp", "host", 1e-13, "relative", "closed form", "q to 8", exponential),
    Promise("critical sigma_w, sigma_b", "host", 1e-9, "relative", "closed form", "erf, q = 1e-6 to 100", critical),
    Promise("q*", "host", 1e-9, "relative, over abs(1 − slope)", "mpmath", "erf, five points", fixed_points),
    Promise("xi_c", "host", 1e-9, "xi_c, relative", "closed form", "erf, ordered phase", depth_scale),
    Promise("theory.traced: chi, q*", "float32", 1e-4, "relative", "closed form, theory", "erf", traced),
    Promise("theory.traced: chi, q*", "float64", 1e-9, "relative", "closed form, theory", "erf", traced),
    Promise("law: edges", "host", 1e-6, "relative", "closed forms", "Gaussian, L to 128; rectangular", edges),
    Promise("law: cdf", "host", 1e-6, "absolute", "closed forms", "ReLU, L = 2; erf, L = 1", masses),
    Promise("law: quantiles", "host", 1e-6, "relative", "arcsine law", "ReLU orthogonal, L = 2", quantiles),
    Promise("law: density", "host", 1e-6, "relative", "Marchenko-Pastur", "square and 4 to 1", densities),
    Promise("law: moments to order six", "host", 1e-9, "relative", "Fuss-Catalan", "L = 1, 3, 32", law_moments),
)


def measured(promise: Promise, x64: bool) -> float:
    """The worst error; what asks for float64 of the device needs x64."""
    with jax.enable_x64(x64):
        return float(promise.measure(promise.dtype))


def page() -> str:
    """The page as text."""
    rows = []
    for p in PROMISES:
        worst = max(measured(p, x64) for x64 in modes(p))
        rows.append(
            f"| {p.quantity} | {p.dtype} | {p.promised:g} {p.unit} | {worst:.1e} | {p.reference} | {p.cases} |\n"
        )
    return HEAD + "".join(rows)


def modes(promise: Promise) -> tuple[bool, ...]:
    """With x64 on and off, where the dtype exists in both."""
    return (True,) if promise.dtype == "float64" else (True, False)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
