"""What every scheme does with a plain perceptron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, initializers, networks, schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(0)

# Schemes that draw without transforming the activation.
DRAWING = [scheme.name for scheme in schemes.catalogue() if scheme.transform is None]
LAYER = Layer("hidden", 1, 3, 8, 8, None)


def test_blocks_start_as_a_plain_sum_unless_stated():
    stated = {"rezero": (0, 1), "skipinit": (0, 1), "zero_gamma": (0, 1)}
    stated["deep_norm"] = (1, 8**0.25)
    for name in schemes.names():
        residual = schemes.get(name).residual(Branch(3, 8, 0, 2))
        assert residual == pytest.approx(stated.get(name, (1, 1)), rel=1e-15)


@pytest.mark.parametrize("name", ["orthogonal", "mirrored"])
def test_program_of_a_deep_network_is_as_long_as_of_a_shallow_one(name):
    lengths = []
    for depth in (10, 40):
        net = networks.mlp([8] * depth + [6], "relu", name)
        jaxpr = jax.make_jaxpr(net.init)(KEY)
        # Equations, inner ones too.
        lengths.append(str(jaxpr).count(" = "))
        assert jaxpr.out_avals[-1].shape[-1] == 6
    assert lengths[0] == lengths[1]


@pytest.fixture(scope="module")
def weights():
    """A hidden layer of every scheme in three dtypes, as one program."""

    @jax.jit
    def program(key):
        return {
            (name, dtype): schemes.get(name).initializer(LAYER)(key, (8, 8), dtype)
            for name in DRAWING
            for dtype in ("float32", "bfloat16", "float16")
        }

    return jax.device_get(program(KEY))


@pytest.mark.parametrize("name", DRAWING)
def test_coarse_types_are_the_float32_draw_rounded(name, weights):
    single = weights[name, "float32"]
    assert np.isfinite(single).all()
    for dtype in ("bfloat16", "float16"):
        coarse = weights[name, dtype]
        assert coarse.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(coarse, single.astype(coarse.dtype))


def test_layers_of_one_shape_need_not_be_alike():
    def choose(layer, sigma_w):
        return initializers.constant(layer.index)

    scheme = schemes.Scheme("deeper", choose, "its index", alike=False)
    net = networks.mlp([4] * 6, "tanh", scheme)
    params = jax.jit(net.init)(KEY)
    means = [float(layer.w.mean()) for layer in net.layers(params)]
    assert means == [0, 1, 2, 3, 4]


def test_initializer_of_another_layout_is_no_scheme():
    """Networks store (in, out): with torch's axes the two fans would be exchanged."""
    for layout in ({"layout": "torch"}, {"in_axis": 1, "out_axis": 0}, {"groups": 2}):
        init = initializers.he_normal(**layout)
        with pytest.raises(InputError, match=r"mlp\(\): scheme=he_normal.*leave it ou"):
            networks.mlp([4, 8, 3], scheme=init)


@pytest.mark.parametrize("name", ["delta_orthogonal", "block_orthogonal"])
def test_kernels_without_a_window_are_orthogonal_matrices(name):
    net = networks.mlp([4, 8, 3], "tanh", name)
    assert net.scheme.initializer(LAYER).name == "orthogonal"
    wide = Layer("hidden", 1, 3, 72, 72, kind="conv", window=(3, 3))
    assert net.scheme.initializer(wide).name == name


def test_dirac_keeps_its_gain_without_a_window():
    scheme = schemes.get(initializers.dirac(gain=0.5))
    assert repr(scheme.initializer(LAYER)) == "partial_identity(gain=0.5)"
