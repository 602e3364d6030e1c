"""MLPs against a plain NumPy loop, and what their parameters look like."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, activations, initializers, networks, schemes

KEY = jax.random.key(3)
WIDTHS = {1: [4, 3], 2: [4, 8, 3], 5: [4, 8, 8, 8, 8, 3]}
EPS = float(np.finfo(np.float32).eps)


def by_numpy(net, params, x):
    """Pre-activations z_1 ... z_depth in float64, layer by layer."""
    values = []
    h = np.asarray(x, np.float64)
    for layer in net.layers(params):
        z = h @ np.asarray(layer.w, np.float64)
        if layer.b is not None:
            z = z + np.asarray(layer.b, np.float64)
        values.append(z)
        h = np.tanh(z)
    return values


def drawn(net):
    """Parameters by NumPy: Gaussian with sigma_w = 1.3 and sigma_b = 0.4."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 0.4
        if path[-1].key == "w":
            scale = 1.3 / leaf.shape[1] ** 0.5
        return jax.device_put(
            np.asarray(scale * random.standard_normal(leaf.shape), leaf.dtype)
        )

    return jax.tree.map_with_path(draw, net.shapes)


@pytest.mark.parametrize("depth", WIDTHS)
def test_outputs_and_pre_activations_are_those_of_a_loop(depth):
    net = networks.mlp(WIDTHS[depth], "tanh", "gaussian", bias=depth != 2)
    params = drawn(net)
    x = jax.device_put(
        np.asarray(np.random.default_rng(1).standard_normal(4), np.float32)
    )
    expected = by_numpy(net, params, x)
    # Each layer adds at most 8 eps |W||h| of rounding, and multiplies what is there by
    # the norm of W, which is below 4.
    close = {"rtol": 0, "atol": 8 * EPS * 4 * depth}
    np.testing.assert_allclose(net(params, x), expected[-1], **close)
    values = net.function.pre_activations(params, x)
    assert len(values) == depth - 1
    for value, by_hand in zip(values, expected[:-1], strict=True):
        np.testing.assert_allclose(value, by_hand, **close)
    if depth > 1:
        z = net.function.stem(params, x)
        np.testing.assert_allclose(z, expected[0], **close)
        end = net.function.hidden(params, z)
        np.testing.assert_allclose(end, expected[-2], **close)


@pytest.mark.parametrize("depth", WIDTHS)
def test_depth_counts_weight_layers(depth):
    net = networks.mlp(WIDTHS[depth])
    assert net.depth == net.anatomy.depth == len(list(net.layers(drawn(net)))) == depth


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("widths", "lengths"),
    [
        ([8, 8, 8, 8, 8], [1, 2, 1]),
        ([4, 8, 8, 8, 3], [1, 2, 1]),
        ([4, 8, 6, 6, 6, 3], [1, 1, 2, 1]),
        ([4, 3], [1]),
        ([4, 8, 3], [1, 1]),
    ],
)
def test_hidden_layers_of_one_shape_are_stacked(widths, lengths, bias):
    """Stem and head are runs of their own, even if their widths are those of others."""
    runs = networks.mlp(widths, bias=bias).shapes["layers"]
    assert [run["w"].shape[0] for run in runs] == lengths
    shapes = [run["w"].shape[1:] for run in runs for _ in range(run["w"].shape[0])]
    assert shapes == list(itertools.pairwise(widths))
    if bias:
        assert [run["b"].shape for run in runs] == [
            (run["w"].shape[0], run["w"].shape[2]) for run in runs
        ]
    else:
        assert all(set(run) == {"w"} for run in runs)


def test_layers_come_in_order_and_can_be_put_back():
    net = networks.mlp([4, 8, 6, 6, 6, 3], "tanh", "gaussian", 1.0, 0.5)
    params = drawn(net)
    layers = list(net.layers(params))
    assert [layer.index for layer in layers] == [0, 1, 2, 3, 4]
    roles = ["stem", "hidden", "hidden", "hidden", "head"]
    assert [layer.role for layer in layers] == roles
    fans = [(4, 8), (8, 6), (6, 6), (6, 6), (6, 3)]
    assert [(layer.fan_in, layer.fan_out) for layer in layers] == fans
    assert [layer.w.shape for layer in layers] == fans
    np.testing.assert_array_equal(layers[3].w, params["layers"][2]["w"][1])
    np.testing.assert_array_equal(layers[3].b, params["layers"][2]["b"][1])
    back = net.with_layers(params, layers)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_single_layer_is_a_head():
    net = networks.mlp([4, 3])
    (layer,) = net.layers(drawn(net))
    assert (layer.role, layer.index, layer.depth) == ("head", 0, 1)


