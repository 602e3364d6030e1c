"""Zeros and batches are warned of wherever a Jacobian is measured."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks
from isometry._internal.errors import BatchWarning, ZeroJacobianWarning

NET = networks.mlp([3, 4, 4, 2], "relu")
SHAPES = jax.eval_shape(NET.init, jax.random.key(0))
# Of positive weights every unit is active.
PARAMS = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), SHAPES)
ZEROED = jax.tree.map(np.copy, PARAMS)
ZEROED["layers"][1]["w"] *= 0
X = np.ones(3, np.float32)
EYE = np.eye(3, dtype=np.float32)
CAUSE = "J is exactly zero: the weight 'layers/1' is zero"


def rounded(w, x):
    return jnp.tanh(jnp.round(x)) @ w


TOKENS = {
    "embed": {"embedding": np.ones((5, 4), np.float32)},
    "head": {"kernel": np.ones((4, 2), np.float32)},
}


def of_tokens(params, x):
    rows = jnp.asarray(params["embed"]["embedding"])[x]
    return jnp.tanh(rows) @ params["head"]["kernel"]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"span": "hidden"},
        {"span": ("layers/0", "output")},
        {"method": "product"},
        {"method": "lanczos", "key": jax.random.key(0)},
    ],
)
def test_spectrum_of_a_zero_jacobian_names_the_weight(how):
    with pytest.warns(ZeroJacobianWarning, match=CAUSE) as caught:
        sp = isometry.spectrum(NET, ZEROED, X, **how)
    assert np.all(np.isneginf(sp.log_values))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message).startswith("spectrum(): ")


def test_jacobian_that_is_zero_names_the_cause():
    with pytest.warns(ZeroJacobianWarning, match="jacobian.*round at x is piecewise"):
        isometry.jacobian(rounded, EYE, X)


def test_span_from_a_point_names_the_point():
    def f(params, x):
        h = x @ params["stem"]["kernel"]
        return h.astype(int).astype(h.dtype) @ params["head"]["kernel"]

    params = {"stem": {"kernel": EYE}, "head": {"kernel": EYE}}
    with pytest.warns(ZeroJacobianWarning, match="the value at 'stem' is cast to int"):
        isometry.spectrum(f, params, X, span=("stem", "output"))


def test_ensemble_counts_its_zeros_and_names_the_cause_of_one():
    params = jax.tree.map(lambda *leaves: np.stack(leaves), PARAMS, ZEROED)
    message = r"zero at 3 of 6 pairs.*At seed 1, input 0: the weight 'layers/1' is zero"
    with pytest.warns(ZeroJacobianWarning, match=message) as caught:
        isometry.ensemble(NET, params=params, xs=np.stack([X] * 3))
    assert len(caught) == 1


def test_zeros_are_not_warned_of_in_a_trace_or_where_there_are_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        isometry.spectrum(NET, PARAMS, X)
        jax.jit(lambda x: isometry.spectrum(NET, ZEROED, x).log_values)(X)


def test_silenced_warning_is_not_looked_into(monkeypatch):
    monkeypatch.delattr("isometry.measure._diagnosis.cause_of_zero")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroJacobianWarning)
        isometry.spectrum(NET, ZEROED, X)


def test_zero_is_said_where_its_cause_cannot_be_found(monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr("isometry.measure._diagnosis.cause_of_zero", fail)
    with pytest.warns(ZeroJacobianWarning, match="zero: the cause was not found"):
        isometry.spectrum(NET, ZEROED, X)


def test_batch_is_warned_of_by_what_was_found():
    """A convolutional network of batches alone, and a sequence whose tokens meet."""
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((3, 3, 2, 2)).astype(np.float32)

    def convolution(kernel, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )
        return y.reshape(x.shape[0], -1)

    def attention(w, x):
        return jax.nn.softmax(x @ w @ x.T) @ x

    with pytest.warns(BatchWarning, match=r"depends on row i.*f\(params, x\[None\]\)"):
        isometry.spectrum(convolution, kernel, np.ones((2, 3, 3, 2), np.float32))
    tokens = rng.standard_normal((4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        isometry.spectrum(attention, EYE, tokens)


@pytest.mark.parametrize("measure", ["spectrum", "jacobian", "ensemble"])
def test_tokens_are_told_to_start_at_their_embedding(measure):
    x = np.array([0, 2, 1], np.int32)
    arguments = {"params": TOKENS, "x": x}
    if measure == "ensemble":
        stacked = jax.tree.map(lambda leaf: leaf[None], TOKENS)
        arguments = {"params": stacked, "xs": x[None]}
    message = r'x is int32, .*; write span=\("embed", "output"\)\.'
    with pytest.raises(isometry.InputError, match=message):
        getattr(isometry, measure)(of_tokens, **arguments)
    getattr(isometry, measure)(of_tokens, span=("embed", "output"), **arguments)
