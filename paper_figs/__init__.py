"""The papers' figures, made again.

Each file `<paper>_<claim>.py` is a figure, and files named `_*.py` are what figures
share. The first line of a figure's docstring is its claim. It has the presets "full"
and "smoke" in `PRESETS`, and three functions: `compute(preset, key)` returns the
numbers, `check(data)` holds them against the paper, and `plot(data)` draws them.
"""
