"""The table of primitives with kinks, and what replaces each of them.

A comparison of signals becomes a gate: a number between 0 and 1 instead of a boolean.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import equations, kinds
from isometry.certificates.relaxing import _smooth
from isometry.certificates.relaxing._smooth import Smooth

# What an equation reads: values, and gates instead of booleans that the signal gives.
Operands: TypeAlias = Sequence[Array]

# Computes the first result of an equation from its operands.
Relaxation: TypeAlias = Callable[[Smooth, core.JaxprEqn, Operands], Array]


def _of_operands(function: Callable[..., Array]) -> Relaxation:
    """Return the relaxation of an equation of which the operands alone matter.

    Args:
        function: Maps the analytic functions and the operands, one by one, to the
            result.
    """

    def relaxation(
        smooth: Smooth,
        eqn: core.JaxprEqn,
        operands: Operands,
    ) -> Array:
        del eqn
        return function(smooth, *operands)

    return relaxation


def _minimum(
    smooth: Smooth,
    first: Array,
    second: Array,
) -> Array:
    """Replace the smaller of two values by a symmetric function of them."""
    return -_smooth.maximum(smooth, -first, -second)


def _clamped(
    smooth: Smooth,
    low: Array,
    x: Array,
    high: Array,
) -> Array:
    """Replace min(max(x, low), high)."""
    raised = _smooth.maximum(smooth, x, low)
    return _minimum(smooth, raised, high)


def _greater(
    smooth: Smooth,
    first: Array,
    second: Array,
) -> Array:
    """Replace x > y by a gate; at a tie it is 0."""
    return _smooth.above(smooth, first - second)


def _less(
    smooth: Smooth,
    first: Array,
    second: Array,
) -> Array:
    """Replace x < y by a gate; at a tie it is 0."""
    return _greater(smooth, second, first)


def _at_least(
    smooth: Smooth,
    first: Array,
    second: Array,
) -> Array:
    """Replace x >= y, the opposite of x < y, by a gate; at a tie it is 1."""
    return 1 - _less(smooth, first, second)


def _at_most(
    smooth: Smooth,
    first: Array,
    second: Array,
) -> Array:
    """Replace x <= y, the opposite of x > y, by a gate; at a tie it is 1."""
    return 1 - _greater(smooth, first, second)


def _ceiling(
    smooth: Smooth,
    x: Array,
) -> Array:
    """Replace ceil(x) = -floor(-x)."""
    return -_smooth.floored(smooth, -x)


def _as_gates(operands: Operands) -> list[Array]:
    """Return all operands as gates of one dtype, constant booleans too."""
    dtypes = [jnp.result_type(operand) for operand in operands]
    floating = [dtype for dtype in dtypes if dtype != np.bool_]
    return [jnp.asarray(operand, jnp.result_type(*floating)) for operand in operands]


def _and(
    smooth: Smooth,
    *gates: Array,
) -> Array:
    """Combine two gates into one that is open where both are."""
    del smooth
    first, second = _as_gates(gates)
    return first * second


def _or(
    smooth: Smooth,
    *gates: Array,
) -> Array:
    """Combine two gates into one that is open where at least one of them is."""
    del smooth
    first, second = _as_gates(gates)
    return first + second - first * second


def _xor(
    smooth: Smooth,
    *gates: Array,
) -> Array:
    """Combine two gates into one that is open where exactly one of them is."""
    del smooth
    first, second = _as_gates(gates)
    return first + second - 2 * first * second


def _not(
    smooth: Smooth,
    gate: Array,
) -> Array:
    """Turn a gate into its opposite."""
    del smooth
    return 1 - gate


def _select(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Mix the two cases of a jnp.where by its gate."""
    del smooth, eqn
    gate, otherwise, chosen = operands
    if kinds.is_floating(chosen):
        gate = gate.astype(chosen.dtype)
    else:
        # Whole numbers between which a gate chooses become real ones.
        otherwise, chosen = otherwise.astype(gate.dtype), chosen.astype(gate.dtype)
    # A case of -inf is a mask, which must not spoil the other where the gate is shut.
    mixed_in = jnp.where(gate == 0, 0, gate * chosen)
    return jnp.where(gate == 1, 0, (1 - gate) * otherwise) + mixed_in


