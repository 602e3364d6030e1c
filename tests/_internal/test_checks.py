"""Checks of arguments: what passes, what is refused, and what a tracer may do."""

import json

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError, MissingExtra, TracedError
from tests.foreign import Tensor

KEYS = jax.random.split(jax.random.key(0), 3)


def refused(words):
    return pytest.raises(InputError, match=words)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0.0, float),
        (1, int),
        (np.float32(0.5), float),
        (np.float64(0.5), float),
        (jnp.ones(()), float),
        (jnp.ones((), jnp.bfloat16), float),
        (np.int8(1), int),
        (np.uint8(1), int),
    ],
)
def test_number_within_its_bounds_is_returned_as_pythons(value, kind):
    """Arithmetic of NumPy's narrow scalars wraps around, that of float64 hides 1/0."""
    number = checks.number("q", value, low=0.0, high=1.0)
    assert number == value
    assert type(number) is kind


SHAPE = jax.ShapeDtypeStruct((), jnp.float32)


@pytest.mark.parametrize(
    "value", ["0.2", True, np.True_, [0.2], None, 1j, np.ones(1), SHAPE]
)
def test_what_is_no_number_is_refused(value):
    with refused("q=.* is not a number"):
        checks.number("q", value)


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (0, {"above": 0.0}, r"q=0 is not a finite number in \(0, inf\)"),
        (2, {"low": 0.0, "high": 1.0}, r"in \[0, 1\]"),
        (-1, {"low": 0.0}, r"in \[0, inf\)"),
        (1, {"low": 2.0, "above": 0.0}, r"in \[2, inf\)"),
        (2, {"low": 2.0, "above": 2.0}, r"in \(2, inf\)"),
        (np.nan, {}, r"q=nan is not a finite number in \(-inf, inf\)"),
        (np.inf, {}, "q=inf"),
        (10**400, {}, r"q=1000.*\.\.\. is not a finite number"),
    ],
)
def test_number_beyond_its_bounds_is_refused(value, bounds, words):
    with refused(words):
        checks.number("q", value, **bounds)


def test_traced_number_passes():
    assert jax.jit(lambda q: checks.number("q", q, high=0.0))(1.0) == 1


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integer_is_returned_as_pythons_own(value):
    whole = checks.integer("depth", value, low=1, high=3)
    assert (whole, type(whole)) == (3, int)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.0, "not a whole number"),
        ("3", "not a whole number"),
        (True, "between 1 and 3"),
        (0, "depth=0 must be a whole number, between 1 and 3"),
        (4, "between 1 and 3"),
    ],
)
def test_what_is_no_integer_in_range_is_refused(value, words):
    with refused(words):
        checks.integer("depth", value, low=1, high=3)


def test_known_name_is_returned():
    assert checks.one_of("mode", "fan_in", ("fan_in", "fan_out")) == "fan_in"


@pytest.mark.parametrize("value", ["fan_inn", "FAN_IN"])
def test_nearest_name_is_suggested(value):
    with refused(r"Known: fan_in, spans\. Did you mean 'fan_in'\?"):
        checks.one_of("mode", value, ("fan_in", "spans"))


@pytest.mark.parametrize("value", ["foo", 3, None, ["fan_in"]])
def test_nothing_is_suggested_for_what_is_far_off(value):
    with refused(r"is not known\. Known: fan_in, spans\.$"):
        checks.one_of("mode", value, ("fan_in", "spans"))


def test_name_in_another_case_is_returned_as_known():
    assert checks.one_of_any_case("scheme", "lsuv", ["LSUV"]) == "LSUV"
    with refused("scheme='mup' is not known"):
        checks.one_of_any_case("scheme", "mup", ["LSUV"])


def test_tracer_is_refused_on_the_host():
    assert checks.on_host("x", 1.0) == 1
    with pytest.raises(TracedError, match="x is traced; this function runs on the"):
        jax.jit(lambda x: checks.on_host("x", [x]))(1.0)


class Wrapped:
    """An array by JAX's protocol alone."""

    def __jax_array__(self):
        return jnp.arange(3)


@pytest.mark.parametrize("value", [[0, 1, 2], np.arange(3), jnp.arange(3), Wrapped()])
def test_numbers_become_an_array(value):
    numbers = checks.array("x", value)
    assert isinstance(numbers, jax.Array)
    np.testing.assert_array_equal(numbers, [0, 1, 2])


def test_what_the_dtype_overflows_is_infinite():
    assert checks.array("x", 1e300) == np.inf


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1, 2**31]), "x holds 2147483648, beyond int32, and 64-bit"),
        ([-(2**31) - 1], "x holds -2147483649, beyond int32"),
        (np.uint64(2**32), "x holds 4294967296, beyond uint32"),
    ],
)
def test_integers_that_would_wrap_around_are_refused(value, said):
    with refused(said):
        checks.array("x", value)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(checks.array("x", value), value)


def test_integers_in_the_range_of_32_bits_are_kept():
    extremes = np.array([-(2**31), 2**31 - 1])
    np.testing.assert_array_equal(checks.array("x", extremes), extremes)


