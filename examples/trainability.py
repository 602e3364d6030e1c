"""Train tanh networks of many depths, and see how far the depth scales of theory reach.

Signals in a wide network forget their input over a depth xi that mean-field theory
knows; Schoenholz et al. (2017, Fig. 5) find that networks train up to about 6 xi. Here
each point of the plane is a network trained on handwritten digits by plain SGD.

Run: python examples/trainability.py [folder]
"""

import functools
import pathlib
import sys

import jax
import numpy as np

import isometry
from isometry import plots, theory
from isometry.sweeps import runs

SIGMA_B = 0.05**0.5


def grid(quick):
    """Return the grid: a coarse one if `quick`."""
    if quick:
        return {"depth": [4, 34], "sigma_w": [1.0, 1.4]}
    return {
        "depth": [4, 7, 12, 20, 34, 58, 100],
        "sigma_w": np.linspace(1.0, 2.0, 11).round(2),
    }


def share_trained(dataset):
    """Return the shares of networks that train: within 6 xi_c, and beyond."""
    accuracy = dataset["train_accuracy"].values
    scales = [theory.depth_scales("tanh", s, SIGMA_B).xi_c for s in dataset["sigma_w"]]
    is_within = dataset["depth"].values[:, None] < 6 * np.array(scales)
    is_trained = accuracy > 0.5
    return np.mean(is_trained[is_within]), np.mean(is_trained[~is_within])


def main(folder, quick=False):
    """Sweep, draw the plane, and say what trains on both sides of 6 xi."""
    folder = pathlib.Path(folder)
    run = functools.partial(
        runs.train,
        activation="tanh",
        scheme="gaussian",
        sigma_b=SIGMA_B,
        width=64,
        learning_rate=0.003,
        steps=100 if quick else 300,
    )
    store = folder / "trainability.zarr"
    dataset = isometry.sweep(run, grid(quick), store, key=jax.random.key(0))

    # What all cells share, theory must be told.
    ax = plots.phase_diagram(
        dataset.assign_attrs(sigma_b=SIGMA_B),
        "sigma_w",
        "depth",
        value="train_accuracy",
        theory="tanh",
        scale={"depth": "log"},
    )
    ax.figure.suptitle("tanh networks after 300 steps of SGD on digits")
    ax.figure.savefig(folder / "trainability.png", dpi=150)

    within, beyond = share_trained(dataset)
    print(f"of the networks within 6 xi_c, {within:.0%} classify more than half of the")
    print(f"digits after training; of those beyond, {beyond:.0%}.")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["."])
