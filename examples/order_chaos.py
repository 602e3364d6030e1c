"""Measure where wide tanh networks turn from order to chaos, and compare with theory.

A squared gradient grows by chi in each layer on its way back: below 1 it vanishes,
above 1 it explodes. Mean-field theory (Poole et al., 2016) has chi = 1 on one line of
the plane of sigma_w and sigma_b. Here chi is measured on networks at every point of a
grid.

Run: python examples/order_chaos.py [folder]
"""

import functools
import pathlib
import sys

import jax
import numpy as np

import isometry
from isometry import plots, theory
from isometry.sweeps import runs

# The first layers are left out: the variance of their units still moves to its fixed
# point.
SKIPPED = 6


def grid(quick):
    """Return the grid: a coarse one if `quick`."""
    sizes = (5, 3) if quick else (17, 9)
    return {
        "sigma_w": np.linspace(0.5, 2.5, sizes[0]),
        "sigma_b": np.linspace(0.0, 0.8, sizes[1]),
    }


def growth(dataset):
    """Return chi of the deep hidden layers, the geometric mean over them."""
    names = dataset["point_name"].values[0, 0].tolist()
    # Pre-activations: the results of nonlinearities have names that end in ":out".
    layers = [i for i, name in enumerate(names) if name.startswith("layers/1[")]
    layers = [i for i in layers if not names[i].endswith(":out")][SKIPPED:]
    gradient = dataset["apjn"].isel(point=layers)
    chi = (gradient[..., 0] / gradient[..., -1]) ** (1 / (len(layers) - 1))
    return chi.assign_attrs(long_name="growth of a squared gradient in a layer")


def predicted(dataset):
    """Return chi_1 by mean-field theory, on the same grid."""

    def chi(sigma_w, sigma_b):
        q = theory.q_fixed_point("tanh", sigma_w, sigma_b).value
        return theory.chi("tanh", q, sigma_w)

    over = np.vectorize(chi)
    return over(*np.meshgrid(dataset["sigma_w"], dataset["sigma_b"], indexing="ij"))


def main(folder, quick=False):
    """Sweep, draw the plane, and say how far theory holds."""
    folder = pathlib.Path(folder)
    width = 50 if quick else 300
    run = functools.partial(
        runs.signals,
        activation="tanh",
        scheme="gaussian",
        width=width,
        depth=18,
        n_out=4,
        input_q=1.0,
    )
    store = folder / "order_chaos.zarr"
    dataset = isometry.sweep(run, grid(quick), store, key=jax.random.key(0))
    dataset = dataset.assign(chi_hidden=growth(dataset))

    ax = plots.phase_diagram(
        dataset,
        "sigma_w",
        "sigma_b",
        value="chi_hidden",
        theory="tanh",
        contours=[1.0],
    )
    ax.figure.suptitle(f"tanh networks of width {width}")
    ax.figure.savefig(folder / "order_chaos.png", dpi=150)

    measured, known = dataset["chi_hidden"].values, predicted(dataset)
    is_right = (measured > 1) == (known > 1)
    print(f"{is_right.size} networks of width {width}, {is_right.sum()} on the side of")
    print("the critical line where mean-field theory has them; chi is off by")
    print(f"{np.median(np.abs(measured / known - 1)):.1%} (median).")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["."])
