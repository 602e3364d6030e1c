"""The user's own data: batches of rows, and the function whose gradients are drawn."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.certificates._draws import Batches
from isometry.certificates._programs import Function

# The number of rows in a batch of the user's data, and the most batches that show all
# rows. With more than 256 · 16 rows, batches are larger.
_ROWS, _BATCHES = 256, 16


@dataclass(frozen=True)
class Data:
    """The user's rows, and the function of a batch of rows that is certified.

    A random cotangent of its outputs gives a random combination of the gradients of
    single rows.

    Attributes:
        f: A function of one row.
        train: The function of a batch of rows in training mode; None if f serves, which
            treats rows one by one.
        needs_key: Whether `train` takes a pair (rows, key).
        loss: A function of an output, or of an output and its target; or None.
        has_targets: Whether the loss takes targets; the data are then pairs.
        batches: Draws batches of rows.
        num_rows: The number of all rows.
    """

    f: Function
    train: Function | None
    needs_key: bool
    loss: Callable[..., Array] | None
    has_targets: bool
    batches: Batches
    num_rows: int

    @classmethod
    def of(
        cls,
        f: Any,
        network: Any,
        *,
        xs: PyTree,
        loss: Callable[..., Array] | None,
    ) -> "Data":
        """Check the data and the loss, and return them as `Data`.

        Args:
            f: The network or function of one row.
            network: The network in training mode; f itself if it has none.
            xs: Rows along a first axis.
            loss: The loss, or None.
        """
        checks.not_abstract("xs", xs)
        checks.all_finite("xs", xs)
        # All leaves must be of one number of rows.
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
        if len(lengths) != 1 or lengths in ({()}, {(0,)}):
            raise InputError(
                f"xs has leading axes {sorted(lengths)}; write examples along one "
                "first axis, at least one."
            )
        if loss is not None and not callable(loss):
            raise InputError(
                f"loss={checks.show(loss)} is not callable; write loss(output)."
            )
        has_targets = loss is not None and _num_arguments(loss) == 2
        if has_targets and not (isinstance(xs, tuple) and len(xs) == 2):
            raise InputError(
                "loss takes an output and a target, so xs must be a pair; write "
                "xs=(inputs, targets)."
            )
        ((num_rows,),) = lengths
        size = min(num_rows, max(_ROWS, -(-num_rows // _BATCHES)))
        train, needs_key = None, False
        if network is not f:
            train = network
            # In training mode x becomes a pair if the model draws at random.
            own_is_pair = isinstance(f.example, tuple)
            needs_key = isinstance(network.example, tuple) and not own_is_pair
        return cls(
            f=f,
            train=train,
            needs_key=needs_key,
            loss=loss,
            has_targets=has_targets,
            batches=Batches(xs, size),
            num_rows=num_rows,
        )

    def batch(
        self,
        params: Params,
        x: PyTree,
    ) -> PyTree:
        """Return the outputs for a batch of rows, or their losses."""
        rows = self._inputs(x["rows"])
        if self.train is None:
            outputs = jax.vmap(self.f, (None, 0))(params, rows)
        elif self.needs_key:
            outputs = self.train(params, (rows, x["key"]))
        else:
            outputs = self.train(params, rows)
        # Without a loss, the certificate is for every function of the outputs.
        if self.loss is None:
            return outputs
        if self.has_targets:
            return jax.vmap(self.loss)(outputs, x["rows"][1])
        return jax.vmap(self.loss)(outputs)

    def draw(self, key: Key) -> PyTree:
        """Draw a batch of rows, and a key for what the model draws itself."""
        return {"rows": self.batches(key), "key": key}

    def draw_row(self, key: Key) -> PyTree:
        """Draw one row."""
        rows = self._inputs(self.batches(key))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), rows)

    def _inputs(self, rows: PyTree) -> PyTree:
        """Return the rows without their targets."""
        return rows[0] if self.has_targets else rows


def _num_arguments(loss: Callable[..., Array]) -> int:
    """Count the arguments that a loss requires by position."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    # Some built-in functions have no signature.
    except (TypeError, ValueError):
        return 1
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    required = [
        parameter
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind in positional
    ]
    return len(required)
