"""f traced once, without computing: the shapes of its Jacobian, and whether it asks for less than full precision.

What has been found is remembered, for tracing costs milliseconds; f itself is held weakly, as it may close over
parameters. f must be a function of its arguments alone, as for jax.jit.
"""

import inspect
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import jaxprs, precision
from isometry.networks import Function

_REMEMBERED = 256
_REMEDY = {
    "f": "Draw what is random from a key among its parameters.",
    "optimizer": "Draw what is random from a key in its state.",
}
_memory: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.Lock()


class Traced(NamedTuple):
    """Where the span of f starts, what it returns, as shapes; what it computes below full precision; which derivative
    it has alone; and the bytes of its results on the way."""

    start: jax.ShapeDtypeStruct
    out: Any
    coarse: tuple[str, ...]
    forward_only: bool
    reverse_only: bool
    held: jaxprs.Held


def traced(call: str, aim: Any, params: Any, x: Any, dtype: Any) -> Traced:
    """f over its span at parameters and x of these shapes, floating ones in `dtype`.

    **Raises** `ValueError`: f raises, also when it is differentiated; the cause is chained, and where x[0] works the
    message says so; f holds numbers that change from trace to trace; parameters of another network.
    """
    params, x = abstract((params, x), dtype)
    return remembered(key_of(aim, params, x, dtype), lambda: _traced(call, aim, params, x, dtype))


def abstract(tree: Any, dtype: Any) -> Any:
    """The shapes of `tree` after its floating leaves are cast to `dtype`."""
    return jax.tree.map(lambda a: precision.shape_of(a, dtype), tree)


def _traced(call: str, aim: Any, params: Any, x: Any, dtype: Any) -> Traced:
    if isinstance(aim.f, Function):
        aim.f.expect(call, params)
    try:
        jaxpr, (start, out) = _jaxpr_of(aim, params, x)
    except _checks.InputError:
        raise
    except Exception as error:
        said = f"{call}(): f(params, x) raised {type(error).__name__} at x of shape {x.shape}."
        raise _checks.InputError(said + _batch_hint(call, aim, params, x)) from error
    found = Traced(
        start, out, jaxprs.coarse(jaxpr.jaxpr, dtype), *jaxprs.one_way(jaxpr.jaxpr), jaxprs.held(jaxpr.jaxpr)
    )
    if not isinstance(aim.f, Function):
        refuse_chance(call, "f", jaxpr, _jaxpr_of(aim, params, x)[0])
        if hasattr(out, "dtype") and jnp.issubdtype(out.dtype, jnp.floating):
            _differentiated(call, aim, params, found)
    return found


def _differentiated(call: str, aim: Any, params: Any, found: Traced) -> None:
    """Differentiate f without computing, the one way it goes, if it goes one way alone."""

    def along(params: Any, start: Any) -> Any:
        g = lambda z: aim.apply(params, z)  # noqa: E731
        return jax.vjp(g, start)[1](g(start)) if found.reverse_only else jax.jvp(g, (start,), (start,))

    try:
        with precision.full():
            jax.eval_shape(along, params, found.start)
    except Exception as error:  # whatever a user's rules may raise
        said = str(error).splitlines()[0] if str(error) else ""
        raise _checks.InputError(
            f"{call}(): f(params, x) raised {type(error).__name__} when it was differentiated: {said}"
        ) from error


def refuse_chance(call: str, what: str, once: Any, again: Any) -> None:
    """Refuse what, traced twice, holds different numbers: it draws them from outside."""
    a, b = jaxprs.constants(once), jaxprs.constants(again)
    if len(a) != len(b) or not all(x is y or np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True)):
        raise _checks.InputError(
            f"{call}(): {what} is not deterministic: traced twice on the same arguments it holds different numbers "
            f"(np.random, a clock, a counter). {_REMEDY.get(what, 'Close over one draw.')}"
        )


def _jaxpr_of(aim: Any, params: Any, x: Any) -> Any:
    def program(params: Any, x: Any) -> Any:
        start = aim.start(params, x)
        return start, aim.apply(params, start)

    with precision.full():
        return jax.make_jaxpr(program, return_shape=True)(params, x)


def _batch_hint(call: str, aim: Any, params: Any, x: Any) -> str:
    if not x.shape:
        return ""
    try:
        _jaxpr_of(aim, params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    except Exception:  # it raised at x as well, and that is what is reported
        return ""
    rows = "each row of xs" if call == "ensemble" else "x"
    return (
        f" It takes x[0], of shape {x.shape[1:]}: {rows} seems to carry a batch axis. Write x[0], or "
        "isometry.ensemble(f, params=..., xs=x) for all."
    )


def warn_of(call: str, coarse: tuple[str, ...], stacklevel: int) -> None:
    """One `PrecisionWarning` for all that f computes below full precision."""
    if coarse:
        warnings.warn(
            f"{call}(): f asks for less than full precision: {', '.join(coarse)}. Singular values below it are noise. "
            "Leave the precision to isometry (no precision=, no cast), or, if it is what you want to measure, silence "
            "isometry.PrecisionWarning.",
            _checks.PrecisionWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_batch(call: str, aim: Any, params: Any, x: Any, stacklevel: int) -> None:
    """`BatchWarning` where f takes x[0] as well, and makes of it the first row of what it makes of x."""
    if x.ndim < 2 or aim.span != "end_to_end" or _checks.is_traced((params, x)):
        return
    try:
        whole = jax.eval_shape(aim.apply, params, x)
        first = jax.eval_shape(aim.apply, params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    except Exception:  # then it takes no single row
        return
    if whole.shape != (len(x), *first.shape):
        return
    if jnp.allclose(aim.apply(params, x)[0], aim.apply(params, x[0]), rtol=1e-3, equal_nan=True):
        warnings.warn(
            f"{call}(): f makes of x[0], of shape {x.shape[1:]}, the first row of what it makes of x, of shape "
            f"{x.shape}. If x is a batch, write x[0], or isometry.ensemble(f, params=..., xs=x) for all. If it is one "
            "example, silence isometry.BatchWarning.",
            _checks.BatchWarning,
            stacklevel=stacklevel + 1,
        )


def remembered(key: Any, make: Callable[[], Any]) -> Any:
    """`make()`, or what it returned for an equal key, if that is not too long ago and the key can be compared."""
    try:
        hash(key)
    except TypeError:
        return make()
    with _lock:
        if key in _memory:
            _memory.move_to_end(key)
            return _memory[key]
    found = make()
    with _lock:
        _memory[key] = found
        while len(_memory) > _REMEMBERED:
            _memory.popitem(last=False)
    return found


def key_of(aim: Any, params: Any, x: Any, *more: Any) -> Any:
    """What a trace depends on, for `remembered`."""
    leaves, tree = jax.tree.flatten((params, x))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _weakly(aim.f), aim.span, tree, shapes, _checks.x64(), *more


def _weakly(f: Any) -> Any:
    """f to be compared by, held weakly where it is the user's own; itself if that cannot be."""
    if isinstance(f, Function):
        return type(f), *map(_weakly, vars(f).values())
    if isinstance(f, tuple):
        return tuple(map(_weakly, f))
    if inspect.ismethod(f):  # made anew by each look at it, and gone at once
        return weakref.WeakMethod(f)
    return weakref.ref(f) if callable(f) else f