def test_weights_do_not_depend_on_grouping():
    """Layer l draws from the l-th pair of keys, stacked in a run or not."""
    net = networks.mlp([8, 8, 8, 8, 8], "tanh", "gaussian", 1.0, 0.5)
    layers = net.layers(net.init(KEY))
    keys = jax.random.split(KEY, (4, 2))
    # A product with the scale, which may be rounded once more or less.
    close = {"rtol": 3 * EPS}
    for layer, (key_w, key_b) in zip(layers, keys, strict=True):
        by_hand = jax.random.normal(key_w, (8, 8)) * np.float32(8**-0.5)
        np.testing.assert_allclose(layer.w, by_hand, **close)
        by_hand = 0.5 * jax.random.normal(key_b, (8,))
        np.testing.assert_allclose(layer.b, by_hand, **close)


def test_old_keys_draw_the_same():
    net = networks.mlp([4, 3], "tanh", "gaussian")
    new = net.init(jax.random.key(5))
    old = net.init(jax.random.PRNGKey(5))
    np.testing.assert_array_equal(new["layers"][0]["w"], old["layers"][0]["w"])


def test_hidden_widths_can_be_replaced():
    net = networks.mlp([4, 8, 8, 3], "tanh", "gaussian", 1.0, 0.5)
    wider = net.with_width(16)
    assert wider.widths == (4, 16, 16, 3)
    assert (wider.scheme, wider.activation, wider.bias) == (
        net.scheme,
        net.activation,
        net.bias,
    )


def test_bfloat16_parameters_compute_in_bfloat16():
    net = networks.mlp([4, 8, 8, 3], "tanh", "orthogonal", 1.0, dtype=jnp.bfloat16)
    params = drawn(net)
    x = jnp.asarray([0.5, -1.0, 0.25, 2.0], jnp.float32)
    y = net(params, x)
    assert y.dtype == jnp.bfloat16
    # 8 bits: each of three layers rounds sum, activation and bias by 2^-9 of |z| < 4.
    tolerance = 3 * 3 * 4 * 2.0**-8
    expected = by_numpy(net, params, x)[-1]
    np.testing.assert_allclose(np.asarray(y, float), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("scheme", "values"),
    [("orthogonal", [0.7, 0.7]), ("scaled_orthogonal", [0.7 * 2**0.5, 0.7])],
)
def test_singular_values_of_orthogonal_layers(scheme, values):
    """Scaled orthogonal layers keep the variance: √(8/4) more where they widen."""
    net = networks.mlp([4, 8, 3], "linear", scheme, 0.7)
    for layer, value in zip(net.layers(net.init(KEY)), values, strict=True):
        s = np.linalg.svd(np.asarray(layer.w, np.float64), compute_uv=False)
        # Householder vectors of 8 entries.
        np.testing.assert_allclose(s, value, rtol=8 * EPS)
        np.testing.assert_array_equal(layer.b, 0)


def test_scheme_may_be_a_name_an_initializer_or_a_scheme():
    x = jnp.ones(8)
    for scheme in ("zer_o", schemes.get("zer_o"), initializers.zer_o()):
        net = networks.mlp([8, 8, 8], "linear", scheme)
        np.testing.assert_array_equal(net(net.init(KEY), x), x)


def test_free_schemes_are_critical_by_default():
    """σ_w² at σ_b² = 0.05 by quadrature, to ten digits."""
    relu = networks.mlp([4, 8, 3], "relu", "gaussian").scheme
    assert relu.sigma_w == pytest.approx(2**0.5, rel=1e-12)
    tanh = networks.mlp([4, 8, 3], "tanh", "orthogonal", sigma_b=0.05**0.5).scheme
    assert tanh.sigma_w**2 == pytest.approx(1.7609546396, abs=1e-10)
    assert tanh.sigma_b == 0.05**0.5


