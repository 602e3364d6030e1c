"""The params of f at each record of a monitor, and checks that they are current.

Arrays are current if they are what f would use at this step of training. Arrays over
which f closes are not, if training changes them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from isometry._internal import checks, jaxprs, kinds
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.measure import _draws
from isometry.measure._function import Map, traced
from isometry.measure._warnings import warn
from isometry.networks import _arguments
from isometry.structure import _names, _reading
from isometry.structure._flow import LAYOUT
from isometry.structure._reading import Program, Value

# The argument `state` of `monitor`: a function of the trained parameters, and of extra
# arguments of `update` by name, that returns the params of f.
Current: TypeAlias = Callable[..., Params]

# Kinds of parameters of a function.
_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_ROOTS = frozenset(("sqrt", "rsqrt"))

# Operations of a norm on a running variance before it takes the root: it adds an
# epsilon, takes a maximum with 0, corrects for the bias of an average. A sum is not
# among them: in graph networks the root is taken of sums of constants, the degrees of
# nodes, which training does not change.
_BEFORE_ROOT = LAYOUT | {
    "add",
    "max",
    "mul",
    "div",
    "slice",
    "dynamic_slice",
    "cond_choice",
}

# Parts of messages: what to write if the arrays are constants, and if they are not.
_IF_MEANT = "If they are meant to stay, write state=lambda params: params."
_INSTEAD = (
    "Let f take them in its params, and write state=lambda params, batch_stats: "
    "(params, batch_stats), with optimizer.update(grads, opt_state, params, "
    "batch_stats=batch_stats)."
)


def current(state: Current, params: Params, extra: Mapping[str, PyTree]) -> Params:
    """Return the params of f, as the user's `state` makes them.

    Args:
        state: The argument `state` of `monitor`.
        params: The trained parameters.
        extra: All extra arguments of `update`, by name.

    Raises:
        InputError: An argument of `state` is not among the extra ones.
    """
    parameters = list(inspect.signature(state).parameters.values())
    by_position = [one for one in parameters if one.kind in _BY_POSITION]
    # The first positional argument gets the trained parameters, whatever its name. If
    # it has the name of an extra argument, the function takes extra arguments alone.
    given = ()
    if by_position and by_position[0].name not in extra:
        given = (params,)
        parameters.remove(by_position[0])
    missing = [
        one.name
        for one in parameters
        if one.default is inspect.Parameter.empty
        and one.kind not in _VARIADIC
        and one.name not in extra
    ]
    if missing:
        words = ", ".join(f"{name}=..." for name in missing)
        raise InputError(
            f"state takes {', '.join(missing)}, and update() got "
            f"{', '.join(extra) or 'no extra arguments'}; write "
            f"optimizer.update(grads, opt_state, params, {words})."
        )
    # Extra arguments that `state` does not name are left out: they may be meant for
    # other transformations of the chain.
    taken = dict(extra)
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        names = {one.name for one in parameters}
        taken = {name: value for name, value in extra.items() if name in names}
    return state(*given, **taken)


def _is_masked(node: object) -> bool:
    """Tell whether `optax.masked` has put this node in the place of parameters."""
    return isinstance(node, optax.MaskedNode)


def whole(params: Params, shapes: Params | None) -> Params:
    """Return params with the tree structure that f takes.

    Structures can differ: `nnx.Optimizer` passes arrays in place of NNX variables. The
    leaves are then matched by their names.

    Args:
        params: The parameters that the optimizer or `state` gives.
        shapes: The parameters of a network, with a shape in place of each array; None
            if they are not known. params are then returned as they are.

    Raises:
        InputError: A part of the parameters is missing, or they are those of another
            network.
    """
    nodes = jax.tree.leaves(params, is_leaf=_is_masked)
    masked = sum(map(_is_masked, nodes))
    if masked:
        raise InputError(
            f"params has {masked} masked nodes: inside optax.masked or multi_transform "
            "a monitor sees a part of the parameters alone. Chain it outside, "
            "optax.chain(isometry.monitor(...), optax.masked(...)), or write "
            "state=lambda params, whole: whole and "
            "optimizer.update(grads, opt_state, params, whole=params)."
        )
    if shapes is None:
        return params
    if jax.tree.structure(params) == jax.tree.structure(shapes):
        _arguments.require_like(params, shapes)
        return params
    num_given, num_whole = len(nodes), len(jax.tree.leaves(shapes))
    # With fewer leaves a collection is missing. Other differences of structure are left
    # for f to accept or refuse: it may take another kind of mapping, for example.
    if num_given < num_whole:
        raise InputError(
            f"params has {num_given} leaves, and the network has {num_whole} "
            f"({_outline(shapes)}): what training changes beside the parameters, such "
            "as batch statistics, is missing. Write state=lambda params, batch_stats: "
            '{"params": params, "batch_stats": batch_stats}, for example, and '
            "optimizer.update(grads, opt_state, params, batch_stats=batch_stats)."
        )
    pairs = zip(_names.leaves(params), nodes, strict=True)
    by_name = {leaf.steps: node for leaf, node in pairs}
    names = [leaf.steps for leaf in _names.leaves(shapes)]
    if by_name.keys() != set(names):
        return params
    in_order = [by_name[name] for name in names]
    return jax.tree.unflatten(jax.tree.structure(shapes), in_order)


def _outline(shapes: Params) -> str:
    """Write the key paths of the first level of a tree: "['params'], ['state']"."""
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    tops = dict.fromkeys(jax.tree_util.keystr(path[:1]) for path, _ in paths)
    return ", ".join(tops)


def require_closed(function: Map, params: Params, xs: PyTree[Array]) -> None:
    """Refuse a function that closes over arrays which training may change.

    These are floating JAX arrays, and NumPy arrays that it uses as a running variance.
    Other NumPy arrays are most often tables, as of positions.

    Args:
        function: The function.
        params: The parameters that it takes, or their shapes.
        xs: The inputs.

    Raises:
        InputError: It closes over such arrays.

    Warns:
        UserWarning: It closes over other floating NumPy arrays of more than two values.
    """
    try:
        closed, _ = traced(function, params, _draws.row_shapes(xs))
    # If the user's function raises, the error comes again where the span is looked up,
    # and is reported there.
    except Exception:
        return
    arrays = [array for array in jaxprs.constants(closed) if _is_kept(array)]
    held = [array for array in arrays if isinstance(array, jax.Array)]
    if held:
        raise InputError(
            f"f closes over {len(held)} floating arrays ({_kinds(held)}), which would "
            "stay as they are now, while training may change them, as it does batch "
            f"statistics. {_INSTEAD} {_IF_MEANT}"
        )
    if not arrays:
        return
    program = _reading.read(closed, len(jax.tree.leaves(params)))
    statistics = _statistics(program)
    if statistics:
        raise InputError(
            f"f divides by an array that it closes over, or by its root "
            f"({_kinds(statistics)}), as batch norm does by its running variance. It "
            "would stay as it is now, while training changes it, and so would all "
            f"other statistics that f closes over. {_INSTEAD} {_IF_MEANT}"
        )
    tables = [array for array in arrays if _has_many_values(array)]
    if tables:
        warn(
            f"f closes over {len(tables)} floating NumPy arrays ({_kinds(tables)}), "
            "which stay as they are now in every record: right for tables, such as "
            f"those of positions, and stale for what training changes. {_INSTEAD} "
            f"{_IF_MEANT}",
            UserWarning,
        )


def _is_kept(constant: Any) -> bool:
    """Tell whether a constant of a jaxpr is a floating array that is not current.

    A tracer is current: it belongs to the step that is being traced. A scalar is an
    epsilon or a temperature, which training does not change.
    """
    if checks.is_traced(constant) or np.ndim(constant) == 0:
        return False
    return kinds.is_floating(constant)


def _kinds(arrays: list[Any]) -> str:
    """Write the dtypes and shapes of the first three arrays: "float32[8]"."""
    return ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays[:3])


def _has_many_values(array: Any) -> bool:
    """Tell whether an array holds more than two distinct numbers.

    An array with two or fewer is a mask, an identity matrix, or constant.
    """
    entries = np.asarray(array).ravel()
    others = entries[entries != entries[:1]]
    return bool(np.any(others != others[:1]))


def _statistics(program: Program) -> list[Any]:
    """Return the constants of a program that it uses as a running variance."""
    of_params = program.reached(program.params)
    computed = of_params | program.of_x
    # A function that is called twice holds its constants twice.
    by_identity = {
        id(value.number): value.number
        for index, value in enumerate(program.values)
        if value.operation == "constant"
        and value.number is not None
        and _is_kept(value.number)
        and _is_variance(program, index, of_params=of_params, computed=computed)
    }
    return list(by_identity.values())


def _is_variance(
    program: Program,
    constant: int,
    *,
    of_params: frozenset[int],
    computed: frozenset[int],
) -> bool:
    """Tell whether f uses a constant as a norm uses its running variance.

    It does if f takes the root of the constant, or divides by it a value that depends
    on params. Other divisors, such as the deviation of a data set by which x is
    divided, do not change in training.

    Args:
        program: The program.
        constant: The index of the constant in `program.values`.
        of_params: The indices of all values that depend on params.
        computed: The indices of all values that depend on params or x.
    """
    seen = {constant}
    pending = [constant]
    while pending:
        index = pending.pop()
        for reader in program.readers[index]:
            value = program.values[reader]
            if value.operation in _ROOTS or _is_power_half(program, value, index):
                return True
            is_divisor = value.operation == "div" and value.inputs[1] == index
            if is_divisor and value.inputs[0] in of_params:
                return True
            is_new = reader not in seen and reader not in computed
            if is_new and value.operation in _BEFORE_ROOT:
                seen.add(reader)
                pending.append(reader)
    return False


def _is_power_half(program: Program, value: Value, base: int) -> bool:
    """Tell whether a value is the value of index `base` to the power 1/2 or -1/2."""
    if value.operation != "pow" or value.inputs[0] != base:
        return False
    exponent = program.values[value.inputs[1]].number
    return exponent is not None and bool(np.all(np.abs(np.asarray(exponent)) == 0.5))
