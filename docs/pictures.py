"""The pictures of docs/: `python -m docs.pictures NAME` makes docs/NAME.png, all of them without a name."""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import isometry
from isometry import data, networks, plots, schemes, store, theory
from paper_figs import _style

HERE = pathlib.Path(__file__).parent
DPI = 140
Q = 1 / 16


def phases() -> Any:
    """Mean field theory of tanh: the critical line, and how many layers a gradient keeps its size for."""
    w, b = np.linspace(0.5, 3, 126), np.linspace(0, 0.6, 61)
    found = theory.phase_diagram("tanh", w, b)
    scale = np.log10(1 / np.maximum(np.abs(np.log(found.chi)), 1e-3)).T
    figure, ((ax, drop),) = _style.panels(1, 2, height=2.4)
    mesh = ax.pcolormesh(w, b, scale, cmap="Blues", vmin=-0.5, vmax=2, shading="gouraud", rasterized=True)
    figure.colorbar(mesh, ax=ax, label="log$_{10}$ of the depth scale $1/|\\ln\\chi_1|$")
    line = [theory.critical_at("tanh", q) for q in np.logspace(-3, 0.7, 40)]
    ax.plot([p.sigma_w for p in line], [p.sigma_b for p in line], color="#D55E00", lw=1.6)
    for x, y, words in ((0.85, 0.4, "ordered:\nvanishing"), (2.25, 0.1, "chaotic:\nexploding")):
        ax.text(x, y, words, ha="center")
    ax.text(1.75, 0.5, "$\\chi_1 = 1$", color="#A03000")
    ax.set(xlim=(0.5, 3), ylim=(0, 0.6), xlabel="$\\sigma_w$", ylabel="$\\sigma_b$")
    for i, (sigma_w, words) in enumerate(((0.8, "ordered"), (1.18, "critical"), (2.0, "chaotic"))):
        net = networks.mlp([128] * 33, "tanh", "orthogonal", sigma_w=sigma_w, sigma_b=0.09)
        _growth(drop, net, i, f"$\\sigma_w = {sigma_w}$, {words}")
    drop.set(xlabel="layer l", ylabel="ln E s² of x → z$_l$")
    drop.legend()
    return figure


def _growth(ax: Any, net: Any, i: int, label: str) -> None:
    """ln E s² of x → z_l along depth, measured (marks) and by theory (line)."""
    x = data.normalize(jax.random.normal(jax.random.key(1), (1, 128)), 1.0)[0]
    signals = jax.jit(jax.jacfwd(lambda v, p: jnp.stack(net.function.pre_activations(p, v))))
    drawn = [np.asarray(signals(x, net.init(key)), float) for key in jax.random.split(jax.random.key(0), 5)]
    measured = np.log([np.square(j).sum((1, 2)) / len(x) for j in drawn])[:, ::3]
    depths = np.arange(1, net.depth)
    ax.errorbar(depths[::3], measured.mean(0), measured.std(0), **_mark(i), label=label)
    sigma_w, sigma_b = net.scheme.sigma_w, net.scheme.sigma_b
    path = theory.q_trajectory("tanh", sigma_w**2 + sigma_b**2, sigma_w, sigma_b, net.depth - 2)  # of z_1, z_2, …
    gains = [2 * np.log(sigma_w), *(np.log(theory.chi("tanh", float(q), sigma_w)) for q in path[: len(depths) - 1])]
    ax.plot(depths, np.cumsum(gains), **_line(i))


def _mark(i: int) -> dict[str, Any]:
    return {"color": plots.COLOURS[i], "marker": plots.MARKS[i], "ls": "none", "capsize": 1.5, "lw": 0.8}


def _line(i: int) -> dict[str, Any]:
    return {"color": plots.COLOURS[i]}


