"""Faults that make the figure of trainable transformers fail."""

import jax.numpy as jnp

from tests.paper_faults import Fault, given

_NAME = "cowsik2024_trainability"
_FIGURE = f"paper_figs.{_NAME}"


def _stronger(scaled):
    """Return what makes the attention of networks stronger than theory is told."""
    return lambda params, setting: scaled(params, setting * jnp.array([1.2, 1.0]))


def _exchanged(collapse_gradients):
    """Return what takes gradients of one kind for those of the other."""

    def changed(*args, **kwargs):
        gradients = collapse_gradients(*args, **kwargs)
        return type(gradients)(common=gradients.free, free=gradients.common)

    return changed


def _trained_with(change):
    """Return what trains networks of another setting than the one asked for."""
    return lambda initial: (
        lambda net, setting, *, key: initial(net, change(setting), key=key)
    )


def _swapped(index, first, second):
    """Return what swaps two values of one entry of a setting."""

    def change(setting):
        other = jnp.where(setting[index] == first, second, first)
        either = (setting[index] == first) | (setting[index] == second)
        return setting.at[index].set(jnp.where(either, other, setting[index]))

    return change


FAULTS = [
    Fault(
        _NAME,
        "attention 20 % stronger",
        f"{_FIGURE}._scaled",
        replace=_stronger,
    ),
    Fault(
        _NAME,
        "ReLU instead of tanh",
        "isometry.networks.transformer",
        replace=given(activation="relu"),
    ),
    Fault(
        _NAME,
        "norms in front of the branches",
        "isometry.networks.transformer",
        replace=given(norm_at="pre"),
    ),
    Fault(
        _NAME,
        "tokens attend to earlier ones only",
        "isometry.networks.transformer",
        replace=given(causal=True),
    ),
    Fault(
        _NAME,
        "common and sum-free gradients exchanged",
        "isometry.theory.collapse_gradients",
        replace=_exchanged,
    ),
    Fault(
        _NAME,
        "neighbouring strengths of attention exchanged when networks are trained",
        f"{_FIGURE}._initial",
        replace=_trained_with(_swapped(0, 0.25, 0.85)),
    ),
    Fault(
        _NAME,
        "neighbouring scales exchanged when networks are trained",
        f"{_FIGURE}._initial",
        replace=_trained_with(_swapped(1, 0.5, 4.0)),
    ),
    Fault(
        _NAME,
        "a fifth of the learning rate",
        "optax.adam",
        replace=lambda adam: lambda rate: adam(rate / 5),
    ),
]
