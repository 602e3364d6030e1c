"""The function `profile`: how the spectrum builds up from point to point."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry import linalg
from isometry._internal import checks, jaxprs, memory, precision
from isometry._internal.errors import InputError, NotFinite, public
from isometry._internal.types import DTypeLike, Key, Params
from isometry.linalg._convolution import canonical
from isometry.measure import _points, _spans
from isometry.measure._points import Function, Plan
from isometry.measure._spans import Point, Span
from isometry.measure._spectrum import Spectrum
from isometry.structure import Anatomy
from isometry.structure._tapping import ADD, CUT, tapped

Statistic: TypeAlias = Callable[[Spectrum], Array]

TOWARD = ("output", "input", "next")

# Statistics whose names are no methods of `Spectrum`.
_STATISTICS: dict[str, Statistic] = {
    "mean_square": lambda spectrum: spectrum.moment(1),
    "s_max": lambda spectrum: spectrum.values[..., 0],
}

# Size, growth, shape and rank: the four questions that a profile answers.
_DEFAULT = ("mean_square", "s_max", "log_spread", "zero_fraction")

# Arrays of the Jacobians' size while they are made and factorized: two orders of axes,
# and LAPACK's copies. With ten times less the machine would run out of memory; with ten
# times more, inputs would be measured one by one that fit side by side.
_COPIES = 6

# Rows of a table on a screen.
_ROWS_OF_REPR = 20


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Spectra of a network from point to point, as `profile` measures them.

    Attributes:
        points: Names of the points, in the order of the computation, one a spectrum:
            where a suffix or a block starts, or where a prefix ends.
        toward: "output", "input" or "next".
        spans: The ends of each span.
        spectra: The spectrum of each span, with batch axes (seeds, inputs).
        statistics: Of each statistic the values, of shape (seeds, inputs, points).

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal", sigma_w=1.0)
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> profile = isometry.profile(net, keys, xs)
        >>> profile.spectra["output"].log_values.shape
        (2, 3, 32)
    """

    points: tuple[str, ...]
    toward: str
    spans: tuple[tuple[str, str], ...]
    spectra: Mapping[str, Spectrum]
    statistics: Mapping[str, Float[Array, "seeds inputs points"]]

    def table(self) -> str:
        """Return a table with a row for each span: means over seeds and inputs.

        Returns:
            Lines of text.

        Example:
            >>> f = lambda w, x: jnp.tanh(w @ x)
            >>> w, x = 3 * jnp.eye(2)[None], jnp.zeros((1, 2))
            >>> profile = isometry.profile(f, params=w, xs=x)
            >>> "mean_square" in profile.table()
            True
        """
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        starts = [first for first, _ in self.spans]
        stops = [last for _, last in self.spans]
        columns = {"from": starts, "to": stops}
        columns["size"] = [str(self.spectra[name].size) for name in self.points]
        for name, values in self.statistics.items():
            means = np.asarray(values, np.float64).mean(axis=(0, 1))
            columns[name] = [f"{mean:.4g}" for mean in means]
        rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            padded = list(map(str.rjust, row, widths))
            # Names stand to the left, numbers to the right.
            padded[:2] = map(str.ljust, row[:2], widths[:2])
            lines.append("  ".join(padded))
        return lines

    def __repr__(self) -> str:
        lines = self._lines()
        if len(lines) > _ROWS_OF_REPR:
            half = _ROWS_OF_REPR // 2
            lines = [*lines[:half], "...", *lines[-half:]]
        return "\n".join([f"Profile toward {self.toward}", *lines])


