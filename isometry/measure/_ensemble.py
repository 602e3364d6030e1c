"""Spectra over seeds × inputs, drawn and measured chunk by chunk within a byte budget, on one device or many."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import memory
from isometry.measure import _cost, _devices, _draws, _jacobian, _programs
from isometry.measure._jacobian import Lanczos
from isometry.measure._programs import How
from isometry.measure._record import Spectrum
from isometry.measure._spectrum import resolve_method
from isometry.networks import Network


class Interrupted(KeyboardInterrupt):
    """`ensemble` was interrupted. Only the chunk in flight is lost: the same call with `resume=error` goes on.

    `partial`: the `Spectrum` of the leading seeds that are complete at all inputs; None before the first.
    """

    def __init__(self, work: "_Work", done: list[Spectrum]):
        self._work, self._done = work, done
        self.partial = work.assembled(done) if len(done) >= work.columns else None
        seeds = 0 if self.partial is None else self.partial.log_values.shape[0]
        super().__init__(
            f"ensemble(): interrupted after {len(done)} of {len(work.steps)} chunks; .partial holds the {seeds} seeds "
            "that are complete, and the same call with resume=error goes on."
        )


@dataclass(frozen=True, eq=False)
class _Work:
    """What one call has to do: `steps` are the (seeds, inputs) of its chunks, seed by seed."""

    how: How
    mesh: Any
    make: Callable[[Any], Any]
    source: Any
    xs: Any
    key: Any
    shape: tuple[int, int]
    counts: tuple[int, int]
    steps: list[tuple[Any, Any]]

    @property
    def columns(self) -> int:
        """Chunks to one set of seeds."""
        return sum(i is self.steps[0][0] for i, _ in self.steps)

    def measured(self, before: list[Spectrum], report: Callable[[int, int], None]) -> list[Spectrum]:
        """The chunks that follow those `before`, and these."""
        done, drawn = list(before), (None, None)
        try:
            for i, j in self.steps[len(done) :]:
                with _naming(i, j):
                    drawn = drawn if drawn[0] is i else (i, self._on_devices(0, i, self.make))
                    done.append(self._chunk(drawn[1], i, j))
                report(sum(len(set(i)) * len(set(j)) for i, j in self.steps[: len(done)]), math.prod(self.counts))
        except KeyboardInterrupt:
            raise Interrupted(self, done) from None
        return done

    def _chunk(self, params: Any, i: Any, j: Any) -> Spectrum:
        xs = self._on_devices(1, j, lambda index: _draws.taken(self.xs, index))
        numbers = (self._on_devices(axis, index, jnp.asarray) for axis, index in enumerate((i, j)))
        how = _programs.compacted(self.how, self.mesh, params, xs, self.shape)
        parts = (params, xs, *numbers, self.key)
        if self.mesh is None:
            part = _programs.run_in_threads(how, _programs.lanes(self.shape, len(i) * len(j)), *parts)
        else:
            part = _programs.run(_programs.spectra, how, self.mesh, *parts)
        _check_finite(part, i, j)
        return part

    def _on_devices(self, axis: int, index: Any, make: Callable[[Any], Any]) -> Any:
        return make(index) if self.mesh is None else _devices.spread(self.mesh, _devices.AXES[axis], index, make)

    def assembled(self, done: list[Spectrum]) -> Spectrum:
        """The chunks as one spectrum, of the seeds that are complete."""
        starts = range(0, len(done) - self.columns + 1, self.columns)
        rows = [_join(done[r : r + self.columns], axis=1, keep=self.counts[1]) for r in starts]
        return jax.tree.map(jnp.asarray, _join(rows, axis=0, keep=self.counts[0]))


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
    mesh: Any = None,
    progress: bool | Callable[[int, int], None] = False,
    resume: Interrupted | None = None,
) -> Spectrum:
    """Spectra of the Jacobian at every (seed, input): a `Spectrum` with batch axes (seeds, inputs).

    **Arguments**
    - `f`: a `Network`, any f(params, x) → array, or a list of such blocks applied in turn.
    - `keys`: (seeds,) random keys. A Network, or f with `sample(key) -> params`, draws its parameters from them; those
      of a network with a data-driven scheme (lsuv) are adjusted to all of xs.
    - `xs`: (inputs, *x.shape), floating.
    - `params`: instead of keys, parameters stacked on their leading axis, taken as they are.
    - `method`, `span`, `dtype`, `key`: as in `spectrum`.
    - `max_bytes`: budget of the measurement on each device that has a memory of its own, and of all in this process
      that share the processor's; default a quarter of the free memory. Seeds, then inputs, then directions are taken in
      chunks that fit. The numbers do not depend on it beyond rounding.
    - `mesh`: a `jax.sharding.Mesh` of any axes: its devices share the seeds and inputs, whatever their numbers. None:
      one device. The numbers do not depend on it beyond rounding. With several processes (`jax.distributed`) each makes
      the same call, draws what its own devices need, and returns everything.
    - `progress`: True for a bar on stderr (needs rich), or a function of (done, total) Jacobians.
    - `resume`: the `isometry.Interrupted` that Ctrl-C raised out of the same call: goes on after its last chunk.

    Of a network whose slopes can be exactly zero (relu), a large Jacobian is formed from its live units alone; values
    that this shows to be zero are zero exactly.

    Runs on the host; a tracer is a `TypeError`. Warns (`PrecisionWarning`) where f asks for less than full precision.

    **Raises** `ValueError`: both or neither of keys and params; xs not (inputs, ...) of finite floats; a mesh that is
    none; `resume` of another call; a Jacobian that is not finite (names its seed and input); a budget too small for one
    Jacobian, one direction at a time; what `spectrum` raises. Whatever is raised while a chunk is measured carries a
    note of its seeds.
    """
    _checks.concrete("ensemble", keys=keys, xs=xs, params=params)
    _checks.not_abstract("ensemble", params=params)
    f = _jacobian.chained(f)
    aim = _jacobian.target("ensemble", f, span)
    chosen = resolve_method("ensemble", method, aim, key)
    draw, source, seeds = _draws.source_of(f, keys, params, sample)
    xs = _inputs(f, xs)
    drawn = jax.eval_shape(lambda rows: draw(jax.tree.map(lambda a: a[0], rows)), source)
    _checks.real("ensemble", params=drawn)
    kind = _checks.measuring_dtype("ensemble", dtype, drawn, xs)
    shape = _jacobian.shapes("ensemble", aim, drawn, xs[0], kind)
    mesh = None if mesh is None else _devices.arranged("ensemble", mesh, seeds, len(xs))
    make = _draws.maker(f if params is None and sample is None else None, draw, source, xs)
    budget = _devices.budget("ensemble", max_bytes, mesh)
    takes, chunk = _cost.fitting("ensemble", budget, aim, chosen, drawn, xs[0], kind)
    steps = _steps(mesh, budget, takes, memory.tree_bytes(drawn), (seeds, len(xs)))
    how = How(aim, chosen, kind, chunk)
    bits = None
    if isinstance(chosen, Lanczos):
        how, bits = replace(how, key_kind=_checks.key_kind(key)), _devices.everywhere(mesh, _checks.key_bits(key))
    work = _Work(how, mesh, make, source, xs, bits, shape, (seeds, len(xs)), steps)
    work, done = (work, []) if resume is None else _resumed(resume, work)
    with _reporter(progress) as report:
        return work.assembled(work.measured(done, report))


def _resumed(stopped: Any, work: _Work) -> tuple[_Work, list[Spectrum]]:
    """The work that was stopped and its chunks, if it is this one."""
    if not isinstance(stopped, Interrupted):
        raise _checks.InputError(
            f"ensemble(): resume={_checks.show(stopped)} is not an isometry.Interrupted; write `except "
            "isometry.Interrupted as stopped:` and pass that."
        )
    old, first = stopped._work, np.array([0])
    how = replace(work.how, chunk=old.how.chunk)  # as the steps, a matter of the memory that was free
    alike = old.how == how and old.counts == work.counts and old.mesh == work.mesh
    alike = alike and _equal((old.source, old.xs, old.key), (work.source, work.xs, work.key))
    if not alike or not _equal(old.make(first), work.make(first)):  # a scheme, a sample, is known by what it draws
        raise _checks.InputError(
            "ensemble(): resume comes from a call with other arguments; repeat that call, or leave resume out."
        )
    return replace(work, how=how, steps=old.steps), stopped._done


def _equal(one: Any, other: Any) -> bool:
    one, other = (jax.tree.map(lambda a: _checks.key_bits(a) if _checks.is_key(a) else a, t) for t in (one, other))
    same = jax.tree.structure(one) == jax.tree.structure(other)
    return same and all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@contextlib.contextmanager
def _naming(seeds: Any, inputs: Any) -> Iterator[None]:
    """What is raised inside names the chunk."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"ensemble(): while measuring seeds {seeds[0]} to {seeds[-1]} at inputs {inputs[0]} to {inputs[-1]}."
        )
        raise


