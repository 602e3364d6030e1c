"""Learning rates of the maximal update parametrization, and what they are for."""

import numpy as np
import pytest

from isometry import InputError, networks, schemes


@pytest.mark.parametrize(
    ("optimizer", "rates"), [("sgd", (4, 1, 0.25)), ("adam", (1, 0.25, 0.25))]
)
def test_learning_rates_follow_the_width(optimizer, rates):
    """Table 3 of arXiv:2203.03466, at four times the base width; at that all are 1."""
    for width, expected in ((256, rates), (64, (1, 1, 1))):
        plan = networks.mlp([8, width, width, 10], "tanh", "mup").plan
        found = [schemes.learning_rate(layer, optimizer, 64) for layer in plan]
        assert found == pytest.approx(expected)
        biases = [
            schemes.learning_rate(layer, optimizer, 64, bias=True) for layer in plan
        ]
        assert biases == pytest.approx([expected[0], expected[0], 1])
    assert schemes.learning_rate(networks.mlp([8, 10]).plan[0], optimizer, 64) == 1


def test_width_of_a_convolution_is_its_channels():
    layer = schemes.Layer("hidden", 1, 3, 9 * 128, 9 * 256, kind="conv", window=(3, 3))
    assert schemes.learning_rate(layer, "adam", 64) == 1 / 2
    assert schemes.learning_rate(layer, "sgd", 64) == 2


def change_of_output(weights, factors):
    """How one step of SGD on |y - 1|²/2 changes y = C tanh(B tanh(A x)), by NumPy."""
    a, b, c = weights
    x = np.ones(len(a))

    def forward(a, b, c):
        first = np.tanh(x @ a)
        second = np.tanh(first @ b)
        return first, second, second @ c

    first, second, y = forward(a, b, c)
    to_second = (1 - second**2) * (c @ (y - 1))
    to_first = (1 - first**2) * (b @ to_second)
    grads = [
        np.outer(x, to_first),
        np.outer(first, to_second),
        np.outer(second, y - 1),
    ]
    steps = zip(weights, factors, grads, strict=True)
    after = [w - 0.01 * factor * grad for w, factor, grad in steps]
    return (forward(*after)[2] - y)[0]


def test_updates_keep_their_size_in_width():
    """After one step of SGD the output changes as much at width 256 as at 64.

    With one rate for all layers and a head of variance 1/fan_in it grows with width.
    """
    sizes = {}
    rng = np.random.default_rng(0)
    for width in (64, 256):
        plan = networks.mlp([8, width, width, 1], "tanh", "mup").plan
        rates = [schemes.learning_rate(layer, "sgd", 64) for layer in plan]
        changes = []
        for _ in range(32):
            # The law of mup, which `test_laws` holds it to; biases stay out.
            a = rng.normal(size=(8, width)) / 8**0.5
            b = rng.normal(size=(width, width)) / width**0.5
            c = rng.normal(size=(width, 1)) / width
            plain = [a, b, c * width**0.5]
            changes.append(
                [
                    change_of_output([a, b, c], rates),
                    change_of_output(plain, [1.0, 1.0, 1.0]),
                ]
            )
        sizes[width] = np.sqrt(np.mean(np.square(changes), axis=0))
    with_rates, without = sizes[256] / sizes[64]
    # Relative error of a mean over 32 seeds: √(2/32)/2 = 13 % each.
    assert with_rates == pytest.approx(1, abs=0.4)
    assert without > 2


@pytest.mark.parametrize(
    ("optimizer", "width", "message"),
    [
        ("adm", 64, r"learning_rate\(\): optimizer='adm'.*'adam'"),
        ("sgd", 0, r"base_width=0 must be"),
    ],
)
def test_learning_rate_refuses(optimizer, width, message):
    layer = networks.mlp([4, 3]).plan[0]
    with pytest.raises(InputError, match=message):
        schemes.learning_rate(layer, optimizer, width)
