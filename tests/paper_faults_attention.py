"""Faults that make the figures of certificates, attention and gated networks fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.paper_faults import Fault, argument, given, result


def _one_run(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what changes the parameters of one network of a table again."""

    def replace(runs: dict[str, Any]) -> dict[str, Any]:
        run = runs[name]

        def changed(params: Any) -> Any:
            return change(run.change(params))

        return {**runs, name: run._replace(change=changed)}

    return replace


def _on_layer(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what changes the weights of one layer of an attention."""

    def changed(params: Any) -> Any:
        def leaf(path: Any, w: Any) -> Any:
            keys = [getattr(key, "key", None) for key in path]
            return change(w) if keys[-2:] == [name, "w"] else w

        return jax.tree_util.tree_map_with_path(leaf, params)

    return changed


def _other_heads(params: Any) -> Any:
    """Move the heads by one, so that the second and the third are equal."""
    axes = {"query": 2, "key": 2, "value": 2, "output": 1}
    for name, axis in axes.items():
        move = functools.partial(jnp.roll, shift=1, axis=axis)
        params = _on_layer(name, move)(params)
    return params


def _omitting(certify: Callable[..., Any]) -> Callable[..., Any]:
    """Return what certifies all weights but the last."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        cert = certify(*args, **kwargs)
        return dataclasses.replace(cert, layers=cert.layers[:-1])

    return changed


def _with_noise(adam: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimizer that adds noise to every parameter."""

    def changed(rate: float) -> Any:
        noise = optax.add_noise(eta=1e-6, gamma=0.0, key=0)
        return optax.chain(adam(rate), noise)

    return changed


def _skipping(params: Callable[..., Any]) -> Callable[..., Any]:
    """Return layers whose skips are larger by 0.05."""

    def changed(*args: Any, variant: Any, **kwargs: Any) -> Any:
        variant = variant._replace(skip=variant.skip + 0.05)
        return params(*args, variant=variant, **kwargs)

    return changed


def _sigmoid(_: Any) -> Callable[[Any], Any]:
    """Return attention by sigmoids, whose sum over eight tokens is 1 at logits of 0."""
    return lambda logits: jax.nn.sigmoid(logits) / 4


def _rate(change: Callable[[float], float]) -> Callable[[Any], Any]:
    """Return what changes the growth that theory predicts."""
    return result(lambda point: point._replace(rate=change(point.rate)))


FAULTS = [
    Fault(
        "ours_certificates",
        "a copied head whose output is 5 % larger",
        "paper_figs.ours_certificates.RUNS",
        _one_run(
            "equal heads", _on_layer("output", lambda w: w.at[:, 1].multiply(1.05))
        ),
    ),
    Fault(
        "ours_certificates",
        "keys that are not zero",
        "paper_figs.ours_certificates.RUNS",
        _one_run("Q = K = 0", _on_layer("key", lambda w: w + jnp.cos(jnp.arange(2)))),
    ),
    Fault(
        "ours_certificates",
        "other heads that are equal than the claim says",
        "paper_figs.ours_certificates.RUNS",
        _one_run("equal heads", _other_heads),
    ),
    Fault(
        "ours_certificates",
        "a certificate that omits a weight",
        "isometry.certify",
        _omitting,
    ),
    Fault(
        "ours_certificates",
        "sigmoid in the perceptron, which is not 0 at 0",
        "isometry.networks.mlp",
        argument(1, lambda _: "sigmoid"),
    ),
    Fault(
        "ours_certificates",
        "noise on every parameter",
        "optax.adam",
        _with_noise,
    ),
    Fault(
        "dong2021_rank_collapse",
        "branches 5 % stronger",
        "isometry.networks.transformer",
        given(branch=1.05),
    ),
    Fault(
        "dong2021_rank_collapse",
        "sigmoids in the place of the softmax",
        "jax.nn.softmax",
        _sigmoid,
    ),
    Fault(
        "dong2021_rank_collapse",
        "skips of 5 % where there are none",
        "paper_figs.dong2021_rank_collapse._params",
        _skipping,
    ),
    Fault(
        "dong2021_rank_collapse",
        "tokens whose 1 − cosine has another power",
        "paper_figs.dong2021_rank_collapse._tokens",
        argument(0, lambda distance: distance**1.25),
    ),
    Fault(
        "chen2018_gated_growth",
        "a growth that theory predicts 5 % too large",
        "isometry.theory.recurrent",
        _rate(lambda rate: 1.05 * rate),
    ),
    Fault(
        "chen2018_gated_growth",
        "fresh weights in every step",
        "isometry.theory.recurrent",
        given(tied=False),
    ),
    Fault(
        "chen2018_gated_growth",
        "theory of erf",
        "isometry.theory.recurrent",
        given(activation="erf"),
    ),
    Fault(
        "chen2018_gated_growth",
        "growth of |δh|, not of its square",
        "paper_figs.chen2018_gated_growth._measured",
        result(lambda measured: (measured[0] ** 0.5, measured[1])),
    ),
    Fault(
        "chen2018_gated_growth",
        "distances that shrink as they grew",
        "paper_figs.chen2018_gated_growth._measured",
        # Distances that shrink to 0 have no inverse.
        result(lambda measured: (measured[0], 1 / (1e-9 + measured[1]))),
    ),
]
