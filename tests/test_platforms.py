"""What can be traced is lowered for CUDA and for TPU, on a machine with neither.

`jax.export` stops before the platform's own compiler. It finds operations that a
platform has no rule for, and library calls whose behaviour is not guaranteed to last;
it does not find wrong numbers.
"""

import inspect
import types

import jax
import jax.numpy as jnp
import pytest

import isometry
from isometry import initializers, linalg, networks
from tests.needed import NEEDED

PLATFORMS = ("cuda", "tpu")
KEY = jax.eval_shape(lambda: jax.random.key(0))
# Orders that no other test uses: a program traced here for a GPU process stays in
# JAX's cache, where a later test of the same shapes would find it.
SIZE = 13
GPU_SIZE = 11


def lowered(function, *arguments, platforms=PLATFORMS):
    """Lower `function` for each of `platforms`, or raise what JAX raises.

    One program for both is refused where factorizations differ: JAX lowers the way of
    each platform for all of them.
    """
    program = jax.jit(function)
    for platform in platforms:
        exported = jax.export.export(program, platforms=(platform,))(*arguments)
        assert exported.platforms == (platform,)


def all_lowered(programs, *arguments, platforms=PLATFORMS):
    """Lower named programs of the same arguments, as one: it takes half of the time.

    If it is refused, each alone, and the note of the error names the one.
    """

    def whole(*arguments):
        return [program(*arguments) for program in programs.values()]

    try:
        lowered(whole, *arguments, platforms=platforms)
    except Exception:
        for name, program in programs.items():
            try:
                lowered(program, *arguments, platforms=platforms)
            except Exception as refusal:
                refusal.add_note(f"Refused is {name}.")
                raise
        raise


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# ---- that the tests can fail ----


def test_operation_without_a_tpu_rule_is_refused():
    with pytest.raises(NotImplementedError, match=r"'eig' not found .*tpu"):
        lowered(jnp.linalg.eig, array(4, 4), platforms=("tpu",))


def test_library_call_without_guarantees_is_refused():
    """Eigenvalues on CUDA come from a library call that JAX may change."""
    with pytest.raises(ValueError, match="no compatibility guarantees"):
        lowered(jnp.linalg.eig, array(4, 4), platforms=("cuda",))


def test_the_refused_one_of_several_is_named():
    programs = {"norm": jnp.linalg.norm, "eigenvalues": jnp.linalg.eigvals}
    with pytest.raises(NotImplementedError) as refused:
        all_lowered(programs, array(4, 4), platforms=("tpu",))
    assert refused.value.__notes__ == ["Refused is eigenvalues."]


# ---- initializers and networks ----

WINDOWED = ("block_orthogonal", "delta_orthogonal", "dirac")


def drawing(entry):
    init = entry.factory(**NEEDED.get(entry.name, {}))
    shape = (3, 3, 8, 32) if entry.name in WINDOWED else (8, 8)
    return lambda key: init(key, shape)


def test_every_initializer_is_lowered():
    catalogue = initializers.catalogue()
    all_lowered({entry.name: drawing(entry) for entry in catalogue}, KEY)


def mlp(scheme="orthogonal", size=SIZE):
    return networks.mlp([size] * 5, "tanh", scheme)


def chain():
    return networks.chain([mlp(), networks.mlp([SIZE, 3], "relu", "gaussian")])


NETWORKS = {
    "orthogonal": mlp,
    "gaussian": lambda: mlp("gaussian"),
    "zer_o": lambda: mlp("zer_o"),
    "sparse orthogonal": lambda: mlp(initializers.sparse_orthogonal(0.5)),
    "chain": chain,
}


def test_drawing_is_lowered():
    """Several seeds at once: one alone lowers what the initializers lower."""
    keys = jax.eval_shape(lambda key: jax.random.split(key, 3), KEY)
    all_lowered({name: jax.vmap(make().init) for name, make in NETWORKS.items()}, keys)


# ---- spectra ----


