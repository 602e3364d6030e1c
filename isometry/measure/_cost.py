"""What a measurement takes, before anything runs: XLA's own count, and a bound that needs no compilation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from isometry import _checks
from isometry._internal import jaxprs, memory, precision
from isometry.measure import _jacobian, _spectrum, _tracing
from isometry.measure._jacobian import Lanczos, Product

# Fitted to what XLA allocates for the programs of tests/measure/test_cost.py, on a CPU: with half of each some
# take more than the bound, with twice each chunks are only half as large as they could be.
_MATRICES = 4
"""Arrays of the Jacobian's size: J, and LAPACK's copy, U and V, for which XLA makes room unasked."""
_BLOCKS = 5
"""Arrays of order m + n, squared: the symmetric eigenproblem by which a GPU finds singular values."""
_COPIES = 2
"""A value beside its derivative, or in the order of axes that a kernel wants."""
_GRADED = 12
"""Arrays of the widest layer's size that a graded product keeps, its finish by Jacobi included."""
_SMALL = 4096
"""Bytes of scalars and counters, each in a line of its own."""


@dataclass(frozen=True)
class Cost:
    """Bytes and floating point operations that one measurement takes.

    Attributes:
        bytes: What XLA allocates for temporaries and the result, beside `params` and `x` themselves.
        flop: Floating point operations; a multiply-add is two.
        notes: What `flop` leaves out, in words.

    Example:
        >>> isometry.Cost(bytes=1_234_567, flop=999)
        Cost(1.23 MB, 999 FLOP)
    """

    bytes: int
    flop: int
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = "".join(f"; {note}" for note in self.notes)
        return f"Cost({_scaled(self.bytes, 'B')}, {_scaled(self.flop, 'FLOP')}{said})"


def _scaled(count: int, unit: str) -> str:
    """Write `count` with three digits, in kB or MFLOP."""
    power = min(5, int(math.log10(max(count, 1)) / 3))
    prefix = ("", "k", "M", "G", "T", "P")[power]
    return f"{count / 1000**power:.3g} {prefix}{unit}"


def cost(
    f: Any,
    params: Any,
    x: Any,
    method: Any = "auto",
    span: str = "end_to_end",
    dtype: Any = None,
) -> Cost:
    """Compute what `spectrum` of one Jacobian takes, before anything runs.

    The program that would run is compiled for abstract arguments, and XLA is asked. `bytes` are its
    temporaries and results; the few that LAPACK allocates for itself are not among them.

    XLA counts a multiply-add as two operations, an elementwise function as one an element and a `cond` by
    its dearest branch. Two things it does not know are added here: every turn of a `scan` or of a
    `fori_loop` with constant bounds (XLA counts the first alone), and the method's own factorizations, by
    their textbook counts (Golub and Van Loan, 4th ed., 5.2.2 and figure 8.6.1): the singular values of an
    m × n matrix, m ≥ n, take min(4 m n² - 4/3 n³, 2 m n² + 2 n³). What stays uncounted is said in `notes`:
    a `while` loop is counted for one turn, callbacks and factorizations in f itself not at all.

    Args:
        f: As in `spectrum`.
        params: Parameters, or `jax.ShapeDtypeStruct`s of their shapes: nothing need be allocated.
        x: One example, or its shape.
        method: As in `spectrum`; no key is needed.
        span: As in `spectrum`.
        dtype: As in `spectrum`.

    Returns:
        The bytes, the operations, and what could not be counted. One compilation: about a second.

    Raises:
        InputError: What `spectrum` raises before it computes.
        TypeError: `params` or `x` is traced.

    Example:
        >>> net = networks.mlp([784, 4096, 784], activation="tanh")
        >>> params = jax.eval_shape(net.init, jax.random.key(0))
        >>> x = jax.ShapeDtypeStruct((784,), jax.numpy.float32)
        >>> f"{isometry.cost(net, params, x).flop:.1e}"
        '6.4e+09'
    """
    _checks.concrete("cost", params=params, x=x)
    aim = _jacobian.target("cost", f, span)
    chosen = _spectrum.resolve_method("cost", method, aim, jax.random.key(0))
    _checks.real("cost", params=params, x=x)
    kind = _checks.measuring_dtype("cost", dtype, params, x)
    x = x if isinstance(x, jax.ShapeDtypeStruct) else _checks.array("cost", x=x)
    _jacobian.shapes("cost", aim, params, x, kind)
    params, x = _tracing.abstract((params, x), kind)
    key = _tracing.key_of(aim, params, x, "cost", chosen, kind)
    return _tracing.remembered(key, lambda: _asked(aim, chosen, params, x, kind))


