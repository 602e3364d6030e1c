"""The papers' figures, made again: one file a figure, `<paper>_<claim>.py`, and what they share in files named `_*.py`.

A figure's file has a docstring whose first line is its claim, `PRESETS` ("full", "smoke"), `compute(preset, key)` that
draws nothing, `check(data)` that holds the numbers against the paper, and `plot(data)`.
"""
