"""Settings of the ready runs, each a keyword of the call or an axis of the grid."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias, TypeVar, cast

import jax
import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.sweeps._architectures import PERCEPTRON, REDRAWING, Settings

# The axis that numbers repetitions. It enters the key of a cell, and nothing else.
SEED = "seed"

# Names of dimensions, an array over them, and attributes: "units" and "long_name".
Labelled: TypeAlias = tuple[tuple[str, ...], np.ndarray, dict[str, str]]
Results: TypeAlias = dict[str, Labelled]

RunT = TypeVar("RunT", bound=Callable[..., Results])


class Keys(NamedTuple):
    """Keys of one cell, one for each use, so that no two uses share random numbers.

    Attributes:
        networks: The parameters of the networks.
        inputs: The examples.
        probes: What a measurement draws: probes, the loss of a gradient, resampling.
        batches: The order of the examples in training.
    """

    networks: Key
    inputs: Key
    probes: Key
    batches: Key


def keys_of(key: Key) -> Keys:
    """Split the key of a cell into those of its uses."""
    checks.key("key", key)
    return Keys(*_split(key))


# Compiled, because each of the four keys would be taken by a program of its own.
@jax.jit
def _split(key: Key) -> list[Key]:
    return list(jax.random.split(key, len(Keys._fields)))


def labelled(
    dims: tuple[str, ...],
    values: object,
    long_name: str,
    units: str = "1",
) -> Labelled:
    """Return an array with its dimensions and a description."""
    return dims, np.asarray(values), {"units": units, "long_name": long_name}


def ready(name: str) -> Callable[[RunT], RunT]:
    """Make a run of a function. Its settings come from the call or from the point.

    The function is called as function(point, key, **settings), with the keywords of the
    call and the entries of the point, except the seed; a name in both is refused. The
    run has an attribute
    `check_axes(names, keywords)`, which refuses settings that nobody reads.

    Args:
        name: What the user writes, without the package: "sweeps.runs.spectrum".

    Returns:
        A decorator.
    """

    def decorate(function: RunT) -> RunT:
        parameters = inspect.signature(function).parameters.values()
        own = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]

        def check_axes(names: Iterable[str], keywords: Settings) -> None:
            _check_names(own, list(names), list(keywords))

        @functools.wraps(function)
        def run(point: Settings, key: Key, **keywords: object) -> Results:
            check_axes(point, keywords)
            settings = {**keywords, **point}
            settings.pop(SEED, None)
            return function(point, key, **settings)

        run.__dict__["check_axes"] = public(f"{name}.check_axes")(check_axes)
        return cast(RunT, public(name)(run))

    return decorate


def _check_names(own: list[str], axes: list[str], keywords: list[str]) -> None:
    """Refuse names of settings that nobody reads.

    Args:
        own: The settings of the run itself.
        axes: The names of the axes of the grid.
        keywords: The names of the keywords of the run.

    Raises:
        InputError: A name is not known, is given twice, or has no effect.
    """
    for name in axes:
        if name in keywords:
            raise InputError(
                f"{name} is an axis of the grid and a keyword of the run as well; "
                "leave one out."
            )
    # Under a fixed number all cells have the keys that they have without it.
    if SEED in keywords:
        raise InputError(
            f"{SEED}= is a keyword of the run, and would change nothing; write it into "
            f'the grid, {{"{SEED}": range(8)}}, where it enters the key of the cell.'
        )
    given = [*axes, *keywords]
    # Only the function itself knows what it reads: it is watched when it is called.
    if "build" in given:
        return
    if "network" in given:
        _check_beside_network(own, given)
        return
    known = [*own, *PERCEPTRON, "network", SEED]
    for kind, names in (("axis", axes), ("keyword", keywords)):
        for name in names:
            checks.one_of(kind, name, known)


def _check_beside_network(own: list[str], given: list[str]) -> None:
    """Refuse settings that do not act on a network that is there already."""
    acting = [*own, "network", *REDRAWING, SEED]
    for name in given:
        if name in PERCEPTRON and name not in acting:
            raise InputError(
                f"{name} is given beside network, which has its own; leave it out, or "
                "write build=, a function of the settings that returns a network."
            )
        checks.one_of("setting", name, acting)
