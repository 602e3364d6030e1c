"""Spectra over seeds × inputs, drawn and measured chunk by chunk within a byte budget."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks, _jacobian, _memory, _precision, linalg
from isometry._jacobian import Lanczos, Product
from isometry._spectrum import Spectrum, of_factors, of_matrix, of_operator, resolve_method
from isometry.networks import Network

_TEMPORARIES = 6  # copies of the Jacobian that linearization and LAPACK hold at once, by XLA's memory analysis


@functools.partial(jax.jit, static_argnames=("aim", "method", "dtype", "chunk"))
def _measure(aim: Any, method: Any, dtype: Any, chunk: int | None, params: Any, xs: Any, keys: Any = None) -> Spectrum:
    """(seeds, inputs) spectra. Compiled once for an architecture: the scheme is in the parameters."""
    if isinstance(method, Product):
        # one after another: vmapped, the choice between a plain and a graded finish would make both
        one = lambda p, x: of_factors(aim.factors(*_precision.cast((p, x), dtype)), aim, method)  # noqa: E731
        return jax.lax.map(lambda p: jax.lax.map(lambda x: one(p, x), xs), params)
    if isinstance(method, Lanczos):
        probe = lambda p, x, k: of_operator(_jacobian.operator(aim, p, x, dtype), k, aim, method)  # noqa: E731
        # seeds in turn: matrices that inputs and probes share make one wide product, batched ones many narrow ones
        return _in_turn(lambda seed: jax.vmap(probe, (None, 0, 0))(seed[0], xs, seed[1]), (params, keys))
    if aim.layered:  # one wide product a layer and seed uses the machine better than one batch of small ones
        wide = jax.lax.map(lambda p: _jacobian.wide_jacobians(aim, p, xs, dtype), params)
        return of_matrix(wide, aim, method)
    dense = lambda p, x: of_matrix(_jacobian.dense_jacobian(aim, p, x, dtype, chunk), aim, method)  # noqa: E731
    return jax.vmap(jax.vmap(dense, (None, 0)), (0, None))(params, xs)


def _in_turn(f: Callable[[Any], Any], stacked: Any) -> Any:
    """f of each entry of the leading axis; of one alone without a loop, which would copy it."""
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.lax.map(f, stacked)
    return jax.tree.map(lambda a: a[None], f(jax.tree.map(lambda a: a[0], stacked)))


def ensemble(
    f: Any,
    keys: Any = None,
    xs: Any = None,
    *,
    params: Any = None,
    sample: Callable[[Any], Any] | None = None,
    method: Any = "auto",
    span: str = "end_to_end",
    dtype: Any = None,
    key: Any = None,
    max_bytes: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Spectrum:
    """Spectra of the Jacobian at every (seed, input): a `Spectrum` with batch axes (seeds, inputs).

    **Arguments**
    - `f`: a `Network`, or any f(params, x) → array.
    - `keys`: (seeds,) random keys. A Network, or f with `sample(key) -> params`, draws its parameters from them; those
      of a network with a data-driven scheme (lsuv) are adjusted to all of xs.
    - `xs`: (inputs, *x.shape), floating.
    - `params`: instead of keys, parameters stacked on their leading axis, taken as they are.
    - `method`, `span`, `dtype`, `key`: as in `spectrum`.
    - `max_bytes`: budget of the measurement; default a quarter of the free memory. Seeds, then inputs, then directions
      are taken in chunks that fit. The numbers do not depend on it beyond rounding.
    - `progress`: True for a bar on stderr (needs rich), or a function of (done, total) Jacobians.

    Runs on the host; a tracer is a `TypeError`.

    **Raises** `ValueError`: both or neither of keys and params; xs not (inputs, ...) of finite floats; a Jacobian that
    is not finite (names its seed and input); a budget too small for one direction; what `spectrum` raises.
    """
    _checks.concrete("ensemble", keys=keys, xs=xs, params=params)
    aim = _jacobian.target("ensemble", f, span)
    chosen = resolve_method("ensemble", method, aim, key)
    draw, source, seeds = _source(f, keys, params, sample)
    xs = _inputs(f, xs)
    drawn = jax.eval_shape(draw, jax.tree.map(lambda a: a[0], source))
    kind = _precision.measuring_dtype("ensemble", dtype, drawn, xs)
    shape = _jacobian.shapes("ensemble", aim, drawn, xs[0], kind)
    plan = _plan(_memory.budget("ensemble", max_bytes), shape, drawn, kind, seeds, len(xs))
    report = _reporter(progress, seeds * len(xs))
    rows, done = [], 0
    for i in _chunks(seeds, plan[0]):
        batch = draw_seeds(draw, jax.tree.map(lambda a, i=i: a[i], source))
        if params is None and sample is None:
            batch = adjust_seeds(f, batch, xs)
        chosen = chosen if rows else _grouped(chosen, aim, kind, batch, xs)
        columns = []
        for j in _chunks(len(xs), plan[1]):
            part = jax.tree.map(
                np.asarray, _measure(aim, chosen, kind, plan[2], batch, xs[j], _keys(chosen, key, i, j))
            )
            _check_finite(part, i, j)
            columns.append(part)
            done += len(i) * len(j)
            report(min(done, seeds * len(xs)), seeds * len(xs))
        rows.append(_join(columns, axis=1, keep=len(xs)))
    return jax.tree.map(jnp.asarray, _join(rows, axis=0, keep=seeds))


def _keys(method: Any, key: Any, seeds: Any, inputs: Any) -> Any:
    """(seeds, inputs) keys of a stochastic method, whatever the chunk they fall into; None of the others."""
    if not isinstance(method, Lanczos):
        return None
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(seeds)), jnp.asarray(inputs))


def _grouped(method: Any, aim: Any, dtype: Any, params: Any, xs: Any) -> Any:
    """A product method with its group size chosen at the first seed and input, where the user has not."""
    if not isinstance(method, Product) or method.every is not None:
        return method
    first = jax.tree.map(lambda a: a[0], params)
    return Product(linalg.group_size(aim.factors(*_precision.cast((first, xs[0]), dtype))))


def draw_seeds(draw: Callable[[Any], Any], source: Any) -> Any:
    """Parameters of every seed, operation by operation.

    Not as one program: the pieces compile once for all schemes, and a program with several batched factorizations can
    deadlock in XLA's thread pool on a machine of two cores.
    """
    return jax.vmap(draw)(source)


def adjust_seeds(net: Network, params: Any, xs: Any) -> Any:
    """Stacked parameters as the scheme makes them of the inputs: a data-driven one adjusts each seed's, on the host."""
    scheme = getattr(net, "scheme", None)  # a chain has none of its own
    if scheme is None or not scheme.data_driven:
        return params
    seeds = jax.tree.leaves(params)[0].shape[0]
    each = [scheme.adjust(net, jax.tree.map(lambda a, i=i: a[i], params), xs) for i in range(seeds)]
    return jax.tree.map(lambda *a: jnp.stack(a), *each)


