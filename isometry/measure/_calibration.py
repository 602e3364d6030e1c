"""Calibrated networks: a gain for each weight layer, such that E s² = 1 over a span.

A gain multiplies a slot: a weight layer, or one slice of stacked layers. The trunk is
the slots that every path through the span meets; the others are on residual branches.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal import compilation, precision
from isometry._internal.errors import NotDefined, NotFinite
from isometry._internal.types import Key, Params
from isometry.measure import _profile, _run
from isometry.measure._gains import Calibrated, Factors, Gain, Gains, scaled
from isometry.measure._passes import Spans, jacobians
from isometry.measure._plan import Plan
from isometry.measure._sites import Sites, Slot, sites_of
from isometry.measure._spans import Point, Span
from isometry.measure._warnings import warn
from isometry.networks import Network
from isometry.structure import Anatomy
from isometry.structure._anatomy import in_order
from isometry.structure._tapping import ADD

# How far E s² may be from 1 in the end. The standard error of the mean over seeds is a
# hundred times larger at best; with a tenth of it smooth activations would need one
# more round.
_TOLERANCE = 1e-3

# A layer is called invariant if doubling its weights moves the end of the span by less
# than this share. A norm after it leaves eps/variance, 1e-5 or less; a layer that
# counts moves its own share of the signal. With a tenth of it, norms of signals of
# variance 1e-2 would be missed; with ten times more, saturated layers would be
# called invariant.
_INVARIANT = 1e-2

# The largest standard error of E s² without a warning, as a share of it. The gains are
# as uncertain: on other seeds E s² is 1 within three standard errors, and from a third
# on that interval reaches down to 0. With a tenth of it, networks of eight units would
# be warned of at any number of seeds in use; with three times more, a mean that one
# Jacobian of ten carries would pass.
_MOST_ERROR = 1 / 3

# Doublings that a single gain is looked for in, up and down. A factor 2^20 more is no
# calibration but another network.
_MOST_DOUBLINGS = 20

# Rounds of the search for one gain. Each halves the interval at least every other time.
_MOST_ROUNDS = 60


class _Measurement:
    """Measures E s² of a network with gains, at the same seeds and inputs each time."""

    def __init__(self, net: Network, keys: Key, xs: PyTree[Array], *, span: Span):
        sites_of_span: list[Sites] = []

        # `prepare` reads the anatomy, and asks here which of its points to measure. The
        # sites are noted on the way.
        def choose(anatomy: Anatomy, first: Point, last: Point) -> list[str]:
            sites = sites_of(anatomy, first, last)
            sites_of_span.append(sites)
            points = {first.name, last.name, *(slot.point for slot in sites.trunk)}
            return in_order(anatomy, points)

        self._run = _run.prepare(
            net,
            keys,
            xs,
            params=None,
            sample=None,
            span=span,
            dtype=None,
            choose=choose,
        )
        (self.sites,) = sites_of_span
        # All layers are measured from the start, by one forward pass.
        self._spans = Spans(self.plan, "input")
        self._inputs_at_once = _profile.inputs_at_once(self._spans, self._run)
        self._seed_chunks = None
        # Drawing anew in each round would adjust a data-driven network each time.
        if self._run.seeds_at_once >= self._run.num_seeds:
            self._seed_chunks = list(self._run.chunks())

    @property
    def plan(self) -> Plan:
        """Which values of the network are read."""
        return self._run.plan

    def mean_squares(self, factors: Factors) -> dict[str, np.ndarray]:
        """Return the mean of s² from the start of the span to each point.

        Returns:
            From the name of a point to an array (seeds, inputs): means over
            singular values.
        """
        parts = []
        for _, drawn in self._seed_chunks or self._run.chunks():
            part = _mean_squares(
                self._spans,
                self._inputs_at_once,
                self.plan.constants,
                params=_all_scaled(drawn, self.plan.anatomy, factors),
                xs=self._run.xs,
            )
            parts.append(part)
        joined = self._run.joined(parts)
        by_point = {}
        for shape, names in self._spans.names_of_shape().items():
            stack = joined[_profile.label_of(shape)].astype(np.float64)
            for i, name in enumerate(names):
                of_point = stack[:, :, i]
                # One NaN would make the gains of all layers NaN.
                if not np.isfinite(of_point).all():
                    raise NotFinite(
                        f"the Jacobian from {self.plan.first} to {name!r} is not "
                        "finite. Does f overflow?"
                    )
                by_point[name] = of_point
        return by_point

    def responses(self) -> Float[np.ndarray, " slots"]:
        """Return how much the end of the span moves with the gain of each trunk layer.

        Returns:
            For each layer, |d end/d ln gain|/|end| of the first seed and input.
        """
        _, drawn = next(iter(self._seed_chunks or self._run.chunks()))
        params = jax.tree.map(lambda a: a[0], drawn)
        x = jax.tree.map(lambda a: a[0], self._run.xs)
        constants = self.plan.constants
        responses = _responses(
            self.plan,
            self.sites,
            constants,
            params=params,
            x=x,
        )
        return np.asarray(responses)


def _all_scaled(params: Params, anatomy: Anatomy, factors: Factors) -> Params:
    """Return parameters that are stacked over seeds, with their weights multiplied."""
    return jax.vmap(lambda of_seed: scaled(of_seed, anatomy, factors))(params)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _mean_squares(
    spans: Spans,
    chunk: int,
    constants: list[Array],
    params: Params,
    xs: PyTree[Array],
) -> dict[str, Array]:
    """Return the mean of s² of all Jacobians, (seeds, inputs, spans), by shape."""

    def of_input(params: Params, x: PyTree[Array]) -> dict[str, Array]:
        stacks = jacobians(spans, constants, jax.tree.leaves((params, x)))
        return jax.tree.map(_mean_square, stacks)

    def of_seed(params: Params) -> dict[str, Array]:
        measure = functools.partial(of_input, params)
        return jax.lax.map(measure, xs, batch_size=chunk)

    with precision.full():
        return jax.lax.map(of_seed, params)


def _mean_square(stack: Float[Array, "spans m n"]) -> Float[Array, " spans"]:
    """Return the mean of s² of each matrix."""
    # The sum of the squares of all singular values is that of all entries.
    return jnp.sum(stack**2, axis=(1, 2)) / min(stack.shape[1:])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _responses(
    plan: Plan,
    sites: Sites,
    constants: list[Array],
    *,
    params: Params,
    x: PyTree[Array],
) -> Float[Array, " slots"]:
    """Return |d end/d ln gain|/|end| for each trunk layer, at one seed and input."""
    program = plan.tapped(constants, ADD)

    def end(log_gains: Float[Array, " slots"]) -> Array:
        factors = sites.factors(sites.trunk, jnp.exp(log_gains))
        changed = scaled(params, plan.anatomy, factors)
        _, readings = program(jax.tree.leaves((changed, x)), {})
        return plan.part(readings, plan.last)

    zeros = jnp.zeros(len(sites.trunk), plan.dtype)
    with precision.full():
        value, push = jax.linearize(end, zeros)
        sizes = jax.lax.map(
            lambda direction: jnp.linalg.norm(push(direction)),
            jnp.eye(len(zeros), dtype=plan.dtype),
        )
    return sizes / jnp.linalg.norm(value)


def calibrate(net: Network, keys: Key, xs: PyTree[Array], *, span: Span) -> Calibrated:
    """Find gains that make E s² = 1 over a span, as `Network.calibrated` promises."""
    measurement = _Measurement(net, keys, xs, span=span)
    sites = measurement.sites
    last = measurement.plan.last.name
    notes = dict(sites.notes)
    slots = []
    # A span without such layers has no response to ask for.
    responses: Sequence[float] | np.ndarray = ()
    if sites.trunk:
        responses = measurement.responses()
    for slot, response in zip(sites.trunk, responses, strict=True):
        if response < _INVARIANT:
            name = sites.names[slot.layer, slot.number]
            notes[name] = "a norm behind it undoes its scale"
        else:
            slots.append(slot)
    before = measurement.mean_squares({})[last]

    factors = _trunk_gains(measurement, slots)
    after = measurement.mean_squares(factors)[last]
    # Branches may still keep E s² away from 1, and then one more number is solved for.
    if abs(_log_mean_square(after.mean(), last)) > _TOLERANCE:
        factors = _with_last_gain(measurement, slots, factors, notes=notes)
        after = measurement.mean_squares(factors)[last]
    warnings = tuple(_doubts(before, after))
    for warning in warnings:
        warn(warning, UserWarning)
    gains = Gains(
        rows=tuple(_rows(sites, factors, notes)),
        span=(measurement.plan.first.name, last),
        before=float(before.mean()),
        after=float(after.mean()),
        error=_standard_error(after),
        warnings=warnings,
    )
    return Calibrated(
        function=net.function,
        example=net.example,
        scheme=net.scheme,
        activation=net.activation,
        mode=net.mode,
        base=net,
        gains=gains,
        factors=factors,
    )


def _rows(sites: Sites, factors: Factors, notes: Mapping[str, str]) -> Iterator[Gain]:
    """Yield the gain of every slice, with a note where it is left at 1."""
    for (layer, number), name in sites.names.items():
        gain = 1.0
        if layer in factors:
            gain = float(factors[layer][number])
        note = notes.get(name, "")
        # The last layers of branches have a note, but get a gain if the others do not
        # suffice. Then the note is wrong.
        if gain != 1.0:
            note = ""
        yield Gain(name, gain, note)


def _doubts(
    before: Float[np.ndarray, "seeds inputs"],
    after: Float[np.ndarray, "seeds inputs"],
) -> Iterator[str]:
    """Say why E s² = 1 may not hold on other seeds, from s² with and without gains."""
    error = _standard_error(after)
    mean = after.mean()
    if error > _MOST_ERROR * mean:
        yield (
            f"E s² = {mean:.4f} ± {error:.4f} is carried by few draws, and other seeds "
            f"may be far from it: the largest of {after.size} Jacobians has "
            f"{after.max() / after.sum():.0%} of the sum. Give more keys; if that does "
            "not help, a wider network, or one whose units saturate less."
        )
    lost = np.count_nonzero((after == 0) & (before > 0))
    if lost > 0:
        yield (
            f"with these gains {lost} of {after.size} Jacobians are exactly 0, which "
            "were not before: the gains saturate units, and the others make up for it."
        )


def _standard_error(by_pair: Float[np.ndarray, "seeds inputs"]) -> float:
    """Return the standard error of the mean over seeds; NaN for one seed."""
    # Inputs of one seed share its weights.
    by_seed = by_pair.mean(axis=1)
    # Of a single seed nothing is known about the spread.
    if len(by_seed) == 1:
        return math.nan
    return float(by_seed.std(ddof=1)) / math.sqrt(len(by_seed))


def _log_mean_square(mean_square: float, point: str) -> float:
    """Return ln E s² from the start of the span to a point.

    Raises:
        NotDefined: E s² is zero, which no gain changes.
    """
    if mean_square > 0:
        return math.log(mean_square)
    raise NotDefined(
        f"E s² to {point!r} is exactly 0, and no gain changes that: weights are zero, "
        "or no unit is active. Write net.with_scheme(...) with a scheme without zeros."
    )


def _trunk_gains(measurement: _Measurement, slots: Sequence[Slot]) -> Factors:
    """Return the gains with which E s² is 1 from the start to each slot of the trunk.

    E s² up to a layer is proportional to its gain², and depends on the gains of layers
    before it alone. So if all gains are corrected at once, the first layer is right
    after one round, the second after two, and with positively homogeneous activations
    all are right after the first.
    """
    log_gains = np.zeros(len(slots))
    factors: Factors = {}
    # At most one round for each layer, as said above.
    for _ in range(len(slots)):
        means = measurement.mean_squares(factors)
        log_means = np.array(
            [_log_mean_square(means[slot.point].mean(), slot.point) for slot in slots]
        )
        if np.all(np.abs(log_means) <= _TOLERANCE):
            break
        # The gain of a layer changes all later points too, so it corrects only what
        # E s² gains from the layer before.
        log_gains -= np.diff(log_means, prepend=0.0) / 2
        gains = jnp.exp(jnp.asarray(log_gains))
        factors = _on_host(measurement.sites.factors(slots, gains))
    return factors


def _on_host(factors: dict[str, Array]) -> Factors:
    """Return gains as NumPy arrays of float64."""
    return {name: np.asarray(gains, np.float64) for name, gains in factors.items()}


def _with_last_gain(
    measurement: _Measurement,
    slots: Sequence[Slot],
    factors: Factors,
    *,
    notes: Mapping[str, str],
) -> Factors:
    """Return `factors` with one more gain, which brings E s² over the span to 1.

    It multiplies the last slot of the trunk; if the trunk is empty, the slots that end
    all branches.

    Raises:
        NotDefined: No such gain exists.
    """
    sites = measurement.sites
    last = measurement.plan.last.name
    adjusted = slots[-1:] or sites.ends
    # The message says of each layer why it has no gain.
    if not adjusted:
        reasons = [f"{name}: {note}" for name, note in notes.items()]
        listed = "; ".join(reasons) or "there is none"
        raise NotDefined(f"no weight layer of the span changes E s²: {listed}.")

    def with_gain(gain: float) -> Factors:
        combined = dict(factors)
        added = sites.factors(adjusted, jnp.full(len(adjusted), gain))
        for name, gains in _on_host(added).items():
            combined[name] = combined.get(name, 1.0) * gains
        return combined

    def mean_square(gain: float) -> float:
        return float(measurement.mean_squares(with_gain(gain))[last].mean())

    tried = []

    def log_mean_square(log_gain: float) -> float:
        mean = mean_square(math.exp(log_gain))
        tried.append(mean)
        return _log_mean_square(mean, last)

    # E s² with the adjusted layers at 0, so that only the skips around them are left.
    of_skips = mean_square(0.0)
    log_gain = None
    # If the skips alone have 1 or more, what looks like a solution is sampling noise.
    if min(of_skips, mean_square(1.0)) < 1 - _TOLERANCE:
        log_gain = _root(log_mean_square)
    if log_gain is None:
        names = [sites.names[slot.layer, slot.number] for slot in adjusted]
        # The skips alone have less than 1, and so has every gain.
        if tried:
            raise NotDefined(
                f"no gain of {', '.join(names[:3])} brings E s² to 1: from gain 1 to "
                f"2^{_MOST_DOUBLINGS} it goes from {tried[0]:.4g} to {tried[-1]:.4g}, "
                f"and is {max(tried):.4g} at most. The units behind it saturate; take "
                "a span that ends with a weight layer that every path meets."
            )
        raise NotDefined(
            f"no gain of {', '.join(names[:3])} brings E s² to 1: with these weights "
            f"at 0 the skips around them leave {of_skips:.4g}. Take a span that begins "
            "or ends with a layer that every path meets, or a network whose skips are "
            "below 1."
        )
    return with_gain(math.exp(log_gain))


def _root(function: Callable[[float], float]) -> float | None:
    """Return a zero of an increasing function near 0; None if there is none.

    By the Illinois variant of regula falsi: it keeps a bracket, and halves the
    function's value at the end of the bracket that stays.
    """
    a, value_a = 0.0, function(0.0)
    direction = -math.copysign(1.0, value_a)
    b = value_b = math.nan
    for doubling in range(1, _MOST_DOUBLINGS + 1):
        b = direction * doubling * math.log(2)
        value_b = function(b)
        if value_a * value_b <= 0:
            break
        a, value_a = b, value_b
    else:
        return None
    for _ in range(_MOST_ROUNDS):
        middle = (a * value_b - b * value_a) / (value_b - value_a)
        value = function(middle)
        if abs(value) <= _TOLERANCE:
            return middle
        if value * value_b < 0:
            a, value_a = b, value_b
        else:
            value_a /= 2
        b, value_b = middle, value
    return None
