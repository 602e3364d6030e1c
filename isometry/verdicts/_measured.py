"""`Measured`: everything that an audit measures of a network, each part once."""

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from isometry._internal import precision
from isometry._internal.errors import (
    FromCall,
    InputError,
    NotFinite,
    ZeroJacobianWarning,
)
from isometry._internal.types import Key, Params
from isometry.certificates import Certificate
from isometry.measure._ensemble import ensemble
from isometry.measure._function import Map
from isometry.measure._record import Spectrum
from isometry.measure._signals import signals
from isometry.measure._spans import Span
from isometry.networks._network import Phase
from isometry.records import Signals
from isometry.theory import Law
from isometry.verdicts import _activity, _gradients, _probe
from isometry.verdicts._activity import Activity
from isometry.verdicts._flag import PerSeed
from isometry.verdicts._gains import Gain, gain_of
from isometry.verdicts._gradients import Gradients
from isometry.verdicts._growth import growth_by_layer, growth_of, worst_layers
from isometry.verdicts._outliers import Outliers, outliers_of
from isometry.verdicts._probe import Probe
from isometry.verdicts._reading import Reading, read
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import SGD, Task, floating_part

T = TypeVar("T")

# The signals need a reverse pass for each entry of the output, so they are left out if
# the output has more. Logits of all tokens would take longer than all the rest.
_MOST_OUTPUTS = 128

# The stream of the audit's key from which the fit of the depth scale resamples.
_FORWARD = 3

# The number of seeds that are certified and trained. A certificate is a fact of one
# draw; three draws show whether it holds for the initialization. Ten seeds would take
# three times as long.
FEW_SEEDS = 3


class Part(Generic[T]):
    """A property of `Measured` that is measured once, timed, and announced.

    Args:
        label: What is told while it is measured: "Jacobians".
        is_told: Whether it is announced. What takes milliseconds is not.
    """

    def __init__(
        self,
        label: str,
        *,
        is_told: bool = True,
    ) -> None:
        self.label = label
        self.is_told = is_told

    def __call__(self, measure: Callable[["Measured"], T]) -> "Part[T]":
        self.measure = measure
        self.name = measure.__name__
        self.__doc__ = measure.__doc__
        return self

    def __get__(
        self,
        measured: "Measured | None",
        owner: type,
    ) -> T:
        if measured is None:
            return self  # pyright: ignore[reportReturnType]
        if self.name in measured.begun:
            # Another thread has begun this part: wait for its result.
            measured.parts[self.name] = measured.begun.pop(self.name).result()
        if self.name not in measured.parts:
            if self.is_told:
                measured.tell(self.label)
            measured.parts[self.name] = self.timed(measured)
        return measured.parts[self.name]

    def timed(self, measured: "Measured") -> T:
        """Measure the part, and keep how long it took."""
        start = time.perf_counter()
        before = measured.seconds_of_nested
        result = self.measure(measured)
        seconds = time.perf_counter() - start
        # The time of parts that this one asked for is in their own timings.
        nested = measured.seconds_of_nested - before
        measured.timings[self.label] = seconds - nested
        measured.seconds_of_nested = before + seconds
        return result


