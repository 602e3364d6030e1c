"""Weight layers: what small models are made of, written down by hand."""

import jax
import jax.numpy as jnp

from isometry.structure import anatomy
from tests.structure import small_models as models
from tests.structure.small_models import shape, whole


def axes(layer):
    return layer.in_axes, layer.out_axes, layer.batch_axes, layer.window_axes


def fans(an):
    return {layer.name: (layer.fan_in, layer.fan_out) for layer in an.layers}


def only(an):
    (layer,) = an.layers
    return layer


def test_perceptron_has_a_row_a_kernel():
    an = anatomy(*models.unwrapped(models.perceptron()))
    assert [layer.name for layer in an.layers] == ["first", "second", "last"]
    assert [layer.kind for layer in an.layers] == ["dense"] * 3
    assert [layer.shape for layer in an.layers] == [(3, 5), (5, 7), (7, 2)]
    assert [layer.depth for layer in an.layers] == [1, 2, 3]
    assert [layer.role for layer in an.layers] == ["stem", "hidden", "head"]
    assert {axes(layer) for layer in an.layers} == {((0,), (1,), (), ())}
    second = an.layers[1]
    assert second.path == "['params']['second']['kernel']"
    assert second.bias == "['params']['second']['bias']"
    assert (second.stacked, second.tied, second.branch, second.index) == (
        None,
        False,
        None,
        1,
    )


def test_convolutions_have_fans_of_one_group():
    an = anatomy(*models.convolutional())
    # The kernel is 3×3. Two groups of 4 share 4 channels; a depthwise one has one each.
    assert fans(an) == {
        "stem": (18, 36),
        "grouped": (18, 36),
        "depthwise": (9, 9),
        "pointwise": (8, 6),
        "head": (6, 5),
    }
    assert [layer.groups for layer in an.layers] == [1, 2, 8, 1, 1]
    assert {axes(layer) for layer in an.layers[:4]} == {((2,), (3,), (), (0, 1))}


def test_stacked_layers_are_one_row():
    an = anatomy(*models.stacked())
    hidden = an.layers[1]
    assert hidden.shape == (4, 4)
    assert hidden.stacked == 7
    assert (hidden.in_axes, hidden.out_axes) == ((0,), (1,))
    assert hidden.bias == "['hidden']['b']"
    assert not hidden.tied
    # The first slice is the second layer of nine.
    assert [layer.depth for layer in an.layers] == [1, 2, 9]
    assert an.depth == 9


def test_heads_are_axes_of_the_result():
    an = anatomy(*models.transformer())
    by_name = {layer.name: layer for layer in an.layers}
    query, out = by_name["block/attn/query"], by_name["block/attn/out"]
    assert (query.in_axes, query.out_axes, query.fan_out) == ((0,), (1, 2), 8)
    assert (out.in_axes, out.out_axes, out.fan_in) == ((0, 1), (2,), 8)
    assert by_name["block/attn/value"].bias == "['block']['attn']['value']['bias']"


def test_embedding_tied_to_the_head_is_one_row():
    embed = anatomy(*models.transformer()).layers[0]
    assert (embed.kind, embed.tied, embed.role) == ("embedding", True, "stem")
    assert (embed.in_axes, embed.out_axes) == ((0,), (1,))
    assert (embed.fan_in, embed.fan_out) == (11, 8)
    # Positions that are added are no bias.
    assert embed.bias is None


def test_embedding_under_vmap_picks_rows():
    """An index under vmap runs over all axes, but picks from the first alone."""

    def f(p, x):
        return jax.vmap(lambda i: p["embedding"][i])(x).sum()

    embed = only(anatomy(f, {"embedding": shape(7, 3)}, whole(5)))
    assert (embed.kind, embed.fan_in, embed.fan_out) == ("embedding", 7, 3)


def test_one_hot_times_matrix_is_dense():
    def f(p, x):
        return jax.nn.one_hot(x, 7) @ p["embedding"]

    layer = only(anatomy(f, {"embedding": shape(7, 3)}, whole(5)))
    assert (layer.kind, layer.fan_in, layer.fan_out) == ("dense", 7, 3)


