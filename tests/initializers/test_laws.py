"""Independent entries: each factory has the mean, variance, kurtosis, bounds and distribution it claims.

Keys are fixed. z-scores may reach 5 and Kolmogorov–Smirnov p-values may fall to 1e-6: each fails by chance once in more
than a million draws of the keys. The chance that the extreme of N draws leaves a fraction 17/N of the law beyond it is
exp(-17) = 4e-8.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from isometry import InputError, initializers
from isometry.initializers._layout import Layout

Z = 5
P_VALUE = 1e-6
TAIL = 17

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
    ("variance_scaling", {"scale": 3.0, "mode": "fan_geo_avg", "distribution": "truncated_normal"}),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_out", "distribution": "normal"}),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_avg", "distribution": "uniform"}),
    *[(f"{law}_{kind}", {}) for law in ("glorot", "he", "lecun") for kind in ("uniform", "normal")],
]


def standard(law):
    """Mean, standard deviation, and the fourth and eighth moments in standard units."""
    mean, std = law.mean(), law.std()
    fourth, eighth = (law.expect(lambda x, k=k: ((x - mean) / std) ** k) for k in (4, 8))
    return mean, std, fourth, eighth


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_law(name, arguments, dtype, law_of):
    law = law_of(name, *SHAPE, **arguments)
    with jax.enable_x64(dtype == "float64"):
        w = np.asarray(getattr(initializers, name)(**arguments)(jax.random.key(7), SHAPE, dtype))
    x = w.astype(float).ravel()
    n = x.size
    mean, std, fourth, eighth = standard(law)
    z = (x - mean) / std
    assert abs(z.mean()) <= Z * n**-0.5
    assert abs((z**2).mean() - 1) <= Z * math.sqrt((fourth - 1) / n)
    assert abs((z**4).mean() - fourth) <= Z * math.sqrt((eighth - fourth**2) / n)
    assert abs((z[1:] * z[:-1]).mean()) <= Z * n**-0.5  # neighbours do not know each other
    low, high = law.support()
    eps = float(np.finfo(dtype).eps)
    assert low - eps * abs(low) <= x.min()
    assert x.max() <= high + eps * abs(high)
    assert law.cdf(x.min()) <= TAIL / n
    assert law.sf(x.max()) <= TAIL / n
    assert stats.kstest(x, law.cdf).pvalue >= P_VALUE


@pytest.mark.parametrize(("name", "arguments"), [c for c in CASES if c[0] not in ("torch_default_bias",)])
def test_singular_values_end_at_the_marchenko_pastur_edges(name, arguments, law_of):
    """The extreme squared singular values over σ² lie within 5 standard deviations of their Tracy–Widom laws."""
    law = law_of(name, *SHAPE, **arguments)
    if abs(law.mean()) > 1e-12 * law.std():
        pytest.skip("the claim is for mean zero")
    w = np.asarray(getattr(initializers, name)(**arguments)(jax.random.key(3), SHAPE), float) / law.std()
    s = np.linalg.svd(w, compute_uv=False)
    m, n = (math.sqrt(a) for a in SHAPE)
    mean, std = -1.2065, 1.2680  # Tracy–Widom, beta = 1
    upper = (s[0] ** 2 - (m + n) ** 2) / ((m + n) * (1 / m + 1 / n) ** (1 / 3))
    lower = ((m - n) ** 2 - s[-1] ** 2) / ((m - n) * (1 / n - 1 / m) ** (1 / 3))
    assert abs(upper - mean) <= Z * std
    assert abs(lower - mean) <= Z * std


# shape, layout, fan_in, fan_out: counted by hand as the entries that one output sums and that one input reaches.
LAYOUTS = {
    "dense": ((48, 64), {}, 48, 64),
    "dense, torch": ((64, 48), {"in_axis": 1, "out_axis": 0}, 48, 64),
    "convolution": ((3, 5, 8, 16), {}, 120, 240),
    "convolution, torch": ((16, 8, 3, 5), {"in_axis": 1, "out_axis": 0}, 120, 240),
    "convolution, 1-d": ((7, 12, 16), {}, 84, 112),
    "convolution, 3-d": ((2, 3, 4, 5, 6), {}, 120, 144),
    "grouped": ((3, 3, 8, 32), {"groups": 4}, 72, 72),
    "grouped, as torch and JAX count": ((3, 3, 8, 32), {}, 72, 288),
    "grouped, torch": ((32, 8, 3, 3), {"in_axis": 1, "out_axis": 0, "groups": 4}, 72, 72),
    "depthwise": ((3, 3, 1, 128), {"groups": 64}, 9, 18),
    "depthwise, torch": ((128, 1, 3, 3), {"in_axis": 1, "out_axis": 0, "groups": 64}, 9, 18),
    "transposed, torch": ((8, 16, 3, 3), {"in_axis": 0, "out_axis": 1}, 72, 144),
    "transposed, as torch counts": ((8, 16, 3, 3), {"in_axis": 1, "out_axis": 0}, 144, 72),
    "transposed and grouped, exchanged": ((32, 8, 3, 3), {"in_axis": 1, "out_axis": 0, "groups": 4}, 72, 72),
    "attention, in": ((48, 4, 16), {"in_axis": -3, "out_axis": (-2, -1)}, 48, 64),
    "attention, out": ((4, 16, 48), {"in_axis": (0, 1), "out_axis": 2}, 64, 48),
    "stacked": ((10, 12, 16), {"batch_axis": 0}, 12, 16),
    "axes as lists": ((4, 16, 48), {"in_axis": [0, 1], "out_axis": [-1]}, 64, 48),
    "no window, one input": ((1, 1000), {}, 1, 1000),
}


def largest_variate(key, shape, dtype, minval=0.0, maxval=1.0):
    """In place of jax.random.uniform: the end of its interval, so that what is drawn is the bound of the law."""
    return jnp.full(shape, maxval, dtype)


@pytest.mark.parametrize("case", LAYOUTS)
def test_fans(case, monkeypatch):
    """Counted, and seen in the bound of every factory that takes the layout."""
    shape, layout, fan_in, fan_out = LAYOUTS[case]
    assert Layout(**layout).fans(shape) == (fan_in, fan_out)
    monkeypatch.setattr(jax.random, "uniform", largest_variate)

    def check(init, bound):
        w = init(jax.random.key(0), shape)
        assert np.allclose(w, bound, rtol=4 * float(jnp.finfo("float32").eps), atol=0)

    check(initializers.xavier_uniform(**layout), math.sqrt(6 / (fan_in + fan_out)))
    check(initializers.glorot_uniform(**layout), math.sqrt(6 / (fan_in + fan_out)))
    check(initializers.kaiming_uniform(**layout), math.sqrt(6 / fan_in))
    check(initializers.kaiming_uniform(mode="fan_out", **layout), math.sqrt(6 / fan_out))
    for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out)):
        check(initializers.variance_scaling(1.0, mode, "uniform", **layout), math.sqrt(3 / fan))
    if "groups" not in layout:
        check(initializers.torch_default(**layout), math.sqrt(1 / fan_in))
        check(initializers.he_uniform(**layout), math.sqrt(6 / fan_in))
        check(initializers.lecun_uniform(**layout), math.sqrt(3 / fan_in))


@pytest.mark.parametrize(("groups", "batch"), [(1, 1), (2, 3), (4, 1)])
def test_fans_are_what_a_grouped_convolution_sums(groups, batch):
    """fan_in counts the inputs that reach one output, fan_out the outputs that one input reaches, in the operator."""
    window, inputs, outputs = 3, 8, 12
    shape = (window, inputs // groups, outputs)
    kernel = jnp.ones(shape)

    def convolve(x):
        dims = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=dims, feature_group_count=groups)

    jacobian = jax.jacobian(convolve)(jnp.zeros((1, 9, inputs)))
    operator = np.asarray(jacobian[0, 4, :, 0] != 0)  # the middle output position, over all inputs
    fan_in = {int(n) for n in operator.reshape(outputs, -1).sum(1)}
    fan_out = {int(n) for n in np.asarray(jacobian[0, :, :, 0, 4] != 0).sum((0, 1))}
    stacked = (batch, *shape)
    assert Layout(batch_axis=0, groups=groups).fans(stacked) == (fan_in.pop(), fan_out.pop())
    assert not fan_in
    assert not fan_out


class TestTruncation:
    """Where erf has rounded to 1 and where too little of the law is left."""

    @pytest.mark.parametrize(("dtype", "reach"), [("float32", 5.2), ("float64", 8.2)])
    def test_far_bounds_are_never_drawn(self, dtype, reach):
        """The extreme variates that the sampler can meet map inside the reach; JAX's map to the bound itself."""
        with jax.enable_x64(dtype == "float64"):
            edge = jax.lax.erf(jnp.asarray(reach, dtype) / np.sqrt(np.asarray(2, dtype)))
            assert float(edge) < 1
            largest = math.sqrt(2) * float(jax.lax.erf_inv(edge))
            spacing = float(jnp.finfo(dtype).eps) / 2  # of erf just below 1
            slope = math.sqrt(2 / math.pi) * math.exp(-(reach**2) / 2)
            assert abs(largest - reach) <= 4 * spacing / slope
            assert np.isinf(jax.lax.erf_inv(jax.lax.erf(jnp.asarray(100, dtype))))

    @pytest.mark.parametrize(("dtype", "limit"), [("float32", 3.6), ("float64", 7.2)])
    @pytest.mark.parametrize("side", [-1, 1])
    def test_limit_of_the_nearer_bound(self, dtype, limit, side, law_of):
        """At the stated limit the law is right to 1e-3 of its mass; beyond it the call is refused."""
        with jax.enable_x64(dtype == "float64"):

            def bounds(near):
                low, high = sorted((side * near, side * 50.0))
                return {"lower": low, "upper": high}

            x = np.asarray(initializers.truncated_normal(**bounds(limit))(jax.random.key(0), (100_000,), dtype), float)
            law = stats.truncnorm(limit, 50.0)  # by symmetry
            distance = stats.kstest(side * x, law.cdf).statistic
            assert distance <= 1e-3 + stats.kstwobign.isf(P_VALUE) / math.sqrt(x.size)
            assert np.abs(x).max() <= {"float32": 5.2, "float64": 8.2}[dtype] * (1 + 1e-3)
            with pytest.raises(InputError, match=f"Bring the nearer bound to within {limit} std of the mean"):
                initializers.truncated_normal(**bounds(limit + 0.1))(jax.random.key(0), (3,), dtype)

    def test_float64_goes_further(self):
        near = initializers.truncated_normal(lower=6.0, upper=7.0)
        with pytest.raises(InputError, match="float32 resolves fewer than 4096"):
            near(jax.random.key(0), (3,))
        with pytest.raises(InputError, match="float32 resolves fewer than 4096"):
            near(jax.random.key(0), (3,), "bfloat16")
        with jax.enable_x64(True):
            w = np.asarray(near(jax.random.key(0), (1000,), "float64"))
        assert 6 <= w.min() <= w.max() <= 7

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
    def test_bounds_hold_in_every_dtype(self, dtype):
        low, high = 0.3, 0.7
        w = initializers.truncated_normal(mean=0.4, std=0.3, lower=low, upper=high)(jax.random.key(0), (5000,), dtype)
        assert bool((w >= jnp.asarray(low, dtype)).all())
        assert bool((w <= jnp.asarray(high, dtype)).all())

    def test_traced_parameters(self):
        """Nothing can be judged, everything is drawn; the gradient with respect to std is that of the draw."""

        def sample(std):
            return initializers.truncated_normal(std=std, lower=-1.0, upper=1.5)(jax.random.key(0), (64,))

        value = jax.jit(sample)(jnp.float32(0.7))
        eager = sample(0.7)
        assert np.allclose(value, eager, rtol=0, atol=32 * float(jnp.finfo("float32").eps))
        slope = jax.jacobian(sample)(jnp.float32(0.7))
        step = 0.01
        secant = (sample(0.7 + step) - sample(0.7 - step)) / (2 * step)
        assert np.allclose(slope, secant, rtol=0, atol=20 * step**2)


