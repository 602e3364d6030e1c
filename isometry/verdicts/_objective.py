"""The loss of a network, hashable, so that networks of one kind share programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import kinds
from isometry._internal.types import Key, Params
from isometry.measure import _resolution
from isometry.measure._function import Reference, picked
from isometry.verdicts._task import Loss, Task

# A loss is multiplied by this before differentiation, so that small gradients do not
# underflow to zero. At 2^100, gradients of order 1e8 would overflow float32; at 2^20,
# gradients that lose a factor 1e-4 at each of a dozen layers would underflow.
LIFT = 2.0**60


class Batch(NamedTuple):
    """What a loss is computed from.

    Attributes:
        params: The parameters of one seed; or of all, stacked.
        xs: Examples.
        targets: A target for each.
        key: The random key of what the training mode draws, such as dropout masks.
    """

    params: Params
    xs: PyTree[Array]
    targets: PyTree[Array]
    key: Key


@dataclass(frozen=True)
class Objective:
    """Outputs and losses of a batch. Networks of one architecture have equal ones.

    Attributes:
        function: f(params, x), with x an example, or a whole batch in training mode.
        in_training: Whether `function` is that of the training mode.
        needs_key: Whether `function` draws random numbers, so that x is a pair (batch,
            key).
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
        """Return the output of one example. `in_training` must be False."""
        return picked(self.function(params, x), None)

    def losses(
        self,
        outputs: Array,
        targets: PyTree[Array],
    ) -> Array:
        """Return the loss of every example."""
        # A user's loss may rely on JAX's standard promotion, while the package runs
        # under the strict one.
        with jax.numpy_dtype_promotion("standard"):
            return jax.vmap(self.loss)(outputs, targets)

    def of_batch(self, batch: Batch) -> Array:
        """Return the mean loss of a batch, of one seed."""
        outputs = self.outputs(batch.params, batch.xs, batch.key)
        return jnp.mean(self.losses(outputs, batch.targets))


def objective_of(task: Task) -> Objective:
    """Return the outputs and the loss of a task, in training mode if there is one."""
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
        self._is_floating = [kinds.is_floating(leaf) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not kinds.is_floating(leaf)]

    @staticmethod
    def floating(params: Params) -> list[Array]:
        """Return the floating leaves."""
        return [leaf for leaf in jax.tree.leaves(params) if kinds.is_floating(leaf)]

    def joined(self, floating: Sequence[Array | np.ndarray]) -> Params:
        """Return the parameters with these floating leaves."""
        return self._filled(floating, self._others)

    def trained(self, floating: Sequence[Array]) -> Params:
        """Return the tree with these floating leaves, and None for all the others.

        Optimizers are given such a tree, because they may treat leaves by their names.
        """
        return self._filled(floating, [None] * len(self._others))

    def _filled(
        self,
        floating: Sequence[Array | np.ndarray],
        others: Sequence[Array | None],
    ) -> Params:
        """Return the tree whose leaves are, in order, of these two lists."""
        remaining = {True: iter(floating), False: iter(others)}
        leaves = [next(remaining[flag]) for flag in self._is_floating]
        return jax.tree.unflatten(self._tree, leaves)