def _asked(aim: Any, method: Any, params: Any, x: Any, dtype: Any) -> Cost:
    program = _program(aim, method, dtype)
    allocated = jax.jit(program).lower(params, x).compile().memory_analysis()
    if allocated is None:
        raise NotImplementedError(f"cost(): the compiler for {jax.default_backend()} does not say what it allocates.")
    flop, notes = _operations(jax.make_jaxpr(program)(params, x))
    unknown = jaxprs.uncounted(jax.make_jaxpr(aim.apply)(params, _start(aim, params, x, dtype)).jaxpr)
    notes |= {f"{name} in f is not counted" for name in unknown}
    flop += _factorizations(aim, method, params, x, dtype)
    num_bytes = allocated.temp_size_in_bytes + allocated.output_size_in_bytes
    return Cost(num_bytes, flop, tuple(sorted(notes)))


def _program(aim: Any, method: Any, dtype: Any) -> Callable[[Any, Any], Any]:
    """Return what `spectrum` runs."""

    def program(params: Any, x: Any) -> Any:
        if isinstance(method, Product):
            return _spectrum.of_factors(aim.factors(*precision.cast((params, x), dtype)), aim, method)
        if isinstance(method, Lanczos):
            operator = _jacobian.operator(aim, params, x, dtype)
            return _spectrum.of_operator(operator, jax.random.key(0), aim, method)
        return _spectrum.of_matrix(_jacobian.dense_jacobian(aim, params, x, dtype), aim, method)

    return program


def _operations(closed: core.ClosedJaxpr) -> tuple[int, frozenset[str]]:
    """Take XLA's count of a program, with every turn of its loops in place of the first alone."""
    flop, notes = _counted(closed), frozenset()
    for loop in jaxprs.loops(closed.jaxpr):
        if loop.primitive.name == "while":
            notes |= {"a while loop of unknown length is counted once"}
            continue
        body = loop.params["jaxpr"]
        of_one_turn, more = _operations(body)
        flop += loop.params["length"] * of_one_turn - _counted(body)
        notes |= more
    return flop, notes


def _counted(closed: core.ClosedJaxpr) -> int:
    """Ask XLA for the operations of a program, as it is before optimization."""
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    counted = jax.jit(core.jaxpr_as_fun(closed)).lower(*arguments).cost_analysis() or {}
    # A custom call counts -1: unknown.
    return int(max(0, counted.get("flops", 0)) + max(0, counted.get("transcendentals", 0)))


