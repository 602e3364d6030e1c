"""Ready runs of a sweep: spectrum, signals, audit, train.

Each is a function run(point, key) for `isometry.sweep`, and builds its network from the
point. What is the same in all cells is set by `functools.partial`. Any keyword of a run
may be an axis of the grid instead. The settings of the network are:

- `width`, `depth`, `n_in`, `n_out`, `activation`, `scheme`, `sigma_w` and `sigma_b` of
  a perceptron, as `networks.mlp` takes them. By default it is 64 units wide and has 8
  weight layers, tanh and orthogonal weights at the critical scale;
- `network`, a `Network` instead. `scheme`, `sigma_w` and `sigma_b` draw it otherwise;
- `build`, a function of the settings that returns a `Network`. It is given a mapping
  from names to values, of all settings that are not the run's own. Those of `scheme`,
  `sigma_w` and `sigma_b` that it does not read draw the network otherwise.

The axis `seed` enters the key of a cell, and nothing else. A name that nobody reads is
an error, before the first cell.

A run returns a mapping from names to triples (dims, array, attrs), as xarray takes
them. Perceptrons of one architecture, given by names, share compiled programs, whatever
their scales and rates.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.types import Key
from isometry.measure._ensemble import ensemble
from isometry.measure._signals import signals as signals_of
from isometry.measure._spans import Span
from isometry.measure.methods import Method
from isometry.sweeps import _architectures, _learning, _points, _statistics
from isometry.sweeps._architectures import Build
from isometry.sweeps._settings import Results, Settings, keys_of, labelled, ready
from isometry.verdicts import Report
from isometry.verdicts import audit as audit_of

# Flags of an audit lie along this dimension.
_FLAG = ("flag",)


@ready("sweeps.runs.spectrum")
def spectrum(
    point: Settings,
    key: Key,
    *,
    seeds: int = 4,
    inputs: int = 4,
    input_q: float | None = None,
    xs: PyTree[Array] | None = None,
    method: str | Method = "auto",
    span: Span = "end_to_end",
    law: bool = False,
    build: Build | None = None,
    **network: Any,
) -> Results:
    """Measure the singular values of Jacobians, over networks and inputs.

    Args:
        point: The values of the axes, by name.
        key: The key of the cell.
        seeds: The number of networks that are drawn.
        inputs: The number of Gaussian inputs, the same for all networks of a cell.
        input_q: The mean square to which each input is scaled. None leaves them.
        xs: Inputs of one's own instead, along a first axis.
        method: As in `isometry.ensemble`.
        span: As in `isometry.ensemble`.
        law: Whether to add what theory predicts, which takes up to a second a cell.
        build: A function from settings to a `Network`.
        **network: The settings of the network: see `isometry.sweeps.runs`.

    Returns:
        `mean_lam`, `var_lam`, `s_max`, `s_min`, `condition_number`, `mean_log_s`,
        `var_log_s`, `zero_fraction`, and `quantile_s` along "probability": means over
        networks and inputs of the statistics of one Jacobian. Of each the standard
        error over networks, `mean_lam_error`, NaN of one network. With `law` each as
        `law_mean_lam`. NaN is what the method or the theory does not know. Singular
        values that the method does not resolve count as zeros.

    Raises:
        InputError: A setting cannot be used, or nobody reads it; what
            `isometry.ensemble` refuses.

    Example:
        >>> from isometry.sweeps import runs
        >>> point = {"sigma_w": 1.5, "seed": 0}
        >>> cell = runs.spectrum(point, jax.random.key(0), width=16, depth=3)
        >>> dims, values, attrs = cell["quantile_s"]
        >>> dims, values.shape, attrs["units"]
        (('probability',), (7,), '1')
    """
    # The decorator has put its entries among the keywords.
    del point
    keys = keys_of(key)
    sampled = _architectures.sampled({"build": build, **network}, keys.networks, seeds)
    net = sampled.network
    xs = _architectures.examples(net, keys.inputs, inputs=inputs, q=input_q, xs=xs)
    sp = ensemble(
        net, xs=xs, method=method, span=span, key=keys.probes, **sampled.arguments
    )
    results = _statistics.of_spectrum(sp)
    if law:
        results.update(_statistics.of_law(net, span, xs))
    return results


@ready("sweeps.runs.signals")
def signals(
    point: Settings,
    key: Key,
    *,
    seeds: int = 4,
    inputs: int = 4,
    input_q: float | None = None,
    xs: PyTree[Array] | None = None,
    span: Span = "end_to_end",
    theory: bool = False,
    build: Build | None = None,
    **network: Any,
) -> Results:
    """Measure sizes of signals and gradients at every point of a network.

    Args:
        point: The values of the axes, by name.
        key: The key of the cell.
        seeds: The number of networks that are drawn.
        inputs: The number of Gaussian inputs, the same for all networks of a cell.
        input_q: The mean square to which each input is scaled. None leaves them.
        xs: Inputs of one's own instead, along a first axis.
        span: As in `isometry.signals`.
        theory: Whether to add what mean-field theory predicts.
        build: A function from settings to a `Network`.
        **network: The settings of the network: see `isometry.sweeps.runs`.

    Returns:
        `q`, `c`, `gradient`, `apjn` and `chi` along "point", as in `isometry.signals`:
        means over networks and inputs, of `c` over pairs of inputs. Of each the
        standard error over networks, `q_error`. `point_name` and `point_size` tell the
        points apart. With `theory` each as `theory_q`, NaN where it is not known.

    Raises:
        InputError: A setting cannot be used, or nobody reads it; what
            `isometry.signals` refuses.

    Example:
        >>> from isometry.sweeps import runs
        >>> point = {"sigma_w": 1.5}
        >>> cell = runs.signals(point, jax.random.key(0), width=16, depth=2)
        >>> [str(name) for name in cell["point_name"][1]]
        ['input', 'layers/0', 'layers/0:out', 'output']
    """
    # The decorator has put its entries among the keywords.
    del point
    keys = keys_of(key)
    sampled = _architectures.sampled({"build": build, **network}, keys.networks, seeds)
    net = sampled.network
    xs = _architectures.examples(net, keys.inputs, inputs=inputs, q=input_q, xs=xs)
    # Without a key the gradient is its mean over all losses, which is more exact.
    measured = signals_of(net, xs=xs, span=span, **sampled.arguments)
    results = _points.of_signals(measured)
    if theory:
        results.update(_points.of_theory(net, xs, measured.points))
    return results


@ready("sweeps.runs.audit")
def audit(
    point: Settings,
    key: Key,
    *,
    seeds: int = 5,
    inputs: int = 16,
    examples: int = 256,
    steps: int = 200,
    input_q: float | None = None,
    xs: PyTree[Array] | None = None,
    targets: PyTree[Array] | None = None,
    build: Build | None = None,
    **network: Any,
) -> Results:
    """Judge a network by all flags.

    Args:
        point: The values of the axes, by name.
        key: The key of the cell.
        seeds: The number of networks that are drawn.
        inputs: The number of examples at which Jacobians are taken.
        examples: The number of Gaussian examples.
        steps: The number of training steps. 0 switches training off.
        input_q: The mean square to which each example is scaled. None leaves them.
        xs: Examples of one's own instead, along a first axis.
        targets: Their targets, as in `isometry.audit`. None makes synthetic ones.
        build: A function from settings to a `Network`.
        **network: The settings of the network: see `isometry.sweeps.runs`.

    Returns:
        `flag_state` ("raised", "clear", "undecided", "not_run"), `flag_value` and
        `flag_threshold` along "flag"; `flag`, the names of the flags; and `num_raised`.
        A value or a threshold that is not one number is NaN.

    Raises:
        InputError: A setting cannot be used, or nobody reads it; what `isometry.audit`
            refuses.

    Example:
        >>> from isometry.sweeps import runs
        >>> cell = runs.audit(
        ...     {"sigma_w": 0.1}, jax.random.key(0), width=16, depth=3, inputs=4,
        ...     examples=64, steps=0)
        >>> int(cell["num_raised"][1]) > 0
        True
    """
    # The decorator has put its entries among the keywords.
    del point
    keys = keys_of(key)
    sampled = _architectures.sampled({"build": build, **network}, keys.networks, seeds)
    net = sampled.network
    xs = _architectures.examples(net, keys.inputs, inputs=examples, q=input_q, xs=xs)
    # By keys and not by params, because flags draw further networks.
    report = audit_of(
        net,
        sampled.keys,
        xs,
        targets=targets,
        train_steps=steps,
        inputs=inputs,
        key=keys.probes,
    )
    assert isinstance(report, Report), "a network alone has one report"
    flags = report.flags.values()
    states = [flag.state for flag in flags]
    values = [_number(flag.value) for flag in flags]
    thresholds = [_number(flag.threshold) for flag in flags]
    num_raised = sum(flag.raised for flag in flags)
    return {
        # An array named like its dimension holds the labels of it.
        "flag": labelled(_FLAG, list(report.flags), "flag of an audit"),
        "flag_state": labelled(_FLAG, states, "state of the flag"),
        "flag_value": labelled(_FLAG, values, "number that was judged"),
        "flag_threshold": labelled(_FLAG, thresholds, "number it was compared with"),
        "num_raised": labelled((), num_raised, "number of flags raised"),
    }


@ready("sweeps.runs.train")
def train(
    point: Settings,
    key: Key,
    *,
    data: Any = None,
    optimizer: str | _learning.Optimizer = "sgd",
    learning_rate: float = 0.01,
    steps: int = 300,
    batch: int = 64,
    target_loss: float = 1.0,
    input_q: float = 1.0,
    build: Build | None = None,
    **network: Any,
) -> Results:
    """Train a network, by default on the handwritten digits of scikit-learn.

    A fifth of the examples is kept for the test, the same in all cells. The mean of the
    training examples is subtracted from all, and each example is scaled to mean square
    `input_q`. The loss is the cross-entropy. A network with a training mode is trained
    and measured in it.

    Args:
        point: The values of the axes, by name.
        key: The key of the cell: of the parameters and the batches.
        data: A pair of examples and integer labels, such as `data.load` returns. None
            is the digits.
        optimizer: "sgd", "momentum" (0.9), "adam", or a function from the learning rate
            to an optax optimizer.
        learning_rate: The learning rate.
        steps: The number of steps.
        batch: The number of examples in a batch.
        target_loss: The loss at which `steps_to_target` is reached.
        input_q: The mean square of each example.
        build: A function from settings to a `Network`.
        **network: The settings of the network: see `isometry.sweeps.runs`. `n_in` and
            `n_out` are those of the data.

    Returns:
        `train_loss`, `test_loss`, `train_accuracy`, `test_accuracy` after all steps;
        the same with the prefix `record_` along "record", with `record_step`;
        `steps_to_target`, when the smoothed loss of the batches reached the target, NaN
        for never; and `diverged`, 1 if a loss was not finite. Losses and accuracies are
        NaN from that record on.

    Raises:
        InputError: A setting cannot be used, or nobody reads it; data that do not fit.
        MissingExtra: scikit-learn is not installed, and `data` is not given.

    Example:
        >>> from isometry.sweeps import runs
        >>> xs, labels = data.gaussian(jax.random.key(0), 256, 16, classes=3)
        >>> cell = runs.train(
        ...     {"learning_rate": 0.1}, jax.random.key(1), data=(xs, labels), width=16,
        ...     depth=3, steps=200)
        >>> float(cell["train_accuracy"][1]) > 0.8
        True
    """
    # The decorator has put its entries among the keywords.
    del point
    checks.number("learning_rate", learning_rate, above=0.0)
    checks.number("target_loss", target_loss, above=0.0)
    checks.integer("steps", steps, low=1)
    checks.integer("batch", batch, low=1)
    chosen = _learning.optimizer_of(optimizer)
    keys = keys_of(key)
    sets = _sets(data, input_q)
    # Only the perceptron has its sizes from the data.
    if build is None and network.get("network") is None:
        sizes = {"n_in": sets.num_features, "n_out": sets.num_classes}
        network = {**sizes, **network}
    sampled = _architectures.sampled(
        {"build": build, **network}, keys.networks, seeds=1
    )
    sets = sets.shaped(sampled.network.input_shape)
    curve = _learning.train(
        sampled.network,
        sampled.first(sets.train_xs),
        sets,
        optimizer=chosen,
        learning_rate=float(learning_rate),
        steps=steps,
        batch=batch,
        target_loss=float(target_loss),
        key=keys.batches,
    )
    return _learning.results_of(curve)


def _sets(data: Any, q: float) -> _learning.Sets:
    """Return the examples for training and for the test."""
    if data is None:
        return _learning.digits(q)
    return _learning.split(data, q)


def _number(value: object) -> float:
    """Return a number as a float; NaN for anything else, such as None."""
    is_number = isinstance(value, (int, float, np.number))
    return float(value) if is_number else np.nan
