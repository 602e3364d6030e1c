"""What the random and scaled initializers refuse, and their words: the call, the argument, what came, what to write."""

import contextlib
import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from needed import NEEDED

from isometry import InputError, theory
from isometry import initializers as init

KEY = jax.random.key(0)

# A factory's call: refused at once.
FACTORIES = {
    "uniform(): low=1.0 is not below high=1.0; exchange them, or write constant(1.0).": lambda: init.uniform(low=1.0),
    "uniform(): high=inf is not a finite number in (-inf, inf).": lambda: init.uniform(high=np.inf),
    "uniform(): low='a' is not a number.": lambda: init.uniform(low="a"),
    "normal(): std=-1.0 is not a finite number in [0, inf).": lambda: init.normal(std=-1.0),
    "normal(): mean='zero' is not a number.": lambda: init.normal(mean="zero"),
    "truncated_normal(): std=0.0 is not a finite number in (0, inf).": lambda: init.truncated_normal(std=0.0),
    "truncated_normal(): std=-0.1 is not a finite number in (0, inf).": lambda: init.truncated_normal(std=-0.1),
    "truncated_normal(): lower=2.0 is not below upper=-2.0; exchange them.": lambda: init.truncated_normal(
        lower=2.0, upper=-2.0
    ),
    "truncated_normal(): lower=-inf is not a finite number": lambda: init.truncated_normal(lower=-np.inf),
    "xavier_normal(): gain=-1.0 is not a finite number in (0, inf).": lambda: init.xavier_normal(-1.0),
    "kaiming_uniform(): mode='fan_inn' is not known. Known: fan_in, fan_out. Did you mean 'fan_in'?": lambda: (
        init.kaiming_uniform(mode="fan_inn")
    ),
    "kaiming_normal(): nonlinearity='rel' is not known.": lambda: init.kaiming_normal(nonlinearity="rel"),
    "kaiming_normal(): a=nan is not a finite number": lambda: init.kaiming_normal(a=np.nan),
    "critical(): q=-1.0 is not a finite number in [0, inf).": lambda: init.critical("tanh", q=-1.0),
    "critical(): sigma_b=-0.1 is not a finite number in [0, inf).": lambda: init.critical("tanh", sigma_b=-0.1),
    "critical(): q=1.0 and sigma_b=0.1 are both given; each alone fixes the point.": lambda: init.critical(
        "tanh", q=1.0, sigma_b=0.1
    ),
    "critical(): softplus has no critical point with sigma_b=0: softplus has none for any sigma_b. Give sigma_w and": (
        lambda: init.critical("softplus")
    ),
    "gain(): zeros_like is constant at q=1; no gain gives criterion='variance'.": lambda: init.gain(
        jnp.zeros_like, "variance"
    ),
    "variance_scaling(): scale=-2.0 is not a finite number in [0, inf).": lambda: init.variance_scaling(
        -2.0, "fan_in", "normal"
    ),
    "variance_scaling(): mode='fan' is not known. Known: fan_in, fan_out, fan_avg, fan_geo_avg.": lambda: (
        init.variance_scaling(2.0, "fan", "normal")
    ),
    "variance_scaling(): distribution='gaussian' is not known. Known: truncated_normal, normal, uniform.": lambda: (
        init.variance_scaling(2.0, "fan_in", "gaussian")
    ),
    "torch_default_bias(): fan_in=0 must be a whole number, at least 1.": lambda: init.torch_default_bias(0),
    "torch_default_bias(): fan_in=2.5 is not a whole number.": lambda: init.torch_default_bias(2.5),
}

