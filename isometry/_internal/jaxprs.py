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

# Programs that somebody else has compiled, whose inside nobody sees.
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
    """Count the bytes of what the equations of a program return.

    Attributes:
        at_once: The most that is alive at once, if equations run in the order written.
        in_all: All of it. A loop returns something in every turn.
    """

    at_once: int
    in_all: int


class ScanParts(NamedTuple):
    """Count what a scan takes: its operands are constants, states, then arrays.

    Attributes:
        num_consts: Operands that every iteration sees whole.
        num_carry: States, which are also its first results.
    """

    num_consts: int
    num_carry: int


def scan_parts(eqn: core.JaxprEqn) -> ScanParts:
    """Count the constants and states of a scan.

    Versions of JAX keep these numbers in different parameters. They can be told from
    the shapes: an array has one axis more than the slice that an iteration sees of it.
    """
    body = eqn.params["jaxpr"]
    body = getattr(body, "jaxpr", body)
    num_arrays = _num_sliced(eqn.invars, body.invars)
    num_stacked = _num_sliced(eqn.outvars, body.outvars)
    num_carry = len(eqn.outvars) - num_stacked
    return ScanParts(len(eqn.invars) - num_carry - num_arrays, num_carry)


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


def equations(jaxpr: core.Jaxpr, into_rules: bool = True) -> Iterator[core.JaxprEqn]:
    """Yield every equation of a jaxpr and of all jaxprs nested in it.

    Unless `into_rules`, the bodies of functions with a custom_vjp are skipped: autodiff
    uses their rules instead.
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
    """Tell whether reverse mode, and whether forward mode, is missing.

    JAX has no reverse-mode rule for a loop of unknown length, and no forward-mode rule
    for a function with a custom_vjp. A loop counts even if nobody differentiates what
    it computes.

    Returns:
        `(no_reverse, no_forward)`: both False where f can be differentiated either way,
        both True where it cannot be differentiated at all.
    """
    # JAX calls the rule of a custom_vjp instead of differentiating its body, so a loop
    # in there does no harm.
    differentiated = list(equations(jaxpr, into_rules=False))
    no_reverse = any(eqn.primitive.name == "while" for eqn in differentiated)
    no_forward = any(has_vjp(eqn) for eqn in differentiated)
    return no_reverse, no_forward


def constants(closed: core.ClosedJaxpr) -> list[ArrayLike]:
    """Return every number in a program: closed-over constants, then literals."""
    numbers = list(closed.consts)
    for eqn in equations(closed.jaxpr):
        literals = [v for v in eqn.invars if isinstance(v, core.Literal)]
        numbers += [literal.val for literal in literals]
        for part in _flat_params(eqn):
            if isinstance(part, core.ClosedJaxpr):
                numbers += part.consts
    return numbers


def loops(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yield the outermost loops of a program, those of functions that it calls too."""
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
    """Count the bytes that a program's results take.

    A reverse derivative keeps all of them, a forward one those that are alive.
    """
    last_use = _last_use(jaxpr)
    alive: dict[core.Var, int] = {}
    at_once = in_all = 0
    for i, eqn in enumerate(jaxpr.eqns):
        within = [held(part) for part in inner(eqn)]
        largest_within = max((part.at_once for part in within), default=0)
        new, returned = _results(eqn)
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


def _results(eqn: core.JaxprEqn) -> tuple[int, dict[core.Var, int]]:
    """Return the bytes that an equation allocates, and those that each result holds."""
    name = eqn.primitive.name
    if name in _VIEWS:
        return 0, dict.fromkeys(eqn.outvars, 0)
    returned = {v: _bytes(v) for v in eqn.outvars}
    # What a function returns was allocated by an equation inside it. A loop stacks what
    # its body returns.
    is_call = name not in _LOOPS and bool(inner(eqn))
    allocated = 0 if is_call else sum(returned.values())
    return allocated, returned


def _bytes(v: core.Var) -> int:
    """Return the bytes of a variable's buffer; tokens and the like have none."""
    size = math.prod(getattr(v.aval, "shape", ()))
    itemsize = getattr(getattr(v.aval, "dtype", None), "itemsize", 0)
    return math.ceil(size * itemsize / _LINE_BYTES) * _LINE_BYTES


class Coarse(NamedTuple):
    """What is computed below the precision of a measurement.

    Attributes:
        phrases: One for each kind of equation, in the order in which they occur.
        eps: Rounding of the coarsest; None where that is the measurement's own.
    """

    phrases: tuple[str, ...]
    eps: float | None


def coarse(jaxpr: core.Jaxpr, dtype: DTypeLike) -> Coarse:
    """Find what is computed more coarsely than `dtype` at full precision.

    Args:
        jaxpr: Traced at full matmul precision, so that a lower one was asked for.
        dtype: The dtype of the measurement, float32 or float64.

    Returns:
        What was found, and how coarse it is.
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
    """Describe one equation and its eps, or return None where it keeps `bits` bits."""
    # Whole numbers and keys may be cast and moved as anybody likes.
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
    (variable,) = eqn.invars
    old = _dtype(variable)
    new = jnp.dtype(eqn.params["new_dtype"])
    # A weakly typed value is a number of Python's: nothing that was measured.
    is_weak = getattr(variable.aval, "weak_type", False)
    if is_weak or not jnp.issubdtype(new, jnp.floating):
        return None
    if jnp.finfo(new).bits < min(bits, jnp.finfo(old).bits):
        return f"a cast of {old} to {new}", float(jnp.finfo(new).eps)
    return None


def _coarse_product(eqn: core.JaxprEqn, bits: int) -> tuple[str, float] | None:
    """Describe a product or convolution of low precision or with a low sum."""
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
    """Return the rounding of a factor in a product; 0 where it keeps its dtype's."""
    if name in ("DEFAULT", "HIGH"):
        # What these mean is the platform's choice; a processor takes no notice.
        return _PLATFORM_EPS.get(jax.default_backend(), 0.0)
    # Names of algorithms begin with the factors' type: "BF16_BF16_F32_X3".
    return _ALGORITHM_EPS.get(name.partition("_")[0], 0.0)


def _dtype(variable: core.Var | core.Literal) -> np.dtype:
    # Tokens, which order effects, have no dtype.
    return getattr(variable.aval, "dtype", jnp.dtype(bool))
