"""`Measured`: everything that an audit measures of a network, each part once."""

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from isometry._internal.errors import InputError, NotDefined, ZeroJacobianWarning
from isometry._internal.types import Key
from isometry.certificates import Certificate
from isometry.measure import ensemble, signals
from isometry.measure._record import Spectrum
from isometry.measure._spans import Span
from isometry.networks._network import Phase
from isometry.records import Signals
from isometry.theory import Law
from isometry.verdicts import _activity, _gradients, _probe
from isometry.verdicts._activity import Activity
from isometry.verdicts._flag import PerSeed
from isometry.verdicts._gains import Gain, gain_of
from isometry.verdicts._gradients import Gradients
from isometry.verdicts._growth import growth_of
from isometry.verdicts._probe import Probe
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import Task

T = TypeVar("T")

# Seeds that are certified and trained. A certificate is a fact of one draw, and three
# draws show whether it is one of the initialization; ten would take as many times as
# long.
FEW_SEEDS = 3


class Part(Generic[T]):
    """A property of `Measured` that is measured once, timed, and announced.

    Args:
        label: What is told while it is measured: "Jacobians".
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, measure: Callable[["Measured"], T]) -> "Part[T]":
        self.measure = measure
        self.name = measure.__name__
        self.__doc__ = measure.__doc__
        return self

    def __get__(self, measured: "Measured | None", owner: type) -> T:
        if measured is None:
            return self  # pyright: ignore[reportReturnType]
        if self.name not in measured.parts:
            measured.tell(self.label)
            start = time.perf_counter()
            measured.parts[self.name] = self.measure(measured)
            measured.timings[self.label] = time.perf_counter() - start
        return measured.parts[self.name]


class Measured:
    """Everything that an audit measures of a network.

    Each part is measured when a flag first asks for it, and once: a flag computes
    nothing that another flag has computed. All numbers are on the host.

    Attributes:
        subject: The network, its parameters and examples.
        task: What the probe trains on.
        thresholds: The lines that flags draw.
        key: The key from which every part draws its own.
        tell: Called with the label of each part as it begins.
        parts: The parts that have been measured, by name.
        timings: How many seconds each part took, by label; compile time is in it.

    Example:
        >>> @isometry.verdicts.flag("loud", rank=900, source="convention")
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

    def threshold(self, name: str) -> float:
        """Return a line by its name in `Thresholds`, or by the name of a flag."""
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
    def not_finite(self) -> str:
        """The first parameter or signal that is NaN or infinite, in words; or ""."""
        return _activity.first_not_finite(self.subject)

    @Part("Jacobians")
    def spectra(self) -> dict[str, Spectrum]:
        """Singular values over (seeds, inputs), by the name of the span.

        "end_to_end", which begins at the embedding if x is tokens, and "hidden" where
        the network has such a span.
        """
        spans: dict[str, Span] = {"end_to_end": self.subject.span}
        if self.subject.has_hidden_span:
            spans["hidden"] = "hidden"
        return {name: self._spectrum(span) for name, span in spans.items()}

    def _spectrum(self, span: Span) -> Spectrum:
        """Measure a span of every seed at the few examples."""
        with warnings.catch_warnings():
            # The flags say which weights and units the zeros come from.
            warnings.simplefilter("ignore", ZeroJacobianWarning)
            return ensemble(
                self.subject.f,
                params=self.subject.params,
                xs=self.subject.few,
                span=span,
            )

    @functools.cached_property
    def gains(self) -> dict[str, Gain]:
        """Gain and anisometry of every measured span, for each seed."""
        return {span: gain_of(sp) for span, sp in self.spectra.items()}

    @Part("signals")
    def signals(self) -> Signals:
        """Sizes of signals and gradients by point, of shape (seeds, inputs, points)."""
        found = signals(
            self.subject.f,
            params=self.subject.params,
            xs=self.subject.few,
            span=self.subject.span,
        )
        return jax.tree.map(np.asarray, found)

    @property
    def num_pairs(self) -> int:
        """The number K of pairs (W, D) in the hidden span; 0 without such a span."""
        if not self.subject.has_hidden_span:
            return 0
        return max(self.subject.anatomy.depth - 2, 0)

    @property
    def phase(self) -> Phase | None:
        """Theory's phase, chi_1 and q*; None where they are not known."""
        network = self.subject.network
        return None if network is None else network.phase

    @functools.cached_property
    def growth(self) -> PerSeed | None:
        """Ln E|δz|² per unit over the hidden span, for each seed."""
        if "hidden" not in self.spectra:
            return None
        return growth_of(self.spectra["hidden"], self.subject.size_of_hidden)

    @Part("units")
    def activity(self) -> dict[str, Activity]:
        """What each nonlinearity does, by the name of the point in front of it."""
        return _activity.activities(self.subject)

    @Part("gradients")
    def gradients(self) -> Gradients:
        """Norms of the loss gradient of every weight layer."""
        return _gradients.gradients(self.subject, self.task)

    @Part("certificates")
    def certificates(self) -> tuple[Certificate, ...]:
        """What training can never undo, of the first seeds."""
        return _probe.certificates(self.subject, FEW_SEEDS)

    @Part("training probe")
    def probe(self) -> Probe | None:
        """A short training of the first seeds; None if it was switched off."""
        return _probe.run(self.subject, self.task, self.certificates, FEW_SEEDS)

    @Part("law")
    def law(self) -> Law | None:
        """The law of the hidden span; None where none is known."""
        network = self.subject.network
        if network is None or not self.subject.has_hidden_span:
            return None
        try:
            return network.law("hidden", self.subject.few)
        except (NotDefined, InputError):
            return None
