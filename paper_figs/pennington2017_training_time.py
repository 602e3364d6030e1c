"""With depth training slows less for orthogonal tanh networks than for Gaussian ones.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Figs. 4 to 6.

Steps of plain SGD (batches of 32, cross entropy) until 0.9 of 256 training digits are
right, against the number L of hidden layers, up to a quarter of the width N. Networks
are critical at q* = √(1/32 L), so that tanh has L (μ₂/μ₁² − 1) = 1/4; inputs are
centred, and normalized to start at q*. ReLU, which has σ_w² = 2, is in the full preset
only.

There are eight rates, √2 apart, around 128/(N L) for tanh and 175/(N L^1.5) for ReLU.
Accuracy is taken at each step up to 10 and then after each tenth part more; times are
interpolated. Runs end when half as many steps again have passed since all seeds were
there at one rate, or at the last step. Each seed is timed at the rate that is best for
the others. Marks are medians over seeds, so that a run that is not there counts as
slower, however slow. Errors are at 95 %, from resampled seeds.

The paper has the power 1/2 of L for orthogonal tanh and 1 for the others, at N = 400
and L to 300 on CIFAR-10. The check reports ours beside them, and asserts that
orthogonal tanh has a lower power than Gaussian tanh at 95 %. It also holds the variance
of the second layer before training against q*. In full, with N = 96 and L to 24, the
powers of ReLU come out above 1 and that of orthogonal tanh below 1/2. The claim is one
of early training: nothing is asserted of higher accuracies.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, Int

from isometry import activations, theory
from isometry import data as datasets
from isometry._internal.types import Key
from paper_figs import _draws, _style, _times
from paper_figs._check import Compared, largest, least, settled, t_bound, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The power of L that the paper has for each kind of network.
PAPER = {
    "tanh, orthogonal": 0.5,
    "tanh, gaussian": 1.0,
    "relu, orthogonal": 1.0,
    "relu, gaussian": 1.0,
}
NETS = tuple(PAPER)
PRESETS = {
    "full": {
        "width": 96,
        "depths": (4, 8, 16, 24),
        "steps": 1200,
        "seeds": 12,
        "nets": NETS,
    },
    "smoke": {
        "width": 64,
        "depths": (4, 16),
        "steps": 400,
        "seeds": 24,
        "nets": NETS[:2],
    },
}

# Factors of the central rate c/(N L^p), which lies near the best one at each depth.
# With a wider grid more runs would be at rates that do not matter; in a narrower one
# the best rate would be at an edge for some depth.
RATES = 2.0 ** (np.arange(-4, 4) / 2)
CENTRE = {"tanh": 128, "relu": 175}
POWER = {"tanh": 1.0, "relu": 1.5}

BATCH = 32
# Accuracy is taken on the first of the digits; on all of them it would take seven times
# as long each time.
SEEN = 256
# The claim is one of early training, of which higher levels are the end. At much lower
# ones a few steps would do at any depth.
LEVEL = 0.9
CLASSES = 10


class _Params(NamedTuple):
    """Parameters of a network; of all seeds, or all rates and seeds, as first axes."""

    first: Float[Array, "*batch pixels units"]
    hidden: Float[Array, "*batch layers units units"]
    head: Float[Array, "*batch units classes"]
    biases: Float[Array, "*batch layers+1 units"]


class _Training(NamedTuple):
    """What networks are trained with.

    Attributes:
        rates: The rates of SGD.
        xs: The digits.
        labels: Their labels.
        batches: The indices of the digits in the batch of each step.
    """

    rates: Float[Array, " rates"]
    xs: Float[Array, "images pixels"]
    labels: Int[Array, " images"]
    batches: Int[Array, "seeds steps batch"]


class _Task(NamedTuple):
    """What is trained.

    Attributes:
        params: Initial parameters of every seed.
        activation: The name of the activation.
        training: What it is trained with.
    """

    params: _Params
    activation: str
    training: _Training


class _Run(NamedTuple):
    """What came of training.

    Attributes:
        steps: The steps to the level of accuracy; inf where it is not reached.
        ended: The step at which all runs were ended.
        wrong: The share of wrong labels before training.
        variance: The variance of the second layer before training, over q*.
    """

    steps: Float[np.ndarray, "rates seeds"]
    ended: int
    wrong: Float[np.ndarray, " seeds"]
    variance: Float[np.ndarray, " seeds"]


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Train networks of all kinds and depths at all rates.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `steps` to the level of accuracy, over (net, depth, rate, seed), inf where it is
        not reached; `ended`, the step at which the runs were ended, over (net, depth);
        and over (net, depth, seed) the state before training: `wrong`, the share of
        wrong labels, and `variance` of the second layer, over q*.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    runs = []
    for net in size["nets"]:
        for depth in size["depths"]:
            q = math.sqrt(1 / 32 / depth)
            task = _start(rng, net, depth, q=q, size=size)
            runs.append(_run(task, q, steps=size["steps"]))

    def gathered(name: str) -> np.ndarray:
        values = np.array([getattr(run, name) for run in runs])
        by_depth = (len(size["nets"]), len(size["depths"]))
        return values.reshape(*by_depth, *values.shape[1:])

    return xarray.Dataset(
        {
            "steps": (("net", "depth", "rate", "seed"), gathered("steps")),
            "ended": (("net", "depth"), gathered("ended")),
            "wrong": (("net", "depth", "seed"), gathered("wrong")),
            "variance": (("net", "depth", "seed"), gathered("variance")),
        },
        {
            "net": list(size["nets"]),
            "depth": list(size["depths"]),
            "rate": RATES,
        },
        {"width": size["width"]},
    )


def _start(
    rng: np.random.Generator,
    net: str,
    depth: int,
    *,
    q: float,
    size: dict,
) -> _Task:
    """Draw the parameters and the batches of every seed."""
    activation, law = net.split(", ")
    n, seeds = size["width"], size["seeds"]
    point = theory.critical_at(activation, q)
    digits = datasets.digits()
    xs = digits.xs - digits.xs.mean(0)
    pixels = xs.shape[1]
    # The first layer has entries of variance σ_w²/N, whatever the number of pixels.
    wanted = (q - point.sigma_b**2) / point.sigma_w**2 * n / pixels
    xs = datasets.normalize(xs, wanted)
    drawn = _draws.square(rng, law, count=seeds * (depth + 1), n=n)
    weights = point.sigma_w * drawn.reshape(seeds, depth + 1, n, n)
    biases = point.sigma_b * rng.standard_normal((seeds, depth, n))
    params = _Params(
        first=jnp.float32(weights[:, 0, :pixels]),
        hidden=jnp.float32(weights[:, 1:-1]),
        head=jnp.float32(weights[:, -1, :, :CLASSES]),
        biases=jnp.float32(biases),
    )
    rates = CENTRE[activation] * RATES / (n * depth ** POWER[activation])
    batches = rng.integers(len(xs), size=(seeds, size["steps"], BATCH))
    training = _Training(
        rates=jnp.float32(rates),
        xs=xs,
        labels=jnp.asarray(digits.targets),
        batches=jnp.asarray(batches),
    )
    return _Task(params=params, activation=activation, training=training)


def _run(task: _Task, q: float, *, steps: int) -> _Run:
    """Train at all rates, until runs are ended."""
    training, activation = task.training, task.activation
    seen, labels = training.xs[:SEEN], training.labels[:SEEN]
    num_rates = len(training.rates)
    params = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_rates, *leaf.shape)),
        task.params,
    )
    records = [0]
    curve = [_wrong(params, seen, labels, activation=activation)]
    last = steps
    while records[-1] < last:
        start = records[-1]
        # Times differ by factors, so that a tenth part is as good as a single step.
        end = min(start + max(1, start // 10), last)
        params = _train(params, training, start, end=end, activation=activation)
        records.append(end)
        curve.append(_wrong(params, seen, labels, activation=activation))
        if last == steps and _is_there_at_one_rate(curve):
            last = min(3 * end // 2 + 1, last)
    by_record = np.moveaxis(np.array(curve), 0, -1)
    crossed = _times.crossing(by_record, 1 - LEVEL)
    return _Run(
        # From numbers of records to numbers of steps.
        steps=np.interp(crossed, np.arange(len(records)), records, right=np.inf),
        ended=last,
        wrong=np.array(curve[0])[0],
        variance=np.array(_second_layer(task)) / q,
    )


def _is_there_at_one_rate(curve: list[Float[Array, "rates seeds"]]) -> bool:
    """Return whether all seeds have reached the level at one of the rates."""
    is_there = np.min(curve, axis=0) <= 1 - LEVEL
    return bool(is_there.all(axis=1).any())


def _outputs(
    params: _Params,
    x: Float[Array, "*batch pixels"],
    activation: str,
) -> Float[Array, "*batch classes"]:
    """Return the outputs of one network."""
    phi = activations.get(activation)

    def layer(z: Array, parameters: tuple[Array, Array]) -> tuple[Array, None]:
        weights, biases = parameters
        return phi(z) @ weights + biases, None

    z = x @ params.first + params.biases[0]
    z, _ = jax.lax.scan(layer, z, (params.hidden, params.biases[1:]))
    return phi(z) @ params.head


def _second_layer(task: _Task) -> Float[Array, " seeds"]:
    """Return the mean square of the second layer before training, for every seed."""
    phi = activations.get(task.activation)

    def mean_square(params: _Params) -> Float[Array, ""]:
        z = task.training.xs[:SEEN] @ params.first + params.biases[0]
        z = phi(z) @ params.hidden[0] + params.biases[1]
        return jnp.mean(z**2)

    return jax.jit(jax.vmap(mean_square))(task.params)


@functools.partial(jax.jit, static_argnames="activation")
def _wrong(
    params: _Params,
    xs: Float[Array, "images pixels"],
    labels: Int[Array, " images"],
    *,
    activation: str,
) -> Float[Array, "rates seeds"]:
    """Return the share of wrong labels for every rate and seed."""

    def wrong(params: _Params) -> Float[Array, ""]:
        outputs = _outputs(params, xs, activation)
        is_wrong = outputs.argmax(-1) != labels
        # Of outputs that are not numbers all labels are wrong.
        is_finite = jnp.isfinite(outputs).all(-1)
        return jnp.mean(is_wrong | ~is_finite, dtype=jnp.float32)

    return jax.vmap(jax.vmap(wrong))(params)


@functools.partial(jax.jit, static_argnames="activation")
def _train(
    params: _Params,
    training: _Training,
    start: int,
    *,
    end: int,
    activation: str,
) -> _Params:
    """Return the parameters of every rate and seed after some more steps."""

    def loss(params: _Params, batch: Int[Array, " batch"]) -> Float[Array, ""]:
        logs = jax.nn.log_softmax(_outputs(params, training.xs[batch], activation))
        of_label = jnp.take_along_axis(logs, training.labels[batch][:, None], axis=1)
        return -of_label.mean()

    def run(
        rate: Array,
        params: _Params,
        batches: Int[Array, "steps batch"],
    ) -> _Params:
        def step(i: Array, params: _Params) -> _Params:
            gradient = jax.grad(loss)(params, batches[i])
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

        return jax.lax.fori_loop(start, end, step, init_val=params)

    of_seeds = jax.vmap(run, in_axes=(None, 0, 0))
    of_rates = jax.vmap(of_seeds, in_axes=(0, 0, None))
    return of_rates(training.rates, params, training.batches)


def _logs(data: xarray.Dataset) -> Float[np.ndarray, "net depth rate seed"]:
    """Return ln steps; a run that is not there has those at which it was ended."""
    logs = np.log(np.minimum(data.steps, data.ended))
    return logs.transpose("net", "depth", "rate", "seed").values


def _powers(data: xarray.Dataset) -> dict[str, _times.Growth]:
    """Return the power of L for every kind of network."""
    medians = _times.held_out(_logs(data))
    powers = {}
    for i, net in enumerate(data.net.values.tolist()):
        of_net = _times.Middle(medians.value[i], medians.error[i])
        powers[net] = _times.power(data.depth.values, of_net)
    return powers


def _named(net: str) -> str:
    """Return the name of a kind of network in a sentence."""
    return net.replace("gaussian", "Gaussian").replace("relu", "ReLU")


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare the powers of L, and ask whether they were measured properly.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    powers = _powers(data)
    flat = powers["tanh, orthogonal"]
    steep = powers["tanh, gaussian"]
    error = float(np.hypot(flat.error, steep.error))
    rows = [
        Compared(
            f"power of L, Gaussian less orthogonal tanh (± {error:.2g})",
            steep.slope - flat.slope,
            low=error,
            words="above 0 at 95 %",
        )
    ]
    for net, power in powers.items():
        what = f"power of L, {_named(net)} (± {power.error:.2g})"
        rows.append(Compared(what, power.slope, words=f"paper: {PAPER[net]:g}"))
    rows += _grid(data)
    rows += _initial(data)
    return settled(rows)


def _grid(data: xarray.Dataset) -> list[Compared]:
    """Ask whether the best rates lie inside the grid, and whether runs get there."""
    logs = _logs(data)
    best = logs.mean(axis=-1).argmin(axis=-1)
    # Neither the first rate nor the last.
    highest = len(RATES) - 2
    rates = _times.best_for_others(logs, np.ones(data.sizes["seed"]))
    is_late = ~np.isfinite(_times.at_rates(data.steps.values, rates))
    # With half of the runs missing the median would be the time at which they ended.
    worst = largest(is_late.mean(axis=-1))
    return [
        Compared("best rate, least index in the grid", least(best), 1, high=highest),
        Compared("the same, largest", largest(best), 1, high=highest),
        Compared("share of runs not there, at any net and depth", worst, 0, high=0.4),
        Compared("the same, in all", float(is_late.mean()), 0, high=0.1),
    ]


def _initial(data: xarray.Dataset) -> list[Compared]:
    """Compare networks before training with chance, and with the fixed point."""
    wrong = data.wrong.values.ravel()
    rows = [
        within(
            "share of digits wrong before training, mean",
            float(wrong.mean()),
            1 - 1 / CLASSES,
            tolerance=_tolerance(wrong),
        )
    ]
    # Entries of orthogonal matrices are a little less spread than Gaussian ones, which
    # moves the mean by about 4 q*/N. That is well inside the tolerance.
    variance = data.variance.values.ravel()
    rows.append(
        within(
            "variance of the second layer before training, over q*",
            float(variance.mean()),
            1.0,
            tolerance=_tolerance(variance),
        )
    )
    return rows


def _tolerance(values: np.ndarray) -> float:
    """Return how far a mean may be off: by chance more once in a thousand times."""
    error = values.std(ddof=1) / math.sqrt(values.size)
    return t_bound(1, values.size, 1e-3) * float(error)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw steps against depth with the fitted powers, and the powers of the paper.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 1, height=2.8)
    ax = axes[0, 0]
    medians = _times.held_out(_logs(data))
    for i, (net, power) in enumerate(_powers(data).items()):
        value, error = medians.value[i], medians.error[i]
        steps = np.exp(value)
        bars = np.stack([steps - np.exp(value - error), np.exp(value + error) - steps])
        label = f"{_named(net)}: {power.slope:.2f} ± {power.error:.2f}"
        _style.dots(ax, data.depth, steps, error=bars, i=i, label=label)
        fitted = np.exp(value.mean() + power.slope * _centred_log(data))
        _style.line(ax, data.depth, y=fitted, i=i)
    _draw_powers(ax, data, lowest=float(np.exp(medians.value.min())))
    ax.set(
        xlabel="hidden layers L",
        ylabel=f"steps to accuracy {LEVEL:g}, median",
        yscale="log",
        title=f"Learning time at the best rate, N = {data.attrs['width']}",
    )
    _style.ticks(ax, data.depth)
    ticks = (1, 3, 10, 30, 100, 300)
    ax.set_yticks(ticks, list(map(str, ticks)))
    ax.minorticks_off()
    _style.legend(figure, ax, ncols=2)
    return figure


def _centred_log(data: xarray.Dataset) -> Float[np.ndarray, " depth"]:
    """Return ln L, less its mean over the depths."""
    logs = np.log(data.depth.values)
    return logs - logs.mean()


def _draw_powers(ax: "Axes", data: xarray.Dataset, *, lowest: float) -> None:
    """Draw the powers of the paper below what was measured."""
    growth = data.depth / data.depth[-1]
    for power, dashes in ((0.5, "--"), (1.0, ":")):
        guide = lowest / 2 * growth**power
        label = f"paper's power, {power:g}"
        ax.plot(data.depth, guide, dashes, color="0.4", lw=0.9, label=label)
