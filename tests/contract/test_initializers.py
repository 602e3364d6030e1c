"""The contract of every initializer in the catalogue: one calling convention for all.

A new entry is tested without a word here. An entry that needs arguments has a row in
tests/needed.py; one that refuses some kinds of shape by design has a row in `TAKES`.

What all factories share is tested once: the checks of shapes, dtypes and keys on one
factory of each kind, the layers of other libraries on one random and one deterministic
factory. Every layer with every factory is marked `nightly`.
"""

import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from isometry import InputError, initializers
from tests.needed import NEEDED

ENTRIES = {entry.name: entry for entry in initializers.catalogue()}
KEY = jax.random.key(0)
FLOAT32_EPS = float(np.finfo("float32").eps)

# Last axes of at least 32: XLA unrolls the random bits of shorter ones on the CPU, and
# compiles for seconds.
KINDS = {
    "square": (32, 32),
    "tall": (48, 32),
    "wide": (32, 48),
    "three axes": (3, 32, 64),
    "window": (3, 3, 8, 32),
    "one row": (1, 7),
    "one column": (7, 1),
}
MATRICES = ("square", "tall", "wide", "one row", "one column")
WINDOWS = ("three axes", "window")
TAKES = {
    "block_orthogonal": ("window",),
    "delta_orthogonal": WINDOWS,
    "dirac": WINDOWS,
    "hadamard": MATRICES,
    "identity": ("square",),
    "partial_identity": MATRICES,
    "sparse": MATRICES,
    "sparse_orthogonal": MATRICES,
}

# Their laws know no fans and no orientation, so they take no layout.
ELEMENTWISE = (
    "zeros",
    "ones",
    "constant",
    "uniform",
    "normal",
    "truncated_normal",
    "torch_default_bias",
)
WEIGHTS = [name for name in ENTRIES if name not in ELEMENTWISE]

ALL = pytest.mark.parametrize("name", ENTRIES)


def kinds_of(name):
    """The kinds of shape that the entry takes."""
    return TAKES.get(name, tuple(KINDS))


def shape_of(name):
    """A shape that the entry takes; eight devices divide its last axis."""
    kind = "square" if "square" in kinds_of(name) else "window"
    return KINDS[kind]


@functools.cache
def make(name, **layout):
    """The initializer of an entry."""
    missing = set(ENTRIES[name].needs) - set(NEEDED.get(name, {}))
    if missing:
        pytest.fail(f"{name!r} needs {sorted(missing)}: add a row to tests/needed.py")
    return ENTRIES[name].factory(**NEEDED.get(name, {}), **layout)


def draw(name, shape, dtype=None, key=KEY, **more):
    """The array of an entry; a refusal says which row would allow it."""
    try:
        return make(name)(key, shape, dtype, **more)
    except InputError as error:
        pytest.fail(f"{name!r} refuses {shape}: by design? Add it to TAKES. {error}")


@functools.cache
def drawn(name):
    """The float32 array of an entry from KEY, drawn without jit."""
    return np.asarray(draw(name, shape_of(name)))


COARSE = ("bfloat16", "float16")


@functools.cache
def drawn_in_batch():
    """Two keys, and every entry drawn from both in three dtypes under jit and vmap.

    One program: many compile three times as long.
    """

    def program(key):
        return {
            (name, dtype): draw(name, shape_of(name), dtype, key)
            for name in ENTRIES
            for dtype in ("float32", *COARSE)
        }

    keys = jax.random.split(KEY, 2)
    return keys, jax.device_get(jax.jit(jax.vmap(program))(keys))


# What these draw depends on the shape by more than its size.
STRUCTURED = (
    "orthogonal",
    "hadamard",
    "partial_identity",
    "sparse",
    "sparse_orthogonal",
    "zer_o",
    "idinit",
)


@functools.cache
def drawn_with_one_input_or_output():
    """Structured entries where a matrix is a single row or column, as one program."""

    def program(key):
        return {
            (name, kind): draw(name, KINDS[kind], key=key)
            for name in STRUCTURED
            for kind in ("one row", "one column")
        }

    return jax.device_get(jax.jit(program)(KEY))


def is_close(a, b):
    """Equal but for the rounding of differently fused arithmetic.

    That is a few roundings of the largest entry. On a GPU a batch is factorized by
    another routine than one matrix, which differs by the roundings of a whole column.
    """
    on_cpu = jax.default_backend() == "cpu"
    roundings = 8 if on_cpu else max(8, *b.shape)
    tolerance = roundings * float(jnp.finfo(b.dtype).eps) * float(np.abs(b).max())
    return np.allclose(a, b, rtol=0, atol=tolerance)


# --- the calling convention -----------------------------------------------------------


