"""How far units drift apart that a certificate shows equal in exact arithmetic only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from isometry import activations
from isometry._internal import compilation, precision
from isometry._internal.types import Params
from isometry.certificates import Certificate
from isometry.certificates._layers import IN_EXACT_ARITHMETIC
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._tapping import tapped
from isometry.verdicts._flag import Interval
from isometry.verdicts._subject import Subject

# The number of points that are watched, evenly spaced among those whose units are
# locked. To tell which values are equal at a point, `certificates` compiles a program
# for each.
_MOST_POINTS = 2

# The number of examples at which units are compared.
_MOST_INPUTS = 64


@dataclass(frozen=True, eq=False)
class Spread:
    """Distances between units that are equal in exact arithmetic, along a probe.

    Attributes:
        points: The points that were watched; empty if no units are locked only in exact
            arithmetic.
        steps: The number of steps made before each record, from 0 on.
        spread: The largest distance of a unit from the first unit of its class,
            relative to the norm of that first unit over examples; 0 without classes of
            several units, inf if a value is not finite.
        least: The smallest distance of such a unit from a kink of the nonlinearity
            behind it, relative to the root mean square of the layer; inf without kinks.
            If it is below rounding, two equal units can come to lie on different sides
            of the kink and part at once.
    """

    points: tuple[str, ...]
    steps: Int[np.ndarray, " records"]
    spread: Float[np.ndarray, "seeds records"]
    least: Float[np.ndarray, "seeds records"]

    def growth(self) -> tuple[float, Interval] | None:
        """Return the growth rate of the spread per step, and its 95 % interval.

        The rate is the slope of a least-squares fit of ln spread over the steps, with
        an intercept for each seed. The interval takes the residuals for independent; a
        curve that bends widens it. The result is None if the fit has fewer than two
        degrees of freedom.
        """
        from scipy.special import stdtrit

        is_real = (self.spread > 0) & np.isfinite(self.spread)
        # One degree of freedom is lost for each intercept, and one for the slope.
        num_levels = int(is_real.any(1).sum())
        freedom = int(is_real.sum()) - num_levels - 1
        if freedom < 2:
            return None
        # ln 0 would warn; what is not real is left out by `_centered`.
        safe_spread = np.where(is_real, self.spread, 1)
        steps = np.broadcast_to(self.steps, is_real.shape)
        x = _centered(steps.astype(float), is_real)
        y = _centered(np.log(safe_spread), is_real)
        sum_of_squares = (x**2).sum()
        rate = float((x * y).sum() / sum_of_squares)
        residuals = y - rate * x
        variance = (residuals**2).sum() / freedom
        error = np.sqrt(variance / sum_of_squares)
        half = float(error * stdtrit(freedom, 0.975))
        return rate, (rate - half, rate + half)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return dict(vars(self))


def _centered(
    values: Float[np.ndarray, "seeds records"],
    is_real: Bool[np.ndarray, "seeds records"],
) -> Float[np.ndarray, "seeds records"]:
    """Return values without their mean in each seed; 0 where a value is missing."""
    num_real = np.maximum(is_real.sum(1, keepdims=True), 1)
    mean = np.where(is_real, values, 0).sum(1, keepdims=True) / num_real
    return np.where(is_real, values - mean, 0)


@dataclass(frozen=True, eq=False)
class _Class:
    """The values at one point that are equal or opposite to others, for ever.

    Indices are those of the flattened value.

    Attributes:
        members: The index of each value that is in a class with others.
        first: For each member, the index of the first value of its class.
        signs: For each member, its sign relative to that first value: 1 or -1.
    """

    members: Int[np.ndarray, " members"]
    first: Int[np.ndarray, " members"]
    signs: Int[np.ndarray, " members"]


class Watch:
    """Records along a training how far units drift apart that are certified equal.

    Args:
        subject: The network.
        certificates: The certificate of each seed.
    """

    def __init__(
        self,
        subject: Subject,
        certificates: Sequence[Certificate],
    ) -> None:
        # A few examples show whether units differ, and they are evaluated again for
        # every record.
        self._xs = jax.tree.map(lambda leaf: leaf[:_MOST_INPUTS], subject.xs)
        self.points = _locked_points(subject.anatomy, certificates)
        self._classes = [
            {point: _classes(certificate, point) for point in self.points}
            for certificate in certificates
        ]
        self._kinks = {point: _kinks(subject, point) for point in self.points}
        self._read = _reader(subject.anatomy, self.points)
        self.spread: list[Float[np.ndarray, " seeds"]] = []
        self.least: list[Float[np.ndarray, " seeds"]] = []

    def look(self, params: Sequence[Params]) -> None:
        """Record how far units are apart for these parameters.

        Args:
            params: The parameters of each seed.
        """
        spread = np.zeros(len(params))
        least = np.full(len(params), np.inf)
        for seed, of_seed in enumerate(params):
            # Without points there is nothing to compare.
            if not self.points:
                break
            with precision.full():
                values = self._read(of_seed, self._xs)
            # Of all points, the worst is recorded.
            for point, z in values.items():
                flat = np.asarray(z, float).reshape(len(z), -1)
                classes = self._classes[seed][point]
                apart, near = _compared(flat, classes, self._kinks[point])
                spread[seed] = max(spread[seed], apart)
                least[seed] = min(least[seed], near)
        self.spread.append(spread)
        self.least.append(least)

    def record(self, steps: Sequence[int]) -> Spread:
        """Return all that `look` recorded.

        Args:
            steps: The total number of steps before each call of `look`, except the
                first call, which came before training.
        """
        return Spread(
            points=self.points,
            steps=np.array([0, *steps]),
            spread=np.stack(self.spread, 1),
            least=np.stack(self.least, 1),
        )


def _locked_points(
    anatomy: Anatomy,
    certificates: Sequence[Certificate],
) -> tuple[str, ...]:
    """Return the points to watch: some whose units only rounding can part."""
    locked = [
        layer.name
        for certificate in certificates
        for layer in certificate.layers
        if layer.grade == IN_EXACT_ARITHMETIC
    ]
    # A head is left out, because its outputs are no hidden units. Only names of points
    # are kept: a weight may be used without a point of its name.
    heads = {layer.name for layer in anatomy.layers if layer.role == "head"}
    points = [name for name in anatomy.points if name in locked and name not in heads]
    if len(points) <= _MOST_POINTS:
        return tuple(points)
    # The first and the last are among them, because rounding adds up on the way.
    picks = np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)
    return tuple(points[i] for i in picks)


def _classes(
    certificate: Certificate,
    point: str,
) -> _Class:
    """Return the values at a point that are equal or opposite for ever."""
    units = certificate.units(point)
    ids = units.ids.ravel()
    signs = units.signs.ravel()
    sizes = np.bincount(ids)
    # Class 0 holds the values that are zero for ever: no gradient moves them.
    members = np.flatnonzero((ids > 0) & (sizes[ids] > 1))
    # The first value of each class, in the order of the classes.
    known, first_of_class = np.unique(ids, return_index=True)
    first = first_of_class[np.searchsorted(known, ids[members])]
    return _Class(
        members=members,
        first=first,
        signs=signs[members] * signs[first],
    )


def _kinks(
    subject: Subject,
    point: str,
) -> tuple[float, ...]:
    """Return the arguments at which the nonlinearity behind a point has kinks.

    The result is empty if there are none, or if they are not known.
    """
    # The activation of a network may have kinks that cannot be looked up by a name.
    network = subject.network
    if network is not None and network.activation is not None:
        return network.activation.kinks
    for layer in subject.anatomy.layers:
        if point.partition("[")[0] == layer.name:
            return _kinks_behind(layer)
    return ()


def _kinks_behind(layer: WeightLayer) -> tuple[float, ...]:
    # The anatomy writes "leaky relu", `activations.names()` has "leaky_relu".
    names = [step.replace(" ", "_") for step in layer.then[:1]]
    known = [name for name in names if name in activations.names()]
    return activations.get(known[0]).kinks if known else ()


def _compared(
    z: Float[np.ndarray, "inputs values"],
    classes: _Class,
    kinks: Sequence[float],
) -> tuple[float, float]:
    """Return the largest distance within a class, and the smallest from a kink."""
    if not len(classes.members):
        return 0.0, np.inf
    if not np.isfinite(z).all():
        # Values that are not finite may lie anywhere, also on a kink.
        near = 0.0 if kinks else np.inf
        return np.inf, near
    # Classes may differ in size by orders of magnitude, so each distance is relative to
    # the norm of the first unit of its class.
    firsts = z[:, classes.first]
    members = z[:, classes.members]
    norms = np.linalg.norm(firsts, axis=0)
    differences = members * classes.signs - firsts
    apart = np.linalg.norm(differences, axis=0)
    safe_norms = np.where(norms > 0, norms, 1)
    spread = float(np.max(apart / safe_norms))
    from_kinks = [float(np.abs(members - kink).min()) for kink in kinks]
    near = min(from_kinks, default=np.inf)
    scale = float(np.sqrt(np.mean(z**2)))
    # A layer of zeros has no scale: there the distance stays absolute.
    if scale:
        near /= scale
    return spread, near


def _reader(
    anatomy: Anatomy,
    points: Sequence[str],
) -> Callable[[Params, PyTree[Array]], dict[str, Array]]:
    """Return a compiled program that reads points, for every example."""
    places = {name: anatomy.place(name) for name in points}
    program = tapped(anatomy.closed, places)

    def of_one(
        params: Params,
        x: PyTree[Array],
    ) -> dict[str, Array]:
        _, readings = program(jax.tree.leaves((params, x)), {})
        return readings

    return compilation.jit(jax.vmap(of_one, (None, 0)))
