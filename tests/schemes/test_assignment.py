"""What schemes draw, leaf by leaf, against NumPy, in the layouts of the frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from isometry import InputError, activations, initializers, schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy
from tests.schemes import models

KEY = jax.random.key(5)

# Singular values of float32 QR factors of at most 40 rows: 40 eps, with a margin of 4.
ATOL = 2e-5


def drawn(names, shapes, an):
    """Parameters by each scheme, all drawn by one program; free ones at sigma_w = 2."""
    assignments = {}
    for name in names:
        sigma_w = 2.0 if schemes.get(name).free else None
        assignments[name] = schemes.assign(name, an, shapes, sigma_w=sigma_w)

    @jax.jit
    def draw(key):
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
        return {name: one.draw(key, ones) for name, one in assignments.items()}

    return jax.device_get(draw(KEY))


CONVOLUTIONS = ("orthogonal", "delta_orthogonal", "partial_identity", "zer_o", "dirac")
GROUPS = {"stem": 1, "grouped": 2, "depthwise": 8}


@pytest.fixture(scope="module")
def cnn():
    shapes, an = models.read(models.Cnn(), models.images())
    return drawn((*CONVOLUTIONS, "kaiming"), shapes, an)


def matrices(cnn, scheme, layer):
    """The (window, inputs, outputs) of each group of a layer, as float64."""
    kernel = np.asarray(cnn[scheme]["params"][layer]["kernel"], float)
    *window, inputs, outputs = kernel.shape
    number = GROUPS[layer]
    split = kernel.reshape(int(np.prod(window)), inputs, number, outputs // number)
    return np.moveaxis(split, 2, 0)


@pytest.mark.parametrize("layer", GROUPS)
def test_orthogonal_kernels_are_orthogonal_when_flattened(cnn, layer):
    """Each group alone: all singular values are sigma_w."""
    for taps in matrices(cnn, "orthogonal", layer):
        flat = taps.reshape(-1, taps.shape[-1])
        s = np.linalg.svd(flat, compute_uv=False)
        np.testing.assert_allclose(s, 2, atol=ATOL)


@pytest.mark.parametrize("layer", GROUPS)
def test_delta_orthogonal_kernels_are_orthogonal_at_the_centre(cnn, layer):
    for taps in matrices(cnn, "delta_orthogonal", layer):
        centre = len(taps) // 2
        s = np.linalg.svd(taps[centre], compute_uv=False)
        np.testing.assert_allclose(s, 2, atol=ATOL)
        assert np.count_nonzero(np.delete(taps, centre, axis=0)) == 0


@pytest.mark.parametrize("scheme", ["partial_identity", "dirac", "zer_o"])
def test_deterministic_kernels_hold_a_matrix_per_group_at_the_centre(cnn, scheme):
    """Dirac is the partial identity for odd windows; ZerO is too where none widens."""
    for layer in GROUPS:
        for taps in matrices(cnn, scheme, layer):
            inputs, outputs = taps.shape[1:]
            expected = np.eye(inputs, outputs)
            if scheme == "zer_o" and layer == "stem":
                # Sylvester's matrix of order 4, cut to its first two rows.
                expected = np.array([[1, 1, 1, 1], [1, -1, 1, -1]]) / 2
            if scheme == "zer_o" and layer == "grouped":
                expected = np.array([[1, 1, 1, 1], [1, -1, 1, -1]]) / 2
            centre = len(taps) // 2
            np.testing.assert_array_equal(taps[centre], expected)
            assert np.count_nonzero(np.delete(taps, centre, axis=0)) == 0


def test_kaiming_counts_the_fan_of_a_group(cnn):
    """Var = 2/fan_in: 9 for a depthwise kernel, 18 for the grouped one."""
    fans = {"stem": 18, "grouped": 18, "depthwise": 9}
    squares = 0.0
    count = 0
    for layer, fan in fans.items():
        kernel = np.asarray(cnn["kaiming"]["params"][layer]["kernel"], float)
        # 5 standard errors of a mean of squares of standard normals.
        error = 5 * (2 / kernel.size) ** 0.5
        assert np.mean(kernel**2) * fan / 2 == pytest.approx(1, abs=error)
        squares += np.sum(kernel**2) * fan / 2
        count += kernel.size
    assert squares / count == pytest.approx(1, abs=5 * (2 / count) ** 0.5)


def test_heads_of_dense_general_are_one_axis():
    """(d, heads, head_dim) is drawn as d × (heads·head_dim); the output likewise."""
    shapes, an = models.read(models.Transformer(), models.tokens())
    both = drawn(["partial_identity", "hadamard"], shapes, an)
    params = both["partial_identity"]["params"]
    for name in ("query", "key", "value"):
        kernel = params["attn0"][name]["kernel"]
        assert kernel.shape == (6, 2, 3)
        np.testing.assert_array_equal(kernel.reshape(6, 6), np.eye(6))
    out = both["hadamard"]["params"]["attn1"]["out"]["kernel"]
    assert out.shape == (2, 3, 6)
    # The corner of Sylvester's matrix of order 8.
    expected = scipy.linalg.hadamard(8)[:6, :6] / 8**0.5
    np.testing.assert_allclose(out.reshape(6, 6), expected, rtol=1e-6)


def test_torch_layouts_are_transposed():
    """(out, in, *window) of Equinox and torch; the grouped one keeps its groups."""

    def f(params, x):
        for name, groups in (("whole", 1), ("split", 2)):
            y = jax.lax.conv_general_dilated(
                x[None],
                params[name],
                window_strides=(1,),
                padding="SAME",
                dimension_numbers=("NCH", "OIH", "NCH"),
                feature_group_count=groups,
            )
            x = jax.nn.relu(y[0])
        return params["head"] @ x.mean(-1)

    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)  # noqa: E731
    shapes = {"whole": shape(4, 2, 3), "split": shape(6, 2, 3), "head": shape(5, 6)}
    an = anatomy(f, shapes, shape(2, 7))
    params = drawn(["partial_identity"], shapes, an)["partial_identity"]
    np.testing.assert_array_equal(params["whole"][:, :, 1], np.eye(4, 2))
    per_group = np.eye(3, 2)
    np.testing.assert_array_equal(params["split"][:3, :, 1], per_group)
    np.testing.assert_array_equal(params["split"][3:, :, 1], per_group)
    np.testing.assert_array_equal(params["head"], np.eye(5, 6))


def test_slices_of_a_stack_are_drawn_apart():
    f, shapes, x = models.scanned()
    an = anatomy(f, shapes, x)
    params = drawn(["xavier"], shapes, an)["xavier"]
    first = np.asarray(params["first"])
    assert len(np.unique(first)) == first.size


def test_scales_follow_the_slice_and_its_branch():
    """A scheme sees the index of each slice, and its branch."""

    def choose(layer, sigma_w):
        place = -1 if layer.branch is None else layer.branch.index
        return initializers.constant(float(100 * layer.index + place))

    numbered = schemes.Scheme("numbered", choose, "its place")
    f, shapes, x = models.scanned()
    assignment = schemes.assign(numbered, anatomy(f, shapes, x), shapes)
    params = jax.device_get(jax.jit(assignment.draw)(KEY, models.zeros(shapes)))
    # In order: stem, then first and second of every block, then head.
    assert params["stem"][0, 0] == -1
    np.testing.assert_array_equal(params["first"][:, 0, 0], [100, 301, 502])
    np.testing.assert_array_equal(params["second"][:, 0, 0], [200, 401, 602])
    assert params["head"][0, 0] == 699


def test_stretches_and_shared_axes_have_draws_of_their_own():
    """Two stretches of one leaf are two layers; experts, which share an axis, too."""

    def f(params, x):
        h = jnp.tanh(x @ params["w"][:, :4])
        h = jnp.tanh(h @ params["w"][:, 4:8])
        experts = jnp.einsum("ei,eio->eo", jnp.stack([h, -h]), params["experts"])
        return experts.sum(0)

    shapes = {"w": jax.ShapeDtypeStruct((4, 9), jnp.float32)}
    shapes["experts"] = jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    params = drawn(["orthogonal"], shapes, an)["orthogonal"]
    first, second = np.split(np.asarray(params["w"], float)[:, :8], 2, axis=1)
    squares = [first, second, *np.asarray(params["experts"], float)]
    for matrix in squares:
        np.testing.assert_allclose(matrix.T @ matrix, 4 * np.eye(4), atol=ATOL)
    assert np.abs(first - second).max() > 0.1
    # The last column is in no layer, and stays as it was given.
    np.testing.assert_array_equal(params["w"][:, 8], 1)


def test_dtype_is_the_leafs_own():
    _, shapes, x = models.scanned()
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes
    )
    f, _, _ = models.scanned()
    an = anatomy(f, shapes, jax.ShapeDtypeStruct(x.shape, jnp.bfloat16))
    assignment = schemes.assign("kaiming", an, shapes)
    params = jax.eval_shape(assignment.draw, KEY, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_rows_list_every_leaf_once():
    shapes, an = models.read(models.Transformer(), models.tokens())
    assignment = schemes.assign("orthogonal", an, shapes)
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
    ]
    assert sorted(row.path for row in assignment.rows) == sorted(paths)
    by_name = {row.name: row for row in assignment.rows if row.role != "bias"}
    assert by_name["embed"].initializer == "as drawn"
    assert by_name["mlp0/up"].note == "critical for the gelu_tanh that follows"
    assert by_name["mlp0/down"].note == "critical for the gelu_tanh that it reads"
    assert by_name["head"].note == "linear: sigma_w 1"


def test_scale_without_a_critical_point_keeps_gradients_at_unit_variance():
    """softplus has none: sigma_w² E sigmoid(z)² = 1, by NumPy's quadrature."""

    def f(params, x):
        return jax.nn.softplus(x @ params["a"]) @ params["b"]

    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    shapes = {"a": square, "b": square}
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    row = schemes.assign("orthogonal", an, shapes).rows[0]
    z = np.linspace(-9, 9, 20001)
    density = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    chi = np.trapezoid(density / (1 + np.exp(-z)) ** 2, z)
    gain = float(row.initializer.removeprefix("orthogonal(gain=").rstrip(")"))
    assert gain == pytest.approx(chi**-0.5, rel=1e-9)
    assert row.note.startswith("chi = 1 at unit variance of the softplus")