@ALL
def test_entry_is_complete(name):
    """The table of the documentation is made from these fields."""
    entry = ENTRIES[name]
    assert entry.definition.endswith(".")
    assert entry.law
    assert entry.citation
    assert getattr(initializers, name) is entry.factory
    parameters = inspect.signature(entry.factory).parameters.values()
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    assert tuple(required) == entry.needs
    assert repr(make(name)).startswith(name + "(")


@ALL
def test_shape_and_dtype_are_those_asked_for(name):
    """Lists are welcome; float32 is what is drawn where no dtype is named."""
    for kind in kinds_of(name):
        shape = KINDS[kind]
        weight = jax.eval_shape(lambda key, s=list(shape): draw(name, s, key=key), KEY)
        assert weight.shape == shape
        assert weight.dtype == np.float32
    assert drawn(name).shape == shape_of(name)
    assert drawn(name).dtype == np.float32
    assert np.isfinite(drawn(name)).all()


@pytest.mark.parametrize("name", STRUCTURED)
def test_single_rows_and_columns_are_finite(name):
    for kind in ("one row", "one column"):
        weight = drawn_with_one_input_or_output()[name, kind]
        assert weight.shape == KINDS[kind]
        assert np.isfinite(weight).all()


@ALL
def test_coarse_dtypes_are_the_float32_draw_rounded_once(name):
    """To half a unit in the last place, and the rounding of float32 before it.

    Two programs may differ in the last bit of a float32 draw, which decides a tie.
    """
    _, arrays = drawn_in_batch()
    single = arrays[name, "float32"]
    assert single.dtype == np.float32
    for dtype in COARSE:
        coarse = arrays[name, dtype]
        assert coarse.dtype == jnp.dtype(dtype)
        assert np.isfinite(coarse.astype(np.float32)).all()
        limits = jnp.finfo(dtype)
        half_unit = np.spacing(np.abs(single).astype(dtype)).astype(np.float32) / 2
        half_unit = np.maximum(half_unit, float(limits.smallest_subnormal) / 2)
        before = 4 * np.finfo(np.float32).eps * np.abs(single).max()
        error = np.abs(coarse.astype(np.float32) - single)
        assert (error <= half_unit + before).all()


@ALL
def test_float64_is_drawn_where_it_is_enabled(name):
    """Deterministic values are those of float32, to its rounding."""
    with jax.enable_x64(True):
        asked = jax.eval_shape(
            lambda key: draw(name, shape_of(name), "float64", key), KEY
        )
        default = jax.eval_shape(lambda key: draw(name, shape_of(name), key=key), KEY)
        assert asked.dtype == default.dtype == np.float64
        if not make(name).random:
            double = np.asarray(draw(name, shape_of(name), "float64"))
            single = np.asarray(draw(name, shape_of(name), "float32"))
            np.testing.assert_allclose(double, single, rtol=FLOAT32_EPS)


@ALL
def test_key_decides_random_draws_and_only_those(name):
    init, shape = make(name), shape_of(name)
    other = draw(name, list(shape), key=jax.random.key(1))
    assert np.array_equal(other, drawn(name)) == (not init.random)
    legacy = init(jax.random.PRNGKey(0), shape)
    np.testing.assert_array_equal(legacy, drawn(name))
    if not init.random:
        np.testing.assert_array_equal(init(None, shape), drawn(name))


@ALL
def test_jit_and_vmap_draw_what_a_plain_call_draws(name):
    keys, arrays = drawn_in_batch()
    for key, array in zip(keys, arrays[name, "float32"], strict=True):
        assert is_close(array, np.asarray(draw(name, shape_of(name), key=key)))


# --- layouts --------------------------------------------------------------------------


@ALL
def test_layout_is_named_by_the_same_keywords(name):
    """Whatever depends on fans or on orientation takes all three."""
    parameters = inspect.signature(ENTRIES[name].factory).parameters
    words = ("in_axis", "out_axis", "batch_axis")
    taken = [parameters[word] for word in words if word in parameters]
    defaults = [parameter.default for parameter in taken]
    assert defaults == ([] if name in ELEMENTWISE else [-2, -1, ()])
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in taken)


