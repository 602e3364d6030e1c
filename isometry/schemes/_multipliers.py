"""Which leaves hold the multipliers of branches, skips and attentions, at what value.

The gate of a branch is the leaf that multiplies it. A leaf may hold several
multipliers, one for each slice: an entry is the tuple of indices of one of them.
"""

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
    """The initial values of one leaf of multipliers.

    Attributes:
        path: The key path of the leaf.
        name: The name of the branch, without its slice if branches are stacked; for an
            attention the name of its first layer.
        values: The value of each entry; a single value for the whole leaf.
        entries: For each value the indices along the first axes of the leaf. Empty if
            one value is for the whole leaf.
    """

    path: str
    name: str
    values: tuple[float, ...]
    entries: tuple[tuple[int, ...], ...] = ()

    def put(self, leaf: Array) -> Array:
        """Return a copy of the leaf with these values; all other entries stay."""
        if not self.entries:
            return jnp.full(leaf.shape, self.values[0], leaf.dtype)
        num_axes = len(self.entries[0])
        values = jnp.asarray(self.values, leaf.dtype)
        aligned = values.reshape((-1,) + (1,) * (leaf.ndim - num_axes))
        # One scatter for all entries.
        indices = tuple(np.asarray(self.entries).T)
        return jnp.asarray(leaf).at[indices].set(aligned)

    def written(self) -> str:
        """Return the values written as an initializer: "constant(0.5)"."""
        distinct = list(dict.fromkeys(self.values))
        if len(distinct) == 1:
            return f"constant({distinct[0]:.6g})"
        return f"constant({distinct[0]:.6g} … {distinct[-1]:.6g})"


def settings(
    scheme: Scheme, anatomy: Anatomy, places: Places, *, shapes: Shapes
) -> list[Setting]:
    """Return the settings of all leaves that hold multipliers of branches and skips.

    Args:
        scheme: The scheme.
        anatomy: The anatomy of the network.
        places: The places of its layers.
        shapes: The shape of each leaf by its key path.

    Returns:
        One setting for each leaf; none if the scheme has no rule for multipliers.

    Raises:
        NotDefined: A branch needs a multiplier that no leaf holds, or two branches need
            different values of one entry.
    """
    if scheme.multipliers is None:
        return []
    uses = gate_uses(anatomy)
    kept = [record for record, _ in places.branches]
    repeats = _places.repeats(anatomy, kept)
    values = Values()
    # `values` joins the entries of each leaf, which may belong to several branches.
    for record, branch in places.branches:
        wanted = scheme.residual(branch)
        gate = _branch_leaf(
            record, scheme, wanted.branch, places=places, uses=uses, shapes=shapes
        )
        skip_gate = skip_leaf(record, scheme, wanted.skip)
        if gate is not None:
            entries = [uses.of_branch[name][gate] for name in repeats[record.name]]
            values.add(gate, record.name, entries, value=wanted.branch)
        if skip_gate is not None:
            _refuse_shared(record, scheme, skip_gate, uses=uses)
            # The program may multiply the skip by a constant too, besides the leaf.
            skip = wanted.skip / (record.skip_factor or 1.0)
            entries = [uses.of_skip[name][skip_gate] for name in repeats[record.name]]
            values.add(skip_gate, record.name, entries, value=skip)
    return values.settings()