@public("profile")
def profile(
    f: Function,
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    span: Span = "end_to_end",
    toward: str = "output",
    points: Sequence[str] | None = None,
    statistics: Sequence[str] | Mapping[str, Statistic] = _DEFAULT,
    dtype: DTypeLike | None = None,
) -> Profile:
    """Measure how the spectrum of a network builds up with depth.

    All Jacobians come from one program: suffixes from one reverse pass with a row for
    each output, prefixes from one forward pass with a column for each input, and blocks
    from one forward pass that is cut at every point. On a network whose layers are
    scanned the program does not grow with depth.

    Args:
        f: A `Network`, any f(params, x) of one example, or a list of such blocks.
        keys: One for each seed. A Network, or f with `sample`, draws its parameters.
        xs: Examples along a first axis. Tokens, if the span starts at an embedding.
        params: Instead of keys, parameters stacked over seeds along a first axis.
        sample: Of a plain f, sample(key) -> params.
        span: Where the profile starts and ends: two points, each a name or (name,
            index). "end_to_end" is ("input", "output").
        toward: "output": from each point to the end of the span. "input": from the
            start of the span to each point. "next": from each point to the next one.
        points: Names of points within the span. Default: pre-activations of weight
            layers, and the stream behind each branch, where all paths meet; if there
            are none, the pre-activations of all weight layers.
        statistics: Names of statistics of a `Spectrum`: "mean_square", "s_max", or a
            method without arguments. Or a mapping from names to functions.
        dtype: Of the measurement; default that of params and xs, at least float32.

    Returns:
        The spectra and their statistics.

    Raises:
        InputError: Both or neither of keys and params; a span that is none; unknown
            points or statistics; "next" at a point that some path leads around; a
            function without the derivative that is needed; a Jacobian that is not
            finite.

    Example:
        >>> net = networks.mlp([64] * 9, "tanh", "gaussian", sigma_w=1.0, sigma_b=0.0)
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> xs = data.gaussian(jax.random.key(1), 4, 64).xs
        >>> suffixes = isometry.profile(net, keys, xs)
        >>> mean_square = suffixes.statistics["mean_square"].mean((0, 1))
        >>> bool(mean_square[0] < mean_square[-2])
        True
    """
    checks.one_of("toward", toward, TOWARD)
    functions = _functions(statistics)
    run = _points.prepare(
        f,
        keys,
        xs,
        params=params,
        sample=sample,
        span=span,
        dtype=dtype,
        choose=functools.partial(_choose, points, toward),
    )
    plan = run.plan
    _require_derivative(plan, toward)
    spans = _spans_of(plan, toward)
    how = _How(plan, toward, chunk=0)
    how = how._replace(chunk=_inputs_at_once(how, run))
    parts = [_log_values(how, drawn, run.xs) for _, drawn in run.chunks()]
    joined = run.joined(parts)
    spectra: dict[str, Spectrum] = {}
    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in functions}
    for shape, names in how.names_of_shape().items():
        log_values = joined[_label(shape)]
        for position, name in enumerate(names):
            own = log_values[:, :, position]
            _require_finite(own, *spans[name])
            spectra[name] = _record(own, shape, span=spans[name])
        # Statistics of all points at once: one by one, a deep network takes seconds.
        of_all = _record(log_values, shape, span=(plan.first.name, plan.last.name))
        for statistic, function in functions.items():
            on_host = np.moveaxis(np.asarray(function(of_all)), 2, 0)
            values[statistic] |= dict(zip(names, on_host, strict=True))
    each = {
        statistic: jnp.asarray(np.stack([of_name[name] for name in spans], axis=2))
        for statistic, of_name in values.items()
    }
    return Profile(
        points=tuple(spans),
        toward=toward,
        spans=tuple(spans.values()),
        spectra={name: spectra[name] for name in spans},
        statistics=each,
    )


def _functions(
    statistics: Sequence[str] | Mapping[str, Statistic],
) -> dict[str, Statistic]:
    """Return the statistics as functions, by name."""
    if isinstance(statistics, Mapping):
        return dict(statistics)
    if isinstance(statistics, str):
        statistics = (statistics,)
    functions = {}
    for name in statistics:
        known = _STATISTICS.get(name) if isinstance(name, str) else None
        function = known or getattr(Spectrum, str(name), None)
        if not callable(function):
            raise InputError(
                f"statistics holds {checks.show(name)}, not a statistic of Spectrum; "
                'write names such as "mean_square", "stable_rank", or a mapping from '
                "names to functions of a Spectrum."
            )
        functions[name] = function
    return functions


