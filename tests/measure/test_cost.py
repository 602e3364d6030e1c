"""Costs known beforehand.

Operations against closed forms, the budget's bound against what XLA allocates.
"""

import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from isometry._internal import memory
from isometry.measure import _cost, _programs, _spectra
from tests.measure.targets import target_of

F32 = jnp.dtype("float32")


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, F32)


def shapes_of(net):
    return jax.eval_shape(net.init, jax.random.key(0))


def mlp(*widths):
    return networks.mlp(list(widths), "tanh", "gaussian", 1.2, 0.1)


def conv(kernels, x):
    for k in kernels:
        x = jnp.tanh(jax.lax.conv_general_dilated(x, k, (2, 1), "SAME"))
    return x


def plain(weights, x):
    for w in weights:
        x = jax.nn.gelu(w @ x)
    return x


def residual(weights, x):
    return jax.lax.scan(lambda z, w: (z + jnp.tanh(w @ z), None), x, weights)[0]


def bottleneck(params, x):
    """Directions cost 400 numbers each, the Jacobian 36.

    Written without a transpose, of which the bound would count a copy for each
    direction and XLA makes none.
    """
    return params @ jnp.tanh(x @ params)


KERNELS, IMAGE = [struct(4, 4, 3, 3)] * 3, struct(1, 4, 8, 8)
WEIGHTS = [struct(30, 20), struct(40, 30)]
ON_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="XLA's programs for the CPU"
)


def svd_flop(m, n):
    """Golub and Van Loan (2013), 5.4.8 and figure 8.6.1: values alone, m ≥ n."""
    return min(4 * m * n**2 - 4 * n**3 / 3, 2 * m * n**2 + 2 * n**3)


def test_flop_of_a_jacobian_are_those_of_its_products_and_its_svd():
    """Backward from 10 outputs.

    10 × 128 × 128 and 10 × 128 × 64, beside the forward pass and elementwise work.
    """
    cost = isometry.cost(
        mlp(64, 128, 128, 10), shapes_of(mlp(64, 128, 128, 10)), struct(64)
    )
    products = 2 * 10 * (128 * 128 + 128 * 64) + 2 * (64 * 128 + 128**2)
    assert products + svd_flop(64, 10) < cost.flop < 1.1 * (products + svd_flop(64, 10))
    assert cost.notes == ()


def test_every_turn_of_a_loop_is_counted():
    """Five layers in a scan count what XLA counts of five layers written out.

    2 n³ each in forward mode.
    """

    def written_out(weights, x):
        for w in weights:
            x = x + jnp.tanh(w @ x)
        return x

    n = 32
    scanned = isometry.cost(residual, struct(5, n, n), struct(n))
    counted = isometry.cost(written_out, [struct(n, n)] * 5, struct(n))
    products = 5 * 2 * n**3
    assert scanned.flop == pytest.approx(counted.flop, rel=0.02)
    assert products + svd_flop(n, n) < scanned.flop < 1.2 * (products + svd_flop(n, n))
    assert scanned.notes == ()


def test_nested_loops_multiply():
    """An outer turn is 5 inner ones, each 2 n³ + 2 n² beside elementwise work."""
    n = 16

    def flop(turns):
        def repeated(params, x):
            return jax.lax.scan(
                lambda z, _: (residual(params, z), None), x, None, length=turns
            )[0]

        return isometry.cost(repeated, struct(5, n, n), struct(n)).flop

    # What one turn adds, from two turns to seven: of all turns alike, if it is right.
    more = (flop(7) - flop(2)) / 5
    assert 1 <= more / (5 * (2 * n**3 + 2 * n**2)) < 1.2


def test_lanczos_counts_all_its_products():
    """Of one matrix.

    J v and Jᵀ u, 2 n² each, and twice two orthogonalizations against a basis, 4 n ·
    steps each.
    """
    n, steps, probes = 48, 6, 2
    cost = isometry.cost(
        lambda w, x: w @ x, struct(n, n), struct(n), isometry.Lanczos(steps, probes)
    )
    least = steps * probes * (4 * n**2 + 4 * 4 * n * steps)
    assert least < cost.flop < 3 * least


