"""Records that measurement and theory share."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks, texts

_STATIC = {"static": True}

# What measures, measured and predicted, may be asked about: λ = s², s or ln s.
VARIABLES = (
    "lam",
    "s",
    "log_s",
)

# The fields of `Signals` that hold numbers.
SIGNALS = ("q", "c", "gradient", "apjn", "chi")


class Signal(NamedTuple):
    """The fields of `Signals` at one point, without the axis of points."""

    name: str
    size: int
    q: Float[Array, "..."]
    c: Float[Array, "... inputs"]
    gradient: Float[Array, "..."]
    apjn: Float[Array, "..."]
    chi: Float[Array, "..."]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Signals:
    """Sizes and correlations of signals and gradients at the points of a network.

    They are measured by `isometry.signals`, or predicted by mean-field theory. What is
    not known is NaN, and the method `why` returns the reason.

    Attributes:
        q: (..., points), mean square of the entries of the value at each point. `...`
            are batch axes; of `isometry.signals` (seeds, inputs).
        c: (..., inputs, points), cosine between the values of two inputs at each point,
            flattened and not centred. The inputs are those of the last batch axis and
            of the axis `inputs`.
        gradient: (..., points), mean square of the derivative of the loss with respect
            to the value.
        apjn: (..., points), averaged partial Jacobian norm: the squared Frobenius norm
            of the Jacobian from the point to the end of the span, divided by the number
            of its rows.
        chi: (..., points), apjn at the previous point divided by apjn at this point:
            the factor by which a squared gradient grows on its way back, from this
            point to the previous one. That is the last earlier point of the same kind:
            results of nonlinearities (":out") are one kind, all other points the other.
            NaN at the first point of a kind, and at points that some path leads around.
        points: Names of the points, in the order of the computation.
        sizes: The number of entries of the value at each point.
        span: The names of the points where the span starts and ends.
        reasons: Pairs of the name of a field that holds NaN, and the reason.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> sig = isometry.signals(net, keys, xs)
        >>> sig.q.shape == (2, 3, len(sig.points))
        True
    """

    q: Float[Array, "*batch points"]
    c: Float[Array, "*batch inputs points"]
    gradient: Float[Array, "*batch points"]
    apjn: Float[Array, "*batch points"]
    chi: Float[Array, "*batch points"]
    points: tuple[str, ...] = field(metadata=_STATIC)
    sizes: tuple[int, ...] = field(metadata=_STATIC)
    span: tuple[str, str] = field(default=("input", "output"), metadata=_STATIC)
    reasons: tuple[tuple[str, str], ...] = field(default=(), metadata=_STATIC)

    def at(self, name: str) -> Signal:
        """Return the fields at one point.

        Args:
            name: One of `points`.

        Returns:
            The fields, without their axis of points.

        Raises:
            InputError: There is no such point.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> sig = isometry.signals(f, params=w, xs=x)
            >>> float(sig.at("output").q[0, 0])
            9.0
        """
        name = checks.one_of("name", name, self.points)
        index = self.points.index(name)
        return Signal(
            name=name,
            size=self.sizes[index],
            q=self.q[..., index],
            c=self.c[..., index],
            gradient=self.gradient[..., index],
            apjn=self.apjn[..., index],
            chi=self.chi[..., index],
        )

    def why(self, field: str) -> str | None:
        """Return why a field holds NaN, or None if no reason is recorded.

        Args:
            field: "q", "c", "gradient", "apjn" or "chi".

        Returns:
            The reason in words; None also if the field holds no NaN.

        Raises:
            InputError: There is no such field.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> isometry.signals(f, params=w, xs=x).why("q") is None
            True
        """
        return dict(self.reasons).get(checks.one_of("field", field, SIGNALS))

    def table(self) -> str:
        """Return a table with a row for each point: means over seeds and inputs.

        The number after ± is the standard error of the mean over seeds. The mean of c
        is over pairs of different inputs.

        Returns:
            The table as text.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> print(isometry.signals(f, params=w, xs=x).table().splitlines()[-1])
            output     2  9  -       0.5     1    9
        """
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        """Write the headings, a line for each point, and the reasons for NaN."""
        sizes = map(str, self.sizes)
        columns = {
            "point": list(self.points),
            "size": list(sizes),
        }
        for name in SIGNALS:
            columns[name] = self._column(name)
        rows = zip(*columns.values(), strict=True)
        lines = texts.aligned([tuple(columns), *rows], num_left=1)
        # Reasons for NaN are written below the table.
        for name, reason in self.reasons:
            lines.append(f"{name}: {reason}")
        return lines

    def _column(self, name: str) -> list[str]:
        """Return the cells of one field, a mean and its error for each point."""
        field = getattr(self, name)
        values = np.asarray(field, np.float64)
        num_seeds = len(values)
        num_points = len(self.points)
        if name == "c":
            # The cosine of an input with itself is always one.
            num_inputs = values.shape[1]
            is_same = np.eye(num_inputs, dtype=bool)
            values = values[:, ~is_same]
        values = values.reshape(num_seeds, -1, num_points)
        # With one input there are no pairs.
        if values.shape[1] == 0:
            return ["-"] * num_points
        means_of_seeds = values.mean(axis=1)
        means = means_of_seeds.mean(axis=0)
        # One seed has no standard error.
        errors = np.full(num_points, np.nan)
        if num_seeds > 1:
            deviations = means_of_seeds.std(axis=0, ddof=1)
            errors = deviations / math.sqrt(num_seeds)
        return list(map(_cell, means, errors))

    def __repr__(self) -> str:
        lines = texts.shortened(self._lines())
        first, last = self.span
        title = f"Signals from {first} to {last}"
        return "\n".join([title, *lines])


def _cell(mean: float, error: float) -> str:
    """Write a number with its error; "-" for NaN, and no error if that is NaN."""
    if math.isnan(mean):
        return "-"
    if math.isnan(error):
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {error:.1g}"
