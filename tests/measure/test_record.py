"""What a spectrum knows, what it does not, and what comes from elsewhere."""

import functools
import math
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, Lanczos, Spectrum
from isometry.measure import _reasons
from tests.measure import transformer
from tests.verdicts import measuring

KEY = jax.random.key(0)
SIZE = 96

# Some values dominate, as in networks, and some are zero.
VALUES = np.r_[6.0, 4.0, 3.0, np.geomspace(2.0, 1e-3, SIZE - 8), np.zeros(5)]


def rotation(size, seed):
    gaussian = np.random.default_rng(seed).standard_normal((size, size))
    return np.linalg.qr(gaussian)[0]


MATRIX = rotation(SIZE, 1) * VALUES @ rotation(SIZE, 2)


def linear(params, x):
    return params @ x


@functools.cache
def measured(method):
    matrix = jnp.asarray(MATRIX, jnp.float32)
    return isometry.spectrum(linear, matrix, jnp.ones(SIZE), method=method, key=KEY)


NODES = Lanczos(steps=24, probes=16)


@pytest.fixture(scope="module")
def of_200_keys():
    """The spectra of 200 keys and the ends of all their intervals, from one program."""
    matrix = jnp.asarray(MATRIX, jnp.float32)

    def one(key):
        sp = isometry.spectrum(linear, matrix, jnp.ones(SIZE), method=NODES, key=key)
        return sp, {name: interval(sp, name) for name in INTERVALS}

    # Ten keys at a time are faster than one, and than all: their bases fit in a cache.
    keys = jax.random.split(KEY, 200)
    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=10))(keys)


@pytest.fixture(scope="module")
def nodes(of_200_keys):
    """The spectrum of the first key."""
    spectra, _ = of_200_keys
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[0]), spectra)


@jax.jit
def all_statistics(sp):
    return {
        "zero_fraction": sp.zero_fraction(),
        "condition_number": sp.condition_number(nonzero=True),
        "effective_rank": sp.effective_rank(),
        "stable_rank": sp.stable_rank(),
        "isometry_deviation": sp.isometry_deviation(),
        "log_spread": sp.log_spread(),
        "moment": sp.moment(1),
        "s_max": sp.quantile(1.0, "s"),
        "cdf": sp.cdf([1.0])[0],
        "density": sp.density([1.0], 0.1)[0],
        "quantile": sp.quantile(0.5),
    }


def test_what_nodes_do_not_tell_is_nan_with_a_reason(nodes):
    """Of nodes as of values the condition number would be finite, and is infinite."""
    for name, value in all_statistics(nodes).items():
        reason = nodes.why(name)
        assert (reason is None) == bool(np.isfinite(value)), name
        if reason is not None:
            assert "Lanczos(steps=24" in reason
            assert "not singular values" in reason
            assert "; write " in reason
    assert math.isnan(nodes.moment(1, "log_s"))
    assert "ln s" in nodes.why("moment", "log_s")
    np.testing.assert_array_equal(np.isnan(nodes.quantile([0.2, 1.0])), [True, False])
    assert nodes.quantile(1.0, "s") == pytest.approx(6, rel=1e-6)


def test_nodes_have_mass_one_and_the_moments_of_the_values(nodes):
    assert float(nodes.weights.sum()) == pytest.approx(1, abs=1e-5)
    # Sixteen probes of an interval of 95 %, and twice as far.
    low, high = nodes.interval("moment")
    assert nodes.moment() == pytest.approx(np.mean(VALUES**2), abs=float(high - low))


def test_known_values_have_no_reason():
    sp = measured("dense")
    for name in _reasons.STATISTICS:
        assert sp.why(name) is None


def test_matrices_that_are_not_finite_are_the_reason():
    """Two of three, measured under a trace, where nothing is refused."""
    matrices = np.stack([np.eye(3), np.full((3, 3), np.nan), np.full((3, 3), np.inf)])
    sp = jax.jit(Spectrum.of_jacobians)(matrices.astype(np.float32))
    assert sp.why("stable_rank") == "2 of 3 Jacobians are not finite."
    np.testing.assert_array_equal(np.isnan(sp.stable_rank()), [False, True, True])


def test_all_steps_find_all_values():
    """Zeros and a repeated value included; the tolerance is Weyl's, of the floor."""
    repeated = VALUES.copy()
    repeated[4:8] = repeated[4]
    matrix = rotation(SIZE, 1) * repeated @ rotation(SIZE, 2)
    sp = isometry.spectrum(
        linear,
        jnp.asarray(matrix, jnp.float32),
        jnp.ones(SIZE),
        method=Lanczos(steps=SIZE),
        key=KEY,
    )
    rounding = 4 * SIZE * 2.0**-23 * 6
    np.testing.assert_allclose(
        sp.values, np.sort(repeated)[::-1], rtol=0, atol=rounding
    )
    assert sp.knows_values
    assert sp.why("condition_number") is None
    assert sp.condition_number() == math.inf
    assert sp.zero_fraction() == pytest.approx(5 / SIZE)


