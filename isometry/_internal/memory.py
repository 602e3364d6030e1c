"""How many bytes a measurement may take, and slices of arrays without a copy."""

import os
import pathlib

import jax
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds

# Share of the free memory that a measurement takes by default; its temporaries, XLA and
# the user have the rest. Ten times less would cut measurements into slices that keep no
# core busy; at four times as much a container is killed.
SHARE = 0.25


# Bytes assumed to be free where the system does not say: less than any machine of today
# has.
_UNKNOWN = 2**31

# The files of a control group (cgroup), of version 2 and of version 1: its limit, its
# use, and the entry of memory.stat with the file pages that the kernel can drop.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes() -> int:
    """Return the free bytes of this process's first device, or of the host.

    A device that does not tell its memory, such as a CPU, shares that of the host.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    limits = _free_of_groups()
    free_of_machine = _free_of_machine()
    if free_of_machine is not None:
        limits.append(free_of_machine)
    return min(limits, default=_UNKNOWN)


def _free_of_machine() -> int | None:
    """Return the free bytes of the machine, or None if the system does not say."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        kibibytes, _ = fields["MemAvailable"].split()
        return int(kibibytes) * 1024
    except (OSError, KeyError, ValueError):
        # macOS has no /proc and does not say what is free: half of all.
        if hasattr(os, "sysconf"):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        return None


def _free_of_groups(
    proc: str = "/proc/self/cgroup",
    mount: str = "/sys/fs/cgroup",
) -> list[int]:
    """Return the free bytes of each cgroup around this process that has a limit.

    A container, or a job of a cluster, is killed beyond its limit. /proc/meminfo (and
    so psutil) tells the memory of the machine, which may be a hundred times as much.

    Args:
        proc: The file that lists the cgroups of this process.
        mount: The folder in which the cgroups are.
    """
    try:
        lines = pathlib.Path(proc).read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 names no controller; version 1 has a hierarchy for each.
        if controllers not in ("", "memory"):
            continue
        root = pathlib.Path(mount, controllers)
        # Inside a container this may be the path outside, its own group being the root.
        inner = root / os.path.normpath("/" + path).strip("/")
        groups = [g for g in (inner, *inner.parents) if g.is_relative_to(root)]
        free += [_free_of_group(group) for group in groups]
    return [count for count in free if count is not None]


def _free_of_group(group: pathlib.Path) -> int | None:
    """Return the bytes that a cgroup may still use, or None if it has no limit.

    File pages that the kernel can drop count as free.

    Args:
        group: The folder of the cgroup.
    """
    for limit_file, usage_file, droppable in _FILES:
        # One of the two versions of cgroups has these files. A limit of "max" is none.
        try:
            limit = int((group / limit_file).read_text())
            used = int((group / usage_file).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        stat = dict(line.split() for line in lines)
        return max(limit - used + int(stat.get(droppable, 0)), 0)
    return None


def budget(max_bytes: int | None) -> int:
    """Return how many bytes to use: `max_bytes`, or by default a share of what is free.

    Raises:
        InputError: `max_bytes` is not a positive integer.
    """
    if max_bytes is None:
        return int(SHARE * free_bytes())
    return checks.integer("max_bytes", max_bytes, low=1)


def tree_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays, or shapes of arrays, in a tree."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def sliced(array: Array, start: int, stop: int) -> Array | np.ndarray:
    """Return array[start:stop], without a copy where the array lies in host memory."""
    # NumPy knows no typed keys.
    is_key = kinds.is_typed_key(array)
    if isinstance(array, jax.Array) and array.is_fully_addressable and not is_key:
        platforms = {device.platform for device in array.devices()}
        # JAX copies a slice; NumPy's is a view of the same memory.
        if platforms == {"cpu"}:
            return np.asarray(array)[start:stop]
    return array[start:stop]
