"""Plain functions as networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from isometry._internal.errors import NotDefined
from tests.networks.adapters.reference import KEYS, X, close


def f(params, x):
    return {"y": params["w"] @ x}


def init(key):
    return {"w": jax.random.normal(key, (2, 3))}


@pytest.fixture(scope="module")
def net():
    return networks.function(f, init, X, output="y")


def test_the_function_and_its_parameters_are_those_given(net):
    params = net.init(KEYS[0])
    close(params["w"], init(KEYS[0])["w"])
    close(net(params, X), params["w"] @ X)
    sp = isometry.ensemble(net, KEYS, X[None])
    expected = np.linalg.svd(jax.vmap(init)(KEYS)["w"], compute_uv=False)
    close(sp.values[:, 0], expected)


def test_networks_of_one_function_have_equal_functions(net):
    assert networks.function(f, init, X, output="y").function == net.function
    assert networks.function(f, init, X, output="y").function != f


def test_a_function_has_no_training_mode(net):
    with pytest.raises(NotDefined, match="f has no training mode"):
        _ = net.training


def test_shapes_are_enough_for_an_example():
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    net = networks.function(f, init, shape, output="y")
    assert net.example == shape
    assert net.input_shape == (3,)


def test_a_list_of_numbers_is_one_array():
    net = networks.function(f, init, [1.0, 2.0, 3.0], output="y")
    assert net.input_shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, init, X), "f=None is not callable"),
        ((f, 3, X), "init=3 is not callable"),
        ((f, init, None), "example holds no array"),
        ((f, init, X), "a dict of 'y'"),
        ((lambda params, x: x > 0, init, X), "returns bool"),
        ((lambda params, x: x[:0], init, X), r"float32\[0\], which holds no number"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=rf"networks.function\(\): .*{message}"):
        networks.function(*arguments)


def test_what_the_function_raises_is_shown():
    def broken(params, x):
        raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match="out of cheese") as raised:
        networks.function(broken, init, X)
    assert "Raised by f(params, x)" in raised.value.__notes__[-1]
    with pytest.raises(TypeError) as raised:
        networks.function(f, lambda: None, X)
    assert any("Raised by init(key)" in note for note in raised.value.__notes__)