def test_given_sigmas_hold_for_all_layers():
    f, shapes, x = models.scanned()
    an = anatomy(f, shapes, x)
    assignment = schemes.assign("orthogonal", an, shapes, sigma_w=0.5)
    gains = {row.initializer for row in assignment.rows if row.role in ("stem", "head")}
    assert gains == {"orthogonal(gain=0.5)"}


def test_biases_are_drawn_with_sigma_b():
    shapes, an = models.read(models.Cnn(), models.images())
    assignment = schemes.assign("gaussian", an, shapes, sigma_w=1.0, sigma_b=0.5)
    biases = {row.initializer for row in assignment.rows if row.role == "bias"}
    assert biases == {"normal(mean=0.0, std=0.5)"}


def test_a_tied_leaf_is_drawn_once():
    def f(params, x):
        return jnp.tanh(jnp.tanh(x @ params) @ params)

    shapes = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    (row,) = schemes.assign("orthogonal", an, shapes).rows
    assert row.note.endswith("tied")


def test_draw_takes_other_leaves_from_params():
    shapes, an = models.read(models.ResNet(), models.images())
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), shapes)
    new = jax.jit(schemes.assign("zer_o", an, shapes).draw)(KEY, params)
    np.testing.assert_array_equal(new["params"]["block0"]["norm"]["scale"], 7.0)
    np.testing.assert_array_equal(new["batch_stats"]["block0"]["norm"]["mean"], 7.0)


