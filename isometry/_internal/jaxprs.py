"""Questions to a jaxpr: its loops and constants, its bytes, where it is coarse."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import ArrayLike, DTypeLike

# Bits of mantissa, for `reduce_precision`, which is asked for in bits.
_MANTISSA_BITS = {32: 23, 64: 52}

# Precisions of a product that keep this many bits from the factors to the sum.
# "HIGHEST" is of JAX's own enum; the others are of `jax.lax.DotAlgorithmPreset`.
_FULL_PRECISIONS = {
    32: ("HIGHEST", "F32_F32_F32", "F64_F64_F64"),
    64: ("HIGHEST", "F64_F64_F64"),
}

# Rounding of the factors of a product where the platform chooses: tensor cores of a GPU
# take TF32, the matrix units of a TPU bfloat16. A GPU's choice may be finer; a floor
# ten times lower would call the noise of TF32 data.
_PLATFORM_EPS = {"gpu": 2.0**-10, "tpu": 2.0**-7}

# Rounding of the factors by the first word of an algorithm's name.
_ALGORITHM_EPS = {"BF16": 2.0**-7, "F16": 2.0**-10, "TF32": 2.0**-10, "F32": 2.0**-23}

# Calls of programs whose inside the jaxpr does not show.
_OPAQUE = frozenset(
    (
        "pure_callback",
        "io_callback",
        "custom_call",
        "ffi_call",
        "pallas_call",
        "tpu_custom_call",
    )
)

# Primitives that XLA hands to LAPACK or its kin, whose operations it does not count.
_FACTORIZATIONS = frozenset(
    (
        "cholesky",
        "eig",
        "eigh",
        "geqrf",
        "hessenberg",
        "householder_product",
        "lu",
        "qr",
        "schur",
        "svd",
        "triangular_solve",
        "tridiagonal",
        "tridiagonal_solve",
    )
)

# Primitives that show a value in another shape, for which XLA makes no copy.
_VIEWS = frozenset(("reshape", "squeeze", "expand_dims", "slice", "broadcast_in_dim"))

_LOOPS = ("scan", "while")

# XLA's buffers are whole lines of so many bytes.
_LINE_BYTES = 64


class Held(NamedTuple):
    """Bytes of the results of a program's equations.

    Attributes:
        at_once: The most that is alive at once, if equations run in the order written.
        in_all: All results together, those of a scan's body once for each iteration.
    """

    at_once: int
    in_all: int


class ScanParts(NamedTuple):
    """How many operands of a scan are what: constants first, then the carry, then xs.

    Attributes:
        num_consts: The number of constants, which every iteration sees whole.
        num_carry: The number of arrays in the carry, which are the first results too.
    """

    num_consts: int
    num_carry: int


def scan_parts(eqn: core.JaxprEqn) -> ScanParts:
    """Count the constants of a scan, and the arrays in its carry.

    Versions of JAX keep these numbers in different parameters. They can be told from
    the shapes: a scanned array has one axis more than the slice that an iteration sees.
    """
    closed = eqn.params["jaxpr"]
    # In some versions of JAX the body is a jaxpr without constants of its own.
    body = getattr(closed, "jaxpr", closed)
    num_scanned = _num_sliced(eqn.invars, body.invars)
    num_stacked = _num_sliced(eqn.outvars, body.outvars)
    num_carry = len(eqn.outvars) - num_stacked
    num_consts = len(eqn.invars) - num_carry - num_scanned
    return ScanParts(num_consts=num_consts, num_carry=num_carry)


def _num_sliced(
    outside: Sequence[core.Var | core.Literal],
    inside: Sequence[core.Var | core.Literal],
) -> int:
    """Count the values that have more axes outside of a loop than inside."""
    ranks = [(_rank(a), _rank(b)) for a, b in zip(outside, inside, strict=True)]
    return sum(rank > rank_inside for rank, rank_inside in ranks)


def _rank(value: core.Var | core.Literal) -> int:
    return len(getattr(value.aval, "shape", ()))


def inner(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """Return the jaxprs that an equation calls: branches, bodies, custom rules."""
    jaxprs = []
    for part in _flat_params(eqn):
        if isinstance(part, core.ClosedJaxpr):
            jaxprs.append(part.jaxpr)
        elif isinstance(part, core.Jaxpr):
            jaxprs.append(part)
    return jaxprs


def _flat_params(eqn: core.JaxprEqn) -> Iterator[object]:
    """Yield the values of `eqn.params`, with tuples and lists flattened."""
    for value in eqn.params.values():
        if isinstance(value, (tuple, list)):
            yield from value
        else:
            yield value


def equations(
    jaxpr: core.Jaxpr,
    into_custom_vjp: bool = True,
) -> Iterator[core.JaxprEqn]:
    """Yield every equation of a jaxpr and of all jaxprs nested in it.

    Args:
        jaxpr: The jaxpr.
        into_custom_vjp: Whether to yield the equations inside a function that has a
            custom_vjp. Autodiff does not differentiate them: it calls the rule.
    """
    for eqn in jaxpr.eqns:
        yield eqn
        if has_vjp(eqn) and not into_custom_vjp:
            continue
        for part in inner(eqn):
            yield from equations(part, into_custom_vjp)


def has_vjp(eqn: core.JaxprEqn) -> bool:
    """Tell whether an equation calls a function with a custom_vjp."""
    # The name ends in "_jaxpr" in some versions of JAX.
    return eqn.primitive.name.startswith("custom_vjp_call")


def one_way(jaxpr: core.Jaxpr) -> tuple[bool, bool]:
    """Tell whether a program lacks reverse mode, and whether it lacks forward mode.

    JAX has no reverse-mode rule for a loop of unknown length, and no forward-mode rule
    for a function with a custom_vjp. A loop counts even if nobody differentiates what
    it computes.

    Returns:
        `(no_reverse, no_forward)`: both False where f can be differentiated either way,
        both True where it cannot be differentiated at all.
    """
    # JAX calls the rule of a custom_vjp instead of differentiating the function, so a
    # loop inside the function does no harm.
    differentiated = list(equations(jaxpr, into_custom_vjp=False))
    no_reverse = any(eqn.primitive.name == "while" for eqn in differentiated)
    no_forward = any(has_vjp(eqn) for eqn in differentiated)
    return no_reverse, no_forward


def constants(closed: core.ClosedJaxpr) -> list[ArrayLike]:
    """Return every number in a program, nested jaxprs included: constants, literals."""
    numbers = [*closed.consts, *_literals(closed.jaxpr.outvars)]
    for eqn in equations(closed.jaxpr):
        numbers += _literals(eqn.invars)
        for part in _flat_params(eqn):
            if isinstance(part, core.ClosedJaxpr):
                numbers += part.consts
            elif isinstance(part, (np.ndarray, jax.Array)):
                numbers.append(part)
        for jaxpr in inner(eqn):
            numbers += _literals(jaxpr.outvars)
    return numbers


def _literals(variables: Sequence[core.Var | core.Literal]) -> list[ArrayLike]:
    return [v.val for v in variables if isinstance(v, core.Literal)]


def loops(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yield the outermost loops of a program and of the functions that it calls."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _LOOPS:
            yield eqn
            continue
        for part in inner(eqn):
            yield from loops(part)


def uncounted(jaxpr: core.Jaxpr) -> tuple[str, ...]:
    """Return the distinct primitives whose operations XLA's cost analysis omits."""
    names = {eqn.primitive.name for eqn in equations(jaxpr)}
    return tuple(sorted(names & (_OPAQUE | _FACTORIZATIONS)))


