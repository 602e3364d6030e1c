"""monitor: statistics of the Jacobian's singular values, recorded as a network trains.

A monitor is a gradient transformation of optax that changes nothing. Its `update` sees
the parameters before each step, and whatever else the training loop passes on.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from isometry._internal import checks, compilation, jaxprs, precision
from isometry._internal.errors import InputError, PrecisionWarning, public
from isometry._internal.types import Key, Params
from isometry.activations import Activation
from isometry.measure import _draws, _ensemble, _resolution, _spectra, methods
from isometry.measure._function import Map, Reference, traced
from isometry.measure._record import Spectrum
from isometry.measure._spans import End, Span
from isometry.measure._spectra import How
from isometry.measure._statistics import STATISTICS, Statistic, why_unknown
from isometry.measure._target import Target
from isometry.measure.methods import Method
from isometry.networks import Network
from isometry.networks._layered import LayeredFunction, LayeredNetwork

# The statistic that is one of the units, and not of the spectrum.
DEAD = "dead_units"

# Statistics by name, for one span; for several, by label of the span and then by name.
Values: TypeAlias = dict[str, Array] | dict[str, dict[str, Array]]

# One span, a list of spans, or spans by labels of the user's.
Spans: TypeAlias = Span | list[Span] | Mapping[str, Span]

# From the trained parameters, and extra arguments of `update` by name, to f's params.
Current: TypeAlias = Callable[..., Params]

# Singular values of the spectrum by which the shapes of statistics are found where the
# parameters are not known yet. Any number will do that is not 1, which broadcasts.
_SIZE_OF_STAND_IN = 3


class MonitorState(NamedTuple):
    """The state of a monitor inside the state of an optimizer.

    Attributes:
        step: The number of updates seen.
        count: The number of records kept.
        due: The number of records that were due, kept or not.
        steps: The update of each record, of shape (capacity,).
        values: What was recorded, by statistic, with leading axis (capacity,); for
            several spans, by label and statistic.
    """

    step: Int[Array, ""]
    count: Int[Array, ""]
    due: Int[Array, ""]
    steps: Int[Array, " capacity"]
    values: Values


@dataclass(frozen=True, eq=False)
class Records:
    """What a monitor has recorded of one span.

    `records["effective_rank"]` is (records,), averaged over inputs.

    Attributes:
        steps: The number of updates made before each record, 0 for the initial
            parameters.
        values: For each statistic an array (records, inputs), or (records,) if it is
            one number for all inputs. Not finite where training itself no longer was.
        missed: The number of records that were due when the buffer was full.

    Example:
        >>> watch = isometry.monitor(
        ...     jnp.matmul, jnp.ones((1, 2)), every=1, statistics=["s_max"], capacity=4)
        >>> w = jnp.eye(2)
        >>> _, state = watch.update(w, watch.init(w), 3 * w)
        >>> records = isometry.recorded(state)
        >>> len(records), records["s_max"]
        (1, array([3.], dtype=float32))
    """

    steps: Int[np.ndarray, " records"]
    values: dict[str, np.ndarray]
    missed: int

    def __len__(self) -> int:
        return len(self.steps)

    @public("Records")
    def __getitem__(self, name: str) -> Float[np.ndarray, " records"]:
        checks.one_of("name", name, self.values)
        values = self.values[name]
        return values.mean(1) if values.ndim > 1 else values


@dataclass(frozen=True)
class _OfSpectrum:
    """A statistic of the spectrum."""

    statistic: Statistic

    def __call__(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> Float[Array, "..."]:
        return self.statistic(sp)


@dataclass(frozen=True)
class _DeadUnits:
    """The share of hidden units whose activation has derivative 0 at every input."""

    function: LayeredFunction
    activation: Activation

    def __call__(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> Float[Array, "..."]:
        layers = jax.vmap(self.function.pre_activations, (None, 0))(params, xs)
        dead = [self._dead(z) for z in layers]
        if not dead:
            return jnp.zeros(())
        return jnp.mean(jnp.concatenate(dead).astype(jnp.float32))

    def _dead(self, z: Float[Array, "inputs units"]) -> Bool[Array, " units"]:
        return jnp.all(self.activation.slope(z) == 0, axis=0)


@dataclass(frozen=True)
class _Plan:
    """What a monitor measures: the static argument of its compiled update.

    Plans are equal if all fields are, so a monitor that is made anew at each step, as
    `optax.inject_hyperparams` does, is compiled once.

    Attributes:
        function: f(params, x).
        spans: The spans and their labels.
        is_single: Whether one span was asked for, without a label.
        method: The method.
        measures: The statistics by name.
        named: Those of them that have names of the package's own.
        every: The number of updates from one record to the next.
        capacity: The number of records kept.
        key_kind: The generator of the key, of which the program takes the bits.
    """

    function: Reference
    spans: tuple[tuple[str, Span], ...]
    is_single: bool
    method: Method
    measures: tuple[tuple[str, _OfSpectrum | _DeadUnits], ...]
    named: tuple[tuple[str, str], ...]
    every: int
    capacity: int
    key_kind: str | None

    def targets(self, params: Params, xs: PyTree[Array]) -> tuple[Target, ...]:
        """Find the spans at parameters, or at their shapes.

        Args:
            params: What f takes.
            xs: The inputs.
        """
        targets = []
        for _, span in self.spans:
            target = _resolution.resolve(
                self.function.function,
                params,
                _draws.row_shapes(xs),
                span=span,
                dtype=None,
                needs_factors=self.method.needs_factors,
                argument="xs",
            )
            targets.append(target)
        return tuple(targets)

    def observe(
        self,
        params: Params,
        xs: PyTree[Array],
        bits: Array | None,
        *,
        step: Int[Array, ""],
    ) -> Values:
        """Compute all statistics."""
        params = jax.lax.stop_gradient(params)
        with warnings.catch_warnings():
            # `init` has warned already.
            warnings.simplefilter("ignore", PrecisionWarning)
            targets = self.targets(params, xs)
        if bits is not None:
            # Each record draws afresh.
            key = jax.random.fold_in(_key(bits, self.key_kind), step)
            _, bits = _draws.key_parts(key)
        how = How(targets, self.method, self.key_kind)
        one_seed = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
        spectra = _spectra.measured(
            how,
            (one_seed, jnp.arange(1)),
            (xs, jnp.arange(_num_rows(xs))),
            bits,
        )
        by_label = {}
        for (label, _), target, sp in zip(self.spans, targets, spectra, strict=True):
            of_seed = jax.tree.map(lambda leaf: leaf[0], sp)
            values = self._statistics(of_seed, params, xs)
            by_label[label] = {
                name: value.astype(target.dtype) for name, value in values.items()
            }
        return self.nested(by_label)

    def stand_in(self, params: Params, xs: PyTree[Array]) -> Values:
        """Compute all statistics of spectra that were not measured, for their shapes."""
        dtype = precision.measuring_dtype(None, params, xs)
        shape = (_num_rows(xs), _SIZE_OF_STAND_IN)
        sp = Spectrum(
            log_values=jnp.zeros(shape, dtype),
            weights=jnp.full(shape, 1 / _SIZE_OF_STAND_IN, dtype),
            log_floor=jnp.full(shape[:1], -jnp.inf, dtype),
            method=self.method,
            size=_SIZE_OF_STAND_IN,
        )
        values = self._statistics(sp, params, xs)
        cast = {name: value.astype(dtype) for name, value in values.items()}
        return self.nested({label: cast for label, _ in self.spans})

    def _statistics(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> dict[str, Array]:
        """Compute the statistics of one span, and check their shapes."""
        num_rows = _num_rows(xs)
        values = {}
        for name, measure in self.measures:
            value = jnp.asarray(measure(sp, params, xs))
            if value.shape not in ((), (num_rows,)):
                raise InputError(
                    f"statistic {name!r} returns shape {value.shape}; it must return "
                    f"one number, or one for each of the {num_rows} inputs."
                )
            values[name] = value
        return values

    def nested(self, by_label: dict[str, dict[str, Array]]) -> Values:
        """Return the values of a single span without its label."""
        if not self.is_single:
            return by_label
        (values,) = by_label.values()
        return values

    def require_known(self, params: Params, xs: PyTree[Array]) -> None:
        """Refuse statistics whose records would all be NaN, without a word."""
        targets = self.targets(params, xs)
        bits = None
        if self.method.needs_key:
            bits = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        how = How(targets, self.method)

        def measured(params: Params, bits: Array | None) -> tuple[Spectrum, ...]:
            one_seed = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
            numbers = jnp.arange(_num_rows(xs))
            return _spectra.measured(how, (one_seed, jnp.arange(1)), (xs, numbers), bits)

        for sp in jax.eval_shape(measured, params, bits):
            for label, name in self.named:
                reason = why_unknown(name, sp)
                if reason is not None:
                    raise InputError(
                        f"statistics: {label!r} would be NaN in every record. {reason} "
                        "Known are 's_max', 'mean_s2', 'mean_s4', "
                        "'isometry_deviation', 'effective_rank' and 'stable_rank'."
                    )


def _key(bits: Array, kind: str | None) -> Key:
    """Return the key of these bits; an old key is its own bits."""
    return bits if kind is None else jax.random.wrap_key_data(bits, impl=kind)


def _num_rows(xs: PyTree[Array]) -> int:
    return jax.tree.leaves(xs)[0].shape[0]


# Outside of the caller's jit as well: in a loop that is not compiled, every update
# would else compile the branches of the cond anew.
@functools.partial(compilation.jit, static_argnums=0)
def _advanced(
    plan: _Plan,
    state: MonitorState,
    params: Params,
    xs: PyTree[Array],
    bits: Array | None,
) -> MonitorState:
    """Return the state after one update."""
    is_due = state.step % plan.every == 0
    is_kept = is_due & (state.count < plan.capacity)

    def record() -> tuple[Int[Array, " capacity"], Values]:
        values = plan.observe(params, xs, bits, step=state.step)
        kept = jax.tree.map(
            lambda buffer, value: buffer.at[state.count].set(value.astype(buffer.dtype)),
            state.values,
            values,
        )
        return state.steps.at[state.count].set(state.step), kept

    def skip() -> tuple[Int[Array, " capacity"], Values]:
        return state.steps, state.values

    steps, values = jax.lax.cond(is_kept, record, skip)
    return MonitorState(
        step=state.step + 1,
        count=state.count + is_kept.astype(jnp.int32),
        due=state.due + is_due.astype(jnp.int32),
        steps=steps,
        values=values,
    )


@public("monitor")
def monitor(
    f: Map | list[Map],
    xs: PyTree[Array],
    *,
    every: int,
    statistics: Iterable[str | Statistic] | Mapping[str, str | Statistic],
    capacity: int,
    method: str | Method = "dense",
    span: Spans = "end_to_end",
    key: Key | None = None,
    state: Current | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make a gradient transformation that changes nothing and records statistics.

    `optax.chain(isometry.monitor(...), optax.adam(1e-3))` trains bit for bit as
    `optax.adam(1e-3)` does, inside jit and scan too, and records statistics of the
    Jacobian's singular values as training goes (Pennington, Schoenholz and Ganguli,
    2017, section 3, look at them at initialization). `isometry.recorded(opt_state)`
    reads the records. A monitor may stand inside `optax.chain`, `MultiSteps` (where it
    counts the updates that are made), `apply_if_finite` and `inject_hyperparams`.

    What f takes must be current in every record. Often it takes more than is trained:
    batch statistics, frozen layers. Then `state` says how f's params are made of the
    trained ones and of extra arguments of `update`:

        watch = isometry.monitor(
            networks.flax(module, x), xs, every=100, capacity=50, statistics=["s_max"],
            state=lambda params, batch_stats:
                {"params": params, "batch_stats": batch_stats})
        updates, opt_state = optimizer.update(
            grads, opt_state, params, batch_stats=batch_stats)

    `nnx.Optimizer.update` passes keyword arguments on as well; the `apply_gradients` of
    a Flax `TrainState` does not, so there `tx.update` is called by hand. Inside
    `optax.masked` and `multi_transform` a monitor sees a part of the parameters alone,
    and needs `state` too. Without `state` it refuses params with parts missing, and an
    f that closes over floating JAX arrays, which would stay as they are.

    Nothing is measured at other steps: `lax.cond` skips it. Under vmap that becomes a
    select, which measures at every step, so monitor one seed, or call
    `isometry.ensemble` now and then. A record costs a `spectrum` at each of xs: for an
    MLP 64-128-128-128-10 on two cores 8 inputs take as long as 2.4 gradients of a batch
    of 32, over the hidden span as 37.

    Args:
        f: A `Network`, or any f(params, x) of one example. A network of the package's
            adapters is measured in inference mode.
        xs: Inputs along a first axis: where the Jacobian is taken.
        every: A record is made at the updates 0, every, 2 every, ... before they are
            applied: the first sees the initial parameters.
        statistics: Names ("s_min", "s_median", "s_max", "mean_s2", "mean_s4",
            "isometry_deviation", "log_spread", "effective_rank", "stable_rank",
            "condition_number", "zero_fraction", "exact_zero_fraction", and of
            `networks.mlp` "dead_units", the share of hidden units whose activation has
            derivative 0 at all xs), or functions of a `Spectrum` over (inputs,) that
            return () or (inputs,). A mapping gives them names of one's own.
        capacity: The number of records kept. When they are full, nothing more is
            measured, and `missed` counts what was due: steps // every + 1 are enough.
        method: As in `isometry.spectrum`. A stochastic one draws afresh for each
            record.
        span: As in `isometry.spectrum`; or a list of spans, or a mapping from labels to
            spans, all measured at the same steps. The label of a span in a list is its
            name, or "a -> b".
        key: A random key, for stochastic methods.
        state: A function (params, name=value, ...) of the trained parameters, and of
            those extra arguments of `update` that it names (all of them if it takes
            **kwargs), to what f takes as params. None: the trained parameters are all
            that f takes. `lambda params: params` says that arrays which f closes over
            are meant to stay as they are.

    Returns:
        A gradient transformation.

    Raises:
        InputError: An argument is not of this form; a statistic is unknown, repeated,
            of another shape, or one that `method` cannot tell; f would be measured at
            what is no longer current; an extra argument that `state` names is missing.
            What needs parameters is said by the optimizer's `init`.

    Example:
        >>> net = networks.mlp([4, 8, 3], "tanh")
        >>> xs = jax.random.normal(jax.random.key(1), (2, 4))
        >>> watch = isometry.monitor(
        ...     net, xs, every=2, statistics=["s_max"], capacity=3)
        >>> optimizer = optax.chain(watch, optax.sgd(0.1))
        >>> params = net.init(jax.random.key(0))
        >>> opt_state = optimizer.init(params)
        >>> for _ in range(4):
        ...     updates, opt_state = optimizer.update(params, opt_state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> isometry.recorded(opt_state).steps
        array([0, 2], dtype=int32)
    """
    f = _resolution.chained(f)
    function = _resolution.function_of(f)
    checks.integer("every", every, low=1)
    checks.integer("capacity", capacity, low=1)
    chosen = methods.named(method)
    methods.require_key(chosen, key)
    key_kind = bits = None
    if key is not None:
        key_kind, bits = _draws.key_parts(checks.key("key", key))
    if state is not None and not callable(state):
        raise InputError(
            f"state={checks.show(state)} is not a function; write "
            "state=lambda params, batch_stats: {...}."
        )
    xs, _ = _ensemble.inputs_of(f, xs)
    named = _named(statistics)
    plan = _Plan(
        function=Reference(function),
        spans=_labelled(span),
        is_single=not isinstance(span, (list, Mapping)),
        method=chosen,
        measures=tuple((name, _measure(one, f)) for name, one in named.items()),
        named=tuple((name, one) for name, one in named.items() if isinstance(one, str)),
        every=int(every),
        capacity=int(capacity),
        key_kind=key_kind,
    )
    # What a network is made of is known before its parameters are.
    shapes = None
    if isinstance(f, Network) and f.example is not None:
        shapes = f.shapes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)
            plan.require_known(shapes, xs)

    @public("monitor")
    def init(params: Params) -> MonitorState:
        given = shapes
        if state is None:
            _require_whole(params, shapes)
            _require_closed(function, params, xs)
            given = params
        zero = jnp.zeros((), jnp.int32)
        if given is None:
            values = jax.eval_shape(plan.stand_in, params, xs)
        else:
            plan.require_known(given, xs)
            observe = functools.partial(plan.observe, step=zero)
            values = jax.eval_shape(observe, given, xs, bits)
        buffers = jax.tree.map(
            lambda value: jnp.zeros((capacity, *value.shape), value.dtype), values
        )
        steps = jnp.zeros(capacity, jnp.int32)
        return MonitorState(zero, zero, due=zero, steps=steps, values=buffers)

    @public("monitor")
    def update(
        updates: PyTree[Array],
        opt_state: MonitorState,
        params: Params | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree[Array], MonitorState]:
        if params is None:
            raise InputError(
                "update() got no params; write optimizer.update(grads, opt_state, "
                "params)."
            )
        current = params
        if state is not None:
            current = _current(state, params, extra)
            if shapes is not None:
                _require_whole(current, shapes)
        return updates, _advanced(plan, opt_state, current, xs, bits)

    # The types of optax take arguments by position alone.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _current(state: Current, params: Params, extra: Mapping[str, PyTree]) -> Params:
    """Make f's params of the trained ones and of extra arguments."""
    parameters = inspect.signature(state).parameters.values()
    taken = extra
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        names = {one.name for one in parameters}
        taken = {name: value for name, value in extra.items() if name in names}
    # The first parameter is that of the trained ones, whatever its name.
    missing = [
        one.name
        for one in list(parameters)[1:]
        if one.default is inspect.Parameter.empty
        and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        and one.name not in taken
    ]
    if missing:
        words = ", ".join(f"{name}=..." for name in missing)
        raise InputError(
            f"state takes {', '.join(missing)}, and update() got "
            f"{', '.join(extra) or 'no extra arguments'}; write "
            f"optimizer.update(grads, opt_state, params, {words})."
        )
    return state(params, **taken)


