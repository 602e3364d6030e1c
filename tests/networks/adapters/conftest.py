import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Modules of other libraries add whole numbers to floats, and rows to batches."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