def trunc_normal_(tensor, mean=0.0, std=1.0):
    """Fill a tensor in place, as torch's function of this name does."""


trunc_normal_.__module__ = "torch.nn.init"


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("identity", r"layer 'stem': scheme 'identity': .*shape is not square"),
        ("dks", r"scheme 'dks' transforms the activation"),
        ("rezro", r"scheme='rezro' is not known.*Did you mean 'rezero'"),
        (initializers.orthogonal, r"orthogonal is a factory; write orthogonal\(\)"),
        (initializers.he_normal(layout="torch"), r"was told in_axis=1, out_axis=0"),
        (3, r"scheme=3 is not a name, an initializer or a Scheme"),
        (trunc_normal_, r"in place; write initializers\.truncated_normal\("),
        (schemes.Scheme, r"scheme is the class Scheme; write an instance"),
        (lambda key, shape: 0, r"takes \(key, shape\); an initializer is called with"),
    ],
)
def test_assign_refuses(scheme, message):
    shapes, an = models.read(models.Cnn(), models.images())
    with pytest.raises(InputError, match=message):
        schemes.assign(scheme, an, shapes)


def test_a_network_without_weights_has_nothing_to_draw():
    bias = jax.ShapeDtypeStruct((3,), jnp.float32)
    an = anatomy(lambda params, x: jnp.tanh(x + params), bias, bias)
    with pytest.raises(NotDefined, match="'kaiming' has nothing to draw"):
        schemes.assign("kaiming", an, bias)


