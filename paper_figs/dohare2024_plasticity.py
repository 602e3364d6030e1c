"""A network trained on one task after another loses what it needs to learn the next.

Dohare et al. (2024), Nature 632, 768 ("Loss of plasticity in deep continual learning"),
Online Permuted MNIST, in miniature.

Each task is 8×8 digits with their pixels in another order, seen in batches of 16 for
100 steps. A ReLU network (three hidden layers of 64 units, orthogonal weights) goes
from task to task with Adam at rate 0.01. Its accuracy on digits that it sees for the
first time falls from task to task, while that of a network drawn anew for each task
does not. `isometry.monitor` shows why at the start of each task: the Jacobian of the
last hidden layer loses effective rank, as units become inactive at all inputs. Two
remedies keep most of the accuracy: a penalty that holds the weights of all hidden
layers near isometry, |WᵀW/2 − I|², and at the start of each task a step half-way back
to new random weights, with Adam's moments reset (shrink and perturb).

Reproduced: the loss of plasticity, the inactive units, the loss of effective rank, and
that shrink and perturb prevents it. Not reproduced: tasks by the hundred, networks of
2,000 units, ImageNet, and continual backpropagation, the paper's own remedy. There
effective rank is that of activations; here it is that of the Jacobian. The penalty is
not in the paper. Bars are two standard errors over draws. Full: 3 minutes on 2 cores.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jaxtyping import Array, Float, Int

import isometry
from isometry import data as datasets
from isometry import networks
from isometry._internal.types import Key, Params
from isometry.networks._mlp import Mlp
from paper_figs import _style
from paper_figs._check import Compared, settled, t_bound
from paper_figs._ensembles import Estimate, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {"tasks": 50, "draws": 8},
    "smoke": {"tasks": 15, "draws": 5},
}

PIXELS = 64
WIDTH = 64
CLASSES = 10
ACTIVATION = "relu"
RATE = 0.01
STEPS = 100
BATCH = 16

# The penalty's weight beside the cross entropy. With a tenth of it the loss of
# plasticity is slowed down but not stopped; with ten times as much the network cannot
# learn.
STRENGTH = 0.01
# How much of the trained weights is left when they are drawn back to random ones. With
# 0.8 units become inactive faster than they are drawn back.
KEPT = 0.5

# Inputs at which the Jacobian is measured, and at which units are counted as inactive.
NUM_PROBES = 8
NUM_COUNTED = 256

# The first and the last tasks of a run, of which means are compared.
SHARE = 0.2

# Accuracy on the last tasks, over that of networks drawn anew, from which on plasticity
# counts as kept. Remedies keep 0.9 and more; Adam alone is at 0.6 after 15 tasks.
PRESERVED = 0.85


class _Run(NamedTuple):
    """What a network takes from one task to the next.

    Attributes:
        strength: The coefficient of the isometry penalty.
        kept: The share of the trained weights in those that the next task begins with;
            the rest is a new draw. Below 1, all of Adam's moments are reset.
    """

    strength: float
    kept: float


RUNS = {
    "Adam": _Run(strength=0.0, kept=1.0),
    "isometry penalty": _Run(strength=STRENGTH, kept=1.0),
    "shrink and perturb": _Run(strength=0.0, kept=KEPT),
    "drawn anew": _Run(strength=0.0, kept=0.0),
}


class _State(NamedTuple):
    """A network in training.

    Attributes:
        params: Its parameters.
        watch: The state of the monitor.
        adam: The state of the optimizer.
    """

    params: Params
    watch: optax.OptState
    adam: optax.OptState


class _Task(NamedTuple):
    """What a network sees of one task.

    Attributes:
        images: All images, as they are stored.
        labels: Their digits.
        order: The order of the pixels in this task.
        batches: The indices of the images in each batch.
    """

    images: Float[Array, "images pixels"]
    labels: Int[Array, " images"]
    order: Int[Array, " pixels"]
    batches: Int[Array, "steps batch"]


class _Programs(NamedTuple):
    """What is compiled once for all runs.

    Attributes:
        train: From a state, a task and the weight of the penalty to the next state and
            the accuracy over the batches of the task.
        inactive: From parameters and a task to the share of inactive units.
    """

    train: Callable[[_State, _Task, float], tuple[_State, Float[Array, ""]]]
    inactive: Callable[[Params, _Task], Float[Array, ""]]


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Train networks of all kinds through a sequence of tasks.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (run, draw, task): `accuracy`, the mean over the batches of a task, each
        before the step on it; `effective_rank` of the Jacobian at the start of the
        task, a mean over inputs; `inactive`, the share of hidden units that are
        inactive at all inputs at its end.
    """
    size = PRESETS[preset]
    programs = _compiled(size["tasks"])
    results = [
        [
            _followed(run, programs, size["tasks"], key=jax.random.fold_in(key, draw))
            for draw in range(size["draws"])
        ]
        for run in RUNS.values()
    ]
    dims = ("run", "draw", "task")
    accuracy = [[one["accuracy"] for one in of_run] for of_run in results]
    ranks = [[one["effective_rank"] for one in of_run] for of_run in results]
    inactive = [[one["inactive"] for one in of_run] for of_run in results]
    return xarray.Dataset(
        {
            "accuracy": (dims, np.array(accuracy)),
            "effective_rank": (dims, np.array(ranks)),
            "inactive": (dims, np.array(inactive)),
        },
        {"run": list(RUNS), "task": np.arange(1, size["tasks"] + 1)},
    )


