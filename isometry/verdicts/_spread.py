"""How far units drift apart that are certified to stay equal in exact arithmetic."""

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
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._tapping import tapped
from isometry.verdicts._flag import Interval
from isometry.verdicts._subject import Subject

# Points that are watched, evenly spaced among those whose units are locked: to tell
# which values are equal there, `certificates` compiles a program for each.
_MOST_POINTS = 2

# Examples at which units are compared.
_MOST_INPUTS = 64

_IN_EXACT_ARITHMETIC = "in exact arithmetic"


@dataclass(frozen=True, eq=False)
class Spread:
    """Distances between units that are equal in exact arithmetic, along a probe.

    Attributes:
        points: The points that were watched; empty if no units are locked so.
        steps: Steps made at each record, from 0 on.
        spread: Largest distance of a unit from the first of its class, relative to the
            norm of that one; 0 without such classes, inf where it is not finite.
        least: Smallest distance of such a unit from a kink of the nonlinearity behind
            it, relative to the root mean square of its layer; inf without kinks. Units
            that are nearer than rounding can part at once.
    """

    points: tuple[str, ...]
    steps: Int[np.ndarray, " records"]
    spread: Float[np.ndarray, "seeds records"]
    least: Float[np.ndarray, "seeds records"]

    def growth(self) -> tuple[float, Interval] | None:
        """Return the rate of growth per step, and its 95 % interval.

        The rate is the slope of ln spread over the steps, with a level of its own for
        each seed. The interval is that of least squares, whose residuals are taken for
        independent; a curve that bends widens it. None where fewer than four values are
        above zero.
        """
        from scipy.stats import t

        is_real = (self.spread > 0) & np.isfinite(self.spread)
        # Of the values each level takes one, and the slope one more.
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
        half = float(error * t.ppf(0.975, freedom))
        return rate, (rate - half, rate + half)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON."""
        return dict(vars(self))


def _centered(
    values: Float[np.ndarray, "seeds records"],
    is_real: Bool[np.ndarray, "seeds records"],
) -> Float[np.ndarray, "seeds records"]:
    """Return values without their mean in each seed; 0 where a value is missing."""
    count = np.maximum(is_real.sum(1, keepdims=True), 1)
    mean = np.where(is_real, values, 0).sum(1, keepdims=True) / count
    return np.where(is_real, values - mean, 0)


@dataclass(frozen=True, eq=False)
class _Class:
    """Values at a point that share a class with others, flat, and the first of each.

    Attributes:
        members: The indices of the values.
        first: For each, the index of the first of its class.
        signs: Their signs relative to each other.
    """

    members: Int[np.ndarray, " members"]
    first: Int[np.ndarray, " members"]
    signs: Int[np.ndarray, " members"]


class Watch:
    """Compares certified-equal units of some seeds, again and again.

    Args:
        subject: The network.
        certificates: Of the seeds.
    """

    def __init__(
        self,
        subject: Subject,
        certificates: Sequence[Certificate],
    ) -> None:
        # So many examples tell units apart, and are read at every record.
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
        """Record how far units are apart.

        Args:
            params: The parameters of each seed.
        """
        spread = np.zeros(len(params))
        least = np.full(len(params), np.inf)
        for seed, of_seed in enumerate(params):
            # Without points there is nothing to run.
            if not self.points:
                break
            with precision.full():
                values = self._read(of_seed, self._xs)
            # The worst of the points.
            for point, z in values.items():
                flat = np.asarray(z, float).reshape(len(z), -1)
                classes = self._classes[seed][point]
                apart, near = _compared(flat, classes, self._kinks[point])
                spread[seed] = max(spread[seed], apart)
                least[seed] = min(least[seed], near)
        self.spread.append(spread)
        self.least.append(least)

    def record(self, marks: Sequence[int]) -> Spread:
        """Return what was recorded before the first step and at each mark."""
        return Spread(
            points=self.points,
            steps=np.array([0, *marks]),
            spread=np.stack(self.spread, 1),
            least=np.stack(self.least, 1),
        )


def _locked_points(
    anatomy: Anatomy,
    certificates: Sequence[Certificate],
) -> tuple[str, ...]:
    """Return points whose units are equal for ever, but for rounding."""
    locked = [
        layer.name
        for certificate in certificates
        for layer in certificate.layers
        if layer.grade == _IN_EXACT_ARITHMETIC
    ]
    # The output's units are equal to nothing, and a weight may be used at no point of
    # its name.
    heads = {layer.name for layer in anatomy.layers if layer.role == "head"}
    points = [name for name in anatomy.points if name in locked and name not in heads]
    if len(points) <= _MOST_POINTS:
        return tuple(points)
    # The first and the last among them: rounding adds up on the way.
    picks = np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)
    return tuple(points[i] for i in picks)


def _classes(
    certificate: Certificate,
    point: str,
) -> _Class:
    """Return the values at a point that are equal for ever, up to sign."""
    units = certificate.units(point)
    ids = units.ids.ravel()
    signs = units.signs.ravel()
    sizes = np.bincount(ids)
    # Class 0 is zero for ever, and nothing parts from it.
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
    """Return where the nonlinearity behind a point has kinks, as far as it is known."""
    # A network that knows its activation knows kinks that no name tells.
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
        # They may be anywhere, on a kink as well.
        near = 0.0 if kinks else np.inf
        return np.inf, near
    # Units may differ in size by orders, so each distance is relative to its own class.
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
    # A layer of zeros has no scale, and its distances stay as they are.
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