def test_assign_refuses_parameters_of_another_network():
    f, shapes, x = models.scanned()
    an = anatomy(f, shapes, x)
    with pytest.raises(InputError, match=r"that is not the one of the anatomy"):
        schemes.assign("kaiming", an, {"stem": shapes["stem"]})
    with pytest.raises(InputError, match=r"sigma_w=2.0: scheme 'kaiming' fixes its"):
        schemes.assign("kaiming", an, shapes, sigma_w=2.0)


def test_an_axis_that_holds_inputs_and_outputs_is_refused():
    """One vector of 12 reshaped to 3×4: which entries are inputs cannot be told."""

    def f(params, x):
        return x @ params["w"].reshape(3, 4)

    shapes = {"w": jax.ShapeDtypeStruct((12,), jnp.float32)}
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(NotDefined, match=r"layer 'w': scheme 'kaiming' draws inputs"):
        schemes.assign("kaiming", an, shapes)


def one_layer(use):
    """A network of one layer whose weight w is made of leaves by `use`."""

    def f(params, x):
        return x @ use(params)

    widths = {"w": (4, 8), "g": (8,), "a": (4, 2), "b": (2, 8)}
    shapes = {
        name: jax.ShapeDtypeStruct(sizes, jnp.float32) for name, sizes in widths.items()
    }
    return shapes, anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))


NOT_ITS_LAW = "the law of the leaf is not that of the weight"
CHECKERS = np.float32(np.indices((4, 8)).sum(axis=0) % 2)


def divided_by_norm(params, eps=0.0):
    square = jnp.sum(params["w"] ** 2, axis=0) + eps
    return params["g"] * params["w"] / jnp.sqrt(square)


@pytest.mark.parametrize(
    ("use", "note"),
    [
        (lambda p: p["w"], ""),
        (lambda p: p["w"] * jnp.sqrt(0.25), "used as 0.5 w"),
        (lambda p: 3 * p["w"] / 2.0, "used as 1.5 w"),
        (divided_by_norm, "its scale is undone: divided by its own norm"),
        (
            lambda p: 0.0 + divided_by_norm(p),
            "its scale is undone: divided by its own norm",
        ),
        (lambda p: p["w"] + p["a"] @ p["b"], "only w of the sum w + … is drawn"),
        (lambda p: jax.nn.softplus(p["w"]), f"used as softplus(w): {NOT_ITS_LAW}"),
        (lambda p: 2 * jnp.exp(p["w"]), f"used as 2 exp(w): {NOT_ITS_LAW}"),
        (
            lambda p: p["w"] + 1,
            f"used as a function of w, entry by entry: {NOT_ITS_LAW}",
        ),
        (lambda p: jnp.sort(p["w"]), f"used as a function of w: {NOT_ITS_LAW}"),
        (lambda p: p["w"] + p["w"], "used as 2 w"),
        (lambda p: p["w"] * CHECKERS, "masked: only 16 of 32 entries are used"),
        (lambda p: jnp.tril(p["w"]), "masked: only 10 of 32 entries are used"),
        (
            lambda p: p["w"] * (1 + CHECKERS),
            "its entries are multiplied by numbers that differ",
        ),
        (lambda p: p["w"] / jnp.full((4, 8), 2.0), "used as 0.5 w"),
        (
            lambda p: jnp.where(CHECKERS > 0, p["w"], jnp.exp(p["w"])),
            f"used as a function of w: {NOT_ITS_LAW}",
        ),
        (lambda p: jax.nn.relu(p["w"]), f"used as relu(w): {NOT_ITS_LAW}"),
        (lambda p: p["w"] + CHECKERS, "a constant array is added"),
        (lambda p: CHECKERS - p["w"], "used as -1 w, a constant array is added"),
        (lambda p: p["w"] * p["g"], "multiplied by another leaf"),
        (lambda p: p["w"] - jnp.mean(p["w"], axis=0), "its mean is taken off"),
    ],
)
def test_rows_tell_what_the_network_does_to_a_weight(use, note):
    shapes, an = one_layer(use)
    row = schemes.assign("kaiming", an, shapes).rows[0]
    assert (row.path, row.note) == ("['w']", note)


