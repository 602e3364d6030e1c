"""Do the spectrum's flags rank the loss that training ends with?

What follows was registered before anything was run. The score of a network, in the
worse of the two spans, is

    |ln(E s^2)/2| + ln(E s^4 / (E s^2)^2)/2:

how far the root mean squared singular value is from 1, plus how far the root mean
square of s^2 is above its mean. These are the two numbers behind `vanishing`,
`exploding` and `anisometric`, whose v is E s^4/(E s^2)^2 - 1; as in those flags they
are medians. No constant is fitted, and a zero Jacobian scores infinity. Worse networks
have higher scores, so that a good score correlates with the loss positively. There are
two baselines, each as the distance of its logarithm from 0: the norm of the gradient of
the loss over all layers, and E s^2 end to end. Flags of ranks are left out: on easy
data what they find costs nothing.

The loss is the mean cross-entropy over all pooled digits after `steps` steps of SGD, in
the median over seeds, at the best of five learning rates a factor of 4 apart. A value
that is not finite counts as chance, ln 10. While the best rate lies at an edge of the
grid, the grid grows on that side. If it still does after `extensions`, the network is
marked as censored.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import isometry
from benchmarks.zoo import _statistics
from benchmarks.zoo._calibrate import SMOKE_ZOO
from benchmarks.zoo._nets import N_OUT, ZOO, Config
from benchmarks.zoo._truth import Q_IN, truth
from isometry import Report, data, store
from isometry._internal import precision, provenance
from isometry._internal.types import Params

CHANCE = math.log(N_OUT)

# The grid of learning rates: five powers of FACTOR times CENTRE. A larger factor could
# miss the best rate; a smaller one would train more often for the same range.
CENTRE = 0.1
FACTOR = 4.0
RATES = 5

# Losses that differ by less do not say which rate is best. At ten times as much, a gain
# of 0.01 at an edge would be missed; at a tenth, grids would grow for gains of 1e-4.
FLAT = 1e-3


@dataclass(frozen=True)
class Preset:
    """How long is trained, and how much is audited.

    Attributes:
        steps: Steps of SGD.
        batch: Examples of a step.
        seeds: Seeds that are trained.
        extensions: How often a grid may grow.
        audit_seeds: Seeds of the audit.
        audit_inputs: Inputs of the audit.
    """

    steps: int = 300
    batch: int = 32
    seeds: int = 3
    extensions: int = 5
    audit_seeds: int = 8
    audit_inputs: int = 8


FULL = Preset()
SMOKE = Preset(steps=30, seeds=1, extensions=1, audit_seeds=5, audit_inputs=2)


def digits() -> data.Data:
    """Return pooled digits, each of the norm that the zoo's truth assumes."""
    pooled = data.digits(pooled=True)
    return data.Data(data.normalize(pooled.xs, Q_IN), pooled.targets)


@functools.partial(jax.jit, static_argnames=("function",))
def _trained(
    function: Callable[[Params, Array], Array],
    params: Params,
    rates: Float[Array, "rates"],
    *,
    examples: data.Data,
    batches: Int[Array, "steps batch"],
) -> Float[Array, "seeds rates"]:
    """Return the losses over all examples that training ends with.

    Args:
        function: The network.
        params: Its parameters, stacked over seeds.
        rates: Learning rates.
        examples: All examples.
        batches: The indices of the examples of each step.
    """

    def mean_loss(params: Params, examples: data.Data) -> Array:
        assert examples.targets is not None
        outputs = jax.vmap(function, (None, 0))(params, examples.xs)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs, examples.targets
        )
        return jnp.mean(losses)

    def final_loss(params: Params, rate: Array) -> Array:
        def step(params: Params, index: Array) -> tuple[Params, None]:
            batch = jax.tree.map(lambda leaf: leaf[index], examples)
            gradients = jax.grad(mean_loss)(params, batch)
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradients)
            return params, None

        after, _ = jax.lax.scan(step, params, batches)
        return mean_loss(after, examples)

    over_rates = jax.vmap(final_loss, (None, 0))
    with precision.full():
        return jax.vmap(over_rates, (0, None))(params, rates)


