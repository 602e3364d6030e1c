"""Networks measured as an audit measures them, with parameters drawn by NumPy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

import isometry
from isometry.certificates import LayerLock
from isometry.verdicts import Measured, Thresholds
from isometry.verdicts._registry import registered
from isometry.verdicts._subject import subject_of

KEY = jax.random.key(7)


def measured(net, params, xs, *, num_inputs=8, certificates=(), keys=None, **lines):
    """What is measured of a network; as if drawn from keys if those are given."""
    subject = subject_of(
        "net", net, None, xs, params=params, sample=None, num_inputs=num_inputs
    )
    if keys is not None:
        subject = subject_of(
            "net", net, keys, xs, params=None, sample=None, num_inputs=num_inputs
        )
        # What a cached property would hold.
        vars(subject)["params"] = params
    return again(subject, certificates, **lines)


def again(subject, certificates=(), **lines):
    """What is measured of a subject, with other certificates or thresholds."""
    result = Measured(subject, None, thresholds=Thresholds(**lines), key=KEY)
    result.parts["certificates"] = tuple(certificates)
    return result


def certificate(subject, **first_gradients):
    """A certificate in which some layers first get a gradient at these steps.

    All others get one at once; that of layers at None never does.
    """
    rows = []
    for layer in subject.anatomy.layers:
        names = [layer.name]
        if layer.stacked is not None:
            names = [f"{layer.name}[{i}]" for i in range(layer.stacked)]
        for name in names:
            step = first_gradients.get(name, 1)
            row = LayerLock(
                name=name,
                shape=layer.shape,
                distinct=layer.shape,
                never_moves=float(step is None),
                rank_bound=1,
                first_gradient=step,
                grade=None,
            )
            rows.append(row)
    return SimpleNamespace(layers=tuple(rows), mode="f as it is")


def keys(num_seeds):
    return jax.random.split(jax.random.key(0), num_seeds)


def judged(name, result):
    """The flag of a name."""
    (one,) = [one for one in registered() if one.name == name]
    return one.judge(result, KEY)


def gaussian(net, *, seeds=5, scale=1.0, x=None):
    """Gaussian weights of variance scale²/fan_in, and zero biases, over seeds."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    by_path = jax.tree_util.tree_leaves_with_path(shapes)
    example = net.example if x is None else x
    fans = {}
    if example is not None:
        anatomy = isometry.anatomy(net, shapes, example)
        fans = {layer.path: layer.fan_in for layer in anatomy.layers}
    leaves = []
    for path, leaf in by_path:
        name = jax.tree_util.keystr(path)
        shape = (seeds, *leaf.shape)
        if name in fans:
            values = rng.normal(size=shape) * scale / np.sqrt(fans[name])
        else:
            is_one = any(word in name for word in ("scale", "var", "skip", "branch"))
            values = np.full(shape, float(is_one))
        leaves.append(values.astype(np.float32))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def changed(params, path, change):
    """A copy of parameters in which one leaf is changed in place."""
    copy = jax.tree.map(np.array, params)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(copy):
        if jax.tree_util.keystr(key_path) == path:
            change(leaf)
            return copy
    raise KeyError(path)


def images(num, size, channels=1):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(num, size, size, channels)), jnp.float32)


def pre_activations(params, xs, phi):
    """Of a perceptron all but the output, each (seeds, inputs, units), in float64."""
    h = np.broadcast_to(np.asarray(xs, float), (1, *np.shape(xs)))
    layers = []
    for run in params["layers"]:
        for i in range(run["w"].shape[1]):
            w, b = np.asarray(run["w"][:, i], float), np.asarray(run["b"][:, i], float)
            layers.append(h @ w + b[:, None])
            h = phi(layers[-1])
    return layers[:-1]


def spread(h):
    """‖H − mean‖²/‖H‖² over inputs, for each seed."""
    return ((h - h.mean(1, keepdims=True)) ** 2).sum((1, 2)) / (h**2).sum((1, 2))
