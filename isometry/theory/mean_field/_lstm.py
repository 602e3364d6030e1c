"""The untied mean field of an LSTM, from the characteristic function of its state c.

c' = f c + i g with independent gates is not Gaussian. Its characteristic function
F(k) = E exp(ikc) obeys a linear equation in which no larger k occurs, as f < 1:

    F(k) = A(k) E_f F(f k),     A(k) = E exp(ik i g).

The moments that h = o tanh(c) asks for see only small k, because the Fourier transforms
of 1 − tanh² and of its square fall like exp(−π|k|/2):

    E tanh²(c) = 1 − ∫ k/sinh(πk/2) Re F(k) dk                    over k > 0,
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
from numpy.polynomial import chebyshev, hermite_e, legendre

from isometry._internal.errors import NotDefined
from isometry.theory.mean_field._gates import Scales, State, settled, switch

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

# Nodes of each Gaussian. With half as many, chi at variances of 10 is 1e-6 wrong.
_NODES = 64


class _Grid(NamedTuple):
    """Points k from 0 on, and the weights of the two integrals at the values there."""

    k: Points
    inverse: Matrix
    of_square: Points
    of_fourth: Points

    def at(self, k: Points) -> Float[np.ndarray, "given points"]:
        """Return the matrix that takes values at the points to values at k."""
        degree = len(self.k) - 1
        return chebyshev.chebvander(2 * k / _END - 1, degree) @ self.inverse


@functools.lru_cache(maxsize=4)
def _grid(points: int) -> _Grid:
    x = np.cos(np.pi * np.arange(points)[::-1] / (points - 1))
    inverse = np.linalg.inv(chebyshev.chebvander(x, points - 1))
    grid = _Grid(_END * (1 + x) / 2, inverse, of_square=x, of_fourth=x)
    z, mass = legendre.leggauss(2 * points)
    k, mass = _END * (1 + z) / 2, _END * mass / 2
    values = grid.at(k)
    falling = mass * k / np.sinh(np.pi * k / 2)
    return grid._replace(
        of_square=falling @ values,
        of_fourth=(falling * (k**2 + 4) / 6) @ values,
    )


class _Step(NamedTuple):
    """One step of the cell at a given mean square of h.

    With p(k) = E[P exp(ikc)], perturbations obey p' = `kept` p + `fed` H and H' =
    `shown` · Re p' + `direct` H.

    Attributes:
        q: The mean square of h after it.
        memory: E f².
        kept: What is left of p.
        fed: What of it comes from h.
        shown: E o² and the weights of the integral of P (1 − tanh²)².
        direct: What comes to H through the output gate.
    """

    q: float
    memory: float
    kept: Complex[np.ndarray, "points points"]
    fed: Function
    shown: Points
    direct: float


def lstm(gates: Mapping[str, Scales]) -> State:
    """Return the fixed point of c' = f c + i g, h' = o tanh(c')."""
    # Here, because `import isometry` does without SciPy.
    from scipy.optimize import brentq

    q = settled(lambda q: _step(gates, q).q)
    step = _step(gates, q)
    identity = np.eye(len(step.fed))

    def excess(growth: float) -> float:
        # At this growth p = (growth − kept)⁻¹ fed H, and so p' = growth p.
        of_state = np.linalg.solve(growth * identity - step.kept, step.fed)
        return growth * float(step.shown @ of_state.real) + step.direct - growth

    # It falls from infinity at E f², the growth of dc alone.
    low = step.memory
    high = 2 * low + step.direct
    while excess(high) > 0:
        low, high = high, 2 * high
    if low == step.memory:
        low *= 1 + _APART
        if excess(low) <= 0:
            return State(q=q, chi=low, memory=step.memory)
    growth = cast(float, brentq(excess, low, high, xtol=_EXACT * high))
    return State(q=q, chi=growth, memory=step.memory)


def _step(
    gates: Mapping[str, Scales],
    q: float,
) -> _Step:
    z, weights = hermite_e.hermegauss(_NODES)
    weights = weights / np.sqrt(2 * np.pi)
    value, slope = {}, {}
    for name, gate in gates.items():
        u = gate.bias + np.sqrt(gate.variance(q)) * z
        value[name] = 1 / (1 + np.exp(-u))
        slope[name] = value[name] * (1 - value[name])
        if name == "cell":
            value[name] = np.tanh(u)
            slope[name] = 1 - value[name] ** 2
    kept = value["forget"]
    opened, new = value["input"], value["cell"]
    grid = _grid(_num_points(weights, kept, opened=opened, new=new))
    k = grid.k

    # Expectations over i g, with powers of it and with the slopes of both.
    product = np.outer(opened, new).ravel()
    masses = np.outer(weights, weights).ravel()
    of_input = np.outer(slope["input"] ** 2, new**2)
    of_cell = np.outer(opened**2, slope["cell"] ** 2)
    slopes = gates["input"].recurrent * of_input
    slopes += gates["cell"].recurrent * of_cell
    ones = np.ones_like(product)
    factors = masses * np.stack([ones, product, product**2, slopes.ravel()])
    waves = np.exp(1j * np.outer(k, product))
    of_new, of_new_1, of_new_2, of_slopes = factors @ waves.T

    # Expectations over f of functions at f k.
    moved = grid.at(np.outer(kept, k).ravel())
    moved = moved.reshape(len(z), len(k), len(k))

    def mean_moved(factor: Points) -> Matrix:
        return np.tensordot(weights * factor, moved, 1)

    # E exp(ikc), E c exp(ikc) and E c² exp(ikc) in the stationary state.
    identity = np.eye(len(k))
    moved_0 = mean_moved(np.ones_like(kept))
    moved_1 = mean_moved(kept)
    kept_0 = of_new[:, None] * moved_0
    kept_1 = of_new[:, None] * moved_1
    kept_2 = of_new[:, None] * mean_moved(kept**2)
    stationary = identity - kept_0
    # It is known at k = 0, the first point, where its own equation says nothing.
    stationary[0] = identity[0]
    power_0 = np.linalg.solve(stationary, identity[0].astype(complex))
    old_0 = moved_0 @ power_0
    power_1 = np.linalg.solve(identity - kept_1, old_0 * of_new_1)
    old_1 = moved_1 @ power_1
    source = 2 * old_1 * of_new_1 + old_0 * of_new_2
    power_2 = np.linalg.solve(identity - kept_2, source)

    tanh_square = 1 - float(grid.of_square @ power_0.real)
    shown = float(weights @ value["output"] ** 2)

    # P' = f² P + (s_f² f'² c² + s_i² i'² g² + s_g² i² g'²) H.
    of_forget = mean_moved(slope["forget"] ** 2) @ power_2
    fed = gates["forget"].recurrent * of_new * of_forget
    fed = fed + old_0 * of_slopes
    of_output = float(weights @ slope["output"] ** 2)
    return _Step(
        q=shown * tanh_square,
        memory=float(weights @ kept**2),
        kept=kept_2,
        fed=fed,
        shown=shown * grid.of_fourth,
        direct=gates["output"].recurrent * of_output * tanh_square,
    )


def _num_points(
    weights: Points,
    kept: Points,
    *,
    opened: Points,
    new: Points,
) -> int:
    """Return how many points resolve the characteristic function of the state c.

    In its stationary state c = f c + i g. It needs as many points as c has standard
    deviations of room, so its mean and variance are computed first.

    Args:
        weights: The masses of the gates' values.
        kept: The forget gate f at these values.
        opened: The input gate i.
        new: The candidate g.

    Raises:
        NotDefined: More than fit into memory.
    """
    product = (weights @ opened) * (weights @ new)
    mean = product / (weights @ (1 - kept))
    square = (weights @ opened**2) * (weights @ new**2)
    square += 2 * (weights @ kept) * mean * product
    deviation = np.sqrt(square / (weights @ (1 - kept**2)))
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
    forget, opened, shown = (
        switch(gates[name].bias, gates[name].drive).square
        for name in ("forget", "input", "output")
    )
    chi = forget + gates["cell"].recurrent * opened * shown
    return State(q=0.0, chi=chi, memory=forget)
