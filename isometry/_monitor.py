"""monitor: statistics of the Jacobian's singular values, recorded as a network trains.

A monitor is a gradient transformation of optax that leaves the gradients as they are.
Its `update` gets the parameters before each training step, and the extra arguments of
the user's call. A record holds the values of all statistics at one step; it is due at
every `every`-th step, and kept if the buffer has room. The three modules:

- `_monitor`: the public functions, and the state inside the state of the optimizer.
- `_monitor_plan`: what is measured.
- `_monitor_current`: at which parameters, and that they are current, as in training.
"""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from isometry import _monitor_current, _monitor_plan
from isometry._internal import checks, compilation
from isometry._internal.errors import InputError, PrecisionWarning, public
from isometry._internal.types import Key, Params
from isometry._monitor_current import Current
from isometry._monitor_plan import Plan, Spans, Statistics, Values
from isometry.measure import _draws, _ensemble, _resolution, methods
from isometry.measure._function import Map, Reference
from isometry.measure.methods import Method
from isometry.networks import Network


class MonitorState(NamedTuple):
    """The state of a monitor inside the state of an optimizer.

    Attributes:
        step: The number of updates so far.
        kept: The number of records in the buffers.
        due: The number of records that were due, kept or not.
        steps: The number of updates before each record, of shape (capacity,).
        values: The buffers: for each statistic an array (capacity,) or (capacity,
            inputs); with several spans, such a dict for each label.

    Example:
        >>> watch = isometry.monitor(
        ...     jnp.matmul, jnp.ones((1, 2)), every=1, statistics=["s_max"], capacity=4)
        >>> state = watch.init(jnp.eye(2))
        >>> int(state.kept), state.values["s_max"].shape
        (0, (4, 1))
    """

    step: Int[Array, ""]
    kept: Int[Array, ""]
    due: Int[Array, ""]
    steps: Int[Array, " capacity"]
    values: Values


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a monitor for one span.

    `records["effective_rank"]` is an array (records,), the mean over inputs.

    Attributes:
        steps: The number of updates made before each record, 0 for the initial
            parameters.
        values: For each statistic an array (records, inputs), or (records,) if it is
            one number for all inputs. Values at parameters that are not finite are not
            finite.
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


