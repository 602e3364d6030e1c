"""Independent entries: each factory has the moments, bounds and distribution it claims.

Keys are fixed. z-scores may reach 5 and Kolmogorov–Smirnov p-values may fall to 1e-6:
each fails by chance once in more than a million draws of the keys. The extreme of N
draws leaves a fraction 17/N of the law beyond it with probability exp(-17) = 4e-8.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from isometry import InputError, initializers
from tests.dense_convolution import convolution_matrix

Z = 5
P_VALUE = 1e-6
TAIL = 17
FLOAT32_EPS = float(np.finfo("float32").eps)

# One shape for all, so that each sampler is compiled once.
SHAPE = (400, 250)
CASES = [
    ("uniform", {}),
    ("uniform", {"low": -0.5, "high": 2.0}),
    ("normal", {}),
    ("normal", {"mean": 1.0, "std": 0.3}),
    ("truncated_normal", {}),
    ("truncated_normal", {"mean": 0.5, "std": 2.0, "lower": 0.0, "upper": 3.0}),
    ("truncated_normal", {"std": 0.02}),
    ("truncated_normal", {"lower": 1.0, "upper": 100.0}),
    ("truncated_normal", {"lower": -100.0, "upper": -3.0}),
    ("truncated_normal", {"mean": 3.0, "lower": -1.0, "upper": 0.5}),
    ("xavier_uniform", {"gain": 2.0}),
    ("xavier_normal", {"gain": 2.0}),
    ("kaiming_uniform", {}),
    ("kaiming_uniform", {"a": 0.5, "mode": "fan_out"}),
    ("kaiming_normal", {"a": 0.5}),
    ("kaiming_normal", {"a": 0.5, "nonlinearity": "tanh"}),
    ("torch_default", {}),
    ("torch_default_bias", {"fan_in": 9}),
    (
        "variance_scaling",
        {"scale": 3.0, "mode": "fan_geo_avg", "distribution": "truncated_normal"},
    ),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_out", "distribution": "normal"}),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_avg", "distribution": "uniform"}),
    ("glorot_uniform", {}),
    ("glorot_normal", {}),
    ("he_uniform", {}),
    ("he_normal", {}),
    ("lecun_uniform", {}),
    ("lecun_normal", {}),
]
# One of each way of drawing; the others scale these.
SAMPLERS = [
    ("uniform", {"low": -0.5, "high": 2.0}),
    ("normal", {"mean": 1.0, "std": 0.3}),
    ("truncated_normal", {"mean": 0.5, "std": 2.0, "lower": 0.0, "upper": 3.0}),
    ("glorot_normal", {}),
    ("glorot_uniform", {}),
]


def draw(name, arguments, seed, dtype=None):
    initializer = getattr(initializers, name)(**arguments)
    return np.asarray(initializer(jax.random.key(seed), SHAPE, dtype))


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_entries_have_the_law_of_the_catalogue(name, arguments, law_of):
    law = law_of(name, *SHAPE, **arguments)
    check_law(draw(name, arguments, seed=7), law)


@pytest.mark.parametrize(("name", "arguments"), SAMPLERS)
def test_entries_have_the_law_of_the_catalogue_in_float64(name, arguments, law_of):
    law = law_of(name, *SHAPE, **arguments)
    with jax.enable_x64(True):
        weight = draw(name, arguments, seed=7, dtype="float64")
    assert weight.dtype == np.float64
    check_law(weight, law)


def check_law(weight, law):
    """Compare moments, neighbours, extremes and the whole distribution."""
    x = weight.astype(np.float64).ravel()
    mean, std = law.mean(), law.std()
    fourth, eighth = (
        law.expect(lambda x, k=k: ((x - mean) / std) ** k) for k in (4, 8)
    )
    z = (x - mean) / std
    standard_error = x.size**-0.5
    assert abs(z.mean()) <= Z * standard_error
    assert abs((z**2).mean() - 1) <= Z * math.sqrt(fourth - 1) * standard_error
    assert (
        abs((z**4).mean() - fourth)
        <= Z * math.sqrt(eighth - fourth**2) * standard_error
    )
    # Neighbours are uncorrelated.
    assert abs((z[1:] * z[:-1]).mean()) <= Z * standard_error
    low, high = law.support()
    eps = float(np.finfo(weight.dtype).eps)
    assert low - eps * abs(low) <= x.min()
    assert x.max() <= high + eps * abs(high)
    assert law.cdf(x.min()) <= TAIL / x.size
    assert law.sf(x.max()) <= TAIL / x.size
    assert stats.kstest(x, law.cdf).pvalue >= P_VALUE


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("normal", {}),
        ("uniform", {"low": -1.0}),
        ("truncated_normal", {}),
        ("xavier_normal", {}),
        ("kaiming_uniform", {}),
        ("he_normal", {}),
        (
            "variance_scaling",
            {"scale": 1.0, "mode": "fan_in", "distribution": "normal"},
        ),
    ],
)
def test_singular_values_end_at_the_marchenko_pastur_edges(name, arguments, law_of):
    """The extremes follow Tracy–Widom laws, of mean -1.2065 and std 1.2680.

    Centre and scale are those of Johnstone (2001), Ann. Statist. 29, for the largest,
    and of Feldheim and Sodin (2010), GAFA 20, for the smallest squared singular value.
    """
    law = law_of(name, *SHAPE, **arguments)
    weight = draw(name, arguments, seed=3).astype(np.float64) / law.std()
    s = np.linalg.svd(weight, compute_uv=False)
    m, n = (math.sqrt(size) for size in SHAPE)
    largest_scale = (m + n) * (1 / m + 1 / n) ** (1 / 3)
    largest = (s[0] ** 2 - (m + n) ** 2) / largest_scale
    smallest_scale = (m - n) * (1 / n - 1 / m) ** (1 / 3)
    smallest = ((m - n) ** 2 - s[-1] ** 2) / smallest_scale
    assert abs(largest + 1.2065) <= Z * 1.2680
    assert abs(smallest + 1.2065) <= Z * 1.2680


# --- fans -----------------------------------------------------------------------------

TORCH = {"in_axis": 1, "out_axis": 0}
# Shape, layout, fan_in and fan_out, counted by hand: the entries that one output sums
# and that one input reaches.
LAYOUTS = {
    "dense": ((48, 64), {}, 48, 64),
    "dense, torch": ((64, 48), TORCH, 48, 64),
    "convolution": ((3, 5, 8, 16), {}, 120, 240),
    "convolution, torch": ((16, 8, 3, 5), TORCH, 120, 240),
    "convolution, 1-d": ((7, 12, 16), {}, 84, 112),
    "convolution, 3-d": ((2, 3, 4, 5, 6), {}, 120, 144),
    "grouped": ((3, 3, 8, 32), {"groups": 4}, 72, 72),
    "grouped, as torch and JAX count": ((3, 3, 8, 32), {}, 72, 288),
    "grouped, torch": ((32, 8, 3, 3), TORCH | {"groups": 4}, 72, 72),
    "grouped and stacked": ((3, 7, 2, 12), {"groups": 4, "batch_axis": 0}, 14, 21),
    "depthwise": ((3, 3, 1, 128), {"groups": 64}, 9, 18),
    "depthwise, torch": ((128, 1, 3, 3), TORCH | {"groups": 64}, 9, 18),
    "transposed, torch": ((8, 16, 3, 3), {"in_axis": 0, "out_axis": 1}, 72, 144),
    "transposed, as torch counts": ((8, 16, 3, 3), TORCH, 144, 72),
    "attention, in": ((48, 4, 16), {"in_axis": -3, "out_axis": (-2, -1)}, 48, 64),
    "attention, out": ((4, 16, 48), {"in_axis": (0, 1), "out_axis": 2}, 64, 48),
    "stacked": ((10, 12, 16), {"batch_axis": 0}, 12, 16),
    "axes as lists": ((4, 16, 48), {"in_axis": [0, 1], "out_axis": [-1]}, 64, 48),
    "no window, one input": ((1, 1000), {}, 1, 1000),
}


def by_fans(layout):
    """Every uniform initializer by fans, and its bound as a function of the fans."""
    found = {
        "xavier_uniform": (
            initializers.xavier_uniform(**layout),
            lambda n, m: math.sqrt(6 / (n + m)),
        ),
        "glorot_uniform": (
            initializers.glorot_uniform(**layout),
            lambda n, m: math.sqrt(6 / (n + m)),
        ),
        "kaiming_uniform": (
            initializers.kaiming_uniform(**layout),
            lambda n, m: math.sqrt(6 / n),
        ),
        "kaiming_uniform, fan_out": (
            initializers.kaiming_uniform(mode="fan_out", **layout),
            lambda n, m: math.sqrt(6 / m),
        ),
        "variance_scaling, fan_in": (
            initializers.variance_scaling(1.0, "fan_in", "uniform", **layout),
            lambda n, m: math.sqrt(3 / n),
        ),
        "variance_scaling, fan_out": (
            initializers.variance_scaling(1.0, "fan_out", "uniform", **layout),
            lambda n, m: math.sqrt(3 / m),
        ),
    }
    if "groups" not in layout:
        # With groups, test_groups.py holds them to the same draw without.
        found |= {
            "torch_default": (
                initializers.torch_default(**layout),
                lambda n, m: math.sqrt(1 / n),
            ),
            "he_uniform": (
                initializers.he_uniform(**layout),
                lambda n, m: math.sqrt(6 / n),
            ),
            "lecun_uniform": (
                initializers.lecun_uniform(**layout),
                lambda n, m: math.sqrt(3 / n),
            ),
        }
    return found


def draw_the_largest(key, shape, dtype, minval=0.0, maxval=1.0):
    """In place of jax.random.uniform: the end of its interval, the bound of the law."""
    return jnp.full(shape, maxval, dtype)


@pytest.fixture(scope="module")
def bounds():
    """The bound of every initializer in every layout, all drawn in one program."""

    def program():
        drawn = {}
        for case, (shape, layout, _, _) in LAYOUTS.items():
            for name, (initializer, _) in by_fans(layout).items():
                weight = initializer(jax.random.key(0), shape)
                drawn[case, name] = jnp.stack([weight.min(), weight.max()])
        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "uniform", draw_the_largest)
        return jax.device_get(jax.jit(program)())


@pytest.mark.parametrize("case", LAYOUTS)
def test_bound_of_every_uniform_factory_follows_the_fans(case, bounds):
    _, layout, fan_in, fan_out = LAYOUTS[case]
    for name, (_, bound) in by_fans(layout).items():
        expected = bound(fan_in, fan_out)
        np.testing.assert_allclose(bounds[case, name], expected, rtol=4 * FLOAT32_EPS)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fans_are_what_a_grouped_convolution_sums(groups):
    """fan_in: inputs that reach one output; fan_out: outputs that one input reaches."""
    window, inputs, outputs, image = 3, 8, 12, 5
    shape = (window, inputs // groups, outputs)
    matrix = convolution_matrix(np.ones(shape), (image,), "circular", groups)
    fan_in = np.unique((matrix != 0).sum(1))
    fan_out = np.unique((matrix != 0).sum(0))
    for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        init = initializers.variance_scaling(1.0, mode, "uniform", groups=groups)
        assert init.largest(shape) == pytest.approx(math.sqrt(3 / fan.item()))


# --- truncation -----------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "reach"), [("float32", 5.2), ("float64", 8.2)])
def test_variates_within_the_reach_of_the_sampler_are_finite(dtype, reach):
    """erf has not rounded to 1; where it has, JAX's sampler returns the bound."""
    with jax.enable_x64(dtype == "float64"):
        edge = jax.lax.erf(jnp.asarray(reach, dtype) / np.sqrt(np.asarray(2, dtype)))
        largest = math.sqrt(2) * float(jax.lax.erf_inv(edge))
        rounded = jax.lax.erf_inv(jnp.ones((), dtype))
    assert float(edge) < 1
    spacing_below_one = float(jnp.finfo(dtype).eps) / 2
    derivative = math.sqrt(2 / math.pi) * math.exp(-(reach**2) / 2)
    assert abs(largest - reach) <= 4 * spacing_below_one / derivative
    assert np.isinf(rounded)


