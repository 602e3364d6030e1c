"""Spans between named points, against derivatives written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.measure import _spans

WIDTH = 3
TOKENS = 4
VOCABULARY = 5
EPS = float(jnp.finfo(jnp.float32).eps)


def embedded(params, tokens):
    """A residual block behind an embedding, each token on its own but for a mean."""
    z = params["embed"][tokens]
    branch = jnp.tanh(z @ params["up"]) @ params["down"]
    z = z + branch
    return (z + z.mean(0, keepdims=True)) @ params["head"]


@pytest.fixture(scope="module")
def params():
    shapes = {
        "embed": (VOCABULARY, WIDTH),
        "up": (WIDTH, WIDTH),
        "down": (WIDTH, WIDTH),
        "head": (WIDTH, 2),
    }
    rng = np.random.default_rng(0)
    return {
        name: jax.device_put(np.asarray(rng.standard_normal(shape), np.float32))
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def tokens():
    return jnp.array([1, 4, 0, 1])


@pytest.fixture(scope="module")
def anatomy(params, tokens):
    return isometry.anatomy(embedded, params, tokens)


def behind_embedding(params, z):
    z = z + jnp.tanh(z @ params["up"]) @ params["down"]
    return (z + z.mean(0, keepdims=True)) @ params["head"]


def test_span_from_the_embedding_needs_no_continuous_input(anatomy, params, tokens):
    span = _spans.resolve(embedded, anatomy, ("embed", "output"))
    z = span.start(params, tokens)
    np.testing.assert_array_equal(z, params["embed"][tokens])
    assert span.shape_in.shape == (TOKENS, WIDTH)
    assert span.shape_out.shape == (TOKENS, 2)
    ours = jax.jit(jax.jacrev(lambda z: span.apply(params, tokens, z)))(z)
    expected = jax.jit(jax.jacfwd(lambda z: behind_embedding(params, z)))(z)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_indices_pick_blocks_of_the_whole_jacobian(anatomy, params, tokens):
    span = _spans.resolve(embedded, anatomy, (("embed", 1), ("output", (-1, 0))))
    z = span.start(params, tokens)
    assert z.shape == (WIDTH,)
    assert span.shape_out.shape == ()
    ours = jax.jit(jax.jacrev(lambda z: span.apply(params, tokens, z)))(z)
    whole = jax.jit(jax.jacrev(lambda z: behind_embedding(params, z)))
    expected = whole(params["embed"][tokens])[-1, 0, 1]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_span_from_inside_a_branch_leaves_the_stream_as_it_is(anatomy, params, tokens):
    """Only the branch carries the derivative, though a path leads around its start."""
    span = _spans.resolve(embedded, anatomy, ("up", "output"))
    start = params["embed"][tokens]

    def by_hand(pre):
        z = start + jnp.tanh(pre) @ params["down"]
        return (z + z.mean(0, keepdims=True)) @ params["head"]

    pre = span.start(params, tokens)
    ours = jax.jit(jax.jacrev(lambda z: span.apply(params, tokens, z)))(pre)
    expected = jax.jit(jax.jacrev(by_hand))(pre)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_measurement_in_another_dtype_reads_the_program_anew(anatomy, params, tokens):
    span = _spans.resolve(embedded, anatomy, ("embed", "output"))
    halved = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    z = span.start(halved, tokens)
    assert z.dtype == jnp.bfloat16
    assert span.apply(halved, tokens, z).dtype == jnp.bfloat16


def test_input_of_whole_numbers_names_the_embedding_to_start_at(anatomy):
    with pytest.raises(isometry.InputError) as caught:
        _spans.resolve(embedded, anatomy, "end_to_end")
    message = str(caught.value)
    assert 'span=("embed", "output")' in message
    assert "astype" not in message


def test_input_of_several_arrays_is_their_concatenation():
    def f(params, x):
        return jnp.tanh(params["layer"] @ x["a"]) + x["b"][0].astype(jnp.float32)

    params = {"layer": np.eye(2, dtype=np.float32)}
    x = {"a": np.float32([1, 2]), "b": np.array([[3, 4]], jnp.bfloat16)}
    anatomy = isometry.anatomy(f, params, x)
    span = _spans.resolve(f, anatomy, ("input", "output"))
    np.testing.assert_array_equal(jax.jit(span.start)(params, x), [1, 2, 3, 4])
    value = jax.jit(span.apply)(params, x, np.float32([0, 1, 5, 6]))
    np.testing.assert_allclose(value, np.tanh([0, 1]) + np.array([5, 6]), rtol=2 * EPS)
    with pytest.raises(isometry.InputError, match="'input' names no point"):
        _spans.resolve(f, anatomy, ("input/a", "input"))


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (("head", "embed"), "'embed' does not depend on 'head'.*Upstream.*no points"),
        (("output", "output"), "does not depend"),
        (("embed", "hed"), "hed.*head"),
        ("middle", "'middle' is not known. Known: end_to_end, hidden"),
        ("embed", r'write two, span=\("embed", "output"\)'),
        ("output", r'write two, span=\("input", "output"\)'),
        (("embed",), "is not a span"),
        ((3, "output"), "not a point"),
        ((("embed", 1.5), "output"), "1.5"),
        ((("embed", 4), "output"), "index between -4 and 3"),
        ((("embed", (0, 0, 0)), "output"), "at most 2 indices"),
    ],
)
def test_span_that_is_none_is_refused(anatomy, span, message):
    with pytest.raises(isometry.InputError, match=message):
        _spans.resolve(embedded, anatomy, span)


def test_hidden_span_runs_over_the_branches(anatomy):
    """From where the first branch leaves the stream to where the last joins it."""
    span = _spans.resolve(embedded, anatomy, "hidden")
    assert (span.first.name, span.last.name) == ("embed", "down:sum")


def test_hidden_span_starts_before_a_class_token_is_joined():
    """A row that is a parameter carries no signal; a row of the stream does."""

    def f(params, x, beside):
        z = x @ params["embed"]
        z = jnp.concatenate([beside(params, z), z]) + params["pos"]
        z = z + jnp.tanh(z @ params["up"]) @ params["down"]
        return z @ params["head"]

    shapes = {"embed": (5, 3), "up": (3, 4), "down": (4, 3), "head": (3, 2)}
    shapes |= {"cls": (1, 3), "pos": (5, 3)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    starts = []
    for beside in (lambda params, z: params["cls"], lambda params, z: z[-1:]):

        def joined(params, x, beside=beside):
            return f(params, x, beside)

        anatomy = isometry.anatomy(joined, params, jnp.ones((4, 5)))
        span = _spans.resolve(joined, anatomy, "hidden")
        assert span.last.name == "down:sum"
        starts.append(span.first.name)
    assert starts == ["embed", "embed:out"]


def test_hidden_span_of_a_chain_runs_from_first_to_last_pre_activation():
    def chain(params, x):
        z = params["a"] @ x
        for name in ("b", "c", "d"):
            z = params[name] @ jnp.tanh(z)
        return z

    drawn = np.random.default_rng(0).standard_normal((4, 3, 3))
    weights = drawn.astype(np.float32)
    params = dict(zip("abcd", weights, strict=True))
    x = np.arange(3, dtype=np.float32)
    anatomy = isometry.anatomy(chain, params, x)
    span = _spans.resolve(chain, anatomy, "hidden")
    z = weights[0] @ x
    np.testing.assert_allclose(span.start(params, x), z, rtol=1e-5)
    expected = weights[2] @ np.tanh(weights[1] @ np.tanh(z))
    np.testing.assert_allclose(span.apply(params, x, z), expected, rtol=1e-5)


def test_what_f_closes_over_may_change_between_calls():
    """As a module that is trained in place; JAX remembers traces by function."""
    eye = np.eye(3, dtype=np.float32)
    state = {"w": eye, "is_linear": False}

    def f(params, x):
        h = state["w"] @ (params["a"]["w"] @ x)
        if not state["is_linear"]:
            h = jnp.tanh(h)
        return params["b"]["w"] @ h

    params = {name: {"w": eye} for name in "ab"}
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    x = np.zeros(3, np.float32)
    span = ("a", "output")
    for scale, is_linear in ((1.0, False), (2.0, False), (3.0, True)):
        state |= {"w": np.float32(scale) * eye, "is_linear": is_linear}
        values = isometry.spectrum(f, params, x, span=span).values
        np.testing.assert_allclose(values, scale, rtol=4 * EPS)
        profile = isometry.profile(
            f, params=stacked, xs=x[None], span=span, statistics=()
        )
        np.testing.assert_allclose(profile.spectra["a"].values, scale, rtol=4 * EPS)
