"""The named schemes, and what else may stand where a scheme is taken."""

from typing import Any

from isometry import _checks, activations, initializers
from isometry.schemes import _lsuv, _mimetic, _mirrored, _mup, _plain, _residual, _transformer
from isometry.schemes._scheme import Scheme, same

_ROOMS = (_plain, _mirrored, _lsuv, _residual, _transformer, _mimetic, _mup)
_SCHEMES = {scheme.name: scheme for room in _ROOMS for scheme in room.SCHEMES}


def names() -> tuple[str, ...]:
    """The named schemes."""
    return tuple(_SCHEMES)


def catalogue() -> tuple[Scheme, ...]:
    """Every named scheme: name, definition, law, isometric networks, citation, aliases."""
    return tuple(_SCHEMES.values())


def get(scheme: Any, call: str = "schemes.get") -> Scheme:
    """A `Scheme` from a scheme's name, a catalogue name that needs no arguments, an initializer, or itself.

    An initializer is used for every layer's weights, with zero biases. Where a name is both a scheme and an
    initializer (orthogonal, identity) the scheme is meant.

    **Raises** `ValueError`: an unknown name (the nearest is suggested); a factory that was not called.
    """
    if isinstance(scheme, Scheme):
        return scheme
    plain = {e.name: e for e in initializers.catalogue() if not e.needs}
    if isinstance(scheme, str):
        _checks.one_of(call, among=(*_SCHEMES, *(n for n in plain if n not in _SCHEMES)), scheme=scheme)
        return _SCHEMES[scheme] if scheme in _SCHEMES else _everywhere(plain[scheme])
    name = getattr(scheme, "__name__", None)
    if any(scheme is e.factory for e in initializers.catalogue()):
        raise _checks.InputError(f"{call}(): scheme={name} is a factory; write {name}() with the parentheses.")
    if isinstance(scheme, initializers.Initializer) and scheme.layout.changed():
        told = ", ".join(f"{axis}={value}" for axis, value in scheme.layout.changed().items())
        raise _checks.InputError(
            f"{call}(): scheme={scheme!r} was told {told}. A network knows the layout of its own weights; leave it out."
        )
    if callable(scheme):
        return Scheme(
            getattr(scheme, "name", None) or name or "custom", same(scheme), "the same initializer everywhere"
        )
    raise _checks.InputError(f"{call}(): scheme={_checks.show(scheme)} is not a name, an initializer or a Scheme.")


def _everywhere(entry: initializers.Entry) -> Scheme:
    return Scheme(entry.name, same(entry.factory()), entry.definition, law=entry.law, citation=entry.citation)


def resolve(
    scheme: Any, activation: activations.Activation, sigma_w: float | None, sigma_b: float | None, call: str
) -> Scheme:
    """`get` and `Scheme.at` in one: the scheme with its scale fixed for this activation."""
    return get(scheme, call).at(activation, sigma_w, sigma_b, call)
