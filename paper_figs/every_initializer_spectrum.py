"""Every initializer has its Jacobian spectrum; laws say which, and isometries keep 1.

Our own figure: what the toolkit is for, on one reference network, end to end.

Each initializer of the catalogue has a panel with the singular values s of a linear, a
tanh and a ReLU network of equal widths, at one input with |x|²/n = 1 and without
biases. The nearest to isometry come first: they are sorted by √E(s − 1)², the median
over the three networks, where a Jacobian that vanished counts as 1. Lines are the laws
of infinite width. Independent centred entries have the law of Gaussian ones. There is
none for weights that are deterministic or structured, for entries with a mean, or for
tanh at pre-activations above 10, where float64 loses its slopes. Convolution kernels
and biases cannot be weights of such a network; the record lists them.

Three claims are held. In linear networks orthogonal weights of any kind are isometries
to rounding. Each law holds, by `isometry.compare`. In linear and tanh networks
orthogonal weights deviate less than Gaussian ones of the same scale. In ReLU networks
they do not: at critical scale √E(s − 1)² is 1.7 against 1.4. Half of the units are
inactive there. The rank is at most Binomial(n, ½), and no initializer deviates by less
than the root of the share that is lost, here to three standard deviations.
Full: width 128, depth 32.
"""

import math
from collections.abc import Sequence

import numpy as np
import xarray
from jaxtyping import Shaped
from matplotlib.figure import Figure

from isometry import initializers
from isometry._internal.types import Key
from paper_figs._check import Compared, largest, least, settled, t_bound
from paper_figs._pairing import ACTIVATIONS, GRID, Pairing, pairings, picture

PRESETS = {
    "full": {
        "width": 128,
        "depth": 32,
        "seeds": 6,
        "names": None,
    },
    "smoke": {
        "width": 64,
        "depth": 8,
        "seeds": 6,
        "names": ("ones", "dirac", "orthogonal", "xavier_normal", "zer_o"),
    },
}

# Initializers whose square weights are orthogonal, at widths that are powers of two.
ISOMETRIC = (
    "orthogonal()",
    "critical(orthogonal)",
    "identity()",
    "partial_identity()",
    "idinit()",
    "hadamard()",
    "zer_o()",
    "sparse_orthogonal(density=0.125)",
)

# What is compared, counted by hand over the names of each preset. A law that cannot be
# computed, or a label that is no longer known, would else drop out unseen. At full,
# tanh has no law of normal and truncated_normal weights: its inputs are too large.
NUM_ISOMETRIC = {"full": len(ISOMETRIC), "smoke": 2}
NUM_LAWS = {
    "full": {"linear": 17, "tanh": 15, "relu": 17},
    "smoke": {"linear": 2, "tanh": 2, "relu": 2},
}

# Activations with which orthogonal weights are nearer to isometry than Gaussian ones.
# With a ReLU the lost directions hide this order.
ORDERED = ("linear", "tanh")

