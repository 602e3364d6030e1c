"""Independent entries with a stated mean and scale."""

import jax
import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._protocol import Initializer, arguments


@register(
    law="entries independent, uniform on [low, high): mean (low + high)/2, variance (high − low)²/12",
    citation="torch.nn.init.uniform_",
    aliases=("torch uniform_", "Keras RandomUniform"),
)
def uniform(*, low: float = 0.0, high: float = 1.0) -> Initializer:
    """Independent entries, uniform on [low, high).

    Keyword-only: `jax.nn.initializers.uniform(s)` is `uniform(low=0, high=s)`, bit for bit from the same key.

    **Raises** `ValueError`: bounds not finite or upside down.
    """
    _checks.number("uniform", low=low, high=high)
    if not _checks.is_traced((low, high)) and low >= high:
        raise _checks.InputError(f"uniform(): low={low} is not below high={high}.")

    def draw(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, minval=low, maxval=high)

    return Initializer("uniform", arguments(low=low, high=high), draw)


@register(
    law="entries independent N(mean, std²)",
    citation="torch.nn.init.normal_",
    aliases=("torch normal_", "Keras RandomNormal"),
)
def normal(*, mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Independent Gaussian entries N(mean, std²).

    Keyword-only: `jax.nn.initializers.normal(s)` is `normal(std=s)`, bit for bit from the same key.

    **Raises** `ValueError`: mean not finite, std negative or not finite.
    """
    _checks.number("normal", mean=mean)
    _checks.number("normal", low=0.0, std=std)

    def draw(key, shape, dtype):
        noise = jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)
        return noise if isinstance(mean, (int, float)) and mean == 0 else noise + jnp.asarray(mean, dtype)

    return Initializer("normal", arguments(mean=mean, std=std), draw)
