"""Settings every test runs under: strict promotion, two CPU devices, no thread traps."""

import os

# Before jax: multi-threaded BLAS inside small factorizations collapses when a core is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax

# Of the properties: `short` is a sample, the same in every run; `--hypothesis-profile long` draws anew each time.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("short", max_examples=4, derandomize=True, **_COMMON)
hypothesis.settings.register_profile("long", max_examples=130, **_COMMON)
hypothesis.settings.load_profile("short")

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

CORE = (
    "test_layers.py",
    "test_jacobian.py",
    "test_spectrum.py",
    "test_mlp.py",
    "test_mean_field.py",
    "test_public_surface.py",
)


def pytest_collection_modifyitems(items):
    """The sample for the oldest and the newest JAX: whole files, so that nobody has to remember a marker."""
    for item in items:
        if item.path.name in CORE:
            item.add_marker("core")
