"""The function `profile`: how the spectrum builds up from point to point.

A suffix is the span from a point to the end, a prefix the span from the start to a
point, and a block the span from a point to the next one.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry import linalg
from isometry._internal import (
    blas,
    checks,
    compilation,
    jaxprs,
    memory,
    precision,
    texts,
)
from isometry._internal.errors import InputError, NotFinite, public
from isometry._internal.types import DTypeLike, Key, Params
from isometry.measure import _plan, _run, _spans
from isometry.measure._passes import TOWARD, Spans, jacobians, label_of
from isometry.measure._plan import Function, Plan
from isometry.measure._record import Spectrum
from isometry.measure._spans import Point, Span
from isometry.structure import Anatomy

Statistic: TypeAlias = Callable[[Spectrum], Array]

# Statistics whose names are no methods of `Spectrum`.
_STATISTICS: dict[str, Statistic] = {
    "mean_square": lambda spectrum: spectrum.moment(1),
}

# The size, largest value, shape and rank of a spectrum.
_DEFAULT = ("mean_square", "s_max", "log_spread", "zero_fraction")

# Copies of the Jacobians while they are computed and factorized: two orders of axes,
# and those of LAPACK. With a tenth of it a measurement could run out of memory; with
# ten times more, inputs that fit at once would be measured one by one.
_COPIES = 6


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Spectra of a network from point to point, as `profile` measures them.

    Attributes:
        points: The name of the point of each span, in the order of the computation: its
            first point, or toward "input" its last.
        toward: "output", "input" or "next".
        spans: The first and last point of each span.
        spectra: For each point, the spectrum of its span, with batch axes (seeds,
            inputs).
        statistics: For each statistic its values, of shape (seeds, inputs, points).

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> profile = isometry.profile(net, keys, xs)
        >>> profile.spectra["input"].log_values.shape
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
        """Return the headings of the columns, and a line for each span."""
        starts = [first for first, _ in self.spans]
        stops = [last for _, last in self.spans]
        columns = {"from": starts, "to": stops}
        columns["size"] = [str(self.spectra[name].size) for name in self.points]
        for name, values in self.statistics.items():
            means = np.asarray(values, np.float64).mean(axis=(0, 1))
            columns[name] = [f"{mean:.4g}" for mean in means]
        rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        return texts.aligned(rows, num_left=2)

    def __repr__(self) -> str:
        lines = texts.shortened(self._lines())
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

    All Jacobians come from one program: those to the output from one reverse pass with
    a row for each output, those from the input from one forward pass with a column for
    each input, and those from point to point from one forward pass that is cut at every
    point. On a network whose layers are scanned the program does not grow with depth.

    Args:
        f: A `Network`, any f(params, x) of one example, or a list of such blocks.
        keys: One for each seed. A Network, or f with `sample`, draws its parameters.
        xs: Examples along a first axis. Tokens, if the span starts at an embedding.
        params: Instead of keys, parameters stacked over seeds along a first axis.
        sample: Of a plain f, sample(key) -> params.
        span: Where the profile starts and ends: two points, each a name or (name,
            index). "end_to_end" is ("input", "output"), where "input" is all floating
            leaves of x together, in the order of `jax.tree.leaves`.
        toward: "output": from each point to the end of the span. "input": from the
            start of the span to each point. "next": from each point to the next one.
        points: Names of points within the span. The default is those pre-activations
            and sums of residual branches that lie on every path to the output, and the
            states of a recurrence. If there are none, it is the pre-activations of all
            weight layers.
        statistics: Names of statistics of a `Spectrum`: "mean_square", "s_max", or a
            method without arguments. Or a mapping from names to functions.
        dtype: The dtype of the measurement. The default is that of params and xs, at
            least float32.

    Returns:
        The spectra and their statistics.

    Raises:
        InputError: Both or neither of keys and params; not a span; unknown
            points or statistics; "next" at a point that some path leads around; a
            function without the derivative that is needed; a Jacobian that is not
            finite.

    Warns:
        PrecisionWarning: f asks for less than full precision.

    Example:
        >>> net = networks.mlp([32] * 6, "linear", "orthogonal", sigma_w=1.5)
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> suffixes = isometry.profile(net, keys, xs)
        >>> mean_square = suffixes.statistics["mean_square"].mean((0, 1))
        >>> round(float(mean_square[0] / mean_square[1]), 3)
        2.25
    """
    checks.one_of("toward", toward, TOWARD)
    functions = _functions(statistics)
    run = _run.prepare(
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
    spans = Spans(plan, toward)
    log_values = _measured(spans, run)
    eps = jaxprs.coarse(plan.anatomy.closed.jaxpr, plan.dtype).eps
    ends = spans.ends()
    return Profile(
        points=tuple(ends),
        toward=toward,
        spans=tuple(ends.values()),
        spectra=_spectra(spans, log_values, eps),
        statistics=_evaluated(functions, spans, log_values, eps=eps),
    )


def _functions(
    statistics: Sequence[str] | Mapping[str, Statistic],
) -> dict[str, Statistic]:
    """Return the statistics as functions, by name."""
    if isinstance(statistics, Mapping):
        return {
            name: checks.function(f"statistics[{name!r}]", function)
            for name, function in statistics.items()
        }
    if isinstance(statistics, str):
        statistics = (statistics,)
    functions = {}
    for name in checks.listed("statistics", statistics):
        function = _STATISTICS.get(name) if isinstance(name, str) else None
        if function is None:
            function = getattr(Spectrum, str(name), None)
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
    """Return the names of the points of the profile, the ends of the span included.

    Args:
        points: Names that the user has chosen, or None.
        toward: "output", "input" or "next".
        anatomy: The anatomy of f.
        first: The point where the span starts.
        last: The point where it ends.
    """
    in_span = _plan.between(anatomy, first, last)
    # Names are checked against this span, not against all of f.
    if points is None:
        inner = _default_points(anatomy, in_span, toward)
    else:
        given = checks.listed("points", points)
        inner = [checks.one_of("points", name, in_span) for name in given]
    chosen = {first.name, last.name, *inner}
    # In the order of the computation.
    names = [name for name in in_span if name in chosen]
    if toward == "next":
        _require_chain(anatomy, names)
    return names


def _default_points(
    anatomy: Anatomy,
    in_span: list[str],
    toward: str,
) -> list[str]:
    """Return the names of the points of a profile, if the user names none.

    These are the pre-activations and the sums of residual branches that lie on every
    path, and the states of a recurrence; if there are none, all pre-activations.

    Args:
        anatomy: The anatomy of f.
        in_span: The names of all points of the span.
        toward: "output", "input" or "next".
    """
    layers = [name for name in in_span if _spans.is_layer(anatomy, name)]
    sums = [name for name in in_span if name.endswith(":sum")]
    # Points inside the steps of a recurrence ("@") are left out; its states are in.
    on_every_path = [
        name for name in layers + sums if anatomy.cuts(name) and "@" not in name
    ]
    states = [name for name in in_span if _spans.state(anatomy, name)]
    if toward == "next":
        # If the span starts at a state, all later states are a chain.
        return states if _spans.state(anatomy, in_span[0]) else on_every_path
    return on_every_path + states or layers


def _require_chain(
    anatomy: Anatomy,
    names: list[str],
) -> None:
    """Refuse inner points that some path from x to the output leads around.

    States of a recurrence are allowed, if all points are states of the same one.
    """
    bypassed = [name for name in names[1:-1] if not anatomy.cuts(name)]
    states = {_spans.state(anatomy, name) for name in anatomy.points} - {None}
    # A single state is all that later steps of a recurrence read of earlier ones.
    are_states = all(_spans.state(anatomy, name) for name in names[:-1])
    is_recurrent = len(states) == 1 and are_states
    ends_in_chain = _spans.state(anatomy, names[-1]) or anatomy.cuts(names[-2])
    if not bypassed or (is_recurrent and ends_in_chain):
        return
    raise InputError(
        f'toward="next" measures from point to point, and some path leads around '
        f'{bypassed[0]!r}; leave it out of points, or write toward="output".'
    )


def _require_derivative(
    plan: Plan,
    toward: str,
) -> None:
    """Refuse a function without the derivative that a direction needs.

    Suffixes are computed in reverse mode, prefixes and blocks in forward mode.
    """
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


def _measured(
    spans: Spans,
    run: _run.Run,
) -> dict[str, np.ndarray]:
    """Measure all spans at all seeds and inputs.

    Returns:
        What `_log_values` returns, of all seeds. It is on the host, where NumPy slices
        without a program for each span.
    """
    num_at_once = inputs_at_once(spans, run)
    parts = []
    for _, drawn in run.chunks():
        # With threads of BLAS, factorizations of order 256 took 25 times as long on two
        # busy cores.
        with blas.single_threaded():
            part = _log_values(
                spans,
                num_at_once,
                spans.plan.constants,
                params=drawn,
                xs=run.xs,
            )
            parts.append(jax.block_until_ready(part))
    return run.joined(parts)


def _spectra(
    spans: Spans,
    log_values: Mapping[str, np.ndarray],
    eps: float | None,
) -> dict[str, Spectrum]:
    """Return the spectrum of each span by its name, in the order of the computation.

    Args:
        spans: The spans.
        log_values: What `_measured` returns.
        eps: As in `_spectrum_of`.

    Raises:
        NotFinite: A Jacobian is not finite.
    """
    ends = spans.ends()
    spectra = {}
    for shape, names in spans.names_of_shape().items():
        for position, name in enumerate(names):
            of_span = log_values[label_of(shape)][:, :, position]
            _require_finite(of_span, *ends[name])
            spectra[name] = _spectrum_of(of_span, shape, span=ends[name], eps=eps)
    return {name: spectra[name] for name in ends}


def _evaluated(
    functions: Mapping[str, Statistic],
    spans: Spans,
    log_values: Mapping[str, np.ndarray],
    *,
    eps: float | None,
) -> dict[str, Float[Array, "seeds inputs points"]]:
    """Evaluate statistics of all spans.

    Args:
        functions: The statistics by name.
        spans: The spans.
        log_values: What `_measured` returns.
        eps: As in `_spectrum_of`.
    """
    whole_span = (spans.plan.first.name, spans.plan.last.name)
    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in functions}
    for shape, names in spans.names_of_shape().items():
        # All spans of a shape at once, because one by one takes seconds in a deep
        # network.
        together = _spectrum_of(
            log_values[label_of(shape)], shape, span=whole_span, eps=eps
        )
        for statistic, function in functions.items():
            by_span = np.moveaxis(np.asarray(function(together)), 2, 0)
            values[statistic] |= dict(zip(names, by_span, strict=True))
    return {
        statistic: checks.on_device(
            np.stack([by_name[name] for name in spans.ends()], axis=2)
        )
        for statistic, by_name in values.items()
    }


