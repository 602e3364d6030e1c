"""audit: measure a network, and judge what was measured."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, PyTree

from isometry._internal import checks, precision, provenance
from isometry._internal.errors import FromCall, InputError, public
from isometry._internal.strict_json import Plain
from isometry._internal.types import Key, Params
from isometry.measure._function import Map
from isometry.networks import Network
from isometry.verdicts import _layers
from isometry.verdicts._flag import UNDECIDED, Flag
from isometry.verdicts._measured import FEW_SEEDS, Measured, certifying
from isometry.verdicts._registry import Registered, Thresholds, registered
from isometry.verdicts._report import Report
from isometry.verdicts._reports import Reports
from isometry.verdicts._subject import Subject, subject_of
from isometry.verdicts._task import DEFAULT_STEPS, Loss, Task, task_of

# The name of a network that is audited alone.
_ALONE = "network"

# Streams of the audit's key. Flags draw from keys folded with their own names.
_TASK, _FLAGS = 1, 2

# Flags that need finite parameters, but no finite signals: they rest on certificates.
_CERTIFIED = ("locked_symmetry", "duplicate_blocks")


@public("audit")
def audit(
    f: Map | list[Map] | Mapping[str, Map],
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    targets: PyTree | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    train_steps: int | None = None,
    thresholds: Thresholds | None = None,
    key: Key | None = None,
    inputs: int = 16,
    progress: Callable[[str], None] | None = None,
) -> Report | Reports:
    """Tell what will go wrong in training a network, before it is trained.

    Singular values of the Jacobian are measured over seeds × inputs, end to end and
    over the hidden span; layers without gradient and units without slope are looked
    for; a few seeds are certified (`isometry.certify`), and trained for `train_steps`
    steps. Every flag then judges what was measured.

    A single seed (a checkpoint) is judged by the facts of this draw: zeros, locks, dead
    units. Flags that speak of the initialization give their value and stay undecided.
    The Jacobian of a token model begins at the embedding. Runs on the host.

    Args:
        f: A `Network`, any f(params, x) of one example, or a list of blocks; or a
            mapping from names to them (`net.with_schemes([...])`), which gives a report
            for each, ranked.
        keys: (seeds,) random keys, from which parameters are drawn. Flags that depend
            on the draw are undecided with fewer than 5.
        xs: Examples along a first axis: all of them for training and for a data-driven
            scheme. Jacobians are taken at `inputs` of them, evenly spaced.
        params: Instead of keys, parameters stacked over seeds along a first axis; of a
            checkpoint this axis has length 1.
        sample: Draws parameters from a key, if f is a plain function.
        targets: Integer labels, or floats of the shape of the output, along a first
            axis; with a `loss` of one's own whatever it takes. None makes learnable
            synthetic ones from the key.
        loss: loss(output, target) of one example, a real scalar. The default is
            cross-entropy for labels, mean square for floats.
        optimizer: An optax optimizer. The default is `optax.sgd(0.1)`.
        train_steps: The number of training steps, in batches of 32. None is 200; 0
            switches training off, and its flags say "not_run".
        thresholds: The numbers with which the flags compare what was measured.
        key: A key for batches, controls, resampling and synthetic targets. The default
            is derived from the first of `keys`.
        inputs: The number of examples at which Jacobians are taken.
        progress: Called with the label of each part as it begins.

    Returns:
        A `Report`; `Reports` if f is a mapping.

    Raises:
        InputError: Before any compute: what `isometry.ensemble` refuses; targets, a
            loss or an optimizer that do not fit, or draw from np.random; thresholds
            that are no `Thresholds`.
        TypeError: A traced argument.

    Parameters and signals that are NaN or infinite are findings: they raise
    `exploding`. A Jacobian that leaves the range of its dtype, though the signals do
    not, is measured as a product, whose logarithms know no such limit.

    Example:
        >>> net = networks.mlp([16] * 4, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> xs = data.gaussian(jax.random.key(1), 64, 16).xs
        >>> report = isometry.audit(net, keys, xs, train_steps=0, inputs=4)
        >>> report.verdict
        'clear'
    """
    for name, value in (("keys", keys), ("xs", xs), ("params", params)):
        checks.on_host(name, value)
    checks.on_host("targets", targets)
    checks.on_host("key", key)
    checks.integer("inputs", inputs, low=1)
    num_steps = DEFAULT_STEPS if train_steps is None else train_steps
    checks.integer("train_steps", num_steps, low=0)
    if progress is not None and not callable(progress):
        raise InputError(
            f"progress={checks.show(progress)} is no function of a stage's name."
        )
    lines = Thresholds() if thresholds is None else thresholds
    if not isinstance(lines, Thresholds):
        raise InputError(
            f"thresholds={checks.show(lines)} is not a Thresholds; write "
            "isometry.Thresholds(log_gain=2.0)."
        )
    # A single network is a mapping of one, whose report is taken out again.
    is_mapping = isinstance(f, Mapping)
    by_name = dict(f) if is_mapping else {_ALONE: f}
    if not by_name:
        raise InputError("f is an empty mapping; write {name: network}.")
    if key is None:
        key = _key_of(keys)
    checks.key("key", key)
    # All networks are read before the first is measured, which may take a minute.
    audits = {}
    for name, one in by_name.items():
        _teller(progress, name)("reading the network")
        audits[name] = _prepare(
            name,
            one,
            keys,
            xs=xs,
            given={"params": params, "sample": sample},
            task={"targets": targets, "loss": loss, "optimizer": optimizer},
            num_inputs=inputs,
            num_steps=num_steps,
            key=key,
            is_mapping=is_mapping,
        )
    reports = {}
    for name, (subject, task) in audits.items():
        tell = _teller(progress, name)
        measured = Measured(subject, task, thresholds=lines, key=key, tell=tell)
        reports[name] = _judged(measured)
    return Reports(reports) if is_mapping else reports[_ALONE]


def _key_of(keys: Key | None) -> Key:
    """Return a key derived from the first of the keys; a fixed one without keys."""
    if keys is None:
        return jax.random.key(0x150)
    return jax.random.fold_in(checks.keys("keys", keys)[0], 0x150)


def _teller(
    progress: Callable[[str], None] | None,
    name: str,
) -> Callable[[str], None]:
    """Return a function that reports which part of the audit of a network begins."""

    def tell(label: str) -> None:
        if progress is not None:
            progress(f"{name}: {label}")

    return tell


def _prepare(
    name: str,
    f: Any,
    keys: Key | None,
    *,
    xs: PyTree[Array] | None,
    given: dict[str, Any],
    task: dict[str, Any],
    num_inputs: int,
    num_steps: int,
    key: Key,
    is_mapping: bool,
) -> tuple[Subject, Task]:
    """Check the arguments for one network; return the network and its task."""
    checks.no_module(name, f)
    # A chain may be written as a tuple of blocks as well.
    if isinstance(f, tuple):
        f = list(f)
    if not (callable(f) or isinstance(f, list)):
        raise InputError(
            f"{name} is {checks.show(f)}, not a network; write a Network, such as "
            "networks.mlp(...), any f(params, x), or a list of blocks."
        )
    try:
        subject = subject_of(name, f, keys, xs=xs, num_inputs=num_inputs, **given)
        made = task_of(
            subject, num_steps=num_steps, key=jax.random.fold_in(key, _TASK), **task
        )
    except FromCall as error:
        # Of several networks the message must say which.
        if is_mapping:
            error.message = f"of {name!r}: {error.message}"
        raise
    return subject, made


def _judged(measured: Measured) -> Report:
    """Let every flag judge a network."""
    with certifying(measured):
        # Certificates are being made in another thread. Meanwhile measure what needs
        # none of them.
        if not measured.not_finite:
            _ = measured.spectra, measured.activity, measured.signals
        return _report(measured)


def _report(measured: Measured) -> Report:
    """Return what the flags say, with all that was measured."""
    flags: dict[str, Flag] = {}
    key = jax.random.fold_in(measured.key, _FLAGS)
    for one in registered():
        # By name, so that a flag of the user's own changes no other's resampling.
        number = zlib.crc32(one.name.encode())
        flags[one.name] = _flag_of(one, measured, jax.random.fold_in(key, number))
    # With NaN or infinite numbers nothing can be measured: they are the finding.
    is_measured = not measured.not_finite
    no_law = measured.no_law if is_measured else f"not measured: {measured.not_finite}"
    return Report(
        network=_described(measured.subject.f),
        flags=flags,
        spectra=measured.spectra if is_measured else {},
        probe=measured.probe if is_measured else None,
        widths=_widths(measured, flags) if is_measured else None,
        setting=_setting(measured),
        provenance=provenance.provenance(),
        law=measured.law if is_measured else None,
        no_law=no_law,
        rows=_layers.rows_of(measured, flags),
        timings=measured.timings,
        certificates=_certificates(measured),
    )


def _certificates(measured: Measured) -> tuple[dict[str, Plain], ...]:
    """Return the certificates as plain data, which holds no parameters."""
    # Flags have asked for them wherever there are any.
    certificates = measured.parts.get("certificates", ())
    return tuple(one.to_dict() for one in certificates)


def _described(f: Map) -> str:
    """Return the name of a function, or the description of a network."""
    if isinstance(f, Network):
        return repr(f)
    return getattr(f, "__name__", repr(f))


def _widths(
    measured: Measured,
    flags: dict[str, Flag],
) -> dict[str, Any] | None:
    """Return rank trajectories at other widths if training is confined; else None.

    They show that a wider network is confined to the same rank.
    """
    flag = flags.get("rank_constrained_training")
    is_confined = flag is not None and flag.raised
    return measured.widths if is_confined else None


def _flag_of(
    one: Registered,
    measured: Measured,
    key: Key,
) -> Flag:
    """Return the judgement of one flag."""
    wrong = measured.not_finite
    is_measurable = not wrong or one.name == "exploding"
    if one.name in _CERTIFIED and measured.has_finite_params:
        is_measurable = True
    if not is_measurable:
        return Flag(one.name, UNDECIDED, f"not measured: {wrong}", source=one.source)
    try:
        flag = one.judge(measured, key)
    # A user's flag may raise anything.
    except Exception as error:
        error.add_note(f"Raised by the flag {one.name!r}.")
        raise
    if not isinstance(flag, Flag) or flag.name != one.name:
        raise InputError(
            f"the flag {one.name!r} returned {checks.show(flag)}; return "
            f"isometry.Flag({one.name!r}, state, reason)."
        )
    # A flag that names no source has the one it was registered with.
    return dataclasses.replace(flag, source=flag.source or one.source)


def _setting(measured: Measured) -> dict[str, Any]:
    """Return the settings of the measurement, for the report."""
    task, subject = measured.task, measured.subject
    is_measured = "spectra" in measured.parts
    # Singular values may be measured in another dtype than that of the parameters.
    dtype = None
    if is_measured:
        dtype = str(measured.spectra["end_to_end"].log_values.dtype)
    return {
        "seeds": measured.num_seeds,
        "inputs": measured.num_inputs,
        "examples": jax.tree.leaves(task.xs)[0].shape[0],
        "synthetic_targets": task.is_synthetic,
        "train_steps": task.num_steps,
        "batch": task.batches.shape[1],
        "probe_seeds": min(measured.num_seeds, FEW_SEEDS),
        "matmul_precision": precision.MATMUL,
        "span": subject.span,
        "mode_of_training": "inference" if task.training is None else "training",
        "no_certificate": measured.no_certificate,
        "thresholds": measured.thresholds.as_dict(),
        "dtype": dtype,
    }
