"""Predicted laws against finite random matrices, and what finite width changes."""

import functools
import itertools
import math

import numpy as np
import pytest

from isometry import activations, theory
from isometry._internal.errors import NotDefined
from isometry.theory.mean_field._host import on_host


def test_circular_convolution_has_the_dense_law():
    """Gaussian kernels of three taps on a ring of six positions.

    ReLU masks drawn anew at each.
    """
    ring, channels, rng = 6, 100, np.random.default_rng(3)
    j = np.eye(ring * channels)
    for _ in range(2):
        taps = rng.standard_normal((3, channels, channels)) * math.sqrt(
            2 / (3 * channels)
        )
        w = sum(
            np.kron(np.roll(np.eye(ring), t - 1, axis=1), taps[t]) for t in range(3)
        )
        j = (rng.random(ring * channels) < 0.5)[:, None] * (w @ j)
    lam = np.sort(np.linalg.svd(j, compute_uv=False) ** 2)
    law = theory.jacobian_law("relu", 2, q=1.0, weights="gaussian", padding="circular")
    grid = np.linspace(1e-9, 10, 50)
    assert (
        np.abs(np.searchsorted(lam, grid) / lam.size - law.cdf(grid)).max()
        < 4 * math.sqrt(0.5 / lam.size) + 2 / channels
    )


def test_residual_blocks_approach_their_law():
    """Mean and spread of log s lie within 1/L and sampling error of the law.

    Here α = L^−½.
    """
    depth, width, rng, alpha = 32, 150, np.random.default_rng(4), 32**-0.5
    law = theory.jacobian_law("relu", depth, q=1.0, sigma_w=1.0, branch_scale=alpha)
    assert law.moment(1) == pytest.approx(
        math.exp(0.5), rel=1e-12
    )  # c = Σ α² E phi'² = ½
    j = np.eye(width)
    for _ in range(depth):
        w = rng.standard_normal((width, width)) / math.sqrt(width)
        j = j + alpha * (rng.random(width) < 0.5)[:, None] * (w @ j)
    lam = np.sort(np.linalg.svd(j, compute_uv=False) ** 2)
    grid = np.linspace(0.1, 6, 50)
    assert (
        np.abs(np.searchsorted(lam, grid) / width - law.cdf(grid)).max()
        < 1 / depth + 4 / width
    )


def _product(law_of, depth, width, weights, q, sigma_w, rng):
    """lam of D_L W_L … D_1 W_1 by plain numpy."""
    phi, j = activations.get(law_of), np.eye(width)
    for _ in range(depth):
        w = rng.standard_normal((width, width))
        if weights == "orthogonal":
            basis, upper = np.linalg.qr(w)
            w = sigma_w * basis * np.sign(np.diag(upper))
        else:
            w *= sigma_w / math.sqrt(width)
        slope = on_host(phi.slope, math.sqrt(q) * rng.standard_normal(width))
        j = slope[:, None] * (w @ j)
    return np.linalg.svd(j, compute_uv=False) ** 2


@pytest.mark.parametrize(
    ("phi", "depth", "q", "weights"),
    [
        ("hard_tanh", 8, 0.25, "orthogonal"),
        ("relu", 2, 1.0, "gaussian"),
        ("tanh", 4, 0.5, "orthogonal"),
    ],
)
def test_against_random_matrices(phi, depth, q, weights):
    """Kolmogorov distance of pooled draws.

    1/width of bias, and depth masses that vary by √(p(1 − p)/(seeds·width)).
    """
    width, seeds, rng = 300, 6, np.random.default_rng(0)
    sigma_w = theory.critical_at(phi, q).sigma_w
    law = theory.jacobian_law(phi, depth, q=q, weights=weights)
    lam = np.sort(
        np.concatenate(
            [
                _product(phi, depth, width, weights, q, sigma_w, rng)
                for _ in range(seeds)
            ]
        )
    )
    grid = np.r_[1e-12, np.linspace(0.02, 1.2, 40) * law.s_max**2]
    measured = np.searchsorted(lam, grid, side="right") / lam.size
    allowed = 4 * math.sqrt(depth * 0.25 / (seeds * width)) + 2 / width
    assert np.abs(measured - law.cdf(grid)).max() < allowed
    wrong = theory.jacobian_law(
        phi, depth, q=q, sigma_w=1.3 * sigma_w, weights=weights
    )  # the check can fail
    assert np.abs(measured - wrong.cdf(grid)).max() > allowed


