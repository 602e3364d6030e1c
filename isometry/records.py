"""Records that measurement and theory share."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks

# The fields of `Signals` that hold numbers.
SIGNALS = ("q", "c", "gradient", "apjn", "chi")

# Rows of a table on a screen.
_ROWS_OF_REPR = 20


class Signal(NamedTuple):
    """What `Signals` hold of one point; of its fields, the axis of points is gone."""

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
    """How large signals and gradients are at the points of a network, and how alike.

    Measured by `isometry.signals`, or predicted by mean-field theory; the fields are
    the same. What is not known is NaN, and `why` says for what reason.

    Attributes:
        q: Mean square of the value over all its entries.
        c: Cosine between the values of two inputs, flattened and not centred.
        gradient: Mean square of the derivative of the loss with respect to the value.
        apjn: Averaged partial Jacobian norm: the squared Frobenius norm of the
            derivative of what the span ends with, divided by the size of that.
        chi: apjn at the point before over apjn here: the factor by which a squared
            gradient grows from this point back to the one before it. The point before
            is the last of the same kind: what a nonlinearity returns (":out") is
            compared with such, any other with any other. NaN at the first of a kind,
            and where some path leads around a point.
        points: Names of the points, in the order of the computation.
        sizes: How many entries the value at each point has.
        span: The names of the points where the derivatives start and end.
        reasons: Of fields that hold NaN, why.

    Example:
        >>> net = networks.mlp([16, 16, 16, 16, 4], "relu", "gaussian", sigma_w=2**0.5)
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> xs = data.gaussian(jax.random.key(1), 4, 16).xs
        >>> sig = isometry.signals(net, keys, xs)
        >>> sig.q.shape == (8, 4, len(sig.points))
        True
    """

    q: Float[Array, "*batch points"]
    c: Float[Array, "*batch inputs points"]
    gradient: Float[Array, "*batch points"]
    apjn: Float[Array, "*batch points"]
    chi: Float[Array, "*batch points"]
    points: tuple[str, ...] = field(metadata={"static": True})
    sizes: tuple[int, ...] = field(metadata={"static": True})
    span: tuple[str, str] = field(
        default=("input", "output"), metadata={"static": True}
    )
    reasons: tuple[tuple[str, str], ...] = field(default=(), metadata={"static": True})

    def at(self, name: str) -> Signal:
        """Return what is known of one point.

        Args:
            name: One of `points`.

        Returns:
            The fields at that point, without their axis of points.

        Raises:
            InputError: Not one of the points.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> sig = isometry.signals(f, params=w, xs=x)
            >>> float(sig.at("output").q[0, 0])
            9.0
        """
        index = self.points.index(checks.one_of("name", name, self.points))
        values = {field: getattr(self, field)[..., index] for field in SIGNALS}
        return Signal(name=name, size=self.sizes[index], **values)

    def why(self, field: str) -> str | None:
        """Return why a field holds NaN, or None where nothing is to be said.

        Args:
            field: "q", "c", "gradient", "apjn" or "chi".

        Returns:
            The reason, a sentence.

        Raises:
            InputError: Not a field.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> isometry.signals(f, params=w, xs=x).why("q") is None
            True
        """
        return dict(self.reasons).get(checks.one_of("field", field, SIGNALS))

    def table(self) -> str:
        """Return a table with a row for each point: means over seeds and inputs.

        The number behind ± is the standard error of the mean over seeds. For c the mean
        is over pairs of different inputs.

        Returns:
            Lines of text.

        Example:
            >>> f = lambda w, x: w @ x
            >>> w, x = 3 * jnp.eye(2)[None], jnp.ones((1, 2))
            >>> print(isometry.signals(f, params=w, xs=x).table().splitlines()[-1])
            output        2  9  -       0.5     1    9
        """
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        names_width = max(len("point"), *(len(name) for name in self.points))
        columns = {name: self._column(name) for name in SIGNALS}
        widths = {
            name: max(len(name), *(len(cell) for cell in column))
            for name, column in columns.items()
        }
        header = [f"{'point':<{names_width}}", f"{'size':>7}"]
        header += [f"{name:>{width}}" for name, width in widths.items()]
        lines = ["  ".join(header)]
        for i, (name, size) in enumerate(zip(self.points, self.sizes, strict=True)):
            row = [f"{name:<{names_width}}", f"{size:>7}"]
            row += [f"{columns[c][i]:>{width}}" for c, width in widths.items()]
            lines.append("  ".join(row))
        lines += [f"{name}: {reason}" for name, reason in self.reasons]
        return lines

    def _column(self, name: str) -> list[str]:
        """Return the cells of one field, a mean and its error for each point."""
        values = np.asarray(getattr(self, name), np.float64)
        if name == "c":
            num_inputs = values.shape[-2]
            is_pair = ~np.eye(num_inputs, dtype=bool)
            values = np.moveaxis(values, -1, -3)[..., is_pair]
            values = np.moveaxis(values, -1, -2)
        values = values.reshape(*values.shape[:1], -1, len(self.points))
        # Of one input there are no pairs, and no mean over them.
        if values.shape[1] == 0:
            return ["-"] * len(self.points)
        each_seed = values.mean(axis=1)
        cells = [f"{mean:.4g}" for mean in each_seed.mean(axis=0)]
        num_seeds = len(each_seed)
        if num_seeds > 1:
            errors = each_seed.std(axis=0, ddof=1) / math.sqrt(num_seeds)
            cells = [f"{c} ± {e:.1g}" for c, e in zip(cells, errors, strict=True)]
        return ["-" if cell.startswith("nan") else cell for cell in cells]

    def __repr__(self) -> str:
        lines = self._lines()
        if len(lines) > _ROWS_OF_REPR:
            half = _ROWS_OF_REPR // 2
            lines = [*lines[:half], "...", *lines[-half:]]
        first, last = self.span
        return "\n".join([f"Signals from {first} to {last}", *lines])