INTERVALS = {
    "moment": {},
    "second moment": {"k": 2},
    "mean s": {"variable": "s"},
    "stable_rank": {},
    "isometry_deviation": {},
    "effective_rank": {},
    "s_max": {},
}
STATISTIC = {"second moment": "moment", "mean s": "moment"}


def interval(sp, name):
    return jnp.stack(sp.interval(STATISTIC.get(name, name), **INTERVALS[name]))


@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_cover_the_dense_value(of_200_keys, name):
    """At 95 %: of 200 keys 181 to 198, by three standard errors of a binomial.

    Where what the quadrature misses is bounded too, and of s_max, more.
    """
    _, ends = of_200_keys
    low, high = np.asarray(ends[name]).T
    value = float(interval(measured("dense"), name)[0])
    coverage = np.mean((low <= value) & (value <= high))
    assert coverage >= 0.9
    if name in ("moment", "second moment", "stable_rank"):
        assert coverage <= 0.99
    if name == "s_max":
        assert coverage == 1
    # The values that dominate are taken out: without that a second moment would have
    # intervals of its own size.
    assert np.median(high - low) < 0.2 * value


def test_what_few_steps_miss_is_in_the_interval():
    """Of 64 probes the spread is small; eight steps miss more of the entropy of s."""
    matrix = jnp.asarray(MATRIX, jnp.float32)
    method = Lanczos(steps=8, probes=64)

    def one(key):
        sp = isometry.spectrum(linear, matrix, jnp.ones(SIZE), method=method, key=key)
        return interval(sp, "effective_rank")

    ends = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, 40))
    low, high = np.asarray(ends).T
    value = float(measured("dense").effective_rank())
    assert np.mean((low <= value) & (value <= high)) >= 0.9


def test_an_interval_of_known_values_has_no_width():
    sp = measured("dense")
    for name in INTERVALS:
        low, high = np.asarray(interval(sp, name))
        assert low == high


def test_one_probe_has_no_spread(nodes):
    rules = jax.tree.map(np.asarray, nodes.quadrature)
    first = {
        name: getattr(rules, name)[:1]
        for name in ("log_values", "weights", "radau_log_values", "radau_weights")
    }
    sp = replace(
        nodes,
        log_values=jnp.asarray(rules.log_values[0]),
        weights=jnp.asarray(rules.weights[0]),
        quadrature=rules._replace(**first),
    )
    assert np.isnan(np.asarray(sp.interval("moment"))).all()
    low, high = map(float, sp.interval("s_max"))
    assert low <= 6 <= high


def test_a_higher_level_is_wider(of_200_keys, nodes):
    names = ("moment", "s_max", "stable_rank")
    higher = jax.jit(lambda sp: [sp.interval(name, level=0.999) for name in names])
    _, ends = of_200_keys
    for name, (low, high) in zip(names, higher(nodes), strict=True):
        assert np.diff(np.asarray(ends[name][0])) < high - low


STOPPED = Lanczos(steps=80, probes=8, tol=0.1)


def test_steps_grow_until_the_tolerance_is_met():
    """Not at once, not to the end, and the largest value is then that near."""
    sp = measured(STOPPED)
    assert 8 <= int(sp.quadrature.steps) < 80
    assert sp.quantile(1.0, "s") == pytest.approx(6, rel=STOPPED.tol)
    low, high = map(float, sp.interval("s_max"))
    assert low <= 6 <= high <= 6 * (1 + STOPPED.tol) ** 2
    assert sp.why("condition_number") is not None


def test_steps_beyond_the_tolerance_change_no_integral():
    """The nodes behind the steps that were taken have no mass."""
    sp = measured(STOPPED)
    mass = np.asarray(sp.quadrature.weights)
    np.testing.assert_allclose(mass.sum(-1), 1, rtol=1e-5)
    per_probe = (mass > 1e-9).sum(-1)
    assert (per_probe <= int(sp.quadrature.steps) + 16).all()


def test_smooth_distribution_is_that_of_the_values(nodes):
    grid = np.linspace(0.5, 7.0, 60)
    exact = (grid[:, None] >= VALUES).mean(-1)
    # The mass of one probe's node, 1/(2·steps), and four standard errors of eight.
    reach = 1 / 48 + 4 * math.sqrt(2 / (SIZE + 2) / 4 / 8)
    assert np.abs(np.asarray(nodes.smooth_cdf(grid, "s")) - exact).max() < reach
    fine = np.linspace(0.3, 8.0, 2000)
    density = np.asarray(nodes.smooth_density(fine, "s"))
    assert (density >= 0).all()
    mass = np.trapezoid(density, fine)
    assert mass == pytest.approx(np.mean(VALUES > 0.3), abs=reach)


