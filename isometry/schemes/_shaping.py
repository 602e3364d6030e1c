"""Schemes that transform the activation: deep kernel shaping (dks) and tailored (tat).

phi becomes gamma (phi(alpha x + beta) + delta). The four numbers solve conditions on
Q(q), the map of the variance from one layer to the next, and on C(c), the map of the
correlation of two inputs at variance 1. L is the number of activations in a row:

- both schemes: Q(1) = 1 and Q'(1) = 1. The variance stays 1, and an error in it does
  not grow;
- deep kernel shaping: C(0) = 0 and C'(1)^L = 1.5;
- tailored activations: C'(1) = 1 and L C''(1) = 0.3. ReLU and leaky ReLU have no
  C''(1): they become a leaky ReLU for which C, applied L times to 0, gives 0.9.

In a residual network with sums √(1 - b²) x + b F(x), the last condition is for the
subnetwork with the largest value: the whole network, or one branch alone (appendix B of
the second paper; `subnet_max_func` in the authors' code).

Source: Martens et al. (2021), arXiv:2110.01765; Zhang, Botev and Martens (2022),
arXiv:2203.08120.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.errors import NotDefined
from isometry._internal.types import Elementwise
from isometry.activations import Activation
from isometry.schemes._plain import scaled_orthogonal
from isometry.schemes._scheme import Blocks, Scheme, Suits
from isometry.structure import Anatomy
from isometry.theory.mean_field._host import on_host
from isometry.theory.mean_field._quadrature import bell, gauss

# The papers' targets for the whole network: C'(1), C''(1), and C(0). With targets twice
# as large, deep networks are hard to train; with targets half as large, they are nearly
# linear.
SLOPE = 1.5
CURVATURE = 0.3
CORRELATION = 0.9

# The points from which the search for (alpha, beta) starts, in this order. If there are
# several solutions, the first one found is taken.
_STARTS = tuple(
    (alpha, beta) for alpha in (1.0, 0.5, 0.2, 0.05) for beta in (0.3, -0.3, 1.0, -1.0)
)

# Largest error of a condition that counts as solved, relative to its target. Quadrature
# and derivatives leave 1e-9 at 1000 layers: ten times less would refuse deeper
# networks, ten times more would accept points that are no solutions.
_TOLERANCE = 1e-7

# The largest relative difference between the multiplier of a skip in the network and
# √(1 - b²). Ten times less would be near the rounding of a float32 constant.
_SAME = 1e-6

# Gaussian integrals end at this many standard deviations, where the density is 1e-32.
_INTEGRATE_TO = 12.0
_NUM_PANELS = 48

# The least difference between the slopes on both sides of a kink that counts as a jump.
# Ten times less would be near the rounding of these slopes; ten times more could miss a
# small jump.
_JUMP = 1e-6


@dataclasses.dataclass(frozen=True)
class Transformed:
    """The function gamma (phi(alpha x + beta) + delta).

    Attributes:
        original: phi.
        alpha: The factor of the input.
        beta: The shift of the input.
        gamma: The factor of the output.
        delta: The shift of the output, before the factor.
    """

    original: Activation
    alpha: float
    beta: float
    gamma: float
    delta: float

    def __call__(self, x: Array) -> Array:
        # Python floats are weakly typed, so the result has the dtype of x.
        return self.gamma * (self.original(self.alpha * x + self.beta) + self.delta)


@dataclasses.dataclass(frozen=True)
class Leaky:
    """The function factor · leaky_relu(x), which replaces a ReLU or leaky ReLU.

    Attributes:
        original: The activation that it replaces.
        slope: The slope for x < 0.
        factor: The factor of the output.
    """

    original: Activation
    slope: float
    factor: float

    def __call__(self, x: Array) -> Array:
        return self.factor * jnp.where(x < 0, self.slope * x, x)


# A function from (alpha, beta) to the transformation, whose gamma and delta solve two
# of the four conditions, and to the errors of the other two.
Solved: TypeAlias = Callable[[float, float], tuple[Transformed, np.ndarray]]


class _Moments(NamedTuple):
    """Expectations of f(z) = phi(alpha z + beta), z ~ N(0, 1), and of its derivatives.

    Attributes:
        mean: E f.
        variance: E f² - (E f)².
        slope: E f'².
        curvature: E f''².
        radial: E (f - E f) f' z, the derivative of the variance of f(√q z) at q = 1.
        drift: E f' z.
    """

    mean: np.float64
    variance: np.float64
    slope: np.float64
    curvature: np.float64
    radial: np.float64
    drift: np.float64


def _derivatives(fn: Elementwise) -> Elementwise:
    """Return the function that maps u to (fn(u), fn'(u), fn''(u)), stacked in front."""

    def first(u: Array) -> Array:
        return jax.jvp(fn, (u,), (jnp.ones_like(u),))[1]

    def stacked(u: Array) -> Array:
        second = jax.jvp(first, (u,), (jnp.ones_like(u),))[1]
        return jnp.stack([fn(u), first(u), second])

    return jax.jit(stacked)


def _moments(
    derivatives: Elementwise,
    kinks: Sequence[float],
    *,
    alpha: float,
    beta: float,
) -> _Moments:
    """Compute the expectations for f(z) = phi(alpha z + beta) by Gaussian quadrature.

    Args:
        derivatives: phi, phi' and phi'', as `_derivatives` returns them.
        kinks: The kinks of phi, at which panels of the quadrature end.
        alpha: The factor of z.
        beta: The shift of z.
    """
    edges = np.linspace(-_INTEGRATE_TO, _INTEGRATE_TO, _NUM_PANELS + 1)
    # Kinks outside the range are moved to its end, where their panels are empty. So
    # all calls have the same shape, and compile once.
    at_kinks = [
        np.clip((kink - beta) / alpha, -_INTEGRATE_TO, _INTEGRATE_TO) for kink in kinks
    ]
    edges = np.sort(np.concatenate([edges, at_kinks]))
    nodes, weights = gauss(edges[:-1], edges[1:])
    z = nodes.ravel()
    mass = weights.ravel() * bell(z)
    value, slope, curvature = on_host(derivatives, alpha * z + beta)
    slope = alpha * slope
    curvature = alpha**2 * curvature
    mean = mass @ value
    # These stay NumPy scalars, whose division by zero gives inf and does not raise.
    return _Moments(
        mean=mean,
        variance=mass @ (value - mean) ** 2,
        slope=mass @ slope**2,
        curvature=mass @ curvature**2,
        radial=mass @ ((value - mean) * slope * z),
        drift=mass @ (slope * z),
    )


def largest(
    step: Callable[[float], float], start: float, depth: int, *, blocks: Blocks
) -> float:
    """Compute the largest output over the subnetworks of a network of scalar maps.

    Args:
        step: The map of one activation.
        start: The value at the input.
        depth: The number of activations on the stream after the last block.
        blocks: The residual blocks.

    Returns:
        The output of the whole network, or of a branch alone if that is larger.
    """

    def steps(value: float, count: int) -> float:
        for _ in range(count):
            value = step(value)
        return value

    value = start
    for count, branch in blocks:
        share = branch**2
        value = (1 - share) * value + share * steps(value, count)
    alone = [steps(start, count) for count, _ in blocks]
    return max([steps(value, depth), *alone])


def _slope_target(depth: int, blocks: Blocks) -> float:
    """Return C'(1) - 1 of one activation for which the network meets its target.

    C is the activation's map of correlations. The target is that the largest slope at 1
    over the subnetworks is `SLOPE`.

    Args:
        depth: The number of activations on the stream after the last block.
        blocks: The residual blocks.
    """
    if not blocks:
        return math.expm1(math.log(SLOPE) / depth)

    def largest_slope(excess: float) -> float:
        # In a row of maps slopes are multiplied, and in a sum they are added. So
        # `largest` computes them from the map c -> c C'(1).
        return largest(lambda c: c * (1 + excess), 1.0, depth, blocks=blocks)

    low, high = 0.0, SLOPE - 1
    # After 60 halvings no float64 is left between the two.
    for _ in range(60):
        middle = (low + high) / 2
        if largest_slope(middle) < SLOPE:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _shaped(activation: Activation, depth: int, blocks: Blocks) -> Activation:
    """Return an activation transformed by deep kernel shaping.

    C(0) = 0 and Q(1) = 1 fix delta and gamma; alpha and beta solve for the slopes.

    Args:
        activation: The activation.
        depth: The number of activations on the stream after the last block.
        blocks: The residual blocks.

    Raises:
        NotDefined: No solution was found.
    """
    derivatives = _derivatives(activation.fn)
    target = _slope_target(depth, blocks)

    def solved(alpha: float, beta: float) -> tuple[Transformed, np.ndarray]:
        moments = _moments(derivatives, activation.kinks, alpha=alpha, beta=beta)
        # The errors of C'(1) - 1 and of Q'(1). They are relative to the target, which
        # falls as 1/depth, so that one tolerance serves all depths.
        errors = [
            (moments.slope / moments.variance - 1) / target - 1,
            (moments.radial / moments.variance - 1) / target,
        ]
        record = Transformed(
            activation,
            alpha,
            beta,
            gamma=float(moments.variance**-0.5),
            delta=float(-moments.mean),
        )
        return record, np.array(errors)

    record = _search(solved)
    if record is None:
        raise NotDefined(
            f"dks: no alpha and beta give {activation.name} Q'(1) = 1 and "
            f"C'(1) = {1 + target:.6g}, as {_written(depth, blocks)} needs. "
            "Take a smooth activation, or for ReLU and leaky ReLU tat."
        )
    return _renamed(activation, record, "dks")


def _written(depth: int, blocks: Blocks) -> str:
    """Return words for a network of this depth and these blocks, for a message."""
    if not blocks:
        return f"a network of {depth} in a row"
    return f"a network of {len(blocks)} residual blocks"


def _tailored(activation: Activation, depth: int, blocks: Blocks) -> Activation:
    """Return an activation transformed by tailored activation transformation.

    Args:
        activation: The activation.
        depth: The number of activations on the stream after the last block.
        blocks: The residual blocks.

    Raises:
        NotDefined: The slope of the activation jumps, or no solution was found.
    """
    if activation.name in ("relu", "leaky_relu"):
        return _leaky(activation, depth, blocks)
    if _slope_jumps(activation):
        raise NotDefined(
            f"tat: the slope of {activation.name} jumps, so that its C''(1) is "
            "infinite. Take a smooth activation, ReLU or leaky ReLU."
        )
    derivatives = _derivatives(activation.fn)
    # At slope 1 the curvatures of maps in a row are added.
    target = CURVATURE / largest(lambda c: c + 1, 0.0, depth, blocks=blocks)

    def solved(alpha: float, beta: float) -> tuple[Transformed, np.ndarray]:
        moments = _moments(derivatives, activation.kinks, alpha=alpha, beta=beta)
        # C'(1) = 1 fixes gamma, and with it C''(1); Q'(1) = 1 then fixes delta, unless
        # phi is odd about beta.
        offset = (moments.slope - moments.radial) / moments.drift
        square = moments.variance + offset**2
        # The errors of C''(1) and of Q(1), relative to the target.
        errors = [
            moments.curvature / moments.slope / target - 1,
            (square / moments.slope - 1) / target,
        ]
        record = Transformed(
            activation,
            alpha,
            beta,
            gamma=float(moments.slope**-0.5),
            delta=float(offset - moments.mean),
        )
        return record, np.array(errors)

    record = _search(solved)
    if record is None:
        raise NotDefined(
            f"tat: no alpha and beta give {activation.name} Q(1) = Q'(1) = C'(1) = 1 "
            f"and C''(1) = {target:.6g}, as {_written(depth, blocks)} needs; take "
            "another activation."
        )
    return _renamed(activation, record, "tat")


def _search(solved: Solved) -> Transformed | None:
    """Return the first transformation found that solves all conditions, or None.

    Args:
        solved: The transformation and the errors of the conditions at (alpha, beta).
    """
    # Imported here, because importing SciPy takes longer than this package.
    from scipy import optimize

    def errors(point: np.ndarray) -> np.ndarray:
        log_alpha, beta = point
        with np.errstate(all="ignore"):
            _, error = solved(math.exp(log_alpha), float(beta))
        # The solver needs finite numbers. A point that overflows is far from any
        # solution, so its error is made large.
        return np.nan_to_num(error, nan=1e6, posinf=1e6, neginf=-1e6)

    for alpha, beta in _STARTS:
        start = [math.log(alpha), beta]
        # Beyond these bounds an activation is linear, or a step.
        bounds = ([math.log(1e-4), -20.0], [math.log(20.0), 20.0])
        solution = optimize.least_squares(
            errors, start, bounds=bounds, xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        if np.abs(solution.fun).max() < _TOLERANCE:
            log_alpha, beta = solution.x
            record, _ = solved(math.exp(log_alpha), float(beta))
            return record
    return None


def _slope_jumps(activation: Activation) -> bool:
    """Tell whether the derivative of an activation jumps at one of its kinks."""
    for kink in activation.kinks:
        step = 1e-9 * max(abs(kink), 1.0)
        sides = np.array([kink - step, kink + step])
        left, right = on_host(activation.slope, sides)
        if abs(right - left) > _JUMP:
            return True
    return False


def _renamed(activation: Activation, record: Transformed, name: str) -> Activation:
    """Return a transformed function as an `Activation`, with kinks and a name."""
    kinks = tuple((kink - record.beta) / record.alpha for kink in activation.kinks)
    return Activation(record, kinks=kinks, odd=None, name=f"{name}({activation.name})")


def leaky_correlation(slope: float, depth: int, blocks: Blocks) -> float:
    """Compute the correlation that a network of leaky ReLUs gives uncorrelated inputs.

    It is the largest over the subnetworks, at unit variance.

    Args:
        slope: The slope of the leaky ReLU for x < 0.
        depth: The number of activations on the stream after the last block.
        blocks: The residual blocks.
    """
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope**2))

    def mapped(c: float) -> float:
        c += bend * (math.sqrt(1 - c * c) - c * math.acos(c))
        # Rounding must not push a correlation beyond 1.
        return min(c, 1.0)

    return largest(mapped, 0.0, depth, blocks=blocks)


