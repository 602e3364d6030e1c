"""What a report of a fault needs: versions, devices, settings, a self-test."""

import importlib.metadata
import os
import platform
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry._internal import checks, provenance
from isometry.cli import _environment
from isometry.cli._self_test import self_test

EXTRAS = {
    "cli": ("rich", "typer"),
    "plot": ("matplotlib",),
    "data": ("scikit-learn",),
    "store": ("cloudpickle", "loky", "xarray", "zarr"),
    "report": ("jinja2",),
    "flax": ("flax",),
    "equinox": ("equinox",),
    "haiku": ("dm-haiku",),
}
CACHE = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")

# Terms in each entry of the product whose error is measured. Rounding alone stays far
# below so many eps, and TF32, which is off by 1e-4, far above.
_TERMS = 64


def examine(seed: int) -> dict[str, Any]:
    """Gather what a report of a fault needs, and test the engine.

    Changes no setting. Takes about 3 s of a processor.

    Args:
        seed: The seed of what the self-test draws.

    Returns:
        Plain numbers and text, for strict JSON. A variable that is not set is None.
    """
    precision = _precision()
    started, processor_started = time.perf_counter(), time.process_time()
    tests = self_test(jax.random.key(seed))
    seconds = time.perf_counter() - started
    processor_seconds = time.process_time() - processor_started
    return {
        "provenance": provenance.provenance(seed=seed),
        "machine": _machine(),
        "precision": precision,
        "threads": {name: os.environ.get(name) for name in _environment.THREADS},
        "cache": {name: os.environ.get(name) for name in CACHE},
        "extras": _extras(),
        "warnings": settings_that_bite(precision["matmul_error"]),
        "checks": [test._asdict() | {"holds": test.holds} for test in tests],
        "holds": all(test.holds for test in tests),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
    }


def _machine() -> dict[str, Any]:
    # Where there is affinity, a container may have fewer processors than the machine.
    num_processors = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        num_processors = len(os.sched_getaffinity(0))
    devices = [
        {"platform": d.platform, "kind": d.device_kind, "id": d.id}
        for d in jax.devices()
    ]
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "usable_processors": num_processors,
        "executable": sys.executable,
        "devices": devices,
        "processes": jax.process_count(),
    }


def _precision() -> dict[str, Any]:
    """Measure what a product loses at the default precision, whatever its name."""
    # Terms of one sign: nothing cancels, so that the relative error is that of a term.
    draws = np.random.default_rng(0).uniform(1, 2, (16, _TERMS))
    a = draws.astype(np.float32)
    exact = a.astype(float) @ a.T.astype(float)
    product = np.asarray(jnp.asarray(a) @ jnp.asarray(a.T), float)
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore
    return {
        "x64": checks.x64(),
        "default_matmul_precision": chosen,
        "matmul_error": float(np.abs(product / exact - 1).max()),
    }


def _extras() -> dict[str, dict[str, str | None]]:
    """Return the versions of optional dependencies; None if one is missing."""
    return {
        extra: {name: _version(name) for name in names}
        for extra, names in EXTRAS.items()
    }


def settings_that_bite(matmul_error: float) -> list[str]:
    """Say which settings will bite, and what to write instead.

    Args:
        matmul_error: The relative error of a product in float32.
    """
    if matmul_error <= _TERMS * np.finfo(np.float32).eps:
        return []
    device = jax.devices()[0].platform
    on_gpu = device in ("gpu", "cuda", "rocm")
    passes = "TF32" if on_gpu else "bfloat16 passes"
    return [
        f"float32 products err by {matmul_error:.1g} on this {device} ({passes}). "
        "isometry measures at full precision all the same; your own training and f do "
        "not: jax.config.update('jax_default_matmul_precision', 'highest')."
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
