"""Replaces the kinks of a program by random analytic functions.

A lock of a function with kinks, found by probing, holds on the pieces that were probed.
A lock of the relaxed function, for a random choice of analytic functions, holds for all
choices; so it holds for their limit, the function with kinks, on all of its pieces.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import jaxprs
from isometry._internal.types import Key, Params
from isometry.certificates import _custom, _elementwise, _kinks, _smooth, _traced
from isometry.certificates._elementwise import Evaluation, Source, Value
from isometry.certificates._traced import array_of, called, is_floating, leaf

Map: TypeAlias = Callable[[Params, PyTree[Array]], PyTree[Array]]

# What is positive whatever its operand is, and what is if its operands are.
_POSITIVE = frozenset(("exp", "exp2", "logistic", "cosh", "square", "erfc"))
_KEEPS_POSITIVE = _kinks.MOVES | frozenset(
    "add add_any convert_element_type cumsum div mul reduce_max reduce_sum rsqrt sqrt "
    "stop_gradient".split()
)


class Relaxed(NamedTuple):
    """A function without kinks, and what was done to it.

    Attributes:
        f: The function. It takes params and x of the structure, shapes and dtypes that
            it was made for.
        replaced: The primitives that were replaced somewhere, in alphabetical order;
            empty if the function has no kinks.
        unrelaxed: One sentence for each kind of equation that jumps or bends and was
            left as it is. If it is not empty, a lock of `f` is evidence, no proof.
    """

    f: Map
    replaced: tuple[str, ...]
    unrelaxed: tuple[str, ...]


def relaxed(
    f: Map,
    params: Params,
    x: PyTree[Array],
    key: Key,
) -> Relaxed:
    """Replace every kink of f that depends on params or x by a random function.

    The functions are real analytic and the same ones throughout f, so equal parts of a
    network stay equal. They are odd or even where the original is. At zero and at the
    kinks of an elementwise function they have its value and the derivative that JAX
    takes. They need not resemble the original elsewhere: it is only for locks.

    A comparison becomes a number between 0 and 1, through which no derivative passes,
    as none passes through the comparison. What is compared must depend on a floating
    leaf of params or x: random masks, masks of constants, of positions and of whole
    numbers stay as they are, and so does the maximum that softmax subtracts.

    Args:
        f: A function of parameters and input.
        params: Its parameters; shapes suffice.
        x: Its input; shapes suffice.
        key: Determines the functions.

    Returns:
        The relaxed function, what was replaced, and what was not.

    Example:
        >>> def f(w, x):
        ...     return jax.nn.relu(w * x - 6)
        >>> relaxed_f = relaxed(f, jnp.ones(()), jnp.ones(()), jax.random.key(0))
        >>> relaxed_f.replaced
        ('max',)
        >>> slope = jax.grad(relaxed_f.f)(jnp.ones(()), jnp.ones(()))
        >>> bool(slope != 0)
        True
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(params, x)
    leaves, tree = jax.tree.flatten((params, x))
    rewriting = _Rewriting(_smooth.drawn(key))

    def run(*arrays: Array) -> list[Array]:
        operands = [_argument(array) for array in arrays]
        results = rewriting.program(closed, operands)
        return [array_of(result) for result in results]

    program = jax.make_jaxpr(run)(*leaves)
    call = core.jaxpr_as_fun(program)

    def relaxed_f(params: Params, x: PyTree[Array]) -> PyTree[Array]:
        arrays = tree.flatten_up_to((params, x))
        return jax.tree.unflatten(jax.tree.structure(shape), call(*arrays))

    return Relaxed(
        relaxed_f,
        tuple(sorted(rewriting.replaced)),
        tuple(rewriting.unrelaxed),
    )


def _argument(array: Array) -> Value:
    return leaf(array, is_active=is_floating(array))


def _constant(array: Any) -> Value:
    """Return the value of a constant, with its number if all its entries are equal."""
    number = None
    if not isinstance(array, jax.core.Tracer) and _is_numeric(array):
        entries = np.asarray(array)
        if entries.size and (entries == entries.flat[0]).all():
            number = entries.flat[0]
    return Value(array, array, is_active=False, number=number)