def test_uniform_can_round_up_to_high():
    """The half-open interval holds for the variate, not after rounding; the docstring says so."""
    w = initializers.uniform(low=1000.0, high=1001.0)(jax.random.key(0), (1_000_000,))
    assert float(w.max()) == 1001.0


# ours, jax's
SAME_BITS = {
    "zeros": (initializers.zeros(), jax.nn.initializers.zeros),
    "ones": (initializers.ones(), jax.nn.initializers.ones),
    "constant": (initializers.constant(0.3), jax.nn.initializers.constant(0.3)),
    "uniform": (initializers.uniform(low=0, high=0.3), jax.nn.initializers.uniform(0.3)),
    "normal": (initializers.normal(std=0.3), jax.nn.initializers.normal(0.3)),
    "truncated_normal": (initializers.truncated_normal(std=0.3, lower=-0.6, upper=0.6),
                         jax.nn.initializers.truncated_normal(0.3)),
    "truncated_normal, uneven": (initializers.truncated_normal(std=0.02, lower=-0.02, upper=0.08),
                                 jax.nn.initializers.truncated_normal(0.02, lower=-1.0, upper=4.0)),
    "orthogonal": (initializers.orthogonal(0.3), jax.nn.initializers.orthogonal(0.3)),
    "orthogonal, first axis": (initializers.orthogonal(out_axis=0), jax.nn.initializers.orthogonal(column_axis=0)),
    "xavier_uniform": (initializers.glorot_uniform(), jax.nn.initializers.xavier_uniform()),
    "xavier_normal": (initializers.glorot_normal(), jax.nn.initializers.xavier_normal()),
    "kaiming_uniform": (initializers.he_uniform(), jax.nn.initializers.kaiming_uniform()),
    "kaiming_normal": (initializers.he_normal(), jax.nn.initializers.kaiming_normal()),
}  # fmt: skip
for _name in ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal"):
    SAME_BITS[_name] = (getattr(initializers, _name)(), getattr(jax.nn.initializers, _name)())
    _axes = {"in_axis": (0, 1), "out_axis": -1, "batch_axis": ()}
    SAME_BITS[_name + ", axes"] = (
        getattr(initializers, _name)(**_axes),
        getattr(jax.nn.initializers, _name)(**_axes),
    )
