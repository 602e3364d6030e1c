"""The contract of every initializer in the catalogue: one calling convention, whatever the law.

An entry added to the catalogue is held to it without a word here. If it needs arguments it must have a row in
tests/needed.py; if it refuses some of the kinds of shape by design, a row in `TAKES`.
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
from needed import NEEDED

from isometry import InputError, initializers

ENTRIES = {entry.name: entry for entry in initializers.catalogue()}

# Last axes of at least 32: XLA unrolls the random bits of shorter ones on the CPU, and compiles for seconds.
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

ALL = pytest.mark.parametrize("name", ENTRIES)
KINDS_OF_ALL = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ENTRIES for kind in TAKES.get(name, KINDS)]
)
DTYPES = ("float32", "float64", "bfloat16", "float16")


@functools.cache
def make(name, **layout):
    """The initializer of an entry."""
    entry = ENTRIES[name]
    missing = set(entry.needs) - set(NEEDED.get(name, {}))
    if missing:
        pytest.fail(f"catalogue entry {name!r} needs {sorted(missing)}: give it a row in tests/needed.py")
    return entry.factory(**NEEDED.get(name, {}), **layout)


def draw(name, shape, dtype=None, key=None, **more):
    """The array of an entry; a refusal says what row would allow it."""
    try:
        return make(name)(jax.random.key(0) if key is None else key, shape, dtype, **more)
    except InputError as error:
        pytest.fail(
            f"{name!r} refuses shape {shape}: if by design, give it a row in TAKES of {__file__}. It said: {error}"
        )


def kind_of(name):
    """The first kind of shape that the entry takes; eight devices divide its last axis."""
    return "window" if "square" not in TAKES.get(name, KINDS) else "square"


def shape_of(name):
    return KINDS[kind_of(name)]


@ALL
def test_entry_is_complete(name):
    """The docs table is made from these fields."""
    entry = ENTRIES[name]
    assert entry.definition.endswith(".")
    assert entry.law
    assert entry.citation
    assert getattr(initializers, name) is entry.factory
    required = [
        p.name for p in inspect.signature(entry.factory).parameters.values() if p.default is inspect.Parameter.empty
    ]
    assert tuple(required) == entry.needs
    assert repr(make(name)).startswith(name + "(")


@functools.cache
def drawn(kind):
    """Every entry that takes this kind of shape, in one traced function: it compiles in a third of the time of many."""
    taking = [name for name in ENTRIES if kind in TAKES.get(name, KINDS)]
    return jax.jit(lambda: {name: draw(name, KINDS[kind]) for name in taking})()


@KINDS_OF_ALL
def test_shape_and_values(name, kind):
    w = drawn(kind)[name]
    assert w.shape == KINDS[kind]
    assert w.dtype == jnp.float32
    assert bool(np.isfinite(w).all())
    abstract = jax.eval_shape(lambda key: make(name)(key, list(KINDS[kind])), jax.random.key(0))
    assert (abstract.shape, abstract.dtype) == (w.shape, w.dtype)


@ALL
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype(name, dtype):
    """bfloat16 and float16 are the float32 draw, cast last."""
    with jax.enable_x64(dtype == "float64"):
        w = draw(name, shape_of(name), dtype)
        assert w.dtype == dtype
        assert bool(jnp.isfinite(w).all())
        if dtype == "float64":
            assert draw(name, shape_of(name)).dtype == "float64"
            single = draw(name, shape_of(name), "float32")
            deterministic = not make(name).random
            eps = float(jnp.finfo("float32").eps)
            assert not deterministic or np.allclose(w, single, rtol=eps, atol=0)
        elif dtype != "float32":
            assert np.array_equal(w, draw(name, shape_of(name), "float32").astype(dtype))


@ALL
def test_key(name):
    """The key decides everything, if the law is random, and nothing, if it is not."""
    w = draw(name, shape_of(name))
    assert np.array_equal(draw(name, list(shape_of(name))), w)
    assert np.array_equal(draw(name, shape_of(name), key=jax.random.key(1)), w) == (not make(name).random)
    legacy = make(name)(jax.random.PRNGKey(0), shape_of(name))
    assert np.array_equal(legacy, w)
    if make(name).random:
        for key in (None, 0, jax.random.split(jax.random.key(0))):
            with pytest.raises(InputError, match=rf"{name}\(\): key is .*write jax.random.key\(0\)"):
                make(name)(key, shape_of(name))
    else:
        assert np.array_equal(make(name)(None, shape_of(name)), w)


def close(a, b):
    """Equal but for the rounding of differently fused arithmetic: a few roundings of the largest entry.

    On a GPU a batch is factorized by another routine than one matrix: roundings of a whole column.
    """
    roundings = 8 if jax.default_backend() == "cpu" else max(8, *b.shape)
    return np.allclose(a, b, rtol=0, atol=roundings * float(jnp.finfo(b.dtype).eps) * float(np.abs(b).max()))


def draw_all(key, specs=None):
    """Every entry from one key, in the first kind of shape that it takes."""
    return {name: draw(name, shape_of(name), key=key, out_sharding=(specs or {}).get(name)) for name in ENTRIES}


@pytest.fixture(scope="module")
def traced():
    """Three keys, every entry under jit for the first and under vmap for all."""
    keys = jax.random.split(jax.random.key(0), 3)
    return keys, jax.jit(draw_all)(keys[0]), jax.jit(jax.vmap(draw_all))(keys)


@ALL
def test_jit_and_vmap(name, traced):
    keys, jitted, mapped = traced
    one_by_one = np.stack([draw(name, shape_of(name), key=key) for key in keys])
    assert close(jitted[name], one_by_one[0])
    assert close(mapped[name], one_by_one)


ELEMENTWISE = ("zeros", "ones", "constant", "uniform", "normal", "truncated_normal", "torch_default_bias")
WEIGHTS = [name for name in ENTRIES if name not in ELEMENTWISE]


@ALL
def test_layout_is_named_by_keywords(name):
    """Whatever depends on fans, orientation or which entries make a matrix takes the same three words."""
    parameters = inspect.signature(ENTRIES[name].factory).parameters
    taken = {word: parameters[word] for word in ("in_axis", "out_axis", "batch_axis") if word in parameters}
    defaults = {} if name in ELEMENTWISE else {"in_axis": -2, "out_axis": -1, "batch_axis": ()}
    assert {word: parameter.default for word, parameter in taken.items()} == defaults
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in taken.values())


@pytest.mark.parametrize("name", WEIGHTS)
def test_stack_in_torchs_layout(name):
    """(out, 2, in, *window): two weights, each of the law of one. Their mean square, of random ones within 5 standard
    errors (of `sparse`, whose fourth moment is 6), would be off by 2 if the fans were mixed up."""
    *window, n_in, n_out = (64, 32) if "tall" in TAKES.get(name, KINDS) else shape_of(name)
    init = make(name, in_axis=2, out_axis=0, batch_axis=1)
    stack = np.asarray(init(jax.random.key(3), (n_out, 2, n_in, *window)))
    first, second = np.moveaxis(stack, (1, 2, 0), (0, -2, -1))
    one = np.asarray(draw(name, (*window, n_in, n_out)))
    assert "in_axis=2, out_axis=0, batch_axis=1" in repr(init) or name == "critical"
    if not make(name).random:
        assert np.array_equal(first, one)
        assert np.array_equal(second, one)
        return
    assert not np.array_equal(first, second)
    for w in (first, second):
        assert abs(np.log(np.mean(w**2) / np.mean(one**2))) < 5 * np.sqrt(2 * 5 / one.size)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("axes", "text"), [({"in_axis": -1}, "share an axis"), ({"batch_axis": 9}, "does not fit")])
def test_impossible_layout(name, axes, text):
    with pytest.raises(InputError, match=rf"^{name}\(\): .*{text}"):
        make(name, **axes)(jax.random.key(0), shape_of(name))


@ALL
@pytest.mark.parametrize("shape", [(0, 4), (4, -1), (4, 2.5), 4])
def test_impossible_shape(name, shape):
    init = make(name)
    with pytest.raises(InputError, match=rf"^{name}\(\): shape=") as eager:
        init(jax.random.key(0), shape)
    with pytest.raises(InputError) as traced:
        jax.jit(lambda key: init(key, shape))(jax.random.key(0))
    assert str(traced.value) == str(eager.value)


@ALL
@pytest.mark.parametrize("dtype", ["int32", "complex64", "float64", "double precision"])
def test_impossible_dtype(name, dtype):
    with pytest.raises(InputError, match=rf"^{name}\(\): dtype=.*[Ww]rite "):
        make(name)(jax.random.key(0), shape_of(name), dtype)


def sharded_draws(path):
    """Every entry over all the devices there are, in each way of asking, into one file."""
    drawn, key = {}, jax.random.key(0)
    specs = {name: P(*[None] * (len(shape_of(name)) - 1), "x") for name in ENTRIES}
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(axis_type,))
        asked = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
        with jax.set_mesh(mesh):
            ways = {"jit": jax.jit(lambda key: draw_all(key, specs))(key)}
        ways["eager"] = {name: make(name)(key, shape_of(name), None, sharding) for name, sharding in asked.items()}
        for way, arrays in ways.items():
            for name, w in arrays.items():
                if not w.sharding.is_equivalent_to(asked[name], w.ndim):
                    raise AssertionError(f"{name}, {way}, {axis_type}: {w.sharding}, asked for {asked[name]}")
                drawn[f"{name}/{axis_type}/{way}"] = np.asarray(w)
    np.savez(path, devices=jax.device_count(), **drawn)


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    """What `sharded_draws` draws in a process of its own, which alone can have eight devices."""
    path = tmp_path_factory.mktemp("sharded") / "draws.npz"
    root = Path(__file__).parents[2]
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run([sys.executable, __file__, str(path)], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return np.load(path)


@ALL
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="set against the same devices' numbers")
def test_out_sharding_on_eight_devices(name, on_eight_devices):
    """The sharding is honoured and the values do not depend on it."""
    assert on_eight_devices["devices"] == 8
    ways = [way for way in on_eight_devices.files if way.startswith(name + "/")]
    assert len(ways) == 4
    w = np.asarray(draw(name, shape_of(name)))
    for way in ways:
        assert np.array_equal(on_eight_devices[way], w) if "eager" in way else close(on_eight_devices[way], w), way


@ALL
def test_out_sharding_on_one_device(name):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    w = draw(name, shape_of(name), out_sharding=sharding)
    assert w.sharding.is_equivalent_to(sharding, w.ndim)
    assert np.array_equal(w, draw(name, shape_of(name)))


DENSE = pytest.mark.parametrize("name", [name for name in ENTRIES if "square" in TAKES.get(name, KINDS)])
CONV = pytest.mark.parametrize("name", [name for name in ENTRIES if "window" in TAKES.get(name, KINDS)])


def check_kernel(name, kernel, kind):
    """A layer's kernel came from the entry."""
    assert kernel.shape == KINDS[kind]
    assert kernel.dtype == jnp.float32
    if not make(name).random:
        assert np.array_equal(kernel, draw(name, KINDS[kind]))
    else:
        assert np.unique(kernel).size > 1