@pytest.mark.parametrize("variable", ["lam", "log_s"])
def test_densities_of_all_variables_are_of_one_measure(nodes, variable):
    """Between s = 1 and s = 3 the same mass."""
    to_variable = {"lam": np.square, "log_s": np.log}[variable]
    of_s = np.linspace(1.0, 3.0, 2000)
    grid = to_variable(of_s)
    mass = np.trapezoid(np.asarray(nodes.smooth_density(grid, variable)), grid)
    expected = np.trapezoid(np.asarray(nodes.smooth_density(of_s, "s")), of_s)
    # The rule errs by width² |f''| / 12 of its mean in each of 2000 intervals, and the
    # bumps are no narrower than s_max π/(4·24) = 0.2: by 1e-3² / 12 / 0.2², and as much
    # from the map of s to the variable. Each density rounds by some tens of eps.
    assert mass == pytest.approx(expected, rel=1e-5)


def test_pooled_quadratures_are_quadratures(nodes):
    """Two matrices: the mean of their moments, and the larger of their s_max."""
    one = jax.tree.map(np.asarray, nodes)
    shift = np.float32(math.log(2))
    rules = one.quadrature
    rules = rules._replace(
        log_values=rules.log_values - shift,
        radau_log_values=rules.radau_log_values - shift,
    )
    half = replace(one, log_values=one.log_values - shift, quadrature=rules)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), one, half)
    pooled = both.pooled()
    assert pooled.quadrature.log_values.shape[0] == 16
    assert pooled.moment() == pytest.approx(float(both.moment().mean()), rel=1e-5)
    low, high = pooled.interval("moment")
    assert low < np.mean(VALUES**2) * 5 / 8 < high
    assert pooled.quantile(1.0, "s") == pytest.approx(6, rel=1e-5)
    assert math.isnan(pooled.condition_number())


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, jnp.asarray])
def test_given_jacobians_of_any_library(kind):
    jacobians = np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    sp = Spectrum.of_jacobians(kind(jacobians))
    want = np.linalg.svd(jacobians, compute_uv=False)
    np.testing.assert_allclose(sp.values, want, rtol=0, atol=8 * 2.0**-23 * want.max())
    assert (sp.size, sp.structural_zeros, sp.span) == (4, 2, "given")
    assert sp.log_floor.shape == (2, 3)
    assert sp.standard_error("stable_rank") > 0


def test_given_jacobians_keep_float64():
    jacobian = np.diag([1.0, 1e-12])
    with jax.enable_x64(True):
        sp = Spectrum.of_jacobians(jacobian)
        assert sp.condition_number() == pytest.approx(1e12)
        assert Spectrum.of_jacobians(jacobian, dtype="float32").zero_fraction() == 0.5


