"""How many bytes a measurement may take."""

import os
from typing import Any

import jax

from isometry import _checks

SHARE = 0.25
"""Share of the free memory that one measurement takes by default; the rest is for its temporaries, XLA and the user."""


def free_bytes() -> int:
    """Free memory of this process's first device: its own if it reports any, the host's otherwise."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 2**31


def budget(call: str, max_bytes: int | None) -> int:
    """`max_bytes` if given, else a share of the free memory."""
    if max_bytes is None:
        return int(SHARE * free_bytes())
    _checks.integer(call, low=1, max_bytes=max_bytes)
    return int(max_bytes)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shape structs) in `tree`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