@DENSE
def test_flax_linen_dense(name):
    nn = pytest.importorskip("flax.linen")
    params = nn.Dense(32, kernel_init=make(name)).init(jax.random.key(0), jnp.ones((2, 32)))
    check_kernel(name, params["params"]["kernel"], "square")


@CONV
def test_flax_linen_conv(name):
    nn = pytest.importorskip("flax.linen")
    params = nn.Conv(32, (3, 3), kernel_init=make(name)).init(jax.random.key(0), jnp.ones((2, 5, 5, 8)))
    check_kernel(name, params["params"]["kernel"], "window")


@DENSE
def test_flax_nnx_linear(name):
    nnx = pytest.importorskip("flax.nnx")
    check_kernel(name, nnx.Linear(32, 32, kernel_init=make(name), rngs=nnx.Rngs(0)).kernel[...], "square")


@CONV
def test_flax_nnx_conv(name):
    nnx = pytest.importorskip("flax.nnx")
    check_kernel(name, nnx.Conv(8, 32, (3, 3), kernel_init=make(name), rngs=nnx.Rngs(0)).kernel[...], "window")


@DENSE
def test_haiku_linear(name):
    """Haiku hands out keys by hk.next_rng_key; its initializers take (shape, dtype) alone."""
    hk = pytest.importorskip("haiku")

    def forward(x):
        return hk.Linear(32, w_init=lambda shape, dtype: make(name)(hk.next_rng_key(), shape, dtype))(x)

    params = hk.transform(forward).init(jax.random.key(0), jnp.ones((2, 32)))
    check_kernel(name, params["linear"]["w"], "square")


@CONV
def test_haiku_conv(name):
    hk = pytest.importorskip("haiku")

    def forward(x):
        return hk.Conv2D(32, 3, w_init=lambda shape, dtype: make(name)(hk.next_rng_key(), shape, dtype))(x)

    params = hk.transform(forward).init(jax.random.key(0), jnp.ones((2, 5, 5, 8)))
    check_kernel(name, params["conv2_d"]["w"], "window")


@DENSE
def test_equinox_linear(name):
    """Equinox stores weights as torch does, (out, in)."""
    eqx = pytest.importorskip("equinox")
    axes = {"in_axis": 1, "out_axis": 0}
    accepted = inspect.signature(ENTRIES[name].factory).parameters
    init = make(name, **{axis: value for axis, value in axes.items() if axis in accepted})
    model = eqx.nn.MLP(32, 32, 32, 2, key=jax.random.key(0))
    key = jax.random.key(1)
    model = eqx.tree_at(lambda m: m.layers[1].weight, model, replace_fn=lambda w: init(key, w.shape, w.dtype))
    assert np.array_equal(model.layers[1].weight, init(key, (32, 32)))
    assert model(jnp.ones(32)).shape == (32,)


if __name__ == "__main__":
    sharded_draws(sys.argv[1])
