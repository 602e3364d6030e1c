"""MLPs against a plain NumPy loop, and what their parameters look like."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, activations, initializers, networks, schemes

KEY = jax.random.key(3)
WIDTHS = {1: [4, 3], 2: [4, 8, 3], 3: [4, 8, 8, 3], 5: [4, 8, 8, 8, 8, 3]}


def plain(net, params, x):
    """Pre-activations z_1 … z_depth in float64, layer by layer."""
    found = []
    h = np.asarray(x, np.float64)
    for layer in net.layers(params):
        z = h @ np.asarray(layer.w, np.float64)
        z = z if layer.b is None else z + np.asarray(layer.b, np.float64)
        found.append(z)
        h = np.tanh(z)
    return found


def drawn(net):
    """Draw parameters by NumPy, as large as the Gaussian scheme draws them at sigma_w = 1.3 and sigma_b = 0.4."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(net.init, KEY)
    scales = {"w": lambda a: 1.3 / a.shape[1] ** 0.5, "b": lambda a: 0.4}

    def draw(path, a):
        return jnp.asarray(scales[path[-1].key](a) * rng.standard_normal(a.shape), a.dtype)

    return jax.tree.map_with_path(draw, shapes)


@pytest.mark.parametrize(("depth", "bias"), [(1, True), (2, False), (3, True), (5, False), (5, True)])
def test_forward(depth, bias):
    net = networks.mlp(WIDTHS[depth], "tanh", "gaussian", bias=bias)
    params = drawn(net)
    x = jnp.asarray(np.random.default_rng(1).standard_normal(4), jnp.float32)
    want = plain(net, params, x)
    assert net.depth == depth == len(want)
    assert net.input_shape == (4,)
    # each layer adds at most 8·eps·|W||h| of rounding and multiplies it by at most ‖W‖ < 4
    tolerance = {"rtol": 0, "atol": 8 * 1.2e-7 * 4 * depth}
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(net(params, x), want[-1], **tolerance)
        found = net.function.pre_activations(params, x)
        assert len(found) == depth - 1
        for z, w in zip(found, want[:-1], strict=True):
            np.testing.assert_allclose(z, w, **tolerance)
        if depth >= 2:
            np.testing.assert_allclose(net.function.stem(params, x), want[0], **tolerance)
            np.testing.assert_allclose(net.function.hidden(params, found[0]), want[-2], **tolerance)


def test_structure_of_runs():
    """Stem and head are runs of their own, whatever widths coincide; hidden layers of one shape are stacked."""
    for widths, lengths in [
        ([8, 8, 8, 8, 8], [1, 2, 1]),
        ([4, 8, 8, 8, 3], [1, 2, 1]),
        ([4, 8, 6, 6, 6, 3], [1, 1, 2, 1]),
        ([4, 3], [1]),
        ([4, 8, 3], [1, 1]),
    ]:
        for bias in (True, False):
            params = jax.eval_shape(networks.mlp(widths, bias=bias).init, KEY)
            assert set(params) == {"layers"}
            assert isinstance(params["layers"], tuple)
            assert [run["w"].shape[0] for run in params["layers"]] == lengths
            assert all(set(run) == ({"w", "b"} if bias else {"w"}) for run in params["layers"])
            flat = [run["w"].shape[1:] for run in params["layers"] for _ in range(run["w"].shape[0])]
            assert flat == list(itertools.pairwise(widths))
            if bias:
                assert [run["b"].shape for run in params["layers"]] == [
                    (run["w"].shape[0], run["w"].shape[2]) for run in params["layers"]
                ]


def test_layers_come_in_order():
    net = networks.mlp([4, 8, 6, 6, 6, 3], "tanh", "gaussian", 1.0, 0.5)
    params = drawn(net)
    layers = list(net.layers(params))
    assert [layer.index for layer in layers] == [0, 1, 2, 3, 4]
    assert [layer.role for layer in layers] == ["stem", "hidden", "hidden", "hidden", "head"]
    assert [layer.depth for layer in layers] == [5] * 5
    assert [(layer.fan_in, layer.fan_out) for layer in layers] == [(4, 8), (8, 6), (6, 6), (6, 6), (6, 3)]
    for layer in layers:
        assert layer.w.shape == (layer.fan_in, layer.fan_out)
        assert layer.b.shape == (layer.fan_out,)
    np.testing.assert_array_equal(layers[3].w, params["layers"][2]["w"][1])
    np.testing.assert_array_equal(layers[3].b, params["layers"][2]["b"][1])


