"""Learning rates of the maximal update parametrization, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks, schemes

KEY = jax.random.key(1)


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


def test_updates_keep_their_size_in_width():
    """After one step of SGD the output changes as much at width 256 as at 64.

    With one rate for all layers and Gaussian weights the change grows with width.
    """

    def changes(scheme, width, uses_rates):
        net = networks.mlp([8, width, width, 1], "tanh", scheme, bias=False)
        x, y = jnp.ones(8), jnp.ones(1)
        factors = [1.0, 1.0, 1.0]
        if uses_rates:
            factors = [schemes.learning_rate(layer, "sgd", 64) for layer in net.plan]

        def moved(key):
            params = net.init(key)

            def loss(p):
                return jnp.sum((net(p, x) - y) ** 2) / 2

            grads = jax.grad(loss)(params)
            runs = zip(params["layers"], grads["layers"], factors, strict=True)
            after = [{"w": p["w"] - 0.01 * f * g["w"]} for p, g, f in runs]
            return net({"layers": tuple(after)}, x)[0] - net(params, x)[0]

        return jax.vmap(moved)(jax.random.split(KEY, 32))

    @jax.jit
    def both():
        return [
            changes(scheme, width, scheme == "mup")
            for scheme in ("mup", "gaussian")
            for width in (256, 64)
        ]

    wide, narrow, plain_wide, plain_narrow = [
        float(np.sqrt(np.mean(np.square(change)))) for change in jax.device_get(both())
    ]
    assert wide / narrow == pytest.approx(1, abs=0.35)
    assert plain_wide / plain_narrow > 2


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