def test_what_is_not_counted_is_said():
    def asked(params, x):
        return jax.lax.while_loop(lambda z: z[0] < 0, lambda z: params @ z, x)

    def solved(params, x):
        return jnp.linalg.solve(params, x)

    square = struct(8, 8)
    assert isometry.cost(asked, square, struct(8)).notes == (
        "a while loop of unknown length is counted once",
    )
    assert "lu in f is not counted" in isometry.cost(solved, square, struct(8)).notes


def test_bytes_hold_the_jacobian_and_little_more():
    """J, LAPACK's copy, U and V are at most four matrices where m ≫ n.

    U is thin, not 20000 × 20000.
    """
    matrix = 20000 * 4 * 4
    cost = isometry.cost(lambda w, x: w @ x, struct(20000, 4), struct(4))
    assert matrix <= cost.bytes <= 5 * matrix


def test_what_it_returns():
    net = mlp(64, 128, 10)
    shapes = shapes_of(net)
    params = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    x = np.ones(64, np.float32)
    cost = isometry.cost(net, params, x)
    assert cost == isometry.cost(net, shapes, struct(64), method="dense")
    assert repr(cost).startswith("Cost(")
    assert repr(cost).endswith("FLOP)")
    assert (
        repr(isometry.Cost(1_234_567, 999, ("said",)))
        == "Cost(1.23 MB, 999 FLOP; said)"
    )
    with jax.enable_x64(True):
        assert isometry.cost(net, params, x, dtype=jnp.float64).bytes > 1.5 * cost.bytes


PROGRAMS = {
    "wide": (mlp(60, 40, 12), None, struct(60), isometry.Dense()),
    "runs": (mlp(*[16] * 12), None, struct(16), isometry.Dense()),
    "wide inside": (mlp(8, 400, 8), None, struct(8), isometry.Dense()),
    "conv": (conv, KERNELS, IMAGE, isometry.Dense()),
    "residual": (residual, struct(20, 64, 64), struct(64), isometry.Dense()),
    "wide directions": (bottleneck, struct(6, 400), struct(6), isometry.Dense()),
    "lanczos": (mlp(*[32] * 12), None, struct(32), isometry.Lanczos(8, 4)),
    "product": (mlp(*[8] * 6), None, struct(8), isometry.Product()),
}


@ON_CPU
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_footprint_bounds_what_xla_allocates(name):
    """Of the program that an ensemble of 3 seeds × 6 inputs runs.

    And it is not so wide that nothing fits.
    """
    f, params, x, method = PROGRAMS[name]
    params = shapes_of(f) if params is None else params
    target = target_of(f, params, x)
    footprints = _cost.footprints([target], method, params, x=x)
    footprint, targets = _cost.chunked_together(
        [target], footprints, method, budget=2**40
    )
    seeds, inputs = 3, 6
    stacked = jax.tree.map(lambda a: struct(seeds, *a.shape), params)
    numbers = [jax.ShapeDtypeStruct((count,), jnp.int32) for count in (seeds, inputs)]
    how = _spectra.Static(targets, method, key_kind="threefry2x32")
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    compiled = _programs._compiled.ahead(
        _spectra.measured,
        how,
        None,
        (stacked, numbers[0]),
        (struct(inputs, *x.shape), numbers[1]),
        key,
    )
    found = compiled.memory_analysis()
    allocated = found.temp_size_in_bytes + found.output_size_in_bytes
    of_seeds = inputs * footprint.each + 2 * memory.tree_bytes(params)
    bound = footprint.shared + seeds * of_seeds
    assert targets[0].chunk is None
    assert allocated <= bound <= 10 * allocated


