"""Targets for tests of what measures them."""

from isometry.measure import _resolution


def target_of(f, params, x, **how):
    """The span of f at these arguments, end to end and in float32 unless said."""
    settings = {"span": "end_to_end", "dtype": None, **how}
    return _resolution.resolve(f, params, x, **settings)
