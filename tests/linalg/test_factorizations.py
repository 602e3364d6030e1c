"""Where a batched factorization could wait for another, none sees a batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import initializers, linalg, networks
from isometry.linalg import _factorizations

KEYS = jax.random.split(jax.random.key(0), 3)
A = jax.ShapeDtypeStruct((3, 2, 6, 5), jnp.float32)
NET = networks.mlp([4, 4, 4], "tanh", "orthogonal")
LAPACK = re.compile(r"@lapack_\w+\(.*")
BATCH = re.compile(r'num_batch_dims = "(\d)"')


def all_factorizations(a):
    return (
        _factorizations.qr(a),
        _factorizations.singular_values(a),
        _factorizations.thin_svd(a),
        _factorizations.row_order(a),
    )


def all_kernels(a):
    operator = linalg.Operator.of(a)
    square = a[:5]
    return (
        linalg.log_singular_values(a),
        jax.hessian(linalg.log_spread)(a),
        jax.grad(lambda a: linalg.singular_values(a).sum())(a),
        jax.grad(lambda a: _factorizations.qr(a)[1].sum())(a),
        linalg.lyapunov_exponents(jnp.stack([square, square])),
        linalg.product_log_singular_values(jnp.stack([square, square])),
        linalg.spectral_moments(operator, (1, 2), key=KEYS[0], probes=4),
        linalg.spectral_quadrature(operator, key=KEYS[0], steps=3, probes=2),
        linalg.extreme_singular_values(operator, key=KEYS[0], steps=3),
    )


def spectra(params, x):
    return isometry.spectrum(NET, params, x).log_values


PARAMS = jax.eval_shape(jax.vmap(NET.init), KEYS)
STACK = jax.ShapeDtypeStruct((3, 6, 5), jnp.float32)
PROGRAMS = {
    "factorizations": (all_factorizations, A),
    "vmap of vmap": (jax.vmap(jax.vmap(all_factorizations)), A),
    "kernels": (jax.vmap(all_kernels), STACK),
    "net.init": (jax.vmap(NET.init), KEYS),
    "block": (jax.vmap(lambda k: initializers.block_orthogonal()(k, (3, 4, 4))), KEYS),
    "spectrum": (jax.vmap(spectra, (0, None)), PARAMS, jnp.ones(4)),
}


@pytest.mark.parametrize(
    ("version", "wait"),
    [("0.10.0", True), ("0.11.0", True), ("0.11.1", False), ("0.12.0.1", False)],
)
def test_versions_whose_batches_wait_for_each_other(version, wait):
    assert _factorizations._batches_wait(version) is wait
    assert _factorizations._batches_wait(f"{version}.dev20260101+cpu") is wait


@pytest.mark.skipif(
    not _factorizations.BATCHES_WAIT, reason="batches of it may be one call"
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_cpu_program_factorizes_a_batch(name):
    """A call of LAPACK with a batch is what hangs; lowered programs show each call."""
    program, *arguments = PROGRAMS[name]
    calls = LAPACK.findall(jax.jit(program).lower(*arguments).as_text())
    batches = [BATCH.search(call)[1] for call in calls]
    assert batches
    assert set(batches) == {"0"}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_factorize_the_whole_batch(platform):
    def program(a):
        return _factorizations.qr(a), _factorizations.singular_values(a)

    def at_once(a):
        return jnp.linalg.qr(a), jnp.linalg.svd(a, compute_uv=False)

    def loops(f):
        exported = jax.export.export(jax.jit(jax.vmap(f)), platforms=[platform])(A)
        return exported.mlir_module().count("stablehlo.while")

    assert loops(program) == loops(at_once)


def test_haar_matrices_are_those_of_jax_bit_for_bit():
    shapes = [(5, 5), (7, 3), (3, 7)]
    cases = [(shape, batch) for shape in shapes for batch in ((), (2, 3))]
    key = KEYS[0]

    def ours(shape, batch):
        draw = _factorizations.haar_orthogonal
        return draw(key, *shape, jnp.float32, batch=batch)

    def of_jax(shape, batch):
        rows, columns = shape
        return jax.random.orthogonal(key, rows, batch, jnp.float32, columns)

    @jax.jit
    def drawn():
        return [(ours(*case), of_jax(*case)) for case in cases]

    for mine, theirs in drawn():
        np.testing.assert_array_equal(mine, theirs)


def thin_svd_of_jax(a):
    return tuple(jax.lax.linalg.svd(a, full_matrices=False))


def qr_of_jax(a):
    return tuple(jnp.linalg.qr(a))


PAIRS = [
    (_factorizations.qr, qr_of_jax, (6, 4)),
    (_factorizations.thin_svd, thin_svd_of_jax, (6, 4)),
    (_factorizations.thin_svd, thin_svd_of_jax, (4, 6)),
]


@pytest.mark.parametrize(("ours", "of_jax", "shape"), PAIRS)
def test_second_derivatives_are_those_of_jax(ours, of_jax, shape):
    """Both rules are exact, up to rounding over the smallest gap, which is 0.1 here."""
    with jax.enable_x64(True):
        a, along = jax.random.normal(jax.random.key(2), (2, *shape), jnp.float64)

        def derivatives(f):
            def total(a):
                return sum(jnp.sum(jnp.sin(part)) for part in f(a))

            return jax.jit(lambda a: jax.jvp(jax.grad(total), (a,), (along,)))(a)

        for mine, theirs in zip(derivatives(ours), derivatives(of_jax), strict=True):
            size = float(jnp.max(jnp.abs(theirs)))
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-11 * size)


def test_batches_sharded_over_explicit_axes_stay_sharded():
    """A loop cannot run over such an axis: each device loops over its own matrices."""
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("i")
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((4, 5, 3)).astype(np.float32)
    with jax.set_mesh(mesh):
        placed = jax.device_put(matrices, jax.sharding.NamedSharding(mesh, spec))
        s = jax.jit(_factorizations.singular_values)(placed)
        keys = jax.device_put(
            jax.random.split(jax.random.key(0), 4),
            jax.sharding.NamedSharding(mesh, spec),
        )
        init = initializers.orthogonal()
        drawn = jax.jit(jax.vmap(lambda key: init(key, (4, 3))))(keys)
    assert s.sharding.spec[0] == "i"
    assert drawn.sharding.spec[0] == "i"
    want = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(s, want, atol=1e-5)
    one = jax.jit(init, static_argnums=1)(
        jax.random.split(jax.random.key(0), 4)[2], (4, 3)
    )
    np.testing.assert_array_equal(np.asarray(drawn)[2], np.asarray(one))


def test_batches_of_no_matrices_have_no_values():
    empty = _factorizations.singular_values(jnp.zeros((4, 0, 2, 2)))
    assert empty.shape == (4, 0, 2)
