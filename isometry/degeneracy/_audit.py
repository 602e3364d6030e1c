"""audit: measure, probe, judge."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from isometry import _checks
from isometry._internal import precision, provenance
from isometry._internal.errors import ZeroJacobianWarning
from isometry.degeneracy import _probe, _task, _underflow
from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._flag import (
    FLAGS,
    RAISED,
    UNDECIDED,
    Flag,
    Thresholds,
    undecided,
)
from isometry.degeneracy._gradient_flags import zero_gradient
from isometry.degeneracy._phase_flags import forward_signal, phase_flags, rank_collapse
from isometry.degeneracy._report import Report, Reports
from isometry.degeneracy._spectrum_flags import below_floor, spectrum_flags
from isometry.degeneracy._symmetry_flag import (
    broken,
    certified,
    certified_rank,
    locked_symmetry,
    with_growth,
)
from isometry.degeneracy._unit_flags import (
    dead_units,
    overflowing,
    pre_activations,
    saturated_units,
)
from isometry.measure._draws import adjust_seeds, draw_seeds, spaced
from isometry.measure._ensemble import ensemble
from isometry.measure._record import Spectrum
from isometry.networks._mlp import Mlp as Network
from isometry.theory import Law

Progress = Callable[[str], None]


def audit(
    net_or_mapping: Network | Mapping[str, Network],
    keys: Any,
    xs: Any,
    *,
    targets: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    train_steps: int | None = None,
    thresholds: Thresholds | None = None,
    key: Any = None,
    inputs: int = 16,
    progress: Progress | None = None,
) -> Report | Reports:
    """What will go wrong in training a network, before it is trained, and how sure that is.

    Measures the Jacobian's singular values over seeds × inputs, end to end and over the hidden span; looks for layers
    without gradient and units without slope; certifies a few seeds (`certify`), and trains them for `train_steps` steps
    to follow the rank of what training does to each hidden layer, that of its signals, and the distance of units that
    are certified to stay equal.

    **Arguments**
    - `net_or_mapping`: a `Network`, or a mapping of names to networks, which gives a report of reports.
    - `keys`: (seeds,) random keys; flags that depend on the draw are undecided with fewer than 5.
    - `xs`: (examples, *x.shape), all of them for the probe and for a data-driven scheme (lsuv); Jacobians are taken at
      `inputs` of them, evenly spaced.
    - `targets`: (examples,) integer labels or floats of shape (examples, *output.shape); with a `loss` of one's own
      whatever it takes, (examples, ...). None makes learnable synthetic ones from the key.
    - `loss(output, target)`: a real scalar for one example; default cross-entropy for labels, mean square for floats.
    - `optimizer`: an optax optimizer; default `optax.sgd(0.1)`.
    - `train_steps`: of the probe, batches of 32; None is 200, 0 switches it off (its flags say "not_run").
    - `thresholds`: `Thresholds`, each with its source.
    - `key`: of the batches, controls, resampling and synthetic targets; default derived from the first of `keys`.
    - `progress`: called with the name of each stage.

    Runs on the host; a tracer is a `TypeError`.

    **Raises** `ValueError`, before any compute: not a Network; keys, xs or targets of the wrong shape or type or not
    finite; an activation without a forward derivative; a loss that fails, is not a real scalar or has no gradient; not
    an optimizer, or one whose state does not match; a loss or optimizer that draws from np.random; thresholds that are
    no `Thresholds`.

    Parameters drawn NaN or infinite and signals that overflow are findings: they raise `exploding`, with the seed, the
    layer and the index, and what cannot be measured then is undecided. A Jacobian that overflows its dtype though the
    signals do not is measured as a product, whose logarithms know no such limit.

    Cost: seeds × inputs Jacobians, 3 (and for a suspect 22) short trainings a network.
    """
    _checks.concrete("audit", keys=keys, xs=xs, targets=targets, key=key)
    several = isinstance(net_or_mapping, Mapping)
    nets = dict(net_or_mapping) if several else {"network": net_or_mapping}
    if not nets:
        raise _checks.InputError("audit(): the mapping of networks is empty.")
    _checks.keys("audit", keys)
    _checks.integer("audit", low=1, inputs=inputs)
    steps = _task.DEFAULT_STEPS if train_steps is None else train_steps
    _checks.integer("audit", low=0, train_steps=steps)
    key = jax.random.fold_in(keys[0], 0x150) if key is None else key
    _checks.key("audit", key)
    xs = _task.array("xs", xs)
    if not (progress is None or callable(progress)):
        raise _checks.InputError(f"audit(): progress={_checks.show(progress)} is no function of a stage's name.")
    limits = Thresholds() if thresholds is None else thresholds
    if not isinstance(limits, Thresholds):
        raise _checks.InputError(
            f"audit(): thresholds={_checks.show(limits)} is not a Thresholds; write isometry.Thresholds(log_gain=2.0)."
        )
    tasks = {name: _prepare(name, net, xs, targets, loss, optimizer, steps, key) for name, net in nets.items()}
    reports = {}
    for name, net in nets.items():
        tell = (lambda stage, name=name: progress(f"{name}: {stage}")) if progress else (lambda stage: None)
        reports[name] = _audit_one(net, keys, *tasks[name], steps, limits, key, inputs, tell)
    return Reports(reports) if several else reports["network"]


def _prepare(
    name: str, net: Any, xs: Any, targets: Any, loss: Any, optimizer: Any, steps: int, key: Any
) -> tuple[_task.Task, bool]:
    """Everything that can be wrong is found here, for all networks, before anything runs."""
    if not isinstance(net, Network):  # a chain's units are not known
        raise _checks.InputError(
            f"audit(): {name} is {_checks.show(net)}, not a Network whose units are known; write networks.mlp(...). "
            "Of a chain and of a plain f(params, x) isometry.ensemble measures the spectrum."
        )
    if xs.ndim < 2 or xs.shape[1:] != net.input_shape or not len(xs) or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise _checks.InputError(
            f"audit(): xs is {xs.dtype} of shape {xs.shape}; {name} takes floating rows of shape {net.input_shape}."
        )
    _checks.all_finite("audit", xs=xs)
    return _task.make_task(net, xs, targets, loss, optimizer, steps, jax.random.fold_in(key, 1))


def _audit_one(
    net: Any,
    keys: Any,
    task: _task.Task,
    synthetic: bool,
    steps: int,
    limits: Thresholds,
    key: Any,
    inputs: int,
    tell: Progress,
) -> Report:
    points = spaced(task.xs, inputs)
    setting = {
        "seeds": len(keys),
        "inputs": len(points),
        "examples": len(task.xs),
        "synthetic_targets": synthetic,
        "train_steps": steps,
        "batch": task.batches.shape[1],
        "probe_seeds": min(len(keys), _probe.SEEDS),
        "matmul_precision": precision.MATMUL,
        "thresholds": vars(limits),
    }
    tell("Jacobians")
    params = adjust_seeds(net, draw_seeds(net.init, keys), task.xs)
    few = _first_seeds(params)
    if wrong := broken(net, params):
        return _unmeasured(net, wrong, {}, setting)
    layers = pre_activations(net.function, params, points)
    if wrong := overflowing(layers):
        return _unmeasured(net, wrong, {"locked_symmetry": locked_symmetry(certified(net, few))}, setting)
    flags, spectra, certificates = _at_initialization(net, params, few, points, layers, limits, key, tell)
    tell("training probe")
    proof = certified_rank(net, certificates)
    controls = _streams(key).controls
    rank_flag, probe = _probe.judge_ranks(net, task if steps else None, few, limits, controls, proof, certificates)
    flags["zero_gradient"] = zero_gradient(net, task, few, len(points), probe, certificates)
    flags["rank_constrained_training"] = rank_flag
    if probe is not None and probe.signals is not None:
        flags["locked_symmetry"] = with_growth(flags["locked_symmetry"], certificates, probe.signals)
    widths = None
    if steps and rank_flag.raised and hasattr(net, "with_width"):
        tell("the same scheme at other widths")
        widths = _probe.same_trajectory(net, task, keys[: _probe.SEEDS])
    setting["dtype"] = str(spectra["end_to_end"].log_values.dtype)
    law, no_law = _law(net, points)
    return Report(
        repr(net), {flag: flags[flag] for flag in FLAGS}, spectra, probe, widths, setting, provenance.provenance(),
        law=law, no_law=no_law,
    )  # fmt: skip


class _Streams(NamedTuple):
    """The keys of everything that an audit resamples or draws."""

    spectra: Any
    units: Any
    controls: Any
    rank: Any
    saturated: Any
    phase: Any
    forward: Any
    floor: Any


# One program for all of them; key by key they would be a dozen.
@jax.jit
def _streams(key: Any) -> _Streams:
    spectra, units, controls = jax.random.split(jax.random.fold_in(key, 2), 3)
    rank, saturated, phase, floor = jax.random.split(jax.random.fold_in(key, 3), 4)
    forward = jax.random.fold_in(phase, 1)
    return _Streams(spectra, units, controls, rank, saturated, phase, forward, floor)


@jax.jit
def _first_seeds(params: Any) -> Any:
    """The seeds that are probed."""
    return jax.tree.map(lambda a: a[: _probe.SEEDS], params)


def _at_initialization(
    net: Any,
    params: Any,
    few: Any,
    points: Any,
    layers: list[Any],
    limits: Thresholds,
    key: Any,
    tell: Progress,
) -> tuple[dict[str, Flag], dict[str, Spectrum], list[Certificate]]:
    """The flags that need no training, the spectra, and the certificates of the seeds that are probed."""
    signals, units, lost = _underflow.signals(net, params, points, layers)
    spans = ("end_to_end", "hidden") if net.depth > 2 else ("end_to_end",)
    spectra = {span: _spectra(net, params, points, span, units) for span in spans}
    streams = _streams(key)
    flags = spectrum_flags(spectra, limits, streams.spectra)
    forward = forward_signal(signals, limits, streams.forward)
    flags |= phase_flags(net, spectra, limits, streams.phase, forward)
    flags["rank_collapse"] = rank_collapse(points, signals, limits, streams.rank)
    flags["saturated_units"] = saturated_units(net, units, limits, streams.saturated)
    flags["below_floor"] = below_floor(net, spectra, units, limits, streams.floor)
    tell("certificates")
    certificates = certified(net, few)
    flags["locked_symmetry"] = locked_symmetry(certificates)
    flags["dead_units"] = dead_units(net, units, limits, streams.units, certificates)
    seen = {"rank_collapse", "below_floor", "dead_units"} if lost else set()
    if "certified" in flags["dead_units"].evidence:
        seen -= {"dead_units"}
    return flags | {name: undecided(flags[name], lost) for name in seen}, spectra, certificates


def _spectra(net: Any, params: Any, points: Any, span: str, units: Sequence[Any] = ()) -> Spectrum:
    """Of every seed and input; as a product where the Jacobian leaves the range of its dtype, as its factors do not."""
    measured = functools.partial(_quietly, net, span=span)
    try:
        found = measured(params=params, xs=points)
    except _checks.NotFinite:
        return measured(params=params, xs=points, method="product")
    if not _underflow.in_jacobian(net, params, found, units):
        return found
    with jax.enable_x64(True):  # the signals, on which the factors depend, may underflow as well
        params, points = precision.cast((params, points), jnp.float64)
        return precision.cast(measured(params=params, xs=points, method="product"), found.log_values.dtype)


def _quietly(*args: Any, **more: Any) -> Spectrum:
    """`ensemble`, without its warning of zeros: the flags say which units, layers and certificates they come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroJacobianWarning)
        return ensemble(*args, **more)


def _unmeasured(net: Any, why: str, flags: dict[str, Flag], setting: dict[str, Any]) -> Report:
    """Of a network that has numbers which are not finite: that is the finding."""
    remedy = "finite parameters, and a sigma_w that keeps signals in the range of their dtype"
    found = Flag(
        "exploding", RAISED, why, remedy, source="numbers that are not finite: exact", evidence={"not_finite": why}
    )
    rest = {name: Flag(name, UNDECIDED, f"not measured: {why}") for name in FLAGS}
    flags = rest | flags | {"exploding": found}
    return Report(
        repr(net), flags, {}, None, None, setting, provenance.provenance(), no_law=f"not measured: {why}"
    )  # fmt: skip


def _law(net: Any, points: Any) -> tuple[Law | None, str]:
    """The law of the hidden span, or why there is none."""
    if net.depth < 3:
        return None, "no law: fewer than three layers have no hidden span"
    try:
        return net.law("hidden", points), ""
    except _checks.InputError as error:
        return None, str(error).partition("(): ")[2]
