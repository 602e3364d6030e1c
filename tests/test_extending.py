"""An adapter, a network, a scheme and an initializer as a user writes them.

Each is one class or function of public names alone; what the package does for its own
must then work. A method of one's own is in measure/methods/test_registry.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, initializers, networks, schemes
from isometry.networks import adapters
from tests.registries import registries as registries

KEY = jax.random.key(0)
EPS = float(jnp.finfo(jnp.float32).eps)

# --- An adapter of a library whose modules have `make(key)` and `run(params, xs, key)`


class Module:
    """Two layers, and in training (with a key) a coin for each hidden unit."""

    def make(self, key):
        key_in, key_out = jax.random.split(key)
        return {
            "in": {"kernel": jax.random.normal(key_in, (5, 7))},
            "out": {"kernel": jax.random.normal(key_out, (7, 3))},
        }

    def run(self, params, xs, key):
        h = jnp.tanh(xs @ params["in"]["kernel"])
        if key is not None:
            h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0.0)
        return h @ params["out"]["kernel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny(adapters.Model):
    module: adapters.Held

    @property
    def name(self):
        return type(self.module.value).__name__

    def infer(self, params, xs, key):
        return self.module.value.run(params, xs, None)

    def train(self, params, xs, key):
        return self.module.value.run(params, xs, key)


@dataclasses.dataclass(frozen=True)
class Draw:
    module: adapters.Held

    def __call__(self, key):
        return self.module.value.make(key)


def tiny(module, example):
    held = adapters.Held(module)
    model = Tiny(arguments=adapters.Arguments(), module=held)
    return adapters.adapted("tiny", example, lambda _: (Draw(held), model))


def test_adapter_of_ones_own():
    """The spectrum is that of W_out diag(1 - tanh²) W_in in NumPy."""
    net = tiny(Module(), jnp.ones(5))
    assert repr(net) == "tiny(Module, float32[5]), inference"
    assert [layer.name for layer in net.anatomy.layers] == ["in", "out"]
    params = net.init(KEY)
    x = jnp.linspace(-1.0, 1.0, 5)
    w_in, w_out = (np.asarray(params[name]["kernel"], float) for name in params)
    slope = 1 - np.tanh(np.asarray(x, float) @ w_in) ** 2
    wanted = np.linalg.svd((w_in * slope) @ w_out, compute_uv=False)
    sp = isometry.spectrum(net, params, x)
    # A product of 7 terms twice, of matrices whose norms are below 10.
    np.testing.assert_allclose(sp.values, wanted, atol=100 * 7 * EPS)


def test_adapter_of_ones_own_in_training():
    """It draws, so x is a pair; and half of the units are dropped."""
    net = tiny(Module(), jnp.ones(5)).training
    params = net.init(KEY)
    batch = jnp.ones((8, 5))
    hidden = jnp.tanh(batch @ params["in"]["kernel"])
    kept = jax.random.bernoulli(KEY, 0.5, hidden.shape)
    wanted = jnp.where(kept, 2 * hidden, 0.0) @ params["out"]["kernel"]
    np.testing.assert_allclose(net(params, (batch, KEY)), wanted, atol=100 * 7 * EPS)


def test_adapter_of_ones_own_refuses_a_batch():
    @dataclasses.dataclass(frozen=True)
    class Vector:
        def make(self, key):
            return jax.random.normal(key, (4, 3))

        def run(self, params, xs, key):
            return jnp.einsum("bi,io->bo", xs, params)

    with pytest.raises(InputError, match="Write one x, without the axis of a batch"):
        tiny(Vector(), jnp.ones((2, 4)))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (Tiny(arguments=adapters.Arguments(), module=adapters.Held(1)), "a pair"),
        ((len, 1), "a pair: the function that draws"),
        (
            (len, Tiny(arguments=adapters.Arguments(), module=[])),
            r"model that read_module returned has no hash .* adapters.Held",
        ),
    ],
)
def test_reader_that_returns_no_pair_is_refused(returned, message):
    with pytest.raises(InputError, match=message):
        adapters.adapted("tiny", jnp.ones(5), lambda _: returned)


# --- A network


@dataclasses.dataclass(frozen=True)
class GatedFunction:
    width: int

    def __call__(self, params, x):
        gate = jax.nn.sigmoid(x @ params["gate"])
        return (gate * (x @ params["up"])) @ params["down"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Gated(networks.Built):
    def skeleton(self, key):
        del key
        shape = (self.function.width, self.function.width)
        return {name: jnp.zeros(shape) for name in ("gate", "up", "down")}


def gated(width, scheme):
    return Gated(
        function=GatedFunction(width),
        example=jax.ShapeDtypeStruct((width,), jnp.float32),
        scheme=schemes.get(scheme),
        activation=None,
    )


def test_network_of_ones_own():
    """At x = 0 the gate is 1/2, and so are all singular values of orthogonal weights.

    The scale of a layer that no activation precedes or follows is 1.
    """
    net = gated(8, initializers.orthogonal())
    sp = isometry.spectrum(net, net.init(KEY), jnp.zeros(8))
    np.testing.assert_allclose(sp.values, 0.5, rtol=64 * EPS)
    other = net.with_scheme("zeros")
    assert isinstance(other, Gated)
    assert not np.any(other.init(KEY)["up"])


# --- A scheme and an initializer, by their names


def choose(layer, sigma_w):
    is_head = layer.role == "head"
    return initializers.orthogonal(sigma_w * (0.1 if is_head else 1.0))


@pytest.mark.usefixtures("registries")
def test_scheme_of_ones_own_has_a_name():
    """Three layers of gain 1.5, the last a tenth of it."""
    schemes.register(schemes.Scheme("quiet", choose, "a small head", free=True))
    assert "quiet" in schemes.names()
    net = networks.mlp([4, 4, 4, 4], "linear", "quiet", sigma_w=1.5)
    sp = isometry.spectrum(net, net.init(KEY), jnp.ones(4))
    np.testing.assert_allclose(sp.values, 1.5**3 / 10, rtol=64 * EPS)


@pytest.mark.usefixtures("registries")
def test_scheme_may_be_registered_twice():
    scheme = schemes.Scheme("quiet", choose, "a small head", free=True)
    schemes.register(scheme)
    schemes.register(scheme)
    assert schemes.get("quiet") is scheme


def signs():
    """Draw random signs over the root of fan_in."""

    def draw(key, shape, dtype=None, out_sharding=None):
        return jax.random.rademacher(key, shape, dtype) / shape[-2] ** 0.5

    return draw


@pytest.mark.usefixtures("registries")
def test_initializer_of_ones_own_has_a_name():
    register = initializers.register(law="±1/√fan_in", citation="none")
    assert register(signs) is signs
    # Again, as a notebook cell that is run twice.
    register(signs)
    entry = initializers.catalogue()[-1]
    assert (entry.name, entry.definition) == ("signs", signs.__doc__)
    weights = networks.mlp([4, 4, 2], "tanh", "signs").init(KEY)["layers"][0]["w"]
    np.testing.assert_array_equal(np.abs(weights), 0.5)


def orthogonal():
    """Another law of this name."""
    return initializers.zeros()


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("register", "message"),
    [
        (
            lambda: schemes.register(schemes.Scheme("lsuv", choose, "another")),
            r"schemes.register\(\): scheme.name='lsuv' is taken; write another",
        ),
        (
            lambda: schemes.register(schemes.Scheme("he_normal", choose, "another")),
            r"scheme.name='he_normal' is taken; .* initializers.catalogue\(\)",
        ),
        (
            lambda: schemes.register(choose),
            r"is not a Scheme; write schemes.Scheme\(name, choose, definition\)",
        ),
        (
            lambda: initializers.register(law="", citation="")(orthogonal),
            r"initializers.register\(\): an initializer 'orthogonal' is registered",
        ),
    ],
)
def test_names_that_are_taken_are_refused(register, message):
    with pytest.raises(InputError, match=message):
        register()