def _is_masked(node: object) -> bool:
    return isinstance(node, optax.MaskedNode)


def _require_whole(params: Params, shapes: Params | None) -> None:
    """Refuse a part of what f takes: the rest would not be what it is in training.

    Args:
        params: What would be passed to f.
        shapes: All parameters of a network, if they are known.
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
        return
    num_given, num_whole = len(nodes), len(jax.tree.leaves(shapes))
    # Of fewer leaves a collection is missing. Other differences are f's to judge, which
    # may take mappings of another kind, for example.
    if num_given < num_whole:
        raise InputError(
            f"params has {num_given} leaves, and the network has {num_whole} "
            f"({_outline(shapes)}): what training changes beside the parameters, such "
            "as batch statistics, is missing. Write state=lambda params, batch_stats: "
            '{"params": params, "batch_stats": batch_stats}, for example, and '
            "optimizer.update(grads, opt_state, params, batch_stats=batch_stats)."
        )


def _outline(shapes: Params) -> str:
    """Name the entries at the top of a tree."""
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    tops = dict.fromkeys(jax.tree_util.keystr(path[:1]) for path, _ in paths)
    return ", ".join(tops)


def _require_closed(function: Map, params: Params, xs: PyTree[Array]) -> None:
    """Refuse a function that closes over arrays, which would stay as they are now."""
    # The functions of layered networks hold no arrays.
    if isinstance(function, LayeredFunction):
        return
    try:
        closed, _ = traced(function, params, _draws.row_shapes(xs))
    # What a user's function raises is reported where the span is resolved.
    except Exception:
        return
    # NumPy's arrays are tables that a model makes for itself, such as a mask. A tracer
    # belongs to the step that is being traced, and is current.
    held = [
        number
        for number in jaxprs.constants(closed)
        if isinstance(number, jax.Array)
        and not checks.is_traced(number)
        and jnp.issubdtype(number.dtype, jnp.floating)
    ]
    if held:
        kinds = ", ".join(f"{number.dtype}{list(number.shape)}" for number in held[:3])
        raise InputError(
            f"f closes over {len(held)} floating arrays ({kinds}), which would stay as "
            "they are now, while training may change them, as it does batch "
            "statistics. Let f take them in its params, and write state=lambda params, "
            "batch_stats: (params, batch_stats), with optimizer.update(grads, "
            "opt_state, params, batch_stats=batch_stats). If they are meant to stay, "
            "write state=lambda params: params."
        )


def _labelled(span: Spans) -> tuple[tuple[str, Span], ...]:
    """Return the spans with their labels."""
    if isinstance(span, Mapping):
        labelled = {str(label): one for label, one in span.items()}
    elif isinstance(span, list):
        labelled = {}
        for one in span:
            label = _label(one)
            if label in labelled:
                raise InputError(f"span holds {label!r} twice; write each span once.")
            labelled[label] = one
    else:
        labelled = {"": span}
    if not labelled:
        raise InputError('span is empty; write ["end_to_end", "hidden"].')
    return tuple(
        (label, _resolution.canonical(one)) for label, one in labelled.items()
    )


def _label(span: Span) -> str:
    """Write a span as a label: "hidden", "input -> blocks/0[-1]"."""
    span = _resolution.canonical(span)
    return span if isinstance(span, str) else " -> ".join(map(_written, span))


def _written(end: End) -> str:
    if isinstance(end, str):
        return end
    name, index = end
    return f"{name}{list(np.atleast_1d(index))}"


def _named(
    statistics: Iterable[str | Statistic] | Mapping[str, str | Statistic],
) -> dict[str, str | Statistic]:
    """Return every statistic by its name."""
    if isinstance(statistics, str) or not isinstance(statistics, Iterable):
        raise InputError(
            f"statistics={checks.show(statistics)} is no sequence; write "
            '["isometry_deviation"].'
        )
    named: dict[str, str | Statistic] = {}
    if isinstance(statistics, Mapping):
        named.update(statistics)
    else:
        for statistic in statistics:
            name = statistic
            if not isinstance(statistic, str):
                name = getattr(statistic, "__name__", repr(statistic))
            if name in named:
                raise InputError(
                    f"two statistics are called {name!r}; write a mapping of names."
                )
            named[name] = statistic
    if not named:
        raise InputError('statistics is empty; write ["isometry_deviation"].')
    return named


def _measure(statistic: str | Statistic, f: Map) -> _OfSpectrum | _DeadUnits:
    """Return what computes a statistic.

    Args:
        statistic: A name, or a function of a spectrum.
        f: The network, or any other function.
    """
    if callable(statistic):
        return _OfSpectrum(statistic)
    # Of a chain the activation is not known.
    has_units = isinstance(f, LayeredNetwork) and f.activation is not None
    known = [*STATISTICS, DEAD] if has_units else STATISTICS
    checks.one_of("statistics", statistic, known)
    if statistic == DEAD:
        assert isinstance(f, LayeredNetwork), "others have no statistic of this name"
        assert f.activation is not None, "others have no statistic of this name"
        return _DeadUnits(f.function, f.activation)
    return _OfSpectrum(STATISTICS[statistic])


@public("recorded")
def recorded(opt_state: PyTree) -> Records | dict[str, Records]:
    """Read what the monitor inside an optimizer's state has recorded.

    Runs on the host.

    Args:
        opt_state: The state of an optimizer, with a monitor anywhere inside.

    Returns:
        The records; of a monitor of several spans, a dict of records by label.

    Raises:
        InputError: No monitor is in it, or several are (pass the part that holds the
            one meant, as `opt_state[0]` of a chain); states of several seeds are
            stacked (pass one: `jax.tree.map(lambda a: a[i], opt_state)`).

    Example:
        >>> watch = isometry.monitor(
        ...     jnp.matmul, jnp.ones((1, 2)), every=1, statistics=["s_max"], capacity=4)
        >>> isometry.recorded(watch.init(jnp.eye(2))).missed
        0
    """
    checks.on_host("opt_state", opt_state)
    found = [leaf for leaf in _nodes(opt_state) if isinstance(leaf, MonitorState)]
    if len(found) != 1:
        hint = "chain isometry.monitor(...) into the optimizer"
        if found:
            hint = "pass the part that holds the one"
        raise InputError(f"{len(found)} monitors in this state; {hint}.")
    (state,) = found
    if jnp.ndim(state.count):
        raise InputError(
            f"the state of {jnp.shape(state.count)} runs; write "
            "jax.tree.map(lambda a: a[i], opt_state)."
        )
    if any(isinstance(part, dict) for part in state.values.values()):
        return {label: _records(state, part) for label, part in state.values.items()}
    return _records(state, state.values)


def _nodes(opt_state: PyTree) -> list[object]:
    """Return the leaves of a state, among them the states of monitors."""
    return jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, MonitorState)
    )


def _records(state: MonitorState, values: Mapping[str, Array]) -> Records:
    num_kept = int(state.count)
    return Records(
        steps=np.asarray(state.steps)[:num_kept],
        values={name: np.asarray(buffer)[:num_kept] for name, buffer in values.items()},
        missed=int(state.due) - num_kept,
    )
