"""Multipliers of branches, skips and attention matrices: their leaves and values."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry._internal.errors import NotDefined
from isometry.schemes import _places
from isometry.schemes._places import Places
from isometry.schemes._scheme import Scheme
from isometry.structure import Anatomy
from isometry.structure import Branch as Record
from isometry.structure._anatomy import gate_uses
from isometry.structure._assembling import GateUses
from isometry.structure._gates import Entry

Shapes: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]

# The relative difference up to which a constant in the program counts as the scheme's
# number. Ten times less would be near the rounding of a float32 constant, 6e-8; ten
# times more would take 1.4142 for √2.
_SAME = 1e-6


class Setting(NamedTuple):
    """The values that a leaf of multipliers starts at.

    Attributes:
        path: The key path of the leaf.
        name: The name of the branch, without the slice for stacked branches; for an
            attention the name of its first layer.
        values: The value for each of the entries; one for a whole leaf.
        entries: Indices along the first axes of the leaf, such as the slice of a stack.
            Empty if one value is for the whole leaf.
    """

    path: str
    name: str
    values: tuple[float, ...]
    entries: tuple[tuple[int, ...], ...] = ()

    def put(self, leaf: Array) -> Array:
        """Return the leaf with these values. Entries without one stay as they are."""
        if not self.entries:
            return jnp.full(leaf.shape, self.values[0], leaf.dtype)
        num_axes = len(self.entries[0])
        values = jnp.asarray(self.values, leaf.dtype)
        aligned = values.reshape((-1,) + (1,) * (leaf.ndim - num_axes))
        # One scatter for all entries.
        indices = tuple(np.asarray(self.entries).T)
        return jnp.asarray(leaf).at[indices].set(aligned)

    def written(self) -> str:
        """Return the initializer as the user would write it."""
        distinct = list(dict.fromkeys(self.values))
        if len(distinct) == 1:
            return f"constant({distinct[0]:.6g})"
        return f"constant({distinct[0]:.6g} … {distinct[-1]:.6g})"


def settings(
    scheme: Scheme, anatomy: Anatomy, places: Places, *, shapes: Shapes
) -> list[Setting]:
    """Decide which leaves carry the multipliers of a scheme, and their values.

    Raises:
        NotDefined: A branch needs a multiplier that no leaf carries.
    """
    if scheme.multipliers is None:
        return []
    uses = gate_uses(anatomy)
    kept = [record for record, _ in places.branches]
    repeats = _places.repeats(anatomy, kept)
    values = Values()
    # Each branch says what it needs, and entries of one leaf are put together after.
    for record, branch in places.branches:
        wanted = scheme.multipliers(branch)
        gate = _gate(
            record, scheme, wanted.branch, places=places, uses=uses, shapes=shapes
        )
        skip_gate = skip_leaf(record, scheme, wanted.skip)
        if gate is not None:
            entries = [uses.of_branch[name][gate] for name in repeats[record.name]]
            values.add(gate, record.name, entries, value=wanted.branch)
        if skip_gate is not None:
            _check_pure(record, scheme, skip_gate, uses=uses)
            skip = wanted.skip / (record.skip_factor or 1.0)
            entries = [uses.of_skip[name][skip_gate] for name in repeats[record.name]]
            values.add(skip_gate, record.name, entries, value=skip)
    return values.settings()


def of_attentions(scheme: Scheme, anatomy: Anatomy) -> list[Setting]:
    """Decide which leaves carry the coefficients of attention matrices.

    Raises:
        NotDefined: An attention needs a coefficient that no leaf carries, and the
            program does not fix the same number.
    """
    if scheme.attention is None:
        return []
    # Its weights alone would be those of another scheme, without a word.
    if not anatomy.attentions:
        raise NotDefined(
            f"scheme {scheme.name!r} sets the matrix of an attention, and the anatomy "
            "finds none: no softmax between queries, keys and values."
        )
    settings: dict[str, Setting] = {}
    for attention in anatomy.attentions:
        layers = (*attention.query, *attention.key, *attention.value, *attention.output)
        # Messages name the attention by its first layer; "" if it has no layer.
        name = next(iter(layers), "")
        for coefficient, value in scheme.attention._asdict().items():
            # The key path of a leaf, a number that the program fixes, or None.
            carrier = getattr(attention, coefficient)
            about = (
                f"attention of layer {name!r}: scheme {scheme.name!r} starts "
                f"{coefficient} of its matrix alpha I + beta A - gamma C, A the "
                f"softmax, at {value:g}, and"
            )
            if not isinstance(carrier, str):
                _check_fixed(about, carrier, value)
                continue
            # The leaf may hold one number a block, a head or a model. All entries start
            # at the same value, so the slices need not be told apart.
            own = Setting(carrier, name, (value,))
            if settings.setdefault(carrier, own).values != own.values:
                raise NotDefined(
                    f"{about} the leaf {carrier} carries another of the three numbers "
                    "too; give each its own."
                )
    return list(settings.values())


def _check_fixed(about: str, fixed: float | None, value: float) -> None:
    """Require that the program fixes a coefficient at the scheme's value."""
    if fixed is None:
        raise NotDefined(
            f"{about} what multiplies the values cannot be read as such a matrix; "
            "write it as this sum, of leaves times matrices that depend on the length "
            "alone."
        )
    if not math.isclose(fixed, value, rel_tol=_SAME):
        raise NotDefined(
            f"{about} the network fixes {fixed:g}, with no parameter for it; write "
            "networks.transformer(..., attention='shaped'), or the sum itself in a "
            "network of your own."
        )