class Measured:
    """Everything that an audit measures of a network.

    Each part is measured when a flag first asks for it, and once: a flag computes
    nothing that another flag has computed. All numbers are on the host.

    Attributes:
        subject: The network, its parameters and examples.
        task: What the probe trains on.
        thresholds: The numbers with which flags compare what was measured.
        key: The key from which every part draws its own.
        tell: Called with the label of each part as it begins.
        parts: The parts that have been measured, by name.
        timings: How many seconds each part took, by label, compile time included.
        begun: Parts that another thread measures, by name.
        no_certificate: Why nothing could be certified, or "".
        seconds_of_nested: Seconds of the parts measured so far in this thread.

    Example:
        >>> @isometry.flag("loud", rank=900, source="convention")
        ... def judge(measured, key):
        ...     q = measured.signals.at("output").q
        ...     return isometry.Flag("loud", "clear", f"q = {float(q.mean()):.2g}")
    """

    def __init__(
        self,
        subject: Subject,
        task: Task,
        *,
        thresholds: Thresholds,
        key: Key,
        tell: Callable[[str], None] = lambda label: None,
    ) -> None:
        self.subject = subject
        self.task = task
        self.thresholds = thresholds
        self.key = key
        self.tell = tell
        self.parts: dict[str, Any] = {}
        self.timings: dict[str, float] = {}
        self.begun: dict[str, Future] = {}
        self.seconds_of_nested = 0.0
        self.no_certificate = ""

    def threshold(self, name: str) -> float:
        """Return a threshold by its name in `Thresholds`, or by the name of its flag.

        Args:
            name: The name of a threshold, or of a flag.

        Returns:
            The threshold.

        Raises:
            InputError: There is neither a threshold nor a flag of this name.

        Example:
            >>> thresholds = isometry.Thresholds(log_gain=2.0)
            >>> thresholds.of_flag("vanishing")
            2.0
        """
        return self.thresholds.of_flag(name)

    @property
    def num_seeds(self) -> int:
        """The number of seeds."""
        return self.subject.num_seeds

    @property
    def num_inputs(self) -> int:
        """The number of examples at which Jacobians are taken."""
        return self.subject.num_inputs

    @property
    def is_sure(self) -> bool:
        """Whether there are enough seeds to judge what depends on the draw."""
        return self.thresholds.is_sure(self.num_seeds)

    @property
    def unsure(self) -> str:
        """Why a value that depends on the draw is undecided, in words."""
        return self.thresholds.unsure(self.num_seeds)

    @Part("parameters")
    def params(self) -> Params:
        """Draw the parameters of all seeds, or take those that were given."""
        return jax.block_until_ready(self.subject.params)

    @Part("evaluation")
    def reading(self) -> Reading:
        """Evaluate all points and nonlinearities, in both modes, once."""
        _ = self.params
        return read(self.subject, self.thresholds)

    @functools.cached_property
    def not_finite(self) -> str:
        """The first parameter or signal that is not finite, in words; or ""."""
        # Timed by themselves, for what is read off them takes no time.
        _ = self.params
        if self.has_finite_params:
            _ = self.reading
        return _activity.first_not_finite(self.subject, self.thresholds)

    @functools.cached_property
    def has_finite_params(self) -> bool:
        """Whether all parameters of all seeds are finite."""
        leaves = jax.tree.leaves(floating_part(self.subject.params))
        return all(np.isfinite(np.asarray(leaf, float)).all() for leaf in leaves)

    @Part("Jacobians")
    def spectra(self) -> dict[str, Spectrum]:
        """Measure the spectra over (seeds, inputs) of one or two Jacobians, by name.

        "end_to_end" begins at the input, or at the embedding if x is tokens. "hidden"
        is there if the network has such a span: from the first to the last hidden
        layer.
        """
        spans: dict[str, Span] = {"end_to_end": self.subject.span}
        if self.subject.has_hidden_span:
            spans["hidden"] = "hidden"
        records = spectra_of(self.subject, list(spans.values()))
        return dict(zip(spans, records, strict=True))

    @Part("gains", is_told=False)
    def gains(self) -> dict[str, Gain]:
        """Return gain and anisometry of every measured span, for each seed.

        What averages over positions take away from the gain is put back, and what the
        scale of a normalized embedding adds is taken away.
        """
        # By spans, because a head may hide what its hidden layers do.
        gains = {}
        for span, sp in self.spectra.items():
            gain = gain_of(sp)
            log_gain = gain.log_gain + self.log_averaging[span]
            log_gain = _unscaled(log_gain, self.log_scaling[span])
            gains[span] = gain._replace(log_gain=log_gain)
        return gains

    @functools.cached_property
    def log_averaging(self) -> dict[str, float]:
        """½ ln of the number of values in each average pooling, summed, by span."""
        return {span: self.subject.log_averaging(span) for span in self.spectra}

    @functools.cached_property
    def log_scaling(self) -> dict[str, PerSeed]:
        """−ln of what a norm divides a small embedding by, for each seed, by span.

        A norm that reads values of size r divides by √(r² + ε), so that the gain has
        the inverse as a factor, although the norm returns about the same for every r.
        It is zero where r is above 1: the skips of such an embedding drown the
        branches, and that is a fault.
        """
        points = self.subject.normalized_points
        scaling = {}
        for span in self.spectra:
            first = self.subject.ends(span)[:1]
            scaling[span] = np.zeros(self.num_seeds)
            if not set(first) & set(points):
                continue
            # The last point is what the norm reads: positions have been added to it.
            read = [name for name in points if name in self.reading.signals][-1]
            log_size = self.reading.signals[read].log_norm
            log_divisor = np.logaddexp(2 * log_size, math.log(_EPSILON)) / 2
            # Values that are all zero have no size.
            is_small = np.isfinite(log_size) & (log_divisor < 0)
            scaling[span] = np.where(is_small, -log_divisor, 0)
        return scaling

    @Part("outliers", is_told=False)
    def outliers(self) -> dict[str, Outliers]:
        """Find what stands apart from the bulk of each span, for each seed."""
        return {span: outliers_of(sp) for span, sp in self.spectra.items()}

    @Part("signals")
    def signals(self) -> Signals | None:
        """Measure sizes of signals and gradients, of shape (seeds, inputs, points).

        Return None if the output has more than `_MOST_OUTPUTS` entries, because each of
        them takes a reverse pass.
        """
        if self.subject.size_of_output > _MOST_OUTPUTS:
            return None
        return signals(
            self.subject.f,
            params=self.subject.params,
            xs=self.subject.few,
            span=self.subject.span,
        )

    @property
    def num_pairs(self) -> int:
        """The number K of pairs (W, D) between the first and the last hidden layer."""
        return max(self.subject.anatomy.depth - 2, 0)

    @property
    def phase(self) -> Phase | None:
        """The phase, chi_1 and q* by mean-field theory; None where it has none."""
        network = self.subject.network
        return None if network is None else network.phase

    @functools.cached_property
    def growth(self) -> PerSeed | None:
        """Ln of how much the mean square of a perturbation grows, for each seed.

        It is taken over the hidden span, or end to end if the network has none; None if
        the network has no pair of hidden layers. See `growth_of`.
        """
        if not self.num_pairs:
            return None
        # Theory speaks of the layers between stem and head, so both are left out where
        # there is a hidden span.
        span, size = "end_to_end", self.subject.size_of_output
        if "hidden" in self.spectra:
            span, size = "hidden", self.subject.size_of_hidden
        growth = growth_of(self.spectra[span], size) + 2 * self.log_averaging[span]
        return _unscaled(growth, 2 * self.log_scaling[span])

    @functools.cached_property
    def growth_by_layer(self) -> dict[str, float]:
        """Ln chi of each layer or block on all paths; empty without signals.

        An average pooling over n positions lowers chi by n; that factor is put back.
        """
        if self.signals is None:
            return {}
        subject = self.subject
        return growth_by_layer(self.signals, subject.anatomy, subject.averaging)

    def worst_layers(
        self,
        span: str,
        *,
        is_below: bool,
    ) -> tuple[str, ...]:
        """Name the layers where a span shrinks or grows, the worst first.

        Args:
            span: The name of a measured span.
            is_below: Whether shrinking is what is wrong.

        Returns:
            The names. If no layer is to blame by itself, the first and the last point
            of the span.
        """
        growths = self.growth_by_layer
        if span == "hidden":
            ends = self.subject.ends("hidden")
            first, last = (end.removesuffix(":sum") for end in ends)
            points = list(growths)
            # chi of a layer is the growth from the point before it, so the chi of the
            # first point of the span lies outside of the span.
            if first in points and last in points:
                inside = points[points.index(first) + 1 : points.index(last) + 1]
                growths = {name: growths[name] for name in inside}
        worst = worst_layers(growths, is_below=is_below)
        return worst or self.subject.ends(span)

    @Part("rank bounds", is_told=False)
    def rank_bounds(self) -> dict[str, Int[np.ndarray, "seeds inputs"]]:
        """Count the singular values of each span that may differ from zero."""
        # A span has no more nonzero values than its narrowest place has active units.
        bounds = {}
        for name, sp in self.spectra.items():
            span = self.subject.span if name == "end_to_end" else name
            live = _activity.rank_bounds(self.subject, span, self.thresholds)
            bounds[name] = np.minimum(live, sp.size)
        return bounds

    @Part("units", is_told=False)
    def activity(self) -> dict[str, Activity]:
        """Measure what each nonlinearity does, by the point in front of it."""
        return _activity.activities(self.subject, self.thresholds)

    @property
    def lost(self) -> str:
        """The first signal that underflows float64 too, in words; or "".

        Zeros behind that signal say nothing.
        """
        return _activity.lost(self.subject, self.thresholds)

    @Part("forward", is_told=False)
    def forward(self) -> dict[str, Any]:
        """Follow signals from layer to layer, for the evidence of flags."""
        return _activity.forward(
            self.subject, self.thresholds, jax.random.fold_in(self.key, _FORWARD)
        )

    @Part("gradients")
    def gradients(self) -> Gradients:
        """Measure the norm of the loss gradient of every weight layer."""
        return _gradients.gradients(self.subject, self.task, self.certificates)

    @Part("certificates")
    def certificates(self) -> tuple[Certificate, ...]:
        """Certify of the first seeds what training can never undo."""
        try:
            return _probe.certificates(self.subject, FEW_SEEDS)
        # Some functions cannot be certified: those that compute in 16 bits, or whose
        # gradients are not finite. Everything else can be judged nevertheless.
        except FromCall as error:
            self.no_certificate = error.message
            return ()

    @Part("training probe")
    def probe(self) -> Probe | None:
        """Train the first seeds for some steps; None with train_steps=0."""
        return _probe.run(
            self.subject, self.task, self.certificates, num_seeds=FEW_SEEDS
        )

    @Part("other widths")
    def widths(self) -> dict[str, Any] | None:
        """Measure the ranks that training reaches at other widths of the network.

        None where there is no probe, or the network cannot be made at other widths.
        """
        if self.probe is None:
            return None
        # With the learning rate of the probe: a larger one made the loss overflow.
        task = self.task
        if self.probe.learning_rate is not None:
            optimizer = SGD[self.probe.learning_rate]
            task = dataclasses.replace(task, optimizer=optimizer)
        return _probe.ranks_by_width(self.subject, task)

    @Part("law")
    def _law(self) -> tuple[Law | None, str]:
        """Predict the law of the hidden span, or say why there is none."""
        if not self.num_pairs:
            return None, "no law: fewer than three layers have no hidden span"
        # The theory needs the distribution of the weights, which is not known of a
        # plain function.
        network = self.subject.network
        if network is None:
            return None, "no law: f is a plain function"
        try:
            return network.law("hidden", self.subject.few), ""
        except InputError as error:
            return None, error.message

    @property
    def law(self) -> Law | None:
        """The law of the hidden span; None where none is known."""
        return self._law[0]

    @property
    def no_law(self) -> str:
        """Why there is no law, or ""."""
        return self._law[1]


