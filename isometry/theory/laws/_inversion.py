"""The inversion: the state of a product at λ = e^t + i0.

The solution is unique on the negative axis and analytic in the upper half-plane, so it
is led there from λ = −e^t by lowering arg λ from π to 0. No broadening is left at the
end. From a guess nearby Newton steps alone are enough, and it is checked that they have
stayed on the sheet of the law.
"""

from collections import Counter

import numpy as np
from jaxtyping import Bool, Complex, Float

from isometry.theory.laws._closed import Powers
from isometry.theory.laws._factor import Factor
from isometry.theory.laws._product import NotConverged, Product, State, product_of
from isometry.theory.laws._types import Numbers

RealPoints = Float[np.ndarray, " points"]

# Stops of arg λ on the way from π to π/10. Half as many lose laws of unequal widths.
_STOPS = 9

# Ways to the axis, each tried where the one before did not land: arg λ of the last
# stop, as a share of the distance to an edge, and how many times finer the steps are.
# Near an edge, or where ψ passes zero and a ζ infinity, the solution turns fast.
Ways = tuple[tuple[float, int], ...]
GUESS_ONLY: Ways = ()
QUICK: Ways = ((0.2, 1), (1e-3, 1), (1e-6, 1))
PATIENT: Ways = (*QUICK, (0.2, 4), (1e-6, 4), (1e-3, 16))

# From so many curves on, fewer of them are solved first, for a guess.
_MANY = 4

# arg λ of the last stop where a point lies on an edge: nearer is rounding.
_NEAREST = 1e-13

# A residual in log λ up to this is that of a solution; 1e-13 is usual. Ten times less
# refuses points at edges, where Newton converges slowly; the promise is 1e-6 for
# quantiles.
_SOLVED = 1e-9

# −Im ψ above this share of ψ is a density, beyond doubt.
_CLEAR = 1e-5

# By so much a solution may leave its half-plane by rounding.
_SLACK = 1e-9

# The tolerance grows by this share of |log λ|, because the rounding of log λ grows with
# it. At the ends of float64, where |log λ| is 700, it is not yet twice as large.
_SOLVED_SHARE = 1e-3

# An equation between unknowns may be off by this share of ψ. Newton may run off to
# ψ = 0, where every residual is small in absolute terms.
_LARGEST_MISMATCH = 1e-6


def solve(
    product: Product,
    t: RealPoints,
    distance: RealPoints,
    guess: Complex[Numbers, "unknowns points"] | None = None,
) -> State:
    """Find the states at λ = e^t + i0.

    Args:
        product: The product.
        t: log λ inside the support.
        distance: Of each t to the nearest edge.
        guess: Unknowns near the solution.

    Raises:
        NotConverged: A residual in log λ is above 1e-9.
    """
    at, is_solved = attempt(
        product,
        t,
        distance,
        guess=guess,
    )
    if not is_solved.all():
        where = t[~is_solved][:3]
        worst = _residual(at, t)[~is_solved].max()
        raise NotConverged(
            f"the law could not be inverted at log lam = {where}; residual {worst:.1e}."
        )
    return at


def attempt(
    product: Product,
    t: RealPoints,
    distance: RealPoints,
    guess: Complex[Numbers, "unknowns points"] | None = None,
    *,
    ways: Ways = PATIENT,
) -> tuple[State, Bool[np.ndarray, " points"]]:
    """Find the states at λ = e^t + i0, and tell where they were found.

    Args:
        product: The product.
        t: log λ.
        distance: Of each t to the nearest edge.
        guess: Unknowns near the solution. If it is left out, and there are many
            factors, the solution for fewer of them is the guess.
        ways: The continuations tried where no guess has led to the solution. They cost
            most.
    """
    if product.sole_diagonal is not None:
        at = product.state(t[None] - product.log_scale + 0j)
        return at, np.isfinite(at.psi)
    num_unknowns = sum(curve.num_unknowns for curve, _ in product.curves)
    w = np.zeros((num_unknowns, len(t)), complex)
    is_solved = np.zeros(len(t), bool)
    if guess is None:
        guess = _rough_guess(product, t, distance)
    if guess is not None:
        at = product.newton(
            guess,
            t + 0j,
            rounds=12,
            largest=0.2,
        )
        w, is_solved = at.w, _has_landed(at, t)
        if is_solved.all():
            return at, is_solved
        w, is_solved = _spread(product, t, at, is_solved=is_solved)
    for share, finer in ways:
        left = ~is_solved
        if not left.any():
            break
        at = _continued(
            product,
            t[left],
            share * distance[left],
            finer=finer,
        )
        w[:, left] = at.w
        is_solved[left] = _has_landed(at, t[left])
    return product.state(w), is_solved


def _spread(
    product: Product,
    t: RealPoints,
    at: State,
    *,
    is_solved: Bool[np.ndarray, " points"],
) -> tuple[Complex[Numbers, "unknowns points"], Bool[np.ndarray, " points"]]:
    """Solve points of a band from solved ones beside them, as far as that leads.

    Args:
        product: The product.
        t: log λ.
        at: The states, right where `is_solved`.
        is_solved: Where they are.

    Returns:
        The unknowns, and where they are solutions now.
    """
    w, is_solved = at.w.copy(), is_solved.copy()
    # From a gap Newton steps stay real, and may end on another sheet.
    sources = np.flatnonzero(is_solved & _is_inside(at))
    speed = _speed(at)
    left = np.flatnonzero(~is_solved)
    while len(sources) and len(left):
        apart = np.abs(t[left][:, None] - t[sources])
        nearest = sources[np.argmin(apart, axis=1)]
        way = t[left] - t[nearest]
        guess = w[:, nearest] + way * speed[:, nearest]
        found = product.newton(guess, t[left] + 0j, rounds=12, largest=0.2)
        is_sure = _has_landed(found, t[left]) & _is_inside(found)
        sources = left[is_sure]
        w[:, sources] = found.w[:, is_sure]
        speed[:, sources] = _speed(found)[:, is_sure]
        is_solved[sources] = True
        left = left[~is_sure]
    return w, is_solved


