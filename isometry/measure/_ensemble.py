"""Spectra over seeds × inputs, drawn and measured chunk by chunk in a byte budget.

They may be measured on several devices.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Int, PyTree

from isometry._internal import checks, memory
from isometry._internal.errors import InputError, NotFinite, public
from isometry._internal.types import Key, Params
from isometry.measure import (
    _cost,
    _devices,
    _diagnosis,
    _draws,
    _leaves,
    _programs,
    _progress,
    _record,
    _resolution,
    _spectra,
    methods,
)
from isometry.measure._function import Map
from isometry.measure._progress import Progress, Report
from isometry.measure._record import Spectrum
from isometry.measure._spans import Span
from isometry.measure._spectra import Static
from isometry.measure._target import Target
from isometry.measure.methods import Footprint, Method

# If the parameters of a seed have more bytes than this, each seed is a chunk of its
# own: a loop over seeds copies each out of the stack, which takes longer than another
# call. With a tenth of it small networks would be measured one by one; with ten times
# as much a seed of a gigabyte would be copied.
_LARGE = 2**27

# The axis has no name, because the numbers of seeds and of inputs may differ.
Indices: TypeAlias = Int[np.ndarray, " _"]
# One record, or one for each span.
Spectra: TypeAlias = Spectrum | dict[Span, Spectrum]


class Interrupted(KeyboardInterrupt):
    """`ensemble` was interrupted; the same call with `resume=error` goes on.

    Only the chunk in flight is lost.

    Attributes:
        partial: The `Spectrum` of the first seeds, as far as they are measured at all
            inputs; None if no seed is. With a list of spans, a dict of such spectra.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> def stop(done, total):
        ...     raise KeyboardInterrupt
        >>> try:
        ...     isometry.ensemble(net, keys, jnp.ones((3, 32)), progress=stop)
        ... except isometry.Interrupted as stopped:
        ...     sp = isometry.ensemble(net, keys, jnp.ones((3, 32)), resume=stopped)
        >>> sp.log_values.shape
        (2, 3, 32)
    """

    partial: Spectra | None

    def __init__(self, work: "_Work", done: list[tuple[Spectrum, ...]]):
        self._work = work
        self._done = done
        self.partial = None
        num_seeds = 0
        # A seed that is not measured at all inputs would bias means over inputs.
        if len(done) >= work.columns:
            records = work.assembled(done)
            num_seeds = records[0].log_values.shape[0]
            self.partial = work.by_span(records)
        super().__init__(
            f"ensemble(): interrupted after {len(done)} of {len(work.steps)} chunks; "
            f".partial holds the {num_seeds} seeds that are complete, and the same "
            "call with resume=error goes on."
        )


@dataclass(frozen=True, eq=False)
class _Work:
    """The work of one call, in chunks.

    Attributes:
        static: What its compiled programs depend on, besides the shapes of arrays.
        mesh: The devices, or None.
        make: Maps the indices of seeds to their stacked parameters.
        source: Keys, or the parameters themselves, stacked over seeds.
        xs: All examples.
        bits: The bits of the key, or None.
        counts: The numbers of seeds and of inputs.
        steps: For each chunk, the indices of its seeds and of its inputs. Inputs vary
            fastest. The last chunk of seeds, or of inputs, repeats its last index, so
            that all chunks have one length.
        is_single: Whether one span was asked for, and not a list of spans.
    """

    static: Static
    mesh: Mesh | None
    make: Callable[[Indices], Params]
    source: PyTree
    xs: PyTree
    bits: Array | np.ndarray | None
    counts: tuple[int, int]
    steps: list[tuple[Indices, Indices]]
    is_single: bool

    @property
    def columns(self) -> int:
        """The number of chunks that share their seeds, and together have all inputs."""
        first_seeds, _ = self.steps[0]
        return sum(seeds is first_seeds for seeds, _ in self.steps)

    def measure_remaining(
        self, measured_before: list[tuple[Spectrum, ...]], report: Report
    ) -> list[tuple[Spectrum, ...]]:
        """Measure the remaining chunks.

        Args:
            measured_before: The results of the first chunks, if an earlier call has
                measured some.
            report: Called with the numbers of Jacobians done and in all.

        Returns:
            The results of all chunks, each with a record for each span.
        """
        done = list(measured_before)
        drawn_seeds = params = None
        try:
            for seeds, inputs in self.steps[len(done) :]:
                with _note_chunk(seeds, inputs):
                    # Seeds are drawn once for all chunks of their inputs.
                    if drawn_seeds is not seeds:
                        params = self._on_devices(0, seeds, self.make)
                        drawn_seeds = seeds
                    done.append(self._measure_chunk(params, seeds, inputs))
                report(self._num_measured(len(done)), math.prod(self.counts))
        except KeyboardInterrupt:
            raise Interrupted(self, done) from None
        return done

    def _num_measured(self, num_chunks: int) -> int:
        """Count the Jacobians of the first chunks."""
        # Chunks may be padded by repeating their last number.
        steps = self.steps[:num_chunks]
        return sum(len(set(seeds)) * len(set(inputs)) for seeds, inputs in steps)

    def _measure_chunk(
        self,
        params: Params,
        seeds: Indices,
        inputs: Indices,
    ) -> tuple[Spectrum, ...]:
        """Measure some seeds, whose parameters are `params`, at some inputs."""
        xs = self._on_devices(
            1,
            inputs,
            lambda index: jax.tree.map(lambda a: _draws.entries(a, index), self.xs),
        )
        arguments = _programs.Arguments(
            by_seed=(params, self._on_devices(0, seeds, np.asarray)),
            by_input=(xs, self._on_devices(1, inputs, np.asarray)),
            shared=self.bits,
        )
        static = _spectra.narrowed(self.static, self.mesh, params, xs=xs)
        # Only factorizations are counted: they dominate where threads are worth it.
        shapes = [target.shape for target in static.targets]
        operations = sum(float(m) * n * min(m, n) for m, n in shapes)
        records = _programs.run(
            _spectra.measured,
            static,
            arguments,
            mesh=self.mesh,
            operations=operations,
        )
        for record in records:
            _require_finite(record, seeds, inputs)
        return tuple(map(_record.with_constants, records))

    def _on_devices(
        self,
        axis: int,
        index: Indices,
        make: Callable[[Indices], PyTree],
    ) -> PyTree:
        """Return `make(index)`, spread over axis 0 (seeds) or 1 (inputs) of a mesh."""
        if self.mesh is None:
            return make(index)
        return _devices.spread(self.mesh, _devices.AXES[axis], index, make=make)

    def assembled(self, done: list[tuple[Spectrum, ...]]) -> tuple[Spectrum, ...]:
        """Join chunks to one spectrum for each span, of the seeds that are complete."""
        num_seeds, num_inputs = self.counts
        rows = []
        for start in range(0, len(done) - self.columns + 1, self.columns):
            row = done[start : start + self.columns]
            rows.append(_joined(row, axis=1, keep=num_inputs))
        return jax.tree.map(checks.on_device, _joined(rows, axis=0, keep=num_seeds))

    def warn_of_zeros(self, records: tuple[Spectrum, ...]) -> None:
        """Warn of Jacobians that are exactly zero, for the first span that has any."""

        def example(seed: int, index: int) -> tuple[Params, PyTree[Array]]:
            params = self.make(np.array([seed]))
            return _first_entry(params), jax.tree.map(lambda leaf: leaf[index], self.xs)

        for target, record in zip(self.static.targets, records, strict=True):
            if _diagnosis.all_zero(record.log_values).any():
                _diagnosis.warn_of_zeros(target, record.log_values, example)
                break

    def by_span(self, records: tuple[Spectrum, ...]) -> Spectra:
        """Return the record of a single span, or a dict of records by span."""
        if self.is_single:
            return records[0]
        spans = [target.span for target in self.static.targets]
        return dict(zip(spans, records, strict=True))


@overload
def ensemble(
    f: Map,
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    method: str | Method = "auto",
    span: Span = "end_to_end",
    dtype: DTypeLike | None = None,
    key: Key | None = None,
    output: int | str | None = None,
    max_bytes: int | None = None,
    mesh: Mesh | None = None,
    progress: Progress = False,
    resume: Interrupted | None = None,
) -> Spectrum: ...


@overload
def ensemble(
    f: Map,
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    method: str | Method = "auto",
    span: list[Span],
    dtype: DTypeLike | None = None,
    key: Key | None = None,
    output: int | str | None = None,
    max_bytes: int | None = None,
    mesh: Mesh | None = None,
    progress: Progress = False,
    resume: Interrupted | None = None,
) -> dict[Span, Spectrum]: ...


@public("ensemble")
def ensemble(
    f: Map,
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    method: str | Method = "auto",
    span: Span | list[Span] = "end_to_end",
    dtype: DTypeLike | None = None,
    key: Key | None = None,
    output: int | str | None = None,
    max_bytes: int | None = None,
    mesh: Mesh | None = None,
    progress: Progress = False,
    resume: Interrupted | None = None,
) -> Spectra:
    """Measure the spectra of the Jacobians at every seed and input.

    Of a network whose derivatives can be exactly zero (relu), a large Jacobian is
    formed from its active units alone, and the other singular values are exactly zero.
    Runs on the host.

    Args:
        f: A `Network`, any f(params, x), or a list of such blocks applied in turn. What
            it closes over is read once, as by `jax.jit`.
        keys: (seeds,) random keys. A Network, or f with `sample`, draws its parameters
            from them; those of a network with a data-driven scheme (lsuv) are adjusted
            to all of xs.
        xs: (inputs, *x.shape), floating, or a tree of arrays with a leading axis of
            inputs, as `spectrum` takes it: where the span starts behind the input, of
            tokens for example.
        params: Instead of keys, parameters stacked on their leading axis, taken as they
            are.
        sample: From a key to the parameters of a plain f.
        method: As in `spectrum`.
        span: As in `spectrum`; or a list of spans, measured in one program.
        dtype: As in `spectrum`.
        key: As in `spectrum`.
        output: As in `spectrum`.
        max_bytes: Budget of the measurement on each device that has a memory of its
            own, and of all in this process that share the processor's; by default a
            quarter of the free memory. Seeds, then inputs, then directions are taken in
            chunks that fit. The numbers do not depend on it beyond rounding.
        mesh: A `jax.sharding.Mesh` of any axes: its devices share the seeds and inputs,
            whatever their numbers. None: one device. The numbers do not depend on it
            beyond rounding. With several processes (`jax.distributed`) each makes the
            same call, draws what its own devices need, and returns everything.
        progress: True for a bar on stderr (needs rich), or a function of (done, total)
            Jacobians.
        resume: The `isometry.Interrupted` that Ctrl-C raised out of the same call: goes
            on after its last chunk.

    Returns:
        A `Spectrum` with batch axes (seeds, inputs). Of a list of spans a dict, from
        each to its spectrum.

    Raises:
        InputError: Both or neither of keys and params; xs not (inputs, ...) of finite
            numbers; a mesh that is none; `resume` of another call; a Jacobian that is
            not finite (names its seed and input); a budget too small for one Jacobian,
            one direction at a time; what `spectrum` raises. Whatever is raised while a
            chunk is measured carries a note of its seeds.
        TypeError: An argument is traced.

    Warns:
        PrecisionWarning: f asks for less than full precision.
        ZeroJacobianWarning: Jacobians are exactly zero; the message says why one is.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> sp = isometry.ensemble(net, keys, jnp.full((3, 32), 1e-4))
        >>> sp.log_values.shape
        (2, 3, 32)
    """
    # Chunks are planned by what fits, and checked for NaN: both need numbers.
    for name, value in (("keys", keys), ("xs", xs), ("params", params)):
        checks.on_host(name, value)
    checks.not_abstract("params", params)
    chosen = methods.named(method)
    methods.require_key(chosen, key)
    # A tuple is one span between two points.
    spans = span if isinstance(span, list) else [span]
    if not spans:
        raise InputError('span=[] is empty; write ["end_to_end", "hidden"].')
    f = _resolution.chained(f)
    _resolution.function_of(f)
    # Parameters are not drawn yet: their shapes are enough to refuse or to plan.
    seeds = _draws.seeds_of(f, keys, params=params, sample=sample)
    xs, num_inputs = inputs_of(f, xs)
    counts = (seeds.count, num_inputs)
    if mesh is not None:
        mesh = _devices.arranged(mesh, *counts)
    targets = []
    for one in spans:
        target = _resolution.resolve(
            f,
            seeds.shapes(),
            _draws.row_shapes(xs),
            span=one,
            dtype=dtype,
            output=output,
            needs_factors=chosen.needs_factors,
            argument="xs",
        )
        chosen.check(target, key)
        targets.append(target)
    targets, steps = _planned(
        targets,
        chosen,
        seeds.shapes(),
        x=_draws.row_shapes(xs),
        max_bytes=max_bytes,
        mesh=mesh,
        counts=counts,
    )
    key_kind = bits = None
    if chosen.needs_key and key is not None:
        key_kind, bits = _draws.key_parts(key)
        bits = _devices.everywhere(mesh, bits)
    work = _Work(
        static=Static(targets, chosen, key_kind),
        mesh=mesh,
        make=seeds.maker(xs),
        source=seeds.source,
        xs=xs,
        bits=bits,
        counts=counts,
        steps=steps,
        is_single=not isinstance(span, list),
    )
    # Chunks that an interrupted call has measured are not measured again.
    done = []
    if resume is not None:
        work, done = _resumed(resume, work)
    with _progress.reporter(progress, "Jacobians") as report:
        records = work.assembled(work.measure_remaining(done, report))
    work.warn_of_zeros(records)
    return work.by_span(records)


def _first_entry(tree: PyTree) -> PyTree:
    """Return the first entry of the leading axis of every leaf."""
    return jax.tree.map(lambda a: a[0], tree)


def _resumed(
    stopped: Interrupted, work: _Work
) -> tuple[_Work, list[tuple[Spectrum, ...]]]:
    """Return the work with the chunks of an interrupted call, and its results so far.

    Raises:
        InputError: The interrupted call had other arguments than this one.
    """
    if not isinstance(stopped, Interrupted):
        raise InputError(
            f"resume={checks.show(stopped)} is not an isometry.Interrupted; write "
            "`except isometry.Interrupted as stopped:` and pass that."
        )
    old = stopped._work
    first = np.array([0])
    same_call = (
        _without_chunks(old.static) == _without_chunks(work.static)
        and old.counts == work.counts
        and old.mesh == work.mesh
        and _equal(
            (old.source, old.xs, old.bits),
            (work.source, work.xs, work.bits),
        )
        # Schemes and samples are compared by what they draw.
        and _equal(old.make(first), work.make(first))
    )
    if not same_call:
        raise InputError(
            "resume comes from a call with other arguments; repeat that call, or leave "
            "resume out."
        )
    return replace(work, static=old.static, steps=old.steps), stopped._done


def _without_chunks(static: Static) -> Static:
    """Return `static` without the numbers of directions computed at a time.

    They depend on the free memory, so that two equal calls may differ in them.
    """
    targets = tuple(replace(target, chunk=None) for target in static.targets)
    return replace(static, targets=targets)


def _equal(one: PyTree, other: PyTree) -> bool:
    """Tell whether two trees hold the same numbers."""
    one, other = (jax.tree.map(_draws.comparable, tree) for tree in (one, other))
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@contextlib.contextmanager
def _note_chunk(seeds: Indices, inputs: Indices) -> Iterator[None]:
    """Add a note to whatever is raised inside, which says at which chunk it was."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"ensemble(): while measuring seeds {seeds[0]} to {seeds[-1]} at inputs "
            f"{inputs[0]} to {inputs[-1]}."
        )
        raise


