"""Costs known beforehand: FLOP against XLA's count and closed forms, bytes against what XLA allocates."""

import gc
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, _cost, _jacobian, networks
from isometry._internal import jaxprs
from isometry.linalg import _dense

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


KERNELS, IMAGE = [struct(4, 4, 3, 3)] * 3, struct(1, 4, 8, 8)
WEIGHTS = [struct(30, 20), struct(40, 30)]


def work(f, *args):
    return jaxprs.work(jax.make_jaxpr(f)(*args).jaxpr)


def jacobian_of(f):
    aim = _jacobian.target("test", f, "end_to_end")
    return lambda p, x: _jacobian.dense_jacobian(aim, p, x, F32)


ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA's counts of its programs for the CPU")


@ON_CPU
@pytest.mark.parametrize(
    ("f", "params", "x"),
    [
        (mlp(30, 20, 6), shapes_of(mlp(30, 20, 6)), struct(30)),
        (mlp(6, 20, 25, 30), shapes_of(mlp(6, 20, 25, 30)), struct(6)),
        (conv, KERNELS, IMAGE),
        (plain, WEIGHTS, struct(20)),
    ],
    ids=["wide", "tall", "conv", "plain"],
)
def test_flop_of_a_jacobian_is_what_xla_counts(f, params, x):
    """XLA counts no factorization and a scan's body once: Jacobians of networks without runs. It books tanh apart."""
    program = jacobian_of(f)
    counted = jax.jit(program).lower(params, x).cost_analysis()
    want = counted["flops"] + counted.get("transcendentals", 0)
    assert work(program, params, x).flop == pytest.approx(want, rel=0.03)
    assert work(program, params, x).notes == frozenset()


def test_control_flow():
    w, x = struct(8, 8), struct(8)
    one = 2 * 8 * 8
    dot = lambda w, z: w @ z  # noqa: E731
    scan = lambda w, x: jax.lax.scan(lambda z, _: (w @ z, None), x, None, length=7)[0]  # noqa: E731
    assert work(scan, w, x).flop == 7 * one
    nested = lambda w, x: jax.lax.scan(lambda z, _: (scan(w, z), None), x, None, length=5)[0]  # noqa: E731
    assert work(nested, w, x).flop == 35 * one
    cond = lambda w, x: jax.lax.cond(x[0] > 0, lambda: w @ (w @ x), lambda: w @ x)  # noqa: E731
    assert work(cond, w, x).flop == 2 * one + 1  # and the comparison
    loop = lambda w, x: jax.lax.while_loop(lambda z: z[0] < 0, lambda z: w @ z, x)  # noqa: E731
    assert work(loop, w, x) == (one + 1, frozenset({"a while loop of unknown length is counted once"}))
    custom = jax.custom_jvp(dot)
    custom.defjvp(lambda p, t: (dot(*p), dot(p[0], t[1])))
    for wrapped in (jax.jit(dot), jax.checkpoint(dot), custom, jax.jit(jax.jit(dot))):
        assert work(wrapped, w, x).flop == one
    asked = lambda w, x: jax.pure_callback(np.tanh, x, x)  # noqa: E731
    assert work(asked, w, x) == (0, frozenset({"pure_callback is not counted"}))


def test_factorizations():
    """Golub and Van Loan: 4mn² − 4n³/3 or 2mn² + 2n³ for values, 2n²(m − n/3) for R, 2n³/3 for LU of a square one."""
    svd = lambda a: jnp.linalg.svd(a, compute_uv=False)  # noqa: E731
    assert work(svd, struct(30, 30)).flop == int(8 / 3 * 30**3)
    assert work(svd, struct(5, 100, 10)).flop == 5 * (2 * 100 * 10**2 + 2 * 10**3)
    assert work(svd, struct(5, 10, 100)).flop == 5 * (2 * 100 * 10**2 + 2 * 10**3)
    assert work(jax.lax.linalg.lu, struct(30, 30)).flop == pytest.approx(2 / 3 * 30**3, abs=1)
    factor = work(lambda a: jnp.linalg.qr(a, mode="r"), struct(40, 20)).flop
    assert int(2 * 20**2 * (40 - 20 / 3)) <= factor <= 4 * 20**2 * (40 - 20 / 3) + 40 * 20


PROGRAMS = {
    "wide": (mlp(60, 40, 12), struct(60), isometry.Dense()),
    "tall": (mlp(12, 40, 60), struct(12), isometry.Dense()),
    "runs": (mlp(*[16] * 12), struct(16), isometry.Dense()),
    "conv": (conv, IMAGE, isometry.Dense()),
    "plain": (plain, struct(20), isometry.Dense()),
    "lanczos": (plain, struct(20), isometry.Lanczos(8, 4)),
    "lanczos of runs": (mlp(*[32] * 12), struct(32), isometry.Lanczos(8, 4)),
    "product": (mlp(*[8] * 6), struct(8), isometry.Product()),
}


@ON_CPU
@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_bound_what_xla_allocates(name):
    f, x, method = PROGRAMS[name]
    params = {conv: KERNELS, plain: WEIGHTS}.get(f) or shapes_of(f)
    aim = _jacobian.target("test", f, "end_to_end")
    program = _cost._program(aim, method, F32, None, wide=False)
    memory = jax.jit(program).lower(params, x).compile().memory_analysis()
    allocated = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert 1 <= isometry.cost(f, params, x, method).bytes / allocated <= 4


