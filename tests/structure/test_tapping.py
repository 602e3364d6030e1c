"""Values inside programs, read and perturbed, against functions written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry._internal import equations, jaxprs
from isometry.structure import _tapping
from isometry.structure._place import Inputs, Place
from isometry.structure._tapping import ADD, CUT, tapped

WIDTH = 3
LAYERS = 4


@pytest.fixture(scope="module")
def weights():
    drawn = np.random.default_rng(0).standard_normal((LAYERS, WIDTH, WIDTH))
    return jnp.asarray(drawn / np.sqrt(WIDTH), jnp.float32)


@pytest.fixture(scope="module")
def x():
    return jax.device_put(
        np.asarray(np.random.default_rng(1).standard_normal(WIDTH), np.float32)
    )


def place_of(closed, primitive, *, turns=(), nth=0):
    """The place of the nth result of a primitive, in the order of the program."""
    places = []

    def visit(jaxpr, path):
        for index, eqn in enumerate(jaxpr.eqns):
            if eqn.primitive.name == primitive:
                places.append(Place(path, eqn.outvars[0], turns))
            for part in _tapping._called(eqn):
                visit(equations.opened(part)[0], (*path, index))

    visit(closed.jaxpr, ())
    return places[nth]


def compare(tap, reference, arguments, bumps):
    """Values and derivatives, forward and reverse, along random directions."""

    def ours(arguments, bumps):
        (out,), readings = tap(arguments, bumps)
        return out, readings

    def derived(f, point, direction):
        values, forward = jax.jvp(f, point, direction)
        _, pull = jax.vjp(f, *point)
        return values, forward, pull(forward)

    @jax.jit
    def both(point, direction):
        return derived(ours, point, direction), derived(reference, point, direction)

    point = jax.tree.map(np.asarray, (arguments, bumps))
    direction = jax.tree.map(lambda a: np.cos(7 * a + 1), point)
    found, expected = both(point, direction)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Some tens of float32 products of order 1 to 10, each with its rounding.
        np.testing.assert_allclose(a, b, atol=64 * 10 * 1.2e-7, rtol=1e-5)


def scanned(weights, x):
    def layer(z, w):
        z = w @ jnp.tanh(z)
        return z, z.sum()

    z, sums = jax.lax.scan(layer, x, weights)
    return z + sums.mean()


def unrolled(weights, x, bumps):
    """`scanned` with a bump at each pre-activation."""
    z, values = x, []
    for w, bump in zip(weights, bumps, strict=True):
        z = w @ jnp.tanh(z) + bump
        values.append(z)
    sums = jnp.stack([value.sum() for value in values])
    return z + sums.mean(), jnp.stack(values)


def test_all_iterations_of_a_scan_are_read_and_bumped_as_one_array(weights, x):
    closed = jax.make_jaxpr(scanned)(weights, x)
    tap = tapped(closed, {"z": place_of(closed, "dot_general")})

    def reference(arguments, bumps):
        out, values = unrolled(*arguments, bumps["z"])
        return out, {"z": values}

    drawn = np.random.default_rng(2).standard_normal((LAYERS, WIDTH))
    bumps = {"z": np.float32(0.3 * drawn)}
    compare(tap, reference, [weights, x], bumps)


def test_one_iteration_of_a_scan_is_read_and_bumped_alone(weights, x):
    closed = jax.make_jaxpr(scanned)(weights, x)
    place = place_of(closed, "dot_general")
    places = {
        "one": place._replace(iterations=(1,)),
        "last": place._replace(iterations=(3,)),
    }

    def reference(arguments, bumps):
        all_bumps = jnp.zeros((LAYERS, WIDTH)).at[1].set(bumps["one"])
        out, values = unrolled(*arguments, all_bumps)
        return out, {"one": values[1], "last": values[3]}

    bumps = {"one": jnp.array([0.2, -0.1, 0.4])}
    compare(tapped(closed, places), reference, [weights, x], bumps)


def test_value_put_in_place_leaves_out_what_lies_before(weights, x):
    """The result depends on the earlier layers no more, so NaN in them is not seen."""

    def last_only(weights, x):
        z, _ = jax.lax.scan(lambda z, w: (w @ jnp.tanh(z), None), x, weights)
        return z

    closed = jax.make_jaxpr(last_only)(weights, x)
    place = place_of(closed, "dot_general", turns=(1,))
    tap = tapped(closed, {"z": place}, _tapping.replacing())
    z = jnp.array([0.2, -0.1, 0.4])
    lost = np.full(WIDTH, np.nan, np.float32)
    (out,), readings = jax.jit(tap)([weights, lost], {"z": z})
    expected = np.asarray(z)
    for w in np.asarray(weights)[2:]:
        expected = w @ np.tanh(expected)
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    np.testing.assert_array_equal(readings["z"], z)


def test_cuts_confine_derivatives_to_one_block(weights, x):
    """Each reading depends on the bump at the place before it, and on no other."""
    closed = jax.make_jaxpr(scanned)(weights, x)
    tap = tapped(closed, {"z": place_of(closed, "dot_general")}, CUT)

    def read(bumps):
        is_cut = jnp.ones(LAYERS, bool)
        return tap([weights, x], {"z": (bumps, is_cut)})[1]["z"]

    blocks = jax.jit(jax.jacrev(read))(jnp.zeros((LAYERS, WIDTH)))
    expected = np.zeros((LAYERS, WIDTH, LAYERS, WIDTH))
    z = np.asarray(weights[0]) @ np.tanh(x)
    for i, w in enumerate(np.asarray(weights)[1:]):
        expected[i + 1, :, i] = w @ np.diag(1 - np.tanh(z) ** 2)
        z = w @ np.tanh(z)
    np.testing.assert_allclose(blocks, expected, atol=1e-6)


def test_scan_in_reverse_counts_iterations_as_its_inputs_are_stacked(weights, x):
    def backward(weights, x):
        z, _ = jax.lax.scan(
            lambda z, w: (w @ jnp.tanh(z), None), x, weights, reverse=True
        )
        return z

    closed = jax.make_jaxpr(backward)(weights, x)
    place = place_of(closed, "dot_general")
    places = {"all": place, "one": place._replace(iterations=(2,))}

    def reference(arguments, bumps):
        weights, x = arguments
        all_bumps = bumps["all"].at[2].add(bumps["one"])
        z, values = x, []
        for w, bump in zip(weights[::-1], all_bumps[::-1], strict=True):
            z = w @ jnp.tanh(z) + bump
            values.append(z)
        return z, {"all": jnp.stack(values[::-1]), "one": values[1]}

    each = np.full((LAYERS, WIDTH), 0.1, np.float32)
    bumps = {"all": each, "one": jnp.array([0.2, 0.0, -0.3])}
    compare(tapped(closed, places), reference, [weights, x], bumps)


def test_scan_inside_a_scan_stacks_two_axes(weights, x):
    def nested(weights, x):
        def outer(z, ws):
            return jax.lax.scan(lambda z, w: (w @ jnp.tanh(z), None), z, ws)[0], None

        return jax.lax.scan(outer, x, weights.reshape(2, 2, WIDTH, WIDTH))[0]

    closed = jax.make_jaxpr(nested)(weights, x)
    place = place_of(closed, "dot_general")
    places = {
        "all": place,
        "one": place._replace(iterations=(1, 0)),
        "row": place._replace(iterations=(0,)),
    }

    def reference(arguments, bumps):
        all_bumps = bumps["all"].at[1, 0].add(bumps["one"]).reshape(LAYERS, WIDTH)
        z, values = arguments[1], []
        for w, bump in zip(arguments[0], all_bumps, strict=True):
            z = w @ jnp.tanh(z) + bump
            values.append(z)
        stacked = jnp.stack(values).reshape(2, 2, WIDTH)
        return z, {"all": stacked, "one": stacked[1, 0], "row": stacked[0]}

    bumps = {
        "all": np.full((2, 2, WIDTH), 0.1, np.float32),
        "one": jnp.array([0.2, 0.0, -0.3]),
    }
    compare(tapped(closed, places), reference, [weights, x], bumps)


@jax.custom_jvp
def doubled(x):
    return 2 * x


@doubled.defjvp
def _doubled_jvp(primals, tangents):
    # Not the derivative of the function, so that a test sees which one is taken.
    return 2 * primals[0], 5 * tangents[0]


@jax.custom_vjp
def tripled(x):
    return 3 * x


tripled.defvjp(lambda x: (3 * x, None), lambda _, cotangent: (7 * cotangent,))


def test_custom_derivatives_around_no_place_are_kept(weights, x):
    def f(weights, x):
        return tripled(doubled(weights[0] @ x))

    closed = jax.make_jaxpr(f)(weights, x)
    tap = tapped(closed, {"z": place_of(closed, "dot_general")})
    derivative = jax.jacrev(lambda b: tap([weights, x], {"z": b})[0][0])
    jacobian = jax.jit(derivative)(np.zeros(WIDTH, np.float32))
    np.testing.assert_array_equal(jacobian, 35 * np.eye(WIDTH))


def test_places_inside_calls_are_reached(weights, x):
    """jit, remat and functions with a custom_jvp, one inside the other."""

    @jax.custom_jvp
    def ruled(w, x):
        return jax.checkpoint(lambda x: jnp.tanh(w @ x))(x)

    ruled.defjvp(lambda primals, tangents: (ruled(*primals), 9 * tangents[1]))

    def f(weights, x):
        return weights[1] @ jax.jit(ruled)(weights[0], x)

    closed = jax.make_jaxpr(f)(weights, x)
    places = {"z": place_of(closed, "dot_general"), "h": place_of(closed, "tanh")}
    assert len(places["z"].path) >= 3

    def reference(arguments, bumps):
        weights, x = arguments
        z = weights[0] @ x + bumps["z"]
        h = jnp.tanh(z) + bumps["h"]
        return weights[1] @ h, {"z": z, "h": h}

    bumps = {"z": jnp.array([0.1, 0.2, 0.3]), "h": jnp.array([0.3, 0.0, -0.3])}
    compare(tapped(closed, places), reference, [weights, x], bumps)


def test_branches_of_cond_are_tapped_where_the_place_is(weights, x):
    def f(weights, x):
        return jax.lax.cond(
            x[0] > 0, lambda x: jnp.tanh(weights[0] @ x), lambda x: 2 * x, x
        )

    closed = jax.make_jaxpr(f)(weights, x)
    tap = jax.jit(tapped(closed, {"z": place_of(closed, "dot_general")}))
    bump = np.array([0.1, 0.2, 0.3], np.float32)
    _, *rest = np.asarray(x)
    taken = np.array([1.0, *rest], np.float32)
    (out,), readings = tap([weights, taken], {"z": bump})
    expected = np.asarray(weights[0]) @ taken + bump
    np.testing.assert_allclose(readings["z"], expected, rtol=1e-6)
    np.testing.assert_allclose(out, np.tanh(readings["z"]), rtol=1e-6)
    other = np.array([-1.0, *rest], np.float32)
    (out,), readings = tap([weights, other], {"z": bump})
    np.testing.assert_array_equal(out, 2 * other)
    assert np.isnan(readings["z"]).all()


def test_input_and_output_are_places_too(weights, x):
    closed = jax.make_jaxpr(scanned)(weights, x)
    (output,) = closed.jaxpr.outvars
    places = {
        "input": Place((), closed.jaxpr.invars[1], ()),
        "output": Place((), output, ()),
    }

    def reference(arguments, bumps):
        weights, x = arguments
        start = x + bumps["input"]
        out = scanned(weights, start) + bumps["output"]
        return out, {"input": start, "output": out}

    bumps = {"input": np.full(WIDTH, 0.2, np.float32), "output": np.float32([-0.1] * 3)}
    compare(tapped(closed, places), reference, [weights, x], bumps)


@pytest.mark.parametrize("mode", [ADD, CUT])
def test_arguments_are_read_and_perturbed_as_one_vector(mode):
    """A bump of an argument alone is part of the vector as well."""
    arguments = [np.float32([[1, 2]]), np.int32(3), np.float32([3])]
    closed = jax.make_jaxpr(lambda a, n, b: (a[n - 3], 3 * b))(*arguments)
    places = {
        "all": Inputs((0, 2)),
        "b": Place((), closed.jaxpr.invars[2], ()),
    }
    given = {"all": np.float32([10, 20, 30]), "b": np.float32([0.5])}
    reading = [11, 22, 33.5]
    if mode is CUT:
        given = {name: (bump, True) for name, bump in given.items()}
        reading = [1, 2, 3]
    outputs, readings = jax.jit(tapped(closed, places, mode))(arguments, given)
    np.testing.assert_array_equal(readings["all"], reading)
    np.testing.assert_array_equal(outputs[0], [11, 22])
    np.testing.assert_array_equal(outputs[1], [3 * 33.5])
    assert readings.keys() == places.keys()


def test_batches_are_tapped_example_by_example(weights, x):
    closed = jax.make_jaxpr(scanned)(weights, x)
    tap = tapped(closed, {"z": place_of(closed, "dot_general", turns=(2,))})
    xs = np.stack([x, 2 * np.asarray(x)])
    bumps = {"z": np.arange(6, dtype=np.float32).reshape(2, WIDTH)}
    batch = jax.jit(jax.vmap(lambda x, b: tap([weights, x], b)))(xs, bumps)
    alone = jax.jit(tap)
    for i in range(2):
        one = alone([weights, xs[i]], jax.tree.map(lambda b, i=i: b[i], bumps))
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5)


def test_place_inside_while_is_refused(x):
    def f(x):
        return jax.lax.while_loop(lambda x: x[0] < 9, lambda x: jnp.exp(x), x)

    closed = jax.make_jaxpr(f)(x)
    with pytest.raises(isometry.InputError, match="point lies inside a while"):
        tapped(closed, {"point": place_of(closed, "exp")})([x], {})


def test_program_grows_with_places_and_not_with_length(x):
    """A scan stays a scan, so compile time is flat in depth."""

    def count(layers):
        weights = np.ones((layers, WIDTH, WIDTH), np.float32)
        closed = jax.make_jaxpr(scanned)(weights, x)
        tap = tapped(closed, {"z": place_of(closed, "dot_general")})
        bumps = {"z": np.zeros((layers, WIDTH), np.float32)}
        program = jax.make_jaxpr(tap)([weights, x], bumps)
        return len(list(jaxprs.equations(program.jaxpr)))

    assert count(4) == count(40)
