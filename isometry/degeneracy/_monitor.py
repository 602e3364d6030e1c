"""monitor: statistics of the Jacobian's singular values, recorded while a network trains."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isometry import _checks
from isometry._internal import checks
from isometry.degeneracy._statistics import STATISTICS
from isometry.measure import _draws, _reasons, _resolution, _spectra, methods
from isometry.measure._record import Spectrum
from isometry.networks._layered import LayeredNetwork as Network

DEAD = "dead_units"

# Statistics that only singular values tell, and the statistic of a `Spectrum` that says why nodes do not.
_OF_VALUES = {
    "s_min": "quantile",
    "s_median": "quantile",
    "condition_number": "condition_number",
    "log_spread": "log_spread",
    "zero_fraction": "zero_fraction",
    "exact_zero_fraction": "zero_fraction",
}
Statistic = str | Callable[[Spectrum], Any]
Measure = Callable[[Spectrum, Any], Any]  # of the spectra and the parameters


class MonitorState(NamedTuple):
    """`step`: updates seen; `count`, `due`: records kept, and due (kept or not); `steps`: (capacity,) those recorded;
    `values`: statistic → what was recorded."""

    step: Any
    count: Any
    due: Any
    steps: Any
    values: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Records:
    """What a monitor has recorded. `records["effective_rank"]` is (records,), averaged over inputs.

    - `steps`: (records,), updates made before each record, 0 the initial parameters.
    - `values`: name → (records, inputs), or (records,) for a statistic of all inputs together. Not finite where the
      training itself no longer was.
    - `missed`: how many more were due when the buffer was full.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    missed: int

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, name: str) -> np.ndarray:
        _checks.one_of("Records", among=self.values, name=name)
        found = self.values[name]
        return found.mean(1) if found.ndim > 1 else found


