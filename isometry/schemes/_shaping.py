"""Deep kernel shaping and tailored activations: the activation is transformed too.

phi becomes gamma (phi(alpha x + beta) + delta), with four numbers such that the maps of
variance and correlation of the whole network have stated slopes. With Q(q) the map of
the variance and C(c) that of the correlation at variance 1:

- Q(1) = 1 and Q'(1) = 1: variances stay, and errors of them do not grow;
- deep kernel shaping: C(0) = 0 and C'(1)^L = 1.5 over L activations in a row;
- tailored activations: C'(1) = 1 and L C''(1) = 0.3. ReLU and leaky ReLU have no
  C''(1): their slope is chosen such that C, applied L times to 0, gives 0.9.

A residual network whose sums are normalized, √(1 - b²) x + b F(x), has targets of the
same numbers for the largest value over its subnetworks: the whole network, and each
branch alone (appendix B of the second paper; `subnet_max_func` in the authors' code).

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
from isometry.theory._host import on_host
from isometry.theory._quadrature import bell, gauss

# The papers' targets for the whole network: C'(1), C''(1), and C(0). With targets twice
# as large, deep networks are hard to train; with targets half as large, they are nearly
# linear.
SLOPE = 1.5
CURVATURE = 0.3
CORRELATION = 0.9

# Where the search for (alpha, beta) starts: at full strength first, then at weaker
# ones, each with several shifts. If there are several solutions, the first one found is
# taken, so this order decides.
_STARTS = tuple(
    (alpha, beta) for alpha in (1.0, 0.5, 0.2, 0.05) for beta in (0.3, -0.3, 1.0, -1.0)
)

# Largest error of a condition that counts as solved, relative to its target. Quadrature
# and derivatives leave 1e-9 at 1000 layers: ten times less would refuse deeper
# networks, ten times more would accept points that are no solutions.
_TOLERANCE = 1e-7

# The relative difference up to which a multiplier in the program counts as that of the
# block: that of float32, as of the multipliers of other schemes.
_SAME = 1e-6

# Gaussian integrals end at this many standard deviations, where the density is 1e-32.
_REACH = 12.0
_NUM_PANELS = 48

# The least difference between the slopes on both sides of a kink that counts as a jump.
# Ten times less would be near the rounding of these slopes; ten times more could miss a
# small jump.
_JUMP = 1e-6


@dataclasses.dataclass(frozen=True)
class Transformed:
    """The function gamma (phi(alpha x + beta) + delta), phi the original."""

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
    """A leaky ReLU of this slope times a factor, which replaces the original."""

    original: Activation
    slope: float
    factor: float

    def __call__(self, x: Array) -> Array:
        return self.factor * jnp.where(x < 0, self.slope * x, x)


# A function from (alpha, beta) to the transformation and the errors of two conditions.
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
    """Return the function that stacks fn, its derivative and its second derivative."""

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
    """Integrate over panels that end at the kinks."""
    edges = np.linspace(-_REACH, _REACH, _NUM_PANELS + 1)
    # Kinks out of reach are clipped to the end, where their panels are empty. So every
    # call has the same shape, and compiles once.
    at_kinks = [np.clip((kink - beta) / alpha, -_REACH, _REACH) for kink in kinks]
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
    """Compute the largest value over the subnetworks of a network.

    Args:
        step: What one activation makes of a value.
        start: The value at the input.
        depth: How many activations the stream has, behind all blocks.
        blocks: The residual blocks.

    Returns:
        The value of the whole network, or of a branch alone if that is larger.
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
    """Return C'(1) - 1 of one activation for which the largest slope is the target."""
    if not blocks:
        return math.expm1(math.log(SLOPE) / depth)

    def largest_slope(excess: float) -> float:
        # Slopes of maps in a row are multiplied, and those of a sum added.
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
    """Solve for deep kernel shaping.

    C(0) = 0 and Q(1) = 1 fix delta and gamma; alpha and beta solve for the slopes.
    """
    derivatives = _derivatives(activation.fn)
    target = _slope_target(depth, blocks)

    def solved(alpha: float, beta: float) -> tuple[Transformed, np.ndarray]:
        moments = _moments(derivatives, activation.kinks, alpha=alpha, beta=beta)
        # Errors are relative to the target, which falls as 1/depth: one tolerance then
        # serves all depths.
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
    """Describe a network in a message."""
    if not blocks:
        return f"a network of {depth} in a row"
    return f"a network of {len(blocks)} residual blocks"


def _tailored(activation: Activation, depth: int, blocks: Blocks) -> Activation:
    """Solve for tailored activations, smooth or leaky ReLU."""
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
    """Return the first transformation that solves both conditions, or None."""
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
    kinks = tuple((kink - record.beta) / record.alpha for kink in activation.kinks)
    return Activation(record, kinks=kinks, odd=None, name=f"{name}({activation.name})")


def leaky_correlation(slope: float, depth: int, blocks: Blocks = ()) -> float:
    """Compute the largest C(0) of a network of leaky ReLUs of unit variance."""
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope**2))

    def mapped(c: float) -> float:
        c += bend * (math.sqrt(1 - c * c) - c * math.acos(c))
        # Rounding must not push a correlation beyond 1.
        return min(c, 1.0)

    return largest(mapped, 0.0, depth, blocks=blocks)


def _bisected(depth: int, blocks: Blocks) -> float:
    """Return the slope at which `leaky_correlation` is the target, by bisection.

    The correlation decreases as the slope grows.
    """
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
    """Return the leaky ReLU for which uncorrelated inputs end at the target."""
    slope = 0.0
    # In a shallow network even ReLU, of slope 0, stays below the target. It is kept.
    if leaky_correlation(0.0, depth, blocks) > CORRELATION:
        slope = _bisected(depth, blocks)
    record = Leaky(activation, slope, factor=math.sqrt(2 / (1 + slope**2)))
    return Activation(record, kinks=(0.0,), odd=False, name=f"tat(leaky {slope:.6g})")


def untransformed(activation: Activation) -> Activation:
    """Return the original of a transformed activation; any other as it is."""
    if isinstance(activation.fn, Transformed | Leaky):
        return activation.fn.original
    return activation


@functools.cache
def _dks(activation: Activation, depth: int, blocks: Blocks = ()) -> Activation:
    return _shaped(activation, depth, blocks)


@functools.cache
def _tat(activation: Activation, depth: int, blocks: Blocks = ()) -> Activation:
    return _tailored(activation, depth, blocks)


def _suits(anatomy: Anatomy) -> None:
    """Refuse residual branches, of which the activation was told nothing."""
    for branch in anatomy.branches:
        raise NotDefined(
            f"branch {branch.name!r}: the activation was transformed for a network "
            "without residual blocks. Write sums √(1 - b²) x + b F(x), and "
            "schemes.transformed(scheme, activation, depth, blocks=[(activations on "
            "the branch, b), ...])."
        )


def suits_blocks(blocks: Blocks) -> Suits:
    """Return the check that a network has the blocks its activation was made for."""

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
            # A trained multiplier, or one that is not read, is the user's word.
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
        suits=_suits,
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
        suits=_suits,
    ),
)
