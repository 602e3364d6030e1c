"""What every scheme does with a plain perceptron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, initializers, networks, schemes
from isometry._internal.errors import NotDefined
from isometry.schemes import Branch, Layer
from isometry.structure import anatomy

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
    """`choose` reads the index, so that layers of a run have draws of their own."""

    def choose(layer, sigma_w):
        return initializers.constant(layer.index)

    scheme = schemes.Scheme("deeper", choose, "its index")
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


def ones(key, shape, dtype):
    return jnp.ones((2, 2), dtype)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda layer, sigma_w: None, "choose of scheme 'mine' returned None"),
        (lambda layer, sigma_w: initializers.zeros, "with the parentheses"),
        (lambda layer, sigma_w: jax.nn.initializers.he_normal, "returned <function"),
        (lambda layer, sigma_w: ones, r"of shape \(2, 2\) for shape=\(3, 4\)"),
    ],
)
def test_what_is_no_initializer_is_refused(choose, message):
    """By a network whose own code draws, and by the assignment to a tree of leaves."""
    scheme = schemes.Scheme("mine", choose, "wrong")
    shapes = {"w": jax.ShapeDtypeStruct((3, 4), jnp.float32)}
    an = anatomy(lambda params, x: x @ params["w"], shapes, jnp.ones(3))
    with pytest.raises(InputError, match=message):
        networks.mlp([3, 4], "tanh", scheme)
    with pytest.raises((InputError, NotDefined), match=message):
        schemes.assign(scheme, an, shapes)


def test_multipliers_are_a_record():
    def choose(layer, sigma_w):
        return initializers.orthogonal()

    scheme = schemes.Scheme("mine", choose, "wrong", multipliers=lambda branch: 0.0)
    branch = schemes.Branch(index=0, count=2, position=0, length=2)
    with pytest.raises(InputError, match=r"returned 0\.0; return schemes"):
        scheme.residual(branch)


def test_layers_of_an_mlp_have_their_names_and_activations():
    """As the anatomy of the network has them."""
    net = networks.mlp([3, 4, 4, 2], "relu")
    of_anatomy = {layer.name: layer for layer in net.anatomy.layers}
    told = {layer.name: layer for layer in net.plan}
    assert list(told) == list(of_anatomy)
    around = [(layer.precedes, layer.follows) for layer in net.plan]
    assert around == [(None, "relu"), ("relu", "relu"), ("relu", None)]