def test_path_law_and_rectangles():
    """One q a layer, and layers of unequal width, against random matrices."""
    rng, qs, sigma_w = np.random.default_rng(1), [0.5, 0.4, 0.3], 1.1
    law = theory.jacobian_law("hard_tanh", 3, q=qs, sigma_w=sigma_w)
    p = [math.erf(1 / math.sqrt(2 * q)) for q in qs]
    assert law.atoms[-1].mass == pytest.approx(1 - sum(1 - x for x in p), rel=1e-12)
    assert law.atoms[-1].lam == pytest.approx(sigma_w**6, rel=1e-12)
    assert law.atoms[0].mass == pytest.approx(1 - min(p), rel=1e-12)
    sizes = (400, 200, 300)
    law = theory.jacobian_law("linear", 2, q=1.0, weights="gaussian", widths=sizes)
    j = np.eye(sizes[0])
    for n, m in itertools.pairwise(sizes):
        j = rng.standard_normal((m, n)) / math.sqrt(n) @ j
    lam = np.linalg.svd(j, compute_uv=False) ** 2
    assert law.structural_zeros == pytest.approx(1 / 3)
    assert law.atoms[0] == pytest.approx((0.0, 1 / 3))
    assert lam.mean() == pytest.approx(law.moment(1), rel=0.05)
    grid = np.linspace(0.1, 7, 30)
    assert (
        np.abs(np.searchsorted(np.sort(lam), grid) / lam.size - law.cdf(grid)).max()
        < 6 / 200
    )


@pytest.mark.parametrize(
    ("phi", "weights", "sizes"),
    [
        ("relu", "orthogonal", (100, 200, 300)),
        ("tanh", "orthogonal", (100, 200, 200)),
        ("leaky_relu", "orthogonal", (300, 150, 50)),
        ("tanh", "gaussian", (100, 150, 50, 100)),
    ],
)
def test_widening_and_narrowing_layers(phi, weights, sizes):
    """Mass, mean and distribution.

    Masks may cost exactly the rank that the weights leave.
    """
    rng, q, record = np.random.default_rng(5), 0.5, activations.get(phi)
    law = theory.jacobian_law(
        phi, len(sizes) - 1, q, 1.2, weights=weights, widths=sizes
    )
    assert law._integral(np.ones_like) == pytest.approx(law.product.rank, abs=1e-7)
    assert law._integral(np.exp) == pytest.approx(law.moment(1), rel=1e-8)
    j = np.eye(sizes[0])
    for n, m in itertools.pairwise(sizes):
        w = rng.standard_normal((m, n))
        if weights == "orthogonal":
            u, _, v = np.linalg.svd(w, full_matrices=False)
            w = u @ v
        else:
            w /= math.sqrt(n)
        j = (
            1.2
            * on_host(record.slope, math.sqrt(q) * rng.standard_normal(m))[:, None]
            * (w @ j)
        )
    lam = np.sort(np.linalg.svd(j, compute_uv=False) ** 2)
    grid = np.linspace(0.02, 1, 30) * law.s_max**2
    assert np.abs(
        np.searchsorted(lam, grid) / lam.size - law.cdf(grid)
    ).max() < 6 / min(sizes)