# Standard deviations of the rank of a ReLU network. Ranks of a few dozen networks stay
# within them; with none, half of the networks would fail.
DEVIATIONS_OF_RANK = 3


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure networks of every initializer, and compare them with their laws.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (initializer, activation): `log_s`, `deviation` = √E(s − 1)² of each seed,
        the `law_density` over log10_s and the topmost atom, `law_atom`; the name of the
        law or why there is none, `law`; and the largest gap over its band, `excess`.
    """
    size = PRESETS[preset]
    entries = _entries(size["names"])
    measured = pairings(
        key,
        width=size["width"],
        depth=size["depth"],
        seeds=size["seeds"],
        entries=entries,
    )
    rows = measured.rows
    names = list(dict.fromkeys(row.initializer for row in rows))
    where = ("initializer", "activation")
    left_out = [f"{name}: {reason}" for name, reason in measured.left_out.items()]
    return xarray.Dataset(
        {
            "log_s": ((*where, "value"), _table(rows, "log_s")),
            "deviation": ((*where, "seed"), _table(rows, "deviation")),
            "law_density": ((*where, "log10_s"), _table(rows, "density")),
            "law_atom": ((*where, "of_atom"), _table(rows, "atom")),
            "law": (where, _table(rows, "law")[..., 0]),
            "excess": (where, _table(rows, "excess")[..., 0]),
        },
        {
            "initializer": names,
            "activation": list(ACTIVATIONS),
            "log10_s": GRID,
            "of_atom": ["lam", "mass"],
        },
        {
            "left_out": left_out,
            "width": size["width"],
            "depth": size["depth"],
            "entries": len(entries),
            "variants": _num_variants(names),
        },
    )


def _entries(names: Sequence[str] | None) -> list[initializers.Entry]:
    """Return the entries of the catalogue with these names; all of them if None."""
    catalogue = initializers.catalogue()
    if names is None:
        return list(catalogue)
    return [entry for entry in catalogue if entry.name in names]


def _table(
    rows: Sequence[Pairing], field: str
) -> Shaped[np.ndarray, "initializers activations values"]:
    """Return one field of all pairings, by initializer and activation."""
    values = np.array([getattr(row, field) for row in rows])
    return values.reshape(-1, len(ACTIVATIONS), values[0].size)


def _num_variants(names: Sequence[str]) -> int:
    """Return how many panels there are beyond one for each initializer."""
    functions = {name.split("(")[0] for name in names}
    return len(names) - len(functions)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with isometry and their laws, and count the initializers.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    num_entries = data.attrs["entries"]
    num_panels = data.sizes["initializer"] - data.attrs["variants"]
    num_shown = num_panels + len(data.attrs["left_out"])
    return settled(
        [
            Compared(
                "initializers shown or listed with the reason",
                num_shown,
                low=num_entries,
                high=num_entries,
            ),
            *_counts(data),
            _isometries(data),
            *[_laws(data, activation) for activation in ACTIVATIONS],
            *[_orthogonal_first(data, activation) for activation in ORDERED],
            _rank(data),
        ]
    )


def _counts(data: xarray.Dataset) -> list[Compared]:
    """Compare how many isometries and laws there are with counts by hand."""
    preset = "full"
    if data.attrs["entries"] == len(PRESETS["smoke"]["names"]):
        preset = "smoke"
    expected = NUM_ISOMETRIC[preset]
    num_shown = len(_isometric(data))
    rows = [Compared("orthogonal kinds shown", num_shown, low=expected, high=expected)]
    for activation, expected in NUM_LAWS[preset].items():
        excess = data.excess.sel(activation=activation)
        num_laws = int(excess.notnull().sum())
        what = f"{activation}: laws compared"
        rows.append(Compared(what, num_laws, low=expected, high=expected))
    return rows


def _isometric(data: xarray.Dataset) -> list[str]:
    """Return the initializers shown whose square weights are orthogonal."""
    return [name for name in ISOMETRIC if name in data.initializer]


def _isometries(data: xarray.Dataset) -> Compared:
    """Compare linear networks of orthogonal weights with isometries."""
    shown = _isometric(data)
    deviation = data.deviation.sel(activation="linear", initializer=shown)
    # Of a product of L factors, of which each sums over n terms.
    rounding = data.attrs["depth"] * data.attrs["width"] * np.finfo(float).eps
    return Compared(
        "orthogonal kinds, linear: largest √E(s − 1)²",
        largest(deviation),
        high=rounding,
    )


def _laws(data: xarray.Dataset, activation: str) -> Compared:
    """Compare the networks of an activation with their laws."""
    excess = data.excess.sel(activation=activation)
    # NaN is where there is no law; `_counts` holds how many there are.
    compared = excess.fillna(0.0)
    what = f"{activation}: laws, largest gap over its band"
    return Compared(what, largest(compared), high=1.0)


def _orthogonal_first(data: xarray.Dataset, activation: str) -> Compared:
    """Compare how far Gaussian and orthogonal weights are from isometry."""
    # Both have one scale: the critical one, where the preset has it.
    gaussian, orthogonal = "xavier_normal()", "orthogonal()"
    if "critical(gaussian)" in data.initializer:
        gaussian, orthogonal = "critical(gaussian)", "critical(orthogonal)"
    deviation = data.deviation.sel(activation=activation)
    difference = deviation.sel(initializer=gaussian).values
    difference = difference - deviation.sel(initializer=orthogonal).values
    num_seeds = len(difference)
    error = difference.std(ddof=1) / math.sqrt(num_seeds)
    bound = t_bound(len(ORDERED), num_seeds)
    return Compared(
        f"{activation}: Gaussian deviates more than orthogonal, lower bound",
        float(difference.mean() - bound * error),
        low=0.0,
    )


def _rank(data: xarray.Dataset) -> Compared:
    """Compare the least deviation of ReLU networks with that of lost directions."""
    deviation = data.deviation.sel(activation="relu").median("seed")
    # The standard deviation of Binomial(n, ½) is √n/2.
    spread = DEVIATIONS_OF_RANK / 2 / math.sqrt(data.attrs["width"])
    return Compared(
        "relu: least √E(s − 1)² of any",
        least(deviation),
        low=math.sqrt(0.5 - spread),
    )


def plot(data: xarray.Dataset) -> Figure:
    """Draw a panel for each initializer.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    rows = []
    # Initializers are in the order that `compute` has sorted them into.
    for name in data.initializer.values:
        for activation in ACTIVATIONS:
            part = data.sel(initializer=name, activation=activation)
            lam, mass = part.law_atom.values.tolist()
            row = Pairing(
                initializer=str(name),
                activation=activation,
                log_s=part.log_s.values.reshape(data.sizes["seed"], -1),
                deviation=part.deviation.values,
                density=part.law_density.values,
                atom=(lam, mass),
                law=str(part.law.values),
                excess=float(part.excess),
            )
            rows.append(row)
    return picture(rows)