# Compiled here, because in a training loop without jit every update would otherwise
# compile both branches of the cond anew.
@functools.partial(compilation.jit, static_argnums=0)
def _advanced(
    plan: Plan,
    state: MonitorState,
    params: Params,
    xs: PyTree[Array],
    bits: Array | None,
) -> MonitorState:
    """Return the state after one update, with a record if one is due.

    Args:
        plan: What is measured.
        state: The state before the update.
        params: What f takes as params.
        xs: The inputs.
        bits: The bits of the random key; None without a key.
    """
    is_due = state.step % plan.every == 0
    is_kept = is_due & (state.kept < plan.capacity)

    # `lax.cond` runs this only if a record is due and there is room.
    def record() -> tuple[Int[Array, " capacity"], Values]:
        values = plan.observe(params, xs, bits=bits, step=state.step)
        kept = jax.tree.map(
            lambda buffer, value: buffer.at[state.kept].set(value.astype(buffer.dtype)),
            state.values,
            values,
        )
        return state.steps.at[state.kept].set(state.step), kept

    def skip() -> tuple[Int[Array, " capacity"], Values]:
        return state.steps, state.values

    steps, values = jax.lax.cond(is_kept, record, skip)
    return MonitorState(
        step=state.step + 1,
        kept=state.kept + is_kept.astype(jnp.int32),
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
    statistics: Statistics,
    capacity: int,
    method: str | Method = "dense",
    span: Spans = "end_to_end",
    key: Key | None = None,
    state: Current | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Make a gradient transformation that records statistics as a network trains.

    It leaves gradients as they are. `optax.chain(isometry.monitor(...),
    optax.adam(1e-3))` trains bit for bit as `optax.adam(1e-3)` does, inside jit and
    scan too. The statistics are those of the Jacobian's singular values (Pennington,
    Schoenholz and Ganguli, 2017, section 3, study them at initialization).
    `isometry.recorded(opt_state)` returns the records. A monitor may stand inside
    `optax.chain`, `MultiSteps` (where it counts the updates that are made),
    `apply_if_finite` and `inject_hyperparams`.

    Each record is measured at the params that f has at this step. Often they hold more
    than the optimizer trains, such as batch statistics and frozen layers. Then `state`
    is a function that returns them, given the trained parameters and extra arguments of
    `update`::

        watch = isometry.monitor(
            networks.flax(module, x), xs, every=100, capacity=50, statistics=["s_max"],
            state=lambda params, batch_stats:
                {"params": params, "batch_stats": batch_stats})
        updates, opt_state = optimizer.update(
            grads, opt_state, params, batch_stats=batch_stats)

    With NNX, `state=lambda params, whole: whole`, and `optimizer.update(model, grads,
    whole=net.params_of(model))`. The `apply_gradients` of a Flax `TrainState` passes no
    extra arguments on, so there `tx.update` is called by hand. Inside `optax.masked`
    and `multi_transform` a monitor gets a part of the parameters alone, and needs
    `state` too. Without `state`, params with a missing part are refused. So is an f
    that closes over arrays which training may change: floating JAX arrays, and NumPy
    arrays that f uses as a running variance. Other NumPy arrays may be tables, as of
    positions; a warning names them.

    At steps without a record nothing is measured: `lax.cond` skips it. Under vmap the
    cond becomes a select, which measures at every step; so monitor one seed, or call
    `isometry.ensemble` now and then. A record costs one `spectrum` for each input. For
    an MLP 64-128-128-128-10 on two cores, 8 inputs take as long as 2.4 gradients of a
    batch of 32; over the hidden span, as long as 37.

    Args:
        f: A `Network`, or any f(params, x) of one example. A network of the package's
            adapters is measured in inference mode.
        xs: Inputs along a first axis: where the Jacobian is taken.
        every: Records are made at the updates 0, every, 2 every, ..., before the update
            is applied. So the first record is of the initial parameters.
        statistics: Names ("s_min", "s_median", "s_max", "mean_s2", "mean_s4",
            "isometry_deviation", "log_spread", "effective_rank", "stable_rank",
            "condition_number", "zero_fraction", "exact_zero_fraction", and of
            `networks.mlp` "dead_units", the share of hidden units whose activation has
            derivative 0 at all xs), or functions of a `Spectrum` with batch axes
            (inputs,) that return an array () or (inputs,). A mapping is from names of
            your own to such names and functions.
        capacity: The number of records kept: steps // every + 1 are enough. When the
            buffer is full, nothing more is measured, and `missed` counts the records
            that were due.
        method: As in `isometry.spectrum`. A stochastic method draws new probes for each
            record.
        span: As in `isometry.spectrum`; or a list of spans, or a mapping from labels to
            spans, all measured at the same steps. The label of a span in a list is its
            name, or "a -> b".
        key: A random key, for stochastic methods.
        state: A function of the trained parameters, which come first, and of those
            extra arguments of `update` that it names (all of them if it takes
            **kwargs), to what f takes as params. If its first argument has the name of
            an extra argument, the trained parameters are not passed. None: f takes the
            trained parameters and nothing else. With `lambda params: params`, f may
            close over arrays, which stay as they are.

    Returns:
        A gradient transformation.

    Raises:
        InputError: An argument is not of this form; a statistic is unknown, repeated,
            of another shape, or cannot be computed by `method`; f would be measured at
            parameters that are no longer current; an extra argument that `state` names
            is missing. Checks that need the parameters are made by the optimizer's
            `init` and `update`.

    Warns:
        UserWarning: f closes over floating NumPy arrays of more than two numbers, and
            there is no `state`. By the optimizer's `init`.
        PrecisionWarning: f asks for less than full precision.

    Example:
        >>> import optax
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
    every = checks.integer("every", every, low=1)
    capacity = checks.integer("capacity", capacity, low=1)
    chosen = methods.named(method)
    methods.require_key(chosen, key)
    if state is not None and not callable(state):
        raise InputError(
            f"state={checks.show(state)} is not a function; write "
            "state=lambda params, batch_stats: {...}."
        )
    key_kind = bits = None
    if key is not None:
        key_kind, bits = _draws.key_parts(checks.key("key", key))
    # Checked on the host. They are passed to the compiled update as an argument,
    # because as constants they would be copied into the program.
    xs, _ = _ensemble.inputs_of(f, xs)
    function = _resolution.function_of(f)
    named = _monitor_plan.named(statistics)
    plan = Plan(
        function=Reference(function),
        spans=_monitor_plan.labelled(span),
        is_single=not isinstance(span, (list, Mapping)),
        method=chosen,
        measures=tuple(
            (name, _monitor_plan.measure(one, f)) for name, one in named.items()
        ),
        named=tuple((name, one) for name, one in named.items() if isinstance(one, str)),
        every=every,
        capacity=capacity,
        key_kind=key_kind,
    )
    watch = _Watch(
        plan=plan,
        function=function,
        xs=xs,
        bits=bits,
        state=state,
        shapes=_shapes_of(f),
    )
    watch.require_known()

    # The user calls these two after `monitor` has returned; errors and warnings still
    # begin with `monitor()`.
    @public("monitor")
    def init(params: Params) -> MonitorState:
        return watch.init(params)

    @public("monitor")
    def update(
        updates: PyTree[Array],
        opt_state: MonitorState,
        params: Params | None = None,
        **extra: PyTree,
    ) -> tuple[PyTree[Array], MonitorState]:
        return updates, watch.advanced(opt_state, params, extra)

    # The types of optax have these arguments as positional-only.
    positional = cast("optax.TransformUpdateExtraArgsFn", update)
    return optax.GradientTransformationExtraArgs(init, positional)