def test_one_layer_reads_and_answers():
    (layer,) = networks.mlp([4, 3]).layers(drawn(networks.mlp([4, 3])))
    assert (layer.role, layer.index, layer.depth) == ("head", 0, 1)


def test_weights_do_not_depend_on_grouping():
    """Layer l draws from the l-th pair of keys: equal widths stacked in a run or not, its numbers are the same."""
    together = networks.mlp([8, 8, 8, 8, 8], "tanh", "gaussian", 1.0, 0.5)
    apart = networks.mlp([8, 8, 8, 4, 8], "tanh", "gaussian", 1.0, 0.5)
    a, b = (list(net.layers(net.init(KEY))) for net in (together, apart))
    for i in (0, 1):
        np.testing.assert_array_equal(a[i].w, b[i].w)
        np.testing.assert_array_equal(a[i].b, b[i].b)
    keys = jax.random.split(KEY, (4, 2))
    for layer in a:
        key_w, key_b = keys[layer.index]
        shape = (layer.fan_in, layer.fan_out)
        want = jax.random.normal(key_w, shape) * np.float32(layer.fan_in**-0.5)
        np.testing.assert_allclose(layer.w, want, rtol=3e-7)
        np.testing.assert_allclose(layer.b, 0.5 * jax.random.normal(key_b, shape[1:]), rtol=3e-7)
    assert not np.allclose(a[1].w, a[2].w)


def test_with_width():
    net = networks.mlp([4, 8, 8, 3], "tanh", "gaussian", 1.0, 0.5)
    wider = net.with_width(16)
    assert wider.widths == (4, 16, 16, 3)
    assert (wider.scheme, wider.activation, wider.bias) == (net.scheme, net.activation, net.bias)


def test_bfloat16():
    net = networks.mlp([4, 8, 8, 3], "tanh", "orthogonal", 1.0, 0.5, dtype=jnp.bfloat16)
    params = drawn(net)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    x = jnp.asarray([0.5, -1.0, 0.25, 2.0], jnp.float32)
    y = net(params, x)
    assert y.dtype == jnp.bfloat16
    # bfloat16 has 8 bits: each of three layers rounds the sum, the activation and the bias, by 2**-9 of |z| < 4
    np.testing.assert_allclose(np.asarray(y, np.float64), plain(net, params, x)[-1], rtol=0, atol=3 * 3 * 4 * 2.0**-8)


@pytest.mark.parametrize("sigma_w", [0.7, 1.5])
def test_orthogonal_singular_values_are_sigma_w(sigma_w):
    net = networks.mlp([4, 8, 8, 3], "tanh", "orthogonal", sigma_w)
    for layer in net.layers(net.init(KEY)):
        s = np.linalg.svd(np.asarray(layer.w, np.float64), compute_uv=False)
        np.testing.assert_allclose(s, sigma_w, rtol=8 * 1.2e-7)
        np.testing.assert_array_equal(layer.b, 0)


def test_gaussian_variance():
    net = networks.mlp([4, 16, 16], "tanh", "gaussian", 1.5, 0.3)
    keys = jax.random.split(KEY, 64)
    params = jax.jit(jax.vmap(net.init))(keys)
    for run, fan_in in zip(params["layers"], [4, 16], strict=True):
        for array, variance in ((run["w"], 1.5**2 / fan_in), (run["b"], 0.3**2)):
            draws = np.asarray(array, np.float64).ravel() / variance**0.5
            z_mean = draws.mean() * len(draws) ** 0.5
            z_variance = ((draws**2).mean() - 1) / (2 / len(draws)) ** 0.5
            assert abs(z_mean) < 5  # one key in a million
            assert abs(z_variance) < 5


def test_scheme_may_be_a_name_a_catalogue_name_an_initializer_or_a_scheme():
    x = jnp.ones(8)
    by_name = networks.mlp([8, 8, 8], "linear", "zer_o")
    by_scheme = networks.mlp([8, 8, 8], "linear", schemes.get("zer_o"))
    by_initializer = networks.mlp([8, 8, 8], "linear", initializers.zer_o())
    for net in (by_name, by_scheme, by_initializer):
        np.testing.assert_array_equal(net(net.init(KEY), x), x)
    catalogued = networks.mlp([4, 8, 3], "tanh", "lecun_normal")
    (stem, head) = catalogued.layers(catalogued.init(KEY))
    key_w = jax.random.split(KEY, (2, 2))[0, 0]
    np.testing.assert_allclose(stem.w, initializers.lecun_normal()(key_w, (4, 8)), rtol=3e-7)
    np.testing.assert_array_equal(head.b, 0)


