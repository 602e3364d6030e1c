"""How fast inputs become alike: the depth scale that is fitted to a network."""

import numpy as np
import pytest

from isometry.verdicts import _collapse
from isometry.verdicts._reading import StreamSignal


def signal(layer, spread):
    return StreamSignal(
        point=f"layers/{layer}",
        dtype=np.dtype(np.float32),
        is_finite=np.ones((2, 1), bool),
        peak=np.ones(2),
        log_norm=np.zeros(2),
        spread=np.full(2, spread),
        stable_rank=np.ones(2),
        token_spread=None,
    )


def test_layers_at_rounding_keep_their_places_in_the_fit():
    """R falls by a factor e a layer, and one layer between is rounding."""
    spreads = np.exp(-np.arange(5.0))
    spreads[3] = 0.0
    stream = [signal(layer, spread) for layer, spread in enumerate(spreads)]
    assert _collapse._slopes(stream) == pytest.approx([-1, -1])
    assert _collapse._slopes(stream[2:]) is None
