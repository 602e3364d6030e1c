"""What nonlinearities do to their units: slopes, dead units, samples of their inputs."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from isometry.activations import Activation
from isometry.verdicts._subject import Subject


@dataclass(frozen=True, eq=False)
class Activity:
    """What one nonlinearity does, over seeds and the few examples.

    A unit is one entry of the value in front of the nonlinearity; entries of a channel
    at all positions (pixels, tokens) are one channel. A unit has no slope where the
    derivative of the nonlinearity is zero there: nothing downstream depends on it.

    Attributes:
        point: The name of the point in front of the nonlinearity: "conv_1".
        nonlinearity: Its name: "relu".
        activation: The `Activation`, if it is one that the package knows.
        shape: The shape of the value at one input, channels last.
        is_dead: Whether a channel has no slope at any input and position.
        num_live: How many units have a slope at an input.
        num_flat: How many units are in the flat part of a bounded nonlinearity.
        samples: Values in front of the nonlinearity at `sites`, evenly spaced among
            inputs × positions: what the null hypotheses are drawn from.
    """

    point: str
    nonlinearity: str
    activation: Activation | None
    shape: tuple[int, ...]
    is_dead: Bool[np.ndarray, "seeds channels"]
    num_live: Int[np.ndarray, "seeds inputs"]
    num_flat: Int[np.ndarray, "seeds inputs"]
    samples: Float[np.ndarray, "seeds sites channels"]


def activities(subject: Subject) -> dict[str, Activity]:
    """Measure what each nonlinearity does, by the name of the point in front of it."""
    raise NotImplementedError


def first_not_finite(subject: Subject) -> str:
    """Return the first parameter or signal that is NaN or infinite, in words; or ""."""
    raise NotImplementedError
