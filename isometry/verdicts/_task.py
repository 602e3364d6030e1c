"""The task of the probe: examples and targets, loss, optimizer, batches."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core
from jaxtyping import Array, Int, PyTree

from isometry._internal import checks, kinds, randomness
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.measure import _arguments, _refusals
from isometry.measure._draws import row_shapes
from isometry.measure._function import Map
from isometry.networks import Network
from isometry.verdicts._subject import Subject

Loss: TypeAlias = Callable[[PyTree, PyTree], Array]

DEFAULT_STEPS = 200
BATCH = 32

# 0.1 is the learning rate of the ZerO paper. If the loss overflows with it, the next
# lower one is tried.
SGD = {rate: optax.sgd(rate) for rate in (0.1, 0.01, 0.001)}

# Synthetic targets are scores of this many random features, for each token and each
# leaf of an input. So many tell classes apart, and a matrix from them to all outputs is
# small.
_FEATURES = 64


@dataclass(frozen=True, eq=False)
class Task:
    """What the probe trains on, and how.

    Attributes:
        f: The function of one example, f(params, x).
        training: The training mode of the network; None if it has none of its own.
        loss: loss(output, target) of one example, a scalar. It is hashable, so that
            programs are cached by it.
        optimizer: An optax optimizer.
        xs: All examples.
        targets: Their targets, along a first axis.
        batches: The indices of the examples of each step.
        num_steps: The number of training steps of the probe; 0 switches it off.
        is_synthetic: Whether the targets were made by `task_of`, not given.
    """

    f: Map
    training: Network | None
    loss: Loss
    optimizer: optax.GradientTransformation
    xs: PyTree[Array]
    targets: PyTree[Array]
    batches: Int[Array, "steps batch"]
    num_steps: int
    is_synthetic: bool

    @functools.cached_property
    def needs_key(self) -> bool:
        """Whether training draws random numbers, so that x is a pair (batch, key)."""
        if self.training is None or not isinstance(self.f, Network):
            return False
        is_pair = isinstance(self.training.example, tuple)
        return is_pair and not isinstance(self.f.example, tuple)

    def function(
        self,
        params: Params,
        batch: PyTree[Array],
        key: Key,
    ) -> PyTree[Array]:
        """Return the outputs of a batch, in training mode where there is one.

        Args:
            params: The parameters of one seed.
            batch: Examples along a first axis.
            key: A key for what training draws, such as dropout.
        """
        if self.training is None:
            return jax.vmap(self.f, (None, 0))(params, batch)
        if self.needs_key:
            return self.training(params, (batch, key))
        return self.training(params, batch)


def task_of(
    subject: Subject,
    *,
    targets: PyTree | None,
    loss: Loss | None,
    optimizer: optax.GradientTransformation | None,
    num_steps: int,
    key: Key,
) -> Task:
    """Check targets, loss and optimizer, and fill in defaults.

    The network is only traced, not run.

    Args:
        subject: The network and its examples.
        targets: A target for each example, or None for synthetic ones.
        loss: loss(output, target) of one example, or None for the default.
        optimizer: An optax optimizer, or None for plain gradient descent.
        num_steps: The number of training steps.
        key: A key of the batches and the synthetic targets.

    Returns:
        The task.

    Raises:
        InputError: Targets of the wrong length, shape or type; a loss that fails, has
            no gradient, is no real scalar or is not deterministic; an `optimizer` that
            is no optax optimizer, or whose `update` returns updates or a state of
            another structure than it is given.
    """
    key_targets, key_batches = jax.random.split(key)
    params = subject.seeds.shapes()
    output = output_of(subject.f, params, row_shapes(subject.xs))
    num_examples = jax.tree.leaves(subject.xs)[0].shape[0]
    is_synthetic = targets is None
    if is_synthetic:
        targets = _synthetic(key_targets, subject, output)
    else:
        targets = _checked_targets(targets, num_examples)
    if loss is None:
        loss = _default_loss(targets, output)
    elif not callable(loss):
        raise InputError(
            f"loss={checks.show(loss)} is not callable; write loss(output, target) -> "
            "number."
        )
    _check_loss(loss, output, row_shapes(targets))
    if optimizer is None:
        optimizer = SGD[0.1]
    _check_optimizer(optimizer, params)
    return Task(
        f=subject.f,
        training=subject.training,
        loss=loss,
        optimizer=optimizer,
        xs=subject.xs,
        targets=targets,
        batches=batches_of(key_batches, num_examples, num_steps=max(num_steps, 1)),
        num_steps=num_steps,
        is_synthetic=is_synthetic,
    )


@functools.partial(jax.jit, static_argnames=("num_examples", "num_steps"))
def batches_of(
    key: Key,
    num_examples: int,
    num_steps: int,
) -> Int[Array, "steps batch"]:
    """Return the examples of every step: shuffled epochs, one after another."""
    # If there are fewer examples than a batch holds, every batch holds them all.
    size = min(BATCH, num_examples)
    used = num_examples // size * size
    num_epochs = -(-num_steps * size // used)
    keys = jax.random.split(key, num_epochs)
    orders = jax.vmap(lambda one: jax.random.permutation(one, num_examples))(keys)
    return orders[:, :used].reshape(-1, size)[:num_steps]


def output_of(
    f: Map,
    params: Params,
    x: PyTree,
) -> jax.ShapeDtypeStruct:
    """Return the shape of the output for one example."""
    if isinstance(f, Network) and f.activation is not None:
        _check_slope(f, x)
    shapes = jax.eval_shape(_arguments.function_of(f), params, x)
    # If f returns several arrays, the first is the output, as everywhere.
    return jax.tree.leaves(shapes)[0]


def _check_slope(
    net: Network,
    x: PyTree,
) -> None:
    """Refuse an activation without a forward derivative, before anything is run."""
    assert net.activation is not None, "the caller has asked"
    dtype = jnp.result_type(float)
    for leaf in jax.tree.leaves(x):
        if kinds.is_floating(leaf):
            dtype = leaf.dtype
    try:
        # The slope is evaluated, because tracing alone does not find a custom_vjp.
        net.activation.slope(jnp.zeros((), dtype))
    # A user's activation may raise anything.
    except Exception as error:
        raise InputError(
            f"the slope of {net.activation.name} cannot be taken, "
            f"{type(error).__name__}: {error}. Write an elementwise function with a "
            "forward derivative (jax.custom_jvp, not jax.custom_vjp)."
        ) from error


def _checked_targets(
    targets: PyTree,
    num_examples: int,
) -> PyTree[Array]:
    """Return targets as arrays with a row for each example."""
    arrays = jax.tree.map(
        lambda leaf: _array("targets", leaf), targets, is_leaf=_is_list
    )
    for leaf in jax.tree.leaves(arrays):
        if leaf.ndim < 1 or leaf.shape[0] != num_examples:
            raise InputError(
                f"targets have shape {leaf.shape} for {num_examples} examples in xs."
            )
    return checks.all_finite("targets", arrays)


def _is_list(value: object) -> bool:
    """Tell whether a value is a list, which is converted to one array."""
    return isinstance(value, list)


def _array(
    name: str,
    value: Any,
) -> Array:
    """Return a value as a real array; refuse what cannot be one."""
    try:
        as_array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{name}={checks.show(value)} is not an array of numbers: {error}. Write "
            "rows of equal length."
        ) from error
    return checks.real(name, as_array)


def _default_loss(
    targets: PyTree,
    output: jax.ShapeDtypeStruct,
) -> Loss:
    """Return cross-entropy for labels, mean square for values; refuse other targets."""
    # Labels have the shape of the output without its last axis, which counts classes.
    leaves = jax.tree.leaves(targets)
    labels_shape = output.shape[:-1]
    if len(leaves) == 1:
        (only,) = leaves
        row = only.shape[1:]
        is_whole = jnp.issubdtype(only.dtype, jnp.integer)
        # Floats of the shape of the output are values for a regression.
        if row == output.shape and not is_whole:
            return mean_square
        if row == labels_shape and is_whole and output.shape:
            _check_labels(only, num_classes=output.shape[-1])
            return cross_entropy
    count = leaves[0].shape[0] if leaves else 0
    came = " and ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in leaves)
    hint = "For others write loss=..."
    # What would fit if the outputs had one axis less.
    inner = output.shape[1:]
    if len(leaves) == 1 and inner and leaves[0].shape[1:] in (inner, inner[:-1]):
        hint = (
            "It seems that the network was made from a batch; its example is one x, "
            "without an axis for a batch."
        )
    raise InputError(
        f"targets are {came}; the default loss takes floating ones of shape "
        f"{(count, *output.shape)} or integer labels of shape {(count, *labels_shape)}."
        f" {hint}"
    )


def _check_labels(
    targets: Array,
    num_classes: int,
) -> None:
    """Refuse labels below zero, or beyond the number of classes."""
    labels = np.asarray(targets)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"targets are labels {low} to {high}, but the network has {num_classes} "
            f"outputs; labels run from 0 to {num_classes - 1}. For counts write "
            "loss=..."
        )


def cross_entropy(
    output: Array,
    label: Array,
) -> Array:
    """Return the cross-entropy of one example, the mean over its positions."""
    losses = optax.softmax_cross_entropy_with_integer_labels(output, label)
    return jnp.mean(losses)


def mean_square(
    output: Array,
    target: Array,
) -> Array:
    """Return the mean squared difference of one example."""
    return jnp.mean((output - target.astype(output.dtype)) ** 2)


def _synthetic(
    key: Key,
    subject: Subject,
    output: jax.ShapeDtypeStruct,
) -> PyTree[Array]:
    """Return synthetic targets that can be learned.

    For a token model that returns scores of all tokens at every position, the target is
    the next token. For all others random linear scores of the input are drawn, at every
    position of the output. The target is the index of the largest; with only one score
    it is the score itself.
    """
    tokens = _next_tokens(subject, output)
    if tokens is not None:
        return tokens
    # Every position of the output has scores of its own.
    num_scores = math.prod(output.shape)
    key_features, key_scores = jax.random.split(jax.random.fold_in(key, 1))
    leaves = jax.tree.leaves(subject.xs)
    is_plain = len(leaves) == 1 and kinds.is_floating(leaves[0])
    if is_plain and len(output.shape) == 1:
        features = leaves[0].reshape(leaves[0].shape[0], -1)
        key_scores = key
    else:
        features = _features(key_features, leaves, subject)
    matrix = randomness.normal(
        key_scores, (features.shape[1], num_scores), features.dtype
    )
    scores = (features @ matrix).reshape(features.shape[0], *output.shape)
    # With one score the index of the largest would always be 0.
    is_single = not output.shape or output.shape[-1] == 1
    if is_single:
        return scores
    return jnp.argmax(scores, -1).astype(jnp.int32)


def _next_tokens(
    subject: Subject,
    output: jax.ShapeDtypeStruct,
) -> Array | None:
    """Return the next token at every position, if the network predicts tokens."""
    leaves = jax.tree.leaves(subject.xs)
    (first, *more) = leaves
    if more or not jnp.issubdtype(first.dtype, jnp.integer):
        return None
    embeddings = subject.anatomy.embeddings
    if not embeddings or output.shape[:-1] != first.shape[1:]:
        return None
    num_tokens = embeddings[0].fan_in
    if output.shape[-1] < num_tokens or int(jnp.max(first)) >= output.shape[-1]:
        return None
    # The first token follows the last one, so that every position has a target.
    return jnp.roll(first, -1, axis=1) if first.ndim > 1 else None


def _features(
    key: Key,
    leaves: list[Array],
    subject: Subject,
) -> Array:
    """Return random linear features of all leaves of the inputs, side by side."""
    columns = []
    for i, leaf in enumerate(leaves):
        if kinds.is_key(leaf):
            continue
        flat = leaf.reshape(leaf.shape[0], -1)
        key_leaf = jax.random.fold_in(key, i)
        if kinds.is_floating(leaf):
            shape = (flat.shape[1], _FEATURES)
            columns.append(flat @ randomness.normal(key_leaf, shape, leaf.dtype))
            continue
        # A token is a label, not a number, so each has random features of its own.
        values, index = np.unique(np.asarray(flat), return_inverse=True)
        table = randomness.normal(key_leaf, (len(values), _FEATURES), jnp.float32)
        rows = table[index.reshape(flat.shape)]
        columns.append(rows.reshape(flat.shape[0], -1))
    dtype = jnp.result_type(*columns)
    return jnp.concatenate([column.astype(dtype) for column in columns], axis=1)


def _traced(
    f: Callable[..., PyTree], *shapes: PyTree
) -> tuple[core.ClosedJaxpr, PyTree]:
    """Return the jaxpr of f, and the shapes of its results."""
    # The lambda is new at each call, so that JAX traces f again: it remembers traces by
    # function, and what f closes over may have changed.
    return jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*shapes)


def _check_loss(
    loss: Loss,
    output: jax.ShapeDtypeStruct,
    target: PyTree,
) -> None:
    """Require a loss to return a real scalar with a gradient, without randomness."""
    shapes = jax.tree.map(lambda leaf: leaf.shape, target)
    where = f"of an output of shape {output.shape} and a target of shape {shapes}"
    try:
        with jax.numpy_dtype_promotion("standard"):
            once, value = _traced(loss, output, target)
            again, _ = _traced(loss, output, target)
    # A user's loss may raise anything.
    except Exception as error:
        raise InputError(
            f"loss(output, target) fails on one example, {where}: "
            f"{type(error).__name__}: {error}"
        ) from error
    is_scalar = getattr(value, "shape", None) == ()
    if not is_scalar or not kinds.is_floating(value):
        raise InputError(
            f"loss returns {value} {where}; it must be a scalar, real and floating."
        )
    _refusals.refuse_chance("loss", once, again)
    try:
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(jax.grad(loss), output, target)
    except Exception as error:
        raise InputError(
            f"loss has no gradient {where}, {type(error).__name__}: {error}"
        ) from error


def _check_optimizer(
    optimizer: Any,
    params: Params,
) -> None:
    """Require an optimizer whose updates and state keep their structure and shapes."""
    is_optimizer = all(
        callable(getattr(optimizer, name, None)) for name in ("init", "update")
    )
    if not is_optimizer:
        raise InputError(
            f"optimizer={checks.show(optimizer)} is not an optax optimizer; write "
            "optax.sgd(0.1)."
        )

    def step(params: Params) -> tuple[PyTree, PyTree]:
        state = optimizer.init(params)
        return (params, state), optimizer.update(params, state, params)

    # Keys and whole numbers among the parameters have no gradient.
    floating = floating_part(params)
    try:
        with jax.numpy_dtype_promotion("standard"):
            once, (before, after) = _traced(step, floating)
            again, _ = _traced(step, floating)
    # A user's optimizer may raise anything.
    except Exception as error:
        raise InputError(
            f"optimizer.update fails on the state of optimizer.init: {error}"
        ) from error
    for what, given, returned in zip(("updates", "state"), before, after, strict=True):
        if not _are_alike(given, returned):
            raise InputError(
                f"optimizer.update returns {what} of another structure, shape or dtype "
                "than it is given; the state must match the one that optimizer.init "
                "makes."
            )
    _refusals.refuse_chance("optimizer", once, again)


def _are_alike(
    a: PyTree,
    b: PyTree,
) -> bool:
    """Tell whether two trees have the same structure, shapes and dtypes."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.shape == y.shape and x.dtype == y.dtype for x, y in pairs)


def floating_part(params: Params) -> Params:
    """Return the parameters with None for leaves that are not floating."""

    def kept(leaf: Array) -> Array | None:
        is_floating = kinds.is_floating(leaf)
        return leaf if is_floating else None

    return jax.tree.map(kept, params)