def test_directions_are_taken_as_the_budget_allows():
    drawn = np.random.default_rng(0).standard_normal((2, 6, 400))
    params = (drawn / 20).astype(np.float32)
    xs = np.ones((1, 6), np.float32)
    targets = [target_of(bottleneck, params[0], xs[0])]
    footprints = _cost.footprints(targets, isometry.Dense(), params[0], x=xs[0])

    def fit(budget):
        footprint, (target,) = _cost.chunked_together(
            targets, footprints, isometry.Dense(), budget=budget
        )
        return footprint, target.chunk

    whole, chunk = fit(10**9)
    assert chunk is None
    said = r"max_bytes=100 is too small for one 6×6 Jacobian .* write at least (\d+)\."
    with pytest.raises(InputError, match=said) as caught:
        fit(100)
    least = int(str(caught.value).split()[-1][:-1])
    assert least < whole.bytes() / 1.5
    takes, chunk = fit(least)
    assert (takes.bytes(), chunk) == (least, 1)
    for budget in range(least, whole.bytes(), (whole.bytes() - least) // 5):
        takes, chunk = fit(budget)
        assert 1 <= chunk < 6
        assert takes.bytes() <= budget
    together = isometry.ensemble(bottleneck, params=params, xs=xs)
    parts = isometry.ensemble(bottleneck, params=params, xs=xs, max_bytes=least)
    np.testing.assert_allclose(
        parts.values, together.values, atol=40 * 1.2e-7 * np.max(together.values)
    )


def test_traces_are_remembered_and_keep_nothing_alive():
    calls = []

    def make():
        weights = np.ones((3, 3), np.float32)

        def f(params, x):
            calls.append(x)
            return weights @ x

        return f, weakref.ref(f)

    f, alive = make()
    first = isometry.cost(f, None, struct(3))
    count = len(calls)
    assert count > 0
    assert isometry.cost(f, None, struct(3)) == first
    assert len(calls) == count
    isometry.cost(f, None, struct(3), dtype="float32", method=isometry.Lanczos(1, 1))
    calls.clear()
    del f
    gc.collect()
    assert alive() is None


def test_a_bound_method_is_remembered():
    class Model:
        runs = 0

        def apply(self, params, x):
            self.runs += 1
            # A function of its own: programs are shared by all functions that print
            # the same, and what another test compiled is not compiled again.
            return 0.7243 * (params @ x)

    model, w, x = Model(), np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    isometry.jacobian(model.apply, w, x)
    first, model.runs = model.runs, 0
    isometry.jacobian(model.apply, w, x)
    assert model.runs < first


def test_the_context_is_part_of_what_is_remembered():
    f = lambda p, x: x * jnp.ones(3)  # noqa: E731
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert isometry.cost(f, None, struct(3)).flop > 0
    assert isometry.cost(f, None, struct(3)).flop > 0
    assert math.isfinite(isometry.cost(f, None, struct(3)).bytes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isometry.cost(3, None, struct(3)), r"cost\(\): f=3 is not callable"),
        (
            lambda: isometry.cost(plain, WEIGHTS, struct(3)),
            r"cost\(\): f\(params, x\) raised TypeError",
        ),
        (
            lambda: isometry.cost(jnp.multiply, struct(3), struct(3), "product"),
            r'cost\(\): method="product" multiplies blocks, and this f shows none',
        ),
        (
            lambda: isometry.cost(plain, WEIGHTS, struct(20), "dens"),
            r"cost\(\): method='dens' is not known",
        ),
        (
            lambda: isometry.cost(plain, WEIGHTS, struct(20), span="hidden"),
            r"needs three weight layers; this function has 2",
        ),
        (
            lambda: isometry.cost(plain, WEIGHTS, struct(20), dtype="bfloat16"),
            r"too coarse to measure in",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_tracers_are_refused():
    with pytest.raises(
        TypeError, match=r"cost\(\): x is traced; this function runs on the host"
    ):
        jax.jit(lambda x: isometry.cost(plain, WEIGHTS, x).flop)(jnp.ones(20))
