"""One ensemble over many devices and processes.

The same numbers as on one, and no deadlock.
"""

import ast
import os
import re
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import isometry
from isometry import InputError, networks
from isometry.measure import _devices

NET = networks.mlp([6, 8, 5], "tanh", "gaussian", 1.2, bias=False)
KEYS = jax.random.split(jax.random.key(0), 5)
XS = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
EPS = float(np.finfo(np.float32).eps)
COMMON = """
import jax, numpy as np, isometry
import jax.numpy as jnp
from jax.sharding import Mesh
from isometry import networks


def layer(w, x):
    return jnp.tanh(w @ x)


def draw(key):
    return jax.random.normal(key, (5, 6))
"""


def layer(w, x):
    return jnp.tanh(w @ x)


def draw(key):
    return jax.random.normal(key, (5, 6))


def run(*programs, timeout=400, **environment):
    """Python programs as processes of their own, together.

    Their output if all end well in time.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COMMON + textwrap.dedent(program)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
            | {"JAX_PLATFORMS": "cpu"}
            | environment,
        )
        for program in programs
    ]
    try:
        ended = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), ended
    return [out for out, _ in ended]


def close(a, b):
    """s within a few eps of the largest of its matrix; the rest alike."""
    np.testing.assert_allclose(
        a.values, b.values, rtol=0, atol=64 * EPS * float(b.values.max())
    )
    assert (a.size, a.structural_zeros, a.method, a.span) == (
        b.size,
        b.structural_zeros,
        b.method,
        b.span,
    )


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()[:2]), ("any",))


@pytest.fixture(scope="module")
def whole():
    """On one device, in one chunk."""
    return isometry.ensemble(layer, KEYS, XS, sample=draw)


def least_budget(*arguments, **how):
    """The least budget that is not refused: of one Jacobian at a time."""
    with pytest.raises(InputError) as refused:
        isometry.ensemble(*arguments, max_bytes=1, **how)
    return int(re.search(r"write at least (\d+)", str(refused.value)).group(1))


def test_layers_multiplied_on_two_devices(mesh):
    net, rng = networks.mlp([6, 6], "tanh", bias=False), np.random.default_rng(0)
    w = rng.standard_normal((5, 1, 6, 6)).astype(np.float32)
    found = isometry.ensemble(
        net, params={"layers": ({"w": w},)}, xs=XS, method="product", mesh=mesh
    )
    want = np.linalg.svd(w, compute_uv=False).astype(np.float64)
    error = np.abs(found.values - want.repeat(3, 1))
    # Of a few eps of s_max, as of any factorization.
    assert (error <= 64 * EPS * want[..., :1]).all()


def test_two_devices_and_small_chunks_draw_the_same_probes(mesh):
    method, key = isometry.Lanczos(2, 2), jax.random.key(3)
    # The Jacobian is the same for every seed and input: what differs are the probes,
    # and each has its own.
    matrix = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    how = {
        "params": np.broadcast_to(matrix, (5, 4, 6)),
        "xs": np.ones((3, 6), np.float32),
        "method": method,
        "key": key,
    }
    one = isometry.ensemble(jnp.dot, **how)
    assert len(np.unique(one.log_values[..., 0])) == 15
    budget = 2 * least_budget(jnp.dot, **how)
    two = isometry.ensemble(jnp.dot, mesh=mesh, max_bytes=budget, **how)
    close(two, one)
    # A weight is the square of an entry of a unit vector. It turns by the rounding of
    # its matrix over the gap of the two nodes of a rule, which is a tenth or more.
    np.testing.assert_allclose(two.weights, one.weights, rtol=0, atol=640 * EPS)


def test_uneven_chunks_on_two_devices(mesh, whole):
    """Two devices of a processor share the budget.

    So each takes one Jacobian at a time; the fifth seed is alone.
    """
    seen = []
    how = {"sample": draw}
    got = isometry.ensemble(
        layer,
        KEYS,
        XS,
        mesh=mesh,
        max_bytes=2 * least_budget(layer, KEYS, XS, **how),
        **how,
        progress=lambda *a: seen.append(a),
    )
    close(got, whole)
    assert len(seen) > 1
    assert seen[-1] == (15, 15)


@pytest.mark.parametrize(
    ("devices", "seeds", "inputs", "shape"),
    [
        (8, 16, 1, (8, 1)),
        (8, 1, 100, (1, 8)),
        (8, 3, 5, (4, 2)),
        (2, 5, 3, (2, 1)),
        (8, 7, 7, (8, 1)),
        (1, 3, 3, (1, 1)),
    ],
)
def test_the_fullest_device_holds_least(devices, seeds, inputs, shape):
    assert _devices.grid(devices, seeds, inputs) == shape


@pytest.fixture(scope="module")
def of_processes():
    """What two processes print that measure on a mesh of all devices of both.

    The first then measures 4 × 64 Jacobians on two of its own. One start of Python and
    JAX takes longer than all that is tested here, so there are no more of them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = """
        jax.distributed.initialize("127.0.0.1:{port}", 2, {rank})
        assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
        keys = jax.random.split(jax.random.key(0), 5)
        xs = np.random.default_rng(1).standard_normal((3, 6)).astype("float32")
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("x", "y", "z"))
        many = isometry.ensemble(layer, keys, xs, sample=draw, mesh=mesh)
        print("found", many.values.tolist())
        if {rank} == 0:
            two = Mesh(np.array(jax.local_devices()[:2]), ("i",))
            net = networks.mlp([64] * 9, "tanh")
            drawn = np.random.default_rng(0).standard_normal
            shapes = jax.eval_shape(net.init, jax.random.key(0))
            params = jax.tree.map(
                lambda a: drawn((4, *a.shape)).astype("float32") / 8, shapes
            )
            xs = drawn((64, 64)).astype("float32")
            for _ in range(3):
                isometry.ensemble(net, params=params, xs=xs, mesh=two)
            print("no deadlock")
        """
    return run(
        *(program.format(port=port, rank=rank) for rank in (0, 1)),
        JAX_NUM_CPU_DEVICES="4",
        NPROC="2",
        OPENBLAS_NUM_THREADS="1",
    )