def test_functions_of_parameters_alone_are_weights():
    mask = jnp.tril(jnp.ones((4, 4)))

    def f(p, x):
        x = x @ (p["masked"] * mask)
        w = p["standardized"]
        x = x @ ((w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-5))
        normalized = p["normalized"]["v"]
        normalized = p["normalized"]["g"] * normalized / jnp.linalg.norm(normalized)
        x = x @ normalized
        x = x @ p["cast"].astype(jnp.bfloat16).astype(jnp.float32).T
        return x @ p["reshaped"].reshape(5, 6)

    square = shape(4, 4)
    params = {
        "masked": square,
        "standardized": square,
        "normalized": {"g": shape(4), "v": square},
        "cast": shape(5, 4),
        "reshaped": shape(5, 2, 3),
    }
    an = anatomy(f, params, shape(4))
    assert [layer.path for layer in an.layers] == [
        "['masked']",
        "['standardized']",
        "['normalized']['v']",
        "['cast']",
        "['reshaped']",
    ]
    # A transposed weight is summed over its last axis; two axes of a leaf may be one.
    assert [layer.in_axes for layer in an.layers] == [(0,), (0,), (0,), (1,), (0,)]
    assert [layer.out_axes for layer in an.layers] == [(1,), (1,), (1,), (0,), (1, 2)]
    assert an.layers[-1].fan_out == 6


def test_scales_and_shifts_are_no_layers():
    def f(p, x):
        return jnp.einsum("i,i->i", x * p["scale"] + p["shift"], p["gain"])

    vector = shape(4)
    params = {"scale": vector, "shift": vector, "gain": vector}
    assert anatomy(f, params, vector).layers == ()


def test_products_written_out_are_dense():
    def f(p, x):
        return (p["w"] * x[:, None]).sum(0)

    layer = only(anatomy(f, {"w": shape(4, 3)}, shape(4)))
    assert (layer.kind, layer.in_axes, layer.out_axes) == ("dense", (0,), (1,))


def test_stretches_of_a_leaf_are_rows_of_their_own():
    def f(p, x):
        w = p["qkv"]["w"]
        return jnp.tanh(x @ w[:, :4]) @ w[:, 4:8]

    an = anatomy(f, {"qkv": {"w": shape(4, 8)}}, shape(4))
    assert [layer.name for layer in an.layers] == ["qkv[:, 0:4]", "qkv[:, 4:8]"]
    assert [layer.shape for layer in an.layers] == [(4, 4), (4, 4)]


def test_every_second_row_of_a_leaf_is_no_stretch_of_it():
    """The rows of w[::2] and w[1::2] alternate: no range of rows holds one of them."""

    def f(p, x):
        return p["w"][::2] @ x + p["w"][1::2] @ jnp.tanh(x)

    layer = only(anatomy(f, {"w": shape(8, 4)}, shape(4)))
    assert (layer.name, layer.shape, layer.stretches) == ("w", (8, 4), ())
    # Which rows are outputs of which product is unknown, so no axis is called theirs.
    assert (layer.in_axes, layer.out_axes) == ((1,), ())
    assert (layer.fan_in, layer.tied) == (4, True)


def test_stretch_of_concatenated_leaves_is_a_stretch_of_each():
    """Rows 1 to 5 of a, of 4 rows, above b are the last three of a and two of b."""

    def f(p, x):
        return jnp.concatenate([p["a"], p["b"]])[1:6] @ x

    an = anatomy(f, {"a": shape(4, 3), "b": shape(5, 3)}, shape(3))
    assert [layer.name for layer in an.layers] == ["a[1:4, :]", "b[0:2, :]"]
    assert [layer.shape for layer in an.layers] == [(3, 3), (2, 3)]


def test_leaves_stacked_inside_the_program_are_layers_of_their_own():
    def f(p, x):
        stack = jnp.stack([layer["w"] for layer in p])
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)
        return x

    an = anatomy(f, [{"w": shape(4, 4)} for _ in range(7)], shape(4))
    assert [layer.name for layer in an.layers] == [str(i) for i in range(7)]
    assert [layer.depth for layer in an.layers] == [1, 2, 3, 4, 5, 6, 7]
    assert [layer.role for layer in an.layers[1:]] == ["hidden"] * 5 + ["head"]


def test_slices_taken_by_the_counter_of_a_loop_are_stacked():
    def f(p, x):
        def step(i, x):
            return jnp.tanh(x @ p["w"][i])

        return jax.lax.fori_loop(0, 5, step, x)

    layer = only(anatomy(f, {"w": shape(5, 4, 4)}, shape(4)))
    assert (layer.shape, layer.stacked, layer.tied) == ((4, 4), 5, False)


def test_experts_that_the_signal_picks_are_dense():
    def f(p, x):
        expert = jnp.argmax(x @ p["router"])
        return x @ p["experts"][expert]

    an = anatomy(f, {"router": shape(4, 3), "experts": shape(3, 4, 8)}, shape(4))
    experts = an.layers[1]
    assert (experts.kind, experts.shape, experts.stacked) == ("dense", (4, 8), 3)
    assert (experts.fan_in, experts.fan_out) == (4, 8)


