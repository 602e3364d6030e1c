"""Questions to a jaxpr: what it calls, what is written into it, where it is coarse."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import ArrayLike, DTypeLike

# Bits of mantissa, for `reduce_precision`, which is asked for in bits.
_MANTISSA_BITS = {32: 23, 64: 52}

# Precisions of a product that keep this many bits from the factors to the sum. "HIGHEST" is
# JAX's own enum; the others are presets of `jax.lax.DotAlgorithmPreset`.
_FULL_PRECISIONS = {
    32: ("HIGHEST", "F32_F32_F32", "F64_F64_F64"),
    64: ("HIGHEST", "F64_F64_F64"),
}

_VIEWS = frozenset(
    ("reshape", "transpose", "squeeze", "expand_dims", "slice", "dynamic_slice", "broadcast_in_dim", "rev")
)
"""Primitives that may show a value in another shape."""
_MOVES = _VIEWS | {
    "dynamic_update_slice", "concatenate", "pad", "gather", "iota", "copy", "copy_p", "convert_element_type",
    "bitcast_convert_type", "stop_gradient", "split", "device_put", "optimization_barrier", "random_wrap",
    "random_unwrap", "sharding_constraint", "empty",
}  # fmt: skip
"""Primitives that only move or relabel values."""
_COMBINE = frozenset(
    ("reduce", "reduce_window", "scatter", "scatter-add", "scatter_add", "scatter_mul", "scatter_min", "scatter_max")
)
"""Primitives whose inner jaxpr is a rule for two numbers, not a program."""
_LOOPS = frozenset(("scan", "while"))
_OPAQUE = frozenset(("pure_callback", "io_callback", "custom_call", "ffi_call", "pallas_call", "tpu_custom_call"))


class Work(NamedTuple):
    """Floating point operations, and what could not be counted, said in words."""

    flop: int
    notes: frozenset[str]


def inner(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """Return the jaxprs that an equation calls: branches, bodies, custom rules."""
    jaxprs = []
    for part in _parameters(eqn):
        if isinstance(part, core.ClosedJaxpr):
            jaxprs.append(part.jaxpr)
        elif isinstance(part, core.Jaxpr):
            jaxprs.append(part)
    return jaxprs


def _parameters(eqn: core.JaxprEqn) -> Iterator[object]:
    """Yield the parameters of an equation, those inside tuples and lists one by one."""
    for value in eqn.params.values():
        if isinstance(value, (tuple, list)):
            yield from value
        else:
            yield value


def equations(jaxpr: core.Jaxpr, into_rules: bool = True) -> Iterator[core.JaxprEqn]:
    """Yield every equation of a jaxpr and of all jaxprs within.

    Without `into_rules`, functions with a custom_vjp are not entered: nobody
    differentiates what is inside.
    """
    for eqn in jaxpr.eqns:
        yield eqn
        if has_vjp(eqn) and not into_rules:
            continue
        for part in inner(eqn):
            yield from equations(part, into_rules)


def has_vjp(eqn: core.JaxprEqn) -> bool:
    """Tell whether an equation has a reverse derivative of its own, no forward one."""
    # The name ends in "_jaxpr" in some versions of JAX.
    return eqn.primitive.name.startswith("custom_vjp_call")


def one_way(jaxpr: core.Jaxpr) -> tuple[bool, bool]:
    """Tell whether only forward mode, and whether only reverse mode, can differentiate.

    A loop of unknown length has no reverse derivative, custom_vjp no forward one.
    """
    differentiated = list(equations(jaxpr, into_rules=False))
    has_while = any(eqn.primitive.name == "while" for eqn in differentiated)
    return has_while, any(has_vjp(eqn) for eqn in differentiated)


def constants(closed: core.ClosedJaxpr) -> list[ArrayLike]:
    """Return every number in a program: closed-over constants, then literals."""
    numbers = list(closed.consts)
    for eqn in equations(closed.jaxpr):
        literals = [v for v in eqn.invars if isinstance(v, core.Literal)]
        numbers += [literal.val for literal in literals]
        for part in _parameters(eqn):
            if isinstance(part, core.ClosedJaxpr):
                numbers += part.consts
    return numbers


def work(jaxpr: Any) -> Work:
    """FLOP of one evaluation: a scan's body times its length, the dearest branch of a cond, a while's body once.

    A multiply-add is two; an elementwise operation one an element, whatever the function; moving data nothing.
    Factorizations by their counts in Golub and Van Loan (4th ed., 3.2.1, 5.2.2, figure 8.6.1).
    """
    counts = [_work_of(eqn) for eqn in jaxpr.eqns]
    return Work(sum(c.flop for c in counts), frozenset().union(*(c.notes for c in counts)))


def _work_of(eqn: Any) -> Work:
    name = eqn.primitive.name
    if name in _OPAQUE:
        return Work(0, frozenset({f"{name} is not counted"}))
    parts = [] if name in _COMBINE else [work(j) for j in inner(eqn)]
    if not parts:
        return Work(0 if name in _MOVES else int(_FLOP.get(name, _elementwise)(eqn)), frozenset())
    notes = frozenset().union(*(p.notes for p in parts))
    if name == "while":
        notes |= {"a while loop of unknown length is counted once"}
    flop = max(p.flop for p in parts) if name == "cond" else sum(p.flop for p in parts)
    return Work(flop * eqn.params["length"] if name == "scan" else flop, notes)


def _elementwise(eqn: Any) -> int:
    return max((_size(v) for v in (*eqn.invars, *eqn.outvars)), default=0)


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * _size(eqn.outvars[0]) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)


def _convolution(eqn: Any) -> int:
    """Multiply-adds with values that are there: neither padding nor the zeros between strides."""
    p, (lhs, rhs), out = eqn.params, (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    dims = p["dimension_numbers"]
    taps = 1
    for i, axis in enumerate(dims.lhs_spec[2:]):
        at = np.arange(out[dims.out_spec[2 + i]])[:, None] * p["window_strides"][i] - p["padding"][i][0]
        at = at + np.arange(rhs[dims.rhs_spec[2 + i]])[None] * p["rhs_dilation"][i]
        step = p["lhs_dilation"][i]
        taps *= int(((at >= 0) & (at <= (lhs[axis] - 1) * step) & (at % step == 0)).sum())
    channels = out[dims.out_spec[0]] * out[dims.out_spec[1]] * rhs[dims.rhs_spec[1]]
    return 2 * taps * channels


def _svd(eqn: Any) -> float:
    m, n, count = _matrix(eqn)
    m, n = max(m, n), min(m, n)
    if eqn.params["compute_uv"]:
        return count * min(14 * m * n**2 + 8 * n**3, 6 * m * n**2 + 20 * n**3)
    return count * min(4 * m * n**2 - 4 * n**3 / 3, 2 * m * n**2 + 2 * n**3)


def _qr(eqn: Any) -> float:
    """R alone, or one of its halves: Householder vectors, or the product of them."""
    m, n, count = _matrix(eqn)
    k = min(m, n)
    alone = 2 * m * n * k - k**2 * (m + n) + 2 * k**3 / 3
    return count * alone * (2 if eqn.primitive.name == "qr" else 1)


def _lu(eqn: Any) -> float:
    m, n, count = _matrix(eqn)
    k = min(m, n)
    return count * (2 * m * n * k - k**2 * (m + n) + 2 * k**3 / 3)


def _eigh(eqn: Any) -> float:
    n, _, count = _matrix(eqn)
    return count * (9 * n**3 if len(eqn.outvars) > 1 else 4 * n**3 / 3)


def _matrix(eqn: Any) -> tuple[int, int, int]:
    shape = eqn.invars[0].aval.shape
    return *shape[-2:], math.prod(shape[:-2])


_FLOP: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "svd": _svd,
    "qr": _qr,
    "geqrf": _qr,
    "householder_product": _qr,
    "lu": _lu,
    "eigh": _eigh,
    "cholesky": lambda e: _matrix(e)[2] * _matrix(e)[0] ** 3 / 3,
    "triangular_solve": lambda e: _size(e.invars[1]) * _matrix(e)[0],
    "fft": lambda e: 5 * _size(e.outvars[0]) * math.log2(max(2, math.prod(e.params["fft_lengths"]))),
    "sort": lambda e: _size(e.outvars[0]) * math.log2(max(2, e.outvars[0].aval.shape[e.params["dimension"]])),
}


def coarse(jaxpr: core.Jaxpr, dtype: DTypeLike) -> tuple[str, ...]:
    """Describe what is computed more coarsely than `dtype` at full precision.

    Args:
        jaxpr: Traced at full matmul precision, so that a lower one was asked for.
        dtype: The dtype of the measurement, float32 or float64.

    Returns:
        A phrase for each kind of equation, in the order in which they occur.
    """
    bits = jnp.finfo(dtype).bits
    phrases = [_coarse(eqn, bits) for eqn in equations(jaxpr)]
    # A dict keeps the order and each phrase once.
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase))


def _coarse(eqn: core.JaxprEqn, bits: int) -> str | None:
    """Describe one equation, or return None where it keeps `bits` bits."""
    # Whole numbers and keys may be cast and moved as anybody likes.
    if not any(jnp.issubdtype(_dtype(v), jnp.floating) for v in eqn.invars):
        return None
    if eqn.primitive.name == "convert_element_type":
        return _coarse_cast(eqn, bits)
    if eqn.primitive.name == "reduce_precision":
        kept = eqn.params["mantissa_bits"]
        if kept < _MANTISSA_BITS[bits]:
            return f"reduce_precision to {kept} bits of mantissa"
    if "precision" in eqn.params:
        return _coarse_product(eqn, bits)
    return None


def _coarse_cast(eqn: core.JaxprEqn, bits: int) -> str | None:
    (variable,) = eqn.invars
    old = _dtype(variable)
    new = jnp.dtype(eqn.params["new_dtype"])
    # A weakly typed value is a number of Python's: nothing that was measured.
    is_weak = getattr(variable.aval, "weak_type", False)
    if is_weak or not jnp.issubdtype(new, jnp.floating):
        return None
    if jnp.finfo(new).bits < min(bits, jnp.finfo(old).bits):
        return f"a cast of {old} to {new}"
    return None


def _coarse_product(eqn: core.JaxprEqn, bits: int) -> str | None:
    """Describe a product or convolution of low precision or with a low sum."""
    name = eqn.primitive.name
    asked = eqn.params["precision"]
    # One precision for each factor, or one for both.
    if not isinstance(asked, tuple):
        asked = (asked,)
    names = [getattr(precision, "name", str(precision)) for precision in asked]
    if not set(names) <= set(_FULL_PRECISIONS[bits]):
        return f"{name} with precision={'/'.join(dict.fromkeys(names))}"
    result = eqn.params.get("preferred_element_type")
    if result is None or not jnp.issubdtype(result, jnp.floating):
        return None
    if jnp.finfo(result).bits < bits:
        return f"{name} with preferred_element_type={jnp.dtype(result)}"
    return None


def peak(jaxpr: Any) -> int:
    """Most bytes held at once besides the arguments, results included, if each equation runs where it is written.

    A value in another shape is no copy; one with its axes in another order is. A loop writes its state in place. XLA
    fuses what is elementwise and then holds less.
    """
    views = _views(jaxpr)
    last = _last_use(jaxpr, views)
    made, held, most = set(), 0, 0
    for i, eqn in enumerate(jaxpr.eqns):
        view = views.get(eqn.outvars[0]) if eqn.outvars else None
        new = {v for v in eqn.outvars if v in last and not (view and view.plain)}
        freed = sum(_bytes(v) for v in _roots(eqn.invars, views) & made if last[v] == i)
        inside = _inside(eqn) if view is None else sum(map(_bytes, new))
        most = max(most, held + inside - (freed if eqn.primitive.name in _LOOPS else 0))
        held += sum(map(_bytes, new)) - freed
        made |= new
    return max(most, held + sum(_bytes(v) for v in _variables(jaxpr.outvars) - made))


class _View(NamedTuple):
    """A variable as another one seen in another shape, its axes longer than 1 in the order `axes` of that one's."""

    root: Any
    axes: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether the order in memory is the root's."""
        return self.axes == tuple(sorted(self.axes))