class Values:
    """The values that branches and skips need of the leaves that multiply them."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._by_path: dict[str, dict[Entry, float]] = {}

    def add(
        self, path: str, name: str, entries: Iterable[Entry], *, value: float
    ) -> None:
        """Note the value that a branch needs of entries of a leaf.

        Raises:
            NotDefined: Another branch or skip needs another value of the same entry.
        """
        self._names.setdefault(path, name)
        by_entry = self._by_path.setdefault(path, {})
        for entry in entries:
            # One number cannot be two.
            if by_entry.setdefault(entry, value) != value:
                raise _conflict(self._names[path], path, (by_entry[entry], value))

    def settings(self) -> list[Setting]:
        """Return the values of each leaf.

        Raises:
            NotDefined: Which entry of a leaf has which value is not known.
        """
        return [self._setting(path) for path in self._by_path]

    def _setting(self, path: str) -> Setting:
        name = self._names[path]
        by_entry = self._by_path[path]
        entries = []
        for entry in by_entry:
            known = tuple(index for index in entry or () if index is not None)
            if known and known == entry:
                entries.append(known)
        values = tuple(by_entry.values())
        # A leaf of which no entry is known, or of which all is meant, holds one value.
        is_apart = len(entries) == len(by_entry) and len(set(map(len, entries))) == 1
        if is_apart:
            if len(entries) > 1:
                name = name.partition("[")[0]
            return Setting(path, name, values, entries=tuple(entries))
        if len(set(values)) > 1:
            others = [value for value in values if value != values[0]]
            raise _conflict(name, path, (values[0], others[0]))
        return Setting(path, name, values[:1])


def _conflict(name: str, path: str, values: tuple[float, float]) -> NotDefined:
    return NotDefined(
        f"branch {name!r}: its multiplier {path} is shared by branches or skips that "
        f"need different values, {values[0]:.6g} and {values[1]:.6g}; give each its "
        "own."
    )


def _check_pure(record: Record, scheme: Scheme, path: str, *, uses: GateUses) -> None:
    """Refuse a multiplier that acts on anything else too."""
    if path in uses.shared:
        raise NotDefined(
            f"branch {record.name!r}: scheme {scheme.name!r} sets its multiplier "
            f"{path}, which the program reads in another place too, as in "
            "(1 - g) * x + g * F(x); write a leaf that multiplies the branch, or the "
            "skip, alone."
        )


def _gate(
    record: Record,
    scheme: Scheme,
    value: float,
    *,
    places: Places,
    uses: GateUses,
    shapes: Shapes,
) -> str | None:
    """Return the leaf to set as the multiplier of a branch; None if none is needed."""
    scalars = []
    scales = []
    for path in record.gates:
        # A stack of scalars is a vector with one entry for each slice.
        entry = uses.of_branch[record.name][path] or ()
        size = math.prod(shapes[path].shape[len(entry) :])
        (scalars if size == 1 else scales).append(path)
    last = [name for name in record.layers if name not in record.gating][-1]
    is_normed = any("norm" in step for step in places.by_name[last].then)
    if scheme.closes == "norm":
        if scales and is_normed:
            _check_pure(record, scheme, scales[0], uses=uses)
            return scales[0]
        raise NotDefined(
            f"branch {record.name!r}: scheme {scheme.name!r} starts the scale of the "
            f"norm behind its last layer at {value:g}, and there is no such norm; "
            "fixup needs none, skipinit needs a scalar."
        )
    # A scale per channel is that of a norm or LayerScale, which have laws of their own;
    # a scalar is the multiplier that the scheme means. At 1 the scale is as drawn.
    candidates = scalars if value == 1.0 else scalars or scales
    if candidates:
        # What is read in other places cannot be set without a change there.
        pure = [path for path in candidates if path not in uses.shared]
        chosen = (pure or candidates)[-1]
        _check_pure(record, scheme, chosen, uses=uses)
        return chosen
    if value == 1.0:
        return None
    raise NotDefined(
        f"branch {record.name!r}: scheme {scheme.name!r} multiplies it by {value:g}, "
        "and no parameter multiplies it behind its last layer; fixup needs none."
    )


def skip_leaf(record: Record, scheme: Scheme, value: float) -> str | None:
    """Return the leaf to set as the multiplier of a skip, or None if none is needed.

    Raises:
        NotDefined: No leaf carries it, and the program does not fix the same number.
    """
    # If several leaves multiply the skip, the first one is next to the stream. It is
    # set, and the others stay as drawn.
    if record.skip_gates:
        return record.skip_gates[0]
    factor = record.skip_factor
    is_same = factor is not None and math.isclose(factor, value, rel_tol=_SAME)
    if value == 1.0 or is_same:
        return None
    if record.shortcut:
        raise NotDefined(
            f"branch {record.name!r}: scheme {scheme.name!r} multiplies the skip by "
            f"{value:.6g}, which its paper defines for skips that return x itself, and "
            f"this one is the projection {', '.join(record.shortcut)}; keep the shape "
            "of the stream, or write params['skip'] * projection(x) + F(x) and the "
            "scheme sets that leaf."
        )
    written = "something else" if factor is None else f"{factor:g}"
    raise NotDefined(
        f"branch {record.name!r}: scheme {scheme.name!r} multiplies the skip by "
        f"{value:.6g}, and the network by {written}, with no parameter for it; write "
        "params['skip'] * x + F(x), or the number itself."
    )