def _is_numeric(array: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(array), jax.dtypes.extended)


class _Rewriting:
    """One pass over a program.

    Attributes:
        replaced: The primitives of the equations that were replaced.
        unrelaxed: What was left, in the order in which it occurs.
    """

    def __init__(self, smooth: _smooth.Smooth) -> None:
        self.replaced: set[str] = set()
        self.unrelaxed: dict[str, None] = {}
        # A function that adds nothing to it has no kinks.
        self._num_changes = 0
        self._smooth = smooth
        self._evaluations: dict[Value, Evaluation] = {}

    def program(
        self,
        program: core.ClosedJaxpr | core.Jaxpr,
        operands: Sequence[Value],
    ) -> list[Value]:
        """Evaluate a program, relaxed."""
        jaxpr, constants = program, ()
        if isinstance(program, core.ClosedJaxpr):
            jaxpr, constants = program.jaxpr, program.consts
        values = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
        values.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: core.Var | core.Literal) -> Value:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return _constant(np.asarray(atom.val, aval.dtype))
            return values[atom]

        for eqn in jaxpr.eqns:
            read_values = tuple(read(atom) for atom in eqn.invars)
            results = self._equation(eqn, read_values, jaxpr)
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        jaxpr: core.Jaxpr,
    ) -> list[Value]:
        name = eqn.primitive.name
        if not any(operand.is_active for operand in operands):
            return _inactive(eqn, operands)
        if name in _kinks.CALLS:
            return self.program(called(eqn), operands)
        if name in _kinks.CUSTOM:
            return self._custom(eqn, operands)
        if name in _kinks.REMAT:
            return _traced.remat(eqn, operands, self.program)
        if name == "scan":
            return _traced.scan(eqn, operands, self.program)
        if name == "cond":
            if operands[0].is_active:
                self._name("a cond whose branch the signal chooses")
            return _traced.cond(eqn, operands, self.program)
        if name in _kinks.LEFT:
            return self._left(eqn, operands, _kinks.LEFT[name])
        if jaxprs.inner(eqn) and self._has_kinks(eqn, operands):
            return self._left(eqn, operands, f"{name}, with kinks inside")
        if name in ("eq", "ne"):
            return self._equality(eqn, operands)
        if name == "is_finite":
            return [leaf(array, is_active=False) for array in _as_it_is(eqn, operands)]
        if self._is_exempt(eqn, operands, jaxpr):
            return self._plain(eqn, operands)
        relaxation = _elementwise.relaxation_of(eqn)
        if relaxation is None or not _reads_signal(eqn, operands):
            return self._plain(eqn, operands)
        return self._relaxed(eqn, operands, relaxation)

    def _left(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        what: str,
    ) -> list[Value]:
        """Evaluate an equation as it is, and name it."""
        self._name(what)
        arrays = _as_it_is(eqn, operands)
        return [leaf(array, is_active=True) for array in arrays]

    def _name(self, what: str) -> None:
        """Say that something is left as it is."""
        self.unrelaxed[f"{what}: it is left as it is."] = None
        self._num_changes += 1

    def _has_kinks(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> bool:
        """Tell whether the programs that an equation calls would be relaxed."""
        del operands
        return any(
            inner.primitive.name in _kinks.KINKS or inner.primitive.name in _kinks.LEFT
            for part in jaxprs.inner(eqn)
            for inner in jaxprs.equations(part)
        )

    def _equality(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> list[Value]:
        """Evaluate x == y, which holds nowhere but at a tie."""
        is_guard = not all(o.is_active for o in operands) or operands[0] is operands[1]
        # What has lost its gate was named where it lost it.
        is_named = any(o.smooth is None for o in operands)
        if is_guard or is_named:
            arrays = _as_it_is(eqn, operands)
            # Away from a tie a guard such as x == 0 does not depend on the signal.
            return [leaf(array, is_active=is_named) for array in arrays]
        return self._left(eqn, operands, "a comparison of two signals by == or !=")

    def _is_exempt(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        jaxpr: core.Jaxpr,
    ) -> bool:
        """Tell whether an equation has no kink where its operands can be."""
        name = eqn.primitive.name
        if name in ("reduce_max", "reduce_min"):
            return _kinks.is_shift(jaxpr, eqn.outvars[0], eqn.invars[0])
        if name in ("abs", "sign"):
            return operands[0].is_positive
        if name not in ("max", "min"):
            return False
        numbers = [o.number for o in operands if o.number is not None]
        if name == "min":
            return any(number == np.inf for number in numbers)
        is_positive = any(o.is_positive for o in operands)
        lowest = 0 if is_positive else -np.inf
        return any(number <= lowest for number in numbers)

    def _plain(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> list[Value]:
        """Evaluate an equation without a kink; a gate may take another shape."""
        name = eqn.primitive.name
        is_positive = _is_positive(eqn, operands)
        base = _base(eqn, operands)
        if base is not None and _is_floating_result(eqn):
            return [self._function(eqn, operands, base, is_positive=is_positive)]
        arrays = _as_it_is(eqn, operands)
        gates = [None] * len(arrays)
        if name in _kinks.MOVES and _has_gate(operands):
            dtype = _gate_dtype(operands)
            gates = _elementwise.bound(eqn, [_gate_of(o, dtype) for o in operands])
        results = []
        for array, gate in zip(arrays, gates, strict=True):
            result = leaf(array, is_active=True)
            if gate is not None:
                result.smooth = gate
            result.is_positive = is_positive
            result.is_flat = _is_flat(eqn, operands)
            results.append(result)
        # Where a signal becomes a whole number or a boolean, something jumps.
        jumps = any(result.smooth is None for result in results)
        if jumps and any(o.is_active and o.smooth is not None for o in operands):
            what = f"{name} turns a signal into whole numbers or booleans"
            self._name(what)
        return results

    def _relaxed(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        relaxation: _kinks.Relaxation,
    ) -> list[Value]:
        """Evaluate an equation by the table."""
        name = eqn.primitive.name
        if name == "sort" and len(eqn.outvars) > 1:
            return self._left(eqn, operands, "a sort that moves other arrays along")
        if any(o.is_active and o.smooth is None for o in operands):
            # What it reads was named where it lost its gate.
            arrays = _as_it_is(eqn, operands)
            return [leaf(array, is_active=True) for array in arrays]
        if name in _kinks.KINKS:
            self.replaced.add(name)
            self._num_changes += 1
        base = _base(eqn, operands)
        if base is not None:
            return [self._function(eqn, operands, base, relaxation=relaxation)]
        smooth = relaxation(self._smooth, eqn, [o.outside for o in operands])
        result = Value(
            array=smooth,
            smooth=smooth,
            is_active=True,
            is_flat=_is_flat(eqn, operands),
        )
        if _is_floating_result(eqn):
            others = []
            if len(eqn.outvars) > 1:
                # The indices that top_k returns.
                _, *rest = _as_it_is(eqn, operands)
                others = [leaf(array, is_active=True) for array in rest]
                self._name(f"which entries {name} of a signal picks")
            return [result, *others]
        (result.array,) = _as_it_is(eqn, operands)
        return [result]

    def _function(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        base: Value,
        *,
        relaxation: _kinks.Relaxation | None = None,
        inside: Value | None = None,
        is_positive: bool = False,
    ) -> Value:
        """Return an elementwise function of one value."""
        if inside is not None:
            kinks = inside.kinks
        elif relaxation is not None:
            kinks = _elementwise.kinks_of(eqn, operands)
        else:
            kinks = frozenset().union(*(o.kinks for o in operands))
        value = Value(
            array=None,
            smooth=None,
            is_active=True,
            is_flat=inside is None and _is_flat(eqn, operands),
            is_positive=is_positive,
            base=base,
            source=Source(eqn, operands, relaxation, inside),
            kinks=kinks,
            depth=1 + max(o.depth for o in operands),
        )
        if relaxation is not None or inside is not None:
            value.finish = _elementwise.finish_of(self._smooth, value)
        if base not in self._evaluations:
            evaluation = Evaluation(self._smooth, base, base.outside)
            self._evaluations[base] = evaluation
        value.smooth = value.array = self._evaluations[base].at(value)
        if not _is_floating_result(eqn):
            (value.array,) = _as_it_is(eqn, operands)
        return value

    def _custom(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> list[Value]:
        """Evaluate a function with a derivative rule of its own."""
        replaced, unrelaxed = self.replaced.copy(), self.unrelaxed.copy()
        num_changes = self._num_changes
        results = self.program(called(eqn), operands)
        # Without kinks it keeps its rule.
        if self._num_changes == num_changes:
            arrays = _as_it_is(eqn, operands)
            return [leaf(array, is_active=True) for array in arrays]
        if not _custom.follows_its_function(eqn, called(eqn)):
            self.replaced, self.unrelaxed = replaced, unrelaxed
            kind = eqn.primitive.name.partition("_call")[0]
            what = f"a {kind} whose rule is not the derivative of its function"
            return self._left(eqn, operands, what)
        base = _base(eqn, operands)
        is_function = base is not None and len(results) == 1
        if is_function and results[0].root is base:
            # The rule may take another derivative at the kink, as that of relu does.
            return [self._function(eqn, operands, base, inside=results[0])]
        return results


def _inactive(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> list[Value]:
    """Evaluate an equation that reads nothing of the signal."""
    arrays = _elementwise.bound(eqn, [operand.array for operand in operands])
    results = [leaf(array, is_active=False) for array in arrays]
    if len(results) == 1 and operands:
        results[0].number = _number(eqn, operands)
    return results


def _number(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> Any:
    """Return what all entries of a constant are, or None if that is not known."""
    numbers = [operand.number for operand in operands]
    if any(number is None for number in numbers):
        return None
    name = eqn.primitive.name
    if name in _kinks.MOVES and len(numbers) == 1:
        return numbers[0]
    if name not in _kinks.ELEMENTWISE:
        return None
    with jax.ensure_compile_time_eval():
        scalars = [
            jnp.asarray(number, variable.aval.dtype)
            for number, variable in zip(numbers, eqn.invars, strict=True)
        ]
        (result,) = _elementwise.bound(eqn, scalars)
    return np.asarray(result)[()]


def _as_it_is(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> list[Array]:
    """Evaluate an equation unchanged."""
    return _elementwise.bound(eqn, [array_of(operand) for operand in operands])


def _reads_signal(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> bool:
    """Tell whether the part of an equation that makes its kink reads the signal."""
    if eqn.primitive.name == "select_n":
        return operands[0].is_active
    return any(operand.is_active for operand in operands)


def _base(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> Value | None:
    """Return the value of which the result is an elementwise function, or None."""
    name = eqn.primitive.name
    if name not in _kinks.ELEMENTWISE and name not in _kinks.CUSTOM:
        return None
    return _elementwise.common_base(eqn, operands)


def _is_flat(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> bool:
    """Tell whether JAX takes no derivative of a result."""
    name = eqn.primitive.name
    if name in _kinks.FLAT:
        return True
    # Which case is taken has no derivative.
    differentiated = operands[1:] if name == "select_n" else operands
    return all(o.is_flat or not o.is_active for o in differentiated)


def _is_positive(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> bool:
    """Tell whether a result is positive by construction."""
    name = eqn.primitive.name
    if name in _POSITIVE:
        return True
    numbers = [0 if o.number is None else o.number for o in operands]
    signs = [o.is_positive or n > 0 for o, n in zip(operands, numbers, strict=True)]
    return name in _KEEPS_POSITIVE and all(signs)


def _has_gate(operands: tuple[Value, ...]) -> bool:
    return any(
        o.is_active and o.smooth is not None and not is_floating(o.array)
        for o in operands
    )


def _gate_dtype(operands: tuple[Value, ...]) -> Any:
    """Return the dtype of the gates among the operands."""
    gates = [o.smooth for o in operands if o.is_active and o.smooth is not None]
    return jnp.result_type(*[gate for gate in gates if is_floating(gate)])


def _gate_of(
    operand: Value,
    dtype: Any,
) -> Any:
    """Return a gate, or a constant boolean as a gate; other operands as they are."""
    if jnp.result_type(operand.array) == np.bool_:
        return jnp.asarray(operand.outside).astype(dtype)
    return operand.array


def _is_floating_result(eqn: core.JaxprEqn) -> bool:
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating)
