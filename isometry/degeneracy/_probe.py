"""A short training run that follows the rank of what training does to each hidden layer."""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from isometry._internal import compilation, precision, randomness
from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._flag import (
    CLEAR,
    NOT_RUN,
    RAISED,
    UNDECIDED,
    Flag,
    Thresholds,
)
from isometry.degeneracy._signals import INPUTS, Signals, observe, rank_of
from isometry.degeneracy._task import SGD, Task
from isometry.degeneracy._unit_flags import slopes
from isometry.measure._draws import adjust_seeds, draw_seeds
from isometry.networks._mlp import Mlp as Network

SEEDS = 3  # networks probed; the highest of their ranks is judged
RECORDS = 8  # points of a trajectory, evenly spaced after step 1


class State(NamedTuple):
    """Of all seeds: parameters, optimizer state, Σ g and Σ ‖g‖ of every weight, first step with g ≠ 0, last loss."""

    params: Any
    optimizer: Any
    sums: Any
    norms: Any
    first: Any
    loss: Any


@dataclass(frozen=True)
class Probe:
    """Ranks along a probe, of hidden weights only: arrays (seeds, records, layers), and where they come from.

    - `gradient_rank`: of the accumulated loss gradient Σ g, singular values above eps·Σ‖g‖_F: what rounding of the
      summed gradients could fake is not counted. Decay of the weights has no part in it.
    - `layers`, `shapes`: index and (fan_in, fan_out) of each hidden layer; `steps`: when recorded.
    - `first_signal`: (seeds, depth), first step at which any entry of a layer's gradient is not zero; −1 for never.
    - `loss`: (seeds, records), of the batch of that step.
    - `signals`: what became of the pre-activations, `Signals`; None for controls.
    """

    steps: np.ndarray
    layers: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    gradient_rank: np.ndarray
    loss: np.ndarray
    first_signal: np.ndarray
    signals: Signals | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a loss that is not finite is the string "inf"."""
        return asdict(self) | {"loss": np.where(np.isnan(self.loss), np.inf, self.loss)}

    @property
    def finite(self) -> bool:
        """Whether the loss stayed finite."""
        return bool(np.isfinite(self.loss).all())

    @property
    def trouble(self) -> str:
        """What became of a loss that is not finite, in words; empty if it is. The first is that of W(0)."""
        first = self.loss[:, 0]
        if not np.isfinite(first).all():
            what = "NaN" if np.isnan(first).any() else "infinite"
            return f"the loss is {what} at step 1, before anything is trained: the loss or the outputs are at fault"
        return "" if self.finite else "the probe's loss overflowed; lower the learning rate"


def start(function: Any, task: Task, params: Any) -> State:
    """The state before step 1, of stacked parameters."""
    weights = function.weights(params)
    seeds = weights[0].shape[0]
    # Made by NumPy, which compiles nothing; typed, or the first call would compile twice.
    per_layer = tuple(np.zeros(w.shape[:2], w.dtype) for w in weights)
    first = tuple(np.full(w.shape[:2], -1, np.int32) for w in weights)
    opt = jax.vmap(task.optimizer.init)(params)
    sums = tuple(np.zeros(w.shape, w.dtype) for w in weights)
    return State(params, opt, sums, per_layer, first, np.full(seeds, np.inf, np.float32))


@functools.partial(compilation.jit, static_argnames=("function", "loss", "optimizer"))
def _advance(function, loss, optimizer, state, xs, targets, batches, begin, end):
    """States after steps begin … end − 1 of every seed, on the same batches."""

    def objective(params, index):
        outputs = jax.vmap(function, (None, 0))(params, xs[index])
        return jnp.mean(jax.vmap(loss)(outputs, targets[index]))

    def step(t, state):
        value, grads = jax.value_and_grad(objective)(state.params, batches[t])
        updates, opt = optimizer.update(grads, state.optimizer, state.params)
        g = function.weights(grads)
        size = tuple(jnp.sqrt(jnp.sum(a**2, (1, 2))) for a in g)
        first = tuple(
            jnp.where((f < 0) & jnp.any(a != 0, (1, 2)), t + 1, f) for f, a in zip(state.first, g, strict=True)
        )
        return State(
            optax.apply_updates(state.params, updates),
            opt,
            jax.tree.map(jnp.add, state.sums, g),
            jax.tree.map(jnp.add, state.norms, size),
            first,
            value.astype(state.loss.dtype),
        )

    # Optimizers and losses are written for JAX's standard promotion: optax's Adam fails under the strict one.
    with precision.full(), jax.numpy_dtype_promotion("standard"):
        return jax.lax.fori_loop(begin, end, jax.vmap(step, (None, 0)), state)


def run(
    net: Network, task: Task, params: Any, records: int = RECORDS, certificates: Sequence[Certificate] = ()
) -> Probe:
    """Train all seeds of stacked `params` alike and record the ranks of the hidden layers; with the seeds'
    `certificates`, signals as well."""
    steps = len(task.batches)
    marks = sorted({1, *np.linspace(0, steps, records + 1).astype(int)[1:].tolist()} - {0})
    hidden = [layer for layer in net.plan if layer.role == "hidden"]
    state, done = start(net.function, task, params), 0
    ranks, losses = [], []
    see = lambda params: observe(net.function, params, task.xs, certificates, net.activation.kinks)  # noqa: E731
    seen = [see(params)] if certificates else []
    for mark in marks:
        state = _advance(
            net.function, task.loss, task.optimizer, state, task.xs, task.targets, task.batches, done, mark
        )
        done = mark
        ranks.append(_gradient_ranks(state))
        losses.append(np.asarray(state.loss, float))
        seen += [see(state.params)] if certificates else []
    signals = [np.stack(a, 1) for a in zip(*seen, strict=True)]
    return Probe(
        np.array(marks),
        tuple(layer.index for layer in hidden),
        tuple((layer.fan_in, layer.fan_out) for layer in hidden),
        np.stack(ranks, 1),
        np.stack(losses, 1),
        np.concatenate([np.asarray(f) for f in state.first], 1),
        Signals(min(len(task.xs), INPUTS), np.array([0, *marks]), *signals) if seen else None,
    )


def _gradient_ranks(state: State) -> np.ndarray:
    """(seeds, hidden layers): singular values of Σ g above eps·Σ‖g‖_F. Factorized in float64, so only g rounds."""

    def rank(total: np.ndarray, norm: np.ndarray) -> np.ndarray:
        return rank_of(total, float(jnp.finfo(total.dtype).eps) * np.asarray(norm, float))

    found = [rank(np.asarray(a), np.asarray(n)) for a, n in zip(state.sums[1:-1], state.norms[1:-1], strict=True)]
    return np.concatenate(found or [np.zeros((len(state.loss), 0), int)], 1)


@functools.partial(compilation.jit, static_argnames=("function", "count"))
def gaussian_controls(function: Any, params: Any, key: Any, count: int) -> Any:
    """`count` copies of one parameter set whose weights are Gaussian of the same Frobenius norm, layer by layer."""
    weights = function.weights(params)
    ends = np.cumsum([w.size for w in weights])

    def control(key: Any) -> Any:
        noise = jnp.split(randomness.normal(key, (int(ends[-1]),), weights[0].dtype), ends[:-1])
        new = [_rescaled(piece.reshape(w.shape), w) for piece, w in zip(noise, weights, strict=True)]
        return function.with_weights(params, new)

    return jax.vmap(control)(jax.random.split(key, count))


def _rescaled(noise: Any, weight: Any) -> Any:
    """`noise`, each matrix with the norm of the one in `weight`."""
    size = lambda a: jnp.sqrt(jnp.sum(a**2, (1, 2), keepdims=True))  # noqa: E731
    return noise * (size(weight) / size(noise))


def _control_ranks(net: Network, task: Task, params: Any, key: Any, count: int) -> np.ndarray:
    """(controls, hidden layers): final ranks of the control networks, as many at a time as there are `params`, so that
    the program compiled for the network itself trains them too."""
    first, at_once = jax.tree.map(lambda a: a[0], params), len(net.function.weights(params)[0])
    ranks = [
        run(net, task, gaussian_controls(net.function, first, fold, at_once), records=1).gradient_rank[:, -1]
        for fold in (jax.random.fold_in(key, i) for i in range(0, count, at_once))
    ]
    return np.concatenate(ranks)[:count]


RANK_FLAG = "rank_constrained_training"
RANK_REMEDY = (
    'random weights: scheme="orthogonal", isometric as well; or Gaussian noise of std 0.1/√fan_in on the weights, '
    "which spreads ln s by 0.1·√(depth/2) (ZerO is no repair: its Hadamard layer has a ceiling of its own)"
)


def judge_ranks(
    net: Network,
    task: Task | None,
    params: Any,
    limits: Thresholds,
    key: Any,
    proof: Flag | None = None,
    certificates: Sequence[Certificate] = (),
) -> tuple[Flag, Probe | None]:
    """rank_constrained_training: whether training moves a layer wider than the input in no more than N_x directions.

    Raised by `proof`, a certified bound on the rank, without any controls, unless the probe breaks that bound: then
    rounding or the optimizer has undone the equal sums it rests on. Without one, raised where, after the probe, the
    rank of the accumulated gradient of such a layer is ≤ N_x in every seed although every one of the control networks
    (Gaussian weights of equal layer norms, same data, batches and optimizer) passes N_x. If a control does not pass it
    either, the probe is too short to tell: undecided.

    Partial identity is such a network (Theorem 1 of the ZerO paper): units beyond max(N_x, N_y) have zero incoming and
    outgoing weights, and with phi(0) = 0 neither signal nor gradient ever reaches them. That the bound is N_x also for
    N_y > N_x needs phi'(0) = 0 at the tie, as `jax.nn.relu` has it: relu'(0) = 0 (`jnp.maximum(x, 0)` has ½).
    """
    name, remedy = RANK_FLAG, RANK_REMEDY
    n_x = math.prod(net.input_shape or ())
    slope = float(slopes(net.activation, np.zeros((), np.float32)))
    evidence: dict[str, Any] = {"input_dimension": n_x, "slope_at_zero": slope}
    source = (
        f"Theorem 1 of arXiv:2110.12661; below all of {limits.controls} controls, p ≤ {1 / (limits.controls + 1):g}"
    )
    if task is None and proof is not None:
        return replace(proof, evidence=evidence | proof.evidence), None
    if task is None:
        return Flag(name, NOT_RUN, "train_steps=0: no probe was run", remedy, None, None, n_x, source, evidence), None
    probe, task, evidence["learning_rate"] = _steady(net, task, params, certificates)
    wide = [i for i, shape in enumerate(probe.shapes) if min(shape) > n_x]
    ranks = probe.gradient_rank[:, -1].max(0) if len(probe.layers) else np.zeros(0, int)
    evidence |= {"steps": int(probe.steps[-1]), "gradient_rank": ranks, "layers": probe.layers}

    def flag(state: str, reason: str, value: Any = None) -> tuple[Flag, Probe]:
        return Flag(name, state, reason, remedy, value, None, n_x, source, evidence), probe

    if proof is not None:
        evidence |= proof.evidence
        if (probe.gradient_rank <= evidence["certified_rank"]).all():
            said = proof.reason + (f"; {probe.trouble}" if probe.trouble else "")
            return replace(proof, reason=said, evidence=evidence), probe
    if probe.trouble:
        return flag(UNDECIDED, probe.trouble)
    if not wide:
        return flag(CLEAR, f"no hidden layer is wider than the input ({n_x}): there is nothing to constrain")
    lowest = int(ranks[wide].min())
    if lowest > n_x:
        return flag(CLEAR, f"rank at least {lowest} after {probe.steps[-1]} steps, above N_x = {n_x}", lowest)
    reached = _control_ranks(net, task, params, key, limits.controls)[:, wide].min(0)
    evidence["control_rank"] = reached
    held = [i for i, low in zip(wide, reached, strict=True) if ranks[i] <= n_x < low]
    if not held:
        return flag(UNDECIDED, f"rank {lowest} of N_x = {n_x}, but control networks reach only {reached.min()}", lowest)
    bound = int(ranks[held].max())
    where = ", ".join(f"W_{probe.layers[i] + 1}" for i in (held[0], held[-1])[: len(held)])
    size = min(min(probe.shapes[i]) for i in held)
    return flag(
        RAISED,
        f"{where.replace(', ', ' to ')} trained in {bound} of {size} directions, never above N_x = {n_x}; "
        f"Gaussian controls reach {reached.min()}",
        bound,
    )


def _steady(net: Network, task: Task, params: Any, certificates: Any) -> tuple[Probe, Task, float | None]:
    """A probe, its task and learning rate: of our own ones the largest that does not overflow; None, the user's."""
    if not any(task.optimizer is ours for ours in SGD.values()):
        return run(net, task, params, certificates=certificates), task, None
    for rate in SGD:
        task = task._replace(optimizer=SGD[rate])
        probe = run(net, task, params, certificates=certificates)
        if probe.finite or not np.isfinite(probe.loss[:, 0]).all():  # a loss of W(0) does not depend on the rate
            break
    return probe, task, rate  # pyright: ignore[reportPossiblyUnboundVariable]


def same_trajectory(net: Any, task: Task, keys: Any) -> dict[str, Any]:
    """Rank trajectories of the first of `keys` at widths N_x, 2 N_x, 4 N_x: equal if width adds nothing."""
    n_x = math.prod(net.input_shape or ())
    found = {}
    for width in (n_x, 2 * n_x, 4 * n_x):
        other = net.with_width(width)
        few = keys[:1] if width > max(n_x, net.plan[0].fan_out) else keys  # one seed where nothing is compiled yet
        probe = run(other, task, adjust_seeds(other, draw_seeds(other.init, few), task.xs))
        found[width] = probe.gradient_rank[0]
    gap = max(int(np.abs(ranks - found[n_x]).max(initial=0)) for ranks in found.values())
    return {"steps": probe.steps, "gradient_rank": found, "largest_difference": gap}