def _views(jaxpr: Any) -> dict[Any, _View]:
    found: dict[Any, _View] = {}
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name not in _VIEWS or isinstance(eqn.invars[0], core.Literal):
            continue
        old, new = (v.aval.shape for v in (eqn.invars[0], eqn.outvars[0]))
        if name == "rev" and any(old[i] > 1 for i in eqn.params["dimensions"]):
            continue
        long, kept = [i for i, n in enumerate(old) if n != 1], [n for n in new if n != 1]
        view = found.get(eqn.invars[0], _View(eqn.invars[0], tuple(range(len(long)))))
        if name == "transpose":
            order = [long.index(i) for i in eqn.params["permutation"] if old[i] != 1]
            found[eqn.outvars[0]] = _View(view.root, tuple(view.axes[i] for i in order))
        elif [old[i] for i in long] == kept:
            found[eqn.outvars[0]] = view
        elif name == "reshape" and view.plain:
            found[eqn.outvars[0]] = _View(view.root, tuple(range(len(kept))))
    return found


def _last_use(jaxpr: Any, views: dict[Any, _View]) -> dict[Any, int]:
    """The last equation to compute with each variable, or with a view of it."""
    last = {}
    for i, eqn in enumerate(jaxpr.eqns):
        if not (eqn.outvars and eqn.outvars[0] in views):
            last |= dict.fromkeys(_roots(eqn.invars, views), i)
    return last | dict.fromkeys(_roots(jaxpr.outvars, views), len(jaxpr.eqns))