@pytest.mark.parametrize("value", ["a", None, [[1], [1, 2]], object(), np.array(["a"])])
def test_what_holds_no_numbers_is_refused(value):
    with refused("x is .*, not an array of numbers"):
        checks.array("x", value)


def test_points_are_one_axis_of_the_dtype():
    points = checks.points("grid", 0.5, jnp.float32)
    assert (points.shape, points.dtype) == ((1,), jnp.float32)
    infinite = checks.points("grid", [0, np.inf], jnp.float32)
    np.testing.assert_array_equal(infinite, [0, np.inf])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0.0, np.nan], "grid holds 1 values that are NaN"),
        ([[0.0]], r"grid has shape \(1, 1\); write one axis"),
        ("a", "not made of real numbers"),
        ([True], "not made of real numbers"),
        ([1j], "not made of real numbers"),
    ],
)
def test_bad_points_are_refused(value, words):
    with refused(words):
        checks.points("grid", value, jnp.float32)


@pytest.mark.parametrize("value", [(2, 3), [2, 3], np.array([2, 3])])
def test_shape_becomes_a_tuple_of_integers(value):
    assert checks.shape(value) == (2, 3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "shape=7 is not a sequence of whole numbers"),
        ("ab", "not a sequence"),
        ((2.5, 3), "not a sequence"),
        ((2, 0), "axis of size 0"),
        ((2**30, 2**11), r"2\^40"),
        ((), r"shape=\(\) has no axis; write"),
        ((3,), r"shape=\(3,\) has one axis; write"),
    ],
)
def test_bad_shape_is_refused(value, words):
    with refused(words):
        checks.shape(value, least=2, why="write (fan_in, fan_out).")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "float16", np.float32, np.dtype("f4")])
def test_floating_dtype_is_returned(dtype):
    assert checks.float_dtype(dtype) == jnp.dtype(dtype)


@pytest.mark.parametrize("dtype", [None, float])
def test_default_dtype_follows_the_mode(dtype):
    assert checks.float_dtype(dtype) == np.float32
    with jax.enable_x64(True):
        assert checks.float_dtype(dtype) == np.float64


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("int32", "dtype=int32 is not a real floating type"),
        ("complex64", "not a real floating type"),
        ("float31", "dtype='float31' is not a dtype"),
        (np.ones(2), "is not a dtype"),
        ("float64", "needs 64-bit mode, which is off"),
    ],
)
def test_bad_dtype_is_refused(dtype, words):
    with refused(words):
        checks.float_dtype(dtype)


@pytest.mark.parametrize("convert", [checks.array, checks.points])
def test_array_does_not_change_with_the_one_it_was_made_of(convert):
    # JAX shares the memory of arrays that begin at a multiple of 64 bytes.
    buffer = np.zeros(128, np.uint8)
    first = -buffer.ctypes.data % 64
    given = buffer[first : first + 64].view(np.float32)
    options = () if convert is checks.array else (np.float32,)
    array = convert("x", given, *options)
    given[:] = 1
    assert not array.any()


OLD_KEYS = jax.vmap(jax.random.key_data)(KEYS)


@pytest.mark.parametrize("keys", [KEYS, OLD_KEYS, np.asarray(OLD_KEYS)])
def test_typed_and_old_keys_are_keys(keys):
    assert checks.key("key", keys[0]) is not None
    assert checks.keys("keys", keys) is keys


@pytest.mark.parametrize("value", [0, None, KEYS, OLD_KEYS, jnp.ones(2)])
def test_what_is_no_single_key_is_refused(value):
    with refused("key is .*, not a single random key"):
        checks.key("key", value)


@pytest.mark.parametrize("value", [0, KEYS[0], OLD_KEYS[0], KEYS[None], KEYS[:0]])
def test_what_is_no_axis_of_keys_is_refused(value):
    with refused(r"keys is .* jax\.random\.split"):
        checks.keys("keys", value)


def test_infinite_leaf_is_named():
    tree = {"w": jnp.ones(2), "b": jnp.array([1.0, np.nan, np.inf])}
    with refused(r"params\['b'\] holds 2 values that are NaN or infinite"):
        checks.all_finite("params", tree)
    assert checks.all_finite("params", {"n": 3, "key": KEYS[0]})


def test_concrete_leaves_are_checked_under_jit():
    infinite = jnp.array(np.inf)

    def f(x):
        return checks.all_finite("x", [x, infinite])

    with refused(r"x\[1\] holds 1 values"):
        jax.jit(f)(1.0)


@pytest.mark.parametrize(
    "xs", [jnp.ones((0, 3)), jnp.ones(3), jnp.ones((2, 3), int), [[1.0]], jnp.ones(())]
)
def test_what_is_no_row_of_examples_is_refused(xs):
    with refused(r"xs is .*; write floating rows of shape \(3,\)"):
        checks.examples("xs", xs, (3,))


