"""The untied mean field of an LSTM, from the characteristic function of its state c.

c' = f c + i g with independent gates is not Gaussian. Its characteristic function
F(k) = E exp(ikc) obeys a linear equation in which no larger k occurs, as f < 1:

    F(k) = A(k) E_f F(f k),     A(k) = E exp(ik i g).

The moments that h = o tanh(c) asks for see only small k, because the Fourier transforms
of 1 − tanh² and of its square fall like exp(−π|k|/2):

    E tanh²(c) = ∫ k/sinh(πk/2) Re (1 − F(k)) dk                  over k > 0,
    E P (1 − tanh²(c))² = ∫ k(k² + 4)/(6 sinh(πk/2)) Re E[P exp(ikc)] dk.

So Chebyshev points on a short interval give all of it to rounding. P is the mean square
of dc at a site. With H, that of dh over all sites, it grows by a linear map whose
largest eigenvalue is chi.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Complex, Float
from numpy.polynomial import chebyshev, legendre

from isometry._internal.errors import NotDefined
from isometry.theory.mean_field._gates import Scales, State, nodes, settled, switch
from isometry.theory.mean_field._quadrature import gauss_rule

Points = Float[np.ndarray, " points"]
Function = Complex[np.ndarray, " points"]
Matrix = Float[np.ndarray, "points points"]

# The end of the interval of k. The integrands are 1e-13 there; at twice as much,
# twice as many points are needed for the same function.
_END = 22.0

# Chebyshev points: enough to resolve exp(ikc), which takes _END/2 of them for each unit
# of |c|, and some more. With half as many the error is 1e-3.
_FEWEST_POINTS = 128
_MOST_POINTS = 512
_DEVIATIONS = 7

# The growth is looked for above E f² by this share. Closer, the equation is singular.
_APART = 1e-9

# The share to which the growth is found: close to rounding.
_EXACT = 1e-14

# The share to which E h² is found: ten times more than what rounding changes.
_ROUNDING = 1e-12

# Nodes for the values of each gate. With half as many, chi at scales of 40 is 1e-8
# wrong; four times as many take six times as long.
_NODES = 24


class _Grid(NamedTuple):
    """Points k from 0 on, and the weights of the two integrals at the values there."""

    k: Points
    inverse: Matrix
    of_square: Points
    of_fourth: Points

    def polynomials(
        self,
        k: Float[np.ndarray, "..."],
    ) -> Float[np.ndarray, "... points"]:
        """Return the Chebyshev polynomials at k.

        Times `inverse` they take values at the points to values at k.
        """
        x = 2 * k / _END - 1
        return chebyshev.chebvander(x, len(self.k) - 1)


@functools.lru_cache(maxsize=4)
def _grid(points: int) -> _Grid:
    # Chebyshev points of the second kind, ascending: both ends are among them.
    angles = np.linspace(np.pi, 0.0, points)
    x = np.cos(angles)
    of_coefficients = chebyshev.chebvander(x, points - 1)
    inverse = np.linalg.inv(of_coefficients)
    k = _END * (1 + x) / 2
    # The integrals are those of the interpolating polynomial.
    grid = _Grid(k, inverse, of_square=x, of_fourth=x)
    z, mass = legendre.leggauss(2 * points)
    nodes = _END * (1 + z) / 2
    values = grid.polynomials(nodes) @ inverse
    falling = nodes / np.sinh(np.pi * nodes / 2)
    falling *= _END * mass / 2
    fourth = falling * (nodes**2 + 4) / 6
    return grid._replace(of_square=falling @ values, of_fourth=fourth @ values)


class _Step(NamedTuple):
    """One step of the cell at a given mean square of h.

    A perturbation (dc, dh) is known by P, the mean square of dc at a site, and by H,
    that of dh over all sites. P is kept as p(k) = E[P exp(ikc)]. A step makes of them

        p' = `kept` p + `fed` H,        H' = `shown` · Re p' + `direct` H.

    Attributes:
        q: The mean square of h behind the step.
        memory: E f², the growth of P if h were not perturbed.
        kept: From p to p', through the forget gate, (points, points).
        fed: From H to p', through the gates of c, (points,).
        shown: From p' to H', E o² E[P (1 − tanh²)²] as weights at the points k.
        direct: From H to H' through the output gate.
    """

    q: float
    memory: float
    kept: Complex[np.ndarray, "points points"]
    fed: Function
    shown: Points
    direct: float


class _Gate(NamedTuple):
    """A gate at the nodes of a Gauss rule for its values.

    Attributes:
        value: Its values.
        slope: Its slopes squared.
        weights: The weights of the rule, whose sum is 1.
    """

    value: Points
    slope: Points
    weights: Points


class _New(NamedTuple):
    """Expectations over i g, of functions of k.

    Attributes:
        less: 1 − E exp(ik i g).
        wave: E exp(ik i g).
        first: E i g exp(ik i g).
        second: E (i g)² exp(ik i g).
        slopes: That of what comes from h through both gates, over H.
    """

    less: Function
    wave: Function
    first: Function
    second: Function
    slopes: Function


def lstm(gates: Mapping[str, Scales]) -> State:
    """Return the fixed point of c' = f c + i g, h' = o tanh(c')."""
    # Here, because `import isometry` does without SciPy.
    from scipy.optimize import brentq

    q = settled(lambda q: _step(gates, q).q, share=_ROUNDING)
    step = _step(gates, q)
    identity = np.eye(len(step.fed))

    def excess(growth: float) -> float:
        # At this growth p = (growth − kept)⁻¹ fed H, and so p' = growth p.
        resolvent = growth * identity - step.kept
        of_state = np.linalg.solve(resolvent, step.fed)
        of_cell = growth * float(step.shown @ of_state.real)
        return of_cell + step.direct - growth

    # It falls from infinity at E f², the growth of dc alone.
    low = step.memory
    high = 2 * low + step.direct
    while excess(high) > 0:
        low, high = high, 2 * high
    chi = low
    if low == step.memory:
        chi = low = (1 + _APART) * low
    if excess(low) > 0:
        root = brentq(excess, low, high, xtol=_EXACT * high)
        chi = cast(float, root)
    return State(q=q, chi=chi, memory=step.memory)


def _step(
    gates: Mapping[str, Scales],
    q: float,
) -> _Step:
    at = {name: _at(gate, name, q) for name, gate in gates.items()}
    forget, output = at["forget"], at["output"]
    grid = _grid(_num_points(forget, at["input"], new=at["cell"]))
    new = _of_new(gates, at, grid.k)

    moved_k = np.outer(forget.value, grid.k)
    # By degree, f and k, as they lie in memory: products are not copied.
    moved = np.moveaxis(grid.polynomials(moved_k), -1, 0)

    def mean_moved(factor: Points) -> Matrix:
        """Average functions at f k over f, times a factor."""
        mean = (forget.weights * factor) @ moved
        return mean.T @ grid.inverse

    # E exp(ikc), E c exp(ikc) and E c² exp(ikc) in the stationary state.
    identity = np.eye(len(grid.k))
    ones = np.ones_like(forget.value)
    moved_0 = mean_moved(ones)
    moved_1 = mean_moved(forget.value)
    moved_2 = mean_moved(forget.value**2)
    kept_2 = new.wave[:, None] * moved_2
    stationary = identity - new.wave[:, None] * moved_0
    # It is known at k = 0, the first point, where its own equation says nothing. Solved
    # for is 1 − E exp(ikc), of which nothing is lost where c is small.
    stationary[0] = identity[0]
    power_0 = np.linalg.solve(stationary, new.less)
    old_0 = 1 - moved_0 @ power_0
    stationary = identity - new.wave[:, None] * moved_1
    power_1 = np.linalg.solve(stationary, old_0 * new.first)
    old_1 = moved_1 @ power_1
    source = 2 * old_1 * new.first + old_0 * new.second
    power_2 = np.linalg.solve(identity - kept_2, source)

    # P' = f² P + (s_f² f'² c² + s_i² i'² g² + s_g² i² g'²) H.
    of_forget = mean_moved(forget.slope) @ power_2
    fed = gates["forget"].recurrent * new.wave * of_forget
    fed = fed + old_0 * new.slopes
    tanh_square = float(grid.of_square @ power_0.real)
    shown = float(output.weights @ output.value**2)
    direct = gates["output"].recurrent * float(output.weights @ output.slope)
    return _Step(
        q=shown * tanh_square,
        memory=float(forget.weights @ forget.value**2),
        kept=kept_2,
        fed=fed,
        shown=shown * grid.of_fourth,
        direct=direct * tanh_square,
    )


def _at(gate: Scales, name: str, q: float) -> _Gate:
    """Return a gate where E h² is q."""
    # Here, because `import isometry` does without SciPy.
    from scipy import special

    u, weights = nodes(gate.bias, gate.variance(q))
    value = np.tanh(u) if name == "cell" else special.expit(u)
    # All that is averaged are polynomials of the values, and waves of few turns. As
    # functions of u they have poles, which a large variance brings near.
    middle = weights @ value
    rule = gauss_rule(value - middle, weights, _NODES)
    value = middle + rule.nodes
    slope = 1 - value**2 if name == "cell" else value * (1 - value)
    return _Gate(value, slope**2, rule.weights)


def _of_new(
    gates: Mapping[str, Scales],
    at: Mapping[str, _Gate],
    k: Points,
) -> _New:
    """Return the expectations over what is new in c."""
    opened, new = at["input"], at["cell"]
    product = np.outer(opened.value, new.value).ravel()
    of_input = np.outer(opened.slope, new.value**2)
    of_cell = np.outer(opened.value**2, new.slope)
    slopes = gates["input"].recurrent * of_input
    slopes += gates["cell"].recurrent * of_cell
    powers = [np.ones_like(product), product, product**2]
    factors = np.stack([*powers, slopes.ravel()])
    factors *= np.outer(opened.weights, new.weights).ravel()
    phases = 1j * np.outer(product, k)
    less = -(factors[0] @ np.expm1(phases))
    return _New(less, *(factors @ np.exp(phases)))


def _num_points(forget: _Gate, opened: _Gate, *, new: _Gate) -> int:
    """Return how many points resolve the characteristic function of the state c.

    In its stationary state c = f c + i g. It needs as many points as c has standard
    deviations of room, so its mean and variance are computed first.

    Args:
        forget: The forget gate f.
        opened: The input gate i.
        new: The candidate g.

    Raises:
        NotDefined: More than fit into memory.
    """
    kept = forget.value
    # E i g and E (i g)², and from them E c and E c².
    product = (opened.weights @ opened.value) * (new.weights @ new.value)
    mean = product / (forget.weights @ (1 - kept))
    square = opened.weights @ opened.value**2
    square *= new.weights @ new.value**2
    square += 2 * (forget.weights @ kept) * mean * product
    left = forget.weights @ (1 - kept**2)
    deviation = np.sqrt(square / left)
    reach = abs(mean) + _DEVIATIONS * deviation
    points = _FEWEST_POINTS // 2 + _END / 2 * reach
    if not points <= _MOST_POINTS:
        raise NotDefined(
            f"the state c of this LSTM reaches {reach:.0f}, more than is computed; "
            "lower the bias of its forget gate."
        )
    # Few sizes, so that few grids are made.
    return _FEWEST_POINTS * math.ceil(points / _FEWEST_POINTS)


def at_zero(gates: Mapping[str, Scales]) -> State:
    """Return the fixed point 0 of an LSTM whose cell gate has no input and no bias."""
    squares = {}
    for name in ("forget", "input", "output"):
        gate = gates[name]
        squares[name] = switch(gate.bias, gate.drive).square
    forget = squares["forget"]
    new = gates["cell"].recurrent * squares["input"]
    chi = forget + new * squares["output"]
    return State(q=0.0, chi=chi, memory=forget)
