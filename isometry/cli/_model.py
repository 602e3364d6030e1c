"""What `--model package.module:function` names: a network of the user's own."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError
from isometry._internal.types import Key
from isometry.certificates import _draws
from isometry.cli import _perceptrons, _user_code
from isometry.data import Data
from isometry.networks import Network, equinox, flax

# Examples that are drawn where none are given. Jacobians are taken at 16 of them, and
# batches have 32; ten times as many would change nothing but the time to draw them.
_EXAMPLES = 256

_FORM = "write --model package.module:function"

_SEE_WHERE = "Called on its example in Python it says where."

# The range of whole numbers that select rows of no array, so that the program does not
# show their range: 0 and 1. With 0 alone all examples would be alike there.
_RANGE_UNKNOWN = 2


def networks_and_data(
    model: str, schemes: Sequence[str], *, data: str | None, key: Key
) -> tuple[dict[str, Network], Data]:
    """Return the networks that --model names, and data for them.

    Args:
        model: "package.module:function".
        schemes: The schemes that redraw it; none for its own code, which draws it.
        data: What --data names; None for examples that are drawn.
        key: Draws the examples.
    """
    net = network_of(model)
    nets = {model.partition(":")[2]: net}
    if schemes:
        nets = net.with_schemes(list(dict.fromkeys(schemes)))
    if data is None:
        return nets, Data(inputs_of(net, key), None)
    xs, targets = _perceptrons.load(data, key)
    return nets, Data(fitted(net, xs), targets)


def network_of(name: str) -> Network:
    """Return the network that a function of the user's own returns.

    Args:
        name: "package.module:function". The module is looked for in the current folder
            first, as `python -m` does.

    Raises:
        InputError: There is no such function, it raises, or it returns neither a
            Network nor a module of Flax or Equinox with an example.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise InputError(f"--model={name!r} names no function; {_FORM}.")
    module = _user_code.imported(module_name, option="--model")
    # A method of a class is named with its class: "Model.build".
    function: object = module
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if function is None:
        public = [word for word in vars(module) if not word.startswith("_")]
        raise InputError(
            f"--model={name}: {module_name} has no {function_name!r}; it has: "
            f"{', '.join(public)}."
        )
    if isinstance(function, Network):
        return function
    if not callable(function):
        raise InputError(
            f"--model={name} is {checks.show(function)}, not a function; {_FORM}."
        )
    with _user_code.told(f"--model={name}", "It is called without arguments."):
        returned = function()
    # An adapter calls the module on its example.
    with _user_code.told(f"--model={name}: the module", _SEE_WHERE):
        return _network(name, returned)


def _network(name: str, returned: object) -> Network:
    """Return what the user's function returned as a network.

    That is a network, or a module with its example, which is wrapped.
    """
    if isinstance(returned, Network):
        return returned
    if isinstance(returned, tuple) and len(returned) == 2:
        module, example = returned
        # The base classes tell whose module it is.
        libraries = {base.__module__.partition(".")[0] for base in type(module).__mro__}
        if "flax" in libraries:
            return flax(module, example)
        # Its weights are one draw, and an audit draws several.
        if "equinox" in libraries:
            raise InputError(
                f"--model={name} returned an Equinox module whose weights are drawn "
                "already; return (lambda key: Module(..., key=key), example)."
            )
        if callable(module):
            return equinox(module, example)
    raise InputError(
        f"--model={name} returned {checks.show(returned)}; return a Network, a pair "
        "(Flax module, example), or a pair (function of a key that builds an Equinox "
        "module, example)."
    )


def inputs_of(net: Network, key: Key) -> PyTree[Array]:
    """Draw examples of a network.

    They are Gaussian numbers, booleans of a fair coin, and whole numbers uniform over
    all rows of the embedding that they select from; if there are several, of the
    smallest.

    Raises:
        InputError: The network does not know its example.
    """
    if net.example is None:
        raise InputError("--model: the network does not know its input; write --data.")
    leaves, tree = jax.tree.flatten(net.example)
    num_rows = _draws.rows_selected(net.anatomy)
    drawn = []
    for i, leaf in enumerate(leaves):
        shape = (_EXAMPLES, *leaf.shape)
        key_leaf = jax.random.fold_in(key, i)
        if kinds.is_floating(leaf):
            drawn.append(jax.random.normal(key_leaf, shape, leaf.dtype))
        elif leaf.dtype == np.bool_:
            drawn.append(jax.random.bernoulli(key_leaf, shape=shape))
        else:
            most = num_rows.get(i, _RANGE_UNKNOWN)
            tokens = jax.random.randint(
                key_leaf, shape, minval=0, maxval=most, dtype=leaf.dtype
            )
            drawn.append(tokens)
    return jax.tree.unflatten(tree, drawn)


def fitted(net: Network, xs: Array) -> Array:
    """Return rows of a data set in the shape of a network's example.

    Raises:
        InputError: They have another number of entries.
    """
    shape = net.input_shape
    if shape is None or tuple(xs.shape[1:]) == tuple(shape):
        return xs
    if math.prod(xs.shape[1:]) != math.prod(shape):
        raise InputError(
            f"--data has rows of shape {tuple(xs.shape[1:])}, and the network takes "
            f"{tuple(shape)}."
        )
    return jnp.reshape(np.asarray(xs), (len(xs), *shape))