def spectra() -> Any:
    """The singular values of tanh networks at criticality: Gaussian weights spread them, orthogonal ones need not."""
    figure, axes = _style.panels(1, 2, height=2.3)
    edges, fine = np.linspace(-2, 1.4, 69), np.linspace(-2, 1.4, 800)
    for ax, weights in zip(axes[0], ("gaussian", "orthogonal"), strict=True):
        point = theory.critical_at("tanh", Q)
        for i, depth in enumerate((2, 8, 32)):
            net = networks.mlp([200] * (depth + 3), "tanh", weights, point.sigma_w, point.sigma_b)
            x = data.normalize(
                jax.random.normal(jax.random.key(1), (1, 200)), (Q - point.sigma_b**2) / point.sigma_w**2
            )
            sp = isometry.ensemble(net, jax.random.split(jax.random.key(0), 6), x, span="hidden")
            logs = np.asarray(sp.log_values).ravel() / np.log(10)
            heights, _ = np.histogram(logs, edges)
            heights = heights / len(logs) / np.diff(edges)
            ax.plot((edges[:-1] + edges[1:]) / 2, heights, ls="none", ms=2.2, marker=plots.MARKS[i], **_line(i))
            law = theory.jacobian_law("tanh", depth, Q, weights=weights)
            ax.plot(fine, law.density(fine * np.log(10), "log_s") * np.log(10), **_line(i), label=f"L = {depth}")
        ax.axvline(0, color="0.6", lw=0.8, ls=":")
        ax.set(xlabel="log$_{10}$ s", title=f"{weights} weights", ylim=(0, {"gaussian": 1, "orthogonal": 6}[weights]))
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend()
    return figure


def confinement() -> Any:
    """How many directions training has moved the middle layer in: partial identity stays in those of its input."""
    xs, labels = data.digits(pooled=True)
    assert labels is not None
    nets = {"gaussian": networks.mlp([16, *[64] * 4, 10], "tanh", "gaussian")}
    nets |= {
        f"partial_identity, width {n}": networks.mlp([16, *[n] * 4, 10], "tanh", "partial_identity") for n in (32, 64)
    }
    nets |= {"zer_o, width 64": networks.mlp([16, *[64] * 4, 10], "tanh", "zer_o")}
    figure, ((ax,),) = _style.panels(height=2.4, width=4.4)
    keys = jax.random.split(jax.random.key(0), 5)
    for i, (name, net) in enumerate(nets.items()):
        report: Any = isometry.audit(net, keys, xs[:512], targets=labels[:512])
        probe = report.probe
        ax.plot(probe.steps, np.median(probe.gradient_rank[:, :, 1], 0), marker=plots.MARKS[i], **_line(i), label=name)
    ax.axhline(16, color="0.4", lw=0.8, ls="--")
    ax.text(200, 14.5, "N$_x$ = 16 inputs", color="0.3", va="top", ha="right")
    ax.set(xscale="log", xlabel="training step", ylabel="rank of $\\Sigma_s\\, g_s$ of W$_3$", ylim=(0, 68))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def locked() -> Any:
    """What 200 steps of SGD have done to a hidden layer: ZerO's moves in blocks, a Gaussian one's does not."""
    xs, labels = data.digits(pooled=True)
    assert labels is not None
    figure, axes = _style.panels(1, 3, height=2.3, width=2.3)
    for ax, scheme in zip(axes[0], ("gaussian", "zer_o", "partial_identity"), strict=True):
        net = networks.mlp([16, 64, 64, 64, 10], "tanh", schemes.get(scheme))
        change = np.asarray(_trained(net, xs[:1600], labels[:1600]))
        size = np.quantile(np.abs(change[change != 0]), 0.98)
        ax.imshow(change, cmap="RdBu", vmin=-size, vmax=size, interpolation="nearest")
        units = isometry.certify(net, net.init(jax.random.key(0))).units("layers/1[0]:out")
        ax.set(title=f"{scheme}: {units.distinct()} of 64", xlabel="unit of z$_3$", xticks=(0, 16, 32, 48))
        ax.set_yticks((0, 16, 32, 48))
    axes[0, 0].set_ylabel("unit of z$_2$")
    return figure


def _trained(net: Any, xs: Any, labels: Any) -> Any:
    """W_3(200) − W_3(0)."""
    optimizer, start = optax.sgd(0.1), net.init(jax.random.key(0))

    def loss(params: Any, x: Any, y: Any) -> Any:
        outputs = jax.vmap(net, (None, 0))(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    batches = xs.reshape(-1, 8, 16), labels.reshape(-1, 8)
    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), batches)
    return list(net.layers(params))[2].w - list(net.layers(start))[2].w


PICTURES = {draw.__name__: draw for draw in (phases, spectra, confinement, locked)}


def main(names: list[str]) -> None:
    """Draw and write."""
    for name in names or PICTURES:
        with _style.drawn():
            store.write_figure(HERE / f"{name}.png", PICTURES[name](), dpi=DPI)


if __name__ == "__main__":
    main(sys.argv[1:])