def _shapes_of(f: Map) -> Params | None:
    """Return the shapes of the parameters of a network; None for any other function."""
    if isinstance(f, Network) and f.example is not None:
        return f.shapes
    return None


@dataclass(frozen=True, eq=False)
class _Watch:
    """A monitor: what it measures, at which inputs and parameters.

    Attributes:
        plan: What is measured.
        function: f(params, x). The plan has a weak reference to it, because compiled
            programs keep plans alive; this field keeps f alive.
        xs: The inputs.
        bits: The bits of the random key; None without a key.
        state: The argument `state` of `monitor`; None if it was not given.
        shapes: The shapes of the parameters of a network; None if they are not known.
    """

    plan: Plan
    function: Map
    xs: PyTree[Array]
    bits: Array | None
    state: Current | None
    shapes: Params | None

    def require_known(self) -> None:
        """Refuse spans and statistics that are not defined, if shapes are known.

        So the user has the error from `monitor`, and not from the optimizer's `init`.

        Raises:
            InputError: A span does not exist, or a statistic would be NaN.
        """
        if self.shapes is None:
            return
        # `init` warns once more, at the parameters themselves.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)
            self.plan.require_known(self.shapes, self.xs, self.bits)

    def init(self, params: Params) -> MonitorState:
        """Return the state before the first update, with empty buffers.

        Args:
            params: The trained parameters.

        Raises:
            InputError: params has a missing part, or f closes over arrays which
                training may change.
        """
        params_of_f = self.shapes
        if self.state is None:
            params_of_f = _monitor_current.whole(params, self.shapes)
            _monitor_current.require_closed(self.function, params_of_f, self.xs)
        zero = jnp.zeros((), jnp.int32)
        # With `state`, the params of f depend on extra arguments of `update`, which are
        # not known here. A made-up spectrum then gives the shapes of the buffers.
        if params_of_f is None:
            values = jax.eval_shape(self.plan.stand_in, params, self.xs)
        else:
            self.plan.require_known(params_of_f, self.xs, self.bits)
            observe = functools.partial(self.plan.observe, bits=self.bits, step=zero)
            values = jax.eval_shape(observe, params_of_f, self.xs)
        # Of a fixed size from the start, so that every update compiles to one program.
        capacity = self.plan.capacity
        buffers = jax.tree.map(
            lambda value: jnp.zeros((capacity, *value.shape), value.dtype), values
        )
        steps = jnp.zeros(capacity, jnp.int32)
        return MonitorState(step=zero, kept=zero, due=zero, steps=steps, values=buffers)

    def advanced(
        self,
        opt_state: MonitorState,
        params: Params | None,
        extra: Mapping[str, PyTree],
    ) -> MonitorState:
        """Return the state after one update, with a record if one is due.

        Args:
            opt_state: The state before the update.
            params: The trained parameters; None if the user passed none.
            extra: The extra arguments of `update`, by name.

        Raises:
            InputError: params, or an extra argument that `state` needs, is missing.
        """
        if params is None:
            raise InputError(
                "update() got no params; write optimizer.update(grads, opt_state, "
                "params)."
            )
        # Without `state`, the trained parameters are all that f takes.
        current = params
        if self.state is not None:
            current = _monitor_current.current(self.state, params, extra)
        current = _monitor_current.whole(current, self.shapes)
        return _advanced(self.plan, opt_state, current, xs=self.xs, bits=self.bits)