def test_other_scheme_is_that_of_a_network_built_with_it():
    net = networks.mlp([4, 8, 8, 3], "relu", "orthogonal")
    other = net.with_scheme("gaussian", sigma_w=1.2, sigma_b=0.1)
    direct = networks.mlp([4, 8, 8, 3], "relu", "gaussian", 1.2, 0.1)
    assert repr(other) == repr(direct)
    assert other.function == net.function
    jax.tree.map(np.testing.assert_array_equal, other.init(KEY), direct.init(KEY))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.mlp(3), r"mlp\(\): widths=3 is not a sequence; write \[64,"),
        (lambda: networks.mlp([4]), r"mlp\(\): widths=\[4\] has 1; write \[n_in, hid"),
        (lambda: networks.mlp([]), r"widths=\[\] has 0"),
        (lambda: networks.mlp([4, 0]), r"widths\[1\]=0 must be a whole number, at"),
        (lambda: networks.mlp([4, 2.5]), r"widths\[1\]=2\.5 is not a whole number"),
        (lambda: networks.mlp([4, True]), r"widths\[1\]=True must be a whole number"),
        (lambda: networks.mlp([4, 3], "tanhh"), r"mlp\(\): activation.*mean 'tanh'"),
        (lambda: networks.mlp([4, 3], "tanh", "ortogonal"), r"mlp\(\): sch.*'orthog"),
        (
            lambda: networks.mlp([4, 3], "tanh", initializers.orthogonal),
            r"orthogonal is a factory; write orthogonal\(\)",
        ),
        (lambda: networks.mlp([4, 3], "tanh", 3), r"scheme=3 is not a name, an init"),
        (lambda: networks.mlp([4, 3], sigma_b=np.ones(3)), "sigma_b=.* not a number"),
        (lambda: networks.mlp([4, 3], sigma_b=0.1, bias=False), r"drop one of the two"),
        (lambda: networks.mlp([4, 3], "tanh", "kaiming", 2.0), r"'kaiming' fixes its"),
        (lambda: networks.mlp([4, 3], sigma_w=-1.0), r"mlp\(\): sigma_w=-1\.0 is not"),
        (lambda: networks.mlp([4, 3], sigma_b=float("nan")), r"mlp\(\): sigma_b=nan"),
        (lambda: networks.mlp([4, 3], dtype="int32"), r"mlp\(\): dtype=int32 is not"),
        (lambda: networks.mlp([4, 3], dtype="float64"), "float64 needs 64-bit mode"),
        (lambda: networks.mlp([4, 8, 3], "tanh", "identity"), "identity"),
        (lambda: networks.mlp([4, 3], "softplus"), "softplus"),
        (lambda: networks.mlp([4, 3]).init(0), r"init\(\): key is 0, not a single r"),
        (lambda: networks.mlp([4, 3]).init(jax.random.split(KEY, 2)), "shape .2,."),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("shape", [(3,), (2, 4), ()])
