"""Parameters of the seeds of an ensemble: drawn from keys, adjusted to the inputs, or given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import memory
from isometry.networks import Network


def draw_seeds(draw: Callable[[Any], Any], source: Any) -> Any:
    """Parameters of every seed, operation by operation.

    Not as one program: the pieces compile once for all schemes.
    """
    return jax.vmap(draw)(source)


def adjust_seeds(net: Network, params: Any, xs: Any) -> Any:
    """Stacked parameters as data-driven schemes make them of the inputs: seed after seed, on the host."""
    if not net.data_driven:
        return params
    seeds = jax.tree.leaves(params)[0].shape[0]
    each = [net.adjust(jax.tree.map(lambda a, i=i: a[i], params), xs) for i in range(seeds)]
    return jax.tree.map(lambda *a: jnp.stack(a), *each)


def spaced(xs: Any, count: int) -> Any:
    """`count` of the examples xs, evenly from the first to the last; all if there are no more."""
    return xs[jnp.linspace(0, len(xs) - 1, min(count, len(xs))).round().astype(jnp.int32)]


def source_of(f: Any, keys: Any, params: Any, sample: Any) -> tuple[Callable[[Any], Any], Any, int]:
    """(how one seed's parameters are made, from what, how many seeds)."""
    if (keys is None) == (params is None):
        came = "neither is given" if keys is None else "both are given"
        raise _checks.InputError(
            f"ensemble(): one of keys (to draw parameters) and params (stacked) is needed; {came}."
        )
    if params is not None and sample is not None:
        raise _checks.InputError("ensemble(): sample draws parameters from keys, but params are given; leave one out.")
    if params is not None:
        leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        if len(leading) != 1 or not next(iter(leading)) or next(iter(leading))[0] == 0:
            raise _checks.InputError(
                f"ensemble(): the leaves of params have leading axes {sorted(leading)}; stack them on a seeds axis."
            )
        return _given, params, next(iter(leading))[0]
    count = _checks.keys("ensemble", keys)
    draw = sample if sample is not None else getattr(f, "init", None) if isinstance(f, Network) else None
    if draw is None:
        raise _checks.InputError("ensemble(): f is a plain function; give sample=(key -> params), or params= stacked.")
    return draw, keys, count


def _given(params: Any) -> Any:
    """A seed whose parameters are given."""
    return params


def maker(net: Any, draw: Callable[[Any], Any], source: Any, xs: Any) -> Callable[[Any], Any]:
    """The function from the numbers of some seeds to their stacked parameters; `net`: whose scheme may adjust them."""

    def make(index: Any) -> Any:
        chosen = jax.tree.map(lambda a: taken(a, index), source)
        drawn = chosen if draw is _given else draw_seeds(draw, chosen)
        return drawn if net is None else adjust_seeds(net, drawn, xs)

    return make


def taken(a: Any, index: Any) -> Any:
    """a[index]; a slice, or `a` itself, where the index runs on: large parameters are not copied to be measured."""
    first, last = int(index[0]), int(index[-1])
    if len(index) != last - first + 1 or np.any(np.diff(index) != 1):
        return a[index]
    return a if len(index) == len(a) else memory.sliced(a, first, last + 1)