def test_products_that_one_tanh_reads_are_no_gates():
    """Both are a summand, whichever comes first; a tanh times a gate is a gate."""

    def vanilla(params, xs):
        def step(h, x):
            return jnp.tanh(params["w"] @ h + params["v"] @ x), None

        return jax.lax.scan(step, jnp.zeros(4), xs)[0]

    def gated(params, xs):
        def step(h, x):
            candidate = jnp.tanh(params["w"] @ h + params["v"] @ x)
            gate = jax.nn.sigmoid(params["u"] @ x)
            return gate * candidate, None

        return jax.lax.scan(step, jnp.zeros(4), xs)[0]

    params = {name: jax.ShapeDtypeStruct((4, 4), jnp.float32) for name in "uvw"}
    xs = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    plain = {layer.name: layer.then for layer in anatomy(vanilla, params, xs).layers}
    assert plain == {"w": ("sum", "tanh"), "v": ("sum", "tanh")}
    with_gate = {layer.name: layer.then for layer in anatomy(gated, params, xs).layers}
    assert with_gate["w"] == ("gates (tanh)",)


def test_recurrent_weights_are_tied():
    an = anatomy(*models.recurrent())
    assert [layer.name for layer in an.layers] == ["V", "U", "head"]
    assert [layer.role for layer in an.layers] == ["stem", "recurrent", "head"]
    assert [layer.tied for layer in an.layers] == [True, True, False]
    # U counts once in each of nine steps.
    assert an.depth == 10


def test_layers_are_found_inside_calls():
    @jax.custom_jvp
    def activation(x):
        return jnp.sin(x)

    activation.defjvp(lambda x, t: (activation(*x), t[0]))

    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(
        lambda w, x: (product(w, x), (w, x)),
        lambda kept, g: (jnp.outer(kept[1], g), kept[0] @ g),
    )

    @jax.jit
    def layer(p, x):
        return activation(product(p["w"], x) + p["b"])

    def f(p, x):
        x = jax.checkpoint(layer)(p["remat"], x)
        x = layer(p["jit"], x)
        branches = (lambda x: x @ p["yes"], lambda x: x @ p["no"])
        return jax.lax.cond(x.sum() > 0, *branches, x)

    affine = {"w": shape(4, 4), "b": shape(4)}
    params = {"remat": affine, "jit": affine, "yes": shape(4, 4), "no": shape(4, 4)}
    an = anatomy(f, params, shape(4))
    names = [layer.name for layer in an.layers]
    assert names[:2] == ["remat", "jit"]
    assert sorted(names[2:]) == ["no", "yes"]
    assert [layer.depth for layer in an.layers] == [1, 2, 3, 3]
    assert an.layers[0].bias == "['remat']['b']"


def test_what_cannot_be_read_is_named():
    def f(p, x):
        def step(x):
            return jnp.tanh(x @ p["inner"]["w"])

        x = jax.lax.while_loop(lambda x: x.sum() < 3, step, x)
        return x @ p["outer"]["w"]

    square = {"w": shape(4, 4)}
    an = anatomy(f, {"inner": square, "outer": square}, shape(4))
    assert an.unread == ("while",)
    assert [layer.kind for layer in an.layers] == ["other", "dense"]


def test_layer_named_like_a_point_keeps_its_leafs_name():
    def f(p, x):
        return jnp.tanh(x @ p["input"]["w"]) @ p["output"]["w"]

    an = anatomy(
        f, {"input": {"w": shape(3, 4)}, "output": {"w": shape(4, 2)}}, shape(3)
    )
    assert [layer.name for layer in an.layers] == ["input/w", "output/w"]


def test_a_bias_behind_a_sum_belongs_to_the_last_layer_of_the_sum():
    """tanh(x @ V + h @ W + b): b is added to more than one product."""

    def f(params, x):
        def step(h, x_t):
            h = jnp.tanh(x_t @ params["v"] + h @ params["w"] + params["b"])
            return h, None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h @ params["head"]

    params = {"v": shape(3, 4), "w": shape(4, 4), "b": shape(4), "head": shape(4, 2)}
    biases = {
        layer.name: layer.bias for layer in anatomy(f, params, shape(6, 3)).layers
    }
    assert biases == {"v": None, "w": "['b']", "head": None}


def test_what_is_added_behind_a_nonlinearity_is_no_bias_of_a_sum():
    def f(params, x):
        return jnp.tanh(x @ params["v"]) + x @ params["w"] + params["b"]

    params = {"v": shape(3, 4), "w": shape(3, 4), "b": shape(4)}
    layers = anatomy(f, params, shape(3)).layers
    assert [layer.bias for layer in layers] == [None, None]