def test_flags_apply_to_given_jacobians():
    """A hundredth of an isometry vanishes by six natural logarithms, and no other."""
    sp = Spectrum.of_jacobians(np.eye(4) * math.exp(-7) * np.ones((6, 2, 1, 1)))
    params = np.broadcast_to(np.eye(4, dtype=np.float32), (6, 4, 4))
    record = measuring.measured(
        lambda w, x: w @ x,
        params=params,
        xs=np.ones((2, 4), np.float32),
        spectra={"given": sp},
        log_averaging={"given": 0.0},
    )
    raised = {
        name: measuring.judged(name, record).raised
        for name in ("vanishing", "exploding", "anisometric")
    }
    assert raised == {"vanishing": True, "exploding": False, "anisometric": False}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Spectrum.of_jacobians(np.ones(3)),
            r"Spectrum\.of_jacobians\(\): arrays has shape \(3,\); write \(\.\.\., m",
        ),
        (lambda: Spectrum.of_jacobians(np.ones((2, 0))), r"shape \(2, 0\)"),
        (lambda: Spectrum.of_jacobians([[1, 2]]), r"arrays is of int32; write"),
        (lambda: Spectrum.of_jacobians("J"), r"arrays is 'J', not an array"),
        (
            lambda: Spectrum.of_jacobians([[1.0, math.nan]]),
            "arrays holds 1 values that are NaN or infinite",
        ),
        (lambda: measured("dense").why("rank"), r"why\(\): statistic='rank'"),
        (lambda: measured("dense").why("cdf", "x"), r"why\(\): variable='x'"),
        (
            lambda: measured(STOPPED).interval("log_spread"),
            r"interval\(\): statistic='log_spread' is not known",
        ),
        (lambda: measured(STOPPED).interval("moment", level=1), "level=1 is not a"),
        (lambda: measured(STOPPED).interval("moment", k=0), r"interval\(\): k=0"),
        (
            lambda: measured("dense").smooth_cdf([1.0]),
            r"smooth_cdf\(\): of Dense\(\) every value is known; write cdf\(grid\)",
        ),
        (
            lambda: measured("dense").smooth_density([1.0]),
            r"every value is known; write density\(grid, bandwidth\)",
        ),
        (lambda: Lanczos(tol=0), r"Lanczos\(\): tol=0 is not a finite number"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture(scope="module")
def of_a_transformer():
    """Its dense spectrum, and the ends of intervals for 200 keys of the default."""
    params = transformer.init(0)
    x = jnp.asarray(transformer.stream(0))
    dense = isometry.spectrum(transformer.transformer, params, x)

    @jax.jit
    def one(key):
        sp = isometry.spectrum(
            transformer.transformer, params, x, method="lanczos", key=key
        )
        ends = {name: interval(sp, name) for name in INTERVALS}
        return sp.condition_number(), sp.log_spread(), ends

    found = [jax.device_get(one(key)) for key in jax.random.split(KEY, 200)]
    return dense, found


@pytest.mark.slow
def test_a_transformer_of_512_values(of_a_transformer):
    """Between 90 and 99 % of 200 keys cover, and no interval is wider than 20 %."""
    dense, found = of_a_transformer
    assert dense.condition_number() == math.inf
    for name in ("moment", "second moment", "stable_rank"):
        low, high = np.stack([ends[name] for _, _, ends in found], -1)
        value = float(interval(dense, name)[0])
        assert 0.9 <= np.mean((low <= value) & (value <= high)) <= 0.99
        assert (high - low).max() < 0.2 * value
    low, high = np.stack([ends["s_max"] for _, _, ends in found], -1)
    s_max = float(dense.values[0])
    assert ((low <= s_max) & (s_max <= high)).all()
    assert (high - low).max() < 0.01 * s_max
    assert np.isnan([numbers[:2] for numbers in found]).all()


@pytest.mark.parametrize("size", [7, 49, 1000])
def test_zero_jacobian_is_all_zeros_exactly(size):
    """Seven times 1/7 is 1.0000001 in float32."""
    sp = isometry.Spectrum.of_jacobians(np.zeros((size, size), np.float32))
    assert sp.zero_fraction() == 1
    assert sp.zero_fraction(exact=True) == 1
    assert sp.cdf([0.0]) == 1


ON_RECORDS = {
    "zero_fraction": lambda sp: sp.zero_fraction(),
    "moment": lambda sp: sp.moment(2, "log_s"),
    "cdf": lambda sp: sp.cdf([0.5, 2.0], "s"),
    "quantile": lambda sp: sp.quantile([0.0, 0.5, 1.0]),
    "density": lambda sp: sp.density([1.0], 0.1),
    "condition_number": lambda sp: sp.condition_number(nonzero=True),
    "effective_rank": lambda sp: sp.effective_rank(),
    "stable_rank": lambda sp: sp.stable_rank(),
    "isometry_deviation": lambda sp: sp.isometry_deviation(),
    "log_spread": lambda sp: sp.log_spread(),
    "interval": lambda sp: sp.interval("stable_rank")[1],
    "pooled": lambda sp: sp.pooled().log_values,
    "standard_error": lambda sp: sp.standard_error("stable_rank"),
}


@pytest.mark.parametrize("name", ON_RECORDS)
def test_float64_is_read_outside_of_the_64_bit_mode(name):
    """JAX would round the numbers there, and warn that it does."""
    jacobians = np.stack([np.diag([3.0, 1 / 3, 1e-9]), np.diag([2.0, 1.0, 0.0])])
    with jax.enable_x64(True):
        sp = isometry.Spectrum.of_jacobians(jacobians)
        expected = ON_RECORDS[name](sp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = ON_RECORDS[name](sp)
    assert value.dtype == np.float64
    np.testing.assert_array_equal(np.asarray(value), np.asarray(expected))


def test_noise_counts_as_zero_in_moments_of_small_order():
    """Of rank one; below the floor a value is noise, whose powers tend to 1."""
    left = np.array([[0.12573022], [0.64042264]], np.float32)
    sp = isometry.Spectrum.of_jacobians(np.hstack([left, left]))
    assert -20 < sp.log_values[1] < sp.log_floor
    s = math.sqrt(2) * np.linalg.norm(left.astype(float))
    for order in (0.1, 0.5, 1, 2):
        assert sp.moment(order, "s") == pytest.approx(s**order / 2, rel=1e-6)