def _inputs(f: Any, xs: Any) -> Any:
    if xs is None:
        raise _checks.InputError("ensemble(): xs is missing; write xs=(inputs, *x.shape), one row an example.")
    xs = _checks.array("ensemble", xs=xs)
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


_LARGE = 2**27
"""Bytes of a seed's parameters from which seeds are chunks of their own: a loop over seeds copies each out of the
stack, which takes longer than another call."""


def _steps(
    mesh: Any, budget: int, takes: _cost.Footprint, drawn: int, counts: tuple[int, int]
) -> list[tuple[Any, Any]]:
    """The (seeds, inputs) of each chunk, seed by seed. A device takes what fits its budget; a chunk is as much on each.

    `drawn`: bytes of a seed's parameters.
    """
    lanes = (1, 1) if mesh is None else mesh.devices.shape
    each = [-(-count // lane) for count, lane in zip(counts, lanes, strict=True)]
    sizes = _plan(budget, takes, drawn, *each)
    seeds, inputs = (list(_chunks(count, size * lane)) for count, size, lane in zip(counts, sizes, lanes, strict=True))
    return [(i, j) for i in seeds for j in inputs]


def _plan(budget: int, takes: _cost.Footprint, drawn: int, seeds: int, inputs: int) -> tuple[int, int]:
    """Seeds and inputs a chunk, so that what they take fits the budget, which one of each does."""
    by_input = max(1, min(inputs, (budget - takes.shared) // takes.each))
    if drawn > _LARGE:
        return 1, by_input
    per_seed = by_input * takes.each + 2 * drawn
    return max(1, min(seeds, (budget - takes.shared) // per_seed)), by_input


def _chunks(count: int, size: int) -> Iterator[Any]:
    """Index arrays of equal length, the last one padded by its own last index, so that one program serves all."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def _join(parts: list[Spectrum], axis: int, keep: int) -> Spectrum:
    """The parts side by side, but for what pads the last of them."""
    return jax.tree.map(
        lambda *a: np.concatenate(a, axis).take(np.arange(min(keep, len(parts) * a[0].shape[axis])), axis), *parts
    )


def _check_finite(part: Spectrum, seeds: Any, inputs: Any) -> None:
    bad = np.argwhere(np.isnan(part.log_values).any(-1))
    if len(bad):
        i, j = bad[0]
        raise _checks.NotFinite(
            f"ensemble(): the Jacobian of seed {seeds[i]} at input {inputs[j]} is not finite ({len(bad)} of "
            f"{len(seeds) * len(inputs)} in this chunk). Does f overflow, or hold NaN parameters?"
        )


@contextlib.contextmanager
def _reporter(progress: bool | Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): the caller's, a bar's, or none."""
    if not (isinstance(progress, bool) or progress is None or callable(progress)):
        raise _checks.InputError(
            f"ensemble(): progress={_checks.show(progress)} is neither True nor a function of (done, total)."
        )
    if callable(progress) or not progress:
        yield progress if callable(progress) else lambda done, total: None
        return
    rich = _checks.extra("ensemble", "rich.progress", "cli")
    console = _checks.extra("ensemble", "rich.console", "cli").Console(stderr=True)
    with rich.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Jacobians", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
