"""What a monitor measures: spans, statistics, and a program that computes them."""

import functools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from isometry._internal import checks, precision
from isometry._internal.errors import InputError, PrecisionWarning
from isometry._internal.types import Key, Params
from isometry.activations import Activation
from isometry.measure import _draws, _record, _resolution, _spans, _spectra
from isometry.measure._function import Map, Reference
from isometry.measure._record import Spectrum
from isometry.measure._spans import Span
from isometry.measure._spectra import Static
from isometry.measure._statistics import STATISTICS, Statistic, why_unknown
from isometry.measure._target import Target
from isometry.measure.methods import Method
from isometry.networks._layered import LayeredFunction, LayeredNetwork

# The only statistic that is computed from pre-activations, and not from the spectrum.
DEAD = "dead_units"

# For one span, the value of each statistic by its name, an array () or (inputs,). For
# several spans, such a dict for each label.
Values: TypeAlias = dict[str, Array | dict[str, Array]]

# The argument `span` of `monitor`: one span, a list of spans, or spans by label.
Spans: TypeAlias = Span | list[Span] | Mapping[str, Span]

# The argument `statistics` of `monitor`: names or functions, or these by the user's own
# names.
Statistics: TypeAlias = Iterable[str | Statistic] | Mapping[str, str | Statistic]

# Before the parameters are known, statistics are evaluated on a made-up spectrum with
# this many singular values, to find their shapes. Any number but 1 will do: an axis of
# length 1 broadcasts, which would hide a mistake in a statistic of the user's.
_SIZE_OF_STAND_IN = 3


