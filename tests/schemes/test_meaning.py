"""A scheme says so where a network has no part for what gives it its name."""

import jax
import jax.numpy as jnp
import pytest

from isometry import initializers, schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy
from tests.schemes import models

NETWORKS = ("cnn", "resnet", "transformer")


@pytest.fixture(scope="module")
def read():
    return {
        "cnn": models.read(models.Cnn(), models.images()),
        "resnet": models.read(models.ResNet(is_gated=True), models.images()),
        "transformer": models.read(models.Transformer(), jnp.arange(5)),
    }


# What the note on each scheme begins with, in the networks that lack its part. All
# others have no note, or are refused.
NO_BRANCH = "no residual branch was found, so "
NO_ATTENTION = "no attention was found, so "
NO_WINDOW = "no convolution was found, so "
NOTED = {
    "fixup": {"cnn": NO_BRANCH},
    "rezero": {"cnn": NO_BRANCH},
    "skipinit": {"cnn": NO_BRANCH},
    "zero_gamma": {"cnn": NO_BRANCH},
    "t_fixup": {"cnn": NO_BRANCH},
    "deep_norm": {"cnn": NO_BRANCH},
    "gpt2": {"cnn": NO_BRANCH},
    "admin": {"cnn": NO_BRANCH},
    "mimetic": {"cnn": NO_ATTENTION, "resnet": NO_ATTENTION},
    "delta_orthogonal": {"transformer": NO_WINDOW},
    "block_orthogonal": {"transformer": NO_WINDOW},
    "lsuv": dict.fromkeys(NETWORKS, "lsuv sets its scales on inputs"),
}


@pytest.mark.parametrize("scheme", schemes.names())
def test_scheme_without_its_part_says_so_first(scheme, read):
    for network, (shapes, an) in read.items():
        expected = NOTED.get(scheme, {}).get(network)
        try:
            assignment = schemes.assign(scheme, an, shapes)
        except NotDefined:
            assert expected is None
            continue
        assert len(assignment.notes) == (expected is not None)
        if expected is None:
            continue
        (note,) = assignment.notes
        assert note.startswith(expected)
        _, second, *_ = assignment.table().splitlines()
        assert second == f"note: {note}"
        assert note in repr(assignment)


# What notes say is drawn instead, and the scheme that draws it.
INSTEAD = {
    "rezero": "kaiming",
    "skipinit": "kaiming",
    "zero_gamma": "kaiming",
    "t_fixup": "xavier",
    "admin": "xavier",
    "mimetic": "xavier",
}


@pytest.mark.parametrize(("scheme", "other"), INSTEAD.items())
def test_what_a_note_names_is_what_is_drawn(scheme, other):
    """Every kernel has the variance of the scheme that is named, to 5 standard errors.

    Of 64·64 entries, uniform or Gaussian, the variance has a relative standard error of
    at most sqrt(2) / 64.
    """
    params = {"first": jnp.zeros((64, 64)), "last": jnp.zeros((64, 64))}

    def f(params, x):
        return jax.nn.relu(x @ params["first"]) @ params["last"]

    an = anatomy(f, params, jnp.ones(64))
    assignment = schemes.assign(scheme, an, params)
    assert f"{scheme} draws what {other} does" in assignment.notes[0]
    drawn = assignment.draw(jax.random.key(0), params)
    reference = {"kaiming": 2 / 64, "xavier": 2 / (64 + 64)}
    for leaf in drawn.values():
        assert float(leaf.var()) == pytest.approx(reference[other], rel=5 * 2**0.5 / 64)


def test_initializer_of_kernels_says_that_there_is_none(read):
    shapes, an = read["transformer"]
    for scheme in ("dirac", initializers.delta_orthogonal()):
        (note,) = schemes.assign(scheme, an, shapes).notes
        assert note.startswith(NO_WINDOW)
        assert note.endswith("draws its counterpart for matrices")
    shapes, an = read["cnn"]
    assert schemes.assign("dirac", an, shapes).notes == ()


def test_mup_of_a_single_layer_has_no_width():
    params = {"only": jnp.zeros((4, 3))}
    an = anatomy(lambda params, x: x @ params["only"], params, jnp.ones(4))
    (note,) = schemes.assign("mup", an, params).notes
    assert note.startswith("of a single layer, no side grows with width, so mup draws")


def test_loop_that_cannot_be_read_is_named():
    """The branch may be in there."""
    params = {"w": jnp.zeros((4, 4))}

    def f(params, x):
        h = jax.lax.while_loop(lambda h: h[0] > 1, lambda h: h + jnp.tanh(h), x)
        return h @ params["w"]

    an = anatomy(f, params, jnp.ones(4))
    (note,) = schemes.assign("rezero", an, params).notes
    unread = ", ".join(an.unread)
    assert f"was found (unread: {unread}), so rezero draws" in note


def highway(p, h):
    """Srivastava et al. (2015), equation 3."""
    gate = jax.nn.sigmoid(h @ p["gate"])
    return h * (1 - gate) + jnp.tanh(h @ p["w"]) * gate


def step_towards(p, h):
    return h + jax.nn.sigmoid(h @ p["gate"]) * (jnp.tanh(h @ p["w"]) - h)


def residual(p, h):
    return h + jnp.tanh(h @ p["gate"]) @ p["w"]


WIDE = dict.fromkeys(("gate", "w"), jax.ShapeDtypeStruct((4, 4), jnp.float32))


@pytest.mark.parametrize("block", [highway, step_towards])
def test_highway_layers_are_said_to_be_no_branches(block):
    shapes = {"first": WIDE, "second": WIDE}

    def alone(p, x):
        return block(p["second"], block(p["first"], x))

    def beside_a_branch(p, x):
        return residual(p["second"], block(p["first"], x))

    (note,) = schemes.assign("fixup", anatomy(alone, shapes, jnp.ones(4)), shapes).notes
    assert note.startswith("no residual branch was found (2 sums interpolate, ")
    an = anatomy(beside_a_branch, shapes, jnp.ones(4))
    (note,) = schemes.assign("fixup", an, shapes).notes
    assert note.startswith("one sum interpolates, (1 - t) x + t F(x), and is no")
    assert schemes.assign("orthogonal", an, shapes).notes == ()


def test_gates_of_recurrent_cells_are_no_highway_layers():
    """A GRU without its reset gate, step by step in a scan or in a loop."""
    shapes = {"gate": WIDE["w"], "w": WIDE["w"]}

    def scanned(p, xs):
        def step(h, x):
            return highway(p, h + x), None

        return jax.lax.scan(step, xs[0], xs)[0]

    def unrolled(p, xs):
        h = xs[0]
        for x in xs:
            h = highway(p, h + x)
        return h

    for f in (scanned, unrolled):
        an = anatomy(f, shapes, jnp.ones((3, 4)))
        (note,) = schemes.assign("fixup", an, shapes).notes
        assert note.startswith("no residual branch was found, so")
