"""Moments of the Jacobian of attention, against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import theory

TOKENS, WIDTH = 4, 48


@pytest.mark.parametrize(("heads", "causal"), [(1, False), (3, True)])
def test_shares_and_outliers_of_dense_jacobians(heads, causal):
    """60 draws at width 48, within four standard errors and 1/width."""
    gram = np.full((TOKENS, TOKENS), 0.3) + 0.7 * np.eye(TOKENS)
    size = WIDTH // heads
    mask = jnp.tril(jnp.ones((TOKENS, TOKENS))) if causal else jnp.ones(1)

    def measured(key):
        keys = jax.random.split(key, 5)
        shapes = [(heads, WIDTH, size)] * 3 + [(heads, size, WIDTH)]
        query, to_key, value, output = (
            jax.random.normal(one, shape) / WIDTH**0.5
            for one, shape in zip(keys[:4], shapes, strict=True)
        )
        directions = jnp.linalg.qr(jax.random.normal(keys[4], (WIDTH, TOKENS)))[0].T
        x = WIDTH**0.5 * jnp.linalg.cholesky(gram) @ directions

        def attend(through_softmax, through_values):
            queries = jnp.einsum("td,hde->hte", through_softmax, query)
            of_keys = jnp.einsum("td,hde->hte", through_softmax, to_key)
            logits = queries @ of_keys.transpose(0, 2, 1) / size**0.5
            weights = jax.nn.softmax(jnp.where(mask == 1, logits, -jnp.inf))
            values = jnp.einsum("td,hde->hte", through_values, value)
            return jnp.einsum("hts,hse,hed->td", weights, values, output)

        both = jax.jacobian(attend, (0, 1))(x, x)
        rows = TOKENS * WIDTH
        softmax, bulk = (jac.reshape(rows, rows) for jac in both)
        square = bulk @ bulk.T
        means = [jnp.sum(jac**2) / rows for jac in (bulk, softmax, bulk + softmax)]
        values = jnp.linalg.svd(softmax, compute_uv=False)
        rank = jnp.sum(values > 1e-4 * values[0])
        return jnp.stack([*means, jnp.sum(square**2) / rows]), rank

    measure = jax.jit(lambda keys: jax.lax.map(measured, keys))
    found, ranks = measure(jax.random.split(jax.random.key(0), 60))
    moments = theory.attention_moments(gram, heads=heads, causal=causal, skip=0.0)
    second = moments.bulk.variance + moments.bulk.mean**2
    predicted = [moments.value, moments.query + moments.key, moments.mean, second]
    error = found.std(axis=0) / 60**0.5
    off = jnp.abs(found.mean(axis=0) - jnp.array(predicted))
    assert (off < 4 * error + jnp.array(predicted) / WIDTH).all()
    assert set(ranks.tolist()) == {moments.outliers}


def test_parallel_tokens_have_no_outliers_of_any_size():
    moments = theory.attention_moments(np.ones((3, 3)), skip=2.0, branch=0.5)
    assert moments.query == pytest.approx(0.0, abs=1e-12)
    assert moments.key == pytest.approx(0.0, abs=1e-12)
    # Uniform attention: E Σ A² = 1/3, and a² = 1/4.
    assert moments.mean == pytest.approx(4.0 + 0.25 / 3, rel=1e-12)
    # 2 s² g + g² v, with (A Aᵀ)² of trace 1 and 3 − 1/9 · … of a product of two W.
    second = 3 * 0.0625 / 3
    assert moments.bulk.variance == pytest.approx(
        8 * 0.25 / 3 + second - (0.25 / 3) ** 2
    )


def test_refusals_name_what_is_wrong():
    with pytest.raises(isometry.InputError, match="length zero"):
        theory.attention_moments([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(isometry.InputError, match="heads"):
        theory.attention_moments([[1.0]], heads=0)
