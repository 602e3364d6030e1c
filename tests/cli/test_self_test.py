"""The self-test: known answers are met, and a broken engine fails."""

import dataclasses
import math

import jax
import pytest

from isometry import initializers, linalg, theory
from isometry.cli import _self_test
from isometry.cli._self_test import Check


@pytest.fixture(scope="module")
def tested():
    return {check.name: check for check in _self_test.self_test(jax.random.key(0))}


@pytest.mark.parametrize("name", list(_self_test.TESTS))
def test_engine_gives_the_known_answer(name, tested):
    check = tested[name]
    assert check.fault is None
    assert check.holds
    assert 0 <= check.error <= check.allowed < 0.1
    # A paste survives any encoding.
    assert check.name.isascii()
    assert check.why.isascii()


def scaled(spectrum):
    """A spectrum whose values are off by a thousandth, as by products in TF32."""
    log_values = spectrum.log_values + math.log(1.001)
    return dataclasses.replace(spectrum, log_values=log_values)


@pytest.mark.parametrize(
    ("module", "function", "spoil", "name"),
    [
        (_self_test, "spectrum", scaled, "dense singular values"),
        (
            linalg,
            "product_log_singular_values",
            lambda logs: logs + 0.01,
            "product of 64 factors, ln s",
        ),
        (theory, "chi", lambda chi: chi * 1.001, "theory, chi_1 of erf"),
    ],
)
def test_broken_engine_fails(module, function, spoil, name, monkeypatch):
    right = getattr(module, function)

    def wrong(*args, **kwargs):
        return spoil(right(*args, **kwargs))

    monkeypatch.setattr(module, function, wrong)
    check = _self_test.checked(name, _self_test.TESTS[name], jax.random.key(0))
    assert check.fault is None
    assert not check.holds


def test_broken_edge_fails(monkeypatch):
    """The edge of another depth."""
    law = theory.jacobian_law("linear", 8, q=1.0, sigma_w=1.0, weights="gaussian")
    monkeypatch.setattr(theory, "jacobian_law", lambda *args, **kwargs: law)
    assert not _self_test.checked("edge", _self_test._edge, jax.random.key(0)).holds


def test_initializer_off_by_a_thousandth_fails(monkeypatch):
    right = initializers.orthogonal
    monkeypatch.setattr(initializers, "orthogonal", lambda: right(1.001))
    key = jax.random.key(0)
    assert not _self_test.checked("w", _self_test._orthogonal, key).holds


def test_what_a_test_raises_is_its_outcome():
    def raises(key):
        raise RuntimeError("no such kernel")

    check = _self_test.checked("svd", raises, None)
    expected = "RuntimeError: no such kernel"
    assert check == Check("svd", None, None, "", expected)
    assert not check.holds


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_no_number_is_no_answer(error):
    check = _self_test.checked("svd", lambda key: (error, 1.0, "exact"), None)
    assert not check.holds
    assert check.error is None
    assert str(error) in check.fault
