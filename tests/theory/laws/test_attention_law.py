"""The law of uniform attention, against dense Jacobians and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, theory
from isometry._internal.errors import NotDefined

TOKENS, WIDTH = 4, 64


def _distance(law, lam):
    """Return the Kolmogorov distance, just above each value: atoms are rounded."""
    lam = np.sort(np.maximum(np.asarray(lam, float).ravel(), 0.0))
    above = lam * (1 + 1e-4) + 1e-6
    shares = np.searchsorted(lam, above, side="right") / len(lam)
    return np.abs(law.cdf(above) - shares).max()


@pytest.mark.parametrize("causal", [False, True])
def test_spectra_of_attention_without_queries(causal):
    """Two layers of our transformer's attention, W_Q = 0; 4 draws at width 64.

    One draw of the 64 values behind the atom is off by about 1/64 in distribution.
    """
    net = networks.transformer(WIDTH, 1, 2, length=TOKENS, causal=causal, norm=None)
    skip = 0.0 if causal else 0.9
    half = (WIDTH, 2, WIDTH // 2)
    zero = {"w": jnp.zeros(half), "b": jnp.zeros(half[1:])}

    def layer(key, x):
        value, output = jax.random.normal(key, (2, WIDTH, WIDTH)) / WIDTH**0.5
        params = {"query": zero, "key": zero}
        params["value"] = {"w": 1.2 * value.reshape(half), "b": zero["b"]}
        shape = (2, WIDTH // 2, WIDTH)
        params["output"] = {"w": output.reshape(shape), "b": jnp.zeros(WIDTH)}
        return skip * x + 0.8 * net.function._attention(params, x)

    def values(key):
        keys = jax.random.split(key)
        x = jax.random.normal(key, (TOKENS, WIDTH))
        jac = jax.jacobian(lambda x: layer(keys[1], layer(keys[0], x)))(x)
        square = jac.reshape(TOKENS * WIDTH, TOKENS * WIDTH)
        return jnp.linalg.svd(square, compute_uv=False) ** 2

    lam = jax.jit(jax.vmap(values))(jax.random.split(jax.random.key(0), 4))
    law = theory.uniform_attention_law(
        TOKENS, [0.8, 0.8], skip=skip, sigma_v=1.2, causal=causal
    )
    assert _distance(law, lam) < 0.01
    assert law.positions == TOKENS


def test_mean_of_the_tokens_carries_the_law_of_a_residual_chain():
    """Without an output matrix, the law of Π(s + a W), at a share of one over tokens.

    Its mean is E λ = Π s² (1 + (Π(1 + g/s²) − 1)/T).
    """
    law = theory.uniform_attention_law(
        3, [0.5, 0.7], skip=[1.0, 0.9], sigma_v=1.1, sigma_o=None
    )
    kept, spread = 0.9**2, (1 + (0.55**2)) * (0.81 + (0.77**2))
    assert law.moment(1) == pytest.approx((2 * kept + spread) / 3, rel=1e-12)
    chain = theory.residual_law(
        "linear", [0.5, 0.7], order="post_activation", skip=[1.0, 0.9], sigma_w=1.1
    )
    assert law.cdf(0.5) == pytest.approx(chain.cdf(0.5) / 3, rel=1e-12)
    (atom,) = law.atoms
    assert atom == (pytest.approx(kept), pytest.approx(2 / 3))


def test_without_skips_only_the_mean_is_left():
    """The law of a product of four Gaussian matrices, and 1 − 1/T at zero."""
    law = theory.uniform_attention_law(5, [0.5, 2.0], skip=0.0)
    product = theory.fuss_catalan(4)
    assert law.zero_mass == pytest.approx(0.8, rel=1e-12)
    x = np.array([0.1, 1.0, 4.0])
    assert law.survival(x) == pytest.approx(product.survival(x) / 5, rel=1e-9)
    # Orthogonal weights and a mask: those of 3 [[1, 0], [1/2, 1/2]].
    law = theory.uniform_attention_law(
        2, [3.0], skip=0.0, weights="orthogonal", causal=True
    )
    values = np.linalg.svd([[3.0, 0.0], [1.5, 1.5]], compute_uv=False)
    assert [atom.lam for atom in law.atoms] == pytest.approx(np.sort(values**2))


def test_refusals_name_the_reason():
    with pytest.raises(NotDefined, match="causal attention with skips"):
        theory.uniform_attention_law(4, [0.5], causal=True)
    with pytest.raises(isometry.InputError, match="in some layers"):
        theory.uniform_attention_law(4, [0.5, 0.5], skip=[1.0, 0.0])
    with pytest.raises(isometry.InputError, match="one a layer"):
        theory.uniform_attention_law(4, [0.5, 0.5], skip=[1.0])
    with pytest.raises(isometry.InputError, match="both zero"):
        theory.uniform_attention_law(4, [0.5, 0.0], skip=0.0)
