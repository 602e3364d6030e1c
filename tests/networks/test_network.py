"""What every network offers, tried on networks of a few lines."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, initializers, networks, schemes
from isometry._internal.errors import NotDefined
from isometry.measure._function import Reference
from isometry.networks._network import Built
from tests.networks.plain import plain

KEY = jax.random.key(0)


def gated(params, x):
    """A layer in torch's layout (out, in), a norm scale, a head."""
    h = jnp.tanh(params["stem"]["weight"] @ x + params["stem"]["bias"])
    return params["scale"] * (h @ params["head"])


def draw(key):
    return {
        "stem": {"weight": jax.random.normal(key, (8, 4)), "bias": jnp.ones(8)},
        "scale": jnp.full(3, 2.0),
        "head": jnp.ones((8, 3)),
    }


NET = plain(gated, draw, (4,))


def both(params, x):
    return params["w"] @ (x["image"] * x["mask"])


def draw_matrix(key):
    return {"w": jnp.eye(3)}


VECTOR = jax.ShapeDtypeStruct((3,), jnp.float32)
TREE = plain(both, draw_matrix, {"image": VECTOR, "mask": VECTOR})


# --- What is read off shapes


def test_anatomy_is_that_of_the_function_with_its_parameters():
    by_hand = isometry.anatomy(gated, draw(KEY), jnp.ones(4))
    assert NET.anatomy.layers == by_hand.layers
    assert NET.anatomy.points == by_hand.points
    assert NET.depth == 2
    assert NET.input_shape == (4,)
    assert TREE.input_shape is None


def test_anatomy_allocates_nothing():
    """The weights of this network would take a terabyte."""
    net = networks.mlp([2**18, 2**20, 10], "relu")
    fans = [(layer.fan_in, layer.fan_out) for layer in net.anatomy.layers]
    assert fans == [(2**18, 2**20), (2**20, 10)]


def test_anatomy_is_in_the_dtype_of_the_parameters():
    net = networks.mlp([3, 4, 2], "tanh", dtype=jnp.bfloat16)
    assert net.anatomy.shape("input").dtype == jnp.bfloat16


# --- What is measured


def test_networks_are_measured_as_their_functions():
    """Diagonal D between two matrices, by hand."""
    params = draw(KEY)
    x = jnp.linspace(-1, 1, 4)
    w = np.asarray(params["stem"]["weight"], float)
    slopes = 1 - np.tanh(w @ np.asarray(x, float) + 1) ** 2
    by_hand = np.linalg.svd(2 * np.ones((3, 8)) @ (slopes[:, None] * w))[1]
    sp = isometry.spectrum(NET, params, x)
    # A sum of 8 products, relative to the largest.
    close = {"rtol": 0, "atol": 16 * 1.2e-7 * by_hand[0]}
    np.testing.assert_allclose(sp.values, by_hand, **close)
    ensemble = isometry.ensemble(NET, jax.random.split(KEY, 1), x[None])
    assert ensemble.log_values.shape == (1, 1, 3)


def test_plain_functions_and_equal_functions_share_programs():
    """Functions that are equal by architecture may be made anew for each call."""

    @dataclasses.dataclass(frozen=True)
    class Scaled:
        factor: float

        def __call__(self, params, x):
            return self.factor * params["w"] @ x

    one, other = Reference(Scaled(2.0)), Reference(Scaled(2.0))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Reference(Scaled(3.0))
    # Held although nothing else refers to it.
    assert one({"w": jnp.eye(2)}, jnp.ones(2)).shape == (2,)


def test_batch_in_place_of_an_example_is_refused():
    batch = jnp.ones((5, 4))
    message = r"x is shape \(5, 4\): 5 examples, and one of shape \(4,\) is meant"
    with pytest.raises(InputError, match=message):
        isometry.spectrum(NET, draw(KEY), batch)
    with pytest.raises(InputError, match=r"xs holds rows of shape \(5, 4\), and this"):
        isometry.ensemble(NET, jax.random.split(KEY, 2), batch[None])
    with pytest.raises(InputError, match=r"xs holds rows of shape \(5, 4\), and this"):
        isometry.profile(NET, jax.random.split(KEY, 2), batch[None])


def test_example_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"takes one example of shape \(4,\)\. For an"):
        isometry.spectrum(NET, draw(KEY), jnp.ones(5))


def test_trees_of_inputs_are_checked_leaf_by_leaf():
    keys = jax.random.split(KEY, 2)
    xs = {"image": jnp.ones((2, 3)), "mask": jnp.ones((2, 3))}
    span = ("w", "output")
    with pytest.raises(InputError, match=r"rows of shapes \{'image': \(\), 'mask': "):
        isometry.ensemble(TREE, keys, jax.tree.map(lambda a: a[0], xs), span=span)
    with pytest.raises(InputError, match=r"xs is a tree PyTreeDef.* takes shapes"):
        isometry.ensemble(TREE, keys, {"image": xs["image"]}, span=span)


def test_training_networks_take_batches_of_any_size():
    """Their example is a batch too, and fixes no number of examples."""
    net = plain(gated, draw, (4,), mode="training")
    with pytest.raises(InputError, match="raised TypeError"):
        isometry.spectrum(net, draw(KEY), jnp.ones((5, 4)))


# --- What draws the weights


def test_scheme_draws_weights_in_their_layout_and_leaves_the_rest():
    net = NET.with_scheme("orthogonal", sigma_w=1.5)
    params = net.init(KEY)
    # (out, in): eight outputs of four inputs.
    gram = params["stem"]["weight"].T @ params["stem"]["weight"]
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(params["scale"], 2.0)
    np.testing.assert_array_equal(params["stem"]["bias"], 0.0)
    assert net.function is NET.function
    assert net.scheme.name == "orthogonal"
    assert "as drawn" in net.assignment.table()
    assert NET.assignment is None