def inputs_at_once(
    spans: Spans,
    run: _run.Run,
) -> int:
    """Return how many inputs of a seed to measure at once.

    Raises:
        InputError: One input alone takes more than the free memory.
    """
    itemsize = np.dtype(spans.plan.dtype).itemsize
    shapes = spans.shapes().values()
    num_entries = sum(map(math.prod, shapes))
    bytes_of_input = _COPIES * num_entries * itemsize
    budget = memory.budget(None)
    if bytes_of_input > budget:
        raise InputError(
            f"the {len(shapes)} Jacobians of one input take {bytes_of_input:,} bytes, "
            f"and {budget:,} are free for them; write fewer points, or a part of the "
            'output, span=(..., ("output", -1)).'
        )
    return _run.at_once(budget // bytes_of_input, run.num_inputs)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _log_values(
    spans: Spans,
    num_at_once: int,
    constants: list[Array],
    params: Params,
    xs: PyTree[Array],
) -> dict[str, Array]:
    """Measure a chunk of seeds, `num_at_once` inputs of a seed at a time.

    Returns:
        For each shape of Jacobians by its label, ln s of shape (seeds, inputs, spans,
        size).
    """

    def of_input(
        params: Params,
        x: PyTree[Array],
    ) -> dict[str, Array]:
        stacks = jacobians(spans, constants, jax.tree.leaves((params, x)))
        return jax.tree.map(lambda a: linalg.log_singular_values(a)[0], stacks)

    def of_seed(params: Params) -> dict[str, Array]:
        measure = functools.partial(of_input, params)
        return jax.lax.map(measure, xs, batch_size=num_at_once)

    with precision.full():
        return jax.lax.map(of_seed, params)


