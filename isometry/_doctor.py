"""What a report of a fault needs: versions, devices, settings that bite, and whether the engine is right."""

import importlib.metadata
import os
import platform
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import provenance
from isometry._self_test import self_test

EXTRAS = {
    "cli": ("rich", "typer"),
    "plot": ("matplotlib",),
    "data": ("scikit-learn",),
    "store": ("loky", "xarray", "zarr"),
    "flax": ("flax",),
    "equinox": ("equinox",),
    "haiku": ("dm-haiku",),
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def examine(seed: int = 0) -> dict[str, Any]:
    """Gather what a report of a fault needs, and test the engine against known answers.

    Changes no setting. About 3 s of a processor.

    Args:
        seed: Of what the self-test draws. A whole number from 0.

    Returns:
        Plain numbers and text, for strict JSON; of `threads` None is unset.

    Raises:
        InputError: The seed is not a whole number from 0.
    """
    _checks.integer("doctor", low=0, seed=seed)
    precision = _precision()
    started = time.perf_counter(), time.process_time()
    checks = self_test(jax.random.key(seed))
    return {
        "provenance": provenance.provenance(seed=seed),
        "machine": _machine(),
        "precision": precision,
        "threads": {name: os.environ.get(name) for name in THREADS},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "warnings": settings_that_bite(precision["matmul_error"]),
        "checks": [check._asdict() | {"holds": check.holds} for check in checks],
        "holds": all(check.holds for check in checks),
        "seconds": time.perf_counter() - started[0],
        "processor_seconds": time.process_time() - started[1],
    }


def _machine() -> dict[str, Any]:
    has_affinity = hasattr(os, "sched_getaffinity")
    devices = [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in jax.devices()]
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "usable_processors": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "executable": sys.executable,
        "devices": devices,
        "processes": jax.process_count(),
    }


def _precision() -> dict[str, Any]:
    """Measure what a product loses at the default precision, whatever the device calls it."""
    a = np.random.default_rng(0).uniform(1, 2, (16, 64)).astype(np.float32)
    exact = a.astype(float) @ a.T.astype(float)
    product = np.asarray(jnp.asarray(a) @ jnp.asarray(a.T), float)
    return {
        "x64": _checks.x64(),
        "default_matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore
        "matmul_error": float(np.abs(product / exact - 1).max()),
    }


def settings_that_bite(matmul_error: float) -> list[str]:
    """Say what is set in a way that will bite, and what to write instead."""
    found = []
    platform_name = jax.devices()[0].platform
    # Of 64 terms of one sign rounding alone stays far below this; TF32 is off by 1e-4.
    if matmul_error > 64 * np.finfo(np.float32).eps:
        on_gpu = platform_name in ("gpu", "cuda", "rocm")
        passes = "TF32" if on_gpu else "bfloat16 passes"
        found.append(
            f"float32 products err by {matmul_error:.1g} on this {platform_name} ({passes}). isometry measures at "
            "full precision all the same; your own training and f do not: "
            "jax.config.update('jax_default_matmul_precision', 'highest')."
        )
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
