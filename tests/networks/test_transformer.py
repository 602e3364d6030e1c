"""Transformers against a plain implementation, and facts of attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks

WIDTH, BLOCKS, HEADS, LENGTH = 8, 2, 2, 3
EPS = float(np.finfo(np.float32).eps)


def normalized(norm, leaves, h):
    if norm == "layer":
        h = h - h.mean(-1, keepdims=True)
    scaled = (
        leaves["scale"][None] * h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)
    )
    return scaled + leaves["bias"][None] if norm == "layer" else scaled


def attended(p, h, causal):
    """Attend, one head, one query at a time; shaped if there are coefficients."""
    rows = []
    alpha, beta, gamma = (
        p.get(name, plain) for name, plain in (("alpha", 0), ("beta", 1), ("gamma", 0))
    )
    for t in range(len(h)):
        seen = h[: t + 1] if causal else h
        total = p["output"]["b"]
        for head in range(HEADS):
            query = h[t] @ p["query"]["w"][:, head] + p["query"]["b"][head]
            keys = seen @ p["key"]["w"][:, head] + p["key"]["b"][head][None]
            values = seen @ p["value"]["w"][:, head] + p["value"]["b"][head][None]
            scores = jnp.exp(keys @ query / (WIDTH / HEADS) ** 0.5)
            mixed = alpha * values[t] + beta * scores @ values / scores.sum()
            mixed = mixed - gamma * values.mean(0)
            total = total + mixed @ p["output"]["w"][head]
        rows.append(total)
    return jnp.stack(rows)


def perceptron(p, h, causal):
    hidden = h @ p["first"]["w"] + p["first"]["b"][None]
    gelu = hidden * (1 + jax.scipy.special.erf(hidden / 2**0.5)) / 2
    return gelu @ p["last"]["w"] + p["last"]["b"][None]


def plain(params, x, *, norm, norm_at, causal):
    """Compute what the network does, block after block."""
    h = params["embedding"]["w"][x] if "embedding" in params else x
    h = h + params["positions"] if "positions" in params else h
    leaves, tree = jax.tree.flatten(params["blocks"])
    for i in range(BLOCKS):
        block = jax.tree.unflatten(tree, [leaf[i] for leaf in leaves])
        for name, branch in (("attention", attended), ("mlp", perceptron)):
            p = block[name]
            read = normalized(norm, p["norm"], h) if norm_at == "pre" else h
            h = p["skip"] * h + p["branch"] * branch(p, read, causal)
            h = normalized(norm, p["norm"], h) if norm_at == "post" else h
    if norm_at == "pre":
        h = normalized(norm, params["norm"], h)
    return h @ params["head"]["w"] if "head" in params else h


def check(output, params, x, settings):
    """Compare with the plain implementation, up to rounding.

    A sum of n products in float32 is exact for factors that are off by n eps at most,
    and the longest sum is that of the hidden units. So the tolerance is what such
    perturbations of all parameters do to the output.
    """
    forward = jax.jit(functools.partial(plain, **settings))
    expected = forward(params, x)
    longest_sum = 4 * WIDTH
    rng = np.random.default_rng(2)

    def perturbed(leaf):
        signs = rng.choice([-1, 1], leaf.shape)
        return leaf * jnp.asarray(1 + longest_sum * EPS * signs, leaf.dtype)

    moved = forward(jax.tree.map(perturbed, params), x)
    tolerance = float(jnp.abs(moved - expected).max())
    np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance)


def filled(net, scale=0.5):
    """Fill scales and multipliers with numbers about 1, other leaves about 0."""
    rng = np.random.default_rng(0)
    shapes = jax.tree_util.tree_leaves_with_path(net.shapes)
    leaves = []
    for path, shape in shapes:
        about = 1.0 if path[-1].key in ("scale", "branch", "skip") else 0.0
        noisy = about + scale * rng.normal(size=shape.shape)
        leaves.append(jnp.asarray(noisy, shape.dtype))
    return jax.tree.unflatten(jax.tree.structure(net.shapes), leaves)


def test_output_and_jacobian_are_those_of_a_plain_implementation():
    settings = {"norm": "layer", "norm_at": "pre", "causal": True}
    with jax.enable_x64(True):
        net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH, **settings)
        params = filled(net)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, WIDTH)))

        def reference(x):
            output = plain(params, x, **settings)
            return output[-1], output

        jacobian, output = jax.jit(jax.jacrev(reference, has_aux=True))(x)
        found = jax.jit(net.function)(params, x)
        span = ("input", ("output", -1))
        found_jacobian = isometry.jacobian(net, params, x, span=span)
    np.testing.assert_allclose(found, output, rtol=1e-11)
    expected = jacobian.reshape(WIDTH, LENGTH * WIDTH)
    np.testing.assert_allclose(found_jacobian, expected, rtol=1e-10, atol=1e-12)


def test_norm_behind_the_sum_and_attention_to_all_tokens():
    settings = {"norm": "rms", "norm_at": "post", "causal": False}
    net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH, **settings)
    params = filled(net)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, WIDTH)), jnp.float32)
    check(net(params, x), params, x, settings)


def test_shaped_attention_adds_the_identity_and_subtracts_the_mean():
    net = networks.transformer(
        WIDTH, BLOCKS, HEADS, length=LENGTH, norm=None, attention="shaped"
    )
    params = filled(net)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(LENGTH, WIDTH)), jnp.float32)
    settings = {"norm": None, "norm_at": None, "causal": True}
    check(net(params, x), params, x, settings)


def test_shaped_attention_starts_plain():
    """Alpha, beta and gamma are 0, 1 and 0, and nothing else is drawn otherwise."""
    x = jax.random.normal(jax.random.key(2), (LENGTH, WIDTH))
    outputs = []
    for attention in ("plain", "shaped"):
        net = networks.transformer(
            WIDTH, BLOCKS, HEADS, length=LENGTH, attention=attention
        )
        params = jax.jit(net.init)(jax.random.key(0))
        outputs.append(net(params, x))
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-6)


def test_tokens_are_embedded_and_read_out():
    net = networks.transformer(
        WIDTH, BLOCKS, HEADS, vocabulary=11, length=LENGTH, positions="learned"
    )
    params = filled(net)
    tokens = jnp.array([3, 10, 0])
    forward = jax.jit(net.function)
    logits = forward(params, tokens)
    settings = {"norm": "layer", "norm_at": "pre", "causal": True}
    assert logits.shape == (LENGTH, 11)
    check(logits, params, tokens, settings)
    # A token that does not exist is not taken for the last one that does.
    assert np.isnan(forward(params, tokens.at[2].set(11))).any()


def test_causal_tokens_do_not_see_what_comes():
    net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH)
    params = filled(net)
    x = jax.random.normal(jax.random.key(2), (LENGTH, WIDTH))
    forward = jax.jit(net.function)
    changed = forward(params, x) != forward(params, x.at[2].add(1.0))
    np.testing.assert_array_equal(changed.any(1), [False, False, True])


def test_identical_tokens_give_no_gradient_to_queries_and_keys():
    """Weights that attend do not matter where all values are equal."""
    with jax.enable_x64(True):
        net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH)
        params = filled(net)
        x = jnp.tile(jax.random.normal(jax.random.key(2), (WIDTH,)), (LENGTH, 1))
        weights = jax.random.normal(jax.random.key(3), (LENGTH, WIDTH))

        def loss(params):
            return (weights * net(params, x)).sum()

        gradient = jax.jit(jax.grad(loss))(params)["blocks"]["attention"]
    size = {name: np.abs(gradient[name]["w"]).max() for name in ("value", "output")}
    assert min(size.values()) > 1e-3
    for name in ("query", "key"):
        assert np.abs(gradient[name]["w"]).max() < 1e-13


@pytest.mark.parametrize(("norm", "zeros"), [("layer", 2), ("rms", 1)])
def test_norm_at_the_end_of_a_token_has_its_zeros(norm, zeros):
    """Layer norm drops the mean and the direction of its result, RMS norm the latter.

    The direction itself keeps eps/(var + eps) of the others, as eps is in the root.
    """
    net = networks.transformer(WIDTH, 1, HEADS, norm=norm, norm_at="post", length=1)
    params = filled(net, scale=0.1)
    x = jax.random.normal(jax.random.key(2), (1, WIDTH))
    jacobian = jax.jit(jax.jacfwd(net.function, argnums=1))(params, x)
    values = np.linalg.svd(jacobian.reshape(WIDTH, WIDTH), compute_uv=False)
    # Variances are of order one here, so that the small values are of order eps = 1e-5.
    assert int((values < 1e-3 * values.max()).sum()) == zeros


def test_branches_of_zero_are_the_identity():
    net = networks.transformer(
        WIDTH, BLOCKS, HEADS, norm=None, branch=[0.0, 0.0], length=LENGTH
    )
    params = jax.jit(net.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(2), (LENGTH, WIDTH))
    np.testing.assert_array_equal(net(params, x), x)


def test_multipliers_are_parameters_of_each_block():
    net = networks.transformer(WIDTH, BLOCKS, HEADS, branch=[0.5, 0.25], length=LENGTH)
    params = jax.jit(net.init)(jax.random.key(0))
    for name in ("attention", "mlp"):
        np.testing.assert_array_equal(params["blocks"][name]["branch"], [0.5, 0.25])
        np.testing.assert_array_equal(params["blocks"][name]["skip"], [1.0, 1.0])


def test_gpt2_scales_the_last_layer_of_each_branch_down():
    """The last layers have 0.02/sqrt(2 blocks), all others 0.02; biases are 0."""
    net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH)
    blocks = jax.jit(net.init)(jax.random.key(0))["blocks"]
    scales = {"first": 0.02, "last": 0.01}
    for layer, scale in scales.items():
        w = blocks["mlp"][layer]["w"]
        # The deviation of n numbers is known to 1/sqrt(2 n).
        assert abs(w.std() / scale - 1) < 4 / (2 * w.size) ** 0.5
        assert not blocks["mlp"][layer]["b"].any()


@pytest.mark.parametrize(
    ("scheme", "branch", "skip"),
    [("rezero", 0.0, 1.0), ("deep_norm", 1.0, (2 * BLOCKS) ** 0.25)],
)
def test_schemes_set_the_multipliers(scheme, branch, skip):
    net = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH, scheme=scheme)
    blocks = jax.jit(net.init)(jax.random.key(0))["blocks"]
    for name in ("attention", "mlp"):
        np.testing.assert_allclose(blocks[name]["branch"], branch)
        np.testing.assert_allclose(blocks[name]["skip"], skip, rtol=1e-6)


def test_anatomy_finds_attention_and_branches():
    net = networks.transformer(
        WIDTH, BLOCKS, HEADS, vocabulary=11, length=LENGTH, positions="learned"
    )
    an = net.anatomy
    assert [(layer.name, layer.role) for layer in an.layers] == [
        ("embedding", "stem"),
        ("blocks/attention/query", "query"),
        ("blocks/attention/key", "key"),
        ("blocks/attention/value", "value"),
        ("blocks/attention/output", "output"),
        ("blocks/mlp/first", "hidden"),
        ("blocks/mlp/last", "hidden"),
        ("head", "head"),
    ]
    assert [branch.name for branch in an.branches] == [
        "blocks/attention[0]",
        "blocks/mlp[0]",
        "blocks/attention[1]",
        "blocks/mlp[1]",
    ]
    assert len(an.attentions) == 1
    assert {"blocks/attention/query[1]", "blocks/mlp/last[0]:sum"} <= set(an.points)


def test_spectrum_of_one_token_has_the_rows_of_that_token():
    net = networks.transformer(WIDTH, BLOCKS, HEADS, vocabulary=11, length=LENGTH)
    params = filled(net)
    tokens = jnp.array([3, 10, 0])
    span = ("embedding", ("blocks/mlp/last[1]:sum", -1))
    assert isometry.jacobian(net, params, tokens, span=span).shape == (8, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "width=8 is no multiple of heads=3; write width=9"),
        ({"norm": "batch"}, "norm='batch' is not known"),
        ({"norm_at": "end"}, "norm_at='end' is not known"),
        ({"positions": "sinusoidal"}, "positions='sinusoidal' is not known"),
        ({"attention": "linear"}, "attention='linear' is not known"),
        ({"branch": [1.0]}, "branch has 1 numbers for 2 blocks"),
        ({"vocabulary": 0}, "vocabulary=0 must be a whole number"),
        ({"mlp": 2.5}, "mlp=2.5 is not a whole number"),
        ({"causal": "no"}, "causal='no' is neither True nor False"),
    ],
)
def test_arguments_of_another_form_are_refused(arguments, message):
    given = {"width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "length": LENGTH}
    with pytest.raises(InputError, match=message):
        networks.transformer(**(given | arguments))


def test_inputs_of_another_form_are_refused():
    vectors = networks.transformer(WIDTH, BLOCKS, HEADS, length=LENGTH)
    with pytest.raises(InputError, match=r"x has shape \(3,\).*\(3, 8\)"):
        vectors(vectors.skeleton(jax.random.key(0)), jnp.zeros(LENGTH, int))
    tokens = networks.transformer(WIDTH, BLOCKS, HEADS, vocabulary=3, length=LENGTH)
    with pytest.raises(InputError, match="x is float32; this network takes tokens"):
        tokens(tokens.skeleton(jax.random.key(0)), jnp.zeros(LENGTH))