def _bisected(depth: int, blocks: Blocks) -> float:
    """Return the slope at which `leaky_correlation` is `CORRELATION`, by bisection."""
    # The correlation decreases as the slope grows.
    low, high = 0.0, 1.0
    # After 60 halvings no float64 is left between the two.
    for _ in range(60):
        middle = (low + high) / 2
        if leaky_correlation(middle, depth, blocks) > CORRELATION:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _leaky(activation: Activation, depth: int, blocks: Blocks) -> Activation:
    """Return the leaky ReLU for which `leaky_correlation` is at most `CORRELATION`."""
    slope = 0.0
    # In a shallow network even ReLU, of slope 0, stays below the target. It is kept.
    if leaky_correlation(0.0, depth, blocks) > CORRELATION:
        slope = _bisected(depth, blocks)
    record = Leaky(activation, slope, factor=math.sqrt(2 / (1 + slope**2)))
    return Activation(record, kinks=(0.0,), odd=False, name=f"tat(leaky {slope:.6g})")


def untransformed(activation: Activation) -> Activation:
    """Return the activation that dks or tat transformed; any other as it is."""
    if isinstance(activation.fn, Transformed | Leaky):
        return activation.fn.original
    return activation


@functools.cache
def _dks(activation: Activation, depth: int, blocks: Blocks = ()) -> Activation:
    """Return what `_shaped` returns, cached."""
    return _shaped(activation, depth, blocks)