def plain(params, x):
    """A convolution and a dense layer, as a user writes them."""
    kernel, matrix = params
    image = jnp.tanh(x.reshape(1, 4, 4, 1))
    image = jax.lax.conv_general_dilated(
        image,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return matrix @ jnp.tanh(image.ravel())


def measured(function, params, size, ways):
    """Lower the spectra at three examples, in each of several ways."""

    def spectra(options):
        def one(params, x, key):
            return isometry.spectrum(function, params, x, key=key, **options)

        return jax.vmap(one, (None, 0, None))

    programs = {str(options): spectra(options) for options in ways}
    all_lowered(programs, params, array(3, size), KEY)


def test_spectrum_is_lowered():
    net = mlp()
    ways = [
        {"method": method, "span": span}
        for method in ("dense", "product", "lanczos")
        for span in ("end_to_end", "hidden")
    ]
    measured(net, jax.eval_shape(net.init, KEY), SIZE, ways)


def test_spectrum_of_a_chain_is_lowered():
    net = chain()
    params = jax.eval_shape(net.init, KEY)
    measured(net, params, SIZE, [{"method": "product"}])


def test_spectrum_of_a_plain_function_is_lowered():
    params = array(3, 3, 1, 2), array(7, 32)
    measured(plain, params, 16, [{"method": "dense"}, {"method": "lanczos"}])


@pytest.mark.parametrize("method", ["dense", "product", "lanczos"])
def test_monitored_update_is_lowered(method):
    """The update alone: that of the optimizer behind it is optax's."""
    net = mlp()
    monitor = isometry.monitor(
        net,
        jnp.ones((2, SIZE)),
        every=2,
        statistics=["dead_units", "log_spread", "stable_rank", "s_median"],
        capacity=3,
        method=method,
        key=jax.random.key(0),
    )
    params = jax.eval_shape(net.init, KEY)
    state = jax.eval_shape(monitor.init, params)
    lowered(monitor.update, params, state, params)


# ---- linalg: a program of each public kernel, of a square matrix and a key ----

KERNELS = {}


def kernel(program):
    """Register a program under the name of the public kernel that it runs."""
    KERNELS[program.__name__] = program
    return program


def stacks(a, *batch):
    scale = jnp.broadcast_to(a[0], (*batch, 1, len(a)))
    return [linalg.Factors(a[None], scale), linalg.Factors(a[None], scale)]


def layer(a):
    return lambda z: jnp.tanh(a @ z)


@kernel
def singular_values(a, key):
    """With the gradient, whose rule takes vectors as well."""
    return jax.value_and_grad(lambda a: jnp.sum(linalg.singular_values(a)))(a)


@kernel
def log_singular_values(a, key):
    logs, _ = linalg.log_singular_values(a[None])
    return logs


@kernel
def numerical_rank(a, key):
    return linalg.numerical_rank(a, a[0])


@kernel
def log_spread(a, key):
    """With the gradient, and a derivative of it: each has a rule of its own."""
    gradient = jax.grad(linalg.log_spread)
    return linalg.log_spread(a), jax.jvp(gradient, (a,), (a,))


@kernel
def product_log_singular_values(a, key):
    factors = jnp.stack([a, a, a])
    return linalg.product_log_singular_values(factors, every=2)


@kernel
def log_values(a, key):
    return linalg.log_values(stacks(a))


@kernel
def lyapunov_exponents(a, key):
    return linalg.lyapunov_exponents(jnp.stack([a, a]))


@kernel
def wide_product(a, key):
    return linalg.wide_product(stacks(a, 2), batch=2)


@kernel
def compact_product(a, key):
    return linalg.compact_product(stacks(a, 2), width=5)


@kernel
def live_counts(a, key):
    return linalg.live_counts(stacks(a, 2))


@kernel
def factored(a, key):
    operator = linalg.factored(stacks(a))
    return operator.matvec(a[0]), operator.rmatvec(a[1])


@kernel
def matrix_of(a, key):
    return linalg.matrix_of(layer(a), a[0])


@kernel
def partial_jacobian_norm(a, key):
    return linalg.partial_jacobian_norm(layer(a), a[0], key=key, probes=2)


@kernel
def spectral_moments(a, key):
    orders = (1, 2)
    operator = linalg.Operator.of(a)
    exact = linalg.spectral_moments(a, orders)
    return exact, linalg.spectral_moments(operator, orders, key=key, probes=2)


@kernel
def spectral_quadrature(a, key):
    operator = linalg.Operator.of(a)
    found = linalg.spectral_quadrature(operator, key=key, steps=4, probes=2)
    return found.log_values, found.weights


@kernel
def extreme_singular_values(a, key):
    operator = linalg.Operator.of(a)
    return linalg.extreme_singular_values(operator, key=key, steps=4)


@kernel
def smooth_cdf(a, key):
    return linalg.smooth_cdf(a, jnp.abs(a), steps=3, log_points=a[0])


@kernel
def smooth_density(a, key):
    return linalg.smooth_density(a, jnp.abs(a), steps=3, log_points=a[0])


@kernel
def convolution_singular_values(a, key):
    """By frequency, and with zero padding by the matrix of the whole map."""
    window = a[None, :3, :3]
    circular = linalg.convolution_singular_values(window, (3,))
    return circular, linalg.convolution_singular_values(window, (3,), padding="same")


@kernel
def Operator(a, key):  # noqa: N802 (the class's name)
    operator = linalg.Operator.linearized(layer(a), a[0])
    return operator.matvec(a[0]), operator.rmatvec(a[1])


# Records of arrays, with nothing to lower.
RECORDS = {"Extremes", "Factors", "Quadrature"}


def test_every_public_kernel_is_here():
    public = {
        name
        for name, value in inspect.getmembers(linalg)
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == KERNELS.keys() | RECORDS


def test_every_kernel_is_lowered():
    """A batch of matrices by vmap in float32."""
    programs = {name: jax.vmap(run, (0, None)) for name, run in KERNELS.items()}
    all_lowered(programs, array(3, SIZE, SIZE), KEY)


def test_every_kernel_is_lowered_as_a_process_on_a_gpu_traces_it(monkeypatch):
    """There factorizations are others, chosen while tracing by the default device.

    In float64, which CUDA has.
    """
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    matrix = jax.ShapeDtypeStruct((GPU_SIZE, GPU_SIZE), jnp.float64)
    with jax.enable_x64(True):
        all_lowered(KERNELS, matrix, KEY, platforms=("cuda",))


def test_singular_values_take_the_way_of_the_platform_they_are_lowered_for():
    """On CUDA a nearly square matrix is an eigenproblem, whatever this process has."""
    program = jax.jit(linalg.singular_values)
    for platform, is_eigenproblem in (("cuda", True), ("cpu", False)):
        exported = jax.export.export(program, platforms=[platform])(array(6, 6))
        assert ("syevd" in exported.mlir_module()) is is_eigenproblem
