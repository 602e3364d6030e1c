"""Compiled programs, which take memory until JAX forgets them."""

import gc
import pathlib

import jax

# Linux gives a process 65,530 areas of memory. Each compiled program takes some, and
# the first that gets none ends the process with a segmentation fault.
_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 45_000


def release():
    """Forget all compiled programs if they take much memory."""
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()