def _factorizations(aim: Any, method: Any, params: Any, x: Any, dtype: Any) -> int:
    """Count the operations of the method's own factorizations, as textbooks do."""
    m, n = sorted(_size(aim, params, x, dtype), reverse=True)
    if isinstance(method, Lanczos):
        # Values and both sides of vectors of a small square matrix a probe (figure 8.6.1).
        return 22 * method.probes * min(method.steps, n) ** 3
    if isinstance(method, Product):
        stacks = jax.eval_shape(aim.factors, params, x)
        narrowest = min(min(stack.size[1:]) for stack in stacks)
        rounds = sum(-(-stack.size[0] // method.every) for stack in stacks)
        # A QR of a square matrix, R and Q: 4/3 n³ each, and what pivoting and scaling add.
        return rounds * 10 * narrowest**3 // 3
    return int(min(4 * m * n**2 - 4 * n**3 / 3, 2 * m * n**2 + 2 * n**3))


class Footprint(NamedTuple):
    """Bytes of measuring the inputs of one seed together: `shared` + inputs · `each`."""

    shared: int
    each: int


def fitting(
    call: str, budget: int, aim: Any, method: Any, params: Any, x: Any, dtype: Any
) -> tuple[Footprint, int | None]:
    """Bound the bytes of Jacobians at inputs like x, and choose the directions taken at a time.

    A bound from shapes alone, so that nothing is compiled for it; it was 2 to 9 times what XLA allocates.

    Args:
        call: The public function that asks.
        budget: Bytes that one Jacobian may take.
        aim: The span of f.
        method: How it is measured.
        params: Shapes of the parameters.
        x: Shape of an input.
        dtype: Of the measurement.

    Returns:
        The bytes, and how many directions are taken at a time; None for all.

    Raises:
        InputError: One direction at a time is too much; the least budget is named.
    """
    params, x = _tracing.abstract((params, x), dtype)
    takes, per_direction, directions = _bound(aim, method, params, x, dtype)
    if sum(takes) + per_direction * directions <= budget:
        return takes._replace(each=takes.each + per_direction * directions), None
    chunk = max(1, (budget - sum(takes)) // per_direction) if per_direction else 1
    takes = takes._replace(each=takes.each + per_direction * chunk)
    if sum(takes) > budget:
        m, n = _size(aim, params, x, dtype)
        raise _checks.InputError(
            f"{call}(): max_bytes={budget} is too small for one {m}×{n} Jacobian by {method}; write at least "
            f"{sum(takes)}."
        )
    return takes, chunk if per_direction else None


def _bound(aim: Any, method: Any, params: Any, x: Any, dtype: Any) -> tuple[Footprint, int, int]:
    """Return the bytes without directions, those of each direction, and how many directions there are."""
    itemsize = jnp.dtype(dtype).itemsize
    held = _tracing.traced("cost", aim, params, x, dtype).held
    m, n = _size(aim, params, x, dtype)
    weights = memory.tree_bytes(params) + _SMALL  # in the dtype of the measurement
    once = _COPIES * held.in_all
    result = 4 * min(m, n) * itemsize
    if isinstance(method, Product):
        # One input after another: of all but the last only the results stay.
        working = _GRADED * _widest(aim, params, x) ** 2 * itemsize
        return Footprint(_COPIES * weights + once + working, result), 0, 0
    if isinstance(method, Lanczos):
        bases = method.steps * (m + n + 4 * method.steps) * itemsize
        each = once + method.probes * (bases + _COPIES * held.at_once)
        return Footprint(weights, each), 0, 0
    factorizing = _MATRICES * m * n * itemsize
    if jax.default_backend() == "gpu":
        factorizing = max(factorizing, _BLOCKS * (m + n) ** 2 * itemsize)
    if aim.layered:
        # Two of the products on the way, beside J: the widest is min(m, n) × the widest layer.
        wide = _COPIES * min(m, n) * _widest(aim, params, x) * itemsize
        forming = m * n * itemsize + wide
        return Footprint(weights, max(factorizing, forming) + once + result), 0, 0
    return (
        Footprint(weights, factorizing + once + result),
        _COPIES * held.at_once,
        min(m, n),
    )


def _widest(aim: Any, params: Any, x: Any) -> int:
    """Return the most units or positions between two layers of the span."""
    return max(max(stack.size[1:]) for stack in jax.eval_shape(aim.factors, params, x))


def _size(aim: Any, params: Any, x: Any, dtype: Any) -> tuple[int, int]:
    found = _tracing.traced("cost", aim, params, x, dtype)
    return found.out.size, found.start.size


def _start(aim: Any, params: Any, x: Any, dtype: Any) -> Any:
    return _tracing.traced("cost", aim, params, x, dtype).start
