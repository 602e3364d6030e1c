"""The programs of an ensemble: spectra over seeds × inputs, for every method."""

from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from isometry._internal.types import Key, Params
from isometry.measure import _programs, _record
from isometry.measure._record import Spectrum
from isometry.measure._target import Target
from isometry.measure.methods import Method


@dataclass(frozen=True)
class Static:
    """What the programs of an ensemble depend on, besides the shapes of arrays.

    It is the static argument with which they are compiled.

    Attributes:
        targets: The spans that one program measures.
        method: The method that measures them.
        key_kind: The name of the key's generator, which belongs to the bits that the
            programs take; None for the default generator.
    """

    targets: tuple[Target, ...]
    method: Method
    key_kind: str | None = None


def measured(
    static: Static,
    by_seed: tuple[Params, Array],
    by_input: tuple[PyTree[Array], Array],
    bits: Array | None,
) -> tuple[Spectrum, ...]:
    """Measure every span: a program of `_programs.run`.

    Args:
        static: The spans and the method.
        by_seed: Parameters, and the numbers of the seeds.
        by_input: Examples, and the numbers of the inputs. The numbers of a seed and an
            input determine the random probes, whatever the chunk and the device.
        bits: The bits of the key, for methods that draw.

    Returns:
        A record for each span, with batch axes (seeds, inputs). What is constant is put
        back by `_record.with_constants`.
    """
    params, seeds = by_seed
    xs, inputs = by_input
    # The programs of methods that draw nothing take no key.
    keys = None
    if static.method.needs_key:
        keys = _keys(static, bits, seeds, inputs=inputs)
    measure = static.method.spectra
    records = [measure(target, params, xs, keys=keys) for target in static.targets]
    return tuple(map(_record.without_constants, records))


def _keys(
    static: Static,
    bits: Array | None,
    seeds: Array,
    inputs: Array,
) -> Key:
    """Return a key for each seed and input, of shape (seeds, inputs)."""
    assert bits is not None, "a method that draws requires a key"
    base = jax.random.wrap_key_data(bits, impl=static.key_kind)
    # A key depends on the numbers of its seed and input alone, so the probes are the
    # same whatever the chunk and the device that they fall into.
    folded = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    of_inputs = jax.vmap(folded, in_axes=(0, None))
    return of_inputs(folded(base, seeds), inputs)


def narrowing_counts(
    static: Static,
    params: Params,
    xs: PyTree[Array],
    shared: tuple[()],
) -> tuple[Array, ...]:
    """Count what `Method.narrowed` needs, for every span: a program of `_programs.run`.

    `Dense` counts the active units. This is a program of its own, because its counts
    decide the shapes of the program that measures.

    Args:
        static: The spans and the method.
        params: Parameters of the seeds.
        xs: Examples.
        shared: Empty; every program takes three trees.

    Returns:
        For every span an array (seeds, inputs).
    """
    return tuple(static.method.narrow(target, params, xs) for target in static.targets)


def narrowed(
    static: Static,
    mesh: Mesh | None,
    params: Params,
    xs: PyTree[Array],
) -> Static:
    """Return `static` with smaller targets, if the method needs only a part of them.

    `Dense` leaves out inactive units. The size is the largest number of active units at
    any seed and input.
    """
    targets = [target for target in static.targets if static.method.may_narrow(target)]
    if not targets:
        return static
    # A cheap program runs first, because its counts decide the shapes of the other.
    counts = _programs.run(
        narrowing_counts,
        replace(static, targets=tuple(targets)),
        _programs.Arguments(params, xs),
        mesh=mesh,
    )
    smaller = {}
    for target, numbers in zip(targets, counts, strict=True):
        smaller[target] = static.method.narrowed(target, int(numbers.max()))
    new = tuple(smaller.get(target, target) for target in static.targets)
    return replace(static, targets=new)