@pytest.mark.parametrize(
    ("phi", "weights", "sizes", "q"),
    [
        pytest.param(
            "leaky_relu",
            "gaussian",
            (100, 30, 10, 784, 100),
            1.0,
            marks=pytest.mark.slow,
        ),
        ("leaky_relu", "orthogonal", (30, 100, 128, 10), 1.0),
        ("tanh", "orthogonal", (10, 30, 50, 50), 0.01),
        # Far above the support of this one ψ is below its rounding.
        ("tanh", "orthogonal", (10, 30, 50, 50), 1.0),
    ],
)
def test_layers_of_very_unequal_width(phi, weights, sizes, q):
    """Mass and mean of the whole, and gaps inside the support.

    Matrices four times as large have nothing there.
    """
    rng, record, scale = (
        np.random.default_rng(6),
        activations.get(phi),
        theory.critical_at(phi, q).sigma_w,
    )
    law = theory.jacobian_law(phi, len(sizes) - 1, q, weights=weights, widths=sizes)
    steps = list(itertools.pairwise(sizes))
    kept = (
        sizes[-1]
        if weights == "gaussian"
        else sizes[0] * math.prod(min(1, m / n) for n, m in steps)
    )
    assert law._integral(np.ones_like) == pytest.approx(law.product.rank, abs=1e-9)
    assert law._integral(np.exp) == pytest.approx(
        kept / min(sizes[0], sizes[-1]), rel=1e-9
    )
    assert (len(law.support) > 1) == (phi == "leaky_relu")
    parts = []
    for n, m in steps:
        w = rng.standard_normal((4 * m, 4 * n)) / math.sqrt(4 * n)
        if weights == "orthogonal":
            u, _, v = np.linalg.svd(w, full_matrices=False)
            w = u @ v
        parts.append(
            scale
            * on_host(record.slope, math.sqrt(q) * rng.standard_normal(4 * m))[:, None]
            * w
        )
    waist = sizes.index(
        min(sizes)
    )  # singular values of A B are those of the triangles of A and Bᵀ
    before, after = [
        functools.reduce(lambda a, b: b @ a, p, np.eye(4 * min(sizes)))
        for p in ([w.T for w in parts[:waist][::-1]], parts[waist:])
    ]
    j = np.linalg.qr(after, "r") @ np.linalg.qr(before, "r").T
    log_lam = 2 * np.log(np.linalg.svd(j, compute_uv=False))
    for (_, low), (high, _) in itertools.pairwise(np.log(law.support)):
        middle = (low + high) / 2
        assert np.abs(log_lam - middle).min() > (high - low) / 4
        share = law.survival(math.exp(middle)) / law.product.rank
        assert abs(np.mean(log_lam > middle) - share) < 4 * math.sqrt(
            0.25 / (4 * min(sizes))
        )


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_finite_width(weights):
    """ln |Jv|² layer by layer.

    W takes a unit vector to a Gaussian one, or to one uniform on the sphere.
    """
    width, depth, seeds, rng = 64, 8, 4000, np.random.default_rng(0)
    u = rng.standard_normal((seeds, depth, width)) ** 2
    scale = width if weights == "gaussian" else u.sum(-1)
    logs = np.log(2 * np.sum(u * (rng.random(u.shape) < 0.5), -1) / scale).sum(-1)
    predicted = theory.jacobian_law("relu", depth, q=1.0, weights=weights).finite_width(
        width
    )
    assert predicted.variance == (5 if weights == "gaussian" else 3) * depth / width
    error = math.sqrt(predicted.variance / seeds)
    assert np.mean(logs) == pytest.approx(
        predicted.mean, abs=4 * error + predicted.variance**2 / depth
    )
    assert np.var(logs) == pytest.approx(
        predicted.variance,
        rel=4 * math.sqrt(2 / seeds) + 2 * predicted.variance / depth,
    )


def test_finite_width_is_known_for_scale_free_activations():
    assert theory.jacobian_law("relu", 20, q=1.0, weights="gaussian").finite_width(
        50
    ) == pytest.approx((-1, 2))
    with pytest.raises(NotDefined, match=r"no formula is known for tanh"):
        theory.jacobian_law("tanh", 2, q=1.0).finite_width(50)
