"""Distributes an ensemble, seeds × inputs, over the devices of a mesh.

The devices may belong to several processes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PyTree

from isometry._internal import checks, memory
from isometry._internal.errors import InputError

AXES = ("seeds", "inputs")


def arranged(
    mesh: Mesh,
    seeds: int,
    inputs: int,
) -> Mesh:
    """Return a mesh of the same devices, with rows for seeds and columns for inputs.

    On a grid a device has several inputs of one seed, which share its weights, so that
    each layer is one wide product. Along a flat axis of pairs it would not be.

    Args:
        mesh: A `jax.sharding.Mesh` of any axes.
        seeds: The number of seeds.
        inputs: The number of inputs.

    Returns:
        A mesh of `AXES`, with the shape of `grid`.

    Raises:
        InputError: `mesh` is not a mesh.
    """
    if not isinstance(mesh, Mesh):
        raise InputError(
            f"mesh={checks.show(mesh)} is not a Mesh; write "
            "jax.sharding.Mesh(jax.devices(), ('i',))."
        )
    # The axes that the user gave the mesh say nothing about seeds and inputs.
    shape = grid(mesh.devices.size, seeds, inputs)
    return Mesh(mesh.devices.reshape(shape), AXES)


def grid(
    devices: int,
    seeds: int,
    inputs: int,
) -> tuple[int, int]:
    """Return the numbers of rows and columns of a grid of devices.

    The choice minimizes the number of pairs of seed and input on the fullest device. Of
    equal choices, the one with the most rows is taken.
    """

    def load(rows: int) -> tuple[int, int]:
        columns = devices // rows
        return -(-seeds // rows) * -(-inputs // columns), -rows

    # All devices must be used, so their number is a multiple of the rows.
    divisors = (rows for rows in range(1, devices + 1) if devices % rows == 0)
    rows = min(divisors, key=load)
    return rows, devices // rows


def processes(mesh: Mesh) -> int:
    """Count the processes that hold the devices."""
    return len({device.process_index for device in mesh.devices.flat})


def spread(
    mesh: Mesh,
    axis: str,
    index: Int[np.ndarray, " n"],
    make: Callable[[Int[np.ndarray, " part"]], PyTree],
) -> PyTree:
    """Return the tree `make(index)`, its leading axis split over an axis of the mesh.

    Along the other axis of the mesh it is replicated. Each process calls `make` once,
    for all its devices: called for each device, it would be compiled for each.
    """
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    # Other processes make the rest, from the same keys.
    pieces = sharding.addressable_devices_indices_map((len(index),)).values()
    everything = np.arange(len(index))
    # The positions that the devices of this process hold.
    own = np.unique(np.concatenate([everything[piece] for piece in pieces]))
    made = make(np.asarray(index)[own])

    def distributed(a: Array) -> Array:
        def of_device(piece: tuple[slice, ...] | None) -> Array | np.ndarray:
            assert piece is not None, "every device of the mesh holds a piece"
            first, stop, _ = piece[0].indices(len(index))
            # `own` is sorted and without gaps inside a piece, so a piece is a slice of
            # it.
            start = int(np.searchsorted(own, first))
            return memory.sliced(a, start, start + stop - first)

        shape = (len(index), *a.shape[1:])
        return jax.make_array_from_callback(shape, sharding, of_device)

    return jax.tree.map(distributed, made)


def everywhere(mesh: Mesh | None, value: ArrayLike) -> Array | np.ndarray:
    """Return an array that is replicated on every device of a mesh.

    Args:
        mesh: The mesh; None returns the array on the host.
        value: The array, the same in each process.
    """
    value = np.asarray(value)
    if mesh is None:
        return value
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def share_threads(mesh: Mesh | None) -> bool:
    """Tell whether the devices are virtual devices of one CPU."""
    return mesh is not None and mesh.devices.flat[0].platform == "cpu"


def budget(max_bytes: int | None, mesh: Mesh | None) -> int:
    """Return the bytes that each device may take, the same in all processes.

    This is `max_bytes`, or a share of the free memory. Virtual devices of one CPU share
    a memory, so it is divided among them.
    """
    of_device = memory.budget(max_bytes)
    if mesh is None:
        return of_device
    if share_threads(mesh):
        rank = jax.process_index()
        num_devices = sum(device.process_index == rank for device in mesh.devices.flat)
        of_device //= num_devices
    return _least_of_processes(mesh, of_device)


def _least_of_processes(mesh: Mesh, value: int) -> int:
    """Return the smallest value of all processes."""
    if processes(mesh) == 1:
        return value
    # float32 counts bytes to seven digits, which a budget does not need.
    values = spread(
        mesh,
        AXES[0],
        np.arange(mesh.devices.shape[0]),
        make=lambda index: jnp.full(len(index), value, jnp.float32),
    )
    whole = NamedSharding(mesh, PartitionSpec())
    return int(jax.jit(jnp.min, out_shardings=whole)(values))
