"""Settings every test runs under: strict promotion, two CPU devices, a shared cache."""

import gc
import importlib.metadata
import os
import pathlib

# Before jax and numpy are imported: multi-threaded BLAS inside small factorizations
# becomes many times slower whenever a core is busy, as all are when tests run in
# parallel.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the tests' time is compilation, so its results are kept outside the clone, for
# all workers, subprocesses and later runs. 0 seconds: thousands of programs take
# milliseconds each; at JAX's default of one second none of them would be kept.
_HOME = pathlib.Path.home() / ".cache"
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or _HOME)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "isometry-compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Hypothesis reads the constants of every module. What it finds is kept there too: in a
# fresh clone that takes each worker a second.
_FOUND = str(_CACHE / "isometry-hypothesis")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", _FOUND)

# XLA takes most of its time to make programs fast, which changes their results by
# rounding alone. Here it does a little of that: without any, 150 gradients of a small
# convolution took 4 s and not 0.2. The samples on other versions and the nightly runs
# compile as users do; they set this variable, which then stands.
_IS_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ

# Up to 32 modules of LLVM for one program, to be compiled in parallel, take up to a
# third of what is left, and twice the areas of memory (`compiled.py`).
_QUICK = [
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]

# Kernels of whole fusions are two fifths of it. XLA ends a process with a flag that it
# does not know, and that of jaxlib 0.12 does not know this one.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")

if _IS_QUICK:
    _given = os.environ.get("XLA_FLAGS", "").split()
    _added = [flag for flag in _QUICK if flag not in _given]
    os.environ["XLA_FLAGS"] = " ".join([*_given, *_added])

import hypothesis
import jax
import pytest

from tests import compiled

# `short` draws the same few examples in every run; `--hypothesis-profile long` draws
# many, and others each time.
_COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}
hypothesis.settings.register_profile(
    "short", max_examples=3, derandomize=True, **_COMMON
)
hypothesis.settings.register_profile("long", max_examples=190, **_COMMON)
hypothesis.settings.load_profile("short")

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Everything that JAX traces stays alive in its caches. The collector would walk over it
# again and again, up to seconds each time, to find ten thousand small objects in all.
gc.set_threshold(200_000, 20, 50)
gc.disable()


def pytest_collection_finish(session):
    """Collect garbage in long runs, but not among what was imported, which stays."""
    gc.freeze()
    options = session.config.option
    if "not slow" not in options.markexpr or options.hypothesis_profile == "long":
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """Leave what there is to the operating system.

    pytest collects garbage twice at its end, and Python once more. In the millions of
    objects that JAX keeps for its programs that took 13 seconds after tests of a
    minute, for which all workers were waited for.
    """
    gc.freeze()
    gc.disable()


@pytest.fixture(autouse=True, scope="module")
def release_programs():
    """Forget all compiled programs behind a module if they take much memory."""
    yield
    compiled.release()


# What depends on the versions of Python, JAX and the frameworks: public JAX alone, how
# programs are written down, tracing and differentiation, lowering for other platforms,
# frameworks, the store.
CORE = (
    "tests/test_layers.py",
    "tests/test_public_surface.py",
    "tests/structure/",
    "tests/measure/test_jacobian.py",
    "tests/test_platforms.py",
    "tests/test_store.py",
)
FRAMEWORKS = ("test_flax", "test_haiku", "test_equinox")


# Tests of several seconds come first. At the end of a run, one worker would still be
# busy with such a test when the others have nothing left.
FIRST = (
    "test_programs_end",
    "test_readme_shows",
    "test_smoke_run",
    "test_two_processes",
)


def pytest_collection_modifyitems(items):
    """Mark the sample for the oldest and newest versions, and begin with long tests."""
    for item in items:
        if item.nodeid.startswith(CORE) or item.name.startswith(FRAMEWORKS):
            item.add_marker("core")
    items.sort(key=lambda item: not item.name.startswith(FIRST))
