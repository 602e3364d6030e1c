"""The named schemes, and what else may stand where a scheme is taken."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from isometry import activations, initializers
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Elementwise, Key
from isometry._internal.types import Initializer as Init
from isometry.activations import Activation
from isometry.schemes import (
    _admin,
    _lsuv,
    _mimetic,
    _mirrored,
    _mup,
    _plain,
    _residual,
    _shaped_attention,
    _shaping,
    _transformer,
)
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Blocks, Choose, Scheme, same

SchemeLike: TypeAlias = str | Init | Scheme

_ROOMS = (
    _plain,
    _mirrored,
    _lsuv,
    _residual,
    _transformer,
    _admin,
    _mimetic,
    _mup,
    _shaping,
    _shaped_attention,
)
_SCHEMES = {scheme.name: scheme for room in _ROOMS for scheme in room.SCHEMES}

# Initializers that are defined for convolution kernels only, and what takes their place
# in a layer without a window.
_WITHOUT_WINDOW = {
    "delta_orthogonal": initializers.orthogonal,
    "block_orthogonal": initializers.orthogonal,
    "dirac": initializers.partial_identity,
}
_OTHERWISE = "draws its counterpart for matrices"


def names() -> tuple[str, ...]:
    """Return the named schemes.

    Returns:
        Their names.

    Example:
        >>> "lsuv" in schemes.names()
        True
    """
    return tuple(_SCHEMES)


def catalogue() -> tuple[Scheme, ...]:
    """List every named scheme, with its definition, law and source.

    Returns:
        The schemes.

    Example:
        >>> scheme = schemes.catalogue()[0]
        >>> scheme.name, scheme.citation
        ('gaussian', 'Poole et al. (2016), arXiv:1606.05340')
    """
    return tuple(_SCHEMES.values())


@public("schemes.get")
def get(scheme: SchemeLike) -> Scheme:
    """Look up the scheme that a user means.

    An initializer is used for the weights of every layer, with zero biases; one that is
    for convolutions alone (`delta_orthogonal`, `dirac`) becomes its counterpart for
    matrices where a layer has no window. Where a name is both a scheme and an
    initializer (orthogonal, identity) the scheme is meant.

    Args:
        scheme: The name of a scheme or of an initializer that needs no arguments, an
            initializer, or a `Scheme`.

    Returns:
        The scheme.

    Raises:
        InputError: A name that is not known (the nearest is suggested), a factory that
            was not called, or an initializer that was told a layout.

    Example:
        >>> schemes.get("kaiming")
        Scheme('kaiming')
        >>> schemes.get(initializers.normal(std=0.02))
        Scheme('normal')
    """
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, str):
        return _named(scheme)
    name = getattr(scheme, "__name__", None)
    # A factory is callable too, and would be taken for an initializer.
    is_ours = any(scheme is entry.factory for entry in initializers.catalogue())
    if is_ours or (callable(scheme) and _returns_function(scheme)):
        raise InputError(
            f"scheme={name} is a factory; write {name}() with the parentheses."
        )
    if isinstance(scheme, initializers.Initializer):
        changed = scheme.layout.changed()
        if changed:
            told = ", ".join(f"{axis}={value}" for axis, value in changed.items())
            raise InputError(
                f"scheme={scheme!r} was told {told}. A network knows the layout of its "
                "own weights; leave it out."
            )
    if not callable(scheme):
        raise InputError(
            f"scheme={checks.show(scheme)} is not a name, an initializer or a Scheme."
        )
    return Scheme(
        # Initializers of this package have `name`, plain functions have `__name__`.
        getattr(scheme, "name", None) or name or "custom",
        _everywhere(scheme),
        definition="the same initializer everywhere",
        made_for=_made_for(scheme),
        otherwise=_OTHERWISE,
    )


def _returns_function(init: Callable[..., object]) -> bool:
    """Tell whether a function makes initializers, as `jax.nn.initializers.he_normal`.

    Called with a key and a shape, which it takes for axes, it returns a function.
    """
    returned: list[object] = []

    def probe(key: Key) -> None:
        returned.append(init(key, (2, 2), jnp.float32))

    # What it refuses of this shape is its own matter, and said when it draws.
    with contextlib.suppress(Exception):
        jax.eval_shape(probe, jax.random.key(0))
    return any(callable(value) for value in returned)


def _named(name: str) -> Scheme:
    """Look up a scheme by name; wrap an initializer that needs no arguments in one."""
    without_arguments = {
        entry.name: entry for entry in initializers.catalogue() if not entry.needs
    }
    known = dict.fromkeys([*_SCHEMES, *without_arguments])
    checks.one_of("scheme", name, known)
    # Some names are both. The scheme wins: `orthogonal` then has the critical scale of
    # the network, where the initializer has gain 1.
    if name in _SCHEMES:
        return _SCHEMES[name]
    entry = without_arguments[name]
    return Scheme(
        entry.name,
        _everywhere(entry.factory()),
        definition=entry.definition,
        law=entry.law,
        citation=entry.citation,
        made_for=_made_for(entry.factory()),
        otherwise=_OTHERWISE,
    )


def _made_for(init: Init) -> str:
    """Return which part of a network an initializer is made for, as `Scheme` has it."""
    return "windows" if getattr(init, "name", "") in _WITHOUT_WINDOW else ""


def _everywhere(init: Init) -> Choose:
    """Return a rule that uses an initializer for every layer.

    One for convolution kernels gives way to its counterpart in layers without a window.
    """
    name = getattr(init, "name", "")
    if not isinstance(init, initializers.Initializer) or name not in _WITHOUT_WINDOW:
        return same(init)
    # No attribute of an initializer holds its gain. `largest` bounds the entries of
    # what it draws, and for these three that bound is the gain, whatever the shape.
    without_window = _WITHOUT_WINDOW[name](init.largest((1, 1, 1)))

    def choose(layer: Layer, sigma_w: float) -> Init:
        # An initializer has a scale of its own.
        del sigma_w
        return init if layer.window else without_window

    return choose


def resolve(
    scheme: SchemeLike,
    activation: str | Elementwise | Activation,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    call: str = "schemes.resolve",
) -> Scheme:
    """Look up a scheme, and choose its sigmas for the one activation of a network.

    Args:
        scheme: As for `get`.
        activation: A name, an elementwise callable, or an `Activation`.
        sigma_w: The scale of the weights. None is critical for the activation.
        sigma_b: The standard deviation of the biases. None is 0, or what belongs to the
            critical point.
        call: The function that the user called, for messages.

    Returns:
        The scheme with fixed sigmas, as by `Scheme.at`.

    Raises:
        InputError: The scheme is not known; a sigma is given for a scheme that fixes
            its own, or is not finite and non-negative.
        NoCriticalPoint: The activation has no critical point.

    Example:
        >>> schemes.resolve("orthogonal", "tanh", sigma_w=1.5)
        Scheme('orthogonal', sigma_w=1.5, sigma_b=0)
    """

    # Decorated here, because the name in messages is known only now.
    @public(call)
    def resolved() -> Scheme:
        return get(scheme).at(activation, sigma_w, sigma_b)

    return resolved()


@public("schemes.transformed")
def transformed(
    scheme: SchemeLike,
    activation: str | Elementwise | Activation,
    depth: int,
    *,
    blocks: Sequence[tuple[int, float]] = (),
) -> tuple[Activation, Scheme]:
    """Put the activation that a scheme asks for in the place of a given one.

    Args:
        scheme: As for `get`. All but dks and tat leave the activation as it is.
        activation: A name, an elementwise callable, or an `Activation`.
        depth: How many activations come one after another in the network, those on
            residual branches not counted.
        blocks: For each residual block in turn, how many activations its branch has one
            after another, and the multiplier b of the branch, between 0 and 1. That of
            the skip must be √(1 - b²).

    Returns:
        The activation to build the network with, and the scheme to build it with.

    Raises:
        InputError: An unknown scheme or activation, a depth below 0, or blocks not of
            this form.
        NotDefined: The activation cannot be transformed so.

    Example:
        >>> activation, scheme = schemes.transformed("dks", "tanh", 10)
        >>> slope = theory.chi(activation, 1.0, 1.0)  # C'(1)
        >>> round(slope**10, 6)
        1.5
        >>> net = networks.mlp([8] * 12, activation, scheme)

        Four blocks 0.6 x + 0.8 F(x) with two activations each, and one behind them:

        >>> blocks = [(2, 0.8)] * 4
        >>> activation, _ = schemes.transformed("dks", "tanh", 1, blocks=blocks)
        >>> slope = theory.chi(activation, 1.0, 1.0)
        >>> round((0.36 + 0.64 * slope**2) ** 4 * slope, 6)
        1.5
    """
    chosen = get(scheme)
    phi = activations.get(activation)
    checks.integer("depth", depth, low=0)
    checked = _checked_blocks(blocks)
    if chosen.transform is None:
        return phi, chosen
    # The activation of a network built with dks is a transformed one already.
    # Transforming it again would change the function that dks is meant for.
    original = _shaping.untransformed(phi)
    if checked:
        phi = chosen.transform(original, depth, checked)
        return phi, dataclasses.replace(
            chosen, transform=None, suits=_shaping.suits_blocks(checked)
        )
    # A network without activations has nothing to transform.
    if depth > 0:
        phi = chosen.transform(original, depth)
    return phi, dataclasses.replace(chosen, transform=None)


def _checked_blocks(blocks: Sequence[tuple[int, float]]) -> Blocks:
    """Return the blocks as numbers; refuse what is none."""
    checked = []
    for i, block in enumerate(blocks):
        if not isinstance(block, (tuple, list)) or len(block) != 2:
            raise InputError(
                f"blocks[{i}]={checks.show(block)} is no pair; write (activations on "
                "the branch, multiplier of the branch)."
            )
        num_activations, branch = block
        checks.integer(f"blocks[{i}][0]", num_activations, low=1)
        checks.number(f"blocks[{i}][1]", branch, low=0.0, high=1.0)
        checked.append((int(num_activations), float(branch)))
    return tuple(checked)