def _cast(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Return a gate as the number that its boolean would have been cast to."""
    del smooth
    return operands[0].astype(eqn.params["new_dtype"])


def _reduce_max(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace the maximum over axes by a symmetric function."""
    axes = eqn.params["axes"]

    def total(values: Array) -> Array:
        return values.sum(axes)

    return _smooth.largest(smooth, operands[0], total)


def _reduce_min(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace the minimum over axes: minus the maximum of minus the operand."""
    return -_reduce_max(smooth, eqn, (-operands[0],))


def _pool_max(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace max pooling by a symmetric function of each window."""
    windows = eqn.params

    def total(values: Array) -> Array:
        # `largest` sums the weighted values, and then the weights. Padding adds zero to
        # both, as if it were not there.
        return jax.lax.reduce_window(
            values,
            np.zeros((), values.dtype),
            jax.lax.add,
            window_dimensions=windows["window_dimensions"],
            window_strides=windows["window_strides"],
            padding=windows["padding"],
            base_dilation=windows["base_dilation"],
            window_dilation=windows["window_dilation"],
        )

    return _smooth.largest(smooth, operands[0], total)


def _pool_min(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace min pooling, which is minus max pooling of minus the operand."""
    return -_pool_max(smooth, eqn, (-operands[0],))


def _sort(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace sorted values by symmetric functions of all of them."""
    return _smooth.ordered(smooth, operands[0], eqn.params["dimension"])


def _top_k(
    smooth: Smooth,
    eqn: core.JaxprEqn,
    operands: Operands,
) -> Array:
    """Replace the k largest values by symmetric functions of all of them."""
    axis = eqn.params.get("axis", -1)
    rising = _smooth.ordered(smooth, operands[0], axis)
    falling = jnp.flip(rising, axis)
    return jax.lax.slice_in_dim(falling, 0, eqn.params["k"], axis=axis)


# A value computed by one of these has a kink as a function of its operands.
KINKS: Mapping[str, Relaxation] = {
    "abs": _of_operands(_smooth.magnitude),
    "sign": _of_operands(_smooth.sign),
    "max": _of_operands(_smooth.maximum),
    "min": _of_operands(_minimum),
    "clamp": _of_operands(_clamped),
    "gt": _of_operands(_greater),
    "lt": _of_operands(_less),
    "ge": _of_operands(_at_least),
    "le": _of_operands(_at_most),
    "round": _of_operands(_smooth.rounded),
    "floor": _of_operands(_smooth.floored),
    "ceil": _of_operands(_ceiling),
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "reduce_window_max": _pool_max,
    "reduce_window_min": _pool_min,
    "sort": _sort,
    "top_k": _top_k,
}

# Primitives that compute with gates instead of booleans.
OF_GATES: Mapping[str, Relaxation] = {
    "and": _of_operands(_and),
    "or": _of_operands(_or),
    "xor": _of_operands(_xor),
    "not": _of_operands(_not),
    "select_n": _select,
    "convert_element_type": _cast,
}

# Primitives of which each entry of the result is computed from one entry of each
# operand. With kinks among them they make up activations such as jax.nn.hard_tanh.
ELEMENTWISE = frozenset(
    (
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "cbrt",
        "ceil",
        "clamp",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "div",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "is_finite",
        "le",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "name",
        "neg",
        "not",
        "or",
        "pow",
        "round",
        "rsqrt",
        "select_n",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
    )
)

# Primitives that only give entries another shape or order: what holds of all entries of
# the operand holds of all entries of the result.
MOVES = frozenset(
    (
        "broadcast_in_dim",
        "concatenate",
        "copy",
        "copy_p",
        "dynamic_slice",
        "expand_dims",
        "gather",
        "name",
        "pad",
        "reshape",
        "rev",
        "slice",
        "split",
        "squeeze",
        "stack",
        "transpose",
        "unstack",
    )
)

# The derivative of these is zero, wherever JAX takes it.
FLAT = frozenset(
    ("sign", "round", "floor", "ceil", "gt", "ge", "lt", "le", "stop_gradient")
)

# Primitives that jump or bend and are not replaced; each with what to tell the user.
LEFT: Mapping[str, str] = {
    "argmax": "argmax of a signal picks an entry",
    "argmin": "argmin of a signal picks an entry",
    "atan2": "the angle of a signal jumps from pi to -pi",
    "cummax": "cummax of a signal has kinks",
    "cummin": "cummin of a signal has kinks",
    "rem": "the remainder of a signal jumps",
    "nextafter": "nextafter of a signal jumps",
    "reduce_window": "a pooling by a function other than lax.max or lax.min",
    "reduce": "a reduction by a function of its own",
    "select_and_gather_add": "a derivative of max pooling inside f",
    "select_and_scatter_add": "a derivative of max pooling inside f",
    "while": "a loop of unknown length, into which nobody can see",
    "pure_callback": "a callback, into which nobody can see",
    "io_callback": "a callback, into which nobody can see",
    "approx_top_k": "approx_top_k of a signal picks entries",
    "custom_call": "a custom call, into which nobody can see",
    "ffi_call": "a foreign function, into which nobody can see",
    "pallas_call": "a Pallas kernel, into which nobody can see",
    "tpu_custom_call": "a custom call, into which nobody can see",
}

# Primitives that are analytic wherever they have a derivative, beside those that are
# named above. Not those whose results change places or signs where values cross, as
# eigenvalues, singular values and the pivots of an LU factorization do.
ANALYTIC = frozenset(
    (
        "all_gather",
        "all_gather_invariant",
        "all_to_all",
        "bessel_i0e",
        "bessel_i1e",
        "cholesky",
        "complex",
        "conj",
        "conv_general_dilated",
        "cumlogsumexp",
        "cumprod",
        "cumsum",
        "device_put",
        "digamma",
        "dot_general",
        "dynamic_update_slice",
        "erf_inv",
        "fft",
        "igamma",
        "igammac",
        "imag",
        "lgamma",
        "mesh_cast",
        "optimization_barrier",
        "polygamma",
        "ppermute",
        "psum",
        "psum2",
        "psum_invariant",
        "pvary",
        "ragged_dot",
        "ragged_dot_general",
        "real",
        "reduce_prod",
        "reduce_scatter",
        "reduce_sum",
        "reduce_window_sum",
        "regularized_incomplete_beta",
        "reshard",
        "scatter",
        "scatter-add",
        "scatter-mul",
        "scatter-sub",
        "sharding_constraint",
        "triangular_solve",
        "zeta",
    )
)

# What a signal may meet without a word to the user. Anything else, as primitives of a
# later JAX, may have kinks: claims about it are evidence.
KNOWN = ANALYTIC | ELEMENTWISE | MOVES | FLAT | set(KINKS) | set(OF_GATES)

# A rule for batches is no derivative rule.
CALLS = equations.CALLS | {"custom_vmap_call"}


def is_shift(
    jaxpr: core.Jaxpr,
    maximum: core.Var,
    of: core.Var | core.Literal,
) -> bool:
    """Tell whether a maximum only keeps exponentials of its own operand in range.

    So it is in softmax and logsumexp: the maximum is subtracted before exp, and divided
    out, or added, after it.

    Args:
        jaxpr: The program that computes it.
        maximum: The maximum.
        of: The array whose maximum it is.
    """
    # What softmax and logsumexp do to it before they subtract it.
    passing = MOVES | {"stop_gradient", "max", "is_finite", "select_n"}
    copies = {maximum}
    constants: set[core.Var] = set()
    is_subtracted = False
    for eqn in jaxpr.eqns:
        read = {v for v in eqn.invars if isinstance(v, core.Var)}
        if read <= constants:
            constants.update(eqn.outvars)
        if read.isdisjoint(copies):
            continue
        name = eqn.primitive.name
        # It must not be mixed with another signal, as in the larger of the two.
        others = read - copies - constants
        if name in passing and not others:
            copies.update(eqn.outvars)
        elif name == "sub" and eqn.invars[0] is of and _is_raised(jaxpr, eqn):
            is_subtracted = True
        elif name != "add":
            return False
    is_returned = any(v in copies for v in jaxpr.outvars if isinstance(v, core.Var))
    return is_subtracted and not is_returned


def _is_raised(
    jaxpr: core.Jaxpr,
    eqn: core.JaxprEqn,
) -> bool:
    """Tell whether the result of an equation is an argument of exp."""
    (result,) = eqn.outvars
    return any(
        reader.primitive.name in ("exp", "exp2") and reader.invars[0] is result
        for reader in jaxpr.eqns
    )


def relaxation_of(eqn: core.JaxprEqn) -> Relaxation | None:
    """Return what replaces an equation; None if it has no kink."""
    name = eqn.primitive.name
    if name == "convert_element_type" and kinds.is_floating(eqn.outvars[0].aval):
        # A number that was cast from a float is no gate.
        return None if kinds.is_floating(eqn.invars[0].aval) else _cast
    if name in OF_GATES and _is_boolean(eqn.invars[0]):
        return OF_GATES[name]
    # Whole numbers have no kinks: a derivative does not reach them.
    if all(kinds.is_floating(variable.aval) for variable in eqn.invars):
        return KINKS.get(name)
    return None


def _is_boolean(variable: core.Var | core.Literal) -> bool:
    return getattr(variable.aval, "dtype", None) == np.bool_