# An initializer and a shape: refused when called, traced or not.
CALLS = {
    "xavier_uniform(): shape=(128,) has one axis; fans need at least two. For a bias use initializers.zeros()": (
        init.xavier_uniform(),
        (128,),
    ),
    "he_normal(): shape=() has no axis; fans need at least two.": (init.he_normal(), ()),
    "torch_default(): shape=(4,) has one axis; fans need at least two.": (init.torch_default(), (4,)),
    "lecun_normal(): shape=(4, 0) has an axis of size 0; every axis must be at least 1.": (init.lecun_normal(), (4, 0)),
    "ones(): shape=(2097152, 1048576) has more entries than any memory holds, 2^40.": (init.ones(), (2**21, 2**20)),
    "xavier_normal(): shape=4 is not a sequence of whole numbers.": (init.xavier_normal(), 4),
    "glorot_normal(): in_axis=2 does not fit a shape of 2 axes; write distinct axes between -2 and 1.": (
        init.glorot_normal(in_axis=2),
        (3, 4),
    ),
    "kaiming_normal(): out_axis=(0, -2) does not fit a shape of 2 axes; write distinct axes between -2 and 1.": (
        init.kaiming_normal(out_axis=(0, -2)),
        (3, 4),
    ),
    "xavier_normal(): out_axis='out' is not an axis or a tuple of axes.": (init.xavier_normal(out_axis="out"), (3, 4)),
    "he_uniform(): in_axis=1, out_axis=-1, batch_axis=() share an axis of shape=(3, 4); an axis can play one part": (
        init.he_uniform(in_axis=1),
        (3, 4),
    ),
    "xavier_uniform(): groups=3 does not divide the 32 outputs of shape=(3, 3, 8, 32); out_axis holds the outputs of": (
        init.xavier_uniform(groups=3),
        (3, 3, 8, 32),
    ),
    "variance_scaling(): groups=0 must be a whole number, at least 1.": (
        init.variance_scaling(1.0, "fan_out", "normal", groups=0),
        (3, 4),
    ),
    "glorot_uniform(): groups=1.5 is not a whole number.": (init.glorot_uniform(groups=1.5), (3, 4)),
    "truncated_normal(): lower=4.0, upper=9.0 leave so little of N(0.0, 1.0²) that float32 resolves fewer than 4096 "
    "values of it. Bring the nearer bound to within 3.6 std of the mean, or, if the interval is narrow, write "
    "uniform(low=4.0, high=9.0).": (init.truncated_normal(lower=4.0, upper=9.0), (3,)),
    "truncated_normal(): lower=-2.0, upper=2.0 leave so little of N(10.0, 1.0²) that": (
        init.truncated_normal(mean=10.0),
        (3,),
    ),
    "uniform(): low=-3e+38, high=3e+38 are further apart than the largest float32, 3.40282e+38; write bounds": (
        init.uniform(low=-3e38, high=3e38),
        (3,),
    ),
    "uniform(): low=1.0 and high=1.000000001 are the same float32; write bounds further apart, or constant(1.0).": (
        init.uniform(low=1.0, high=1.000000001),
        (3,),
    ),
    "normal(): mean=0.0, std=1e+38 reaches 6e+38 in magnitude, beyond the largest float32, 3.40282e+38; write": (
        init.normal(std=1e38),
        (3,),
    ),
    "variance_scaling(): scale=1e+40 makes a variance of 2.5e+39, beyond a third of the largest float32; write": (
        init.variance_scaling(1e40, "fan_in", "normal"),
        (4, 6),
    ),
    "xavier_uniform(): gain=3e+38 makes an interval of width 6e+38, beyond the largest float32; write smaller": (
        init.xavier_uniform(3e38),
        (2, 4),
    ),
    "constant(): value=-1e+39 reaches 1e+39 in magnitude, beyond the largest float32": (init.constant(-1e39), (3,)),
    "truncated_normal(): lower=1.0, upper=1.00001 leave so little of N(0.0, 1.0²) that": (
        init.truncated_normal(lower=1.0, upper=1.00001),
        (3,),
    ),
}


@pytest.mark.parametrize("text", FACTORIES)
def test_factory_refuses(text):
    with pytest.raises(InputError) as error:
        FACTORIES[text]()
    assert text in str(error.value)


@pytest.mark.parametrize("text", CALLS)
def test_call_refuses(text):
    initializer, shape = CALLS[text]
    for call in (initializer, jax.jit(initializer, static_argnums=(1,))):
        with pytest.raises(InputError) as error:
            call(KEY, shape)
        assert text in str(error.value)


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


@pytest.mark.parametrize("entry", init.catalogue(), ids=lambda entry: entry.name)
def test_a_huge_number_is_drawn_or_refused(entry):
    """Whatever argument is huge, no initializer draws an infinity, warns of NumPy's overflow or raises its error."""
    for parameter in inspect.signature(entry.factory).parameters:
        for value in (1e5, -1e38, 1e38, 1e39, 1e200, 1e308):
            for shape, dtype in itertools.product(((8,), (4, 6), (3, 3, 4, 4)), (np.float16, np.float32)):
                with contextlib.suppress(InputError):
                    drawn = entry.factory(**NEEDED.get(entry.name, {}) | {parameter: value})(KEY, shape, dtype)
                    assert np.isfinite(np.asarray(drawn, np.float32)).all(), (parameter, value, shape, dtype)


@pytest.mark.parametrize(
    ("initializer", "largest"),
    [
        (init.xavier_normal(1e6), 6e6 * math.sqrt(2 / 10)),
        (init.xavier_uniform(1e6), 1e6 * math.sqrt(6 / 10)),
        (init.variance_scaling(1e12, "fan_in", "uniform"), 1e6 * math.sqrt(3 / 4)),
        (init.orthogonal(1e6), 1e6),
        (init.hadamard(-1e6), 1e6),
        (init.sparse(0.5, std=1e6), 6e6),
        (init.critical("tanh", q=1.0), 6 * theory.critical_at("tanh", 1.0).sigma_w / 2),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_largest_bounds_what_is_drawn(initializer, largest):
    assert initializer.largest((4, 6)) == pytest.approx(largest)
    assert np.abs(initializer(KEY, (4, 6))).max() <= largest


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


def test_a_slope_is_concrete():
    with pytest.raises(TypeError, match=r"kaiming_normal\(\): a is traced"):
        jax.jit(lambda a: init.kaiming_normal(a)(KEY, (2, 2)))(0.1)
    assert init.calculate_gain("leaky_relu", 1e200) == 0.0


def test_pythons_float_is_jax_default():
    assert init.normal()(KEY, (2,), float).dtype == np.dtype("float32")


def test_a_refusal_is_a_value_error():
    with pytest.raises(ValueError, match="xavier_uniform"):
        init.xavier_uniform()(KEY, (3,))


def test_repr_shows_the_layout():
    assert repr(init.xavier_uniform(groups=2, in_axis=1, out_axis=0)) == (
        "xavier_uniform(gain=1.0, in_axis=1, out_axis=0, groups=2)"
    )
    assert repr(init.he_normal()) == "he_normal()"
    assert repr(init.critical("linear", q=0.5, in_axis=1, out_axis=0)) == (
        "critical('linear', q=0.5, weights='gaussian', in_axis=1, out_axis=0)"
    )
