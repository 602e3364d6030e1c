"""What a Layer and a Branch refuse, and what they say."""

import jax
import pytest

from isometry import InputError, networks, schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(0)
BRANCH = Branch(0, 4, 0, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Layer("hiden", 0, 2, 4, 4),
            r"Layer\(\): role='hiden' is not known.*Did you mean 'hidden'",
        ),
        (
            lambda: Layer("head", 1, 2, 4, 4, BRANCH),
            r"role='head' lies on the stream; leave branch out",
        ),
        (
            lambda: Layer("hidden", 0, 2, 4, 4, "branch 1"),
            r"branch='branch 1' is not a Branch",
        ),
        (lambda: Layer("hidden", 2, 2, 4, 4), r"index=2 .* between 0 and 1"),
        (lambda: Layer("hidden", 0, 2, 0, 4), r"fan_in=0 must be"),
        (
            lambda: Layer("hidden", 0, 2, 4, 4, kind="convolution"),
            r"kind='convolution' is not known",
        ),
        (
            lambda: schemes.get("fixup").initializer("head"),
            r"layer='head' is not a Layer; write schemes.Layer\(role, ind",
        ),
        (
            lambda: schemes.get("gaussian").bias_initializer(None),
            r"layer=None is not a Layer",
        ),
        (
            lambda: schemes.get("rezero").residual(0),
            r"branch=0 is not a Branch; write schemes.Branch\(index, count, ",
        ),
        (lambda: Branch(0, 4, 2, 2), r"Branch\(\): position=2 .* between 0 and 1"),
        (lambda: Branch(4, 4, 0, 2), r"index=4 must be"),
        (lambda: Branch(0, 0, 0, 2), r"count=0 must be"),
        (lambda: Branch(0, 1, 0, 0), r"length=0 must be"),
        (
            lambda: Branch(0, 1, 0, 1, "encodr"),
            r"stack='encodr' is not known.*'encoder'",
        ),
        (
            lambda: Branch(0, 1, 0, 1, other=3),
            r"Branch\(\): other=3 needs stack, one of encoder, decoder",
        ),
        (
            lambda: schemes.get("t_fixup").initializer(Layer("embedding", 0, 2, 9, 4)),
            r"an embedding is scaled by the",
        ),
        (
            lambda: schemes.get("t_fixup").initializer(Layer("qkv", 0, 2, 4, 12)),
            r"t_fixup treats values otherwise than queries and keys",
        ),
        (
            lambda: networks.mlp([4, 4, 2], "tanh", "fixup", 1.5),
            r"mlp\(\): sigma_w=1.5: scheme 'fixup' fixes its own scale",
        ),
        (
            lambda: schemes.resolve("dks", "tanh"),
            r"scheme 'dks' transforms the activation; write activation, scheme =",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_places_on_a_branch():
    assert [Branch(0, 6, p, 3).last for p in range(3)] == [False, False, True]
    assert Branch(0, 12, 0, 2).layers == 6
    assert Branch(0, 12, 0, 2, "encoder", 18).layers == 6
    assert Branch(0, 18, 0, 2, "decoder", 12).layers == 6
    # Nothing to attend to: two branches a layer.
    assert Branch(0, 12, 0, 2, "decoder").layers == 6


def test_channels_of_a_convolution_do_not_count_its_window():
    layer = Layer("hidden", 1, 3, 18, 36, kind="conv", groups=2, window=(3, 3))
    assert (layer.num_taps, layer.num_inputs, layer.num_outputs) == (9, 2, 4)
