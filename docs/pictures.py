"""The pictures of docs/: `python -m docs.pictures NAME` makes docs/NAME.png.

Without a name it makes all of them.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import isometry
from isometry import data, networks, schemes, store, theory
from isometry._internal.types import Params
from isometry.networks import Network
from isometry.plots import COLOURS, MARKS
from paper_figs import _style

HERE = pathlib.Path(__file__).parent

# Dots per inch: sharp on a screen, and below the 300 kB that a page may load.
_DPI = 140

# Fixed point of the variance at which `spectra` is drawn: small enough that orthogonal
# networks of tanh stay near isometry.
_Q = 1 / 16

# The width of the perceptrons of `phases`.
_WIDTH = 128

# The inputs and the hidden width of the networks that are trained.
_PIXELS, _HIDDEN, _CLASSES = 16, 64, 10


def phases() -> Figure:
    """Draw the critical line of tanh, and how many layers a gradient keeps its size."""
    figure, ((plane, growth),) = _style.panels(1, 2, height=2.4)
    _draw_plane(plane, figure)
    for i, (sigma_w, phase) in enumerate(
        ((0.8, "ordered"), (1.18, "critical"), (2.0, "chaotic"))
    ):
        net = networks.mlp(
            [_WIDTH] * 33, "tanh", "orthogonal", sigma_w=sigma_w, sigma_b=0.09
        )
        label = f"$\\sigma_w = {sigma_w}$, {phase}"
        _draw_growth(growth, net, label=label, index=i)
    growth.set(xlabel="layer l", ylabel="ln E s² of x → z$_l$")
    growth.legend()
    return figure


def _draw_plane(ax: Axes, figure: Figure) -> None:
    """Draw the depth scale of gradients over (sigma_w, sigma_b)."""
    sigma_w, sigma_b = np.linspace(0.5, 3, 126), np.linspace(0, 0.6, 61)
    diagram = theory.phase_diagram("tanh", sigma_w, sigma_b)
    # On the critical line the scale is infinite; a thousand layers are drawn there.
    scale = 1 / np.maximum(np.abs(np.log(diagram.chi)), 1e-3)
    style = {"cmap": "Blues", "vmin": -0.5, "vmax": 2, "shading": "gouraud"}
    mesh = ax.pcolormesh(sigma_w, sigma_b, np.log10(scale).T, rasterized=True, **style)
    figure.colorbar(
        mesh, ax=ax, label="log$_{10}$ of the depth scale $1/|\\ln\\chi_1|$"
    )
    line = [theory.critical_at("tanh", q) for q in np.logspace(-3, 0.7, 40)]
    points = [(point.sigma_w, point.sigma_b) for point in line]
    ax.plot(*np.transpose(points), color="#D55E00", lw=1.6)
    ax.text(0.85, 0.4, "ordered:\nvanishing", ha="center")
    ax.text(2.25, 0.1, "chaotic:\nexploding", ha="center")
    ax.text(1.75, 0.5, "$\\chi_1 = 1$", color="#A03000")
    ax.set(xlim=(0.5, 3), ylim=(0, 0.6), xlabel="$\\sigma_w$", ylabel="$\\sigma_b$")


def _draw_growth(ax: Axes, net: Any, *, label: str, index: int) -> None:
    """Draw ln E s² of x → z_l along depth: measured as marks, predicted as a line."""
    gaussian = jax.random.normal(jax.random.key(1), (1, _WIDTH))
    x = data.normalize(gaussian, 1.0)[0]

    def signals(x: Array, params: Params) -> Array:
        return jnp.stack(net.function.pre_activations(params, x))

    jacobians = jax.jit(jax.jacfwd(signals))
    squares = []
    for key in jax.random.split(jax.random.key(0), 5):
        jacobian = np.asarray(jacobians(x, net.init(key)), float)
        squares.append(np.square(jacobian).sum((1, 2)) / len(x))
    # Every third layer, so that marks do not touch.
    measured = np.log(squares)[:, ::3]
    depths = np.arange(1, net.depth)
    ax.errorbar(
        depths[::3],
        measured.mean(0),
        measured.std(0),
        color=COLOURS[index],
        marker=MARKS[index],
        ls="none",
        capsize=1.5,
        lw=0.8,
        label=label,
    )
    ax.plot(depths, _predicted_growth(net), color=COLOURS[index])


def _predicted_growth(net: Any) -> Float[np.ndarray, "layers"]:
    """Predict ln E s² of x → z_l: the first weight, then chi_1 layer by layer."""
    sigma_w, sigma_b = net.scheme.sigma_w, net.scheme.sigma_b
    q_first = sigma_w**2 + sigma_b**2
    q = theory.q_trajectory(
        "tanh", q_first, sigma_w, sigma_b=sigma_b, depth=net.depth - 2
    )
    chi = [theory.chi("tanh", float(q_l), sigma_w) for q_l in q[: net.depth - 2]]
    return np.cumsum(np.log([sigma_w**2, *chi]))


def spectra() -> Figure:
    """Draw the singular values of critical tanh networks of both kinds of weights.

    Gaussian weights spread them with depth; orthogonal ones need not.
    """
    figure, axes = _style.panels(1, 2, height=2.3)
    highest = {"gaussian": 1, "orthogonal": 6}
    for ax, weights in zip(axes[0], highest, strict=True):
        for i, depth in enumerate((2, 8, 32)):
            _draw_spectrum(ax, weights, depth=depth, index=i)
        ax.axvline(0, color="0.6", lw=0.8, ls=":")
        ax.set(xlabel="log$_{10}$ s", title=f"{weights} weights")
        ax.set_ylim(0, highest[weights])
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend()
    return figure


def _draw_spectrum(ax: Axes, weights: str, *, depth: int, index: int) -> None:
    """Draw the histogram of log10 s as marks, and the density of the law as a line."""
    point = theory.critical_at("tanh", _Q)
    widths = [200] * (depth + 3)
    net = networks.mlp(
        widths, "tanh", weights, sigma_w=point.sigma_w, sigma_b=point.sigma_b
    )
    # Inputs of this mean square give the first layer its fixed point.
    mean_square = (_Q - point.sigma_b**2) / point.sigma_w**2
    gaussian = jax.random.normal(jax.random.key(1), (1, 200))
    x = data.normalize(gaussian, mean_square)
    keys = jax.random.split(jax.random.key(0), 6)
    sp = isometry.ensemble(net, keys, x, span="hidden")
    log_values = np.asarray(sp.log_values).ravel() / np.log(10)
    edges = np.linspace(-2, 1.4, 69)
    counts, _ = np.histogram(log_values, edges)
    # By all values, so that mass outside the picture is missing from it.
    heights = counts / len(log_values) / np.diff(edges)
    middles = (edges[:-1] + edges[1:]) / 2
    marks = {"ls": "none", "ms": 2.2, "marker": MARKS[index]}
    ax.plot(middles, heights, color=COLOURS[index], **marks)
    law = theory.jacobian_law("tanh", depth, _Q, weights=weights)
    fine = np.linspace(-2, 1.4, 800)
    density = law.density(fine * np.log(10), "log_s") * np.log(10)
    ax.plot(fine, density, color=COLOURS[index], label=f"L = {depth}")


def confinement() -> Figure:
    """Draw in how many directions training has moved the middle layer.

    Partial identity stays in those of its input, however wide it is.
    """
    xs, labels = data.digits(pooled=True)
    assert labels is not None
    nets = {
        "gaussian": _digits_net("gaussian", _HIDDEN),
        "partial_identity, width 32": _digits_net("partial_identity", 32),
        "partial_identity, width 64": _digits_net("partial_identity", 64),
        "zer_o, width 64": _digits_net("zer_o", _HIDDEN),
    }
    figure, ((ax,),) = _style.panels(height=2.4, width=4.4)
    keys = jax.random.split(jax.random.key(0), 5)
    for i, (name, net) in enumerate(nets.items()):
        report: Any = isometry.audit(net, keys, xs[:512], targets=labels[:512])
        ranks = report.probe.gradient_rank[:, :, 1]
        style = {"marker": MARKS[i], "color": COLOURS[i], "label": name}
        ax.plot(report.probe.steps, np.median(ranks, 0), **style)
    ax.axhline(_PIXELS, color="0.4", lw=0.8, ls="--")
    label = f"N$_x$ = {_PIXELS} inputs"
    ax.text(200, 14.5, label, color="0.3", va="top", ha="right")
    ax.set(xscale="log", xlabel="training step", ylim=(0, 68))
    ax.set_ylabel("rank of $\\Sigma_s\\, g_s$ of W$_3$")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _digits_net(scheme: str, width: int) -> Network:
    return networks.mlp([_PIXELS, *[width] * 4, _CLASSES], "tanh", scheme)


def locked() -> Figure:
    """Draw what 200 steps of SGD have done to a hidden layer.

    ZerO's moves in blocks, a Gaussian one's does not.
    """
    figure, axes = _style.panels(1, 3, height=2.3, width=2.3)
    names = ("gaussian", "zer_o", "partial_identity")
    for ax, name in zip(axes[0], names, strict=True):
        widths = [_PIXELS, *[_HIDDEN] * 3, _CLASSES]
        net = networks.mlp(widths, "tanh", schemes.get(name))
        change = _change_by_training(net)
        # The largest changes would leave all others pale.
        top = np.quantile(np.abs(change[change != 0]), 0.98)
        ax.imshow(change, cmap="RdBu", vmin=-top, vmax=top, interpolation="nearest")
        cert = isometry.certify(net, net.init(jax.random.key(0)))
        num_distinct = cert.units("layers/1[0]:out").distinct()
        ax.set_title(f"{name}: {num_distinct} of {_HIDDEN}")
        ax.set(xlabel="unit of z$_3$", xticks=(0, 16, 32, 48), yticks=(0, 16, 32, 48))
    axes[0, 0].set_ylabel("unit of z$_2$")
    return figure


def _change_by_training(net: Any) -> Float[np.ndarray, "inputs units"]:
    """Return W_3 after 200 steps of SGD less W_3 before, on batches of eight."""
    xs, labels = data.digits(pooled=True)
    assert labels is not None
    batches = xs[:1600].reshape(-1, 8, _PIXELS), labels[:1600].reshape(-1, 8)
    optimizer = optax.sgd(0.1)
    before = net.init(jax.random.key(0))

    def loss(params: Params, x: Array, y: Array) -> Array:
        outputs = jax.vmap(net, (None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    def step(carry: Any, batch: tuple[Array, Array]) -> tuple[Any, None]:
        params, state = carry
        gradient = jax.grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (before, optimizer.init(before))
    (after, _), _ = jax.lax.scan(step, start, batches)
    _, _, trained, *_ = net.layers(after)
    _, _, drawn, *_ = net.layers(before)
    return np.asarray(trained.w - drawn.w)


PICTURES = {draw.__name__: draw for draw in (phases, spectra, confinement, locked)}


def main(names: Sequence[str]) -> None:
    """Draw pictures by name, all without a name, and write them."""
    for name in names or PICTURES:
        with _style.drawn():
            store.write_figure(HERE / f"{name}.png", PICTURES[name](), dpi=_DPI)


if __name__ == "__main__":
    main(sys.argv[1:])
