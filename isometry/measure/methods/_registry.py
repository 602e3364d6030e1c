"""The registry of methods by name."""

from collections.abc import Callable

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.measure.methods._method import Method
from isometry.measure.methods.dense import Dense
from isometry.measure.methods.lanczos import Lanczos
from isometry.measure.methods.product import Product

METHODS: dict[str, Callable[[], Method]] = {
    "auto": Dense,
    "dense": Dense,
    "product": Product,
    "lanczos": Lanczos,
}


@public("methods.register")
def register(name: str, method: Callable[[], Method]) -> None:
    """Register a name for a method, to be written as `method=` of a measurement.

    Args:
        name: The name.
        method: The class, whose fields have defaults, or a function that returns an
            instance.

    Returns:
        None.

    Raises:
        InputError: The name is taken by another method, or `method` makes no `Method`.

    Example:
        >>> class Listed(isometry.Dense):
        ...     forms_jacobian = False
        >>> methods.register("listed", Listed)
        >>> isometry.spectrum(jnp.dot, jnp.eye(2), jnp.ones(2), method="listed").method
        Listed()
    """
    # The same method may be registered again, as when a notebook cell is run twice.
    if METHODS.get(name, method) is not method:
        raise InputError(f"name={name!r} is taken; known: {', '.join(METHODS)}.")
    made = method() if callable(method) else method
    if not isinstance(made, Method):
        raise InputError(
            f"method={checks.show(method)} makes no Method; write a class that extends "
            "isometry.methods.Method."
        )
    METHODS[name] = method


def named(method: str | Method) -> Method:
    """Return the method with a name; a `Method` is returned as it is."""
    if isinstance(method, Method):
        return method
    # Made anew each time, because a registered function may return different methods.
    name = checks.one_of("method", method, METHODS)
    return METHODS[name]()


def require_key(method: Method, key: Key | None) -> None:
    """Require a random key for a method that draws."""
    if not method.needs_key:
        return
    if key is None:
        raise InputError(f"{method} draws random probes; write key=jax.random.key(0).")
    checks.key("key", key)