for _mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
    for _distribution in ("truncated_normal", "normal", "uniform"):
        SAME_BITS[f"variance_scaling, {_mode}, {_distribution}"] = (
            initializers.variance_scaling(1.7, _mode, _distribution, batch_axis=0),
            jax.nn.initializers.variance_scaling(1.7, _mode, _distribution, batch_axis=0),
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", SAME_BITS)
def test_bit_for_bit_jax(case, dtype):
    """The calls that docstrings and catalogue name as JAX's."""
    ours, theirs = SAME_BITS[case]
    with jax.enable_x64(dtype == "float64"):
        key, shape = jax.random.key(11), (3, 32, 64)
        assert np.array_equal(ours(key, shape, dtype), theirs(key, shape, jnp.dtype(dtype)))


def test_what_tells_the_names_apart():
    """xavier_normal, kaiming_normal reach beyond the cut of glorot_normal, he_normal: 2/0.8796 = 2.274 of their std."""
    shape, key = (300, 300), jax.random.key(0)
    for torch_name, jax_name, std in (("xavier", "glorot", 300**-0.5), ("kaiming", "he", 150**-0.5)):
        cut = 2 / 0.87962566103423978 * std * (1 + float(jnp.finfo("float32").eps))
        assert float(jnp.abs(getattr(initializers, f"{torch_name}_normal")()(key, shape)).max()) > cut
        assert float(jnp.abs(getattr(initializers, f"{jax_name}_normal")()(key, shape)).max()) <= cut
    bound = initializers.truncated_normal(std=0.02)(key, shape)
    assert float(jnp.abs(bound).max()) > 2 * 0.02  # absolute bounds: not a cut at two standard deviations
