"""Evaluates a program with its kinks replaced, as `_table` says.

The signal is what depends on floating leaves of params or x: the values that are
`active`. What does not depend on them is constant.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import checks, jaxprs, kinds
from isometry._internal.equations import CUSTOM, REMAT, called, opened, unchanged
from isometry.certificates.relaxing import _custom, _table, _traced
from isometry.certificates.relaxing._elementwise import Evaluation
from isometry.certificates.relaxing._finish import Finisher
from isometry.certificates.relaxing._smooth import Smooth
from isometry.certificates.relaxing._value import (
    Source,
    Value,
    array_of,
    common_base,
    leaf,
)

# The most entries that are sorted. Their relaxation takes memory and time as the square
# of that.
_LONGEST_SORTED = 4096

# Primitives whose result is positive whatever the operand is, and those whose result is
# positive if the operands are.
_POSITIVE = frozenset(("exp", "exp2", "logistic", "cosh", "square", "erfc"))
_KEEPS_POSITIVE = _table.MOVES | frozenset(
    (
        "add",
        "add_any",
        "convert_element_type",
        "cumsum",
        "div",
        "mul",
        "reduce_max",
        "reduce_sum",
        "rsqrt",
        "sqrt",
        "stop_gradient",
    )
)


class Rewriting:
    """One pass over a program.

    Attributes:
        replaced: The primitives of the equations that were replaced.
        unrelaxed: What was left, in the order in which it occurs.
    """

    def __init__(self, smooth: Smooth) -> None:
        self.replaced: set[str] = set()
        self.unrelaxed: dict[str, None] = {}
        # How many equations were replaced, or left although they have kinks. A function
        # that adds nothing to the number has no kinks.
        self._num_changes = 0
        self._smooth = smooth
        self._finisher = Finisher(smooth)
        self._evaluations: dict[Value, Evaluation] = {}

    def program(
        self,
        program: core.ClosedJaxpr | core.Jaxpr,
        operands: Sequence[Value],
    ) -> list[Value]:
        """Evaluate a program with its kinks replaced."""
        jaxpr, constants = opened(program)
        values = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
        values.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: core.Var | core.Literal) -> Value:
            if isinstance(atom, core.Literal):
                return _constant(np.asarray(atom.val, _dtype(atom)))
            return values[atom]

        for eqn in jaxpr.eqns:
            read_values = tuple(read(atom) for atom in eqn.invars)
            num_changes = self._num_changes
            results = self._equation(eqn, read_values, jaxpr)
            bends = self._num_changes > num_changes
            for result in results:
                result.bends |= bends or any(o.bends for o in read_values)
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        jaxpr: core.Jaxpr,
    ) -> list[Value]:
        name = eqn.primitive.name
        # Neither the signal nor a gradient passes here, so a kink does no harm.
        if not any(operand.is_active for operand in operands):
            return _inactive(eqn, operands)
        if name in _table.CALLS:
            return self.program(called(eqn), operands)
        if name in CUSTOM:
            return self._custom(eqn, operands)
        if name in REMAT:
            return _traced.remat(eqn, operands, self.program)
        if name == "scan":
            return _traced.scan(eqn, operands, self.program)
        if name == "cond":
            # Its branches are relaxed in any case; which of them is taken cannot be.
            if operands[0].is_active:
                self._name("a cond whose branch the signal chooses")
            return _traced.cond(eqn, operands, self.program)
        if name in _table.LEFT:
            return self._left(eqn, operands, _table.LEFT[name])
        if _has_kinks_inside(eqn):
            return self._left(eqn, operands, f"{name}, with kinks inside")
        if name in ("eq", "ne"):
            return self._equality(eqn, operands)
        # Signals are finite, or nothing can be said.
        if name == "is_finite":
            return [leaf(array, is_active=False) for array in _as_it_is(eqn, operands)]
        if self._is_exempt(eqn, operands, jaxpr):
            return self._plain(eqn, operands)
        # Whole numbers have no kinks: a derivative does not reach them.
        has_signal = any(o.is_active and kinds.is_inexact(o.array) for o in operands)
        if name not in _table.KNOWN and has_signal:
            return self._left(eqn, operands, f"{name}, which may have kinks")
        relaxation = _table.relaxation_of(eqn)
        if relaxation is None or not _reads_signal(eqn, operands):
            return self._plain(eqn, operands)
        return self._relaxed(eqn, operands, relaxation)

    def _left(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        what: str,
    ) -> list[Value]:
        """Evaluate an equation as it is, and say so in `unrelaxed`."""
        self._name(what)
        arrays = _as_it_is(eqn, operands)
        return [leaf(array, is_active=True) for array in arrays]

    def _name(self, what: str) -> None:
        """Note in `unrelaxed` that something is left as it is."""
        self.unrelaxed[f"{what}: it is left as it is."] = None
        self._num_changes += 1

    def _equality(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> list[Value]:
        """Evaluate x == y or x != y as it is: no analytic function stands in for it.

        Where one of the two is a constant and the other analytic, they are equal on a
        null set, so the result does not depend on the signal.
        """
        arrays = _as_it_is(eqn, operands)
        active = [o for o in operands if o.is_active]
        is_self = operands[0] is operands[1]
        is_guard = len(active) == 1 and not (active[0].bends or active[0].is_flat)
        if is_self or (is_guard and kinds.is_inexact(active[0].array)):
            # A test for NaN, x != x, or a guard, such as x == 0 in front of a division.
            return [leaf(array, is_active=False) for array in arrays]
        # A boolean without a gate was named at the equation at which it lost the gate.
        if all(o.smooth is not None for o in active):
            self._name("a comparison of signals by == or !=")
        return [leaf(array, is_active=True) for array in arrays]

    def _is_exempt(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        jaxpr: core.Jaxpr,
    ) -> bool:
        """Tell whether an equation has no kink where its operands can be."""
        name = eqn.primitive.name
        if name in ("reduce_max", "reduce_min"):
            return _table.is_shift(jaxpr, eqn.outvars[0], eqn.invars[0])
        # logsumexp takes the magnitude of a sum of exponentials.
        if name in ("abs", "sign"):
            return operands[0].is_positive
        if name not in ("max", "min"):
            return False
        numbers = [o.number for o in operands if o.number is not None]
        # The larger of a value and minus infinity is the value.
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
        """Evaluate an equation without a kink, such as one that reshapes a gate."""
        name = eqn.primitive.name
        is_positive = _is_positive(eqn, operands)
        base = _base(eqn, operands)
        if base is not None and kinds.is_floating(eqn.outvars[0].aval):
            source = Source(eqn, operands)
            return [self._function(source, base, is_positive=is_positive)]
        results = [leaf(a, is_active=True) for a in _as_it_is(eqn, operands)]
        for result in results:
            result.is_positive = is_positive
            result.is_flat = _is_flat(eqn, operands)
        # A gate is moved as its boolean is.
        if name in _table.MOVES and _is_gate(operands[0]):
            dtype = operands[0].smooth.dtype
            gates = unchanged(eqn, [_as_gate(operand, dtype) for operand in operands])
            for result, gate in zip(results, gates, strict=True):
                result.smooth = gate
            return results
        # Where a signal becomes a whole number or a boolean, something jumps.
        is_cast = any(result.smooth is None for result in results)
        is_smooth = any(o.is_active and o.smooth is not None for o in operands)
        if (is_cast and is_smooth) or any(map(_is_gate, operands)):
            self._name(f"{name} of or to whole numbers or booleans that a signal gives")
        return results

    def _relaxed(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        relaxation: _table.Relaxation,
    ) -> list[Value]:
        """Evaluate an equation with its kink replaced."""
        name = eqn.primitive.name
        if name == "sort" and len(eqn.outvars) > 1:
            return self._left(eqn, operands, "a sort that moves other arrays along")
        if name in ("sort", "top_k") and _num_sorted(eqn) > _LONGEST_SORTED:
            return self._left(eqn, operands, f"a {name} of a long array")
        if any(o.is_active and o.smooth is None for o in operands):
            # An operand without a gate was named at the equation at which it lost it.
            arrays = _as_it_is(eqn, operands)
            return [leaf(array, is_active=True) for array in arrays]
        if name in _table.KINKS:
            self.replaced.add(name)
            self._num_changes += 1
        base = _base(eqn, operands)
        if base is not None:
            return [self._function(Source(eqn, operands, relaxation), base)]
        smooth = relaxation(self._smooth, eqn, [o.outside for o in operands])
        arrays = [smooth]
        # The result of a comparison is its boolean, with the gate beside it; the
        # results of top_k are values and indices, of which only the values are smooth.
        if not kinds.is_floating(eqn.outvars[0].aval) or len(eqn.outvars) > 1:
            arrays = _as_it_is(eqn, operands)
        results = [leaf(array, is_active=True) for array in arrays]
        results[0].smooth = smooth
        results[0].is_flat = _is_flat(eqn, operands)
        if len(results) > 1:
            self._name(f"which entries {name} of a signal picks")
        return results

    def _function(
        self,
        source: Source,
        base: Value,
        *,
        is_positive: bool = False,
    ) -> Value:
        """Return a value, the elementwise function of `base` that `source` computes."""
        value = _of_source(source, base, self._kinks_of(source))
        value.is_positive = is_positive
        if source.relaxation is not None:
            value.finish = self._finisher.finish(value)
        self._evaluate(value)
        if not kinds.is_floating(source.eqn.outvars[0].aval):
            (value.array,) = _as_it_is(source.eqn, source.operands)
        return value

    def _kinks_of(self, source: Source) -> frozenset[float]:
        """Return where a function has kinks."""
        if source.relaxation is not None:
            return self._finisher.kinks(source.eqn, source.operands)
        return frozenset().union(*(operand.kinks for operand in source.operands))

    def _evaluate(self, value: Value) -> None:
        """Fill in the arrays of a value, an elementwise function of its base."""
        base = value.root
        # All functions of a base share one evaluation.
        if base not in self._evaluations:
            evaluation = Evaluation(self._smooth, base, base.outside)
            self._evaluations[base] = evaluation
        value.smooth = value.array = self._evaluations[base].at(value)

    def _custom(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> list[Value]:
        """Evaluate a function with a derivative rule of its own."""
        replaced, unrelaxed = self.replaced.copy(), self.unrelaxed.copy()
        num_changes = self._num_changes
        results = self.program(called(eqn), operands)
        # A function without kinks is evaluated as it is, with its rule.
        if self._num_changes == num_changes:
            if _custom.has_kinks(eqn):
                return self._left(eqn, operands, "a derivative rule with kinks")
            arrays = _as_it_is(eqn, operands)
            return [leaf(array, is_active=True) for array in arrays]
        base = _base(eqn, operands)
        if base is not None and results[0].root is base:
            call = self._call(eqn, operands, results[0])
            results = [] if call is None else [call]
        # Its parts have kinks, and the whole has none, so that nothing replaces it.
        elif (
            base is not None
            and _custom.is_smooth(eqn, operands)
            and _custom.follows_its_function(eqn, called(eqn))
        ):
            self.replaced, self.unrelaxed = replaced, unrelaxed
            arrays = _as_it_is(eqn, operands)
            return [leaf(array, is_active=True) for array in arrays]
        elif not _custom.follows_its_function(eqn, called(eqn)):
            results = []
        if results:
            return results
        self.replaced, self.unrelaxed = replaced, unrelaxed
        kind = eqn.primitive.name.partition("_call")[0]
        what = f"a {kind} whose rule is not the derivative of its function"
        return self._left(eqn, operands, what)

    def _call(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
        inside: Value,
    ) -> Value | None:
        """Return a call of an elementwise function that has a derivative rule.

        None if the rule is not the derivative of the function.
        """
        source = Source(eqn, operands, inside=inside)
        call = _of_source(source, inside.root, inside.kinks)
        if not self._finisher.follows_its_function(call):
            return None
        # The rule may take another derivative at the kink, as that of relu does.
        call.finish = self._finisher.finish(call)
        self._evaluate(call)
        return call


def _of_source(
    source: Source,
    base: Value,
    kinks: frozenset[float],
) -> Value:
    """Return the value that `source` computes from `base`, without its arrays yet."""
    is_flat = _is_flat(source.eqn, source.operands)
    if source.inside is not None:
        is_flat = source.inside.is_flat
    return Value(
        array=None,
        smooth=None,
        is_active=True,
        is_flat=is_flat,
        base=base,
        source=source,
        kinks=kinks,
        depth=1 + max(operand.depth for operand in source.operands),
    )


def _inactive(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> list[Value]:
    """Evaluate an equation of which no operand depends on the signal."""
    arrays = unchanged(eqn, [operand.array for operand in operands])
    results = [leaf(array, is_active=False) for array in arrays]
    # A constant that is one number may be part of an elementwise function of the
    # signal.
    if len(results) == 1 and operands:
        results[0].number = _number(eqn, operands)
    return results


def _number(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> Any:
    """Return the number that all entries of a result are; None if they may differ."""
    numbers = [operand.number for operand in operands]
    if any(number is None for number in numbers):
        return None
    name = eqn.primitive.name
    if name in _table.MOVES and len(numbers) == 1:
        return numbers[0]
    if name not in _table.ELEMENTWISE:
        return None
    with jax.ensure_compile_time_eval():
        scalars = [
            jnp.asarray(number, _dtype(variable))
            for number, variable in zip(numbers, eqn.invars, strict=True)
        ]
        (result,) = unchanged(eqn, scalars)
    return np.asarray(result)[()]


def _as_it_is(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> list[Array]:
    """Evaluate an equation without replacing its kink."""
    return unchanged(eqn, [array_of(operand) for operand in operands])


def _num_sorted(eqn: core.JaxprEqn) -> int:
    """Return the length of the axis that a sort or top_k sorts."""
    aval: Any = eqn.invars[0].aval
    axis = eqn.params.get("dimension", eqn.params.get("axis", -1))
    return aval.shape[axis]


def _has_kinks_inside(eqn: core.JaxprEqn) -> bool:
    """Tell whether the programs that an equation calls have kinks."""
    names = {
        inner.primitive.name
        for part in jaxprs.inner(eqn)
        for inner in jaxprs.equations(part)
    }
    return not names.isdisjoint(_table.KINKS.keys() | _table.LEFT.keys())


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
    if name not in _table.ELEMENTWISE and name not in CUSTOM:
        return None
    return common_base(eqn, operands)


def _is_flat(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> bool:
    """Tell whether no derivative passes through an equation."""
    name = eqn.primitive.name
    if name in _table.FLAT:
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
    return name in _KEEPS_POSITIVE and all(map(_is_positive_operand, operands))


def _is_positive_operand(operand: Value) -> bool:
    """Tell whether a value is positive by construction, or a positive number."""
    if operand.is_positive:
        return True
    return operand.number is not None and bool(operand.number > 0)


def _is_gate(operand: Value) -> bool:
    """Tell whether a value is a boolean or whole number that has a gate."""
    has_gate = operand.is_active and operand.smooth is not None
    return has_gate and not kinds.is_inexact(operand.array)


def _as_gate(
    operand: Value,
    dtype: Any,
) -> Any:
    """Return a boolean or a gate in this dtype, and any other operand as it is."""
    if jnp.result_type(operand.array) == np.bool_ or _is_gate(operand):
        return jnp.asarray(operand.outside).astype(dtype)
    return operand.array


def _dtype(variable: core.Var | core.Literal) -> Any:
    aval: Any = variable.aval
    return aval.dtype


def _constant(array: Any) -> Value:
    """Return the value of a constant, with its number if all its entries are equal."""
    number = None
    if not checks.is_traced(array) and _is_numeric(array):
        entries = np.asarray(array)
        if entries.size and (entries == entries.flat[0]).all():
            number = entries.flat[0]
    return Value(array, array, is_active=False, number=number)


def _is_numeric(array: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(array), jax.dtypes.extended)