# The ε of norms, as most libraries write it. A network may have a smaller one, and then
# less is taken from the gain than its norm adds; taking more could hide an explosion.
_EPSILON = 1e-5


def _unscaled(
    log_gain: PerSeed,
    log_scaling: PerSeed,
) -> PerSeed:
    """Return a gain without what a scale adds to it; no scale makes it vanish."""
    most = np.maximum(log_gain, 0)
    return log_gain - np.minimum(log_scaling, most)


@contextlib.contextmanager
def certifying(measured: Measured) -> Iterator[None]:
    """Certify in another thread while the block measures other parts.

    Half of a certificate is arithmetic of NumPy, and most of the other parts are
    compiled meanwhile: on two cores an audit takes two thirds of the time.
    """
    part = vars(Measured)["certificates"]
    # The parameters are drawn before the thread starts, because a cached property is
    # not safe to fill from two threads.
    _ = measured.params
    measured.tell(part.label)
    executor = ThreadPoolExecutor(1)
    measured.begun[part.name] = executor.submit(_certified, measured, part)
    try:
        yield
    finally:
        # After Ctrl-C the thread is not waited for.
        executor.shutdown(wait=False, cancel_futures=True)


def _certified(
    measured: Measured,
    part: Part[T],
) -> T:
    """Measure a part in the thread that calls this, and keep its time."""
    start = time.perf_counter()
    result = part.measure(measured)
    measured.timings[part.label] = time.perf_counter() - start
    return result


