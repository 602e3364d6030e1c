"""Networks of the cells of a sweep, made of settings; equal ones are made once.

A cell of a tiny network is measured in two milliseconds. Building the network and
drawing its parameters operation by operation would take ten times as long, so
perceptrons are kept by architecture, with a compiled program that draws them at any
sigma_w and sigma_b.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import jax
import numpy as np
from jaxtyping import Array, PyTree

from isometry import data, networks, schemes
from isometry._internal import checks, kinds, memory
from isometry._internal.errors import InputError
from isometry._internal.types import Elementwise, Key, Params
from isometry.activations import Activation
from isometry.networks import Network
from isometry.networks._mlp import Mlp
from isometry.schemes._registry import SchemeLike

# A setting may be anything: a number, a name, a network, a function.
Settings: TypeAlias = Mapping[str, Any]
Build: TypeAlias = Callable[[Settings], Network]

# Settings that act on a network which is there already, by its `with_scheme`.
REDRAWING = ("scheme", "sigma_w", "sigma_b")

# Architectures and networks that are kept in a process. The program of one, with what
# JAX keeps of it, takes 10 MB. With a tenth, the depths of a grid would drive out one
# another; ten times as many would hold 3 GB.
_KEPT = 32

# Parameters of all seeds with more bytes than this are drawn by the measurement, chunk
# by chunk. With a hundredth of it small cells would take ten times as long; with a
# hundred times as much a cell would not fit in memory beside another.
_LARGEST = 2**26


@dataclass(frozen=True, eq=False)
class Architecture:
    """A perceptron at any scales, and a compiled program that draws its parameters.

    Attributes:
        network: The perceptron at sigma_w = 1 and sigma_b = 0, or at the scale that its
            scheme fixes.
        draw: Maps keys, sigma_w and sigma_b to parameters stacked over the keys. None
            if they cannot be drawn for a sigma that is traced.
    """

    network: Mlp
    draw: Callable[[Key, float, float], Params] | None

    def at(self, sigma_w: float | None, sigma_b: float | None) -> Mlp:
        """Return the perceptron at these scales, without building it again."""
        scheme = self.network.scheme
        scaled = scheme.at(self.network.activation, sigma_w, sigma_b)
        # A scheme that fixes its own scale is the same, and so is the network, by which
        # programs of data-driven schemes are kept.
        if scaled is scheme:
            return self.network
        return dataclasses.replace(self.network, scheme=scaled)


@dataclass(frozen=True, eq=False)
class Sampled:
    """A network and the keys of its seeds.

    Attributes:
        network: The network of a cell.
        keys: A key for each seed.
        draw: Maps the keys to stacked parameters by a compiled program. None if the
            network draws them itself.
    """

    network: Network
    keys: Key
    draw: Callable[[Key], Params] | None

    @property
    def arguments(self) -> dict[str, PyTree]:
        """Keywords of a measurement: the `params`, or the `keys` to draw them."""
        if self.draw is None:
            return {"keys": self.keys}
        return {"params": self.draw(self.keys)}

    def first(self, xs: PyTree[Array]) -> Params:
        """Return the parameters of the first seed.

        Args:
            xs: Examples, to which a data-driven scheme adjusts them.
        """
        if self.draw is None:
            params = self.network.init(self.keys[0])
            return self.network.adjust(params, xs)
        return jax.tree.map(lambda leaf: leaf[0], self.draw(self.keys[:1]))


def sampled(settings: Settings, key: Key, seeds: int) -> Sampled:
    """Return the network of the settings, with keys to draw it.

    Args:
        settings: What the network is made of: `network`, `build` with what it reads, or
            the arguments of `perceptron`; and the settings named in `REDRAWING`,
            which say how its parameters are drawn.
        key: The key of the parameters.
        seeds: The number of draws.

    Raises:
        InputError: A setting cannot be used, or nobody reads it.
    """
    checks.integer("seeds", seeds, low=1)
    keys = jax.random.split(key, seeds)
    settings = dict(settings)
    build = settings.pop("build", None)
    if build is not None:
        return Sampled(_built_once(build, settings), keys, None)
    if settings.get("network") is not None:
        return Sampled(redrawn(settings.pop("network"), settings), keys, None)
    settings.pop("network", None)
    return perceptron(keys, **settings)


def perceptron(
    keys: Key,
    *,
    width: int = 64,
    depth: int = 8,
    n_in: int | None = None,
    n_out: int | None = None,
    activation: str | Activation | Elementwise = "tanh",
    scheme: SchemeLike = "orthogonal",
    sigma_w: float | None = None,
    sigma_b: float | None = None,
) -> Sampled:
    """Return the perceptron that runs measure where no other network is given.

    Args:
        keys: A key for each seed.
        width: The width of all hidden layers.
        depth: The number of weight layers.
        n_in: The number of inputs. None is the width.
        n_out: The number of outputs. None is the width.
        activation: As in `networks.mlp`.
        scheme: As in `networks.mlp`.
        sigma_w: As in `networks.mlp`.
        sigma_b: As in `networks.mlp`.
    """
    checks.integer("width", width, low=1)
    checks.integer("depth", depth, low=1)
    first = width if n_in is None else n_in
    last = width if n_out is None else n_out
    widths = (first, *[width] * (depth - 1), last)
    # An object that crossed to a worker is another one in each cell, and a program
    # that is kept by it would never be found again.
    if not (isinstance(activation, str) and isinstance(scheme, str)):
        net = networks.mlp(widths, activation, scheme, sigma_w=sigma_w, sigma_b=sigma_b)
        return Sampled(net, keys, None)
    # Grids hold numbers of NumPy, which are other keys of the cache than Python's.
    widths = tuple(checks.integer("widths", size, low=1) for size in widths)
    architecture = _architecture(
        tuple(map(int, widths)),
        activation,
        scheme,
        dtype=checks.float_dtype(None),
    )
    net = architecture.at(sigma_w, sigma_b)
    num_bytes = len(keys) * memory.tree_bytes(net.shapes)
    if architecture.draw is None or num_bytes > _LARGEST:
        return Sampled(net, keys, None)
    return Sampled(
        net,
        keys,
        functools.partial(
            _draw_at,
            architecture.draw,
            (net.scheme.sigma_w, net.scheme.sigma_b),
        ),
    )


# What a perceptron is made of, as users name it.
PERCEPTRON = tuple(inspect.signature(perceptron).parameters)[1:]


def _draw_at(
    draw: Callable[[Key, float, float], Params],
    sigmas: tuple[float, float],
    keys: Key,
) -> Params:
    """Draw parameters at these sigmas."""
    return draw(keys, *sigmas)


@functools.lru_cache(maxsize=_KEPT)
def _architecture(
    widths: tuple[int, ...], activation: str, scheme: str, dtype: np.dtype
) -> Architecture:
    """Build a perceptron, and the program that draws it.

    Args:
        widths: As in `networks.mlp`.
        activation: As in `networks.mlp`.
        scheme: As in `networks.mlp`.
        dtype: JAX's default float now, which depends on its 64-bit mode.
    """
    # At a scale of its own, so that no critical point is looked for.
    is_free = schemes.get(scheme).free
    sigma_w = 1.0 if is_free else None
    net = networks.mlp(widths, activation, scheme, sigma_w=sigma_w, dtype=dtype)
    # Such a scheme branches on the values that it adjusts.
    if net.data_driven:
        return Architecture(net, None)

    # The program belongs to the architecture, and is forgotten with it.
    @jax.jit
    def draw(keys: Key, sigma_w: float, sigma_b: float) -> Params:
        scheme = net.scheme
        if is_free:
            scheme = dataclasses.replace(scheme, sigma_w=sigma_w, sigma_b=sigma_b)
        return jax.vmap(dataclasses.replace(net, scheme=scheme).init)(keys)

    try:
        keys = jax.random.split(jax.random.key(0), 1)
        jax.eval_shape(draw, keys, 1.0, sigma_b=0.0)
    # A user's scheme may branch on sigma_w, which is traced here, or do anything else.
    except Exception:
        return Architecture(net, None)
    return Architecture(net, draw)


# --- Networks that the user gives or builds


class _Watched(Mapping[str, Any]):
    """Settings that remember which of them were read."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)


