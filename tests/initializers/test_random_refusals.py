"""What the random and scaled initializers refuse, and what they say."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, theory
from isometry import initializers as init
from tests.needed import NEEDED

KEY = jax.random.key(0)

# A factory, its arguments, and the words that matter: refused at once.
FACTORIES = [
    (init.uniform, {"low": 1.0}, r"low=1.0.*high=1.0.*constant\(1.0\)"),
    (init.uniform, {"high": np.inf}, r"high=inf.*finite number"),
    (init.uniform, {"low": "a"}, r"low='a'.*number"),
    (init.normal, {"std": -1.0}, r"std=-1.0.*\[0, inf\)"),
    (init.normal, {"mean": "zero"}, r"mean='zero'.*number"),
    (init.truncated_normal, {"std": 0.0}, r"std=0.0.*\(0, inf\)"),
    (init.truncated_normal, {"lower": 2.0, "upper": -2.0}, r"lower=2.0.*upper=-2.0"),
    (init.truncated_normal, {"lower": -np.inf}, r"lower=-inf.*finite number"),
    (init.xavier_normal, {"gain": -1.0}, r"gain=-1.0.*\(0, inf\)"),
    (
        init.kaiming_uniform,
        {"mode": "fan_inn"},
        r"mode='fan_inn'.*fan_in, fan_out.*Did you mean 'fan_in'",
    ),
    (init.kaiming_normal, {"nonlinearity": "rel"}, r"nonlinearity='rel'.*relu"),
    (init.kaiming_normal, {"a": np.nan}, r"a=nan.*finite number"),
    (init.critical, {"activation": "tanh", "q": -1.0}, r"q=-1.0.*\[0, inf\)"),
    (
        init.critical,
        {"activation": "tanh", "sigma_b": -0.1},
        r"sigma_b=-0.1.*\[0, inf\)",
    ),
    (
        init.critical,
        {"activation": "tanh", "q": 1.0, "sigma_b": 0.1},
        r"q=1.0 and sigma_b=0.1.* both",
    ),
    (
        init.critical,
        {"activation": "softplus"},
        r"softplus.*no critical point.*sigma_b",
    ),
    (
        init.gain,
        {"activation": jnp.zeros_like, "criterion": "variance"},
        r"zeros_like.*constant at q=1.*criterion='variance'",
    ),
    (
        init.variance_scaling,
        {"scale": -2.0, "mode": "fan_in", "distribution": "normal"},
        r"scale=-2.0.*\[0, inf\)",
    ),
    (
        init.variance_scaling,
        {"scale": 2.0, "mode": "fan", "distribution": "normal"},
        r"mode='fan'.*fan_in, fan_out, fan_avg, fan_geo_avg",
    ),
    (
        init.variance_scaling,
        {"scale": 2.0, "mode": "fan_in", "distribution": "gaussian"},
        r"distribution='gaussian'.*truncated_normal, normal, uniform",
    ),
    (init.torch_default_bias, {"fan_in": 0}, r"fan_in=0.*at least 1"),
    (init.torch_default_bias, {"fan_in": 2.5}, r"fan_in=2.5.*whole number"),
    (init.he_normal, {"groups": 0}, r"groups=0.*at least 1"),
    (init.glorot_uniform, {"groups": 1.5}, r"groups=1.5.*whole number"),
]

# An initializer, a shape, and the words that matter: refused when called, traced or
# not.
CALLS = [
    (init.xavier_uniform(), (128,), r"shape=\(128,\).*one axis.*bias.*zeros\(\)"),
    (init.he_normal(), (), r"shape=\(\).*no axis.*at least two"),
    (init.torch_default(), (4,), r"shape=\(4,\).*one axis"),
    (init.lecun_normal(), (4, 0), r"shape=\(4, 0\).*size 0.*at least 1"),
    (init.ones(), (2**21, 2**20), r"shape=\(2097152, 1048576\).*2\^40"),
    (init.xavier_normal(), 4, r"shape=4.*sequence of whole numbers"),
    (init.glorot_normal(in_axis=2), (3, 4), r"in_axis=2.*2 axes.*between -2 and 1"),
    (
        init.kaiming_normal(out_axis=(0, -2)),
        (3, 4),
        r"out_axis=\(0, -2\).*distinct axes",
    ),
    (init.xavier_normal(out_axis="out"), (3, 4), r"out_axis='out'.*tuple of axes"),
    (init.he_uniform(in_axis=1), (3, 4), r"in_axis=1, out_axis=-1.*share an axis"),
    (init.xavier_uniform(groups=3), (3, 3, 8, 32), r"groups=3.*divide.*32 outputs"),
    (
        init.truncated_normal(lower=4.0, upper=9.0),
        (3,),
        r"lower=4.0, upper=9.0.*float32.*3.6 std of the mean.*uniform\(low=4.0",
    ),
    (init.truncated_normal(mean=10.0), (3,), r"upper=2.0.*N\(10.0, 1.0²\)"),
    (
        init.truncated_normal(lower=1.0, upper=1.00001),
        (3,),
        r"upper=1.00001.*float32 resolves fewer than 4096",
    ),
    (init.uniform(low=-3e38, high=3e38), (3,), r"low=-3e\+38.*largest float32"),
    (
        init.uniform(low=1.0, high=1.000000001),
        (3,),
        r"the same float32.*constant\(1.0\)",
    ),
    (init.normal(std=1e38), (3,), r"std=1e\+38.*6e\+38.*largest float32"),
    (
        init.variance_scaling(1e40, "fan_in", "normal"),
        (4, 6),
        r"scale=1e\+40.*2.5e\+39.*largest float32.*smaller scale",
    ),
    (init.xavier_uniform(3e38), (2, 4), r"gain=3e\+38.*6e\+38.*largest float32"),
    (init.constant(-1e39), (3,), r"value=-1e\+39.*largest float32"),
]


@pytest.mark.parametrize(("factory", "arguments", "words"), FACTORIES)
def test_impossible_argument_is_refused_by_the_factory(factory, arguments, words):
    with pytest.raises(InputError, match=rf"^{factory.__name__}\(\): .*{words}"):
        factory(**arguments)


@pytest.mark.parametrize(("initializer", "shape", "words"), CALLS)
def test_impossible_call_is_refused_with_and_without_jit(initializer, shape, words):
    for call in (initializer, jax.jit(initializer, static_argnums=(1,))):
        with pytest.raises(InputError, match=rf"^{initializer.name}\(\): .*{words}"):
            call(KEY, shape)


@pytest.mark.parametrize(
    "initializer",
    [
        init.uniform(high=1e5),
        init.normal(std=2e4),
        init.constant(1e5),
        init.truncated_normal(std=2e4, lower=-1e5, upper=1e5),
    ],
)
def test_what_overflows_in_half_precision_is_refused(initializer):
    """What fits float32, in which it is drawn, need not fit the type it is cast to."""
    assert np.isfinite(initializer(KEY, (64,))).all()
    with pytest.raises(InputError, match="beyond the largest float16, 65504"):
        initializer(KEY, (64,), np.float16)


SMALL = {
    "block_orthogonal": (2, 4, 6),
    "delta_orthogonal": (2, 4, 6),
    "dirac": (2, 4, 6),
    "identity": (4, 4),
}


@pytest.mark.parametrize("entry", init.catalogue(), ids=lambda entry: entry.name)
def test_a_huge_number_is_drawn_or_refused(entry):
    """No initializer draws an infinity, or lets NumPy's overflow through.

    1e5 overflows float16 and 1e39 float32; 1e38 is near its end, 1e308 near that of
    Python.
    """
    shape = SMALL.get(entry.name, (4, 6))
    for parameter in inspect.signature(entry.factory).parameters:
        for value in (1e5, 1e38, -1e38, 1e39, 1e308):
            arguments = NEEDED.get(entry.name, {}) | {parameter: value}
            dtype = np.float16 if value == 1e5 else np.float32
            weight = draw_or_none(entry.factory, arguments, shape, dtype)
            assert weight is None or np.isfinite(weight).all(), arguments


def draw_or_none(factory, arguments, shape, dtype):
    """The weight as float32, or None where it is refused."""
    try:
        weight = factory(**arguments)(KEY, shape, dtype)
    except InputError:
        return None
    return np.asarray(weight).astype(np.float32)


@pytest.mark.parametrize(
    ("initializer", "largest"),
    [
        (init.xavier_normal(1e6), 6e6 * math.sqrt(2 / 10)),
        (init.xavier_uniform(1e6), 1e6 * math.sqrt(6 / 10)),
        (init.variance_scaling(1e12, "fan_in", "uniform"), 1e6 * math.sqrt(3 / 4)),
        (init.orthogonal(1e6), 1e6),
        (init.hadamard(-1e6), 1e6),
        (init.sparse(0.5, std=1e6), 6e6),
        (
            init.critical("tanh", q=1.0),
            6 * theory.critical_at("tanh", 1.0).sigma_w / 2,
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_largest_bounds_what_is_drawn(initializer, largest):
    assert initializer.largest((4, 6)) == pytest.approx(largest)
    weight = np.asarray(initializer(KEY, (4, 6)))
    assert np.abs(weight).max() <= largest


def test_a_traced_gain_overflows_as_arithmetic_does():
    drawn = jax.jit(lambda gain: init.orthogonal(gain)(KEY, (4, 6), np.float16))(1e6)
    assert not np.isfinite(drawn).all()


def test_bounds_that_are_never_reached_need_not_fit():
    drawn = init.truncated_normal(lower=-1e5, upper=1e5)(KEY, (64,), np.float16)
    assert np.isfinite(drawn).all()


def test_a_deterministic_initializer_keeps_no_tracer():
    with jax.checking_leaks():
        eye = jax.jit(lambda gain: init.identity(gain)(None, (2, 2)))(3.0)
    np.testing.assert_array_equal(eye, 3 * np.eye(2))


def test_a_traced_slope_of_leaky_relu_is_refused():
    with pytest.raises(TypeError, match=r"kaiming_normal\(\): a is traced"):
        jax.jit(lambda a: init.kaiming_normal(a)(KEY, (2, 2)))(0.1)


def test_a_huge_slope_of_leaky_relu_gives_gain_zero():
    """The square of 1e200 overflows a float."""
    assert init.calculate_gain("leaky_relu", 1e200) == 0.0


def test_pythons_float_is_jax_default():
    assert init.normal()(KEY, (2,), float).dtype == np.dtype("float32")


def test_a_refusal_is_a_value_error():
    with pytest.raises(ValueError, match="xavier_uniform"):
        init.xavier_uniform()(KEY, (3,))


def test_repr_shows_what_is_not_the_default():
    xavier = init.xavier_uniform(groups=2, in_axis=1, out_axis=0)
    written = "xavier_uniform(gain=1.0, in_axis=1, out_axis=0, groups=2)"
    assert repr(xavier) == written
    assert repr(init.he_normal()) == "he_normal()"
    critical = init.critical("linear", q=0.5, in_axis=1, out_axis=0)
    for word in ("critical(", "'linear'", "q=0.5", "weights='gaussian'", "in_axis=1"):
        assert word in repr(critical)


@pytest.mark.parametrize("key", [None, "key", 3, object()])
def test_what_is_not_drawn_takes_anything_for_a_key(key):
    for factory in (init.zeros, init.ones, init.identity):
        assert factory()(key, (2, 2)).shape == (2, 2)
    assert init.constant(0.5)(key, (2, 3)).shape == (2, 3)
