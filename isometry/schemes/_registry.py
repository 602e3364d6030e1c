"""The named schemes, and a look-up by name, initializer or scheme."""

import contextlib
import dataclasses
import inspect
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

_MODULES = (
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
_SCHEMES = {scheme.name: scheme for module in _MODULES for scheme in module.SCHEMES}

# Initializers that are defined for convolution kernels only, and the initializers that
# replace them in a layer without a window.
_WITHOUT_WINDOW = {
    "delta_orthogonal": initializers.orthogonal,
    "block_orthogonal": initializers.orthogonal,
    "dirac": initializers.partial_identity,
}
_OTHERWISE = "draws its counterpart for matrices"


def names() -> tuple[str, ...]:
    """Return the names of all named schemes.

    Returns:
        The names, in the order of `catalogue`.

    Example:
        >>> "lsuv" in schemes.names()
        True
    """
    return tuple(_SCHEMES)


def catalogue() -> tuple[Scheme, ...]:
    """Return all named schemes.

    Returns:
        The schemes, each with its definition, law and citation.

    Example:
        >>> scheme = schemes.catalogue()[0]
        >>> scheme.name, scheme.citation
        ('gaussian', 'Poole et al. (2016), arXiv:1606.05340')
    """
    return tuple(_SCHEMES.values())


@public("schemes.get")
def get(scheme: SchemeLike) -> Scheme:
    """Return a scheme by its name, or the scheme that uses one initializer everywhere.

    Such a scheme draws the weights of all layers by the initializer, and sets biases to
    0. An initializer for convolutions alone (`delta_orthogonal`, `dirac`) is replaced
    by its counterpart for matrices in layers without a window. A name that is both a
    scheme and an initializer (orthogonal, identity) means the scheme.

    Args:
        scheme: The name of a scheme or of an initializer that needs no arguments, an
            initializer, or a `Scheme`.

    Returns:
        The scheme.

    Raises:
        InputError: An unknown name (the nearest is suggested), a factory that was not
            called, or an initializer with a layout of its own.

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
    _require_initializer(scheme)
    return Scheme(
        # Initializers of this package have `name`, plain functions have `__name__`.
        getattr(scheme, "name", None) or name or "custom",
        _everywhere(scheme),
        definition="the same initializer everywhere",
        made_for=_made_for(scheme),
        otherwise=_OTHERWISE,
    )


@public("schemes.register")
def register(scheme: Scheme) -> None:
    """Register a scheme, so that its name can be written wherever a scheme is taken.

    `names`, `catalogue` and `listing` then have it too.

    Args:
        scheme: The scheme, with a name of its own.

    Returns:
        None.

    Raises:
        InputError: Not a `Scheme`, or its name is taken by another scheme or by an
            initializer.

    Example:
        >>> def choose(layer, sigma_w):
        ...     is_last = layer.branch is not None and layer.branch.last
        ...     gain = 0.1 if is_last else 1.0
        ...     return initializers.orthogonal(gain * sigma_w)
        >>> quiet = schemes.Scheme("quiet", choose, "small last layers", free=True)
        >>> schemes.register(quiet)
        >>> networks.mlp([4, 8, 2], "tanh").with_scheme("quiet", sigma_w=1.5).scheme
        Scheme('quiet', sigma_w=1.5, sigma_b=0)
    """
    if not isinstance(scheme, Scheme):
        raise InputError(
            f"scheme={checks.show(scheme)} is not a Scheme; write "
            "schemes.Scheme(name, choose, definition)."
        )
    # The same scheme may be registered again, as when a notebook cell is run twice.
    if _SCHEMES.get(scheme.name) is scheme:
        return
    # The name of an initializer means the scheme that uses it everywhere.
    taken = {*_SCHEMES, *(entry.name for entry in initializers.catalogue())}
    if scheme.name in taken:
        raise InputError(
            f"scheme.name={scheme.name!r} is taken; write another name. "
            "schemes.names() has those of schemes, initializers.catalogue() the others."
        )
    _SCHEMES[scheme.name] = scheme


def _require_initializer(init: Callable[..., object]) -> None:
    """Refuse a callable that is not called as an initializer is.

    Raises:
        InputError: It is a class, fills a tensor of torch in place, or does not take
            (key, shape, dtype).
    """
    if isinstance(init, type):
        raise InputError(
            f"scheme is the class {init.__name__}; write an instance of it."
        )
    # orthogonal_(tensor, gain, generator) of torch could be called so too.
    if (getattr(init, "__module__", None) or "").startswith("torch."):
        theirs = getattr(init, "__name__", "")
        raise InputError(
            f"scheme is torch's {theirs}, which fills a tensor in place; write "
            f"{_counterpart(theirs)}."
        )
    try:
        signature = inspect.signature(init)
    # Some callables have no signature; their own error then says what they take.
    except (TypeError, ValueError):
        return
    try:
        signature.bind("key", "shape", "dtype")
    except TypeError as error:
        raise InputError(
            f"scheme={checks.show(init)} takes {signature}; an initializer is called "
            "with (key, shape, dtype), and returns an array of this shape."
        ) from error


def _counterpart(theirs: str) -> str:
    """Return what to write for a function of torch.nn.init, by its name."""
    for entry in initializers.catalogue():
        if f"torch {theirs}" in entry.aliases:
            return f"initializers.{entry.name}(...)"
    return "an initializer of initializers.catalogue()"


def _returns_function(init: Callable[..., object]) -> bool:
    """Tell whether a function returns initializers, as `jax.nn.initializers.he_normal`.

    The test: called as an initializer, with a key and a shape, it returns a function.
    """
    returned: list[object] = []

    def probe(key: Key) -> None:
        returned.append(init(key, (2, 2), jnp.float32))

    # An initializer may refuse this shape, which is no error here.
    with contextlib.suppress(Exception):
        jax.eval_shape(probe, jax.random.key(0))
    return any(callable(value) for value in returned)


def _named(name: str) -> Scheme:
    """Return a scheme by its name, or by that of an initializer without arguments."""
    without_arguments = {
        entry.name: entry for entry in initializers.catalogue() if not entry.needs
    }
    known = dict.fromkeys([*_SCHEMES, *without_arguments])
    checks.one_of("scheme", name, known)
    # A name that is both means the scheme. The scheme `orthogonal`, for example, has
    # the critical scale of the network, and the initializer gain 1.
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
    """Return `Scheme.made_for` of an initializer: "windows", or "" for all layers."""
    return "windows" if getattr(init, "name", "") in _WITHOUT_WINDOW else ""


def _everywhere(init: Init) -> Choose:
    """Return a rule that gives all layers the same initializer.

    An initializer for convolution kernels is replaced by its counterpart in layers
    without a window.
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


@public("schemes.resolve")
def resolve(
    scheme: SchemeLike,
    activation: str | Elementwise | Activation,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
) -> Scheme:
    """Look up a scheme, and choose sigma_w and sigma_b for an activation.

    Args:
        scheme: As for `get`.
        activation: A name, an elementwise callable, or an `Activation`.
        sigma_w: The scale of the weights. None: critical for the activation, at this
            sigma_b.
        sigma_b: The standard deviation of the biases. None: 0.

    Returns:
        The scheme with these sigmas, as by `Scheme.at`.

    Raises:
        InputError: The scheme is not known; a sigma is given for a scheme that fixes
            its own, or is not finite and non-negative.
        NoCriticalPoint: The activation has no critical point.

    Example:
        >>> schemes.resolve("orthogonal", "tanh", sigma_w=1.5)
        Scheme('orthogonal', sigma_w=1.5, sigma_b=0)
    """
    return get(scheme).at(activation, sigma_w, sigma_b)


@public("schemes.transformed")
def transformed(
    scheme: SchemeLike,
    activation: str | Elementwise | Activation,
    depth: int,
    *,
    blocks: Sequence[tuple[int, float]] = (),
) -> tuple[Activation, Scheme]:
    """Transform an activation as a scheme asks for, before a network is built with it.

    The schemes dks and tat do so; all others leave the activation as it is.

    Args:
        scheme: As for `get`.
        activation: A name, an elementwise callable, or an `Activation`.
        depth: The number of activations one after another on the stream of the network,
            without those on residual branches.
        blocks: For each residual block, first to last: the number of activations on its
            branch, and the multiplier b of the branch, between 0 and 1. The multiplier
            of the skip must be √(1 - b²).

    Returns:
        The activation to build the network with, and the scheme to build it with.

    Raises:
        InputError: An unknown scheme or activation, a depth below 0, or blocks not of
            this form.
        NotDefined: No transformation of this activation meets the targets of the
            scheme.

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
    """Return the blocks as pairs (int, float).

    Raises:
        InputError: A block is no pair, or one of its numbers is out of range.
    """
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