def _spectrum_of(
    log_values: np.ndarray,
    shape: tuple[int, int],
    *,
    span: tuple[str, str],
    eps: float | None,
) -> Spectrum:
    """Return the `Spectrum` with these logarithms of singular values.

    Args:
        log_values: (..., size), with any batch axes: the ln s of each Jacobian,
            descending. `size` is the smaller side of `shape`.
        shape: The shape (m, n) of one Jacobian.
        span: The first and last point of the span.
        eps: The relative rounding of f, if it is coarser than that of the dtype; None
            otherwise.
    """
    m, n = shape
    log_floor = precision.svd_log_floor(m, n, log_values.dtype)
    if eps is not None:
        log_floor = max(log_floor, precision.coarse_log_floor(m, n, eps))
    dtype = log_values.dtype
    return Spectrum(
        log_values=checks.on_device(log_values),
        weights=checks.on_device(np.full(log_values.shape, 1 / min(m, n), dtype)),
        log_floor=checks.on_device(np.full(log_values.shape[:-1], log_floor, dtype)),
        size=min(m, n),
        structural_zeros=abs(m - n),
        span=span,
    )


def _require_finite(
    log_values: np.ndarray,
    first: str,
    last: str,
) -> None:
    """Refuse Jacobians that are not finite; the message tells the first of them."""
    # A factorization returns NaN for a matrix that is not finite.
    not_finite = np.argwhere(np.isnan(log_values).any(axis=-1))
    if len(not_finite):
        seed, index = not_finite[0]
        raise NotFinite(
            f"the Jacobian from {first!r} to {last!r} of seed {seed} at input {index} "
            "is not finite. Does f overflow, or hold NaN parameters? A shorter span "
            "may show where."
        )
