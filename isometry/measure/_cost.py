"""The memory and operations of a measurement, before anything runs.

`cost` compiles and asks XLA; footprints bound the memory without compiling. A direction
is one tangent or cotangent, which gives one column or row of the Jacobian.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
from jax.extend import core
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from isometry._internal import checks, compilation, jaxprs, memory
from isometry._internal.errors import InputError, public
from isometry._internal.types import Params
from isometry.measure import _arguments, _resolution, methods
from isometry.measure._function import Map
from isometry.measure._record import Spectrum
from isometry.measure._spans import Span
from isometry.measure._target import Target
from isometry.measure.methods import Footprint, Method

# A measurement that takes less than this is not compared with the free memory, whose
# look-up takes longer than a small measurement. With ten times more, a small container
# could be killed; with ten times less, a millisecond is lost more often.
ALWAYS_FREE = 2**26


@dataclass(frozen=True)
class Cost:
    """Bytes and floating point operations that one measurement takes.

    Attributes:
        bytes: Bytes that XLA allocates for temporaries and the result; `params` and `x`
            are not counted.
        flop: Floating point operations; a multiply-add is two.
        notes: In words, which operations `flop` leaves out.

    Example:
        >>> isometry.Cost(bytes=1_234_567, flop=999)
        Cost(1.23 MB, 999 FLOP)
    """

    bytes: int
    flop: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        notes = "".join(f"; {note}" for note in self.notes)
        return f"Cost({scaled(self.bytes, 'B')}, {scaled(self.flop, 'FLOP')}{notes})"


def scaled(count: int, unit: str) -> str:
    """Return `count` as text with three digits and a prefix: "1.23 MB"."""
    power = min(5, int(math.log10(max(count, 1)) / 3))
    prefix = ("", "k", "M", "G", "T", "P")[power]
    return f"{count / 1000**power:.3g} {prefix}{unit}"


@public("cost")
def cost(  # noqa: PLR0917 (as it has always been)
    f: Map,
    params: Params,
    x: PyTree,
    method: str | Method = "auto",
    span: Span = "end_to_end",
    dtype: DTypeLike | None = None,
    *,
    output: int | str | None = None,
) -> Cost:
    """Compute what `spectrum` of one Jacobian takes, before anything runs.

    The program that would run is compiled for abstract arguments, and XLA is asked.
    `bytes` are its temporaries and results; the few that LAPACK allocates for itself
    are not among them.

    XLA counts a multiply-add as two operations, an elementwise function as one for each
    element and a `cond` by its most expensive branch. Two things that it does not count
    are added: all iterations of a `scan` or of a `fori_loop` with constant bounds (XLA
    counts the first alone), and the method's own factorizations, by their textbook
    counts (Golub and Van Loan, 4th ed., 5.2.2 and figure 8.6.1): the singular values of
    an m × n matrix, m ≥ n, take min(4 m n² - 4/3 n³, 2 m n² + 2 n³). What stays
    uncounted is listed in `notes`: a `while` loop counts as one iteration, callbacks
    and factorizations in f itself do not count at all.

    Args:
        f: As in `spectrum`.
        params: Parameters, or `jax.ShapeDtypeStruct`s of their shapes: nothing need be
            allocated.
        x: One example, or its shape.
        method: As in `spectrum`; no key is needed.
        span: As in `spectrum`.
        dtype: As in `spectrum`.
        output: As in `spectrum`.

    Returns:
        The bytes, the operations, and what could not be counted. One compilation: about
        a second.

    Raises:
        InputError: What `spectrum` raises before it computes.
        TypeError: `params` or `x` is traced.

    Example:
        >>> net = networks.mlp([784, 4096, 784], activation="tanh")
        >>> params = jax.eval_shape(net.init, jax.random.key(0))
        >>> x = jax.ShapeDtypeStruct((784,), jax.numpy.float32)
        >>> f"{isometry.cost(net, params, x).flop:.1e}"
        '6.3e+09'
    """
    checks.on_host("params", params)
    checks.on_host("x", x)
    chosen = methods.named(method)
    target = _resolution.resolve(
        f,
        params,
        x,
        span=span,
        dtype=dtype,
        output=output,
        needs_factors=chosen.needs_factors,
    )
    # What a measurement costs does not depend on the key.
    chosen.check(target, jax.random.key(0))
    x = _arguments.example(x)
    params, x = target.abstract(params, x)
    return _cost_by_xla(chosen, target, params, x=x)


def _cost_by_xla(
    method: Method,
    target: Target,
    params: Params,
    x: PyTree,
) -> Cost:
    """Compile what `spectrum` runs, and ask XLA for its cost."""
    # Compiled programs are cached, so asking again is free.
    compiled = _measured.ahead(method, target, params, x=x)
    allocated = compiled.memory_analysis()
    if allocated is None:
        raise NotImplementedError(
            f"cost(): the compiler for {jax.default_backend()} does not say what it "
            "allocates."
        )
    flop, notes = _operations(_measured.trace(method, target, params, x=x).jaxpr)
    closed = _value_at_end.trace(target, params, x).jaxpr
    # What XLA cannot count is looked for in f alone: the method counts its own
    # factorizations.
    unknown = jaxprs.uncounted(closed.jaxpr)
    notes |= {f"{name} in f is not counted" for name in unknown}
    flop += method.operations(target, params, x)
    num_bytes = allocated.temp_size_in_bytes + allocated.output_size_in_bytes
    return Cost(num_bytes, flop, tuple(sorted(notes)))


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _measured(
    method: Method,
    target: Target,
    params: Params,
    x: PyTree,
) -> Spectrum:
    """Measure one Jacobian, as `spectrum` does."""
    key = jax.random.key(0) if method.needs_key else None
    return method.spectrum(target, params, x=x, key=key)


@functools.partial(compilation.jit, static_argnums=0)
def _value_at_end(
    target: Target,
    params: Params,
    x: PyTree,
) -> Array:
    """Return the value at the end of the span."""
    return target.apply(params, x, target.start(params, x))


def _operations(closed: core.ClosedJaxpr) -> tuple[int, frozenset[str]]:
    """Count the operations of a program, with every iteration of its scans.

    Returns:
        The count, and notes on what it leaves out.
    """
    flop = _operations_by_xla(closed)
    notes = frozenset()
    # XLA counts the body of a loop once, whatever its length.
    for loop in jaxprs.loops(closed.jaxpr):
        if loop.primitive.name == "while":
            notes |= {"a while loop of unknown length is counted once"}
            continue
        body = loop.params["jaxpr"]
        of_one_iteration, notes_of_body = _operations(body)
        # XLA has counted the body once, but without the iterations of scans inside it.
        flop += loop.params["length"] * of_one_iteration - _operations_by_xla(body)
        notes |= notes_of_body
    return flop, notes


def _operations_by_xla(closed: core.ClosedJaxpr) -> int:
    """Return what XLA counts in a program before optimization; a loop counts once."""
    arguments = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]
    lowered = jax.jit(core.jaxpr_as_fun(closed)).lower(*arguments)
    counted = lowered.cost_analysis() or {}
    # XLA counts a custom call as -1, which means unknown.
    flops = max(0, counted.get("flops", 0))
    return int(flops + max(0, counted.get("transcendentals", 0)))


def forming(
    target: Target,
    params: Params,
    x: PyTree,
) -> Footprint:
    """Return a bound on the bytes of forming a Jacobian without factorizing it."""
    params, x = target.abstract(params, x)
    footprint = methods.Dense().footprint(target, params, x)
    m, n = target.shape
    # `Dense` counts four arrays. Without a factorization these are two: the Jacobian
    # and a transposed copy.
    without_factorization = footprint.each - 2 * m * n * target.dtype.itemsize
    return footprint._replace(each=without_factorization)


def chunked_for(
    target: Target,
    method: Method,
    params: Params,
    x: PyTree,
    max_bytes: int | None,
) -> Target:
    """Return the target with as many directions at a time as fit the budget.

    Args:
        target: The span of f.
        method: The method that measures it.
        params: Parameters of one seed.
        x: One example.
        max_bytes: The budget; None for a quarter of the free memory.

    Raises:
        InputError: One direction at a time is too much.
    """
    params, x = target.abstract(params, x)
    footprint = method.footprint(target, params, x)
    return chunked(target, footprint, max_bytes, by=f" by {method}")


def chunked(
    target: Target,
    footprint: Footprint,
    max_bytes: int | None,
    by: str = "",
) -> Target:
    """Return the target with as many directions at a time as fit the budget.

    Args:
        target: The span of f.
        footprint: The bytes that measuring it takes.
        max_bytes: The budget; None for a quarter of the free memory.
        by: What measures it, for the message: " by Dense()".

    Raises:
        InputError: One direction at a time is too much.
    """
    # The free memory is read from files, which takes a millisecond.
    if max_bytes is None and footprint.bytes() <= ALWAYS_FREE:
        return target
    budget = memory.budget(max_bytes)
    chunk = footprint.chunk(budget)
    # One direction at a time is the least that autodiff can do.
    fewest = footprint.bytes(1)
    if fewest > budget:
        m, n = target.shape
        source = "max_bytes" if max_bytes is not None else "a quarter of what is free"
        raise InputError(
            f"the {m}×{n} Jacobian takes {fewest} bytes{by} ({scaled(fewest, 'B')}), "
            f"and {budget} are given, {source}. Write spectrum(..., "
            'method="lanczos"), which never forms it, a span between points of fewer '
            f"values, an index at an end of the span, or max_bytes={fewest}."
        )
    return replace(target, chunk=chunk)


def chunked_together(
    targets: Sequence[Target],
    footprints: list[Footprint],
    method: Method,
    budget: int,
) -> tuple[Footprint, tuple[Target, ...]]:
    """Return the targets of one program with as many directions at a time as fit.

    Footprints are bounds from shapes alone, for which nothing is compiled. They are 2
    to 9 times what XLA allocates.

    Args:
        targets: The spans, measured in one program.
        footprints: The bytes that each of them takes.
        method: How they are measured.
        budget: Bytes that one Jacobian may take.

    Returns:
        The bytes of all spans together, directions included, and the targets with the
        number of directions at a time.

    Raises:
        InputError: One direction at a time is too much; the least budget is named.
    """
    shared = each = 0
    chunked_targets = []
    for target, footprint in zip(targets, footprints, strict=True):
        chunk = footprint.chunk(budget)
        needed = footprint.bytes(chunk)
        if needed > budget:
            m, n = target.shape
            raise InputError(
                f"max_bytes={budget} is too small for one {m}×{n} Jacobian by "
                f"{method}; write at least {needed}."
            )
        chunked_targets.append(replace(target, chunk=chunk))
        # The spans are of one network, so its parameters count once.
        shared = max(shared, footprint.shared)
        each += needed - footprint.shared
    return Footprint(shared, each), tuple(chunked_targets)


def footprints(
    targets: Sequence[Target],
    method: Method,
    params: Params,
    x: PyTree,
) -> list[Footprint]:
    """Return bounds on the bytes of measuring each span, at inputs shaped like x."""
    bounds = []
    for target in targets:
        shapes = target.abstract(params, x)
        bounds.append(method.footprint(target, *shapes))
    return bounds
