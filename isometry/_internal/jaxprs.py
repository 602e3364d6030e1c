"""Questions to a jaxpr: its loops, the bytes of its results, and where it is computed coarsely."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

_OPAQUE = frozenset(("pure_callback", "io_callback", "custom_call", "ffi_call", "pallas_call", "tpu_custom_call"))
_FACTORIZATIONS = frozenset(("svd", "qr", "geqrf", "householder_product", "lu", "eigh", "eig", "schur", "cholesky")) | {
    "triangular_solve",
    "hessenberg",
    "tridiagonal",
    "tridiagonal_solve",
}
"""Primitives that XLA hands to LAPACK or its kin, of whose work it knows nothing."""
_VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "slice", "broadcast_in_dim"))
"""Primitives that show a value in another shape, for which XLA makes no copy."""


class Held(NamedTuple):
    """Bytes of the results of a program's equations."""

    at_once: int
    in_all: int


def inner(eqn: Any) -> list[Any]:
    """The jaxprs an equation calls, whatever its primitive: branches, bodies, functions with a rule of their own."""
    values = [part for v in eqn.params.values() for part in (v if isinstance(v, (tuple, list)) else (v,))]
    return [getattr(j, "jaxpr", j) for j in values if isinstance(j, (core.ClosedJaxpr, core.Jaxpr))]


def equations(jaxpr: Any, into_rules: bool = True) -> Iterator[Any]:
    """Every equation of a jaxpr and of all jaxprs within; not `into_rules`: but of what custom_vjp differentiates."""
    for eqn in jaxpr.eqns:
        yield eqn
        for part in inner(eqn) if into_rules or not has_vjp(eqn) else ():
            yield from equations(part, into_rules)


def has_vjp(eqn: Any) -> bool:
    """Whether an equation brings its reverse derivative along, and so has no forward one."""
    return eqn.primitive.name.startswith("custom_vjp_call")


def one_way(jaxpr: Any) -> tuple[bool, bool]:
    """(forward alone, reverse alone): a loop of unknown length has no reverse derivative, custom_vjp no forward one."""
    derived = list(equations(jaxpr, into_rules=False))
    return any(eqn.primitive.name == "while" for eqn in derived), any(map(has_vjp, derived))


def constants(closed: Any) -> list[Any]:
    """Every number that is written into a program: its constants, then the literals of each equation within."""
    found = list(closed.consts)
    for eqn in equations(closed.jaxpr):
        found += [v.val for v in eqn.invars if isinstance(v, core.Literal)]
        parts = [p for v in eqn.params.values() for p in (v if isinstance(v, (tuple, list)) else (v,))]
        found += [c for p in parts if isinstance(p, core.ClosedJaxpr) for c in p.consts]
    return found


def loops(jaxpr: Any) -> Iterator[Any]:
    """Yield the outermost loops of a program, those of the functions that it calls among them."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("scan", "while"):
            yield eqn
            continue
        for part in inner(eqn):
            yield from loops(part)


def uncounted(jaxpr: Any) -> tuple[str, ...]:
    """Name the primitives whose operations XLA does not count, each once."""
    names = {eqn.primitive.name for eqn in equations(jaxpr)}
    return tuple(sorted(names & (_OPAQUE | _FACTORIZATIONS)))


def held(jaxpr: Any) -> Held:
    """Count the bytes of results: most alive at once if equations run as written, and all of them.

    A reverse derivative keeps all, a forward one those alive. A loop keeps the results of every turn.
    """
    last_use = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last_use |= dict.fromkeys(_variables(eqn.invars), i)
    last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))

    alive, at_once, in_all = {}, 0, 0
    for i, eqn in enumerate(jaxpr.eqns):
        name = eqn.primitive.name
        within = [held(part) for part in inner(eqn)]
        turns = eqn.params["length"] if name == "scan" else 1
        # What a function that is called returns has been counted inside it.
        is_new = name not in _VIEWS and (name in ("scan", "while") or not within)
        made = {v: _bytes(v) if is_new else 0 for v in eqn.outvars}
        alive |= made if is_new else {v: _bytes(v) for v in eqn.outvars if within}
        at_once = max(at_once, sum(alive.values()) + max((part.at_once for part in within), default=0))
        in_all += sum(made.values()) + turns * sum(part.in_all for part in within)
        alive = {v: size for v, size in alive.items() if last_use.get(v, -1) > i}
    return Held(at_once, in_all)


def _variables(values: Any) -> set[Any]:
    return {v for v in values if not isinstance(v, core.Literal)}


def _bytes(v: Any) -> int:
    # A buffer is whole lines of 64 bytes.
    size = math.prod(getattr(v.aval, "shape", ()))
    itemsize = getattr(getattr(v.aval, "dtype", None), "itemsize", 0)
    return -(-size * itemsize // 64) * 64


def coarse(jaxpr: Any, dtype: Any) -> tuple[str, ...]:
    """What is computed more coarsely than `dtype` at full precision, by primitive, each kind once.

    Of a jaxpr traced at full matmul precision, where only what is asked for explicitly can be lower.
    """
    return tuple(dict.fromkeys(said for eqn in equations(jaxpr) if (said := _coarse(eqn, jnp.finfo(dtype).bits))))


def _coarse(eqn: Any, bits: int) -> str | None:
    name, p = eqn.primitive.name, eqn.params
    if not any(jnp.issubdtype(_dtype(v), jnp.floating) for v in eqn.invars):
        return None
    if name == "convert_element_type":
        old, new = _dtype(eqn.invars[0]), jnp.dtype(p["new_dtype"])
        weak = getattr(eqn.invars[0].aval, "weak_type", False)  # a Python number: nothing measured
        lower = jnp.issubdtype(new, jnp.floating) and jnp.finfo(new).bits < min(bits, jnp.finfo(old).bits)
        return f"a cast of {old} to {new}" if lower and not weak else None
    if name == "reduce_precision":
        lower = p["mantissa_bits"] < (23 if bits == 32 else 52)
        return f"reduce_precision to {p['mantissa_bits']} bits of mantissa" if lower else None
    if "precision" not in p:
        return None
    asked = p["precision"] if isinstance(p["precision"], tuple) else (p["precision"],)
    if any(not _is_full(one, bits) for one in asked):
        return f"{name} with precision={'/'.join(dict.fromkeys(getattr(one, 'name', str(one)) for one in asked))}"
    result = p.get("preferred_element_type")
    lower = result is not None and jnp.issubdtype(result, jnp.floating) and jnp.finfo(result).bits < bits
    return f"{name} with preferred_element_type={jnp.dtype(result)}" if lower else None


def _is_full(precision: Any, bits: int) -> bool:
    """The highest precision, or a dot algorithm that keeps `bits` bits all the way."""
    algorithms = ("F32_F32_F32", "F64_F64_F64") if bits == 32 else ("F64_F64_F64",)
    return getattr(precision, "name", None) in ("HIGHEST", *algorithms)


def _dtype(v: Any) -> Any:
    return getattr(v.aval, "dtype", jnp.dtype(bool))
