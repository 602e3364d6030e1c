"""Points: their names, and that the places they name hold what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from isometry import InputError
from isometry.structure import anatomy
from tests.structure import small_models as models
from tests.structure.small_models import shape


def value_at(closed, place, arguments):
    """Run a program equation by equation, into what encloses the place."""
    return _value_at(closed.jaxpr, closed.consts, arguments, place)


def _value_at(jaxpr, consts, arguments, place):
    variables = [*jaxpr.constvars, *jaxpr.invars]
    env = dict(zip(variables, [*consts, *arguments], strict=True))
    if not place.path and place.var in env:
        return env[place.var]

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in eqn.invars]
        if place.path and place.path[0] == i:
            return _inside(eqn, operands, place._replace(path=place.path[1:]))
        if eqn.primitive.name == "custom_jvp_call":
            results = core.jaxpr_as_fun(eqn.params["call_jaxpr"])(*operands)
        else:
            results = eqn.primitive.bind(*operands, **eqn.params)
        if not eqn.primitive.multiple_results:
            results = [results]
        env |= dict(zip(eqn.outvars, results, strict=True))
        if not place.path and place.var in env:
            return env[place.var]
    return None


def _inside(eqn, operands, place):
    if eqn.primitive.name != "scan":
        (called,) = [
            value
            for value in eqn.params.values()
            if isinstance(value, (core.ClosedJaxpr, core.Jaxpr))
        ]
        jaxpr = getattr(called, "jaxpr", called)
        return _value_at(jaxpr, getattr(called, "consts", ()), operands, place)
    body = eqn.params["jaxpr"]
    inner = body.jaxpr
    num_carry = sum(
        len(a.aval.shape) == len(b.aval.shape)
        for a, b in zip(eqn.outvars, inner.outvars, strict=True)
    )
    ranks = [
        len(a.aval.shape) > len(b.aval.shape)
        for a, b in zip(eqn.invars, inner.invars, strict=True)
    ]
    num_consts = len(ranks) - num_carry - sum(ranks)
    turn, *rest = place.iterations
    order = range(eqn.params["length"])
    if eqn.params["reverse"]:
        order = reversed(order)
    fixed = operands[:num_consts]
    state = operands[num_consts : num_consts + num_carry]
    arrays = operands[num_consts + num_carry :]
    for i in order:
        arguments = [*fixed, *state, *(array[i] for array in arrays)]
        if i == turn:
            place = place._replace(iterations=tuple(rest))
            return _value_at(inner, body.consts, arguments, place)
        state = core.jaxpr_as_fun(body)(*arguments)[:num_carry]
    return None


def filled(tree, seed=0):
    """Fill shapes with numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), tree)


def values(model, names):
    """Read points of a model at random parameters."""
    f, params, x = model
    an = anatomy(f, params, x)
    params, x = filled((params, x))
    leaves = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
    read = {name: value_at(an.closed, an.place(name), leaves) for name in names}
    return params, x, read


def same(a, b):
    # A few roundings of float32 at values of order one.
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_points_of_a_perceptron_hold_its_pre_activations():
    model = models.unwrapped(models.perceptron())
    assert anatomy(*model).points == (
        "input",
        "first",
        "first:out",
        "second",
        "second:out",
        "last",
        "output",
    )
    params, x, read = values(model, ["input", "first", "first:out", "second", "output"])
    z = models.dense(params["params"]["first"], x)
    same(read["input"], x)
    same(read["first"], z)
    same(read["first:out"], jnp.tanh(z))
    z = models.dense(params["params"]["second"], jnp.tanh(z))
    same(read["second"], z)
    same(read["output"], model[0](params, x))


def test_points_of_a_stack_hold_the_state_of_every_turn():
    """Seven turns, of which four are laid out: the others are shifted."""
    names = [f"hidden[{i}]{tail}" for i in range(7) for tail in ("", ":out")]
    params, x, read = values(models.stacked(), names)
    z = x @ params["stem"]
    for i in range(7):
        w, b = params["hidden"]["w"][i], params["hidden"]["b"][i]
        z = jnp.tanh(z) @ w + b
        same(read[f"hidden[{i}]"], z)
        same(read[f"hidden[{i}]:out"], jnp.tanh(z))


def test_points_of_a_recurrence_hold_every_step():
    names = [f"{base}@{t}" for t in range(9) for base in ("V", "U", "carry")]
    params, x, read = values(models.recurrent(), names)
    h = jnp.zeros(4)
    for t in range(9):
        same(read[f"V@{t}"], x[t] @ params["V"])
        same(read[f"U@{t}"], h @ params["U"])
        h = jnp.tanh(x[t] @ params["V"] + h @ params["U"] + params["b"])
        same(read[f"carry@{t}"], h)


def test_states_of_a_recurrence_have_the_names_that_f_gives():
    def f(p, x):
        def step(states, x_t):
            h, c = states
            c = c + jnp.tanh(x_t + h @ p["U"])
            return (checkpoint_name(jnp.sin(c), "h"), checkpoint_name(c, "c")), None

        (h, _), _ = jax.lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), x)
        return h

    model = f, {"U": shape(4, 4)}, shape(3, 4)
    params, x, read = values(model, ["h@0", "h@1", "h@2", "c@0", "c@1"])
    h, c = jnp.zeros(4), jnp.zeros(4)
    for t in range(2):
        c = c + jnp.tanh(x[t] + h @ params["U"])
        h = jnp.sin(c)
        same(read[f"h@{t}"], h)
        same(read[f"c@{t}"], c)


