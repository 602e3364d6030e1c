"""What a measurement takes, before anything runs: read off the program itself."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isometry import _checks, _jacobian, _spectrum, _tracing
from isometry._internal import jaxprs, precision
from isometry._jacobian import Lanczos, Product

_MARGIN = 1.25
"""XLA was seen to hold up to 1.15 times what the walk counts: loops that keep their state twice."""
_SMALL = 3072
"""Bytes of scalars and counters, each in a line of its own."""
_MANY = 1024
_UNEVEN = 256
"""Bytes by which what is held is not convex in the number of inputs: small arrays come and go beside its peak."""


@dataclass(frozen=True)
class Cost:
    """Bytes held at once and floating point operations of one measurement; `notes` says what could not be counted.

    `flop` counts a multiply-add as two. `bytes` is an upper bound of what the measurement allocates: temporaries and
    result, not params and x themselves.
    """

    bytes: int
    flop: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = "".join(f"; {note}" for note in self.notes)
        return f"Cost({_scaled(self.bytes, 'B')}, {_scaled(self.flop, 'FLOP')}{said})"


def _scaled(count: int, unit: str) -> str:
    """`count` to three digits, in kB or MFLOP."""
    power = min(5, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


def cost(f: Any, params: Any, x: Any, method: Any = "auto", span: str = "end_to_end", dtype: Any = None) -> Cost:
    """What `spectrum` of one Jacobian takes, before anything runs.

    **Arguments**: `f`, `method`, `span` and `dtype` as of `spectrum`; `params` and `x` may be `jax.ShapeDtypeStruct`,
    so that nothing need be allocated. No key is needed.

    **Returns** `Cost(bytes, flop, notes)`, counted in the program that would run. A multiply-add is two operations, an
    elementwise function one an element; a scan counts as often as it turns, a cond by its dearest branch, a while loop
    (as in the last rotations of `method="product"`) once, which `notes` says. `bytes` bounds what XLA allocates on a
    CPU; it was at most 4 times that.

    Runs on the host; a tracer is a `TypeError`. Cost: one trace, tens of milliseconds.

    **Raises** `ValueError`: what `spectrum` raises before it computes.
    """
    _checks.concrete("cost", params=params, x=x)
    aim = _jacobian.target("cost", f, span)
    chosen = _spectrum.resolve_method("cost", method, aim, jax.random.key(0))
    _checks.real("cost", params=params, x=x)
    kind = _checks.measuring_dtype("cost", dtype, params, x)
    x = x if isinstance(x, jax.ShapeDtypeStruct) else _checks.array("cost", x=x)
    _jacobian.shapes("cost", aim, params, x, kind)
    params, x = _tracing.abstract((params, x), kind)
    return _walked(aim, chosen, params, x, kind)


class Footprint(NamedTuple):
    """Bytes of measuring inputs of one seed together: `shared` + inputs · `each`."""

    shared: int
    each: int


def footprint(aim: Any, method: Any, params: Any, x: Any, dtype: Any, chunk: int | None = None) -> Footprint:
    """Bytes of Jacobians at inputs like x, `chunk` directions of each at a time (None: all); params are shapes.

    Never less than the program holds: from two inputs on that is convex in their number but for a few small arrays, and
    this is above its chord from 2 to 1024.
    """
    params, x = _tracing.abstract((params, x), dtype)
    alone = _walked(aim, method, params, x, dtype, chunk).bytes
    if isinstance(method, Product):  # one after another, of which only the results stay
        return Footprint(alone, 4 * jnp.dtype(dtype).itemsize * min(_size(aim, params, x, dtype)))
    if isinstance(method, Lanczos) or not aim.layered:  # side by side
        return Footprint(0, alone)
    two, many = (
        _walked(aim, method, params, jax.ShapeDtypeStruct((n, *x.shape), x.dtype), dtype, chunk, wide=True).bytes
        for n in (2, _MANY)
    )
    each = -(-(many - two) // (_MANY - 2))
    return Footprint(max(0, alone - each, two - 2 * each) + _UNEVEN, each)


def fitting(
    call: str, budget: int, aim: Any, method: Any, params: Any, x: Any, dtype: Any
) -> tuple[Footprint, int | None]:
    """(the bytes of Jacobians, how many directions are taken at a time so that one fits the budget; None: all).

    **Raises** `ValueError`: one direction at a time is too much; names the least budget.
    """
    whole = footprint(aim, method, params, x, dtype)
    if sum(whole) <= budget:
        return whole, None
    m, n = _size(aim, params, x, dtype)
    single = footprint(aim, method, params, x, dtype, chunk=1)
    if sum(single) > budget:
        raise _checks.InputError(
            f"{call}(): max_bytes={budget} is too small for one {m}×{n} Jacobian by {method}; write at least "
            f"{sum(single)}."
        )
    fits, beyond = 1, min(m, n)
    while beyond - fits > 1:  # not in proportion: a last, shorter chunk has a program of its own
        middle = (fits + beyond) // 2
        takes = footprint(aim, method, params, x, dtype, middle)
        fits, beyond, single = (middle, beyond, takes) if sum(takes) <= budget else (fits, middle, single)
    return single, fits


def _size(aim: Any, params: Any, x: Any, dtype: Any) -> tuple[int, int]:
    found = _tracing.traced("cost", aim, params, x, dtype)
    return found.out.size, found.start.size


def _walked(
    aim: Any, method: Any, params: Any, x: Any, dtype: Any, chunk: int | None = None, wide: bool = False
) -> Cost:
    key = _tracing.key_of(aim, params, x, "cost", method, dtype, chunk, wide)
    return _tracing.remembered(key, lambda: _walk(_program(aim, method, dtype, chunk, wide), params, x))


def _walk(program: Callable[[Any, Any], Any], params: Any, x: Any) -> Cost:
    jaxpr = jax.make_jaxpr(program)(params, x).jaxpr
    flop, notes = jaxprs.work(jaxpr)
    return Cost(int(_MARGIN * jaxprs.peak(jaxpr)) + _SMALL, flop, tuple(sorted(notes)))


def _program(aim: Any, method: Any, dtype: Any, chunk: int | None, wide: bool) -> Callable[[Any, Any], Any]:
    """What `spectrum` runs, or, wide, what `ensemble` does for one seed."""
    if isinstance(method, Product):
        return lambda p, x: _spectrum.of_factors(aim.factors(*precision.cast((p, x), dtype)), aim, method)
    if isinstance(method, Lanczos):
        key = jax.random.key(0)
        return lambda p, x: _spectrum.of_operator(_jacobian.operator(aim, p, x, dtype), key, aim, method)
    form = _jacobian.wide_jacobians if wide else functools.partial(_jacobian.dense_jacobian, chunk=chunk)
    return lambda p, x: _spectrum.of_matrix(form(aim, p, x, dtype), aim, method)
