"""Sweeps: grids of runs with a labelled store, resumed after anything."""
