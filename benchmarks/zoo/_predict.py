"""Do the spectrum's flags rank the loss that training ends with?

Registered before anything was run: the score of a network is, in nepers and in the worse of the two spans,

    |½ ln E s²| + ½ ln(E s⁴ / (E s²)²),

how far the root mean squared singular value is from 1, plus how far the root mean square of s² is above its mean: the
two numbers behind `vanishing`, `exploding` and `anisometric` (½ ln(1 + v)), medians as those flags take them. No
constant is fitted; a zero Jacobian scores infinity. Worse nets have higher scores, so a good score correlates with the
loss positively. Baselines, each as the distance of its logarithm from 0: the norm of the loss gradient over all layers,
and E s² end to end, alone. Rank flags are left out: on easy data they cost nothing.

The loss is the mean cross-entropy over all of pooled digits after `steps` steps of SGD, the median over seeds, at the
best of five learning rates a factor of 4 apart; a value that is not finite counts as chance, ln 10. While the best lies
at the edge of the grid, the grid grows on that side; if it still does after `extensions`, the net is marked censored.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import isometry
from benchmarks.zoo import _statistics
from benchmarks.zoo._calibrate import SMOKE_ZOO
from benchmarks.zoo._nets import N_OUT, ZOO, Config
from benchmarks.zoo._truth import Q_IN, truth
from isometry import Report, data, store
from isometry._internal import precision, provenance

CHANCE = math.log(N_OUT)
CENTRE, FACTOR, RATES = 0.1, 4.0, 5
FLAT = 1e-3  # losses that differ by less do not say which rate is best


@dataclass(frozen=True)
class Preset:
    """How long is trained, and how much is audited."""

    steps: int = 300
    batch: int = 32
    seeds: int = 3
    extensions: int = 5
    audit_seeds: int = 8
    audit_inputs: int = 8


FULL = Preset()
SMOKE = Preset(steps=30, seeds=1, extensions=1, audit_seeds=5, audit_inputs=2)


def digits() -> data.Data:
    """Pooled digits, every one of the norm that the zoo's truth assumes."""
    found = data.digits(pooled=True)
    return data.Data(data.normalize(found.xs, Q_IN), found.targets)


def _mean_loss(function: Any, params: Any, xs: Any, targets: Any) -> Any:
    outputs = jax.vmap(function, (None, 0))(params, xs)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, targets))


@functools.partial(jax.jit, static_argnames=("function",))
def _trained(
    function: Any, params: Any, rates: Any, xs: Any, targets: Any, batches: Any
) -> Any:
    """(seeds, rates) final losses over all examples; `params` stacked over seeds, `batches` (steps, batch) indices."""

    def one(params: Any, rate: Any) -> Any:
        def step(params: Any, index: Any) -> tuple[Any, None]:
            grads = jax.grad(_mean_loss, 1)(function, params, xs[index], targets[index])
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

        return _mean_loss(function, jax.lax.scan(step, params, batches)[0], xs, targets)

    with precision.full():
        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(params, rates)


