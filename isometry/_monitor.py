"""monitor: statistics of the Jacobian's singular values, recorded as a network trains.

A monitor is a gradient transformation of optax that changes nothing. Its `update` sees
the parameters before each step, and whatever else the training loop passes on.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from isometry import _monitor_plan
from isometry._internal import checks, compilation, jaxprs
from isometry._internal.errors import InputError, PrecisionWarning, public
from isometry._internal.types import Key, Params
from isometry._monitor_plan import Plan, Spans, Statistics, Values
from isometry.measure import _draws, _ensemble, _resolution, methods
from isometry.measure._function import Map, Reference, traced
from isometry.measure.methods import Method
from isometry.networks import Network
from isometry.structure import _names

# A function of the trained parameters, and of extra arguments of `update` by name, that
# returns f's params.
Current: TypeAlias = Callable[..., Params]


# Kinds of parameters of a function.
_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class MonitorState(NamedTuple):
    """The state of a monitor inside the state of an optimizer.

    Attributes:
        step: The number of updates seen.
        kept: The number of records kept.
        due: The number of records that were due, kept or not.
        steps: The update of each record, of shape (capacity,).
        values: What was recorded, by statistic, with leading axis (capacity,); for
            several spans, by label and statistic.

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
    """What a monitor has recorded of one span.

    `records["effective_rank"]` is (records,), averaged over inputs.

    Attributes:
        steps: The number of updates made before each record, 0 for the initial
            parameters.
        values: For each statistic an array (records, inputs), or (records,) if it is
            one number for all inputs. Not finite where the parameters were not.
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


# Compiled for itself: in a training loop without jit, every update would otherwise
# compile the branches of the cond anew.
@functools.partial(compilation.jit, static_argnums=0)
def _advanced(
    plan: Plan,
    state: MonitorState,
    params: Params,
    xs: PyTree[Array],
    bits: Array | None,
) -> MonitorState:
    """Return the state after one update."""
    is_due = state.step % plan.every == 0
    is_kept = is_due & (state.kept < plan.capacity)

    # One branch of the cond below: it runs only if a record is due and there is room.
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

    With NNX, `state=lambda params, whole: whole`, and `optimizer.update(model, grads,
    whole=net.params_of(model))`. The `apply_gradients` of a Flax `TrainState` passes
    nothing on, so there `tx.update` is called by hand. Inside `optax.masked` and
    `multi_transform` a monitor sees a part of the parameters alone, and needs `state`
    too. Without `state` it refuses params with parts missing, and an f that closes over
    floating JAX arrays, which would stay as they are.

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
        state: A function of the trained parameters, which come first, and of those
            extra arguments of `update` that it names (all of them if it takes
            **kwargs), to what f takes as params. A function whose first argument is an
            extra one gets the extra ones alone. None: the trained parameters are all
            that f takes. `lambda params: params` says that arrays which f closes over
            are meant to stay as they are.

    Returns:
        A gradient transformation.

    Raises:
        InputError: An argument is not of this form; a statistic is unknown, repeated,
            of another shape, or one that `method` cannot compute; f would be measured
            at parameters that are no longer current; an extra argument that `state`
            names is missing. Checks that need the parameters are made by the
            optimizer's `init` and `update`.

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
    # Checked on the host. They are passed to the compiled update as an argument,
    # because as constants they would be copied into the program.
    xs, _ = _ensemble.inputs_of(f, xs)
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
        every=int(every),
        capacity=int(capacity),
        key_kind=key_kind,
    )
    # A network knows the shapes of its parameters, so mistakes are found here, and not
    # at the optimizer's `init`.
    shapes = None
    if isinstance(f, Network) and f.example is not None:
        shapes = f.shapes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)
            plan.require_known(shapes, xs, bits)

    # Decorated too, because the user calls it after `monitor` has returned: errors and
    # warnings still begin with `monitor()`.
    @public("monitor")
    def init(params: Params) -> MonitorState:
        given = shapes
        if state is None:
            given = _whole(params, shapes)
            _require_closed(function, given, xs)
        zero = jnp.zeros((), jnp.int32)
        # With `state`, f's params depend on extra arguments, which come with `update`
        # only. A made-up spectrum then gives the shapes of the buffers.
        if given is None:
            values = jax.eval_shape(plan.stand_in, params, xs)
        else:
            plan.require_known(given, xs, bits)
            observe = functools.partial(plan.observe, bits=bits, step=zero)
            values = jax.eval_shape(observe, given, xs)
        buffers = jax.tree.map(
            lambda value: jnp.zeros((capacity, *value.shape), value.dtype), values
        )
        steps = jnp.zeros(capacity, jnp.int32)
        return MonitorState(step=zero, kept=zero, due=zero, steps=steps, values=buffers)

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
        # The plan holds f by a weak reference, as compiled programs must. The closure
        # of this function keeps f alive.
        _ = function
        current = params
        if state is not None:
            current = _current(state, params, extra)
        current = _whole(current, shapes)
        return updates, _advanced(plan, opt_state, current, xs=xs, bits=bits)

    # The types of optax have these arguments as positional-only.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _current(state: Current, params: Params, extra: Mapping[str, PyTree]) -> Params:
    """Call the user's `state` with the trained parameters and the extra arguments."""
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
    return isinstance(node, optax.MaskedNode)


