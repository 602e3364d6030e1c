"""What a report of a fault needs: versions, devices, settings that bite, memory, and whether the engine is right."""

import dataclasses
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
from isometry._internal import memory, provenance
from isometry._self_test import Check, self_test

EXTRAS = {
    "cli": ("rich", "typer"),
    "plot": ("matplotlib",),
    "data": ("scikit-learn",),
    "store": ("xarray", "zarr"),
    "flax": ("flax",),
    "equinox": ("equinox",),
    "haiku": ("dm-haiku",),
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


@dataclasses.dataclass(frozen=True)
class Examination:
    """What `examine` found; `threads` are the environment's values, None for unset."""

    provenance: dict[str, Any]
    machine: dict[str, Any]
    precision: dict[str, Any]
    threads: dict[str, Any]
    memory: dict[str, Any]
    extras: dict[str, dict[str, str | None]]
    warnings: list[str]
    checks: list[Check]
    seconds: float
    processor_seconds: float

    @property
    def holds(self) -> bool:
        """Whether every check held."""
        return all(check.holds for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for strict JSON."""
        found = dataclasses.asdict(self)
        found["checks"] = [{**dataclasses.asdict(check), "holds": check.holds} for check in self.checks]
        return found | {"holds": self.holds}


def examine(seed: int = 0) -> Examination:
    """Everything about this process that a report of a fault needs, and a self-test of the engine: about 5 s
    of an idle processor.

    Changes no setting. `seed`: of what the self-test draws.

    **Raises** `ValueError`: a seed that is not a whole number from 0.
    """
    _checks.integer("doctor", low=0, seed=seed)
    precision = _precision_found()
    started = time.perf_counter(), time.process_time()
    checks = self_test(jax.random.key(seed))
    seconds, of_processors = time.perf_counter() - started[0], time.process_time() - started[1]
    return Examination(
        provenance=provenance.provenance(seed=seed),
        machine=_machine(),
        precision=precision,
        threads=_threads(),
        memory={"free_bytes": memory.free_bytes(), "budget_bytes": memory.budget(None)},
        extras={extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        warnings=_warnings(precision),
        checks=checks,
        seconds=seconds,
        processor_seconds=of_processors,
    )


def _machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in jax.devices()]
    return {
        "system": platform.platform(), "processor": platform.machine(), "usable_processors": usable,
        "executable": sys.executable, "devices": devices, "processes": jax.process_count(),
    }  # fmt: skip


def _precision_found() -> dict[str, Any]:
    """64-bit mode, and what a product loses at the default matmul precision: measured, whatever the device calls it."""
    a = np.random.default_rng(0).uniform(1, 2, (16, 64)).astype(np.float32)
    exact = a.astype(float) @ a.T.astype(float)
    found = np.asarray(jnp.asarray(a) @ jnp.asarray(a.T), float)
    return {
        "x64": _checks.x64(),
        "default_matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore
        "matmul_error": float(np.abs(found / exact - 1).max()),
    }


def _threads() -> dict[str, Any]:
    """What the environment says, and where threadpoolctl is installed what the libraries do."""
    found: dict[str, Any] = {"environment": {name: os.environ.get(name) for name in THREADS}, "libraries": None}
    try:
        import threadpoolctl
    except ImportError:
        return found
    libraries = [{k: pool.get(k) for k in ("internal_api", "num_threads")} for pool in threadpoolctl.threadpool_info()]
    return found | {"libraries": libraries}


def _warnings(precision: dict[str, Any]) -> list[str]:
    """What is set in a way that will bite, and what to write instead."""
    found = []
    platform_name, error = jax.devices()[0].platform, precision["matmul_error"]
    if error > 64 * np.finfo(np.float32).eps:
        passes = {"gpu": "TF32", "cuda": "TF32", "rocm": "TF32"}.get(platform_name, "bfloat16 passes")
        found.append(
            f"float32 products err by {error:.1g} on this {platform_name} ({passes}). isometry measures at full "
            "precision all the same; your own training and f do not: "
            "jax.config.update('jax_default_matmul_precision', 'highest')."
        )
    threads = os.environ.get("NPROC", str(os.cpu_count() or 1))
    if platform_name == "cpu" and threads.isdigit() and int(threads) < 4:
        found.append(
            f"XLA has {threads} threads, with which batched factorizations can deadlock: set NPROC=4 before Python "
            "starts."
        )
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
