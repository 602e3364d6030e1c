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


def _with_one_setting(initial):
    """Return what trains networks of one setting, whatever is asked for."""
    return lambda net, setting, *, key: initial(net, jnp.array([0.25, 0.5]), key=key)


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
        "all trained networks have the same setting",
        f"{_FIGURE}._initial",
        replace=_with_one_setting,
    ),
    Fault(
        _NAME,
        "a hundredth of the learning rate",
        "optax.adam",
        replace=lambda adam: lambda rate: adam(rate / 100),
    ),
]
