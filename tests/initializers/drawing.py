"""Draw many arrays as one compiled program, which is far cheaper than one each."""

import jax


def draw_together(cases, key, dtype=None):
    """Draw every case from the same key in one program.

    Args:
        cases: Pairs (initializer, shape) by name.
        key: The key of every draw.
        dtype: Of every draw; "float64" switches JAX's 64-bit mode on for it.

    Returns:
        NumPy arrays by name.
    """

    def program(key):
        return {name: init(key, shape, dtype) for name, (init, shape) in cases.items()}

    with jax.enable_x64(dtype == "float64"):
        return jax.device_get(jax.jit(program)(key))


def draw_many(initializer, shape, keys):
    """Draw one array for each key, stacked, as one program."""
    program = jax.jit(jax.vmap(lambda key: initializer(key, shape)))
    return jax.device_get(program(keys))
