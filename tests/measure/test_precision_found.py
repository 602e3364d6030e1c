"""What asks for less than full precision inside f is found, wherever it is.

Nothing else is accused.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from tests.measure.targets import target_of

X, W = (jnp.asarray(a, jnp.float32) for a in (np.ones(4), np.eye(4)))
IMAGE, KERNEL = (np.ones((1, 1, n, n), np.float32) for n in (4, 3))


def coarse(f, params=W, x=X, dtype="float32"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isometry.PrecisionWarning)
        return target_of(f, params, x, dtype=dtype).coarse.phrases


def low(w, x):
    return jnp.dot(w, x, precision="default")


ASKED = {
    "dot_general with precision=DEFAULT": low,
    "dot_general with precision=HIGH": lambda w, x: jnp.dot(w, x, precision="high"),
    "dot_general with precision=HIGHEST/DEFAULT": lambda w, x: jnp.dot(
        w, x, precision=("highest", "default")
    ),
    "dot_general with precision=BF16_BF16_F32": lambda w, x: jnp.dot(
        w, x, precision="BF16_BF16_F32"
    ),
    "dot_general with precision=TF32_TF32_F32": lambda w, x: jnp.dot(
        w, x, precision="TF32_TF32_F32"
    ),
    "dot_general with preferred_element_type=bfloat16": lambda w, x: jnp.dot(
        w, x, preferred_element_type=jnp.bfloat16
    ),
    "a cast of float32 to bfloat16": lambda w, x: (w @ x).astype(jnp.bfloat16),
    "a cast of float32 to float16": lambda w, x: (
        w.astype(jnp.float16) @ x.astype(jnp.float16)
    ),
    "reduce_precision to 7 bits of mantissa": lambda w, x: jax.lax.reduce_precision(
        w @ x, 8, 7
    ),
}


@pytest.mark.parametrize("said", ASKED)
def test_every_way_to_ask(said):
    assert said in coarse(ASKED[said])


def test_convolutions():
    conv = lambda w, x: jax.lax.conv(x, w, (1, 1), "SAME", precision="default")  # noqa: E731
    assert coarse(conv, KERNEL, IMAGE) == (
        "conv_general_dilated with precision=DEFAULT",
    )
    full = lambda w, x: jax.lax.conv(x, w, (1, 1), "SAME")  # noqa: E731
    assert coarse(full, KERNEL, IMAGE) == ()


@jax.custom_jvp
def with_jvp(w, x):
    return low(w, x)


with_jvp.defjvp(lambda primals, tangents: (low(*primals), tangents[1]))


@jax.custom_vjp
def with_vjp(w, x):
    return low(w, x)


with_vjp.defvjp(lambda w, x: (low(w, x), None), lambda _, t: (jnp.outer(t, t), t))

HIDDEN = {
    "jit": jax.jit(low),
    "scan": lambda w, x: jax.lax.scan(
        lambda z, _: (low(w, z), None), x, None, length=3
    )[0],
    "while": lambda w, x: jax.lax.while_loop(
        lambda z: z.sum() < 9, lambda z: low(w, z) + 1, x
    ),
    "cond": lambda w, x: jax.lax.cond(x[0] > 0, lambda: w @ x, lambda: low(w, x)),
    "switch": lambda w, x: jax.lax.switch(
        2, [lambda: x, lambda: w @ x, lambda: jax.jit(low)(w, x)]
    ),
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "remat": jax.checkpoint(low),
    "vmap": lambda w, x: jax.vmap(lambda row: jnp.dot(row, x, precision="default"))(w),
    "context": lambda w, x: _in_context(w, x),
}


def _in_context(w, x):
    with jax.default_matmul_precision("bfloat16"):
        return w @ x


@pytest.mark.parametrize("where", HIDDEN)
def test_wherever_it_is(where):
    found = coarse(HIDDEN[where])
    assert [said for said in found if said.startswith("dot_general with precision=")]


@pytest.mark.parametrize(
    "f",
    [
        lambda w, x: w @ x,
        lambda w, x: jnp.dot(w, x, precision="highest"),
        lambda w, x: jnp.dot(w, x, precision="F32_F32_F32"),
        lambda w, x: jax.nn.gelu(jnp.clip(jnp.where(x > 0, w @ x, 0.5), -1.0, 2)),
        lambda w, x: jnp.where(
            x.astype(int) > 0, jax.nn.softmax(x), jnp.argsort(x).astype(x.dtype)
        ),
        lambda w, x: (
            jnp.linalg.solve(w, x) + jax.random.normal(jax.random.key(0), (4,))
        ),
    ],
)
def test_nothing_else_is_accused(f):
    assert coarse(f) == ()
    if "F32" not in repr(f.__code__.co_consts):
        with jax.enable_x64(True):
            assert coarse(f, dtype="float64") == ()


def test_float64_is_held_to_float64():
    with jax.enable_x64(True):
        assert coarse(lambda w, x: (w @ x).astype(jnp.float32), dtype="float64") == (
            "a cast of float64 to float32",
        )
        said = coarse(
            lambda w, x: jnp.dot(w, x, preferred_element_type=jnp.float32),
            dtype="float64",
        )
        assert said == ("dot_general with preferred_element_type=float32",)


def test_a_network_of_low_dtype_is_not_accused():
    """Its parameters are cast up before they are used."""
    net = networks.mlp([4, 5, 4], "gelu", dtype=jnp.bfloat16)
    params = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), params)
    assert coarse(net, params, np.ones(4, jnp.bfloat16)) == ()


@pytest.mark.parametrize(
    "call",
    [
        lambda: isometry.jacobian(low, W, X),
        lambda: isometry.spectrum(low, W, X),
        lambda: isometry.ensemble(low, params=W[None], xs=jnp.stack([X, X])),
    ],
    ids=["jacobian", "spectrum", "ensemble"],
)
def test_one_warning_a_call_that_points_at_the_caller(call, request):
    name = request.node.callspec.id
    for _ in range(2):  # also when the trace is remembered
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        (said,) = caught
        assert said.category is isometry.PrecisionWarning
        assert str(said.message).startswith(
            f"{name}(): f asks for less than full precision: dot_general with"
        )
        assert said.filename == __file__


def both(w, x):
    return jax.lax.conv((w @ x.reshape(4, 4))[None, None], KERNEL, (1, 1), "SAME")


NET = networks.mlp([4, 6, 6, 6, 4], "tanh", "gaussian", 1.2, 0.1)


@pytest.mark.parametrize("method", ["dense", "lanczos", "product"])
@pytest.mark.parametrize("f", [both, NET], ids=["f", "mlp"])
def test_every_product_of_the_program_is_at_the_highest_precision(f, method):
    if f is both and method == "product":
        pytest.skip("a plain f shows no layers")
    params = W if f is both else jax.eval_shape(NET.init, jax.random.key(0))
    method = isometry.Lanczos(2, 2) if method == "lanczos" else method
    measure = jax.jit(
        lambda p, x: (
            isometry.spectrum(f, p, x, method=method, key=jax.random.key(0)).log_values
        )
    )
    text = measure.lower(params, jnp.ones(16 if f is both else 4)).as_text()
    products = [
        s
        for s in text.splitlines()
        if "stablehlo.dot_general" in s or "stablehlo.convolution" in s
    ]
    assert len(products) >= 2
    assert [s for s in products if s.count("HIGHEST") != 2] == []
    assert f is NET or any("convolution" in s for s in products)


def test_floor_is_that_of_the_precision_that_f_computes_in():
    """A product of rank 2 in float32, measured in float64: three of five are zeros."""

    def f(params, x):
        params, x = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x))
        tall, wide = params
        return tall @ jnp.tanh(wide @ x)

    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        params = (draw((5, 2)), draw((2, 5)))
        x = np.linspace(-1, 1, 5)
        many = jax.tree.map(lambda leaf: leaf[None], (params, x))
        with pytest.warns(isometry.PrecisionWarning, match="or with that of the meas"):
            sp = isometry.spectrum(f, params, x)
        with pytest.warns(isometry.PrecisionWarning):
            profile = isometry.profile(f, params=many[0], xs=many[1], statistics=())
        assert sp.log_values.dtype == jnp.float64
        assert sp.zero_fraction() == pytest.approx(0.6, abs=1e-15)
        of_span = profile.spectra["input"]
        assert of_span.zero_fraction() == pytest.approx(0.6, abs=1e-15)
    # Rounding of float32, times the larger side.
    assert float(sp.log_floor) == pytest.approx(np.log(5 * 2.0**-23), rel=1e-12)


def test_floor_of_a_coarse_f_leaves_something_resolved():
    """max(m, n) eps of bfloat16 is 2 at 256 values, above s_max itself."""
    with pytest.warns(isometry.PrecisionWarning):
        sp = isometry.spectrum(
            lambda w, x: (w * x).astype(jnp.bfloat16),
            np.ones(256, np.float32),
            np.ones(256, np.float32),
        )
    assert sp.zero_fraction() == 0
