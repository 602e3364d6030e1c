"""The loss of a network as compiled programs know it: hashable, without parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal.types import Key, Params
from isometry.measure import _resolution
from isometry.measure._function import Reference, picked
from isometry.measure._leaves import is_floating
from isometry.verdicts._task import Loss, Task

# A loss is scaled by this before differentiation, so that a small gradient is not a
# zero one. At 2^100, gradients of order 1e8 would overflow float32; at 2^20 those of a
# dozen layers that lose 1e-4 each would underflow.
LIFT = 2.0**60


class Batch(NamedTuple):
    """What losses are computed of.

    Attributes:
        params: The parameters of one seed; or of all, stacked.
        xs: Examples.
        targets: A target for each.
        key: What training draws with.
    """

    params: Params
    xs: PyTree[Array]
    targets: PyTree[Array]
    key: Key


@dataclass(frozen=True)
class Objective:
    """Outputs and losses of a batch. Networks of one architecture have equal ones.

    Attributes:
        function: Of one example, or of a whole batch in training mode.
        in_training: Whether it takes a whole batch.
        needs_key: Whether it draws, so that x is a pair (batch, key).
        loss: The loss of one example.
    """

    function: Reference
    in_training: bool
    needs_key: bool
    loss: Loss

    def outputs(
        self,
        params: Params,
        batch: PyTree[Array],
        key: Key,
    ) -> Array:
        """Return the outputs of a batch, in training mode where there is one."""
        if not self.in_training:
            return jax.vmap(self.output, (None, 0))(params, batch)
        x = (batch, key) if self.needs_key else batch
        return picked(self.function(params, x), None)

    def output(
        self,
        params: Params,
        x: PyTree[Array],
    ) -> Array:
        """Return the output of one example; not in training mode."""
        return picked(self.function(params, x), None)

    def losses(
        self,
        outputs: Array,
        targets: PyTree[Array],
    ) -> Array:
        """Return the loss of every example."""
        # Losses are written for JAX's standard promotion, the package's is strict.
        with jax.numpy_dtype_promotion("standard"):
            return jax.vmap(self.loss)(outputs, targets)

    def of_batch(self, batch: Batch) -> Array:
        """Return the mean loss of a batch, of one seed."""
        outputs = self.outputs(batch.params, batch.xs, batch.key)
        return jnp.mean(self.losses(outputs, batch.targets))


def objective_of(task: Task) -> Objective:
    """Return what is minimized in a task."""
    f = task.f if task.training is None else task.training
    return Objective(
        function=Reference(_resolution.function_of(f)),
        in_training=task.training is not None,
        needs_key=task.needs_key,
        loss=task.loss,
    )


class Split:
    """Parameters as floating leaves, which are trained, and all the others.

    Args:
        params: The parameters, or their shapes.
    """

    def __init__(self, params: Params) -> None:
        leaves, self._tree = jax.tree.flatten(params)
        self._is_floating = [is_floating(leaf) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not is_floating(leaf)]

    @staticmethod
    def floating(params: Params) -> list[Array]:
        """Return the floating leaves."""
        return [leaf for leaf in jax.tree.leaves(params) if is_floating(leaf)]

    def joined(self, floating: Sequence[Array | np.ndarray]) -> Params:
        """Return the parameters with these floating leaves."""
        return self._filled(floating, self._others)

    def trained(self, floating: Sequence[Array]) -> Params:
        """Return the tree with these floating leaves, and None for all the others.

        It is what optimizers are given, whose labels go by the names of the leaves.
        """
        return self._filled(floating, [None] * len(self._others))

    def _filled(
        self,
        floating: Sequence[Array | np.ndarray],
        others: Sequence[Array | None],
    ) -> Params:
        """Return the tree with these leaves, in its order."""
        remaining = {True: iter(floating), False: iter(others)}
        leaves = [next(remaining[flag]) for flag in self._is_floating]
        return jax.tree.unflatten(self._tree, leaves)