def test_one_example_at_a_time(shape):
    net = networks.mlp([4, 3])
    with pytest.raises(InputError, match=r"one example of shape \(4,\)\. For a batch"):
        jax.eval_shape(net, net.shapes, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_layers_of_other_shapes_are_refused():
    net = networks.mlp([4, 8, 3])
    layers = list(net.layers(drawn(net)))
    with pytest.raises(InputError, match="layers holds 3 layers, and the network has"):
        net.with_layers(drawn(net), [*layers, layers[-1]])
    with pytest.raises(InputError, match=r"from 0 on have b of shapes \[\(3,\)\]; the"):
        net.with_layers(drawn(net), layers[::-1])


def count(jaxpr):
    """The number of equations, also of those inside loops and calls."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in equation.params.values():
            values = value if isinstance(value, (tuple, list)) else (value,)
            inner = [getattr(one, "jaxpr", one) for one in values]
            total += sum(count(one) for one in inner if hasattr(one, "eqns"))
    return total


def test_first_leaf_of_another_shape_is_named():
    """In a network of more than ten runs, where "[10]" sorts before "[2]"."""
    net = networks.mlp([4, *(5, 6) * 5, 3], bias=False)
    params = jax.eval_shape(net.init, jax.random.key(0))
    layers = list(params["layers"])
    for i in (2, 10):
        layers[i] = {"w": jnp.ones((1, 9, 9))}
    with pytest.raises(InputError, match=r"params\['layers'\]\[2\]\['w'\] is of"):
        net.function.check({"layers": tuple(layers)})


def test_program_does_not_grow_with_depth():
    sizes = []
    for depth in (10, 40):
        net = networks.mlp([4, *[8] * (depth - 1), 3], "tanh", "orthogonal", 1.0)
        arguments = net.shapes, net.example
        drawing = jax.make_jaxpr(net.init)(KEY).jaxpr
        forward = jax.make_jaxpr(net)(*arguments).jaxpr
        backward = jax.make_jaxpr(jax.jacrev(net, 1))(*arguments).jaxpr
        sizes.append((count(drawing), count(forward), count(backward)))
    assert sizes[0] == sizes[1]


def test_functions_are_equal_by_architecture_and_not_by_scheme():
    gaussian = networks.mlp([4, 8, 3], "tanh", "gaussian").function
    other = networks.mlp([4, 8, 3], activations.tanh, "zer_o").function
    assert gaussian == other
    assert hash(gaussian) == hash(other)
    assert gaussian != networks.mlp([4, 8, 3], "relu").function


ENTANGLED = {
    "softmax": jax.nn.softmax,
    "small softmax": lambda x: 1e-5 * jax.nn.softmax(x),
    "sum": jnp.sum,
    "mean": lambda x: x - x.mean(),
    "median": lambda x: jnp.tanh(x - jnp.median(x)),
    "sort": jnp.sort,
    "cumsum": jnp.cumsum,
    "first": lambda x: x - x[0],
    "last": lambda x: x - x[-1],
    "cut": lambda x: x[:2],
}


@pytest.mark.parametrize("phi", ENTANGLED.values(), ids=ENTANGLED)
def test_activation_that_is_not_elementwise_is_refused(phi):
    """Its derivatives would be taken for a diagonal, and every spectrum be wrong."""
    with pytest.raises(InputError, match=r"mlp\(\): activation=.* must be elementwise"):
        networks.mlp([1, 1, 1], phi, "he_normal")


def test_activation_that_cannot_be_evaluated_is_refused():
    def branches(x):
        return x if x > 0 else 0 * x

    with pytest.raises(InputError, match=r"branches cannot .*jnp.where instead of if"):
        networks.mlp([4, 8, 2], branches, "he_normal")
    with pytest.raises(InputError, match="written with jnp"):
        networks.mlp([4, 8, 2], lambda x: np.tanh(np.asarray(x)), "he_normal")


def test_activation_may_close_over_a_tracer():
    net = networks.mlp([4, 8, 3], "tanh", "he_normal")
    params = drawn(net)

    def size(scale):
        traced = networks.mlp([4, 8, 3], lambda x: jnp.tanh(scale * x), "he_normal")
        return jnp.sum(traced(params, jnp.ones(4)) ** 2)

    step = 1e-2
    difference = float(size(1 + step) - size(1 - step)) / (2 * step)
    # The difference is off by step², and by eps/step.
    assert float(jax.grad(size)(1.0)) == pytest.approx(difference, rel=1e-2)


def test_runs_that_are_one_object_are_layers_all_the_same():
    net = networks.mlp([6, 6, 6, 6], "tanh", "gaussian", 1.5)
    run = jax.tree.map(lambda a: a[:1], drawn(net)["layers"][1])
    tied = {"layers": (run, run, run)}
    apart = {"layers": tuple(dict(run) for _ in range(3))}
    x = jnp.linspace(-1, 1, 6)
    one, other = (net.function.factors(p, x, "end_to_end") for p in (tied, apart))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_repr_shows_how_it_was_built():
    net = networks.mlp([4, 8, 3], "tanh", "orthogonal", 1.25, 0.5)
    assert repr(net) == (
        "mlp([4, 8, 3], activation='tanh', scheme=Scheme('orthogonal', sigma_w=1.25, "
        "sigma_b=0.5), bias=True)"
    )
