"""Exceptions and warnings, and the decorator that names the public function."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# The beginning of a message that names the function itself: "mlp(): sizes=[] is empty."
_NAMED = re.compile(r"([A-Za-z_][\w.]*)\(\): ", re.ASCII)


class FromCall(Exception):
    """An error whose message begins with the public function that refused the call.

    Attributes:
        message: The text without the function's name.
        function: The name of the function that the user called, or None if it is not
            known.
    """

    message: str
    function: str | None

    def __init__(self, message: str):
        super().__init__(message)
        self.function = None
        self.message = message
        named = _NAMED.match(message)
        if named:
            self.function = named[1]
            self.message = message[named.end() :]

    def __str__(self) -> str:
        if self.function is None:
            return self.message
        return f"{self.function}(): {self.message}"


class InputError(FromCall, ValueError):
    """An argument that cannot be used.

    The message names the argument, what came, and what to write instead. The name of
    the public function that was called stands before it once, put there by `public`.

    Attributes:
        message: The text without the function's name.
        function: The name of the function that the user called, or None if it is not
            known.

    Example:
        >>> try:
        ...     networks.mlp([3], "tanh")
        ... except isometry.InputError as error:
        ...     print(error)
        mlp(): widths=[3] has 1; write [n_in, hidden ..., n_out].
    """


class NotDefined(InputError):
    """The arguments are sound, but what they ask for does not exist, or is not known.

    The message gives the reason, and what to call instead.

    Example:
        >>> net = networks.mlp([8] * 4, "tanh", "zer_o")
        >>> try:
        ...     net.law("hidden", jnp.ones((1, 8)))
        ... except isometry.NotDefined as error:
        ...     print(str(error)[:31])
        law(): no law is known of zer_o
    """


class SameInTraining(NotDefined):
    """A network has no training mode of its own: it computes the same in both modes."""


class NotFinite(InputError):
    """A Jacobian that overflows or holds a NaN."""


class TracedError(FromCall, TypeError):
    """An argument is traced, and the function needs its value."""


class MissingExtra(FromCall, ImportError):
    """A command or function needs an optional dependency that is not installed.

    Example:
        >>> try:
        ...     xs, targets = data.digits()
        ... except isometry.MissingExtra:
        ...     xs, targets = data.gaussian(jax.random.key(0), 1797, 64)
        >>> xs.shape
        (1797, 64)
    """


class PrecisionWarning(UserWarning):
    """f computes below the precision of the measurement; the message says where.

    Example:
        >>> import warnings
        >>> def f(w, x):
        ...     return jnp.dot(w, x, precision="default")
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", isometry.PrecisionWarning)
        ...     sp = isometry.spectrum(f, jnp.eye(3), jnp.ones(3))
        >>> sp.values
        Array([1., 1., 1.], dtype=float32)
    """


class BatchWarning(UserWarning):
    """x may be a batch: row i of the output depends on row i of x alone.

    Derivatives tell that of all pairs of rows. They cannot tell a batch from one
    example whose rows never meet, such as tokens of a network without attention.

    Example:
        >>> import warnings
        >>> def f(w, x):
        ...     return x @ w
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", isometry.BatchWarning)
        ...     sp = isometry.spectrum(f, jnp.eye(3), jnp.ones((2, 3)))
        >>> sp.size
        6
    """


class ZeroJacobianWarning(UserWarning):
    """A Jacobian is exactly zero; the message says why no perturbation of x passes.

    A weight is zero, x is cast to integers, no unit of a layer is active, f holds a
    stop_gradient, or f ignores x.

    Example:
        >>> import warnings
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> params = net.init(jax.random.key(0))
        >>> params["layers"][2]["w"] *= 0
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     sp = isometry.spectrum(net, params, jnp.ones(32))
        >>> "the weight 'layers/2' is zero" in str(caught[-1].message)
        True
    """


def public(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the function that the user called in every error about its arguments.

    Functions nest: the outermost name wins, because it is the one that the user wrote.

    Args:
        name: What the user writes, without the package: "mlp", "data.load".

    Returns:
        A decorator.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except FromCall as error:
                error.function = name
                raise

        return call

    return decorate