@public("recorded")
def recorded(opt_state: PyTree) -> Records | dict[str, Records]:
    """Return the records of the monitor inside an optimizer's state.

    Runs on the host.

    Args:
        opt_state: The state of an optimizer, with a monitor anywhere inside.

    Returns:
        The records; for a monitor of several spans, a dict of records by label.

    Raises:
        InputError: The state has no monitor, or several (pass the part with one of
            them, such as `opt_state[0]` for a chain), or the states of several seeds
            are stacked (pass one of them: `jax.tree.map(lambda a: a[i], opt_state)`).

    Example:
        >>> watch = isometry.monitor(
        ...     jnp.matmul, jnp.ones((1, 2)), every=1, statistics=["s_max"], capacity=4)
        >>> isometry.recorded(watch.init(jnp.eye(2))).missed
        0
    """
    checks.on_host("opt_state", opt_state)
    states = [leaf for leaf in _nodes(opt_state) if isinstance(leaf, MonitorState)]
    if len(states) != 1:
        hint = "chain isometry.monitor(...) into the optimizer"
        if states:
            hint = "pass the part that holds the one"
        raise InputError(f"{len(states)} monitors in this state; {hint}.")
    (state,) = states
    # Under vmap, `kept` has an axis over seeds.
    if jnp.ndim(state.kept):
        raise InputError(
            f"the state of {jnp.shape(state.kept)} runs; write "
            "jax.tree.map(lambda a: a[i], opt_state)."
        )
    by_label = {
        label: _records(state, part)
        for label, part in state.values.items()
        if isinstance(part, dict)
    }
    if by_label:
        return by_label
    single = {
        name: part for name, part in state.values.items() if not isinstance(part, dict)
    }
    return _records(state, single)


def _nodes(opt_state: PyTree) -> list[object]:
    """Return the leaves of a state, where the state of a monitor counts as one leaf."""
    return jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, MonitorState)
    )


def _records(state: MonitorState, values: Mapping[str, Array]) -> Records:
    """Return the kept records of one span, whose buffers are `values`."""
    num_kept = int(state.kept)
    return Records(
        steps=np.asarray(state.steps)[:num_kept],
        values={name: np.asarray(buffer)[:num_kept] for name, buffer in values.items()},
        missed=int(state.due) - num_kept,
    )