def _built_once(build: Build, settings: Settings) -> Network:
    """Return the network that `build` makes of settings, kept from cell to cell."""
    if not callable(build):
        raise InputError(
            f"build={checks.show(build)} is not a function; write build(settings) -> "
            "network."
        )
    items = tuple(sorted(settings.items()))
    if isinstance(build, Hashable) and checks.is_hashable(items):
        return _kept(build, items, checks.x64())
    return _built(build, settings)


@functools.lru_cache(maxsize=_KEPT)
def _kept(build: Build, items: tuple[tuple[str, Any], ...], x64: bool) -> Network:
    # Networks built in 64-bit mode may have other dtypes, so it belongs to the key.
    del x64
    return _built(build, dict(items))


def _built(build: Build, settings: Settings) -> Network:
    """Call `build`; draw the network as the settings say that it has not read.

    Raises:
        InputError: It returns no network, or nobody reads a setting.
    """
    watched = _Watched(settings)
    net = build(watched)
    unread = {name: settings[name] for name in settings if name not in watched.read}
    for name in unread:
        if name not in REDRAWING:
            raise InputError(
                f"{name}={checks.show(unread[name])} is read by nobody: neither by the "
                f"run nor by build, which read {sorted(watched.read)}."
            )
    return redrawn(net, unread, argument="build")