def test_two_states_that_weights_read_are_numbered():
    def f(p, x):
        def step(states, x_t):
            first, second = states
            first = jnp.tanh(x_t + first @ p["U"] + second @ p["V"])
            return (first, jnp.sin(first + second)), None

        (_, second), _ = jax.lax.scan(step, (jnp.zeros(4), jnp.zeros(4)), x)
        return second

    points = anatomy(f, {"U": shape(4, 4), "V": shape(4, 4)}, shape(3, 4)).points
    assert [name for name in points if name.endswith("@1") and "/" in name] == [
        "carry/0@1",
        "carry/1@1",
    ]


def test_state_with_the_name_of_a_layer_stays_the_carry():
    def f(p, x):
        def step(h, x_t):
            return checkpoint_name(jnp.tanh(x_t + h @ p["U"]), "U"), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x)
        return h

    points = anatomy(f, {"U": shape(4, 4)}, shape(3, 4)).points
    assert "carry@1" in points
    assert "U@1" in points


def test_points_of_a_recurrence_in_reverse_are_counted_as_its_inputs_are():
    def f(p, x):
        def step(h, x_t):
            return jnp.tanh(x_t + h @ p["U"]), None

        h, _ = jax.lax.scan(step, jnp.zeros(4), x, reverse=True)
        return h

    model = f, {"U": shape(4, 4)}, shape(6, 4)
    params, x, read = values(model, [f"carry@{t}" for t in range(6)])
    h = jnp.zeros(4)
    for t in reversed(range(6)):
        h = jnp.tanh(x[t] + h @ params["U"])
        same(read[f"carry@{t}"], h)


def test_points_of_branches_hold_the_stream():
    names = ["one/fc2:sum", "two/proj", "two/fc2:sum:out", "three/fc:sum:out"]
    params, x, read = values(models.residual(), names)
    x = models.dense(params["stem"], x)
    one, two, three = params["one"], params["two"], params["three"]
    x = x + models.dense(one["fc2"], jax.nn.relu(models.dense(one["fc1"], x)))
    same(read["one/fc2:sum"], x)
    same(read["two/proj"], x @ two["proj"]["kernel"])
    branch = models.dense(two["fc2"], jax.nn.relu(models.dense(two["fc1"], x)))
    x = jax.nn.relu(x @ two["proj"]["kernel"] + branch)
    same(read["two/fc2:sum:out"], x)
    x = x + jnp.tanh(models.dense(three["fc"], x))
    same(read["three/fc:sum:out"], models.layer_norm(three["norm"], x))


def test_cuts_are_where_all_paths_meet():
    an = anatomy(*models.residual())
    cuts = [name for name in an.points if an.cuts(name)]
    assert cuts == [
        "input",
        "stem",
        "one/fc2:sum",
        "two/fc2:sum",
        "two/fc2:sum:out",
        "three/fc:sum",
        "three/fc:sum:out",
        "head",
        "output",
    ]


def test_integers_do_not_go_around_an_embedding():
    """A mask made of the tokens is no path: it has no derivative."""

    def f(p, tokens):
        x = p["embed"][tokens]
        return jnp.where(tokens[:, None] > 0, x @ p["w"], 0.0)

    model = f, {"embed": shape(5, 4), "w": shape(4, 4)}, models.whole(6)
    an = anatomy(*model)
    assert an.cuts("embed")
    assert [layer.name for layer in an.embeddings] == ["embed"]


def test_upstream_follows_turns():
    an = anatomy(*models.stacked())
    assert an.upstream("stem", "hidden[6]")
    assert an.upstream("hidden[3]", "hidden[4]")
    assert not an.upstream("hidden[4]", "hidden[3]")
    assert an.upstream("hidden[3]", "hidden[3]:out")
    assert not an.upstream("hidden[3]:out", "hidden[3]")
    an = anatomy(*models.residual())
    assert not an.upstream("two/proj", "two/fc1")
    assert an.upstream("two/proj", "output")


def test_unknown_point_is_refused_with_near_names():
    an = anatomy(*models.stacked())
    with pytest.raises(InputError, match=r"'hiden\[2\]' names no point.*'hidden\[2\]'"):
        an.place("hiden[2]")


def test_shape_of_a_point_is_that_of_one_turn():
    an = anatomy(*models.stacked())
    assert an.shape("hidden[5]").shape == (4,)
    assert an.shape("output").shape == (2,)


def test_second_use_of_a_weight_is_numbered():
    def f(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"])

    an = anatomy(f, {"w": shape(4, 4)}, shape(4))
    points = ("input", "w", "w:out", "w#2", "w#2:out", "output")
    assert an.points == points


def test_leaves_of_x_are_named_by_their_paths():
    def f(p, x):
        return x["a"] @ p["w"] + x["b"]

    an = anatomy(f, {"w": shape(4, 4)}, {"a": shape(4), "b": shape(4)})
    assert an.points[:2] == ("input/a", "input/b")
    # All of them together have a name too.
    assert an.shape("input").shape == (8,)
    assert an.upstream("input", "w")
    assert an.cuts("input")
    assert not an.cuts("input/a")


def test_input_that_is_only_put_beside_others_has_no_point_of_its_own():
    """A time beside an image is no layer; a norm before the first one is."""

    def f(params, x):
        return jnp.concatenate([x, jnp.ones(1)]) @ params["w"]["kernel"]

    def normed(params, x):
        h = x / jnp.sqrt(jnp.mean(x**2) + 1e-6)
        return f(params, h)

    params = {"w": {"kernel": jnp.ones((5, 2))}}
    assert anatomy(f, params, jnp.ones(4)).points == ("input", "w", "output")
    assert "input:out" in anatomy(normed, params, jnp.ones(4)).points