def inputs_of(f: Map, xs: PyTree[Array] | None) -> tuple[PyTree[Array], int]:
    """Return the examples as arrays, and their number."""
    if xs is None:
        raise InputError(
            "xs is missing; write xs=(inputs, *x.shape), one row an example."
        )
    if jax.tree.structure(xs).num_nodes > 1 and not isinstance(xs, list):
        xs = jax.tree.map(lambda leaf: _leaves.array_or_key("xs", leaf), xs)
    else:
        xs = checks.array("xs", xs)
    leaves = jax.tree.leaves(xs)
    # All leaves must have the same number of examples.
    num_inputs = _draws.common_length({leaf.shape[:1] for leaf in leaves})
    if num_inputs is None:
        shown = ", ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in leaves)
        raise InputError(f"xs is {shown}; it must be one example a row, not empty.")
    # Checked before a trace, whose error would not name the shape that is expected.
    _resolution.require_example(f, _draws.row_shapes(xs), argument="xs")
    checks.all_finite("xs", xs)
    return xs, num_inputs


def _planned(
    targets: list[Target],
    method: Method,
    params: Params,
    x: PyTree,
    *,
    max_bytes: int | None,
    mesh: Mesh | None,
    counts: tuple[int, int],
) -> tuple[tuple[Target, ...], list[tuple[Indices, Indices]]]:
    """Cut the work into chunks that fit the budget.

    A chunk has as many seeds and inputs on each device as fit its budget.

    Args:
        targets: The spans.
        method: How they are measured.
        params: Shapes of one seed's parameters.
        x: Shape of one example.
        max_bytes: The budget of the user, or None.
        mesh: The devices, or None.
        counts: The numbers of seeds and of inputs.

    Returns:
        The targets with the number of directions at a time; and for each chunk the
        indices of its seeds and of its inputs.
    """
    footprints = _cost.footprints(targets, method, params, x=x)
    num_bytes = memory.tree_bytes(params)
    # Asking for the free memory takes longer than a small call.
    budget = _cost.ALWAYS_FREE
    if max_bytes is not None or _bytes_of_all(footprints, num_bytes, counts) > budget:
        budget = _devices.budget(max_bytes, mesh)
    footprint, chunked = _cost.chunked_together(
        targets, footprints, method, budget=budget
    )
    # Each device of a mesh takes a chunk at a time.
    grid = (1, 1) if mesh is None else mesh.devices.shape
    # The numbers of seeds and inputs of one device, rounded up.
    of_device = [-(-count // num) for count, num in zip(counts, grid, strict=True)]
    sizes = _sizes(budget, footprint, num_bytes, of_device=of_device)
    seeds, inputs = (
        list(_chunks(count, size * num))
        for count, size, num in zip(counts, sizes, grid, strict=True)
    )
    return chunked, [(i, j) for i in seeds for j in inputs]


def _bytes_of_all(
    footprints: Sequence[Footprint],
    num_bytes: int,
    counts: tuple[int, int],
) -> int:
    """Bound the bytes of everything in one chunk, as `_sizes` counts them.

    Args:
        footprints: Bytes of the inputs of one seed, for each span.
        num_bytes: Bytes of a seed's parameters.
        counts: The numbers of seeds and of inputs.
    """
    num_seeds, num_inputs = counts
    shared = max(footprint.shared for footprint in footprints)
    each = sum(footprint.bytes() - footprint.shared for footprint in footprints)
    # Parameters are there twice while they are drawn.
    return shared + num_seeds * (num_inputs * each + 2 * num_bytes)


def _sizes(
    budget: int,
    footprint: Footprint,
    num_bytes: int,
    of_device: Sequence[int],
) -> tuple[int, int]:
    """Return how many seeds and inputs of a chunk fit, at least one of each.

    Args:
        budget: Bytes that a device may take.
        footprint: Bytes of the inputs of one seed.
        num_bytes: Bytes of a seed's parameters.
        of_device: The numbers of seeds and inputs of one device in all chunks.

    Returns:
        The numbers of seeds and inputs of a chunk on one device.
    """
    num_seeds, num_inputs = of_device
    free = budget - footprint.shared
    by_input = max(1, min(num_inputs, free // footprint.each))
    if num_bytes > _LARGE:
        return 1, by_input
    # Parameters are there twice while they are drawn.
    per_seed = by_input * footprint.each + 2 * num_bytes
    return max(1, min(num_seeds, free // per_seed)), by_input


def _chunks(count: int, size: int) -> Iterator[Indices]:
    """Cut the indices 0 to `count` - 1 into arrays of length `size`.

    All have this length, so that one program serves all: the last one repeats its last
    index.
    """
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def _joined(
    parts: list[tuple[Spectrum, ...]],
    axis: int,
    keep: int,
) -> tuple[Spectrum, ...]:
    """Concatenate parts along a batch axis, and drop the padding of the last one."""

    def of_leaves(*arrays: np.ndarray) -> np.ndarray:
        # On the host, where results of all devices come together.
        whole = np.concatenate(arrays, axis)
        return whole.take(np.arange(min(keep, whole.shape[axis])), axis)

    return jax.tree.map(of_leaves, *parts)


def _require_finite(
    chunk: Spectrum,
    seeds: Indices,
    inputs: Indices,
) -> None:
    """Refuse a chunk with Jacobians that are not finite, and name the first."""
    # The number of others says whether the first is an exception.
    bad = np.argwhere(np.isnan(chunk.log_values).any(-1))
    if len(bad) == 0:
        return
    i, j = bad[0]
    raise NotFinite(
        f"the Jacobian of seed {seeds[i]} at input {inputs[j]} is not finite "
        f"({len(bad)} of {len(seeds) * len(inputs)} in this chunk). Does f overflow, "
        "or hold NaN parameters?"
    )
