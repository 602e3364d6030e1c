"""No program that the package hands out hangs on a machine of few cores.

They run in a process of their own, because a hung one cannot be stopped from within,
with XLA's pool of threads at its default size and at two. One process runs them all:
to start it takes a second of the eight, and it prints which of them it has reached.
"""

import os
import subprocess
import sys
import textwrap

import pytest

# Seconds. A program takes 10 s of an idle core, and a hung one would wait for ever: a
# tenth of this fails on a busy machine, ten times as much only delays the failure.
LIMIT = 300

COMMON = """
import threading
import jax, jax.numpy as jnp, numpy as np, optax
import isometry
from isometry import linalg, networks

keys = jax.random.split(jax.random.key(0), 8)
net = networks.mlp([32] * 5, "tanh", "orthogonal")
xs = jax.random.normal(jax.random.key(1), (8, 32))

def repeated(program, *args, times=10):
    for _ in range(times):
        found = jax.block_until_ready(program(*args))
    return found
"""

INITIALIZERS = """
deep = networks.mlp([64] * 21, "tanh", "orthogonal")
draw = jax.jit(jax.vmap(deep.init))
params = repeated(draw, keys)
one = deep.init(keys[3])
for stacked, single in zip(jax.tree.leaves(params), jax.tree.leaves(one), strict=True):
    assert np.array_equal(stacked[3], single)

# Several programs, dispatched from several threads, for about a second each.
orthogonal = isometry.initializers.orthogonal()
block_orthogonal = isometry.initializers.block_orthogonal()
square = jax.jit(jax.vmap(lambda key: orthogonal(key, (64, 64))))
block = jax.jit(jax.vmap(lambda key: block_orthogonal(key, (3, 16, 16))))
threads = [
    threading.Thread(target=repeated, args=(program, keys), kwargs={"times": times})
    for program, times in ((square, 200), (block, 200), (draw, 20))
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

MEASUREMENTS = """
params = jax.vmap(net.init)(keys)

def values(p, x):
    return isometry.spectrum(net, p, x).log_values

spectra = jax.jit(lambda p: [jax.vmap(values, (0, None))(p, x) for x in xs[:3]])
repeated(spectra, params)

def measured(method):
    isometry.ensemble(net, keys, xs, method=method)

ensembles = [
    threading.Thread(target=measured, args=(method,)) for method in ("dense", "product")
]
for thread in ensembles:
    thread.start()
for thread in ensembles:
    thread.join()

monitor = isometry.monitor(net, xs, every=1, statistics=["s_max"], capacity=8)
optimizer = optax.chain(monitor, optax.sgd(0.01))

def step(p, state):
    gradient = jax.grad(lambda p: jnp.mean(jax.vmap(net, (None, 0))(p, xs) ** 2))(p)
    updates, state = optimizer.update(gradient, state, p)
    return optax.apply_updates(p, updates), state

train = jax.jit(jax.vmap(step))
state = jax.vmap(optimizer.init)(params)
for _ in range(5):
    params, state = jax.block_until_ready(train(params, state))
"""

KERNELS = """
a = jax.random.normal(jax.random.key(2), (8, 24, 24))

def kernels(a):
    operator = linalg.Operator.of(a)
    return (
        linalg.singular_values(a),
        jax.grad(linalg.log_spread)(a),
        linalg.lyapunov_exponents(jnp.stack([a, a.T])),
        linalg.spectral_moments(operator, (1, 2), key=keys[0], probes=8),
        linalg.spectral_quadrature(operator, key=keys[0], steps=4, probes=2),
        linalg.extreme_singular_values(operator, key=keys[0], steps=4),
    )

repeated(jax.jit(lambda a: [jax.vmap(kernels)(a), jax.vmap(kernels)(-a)]), a)
"""


PROGRAMS = {
    "drawing": INITIALIZERS,
    "measuring": MEASUREMENTS,
    "kernels": KERNELS,
}


def run(programs, nproc):
    """Run programs one after another in a process of their own; a hang is a failure."""
    # What tests/conftest.py sets for the tests' own compilation would make it another
    # program than a user's.
    unset = ("NPROC", "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {
        name: value for name, value in os.environ.items() if name not in unset
    }
    environment |= {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    if nproc is not None:
        environment["NPROC"] = nproc
    code = COMMON
    for name, program in programs.items():
        code += f"print({name!r}, flush=True)\n" + textwrap.dedent(program)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"hung: no end within {LIMIT} s; reached {hung.stdout!r}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == list(programs)


# The pool has as many threads as the machine has cores: with two of them both are one.
@pytest.mark.parametrize("nproc", [None] if os.cpu_count() == 2 else [None, "2"])
def test_programs_end(nproc):
    run(PROGRAMS, nproc)