def spectra_of(
    subject: Subject,
    spans: Sequence[Span],
) -> list[Spectrum]:
    """Measure the spectra of some spans for every seed at the few examples.

    All are measured in one program. Where a Jacobian leaves the range of its dtype, all
    are measured again in float64, and as products of the Jacobians of the layers where
    the network allows it: logarithms of singular values of a product do not overflow.
    """
    params, xs = subject.params, subject.few
    try:
        records = _ensemble(subject.f, params, xs, spans=spans, method="auto")
    except NotFinite:
        return _in_float64(subject, spans)
    if any(_underflows(subject, sp) for sp in records):
        return _in_float64(subject, spans)
    return records


def _in_float64(
    subject: Subject,
    spans: Sequence[Span],
) -> list[Spectrum]:
    """Measure the spectra in float64, as products of layers where f allows it."""
    # A product alone is not enough: its factors depend on signals, which may leave the
    # range of the dtype as well.
    with jax.enable_x64(True):
        params, xs = precision.cast((subject.params, subject.few), jnp.float64)
        try:
            records = _ensemble(subject.f, params, xs, spans=spans, method="product")
        except NotFinite:
            raise
        # Most networks are no products.
        except InputError:
            records = _ensemble(subject.f, params, xs, spans=spans, method="auto")
        # Statistics of the spectra are computed in the dtype of all other networks.
        dtype = precision.measuring_dtype(None, subject.params, subject.few)
        return [precision.cast(sp, dtype) for sp in records]


def _ensemble(
    f: Map,
    params: Params,
    xs: PyTree,
    *,
    spans: Sequence[Span],
    method: str,
) -> list[Spectrum]:
    """Measure the spectra of all spans, without warnings of zeros."""
    with warnings.catch_warnings():
        # The flags say which weights and units the zeros come from.
        warnings.simplefilter("ignore", ZeroJacobianWarning)
        by_span = ensemble(f, params=params, xs=xs, span=list(spans), method=method)
    return list(by_span.values())


def _underflows(
    subject: Subject,
    sp: Spectrum,
) -> bool:
    """Tell whether a Jacobian may have lost digits, or all of them, to underflow.

    A Jacobian that is zero though no weight is zero has underflowed, or its units have
    no slope: a second measurement in float64 will tell.
    """
    log_max = np.asarray(sp.log_values, float)[..., 0]
    limits = jnp.finfo(sp.log_values.dtype)
    # Below tiny/eps numbers lose digits.
    is_low = log_max < np.log(float(limits.tiny)) - np.log(float(limits.eps))
    is_zero = np.isneginf(log_max)
    unexplained = is_zero & ~subject.has_zero_weight[:, None]
    return bool((is_low & (~is_zero | unexplained)).any())