def _choose(
    points: Sequence[str] | None,
    toward: str,
    anatomy: Anatomy,
    first: Point,
    last: Point,
) -> list[str]:
    """Return the points of the profile, the ends of the span included."""
    known = _points.between(anatomy, first, last)
    if points is None:
        chosen = [n for n in known if _spans.is_layer(n) or n.endswith(":sum")]
        meeting = [name for name in chosen if anatomy.cuts(name)]
        inner = meeting or chosen
    else:
        inner = [checks.one_of("points", name, known) for name in points]
    wanted = {first.name, last.name, *inner}
    names = [name for name in known if name in wanted]
    around = [name for name in names[1:-1] if not anatomy.cuts(name)]
    if toward == "next" and around:
        raise InputError(
            f'toward="next" measures from point to point, and some path leads around '
            f'{around[0]!r}; leave it out of points, or write toward="output".'
        )
    return names


def _require_derivative(plan: Plan, toward: str) -> None:
    """Refuse a function that has only the other mode of differentiation."""
    forward_only, reverse_only = jaxprs.one_way(plan.anatomy.closed.jaxpr)
    if toward == "output" and forward_only and not reverse_only:
        raise InputError(
            'toward="output" needs a reverse derivative, and f holds a while_loop, '
            'which has none; write a scan, or toward="input".'
        )
    if toward != "output" and reverse_only and not forward_only:
        raise InputError(
            f'toward="{toward}" needs a forward derivative, and f holds a custom_vjp, '
            'which has none; write a custom_jvp, or toward="output".'
        )


def _spans_of(plan: Plan, toward: str) -> dict[str, tuple[str, str]]:
    """Return the ends of the span of each point."""
    names = plan.names
    if toward == "output":
        return {name: (name, names[-1]) for name in names[:-1]}
    if toward == "input":
        return {name: (names[0], name) for name in names[1:]}
    return {a: (a, b) for a, b in itertools.pairwise(names)}


class _How(NamedTuple):
    """What a program is compiled for.

    Attributes:
        plan: What is read.
        toward: As in `profile`.
        chunk: How many inputs are measured side by side.
    """

    plan: Plan
    toward: str
    chunk: int

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape of the Jacobian of each point's span."""
        sizes = dict(zip(self.plan.names, self.plan.sizes, strict=True))
        for name in (self.plan.first.name, self.plan.last.name):
            sizes[name] = self.plan.size_at(name)
        spans = _spans_of(self.plan, self.toward)
        return {
            name: (sizes[last], sizes[first]) for name, (first, last) in spans.items()
        }

    def names_of_shape(self) -> dict[tuple[int, int], list[str]]:
        """Return the points by the shape of their Jacobian: a shape is one batch."""
        names: dict[tuple[int, int], list[str]] = {}
        for name, shape in self.shapes().items():
            names.setdefault(shape, []).append(name)
        return names

    def anchors(self) -> dict[str, str]:
        """Return, for each point, the one where its Jacobian is found by the pass."""
        spans = _spans_of(self.plan, self.toward)
        if self.toward != "next":
            return {name: name for name in spans}
        return {name: last for name, (_, last) in spans.items()}


def _label(shape: tuple[int, int]) -> str:
    """Return the name of a shape: a program sorts the keys of its dictionaries."""
    return f"{shape[0]}x{shape[1]}"


