import jax
import pytest


@pytest.fixture(autouse=True)
def rank_promotion():
    """Models of users add a bias to a batch of rows."""
    with jax.numpy_rank_promotion("allow"):
        yield
