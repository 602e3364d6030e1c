"""Multipliers of branches, skips and attention matrices: their leaves and values."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry._internal.errors import NotDefined
from isometry.schemes._places import Places
from isometry.schemes._scheme import Scheme
from isometry.structure import Anatomy
from isometry.structure import Branch as Record

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
        values: One value for each slice of a stacked leaf; a single one otherwise.
        is_stacked: Whether the first axis of the leaf is that of the slices.
    """

    path: str
    name: str
    values: tuple[float, ...]
    is_stacked: bool

    def put(self, leaf: Array) -> Array:
        """Return the leaf with these values."""
        values = jnp.asarray(self.values, leaf.dtype)
        if not self.is_stacked:
            return jnp.full(leaf.shape, self.values[0], leaf.dtype)
        aligned = values.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return jnp.broadcast_to(aligned, leaf.shape)

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
    values: dict[str, dict[int | None, float]] = {}
    names: dict[str, str] = {}
    # Branches are visited one by one; slices of one leaf are put together at the end.
    for record, branch in places.branches:
        wanted = scheme.multipliers(branch)
        gate = _gate(record, scheme, wanted.branch, places=places, shapes=shapes)
        skip_gate = skip_leaf(record, scheme, wanted.skip)
        if gate is not None:
            values.setdefault(gate, {})[record.slice] = wanted.branch
            names.setdefault(gate, record.name)
        if skip_gate is not None:
            skip = wanted.skip / (record.skip_factor or 1.0)
            values.setdefault(skip_gate, {})[record.slice] = skip
            names.setdefault(skip_gate, record.name)
    return [
        setting(path, names[path], by_slice, shape=shapes[path].shape)
        for path, by_slice in values.items()
    ]


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
            own = Setting(carrier, name, (value,), is_stacked=False)
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


def setting(
    path: str,
    name: str,
    by_slice: Mapping[int | None, float],
    *,
    shape: Sequence[int],
) -> Setting:
    """Put the values of one leaf together.

    Args:
        path: The key path of the leaf.
        name: The name of the first branch that it multiplies.
        by_slice: The value for each slice; of a branch that is not stacked, for None.
        shape: The shape of the leaf.

    Raises:
        NotDefined: Branches share a single number, and need different ones.
    """
    is_stacked = None not in by_slice and tuple(shape[:1]) == (len(by_slice),)
    values = tuple(by_slice.values())
    if is_stacked:
        values = tuple(by_slice[number] for number in range(len(by_slice)))  # type: ignore[index]
        name = name.partition("[")[0]
    # The leaf holds a single number, which cannot have two values.
    elif len(set(values)) > 1:
        raise NotDefined(
            f"branch {name!r}: its multiplier {path} is shared by branches that need "
            f"different values, {values[0]:.6g} and others; give each its own."
        )
    return Setting(path, name, values=values, is_stacked=is_stacked)


def _gate(
    record: Record,
    scheme: Scheme,
    value: float,
    *,
    places: Places,
    shapes: Shapes,
) -> str | None:
    """Return the leaf to set as the multiplier of a branch; None if none is needed."""
    # A stack of scalars is a vector with one entry for each slice.
    num_slices = max(places.by_name[name].stacked or 1 for name in record.layers)
    scalars = []
    scales = []
    for path in record.gates:
        size = math.prod(shapes[path].shape)
        (scalars if size in (1, num_slices) else scales).append(path)
    last = record.layers[-1]
    is_normed = any("norm" in step for step in places.by_name[last].then)
    if scheme.closes == "norm":
        if scales and is_normed:
            return scales[0]
        raise NotDefined(
            f"branch {record.name!r}: scheme {scheme.name!r} starts the scale of the "
            f"norm behind its last layer at {value:g}, and there is no such norm; "
            "fixup needs none, skipinit needs a scalar."
        )
    if value == 1.0:
        # The scheme means a scalar. A scale per channel belongs to a norm or
        # LayerScale, which starts at a value of its own, and is left alone.
        return scalars[-1] if scalars else None
    if scalars or scales:
        return (scalars or scales)[-1]
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
    written = "something else" if factor is None else f"{factor:g}"
    raise NotDefined(
        f"branch {record.name!r}: scheme {scheme.name!r} multiplies the skip by "
        f"{value:.6g}, and the network by {written}, with no parameter for it; write "
        "params['skip'] * x + F(x), or the number itself."
    )