def _whole(params: Params, shapes: Params | None) -> Params:
    """Return params as the tree that f takes; refuse them if a part is missing.

    The missing part would not be current, as it is in training. `nnx.Optimizer` passes
    bare arrays in place of NNX variables; they are put back by their names.

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
    if shapes is None or jax.tree.structure(params) == jax.tree.structure(shapes):
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
    """Write the key paths of the entries at the top of a tree."""
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    tops = dict.fromkeys(jax.tree_util.keystr(path[:1]) for path, _ in paths)
    return ", ".join(tops)


def _require_closed(function: Map, params: Params, xs: PyTree[Array]) -> None:
    """Refuse a function that closes over JAX arrays, which would not be current."""
    try:
        closed, _ = traced(function, params, _draws.row_shapes(xs))
    # If the user's function raises, it raises again where the span is resolved, and is
    # reported there.
    except Exception:
        return
    # Only JAX arrays are refused. NumPy arrays are tables that a model makes for
    # itself, such as a mask, and a tracer belongs to the step that is being traced, so
    # it is current.
    held = [
        constant
        for constant in jaxprs.constants(closed)
        if isinstance(constant, jax.Array)
        and not checks.is_traced(constant)
        and jnp.issubdtype(constant.dtype, jnp.floating)
    ]
    if held:
        kinds = ", ".join(f"{array.dtype}{list(array.shape)}" for array in held[:3])
        raise InputError(
            f"f closes over {len(held)} floating arrays ({kinds}), which would stay as "
            "they are now, while training may change them, as it does batch "
            "statistics. Let f take them in its params, and write state=lambda params, "
            "batch_stats: (params, batch_stats), with optimizer.update(grads, "
            "opt_state, params, batch_stats=batch_stats). If they are meant to stay, "
            "write state=lambda params: params."
        )


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
    states = [leaf for leaf in _nodes(opt_state) if isinstance(leaf, MonitorState)]
    if len(states) != 1:
        hint = "chain isometry.monitor(...) into the optimizer"
        if states:
            hint = "pass the part that holds the one"
        raise InputError(f"{len(states)} monitors in this state; {hint}.")
    (state,) = states
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
    """Return the leaves of a state, among them the states of monitors."""
    return jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, MonitorState)
    )


def _records(state: MonitorState, values: Mapping[str, Array]) -> Records:
    num_kept = int(state.kept)
    return Records(
        steps=np.asarray(state.steps)[:num_kept],
        values={name: np.asarray(buffer)[:num_kept] for name, buffer in values.items()},
        missed=int(state.due) - num_kept,
    )