def _inputs_at_once(how: _How, run: _points.Run) -> int:
    """Return how many inputs are measured side by side."""
    itemsize = np.dtype(how.plan.dtype).itemsize
    shapes = how.shapes().values()
    entries = sum(map(math.prod, shapes))
    each = _COPIES * entries * itemsize
    budget = memory.budget(None)
    if each > budget:
        raise InputError(
            f"the {len(shapes)} Jacobians of one input take {each:,} bytes, and "
            f"{budget:,} are free for them; write fewer points, or a part of the "
            'output, span=(..., ("output", -1)).'
        )
    return _points.at_once(budget // each, run.num_inputs)


def _measure(how: _How, params: Params, xs: PyTree[Array]) -> dict[str, Array]:
    """Measure some seeds: ln s, of shape (seeds, inputs, points, size), by shape."""
    passes = {"output": _suffixes, "input": _prefixes, "next": _blocks}

    def of_input(params: Params, x: PyTree[Array]) -> dict[str, Array]:
        arguments = jax.tree.leaves((params, x))
        stacks = passes[how.toward](how.plan, arguments)
        matrices = _sorted_by_shape(how, stacks)
        return {
            label: linalg.log_singular_values(stack)[0]
            for label, stack in matrices.items()
        }

    def of_seed(params: Params) -> dict[str, Array]:
        measure = functools.partial(of_input, params)
        return jax.lax.map(measure, xs, batch_size=how.chunk)

    with precision.full():
        return jax.lax.map(of_seed, params)


_log_values = jax.jit(_measure, static_argnums=0)


def _suffixes(plan: Plan, arguments: list[Array]) -> dict[str, Array]:
    """Return the Jacobians from each point to the end, (points, m, n) a group."""
    program = tapped(plan.anatomy.closed, plan.places, ADD)

    def forward(bumps: dict[str, Array]) -> Array:
        _, readings = program(arguments, bumps)
        return plan.part(readings, plan.last).ravel()

    output, pull = jax.vjp(forward, plan.bumps())

    def row(entry: Array) -> Array:
        (gradients,) = pull(_unit(entry, output.size, output.dtype))
        return plan.flat(gradients)

    rows = jax.vmap(canonical(row))(jnp.arange(output.size))
    return {label: jnp.swapaxes(a, 0, 1) for label, a in plan.split(rows).items()}


def _prefixes(plan: Plan, arguments: list[Array]) -> dict[str, Array]:
    """Return the Jacobians from the start to each point, (points, m, n)."""
    start = plan.anatomy.place(plan.first.name)
    # No point has an empty name.
    program = tapped(plan.anatomy.closed, {**plan.places, "": start}, ADD)
    whole = plan.anatomy.shape(plan.first.name)
    num_inputs = plan.size_at(plan.first.name)

    def forward(z: Array) -> Array:
        bump = jnp.zeros(whole.shape, whole.dtype)
        part = z.reshape(plan.first.of(bump).shape)
        bump = bump.at[plan.first.index].set(part) if plan.first.index else part
        _, readings = program(arguments, {"": bump})
        return plan.flat(readings)

    _, push = jax.linearize(forward, jnp.zeros(num_inputs, whole.dtype))

    def column(entry: Array) -> Array:
        return push(_unit(entry, num_inputs, whole.dtype))

    columns = jax.vmap(canonical(column))(jnp.arange(num_inputs))
    return {label: jnp.moveaxis(a, 0, -1) for label, a in plan.split(columns).items()}


def _blocks(plan: Plan, arguments: list[Array]) -> dict[str, Array]:
    """Return the Jacobians from the point before to each point, (points, m, n).

    Derivatives stop at every point, so one pass may push all blocks at once: the bumps
    at all points move together, and no point sees more than the one before it. n is
    that of the widest point; columns beyond a block's own width are zero.
    """
    program = tapped(plan.anatomy.closed, plan.places, CUT)
    bumps = plan.bumps()

    def forward(bumps: dict[str, Array]) -> Array:
        given = {g.label: (bumps[g.label], g.is_point()) for g in plan.groups}
        _, readings = program(arguments, given)
        return plan.flat(readings)

    _, push = jax.linearize(forward, bumps)

    def column(entry: Array) -> Array:
        tangents = {}
        for group in plan.groups:
            unit = _unit(entry, group.size, group.dtype).reshape(group.shape)
            # An iteration that is no point must stay still: nothing cuts behind it.
            is_point = group.is_point().reshape(*group.lengths, *[1] * unit.ndim)
            moved = jnp.broadcast_to(unit, group.stacked())
            tangents[group.label] = jnp.where(is_point, moved, 0)
        return push(tangents)

    widest = max(group.size for group in plan.groups)
    columns = jax.vmap(canonical(column))(jnp.arange(widest))
    return {label: jnp.moveaxis(a, 0, -1) for label, a in plan.split(columns).items()}


def _unit(entry: Array, size: int, dtype: DTypeLike) -> Array:
    """Return a unit vector; zero if the entry is beyond the size."""
    return (jnp.arange(size) == entry).astype(dtype)


def _sorted_by_shape(how: _How, stacks: dict[str, Array]) -> dict[str, Array]:
    """Return the Jacobians of all points as one stack for each shape.

    So there are as many factorizations in the program as shapes, not as points.
    """
    anchors = how.anchors()
    names: dict[tuple[int, int], list[str]] = {}
    parts: dict[tuple[int, int], list[Array]] = {}
    for group in how.plan.groups:
        rows_of = {name: row for row, name in enumerate(group.names)}
        inside = [name for name, anchor in anchors.items() if anchor in rows_of]
        for selection in _selections(how, inside):
            rows = np.array([rows_of[anchors[name]] for name in selection.names])
            stack = stacks[group.label]
            if not np.array_equal(rows, np.arange(len(stack))):
                stack = stack[rows]
            block = stack[:, selection.outputs][:, :, selection.inputs]
            shape = block.shape[1:]
            names.setdefault(shape, []).extend(selection.names)
            parts.setdefault(shape, []).append(block)
    return {
        _label(shape): jnp.concatenate(parts[shape])[_order(names[shape], wanted)]
        for shape, wanted in how.names_of_shape().items()
    }


def _order(names: list[str], wanted: list[str]) -> np.ndarray:
    position = {name: i for i, name in enumerate(names)}
    return np.array([position[name] for name in wanted])


class _Selection(NamedTuple):
    """Points of a group whose Jacobians are the same part of what the pass found."""

    names: list[str]
    outputs: slice | np.ndarray
    inputs: slice | np.ndarray


def _selections(how: _How, names: list[str]) -> list[_Selection]:
    """Sort points by the part that is theirs."""
    spans = _spans_of(how.plan, how.toward)
    shapes = how.shapes()
    whole: dict[tuple[int, int], list[str]] = {}
    selections = []
    for name in names:
        first, last = spans[name]
        m, n = shapes[name]
        # A suffix pass already takes only the part of the last point that is meant, a
        # prefix pass that of the first.
        outputs = None if how.toward == "output" else how.plan.entries(last)
        inputs = None if how.toward == "input" else how.plan.entries(first)
        if outputs is None and inputs is None:
            whole.setdefault((m, n), []).append(name)
            continue
        outputs = np.arange(m) if outputs is None else outputs
        inputs = np.arange(n) if inputs is None else inputs
        selections.append(_Selection([name], outputs, inputs))
    for (m, n), members in whole.items():
        selections.append(_Selection(members, slice(m), slice(n)))
    return selections


def _record(
    log_values: np.ndarray, shape: tuple[int, int], *, span: tuple[str, str]
) -> Spectrum:
    """Return the record of dense Jacobians whose ln s are known."""
    m, n = shape
    log_floor = precision.svd_log_floor(m, n, log_values.dtype)
    dtype = log_values.dtype
    return Spectrum(
        log_values=jnp.asarray(log_values),
        weights=jnp.asarray(np.full(log_values.shape, 1 / min(m, n), dtype)),
        log_floor=jnp.asarray(np.full(log_values.shape[:-1], log_floor, dtype)),
        size=min(m, n),
        structural_zeros=abs(m - n),
        span=span,
    )


def _require_finite(log_values: np.ndarray, first: str, last: str) -> None:
    """Refuse Jacobians that are not finite, and name the first of them."""
    lost = np.argwhere(np.isnan(log_values).any(axis=-1))
    if len(lost):
        seed, number = lost[0]
        raise NotFinite(
            f"the Jacobian from {first!r} to {last!r} of seed {seed} at input {number} "
            "is not finite. Does f overflow, or hold NaN parameters? A shorter span "
            "may show where."
        )