def monitor(
    f: Any,
    xs: Any,
    *,
    every: int,
    statistics: Iterable[Statistic] | Mapping[str, Statistic],
    capacity: int,
    method: Any = "dense",
    span: str = "end_to_end",
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """A gradient transformation that changes nothing and records statistics of the Jacobian ∂f/∂x as training goes.

    `optax.chain(isometry.monitor(...), optax.adam(1e-3))` trains bit for bit as `optax.adam(1e-3)` does, inside jit and
    scan too. `isometry.recorded(opt_state)` reads the records.

    **Arguments**
    - `f`: a `Network`, or any f(params, x) → array; `params` are those that are trained.
    - `xs`: (inputs, *x.shape), floating: where the Jacobian is taken.
    - `every`: at the updates 0, every, 2·every, ..., before they are applied; the first sees the initial parameters.
    - `statistics`: names ("s_min", "s_median", "s_max", "mean_s2", "mean_s4", "isometry_deviation", "log_spread",
      "effective_rank", "stable_rank", "condition_number", "zero_fraction", "exact_zero_fraction", and of a Network of
      known units "dead_units": the share of hidden units with slope 0 at every one of xs), or functions of a `Spectrum`
      over (inputs,) that return () or (inputs,); a mapping gives them names of one's own.
    - `capacity`: records kept. When they are full, nothing more is measured, and `missed` counts what was due: steps //
      every + 1 are enough.
    - `method`, `span`, `key`: as in `isometry.spectrum`; a stochastic method draws afresh at each record.

    Cost: none at the other steps, as a `lax.cond` skips them (under vmap it becomes a `select`, which measures at every
    step: monitor one seed, or call `isometry.ensemble` now and then). A record costs a dense `spectrum` at each of xs:
    for an MLP 64-128-128-128-10 on two cores 8 inputs take as long as 2.4 gradients of a batch of 32 (Jacobians of
    10 × 64), over the hidden span as 37 (of 128 × 128).

    **Raises** `ValueError`: every or capacity below 1; an unknown or repeated statistic, one that returns another
    shape or that `method` cannot tell (known here for a Network, else when the optimizer's `init` is called); xs not
    floating, finite rows; what `spectrum` raises; and `update` called without params.

    Source: the Jacobian along training: Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, section 3.
    """
    call = "monitor"
    with _checks.named(call):
        function = _resolution.function_of(f)
        _resolution.canonical(span)
        chosen = methods.named(method)
        methods.require_key(chosen, key)
        if key is not None:
            checks.key("key", key)
    _checks.integer(call, low=1, every=every, capacity=capacity)
    xs = _checks.array(call, xs=xs)
    shape = f.input_shape if isinstance(f, Network) else None
    _checks.examples(call, xs.shape[1:] if shape is None else shape, xs)
    if not isinstance(statistics, (str, Mapping)) and isinstance(statistics, Iterable):
        statistics = list(statistics)  # they are read more than once
    measures = _measures(statistics, f, xs)

    def target_of(params: Any) -> Any:
        with _checks.named(call):
            target = _resolution.resolve(function, params, xs[0], span=span, dtype=None)
            chosen.check(target, key)
        return target

    def observe(params: Any, step: Any) -> dict[str, Any]:
        params = jax.lax.stop_gradient(params)
        with warnings.catch_warnings():
            # `init` has warned already.
            warnings.simplefilter("ignore", _checks.PrecisionWarning)
            target = target_of(params)
        sp = _spectrum_at(target, chosen, params, xs, None if key is None else jax.random.fold_in(key, step))
        return {name: jnp.asarray(measure(sp, params)).astype(target.dtype) for name, measure in measures.items()}

    def require_known(target: Any, params: Any) -> None:
        """Refuse statistics that the method does not tell: their records would be NaN without a word."""
        sp = jax.eval_shape(lambda params: _spectrum_at(target, chosen, params, xs, key), params)
        if sp.knows_values:
            return
        for name, statistic in _named(statistics).items():
            asked = _OF_VALUES.get(statistic) if isinstance(statistic, str) else None
            if asked is not None:
                reason = _reasons.of_quadrature(asked, "s", sp.method)
                raise _checks.InputError(
                    f"{call}(): statistics: {name!r} would be NaN in every record. {reason} Known are 's_max', "
                    "'mean_s2', 'mean_s4', 'isometry_deviation', 'effective_rank' and 'stable_rank'."
                )

    if isinstance(f, Network):
        # What it is made of is known before its parameters are.
        shapes = jax.eval_shape(f.init, jax.random.key(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", _checks.PrecisionWarning)
            require_known(target_of(shapes), shapes)

    def init(params: Any) -> MonitorState:
        require_known(target_of(params), params)
        zero = jnp.zeros((), jnp.int32)
        found = jax.eval_shape(observe, params, zero)
        for name, value in found.items():
            if value.shape not in ((), (len(xs),)):
                raise _checks.InputError(
                    f"{call}(): statistic {name!r} returns shape {value.shape}; it must return one number, or one for "
                    f"each of the {len(xs)} inputs."
                )
        values = {name: jnp.zeros((capacity, *value.shape), value.dtype) for name, value in found.items()}
        return MonitorState(zero, zero, zero, jnp.zeros(capacity, jnp.int32), values)

    @jax.jit  # outside the caller's jit as well, or every update would compile its branches anew
    def advance(state: MonitorState, params: Any) -> MonitorState:
        due = state.step % every == 0
        keep = due & (state.count < capacity)

        def record() -> tuple[Any, dict[str, Any]]:
            found = observe(params, state.step)
            kept = {name: buffer.at[state.count].set(found[name]) for name, buffer in state.values.items()}
            return state.steps.at[state.count].set(state.step), kept

        steps, values = jax.lax.cond(keep, record, lambda: (state.steps, state.values))
        count, asked = state.count + keep.astype(jnp.int32), state.due + due.astype(jnp.int32)
        return MonitorState(state.step + 1, count, asked, steps, values)

    def update(updates: Any, state: MonitorState, params: Any = None, **_: Any) -> tuple[Any, MonitorState]:
        if params is None:
            raise _checks.InputError(
                f"{call}(): update() got no params; write optimizer.update(grads, opt_state, params)."
            )
        return updates, advance(state, params)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _spectrum_at(target: Any, method: Any, params: Any, xs: Any, key: Any) -> Spectrum:
    """The spectra of one set of parameters over (inputs,)."""
    key_kind, bits = (None, None) if key is None else _draws.key_parts(key)
    how = _spectra.Static((target,), method, key_kind)
    one = jax.tree.map(lambda a: jnp.asarray(a)[None], params)
    (found,) = _spectra.measured(how, (one, jnp.arange(1)), (xs, jnp.arange(len(xs))), bits)
    return jax.tree.map(lambda a: a[0], found)


def _measures(statistics: Any, f: Any, xs: Any) -> dict[str, Measure]:
    """Every statistic by its name, as a function of the spectra and the parameters."""
    if isinstance(statistics, str) or not isinstance(statistics, Iterable):
        raise _checks.InputError(
            f'monitor(): statistics={_checks.show(statistics)} is no sequence; write ["isometry_deviation"].'
        )
    named = _named(statistics)
    if not named:
        raise _checks.InputError('monitor(): statistics is empty; write ["isometry_deviation"].')
    return {name: _measure(statistic, f, xs) for name, statistic in named.items()}


def _named(statistics: Any) -> dict[str, Statistic]:
    """Every statistic by its name."""
    if isinstance(statistics, Mapping):
        return dict(statistics)
    named: dict[str, Statistic] = {}
    for statistic in statistics:
        name = _name(statistic)
        if name in named:
            raise _checks.InputError(f"monitor(): two statistics are called {name!r}; write a mapping of names.")
        named[name] = statistic
    return named


def _name(statistic: Any) -> str:
    return statistic if isinstance(statistic, str) else getattr(statistic, "__name__", repr(statistic))


def _measure(statistic: Any, f: Any, xs: Any) -> Measure:
    if callable(statistic):
        return lambda sp, params: statistic(sp)
    known = isinstance(f, Network) and f.activation is not None  # a chain's units are not known
    _checks.one_of("monitor", among=[*STATISTICS, *([DEAD] if known else [])], statistics=statistic)
    if statistic == DEAD:
        return lambda sp, params: _dead_share(f, params, xs)
    return lambda sp, params: STATISTICS[statistic](sp)


def _dead_share(net: Any, params: Any, xs: Any) -> Any:
    """Share of all hidden units whose slope is exactly zero at every input."""
    layers = jax.vmap(net.function.pre_activations, (None, 0))(params, xs)
    dead = [jnp.all(net.activation.slope(z) == 0, 0) for z in layers]
    return jnp.mean(jnp.concatenate(dead).astype(jnp.float32)) if dead else jnp.zeros(())


def recorded(opt_state: Any) -> Records:
    """What the monitor inside an optimizer's state has recorded, wherever in the state it is.

    Runs on the host; a tracer is a `TypeError`.

    **Raises** `ValueError`: no monitor in it, or several (pass the part that holds the one meant, as `opt_state[0]` of
    a chain); states of several seeds stacked (pass one: `jax.tree.map(lambda a: a[i], opt_state)`).
    """
    _checks.concrete("recorded", opt_state=opt_state)
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, MonitorState))
    found = [leaf for leaf in leaves if isinstance(leaf, MonitorState)]
    if len(found) != 1:
        hint = "chain isometry.monitor(...) into the optimizer" if not found else "pass the part that holds the one"
        raise _checks.InputError(f"recorded(): {len(found)} monitors in this state; {hint}.")
    state = found[0]
    if jnp.ndim(state.count):
        raise _checks.InputError(
            f"recorded(): the state of {jnp.shape(state.count)} runs; write jax.tree.map(lambda a: a[i], opt_state)."
        )
    kept = int(state.count)
    values = {name: np.asarray(buffer)[:kept] for name, buffer in state.values.items()}
    return Records(np.asarray(state.steps)[:kept], values, int(state.due) - kept)
