"""Where the pieces of an ensemble lie: seeds × inputs on the devices of a mesh, of several processes too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from isometry import _checks
from isometry._internal import memory

AXES = ("seeds", "inputs")


def arranged(call: str, mesh: Any, seeds: int, inputs: int) -> Mesh:
    """The devices of any mesh as rows for seeds and columns for inputs, so that the fullest holds least.

    On a grid, not on one flat axis of pairs: the inputs of a seed that share a device share its weights, and each layer
    stays one wide product there.

    **Raises** `ValueError`: not a `jax.sharding.Mesh` of devices.
    """
    if not isinstance(mesh, Mesh):
        raise _checks.InputError(
            f"{call}(): mesh={_checks.show(mesh)} is not a Mesh; write jax.sharding.Mesh(jax.devices(), ('i',))."
        )
    return Mesh(mesh.devices.reshape(grid(mesh.devices.size, seeds, inputs)), AXES)


def grid(devices: int, seeds: int, inputs: int) -> tuple[int, int]:
    """Rows and columns of so many devices, by which the fullest holds the fewest pairs; of equal ones the most rows."""

    def load(rows: int) -> tuple[int, int]:
        return -(-seeds // rows) * -(-inputs // (devices // rows)), -rows

    rows = min((r for r in range(1, devices + 1) if devices % r == 0), key=load)
    return rows, devices // rows


def processes(mesh: Mesh) -> int:
    """How many processes hold the devices."""
    return len({d.process_index for d in mesh.devices.flat})


def spread(mesh: Mesh, axis: str, index: Any, make: Callable[[Any], Any]) -> Any:
    """The tree `make(index)`, its leading axis split over an axis of the mesh and whole along the other.

    Each process makes what its own devices hold, at once: piece by piece, every operation would be compiled for each
    device.
    """
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    pieces = sharding.addressable_devices_indices_map((len(index),)).values()
    mine = np.unique(np.concatenate([np.arange(len(index))[piece] for piece in pieces]))
    made = make(np.asarray(index)[mine])

    def placed(a: Any) -> Any:
        def held(where: Any) -> Any:
            first, stop, _ = where[0].indices(len(index))
            start = int(np.searchsorted(mine, first))
            return memory.sliced(a, start, start + stop - first)

        return jax.make_array_from_callback((len(index), *a.shape[1:]), sharding, held)

    return jax.tree.map(placed, made)


def everywhere(mesh: Mesh | None, value: Any) -> Any:
    """The same array on every device, from every process's own copy."""
    value = np.asarray(value)
    if mesh is None:
        return value
    return jax.make_array_from_callback(value.shape, NamedSharding(mesh, PartitionSpec()), lambda index: value[index])


def share_threads(mesh: Mesh | None) -> bool:
    """Whether the devices are parts of one processor."""
    return mesh is not None and mesh.devices.flat[0].platform == "cpu"


def budget(call: str, max_bytes: int | None, mesh: Mesh | None) -> int:
    """Bytes that each device may take, the same in all processes: `max_bytes`, or a share of what is free, divided
    among the devices that are parts of one processor, for these have one memory."""
    mine = _checks.budget(call, max_bytes)
    if mesh is None:
        return mine
    if share_threads(mesh):
        mine //= sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    return _least(mesh, mine)


def _least(mesh: Mesh, value: int) -> int:
    """The smallest of the processes' values."""
    if processes(mesh) == 1:
        return value
    values = spread(mesh, AXES[0], np.arange(mesh.devices.shape[0]), lambda i: jnp.full(len(i), value, jnp.float32))
    return int(jax.jit(jnp.min, out_shardings=NamedSharding(mesh, PartitionSpec()))(values))