def test_mere_shapes_are_refused_where_numbers_are_needed():
    params = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with refused(r"params\['w'\] is ShapeDtypeStruct.*, a shape without"):
        checks.not_abstract("params", params)
    assert checks.real("params", params) is params


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (1j, r"x\[0\] is complex, not a real"),
        (jnp.ones(2, complex), r"x\[0\] is complex64, not a real"),
        ("a", r"x\[0\] is 'a', not an array"),
    ],
)
def test_leaves_that_are_not_real_are_refused(leaf, words):
    with refused(words):
        checks.real("x", [leaf])


@pytest.mark.parametrize("phi", [jnp.tanh, lambda x: jnp.where(x > 0, x, 0 * x)])
def test_elementwise_functions_pass(phi):
    checks.elementwise("phi", phi)


@pytest.mark.parametrize(
    ("phi", "words"),
    [
        (lambda x: x - jnp.mean(x), "changes with the other entries"),
        (lambda x: x / jnp.max(x), "changes with the other entries"),
        (jnp.sort, "changes with the other entries"),
        (lambda x: x[::-1], "changes with the other entries"),
        (jnp.sum, r"maps shape \(69,\) to float32 of shape \(\)"),
        (lambda x: x > 0, r"to bool of shape \(69,\)"),
        (lambda x: (x, x), "to tuple"),
        (lambda x: x if x > 0 else 0, "jnp.where instead of if"),
    ],
)
def test_functions_that_are_not_elementwise_are_refused(phi, words):
    with refused(words):
        checks.elementwise("phi", phi)


MODULES = {
    "flax": nn.Dense(3),
    "nnx": nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
    "equinox": eqx.nn.Linear(2, 3, key=jax.random.key(0)),
    "haiku": hk.transform(lambda x: x),
}


@pytest.mark.parametrize("adapter", MODULES)
def test_module_of_a_library_is_refused_with_its_adapter(adapter):
    with refused(rf"write networks\.{adapter}\("):
        checks.no_module("f", MODULES[adapter])


class TorchModule:
    """A module as torch's are called, without torch."""

    def __call__(self, *args):
        return self.forward(*args)

    def forward(self, x):
        return x


def test_module_of_torch_is_refused_though_its_call_takes_anything(monkeypatch):
    monkeypatch.setattr(TorchModule, "__module__", "torch.nn.modules.module")
    with refused(r"module of torch\.nn.*Spectrum\.of_jacobians"):
        checks.no_module("f", TorchModule())
    # A forward may take the parameters after all.
    monkeypatch.setattr(TorchModule, "forward", lambda self, params, x: params * x)
    assert isinstance(checks.no_module("f", TorchModule()), TorchModule)


def test_arrays_of_another_library_are_refused_with_what_to_write():
    tensor = Tensor()
    assert kinds.is_foreign(tensor)
    assert not kinds.is_key(tensor)
    with refused(r"params\['w'\] is a Tensor of .*jax\.tree\.map\(np\.asarray, params"):
        checks.real("params", {"w": tensor})
    with refused(r"xs is a Tensor of .*NumPy cannot read: Use tensor\.detach"):
        checks.array("xs", tensor)
    with refused("q="):
        checks.number("q", tensor)


@pytest.mark.parametrize("wrap", [jax.jit, eqx.filter_jit, nnx.jit])
def test_wrapped_functions_are_no_modules(wrap):
    f = wrap(lambda params, x: params * x)
    assert checks.no_module("f", f) is f


def test_extra_that_is_not_installed_is_named():
    assert checks.extra("json", "cli") is json
    with pytest.raises(MissingExtra, match=r"no_such_package.*'\.\[plot\]'"):
        checks.extra("no_such_package.figure", "plot")


def test_what_an_extra_itself_lacks_is_no_missing_extra(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        checks.extra("half_installed", "plot")


def test_long_value_is_cut():
    assert checks.show("a" * 100) == "'" + "a" * 56 + "..."


class Unshown:
    """An object that fails to say what it is."""

    def __repr__(self):
        raise RuntimeError


def test_object_that_cannot_be_shown_is_refused_by_its_type():
    with refused("q=an object of Unshown, which cannot be shown is not a number"):
        checks.number("q", Unshown())


def test_object_with_a_dtype_is_no_number():
    class Network:
        dtype = np.dtype(np.float32)

    with refused("is not a number"):
        checks.number("q", Network())


def test_array_that_was_donated_is_refused():
    x = jax.device_put(np.ones(3, np.float32))
    x.delete()
    with refused(r"params\['w'\] was deleted"):
        checks.real("params", {"w": x})


def test_integer_is_of_64_bits():
    assert checks.integer("n", 2**63 - 1) == 2**63 - 1
    with refused("whole number, between 0 and 9223372036854775807"):
        checks.integer("n", 2**63)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "is no path; write a text"),
        (b"a", "is no path; write a text"),
        ("a\0b", "is no path: "),
        ("a" * 300, "cannot be used: "),
    ],
)
def test_what_no_file_is_called_is_refused(value, words):
    with refused(words):
        checks.path("store", value)


@pytest.mark.parametrize("value", ["input", 3, None])
def test_what_is_no_list_is_refused(value):
    with refused(r"points=.* is no list; write \["):
        checks.listed("points", value)
