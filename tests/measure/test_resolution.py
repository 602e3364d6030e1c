"""What a user writes, resolved once: spans, outputs, trees, tokens, closures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError
from isometry.measure import _function

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 4)).astype(np.float32)
X = RNG.standard_normal(4).astype(np.float32)


def values_of(jacobian):
    return np.linalg.svd(np.asarray(jacobian, np.float64), compute_uv=False)


def close(sp, jacobian):
    """Within rounding of products of 16 terms, each of norm below 4."""
    want = values_of(jacobian)
    np.testing.assert_allclose(sp.values, want, rtol=0, atol=64 * EPS * want[0])


# --- Tokens


def drawn(rng):
    """Parameters of a language model of eleven tokens and width four."""

    def matrix(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "embed": {"embedding": matrix(11, 4)},
        "mix": {"kernel": matrix(4, 4)},
        "head": {"kernel": matrix(4, 11)},
    }


def model(params, batch):
    h = params["embed"]["embedding"][batch["tokens"]]
    h = h + jnp.cumsum(jnp.tanh(h @ params["mix"]["kernel"]), axis=0)
    scores = h @ params["head"]["kernel"]
    return scores * batch["mask"][:, None]


def from_embedding(params, batch, h):
    """The part of the model behind its embedding, by hand."""
    h = h + jnp.cumsum(jnp.tanh(h @ params["mix"]["kernel"]), axis=0)
    return (h @ params["head"]["kernel"]) * batch["mask"][:, None]


BATCH = {
    "tokens": np.array([1, 7, 3], np.int32),
    "mask": np.array([1.0, 0.5, 2.0], np.float32),
}
PARAMS = drawn(np.random.default_rng(1))
SPANS = [("embed", "output"), ("embed", ("output", -1)), ("mix", "output")]


@pytest.fixture(scope="module")
def of_tokens():
    """Spectra over three spans in one call, of two seeds and two inputs."""
    stacked = jax.tree.map(lambda a: np.stack([a, 2 * a]), PARAMS)
    xs = jax.tree.map(lambda a: np.stack([a, a[::-1]]), BATCH)
    return isometry.ensemble(model, params=stacked, xs=xs, span=SPANS)


def test_tokens_are_measured_from_the_embedding_on(of_tokens):
    assert list(of_tokens) == SPANS
    embedded = PARAMS["embed"]["embedding"][BATCH["tokens"]]
    jacobian_of = jax.jit(jax.jacrev(from_embedding, argnums=2))
    jacobian = np.asarray(jacobian_of(PARAMS, BATCH, embedded))
    whole = of_tokens["embed", "output"]
    assert whole.log_values.shape == (2, 2, 12)
    close(_at(whole, 0, 0), jacobian.reshape(33, 12))
    last = of_tokens["embed", ("output", -1)]
    close(_at(last, 0, 0), jacobian.reshape(3, 11, 12)[-1])


def _at(sp, seed, index):
    return jax.tree.map(lambda a: a[seed, index], sp)


def test_a_spectrum_is_what_the_ensemble_says(of_tokens):
    for span in SPANS:
        one = isometry.spectrum(model, PARAMS, BATCH, span=span)
        many = _at(of_tokens[span], 0, 0)
        bound = 64 * EPS * float(one.values[0])
        np.testing.assert_allclose(many.values, one.values, rtol=0, atol=bound)


def test_tokens_without_a_span_are_told_where_to_start():
    message = r'spectrum\(\): x is int32.*span=\("embed", "output"\)'
    with pytest.raises(InputError, match=message) as error:
        isometry.spectrum(_of_tokens_alone, PARAMS, BATCH["tokens"])
    assert "float32" not in str(error.value)


def _of_tokens_alone(params, tokens):
    return model(params, {"tokens": tokens, "mask": jnp.ones(len(tokens))})


def test_tokens_beside_floating_leaves_need_a_span_behind_the_input():
    message = r'select rows of .embed..*span=\("embed", "output"\)'
    with pytest.raises(InputError, match=message):
        isometry.jacobian(model, PARAMS, BATCH)


# --- Outputs


def two_outputs(params, x):
    return params @ x, 3 * x


def named_outputs(params, x):
    return {"logits": params @ x, "aux": 3 * x}


@pytest.mark.parametrize(
    ("f", "output", "jacobian"),
    [
        (two_outputs, None, A),
        (two_outputs, 1, 3 * np.eye(4)),
        (two_outputs, np.int8(-1), 3 * np.eye(4)),
        (named_outputs, "logits", A),
    ],
)
def test_an_output_is_chosen(f, output, jacobian):
    found = isometry.jacobian(f, A, X, output=output)
    np.testing.assert_allclose(found, jacobian, rtol=2 * EPS)
    how = {"params": A[None], "xs": X[None], "output": output}
    close(_at(isometry.ensemble(f, **how), 0, 0), jacobian)


@pytest.mark.parametrize(
    ("f", "output", "message"),
    [
        (two_outputs, 2, "output=2 is none of f's outputs; it returns a tuple of 2"),
        (named_outputs, None, r"returns a dict of 'aux', 'logits'; .* Write output="),
        (named_outputs, "loss", "output='loss' is none of f's outputs"),
        (two_outputs, [1], r"output=\[1\] is not a whole number"),
        (two_outputs, True, "output=True must be a whole number"),
    ],
)
def test_an_output_that_is_none_is_refused(f, output, message):
    with pytest.raises(InputError, match=message):
        isometry.spectrum(f, A, X, output=output)


# --- Precision


def test_what_is_cast_up_is_said():
    low = A.astype(jnp.bfloat16)
    sp = isometry.spectrum(lambda w, x: w @ x, low, X.astype(jnp.bfloat16))
    assert sp.recast == "bfloat16"
    assert "float32 recast from bfloat16" in repr(sp)
    close(sp, low)
    assert isometry.spectrum(lambda w, x: w @ x, A, X).recast is None


# --- Closures


class Model:
    """What a user changes between two calls."""

    def __init__(self, w):
        self.w = w
        self.calls = 0

    def apply(self, params, x):
        self.calls += 1
        return jnp.tanh(self.w @ x)


def test_what_f_closes_over_is_read_anew():
    """Parameters that a user trains between two calls, in an object f closes over."""
    model = Model(A)

    def f(params, x):
        return model.w @ x

    close(isometry.spectrum(f, None, X), A)
    model.w = 2 * A
    close(isometry.spectrum(f, None, X), 2 * A)
    np.testing.assert_array_equal(isometry.jacobian(f, None, X), 2 * A)


def test_rules_of_the_same_name_are_told_apart():
    """Two surrogate derivatives of one step function, which read the same in words."""

    def step(scale):
        @jax.custom_jvp
        def sign(x):
            return jnp.sign(x)

        sign.defjvp(lambda x, dx: (jnp.sign(*x), scale * dx[0]))
        return lambda params, x: sign(x)

    for scale in (2.0, 3.0):
        found = isometry.jacobian(step(scale), None, X)
        np.testing.assert_allclose(found, scale * np.eye(4), rtol=EPS)


def scaled_inside(scale):
    """A program of its own holds the scale, which is no array of the one around it."""
    inner = jax.jit(lambda x: scale * x)
    return lambda params, x: inner(x)


@pytest.mark.parametrize("make", [jnp.float32, np.float32, lambda s: jnp.full(4, s)])
def test_numbers_inside_compiled_functions_are_told_apart(make):
    for scale in (2.0, 3.0):
        found = isometry.jacobian(scaled_inside(make(scale)), None, X)
        np.testing.assert_allclose(found, scale * np.eye(4), rtol=EPS)


def test_callbacks_are_told_apart():
    """JAX prints the callback of a program without saying which it is."""

    def scaled(scale):
        shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
        return lambda params, x: jax.pure_callback(lambda x: scale * x, shape, x)

    functions = [scaled(2.0), scaled(3.0)]
    traces = [_function.traced(f, None, X)[0] for f in functions]
    assert str(traces[0]) == str(traces[1])
    first, second = map(_function.Reference, functions)
    one = _function.identity(traces[0], first)
    assert one == _function.identity(traces[0], first)
    assert one != _function.identity(traces[1], second)


def test_functions_that_draw_alike_share_a_program():
    """The generator of a key holds functions, which are those of its name."""

    def drawn():
        return lambda params, x: x + jax.random.normal(jax.random.key(0), x.shape)

    one, other = drawn(), drawn()
    identities = [
        _function.identity(_function.traced(f, None, X)[0], _function.Reference(f))
        for f in (one, other)
    ]
    assert identities[0] == identities[1]


def test_a_function_written_in_the_call_is_compiled_once():
    """A lambda is new in each call; the program it makes is not."""
    events = []
    listen = jax.monitoring.register_event_duration_secs_listener
    listen(lambda event, *_, **__: events.append(event))
    lowered = []
    for _ in range(2):
        events.clear()
        isometry.spectrum(lambda w, x: jnp.sin(w @ x), A, X)
        lowered.append(sum("jaxpr_to_mlir" in event for event in events))
    assert lowered[0] > 0
    assert lowered[1] == 0


def test_an_ensemble_of_the_same_f_traces_it_once():
    model = Model(A)
    how = {"params": np.ones((1, 1), np.float32), "xs": X[None]}
    isometry.ensemble(model.apply, **how)
    calls, model.calls = model.calls, 0
    isometry.ensemble(model.apply, **how)
    assert calls > 0
    assert model.calls == 0


# --- Budget and progress


def elementwise(scale, x):
    return jnp.tanh(scale * x)


@pytest.mark.parametrize("call", [isometry.spectrum, isometry.jacobian])
def test_a_jacobian_beyond_the_memory_is_refused_before_it_is_formed(call):
    x = np.zeros(2**16, np.float32)
    message = (
        r"the 65536×65536 Jacobian takes \d{11,} bytes.*\(\d+(\.\d)? GB\), and 1000000 "
        r'are given, max_bytes\. Write spectrum\(\.\.\., method="lanczos"\)'
    )
    with pytest.raises(InputError, match=message):
        call(elementwise, np.float32(2), x, max_bytes=10**6)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40)], ids=["forward", "reverse"])
def test_a_large_jacobian_tells_how_far_it_is(shape):
    w = RNG.standard_normal(shape).astype(np.float32)
    x = np.full(shape[1], 0.01, np.float32)
    seen = []

    def f(w, x):
        return jnp.tanh(w @ x)

    def tell(done, total):
        seen.append((done, total))

    matrix = isometry.jacobian(f, w, x, progress=tell)
    np.testing.assert_allclose(matrix, isometry.jacobian(f, w, x), rtol=0, atol=4 * EPS)
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 10
    seen.clear()
    close(isometry.spectrum(f, w, x, progress=tell), matrix)
    assert seen[-1] == (30, 30)


# --- What f raises


def test_the_words_of_an_error_in_f_are_shown():
    def f(params, x):
        raise RuntimeError("the mask is missing\nand so on")

    message = r"RuntimeError at x of shape \(4,\): the mask is missing$"
    with pytest.raises(InputError, match=message) as error:
        isometry.jacobian(f, None, X)
    assert isinstance(error.value.__cause__, RuntimeError)