@pytest.mark.parametrize(
    ("dtype", "limit", "reach"), [("float32", 3.6, 5.2), ("float64", 7.2, 8.2)]
)
@pytest.mark.parametrize("side", [-1, 1])
def test_nearer_bound_is_held_to_its_limit(dtype, limit, reach, side):
    """The law is right to 1e-3 of its mass there; beyond, the call is refused."""

    def beyond(near):
        low, high = sorted((side * near, side * 50.0))
        return initializers.truncated_normal(lower=low, upper=high)

    with jax.enable_x64(dtype == "float64"):
        x = np.asarray(beyond(limit)(jax.random.key(0), (100_000,), dtype), np.float64)
        with pytest.raises(InputError, match=f"within {limit} std of the mean"):
            beyond(limit + 0.1)(jax.random.key(0), (3,), dtype)
    law = stats.truncnorm(limit, 50.0)  # by symmetry, for either side
    distance = stats.kstest(side * x, law.cdf).statistic
    by_chance = stats.kstwobign.isf(P_VALUE) / math.sqrt(x.size)
    assert distance <= 1e-3 + by_chance
    assert np.abs(x).max() <= reach * (1 + 1e-3)


def test_float64_truncates_further_out_than_float32():
    near = initializers.truncated_normal(lower=6.0, upper=7.0)
    for dtype in (None, "bfloat16"):
        with pytest.raises(InputError, match="float32 resolves fewer than 4096"):
            near(jax.random.key(0), (3,), dtype)
    with jax.enable_x64(True):
        weight = np.asarray(near(jax.random.key(0), (1000,), "float64"))
    assert weight.min() >= 6
    assert weight.max() <= 7


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_truncation_bounds_hold_in_every_dtype(dtype):
    init = initializers.truncated_normal(mean=0.4, std=0.3, lower=0.3, upper=0.7)
    weight = np.asarray(init(jax.random.key(0), (5000,), dtype))
    low, high = np.asarray([0.3, 0.7], jnp.dtype(dtype))
    assert np.all(weight >= low)
    assert np.all(weight <= high)