def held(jaxpr: core.Jaxpr) -> Held:
    """Count the bytes that the results of a program's equations take.

    Reverse mode keeps all of them, forward mode those that are alive.
    """
    last_use = _last_use(jaxpr)
    alive: dict[core.Var, int] = {}
    at_once = in_all = 0
    for i, eqn in enumerate(jaxpr.eqns):
        within = [held(part) for part in inner(eqn)]
        largest_within = max((part.at_once for part in within), default=0)
        new, returned = _result_bytes(eqn)
        alive |= returned
        at_once = max(at_once, sum(alive.values()) + largest_within)
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        in_all += new + turns * sum(part.in_all for part in within)
        alive = {v: size for v, size in alive.items() if last_use.get(v, -1) > i}
    return Held(at_once, in_all)


def _last_use(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """Return the index of the last equation that reads each variable."""
    last_use: dict[core.Var, int] = {}
    readers = [eqn.invars for eqn in jaxpr.eqns]
    # What the program returns is read after its last equation.
    readers.append(jaxpr.outvars)
    for i, read in enumerate(readers):
        for v in read:
            if not isinstance(v, core.Literal):
                last_use[v] = i
    return last_use


def _result_bytes(eqn: core.JaxprEqn) -> tuple[int, dict[core.Var, int]]:
    """Return the bytes that an equation allocates, and the bytes of each result.

    A view allocates nothing and holds nothing of its own.
    """
    name = eqn.primitive.name
    if name in _VIEWS:
        return 0, dict.fromkeys(eqn.outvars, 0)
    returned = {v: _bytes(v) for v in eqn.outvars}
    # What a function returns was allocated by an equation inside it. A loop allocates
    # its results itself: the states after it, and the stacks of what iterations return.
    is_call = name not in _LOOPS and bool(inner(eqn))
    allocated = 0 if is_call else sum(returned.values())
    return allocated, returned


def _bytes(v: core.Var) -> int:
    """Return the bytes of a variable's buffer; 0 for a token, which has no shape."""
    size = math.prod(getattr(v.aval, "shape", ()))
    itemsize = getattr(getattr(v.aval, "dtype", None), "itemsize", 0)
    return math.ceil(size * itemsize / _LINE_BYTES) * _LINE_BYTES


class Coarse(NamedTuple):
    """What a program computes below the precision of a measurement.

    Attributes:
        phrases: What is computed so, in words: one for each kind of equation, in the
            order in which they occur.
        eps: The largest eps of these equations; None if the measurement's is as large.
    """

    phrases: tuple[str, ...]
    eps: float | None


def coarse(jaxpr: core.Jaxpr, dtype: DTypeLike) -> Coarse:
    """Find what is computed more coarsely than `dtype` at full precision.

    Args:
        jaxpr: Traced at full matmul precision, so that a lower one was asked for.
        dtype: The dtype of the measurement, float32 or float64.

    Returns:
        The equations in words, and the largest eps among them.
    """
    limits = jnp.finfo(dtype)
    found = [_coarse(eqn, limits.bits) for eqn in equations(jaxpr)]
    # A dict keeps the order and each phrase once.
    roundings = dict(kind for kind in found if kind is not None)
    largest = max(roundings.values(), default=0.0)
    eps = None
    if largest > float(limits.eps):
        eps = largest
    return Coarse(tuple(roundings), eps)


def _coarse(eqn: core.JaxprEqn, bits: int) -> tuple[str, float] | None:
    """Return words for an equation and its eps; None if it computes in `bits` bits."""
    # Whole numbers and keys lose no precision, whatever is done to them.
    if not any(jnp.issubdtype(_dtype(v), jnp.floating) for v in eqn.invars):
        return None
    if eqn.primitive.name == "convert_element_type":
        return _coarse_cast(eqn, bits)
    if eqn.primitive.name == "reduce_precision":
        kept = eqn.params["mantissa_bits"]
        if kept < _MANTISSA_BITS[bits]:
            return f"reduce_precision to {kept} bits of mantissa", 2.0**-kept
    if "precision" in eqn.params:
        return _coarse_product(eqn, bits)
    return None


def _coarse_cast(eqn: core.JaxprEqn, bits: int) -> tuple[str, float] | None:
    """Return words for a cast to fewer bits and its eps; None for other casts."""
    (variable,) = eqn.invars
    old = _dtype(variable)
    new = jnp.dtype(eqn.params["new_dtype"])
    # A weakly typed value comes from a number of Python's, and was not measured.
    is_weak = getattr(variable.aval, "weak_type", False)
    if is_weak or not jnp.issubdtype(new, jnp.floating):
        return None
    if jnp.finfo(new).bits < min(bits, jnp.finfo(old).bits):
        return f"a cast of {old} to {new}", float(jnp.finfo(new).eps)
    return None


def _coarse_product(eqn: core.JaxprEqn, bits: int) -> tuple[str, float] | None:
    """Return words for a product of low precision and its eps; None for any other."""
    name = eqn.primitive.name
    asked = eqn.params["precision"]
    # One precision for each factor, or one for both.
    if not isinstance(asked, tuple):
        asked = (asked,)
    names = [getattr(precision, "name", str(precision)) for precision in asked]
    if not set(names) <= set(_FULL_PRECISIONS[bits]):
        phrase = f"{name} with precision={'/'.join(dict.fromkeys(names))}"
        return phrase, max(map(_eps_of_precision, names))
    result = eqn.params.get("preferred_element_type")
    if result is None or not jnp.issubdtype(result, jnp.floating):
        return None
    if jnp.finfo(result).bits < bits:
        phrase = f"{name} with preferred_element_type={jnp.dtype(result)}"
        return phrase, float(jnp.finfo(result).eps)
    return None


def _eps_of_precision(name: str) -> float:
    """Return the eps to which a precision rounds factors; 0 for no rounding."""
    if name in ("DEFAULT", "HIGH"):
        # What these mean is the platform's choice. A CPU ignores them.
        return _PLATFORM_EPS.get(jax.default_backend(), 0.0)
    # Names of algorithms begin with the factors' type: "BF16_BF16_F32_X3".
    return _ALGORITHM_EPS.get(name.partition("_")[0], 0.0)


def _dtype(variable: core.Var | core.Literal) -> np.dtype:
    # Tokens, which order effects, have no dtype.
    return getattr(variable.aval, "dtype", jnp.dtype(bool))