def _source(f: Any, keys: Any, params: Any, sample: Any) -> tuple[Callable[[Any], Any], Any, int]:
    """(how one seed's parameters are made, from what, how many seeds)."""
    if (keys is None) == (params is None):
        came = "neither is given" if keys is None else "both are given"
        raise _checks.InputError(
            f"ensemble(): one of keys (to draw parameters) and params (stacked) is needed; {came}."
        )
    if params is not None:
        leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
        if len(leading) != 1 or not next(iter(leading)) or next(iter(leading))[0] == 0:
            raise _checks.InputError(
                f"ensemble(): the leaves of params have leading axes {sorted(leading)}; stack them on a seeds axis."
            )
        return (lambda p: p), params, next(iter(leading))[0]
    count = _checks.keys("ensemble", keys)
    draw = sample if sample is not None else getattr(f, "init", None) if isinstance(f, Network) else None
    if draw is None:
        raise _checks.InputError("ensemble(): f is a plain function; give sample=(key -> params), or params= stacked.")
    return draw, keys, count


def _inputs(f: Any, xs: Any) -> Any:
    if xs is None:
        raise _checks.InputError("ensemble(): xs is missing; write xs=(inputs, *x.shape), one row an example.")
    xs = jnp.asarray(xs)
    if xs.ndim < 1 or xs.shape[0] == 0 or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise _checks.InputError(
            f"ensemble(): xs is {xs.dtype} of shape {xs.shape}; it must be floating, one example a row, not empty."
        )
    if isinstance(f, Network) and f.input_shape not in (None, xs.shape[1:]):
        raise _checks.InputError(
            f"ensemble(): xs has shape {xs.shape}; this network takes rows of shape {f.input_shape}."
        )
    _checks.all_finite("ensemble", xs=xs)
    return xs


def _plan(
    budget: int, shape: tuple[int, int], drawn: Any, dtype: Any, seeds: int, inputs: int
) -> tuple[int, int, int | None]:
    """Seeds and inputs a chunk, and directions a chunk (None: all at once), so that the estimate fits the budget."""
    m, n = shape
    item = jnp.dtype(dtype).itemsize
    weights = max((leaf.shape[-1] for leaf in jax.tree.leaves(drawn) if leaf.ndim), default=1)
    direction = item * max(m, n, weights) * _TEMPORARIES
    one = direction * min(m, n) + item * m * n
    if 2 * direction > budget:
        raise _checks.InputError(
            f"ensemble(): max_bytes={budget} is too small for one row of a {m}×{n} Jacobian; write at least {one}."
        )
    if one > budget:
        return (
            1,
            1,
            max(1, min(m, n) * (budget - item * m * n) // (direction * min(m, n)) if budget > item * m * n else 1),
        )
    at_once = budget // one
    by_input = min(inputs, at_once)
    per_seed = by_input * one + 2 * _memory.tree_bytes(drawn)
    return max(1, min(seeds, budget // per_seed)), by_input, None


def _chunks(count: int, size: int) -> Iterator[Any]:
    """Index arrays of equal length, the last one padded by its own last index, so that one program serves all."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + min(size, count)), count - 1)


def _join(parts: list[Spectrum], axis: int, keep: int) -> Spectrum:
    return jax.tree.map(lambda *a: np.concatenate(a, axis).take(np.arange(keep), axis), *parts)


def _check_finite(part: Spectrum, seeds: Any, inputs: Any) -> None:
    bad = np.argwhere(np.isnan(part.log_values).any(-1))
    if len(bad):
        i, j = bad[0]
        raise _checks.InputError(
            f"ensemble(): the Jacobian of seed {seeds[i]} at input {inputs[j]} is not finite ({len(bad)} of "
            f"{len(seeds) * len(inputs)} in this chunk). Does f overflow, or hold NaN parameters?"
        )


def _reporter(progress: bool | Callable[[int, int], None], total: int) -> Callable[[int, int], None]:
    if callable(progress):
        return progress
    if not progress:
        return lambda done, total: None
    rich = _checks.extra("ensemble", "rich.progress", "cli")
    console = _checks.extra("ensemble", "rich.console", "cli").Console(stderr=True)
    bar = rich.Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("Jacobians", total=total)
    bar.start()

    def report(done: int, total: int) -> None:
        bar.update(task, completed=done)
        if done >= total:
            bar.stop()

    return report