@dataclass(frozen=True)
class OfSpectrum:
    """A statistic that is computed from the spectrum alone.

    Attributes:
        statistic: A function of a spectrum with batch axes (inputs,).
    """

    statistic: Statistic

    def __call__(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> Float[Array, "..."]:
        return self.statistic(sp)


@dataclass(frozen=True)
class DeadUnits:
    """The share of hidden units whose activation has derivative 0 at every input.

    Attributes:
        function: The function of the network, which knows its pre-activations.
        activation: The activation of all hidden layers.
    """

    function: LayeredFunction
    activation: Activation

    def __call__(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> Float[Array, "..."]:
        layers = jax.vmap(self.function.pre_activations, (None, 0))(params, xs)
        dead = [self._dead(z) for z in layers]
        # A network of one layer has no hidden units.
        if not dead:
            return jnp.zeros(())
        return jnp.mean(jnp.concatenate(dead).astype(jnp.float32))

    def _dead(self, z: Float[Array, "inputs units"]) -> Bool[Array, " units"]:
        """Tell for each unit of a layer whether its derivative is 0 at all inputs."""
        return jnp.all(self.activation.slope(z) == 0, axis=0)


@dataclass(frozen=True)
class Plan:
    """What a monitor measures: the static argument of its compiled update.

    Two plans are equal if all their fields are. So a monitor that is built anew at each
    step, as `optax.inject_hyperparams` does, is compiled once.

    Attributes:
        function: A reference to f(params, x).
        spans: Pairs (label, span).
        is_single: Whether the user asked for one span. Its label is then "".
        method: How singular values are computed, as in `isometry.spectrum`.
        measures: Pairs (name, function) for all statistics, with the user's names.
        named: Pairs (user's name, package's name) for the statistics that the user gave
            by a name such as "s_max", and not as a function.
        every: The number of updates from one record to the next.
        capacity: The number of records kept.
        key_kind: The PRNG implementation of the key, such as "threefry2x32"; None for a
            raw uint32 key or no key. The compiled update takes the bits of the key as
            an array, and makes a key of them again.
    """

    function: Reference
    spans: tuple[tuple[str, Span], ...]
    is_single: bool
    method: Method
    measures: tuple[tuple[str, OfSpectrum | DeadUnits], ...]
    named: tuple[tuple[str, str], ...]
    every: int
    capacity: int
    key_kind: str | None

    def targets(self, params: Params, xs: PyTree[Array]) -> tuple[Target, ...]:
        """Return the target of each span: the part of f that is measured.

        Args:
            params: The params of f, or their shapes.
            xs: The inputs.

        Raises:
            InputError: f has no such span.
        """
        targets = []
        for _, span in self.spans:
            target = _resolution.resolve(
                self.function.function,
                params,
                _draws.row_shapes(xs),
                span=span,
                dtype=None,
                needs_factors=self.method.needs_factors,
                argument="xs",
            )
            targets.append(target)
        return tuple(targets)

    def observe(
        self,
        params: Params,
        xs: PyTree[Array],
        bits: Array | None,
        *,
        step: Int[Array, ""],
    ) -> Values:
        """Compute the values of all statistics of all spans.

        Args:
            params: The params of f.
            xs: The inputs.
            bits: The bits of the random key; None without a key.
            step: The number of updates so far, which is folded into the key.
        """
        params = jax.lax.stop_gradient(params)
        with warnings.catch_warnings():
            # `init` has warned already; the same warning at each trace would be noise.
            warnings.simplefilter("ignore", PrecisionWarning)
            targets = self.targets(params, xs)
        if bits is not None:
            # The step is folded in, so that each record has probes of its own.
            key = jax.random.fold_in(_key(bits, self.key_kind), step)
            _, bits = _draws.key_parts(key)
        spectra = self._measured(targets, params, xs, bits=bits)
        by_label = {}
        for (label, _), target, sp in zip(self.spans, targets, spectra, strict=True):
            # Drop the axis over seeds, of which there is one.
            sp_of_seed = jax.tree.map(lambda leaf: leaf[0], sp)
            values = self._statistics(sp_of_seed, params, xs)
            # Records have the dtype of the measurement: f may compute in bfloat16, and
            # its spectrum is measured in float32.
            by_label[label] = {
                name: value.astype(target.dtype) for name, value in values.items()
            }
        return self.nested(by_label)

    def _measured(
        self,
        targets: tuple[Target, ...],
        params: Params,
        xs: PyTree[Array],
        *,
        bits: Array | None,
    ) -> tuple[Spectrum, ...]:
        """Return the spectrum of each span, with batch axes (1, inputs)."""
        static = Static(targets, self.method, self.key_kind)
        # An ensemble of one seed, so that the compiled programs of `isometry.ensemble`
        # are shared.
        stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
        by_seed = stacked, jnp.arange(1)
        by_input = xs, jnp.arange(num_rows(xs))
        spectra = _spectra.measured(static, by_seed, by_input, bits=bits)
        # The compiled program leaves out weights that are constants.
        return tuple(map(_record.with_constants, spectra))

    def stand_in(self, params: Params, xs: PyTree[Array]) -> Values:
        """Return the values of all statistics of a made-up spectrum.

        They have the shapes and dtypes of a record.
        """
        dtype = precision.measuring_dtype(None, params, xs)
        shape = (num_rows(xs), _SIZE_OF_STAND_IN)
        sp = Spectrum(
            log_values=jnp.zeros(shape, dtype),
            weights=jnp.full(shape, 1 / _SIZE_OF_STAND_IN, dtype),
            log_floor=jnp.full(shape[:1], -jnp.inf, dtype),
            method=self.method,
            size=_SIZE_OF_STAND_IN,
        )
        values = self._statistics(sp, params, xs)
        cast = {name: value.astype(dtype) for name, value in values.items()}
        return self.nested({label: cast for label, _ in self.spans})

    def _statistics(
        self, sp: Spectrum, params: Params, xs: PyTree[Array]
    ) -> dict[str, Array]:
        """Compute the values of all statistics of one span.

        Args:
            sp: The spectrum of the span, with batch axes (inputs,).
            params: The params of f.
            xs: The inputs.

        Raises:
            InputError: A statistic returns an array that is neither () nor (inputs,).
        """
        num_inputs = num_rows(xs)
        values = {}
        for name, measure in self.measures:
            value = jnp.asarray(measure(sp, params, xs))
            if value.shape not in ((), (num_inputs,)):
                raise InputError(
                    f"statistic {name!r} returns shape {value.shape}; it must return "
                    f"one number, or one for each of the {num_inputs} inputs."
                )
            values[name] = value
        return values

    def nested(self, by_label: dict[str, dict[str, Array]]) -> Values:
        """Return the values by label and statistic; for a single span by statistic."""
        if not self.is_single:
            return dict(by_label)
        (values,) = by_label.values()
        return dict(values)

    def require_known(
        self, params: Params, xs: PyTree[Array], bits: Array | None
    ) -> None:
        """Refuse statistics that would be NaN in every record.

        Some methods do not compute all of them.

        Args:
            params: The params of f, or their shapes.
            xs: The inputs.
            bits: The bits of the random key; None without a key.

        Raises:
            InputError: A statistic would be NaN, or a span does not exist.
        """
        targets = self.targets(params, xs)
        measured = functools.partial(self._measured, targets)
        for sp in jax.eval_shape(measured, params, xs, bits=bits):
            for label, name in self.named:
                reason = why_unknown(name, sp)
                if reason is not None:
                    raise InputError(
                        f"statistics: {label!r} would be NaN in every record. {reason} "
                        "Known are 's_max', 'mean_s2', 'mean_s4', "
                        "'isometry_deviation', 'effective_rank' and 'stable_rank'."
                    )


def _key(bits: Array, kind: str | None) -> Key:
    """Return the key with these bits, of a PRNG implementation; None for a raw key."""
    return bits if kind is None else jax.random.wrap_key_data(bits, impl=kind)


def num_rows(xs: PyTree[Array]) -> int:
    """Return the number of inputs."""
    return jax.tree.leaves(xs)[0].shape[0]


def labelled(span: Spans) -> tuple[tuple[str, Span], ...]:
    """Return (label, span) pairs from one span, a list of spans, or spans by label.

    A tuple is one span, from point to point. A single span has the label "", and in a
    list each span has its default label, such as "hidden" or "a -> b".

    Raises:
        InputError: There is no span, or two have the same label.
    """
    if isinstance(span, Mapping):
        pairs = [(str(label), value) for label, value in span.items()]
    elif isinstance(span, list):
        pairs = [(_label(value), value) for value in span]
    else:
        pairs = [("", span)]
    if not pairs:
        raise InputError('span is empty; write ["end_to_end", "hidden"].')
    labels = set()
    for label, _ in pairs:
        # In the records, the second would silently replace the first.
        if label in labels:
            raise InputError(
                f"span holds {label!r} twice; write each span and each label once."
            )
        labels.add(label)
    return tuple((label, _resolution.canonical(value)) for label, value in pairs)


def _label(span: Span) -> str:
    """Return the default label of a span: "hidden", "input -> blocks/0[-1]"."""
    if isinstance(span, str):
        return span
    points = _spans.between(span)
    return " -> ".join(f"{point.name}{list(point.index) or ''}" for point in points)


def named(statistics: Statistics) -> dict[str, str | Statistic]:
    """Return a dict from names to statistics.

    In a sequence, a statistic that is a string has this name, and a function has its
    `__name__`. A mapping has names of its own.

    Raises:
        InputError: There is no statistic, or two have the same name.
    """
    if isinstance(statistics, str) or not isinstance(statistics, Iterable):
        raise InputError(
            f"statistics={checks.show(statistics)} is no sequence; write "
            '["isometry_deviation"].'
        )
    if isinstance(statistics, Mapping):
        pairs = [(str(name), statistic) for name, statistic in statistics.items()]
    else:
        pairs = [(_name(statistic), statistic) for statistic in statistics]
    by_name: dict[str, str | Statistic] = {}
    for name, statistic in pairs:
        # Records are read by name: the second of two with one name would silently
        # replace the first.
        if name in by_name:
            raise InputError(
                f"two statistics are called {name!r}; write a mapping with a name "
                "for each."
            )
        by_name[name] = statistic
    if not by_name:
        raise InputError('statistics is empty; write ["isometry_deviation"].')
    return by_name


def _name(statistic: str | Statistic) -> str:
    """Return the default name of a statistic."""
    if isinstance(statistic, str):
        return statistic
    return getattr(statistic, "__name__", repr(statistic))


def measure(statistic: str | Statistic, f: Map) -> OfSpectrum | DeadUnits:
    """Return a statistic as a function of a spectrum, parameters and inputs.

    Args:
        statistic: A name, or a function of a spectrum.
        f: The network, or any other function.

    Raises:
        InputError: An unknown name, or "dead_units" for a function that is no MLP.
    """
    # A string is not callable, so this is a function of the user's own.
    if callable(statistic):
        return OfSpectrum(statistic)
    # Dead units are counted by the derivative of the activation, and the blocks of a
    # chain may have different activations.
    if statistic == DEAD:
        if not isinstance(f, LayeredNetwork) or f.activation is None:
            raise InputError(
                f"statistics: {DEAD!r} are counted of networks.mlp alone, all of whose "
                "hidden units have one known activation. Of other functions write "
                "'exact_zero_fraction': the share of singular values that are exactly "
                "0, as those are that dead units take from the span."
            )
        return DeadUnits(f.function, f.activation)
    checks.one_of("statistics", statistic, [*STATISTICS, DEAD])
    return OfSpectrum(STATISTICS[statistic])
