"""Measured spectra: every statistic against a plain formula in NumPy, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, Spectrum, networks

S = np.array([2.0, 1.0, 0.5, 0.25])
BATCH = np.stack([S, 3 * S, S**2, np.ones(4), [1, 1e-2, 1e-3, 1e-4], [5, 4, 3, 2]]).reshape(2, 3, 4)
HOLES = np.array([1, 1e-3, 1e-9, 0], np.float32)  # eps·4 = 4.8e-7: the third cannot be told from zero
TIGHT = {"rtol": 2e-5, "atol": 1e-6}


def linear(params, x):
    return params @ x


def of(s):
    """The spectrum of diag(s)."""
    return isometry.spectrum(linear, jnp.diag(jnp.asarray(s, jnp.float32)), jnp.ones(len(s)))


def batch_of(s):
    diagonals = jnp.asarray(s, jnp.float32)
    one = lambda d: isometry.spectrum(linear, jnp.diag(d), jnp.ones(4))  # noqa: E731
    return jax.vmap(jax.vmap(one))(diagonals)


@pytest.mark.parametrize("widths", [[5, 8, 8, 3], [3, 8, 8, 5]])
def test_against_finite_differences(widths):
    net = networks.mlp(widths, "tanh", "gaussian", 1.2, 0.3)
    params = net.init(jax.random.key(0))
    x = np.linspace(-1, 1, widths[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        sp = isometry.spectrum(net, wide, jnp.asarray(x))
        h, columns = 1e-5, []
        for step in np.eye(widths[0]) * h:
            columns.append((np.asarray(net(wide, x + step)) - np.asarray(net(wide, x - step))) / (2 * h))
        got = np.asarray(sp.values)
        assert got.dtype == np.float64
    want = np.linalg.svd(np.stack(columns, 1), compute_uv=False)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)  # Weyl: the error of the differences
    assert (sp.size, sp.structural_zeros, sp.span, sp.pairs) == (3, 2, "end_to_end", None)
    assert sp.method == isometry.Dense()


def test_hidden_span_knows_its_pairs():
    net = networks.mlp([4, 4, 4, 4, 4], "linear", "orthogonal", 2.0)
    sp = isometry.spectrum(net, net.init(jax.random.key(0)), jnp.ones(4), span="hidden")
    assert (sp.span, sp.pairs, sp.size, sp.structural_zeros) == ("hidden", 2, 4, 0)
    np.testing.assert_allclose(sp.log_values, 2 * math.log(2), rtol=1e-6)


def entropy_rank(s):
    p = s / s.sum(-1, keepdims=True)
    return np.exp(-(p * np.log(p)).sum(-1))


FORMULAS = {
    "mean lam": (lambda sp: sp.moment(), lambda s: (s**2).mean(-1)),
    "moment 3 of lam": (lambda sp: sp.moment(3), lambda s: (s**6).mean(-1)),
    "moment 1.5 of s": (lambda sp: sp.moment(1.5, "s"), lambda s: (s**1.5).mean(-1)),
    "moment 2 of log_s": (lambda sp: sp.moment(2, "log_s"), lambda s: (np.log(s) ** 2).mean(-1)),
    "condition number": (lambda sp: sp.condition_number(), lambda s: s.max(-1) / s.min(-1)),
    "effective rank": (lambda sp: sp.effective_rank(), entropy_rank),
    "stable rank": (lambda sp: sp.stable_rank(), lambda s: (s**2).sum(-1) / s.max(-1) ** 2),
    "isometry deviation": (lambda sp: sp.isometry_deviation(), lambda s: np.sqrt(((s - 1) ** 2).mean(-1))),
    "log spread": (lambda sp: sp.log_spread(), lambda s: np.log(s).var(-1)),
    "zero fraction": (lambda sp: sp.zero_fraction(), lambda s: np.zeros(s.shape[:-1])),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    measured, formula = FORMULAS[name]
    np.testing.assert_allclose(measured(of(S)), formula(S), **TIGHT)
    got = measured(batch_of(BATCH))
    assert got.shape == (2, 3)
    # at s = 1e-4 beside 1 float32 knows s to 4·eps/1e-4 = 5e-3 in general; of a diagonal matrix to a few eps
    np.testing.assert_allclose(got, formula(BATCH), **TIGHT)


@pytest.mark.parametrize(("variable", "map_"), [("lam", np.square), ("s", np.abs), ("log_s", np.log)])
def test_cdf_quantile_density(variable, map_):
    grid = np.array([-8.0, 0.1, 0.6, 1.6, 3.3, 40.0, 700.0])
    sp, nodes = batch_of(BATCH), map_(BATCH)
    want = (nodes[..., None, :] <= grid[:, None]).mean(-1)
    got = sp.cdf(grid, variable)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (np.diff(got, axis=-1) >= 0).all()
    np.testing.assert_allclose(got[..., -1], 1, atol=1e-6)
    p = np.array([0.0, 0.1, 0.25, 0.5, 0.6, 1.0])
    ascending = np.sort(nodes, -1)
    want = ascending[..., np.maximum(np.ceil(p * 4).astype(int) - 1, 0)]
    np.testing.assert_allclose(sp.quantile(p, variable), want, **TIGHT)
    np.testing.assert_allclose(sp.quantile(0.5, variable), ascending[..., 1], **TIGHT)
    bandwidth = 0.3
    z = (grid[:, None] - nodes[..., None, :]) / bandwidth
    want = (np.exp(-(z**2) / 2) / bandwidth / math.sqrt(2 * math.pi)).mean(-1)
    np.testing.assert_allclose(sp.density(grid, bandwidth, variable), want, rtol=1e-3, atol=1e-5)


def test_quantile_inverts_cdf():
    sp = of([3.0, 2.0, 1.0, 0.5])
    for k, node in enumerate(np.asarray(sp.log_values)[::-1]):
        assert sp.quantile((k + 1) / 4, "log_s") == node
        assert sp.cdf(node, "log_s")[0] == pytest.approx((k + 1) / 4, abs=1e-6)
        assert sp.quantile(sp.cdf(node, "log_s")[0], "log_s") == node


def test_quantiles_of_many_nodes():
    """Rounding of the cumulated weights is allowed for, but no node is skipped for it."""
    logs = -np.arange(25600, dtype=np.float32)
    sp = Spectrum(jnp.asarray(logs), jnp.full(len(logs), 1 / len(logs)), jnp.asarray(-jnp.inf), size=len(logs))
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
    np.testing.assert_allclose(sp.cdf([-1.0, 0.0, 2.0]), [0, 0.25, 1])
    assert sp.quantile(0.25) == 0
    assert sp.quantile(0.25, "log_s") == -math.inf
    grid = np.linspace(-12, 5, 1701)
    np.testing.assert_allclose(np.trapezoid(sp.density(grid, 0.5, "log_s"), grid), 0.5, rtol=1e-4)
    assert sp.density([math.log(1e-9)], 0.5, "log_s")[0] < 1e-6


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
        sp = of(S * scale)
        logs = np.log(S) + math.log(scale)
        np.testing.assert_allclose(sp.moment(1, "log_s"), logs.mean(), rtol=1e-6)
        np.testing.assert_allclose(sp.log_spread(), logs.var(), rtol=1e-3)
        np.testing.assert_allclose(sp.stable_rank(), (S**2).sum() / 4, rtol=1e-4)
        np.testing.assert_allclose(sp.effective_rank(), entropy_rank(S), rtol=1e-4)
        np.testing.assert_allclose(sp.condition_number(), 8, rtol=1e-4)
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
    assert batch_of(s).standard_error(statistic) == pytest.approx(want, rel=1e-4)


def test_standard_errors_of_several_numbers_a_matrix():
    p = [0.1, 0.9]
    sp = batch_of(BATCH)
    found = sp.standard_error(lambda sp: sp.quantile(p))
    np.testing.assert_allclose(found, [sp.standard_error(lambda sp, p=p: sp.quantile(p)) for p in p], rtol=1e-6)
    with pytest.raises(ValueError, match=r"has a value for each of the \(2, 3\) matrices"):
        sp.standard_error(lambda sp: sp.pooled().stable_rank())


def test_a_power_of_numpys_own_float64_changes_no_dtype():
    """Under strict promotion, with 64-bit mode on."""
    sp = of(S)
    with jax.enable_x64(True):
        assert sp.moment(np.float64(2.0)).dtype == sp.log_values.dtype == jnp.float32
        assert float(sp.moment(np.float64(2.0))) == float(sp.moment(2))


def test_gradients_of_log_spread_and_moment():
    """Against central differences in float64; finite at isometry, at equal values and at zeros."""
    with jax.enable_x64(True):
        a = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
        x = jnp.ones(4)
        for statistic in (lambda sp: sp.log_spread(), lambda sp: sp.moment(2)):
            g = jax.jit(lambda m, st=statistic: st(isometry.spectrum(linear, m, x)))
            gradient = np.asarray(jax.grad(g)(a))
            h = 1e-6
            for i, j in ((0, 0), (1, 3), (3, 2)):
                step = jnp.zeros((4, 4)).at[i, j].set(h)
                difference = float(g(a + step) - g(a - step)) / (2 * h)
                assert gradient[i, j] == pytest.approx(difference, rel=1e-6, abs=1e-7)
        spread = jax.value_and_grad(lambda m: isometry.spectrum(linear, m, x).log_spread())
        for matrix in (jnp.eye(4), jnp.zeros((4, 4)), jnp.diag(jnp.asarray([1.0, 1, 0, 0]))):
            value, gradient = spread(matrix)
            assert value == 0
            assert np.isfinite(np.asarray(gradient)).all()


def test_traced():
    matrices = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4, 4)), jnp.float32)
    texts = []

    def one(m):
        sp = isometry.spectrum(linear, m, jnp.ones(4))
        texts.append(repr(sp))
        return sp

    together = jax.jit(jax.vmap(one))(matrices)
    assert texts[0].startswith("Spectrum(4 singular values, span='end_to_end'")
    assert repr(together) == "Spectrum((3,) matrices, 4 singular values, span='end_to_end', method=Dense(), float32)"
    for i in range(3):
        want = np.linalg.svd(np.asarray(matrices[i], np.float64), compute_uv=False)
        np.testing.assert_allclose(together.values[i], want, rtol=0, atol=16 * 1.2e-7 * want[0])


def test_pytree_round_trip():
    sp = of(S)
    leaves, tree = jax.tree.flatten(sp)
    assert len(leaves) == 3
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, Spectrum)
    assert (again.size, again.structural_zeros, again.method, again.span, again.pairs) == (
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
        (lambda: of(S).moment(1, "sigma"), r"moment\(\): variable='sigma' is not known\. Known: lam, s, log_s"),
        (lambda: of(S).moment(0), r"moment\(\): k=0 is not a finite number in \(0, inf\)"),
        (lambda: of(S).moment(1.5, "log_s"), r"moment\(\): k=1\.5 is not whole; of log_s write k=1, 2, \.\.\."),
        (lambda: of(S).cdf([1.0], "x"), r"cdf\(\): variable='x'"),
        (lambda: of(S).cdf([1.0, np.nan]), r"cdf\(\): grid holds 1 values that are NaN\."),
        (lambda: of(S).cdf([[1.0]]), r"cdf\(\): grid has shape \(1, 1\); write one axis, \(n,\), or a number\."),
        (lambda: of(S).cdf("a"), r"cdf\(\): grid='a' is not made of real numbers\."),
        (lambda: of(S).quantile(0.5, "x"), r"quantile\(\): variable='x'"),
        (lambda: of(S).quantile(1.5), r"quantile\(\): p=1\.5 is not a finite number in \[0, 1\]"),
        (lambda: of(S).quantile([0.5, -0.1]), r"quantile\(\): p=-0\.1"),
        (lambda: of(S).density([1.0], 0.0), r"density\(\): bandwidth=0\.0"),
        (lambda: of(S).density([1.0], 0.1, "x"), r"density\(\): variable='x'"),
        (
            lambda: of(S).standard_error("stable_rank"),
            r"standard_error\(\): a spectrum of shape \(4,\) has no two seeds",
        ),
        (lambda: batch_of(BATCH[:1]).standard_error("stable_rank"), r"of shape \(1, 3, 4\) has no two seeds"),
        (lambda: batch_of(BATCH).standard_error("rank"), r"statistic='rank' is not a method of Spectrum"),
        (lambda: isometry.spectrum(linear, jnp.eye(4), jnp.ones(4), method="dens"), r"method='dens' .*'dense'"),
        (
            lambda: isometry.spectrum(linear, jnp.eye(4), jnp.ones(4), method="lanczos"),
            r"spectrum\(\): Lanczos\(.*\) draws random probes; write key=jax\.random\.key\(0\)\.",
        ),
        (lambda: isometry.spectrum(linear, jnp.eye(4) * jnp.nan, jnp.ones(4)), r"spectrum\(\): the Jacobian holds 16"),
        (lambda: isometry.spectrum(3, None, jnp.ones(4)), r"spectrum\(\): f=3 is not callable"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_statistic_that_needs_arguments_is_refused():
    sp = isometry.ensemble(networks.mlp([4, 4]), jax.random.split(jax.random.key(0), 3), jnp.ones((1, 4)))
    with pytest.raises(
        InputError, match=r"statistic='cdf' takes more than the spectrum \(missing .*grid.*\); write lambda"
    ):
        sp.standard_error("cdf")


@pytest.mark.parametrize("method", ["dense", "lanczos"])
def test_nothing_is_said_of_a_traced_jacobian_that_is_not_finite(method):
    """Of two matrices one holds a NaN: its statistics are NaN, none is that of a perfect isometry or of zeros."""
    said = {
        **{name: getattr(Spectrum, name) for name in ("log_spread", "effective_rank", "stable_rank", "zero_fraction")},
        **{name: getattr(Spectrum, name) for name in ("condition_number", "isometry_deviation")},
        "mean": lambda sp: sp.moment(1),
        "mean log": lambda sp: sp.moment(1, "log_s"),
        "cdf": lambda sp: sp.cdf([0.5])[0],
        "quantile": lambda sp: sp.quantile(0.5),
        "density": lambda sp: sp.density([0.0], 0.1, "log_s")[0],
        "exact": lambda sp: sp.zero_fraction(exact=True),
    }

    @jax.jit
    def of(w):
        how = {"method": isometry.Lanczos(3, 2), "key": jax.random.key(0)} if method == "lanczos" else {}
        sp = isometry.spectrum(lambda w, x: w @ x, w, jnp.ones(3), **how)
        return {name: statistic(sp) for name, statistic in said.items()}

    bad = of(jnp.eye(3).at[1, 2].set(jnp.nan))
    assert {name for name, value in bad.items() if not np.isnan(value)} == set()
    assert {name for name, value in of(2 * jnp.eye(3)).items() if np.isnan(value)} == set()