def _network() -> Mlp:
    """Return the architecture, with orthogonal weights."""
    sizes = [PIXELS, WIDTH, WIDTH, WIDTH, CLASSES]
    return networks.mlp(sizes, activation=ACTIVATION, scheme="orthogonal")


def _features(
    params: Params, image: Float[Array, " pixels"]
) -> list[Float[Array, " units"]]:
    """Return the pre-activations of the hidden layers, and the outputs behind them."""
    return _network().function.pre_activations(params, image)


def _watched(params: Params, image: Float[Array, " pixels"]) -> Float[Array, " units"]:
    """Return the last hidden layer's values at an image of the task at hand.

    Args:
        params: The parameters of the network, and the order of the pixels.
        image: The image as it is stored.
    """
    hidden = _features(params["network"], image[params["order"]])[-2]
    return jax.nn.relu(hidden)


def _monitor(num_tasks: int) -> optax.GradientTransformationExtraArgs:
    """Return the monitor, which records at the start of each task."""
    images = datasets.digits().xs
    return isometry.monitor(
        _watched,
        images[:NUM_PROBES],
        every=STEPS,
        statistics=["effective_rank"],
        capacity=num_tasks,
        state=lambda params, order: {"network": params, "order": order},
    )


def _followed(
    run: _Run, programs: _Programs, num_tasks: int, *, key: Key
) -> dict[str, np.ndarray]:
    """Train one network through all tasks, and return its numbers task by task."""
    init_key, tasks_key = jax.random.split(key)
    params = _network().init(init_key)
    state = _State(
        params=params,
        watch=_monitor(num_tasks).init(params),
        adam=optax.adam(RATE).init(params),
    )
    accuracy = []
    inactive = []
    for index in range(num_tasks):
        # Of the draw alone, so that all runs see the same tasks.
        task_key, new_key = jax.random.split(jax.random.fold_in(tasks_key, index))
        task = _drawn_task(task_key)
        if index > 0 and run.kept < 1:
            state = _drawn_back(state, run.kept, key=new_key)
        state, hits = programs.train(state, task, run.strength)
        accuracy.append(float(hits))
        inactive.append(float(programs.inactive(state.params, task)))
    records = isometry.recorded(state.watch)
    assert isinstance(records, isometry.Records)
    return {
        "accuracy": np.array(accuracy),
        "effective_rank": np.asarray(records["effective_rank"]),
        "inactive": np.array(inactive),
    }


def _drawn_task(key: Key) -> _Task:
    """Return a task with an order of pixels and batches of its own."""
    images, labels = datasets.digits()
    order_key, batches_key = jax.random.split(key)
    batches = jax.random.permutation(batches_key, len(images))[: STEPS * BATCH]
    return _Task(
        images=images,
        labels=jnp.asarray(labels),
        order=jax.random.permutation(order_key, PIXELS),
        batches=batches.reshape(STEPS, BATCH),
    )


def _drawn_back(state: _State, kept: float, *, key: Key) -> _State:
    """Return a network between the trained one and a new draw, with Adam reset."""
    new = _network().init(key)
    params = jax.tree.map(
        lambda weights, drawn: kept * weights + (1 - kept) * drawn, state.params, new
    )
    return state._replace(params=params, adam=optax.adam(RATE).init(params))