@functools.cache
def _tat(activation: Activation, depth: int, blocks: Blocks = ()) -> Activation:
    """Return what `_tailored` returns, cached."""
    return _tailored(activation, depth, blocks)


def _refuse_branches(anatomy: Anatomy) -> None:
    """Refuse a network with residual branches.

    The activation was transformed for a network without them.

    Raises:
        NotDefined: There is a branch.
    """
    for branch in anatomy.branches:
        raise NotDefined(
            f"branch {branch.name!r}: the activation was transformed for a network "
            "without residual blocks. Write sums √(1 - b²) x + b F(x), and "
            "schemes.transformed(scheme, activation, depth, blocks=[(activations on "
            "the branch, b), ...])."
        )


def suits_blocks(blocks: Blocks) -> Suits:
    """Return `Scheme.suits` for an activation that was transformed for these blocks.

    It refuses a network with another number of blocks, or with other multipliers.
    """

    def suits(anatomy: Anatomy) -> None:
        num_branches = len(anatomy.branches)
        if num_branches != len(blocks):
            raise NotDefined(
                f"the activation was transformed for {len(blocks)} residual blocks, "
                f"and the network has {num_branches}; write as many in blocks=."
            )
        for record, (_, branch) in zip(anatomy.branches, blocks, strict=True):
            skip = math.sqrt(1 - branch**2)
            factor = record.skip_factor
            # A trained multiplier may have any value, and one that the anatomy does not
            # find is not checked.
            if factor is None or record.skip_gates:
                continue
            if not math.isclose(factor, skip, rel_tol=_SAME, abs_tol=_SAME):
                raise NotDefined(
                    f"branch {record.name!r}: the network multiplies the skip by "
                    f"{factor:.6g}, and blocks= says b = {branch:.6g} of the branch, "
                    f"for which it has to be √(1 - b²) = {skip:.6g}."
                )

    return suits


