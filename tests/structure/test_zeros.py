"""A Jacobian that is exactly zero has a cause, which is named.

Every case is checked to have a zero Jacobian by autodiff, and each with its cause taken
away to have none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.structure._zeros import cause_of_zero

# Of this seed some units of each layer are active, and some are not.
RNG = np.random.default_rng(1)
WEIGHTS = RNG.standard_normal((6, 4, 4)).astype(np.float32)
X = jnp.asarray(np.arange(1, 5, dtype=np.float32))
PARAMS = jax.tree.map(
    jnp.asarray,
    {
        "first": {"kernel": WEIGHTS[0]},
        "second": {"kernel": WEIGHTS[1]},
        "head": {"kernel": WEIGHTS[2]},
        "blocks": WEIGHTS[3:],
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
    },
)


def zeros_like(leaf):
    return jnp.asarray(np.zeros_like(leaf))


def zeroed(*names):
    return PARAMS | {name: jax.tree.map(zeros_like, PARAMS[name]) for name in names}


def without_block(index):
    blocks = np.array(PARAMS["blocks"])
    blocks[index] = 0
    return PARAMS | {"blocks": jnp.asarray(blocks)}


def biased(bias):
    return PARAMS | {"bias": jnp.asarray(np.full(4, bias, np.float32))}


def perceptron(params, x, activation=jax.nn.relu):
    h = activation(x @ params["first"]["kernel"] + params["bias"])
    h = activation(h @ params["second"]["kernel"])
    return h @ params["head"]["kernel"]


def with_activation(activation):
    return lambda params, x: perceptron(params, x, activation)


def residual(params, x):
    """The stream passes whatever the branch does."""
    h = x @ params["first"]["kernel"]
    h = h + jax.nn.relu(h) @ params["second"]["kernel"]
    return h @ params["head"]["kernel"] * params["scale"]


def two_paths(params, x):
    return x @ params["first"]["kernel"] + x @ params["second"]["kernel"]


def scanned(params, x):
    def block(h, w):
        return jnp.tanh(h @ w), None

    h, _ = jax.lax.scan(block, x @ params["first"]["kernel"], params["blocks"])
    return h @ params["head"]["kernel"]


def indexed(params, x):
    h = x
    for i in range(3):
        h = jnp.tanh(h @ params["blocks"][i])
    return h


def recurrent(params, x):
    def step(h, token):
        return jnp.tanh(h @ params["first"]["kernel"]) + 0 * token, None

    h, _ = jax.lax.scan(step, x, jnp.ones(3))
    return h


def rematerialized(params, x):
    @jax.checkpoint
    def block(h):
        return jax.nn.relu(h @ params["first"]["kernel"] + params["bias"])

    return block(x) @ params["head"]["kernel"]


def whole_numbers(params, x):
    return perceptron(params, x.astype(int).astype(x.dtype))


def tokens(params, x):
    return params["first"]["kernel"][x.astype(int) % 4] @ params["head"]["kernel"]


def stopped(params, x):
    h = jnp.tanh(x @ params["first"]["kernel"])
    return jax.lax.stop_gradient(h) @ params["head"]["kernel"]


def most_likely(params, x):
    return jax.nn.one_hot(jnp.argmax(perceptron(params, x)), 4)


def underflowing(params, x):
    return residual(params, x * 1e-20) * 1e-25


def cancelling(params, x):
    return perceptron(params, x) - perceptron(params, x)


def constant(params, x):
    return params["first"]["kernel"][0]


@jax.custom_vjp
def silent(x):
    return 2 * x


silent.defvjp(lambda x: (2 * x, None), lambda _, g: (0 * g,))


def with_a_silent_rule(params, x):
    return silent(x @ params["first"]["kernel"])


def masked(params, x):
    return x @ (params["first"]["kernel"] * jnp.zeros((4, 4)))


def where(h):
    return jnp.where(h > 0, h, 0)


def open_relu(h):
    return h * (h > 0).astype(h.dtype)


def compared_and_saturated(params, x):
    """The mask is a path of its own from x, on which no derivative can be had."""
    return jnp.where(x[0] > 0, 1.0, 2.0) * with_activation(jnp.tanh)(params, x)


def jacobian(f, params):
    """By autodiff, with the parameters as constants of its program."""
    return np.asarray(jax.jit(jax.jacrev(lambda x: f(params, x)))(X))


INACTIVE = "no unit behind 'first' is active: "
CAUSES = {
    "weight": (perceptron, zeroed("second"), "the weight 'second' is zero"),
    "head of a stream whose branch is zero too": (
        residual,
        zeroed("head", "second"),
        "the weight 'head' is zero",
    ),
    "scale": (residual, zeroed("scale"), "params['scale'] is zero"),
    "all paths": (
        two_paths,
        zeroed("first", "second"),
        "the weight 'first' is zero; the weight 'second' is zero",
    ),
    "slice of a stack": (
        scanned,
        without_block(1),
        "the weight 'blocks[1]' is zero",
    ),
    "slice by a number": (
        indexed,
        without_block(2),
        "the weight 'blocks[2]' is zero",
    ),
    "weight of a recurrence": (
        recurrent,
        zeroed("first"),
        "the weight 'first' is zero",
    ),
    "masked weight": (
        masked,
        PARAMS,
        "the weight 'first' is zero in the form in which it is used",
    ),
    "cast": (whole_numbers, PARAMS, "x is cast to int32"),
    "tokens": (
        tokens,
        PARAMS,
        "x is cast to int32 and picks rows; write span=('first', 'output')",
    ),
    "stop_gradient": (
        stopped,
        PARAMS,
        "stop_gradient behind 'first' lets no derivative through",
    ),
    "argmax": (most_likely, PARAMS, "argmax behind 'head' is piecewise constant"),
    "rounding": (
        lambda params, x: jnp.round(x @ params["head"]["kernel"]),
        PARAMS,
        "round behind 'head' is piecewise constant",
    ),
    "no path": (
        constant,
        PARAMS,
        "there is no path from x to the output: f ignores it",
    ),
    "dead units": (
        perceptron,
        biased(-1e6),
        INACTIVE + "relu is flat at all of them",
    ),
    "dead units in a remat": (
        rematerialized,
        biased(-1e6),
        INACTIVE + "relu is flat at all of them",
    ),
    "dead units of a where": (
        with_activation(where),
        biased(-1e6),
        INACTIVE + "where is flat at all of them",
    ),
    "dead units of a mask": (
        with_activation(open_relu),
        biased(-1e6),
        INACTIVE + "all of them are multiplied by zero",
    ),
    "saturation": (
        with_activation(jnp.tanh),
        biased(1e6),
        "every unit behind 'first' is saturated: tanh is flat at all of them",
    ),
    "saturation of a sigmoid": (
        with_activation(jax.nn.sigmoid),
        biased(1e6),
        "every unit behind 'first' is saturated: sigmoid is flat at all of them",
    ),
    "saturation beside a comparison of x": (
        compared_and_saturated,
        biased(1e6),
        "every unit behind 'first' is saturated: tanh is flat at all of them",
    ),
    "comparison alone": (
        lambda params, x: (x > 0).astype(x.dtype) @ params["head"]["kernel"],
        PARAMS,
        "a comparison at x is piecewise constant",
    ),
    "saturation of a softmax": (
        lambda params, x: jax.nn.softmax(1e4 * jnp.arange(4.0) * x),
        PARAMS,
        "the softmax at x is saturated: one entry takes all the weight, or there is "
        "only one",
    ),
    "logits that are all alike": (
        lambda params, x: jax.nn.softmax(jnp.full(4, x[0])),
        PARAMS,
        "the softmax at x ignores a shift that all its logits share",
    ),
    "underflow": (underflowing, PARAMS, "the derivative underflows behind 'head:out'"),
    "cancellation": (
        cancelling,
        PARAMS,
        "derivatives cancel exactly in a sum behind 'head'",
    ),
    "rule": (
        with_a_silent_rule,
        PARAMS,
        "a derivative rule of f's own behind 'first' returns zero",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_cause_of_a_zero_jacobian_is_named(name):
    f, params, cause = CAUSES[name]
    assert not np.any(jacobian(f, params))
    assert cause_of_zero(f, params, X) == cause


@pytest.mark.parametrize(
    "f", [perceptron, residual, two_paths, scanned, rematerialized]
)
def test_the_same_function_without_the_cause_has_a_derivative(f):
    assert np.any(jacobian(f, PARAMS))


def test_loops_and_branches_that_stop_a_perturbation_are_said_to():
    def looped(params, x):
        h = jax.lax.while_loop(lambda h: jnp.sum(h) > 1, lambda h: h * 0, x)
        return h @ params["head"]["kernel"]

    def branched(params, x):
        return jax.lax.cond(jnp.sum(x) > 0, jnp.zeros_like, jnp.sin, x)

    assert "a loop of unknown length is zero at x" in cause_of_zero(looped, PARAMS, X)
    said = cause_of_zero(branched, PARAMS, X)
    assert "the branch taken of a cond is zero at x" in said


def test_input_goes_by_the_name_that_it_is_given():
    said = cause_of_zero(whole_numbers, PARAMS, X, name_of_x="the value at 'stem'")
    assert said == "the value at 'stem' is cast to int32"


def test_leaves_of_an_input_tree_are_all_perturbed():
    def f(params, x):
        return jax.lax.stop_gradient(x["a"]) + x["b"] @ params["first"]["kernel"]

    x = {"a": X, "b": X, "length": jnp.arange(4)}
    said = cause_of_zero(f, zeroed("first"), x)
    assert set(said.split("; ")) == {
        "stop_gradient at x/a lets no derivative through",
        "the weight 'first' is zero",
    }


def test_zero_scale_of_a_norm_is_named_without_its_variance():
    """The factor is scale / sqrt(variance), and one of the two is zero."""

    def f(params, x):
        norm = params["norm"]
        factor = norm["scale"] / jnp.sqrt(norm["var"] + 1e-5)
        return factor * (params["w"] @ x) + norm["bias"]

    params = {
        "norm": {"scale": jnp.zeros(3), "var": jnp.ones(3), "bias": jnp.zeros(3)},
        "w": jnp.ones((3, 2)),
    }
    cause = cause_of_zero(f, params, jnp.ones(2))
    assert cause == "params['norm']['scale'] is zero"


def test_product_of_nonzero_leaves_that_is_zero_names_all():
    def f(params, x):
        return (params["mask"] * params["w"]) @ x

    params = {"mask": jnp.eye(2), "w": 1 - jnp.eye(2)}
    cause = cause_of_zero(f, params, jnp.ones(2))
    assert cause.startswith("a weight is zero that is made of")