@functools.cache
def stacks_in_torch_layout():
    """Two weights of every entry in one array (out, 2, in, *window), as one program."""

    def stack(name, key):
        *window, n_in, n_out = shape_of(name)
        init = make(name, in_axis=2, out_axis=0, batch_axis=1)
        return init(key, (n_out, 2, n_in, *window))

    program = jax.jit(lambda key: {name: stack(name, key) for name in WEIGHTS})
    return jax.device_get(program(jax.random.key(3)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_stack_in_torch_layout_holds_weights_of_the_same_law(name):
    """Mean squares agree within 5 standard errors.

    The fourth moment is taken as 6 times the squared variance, that of `sparse`.
    """
    stack = stacks_in_torch_layout()[name]
    first, second = np.moveaxis(stack, (1, 2, 0), (0, -2, -1))
    one = drawn(name)
    if not make(name).random:
        np.testing.assert_array_equal(first, one)
        np.testing.assert_array_equal(second, one)
        return
    assert not np.array_equal(first, second)
    standard_error = np.sqrt(2 * 5 / one.size)
    for weight in (first, second):
        log_ratio = np.log(np.mean(weight**2) / np.mean(one**2))
        assert abs(log_ratio) < 5 * standard_error


# --- what is refused ------------------------------------------------------------------

# One entry of each kind: elementwise, by fans, a random and a deterministic matrix.
CHECKED = pytest.mark.parametrize(
    "name", ["normal", "glorot_uniform", "orthogonal", "partial_identity"]
)


@CHECKED
@pytest.mark.parametrize("shape", [(0, 4), (4, -1), (4, 2.5), 4])
def test_impossible_shape_is_refused_with_and_without_jit(name, shape):
    init = make(name)
    with pytest.raises(InputError, match=rf"^{name}\(\): shape=") as eager:
        init(KEY, shape)
    with pytest.raises(InputError) as traced:
        jax.jit(lambda key: init(key, shape))(KEY)
    assert str(traced.value) == str(eager.value)


@CHECKED
@pytest.mark.parametrize("dtype", ["int32", "complex64", "float64", "double precision"])
def test_impossible_dtype_is_refused(name, dtype):
    """float64 is impossible as long as JAX's 64-bit mode is off."""
    with pytest.raises(InputError, match=rf"^{name}\(\): dtype=.*[Ww]rite "):
        make(name)(KEY, shape_of(name), dtype)


@pytest.mark.parametrize(
    "key", [None, 0, jax.random.split(KEY)], ids=["None", "0", "two"]
)
def test_what_is_no_key_is_refused(key):
    for name in ("normal", "glorot_uniform", "orthogonal"):
        with pytest.raises(
            InputError, match=rf"{name}\(\): key.*write jax.random.key\(0\)"
        ):
            make(name)(key, shape_of(name))


@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal", "partial_identity"])
@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"in_axis": -1}, r"in_axis=-1.*share an axis"),
        ({"batch_axis": 9}, r"batch_axis=9 does not fit.*2 axes"),
    ],
)
def test_impossible_layout_is_refused(name, axes, words):
    with pytest.raises(InputError, match=rf"^{name}\(\): .*{words}"):
        make(name, **axes)(KEY, shape_of(name))


# --- sharding -------------------------------------------------------------------------

# By fans, by factorization, by a loop, and deterministic.
SHARDED = ("glorot_uniform", "orthogonal", "sparse_orthogonal", "zer_o")


def draw_sharded(path, names):
    """Draw over all the devices there are and write the arrays into one file.

    Under jit and without, on a mesh of automatic axes and on one of explicit axes.
    """
    arrays = {}
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(axis_type,))

        def draw_all(key, sharding_of):
            return {
                name: draw(
                    name, shape_of(name), None, key, out_sharding=sharding_of(name)
                )
                for name in names
            }

        def on_mesh(name, mesh=mesh):
            return NamedSharding(mesh, last_axis_split(name))

        with jax.set_mesh(mesh):
            ways = {"jit": jax.jit(lambda key: draw_all(key, last_axis_split))(KEY)}
        ways["eager"] = draw_all(KEY, on_mesh)
        for way, drawn_arrays in ways.items():
            for name, array in drawn_arrays.items():
                asked = on_mesh(name)
                if not array.sharding.is_equivalent_to(asked, array.ndim):
                    raise AssertionError(
                        f"{name}, {way}: {array.sharding}, not {asked}"
                    )
                arrays[f"{name}/{way}/{axis_type}"] = np.asarray(array)
    np.savez(path, devices=jax.device_count(), **arrays)


def last_axis_split(name):
    return P(*[None] * (len(shape_of(name)) - 1), "x")


def draw_on_eight_devices(path, names):
    """The arrays of `draw_sharded`, from a process that has eight devices."""
    root = Path(__file__).parents[2]
    python_path = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        # Eight devices on two busy cores need longer than XLA's 40 s to meet.
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
        + " --xla_force_host_platform_device_count=8 "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(python_path),
    }
    command = [sys.executable, __file__, str(path), *names]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return np.load(path)


