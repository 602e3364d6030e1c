"""Find the initializers that keep a deep Flax CNN isometric.

Every scheme and initializer that is known by name draws a convolutional network of 4 to
64 layers. A pair of numbers tells how far its Jacobian is from an isometry: the
logarithm of the ratio of large singular values to small ones (95th and 5th percentile),
and whether any are lost.

Run: python examples/convolutional_isometry.py [folder]
"""

import functools
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np

import isometry
from isometry import initializers, networks, plots, schemes
from isometry.sweeps import runs

# Those that adjust weights to data take minutes for 64 layers.
LEFT_OUT = ("lsuv", "admin")


class Convolutions(nn.Module):
    """Convolutions that keep the size of an image, with tanh between them."""

    depth: int
    channels: int = 4

    @nn.compact
    def __call__(self, images):
        """Return the last features of each image."""
        for _ in range(self.depth - 1):
            images = nn.tanh(self.convolution()(images))
        return self.convolution()(images)

    def convolution(self):
        """Return a layer of 3 by 3 kernels on a torus."""
        return nn.Conv(self.channels, (3, 3), padding="CIRCULAR")


def build(settings):
    """Return the network of a depth; the sweep draws it by the scheme of the point."""
    example = jax.ShapeDtypeStruct((4, 4, 4), np.float32)
    return networks.flax(Convolutions(settings["depth"]), example)


def names():
    """Return all names that stand for a scheme of this network."""
    without_arguments = [
        entry.name for entry in initializers.catalogue() if not entry.needs
    ]
    known = dict.fromkeys([*schemes.names(), *without_arguments])
    return [name for name in known if name not in LEFT_OUT]


def main(folder, quick=False):
    """Sweep, draw schemes against depth, and name the best."""
    folder = pathlib.Path(folder)
    grid = {"scheme": names(), "depth": [4, 8, 16, 32, 64]}
    if quick:
        grid = {"scheme": ["delta_orthogonal", "kaiming"], "depth": [4, 8]}
    run = functools.partial(runs.spectrum, build=build, seeds=2, inputs=2, input_q=0.01)
    store = folder / "convolutional_isometry.zarr"
    dataset = isometry.sweep(run, grid, store, key=jax.random.key(0))
    # What float32 does not resolve counts as zero, and its logarithm is infinite.
    with np.errstate(divide="ignore", invalid="ignore"):
        quantiles = np.log(dataset["quantile_s"])
        spread = quantiles.sel(probability=0.95) - quantiles.sel(probability=0.05)
    described = spread.assign_attrs(long_name="ln of s_95 over s_5", units="1")
    dataset = dataset.assign(spread=described)

    ax = plots.phase_diagram(dataset, "depth", "scheme", value="spread")
    ax.figure.suptitle("Jacobian of a tanh CNN")
    ax.figure.savefig(folder / "convolutional_isometry.png", dpi=150)

    deepest = spread.isel(depth=-1)
    deepest = deepest.where(np.isfinite(deepest), drop=True).sortby(deepest)
    num_failed = int((dataset["state"] == 2).any("depth").sum())
    print(f"nearest to an isometry at depth {grid['depth'][-1]}, by ln(s_95/s_5):")
    for name, value in deepest[:5].to_series().items():
        print(f"  {name:24} {value:.2f}")
    print(f"{num_failed} of {len(grid['scheme'])} have no meaning for this network.")
    num_lost = len(grid["scheme"]) - num_failed - deepest.size
    print(f"{num_lost} lose singular values to zero, or to rounding.")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["."])
