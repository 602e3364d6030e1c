"""Dense Jacobians, against finite differences in float64 and products of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from tests.measure.targets import target_of

KEY = jax.random.key(0)
X = np.asarray([0.5, -1.0, 0.25, 2.0, -0.3], np.float32)
RNG = np.random.default_rng(0)
SHALLOW = networks.mlp([5, 8, 3])
A = RNG.standard_normal((6, 6))


def parameters(net, scale=0.5):
    """Gaussian parameters of a network, made in NumPy."""
    shapes = jax.eval_shape(net.init, KEY)
    return jax.tree.map(
        lambda a: (scale * RNG.standard_normal(a.shape)).astype(a.dtype), shapes
    )


def layer_product(net, params, x, hidden=False):
    """W_L D_{L-1} … D_1 W_1 in float64 (weights are stored (in, out)).

    Hidden: without W_L's D … and W_1.
    """
    layers = list(net.layers(params))
    h, z = np.asarray(x, np.float64), None
    product = None
    for layer in layers[:-1] if hidden else layers:
        w = np.asarray(layer.w, np.float64).T
        if product is None:
            product = np.eye(len(w)) if hidden else w
        else:
            product = w @ np.diag(1 - np.tanh(z) ** 2) @ product
        z = w @ h + np.asarray(layer.b, np.float64)
        h = np.tanh(z)
    return product


@pytest.mark.parametrize(
    "widths", [[5, 8, 8, 3], [3, 8, 8, 5]], ids=["reverse", "forward"]
)
def test_network(widths):
    net = networks.mlp(widths, "tanh")
    params, x = parameters(net), X[: widths[0]]
    got = isometry.jacobian(net, params, x)
    assert got.shape == (widths[-1], widths[0])
    assert got.dtype == jnp.float32
    want = layer_product(net, params, x)
    # three products of 8 terms, ‖W‖ < 4 each
    np.testing.assert_allclose(
        got, want, rtol=0, atol=3 * 8 * 1.2e-7 * np.linalg.norm(want, 2) * 4
    )


def test_network_in_float64_against_central_differences():
    net = networks.mlp([5, 8, 8, 3], "tanh")
    params, h = parameters(net), 1e-5
    with jax.enable_x64(True):
        fine = np.asarray(isometry.jacobian(net, params, X, dtype=jnp.float64))
        wide, stepped = (
            jax.tree.map(np.float64, params),
            X + h * np.concatenate([np.eye(5), -np.eye(5)]),
        )
        outputs = np.asarray(jax.jit(jax.vmap(net.function, (None, 0)))(wide, stepped))
    assert fine.dtype == np.float64
    np.testing.assert_allclose(fine, layer_product(net, params, X), rtol=0, atol=1e-13)
    # truncation h²/6 times the third derivative, below 100; rounding eps/h
    np.testing.assert_allclose(
        fine, ((outputs[:5] - outputs[5:]) / (2 * h)).T, rtol=0, atol=1e-8
    )


def test_hidden_span():
    net = networks.mlp([5, 8, 8, 3], "tanh")
    params = parameters(net)
    got = isometry.jacobian(net, params, X, span="hidden")
    assert got.shape == (8, 8)
    np.testing.assert_allclose(
        got, layer_product(net, params, X, hidden=True), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("outputs", "chunk"), [(3, 2), (6, 3)], ids=["reverse", "forward"]
)
def test_chunks_do_not_matter(outputs, chunk):
    """Directions of a plain function; the last chunk is not full."""
    w = A[:outputs, :5].astype(np.float32)

    def f(w, x):
        return jnp.tanh(w @ x)

    target = dataclasses.replace(target_of(f, w, X), chunk=chunk)
    part = jax.jit(target.jacobian)(w, X)
    want = (1 - np.tanh(w.astype(np.float64) @ X) ** 2)[:, None] * w
    np.testing.assert_allclose(
        part, want, rtol=0, atol=8 * 1.2e-7 * np.linalg.norm(want)
    )


@pytest.mark.parametrize(("shape", "rows"), [((2, 3), 6), ((2, 3), 2), ((), 6)])
def test_inputs_and_outputs_of_any_shape(shape, rows):
    """Matrices are flattened in C order; a number is a vector of one."""
    size = int(np.prod(shape))
    a = A[:rows, :size].astype(np.float32)

    def f(params, x):
        return (params @ x.ravel()).reshape((2, rows // 2))

    got = isometry.jacobian(f, a, np.ones(shape, np.float32))
    np.testing.assert_allclose(got, A[:rows, :size], rtol=2e-7)


def test_scalar_output():
    got = isometry.jacobian(lambda params, x: jnp.sum(x**2), None, X)
    np.testing.assert_allclose(got, 2 * X[None, :], rtol=1e-6)


def test_lower_precision_is_measured_in_float32():
    net = networks.mlp([5, 3], "tanh", "gaussian", 1.2, dtype=jnp.bfloat16)
    params = parameters(net)
    got = isometry.jacobian(net, params, X.astype(jnp.bfloat16))
    assert got.dtype == jnp.float32
    (layer,) = net.layers(params)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(layer.w, np.float32).T)


def test_traced_jacobian_is_right_and_at_full_precision():
    net = networks.mlp([5, 8, 8, 3], "tanh")
    params = parameters(net)
    lowered = jax.jit(lambda params, x: isometry.jacobian(net, params, x)).lower(
        params, X
    )
    products = [
        line for line in lowered.as_text().splitlines() if "dot_general" in line
    ]
    assert products
    assert all("HIGHEST" in line for line in products)
    np.testing.assert_allclose(
        lowered.compile()(params, X), layer_product(net, params, X), rtol=0, atol=1e-5
    )


def plain(params, x):
    return x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: isometry.jacobian(3, None, X),
            r"f=3 is not callable; write f\(params, x\) for one example x\.",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, span="hiden"),
            r"span='hiden' is not known.*Did you mean 'hidden'",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, span="hidden"),
            r'span="hidden" .* needs three weight layers; this function has 0',
        ),
        (
            lambda: isometry.jacobian(SHALLOW, SHALLOW.init(KEY), X, span="hidden"),
            r'span="hidden" runs from z_1 to z_\(depth-1\) and needs depth 3; '
            r"this one has 2",
        ),
        (
            lambda: isometry.jacobian(plain, None, jnp.arange(3)),
            r"x is int32, which has no derivative, and the span starts at x; give "
            r"f floating numbers",
        ),
        (
            lambda: isometry.jacobian(plain, None, X.astype(jnp.complex64)),
            r"x is complex64, not a real floating",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: ({"y": x}, x), None, X),
            r"f returns a dict of 'y'; it must return one array\. Write output=",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: {"y": x}, None, X, output="z"),
            r"output='z' is none of f's outputs; it returns a dict of 'y'",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: None, None, X),
            r"f returns a NoneType",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: jnp.argsort(x), None, X),
            r"f returns int32; it must return a real",
        ),
        (
            lambda: isometry.jacobian(plain, None, X[:0]),
            r"the Jacobian of \(0,\) -> \(0,\) is empty",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: x[:0], None, X),
            r"the Jacobian of \(5,\) -> \(0,\) is empty",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: x.astype(complex), None, X),
            r"f returns complex64; it must return a real",
        ),
        (
            lambda: isometry.jacobian(plain, {"w": [X.astype(np.complex64)]}, X),
            r"params\['w'\]\[0\] is complex64, not a real floating array; split "
            r"it into real and imaginary part\.",
        ),
        (
            lambda: isometry.jacobian(plain, {"f": plain}, X),
            r"params\['f'\] is <function plain .*, not an array; close over what "
            r"is none\.",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: x * jnp.nan, None, X),
            r"the Jacobian holds 25 values that are NaN",
        ),
        (
            lambda: isometry.jacobian(lambda p, x: x + jnp.nan, None, X),
            r"the Jacobian holds 25 values that are NaN",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, dtype=jnp.float64),
            r"jacobian\(\): dtype=float64 needs 64-bit mode",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, dtype=jnp.bfloat16),
            r"dtype=bfloat16 is too coarse to measure in",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, dtype="int32"),
            r"dtype=int32 is not a real floating type",
        ),
        (
            lambda: isometry.jacobian(plain, None, X, dtype="float33"),
            r"jacobian\(\): dtype='float33' is not a dtype; write jnp\.float32, "
            r"for example\.",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_shapes_are_refused_where_numbers_are_needed():
    """Eager and traced; `cost` alone takes them."""
    net = networks.mlp([5, 8, 8, 3])
    shapes = jax.eval_shape(net.init, KEY)
    stacked = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), shapes
    )
    for call in (
        lambda x: isometry.jacobian(net, shapes, x),
        lambda x: isometry.spectrum(net, shapes, x, method="product"),
        lambda x: isometry.ensemble(net, params=stacked, xs=x[None]),
        lambda x: isometry.certify(net, shapes),
    ):
        with pytest.raises(
            InputError,
            match=r"\(\): params.* is ShapeDtypeStruct\(.*\), a shape without numbers",
        ):
            call(X)
    with pytest.raises(InputError, match="a shape without numbers"):
        jax.jit(lambda x: isometry.jacobian(net, shapes, x))(X)
    assert isometry.cost(net, shapes, X).flop > 0


def test_a_list_of_numbers_is_an_example():
    matrix = jnp.asarray(A, jnp.float32)
    x = [1.0] * matrix.shape[1]
    np.testing.assert_array_equal(
        isometry.jacobian(lambda p, x: p @ x, matrix, x), matrix
    )
    assert isometry.cost(lambda p, x: p @ x, matrix, x).flop > 0


def dense(params, x):
    return params @ x if x.ndim == 1 else params.reshape(-1, 7) @ x


@pytest.mark.parametrize("call", [isometry.jacobian, isometry.spectrum, isometry.cost])
def test_a_batch_axis_is_named(call):
    """x has one axis too many: f raises there, and works at x[0]."""
    with pytest.raises(
        InputError,
        match=rf"{call.__name__}\(\): .*x\[0\], of shape \(6,\): x seems .*ensemble",
    ) as caught:
        call(dense, jnp.asarray(A, jnp.float32), jnp.ones((4, 6)))
    assert isinstance(
        caught.value.__cause__, TypeError
    )  # the user's own, with its traceback


def test_what_f_raises_is_chained():
    def f(params, x):
        raise KeyError("w")

    with pytest.raises(
        InputError,
        match=r"spectrum\(\): f\(params, x\) raised KeyError at x of shape .*: 'w'$",
    ) as caught:
        isometry.spectrum(f, None, X)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(
        InputError, match=r"ensemble\(\): f\(params, x\) raised KeyError"
    ):
        isometry.ensemble(f, params=jnp.ones(2), xs=X[None])
    with pytest.raises(
        InputError,
        match=r"It takes x\[0\], of shape \(5,\): each row of xs seems to carry",
    ):
        isometry.ensemble(
            lambda w, x: w * x.reshape(5), params=jnp.ones(2), xs=jnp.ones((3, 2, 5))
        )


def test_a_network_says_itself_that_x_is_a_batch():
    net = networks.chain([dense, networks.mlp([6, 3])])
    with pytest.raises(
        InputError,
        match=r"raised TypeError at x of shape \(4, 6\).*x seems to carry a batch axis",
    ):
        isometry.jacobian(
            net, (jnp.eye(6), parameters(net.blocks[1])), jnp.ones((4, 6))
        )


def test_the_network_refuses_a_batch():
    net = networks.mlp([5, 8, 3])
    message = (
        r"2 examples, and one of shape \(5,\) is meant; write x\[0\], or isometry\.en"
    )
    for call in (isometry.jacobian, isometry.spectrum):
        with pytest.raises(
            InputError, match=rf"{call.__name__}\(\): x is .* {message}"
        ):
            call(net, parameters(net), np.stack([X, X]))


def looped(w, x):
    """tanh(w ·) three times, in a loop whose length JAX does not know."""
    return jax.lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(w @ s[1])), (0, x)
    )[1]


def test_a_loop_of_unknown_length_is_measured_forward():
    w, x = (
        np.asarray([[0.5, 0.2], [-0.3, 0.8]], np.float32),
        np.asarray([1.0, -0.5], np.float32),
    )
    want, h = np.eye(2), x
    for _ in range(3):
        h = np.tanh(w @ h)
        want = (1 - h**2)[:, None] * w @ want
    np.testing.assert_allclose(isometry.jacobian(looped, w, x), want, rtol=1e-5)
    with pytest.raises(
        ValueError, match="which has no reverse derivative; write a scan"
    ):
        isometry.spectrum(looped, w, x, method="lanczos", key=jax.random.key(0))


@jax.custom_vjp
def settled(z):
    """The c = tanh(c/2 + z) that a loop of unknown length finds."""
    return jax.lax.while_loop(
        lambda s: s[0] < 60, lambda s: (s[0] + 1, jnp.tanh(s[1] / 2 + z)), (0, z)
    )[1]


settled.defvjp(
    lambda z: (settled(z),) * 2, lambda c, t: (t * (1 - c**2) / (1 - (1 - c**2) / 2),)
)


def test_what_brings_its_reverse_derivative_is_measured_in_reverse():
    """With five outputs of three inputs forward mode would be shorter."""
    w, x = A[:5, :3].astype(np.float32), np.linspace(-1, 1, 3, dtype=np.float32)
    f = lambda w, x: settled(w @ x)  # noqa: E731
    c = np.zeros(5)
    for _ in range(60):
        c = np.tanh(c / 2 + w @ x)
    want = ((1 - c**2) / (1 - (1 - c**2) / 2))[:, None] * np.asarray(w)
    np.testing.assert_allclose(isometry.jacobian(f, w, x), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        InputError,
        match="custom_vjp rule, which has no forward derivative; write a custom_jvp",
    ):
        isometry.spectrum(f, w, x, method="lanczos", key=KEY)


def test_an_output_that_is_constantly_nan_is_no_zero_jacobian():
    with pytest.raises(ValueError, match="6 values that are NaN"):
        isometry.jacobian(lambda w, x: jnp.full(2, jnp.nan), jnp.ones(()), jnp.ones(3))


def test_a_batch_that_f_takes_row_by_row_is_warned_of():
    w = jnp.asarray(A[:3, :2], jnp.float32)
    by_row = lambda w, x: jnp.tanh(x @ w)  # noqa: E731
    with pytest.warns(
        isometry.BatchWarning, match=r"depends on row i of x alone.*write x\[0\]"
    ):
        isometry.spectrum(by_row, w, jnp.ones((4, 3)))
    isometry.jacobian(
        lambda w, x: w @ x, jnp.asarray(A, jnp.float32), jnp.asarray(A, jnp.float32)
    )  # rows mix


def test_a_function_of_chance_is_refused():
    rng = np.random.default_rng(0)
    for f in (lambda w, x: x * rng.random(), lambda w, x: x + rng.random(5)):
        with pytest.raises(
            ValueError,
            match=r"deterministic: traced twice .* from a key among its parameters",
        ):
            isometry.jacobian(f, None, X)


def test_an_object_that_holds_arrays_is_a_function_too():
    """An Equinox module: it cannot be hashed, and programs are compiled for a hash."""

    @dataclasses.dataclass
    class Model:
        w: object

        def __call__(self, params, x):
            return jnp.tanh(self.w @ x) * params

    model, w = Model(jnp.asarray(A[:, :5], jnp.float32)), np.ones(1, np.float32)
    with pytest.raises(TypeError):
        hash(model)
    jacobian = (1 - np.tanh(A[:, :5] @ X) ** 2)[:, None] * A[:, :5]
    want = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(
        isometry.spectrum(model, w, X).values, want, rtol=1e-5, atol=1e-6
    )
    found = isometry.ensemble(model, params=w[None], xs=X[None])
    np.testing.assert_allclose(found.values[0, 0], want, rtol=1e-5, atol=1e-6)

    def probed(x):
        return isometry.spectrum(model, w, x, method="lanczos", key=KEY).log_values

    assert jax.eval_shape(probed, X).shape == (5,)


def test_parameters_of_another_network_are_refused():
    net, deeper = (
        networks.mlp([4, 6, 6, 3], "tanh"),
        networks.mlp([4, 6, 6, 6, 3], "tanh"),
    )
    x, others = np.ones(4, np.float32), parameters(deeper)
    said = (
        r"params\['layers'\]\[1\]\['b'\] is of shape \(1, 6\) in this network, "
        r"and params has \(2, 6\); write net"
    )
    with pytest.raises(InputError, match=r"spectrum\(\): " + said):
        isometry.spectrum(net, others, x)
    with pytest.raises(InputError, match=r"ensemble\(\): " + said):
        isometry.ensemble(
            net,
            params=jax.tree.map(lambda a: a[None], others),
            xs=x[None],
            span="hidden",
        )
    both = networks.chain([lambda p, x: 2 * x, net])
    said = r"cost\(\): params\[1\]\['layers'\]\[1\].*, and params\[1\] has \(2, 6\)"
    with pytest.raises(InputError, match=said):
        isometry.cost(both, (None, others), x)
    with pytest.raises(
        InputError,
        match=r"jacobian\(\): params is a number or an array, not a network's param",
    ):
        isometry.jacobian(net, 3, x)
    with pytest.raises(
        InputError,
        match=r"\['b'\] is of shape \(1, 6\) in this network, and params lacks it",
    ):
        isometry.spectrum(net, _without_first_bias(parameters(net)), x)


def _without_first_bias(params):
    first, *others = params["layers"]
    return {"layers": ({"w": first["w"]}, *others)}


def test_what_f_raises_when_differentiated_is_chained():
    def f(params, x):
        return jax.pure_callback(np.tanh, x, x)

    message = (
        r"{}\(\): f\(params, x\) raised ValueError when it was differentiated: "
        "Pure callbacks do not support JVP"
    )
    for call in ("spectrum", "jacobian", "cost"):
        with pytest.raises(InputError, match=message.format(call)) as error:
            getattr(isometry, call)(f, None, jnp.ones(3))
        assert isinstance(error.value.__cause__, ValueError)


def test_counts_of_jax_are_counts():
    """Methods are static arguments of programs.

    So their counts are made Python's own.
    """
    three = jnp.int32(3)
    assert isometry.Lanczos(three, three) == isometry.Lanczos(3, 3)
    assert isometry.Product(three) == isometry.Product(3)
    for count in (isometry.Lanczos(three, three).steps, isometry.Product(three).every):
        assert type(count) is int