def _compiled(num_tasks: int) -> _Programs:
    """Return programs of the constants as they are now."""
    watch = _monitor(num_tasks)
    adam = optax.adam(RATE)

    def loss(
        params: Params, task: _Task, batch: Int[Array, " batch"], strength: float
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        xs = task.images[batch][:, task.order]
        labels = task.labels[batch]
        outputs = jax.vmap(_network(), (None, 0))(params, xs)
        entropy = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        hits = jnp.mean(outputs.argmax(-1) == labels)
        return entropy.mean() + strength * _distance_from_isometry(params), hits

    def step(
        state: _State, task: _Task, batch: Int[Array, " batch"], strength: float
    ) -> tuple[_State, Float[Array, ""]]:
        params, watch_state, adam_state = state
        # Accuracy is that before the step, while the images are new.
        gradient, hits = jax.grad(loss, has_aux=True)(
            params, task, batch, strength=strength
        )
        # The monitor records, and returns the gradient as it was.
        gradient, watch_state = watch.update(
            gradient, watch_state, params, order=task.order
        )
        updates, adam_state = adam.update(gradient, adam_state, params)
        params = optax.apply_updates(params, updates)
        return _State(params=params, watch=watch_state, adam=adam_state), hits

    def train(
        state: _State, task: _Task, strength: float
    ) -> tuple[_State, Float[Array, ""]]:
        state, hits = jax.lax.scan(
            lambda state, batch: step(state, task, batch, strength=strength),
            state,
            task.batches,
        )
        return state, hits.mean()

    def inactive(params: Params, task: _Task) -> Float[Array, ""]:
        xs = task.images[:NUM_COUNTED, task.order]
        layers = jax.vmap(_features, (None, 0))(params, xs)
        shares = [jnp.mean(jnp.all(layer <= 0, axis=0)) for layer in layers[:-1]]
        return jnp.mean(jnp.stack(shares))

    return _Programs(train=jax.jit(train), inactive=jax.jit(inactive))


def _distance_from_isometry(params: Params) -> Float[Array, ""]:
    """Return Σ |WᵀW/2 − I|² over the hidden layers.

    Half of the units are inactive, so that weights of gain √2 keep the mean square.
    """
    total = jnp.zeros(())
    # Layers of one shape are stacked.
    for layers in params["layers"]:
        weights = layers["w"]
        if weights.shape[-1] != WIDTH:
            continue
        gram = jnp.einsum("lij,lik->ljk", weights, weights)
        total = total + jnp.sum((gram / 2 - jnp.eye(WIDTH)) ** 2)
    return total


def _first(values: xarray.DataArray) -> xarray.DataArray:
    """Return means over the first tasks."""
    count = round(SHARE * values.sizes["task"])
    return values.isel(task=slice(None, count)).mean("task")


def _last(values: xarray.DataArray) -> xarray.DataArray:
    """Return means over the last tasks."""
    count = round(SHARE * values.sizes["task"])
    return values.isel(task=slice(-count, None)).mean("task")


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare the last tasks with the first, and with networks drawn anew.

    Numbers are the ends of their intervals: a mean over draws less or plus its error
    times Student's quantile, so that a claim holds beyond chance.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    accuracy = _last(data.accuracy)
    control = accuracy.sel(run="drawn anew")
    kept = mean(accuracy / control)
    # Networks that are drawn anew have nothing to lose.
    change = mean(
        _last(data.accuracy).sel(run="drawn anew")
        / _first(data.accuracy).sel(run="drawn anew")
    )
    ranks = mean(_last(data.effective_rank) / _first(data.effective_rank))
    inactive = mean(_last(data.inactive))
    bound = t_bound(8, data.sizes["draw"])

    def above(what: str, estimate: Estimate, low: float) -> Compared:
        return Compared(what, float(estimate.value - bound * estimate.error), low=low)

    def below(what: str, estimate: Estimate, high: float) -> Compared:
        return Compared(what, float(estimate.value + bound * estimate.error), high=high)

    adam = "Adam"
    penalty = "isometry penalty"
    perturbed = "shrink and perturb"
    of_control = "last accuracy over that of networks drawn anew"
    rank = "effective rank of the Jacobian, last over first"
    units = "inactive units at the end"
    return settled(
        [
            above("drawn anew: last accuracy over the first", change, low=0.95),
            below(f"{adam}: {of_control}", kept.at(run=adam), high=PRESERVED),
            above(f"{penalty}: {of_control}", kept.at(run=penalty), low=PRESERVED),
            above(f"{perturbed}: {of_control}", kept.at(run=perturbed), low=PRESERVED),
            below(f"{adam}: {rank}", ranks.at(run=adam), high=0.5),
            above(f"{perturbed}: {rank}", ranks.at(run=perturbed), low=0.6),
            above(f"{adam}: {units}", inactive.at(run=adam), low=0.5),
            below(f"{perturbed}: {units}", inactive.at(run=perturbed), high=0.45),
        ]
    )


def plot(data: xarray.Dataset) -> "Figure":
    """Draw accuracy, effective rank and inactive units against the task.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 3, height=2.5, width=2.4)
    left, middle, right = axes[0]
    _draw(left, data.accuracy)
    left.set(ylabel="accuracy on new images", title="Learning the next task")
    _draw(middle, data.effective_rank)
    middle.set(ylabel="effective rank of the Jacobian", title="At the start of a task")
    _draw(right, data.inactive)
    right.set(ylabel="share of inactive units", title="At the end of a task")
    left.set_ylim(0, 1)
    middle.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    _style.legend(figure, left, ncols=len(RUNS))
    return figure


def _draw(ax: "Axes", values: xarray.DataArray) -> None:
    """Draw means over tenths of the tasks, one line for each run."""
    # Fifty tasks would be a cloud of marks.
    width = max(1, values.sizes["task"] // 10)
    means = mean(values.coarsen(task=width, boundary="trim").mean())
    for i, run in enumerate(RUNS):
        means.at(run=run).draw(ax, means.value.task, i, label=run, ls="-")
    ax.set_xlabel("task")