def test_two_processes_of_four_devices_return_what_one_device_does(of_processes, whole):
    """On a mesh of any axes."""
    lines = [out.split("found ")[1].splitlines()[0] for out in of_processes]
    found = [np.array(ast.literal_eval(line)) for line in lines]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(
        found[0], whole.values, rtol=0, atol=64 * EPS * float(whole.values.max())
    )


def test_two_devices_of_one_cpu_do_not_deadlock(of_processes):
    """A batched SVD on each of two devices hung in XLA's pool of two threads.

    Within seconds.
    """
    first, _ = of_processes
    assert "no deadlock" in first


def test_what_is_no_mesh_is_refused():
    with pytest.raises(
        InputError, match=r"ensemble\(\): mesh=.*not a Mesh; write jax.sharding.Mesh"
    ):
        isometry.ensemble(NET, KEYS, XS, mesh=jax.devices())


def test_an_interrupt_loses_only_the_chunk_in_flight():
    def stop(done, total):
        stopped.append(done)
        if len(stopped) == 3:
            raise KeyboardInterrupt

    small = {"max_bytes": least_budget(NET, KEYS, XS)}
    every, stopped, seen = [], [], []
    whole = isometry.ensemble(
        NET, KEYS, XS, progress=lambda done, total: every.append(done), **small
    )
    complete = every[2] // len(XS)
    assert len(every) > 3
    assert 0 < complete < len(KEYS)
    said = rf"after 3 of {len(every)} chunks; \.partial holds the {complete} seeds"
    with pytest.raises(isometry.Interrupted, match=said) as caught:
        isometry.ensemble(NET, KEYS, XS, progress=stop, **small)
    close(caught.value.partial, jax.tree.map(lambda a: a[:complete], whole))
    close(
        isometry.ensemble(
            NET,
            KEYS,
            XS,
            resume=caught.value,
            progress=lambda done, total: seen.append(done),
        ),
        whole,
    )
    assert seen == every[3:]
    with pytest.raises(
        InputError, match="resume comes from a call with other arguments"
    ):
        isometry.ensemble(NET, KEYS[:4], XS, resume=caught.value)
    # The same program, other parameters.
    other = networks.mlp(NET.widths, "tanh", "gaussian", 1.3, bias=False)
    for f, sample in ((other, None), (NET, other.init)):
        with pytest.raises(
            InputError, match="resume comes from a call with other arguments"
        ):
            isometry.ensemble(f, KEYS, XS, sample=sample, resume=caught.value)
    with pytest.raises(InputError, match=r"resume=3 is not an isometry\.Interrupted"):
        isometry.ensemble(NET, KEYS, XS, resume=3)


def test_a_chunk_that_fails_names_its_seeds():
    params = np.ones((2, 4, 6), np.float32)
    params[1, 0, 0] = np.nan
    with pytest.raises(InputError, match="seed 1 at input 0 is not finite") as caught:
        isometry.ensemble(lambda w, x: w @ x, params=params, xs=XS)
    assert "while measuring seeds 0 to 1 at inputs 0 to 2" in caught.value.__notes__[0]