def best_of(
    losses_at: Callable[[np.ndarray], np.ndarray], extensions: int
) -> dict[str, Any]:
    """The lowest loss over learning rates and where it lies. `losses_at(rates)` gives five losses, infinite ones
    allowed; among equals the lowest rate is taken, so that a grid on which everything diverges grows downwards."""
    found: dict[int, float] = {}

    def grow(powers: np.ndarray) -> None:
        found.update(
            zip(
                powers.tolist(),
                losses_at(CENTRE * FACTOR**powers).tolist(),
                strict=True,
            )
        )

    def worth(power: int) -> float:
        return found[power] if math.isfinite(found[power]) else CHANCE

    def at_edge() -> bool:
        flat = (
            max(found.values()) - min(found.values()) < FLAT
        )  # False where one is infinite: inf or NaN
        return best() in (min(found), max(found)) and not flat

    def best() -> int:
        return min(sorted(found), key=worth)

    grow(np.arange(RATES) - RATES // 2)
    for _ in range(extensions):
        if not at_edge():
            break
        grow(
            (min(found) - RATES if best() == min(found) else max(found) + 1)
            + np.arange(RATES)
        )
    ordered = sorted(found)
    return {
        "loss": worth(best()),
        "rate": float(CENTRE * FACTOR ** best()),
        "censored": at_edge(),
        "rates": [float(CENTRE * FACTOR**p) for p in ordered],
        "losses": [found[p] for p in ordered],
    }


def final_loss(config: Config, preset: Preset, digits: data.Data) -> dict[str, Any]:
    """What training this network comes to."""
    net = config.net()
    drawn = jax.vmap(net.init)(jax.random.split(jax.random.key(1), preset.seeds))
    adjusted = [
        net.scheme.adjust(net, jax.tree.map(lambda a, i=i: a[i], drawn), digits.xs)
        for i in range(preset.seeds)
    ]
    params = jax.tree.map(lambda *a: jnp.stack(a), *adjusted)
    batches = jax.random.randint(
        jax.random.key(2), (preset.steps, preset.batch), 0, len(digits.xs)
    )

    def losses_at(rates: np.ndarray) -> np.ndarray:
        found = np.asarray(
            _trained(
                net.function,
                params,
                jnp.asarray(rates, jnp.float32),
                digits.xs,
                digits.targets,
                batches,
            ),
            float,
        )
        return np.median(np.where(np.isfinite(found), found, np.inf), 0)

    return best_of(losses_at, preset.extensions)


def scores(config: Config, preset: Preset, digits: data.Data) -> dict[str, float]:
    """The registered score and the two baselines, from one audit."""
    report = isometry.audit(
        config.net(),
        jax.random.split(jax.random.key(3), preset.audit_seeds),
        digits.xs,
        targets=digits.targets,
        train_steps=0,
        inputs=preset.audit_inputs,
    )
    assert isinstance(report, Report)  # of one network
    gains = {
        span: g["value"]
        for span, g in report.flags["vanishing"].evidence["gain"].items()
    }
    spreads = {
        span: v["value"]
        for span, v in report.flags["anisometric"].evidence["anisometry"].items()
    }
    norms = np.asarray(report.flags["zero_gradient"].evidence["log_gradient_norm"])
    return {
        "score": max(
            abs(gains[span]) + math.log1p(spreads[span]) / 2 for span in gains
        ),
        "gradient norm": abs(float(np.logaddexp.reduce(2 * norms)) / 2),
        "mean squared singular value": abs(2 * gains["end_to_end"]),
    }


def measured(
    config: Config,
    preset: Preset,
    digits: data.Data,
    out: pathlib.Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Scores and loss of a network; from `out` if they lie there, made with these settings."""
    path = out / f"{config.name}.json"
    if path.is_file():
        old = json.loads(path.read_text())
        if old["settings"] == asdict(preset):
            return old
    say(config.name)
    trained = final_loss(config, preset, digits)
    found = {
        "settings": asdict(preset),
        **trained,
        "scores": scores(config, preset, digits),
    }
    store.write_json(path, found)
    return json.loads(path.read_text())


def run(smoke: bool, out: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record: every network's scores and loss, and how well the scores rank it."""
    preset, zoo = (SMOKE, SMOKE_ZOO) if smoke else (FULL, ZOO)
    cache, inputs = store.prepare(out / "predict"), digits()
    found = {config: measured(config, preset, inputs, cache, say) for config in zoo}
    return {
        "command": "predict",
        "preset": {"name": "smoke" if smoke else "full", **asdict(preset)},
        **summary(found),
        "provenance": provenance.provenance(
            command=["python", "-m", "benchmarks.zoo", "predict"]
        ),
    }


def healthy(config: Config) -> bool:
    """Whether nothing is known to be broken, anisometric apart: that is most Gaussian networks."""
    return not any(
        wrong for flag, wrong in truth(config).items() if flag != "anisometric"
    )


def summary(found: dict[Config, dict[str, Any]]) -> dict[str, Any]:
    """Correlations over all networks and over the healthy ones, and the rows they come from."""
    groups = {"all": list(found), "healthy": [z for z in found if healthy(z)]}
    rows = {
        z.name: {k: v for k, v in row.items() if k != "settings"}
        | {"healthy": healthy(z)}
        for z, row in found.items()
    }
    return {
        "kendall": {
            name: _correlations(_statistics.kendall, zoo, found)
            for name, zoo in groups.items()
        },
        "spearman": {
            name: _correlations(_statistics.spearman, zoo, found)
            for name, zoo in groups.items()
        },
        "networks": rows,
    }


def _correlations(
    statistic: Any, zoo: list[Config], found: dict[Config, dict[str, Any]]
) -> dict[str, Any]:
    names = next(iter(found.values()))["scores"]
    columns = {
        name: np.array([float(found[z]["scores"][name]) for z in zoo]) for name in names
    }
    return _statistics.paired(
        statistic, columns, np.array([found[z]["loss"] for z in zoo])
    )