class _Grid:
    """Losses at learning rates that are powers of FACTOR times CENTRE.

    Attributes:
        losses: The loss by power, infinite where training diverged.
    """

    def __init__(self, losses_at: Callable[[np.ndarray], np.ndarray]) -> None:
        self.losses_at = losses_at
        self.losses: dict[int, float] = {}
        self._add(np.arange(RATES) - RATES // 2)

    def _add(self, powers: np.ndarray) -> None:
        losses = self.losses_at(CENTRE * FACTOR**powers)
        self.losses.update(zip(powers.tolist(), losses.tolist(), strict=True))

    @property
    def best(self) -> int:
        """The power of the lowest loss, and of several the lowest.

        So a grid on which everything diverges grows downwards.
        """
        return min(sorted(self.losses), key=self.worth)

    def worth(self, power: int) -> float:
        """Return the loss; what diverged counts as chance."""
        loss = self.losses[power]
        return loss if math.isfinite(loss) else CHANCE

    @property
    def is_at_edge(self) -> bool:
        """Whether the best may lie outside."""
        # The difference is infinite or NaN, and not flat, if one of them is infinite.
        is_flat = max(self.losses.values()) - min(self.losses.values()) < FLAT
        return self.best in (min(self.losses), max(self.losses)) and not is_flat

    def grow(self) -> None:
        """Add as many rates again on the side of the best."""
        lowest, highest = min(self.losses), max(self.losses)
        first = lowest - RATES if self.best == lowest else highest + 1
        self._add(first + np.arange(RATES))


def best_of(losses_at: Callable[[np.ndarray], np.ndarray], extensions: int) -> dict:
    """Find the lowest loss over learning rates.

    Args:
        losses_at: Returns the losses at five rates; infinite ones are allowed.
        extensions: How often the grid may grow.

    Returns:
        The lowest loss, its rate, whether it is censored, and all rates and losses.
    """
    grid = _Grid(losses_at)
    for _ in range(extensions):
        if not grid.is_at_edge:
            break
        grid.grow()
    powers = sorted(grid.losses)
    return {
        "loss": grid.worth(grid.best),
        "rate": float(CENTRE * FACTOR**grid.best),
        "censored": grid.is_at_edge,
        "rates": [float(CENTRE * FACTOR**power) for power in powers],
        "losses": [grid.losses[power] for power in powers],
    }


def final_loss(config: Config, preset: Preset, examples: data.Data) -> dict:
    """Train a network at all rates that it takes, and return what `best_of` does."""
    net = config.net()
    drawn = jax.vmap(net.init)(jax.random.split(jax.random.key(1), preset.seeds))
    adjusted = []
    for seed in range(preset.seeds):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], drawn)
        adjusted.append(net.adjust(params, examples.xs))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *adjusted)
    shape = (preset.steps, preset.batch)
    key = jax.random.key(2)
    batches = jax.random.randint(key, shape, minval=0, maxval=len(examples.xs))

    def losses_at(rates: np.ndarray) -> np.ndarray:
        losses = _trained(
            net.function,
            stacked,
            jnp.asarray(rates, jnp.float32),
            examples=examples,
            batches=batches,
        )
        losses = np.asarray(losses, float)
        return np.median(np.where(np.isfinite(losses), losses, np.inf), 0)

    return best_of(losses_at, preset.extensions)


def scores(config: Config, preset: Preset, examples: data.Data) -> dict[str, float]:
    """Return the registered score and the two baselines, from one audit."""
    report = isometry.audit(
        config.net(),
        jax.random.split(jax.random.key(3), preset.audit_seeds),
        examples.xs,
        targets=examples.targets,
        train_steps=0,
        inputs=preset.audit_inputs,
    )
    # Of one network the report is one, and no table of several.
    assert isinstance(report, Report)
    gains = report.flags["vanishing"].evidence["gain"]
    spreads = report.flags["anisometric"].evidence["anisometry"]
    norms = np.asarray(report.flags["zero_gradient"].evidence["log_gradient_norm"])
    of_spans = [
        abs(gains[span]["value"]) + math.log1p(spreads[span]["value"]) / 2
        for span in gains
    ]
    return {
        "score": max(of_spans),
        "gradient norm": abs(float(np.logaddexp.reduce(2 * norms)) / 2),
        "mean squared singular value": abs(2 * gains["end_to_end"]["value"]),
    }


def measured(
    config: Config,
    preset: Preset,
    out: pathlib.Path,
    *,
    examples: data.Data,
    say: Callable[[str], None],
) -> dict:
    """Return scores and loss of a network.

    What lies in `out` is taken from there, if it was made with the same settings.
    """
    path = out / f"{config.name}.json"
    if path.is_file():
        record = json.loads(path.read_text())
        if record["settings"] == asdict(preset):
            return record
    say(config.name)
    record = {
        "settings": asdict(preset),
        **final_loss(config, preset, examples),
        "scores": scores(config, preset, examples),
    }
    store.write_json(path, record)
    return json.loads(path.read_text())


def run(smoke: bool, out: pathlib.Path, say: Callable[[str], None]) -> dict:
    """Return the record: scores and loss of every network, and how they correlate."""
    preset, zoo = (SMOKE, SMOKE_ZOO) if smoke else (FULL, ZOO)
    cache = store.prepare(out / "predict")
    examples = digits()
    records = {}
    for config in zoo:
        records[config] = measured(config, preset, cache, examples=examples, say=say)
    return {
        "command": "predict",
        "preset": {"name": "smoke" if smoke else "full", **asdict(preset)},
        **summary(records),
        "provenance": provenance.provenance(
            command=["python", "-m", "benchmarks.zoo", "predict"]
        ),
    }


def healthy(config: Config) -> bool:
    """Tell whether nothing is known to be broken.

    Being anisometric does not count: most Gaussian networks are.
    """
    broken = [flag for flag, wanted in truth(config).items() if wanted]
    return set(broken) <= {"anisometric"}


def summary(records: Mapping[Config, dict]) -> dict:
    """Return correlations over all and over the healthy networks, and their rows."""
    groups = {
        "all": list(records),
        "healthy": [config for config in records if healthy(config)],
    }
    statistics = {"kendall": _statistics.kendall, "spearman": _statistics.spearman}
    correlations = {}
    for name, statistic in statistics.items():
        correlations[name] = {
            group: _correlations(statistic, zoo, records)
            for group, zoo in groups.items()
        }
    networks = {}
    for config, record in records.items():
        row = {key: value for key, value in record.items() if key != "settings"}
        networks[config.name] = {**row, "healthy": healthy(config)}
    return {**correlations, "networks": networks}


def _correlations(
    statistic: _statistics.Statistic,
    zoo: Sequence[Config],
    records: Mapping[Config, dict],
) -> dict:
    """Return the correlation of each score with the loss over some networks."""
    names = next(iter(records.values()))["scores"]
    columns = {}
    for name in names:
        # JSON has infinities as text.
        column = [float(records[config]["scores"][name]) for config in zoo]
        columns[name] = np.array(column)
    losses = np.array([records[config]["loss"] for config in zoo])
    return _statistics.paired(statistic, columns, losses)
