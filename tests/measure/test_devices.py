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
import numpy as np
import pytest
from jax.sharding import Mesh

import isometry
from isometry import InputError, networks
from isometry.measure import _devices

NET = networks.mlp([6, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
KEYS = jax.random.split(jax.random.key(0), 5)
XS = jax.random.normal(jax.random.key(1), (3, 6))
EPS = float(np.finfo(np.float32).eps)
COMMON = """
import jax, numpy as np, isometry
from jax.sharding import Mesh
from isometry import networks
"""


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
    return isometry.ensemble(NET, KEYS, XS)


def least_budget(**how):
    """The least budget that is not refused: of one Jacobian at a time."""
    with pytest.raises(InputError) as refused:
        isometry.ensemble(NET, KEYS, XS, max_bytes=1, **how)
    return int(re.search(r"write at least (\d+)", str(refused.value)).group(1))


def test_layers_multiplied_on_two_devices(mesh):
    net, rng = networks.mlp([6, 6], "tanh", bias=False), np.random.default_rng(0)
    w = rng.standard_normal((5, 1, 6, 6)).astype(np.float32)
    found = isometry.ensemble(
        net, params={"layers": ({"w": w},)}, xs=XS, method="product", mesh=mesh
    )
    want = np.linalg.svd(w, compute_uv=False).astype(np.float64)
    np.testing.assert_allclose(found.values, want.repeat(3, 1), rtol=1e-3)


def test_two_devices_and_small_chunks_draw_the_same_probes(mesh):
    how = {"method": isometry.Lanczos(2, 2), "key": jax.random.key(3)}
    one = isometry.ensemble(NET, KEYS, XS, **how)
    two = isometry.ensemble(
        NET, KEYS, XS, mesh=mesh, max_bytes=2 * least_budget(**how), **how
    )
    close(two, one)
    np.testing.assert_allclose(two.weights, one.weights, rtol=0, atol=1e-3)
    # The same Jacobian for every seed and input: what differs are the probes, and each
    # has its own.
    same = isometry.ensemble(NET, KEYS[np.zeros(5, int)], XS[np.zeros(3, int)], **how)
    assert len(np.unique(same.log_values[..., 0])) == 15


def test_uneven_chunks_on_two_devices(mesh, whole):
    """Two devices of a processor share the budget.

    So each takes one Jacobian at a time; the fifth seed is alone.
    """
    seen = []
    got = isometry.ensemble(
        NET,
        KEYS,
        XS,
        mesh=mesh,
        max_bytes=2 * least_budget(),
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


def test_a_mesh_of_eight_devices_of_any_kind_and_two_that_do_not_deadlock(whole):
    """A batched SVD on each of two devices hung in XLA's pool of two threads.

    Within seconds.
    """
    (out,) = run(
        """
        net = networks.mlp([6, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
        keys = jax.random.split(jax.random.key(0), 5)
        xs = jax.random.normal(jax.random.key(1), (3, 6))
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("x", "y", "z"))
        print("found", isometry.ensemble(net, keys, xs, mesh=mesh).values.tolist())

        two = Mesh(np.array(jax.devices()[:2]), ("i",))
        net = networks.mlp([64] * 9, "tanh")
        draw = np.random.default_rng(0).standard_normal
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        params = jax.tree.map(
            lambda a: draw((4, *a.shape)).astype("float32") / 8, shapes
        )
        xs = draw((64, 64)).astype("float32")
        for _ in range(3):
            isometry.ensemble(net, params=params, xs=xs, mesh=two)
        """,
        JAX_NUM_CPU_DEVICES="8",
        NPROC="2",
        OPENBLAS_NUM_THREADS="1",
    )
    many = np.array(ast.literal_eval(out.split("found ")[1]))
    np.testing.assert_allclose(
        many, whole.values, rtol=0, atol=64 * EPS * float(whole.values.max())
    )


def test_two_processes_return_what_one_does(whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = """
        jax.distributed.initialize("127.0.0.1:{port}", 2, {rank})
        assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
        net = networks.mlp([6, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
        keys = jax.random.split(jax.random.key(0), 5)
        xs = jax.random.normal(jax.random.key(1), (3, 6))
        mesh = Mesh(np.array(jax.devices()), ("i",))
        many = isometry.ensemble(net, keys, xs, mesh=mesh)
        print("found", many.values.tolist())
        """
    outs = run(
        *(program.format(port=port, rank=rank) for rank in (0, 1)),
        JAX_NUM_CPU_DEVICES="2",
    )
    found = [np.array(ast.literal_eval(out.split("found ")[1])) for out in outs]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(
        found[0], whole.values, rtol=0, atol=64 * EPS * float(whole.values.max())
    )


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

    small = {"max_bytes": least_budget()}
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
    other = networks.mlp(
        NET.widths, "tanh", "gaussian", 1.3, 0.3
    )  # the same program, other parameters
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
