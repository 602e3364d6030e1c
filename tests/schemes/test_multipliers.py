"""Residual networks that start at the identity, and the leaves that make them do so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy
from tests.schemes import models

KEY = jax.random.key(3)


@pytest.mark.parametrize("name", ["fixup", "rezero", "skipinit"])
def test_trunk_of_stacked_blocks_starts_at_the_identity(name):
    """By NumPy, at inputs of every size: what the blocks add to the stream is 0."""
    f, shapes, x = models.scanned()
    assignment = schemes.assign(name, anatomy(f, shapes, x), shapes)
    params = jax.device_get(jax.jit(assignment.draw)(KEY, models.noise(shapes)))
    stream = np.random.default_rng(0).normal(size=(5, 4)) * np.logspace(-2, 2, 4)
    before = stream.copy()
    stack = (params["first"], params["second"], params["gate"])
    for first, second, gate in zip(*stack, strict=True):
        stream = stream + gate * (np.tanh(stream @ first) @ second)
    np.testing.assert_array_equal(stream, before)
    # Fixup closes branches by their last layer and leaves their scalars at 1.
    closed = params["second"] if name == "fixup" else params["gate"]
    other = params["gate"] if name == "fixup" else params["second"]
    np.testing.assert_array_equal(closed, 0)
    assert np.abs(other).min() > 0
    assert np.abs(params["first"]).min() > 0


def rows_of(name, module, x):
    shapes, an = models.read(module, x)
    rows = schemes.assign(name, an, shapes).rows
    return {row.path: row.initializer for row in rows if row.role == "multiplier"}


def test_zero_gamma_closes_the_norm_and_not_the_scalar():
    paths = [f"['params']['block{i}']['norm']['scale']" for i in range(3)]
    for is_gated in (False, True):
        rows = rows_of("zero_gamma", models.ResNet(is_gated), models.images())
        assert rows == dict.fromkeys(paths, "constant(0)")


def test_rezero_takes_the_scalar_and_else_the_norm():
    scalars = [f"['params']['block{i}']['gate']" for i in range(3)]
    norms = [f"['params']['block{i}']['norm']['scale']" for i in range(3)]
    rows = rows_of("rezero", models.ResNet(is_gated=True), models.images())
    assert rows == dict.fromkeys(scalars, "constant(0)")
    rows = rows_of("rezero", models.ResNet(), models.images())
    assert rows == dict.fromkeys(norms, "constant(0)")


def test_schemes_without_a_rule_leave_multipliers_as_they_are():
    rows = rows_of("kaiming", models.ResNet(is_gated=True), models.images())
    assert rows == {}


def post_norm(skip):
    """norm(skip(x) + F(x)), twice; `skip` takes the parameters of a block and x."""

    def normed(x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def f(params, x):
        for block in params["blocks"]:
            x = normed(skip(block, x) + jax.nn.relu(x @ block["w"]) @ block["v"])
        return x

    leaf = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    block = {"w": leaf, "v": leaf, "skip": jax.ShapeDtypeStruct((), jnp.float32)}
    shapes = {"blocks": [block, block]}
    return f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32)


def test_deep_norm_sets_the_multiplier_of_the_skip():
    """α = L^(1/4) with L = 2 branches."""
    f, shapes, x = post_norm(lambda block, x: block["skip"] * x)
    assignment = schemes.assign("deep_norm", anatomy(f, shapes, x), shapes)
    params = jax.jit(assignment.draw)(KEY, models.zeros(shapes))
    for block in params["blocks"]:
        assert float(block["skip"]) == pytest.approx(2**0.25, rel=1e-6)


def test_deep_norm_accepts_the_number_that_the_program_fixes():
    f, shapes, x = post_norm(lambda block, x: 2**0.25 * x)
    rows = schemes.assign("deep_norm", anatomy(f, shapes, x), shapes).rows
    assert "multiplier" not in {row.role for row in rows}


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_deep_norm_refuses_a_skip_that_it_cannot_set(factor):
    f, shapes, x = post_norm(lambda block, x: factor * x)
    with pytest.raises(NotDefined, match=r"branch 'blocks/0': .* the skip by 1.18921"):
        schemes.assign("deep_norm", anatomy(f, shapes, x), shapes)


@pytest.mark.parametrize("name", ["deep_norm", "admin"])
def test_projection_on_the_skip_is_named(name):
    """The papers define the multiplier of a skip that returns x itself."""
    f, shapes, x = post_norm(lambda block, x: x @ block["skip"])
    shapes["blocks"] = [dict(block, skip=block["w"]) for block in shapes["blocks"]]
    with pytest.raises(NotDefined, match="this one is the projection blocks/0/skip"):
        schemes.assign(name, anatomy(f, shapes, x), shapes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rezero", r"branch 'attn0': scheme 'rezero' multiplies it by 0"),
        ("zero_gamma", r"branch 'attn0': scheme 'zero_gamma' starts the scale of the"),
        ("admin", r"branch 'attn0': admin rescales skips in front of a norm"),
        ("looks_linear", r"layer 'attn0/query': mirrored layers read pairs"),
        ("tat", r"scheme 'tat' transforms the activation"),
    ],
)
def test_what_a_model_has_no_leaf_for_is_refused(name, message):
    shapes, an = models.read(models.Transformer(), models.tokens())
    with pytest.raises(NotDefined, match=message):
        schemes.assign(name, an, shapes)


def test_a_scalar_that_all_slices_share_holds_one_value():
    def f(params, x):
        def step(x, w):
            return x + params["gate"] * jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, params["w"])[0] @ params["head"]

    shapes = {
        "w": jax.ShapeDtypeStruct((3, 4, 4), jnp.float32),
        "gate": jax.ShapeDtypeStruct((), jnp.float32),
        "head": jax.ShapeDtypeStruct((4, 2), jnp.float32),
    }
    an = anatomy(f, shapes, jax.ShapeDtypeStruct((4,), jnp.float32))
    draw = jax.jit(schemes.assign("rezero", an, shapes).draw)
    params = draw(KEY, models.noise(shapes))
    assert params["gate"].shape == ()
    assert float(params["gate"]) == 0.0


VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def perceptron(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def gated(leaf):
    """The shapes of a perceptron with a leaf "g"."""
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return {"w": square, "v": square, "g": leaf}


def pythagorean(p, x):
    return jnp.sqrt(1 - p["g"] ** 2) * x + p["g"] * perceptron(p, x)


def highway(p, x):
    return (1 - p["g"]) * x + p["g"] * perceptron(p, x)


def gated_at_both_ends(p, x):
    return x + p["g"] * perceptron(p, p["g"] * x)


def gated_stream(p, x):
    x = p["g"] * x
    return x + p["g"] * perceptron(p, x)


@pytest.mark.parametrize("f", [pythagorean, highway, gated_at_both_ends, gated_stream])
def test_a_gate_that_acts_elsewhere_too_is_refused(f):
    an = anatomy(f, gated(SCALAR), VECTOR)
    for name in ("rezero", "fixup"):
        with pytest.raises(NotDefined, match=r"\['g'\], which the program reads in"):
            schemes.assign(name, an, gated(SCALAR))


def test_two_numbers_in_one_leaf_are_set_apart():
    def f(p, x):
        return p["g"][0] * x + p["g"][1] * perceptron(p, x)

    shapes = gated(jax.ShapeDtypeStruct((2,), jnp.float32))
    assignment = schemes.assign("rezero", anatomy(f, shapes, VECTOR), shapes)
    params = jax.jit(assignment.draw)(KEY, models.noise(shapes))
    np.testing.assert_array_equal(params["g"], [1, 0])


def test_one_number_for_skip_and_branch_is_refused():
    def f(p, x):
        return p["g"] * x + p["g"] * perceptron(p, x)

    an = anatomy(f, gated(SCALAR), VECTOR)
    with pytest.raises(NotDefined, match=r"\['g'\] is shared by branches or skips"):
        schemes.assign("rezero", an, gated(SCALAR))


def nested(params, x):
    """Blocks x + a F(x) in a scan in a scan."""

    def block(x, p):
        return x + p["a"] * perceptron(p, x), None

    def stage(x, p):
        return jax.lax.scan(block, x, p)

    return jax.lax.scan(stage, x, params)[0]


@pytest.mark.parametrize(("name", "closed"), [("fixup", "v"), ("rezero", "a")])
def test_all_blocks_of_a_scan_in_a_scan_are_closed(name, closed):
    stack = jax.ShapeDtypeStruct((2, 3, 4, 4), jnp.float32)
    gates = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    shapes = {"w": stack, "v": stack, "a": gates}
    an = anatomy(nested, shapes, VECTOR)
    assert [branch.slice for branch in an.branches] == list(range(6))
    assignment = schemes.assign(name, an, shapes)
    params = jax.jit(assignment.draw)(KEY, models.noise(shapes))
    np.testing.assert_array_equal(params[closed], 0)


def test_a_scale_that_all_slices_share_is_no_scalar():
    """Three blocks of width 3: the shared scale has as many entries as the stack."""

    def f(params, x):
        def step(x, p):
            return x + (p["a"] * perceptron(p, x)) * params["scale"], None

        return jax.lax.scan(step, x, params["blocks"])[0]

    stack = jax.ShapeDtypeStruct((3, 3, 3), jnp.float32)
    vector = jax.ShapeDtypeStruct((3,), jnp.float32)
    shapes = {"blocks": {"w": stack, "v": stack, "a": vector}, "scale": vector}
    given = models.noise(shapes)
    assignment = schemes.assign("rezero", anatomy(f, shapes, vector), shapes)
    params = jax.jit(assignment.draw)(KEY, given)
    np.testing.assert_array_equal(params["blocks"]["a"], 0)
    np.testing.assert_array_equal(params["scale"], given["scale"])


def test_admin_gives_each_entry_of_one_vector_its_own_number():
    """By the law in NumPy: ω² of a block is 1 + Σ Var F / Var x of those before it."""

    def normed(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def f(params, x):
        for i, block in enumerate(params["blocks"]):
            x = normed(params["s"][i] * x + perceptron(block, x))
        return x

    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    block = {"w": square, "v": square}
    shapes = {"blocks": [block] * 3, "s": jax.ShapeDtypeStruct((3,), jnp.float32)}
    assignment = schemes.assign("admin", anatomy(f, shapes, VECTOR), shapes)
    drawn = jax.jit(assignment.draw)(KEY, models.zeros(shapes))
    xs = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    found = schemes.get("admin").adjust(f, drawn, xs)["s"]
    squares = [1.0]
    x = xs.astype(np.float64)
    for block in jax.device_get(drawn["blocks"]):
        result = np.tanh(x @ block["w"]) @ block["v"]
        squares.append(squares[-1] + result.var() / x.var())
        x = x + result
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    # Float32 rounds at 6e-8; the cancellation of sum minus skip costs two digits.
    np.testing.assert_allclose(found, np.sqrt(squares[:3]), rtol=1e-5)


def test_entries_that_are_not_known_hold_one_value():
    """A reversed stack of skips: admin would give each slice a number of its own."""
    f, shapes, x = reversed_skips()
    an = anatomy(f, shapes, x)
    params = jax.jit(schemes.assign("admin", an, shapes).draw)(
        KEY, models.zeros(shapes)
    )
    np.testing.assert_array_equal(params["s"], 1)
    xs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    with pytest.raises(NotDefined, match=r"\['s'\] is shared by branches or skips"):
        schemes.get("admin").adjust(f, params, xs)


def reversed_skips():
    def step(x, p):
        x = p["s"] * x + perceptron(p, x)
        x = x - x.mean()
        return x * jax.lax.rsqrt((x * x).mean() + 1e-6), None

    def f(params, x):
        return jax.lax.scan(step, x, params | {"s": params["s"][::-1]})[0]

    stack = jax.ShapeDtypeStruct((3, 4, 4), jnp.float32)
    shapes = {"w": stack, "v": stack, "s": jax.ShapeDtypeStruct((3,), jnp.float32)}
    return f, shapes, VECTOR


@pytest.mark.parametrize("is_fed", [False, True])
def test_gates_of_all_steps_are_set(is_fed):
    """One block again and again, or on each token, with a gate for each time."""

    def again(p, xs):
        def step(x, gate):
            return x + gate * perceptron(p, x), None

        return jax.lax.scan(step, xs[0], p["g"])[0]

    def mapped(p, xs):
        def step(carry, now):
            gate, x = now
            return carry, x + gate * perceptron(p, x)

        return jax.lax.scan(step, 0.0, (p["g"], xs))[1]

    f = mapped if is_fed else again
    shapes = gated(VECTOR)
    an = anatomy(f, shapes, shapes["w"])
    draw = jax.jit(schemes.assign("rezero", an, shapes).draw)
    np.testing.assert_array_equal(draw(KEY, models.noise(shapes))["g"], 0)
