"""Measured spectra: every statistic against a plain formula in NumPy, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, Spectrum, networks
from isometry.measure import _resolution, _spectrum

S = np.array([2.0, 1.0, 0.5, 0.25])
BATCH = np.stack(
    [S, 3 * S, S**2, np.ones(4), [1, 1e-2, 1e-3, 1e-4], [5, 4, 3, 2]]
).reshape(2, 3, 4)
HOLES = np.array(
    [1, 1e-3, 1e-9, 0], np.float32
)  # eps·4 = 4.8e-7: the third cannot be told from zero
EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
TIGHT = {"rtol": 2e-5, "atol": 1e-6}


def linear(params, x):
    return params @ x


def of(s):
    """The spectrum of diag(s), measured."""
    return isometry.spectrum(
        linear, np.diag(np.asarray(s, np.float32)), np.ones(len(s), np.float32)
    )


def batch_of(s):
    """The spectra of matrices whose singular values are known, (..., 4) of them."""
    with np.errstate(divide="ignore"):
        log_s = np.log(np.sort(s, -1)[..., ::-1]).astype(np.float32)
    floor = np.full(log_s.shape[:-1], math.log(4 * 2.0**-23), np.float32)
    data = (jnp.asarray(a) for a in (log_s, np.full_like(log_s, 0.25), floor))
    return Spectrum(*data, size=4)


def test_against_finite_differences():
    net = networks.mlp([3, 8, 8, 5], "tanh", "gaussian", 1.2, 0.3)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(
        lambda a: np.random.default_rng(a.size).standard_normal(a.shape) / 2, shapes
    )
    x, h = np.linspace(-1, 1, 3), 1e-5
    with jax.enable_x64(True):
        sp = isometry.spectrum(net, params, x)
        got = np.asarray(sp.values)
        stepped = np.concatenate([x + h * np.eye(3), x - h * np.eye(3)])
        outputs = np.asarray(
            jax.jit(jax.vmap(net.function, (None, 0)))(params, stepped)
        )
    assert got.dtype == np.float64
    want = np.linalg.svd((outputs[:3] - outputs[3:]) / (2 * h), compute_uv=False)
    np.testing.assert_allclose(
        got, want, rtol=0, atol=1e-8
    )  # Weyl: the error of the differences
    assert (sp.size, sp.structural_zeros, sp.span, sp.pairs) == (
        3,
        2,
        "end_to_end",
        None,
    )
    assert sp.method == isometry.Dense()


def test_hidden_span_knows_its_pairs():
    net = networks.mlp([4, 4, 4, 4, 4], "linear", "orthogonal", 2.0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    twice = 2 * np.eye(4, dtype=np.float32)[::-1]
    params = jax.tree.map(
        lambda a: np.broadcast_to(
            twice if a.ndim == 3 else np.zeros_like(twice[0]), a.shape
        ),
        shapes,
    )
    sp = isometry.spectrum(net, params, np.ones(4, np.float32), span="hidden")
    assert (sp.span, sp.pairs, sp.size, sp.structural_zeros) == ("hidden", 2, 4, 0)
    np.testing.assert_allclose(sp.log_values, 2 * math.log(2), rtol=1e-6)


def entropy_rank(s):
    p = s / s.sum(-1, keepdims=True)
    return np.exp(-(p * np.log(p)).sum(-1))


FORMULAS = {
    "mean lam": (lambda sp: sp.moment(), lambda s: (s**2).mean(-1)),
    "moment 3 of lam": (lambda sp: sp.moment(3), lambda s: (s**6).mean(-1)),
    "moment 1.5 of s": (lambda sp: sp.moment(1.5, "s"), lambda s: (s**1.5).mean(-1)),
    "moment 2 of log_s": (
        lambda sp: sp.moment(2, "log_s"),
        lambda s: (np.log(s) ** 2).mean(-1),
    ),
    "condition number": (
        lambda sp: sp.condition_number(),
        lambda s: s.max(-1) / s.min(-1),
    ),
    "effective rank": (lambda sp: sp.effective_rank(), entropy_rank),
    "stable rank": (
        lambda sp: sp.stable_rank(),
        lambda s: (s**2).sum(-1) / s.max(-1) ** 2,
    ),
    "isometry deviation": (
        lambda sp: sp.isometry_deviation(),
        lambda s: np.sqrt(((s - 1) ** 2).mean(-1)),
    ),
    "log spread": (lambda sp: sp.log_spread(), lambda s: np.log(s).var(-1)),
    "zero fraction": (lambda sp: sp.zero_fraction(), lambda s: np.zeros(s.shape[:-1])),
}


all_formulas = jax.jit(
    lambda sp: {name: measured(sp) for name, (measured, _) in FORMULAS.items()}
)


@pytest.fixture(scope="module")
def by_formula():
    return all_formulas(of(S)), all_formulas(batch_of(BATCH))


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(by_formula, name):
    one, batch = (values[name] for values in by_formula)
    formula = FORMULAS[name][1]
    np.testing.assert_allclose(one, formula(S), **TIGHT)
    assert batch.shape == (2, 3)
    np.testing.assert_allclose(batch, formula(BATCH), **TIGHT)


GRID = np.array([-8.0, 0.1, 0.6, 1.6, 3.3, 40.0, 700.0])
SHARES = np.array([0.0, 0.1, 0.25, 0.5, 0.6, 1.0])


@pytest.fixture(scope="module")
def distributions():
    @jax.jit
    def found(sp):
        return {
            v: (
                sp.cdf(GRID, v),
                sp.quantile(SHARES, v),
                sp.quantile(0.5, v),
                sp.density(GRID, 0.3, v),
            )
            for v in ("lam", "s", "log_s")
        }

    return found(batch_of(BATCH))


@pytest.mark.parametrize(
    ("variable", "map_"), [("lam", np.square), ("s", np.abs), ("log_s", np.log)]
)
def test_cdf_quantile_density(distributions, variable, map_):
    got, quantiles, median, density = distributions[variable]
    nodes = map_(BATCH)
    want = (nodes[..., None, :] <= GRID[:, None]).mean(-1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (np.diff(got, axis=-1) >= 0).all()
    np.testing.assert_allclose(got[..., -1], 1, atol=1e-6)
    ascending = np.sort(nodes, -1)
    want = ascending[..., np.maximum(np.ceil(SHARES * 4).astype(int) - 1, 0)]
    np.testing.assert_allclose(quantiles, want, **TIGHT)
    np.testing.assert_allclose(median, ascending[..., 1], **TIGHT)
    bandwidth = 0.3
    z = (GRID[:, None] - nodes[..., None, :]) / bandwidth
    want = (np.exp(-(z**2) / 2) / bandwidth / math.sqrt(2 * math.pi)).mean(-1)
    # A node and a point are rounded, and so is z²/2: by eps z² of the kernel at most.
    largest = np.maximum(np.abs(nodes[..., None, :]), np.abs(GRID[:, None]))
    kernels = np.exp(-(z**2) / 2) / bandwidth / math.sqrt(2 * math.pi)
    errors = kernels * (np.abs(z) * largest / bandwidth + z**2 + 1)
    assert (np.abs(density - want) <= 4 * EPS * errors.mean(-1) + TINY).all()


def test_quantile_inverts_cdf():
    sp = batch_of(np.array([3.0, 2.0, 1.0, 0.5]))
    nodes = np.asarray(sp.log_values)[::-1]
    shares = np.asarray(sp.cdf(nodes, "log_s"))
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1], atol=1e-6)
    np.testing.assert_array_equal(sp.quantile(shares, "log_s"), nodes)
    np.testing.assert_array_equal(sp.quantile([0.25, 0.5, 0.75, 1], "log_s"), nodes)


def test_quantiles_of_many_nodes():
    """Rounding of cumulated weights is allowed for, but no node is skipped for it."""
    logs = -np.arange(25600, dtype=np.float32)
    sp = Spectrum(
        jnp.asarray(logs),
        jnp.full(len(logs), 1 / len(logs)),
        jnp.asarray(-jnp.inf),
        size=len(logs),
    )
    p = np.array([0.01, 0.1, 0.5, 0.99])
    want = np.quantile(logs, p, method="inverted_cdf")
    # a float32 p, and sums of so many weights, are right to a node
    np.testing.assert_allclose(sp.quantile(p, "log_s"), want, atol=1)


def test_zeros_and_what_cannot_be_told_from_them():
    sp = of(HOLES)
    np.testing.assert_array_equal(sp.resolved, [True, True, False, False])
    assert sp.zero_fraction() == 0.5
    assert sp.zero_fraction(exact=True) == 0.25
    assert sp.condition_number() == math.inf
    assert sp.condition_number(nonzero=True) == pytest.approx(1e3, rel=1e-5)
    logs = np.log([1, 1e-3])
    assert sp.log_spread() == pytest.approx(logs.var(), rel=1e-5)
    assert sp.moment(1, "log_s") == pytest.approx(logs.mean(), rel=1e-5)
    assert sp.moment(1, "s") == pytest.approx((1 + 1e-3) / 4, rel=1e-5)
    np.testing.assert_allclose(sp.cdf([-1.0, 0.0, 2.0]), [0, 0.5, 1])
    np.testing.assert_array_equal(sp.quantile([0.25, 0.5]), [0, 0])
    np.testing.assert_array_equal(sp.quantile([0.25, 0.5], "log_s"), [-math.inf] * 2)
    grid = np.linspace(-12, 5, 1701)
    np.testing.assert_allclose(
        # The rule is exact for Gaussians of 50 steps; its terms are rounded.
        np.trapezoid(sp.density(grid, 0.5, "log_s"), grid),
        0.5,
        rtol=16 * EPS,
    )
    assert sp.density([math.log(1e-9)], 0.5, "log_s")[0] < 1e-6


@pytest.mark.filterwarnings("ignore::isometry._internal.errors.ZeroJacobianWarning")
def test_zero_matrix_gives_no_nan():
    sp = of(np.zeros(4))
    assert np.isneginf(np.asarray(sp.log_values)).all()
    assert sp.zero_fraction() == sp.zero_fraction(exact=True) == 1
    assert sp.condition_number() == sp.condition_number(nonzero=True) == math.inf
    assert sp.effective_rank() == sp.stable_rank() == sp.log_spread() == 0
    assert sp.moment() == sp.moment(2, "s") == sp.moment(1, "log_s") == 0
    assert sp.isometry_deviation() == 1
    np.testing.assert_array_equal(sp.cdf([-1.0, 0.0, 1.0]), [0, 1, 1])
    assert sp.quantile(0.5) == 0
    for variable in ("lam", "s", "log_s"):
        assert np.isfinite(np.asarray(sp.density([0.0, 1.0], 0.3, variable))).all()
    pooled = sp.pooled()
    assert not np.isnan(np.asarray(pooled.log_values)).any()
    assert not np.isnan(np.asarray(pooled.log_floor)).any()


def test_scales_beyond_float32():
    """s² of 1e30 overflows; every statistic that has a finite value keeps it."""
    for scale in (1e30, 1e-30):
        sp = batch_of(S * scale)
        logs = np.log(S) + math.log(scale)
        np.testing.assert_allclose(sp.moment(1, "log_s"), logs.mean(), rtol=1e-6)
        # Logarithms of 69 are rounded by half of this.
        rounding = {"rtol": 2 * 69 * EPS}
        np.testing.assert_allclose(sp.log_spread(), logs.var(), **rounding)
        np.testing.assert_allclose(sp.stable_rank(), (S**2).sum() / 4, **rounding)
        np.testing.assert_allclose(sp.effective_rank(), entropy_rank(S), **rounding)
        np.testing.assert_allclose(sp.condition_number(), 8, **rounding)
        assert sp.zero_fraction() == 0


def test_pooled():
    pooled = batch_of(BATCH).pooled()
    nodes = np.sort(BATCH.ravel())[::-1]
    np.testing.assert_allclose(pooled.values, nodes, **TIGHT)
    assert float(pooled.weights.sum()) == pytest.approx(1, abs=1e-6)
    assert pooled.moment() == pytest.approx((nodes**2).mean(), rel=1e-5)
    assert pooled.size == 4
    assert pooled.zero_fraction() == pytest.approx(0, abs=1e-6)
    holes = batch_of(np.stack([HOLES, HOLES]).reshape(1, 2, 4)).pooled()
    assert holes.zero_fraction() == pytest.approx(0.5)


@pytest.mark.parametrize("statistic", ["stable_rank", lambda sp: sp.stable_rank()])
def test_standard_error(statistic):
    s = np.concatenate([BATCH, BATCH[::-1] + 0.1, 1 + BATCH**2])
    per_seed = ((s**2).sum(-1) / s.max(-1) ** 2).mean(1)
    want = per_seed.std(ddof=1) / math.sqrt(len(per_seed))
    # A standard error of three numbers around 2 that differ by some tenths.
    assert batch_of(s).standard_error(statistic) == pytest.approx(want, rel=100 * EPS)


def test_standard_errors_of_several_numbers_a_matrix():
    p = [0.1, 0.9]
    sp = batch_of(BATCH)
    found = sp.standard_error(lambda sp: sp.quantile(p))
    np.testing.assert_allclose(
        found, [sp.standard_error(lambda sp, p=p: sp.quantile(p)) for p in p], rtol=1e-6
    )
    with pytest.raises(
        ValueError, match=r"has a value for each of the \(2, 3\) matrices"
    ):
        sp.standard_error(lambda sp: sp.pooled().stable_rank())


def test_a_power_of_numpys_own_float64_changes_no_dtype():
    """Under strict promotion, with 64-bit mode on."""
    sp = of(S)
    with jax.enable_x64(True):
        assert sp.moment(np.float64(2.0)).dtype == sp.log_values.dtype == jnp.float32
        assert float(sp.moment(np.float64(2.0))) == float(sp.moment(2))


def test_gradients_of_log_spread_and_moment():
    """Against central differences in float64, at isometry, equal values and zeros."""

    @jax.jit
    @jax.vmap
    def derivatives(matrix):
        def both(m):
            sp = isometry.spectrum(linear, m, np.ones(4))
            values = jnp.stack([sp.log_spread(), sp.moment(2)])
            return values, values

        jacobian, values = jax.jacrev(both, has_aux=True)(matrix)
        return values, jacobian

    a, h = np.random.default_rng(0).standard_normal((4, 4)), 1e-6
    steps = h * np.eye(16).reshape(16, 4, 4)
    special = np.stack([np.eye(4), np.zeros((4, 4)), np.diag([1.0, 1, 0, 0])])
    with jax.enable_x64(True):
        values, gradients = jax.device_get(
            derivatives(np.concatenate([a[None], a + steps, a - steps, special]))
        )
    differences = ((values[1:17] - values[17:33]) / (2 * h)).T.reshape(2, 4, 4)
    np.testing.assert_allclose(gradients[0], differences, rtol=1e-6, atol=1e-7)
    assert (values[33:, 0] == 0).all()
    assert np.isfinite(gradients[33:, 0]).all()


def test_traced():
    matrices = np.random.default_rng(1).standard_normal((3, 4, 4)).astype(np.float32)
    texts = []

    def one(m):
        sp = isometry.spectrum(linear, m, jnp.ones(4))
        texts.append(repr(sp))
        return sp

    together = jax.jit(jax.vmap(one))(matrices)
    assert texts[0].startswith("Spectrum(4 singular values, span='end_to_end'")
    assert (
        repr(together)
        == "Spectrum((3,) matrices, 4 singular values, span='end_to_end', "
        "method=Dense(), float32)"
    )
    for i in range(3):
        want = np.linalg.svd(np.asarray(matrices[i], np.float64), compute_uv=False)
        np.testing.assert_allclose(
            together.values[i], want, rtol=0, atol=16 * 1.2e-7 * want[0]
        )


def test_pytree_round_trip():
    sp = of(S)
    leaves, tree = jax.tree.flatten(sp)
    assert len(leaves) == 3
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, Spectrum)
    assert (
        again.size,
        again.structural_zeros,
        again.method,
        again.span,
        again.pairs,
    ) == (
        4,
        0,
        sp.method,
        sp.span,
        None,
    )
    np.testing.assert_array_equal(again.log_values, sp.log_values)
    assert hash(tree) == hash(jax.tree.structure(of(2 * S)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: of(S).moment(1, "sigma"),
            r"moment\(\): variable='sigma' is not known\. Known: lam, s, log_s",
        ),
        (
            lambda: of(S).moment(0),
            r"moment\(\): k=0 is not a finite number in \(0, inf\)",
        ),
        (
            lambda: of(S).moment(1.5, "log_s"),
            r"moment\(\): k=1\.5 is not whole; of log_s write k=1, 2, \.\.\.",
        ),
        (lambda: of(S).cdf([1.0], "x"), r"cdf\(\): variable='x'"),
        (
            lambda: of(S).cdf([1.0, np.nan]),
            r"cdf\(\): grid holds 1 values that are NaN\.",
        ),
        (
            lambda: of(S).cdf([[1.0]]),
            r"cdf\(\): grid has shape \(1, 1\); write one axis, \(n,\), or a number\.",
        ),
        (lambda: of(S).cdf("a"), r"cdf\(\): grid='a' is not made of real numbers\."),
        (lambda: of(S).quantile(0.5, "x"), r"quantile\(\): variable='x'"),
        (
            lambda: of(S).quantile(1.5),
            r"quantile\(\): p=1\.5 is not a finite number in \[0, 1\]",
        ),
        (lambda: of(S).quantile([0.5, -0.1]), r"quantile\(\): p=-0\.1"),
        (lambda: of(S).density([1.0], 0.0), r"density\(\): bandwidth=0\.0"),
        (lambda: of(S).density([1.0], 0.1, "x"), r"density\(\): variable='x'"),
        (
            lambda: of(S).standard_error("stable_rank"),
            r"standard_error\(\): a spectrum of shape \(4,\) has no two seeds",
        ),
        (
            lambda: batch_of(BATCH[:1]).standard_error("stable_rank"),
            r"of shape \(1, 3, 4\) has no two seeds",
        ),
        (
            lambda: batch_of(BATCH).standard_error("rank"),
            r"statistic='rank' is not a method of Spectrum",
        ),
        (
            lambda: isometry.spectrum(linear, jnp.eye(4), jnp.ones(4), method="dens"),
            r"method='dens' .*'dense'",
        ),
        (
            lambda: isometry.spectrum(
                linear, jnp.eye(4), jnp.ones(4), method="lanczos"
            ),
            r"spectrum\(\): Lanczos\(.*\) draws random probes; "
            r"write key=jax\.random\.key\(0\)\.",
        ),
        (
            lambda: isometry.spectrum(linear, jnp.eye(4) * jnp.nan, jnp.ones(4)),
            r"spectrum\(\): the Jacobian is not finite",
        ),
        (
            lambda: isometry.spectrum(3, None, jnp.ones(4)),
            r"spectrum\(\): f=3 is not callable",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_statistic_that_needs_arguments_is_refused():
    sp = batch_of(BATCH)
    with pytest.raises(
        InputError,
        match=r"statistic='cdf' takes more than the spectrum \(missing .*grid.*\); "
        r"write lambda",
    ):
        sp.standard_error("cdf")


@pytest.mark.parametrize("method", ["dense", "lanczos"])
def test_nothing_is_said_of_a_traced_jacobian_that_is_not_finite(method):
    """Of two matrices one holds a NaN: its statistics are NaN, not those of zeros.

    Statistics of nodes do not depend on the method that found them.
    """
    said = {"s_max": lambda sp: sp.values[0]}
    of_nodes = {
        **{
            name: getattr(Spectrum, name)
            for name in ("log_spread", "effective_rank", "stable_rank", "zero_fraction")
        },
        **{
            name: getattr(Spectrum, name)
            for name in ("condition_number", "isometry_deviation")
        },
        "mean": lambda sp: sp.moment(1),
        "sum of a user's own": lambda sp: jnp.exp(sp.log_values).sum(),
        "mean log": lambda sp: sp.moment(1, "log_s"),
        "cdf": lambda sp: sp.cdf([0.5])[0],
        "quantile": lambda sp: sp.quantile(0.5),
        "density": lambda sp: sp.density([0.0], 0.1, "log_s")[0],
        "exact": lambda sp: sp.zero_fraction(exact=True),
    }

    if method == "dense":
        said |= of_nodes

    @jax.jit
    def of(w):
        how = (
            {"method": isometry.Lanczos(3, 2), "key": jax.random.key(0)}
            if method == "lanczos"
            else {}
        )
        sp = isometry.spectrum(lambda w, x: w @ x, w, jnp.ones(3), **how)
        return {name: statistic(sp) for name, statistic in said.items()}

    bad = of(jnp.eye(3).at[1, 2].set(jnp.nan))
    assert {name for name, value in bad.items() if not np.isnan(value)} == set()
    assert {
        name for name, value in of(2 * jnp.eye(3)).items() if np.isnan(value)
    } == set()


def test_equal_weights_are_no_output_of_a_program():
    """A constant output is a kernel, which takes 10 ms to compile."""
    matrix, x = jnp.diag(jnp.array([3.0, 2.0, 1.0])), jnp.ones(3)
    target = _resolution.resolve(jnp.dot, matrix, x, span="end_to_end", dtype=None)
    traced = _spectrum._measured.trace(isometry.Dense(), target, matrix, x, None)
    log_values, log_floor = traced.out_info.log_values, traced.out_info.log_floor
    assert jax.tree.leaves(traced.out_info) == [log_values, log_floor]


@pytest.mark.parametrize("transform", [lambda call: call, jax.jit])
def test_weights_are_equal_and_sum_to_one(transform):
    measure = transform(lambda x: isometry.spectrum(jnp.multiply, x, x).weights)
    assert np.array_equal(measure(jnp.arange(1.0, 5.0)), np.full(4, 0.25))
