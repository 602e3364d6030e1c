"""Training of one network: plain steps, measured at a fixed number of points.

The probe of an audit trains as well, but follows ranks of summed gradients at every
step, which a sweep does not need, and its rates are part of its programs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from isometry import data
from isometry._internal import checks, compilation, precision
from isometry._internal.errors import InputError, NotDefined
from isometry._internal.types import Key, Params
from isometry.measure import _resolution
from isometry.measure._function import Reference
from isometry.networks import Network
from isometry.sweeps._settings import Results, labelled
from isometry.verdicts._objective import Batch, Objective, Split
from isometry.verdicts._task import cross_entropy

# At how many points a training is measured. Each evaluates all examples, which costs as
# much as a few steps.
RECORDS = 10

# Records lie along this dimension.
_RECORD = ("record",)

# The share of the examples that is kept for the test.
_TEST_SHARE = 0.2

# The split into training and test is the same in all cells, so that they compare.
_SPLIT_SEED = 0

# The loss of a batch jumps from step to step. It is smoothed over about ten of them:
# with one, a lucky batch would count as progress; with a hundred, the first hundred
# steps would.
_DECAY = 0.9

# From a learning rate, which is traced, to an optimizer.
Optimizer: TypeAlias = Callable[[Any], optax.GradientTransformation]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


class Sets(NamedTuple):
    """Examples and their labels, for training and for the test."""

    train_xs: Float[Array, "train features"]
    train_labels: Int[Array, " train"]
    test_xs: Float[Array, "test features"]
    test_labels: Int[Array, " test"]

    @property
    def num_features(self) -> int:
        """The number of features of an example."""
        return self.train_xs.shape[1]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        labels = np.concatenate([self.train_labels, self.test_labels])
        return int(labels.max()) + 1

    def shaped(self, shape: tuple[int, ...] | None) -> "Sets":
        """Return the sets with examples of another shape.

        Raises:
            InputError: The shape has another number of entries.
        """
        if shape is None:
            return self
        if np.prod(shape) != self.num_features:
            raise InputError(
                f"the network takes examples of shape {shape}, and the data have "
                f"{self.num_features} features; build it for these, or give data=."
            )
        return self._replace(
            train_xs=self.train_xs.reshape(-1, *shape),
            test_xs=self.test_xs.reshape(-1, *shape),
        )


class Curve(NamedTuple):
    """A training, at `RECORDS` points.

    Attributes:
        steps: The numbers of steps made.
        losses: Mean cross-entropy, on the examples for training and for the test.
        accuracies: Shares of examples that are classified right, likewise.
        steps_to_target: Steps until the smoothed loss of the batches reached the
            target; -1 for never.
    """

    steps: Int[np.ndarray, " records"]
    losses: Float[np.ndarray, "records 2"]
    accuracies: Float[np.ndarray, "records 2"]
    steps_to_target: Int[np.ndarray, ""]


@functools.lru_cache(maxsize=4)
def digits(q: float) -> Sets:
    """Return the handwritten digits, split and rescaled; kept from cell to cell."""
    return split(data.digits(), q)


def split(given: Any, q: float) -> Sets:
    """Split examples for training and for the test, and rescale them.

    Args:
        given: A pair of examples along a first axis, and integer labels.
        q: The mean square of each example, once the mean over those for training is
            subtracted.

    Raises:
        InputError: Not such a pair.
    """
    checks.number("input_q", q, above=0.0)
    try:
        raw_xs, raw_labels = given
        xs = np.asarray(raw_xs, np.float32)
        labels = np.asarray(raw_labels)
    except (TypeError, ValueError):
        raise InputError(
            f"data={checks.show(given)} is not a pair of examples and labels; write "
            "data.digits(), or data.Data(xs, labels)."
        ) from None
    is_labels = np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
    if not is_labels or xs.ndim < 2 or len(labels) != len(xs) or len(xs) < 2:
        raise InputError(
            f"data holds xs of shape {xs.shape} and {labels.dtype} of shape "
            f"{labels.shape}; write (examples, ...) and as many integer labels."
        )
    if labels.min() < 0:
        raise InputError(f"data holds the label {labels.min()}; labels start at 0.")
    xs = xs.reshape(len(xs), -1)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(xs))
    num_test = max(1, round(_TEST_SHARE * len(xs)))
    test, train = order[:num_test], order[num_test:]
    xs = data.normalize(checks.on_device(xs - xs[train].mean(axis=0)), float(q))
    xs, labels = np.asarray(xs), labels.astype(np.int32)
    return Sets(
        train_xs=checks.on_device(xs[train]),
        train_labels=checks.on_device(labels[train]),
        test_xs=checks.on_device(xs[test]),
        test_labels=checks.on_device(labels[test]),
    )


def optimizer_of(optimizer: str | Optimizer) -> Optimizer:
    """Return the function from a learning rate to an optimizer."""
    if isinstance(optimizer, str):
        return OPTIMIZERS[checks.one_of("optimizer", optimizer, OPTIMIZERS)]
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise InputError(
            f"optimizer={checks.show(optimizer)} is neither a name nor a function of "
            'the learning rate; write "sgd", or optax.adamw without parentheses.'
        )
    return optimizer


class _Static(NamedTuple):
    """What the program depends on, besides the shapes of arrays.

    Attributes:
        objective: The outputs and the loss.
        optimizer: From the learning rate to the optimizer.
        batch: The number of examples in a batch.
    """

    objective: Objective
    optimizer: Optimizer
    batch: int


class _Cell(NamedTuple):
    """What may differ from cell to cell of one program.

    Attributes:
        params: The parameters.
        key: The key of the batches.
        learning_rate: The learning rate.
        target_loss: The loss to which steps are counted.
        ends: The steps after which the training is measured.
    """

    params: Params
    key: Key
    learning_rate: float | Array
    target_loss: float | Array
    ends: Int[np.ndarray | Array, " records"]


class _State(NamedTuple):
    """The training after some steps.

    Attributes:
        step: The number of steps made.
        params: The parameters.
        optimizer: The state of the optimizer.
        smoothed: The weighted sum of the losses of the batches so far.
        reached: The step at which the smoothed loss reached the target; -1 before.
    """

    step: Int[Array, ""]
    params: Params
    optimizer: PyTree
    smoothed: Float[Array, ""]
    reached: Int[Array, ""]


def train(
    net: Network,
    params: Params,
    sets: Sets,
    *,
    optimizer: Optimizer,
    learning_rate: float,
    steps: int,
    batch: int,
    target_loss: float,
    key: Key,
) -> Curve:
    """Train a network on the cross-entropy of its outputs.

    Args:
        net: The network. Its training mode is trained, and measured, if it has one.
        params: The parameters.
        sets: Examples and labels.
        optimizer: From the learning rate to an optimizer.
        learning_rate: The learning rate.
        steps: The number of steps.
        batch: The number of examples in a batch.
        target_loss: The loss to which steps are counted.
        key: The key of the batches.
    """
    objective = _objective(net, params, sets)
    size = min(batch, len(sets.train_labels))
    ends = np.linspace(0, steps, RECORDS + 1).round().astype(np.int32)[1:]
    dtype = precision.measuring_dtype(None, params)
    sets, params = precision.cast((sets, params), dtype)
    with precision.full(), jax.numpy_dtype_promotion("standard"):
        losses, accuracies, reached = _trained(
            _Static(objective, optimizer, size),
            sets,
            _Cell(
                params=params,
                key=key,
                learning_rate=learning_rate,
                target_loss=target_loss,
                ends=ends,
            ),
        )
    return Curve(
        steps=ends,
        losses=np.asarray(losses),
        accuracies=np.asarray(accuracies),
        steps_to_target=np.asarray(reached),
    )


def results_of(curve: Curve) -> Results:
    """Return what is kept of a training, with NaN where it had diverged."""
    is_finite = np.isfinite(curve.losses).all(axis=1)
    # Parameters that are not finite stay so, whatever a later loss says.
    is_sound = np.logical_and.accumulate(is_finite)
    results = {}
    meanings = {"loss": "cross-entropy", "accuracy": "accuracy"}
    for quantity, values in (("loss", curve.losses), ("accuracy", curve.accuracies)):
        values = np.where(is_sound[:, None], values, np.nan)
        for column, examples in enumerate(("train", "test")):
            name = f"{examples}_{quantity}"
            meaning = f"{meanings[quantity]} on the {examples} examples"
            results[name] = labelled((), values[-1, column], meaning)
            results[f"record_{name}"] = labelled(_RECORD, values[:, column], meaning)
    steps = float(curve.steps_to_target)
    if steps < 0:
        steps = np.nan
    is_diverged = float(not is_sound.all())
    return {
        **results,
        "record_step": labelled(_RECORD, curve.steps, "steps made", units="steps"),
        "steps_to_target": labelled((), steps, "steps to the target", units="steps"),
        "diverged": labelled((), is_diverged, "1 if a loss was not finite"),
    }


def _objective(net: Network, params: Params, sets: Sets) -> Objective:
    """Return the outputs and the loss; refuse outputs that are no scores of classes."""
    try:
        trained = net.training
    except NotDefined:
        trained = None
    output = jax.eval_shape(_resolution.function_of(net), params, sets.train_xs[0])
    shape = jax.tree.leaves(output)[0].shape
    if len(shape) != 1 or shape[0] < sets.num_classes:
        raise InputError(
            f"the network returns an array of shape {shape}, and the data have "
            f"{sets.num_classes} classes; build it with n_out={sets.num_classes}."
        )
    # A training mode that draws takes its key beside the batch.
    needs_key = trained is not None and isinstance(trained.example, tuple)
    return Objective(
        function=Reference(_resolution.function_of(trained or net)),
        in_training=trained is not None,
        needs_key=needs_key,
        loss=cross_entropy,
    )


@functools.partial(compilation.jit, static_argnums=0)
def _trained(
    static: _Static,
    sets: Sets,
    cell: _Cell,
) -> tuple[Array, Array, Array]:
    """Train a cell; return the losses and accuracies at its `ends`, and `reached`.

    `reached` is the step at which the smoothed loss met the target, or -1. Steps, rate
    and target are arrays in `cell`, so that one compiled program serves all cells.
    """
    optimizer = static.optimizer(cell.learning_rate)
    split = Split(cell.params)
    floating = split.trained(split.floating(cell.params))
    state = _State(
        step=jnp.zeros((), np.int32),
        params=cell.params,
        optimizer=optimizer.init(floating),
        smoothed=jnp.zeros((), np.float32),
        reached=jnp.full((), -1, np.int32),
    )
    key_batches, key_records = jax.random.split(cell.key)

    def step(state: _State) -> _State:
        key_of_step = jax.random.fold_in(key_batches, state.step)
        state, loss = _stepped(
            static, sets, state, optimizer=optimizer, key=key_of_step
        )
        return _noted(state, loss, cell.target_loss)

    def record(state: _State, end: Array) -> tuple[_State, tuple[Array, Array]]:
        state = jax.lax.while_loop(lambda now: now.step < end, step, state)
        return state, _measured(static, sets, state.params, key=key_records)

    state, (losses, accuracies) = jax.lax.scan(record, state, jnp.asarray(cell.ends))
    return losses, accuracies, state.reached


def _stepped(
    static: _Static,
    sets: Sets,
    state: _State,
    *,
    optimizer: optax.GradientTransformation,
    key: Key,
) -> tuple[_State, Array]:
    """Make one step; return the loss of its batch as well."""
    key_batch, key_network = jax.random.split(key)
    num_examples = len(sets.train_labels)
    index = jax.random.choice(key_batch, num_examples, (static.batch,), replace=False)
    xs, labels = sets.train_xs[index], sets.train_labels[index]
    split = Split(state.params)

    def loss_of(floating: list[Array]) -> Array:
        examples = Batch(split.joined(floating), xs, labels, key=key_network)
        return static.objective.of_batch(examples)

    floating = split.floating(state.params)
    loss, gradient = jax.value_and_grad(loss_of)(floating)
    params = split.trained(floating)
    updates, memory = optimizer.update(split.trained(gradient), state.optimizer, params)
    moved = optax.apply_updates(params, updates)
    stepped = state._replace(
        step=state.step + 1,
        params=split.joined(split.floating(moved)),
        optimizer=memory,
    )
    return stepped, loss


def _noted(state: _State, loss: Array, target_loss: float | Array) -> _State:
    """Return the state with the loss of its last batch, and when it was small enough.

    Args:
        state: The state after the step.
        loss: The loss of the batch of this step.
        target_loss: The loss to which steps are counted.
    """
    smoothed = _DECAY * state.smoothed + (1 - _DECAY) * loss.astype(np.float32)
    # A sum of few terms is too small by this factor.
    mean = smoothed / (1 - _DECAY**state.step)
    is_first = (state.reached < 0) & (mean <= target_loss)
    reached = jnp.where(is_first, state.step, state.reached)
    return state._replace(smoothed=smoothed, reached=reached)


def _measured(
    static: _Static, sets: Sets, params: Params, key: Key
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Return losses and accuracies, on the examples for training and for the test."""
    losses, accuracies = [], []
    pairs = (
        (sets.train_xs, sets.train_labels),
        (sets.test_xs, sets.test_labels),
    )
    for xs, labels in pairs:
        outputs = static.objective.outputs(params, xs, key)
        losses.append(jnp.mean(static.objective.losses(outputs, labels)))
        is_right = jnp.argmax(outputs, axis=-1) == labels
        accuracies.append(jnp.mean(is_right, dtype=np.float32))
    return jnp.stack(losses).astype(np.float32), jnp.stack(accuracies)