def _rough_guess(
    product: Product,
    t: RealPoints,
    distance: RealPoints,
) -> Complex[Numbers, "unknowns points"] | None:
    """Guess from the solution for fewer factors; None where there are few already.

    All curves of one kind are replaced by the one of them whose spread is nearest to
    the mean spread: its unknowns, shifted, are near those of all. (Layers of different
    variance, say, are replaced by as many of the variance in the middle.)
    """
    curves = [curve for curve, _ in product.curves]
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    if len(curves) < _MANY or len(kinds) == len(curves):
        return None
    counts: Counter[Factor] = Counter(dict(product.closed))  # pyright: ignore[reportArgumentType, reportAssignmentType]
    typical = {}
    for kind in kinds:
        alike = [curve for curve in curves if curve.kind == kind]
        spread = np.array([curve.relative_variance for curve in alike])
        nearest = np.argmin(np.abs(spread - spread.mean()))
        typical[kind] = alike[int(nearest)]
    for curve, times in product.curves:
        stand_in = typical[curve.kind]
        # The first coefficient is the logarithm of the mean, which is kept.
        log_ratio = curve.series(1)[0] - stand_in.series(1)[0]
        scale = Powers(log_scale=log_ratio)
        counts[stand_in] += times  # pyright: ignore[reportArgumentType]
        counts[scale] += times  # pyright: ignore[reportArgumentType]
    few = product_of(counts)
    at, is_solved = attempt(
        few,
        t,
        distance,
        ways=QUICK,
    )
    # Which rows of the unknowns belong to each stand-in.
    rows, first = {}, 0
    for curve, _ in few.curves:
        rows[curve] = slice(first, first + curve.num_unknowns)
        first += curve.num_unknowns
    parts = []
    for curve in curves:
        stand_in = typical[curve.kind]
        shift = curve.shift_from(stand_in)[:, None]
        parts.append(at.w[rows[stand_in]] + shift)
    guess = np.concatenate(parts)
    # Where the smaller product was not solved, there is no guess.
    guess[:, ~is_solved] = np.nan
    return guess


def _continued(
    product: Product,
    t: RealPoints,
    nearest: RealPoints,
    finer: int,
) -> State:
    """Lead the solution from the negative axis to the positive one.

    Args:
        product: The product.
        t: log λ.
        nearest: arg λ of the last stop, for each point.
        finer: How many times more stops there are than usual.
    """
    first = np.pi / (_STOPS + 1)
    last = np.clip(nearest, _NEAREST, first)
    # From there on arg λ falls by a factor of at most e^1.5 from stop to stop.
    num_factors = np.log(first / last.min()) / 1.5
    steps = finer * (1 + int(np.ceil(num_factors)))
    shares = np.arange(1, steps + 1)[:, None] / steps
    arc = np.linspace(np.pi, first, 1 + finer * _STOPS)[1:, None]
    at = product.state(product.on_negative_axis(t))
    before = np.pi
    falling = first * (last / first) ** shares
    for angle in [*arc, *falling]:
        ahead = at.w + 1j * (angle - before) * _speed(at)
        at = product.newton(
            ahead,
            t + 1j * angle,
            rounds=2,
        )
        before = angle
    return product.newton(
        at.w,
        t + 0j,
        rounds=40,
        largest=0.3,
    )


def _residual(at: State, t: RealPoints) -> RealPoints:
    return np.maximum(np.abs(at.log_lam - t), at.mismatch)


def _has_landed(at: State, t: RealPoints) -> Bool[np.ndarray, " points"]:
    """Tell which states solve the equations, and are the solution that is the law's."""
    tolerance = _SOLVED * (1 + _SOLVED_SHARE * np.abs(t))
    size = np.abs(at.psi)
    is_solution = _residual(at, t) <= tolerance
    is_solution &= at.mismatch <= _LARGEST_MISMATCH * size
    # The equations have other solutions. That of the law alone has −Im ψ, its density,
    # not negative, and unknowns that are logarithms of the upper half-plane.
    has_density = at.psi.imag <= _SLACK * size
    angles = at.w.imag
    is_angle = (angles >= -_SLACK) & (angles <= np.pi + _SLACK)
    return is_solution & has_density & np.all(is_angle, axis=0)


def _speed(at: State) -> Complex[Numbers, "unknowns points"]:
    """Return dw/dlog λ."""
    with np.errstate(all="ignore"):
        return at.tangent / at.slope


def _is_inside(at: State) -> Bool[np.ndarray, " points"]:
    """Tell which states have a density: there, the solution on this sheet is unique."""
    return at.psi.imag < -_CLEAR * np.abs(at.psi)


def at_angle(
    product: Product,
    t: RealPoints,
    angle: RealPoints,
) -> State:
    """Lead the solution from the negative axis to λ = exp(t + i angle).

    Args:
        product: The product.
        t: log |λ|.
        angle: arg λ in [0, π].
    """
    at = product.state(product.on_negative_axis(t))
    before = np.full(t.shape, np.pi)
    # Ever smaller steps, because near the axis the solution turns fastest.
    for left in np.geomspace(1, 1e-6, 60)[1:]:
        here = angle + left * (np.pi - angle)
        ahead = at.w + 1j * (here - before) * _speed(at)
        at = product.newton(ahead, t + 1j * here, rounds=2)
        before = here
    return product.newton(
        at.w,
        t + 1j * angle,
        rounds=40,
        largest=0.3,
    )