def _roots(vs: Any, views: dict[Any, _View]) -> set[Any]:
    """The variables among `vs`, and what they are views of."""
    found = _variables(vs)
    return found | {views[v].root for v in found if v in views}


def _inside(eqn: Any) -> int:
    """Bytes an equation holds while it runs, results included."""
    name, made = eqn.primitive.name, sum(map(_bytes, eqn.outvars))
    if name in _WORKSPACE:
        return made + _WORKSPACE[name](eqn)
    inside = max(map(peak, [] if name in _COMBINE else inner(eqn)), default=0)
    if name == "scan":  # a turn reads slices of what is scanned over
        (body,) = inner(eqn)
        inside += sum(_bytes(v) for v, whole in zip(body.invars, eqn.invars, strict=True) if _rank(v) != _rank(whole))
    return made + inside if name in _LOOPS else max(made, inside)


def _variables(vs: Any) -> set[Any]:
    return {v for v in vs if not isinstance(v, core.Literal)}


def _rank(v: Any) -> int:
    return len(getattr(v.aval, "shape", ()))


def _size(v: Any) -> int:
    return math.prod(getattr(v.aval, "shape", ()))


def _bytes(v: Any) -> int:
    """Of a buffer: whole lines of 64."""
    return -(-_size(v) * getattr(getattr(v.aval, "dtype", None), "itemsize", 0) // 64) * 64


def _dtype(variable: core.Var | core.Literal) -> np.dtype:
    # Tokens, which order effects, have no dtype.
    return getattr(variable.aval, "dtype", jnp.dtype(bool))


def _svd_workspace(eqn: Any) -> int:
    """LAPACK's copy of the matrix, and U and V, which XLA gives it room for even if they are not asked for."""
    m, n, count = _matrix(eqn)
    k = min(m, n)
    sides = m * m + n * n if eqn.params["full_matrices"] else k * (m + n)
    return count * (m * n + sides) * eqn.invars[0].aval.dtype.itemsize


_WORKSPACE: dict[str, Callable[[Any], int]] = {
    "svd": _svd_workspace,
    "conv_general_dilated": lambda e: sum(map(_bytes, e.invars)),  # in the order of axes that the kernel wants
    **dict.fromkeys(("lu", "qr", "geqrf", "eigh"), lambda e: _bytes(e.invars[0])),
}
