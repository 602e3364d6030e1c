"""A network trained on one task after another loses what it needs to learn the next.

Dohare et al. (2024), Nature 632, 768 ("Loss of plasticity in deep continual learning"),
Online Permuted MNIST, in miniature.

Each task is 8×8 digits with their pixels in another order, seen in batches of 16 for
100 steps. A ReLU network (three hidden layers of 64 units, orthogonal weights) goes
from task to task with Adam at rate 0.01. Its accuracy on digits that it sees for the
first time falls from task to task, while that of a network drawn anew for each task
does not. What goes along with it: the Jacobian of the last hidden layer, as
`isometry.monitor` records it at the start of each task, loses effective rank, and units
become inactive at all inputs. To reset Adam's moments for each task is not enough. Two
remedies keep most of the accuracy: a penalty that holds the weights of all hidden
layers near isometry, |WᵀW/2 − I|², and at the start of each task a step half-way back
to new random weights (shrink and perturb; Ash and Adams, 2020), with the moments reset.
The penalty does so although effective rank falls to a third: rank is not all.

Reproduced: the loss of plasticity, the inactive units and the loss of effective rank,
at this rate; at a tenth of it nothing is lost in so few tasks. Not reproduced: tasks by
the hundred, networks of 2,000 units, ImageNet, the paper's own remedy, continual
backpropagation, and its shrink and perturb, which acts a little at every step and needs
no boundaries between tasks. There effective rank is that of activations; here it is
that of the Jacobian. The penalty is not in the paper. Bars are two standard errors over
draws.
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
from paper_figs._ensembles import mean

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

# Accuracy on the last tasks, over that of networks drawn anew: below the first number
# plasticity is lost, from the second on it is kept. After 15 tasks Adam is at 0.6 and
# the remedies are above 0.9; the interval of five draws is 0.2.
LOST = 0.9
PRESERVED = 0.8
# Claims with an interval, of which none may fail by chance.
NUM_BOUNDS = 12


class _Run(NamedTuple):
    """What a network takes from one task to the next.

    Attributes:
        strength: The coefficient of the isometry penalty.
        kept: The share of the trained weights in those that the next task begins with;
            the rest is a new draw.
        reset: Whether Adam's moments begin at zero in each task.
    """

    strength: float
    kept: float
    reset: bool


RUNS = {
    "Adam": _Run(strength=0.0, kept=1.0, reset=False),
    "moments reset": _Run(strength=0.0, kept=1.0, reset=True),
    "isometry penalty": _Run(strength=STRENGTH, kept=1.0, reset=False),
    "shrink and perturb": _Run(strength=0.0, kept=KEPT, reset=True),
    "drawn anew": _Run(strength=0.0, kept=0.0, reset=True),
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
        if index > 0 and run.reset:
            state = _reset(state, run.kept, key=new_key)
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
    """Return a task with its own order of the pixels and its own batches."""
    images, labels = datasets.digits()
    order_key, batches_key = jax.random.split(key)
    batches = jax.random.permutation(batches_key, len(images))[: STEPS * BATCH]
    return _Task(
        images=images,
        labels=jnp.asarray(labels),
        order=jax.random.permutation(order_key, PIXELS),
        batches=batches.reshape(STEPS, BATCH),
    )


def _reset(state: _State, kept: float, *, key: Key) -> _State:
    """Return a network between the trained one and a new draw, without moments."""
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
    control = "drawn anew"
    kept = accuracy / accuracy.sel(run=control)
    ranks = _last(data.effective_rank) / _first(data.effective_rank)
    inactive = _last(data.inactive)
    # Networks that are drawn anew have nothing to lose.
    change = (accuracy / _first(data.accuracy)).sel(run=control)
    bound = t_bound(NUM_BOUNDS, data.sizes["draw"])

    def above(what: str, values: xarray.DataArray, low: float) -> Compared:
        estimate = mean(values)
        return Compared(what, float(estimate.value - bound * estimate.error), low=low)

    def below(what: str, values: xarray.DataArray, high: float) -> Compared:
        estimate = mean(values)
        return Compared(what, float(estimate.value + bound * estimate.error), high=high)

    def reported(what: str, values: xarray.DataArray) -> Compared:
        return Compared(what, float(values.mean(skipna=False)))

    rows = [above(f"{control}: last accuracy over the first", change, low=0.95)]
    of_control = "last accuracy over that of networks drawn anew"
    rank = "effective rank of the Jacobian, last over first"
    units = "inactive units at the end"
    # A new draw has a quarter of its units inactive, and learns little of one task.
    rows.append(below(f"{control}: {units}", inactive.sel(run=control), high=0.33))
    for run in ("Adam", "moments reset"):
        rows.extend(
            [
                below(f"{run}: {of_control}", kept.sel(run=run), high=LOST),
                below(f"{run}: {rank}", ranks.sel(run=run), high=0.6),
                above(f"{run}: {units}", inactive.sel(run=run), low=0.45),
            ]
        )
    for run in ("isometry penalty", "shrink and perturb"):
        gain = kept.sel(run=run) - kept.sel(run="Adam")
        rows.append(above(f"{run}: {of_control}", kept.sel(run=run), low=PRESERVED))
        rows.append(above(f"{run}: the same, more than Adam alone", gain, low=0.0))
        rows.append(reported(f"{run}: {rank}", ranks.sel(run=run)))
        rows.append(reported(f"{run}: {units}", inactive.sel(run=run)))
    return settled(rows)


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
