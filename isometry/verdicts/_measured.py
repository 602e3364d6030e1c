"""`Measured`: everything that an audit measures of a network, each part once."""

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
from isometry.records import Signals
from isometry.theory import Law
from isometry.verdicts import _activity, _gradients, _probe
from isometry.verdicts._activity import Activity
from isometry.verdicts._gradients import Gradients
from isometry.verdicts._probe import Probe
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import Task

T = TypeVar("T")

# Seeds that are certified and trained. A certificate is a fact of one draw, and three
# draws show whether it is one of the initialization; ten would take as many times as
# long.
FEW_SEEDS = 3


class part(Generic[T]):
    """A property of `Measured` that is measured once, timed, and announced.

    Args:
        label: What is told while it is measured: "Jacobians".
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, measure: Callable[["Measured"], T]) -> "part[T]":
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
