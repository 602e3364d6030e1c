"""Names of layers, from the trees of every library."""

import jax
import pytest

from isometry.structure import anatomy
from tests.structure.small_models import shape


def product(leaf):
    """Return f that multiplies x by one leaf of its parameters."""

    def f(p, x):
        return x @ leaf(p)

    return f


@pytest.mark.parametrize(
    ("params", "leaf", "name"),
    [
        ({"params": {"d": {"kernel": 0}}}, lambda p: p["params"]["d"]["kernel"], "d"),
        ({"net/~/linear": {"w": 0}}, lambda p: p["net/~/linear"]["w"], "net/linear"),
        ({"stem": 0}, lambda p: p["stem"], "stem"),
        ([(0,)], lambda p: p[0][0], "0/0"),
        (0, lambda p: p, "weight"),
        ({"output": 0}, lambda p: p["output"], "params/output"),
    ],
)
def test_name_of_the_only_layer(params, leaf, name):
    params = jax.tree.map(lambda _: shape(4, 4), params)
    (layer,) = anatomy(product(leaf), params, shape(4)).layers
    assert layer.name == name


def test_two_leaves_of_one_module_keep_their_own_names():
    def f(p, x):
        return (x @ p["cell"]["w_i"]) @ p["cell"]["w_h"]

    params = {"cell": {"w_i": shape(4, 4), "w_h": shape(4, 4)}}
    an = anatomy(f, params, shape(4))
    assert [layer.name for layer in an.layers] == ["cell/w_i", "cell/w_h"]


def test_names_of_equinox_modules():
    equinox = pytest.importorskip("equinox")

    def build(key):
        return equinox.nn.MLP(3, 2, width_size=4, depth=2, key=key)

    model = equinox.filter_eval_shape(build, jax.random.key(0))
    params, static = equinox.partition(
        model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )

    def f(params, xs):
        return jax.vmap(equinox.combine(params, static))(xs)

    an = anatomy(f, params, shape(5, 3))
    assert [layer.name for layer in an.layers] == ["layers/0", "layers/1", "layers/2"]
    # Equinox keeps weights as (out, in).
    assert [layer.in_axes for layer in an.layers] == [(1,)] * 3
    # Under vmap the product comes out transposed, and the point is after its bias.
    assert an.shape("layers/0").shape == (5, 4)


def test_names_of_nnx_modules():
    nnx = pytest.importorskip("flax.nnx")
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def f(state, x):
        return nnx.merge(graph, state)(x)

    (layer,) = anatomy(f, state, shape(3)).layers
    assert layer.name == "kernel"