def check_sharded(arrays, name):
    """Values do not depend on the sharding, but for the fusions of jit."""
    assert arrays["devices"] == 8
    ways = [way for way in arrays.files if way.startswith(name + "/")]
    assert len(ways) == 4
    for way in ways:
        if "eager" in way:
            np.testing.assert_array_equal(arrays[way], drawn(name))
        else:
            assert is_close(arrays[way], drawn(name)), way


ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's numbers")


@ON_CPU
def test_values_do_not_depend_on_the_sharding(tmp_path):
    arrays = draw_on_eight_devices(tmp_path / "draws.npz", SHARDED)
    for name in SHARDED:
        check_sharded(arrays, name)


@ON_CPU
@pytest.mark.nightly
def test_values_of_every_entry_do_not_depend_on_the_sharding(tmp_path):
    arrays = draw_on_eight_devices(tmp_path / "draws.npz", tuple(ENTRIES))
    for name in ENTRIES:
        check_sharded(arrays, name)


@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal", "zer_o"])
def test_out_sharding_on_one_device(name):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    array = draw(name, shape_of(name), out_sharding=sharding)
    assert array.sharding.is_equivalent_to(sharding, array.ndim)
    np.testing.assert_array_equal(array, drawn(name))


# --- layers of other libraries --------------------------------------------------------

SAMPLE = {
    "square": ("glorot_uniform", "hadamard"),
    "window": ("delta_orthogonal", "dirac"),
}


def layers_with(kind):
    """Parametrize over the entries that take this kind, most of them nightly."""
    cases = []
    for name in ENTRIES:
        if kind in kinds_of(name):
            marks = () if name in SAMPLE[kind] else pytest.mark.nightly
            cases.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", cases)


def check_kernel(name, kernel, kind):
    """The layer's kernel was drawn by the entry, in the layer's shape."""
    assert kernel.shape == KINDS[kind]
    assert kernel.dtype == jnp.float32
    if make(name).random:
        assert np.unique(kernel).size > 1
    else:
        np.testing.assert_array_equal(kernel, draw(name, KINDS[kind]))


@layers_with("square")
def test_flax_linen_dense(name):
    nn = pytest.importorskip("flax.linen")
    layer = nn.Dense(32, kernel_init=make(name))
    params = layer.init(KEY, jnp.ones((2, 32)))
    check_kernel(name, params["params"]["kernel"], "square")


@layers_with("window")
def test_flax_linen_conv(name):
    nn = pytest.importorskip("flax.linen")
    layer = nn.Conv(32, (3, 3), kernel_init=make(name))
    params = layer.init(KEY, jnp.ones((2, 5, 5, 8)))
    check_kernel(name, params["params"]["kernel"], "window")


@layers_with("square")
def test_flax_nnx_linear(name):
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Linear(32, 32, kernel_init=make(name), rngs=nnx.Rngs(0))
    check_kernel(name, layer.kernel[...], "square")


@layers_with("window")
def test_flax_nnx_conv(name):
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Conv(8, 32, (3, 3), kernel_init=make(name), rngs=nnx.Rngs(0))
    check_kernel(name, layer.kernel[...], "window")


def haiku_initializer(name):
    """Haiku's initializers take (shape, dtype); keys come from next_rng_key."""
    hk = pytest.importorskip("haiku")
    return lambda shape, dtype: make(name)(hk.next_rng_key(), shape, dtype)


@layers_with("square")
def test_haiku_linear(name):
    hk = pytest.importorskip("haiku")
    model = hk.transform(lambda x: hk.Linear(32, w_init=haiku_initializer(name))(x))
    params = model.init(KEY, jnp.ones((2, 32)))
    check_kernel(name, params["linear"]["w"], "square")


@layers_with("window")
def test_haiku_conv(name):
    hk = pytest.importorskip("haiku")
    model = hk.transform(lambda x: hk.Conv2D(32, 3, w_init=haiku_initializer(name))(x))
    params = model.init(KEY, jnp.ones((2, 5, 5, 8)))
    check_kernel(name, params["conv2_d"]["w"], "window")


@layers_with("square")
def test_equinox_linear(name):
    """Equinox stores weights as torch does, (out, in)."""
    eqx = pytest.importorskip("equinox")
    init = make(name) if name in ELEMENTWISE else make(name, in_axis=1, out_axis=0)
    layer = eqx.nn.Linear(32, 32, key=KEY)

    def draw_weight(weight):
        return init(jax.random.key(1), weight.shape, weight.dtype)

    layer = eqx.tree_at(lambda layer: layer.weight, layer, replace_fn=draw_weight)
    expected = init(jax.random.key(1), (32, 32))
    np.testing.assert_array_equal(layer.weight, expected)
    assert layer(jnp.ones(32)).shape == (32,)


if __name__ == "__main__":
    draw_sharded(sys.argv[1], sys.argv[2:])
