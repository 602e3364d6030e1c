"""Tune a parameter of an activation until the network is critical, by gradient.

phi(x) = tanh(a x) with weights of sigma_w = 1.5 and biases of sigma_b = 0.3: for which
a is chi_1 = 1? The gradient goes through the fixed point q* of the variance map, which
moves with a, by implicit differentiation.

Run: python examples/tune_activation.py
"""

import jax
import jax.numpy as jnp

from isometry import theory

SIGMA_W, SIGMA_B = 1.5, 0.3


def distance(a):
    """(ln chi_1)² at the fixed point: zero where the network is critical."""

    def phi(x):
        return jnp.tanh(a * x)

    q = theory.traced.q_fixed_point(phi, SIGMA_W, SIGMA_B, kinks=())
    return jnp.log(theory.traced.chi(phi, q, SIGMA_W, kinks=())) ** 2


def tune(a=0.5, rate=0.3, steps=60):
    """Plain gradient descent."""
    step = jax.jit(jax.value_and_grad(distance))
    for i in range(steps):
        loss, gradient = step(a)
        a = a - rate * gradient
        if i % 10 == 0:
            size = float(loss) ** 0.5
            print(f"step {i:2d}   a = {float(a):.6f}   |ln chi_1| = {size:.1e}")
    return float(a)


def main():
    """Tune, then ask the host theory, which is accurate to 1e-14."""
    a = tune()
    phi = lambda x: jnp.tanh(a * x)  # noqa: E731
    q = theory.q_fixed_point(phi, SIGMA_W, SIGMA_B).value
    print(f"a = {a:.6f}: q* = {q:.6f}, chi_1 = {theory.chi(phi, q, SIGMA_W):.6f}")


if __name__ == "__main__":
    main()