def of_attentions(scheme: Scheme, anatomy: Anatomy) -> list[Setting]:
    """Return the settings of all leaves that hold coefficients of attention matrices.

    Args:
        scheme: The scheme.
        anatomy: The anatomy of the network.

    Returns:
        One setting for each leaf; none if the scheme has no such coefficients.

    Raises:
        NotDefined: The network has no attention, or needs a coefficient that is neither
            a leaf nor the same constant in the program.
    """
    if scheme.attention is None:
        return []
    # Without its coefficients the scheme would silently be another one.
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
    """Require that a coefficient which is no leaf is constant at the scheme's value.

    Args:
        about: The beginning of the message.
        fixed: The constant in the program; None if it is not known.
        value: The value of the scheme.

    Raises:
        NotDefined: It is another constant, or not known.
    """
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
    """The values that branches and skips need in the leaves that multiply them.

    They are added branch by branch, and returned leaf by leaf.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._by_path: dict[str, dict[Entry, float]] = {}

    def add(
        self, path: str, name: str, entries: Iterable[Entry], *, value: float
    ) -> None:
        """Add the value that a branch needs in some entries of a leaf.

        Args:
            path: The key path of the leaf.
            name: The name of the branch, for messages.
            entries: The entries.
            value: The value.

        Raises:
            NotDefined: Another branch or skip needs another value of the same entry.
        """
        self._names.setdefault(path, name)
        by_entry = self._by_path.setdefault(path, {})
        for entry in entries:
            if by_entry.setdefault(entry, value) != value:
                raise _conflict(self._names[path], path, (by_entry[entry], value))

    def settings(self) -> list[Setting]:
        """Return one setting for each leaf.

        Raises:
            NotDefined: A leaf needs several values, and it is not known in which
                entries.
        """
        return [self._setting(path) for path in self._by_path]

    def _setting(self, path: str) -> Setting:
        """Return the setting of one leaf: a value for each entry, or one for the leaf.

        Raises:
            NotDefined: The leaf has one value, and several are needed.
        """
        name = self._names[path]
        by_entry = self._by_path[path]
        entries = []
        for entry in by_entry:
            # An entry is known if none of its indices is None.
            known = tuple(index for index in entry or () if index is not None)
            if known and known == entry:
                entries.append(known)
        values = tuple(by_entry.values())
        # Values can be set apart if all entries are known, by equally many indices.
        is_apart = len(entries) == len(by_entry) and len(set(map(len, entries))) == 1
        if is_apart:
            # Of several branches the name is given without their slices.
            if len(entries) > 1:
                name = name.partition("[")[0]
            return Setting(path, name, values, entries=tuple(entries))
        if len(set(values)) > 1:
            others = [value for value in values if value != values[0]]
            raise _conflict(name, path, (values[0], others[0]))
        return Setting(path, name, values[:1])


def _conflict(name: str, path: str, values: tuple[float, float]) -> NotDefined:
    """Return the error for an entry that needs two values."""
    return NotDefined(
        f"branch {name!r}: its multiplier {path} is shared by branches or skips that "
        f"need different values, {values[0]:.6g} and {values[1]:.6g}; give each its "
        "own."
    )


def _refuse_shared(
    record: Record, scheme: Scheme, path: str, *, uses: GateUses
) -> None:
    """Refuse a leaf that multiplies something else besides a branch or a skip.

    Args:
        record: The branch.
        scheme: The scheme.
        path: The key path of the leaf.
        uses: What the leaves of the network multiply.
    """
    if path in uses.shared:
        raise NotDefined(
            f"branch {record.name!r}: scheme {scheme.name!r} sets its multiplier "
            f"{path}, which the program reads in another place too, as in "
            "(1 - g) * x + g * F(x); write a leaf that multiplies the branch, or the "
            "skip, alone."
        )


def _branch_leaf(
    record: Record,
    scheme: Scheme,
    value: float,
    *,
    places: Places,
    uses: GateUses,
    shapes: Shapes,
) -> str | None:
    """Return the key path of the leaf that is set to the multiplier of a branch.

    Args:
        record: The branch.
        scheme: The scheme.
        value: The multiplier.
        places: The places of all layers.
        uses: What the leaves of the network multiply.
        shapes: The shape of each leaf by its key path.

    Returns:
        The key path; None if the multiplier is 1 and there is no scalar to set.

    Raises:
        NotDefined: No leaf multiplies the branch, or it multiplies something else too.
    """
    scalars = []
    scales = []
    for path in record.gates:
        # A stack of scalars is a vector with one entry for each slice.
        entry = uses.of_branch[record.name][path] or ()
        size_of_slice = math.prod(shapes[path].shape[len(entry) :])
        if size_of_slice == 1:
            scalars.append(path)
        else:
            scales.append(path)
    # A layer that gates a branch is not its last.
    last = [name for name in record.layers if name not in record.gating][-1]
    is_normed = any("norm" in step for step in places.by_name[last].then)
    if scheme.closes == "norm":
        if scales and is_normed:
            _refuse_shared(record, scheme, scales[0], uses=uses)
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
        # A leaf that is used elsewhere too cannot be set without a change there.
        unshared = [path for path in candidates if path not in uses.shared]
        chosen = (unshared or candidates)[-1]
        _refuse_shared(record, scheme, chosen, uses=uses)
        return chosen
    if value == 1.0:
        return None
    raise NotDefined(
        f"branch {record.name!r}: scheme {scheme.name!r} multiplies it by {value:g}, "
        "and no parameter multiplies it behind its last layer; fixup needs none."
    )


def skip_leaf(record: Record, scheme: Scheme, value: float) -> str | None:
    """Return the key path of the leaf that is set to the multiplier of a skip.

    Args:
        record: The branch around which the skip leads.
        scheme: The scheme.
        value: The multiplier.

    Returns:
        The key path; None if there is no leaf, and the program multiplies the skip by
        this value or the value is 1.

    Raises:
        NotDefined: No leaf multiplies the skip, and the program multiplies it by
            another number.
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
