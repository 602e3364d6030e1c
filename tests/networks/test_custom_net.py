"""The example of a tutorial's network: its weights, and the table that it prints."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def example():
    path = pathlib.Path(__file__).parents[2] / "examples" / "custom_net.py"
    return runpy.run_path(str(path))


def test_weights_are_those_of_the_author(example):
    """Xavier's bound √(6/(fan_in + fan_out)), and variance 2 · 2/(fan_in + fan_out)."""
    image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    net = networks.flax(example["CustomNet"](), image)
    params = net.init(KEY)["params"]
    kernel = params["Conv_0"]["kernel"]
    bound = (6 / (9 * 3 + 9 * 16)) ** 0.5
    assert 0.95 * bound < float(jnp.abs(kernel).max()) <= bound
    for name, fans in {"Dense_0": 16384 + 128, "Dense_1": 128 + 10}.items():
        weights = params[name]["kernel"]
        # The variance of n normal numbers has a relative standard error of √(2/n).
        tolerance = 4 * (2 / weights.size) ** 0.5
        assert float(jnp.var(weights)) == pytest.approx(4 / fans, rel=tolerance)
    biases = [layer["bias"] for layer in params.values()]
    assert not any(np.any(bias) for bias in biases)


def test_table_holds_the_singular_values(example):
    net = networks.mlp([5, 5], "linear", "orthogonal", 2.0)
    keys = jax.random.split(KEY, 2)
    table = example["spectra_table"]({"doubled": net}, keys, jnp.ones((3, 5)))
    _, row = table.splitlines()
    assert row.split() == ["doubled", "4.000", "2.000", "2.000", "1.00"]


@pytest.mark.slow
def test_example_prints_a_row_for_each_scheme(example, capsys):
    example["main"]()
    printed = capsys.readouterr().out
    for name in ("as written", *example["OTHER_SCHEMES"], "Dense_0"):
        assert f"\n{name}" in printed