def test_truncated_normal_is_differentiable_in_traced_parameters():
    """Nothing can be judged, everything is drawn; against a central difference."""

    def sample(std):
        init = initializers.truncated_normal(std=std, lower=-1.0, upper=1.5)
        return init(jax.random.key(0), (64,))

    value, derivative = jax.jit(lambda std: jax.jvp(sample, (std,), (jnp.ones(()),)))(
        0.7
    )
    np.testing.assert_allclose(value, sample(0.7), rtol=0, atol=32 * FLOAT32_EPS)
    step = 0.01
    secant = (np.asarray(sample(0.7 + step)) - np.asarray(sample(0.7 - step))) / (
        2 * step
    )
    np.testing.assert_allclose(derivative, secant, rtol=0, atol=20 * step**2)


# --- what tells the names apart -------------------------------------------------------


def test_uniform_can_round_up_to_high():
    """The half-open interval holds for the variate, not after rounding."""
    weight = initializers.uniform(low=1000.0, high=1001.0)(
        jax.random.key(0), (1_000_000,)
    )
    assert np.asarray(weight).max() == 1001.0


@pytest.mark.parametrize(
    ("torch_name", "jax_name", "fan"),
    [("xavier", "glorot", (400 + 250) / 2), ("kaiming", "he", 400 / 2)],
)
def test_torchs_normals_reach_beyond_the_cut_of_jaxs(torch_name, jax_name, fan):
    """JAX cuts at two std of the parent law, 2/0.8796 = 2.274 of its own."""
    cut = 2 / 0.87962566103423978 / math.sqrt(fan) * (1 + FLOAT32_EPS)
    assert np.abs(draw(f"{torch_name}_normal", {}, seed=0)).max() > cut
    assert np.abs(draw(f"{jax_name}_normal", {}, seed=0)).max() <= cut


def test_bounds_of_truncated_normal_are_absolute():
    """As torch's, not in units of std as JAX's."""
    weight = draw("truncated_normal", {"std": 0.02}, seed=0)
    assert np.abs(weight).max() > 2 * 0.02