def test_a_tall_jacobian_is_not_squared():
    """LAPACK is given room for U: thin, not 20000 × 20000."""
    cost = isometry.cost(lambda w, x: w @ x, struct(20000, 4), struct(4))
    assert cost.bytes < 20 * 20000 * 4 * 4


def test_what_it_returns():
    net = mlp(64, 128, 128, 10)
    params, x = net.init(jax.random.key(0)), jnp.ones(64)
    cost = isometry.cost(net, params, x)
    assert cost == isometry.cost(net, shapes_of(net), struct(64), method="dense")
    products = 2 * 10 * (128 * 128 + 128 * 64)
    assert products < cost.flop < 1.2 * (products + 2 * 64 * 10**2 + 2 * 10**3 + 2 * (64 * 128 + 128**2))
    assert repr(cost).startswith("Cost(")
    assert repr(cost).endswith("FLOP)")
    assert repr(isometry.Cost(1_234_567, 999, ("said",))) == "Cost(1.23 MB, 999 FLOP; said)"
    hidden = isometry.cost(net, params, x, span="hidden")
    assert hidden.flop > 8 / 3 * 128**3
    with jax.enable_x64(True):
        assert isometry.cost(net, params, x, dtype=jnp.float64).bytes > 1.5 * cost.bytes
    steps = [isometry.cost(plain, WEIGHTS, struct(20), isometry.Lanczos(k, 4)).flop for k in (5, 10)]
    assert steps[1] > 1.8 * steps[0]
    assert "while" in isometry.cost(net, params, x, "product").notes[0]


@pytest.mark.parametrize("widths", [(6, 30, 20), (8,) * 9])
@pytest.mark.parametrize("on_gpu", [False, True], ids=["by svd", "by eigenvalues"])
def test_a_footprint_holds_for_any_number_of_inputs(monkeypatch, widths, on_gpu):
    monkeypatch.setattr(_dense, "_on_gpu", lambda: on_gpu)
    net = mlp(*widths)
    aim, params, x = _jacobian.target("test", net, "end_to_end"), shapes_of(net), struct(widths[0])
    takes = _cost.footprint(aim, isometry.Dense(), params, x, F32)
    for count in (1, 2, 5, 60, 1000):
        xs = struct(count, *x.shape)
        held = _cost._walked(aim, isometry.Dense(), params, xs, F32, None, wide=True).bytes
        assert held <= takes.shared + count * takes.each <= 2 * held


def bottleneck(params, x):
    """Directions cost 400 numbers each, the Jacobian 36."""
    return params @ jnp.tanh(params.T @ x)


def test_directions_are_taken_as_the_budget_allows():
    params = jax.random.normal(jax.random.key(0), (2, 6, 400)) / 20
    xs = jnp.ones((1, 6))
    aim = _jacobian.target("test", bottleneck, "end_to_end")
    fit = lambda budget: _cost.fitting("test", budget, aim, isometry.Dense(), params[0], xs[0], F32)  # noqa: E731
    whole, chunk = fit(10**9)
    assert chunk is None
    with pytest.raises(
        InputError, match=r"max_bytes=100 is too small for one 6×6 Jacobian .* write at least (\d+)\."
    ) as e:
        fit(100)
    least = int(str(e.value).split()[-1][:-1])
    assert least < sum(whole) / 1.5
    takes, chunk = fit(least)
    assert chunk < 6
    assert sum(takes) == least
    for budget in range(least, sum(whole), (sum(whole) - least) // 5):
        takes, chunk = fit(budget)
        assert 1 <= chunk < 6
        assert sum(takes) <= budget
    together = isometry.ensemble(bottleneck, params=params, xs=xs)
    parts = isometry.ensemble(bottleneck, params=params, xs=xs, max_bytes=least)
    np.testing.assert_allclose(parts.values, together.values, atol=40 * 1.2e-7 * float(together.values.max()))


def test_traces_are_remembered_and_keep_nothing_alive():
    calls = []

    def make():
        weights = jnp.ones((3, 3))

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
    isometry.cost(f, None, struct(3), dtype="float32", method="lanczos")
    calls.clear()
    del f
    gc.collect()
    assert alive() is None


def test_a_bound_method_is_remembered():
    class Model:
        runs = 0

        def apply(self, params, x):
            self.runs += 1
            return params @ x

    model, w, x = Model(), jnp.eye(3), jnp.ones(3)
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
        (lambda: isometry.cost(plain, WEIGHTS, struct(3)), r"cost\(\): f\(params, x\) raised TypeError"),
        (lambda: isometry.cost(plain, WEIGHTS, struct(20), "product"), r'cost\(\): method="product" multiplies layers'),
        (lambda: isometry.cost(plain, WEIGHTS, struct(20), "dens"), r"cost\(\): method='dens' is not known"),
        (lambda: isometry.cost(plain, WEIGHTS, struct(20), span="hidden"), r"needs a Network"),
        (lambda: isometry.cost(plain, WEIGHTS, struct(20), dtype="bfloat16"), r"too coarse to measure in"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_tracers_are_refused():
    with pytest.raises(TypeError, match=r"cost\(\): x is traced; cost runs on the host"):
        jax.jit(lambda x: isometry.cost(plain, WEIGHTS, x).flop)(jnp.ones(20))
