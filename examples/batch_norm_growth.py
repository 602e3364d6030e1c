"""Measure how fast gradients explode through BatchNorm, for batches of many sizes.

In x' = phi(BN(W x)) a squared gradient grows by a factor above 1 in every layer,
however W is scaled, and the more the smaller the batch (Yang et al., 2019). The factor
is measured on networks, by a run of our own, and compared with that of theory.

Run: python examples/batch_norm_growth.py [folder]
"""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import isometry
from isometry import activations, theory

# Layers before the gradient is measured, and those over which its growth is taken. The
# examples of a batch first have to become exchangeable.
BEFORE, BETWEEN, BEHIND = 10, 3, 3


def layer(phi, weights, batch):
    """Return phi(BN(W x)) of every example of a batch, a row each."""
    z = batch @ weights
    centred = z - z.mean(0)
    return phi(centred / jnp.sqrt((centred**2).mean(0)))


def squared_gradients(phi, size, width, key):
    """Return the squared gradient of one network, before and behind some layers."""
    key_x, key_w, key_g = jax.random.split(key, 3)
    depth = BEFORE + BETWEEN + BEHIND
    batch = jax.random.normal(key_x, (size, width))
    weights = jax.random.normal(key_w, (depth, width, width)) / jnp.sqrt(width)

    def through(batch, weights):
        return jax.lax.scan(lambda x, w: (layer(phi, w, x), None), batch, weights)[0]

    first = through(batch, weights[:BEFORE])
    second, pull = jax.vjp(
        lambda x: through(x, weights[BEFORE : BEFORE + BETWEEN]), first
    )
    _, pull_last = jax.vjp(lambda x: through(x, weights[BEFORE + BETWEEN :]), second)
    (behind,) = pull_last(jax.random.normal(key_g, (size, width)))
    (before,) = pull(behind)
    return jnp.sum(before**2), jnp.sum(behind**2)


# Compiled once for each activation and each size of a batch.
@functools.partial(jax.jit, static_argnames=("name", "size", "width", "seeds"))
def mean_growth(name, size, width, *, seeds, key):
    """Return the growth in a layer, and its standard error over networks."""
    phi = activations.get(name)
    keys = jax.random.split(key, seeds)
    one = functools.partial(squared_gradients, phi, size, width)
    before, behind = jax.lax.map(one, keys, batch_size=8)
    ratio = before.mean() / behind.mean()
    error = jnp.std(before / behind.mean() - ratio * behind / behind.mean())
    growth = ratio ** (1 / BETWEEN)
    return growth, growth * error / ratio / BETWEEN / jnp.sqrt(seeds)


def growth(point, key, width, seeds):
    """Measure one cell: what a sweep calls with the values of its axes."""
    name, size = point["activation"], int(point["batch"])
    measured, error = mean_growth(name, size, width, seeds=seeds, key=key)
    return {
        "growth": ((), measured, {"long_name": "growth of a squared gradient"}),
        "growth_error": ((), error),
        "theory": ((), theory.batch_norm_growth(name, size)),
    }


def draw(dataset, path):
    """Draw measurement and theory over the size of the batch."""
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(layout="constrained")
    for i, (name, one) in enumerate(dataset.groupby("activation")):
        one, colour = one.squeeze(), f"C{i}"
        ax.errorbar(
            one["batch"],
            one["growth"],
            2 * one["growth_error"],
            fmt="o",
            color=colour,
            label=f"{name}, networks",
        )
        ax.plot(one["batch"], one["theory"], color=colour, label=f"{name}, theory")
    ax.set(xscale="log", xlabel="examples in a batch", ylabel="growth in a layer")
    ax.axhline(1.0, color="0.6", linewidth=0.8)
    ax.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(folder, quick=False):
    """Sweep, draw the curves, and say how far theory holds."""
    folder = pathlib.Path(folder)
    grid = {
        "activation": ["linear", "relu", "tanh"],
        "batch": [6, 8, 12, 16, 24, 32, 64, 128],
    }
    width, seeds = 256, 400
    if quick:
        grid = {"activation": ["relu"], "batch": [8, 16]}
        width, seeds = 32, 16
    run = functools.partial(growth, width=width, seeds=seeds)
    store = folder / "batch_norm_growth.zarr"
    dataset = isometry.sweep(run, grid, store, key=jax.random.key(0))
    draw(dataset, folder / "batch_norm_growth.png")

    relu = dataset.sel(activation="relu")
    off = np.abs(dataset["growth"] / dataset["theory"] - 1)
    small, large = (float(relu["growth"].isel(batch=i)) for i in (0, -1))
    print(f"relu: a squared gradient grows by {small:.2f} in a layer with batches of")
    print(
        f"{grid['batch'][0]}, and by {large:.2f} with batches of {grid['batch'][-1]}."
    )
    print(
        f"theory is off by {float(off.median()):.1%} (median), {float(off.max()):.1%}"
    )
    print("at most.")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["."])