def test_free_schemes_are_critical_by_default():
    assert networks.mlp([4, 8, 3], "relu", "gaussian").scheme.sigma_w == pytest.approx(2**0.5, rel=1e-12)
    assert networks.mlp([4, 8, 3], "tanh", "orthogonal").scheme.sigma_w == pytest.approx(1, rel=1e-12)
    scheme = networks.mlp([4, 8, 3], "tanh", "orthogonal", sigma_b=0.05**0.5).scheme
    assert scheme.sigma_w**2 == pytest.approx(1.7609546396, abs=1e-10)
    assert scheme.sigma_b == 0.05**0.5


def test_scaled_orthogonal_keeps_the_variance_of_units():
    net = networks.mlp([4, 8, 3], "linear", "scaled_orthogonal", 1.0)
    stem, head = net.layers(net.init(KEY))
    np.testing.assert_allclose(np.linalg.svd(stem.w, compute_uv=False), 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.svd(head.w, compute_uv=False), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.mlp(3), r"mlp\(\): widths=3 is not a sequence; write \[64, 128, 10\]\."),
        (lambda: networks.mlp([4]), r"mlp\(\): widths=\[4\] has 1; write \[n_in, hidden \.\.\., n_out\]\."),
        (lambda: networks.mlp([]), r"widths=\[\] has 0"),
        (lambda: networks.mlp([4, 0, 3]), r"widths\[1\]=0 must be a whole number, at least 1"),
        (lambda: networks.mlp([4, 2.5, 3]), r"widths\[1\]=2\.5 is not a whole number"),
        (lambda: networks.mlp([4, True, 3]), r"widths\[1\]=True must be a whole number"),
        (lambda: networks.mlp([4, 3], "tanhh"), r"mlp\(\): activation='tanhh' is not known.*Did you mean 'tanh'"),
        (lambda: networks.mlp([4, 3], "tanh", "ortogonal"), r"mlp\(\): scheme='ortogonal' is not known.*'orthogonal'"),
        (
            lambda: networks.mlp([4, 3], "tanh", initializers.orthogonal),
            r"orthogonal is a factory; write orthogonal\(\)",
        ),
        (lambda: networks.mlp([4, 3], "tanh", 3), r"scheme=3 is not a name, an initializer or a Scheme"),
        (lambda: networks.mlp([4, 3], sigma_b=np.ones(3), bias=False), r"mlp\(\): sigma_b=.* is not a number"),
        (lambda: networks.mlp([4, 3], sigma_b=0.1, bias=False), r"sigma_b=0\.1 with bias=False; drop one of the two"),
        (lambda: networks.mlp([4, 3], "tanh", "kaiming", 2.0), r"sigma_w=2\.0: scheme 'kaiming' fixes its own scale"),
        (lambda: networks.mlp([4, 3], "tanh", "zer_o", sigma_b=0.0), r"sigma_b=0\.0: scheme 'zer_o' fixes"),
        (lambda: networks.mlp([4, 3], sigma_w=-1.0), r"mlp\(\): sigma_w=-1\.0 is not a finite number in \[0, inf\)"),
        (lambda: networks.mlp([4, 3], sigma_b=float("nan")), r"mlp\(\): sigma_b=nan"),
        (lambda: networks.mlp([4, 3], dtype="int32"), r"mlp\(\): dtype=int32 is not a real floating type"),
        (lambda: networks.mlp([4, 3], dtype="float64"), r"mlp\(\): dtype=float64 needs 64-bit mode"),
        (lambda: networks.mlp([4, 8, 3], "tanh", "identity"), r"identity"),
        (lambda: networks.mlp([4, 3], "softplus"), r"softplus"),
        (
            lambda: networks.mlp([4, 3]).init(0),
            r"init\(\): key is 0, not a single random key; write jax\.random\.key\(0\)",
        ),
        (lambda: networks.mlp([4, 3]).init(jax.random.split(KEY, 2)), r"key is an array of shape \(2,\)"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("shape", [(3,), (2, 4), ()])
def test_one_example_at_a_time(shape):
    net = networks.mlp([4, 3])
    with pytest.raises(InputError, match=r"takes one example of shape \(4,\)\. For a batch write jax\.vmap"):
        net(net.init(KEY), jnp.ones(shape))


def test_old_keys_draw_the_same():
    net = networks.mlp([4, 3], "tanh", "gaussian")
    new, old = net.init(jax.random.key(5)), net.init(jax.random.PRNGKey(5))
    np.testing.assert_array_equal(new["layers"][0]["w"], old["layers"][0]["w"])


def count(jaxpr):
    """Equations, also those of inner jaxprs."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += count(inner) if hasattr(inner, "eqns") else 0
    return total


def test_program_is_flat_in_depth():
    sizes = []
    for depth in (10, 40):
        net = networks.mlp([4, *[8] * (depth - 1), 3], "tanh", "orthogonal", 1.0)
        params = jax.eval_shape(net.init, KEY)
        x = jax.ShapeDtypeStruct((4,), jnp.float32)
        sizes.append(
            (
                count(jax.make_jaxpr(net.init)(KEY).jaxpr),
                count(jax.make_jaxpr(net)(params, x).jaxpr),
                count(jax.make_jaxpr(jax.jacrev(net, 1))(params, x).jaxpr),
            )
        )
    assert sizes[0] == sizes[1]


def test_functions_are_equal_by_architecture_not_by_law():
    a, b = networks.mlp([4, 8, 3], "tanh", "gaussian"), networks.mlp([4, 8, 3], activations.tanh, "zer_o")
    assert a.function == b.function
    assert hash(a.function) == hash(b.function)
    assert a.function != networks.mlp([4, 8, 3], "relu").function


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
def test_an_activation_that_is_not_elementwise_is_refused(phi):
    """Its slopes would be taken for a diagonal, and every spectrum would be wrong. At width 1 nothing can be seen."""
    with pytest.raises(InputError, match=r"mlp\(\): activation=.* must be elementwise"):
        networks.mlp([1, 1, 1], phi, "he_normal")


def test_an_activation_that_cannot_be_evaluated_is_refused():
    def branches(x):
        return x if x > 0 else 0 * x

    with pytest.raises(InputError, match=r"branches cannot be evaluated on arrays of shapes .*jnp.where instead of if"):
        networks.mlp([4, 8, 2], branches, "he_normal")
    with pytest.raises(InputError, match="written with jnp"):
        networks.mlp([4, 8, 2], lambda x: np.tanh(np.asarray(x)), "he_normal")
    own = networks.mlp([4, 8, 2], lambda x: jnp.log(x), "he_normal")  # no number at negative entries: its own affair
    assert jax.jit(lambda: networks.mlp([4, 8, 2], lambda x: x * 2, "zeros").init(KEY))() is not None
    assert own.activation.kinks == ()


def test_an_activation_that_closes_over_a_tracer():
    def size(scale):
        net = networks.mlp([4, 8, 3], lambda x: jnp.tanh(scale * x), "he_normal")
        return jnp.sum(net(net.init(KEY), jnp.ones(4)) ** 2)

    step = 1e-2
    slope = float(size(1 + step) - size(1 - step)) / (2 * step)
    assert float(jax.grad(size)(1.0)) == pytest.approx(slope, rel=1e-2)  # of order step², and rounding over step


def test_runs_that_are_one_object_are_layers_all_the_same():
    net = networks.mlp([6, 6, 6, 6], "tanh", "gaussian", 1.5)
    run = jax.tree.map(lambda a: a[:1], net.init(KEY)["layers"][1])
    tied, apart = {"layers": (run, run, run)}, {"layers": tuple(map(dict, (run, run, run)))}
    x = jax.random.normal(KEY, (6,))
    for one, other in zip(*(net.function.factors(p, x, "end_to_end") for p in (tied, apart)), strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
        np.testing.assert_array_equal(*(0 if f.scale is None else f.scale for f in (one, other)))


def test_repr():
    net = networks.mlp([4, 8, 3], "tanh", "orthogonal", 1.25, 0.5)
    assert repr(net) == (
        "mlp([4, 8, 3], activation='tanh', scheme=Scheme('orthogonal', sigma_w=1.25, sigma_b=0.5), bias=True)"
    )