@pytest.mark.parametrize(
    ("use", "form"),
    [
        (lambda w: (w + w.T) / 2, "0.5 (w + wᵀ)"),
        (lambda w: w - w.T, "(w - wᵀ)"),
        (lambda w: w + w @ w, "a function of w"),
        (lambda w: w - w * jnp.sum(w, axis=0), "a function of w"),
    ],
)
def test_rows_tell_of_a_square_weight_that_meets_itself(use, form):
    def f(params, x):
        return x @ use(params)

    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    an = anatomy(f, shape, jax.ShapeDtypeStruct((4,), jnp.float32))
    row = schemes.assign("orthogonal", an, shape).rows[0]
    assert row.note == f"linear: sigma_w 1, used as {form}: {NOT_ITS_LAW}"


def test_zeros_are_refused_for_a_weight_that_is_divided_by_its_norm():
    """0/0 is NaN; 0/sqrt(0 + eps) is 0."""
    shapes, an = one_layer(divided_by_norm)
    with pytest.raises(NotDefined, match=r"layer 'w': .* divides it by its own norm"):
        schemes.assign("fixup", an, shapes)
    shapes, an = one_layer(lambda params: divided_by_norm(params, eps=1e-6))
    assert schemes.assign("fixup", an, shapes).rows[0].initializer == "zeros()"


def test_rows_tell_which_weights_are_drawn_as_one():
    """Queries, keys and values in one weight, and the gates of a recurrence."""

    def attention(params, x):
        query, key, value = jnp.split(x @ params["qkv"], 3, axis=-1)
        return jax.nn.softmax(query @ key.T) @ value @ params["out"]

    def gated(params, xs):
        def step(h, x):
            z = x @ params["v"] + h @ params["w"]
            reset, update, new = jnp.split(z, 3)
            new = jnp.tanh(jax.nn.sigmoid(reset) * new)
            gate = jax.nn.sigmoid(update)
            return gate * h + (1 - gate) * new, None

        return jax.lax.scan(step, jnp.zeros(4), xs)[0]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    def joined(params, xs):
        """One weight for input and state, as in Haiku's LSTM, behind a silu."""

        def step(carry, x):
            h, c = carry
            z = jnp.concatenate([x, h]) @ params["xh"]
            i, g, f, o = jnp.split(z, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        inputs = jax.nn.silu(xs @ params["first"])
        (h, _), _ = jax.lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), inputs)
        return h

    notes = {}
    shapes = {"first": shape(4, 6), "xh": shape(10, 16)}
    for row in schemes.assign(
        "orthogonal", anatomy(joined, shapes, shape(5, 4)), shapes
    ).rows:
        notes[row.name] = row.note
    assert notes["first"] == "critical for the silu that follows"
    read = "critical for the silu that it reads, its rows of the state too"
    assert notes["xh"] == f"{read}, tied, one law for all gates together"
    for f, shapes in (
        (attention, {"qkv": shape(4, 12), "out": shape(4, 4)}),
        (gated, {"v": shape(4, 12), "w": shape(4, 12)}),
    ):
        an = anatomy(f, shapes, shape(5, 4))
        rows = schemes.assign("orthogonal", an, shapes, sigma_w=1.0).rows
        notes |= {row.name: row.note for row in rows}
    assert notes["qkv"] == "one law for queries, keys and values together"
    assert notes["w"] == "tied, one law for all gates together"
    assert notes["out"] == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tanh", "activations='tanh' is not a Mapping"),
        ({"stemm": activations.get("tanh")}, "Did you mean 'stem'"),
        ({"stem": "tanh"}, r"activations\['stem'\]='tanh' is not an Activation"),
    ],
)
def test_activations_of_no_layer_are_refused(given, words):
    f, shapes, x = models.scanned()
    an = anatomy(f, shapes, x)
    with pytest.raises(InputError, match=words):
        schemes.assign("orthogonal", an, shapes, activations=given)
