"""How many bytes a measurement may take, and arrays that take none."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks

SHARE = 0.25
"""Share of the free memory that one measurement takes by default; the rest is for its temporaries, XLA and the user."""


def free_bytes() -> int:
    """Free memory of this process's first device: its own if it reports any, the host's otherwise."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    limits = [free for free in (_free_of_machine(), *_free_of_groups()) if free is not None]
    return min(limits, default=2**31)


def _free_of_machine() -> int | None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else None


def _free_of_groups(proc: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> list[int]:
    """Return what each control group around this process leaves it.

    Without these a container is killed: /proc/meminfo (and so psutil) tells the memory of the machine, of
    which a container, or a job of a cluster, may have a hundredth.
    """
    try:
        lines = pathlib.Path(proc).read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):  # version 2, version 1
            continue
        root = pathlib.Path(mount, controllers)
        # Inside a container this may be the path outside, the container's own group being the root.
        inner = root / os.path.normpath("/" + path).strip("/")
        free += [_free_of_group(group) for group in (inner, *inner.parents) if group.is_relative_to(root)]
    return [count for count in free if count is not None]


_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use, and in memory.stat the file pages that the kernel can drop: of versions 2 and 1."""


def _free_of_group(group: pathlib.Path) -> int | None:
    """Return its limit less what it uses and cannot drop; None without a limit."""
    for limit, usage, droppable in _FILES:
        try:
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # not this version, or "max"
            continue
        stat = dict(line.split() for line in lines)
        return max(most - used + int(stat.get(droppable, 0)), 0)
    return None


def budget(call: str, max_bytes: int | None) -> int:
    """`max_bytes` if given, else a share of the free memory."""
    if max_bytes is None:
        return int(SHARE * free_bytes())
    _checks.integer(call, low=1, max_bytes=max_bytes)
    return int(max_bytes)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shape structs) in `tree`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def sliced(a: Any, start: int, stop: int) -> Any:
    """a[start:stop], as a view where `a` lies in this processor's memory: JAX would copy it."""
    on_host = isinstance(a, jax.Array) and a.is_fully_addressable and not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    if on_host and [d.platform for d in a.devices()] == ["cpu"]:
        a = np.asarray(a)
    return a[start:stop]