SCHEMES = (
    Scheme(
        "dks",
        scaled_orthogonal,
        "deep kernel shaping: the activation transformed so that correlations pass a "
        "deep network almost unchanged, with scaled orthogonal weights",
        law="phi becomes gamma (phi(alpha x + beta) + delta) with Q(1) = Q'(1) = 1, "
        "C(0) = 0 and C'(1)^L = 1.5, L activations in a row (with residual blocks the "
        "largest slope of a subnetwork 1.5); singular values "
        "max(√(fan_out/fan_in), 1), kernels delta-orthogonal; biases 0; inputs of mean "
        "square 1",
        citation="Martens et al. (2021), arXiv:2110.01765",
        differs="residual blocks need skip² + branch² = 1; the paper normalizes inputs "
        "position by position",
        transform=_dks,
        suits=_refuse_branches,
    ),
    Scheme(
        "tat",
        scaled_orthogonal,
        "tailored activation transformation: as dks, for ReLU networks and smooth "
        "activations",
        law="smooth phi becomes gamma (phi(alpha x + beta) + delta) with Q(1) = Q'(1) "
        "= C'(1) = 1 and C''(1) = 0.3/L; ReLU and leaky ReLU the leaky ReLU, of unit "
        "variance, whose C applied L times to 0 is 0.9 (ReLU if it stays below); "
        "weights as dks",
        citation="Zhang, Botev, Martens (2022), arXiv:2203.08120",
        differs="residual blocks need skip² + branch² = 1",
        transform=_tat,
        suits=_refuse_branches,
    ),
)