def test_scheme_replaces_an_earlier_one():
    once = NET.with_scheme("kaiming").with_scheme("gaussian", sigma_w=1.0)
    direct = NET.with_scheme("gaussian", sigma_w=1.0)
    jax.tree.map(np.testing.assert_array_equal, once.init(KEY), direct.init(KEY))
    assert (
        repr(once)
        == repr(direct)
        == ("plain(gated).with_scheme('gaussian', sigma_w=1.0)")
    )


def test_schemes_make_a_mapping_for_audit():
    nets = NET.with_schemes(["kaiming", initializers.normal(std=0.5)])
    assert [net.scheme.name for net in nets.values()] == ["kaiming", "normal"]
    assert list(nets) == ["kaiming", "normal(mean=0.0, std=0.5)"]
    named = NET.with_schemes({"he": "kaiming", "zero": schemes.get("zeros")})
    assert list(named) == ["he", "zero"]


def test_schemes_need_labels_of_their_own():
    with pytest.raises(
        InputError, match=r"with_schemes\(\): schemes holds 'kaiming' t"
    ):
        NET.with_schemes(["kaiming", schemes.get("kaiming")])
    with pytest.raises(InputError, match="schemes='kaiming' is not a list of schemes"):
        NET.with_schemes("kaiming")
    with pytest.raises(InputError, match="schemes is empty"):
        NET.with_schemes([])


def test_scheme_is_refused_at_once():
    with pytest.raises(
        InputError, match=r"with_scheme\(\): .*'ortogonal' is not known"
    ):
        NET.with_scheme("ortogonal")
    with pytest.raises(InputError, match="'kaiming' fixes its own scale"):
        NET.with_scheme("kaiming", sigma_w=2.0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Small(Built):
    """A network of ours: a function, and leaves that a scheme fills in."""

    width: int

    def skeleton(self, key):
        return jax.tree.map(jnp.zeros_like, draw(key))


SMALL = Small(
    function=gated,
    example=jax.ShapeDtypeStruct((4,), jnp.float32),
    scheme=schemes.get("gaussian"),
    activation=None,
    sigma_w=1.0,
    width=8,
)


def test_built_networks_draw_by_their_scheme():
    params = SMALL.init(KEY)
    np.testing.assert_array_equal(params["scale"], 0.0)
    assert float(jnp.abs(params["head"]).min()) > 0
    by_assignment = SMALL.assignment.draw(KEY, SMALL.skeleton(KEY))
    jax.tree.map(np.testing.assert_array_equal, params, by_assignment)


def test_built_networks_keep_their_fields_with_another_scheme():
    other = SMALL.with_scheme("zeros")
    assert isinstance(other, Small)
    assert (other.width, other.scheme.name, other.sigma_w) == (8, "zeros", None)
    assert not np.any(other.init(KEY)["head"])


# --- What does not exist


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NET.training, r"training: plain\(gated\) has no training mode"),
        (lambda: NET.law("hidden", jnp.ones((1, 4))), r"law\(\): no law is known of"),
        (
            lambda: NET.moments("hidden", jnp.ones((1, 4))),
            r"moments\(\): no prediction is implemented for this .*isometry.ensemble",
        ),
        (
            lambda: NET.mean_field(jnp.ones((1, 4))),
            r"mean_field\(\): no prediction is implemented for .*isometry.signals",
        ),
    ],
)
def test_what_is_not_known_is_said_to_be_so(call, message):
    with pytest.raises(NotDefined, match=message):
        call()


def test_networks_without_a_scheme_have_nothing_to_adjust():
    params = draw(KEY)
    assert not NET.data_driven
    assert NET.adjust(params, jnp.ones((3, 4))) is params


# One network of each kind.
KINDS = pytest.mark.parametrize(
    "net",
    [
        networks.mlp([4, 2]),
        networks.cnn([2, 4], (2,)),
        networks.resnet(4, 1),
        networks.rnn(4, 3, 2, length=2),
        networks.transformer(4, 1, 1, length=2),
    ],
    ids=lambda net: type(net).__name__,
)


@KINDS
def test_parameters_of_another_network_are_refused(net):
    """Where they fit, its outputs and Jacobians would pass for those of this one."""
    x = np.ones(net.example.shape, np.float32).tolist()
    others = [None, {}, jax.tree.map(lambda a: jnp.zeros((*a.shape, 1)), net.shapes)]
    for params in others:
        with pytest.raises(InputError, match="in this network, and params"):
            net(params, x)
    with pytest.raises(InputError, match=r"spectrum\(\): params.* in this network"):
        isometry.spectrum(net, others[-1], jnp.asarray(x))


def test_kernels_of_another_size_are_refused():
    """They have the same tree, and could be run."""
    net = networks.cnn([2, 4, 4], (5,))
    shapes = networks.cnn([2, 4, 4], (5,), kernel=5).shapes
    first = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    params = jax.tree.map(lambda a: np.stack([a, a]), first)
    message = r"\['w'\] is of shape \(3, .* and params has \(5, "
    for call in (
        lambda: isometry.signals(net, params=params, xs=jnp.ones((1, 5, 2))),
        lambda: isometry.ensemble(net, params=params, xs=jnp.ones((1, 5, 2))),
        lambda: isometry.weights(net.with_scheme("kaiming"), first),
    ):
        with pytest.raises(InputError, match=message):
            call()


@KINDS
def test_complex_numbers_are_no_input(net):
    """A cast would drop their imaginary part."""
    params = net.init(jax.random.key(0))
    x = jnp.ones(net.example.shape, jnp.complex64)
    with pytest.raises(InputError, match="x is complex64, not a real floating array"):
        net(params, x)
