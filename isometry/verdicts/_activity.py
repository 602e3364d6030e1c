"""What nonlinearities do to their units: slopes, dead and saturated ones."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from isometry._internal import kinds
from isometry._internal.types import Key
from isometry.activations import Activation
from isometry.measure import _arguments, _spans
from isometry.measure._spans import Span
from isometry.verdicts import _collapse
from isometry.verdicts._reading import Unit, read
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject


@dataclass(frozen=True, eq=False)
class Activity:
    """What one nonlinearity does, over seeds and the few examples.

    A unit is one entry of the value in front of the nonlinearity; entries of a channel
    at all positions (pixels, tokens) are one channel. A unit has no slope where the
    derivative of the nonlinearity is zero there: nothing downstream depends on it.

    Attributes:
        point: The name of the point in front of the nonlinearity: "conv_1". A norm or
            pooling may come in between.
        nonlinearity: Its name: "relu".
        activation: The function itself.
        shape: The shape of the value at one input.
        is_dead: Whether a channel has no slope at any input and position.
        is_mirrored: Whether a channel would be dead if its values changed their sign.
        num_live: How many units have a slope at an input.
        num_flat: How many units are in the flat part of a bounded nonlinearity.
        samples: Values in front of the nonlinearity at `sites`, evenly spaced among
            inputs × positions: what the null hypotheses are drawn from.
        largest_slope: The largest slope of a bounded nonlinearity; None for any other.
        is_cut: Whether every path from x to the output runs through the nonlinearity.
        is_gate: Whether the result of the nonlinearity is multiplied with another
            branch.
    """

    point: str
    nonlinearity: str
    activation: Activation
    shape: tuple[int, ...]
    is_dead: Bool[np.ndarray, "seeds channels"]
    is_mirrored: Bool[np.ndarray, "seeds channels"]
    num_live: Int[np.ndarray, "seeds inputs"]
    num_flat: Int[np.ndarray, "seeds inputs"]
    samples: Float[np.ndarray, "seeds sites channels"]
    largest_slope: float | None
    is_cut: bool
    is_gate: bool

    @property
    def num_channels(self) -> int:
        """The number of channels."""
        return self.is_dead.shape[1]

    @property
    def num_positions(self) -> int:
        """The number of positions: pixels, tokens; 1 of a dense layer."""
        return math.prod(self.shape) // max(self.num_channels, 1)


def activities(
    subject: Subject,
    thresholds: Thresholds | None = None,
) -> dict[str, Activity]:
    """Measure what each nonlinearity does, by the name of the point in front of it.

    A network that has a training mode is measured in it, because a batch norm is to be
    judged by the statistics of a batch. The few examples are the batch.

    If several nonlinearities are behind one point, the names of all but the first are
    numbered: "conv_1 (2)".

    Args:
        subject: The network.
        thresholds: The thresholds of the audit, with the slope at which a unit counts
            as saturated.
    """
    found: dict[str, Activity] = {}
    for unit in read(subject, thresholds).units_in_training:
        point = name = unit.site.point
        number = 1
        # A point may have several nonlinearities behind it, as relu(z) and relu(-z).
        while name in found:
            number += 1
            name = f"{point} ({number})"
        found[name] = _activity(unit)
    return found


def _activity(unit: Unit) -> Activity:
    """Make the record of a nonlinearity."""
    return Activity(
        point=unit.site.point,
        nonlinearity=unit.site.nonlinearity,
        activation=unit.activation,
        shape=unit.site.shape,
        is_dead=unit.is_dead,
        is_mirrored=unit.is_mirrored,
        num_live=unit.num_live,
        num_flat=unit.num_flat,
        samples=unit.samples,
        largest_slope=unit.largest_slope,
        is_cut=unit.site.is_cut,
        is_gate=unit.site.is_gate,
    )


def first_not_finite(
    subject: Subject,
    thresholds: Thresholds | None = None,
) -> str:
    """Return the first parameter or signal that is NaN or infinite, in words; or ""."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(subject.params):
        if not kinds.is_floating(leaf):
            continue
        # In float64, because NumPy knows no infinity of bfloat16.
        is_wrong = ~np.isfinite(np.asarray(leaf, np.float64))
        if is_wrong.any():
            seed, *index = (int(i) for i in np.argwhere(is_wrong)[0])
            value = float(np.asarray(leaf, np.float64)[seed, *index])
            name = jax.tree_util.keystr(path)
            return f"{name} is {value} at {tuple(index)} in seed {seed}"
    # In the order of computation: what overflows first is the cause of the others.
    for signal in read(subject, thresholds).signals.values():
        if not signal.is_finite.all():
            seed, example = (int(i) for i in np.argwhere(~signal.is_finite)[0])
            name, dtype = signal.point, signal.dtype
            return f"{name} overflows {dtype} in seed {seed}, at input {example}"
    return ""


def lost(
    subject: Subject,
    thresholds: Thresholds | None = None,
) -> str:
    """Return, in words, the first signal that underflows float64 too; or "".

    Zeros behind that signal say nothing of units or ranks.
    """
    return read(subject, thresholds).lost


def rank_bounds(
    subject: Subject,
    span: Span,
    thresholds: Thresholds | None = None,
) -> Int[np.ndarray, "seeds inputs"]:
    """Return upper bounds on the rank of the Jacobian between two points.

    A bound is the smallest of two kinds of numbers: the live units of a nonlinearity on
    all paths between the points, and the entries of a value on all of them. Units are
    counted in inference mode, in which Jacobians are measured too.

    Args:
        subject: The network.
        span: The two points between which the Jacobian is taken.
        thresholds: The thresholds of the audit.
    """
    anatomy = subject.anatomy
    function = _arguments.function_of(subject.f)
    resolved = _spans.resolve(function, anatomy, span)
    first, last = resolved.first.name, resolved.last.name

    def is_inside(point: str) -> bool:
        return anatomy.upstream(first, point) and anatomy.upstream(point, last)

    # The bound to begin with: no matrix has so high a rank.
    most = np.iinfo(np.int32).max
    bound = np.full((subject.num_seeds, subject.num_inputs), most)
    for unit in read(subject, thresholds).units:
        point = unit.site.point
        # A nonlinearity behind the last point is no part of this Jacobian.
        if unit.site.is_cut and point != last and is_inside(point):
            bound = np.minimum(bound, unit.num_live)
    for name in anatomy.points:
        # The output is a function of the entries of any value on all paths.
        if anatomy.cuts(name) and is_inside(name):
            num_entries = math.prod(anatomy.shape(name).shape)
            bound = np.minimum(bound, num_entries)
    return bound


def forward(
    subject: Subject,
    thresholds: Thresholds,
    key: Key,
) -> dict[str, Any]:
    """Return statistics of the signal at every layer: see `_collapse.forward`."""
    return _collapse.forward(subject, thresholds, key)