def redrawn(net: object, settings: Settings, argument: str = "network") -> Network:
    """Return a network drawn by another scheme, or at other sigmas.

    Args:
        net: The network.
        settings: `REDRAWING`, or some of them, or none.
        argument: The argument that gave the network, for messages.

    Raises:
        InputError: Not a network; sigmas for a network without a scheme.
    """
    if not isinstance(net, Network):
        raise InputError(
            f"{argument} gives {checks.show(net)}, which is no Network; write "
            "networks.mlp(...), or networks.flax(module, example) and the like."
        )
    given = {name: value for name, value in settings.items() if value is not None}
    if not given:
        return net
    if "scheme" in given:
        return net.with_scheme(**given)
    if net.scheme is None:
        raise InputError(
            f"{next(iter(given))} needs a scheme, and {checks.show(net)} is drawn by "
            'the model\'s own code; write scheme="gaussian" as well.'
        )
    # What is not given stays as it is.
    sigmas = {"sigma_w": net.sigma_w, "sigma_b": net.sigma_b}
    if net.scheme.settled:
        sigmas = {"sigma_w": net.scheme.sigma_w, "sigma_b": net.scheme.sigma_b}
    return net.with_scheme(net.scheme, **{**sigmas, **given})


def examples(
    net: Network,
    key: Key,
    *,
    inputs: int,
    q: float | None,
    xs: PyTree[Array] | None,
) -> PyTree[Array]:
    """Return the examples of a cell: Gaussian ones, or those of the user.

    Args:
        net: The network, which knows the shape of an example.
        key: The key of the examples.
        inputs: How many to draw.
        q: The mean square to which each is scaled; None leaves them as they are.
        xs: The user's own, or None.

    Raises:
        InputError: The network does not take one floating array.
    """
    if xs is None:
        checks.integer("inputs", inputs, low=1)
        shape = net.input_shape
        if shape is None or not kinds.is_floating(net.example):
            raise InputError(
                f"xs is needed: {checks.show(net)} does not take one floating array, "
                "and so no examples can be drawn for it."
            )
        xs = jax.random.normal(key, (inputs, *shape), net.example.dtype)
    if q is None:
        return xs
    # A tree of arrays has no one mean square, and is refused there.
    return data.normalize(cast(Array, xs), float(q))
