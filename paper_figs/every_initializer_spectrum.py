"""Every initializer has its Jacobian spectrum: isometric ones keep that of a deep linear network at one, as laws say.

Our own figure: the pairing that the toolkit is for, on one reference network, end to end.

A panel an initializer of the catalogue, nearest to isometry first (median over the three networks of √E(s − 1)²; a
Jacobian that vanished deviates by 1): linear, tanh and ReLU networks of equal widths at one input with |x|²/n = 1,
no biases. Lines are the laws of infinite width, which independent centred entries share with Gaussian ones; there is
none of deterministic or structured weights, of entries with a mean, nor of tanh at pre-activations above 10, where
float64 loses its slopes. Convolution kernels and biases cannot be such weights: the record lists them. Numbers: in
linear networks orthogonal weights of any kind are isometries to rounding; each law holds, by `isometry.compare`; in
linear and tanh networks orthogonal weights deviate less than Gaussian ones of the same scale. In ReLU networks they do
not (at critical scale 1.7 against 1.4): half of their units are dead, and no initializer deviates by less than
√(rank lost), rank ~ Binomial(n, ½), here three standard deviations of it.
Full (width 128, depth 32): 2 minutes on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import initializers
from paper_figs._check import Compared, settled, t_bound
from paper_figs._pairing import ACTIVATIONS, GRID, Pairing, pairings, picture

ISOMETRIC = ("orthogonal()", "critical(orthogonal)", "identity()", "partial_identity()", "idinit()", "hadamard()",
             "zer_o()", "sparse_orthogonal(density=0.125)")  # fmt: skip
PRESETS = {
    "full": {"width": 128, "depth": 32, "seeds": 6, "names": None},
    "smoke": {"width": 64, "depth": 8, "seeds": 6, "names": ("ones", "dirac", "orthogonal", "xavier_normal", "zer_o")},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (initializer, activation): ln s, deviations, the laws' densities and atoms, and how far they are off."""
    size = PRESETS[preset]
    chosen = [e for e in initializers.catalogue() if size["names"] is None or e.name in size["names"]]
    found = pairings(key, width=size["width"], depth=size["depth"], seeds=size["seeds"], entries=chosen)
    names = list(dict.fromkeys(row.initializer for row in found.rows))
    table = lambda of: np.array([of(row) for row in found.rows]).reshape(len(names), len(ACTIVATIONS), -1)  # noqa: E731
    where = ("initializer", "activation")
    return xarray.Dataset(
        {
            "log_s": ((*where, "value"), table(lambda row: row.log_s)),
            "deviation": ((*where, "seed"), table(lambda row: row.deviation)),
            "law_density": ((*where, "log10_s"), table(lambda row: row.density)),
            "law_atom": ((*where, "of_atom"), table(lambda row: row.atom)),
            "law": (where, table(lambda row: row.law)[..., 0]),
            "excess": (where, table(lambda row: row.excess)[..., 0]),
        },
        {"initializer": names, "activation": list(ACTIVATIONS), "log10_s": GRID, "of_atom": ["lam", "mass"]},
        {
            "left_out": [f"{name}: {why}" for name, why in found.left_out.items()],
            "width": size["width"], "depth": size["depth"], "entries": len(chosen), "variants": _variants(names),
        },
    )  # fmt: skip


def _variants(names: list[str]) -> int:
    """Panels beyond one an initializer."""
    return len(names) - len({name.split("(")[0] for name in names})


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Nothing is missing; isometries; laws; orthogonal before Gaussian where slopes allow it."""
    n, depth = data.attrs["width"], data.attrs["depth"]
    shown = len(data.initializer) - data.attrs["variants"] + len(data.attrs["left_out"])
    rows = [Compared("initializers shown or listed with the reason", shown, *[data.attrs["entries"]] * 2)]
    isometric = data.deviation.sel(activation="linear", initializer=[i for i in ISOMETRIC if i in data.initializer])
    rounding = depth * n * np.finfo(float).eps  # of a product of that many n × n factors
    rows.append(Compared("orthogonal kinds, linear: largest √E(s − 1)²", float(isometric.max()), high=rounding))
    for activation in ACTIVATIONS:
        excess = data.excess.sel(activation=activation)
        what = f"{activation}, {int(excess.notnull().sum())} laws: largest gap over its band"
        rows.append(Compared(what, float(excess.max()), high=1.0))
    for activation in ("linear", "tanh"):
        gap = np.subtract(*[data.deviation.sel(activation=activation, initializer=name).values for name in _pair(data)])
        error = gap.std(ddof=1) / np.sqrt(len(gap)) * t_bound(2, len(gap))
        what = f"{activation}: Gaussian deviates more than orthogonal, lower bound"
        rows.append(Compared(what, float(gap.mean() - error), low=0.0))
    least = data.deviation.sel(activation="relu").median("seed").min()
    rows.append(Compared("relu: least √E(s − 1)² of any", float(least), low=float(np.sqrt(0.5 - 1.5 / np.sqrt(n)))))
    return settled(rows)


def _pair(data: xarray.Dataset) -> tuple[str, str]:
    """A Gaussian and an orthogonal initializer of one scale: critical, where the preset has it."""
    whole = "critical(gaussian)" in data.initializer
    return ("critical(gaussian)", "critical(orthogonal)") if whole else ("xavier_normal()", "orthogonal()")


def plot(data: xarray.Dataset) -> Any:
    """A panel an initializer."""
    rows, seeds = [], data.sizes["seed"]
    for name in data.initializer.values:
        for activation in ACTIVATIONS:
            part = data.sel(initializer=name, activation=activation)
            log_s, atom = part.log_s.values.reshape(seeds, -1), tuple(part.law_atom.values.tolist())
            law = (part.law_density.values, atom, str(part.law.values), float(part.excess))
            rows.append(Pairing(str(name), activation, log_s, part.deviation.values, *law))
    return picture(rows)
